# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module as Ansible packs it for a node, which is where a missing or wrong import would show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
KEYS = {
    "id",
    "index",
    "vendor",
    "name",
    "architecture",
    "vram_mib",
    "vram_foreign_mib",
    "bandwidth_gbs",
    "backends",
    "usable",
    "reason",
    "remedy",
    "pci_address",
}


def run(tmp_path: Path, *flags: str) -> dict[str, t.Any]:
    arguments = f"sysfs_root={tmp_path}/sys procfs_root={tmp_path}/proc venv={tmp_path}/venv"
    done = subprocess.run(
        [
            BIN / "ansible",
            "-i",
            "localhost,",
            "localhost",
            "-c",
            "local",
            "-m",
            "aivailable.sdai.gpu_facts",
            "-a",
            arguments,
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            *flags,
        ],
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    result: dict[str, t.Any] = json.loads(done.stdout[done.stdout.index("=>") + 2 :])
    return result


@pytest.mark.parametrize("flags", [(), ("--check",)], ids=["run", "check"])
def test_a_card_without_driver_on_a_bare_node(tmp_path: Path, flags: tuple[str, ...]) -> None:
    card = tmp_path / "sys/bus/pci/devices/0000:0a:00.0"
    card.mkdir(parents=True)
    for name, text in {"vendor": "0x1002", "device": "0x67df", "class": "0x030000"}.items():
        (card / name).write_text(text + "\n")
    result = run(tmp_path, *flags)
    assert result["changed"] is False
    (gpu,) = result["gpus"]
    assert set(gpu) == KEYS
    assert (gpu["id"], gpu["index"], gpu["vendor"], gpu["usable"]) == ("0000:0a:00.0", 0, "amd", False)
    assert gpu["reason"] == "no driver answers for this card"
    assert "amdgpu" in gpu["remedy"]
    assert result["drivers"]["amdgpu"] is False
