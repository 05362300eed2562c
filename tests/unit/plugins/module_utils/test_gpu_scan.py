# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import merge, nvidia_smi, nvml, pci
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import scan as scanning
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import (
    Device,
    Holding,
    PciCard,
    Process,
    Report,
    Roots,
)
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.processes import combine, unit_of, unit_pids
from hypothesis import given
from hypothesis import strategies as st

MIB = 2**20
UNIT = "sdai-ollama@llama3.1-8b--1.service"
OWN = f"0::/system.slice/system-sdai\\x2dollama.slice/{UNIT}"


class Card(t.NamedTuple):
    name: str
    architecture: str
    vram_mib: int
    bandwidth_gbs: float


TABLE = {
    "0x1b06": Card("NVIDIA GeForce GTX 1080 Ti", "sm_61", 11264, 484),
    "0x1b38": Card("NVIDIA Tesla P40", "sm_61", 24576, 347),
    "0x102d": Card("NVIDIA Tesla K80", "sm_37", 11441, 240),
    "0x67df": Card("AMD Radeon RX 580", "gfx803", 8192, 256),
    "0x744c": Card("AMD Radeon RX 7900 XTX", "gfx1100", 24560, 960),
}


@pytest.fixture(autouse=True)
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five cards in the table, and none of this machine's own drivers."""
    monkeypatch.setattr(merge, "lookup", lambda _vendor, device, _name, _vram_mib=0: TABLE.get(device))
    monkeypatch.setattr(nvml, "load", lambda _venv: None)
    monkeypatch.setattr(nvidia_smi, "available", lambda: False)


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")


