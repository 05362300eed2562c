# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What the readers of this package hand to each other. VRAM is in MiB, PCI addresses are ``0000:01:00.0``."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from pathlib import Path

NVIDIA = "nvidia"
AMD = "amd"
PCI_VENDORS = {"0x10de": NVIDIA, "0x1002": AMD}

MIB = 2**20


@dataclass(frozen=True)
class Roots:
    """Where the node's trees are; other than the defaults only for tests and simulated GPUs."""

    sysfs: str = "/sys"
    procfs: str = "/proc"
    venv: str = "/opt/sdai/venv"


@dataclass(frozen=True)
class PciCard:
    """A graphics card on the bus, whether or not a driver works it. ``driver`` is the kernel driver bound to it."""

    address: str
    vendor: str
    device: str
    driver: str = ""


@dataclass(frozen=True)
class Device:
    """What a driver says of one card. ``error`` is set where it knows the card but cannot work it.

    ``used_mib`` holds everything that cannot be given out, the driver's own reserve included.
    ``bandwidth_gbs`` is the memory's by its clock and bus, 0 where the driver does not tell them.
    ``kfd_ordinal`` counts the GPUs that the ROCm kernel interface offers; None where it does not offer the card.
    """

    vendor: str
    pci_address: str
    pci_device: str
    uuid: str = ""
    name: str = ""
    architecture: str = ""
    vram_mib: int = 0
    used_mib: int = 0
    bandwidth_gbs: float = 0
    error: str = ""
    kfd_ordinal: t.Optional[int] = None


@dataclass(frozen=True)
class Holding:
    """VRAM held by one process on one card through one api: cuda, rocm or vulkan."""

    pid: int
    pci_address: str
    vram_mib: int
    api: str


@dataclass(frozen=True)
class Report:
    """All that the drivers of one vendor say. ``error`` is why they say nothing."""

    source: str = ""
    driver: str = ""
    devices: tuple[Device, ...] = ()
    holdings: tuple[Holding, ...] = ()
    error: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """One GPU of the node: the facts, and what only the node itself needs (used VRAM, ROCm's ordinal)."""

    id: str
    index: int
    vendor: str
    name: str
    architecture: str
    vram_mib: int
    vram_foreign_mib: int
    bandwidth_gbs: float
    backends: tuple[str, ...]
    usable: bool
    reason: str
    remedy: str
    pci_address: str
    vram_used_mib: int = 0
    kfd_ordinal: t.Optional[int] = None

    def as_fact(self) -> dict[str, t.Any]:
        """The shape of an entry of ``sdai_gpus``."""
        return {
            "id": self.id,
            "index": self.index,
            "vendor": self.vendor,
            "name": self.name,
            "architecture": self.architecture,
            "vram_mib": self.vram_mib,
            "vram_foreign_mib": self.vram_foreign_mib,
            # 484, as a person writes it, not 484.0: declared and gathered GPUs must not differ in spelling.
            "bandwidth_gbs": int(self.bandwidth_gbs) if self.bandwidth_gbs % 1 == 0 else self.bandwidth_gbs,
            "backends": list(self.backends),
            "usable": self.usable,
            "reason": self.reason,
            "remedy": self.remedy,
            "pci_address": self.pci_address,
        }


@dataclass(frozen=True)
class Process:
    """A process that holds VRAM. ``unit`` is the replica's systemd unit, or empty for a process that is not ours."""

    pid: int
    gpu_id: str
    vram_mib: int
    api: str
    unit: str = ""


@dataclass(frozen=True)
class Scan:
    """Everything found on a node. ``drivers`` names versions and where the word on NVIDIA cards came from."""

    gpus: tuple[Gpu, ...]
    processes: tuple[Process, ...]
    warnings: tuple[str, ...] = ()
    drivers: t.Mapping[str, t.Any] = field(default_factory=dict)


def read_text(path: Path) -> t.Optional[str]:
    """The file's text without surrounding space; None where it is absent or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> t.Optional[int]:
    """A decimal integer from a file of sysfs; None where there is none."""
    text = read_text(path)
    return int(text) if text is not None and text.isdecimal() else None


def listed(path: Path) -> list[Path]:
    """The entries of a directory by name; none where it is absent or may not be read."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def pci_address(text: str) -> str:
    """The kernel's spelling of a PCI address. NVML and nvidia-smi write the domain with eight digits."""
    domain, _sep, rest = text.strip().lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"
