# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the containers must know of the machine that runs them: its certificate authorities, its package indexes."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

from _engine import STATE, run, write

SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
OWN_AUTHORITIES = Path("/usr/local/share/ca-certificates")
PIP_OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host", "constraint", "proxy", "no-index", "cert")


def mounts() -> list[str]:
    """Podman's --volume values, read-only; writes the files that they mount."""
    return [*_authority_mounts(), *_pip_mounts(), *_asked_for()]


def _asked_for() -> list[str]:
    binds = os.environ.get("SDAI_LAB_BINDS", "").split(",")
    return [f"{bind}:ro" if ":" in bind else f"{bind}:{bind}:ro" for bind in binds if bind]


def authorities() -> list[Path]:
    """Certificates that this machine trusts beyond its distribution's: a company's, or an inspecting proxy's."""
    asked = os.environ.get("SDAI_LAB_CA_FILE")
    if asked:
        return [Path(asked)]
    bundle = pip_options().get("cert", SYSTEM_BUNDLE)
    own = sorted(path for path in OWN_AUTHORITIES.rglob("*.crt")) if OWN_AUTHORITIES.is_dir() else []
    return own + ([Path(bundle)] if bundle != SYSTEM_BUNDLE and Path(bundle).is_file() else [])


def _authority_mounts() -> list[str]:
    folder = STATE / "ca"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {folder / f"sdai-lab-{number}.crt": path.read_text() for number, path in enumerate(authorities())}
    for path, text in wanted.items():
        write(path, text)
    for path in set(folder.iterdir()) - set(wanted):
        path.unlink()
    return [f"{folder}:/usr/local/share/ca-certificates/sdai-lab:ro"]


def pip_options() -> dict[str, str]:
    """pip's settings here, the environment's over those of its files."""
    found: dict[str, str] = {}
    lines = run([sys.executable, "-m", "pip", "config", "list"], check=False).stdout.splitlines()
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, _equals, value = line.partition("=")
        option = name.removeprefix(":env:").rpartition(".")[2]
        if option in PIP_OPTIONS and value:
            found[option] = str(ast.literal_eval(value))
    return found


def _pip_mounts() -> list[str]:
    asked = os.environ.get("SDAI_LAB_PIP_CONF")
    if asked:
        return [f"{asked}:/etc/pip.conf:ro"]
    options = pip_options()
    if authorities():
        options["cert"] = SYSTEM_BUNDLE
    if not options:
        return []
    text = "[global]\n" + "".join(f"{name} = {' '.join(value.split())}\n" for name, value in options.items())
    write(STATE / "pip.conf", text)
    return [f"{STATE / 'pip.conf'}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in local_paths(options))]


def local_paths(options: dict[str, str]) -> list[str]:
    """Folders and files of this machine that pip's settings name."""
    paths = set()
    for option in ("index-url", "extra-index-url", "find-links", "constraint"):
        for word in options.get(option, "").split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                # The pages of a simple index point to files beside it.
                paths.add(str(path.parent if path.name == "simple" else path))
    return sorted(paths)
