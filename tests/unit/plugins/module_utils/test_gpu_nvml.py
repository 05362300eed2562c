# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
import typing as t
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import nvml
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Device, Holding

MIB = 2**20


class NVMLError(Exception):
    pass


class NVMLLibraryMismatchError(Exception):
    pass


class Card(t.NamedTuple):
    uuid: str = "GPU-a"
    name: str = "Tesla P40"
    bus_id: bytes = b"00000000:02:00.0"
    capability: tuple[int, int] = (6, 1)
    total: int = 24576 * MIB
    used: int = 0
    compute: tuple[tuple[int, int | None], ...] = ()
    graphics: tuple[tuple[int, int | None], ...] = ()
    opens: bool = True
    measures: bool = True
    lists: bool = True
    memory: tuple[int, int] = (3615, 384)


class FakeNvml:
    """The calls of pynvml that are used, over a list of cards."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError
    NVML_CLOCK_MEM = 2

    def __init__(self, *cards: Card, init: str = "") -> None:
        self.cards = cards
        self.init = init
        self.open = False

    def nvmlInit(self) -> None:
        if self.init:
            raise NVMLError(self.init)
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.133.20"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        if not self.cards[index].opens:
            raise NVMLError("GPU is lost")
        return self.cards[index]

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetPciInfo(self, card: Card) -> t.Any:
        return SimpleNamespace(busId=card.bus_id, pciDeviceId=0x1B3810DE)

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:
        return card.capability

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> t.Any:
        if not card.measures:
            raise NVMLError("GPU is lost")
        return SimpleNamespace(total=card.total, used=card.used, free=card.total - card.used)

    def nvmlDeviceGetMaxClockInfo(self, card: Card, kind: int) -> int:
        assert kind == self.NVML_CLOCK_MEM
        return card.memory[0]

    def nvmlDeviceGetMemoryBusWidth(self, card: Card) -> int:
        if not card.memory[1]:
            raise NVMLError("Function Not Found")
        return card.memory[1]

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[t.Any]:
        if not card.lists:
            raise NVMLLibraryMismatchError("Unversioned function called")
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in card.compute]

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: Card) -> list[t.Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in card.graphics]


def test_a_card_with_its_processes() -> None:
    """CUDA programs are among the compute processes, Vulkan programs among the graphics processes."""
    fake = FakeNvml(Card(used=9000 * MIB + 1, compute=((11, 7000 * MIB),), graphics=((12, 1500 * MIB + 5),)))
    report = nvml.read(fake)
    assert report.devices == (
        Device(
            vendor="nvidia",
            pci_address="0000:02:00.0",
            pci_device="0x1b38",
            uuid="GPU-a",
            name="Tesla P40",
            architecture="sm_61",
            vram_mib=24576,
            used_mib=9001,
            bandwidth_gbs=347,
        ),
    )
    assert report.holdings == (
        Holding(pid=11, pci_address="0000:02:00.0", vram_mib=7000, api="cuda"),
        Holding(pid=12, pci_address="0000:02:00.0", vram_mib=1500, api="vulkan"),
    )
    assert (report.source, report.driver, report.error, report.warnings) == ("nvml", "570.133.20", "", ())
    assert not fake.open


@pytest.mark.parametrize("bus_id", ["00010000:02:00.0", b"00010000:02:00.0"])
def test_pci_domains_of_more_than_16_bits_are_kept(bus_id: t.Any) -> None:
    assert nvml.read(FakeNvml(Card(bus_id=bus_id))).devices[0].pci_address == "10000:02:00.0"


def test_a_library_that_does_not_start_is_an_error_not_a_crash() -> None:
    report = nvml.read(FakeNvml(Card(), init="Driver Not Loaded"))
    assert report.error == "Driver Not Loaded"
    assert report.devices == ()


@pytest.mark.parametrize(
    ("clock_mhz", "bits", "gbs"),
    [
        (5505, 352, 484),  # GeForce GTX 1080 Ti, GDDR5X
        (9501, 384, 912),  # GeForce RTX 3080 Ti, GDDR6X
        (877, 4096, 898),  # Tesla V100, HBM2: 900 in its data sheet
        (3201, 6144, 4916),  # H200, HBM3e: 4800 in its data sheet
        (5505, 0, 0),  # a driver that does not know the bus
    ],
)
def test_bandwidth_by_clock_and_bus(clock_mhz: int, bits: int, gbs: int) -> None:
    assert nvml.read(FakeNvml(Card(memory=(clock_mhz, bits)))).devices[0].bandwidth_gbs == gbs


def test_one_lost_card_does_not_hide_the_others() -> None:
    lost, sick, well = Card(opens=False), Card(uuid="GPU-b", measures=False), Card(uuid="GPU-c")
    report = nvml.read(FakeNvml(lost, sick, well))
    assert [(device.uuid, device.error) for device in report.devices] == [("GPU-b", "GPU is lost"), ("GPU-c", "")]
    assert report.warnings == ("NVML cannot open its GPU 0: GPU is lost",)


def test_processes_that_cannot_be_listed_are_told() -> None:
    report = nvml.read(FakeNvml(Card(lists=False)))
    assert len(report.devices) == 1
    assert "does not list the processes on GPU-a" in report.warnings[0]


def test_memory_that_is_not_told_is_told() -> None:
    report = nvml.read(FakeNvml(Card(compute=((11, None),))))
    assert report.holdings == ()
    assert "counts as foreign" in report.warnings[0]


@pytest.fixture
def no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without pynvml."""
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "pynvml.py").exists()])


@pytest.mark.usefixtures("no_binding")
def test_the_binding_is_found_in_the_virtual_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was made for another version of Python serves too, and sys.path stays as it was."""
    site = tmp_path / "lib/python3.99/site-packages"
    site.mkdir(parents=True)
    (site / "pynvml.py").write_text("mark = 'from the venv'\n")
    before = list(sys.path)
    module = nvml.load(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml")
    assert module.mark == "from the venv"
    assert sys.path == before


@pytest.mark.usefixtures("no_binding")
def test_no_binding_anywhere(tmp_path: Path) -> None:
    assert nvml.load(str(tmp_path)) is None