def on_bus(
    sysfs: Path, address: str, device: str, *, vendor: str = "0x10de", kind: str = "0x030000", driver: str = ""
) -> None:
    here = f"bus/pci/devices/{address}"
    write(sysfs, {f"{here}/vendor": vendor, f"{here}/device": device, f"{here}/class": kind})
    if driver:
        (sysfs / "bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
        (sysfs / here / "driver").symlink_to(f"../../drivers/{driver}")


def on_amdgpu(sysfs: Path, address: str, device: str, *, used_mib: int = 0, total_mib: int = 8192) -> None:
    on_bus(sysfs, address, device, vendor="0x1002", driver="amdgpu")
    here = f"class/drm/card{int(address[5:7], 16)}/device"
    write(
        sysfs,
        {
            f"{here}/uevent": f"PCI_SLOT_NAME={address}",
            f"{here}/vendor": "0x1002",
            f"{here}/device": device,
            f"{here}/mem_info_vram_total": str(total_mib * MIB),
            f"{here}/mem_info_vram_used": str(used_mib * MIB),
        },
    )


def kfd_node(sysfs: Path, number: int, address: str, version: int) -> None:
    here = f"class/kfd/kfd/topology/nodes/{number}"
    location = int(address[5:7], 16) << 8
    write(
        sysfs,
        {
            f"{here}/gpu_id": str(number),
            f"{here}/properties": f"location_id {location}\ngfx_target_version {version}",
        },
    )


def roots(tmp_path: Path) -> Roots:
    return Roots(sysfs=str(tmp_path / "sys"), procfs=str(tmp_path / "proc"), venv=str(tmp_path / "venv"))


def nvidia_says(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    monkeypatch.setattr(nvml, "load", lambda _venv: object())
    monkeypatch.setattr(nvml, "read", lambda _binding: report)


def p40(**changes: t.Any) -> Device:
    fields = {
        "vendor": "nvidia",
        "pci_address": "0000:02:00.0",
        "pci_device": "0x1b38",
        "uuid": "GPU-b",
        "name": "Tesla P40",
        "architecture": "sm_61",
        "vram_mib": 24576,
    }
    return Device(**{**fields, **changes})


def test_a_node_without_gpus(tmp_path: Path) -> None:
    found = scanning.scan(roots(tmp_path))
    assert (found.gpus, found.processes, found.warnings) == ((), (), ())
    assert found.drivers == {"nvidia": "", "nvidia_source": "", "amdgpu": False, "kfd": False}


def test_the_bus_shows_graphics_cards_of_two_vendors_only(tmp_path: Path) -> None:
    on_bus(tmp_path, "0000:00:0f.0", "0x2000", vendor="0x1a03")
    on_bus(tmp_path, "0000:00:02.0", "0x9bc5", vendor="0x8086")
    on_bus(tmp_path, "0000:01:00.1", "0x10ef", kind="0x040300")
    on_bus(tmp_path, "0000:01:00.0", "0x1b06", driver="nvidia")
    on_bus(tmp_path, "0000:02:00.0", "0x1b38", kind="0x030200")
    on_bus(tmp_path, "0000:43:00.0", "0x740f", vendor="0x1002", kind="0x038000")
    assert pci.scan(str(tmp_path)) == (
        PciCard("0000:01:00.0", "nvidia", "0x1b06", "nvidia"),
        PciCard("0000:02:00.0", "nvidia", "0x1b38"),
        PciCard("0000:43:00.0", "amd", "0x740f"),
    )


def test_a_mixed_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA in the driver's order, AMD by address, then what no driver answers for: listed, not missing."""
    sysfs = tmp_path / "sys"
    for address, device in [("0000:01:00.0", "0x1b06"), ("0000:02:00.0", "0x1b38"), ("0000:05:00.0", "0x102d")]:
        on_bus(sysfs, address, device, driver="nvidia")
    on_amdgpu(sysfs, "0000:0a:00.0", "0x67df")
    on_amdgpu(sysfs, "0000:03:00.0", "0x744c", total_mib=24560)
    kfd_node(sysfs, 1, "0000:03:00.0", 110000)
    nvidia_says(monkeypatch, Report(source="nvml", driver="580.65.06", devices=(p40(used_mib=200),)))
    found = scanning.scan(roots(tmp_path))
    shown = [(gpu.index, gpu.id, gpu.architecture, gpu.backends, gpu.usable) for gpu in found.gpus]
    assert shown == [
        (0, "GPU-b", "sm_61", ("cuda_v12", "vulkan"), True),
        (1, "0000:03:00.0", "gfx1100", ("rocm_v7_2", "vulkan"), True),
        (2, "0000:0a:00.0", "gfx803", ("vulkan",), True),
        (3, "0000:01:00.0", "sm_61", (), False),
        (4, "0000:05:00.0", "sm_37", (), False),
    ]
    assert found.gpus[3].reason.endswith("driver 580.65.06 of this node serves others only")
    assert "570 or 580" in found.gpus[3].remedy
    assert "not 3.7" in found.gpus[4].reason
    assert "replace" in found.gpus[4].remedy
    assert scanning.device_numbers(found) == {
        "GPU-b": ("0000:02:00.0", None),
        "0000:03:00.0": ("0000:03:00.0", 0),
        "0000:0a:00.0": ("0000:0a:00.0", None),
        "0000:01:00.0": ("0000:01:00.0", None),
        "0000:05:00.0": ("0000:05:00.0", None),
    }


@pytest.mark.parametrize(("bandwidth", "shown"), [(347.0, "347"), (547.7, "547.7"), (0, "0")])
def test_bandwidth_is_shown_as_people_write_it(bandwidth: float, shown: str) -> None:
    gpu = merge.merge((), Report(devices=(p40(),)), Report(), {}, ())[0]
    assert str(replace(gpu, bandwidth_gbs=bandwidth).as_fact()["bandwidth_gbs"]) == shown


def test_the_fact_of_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_says(monkeypatch, Report(driver="570.1", devices=(p40(used_mib=200),)))
    assert scanning.scan(roots(tmp_path)).gpus[0].as_fact() == {
        "id": "GPU-b",
        "index": 0,
        "vendor": "nvidia",
        "name": "Tesla P40",
        "architecture": "sm_61",
        "vram_mib": 24576,
        "vram_foreign_mib": 256,
        "bandwidth_gbs": 347,
        "backends": ["cuda_v12", "vulkan"],
        "usable": True,
        "reason": "",
        "remedy": "",
        "pci_address": "0000:02:00.0",
    }


@pytest.mark.parametrize(
    ("driver", "report", "reason"),
    [
        ("vfio-pci", None, "it is held by vfio-pci"),
        ("nouveau", None, "it is held by nouveau"),
        ("", None, "neither NVML's Python binding nor nvidia-smi is installed"),
        ("nvidia", Report(source="nvml", error="Driver/library version mismatch"), "version mismatch"),
        ("nvidia", Report(source="nvml", driver="570.1"), "no driver answers for this card"),
    ],
)
def test_why_no_driver_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, report: Report | None, reason: str
) -> None:
    on_bus(tmp_path / "sys", "0000:01:00.0", "0x1b06", driver=driver)
    if report:
        nvidia_says(monkeypatch, report)
    (gpu,) = scanning.scan(roots(tmp_path)).gpus
    assert (gpu.usable, gpu.name, gpu.vram_mib) == (False, "NVIDIA GeForce GTX 1080 Ti", 11264)
    assert reason in gpu.reason
    assert gpu.remedy


def test_a_card_that_no_table_knows(tmp_path: Path) -> None:
    on_bus(tmp_path / "sys", "0000:01:00.0", "0xffff")
    on_amdgpu(tmp_path / "sys", "0000:0a:00.0", "0xeeee")
    kfd_node(tmp_path / "sys", 1, "0000:0a:00.0", 110000)
    known, unknown = scanning.scan(roots(tmp_path)).gpus
    assert (known.name, known.usable, known.bandwidth_gbs) == ("AMD device 0xeeee", False, 0)
    assert known.remedy == "declare it in sdai_gpus with bandwidth_gbs"
    assert (unknown.name, unknown.usable, unknown.vram_mib) == ("NVIDIA device 0xffff", False, 0)
    assert unknown.reason.startswith("it is not in the table of known cards, and no driver answers")
    assert "lspci" in unknown.remedy


def test_a_card_that_only_its_driver_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bandwidth of its memory is what the driver says; one that is in the table keeps the table's."""
    new = p40(name="NVIDIA RTX 9090", pci_device="0xffff", architecture="sm_90", bandwidth_gbs=2100)
    nvidia_says(monkeypatch, Report(driver="580.1", devices=(new, p40(bandwidth_gbs=300, pci_address="0000:03:00.0"))))
    unknown, known = scanning.scan(Roots(sysfs="/nowhere", procfs="/nowhere")).gpus
    assert (unknown.usable, unknown.bandwidth_gbs) == (True, 2100)
    assert (known.usable, known.bandwidth_gbs) == (True, 347)


def test_a_card_that_its_driver_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_says(monkeypatch, Report(driver="570.1", devices=(p40(error="GPU is lost"),)))
    (gpu,) = scanning.scan(roots(tmp_path)).gpus
    assert not gpu.usable
    assert "GPU is lost" in gpu.reason


def test_nvidia_smi_stands_in_for_a_library_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_says(monkeypatch, Report(source="nvml", error="NVML Shared Library Not Found"))
    told = Report(source="nvidia-smi", driver="570.1", devices=(p40(),))
    monkeypatch.setattr(nvidia_smi, "available", lambda: True)
    monkeypatch.setattr(nvidia_smi, "read", lambda: told)
    assert scanning.read_nvidia(Roots(), ()) == told


def test_foreign_vram_is_what_our_units_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our units are known by their control group. A second run sees the same offer as the first."""
    write(tmp_path / "proc", {"41/cgroup": OWN, "42/cgroup": "0::/user.slice/session-3.scope"})
    holdings = (Holding(41, "0000:02:00.0", 7000, "cuda"), Holding(42, "0000:02:00.0", 900, "vulkan"))
    nvidia_says(monkeypatch, Report(driver="570.1", devices=(p40(used_mib=8100),), holdings=holdings))
    found = scanning.scan(roots(tmp_path))
    assert found.gpus[0].vram_foreign_mib == 1152
    assert found.gpus[0].vram_used_mib == 8100
    assert found.processes == (
        Process(pid=41, gpu_id="GPU-b", vram_mib=7000, api="cuda", unit=UNIT),
        Process(pid=42, gpu_id="GPU-b", vram_mib=900, api="vulkan", unit=""),
    )
    assert scanning.own_vram(found, {41}) == {"GPU-b": 7000}
    assert scanning.own_vram(found, {40}) == {}


@given(st.integers(0, 100_000), st.integers(0, 100_000))
def test_foreign_vram_is_rounded_up_and_never_negative(used: int, own: int) -> None:
    found = merge.foreign_mib(used, own)
    assert found % 64 == 0
    assert max(used - own, 0) <= found < max(used - own, 0) + 64


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        (OWN, UNIT),
        (f"{OWN}/engine", UNIT),
        (f"12:cpu:/\n1:name=systemd:/libpod/abc/system.slice/{UNIT}\n0::/", UNIT),
        ("0::/system.slice/sdai-ollama-store.service", ""),
        ("0::/system.slice/sdai-ollama-watch@llama3.1-8b--1.service", ""),
        (f"0::/system.slice/x{UNIT}", ""),
        ("", ""),
    ],
)
def test_unit_of(tmp_path: Path, text: str, unit: str) -> None:
    write(tmp_path, {"41/cgroup": text})
    assert unit_of(str(tmp_path), 41) == unit
    assert unit_pids(str(tmp_path)) == ({unit: (41,)} if unit else {})


def test_this_process_is_not_ours() -> None:
    assert unit_of("/proc", os.getpid()) == ""


@pytest.mark.parametrize(
    ("holdings", "combined"),
    [
        ([(1, 500, "rocm"), (1, 530, "vulkan")], [(1, 530, "rocm")]),
        ([(1, 530, "vulkan"), (1, 500, "rocm")], [(1, 530, "rocm")]),
        ([(1, 300, "cuda"), (1, 300, "vulkan")], [(1, 300, "cuda")]),
        ([(2, 300, "vulkan"), (1, 200, "vulkan")], [(1, 200, "vulkan"), (2, 300, "vulkan")]),
    ],
)
def test_one_holding_per_process_and_card(
    holdings: list[tuple[int, int, str]], combined: list[tuple[int, int, str]]
) -> None:
    found = combine(Holding(pid, "0000:03:00.0", held, api) for pid, held, api in holdings)
    assert [(each.pid, each.vram_mib, each.api) for each in found] == combined
