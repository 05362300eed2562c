# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger of the simulated GPUs, what the selectors leave visible, and the commands."""

from __future__ import annotations

import os
import signal

import pytest
import simgpu

GTX, P40 = "GPU-1b06a1de-0001-4a11-8c01-000000000001", "GPU-1b38a1de-0002-4a11-8c01-000000000002"
XTX, RX580 = "GPU-7900a1de00000003", "0000:0a:00.0"


@pytest.mark.parametrize(
    ("selectors", "numbers"),
    [
        ({}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, [1, 0]),
        ({"CUDA_VISIBLE_DEVICES": P40}, [1]),
        ({"CUDA_VISIBLE_DEVICES": f"{P40},{GTX}"}, [1, 0]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1b38"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "0,7,1"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": XTX}, []),
        ({"HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": ""}, [0, 1]),
    ],
)
def test_cuda_selectors(simulated, selectors, numbers):
    host = simulated("gpu1")
    host.run("nvidia-modprobe", "-c", "0", "-c", "1")
    host.run("nvidia-modprobe", "-u", "-c=0")
    assert simgpu.visible("cuda", selectors) == numbers


@pytest.mark.parametrize(
    ("selectors", "numbers"),
    [
        ({}, [0]),
        ({"ROCR_VISIBLE_DEVICES": XTX, "HIP_VISIBLE_DEVICES": "0"}, [0]),
        ({"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"}, []),
        ({"ROCR_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "0"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": GTX}, []),
    ],
)
def test_rocm_selectors_are_applied_one_after_the_other(simulated, selectors, numbers):
    simulated("gpu2")
    assert [gpu["key"] for gpu in simgpu.devices("rocm")] == [XTX]
    assert simgpu.visible("rocm", selectors) == numbers


@pytest.mark.parametrize(
    ("selector", "numbers"),
    [(None, [0, 1]), ("1", [1]), ("-1", []), ("", []), (XTX, []), ("2", [])],
)
def test_vulkan_knows_numbers_only(simulated, selector, numbers):
    simulated("gpu2")
    environ = {} if selector is None else {"GGML_VK_VISIBLE_DEVICES": selector}
    assert simgpu.visible("vulkan", {**environ, "ROCR_VISIBLE_DEVICES": "-1"}) == numbers


def test_cuda_needs_the_nodes_that_nvidia_modprobe_makes(simulated):
    host = simulated("gpu1")
    assert simgpu.devices("cuda") == simgpu.devices("vulkan") == []
    host.run("nvidia-modprobe", "-c", "1")
    assert simgpu.devices("cuda") == []
    assert [gpu["key"] for gpu in simgpu.devices("vulkan")] == [P40]
    host.run("nvidia-modprobe", "-u", "-c", "0")
    assert [gpu["key"] for gpu in simgpu.devices("cuda")] == [P40]


def test_a_missing_node_moves_the_numbers_of_the_others(simulated):
    host = simulated("gpu2")
    (host.dev / "dri" / "renderD128").unlink()
    assert [gpu["key"] for gpu in simgpu.devices("vulkan")] == [RX580]
    assert simgpu.devices("rocm") == []


def test_a_late_node_appears_after_a_while(simulated, monkeypatch):
    host = simulated("gpu2")
    import gpud

    host.run("sdai-lab-gpu", "fault", XTX, "late-node", "on")
    age = 3.0
    monkeypatch.setattr(simgpu, "boot_age_s", lambda: age)
    gpud.nodes(simgpu.load_gpus())
    assert sorted(os.listdir(host.dev / "dri")) == ["card1", "renderD129"]
    age = simgpu.LATE_S
    gpud.nodes(simgpu.load_gpus())
    assert sorted(os.listdir(host.dev / "dri")) == ["card0", "card1", "renderD128", "renderD129"]


def test_allocations_add_up_and_end_where_the_card_does(simulated):
    simulated("gpu1")
    simgpu.allocate(GTX, 10000, "cuda")
    simgpu.allocate(GTX, 1000, "cuda")
    simgpu.allocate(P40, 5, "cuda")
    assert simgpu.free_mib(GTX) == 264
    with pytest.raises(simgpu.OutOfMemory, match="265 MiB asked for, 264 MiB free"):
        simgpu.allocate(GTX, 265, "cuda")
    assert {(h.key, h.mib) for h in simgpu.holdings()} == {(GTX, 11000), (P40, 5)}
    simgpu.release()
    assert simgpu.free_mib(GTX) == 11264


def test_the_dead_hold_nothing(simulated):
    host = simulated("gpu1")
    pid = host.take("0000:01:00.0", "4000")
    assert simgpu.free_mib(GTX) == 7264
    os.kill(pid, signal.SIGKILL)
    host.run("sdai-lab-gpu", "drop")
    assert (host.shm / "vram" / str(pid)).exists()
    assert simgpu.free_mib(GTX) == 11264


def test_a_process_that_got_a_dead_ones_number_holds_nothing(simulated):
    host = simulated("gpu1")
    (host.shm / "vram" / "1").write_text(f"{simgpu.start_time(1) + 1} {GTX} 4000 cuda\n")
    assert simgpu.holdings() == []


def test_foreign_programs_come_and_go(simulated):
    host = simulated("gpu2")
    pids = {host.take(XTX, "300"), host.take(RX580, "200"), host.take(XTX, "100", "--api", "vulkan")}
    assert {(h.pid in pids, h.key, h.mib, h.api) for h in simgpu.holdings()} == {
        (True, XTX, 300, "rocm"),
        (True, XTX, 100, "vulkan"),
        (True, RX580, 200, "vulkan"),
    }
    assert "8000 MiB asked for" in host.run("sdai-lab-gpu", "take", RX580, "8000", check=False)
    host.run("sdai-lab-gpu", "drop", XTX)
    assert [h.key for h in simgpu.holdings()] == [RX580]


def test_a_vanished_card_is_seen_by_nobody_and_comes_back(simulated):
    simulated("gpu2")
    simgpu.set_fault(XTX, "vanished", True)
    assert simgpu.devices("rocm") == []
    assert [gpu["key"] for gpu in simgpu.devices("vulkan")] == [RX580]
    assert simgpu.free_mib(XTX) == 0
    simgpu.set_fault(XTX, "vanished", False)
    assert [gpu["key"] for gpu in simgpu.devices("rocm")] == [XTX]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["-c"], "1: ERROR: Invalid commandline"),
        (["-c", "2"], "1: "),
        (["--create-nvidia-device-file=1"], "0: "),
        (["-u"], "0: "),
    ],
)
def test_nvidia_modprobe(simulated, words, answer):
    assert simulated("gpu1").run("nvidia-modprobe", *words, check=False).startswith(answer)


def test_vulkaninfo_tells_places_on_the_bus_and_a_software_device(simulated):
    text = simulated("gpu2").run("vulkaninfo")
    sections = text.split("\nGPU")[1:]
    assert [section[: section.index(":")] for section in sections] == ["0", "1", "2"]
    assert "\tdeviceName        = AMD Radeon RX 580 Series (RADV POLARIS10)\n" in sections[1]
    assert "VkPhysicalDevicePCIBusInfoPropertiesEXT:\n" in sections[1]
    assert "\tpciDomain   = 0\n\tpciBus      = 10\n\tpciDevice   = 0\n\tpciFunction = 0\n" in sections[1]
    assert "PHYSICAL_DEVICE_TYPE_CPU" in sections[2]
    assert "pciBus" not in sections[2]
