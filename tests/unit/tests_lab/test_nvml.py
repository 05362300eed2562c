# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stand-in for libnvidia-ml under the real binding, and nvidia-smi beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from xml.etree import ElementTree

import _image
import pytest
import simgpu

GTX, P40 = "GPU-1b06a1de-0001-4a11-8c01-000000000001", "GPU-1b38a1de-0002-4a11-8c01-000000000002"
# The binding keeps the library that it has loaded, so each question is a process of its own.
ASK = """
import json, pynvml as n
def processes(handle):
    kinds = (n.nvmlDeviceGetComputeRunningProcesses, n.nvmlDeviceGetComputeRunningProcesses_v2)
    compute = [[[p.pid, p.usedGpuMemory >> 20] for p in kind(handle)] for kind in kinds]
    assert compute[0] == compute[1]
    graphics = [[p.pid, p.usedGpuMemory >> 20] for p in n.nvmlDeviceGetGraphicsRunningProcesses(handle)]
    return {"compute": compute[0], "graphics": graphics}
def card(number):
    handle = n.nvmlDeviceGetHandleByIndex(number)
    place, second = n.nvmlDeviceGetPciInfo(handle), n.nvmlDeviceGetMemoryInfo(handle, n.nvmlMemory_v2)
    first = n.nvmlDeviceGetMemoryInfo(handle)
    assert (first.total, first.used, first.free) == (second.total, second.used, second.free)
    assert n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(handle))) == number
    assert n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByPciBusId(place.busId)) == number
    try:
        mig = n.nvmlDeviceGetMigMode(handle)
    except n.NVMLError_NotSupported:
        mig = None
    identity = {"name": n.nvmlDeviceGetName(handle), "uuid": n.nvmlDeviceGetUUID(handle), "bus": place.busId}
    capability = n.nvmlDeviceGetCudaComputeCapability(handle)
    return {**identity, "id": place.pciDeviceId, "capability": capability, "used": first.used >> 20,
            "total": first.total >> 20, "mig": mig, **processes(handle)}
def guarded(function, *arguments):
    try:
        return function(*arguments)
    except n.NVMLError as error:
        return error.value
answer = {"init": guarded(n.nvmlInit)}
if answer["init"] is None:
    answer.update(driver=n.nvmlSystemGetDriverVersion(), cuda=n.nvmlSystemGetCudaDriverVersion())
    answer["cards"] = [guarded(card, number) for number in range(n.nvmlDeviceGetCount())]
print(json.dumps(answer))
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "libnvidia-ml.so.1").symlink_to(_image.nvml())
    return folder


@pytest.fixture
def ask(library) -> t.Callable[[], dict[str, t.Any]]:
    def asked() -> dict[str, t.Any]:
        environ = {**os.environ, "LD_LIBRARY_PATH": str(library)}
        done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=environ, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return asked


def test_the_real_binding_accepts_it(simulated, ask):
    host = simulated("gpu1")
    cuda, vulkan = host.take(GTX, "700"), host.take(P40, "500", "--api", "vulkan")
    answer = ask()
    assert (answer["driver"], answer["cuda"]) == ("570.133.20", 12080)
    assert answer["cards"] == [
        {
            "name": "NVIDIA GeForce GTX 1080 Ti", "uuid": GTX, "bus": "00000000:01:00.0", "id": 0x1B0610DE,
            "capability": [6, 1], "used": 700, "total": 11264, "mig": None, "compute": [[cuda, 700]], "graphics": [],
        },
        {
            "name": "Tesla P40", "uuid": P40, "bus": "00000000:02:00.0", "id": 0x1B3810DE,
            "capability": [6, 1], "used": 500, "total": 24576, "mig": None, "compute": [], "graphics": [[vulkan, 500]],
        },
    ]  # fmt: skip


def test_the_driver_may_not_be_loaded(simulated, ask):
    host = simulated("gpu1")
    simgpu.set_fault(P40, "driver-not-loaded", True)
    assert ask() == {"init": 9}
    assert host.run("nvidia-smi", "-L", check=False).startswith("9: NVIDIA-SMI has failed")


def test_a_card_may_not_tell_or_be_lost(simulated, ask):
    simulated("gpu1")
    simgpu.set_fault(GTX, "not-supported", True)
    simgpu.set_fault(P40, "vanished", True)
    assert ask()["cards"] == [3, 15]


def test_a_host_without_a_driver(simulated, ask):
    host = simulated("gpu1")
    (host.etc / "gpus.json").write_text((host.etc / "gpus.json").read_text().replace("true", "false"))
    assert ask() == {"init": 9}


def test_nvidia_smi(simulated):
    host = simulated("gpu1")
    cuda, vulkan = host.take(GTX, "700"), host.take(P40, "500", "--api", "vulkan")
    fields = "--query-gpu=index,pci.bus_id,uuid,memory.total,memory.free,compute_cap"
    assert host.run("nvidia-smi", fields, "--format=csv,noheader,nounits").splitlines() == [
        f"0, 00000000:01:00.0, {GTX}, 11264, 10564, 6.1",
        f"1, 00000000:02:00.0, {P40}, 24576, 24076, 6.1",
    ]
    assert host.run("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv") == (
        f"pid, used_memory [MiB]\n{cuda}, 700 MiB\n"
    )
    document = ElementTree.fromstring(host.run("nvidia-smi", "-q", "-x"))
    processes = [
        tuple(process.findtext(name) for name in ("pid", "type", "used_memory"))
        for process in document.iter("process_info")
    ]
    assert processes == [(str(cuda), "C", "700 MiB"), (str(vulkan), "G", "500 MiB")]
