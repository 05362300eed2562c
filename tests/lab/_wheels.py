# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python packages of the chat page, fetched once and kept in .cache/lab: no fresh lab downloads them again."""

from __future__ import annotations

import re
import typing as t

from _engine import CACHE, ROOT, podman, run, step

if t.TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULTS = ROOT / "roles/open_webui/defaults/main.yml"
# In a host of the lab: what a package needs depends on the very version of Python.
SCRIPT = """
set -eu
update-ca-certificates > /dev/null 2>&1
python3 -m venv /venv
pip="/venv/bin/pip download --quiet --no-cache-dir --disable-pip-version-check --only-binary=:all: --dest=/out"
$pip --no-deps open-webui=={version}
python3 -m zipfile --extract /out/open_webui-{version}-*.whl /package
$pip --requirement=/package/requirements-slim.txt
"""


def folder() -> Path:
    found = re.search(r"^open_webui_version: (\S+)$", DEFAULTS.read_text(), re.M)
    assert found, f"no version in {DEFAULTS}"
    return CACHE / "wheels" / found[1]


def fetch(image: str, machine_mounts: Sequence[str]) -> None:
    """Those of the version that the role installs by default."""
    if not folder().is_dir():
        run(["rm", "-rf", folder().parent], root=True)
        _download(folder().name, image, machine_mounts).rename(folder())


def add(version: str, image: str, machine_mounts: Sequence[str]) -> None:
    """Those of another version beside them."""
    if list(folder().glob(f"open_webui-{version}-*.whl")):
        return
    wheels = _download(version, image, machine_mounts).iterdir()
    # The package itself comes last: without it, what an interrupted run has left is not taken for whole.
    for wheel in sorted(wheels, key=lambda each: each.name.startswith("open_webui-")):
        wheel.replace(folder() / wheel.name)


def _download(version: str, image: str, machine_mounts: Sequence[str]) -> Path:
    scratch = folder().with_name("scratch")
    run(["rm", "-rf", scratch], root=True)
    scratch.mkdir(parents=True)
    volumes = [f"--volume={mount}" for mount in [*machine_mounts, f"{scratch}:/out"]]
    script = SCRIPT.format(version=version)
    with step("Fetching the packages of the chat page, 210 MB", 120):
        podman("run", "--rm", "--label=sdai-lab", "--security-opt=label=disable", *volumes, image, "sh", "-c", script)
    return scratch
