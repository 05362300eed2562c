# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import nvidia_smi
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Device, Holding

XML = Path(__file__).resolve().parents[3] / "data/gpu/nvidia-smi-q.xml"
TWO_CARDS = """\
00000000:01:00.0, 0x1B0610DE, GPU-a, NVIDIA GeForce GTX 1080 Ti, 11264, 3700, 570.133.20, 6.1
00000000:02:00.0, 0x1B3810DE, GPU-b, Tesla P40, 24576, 24200, 570.133.20, 6.1
"""

Tool = t.Callable[[str], None]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Puts an nvidia-smi on PATH; its text is a shell script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(script: str) -> None:
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)

    return write


def answering(rows: str) -> str:
    return f'if [ "$1" = -q ]; then cat {XML}; else cat <<EOF\n{rows}EOF\nfi\n'


def test_two_cards(tool: Tool) -> None:
    """What is neither free nor used by a process is the driver's reserve: it counts as used."""
    tool(answering(TWO_CARDS))
    report = nvidia_smi.read()
    assert report.devices[0] == Device(
        vendor="nvidia",
        pci_address="0000:01:00.0",
        pci_device="0x1b06",
        uuid="GPU-a",
        name="NVIDIA GeForce GTX 1080 Ti",
        architecture="sm_61",
        vram_mib=11264,
        used_mib=7564,
    )
    assert [(device.uuid, device.used_mib) for device in report.devices] == [("GPU-a", 7564), ("GPU-b", 376)]
    assert (report.source, report.driver, report.error, report.warnings) == ("nvidia-smi", "570.133.20", "", ())


def test_processes_of_both_kinds() -> None:
    assert nvidia_smi.parse_processes(XML.read_text()) == (
        Holding(pid=700, pci_address="0000:01:00.0", vram_mib=120, api="vulkan"),
        Holding(pid=812, pci_address="0000:01:00.0", vram_mib=7321, api="cuda"),
        Holding(pid=900, pci_address="0000:02:00.0", vram_mib=300, api="cuda"),
    )


def test_a_driver_that_does_not_know_the_compute_capability(tool: Tool) -> None:
    tool(
        'case "$1" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; exit 2;; '
        f"-q) cat {XML};; *) echo '00000000:05:00.0, 0x102D10DE, GPU-k, Tesla K80, 11441, 11441, 470.256.02';; esac\n"
    )
    report = nvidia_smi.read()
    assert report.error == ""
    assert [(device.name, device.architecture) for device in report.devices] == [("Tesla K80", "")]


def test_a_card_that_cannot_be_read(tool: Tool) -> None:
    tool(answering("00000000:01:00.0, 0x1B0610DE, GPU-a, Tesla P40, [GPU is lost], [GPU is lost], 570.1, 6.1\n"))
    assert nvidia_smi.read().devices[0].error == "GPU is lost"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "version mismatch"),
        ("exit 9", "ended with 9"),
        ("echo 'a, b'", "something else than 8 columns"),
        ("exec sleep 30", "did not answer within 0.3 s"),
    ],
)
def test_failures_are_errors_not_crashes(tool: Tool, script: str, error: str) -> None:
    tool(f"{script}\n")
    report = nvidia_smi.read(timeout=0.3)
    assert error in report.error
    assert report.devices == ()


def test_a_tool_that_tells_no_processes(tool: Tool) -> None:
    tool(f'if [ "$1" = -q ]; then echo nonsense; else cat <<EOF\n{TWO_CARDS}EOF\nfi\n')
    report = nvidia_smi.read()
    assert len(report.devices) == 2
    assert "all VRAM in use counts as foreign" in report.warnings[0]


def test_no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not nvidia_smi.available()
    assert "cannot be run" in nvidia_smi.read().error
