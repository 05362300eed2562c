# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Puts together, card by card, what the bus, the drivers and the tables say. No input or output."""

from __future__ import annotations

import typing as t

from .._gpu_table import lookup
from .._support import ROCM, Support, driver_remedy, runners
from .model import AMD, NVIDIA, Device, Gpu, Holding, PciCard, Report

FOREIGN_STEP_MIB = 64
VENDOR_NAMES = {NVIDIA: "NVIDIA", AMD: "AMD"}
MODULES = {NVIDIA: "nvidia", AMD: "amdgpu"}
NEWEST_DRIVER = "9999"


def merge(
    cards: t.Iterable[PciCard], nvidia: Report, amd: Report, own: t.Mapping[int, str], holdings: t.Iterable[Holding]
) -> tuple[Gpu, ...]:
    """The GPUs of a node: NVIDIA cards in the driver's order, AMD cards by address, then what no driver answers for.

    ``own`` names the unit of each process that is ours; ``holdings`` has one entry per process and card.
    """
    own_mib: dict[str, int] = {}
    for holding in holdings:
        if holding.pid in own:
            own_mib[holding.pci_address] = own_mib.get(holding.pci_address, 0) + holding.vram_mib
    gpus: list[Gpu] = []
    for report in (nvidia, amd):
        for device in report.devices:
            gpus.append(_driven(len(gpus), device, report, own_mib.get(device.pci_address, 0)))
    known = {gpu.pci_address for gpu in gpus}
    for card in cards:
        if card.address not in known:
            gpus.append(_undriven(len(gpus), card, nvidia if card.vendor == NVIDIA else amd))
    return tuple(gpus)


def foreign_mib(used_mib: int, own_mib: int) -> int:
    """VRAM that is not ours, up to the next 64 MiB so that small movements do not change a plan."""
    return -(-max(used_mib - own_mib, 0) // FOREIGN_STEP_MIB) * FOREIGN_STEP_MIB


def _driven(index: int, device: Device, report: Report, own_mib: int) -> Gpu:
    card = lookup(device.vendor, device.pci_device, device.name, device.vram_mib)
    architecture = device.architecture or (card.architecture if card else "")
    name = device.name or (card.name if card else _nameless(device.vendor, device.pci_device))
    support = _support(device, architecture, report)
    bandwidth = card.bandwidth_gbs if card else device.bandwidth_gbs
    if support.backends and not bandwidth:
        support = Support(
            support.backends,
            f"its memory bandwidth is not known ({name}, PCI {device.pci_device})",
            "declare it in sdai_gpus with bandwidth_gbs",
        )
    return Gpu(
        id=device.uuid or device.pci_address,
        index=index,
        vendor=device.vendor,
        name=name,
        architecture=architecture,
        vram_mib=device.vram_mib,
        vram_foreign_mib=foreign_mib(device.used_mib, own_mib),
        bandwidth_gbs=bandwidth,
        backends=support.backends,
        usable=not support.reason,
        reason=support.reason,
        remedy=support.remedy,
        pci_address=device.pci_address,
        vram_used_mib=device.used_mib,
        kfd_ordinal=device.kfd_ordinal,
    )


def _support(device: Device, architecture: str, report: Report) -> Support:
    if device.error:
        return Support(
            (),
            f"the driver cannot work it: {device.error}",
            "look for Xid or reset messages in the node's kernel log; a reboot often brings the card back",
        )
    support = runners(device.vendor, architecture, report.driver)
    if device.vendor == AMD and device.kfd_ordinal is None:
        # ROCm works through KFD alone, which leaves out cards behind a bus without atomic operations.
        return Support(tuple(r for r in support.backends if r != ROCM), support.reason, support.remedy)
    return support


def _undriven(index: int, pci: PciCard, report: Report) -> Gpu:
    card = lookup(pci.vendor, pci.device, "")
    architecture = card.architecture if card else ""
    # Asked with a driver newer than any: what is refused even so has no driver that would help.
    support = runners(pci.vendor, architecture, NEWEST_DRIVER)
    if support.backends or card is None:
        reason = _silence(pci, report)
        if card is None:
            reason = f"it is not in the table of known cards, and {reason}"
        support = Support((), reason, driver_remedy(pci.vendor, architecture))
    return Gpu(
        id=pci.address,
        index=index,
        vendor=pci.vendor,
        name=card.name if card else _nameless(pci.vendor, pci.device),
        architecture=architecture,
        vram_mib=card.vram_mib if card else 0,
        vram_foreign_mib=0,
        bandwidth_gbs=card.bandwidth_gbs if card else 0,
        backends=(),
        usable=False,
        reason=support.reason,
        remedy=support.remedy,
        pci_address=pci.address,
    )


def _silence(pci: PciCard, report: Report) -> str:
    """Why no driver answers for a card that is on the bus."""
    if pci.driver and pci.driver != MODULES[pci.vendor]:
        return f"no driver of ours answers for this card: it is held by {pci.driver}"
    if report.error:
        return f"no driver answers for this card: {report.error}"
    if report.devices and report.driver:
        return f"no driver answers for this card: driver {report.driver} of this node serves others only"
    return "no driver answers for this card"


def _nameless(vendor: str, device: str) -> str:
    return f"{VENDOR_NAMES[vendor]} device {device}"
