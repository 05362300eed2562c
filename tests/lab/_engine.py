# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running programs, and Podman in particular, as root."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import typing as t
from contextlib import contextmanager
from pathlib import Path

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".lab"
CACHE = ROOT / ".cache" / "lab"
SAY_AFTER_S = 5
AS_ROOT = [] if os.geteuid() == 0 else ["sudo"]


class LabError(Exception):
    """What went wrong, and what to do about it."""


def run(
    command: Sequence[str | Path], *, root: bool = False, check: bool = True, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    words = [*(AS_ROOT if root else []), *(str(word) for word in command)]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(words)[:400]}\ndid not end within {seconds:.0f} s") from error
    if check and done.returncode:
        raise LabError(f"{' '.join(words)[:400]}\nended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def podman(
    *arguments: str | Path, check: bool = True, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Rootful Podman: systemd hosts with fixed addresses and firewalls of their own need it."""
    conf = os.environ.get("CONTAINERS_CONF") or quirks()
    settings = ["env", f"CONTAINERS_CONF={conf}"] if conf else []
    return run([*settings, "podman", *arguments], root=True, check=check, seconds=seconds)


def quirks() -> str:
    """A configuration for hosts whose control groups are not of version 2, where crun and the default limits fail."""
    if run(["stat", "-fc", "%T", "/sys/fs/cgroup"]).stdout.strip() == "cgroup2fs":
        return ""
    limits = []
    for name, kind, usual in (("nofile", resource.RLIMIT_NOFILE, 20000), ("nproc", resource.RLIMIT_NPROC, 10000)):
        _soft, hard = resource.getrlimit(kind)
        most = usual if hard == resource.RLIM_INFINITY else min(usual, hard)
        limits.append(f'"{name}={min(1024, most) if name == "nofile" else most}:{most}"')
    text = f'[engine]\nruntime = "runc"\n[containers]\ndefault_ulimits = [{", ".join(limits)}]\n'
    path = STATE / "containers.conf"
    write(path, text)
    return str(path)


def containers() -> dict[str, dict[str, t.Any]]:
    """The lab's containers as Podman lists them, by name."""
    listed = json.loads(podman("ps", "--all", "--filter", "label=sdai-lab", "--format", "json").stdout or "[]")
    return {entry["Names"][0]: entry for entry in listed}


def remove(name: str) -> None:
    """Removes a container in whatever state a stopped machine or a killed run has left it."""
    for _attempt in range(3):
        done = podman("rm", "--force", "--time", "0", "--volumes", name, check=False)
        if podman("container", "exists", name, check=False).returncode:
            return
        # Listed as running though its processes are gone: Podman must first be made to look.
        podman("container", "cleanup", name, check=False)
    raise LabError(f"The container {name} cannot be removed: {done.stderr.strip()}")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces a file at once, so that a killed run leaves the old one or the new one.

    A file that says so already stays: containers that have it mounted would keep the old one.
    """
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.chmod(mode)
    scratch.rename(path)


@contextmanager
def step(what: str, expected_s: float = 0) -> Iterator[None]:
    """Says before what takes long, and afterwards what took long."""
    if expected_s > SAY_AFTER_S:
        print(f"{what} (about {expected_s:.0f} s) …", flush=True)
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    if expected_s > SAY_AFTER_S or took > SAY_AFTER_S:
        print(f"{what}: {took:.0f} s", flush=True)


def need_programs() -> None:
    missing = [name for name in ("podman", "mmdebstrap", "gcc", "ssh", "ssh-keygen") if shutil.which(name) is None]
    if missing:
        subprocess.run([ROOT / "tests/tools/system-packages", "lab"], check=False)
    missing = [name for name in missing if shutil.which(name) is None]
    if missing:
        sys.exit(f"The lab needs {', '.join(missing)}, which tests/tools/system-packages could not install.")
