# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is built once and kept in .cache/lab: the image of a host and the stand-in for NVIDIA's library."""

from __future__ import annotations

import hashlib
import os
import subprocess
import typing as t

from _engine import AS_ROOT, CACHE, ROOT, LabError, podman, run, step

if t.TYPE_CHECKING:
    from pathlib import Path

SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
RECIPE = ROOT / "tests/lab/image"
NVML = ROOT / "tests/lab/simgpu/nvml.c"
REPOSITORY = "localhost/sdai-lab"


def digest(*paths: Path) -> str:
    """Of the contents of files and of all files in folders."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    hashed = hashlib.sha256()
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            hashed.update(file.name.encode() + b"\0" + file.read_bytes())
    return hashed.hexdigest()[:16]


def image() -> str:
    """Name of the image, built and imported where it is not there yet."""
    key = digest(RECIPE)
    name = f"{REPOSITORY}:{SUITE}-{key}"
    if podman("image", "exists", name, check=False).returncode == 0:
        return name
    archive = CACHE / f"image-{SUITE}-{key}.tar"
    if not archive.exists():
        with step("Building the image of a Debian host from its packages", 60):
            _bootstrap(archive)
    with step("Importing the image into Podman", 15):
        podman("import", archive, name)
    _forget_older(name, archive)
    return name


def _forget_older(name: str, archive: Path) -> None:
    for old in CACHE.glob("image-*"):
        if old != archive:
            run(["rm", "-f", old], root=True)
    for line in podman("images", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY).stdout.split():
        if line != name:
            # Refused, and rightly so, while a container is made of it.
            podman("rmi", line, check=False)


def _bootstrap(archive: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    # A name of its own: the mmdebstrap of a run that was killed may still be writing to its file.
    scratch, log = archive.with_suffix(f".part-{os.getpid()}"), CACHE / "image.log"
    packages = (RECIPE / "packages").read_text().split()
    keyring = [f"--keyring={KEYRING}"] if run(["test", "-e", KEYRING], check=False).returncode == 0 else []
    command = [
        *AS_ROOT, "mmdebstrap", "--variant=minbase", "--format=tar", "--skip=cleanup/apt", *keyring, *_apt_options(),
        "--include=" + ",".join(packages),
        # Debian keeps the archives of what it installed: 90 MB that nobody will ask for again.
        f"--customize-hook=rm -f \"$1\"/var/cache/apt/archives/*.deb; {RECIPE / 'setup'} \"$1\"",
        SUITE, str(scratch), *_sources(),
    ]  # fmt: skip
    with log.open("w") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    if code.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"mmdebstrap could not build the image; the end of {log}:\n{tail}")
    run(["mv", scratch, archive], root=True)


def _sources() -> list[str]:
    """This machine's own mirrors where it runs the same release; else those that mmdebstrap knows."""
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    listed = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], check=False).stdout
    lines = [f"deb {line}" for line in listed.splitlines() if line.split()[1].startswith(SUITE)]
    return lines if any(line.split()[2] == SUITE for line in lines) else []


def _apt_options() -> list[str]:
    """How this machine reaches its mirrors: proxies, and whether an archive of old packages may be out of date."""
    kept = ("Acquire::http::Proxy ", "Acquire::https::Proxy ", "Acquire::Check-Valid-Until ", "Acquire::Check-Date ")
    dump = run(["apt-config", "dump"], check=False).stdout.splitlines()
    return [f"--aptopt={line.rstrip(';')}" for line in dump if line.startswith(kept)]


def nvml() -> Path:
    """The compiled stand-in for libnvidia-ml.so.1."""
    library = CACHE / f"libnvidia-ml-{digest(NVML)}.so.1"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        scratch = library.with_suffix(".part")
        options = ["-shared", "-fPIC", "-fvisibility=hidden", "-O2", "-Wall", "-Wextra", "-Werror"]
        run(["gcc", *options, "-Wl,-soname,libnvidia-ml.so.1", "-o", scratch, NVML])
        scratch.rename(library)
    return library
