# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the module tells of a bare node."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

Module = t.Callable[..., dict[str, t.Any]]

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


@pytest.mark.parametrize("flags", [(), ("--check",)], ids=["run", "check"])
def test_a_card_without_driver_on_a_bare_node(module: Module, tmp_path: Path, flags: tuple[str, ...]) -> None:
    card = tmp_path / "sys/bus/pci/devices/0000:0a:00.0"
    card.mkdir(parents=True)
    for name, text in {"vendor": "0x1002", "device": "0x67df", "class": "0x030000"}.items():
        (card / name).write_text(text + "\n")
    arguments = f"sysfs_root={tmp_path}/sys procfs_root={tmp_path}/proc venv={tmp_path}/venv"
    result = module("gpu_facts", arguments, *flags)
    assert (result["failed"], result["changed"]) == (False, False)
    (gpu,) = result["gpus"]
    assert set(gpu) == KEYS
    assert (gpu["id"], gpu["index"], gpu["vendor"], gpu["usable"]) == ("0000:0a:00.0", 0, "amd", False)
    assert gpu["reason"] == "no driver answers for this card"
    assert "amdgpu" in gpu["remedy"]
    assert result["drivers"]["amdgpu"] is False
