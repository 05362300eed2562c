# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The simulated GPUs as sysfs and procfs, file formats first, then through the collection's own readers."""

from __future__ import annotations

import os
import re
import signal

import gpud
import pytest
import simgpu
import simtree
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import amdgpu, pci

XTX, RX580 = "GPU-7900a1de00000003", "0000:0a:00.0"


def read(path):
    return path.read_text()


def test_files_of_an_amd_card(simulated):
    host = simulated("gpu2")
    card = host.shm / "sys/class/drm/card0/device"
    assert read(card / "vendor") == "0x1002\n"
    assert read(card / "device") == "0x744c\n"
    assert read(card / "class") == "0x030000\n"
    assert read(card / "unique_id") == "7900a1de00000003\n"
    assert read(card / "mem_info_vram_total") == f"{24560 * 2**20}\n"
    assert read(card / "mem_info_vram_used") == "0\n"
    assert "PCI_SLOT_NAME=0000:03:00.0\n" in read(card / "uevent")
    assert os.path.basename(os.path.realpath(card / "driver")) == "amdgpu"
    assert not (host.shm / "sys/class/drm/card1/device/unique_id").exists()


def test_kfd_offers_polaris_too(simulated):
    nodes = simulated("gpu2").shm / "sys/class/kfd/kfd/topology/nodes"
    assert sorted(os.listdir(nodes)) == ["0", "1", "2"]
    assert read(nodes / "0/gpu_id") == "0\n"
    properties = dict(line.split() for line in read(nodes / "1/properties").splitlines())
    assert properties["gfx_target_version"] == "110000"
    assert properties["location_id"] == str(3 << 8)
    assert properties["drm_render_minor"] == "128"
    assert properties["unique_id"] == str(0x7900A1DE00000003)
    assert "\ngfx_target_version 80003\n" in read(nodes / "2/properties")


def test_vram_is_told_where_its_api_tells_it(simulated):
    host = simulated("gpu2")
    rocm, vulkan = host.take(XTX, "2000"), host.take(RX580, "1000")
    sys = host.shm / "sys"
    assert read(sys / "class/drm/card0/device/mem_info_vram_used") == f"{2000 * 2**20}\n"
    gpu_id = read(sys / "class/kfd/kfd/topology/nodes/1/gpu_id").strip()
    assert os.listdir(sys / "class/kfd/kfd/proc") == [str(rocm)]
    assert read(sys / f"class/kfd/kfd/proc/{rocm}/vram_{gpu_id}") == f"{2000 * 2**20}\n"
    files = [read(path) for path in (host.shm / f"proc/{vulkan}/fdinfo").iterdir()]
    mine = [text for text in files if "drm-driver:\tamdgpu\n" in text]
    assert all("drm-pdev:\t0000:0a:00.0\n" in text for text in mine)
    assert all(f"drm-memory-vram:\t{1000 * 1024} KiB\n" in text for text in mine)
    # Two descriptors, one client.
    assert len(mine) == 2
    assert len({re.search(r"drm-client-id:\t(\d+)", text)[1] for text in mine}) == 1
    assert read(host.shm / f"proc/{vulkan}/stat").startswith(f"{vulkan} ")


def test_what_a_dead_process_left_is_cleared(simulated):
    host = simulated("gpu2")
    pid = host.take(XTX, "2000")
    os.kill(pid, signal.SIGKILL)
    host.run("sdai-lab-gpu", "drop")
    gpud.refresh()
    assert os.listdir(host.shm / "vram") == []
    assert os.listdir(host.shm / "sys/class/kfd/kfd/proc") == []
    assert not (host.shm / "proc" / str(pid)).exists()
    assert read(host.shm / "sys/class/drm/card0/device/mem_info_vram_used") == "0\n"


def test_a_card_leaves_the_bus_and_comes_back(simulated):
    host = simulated("gpu2")
    before = sorted(str(path) for path in (host.shm / "sys").rglob("*"))
    simgpu.set_fault(XTX, "vanished", True)
    gpud.refresh()
    assert sorted(os.listdir(host.shm / "sys/bus/pci/devices")) == ["0000:00:0f.0", "0000:0a:00.0", "0000:0a:00.1"]
    assert sorted(os.listdir(host.shm / "sys/class/kfd/kfd/topology/nodes")) == ["0", "2"]
    simgpu.set_fault(XTX, "vanished", False)
    gpud.refresh()
    assert sorted(str(path) for path in (host.shm / "sys").rglob("*")) == before


def test_nvidia_in_procfs(simulated):
    host = simulated("gpu1")
    text = read(host.shm / "proc/driver/nvidia/gpus/0000:02:00.0/information")
    assert text.startswith("Model: \t\t Tesla P40\n")
    assert "Device Minor: \t 1\n" in text
    assert "  570.133.20  " in read(host.shm / "proc/driver/nvidia/version")
    assert not (host.shm / "sys/class/kfd").exists()
    simgpu.set_fault("0000:01:00.0", "driver-not-loaded", True)
    gpud.refresh()
    assert not (host.shm / "proc/driver/nvidia/version").exists()


@pytest.mark.parametrize(("architecture", "version"), [("gfx1100", 110000), ("gfx90a", 90010), ("gfx803", 80003)])
def test_gfx_target_version(architecture, version):
    assert simtree.gfx_target_version(architecture) == version
    assert amdgpu.architecture(version) == architecture


@pytest.mark.parametrize(
    ("name", "cards"),
    [
        ("gpu1", [("0000:01:00.0", "nvidia", "0x1b06", "nvidia"), ("0000:02:00.0", "nvidia", "0x1b38", "nvidia")]),
        ("gpu2", [("0000:03:00.0", "amd", "0x744c", "amdgpu"), ("0000:0a:00.0", "amd", "0x67df", "amdgpu")]),
    ],
)
def test_the_collection_reads_the_bus(simulated, name, cards):
    found = pci.scan(str(simulated(name).shm / "sys"))
    assert [(card.address, card.vendor, card.device, card.driver) for card in found] == cards


def test_the_collection_reads_amdgpu(simulated):
    host = simulated("gpu2")
    rocm, vulkan = host.take(XTX, "2000"), host.take(RX580, "1000")
    report = amdgpu.read(str(host.shm / "sys"), str(host.shm / "proc"))
    assert [(d.uuid, d.architecture, d.vram_mib, d.used_mib) for d in report.devices] == [
        (XTX, "gfx1100", 24560, 2000),
        ("", "gfx803", 8192, 1000),
    ]
    assert {(h.pid, h.pci_address, h.vram_mib, h.api) for h in report.holdings} == {
        (rocm, "0000:03:00.0", 2000, "rocm"),
        (vulkan, "0000:0a:00.0", 1000, "vulkan"),
    }
