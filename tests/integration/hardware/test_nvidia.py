# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The facts of a real NVIDIA GPU, where this machine has one: the lab's are simulated below the very same libraries."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import typing as t
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import nvidia_smi, nvml
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Report, Roots
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.scan import scan
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu_table import lookup

if t.TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA driver on this machine")

# A collection's own Ansible, and none of another test's settings.
ANSIBLE = Path(sys.executable).parent / "ansible"
FIELDS = ("uuid", "name", "memory.total", "compute_cap", "driver_version")
TAKEN_MIB = 2048
# What the driver sets aside for a program beside what it asked for.
CONTEXT_MIB = 1024

# Takes VRAM of the first GPU through the driver's own library, says so, and holds it until its input ends.
PROGRAM = f"""
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t({TAKEN_MIB} << 20)) == 0
print("taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def vram_taken() -> Iterator[int]:
    """Another program's VRAM on the first GPU; gives its process id."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "taken\n", "the program got no VRAM: what it says is above"
        yield program.pid


def read_by_nvml() -> Report:
    binding = nvml.load("")
    assert binding is not None, "nvidia-ml-py is part of the development environment"
    return nvml.read(binding)


def told() -> list[dict[str, str]]:
    """What the driver's own tool says of each card."""
    command = ["nvidia-smi", "--query-gpu=" + ",".join(FIELDS), "--format=csv,noheader,nounits"]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [dict(zip(FIELDS, map(str.strip, row), strict=True)) for row in csv.reader(output.splitlines())]


def test_facts_are_what_the_driver_says() -> None:
    found = scan(Roots())
    rows = told()
    assert found.drivers["nvidia_source"] == "nvml"
    assert {found.drivers["nvidia"]} == {row["driver_version"] for row in rows}
    cards = {gpu.id: gpu for gpu in found.gpus if gpu.vendor == "nvidia"}
    for row in rows:
        card = cards[row["uuid"]]
        assert (card.name, card.vram_mib) == (row["name"], int(row["memory.total"]))
        assert card.architecture == "sm_" + row["compute_cap"].replace(".", "")
        assert card.backends if card.usable else card.reason and card.remedy


def test_the_memory_s_bandwidth_is_near_the_table_s() -> None:
    """What a card gets that the table does not have."""
    for device in read_by_nvml().devices:
        known = lookup(device.vendor, device.pci_device, device.name, device.vram_mib)
        assert device.bandwidth_gbs > 0
        if known is not None:
            assert device.bandwidth_gbs == pytest.approx(known.bandwidth_gbs, rel=0.05)


@pytest.mark.parametrize("read", [read_by_nvml, nvidia_smi.read])
def test_a_program_s_vram_is_seen_as_its_own(read: t.Callable[[], Report]) -> None:
    with vram_taken() as pid:
        report = read()
    assert not report.error
    held = [holding for holding in report.holdings if holding.pid == pid]
    assert [holding.api for holding in held] == ["cuda"]
    assert TAKEN_MIB <= held[0].vram_mib <= TAKEN_MIB + CONTEXT_MIB


def test_nvml_and_nvidia_smi_say_the_same() -> None:
    with vram_taken():
        one, other = read_by_nvml(), nvidia_smi.read()
    for ours, theirs in zip(one.devices, other.devices, strict=True):
        # nvidia-smi does not tell the width of the memory's bus.
        aside = {"used_mib": 0, "bandwidth_gbs": 0}
        assert {**asdict(ours), **aside} == {**asdict(theirs), **aside}
        # Each rounds its own figures, in bytes or in MiB.
        assert abs(ours.used_mib - theirs.used_mib) <= 2
    assert [(each.pid, each.api) for each in one.holdings] == [(each.pid, each.api) for each in other.holdings]


def test_another_program_s_vram_is_foreign(tmp_path: Path) -> None:
    """By the module, as Ansible sends it to a node."""
    before = gathered(tmp_path)
    with vram_taken():
        during = gathered(tmp_path)
    grown = [mine["vram_foreign_mib"] - old["vram_foreign_mib"] for mine, old in zip(during, before, strict=True)]
    assert any(TAKEN_MIB <= each <= TAKEN_MIB + CONTEXT_MIB for each in grown), grown


def gathered(home: Path) -> list[dict[str, t.Any]]:
    interpreter = f"ansible_python_interpreter={sys.executable}"
    command = [str(ANSIBLE), "-i", "localhost,", "localhost", "-c", "local", "-e", interpreter]
    done = subprocess.run(
        [*command, "-m", "aivailable.sdai.gpu_facts"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "ANSIBLE_HOME": str(home), "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    status, _arrow, text = done.stdout.partition("=>")
    assert "SUCCESS" in status, done.stdout
    gpus: list[dict[str, t.Any]] = json.loads(text)["gpus"]
    return gpus
