# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The one door of this package: ``scan()`` reads a node's GPUs and who holds their VRAM. It writes nothing."""

from __future__ import annotations

import typing as t

from . import amdgpu, nvidia_smi, nvml, pci
from .merge import merge
from .model import NVIDIA, Gpu, PciCard, Process, Report, Roots, Scan
from .processes import combine, unit_of

__all__ = ["Gpu", "Process", "Roots", "Scan", "device_numbers", "own_vram", "scan"]


def scan(roots: Roots) -> Scan:
    """All GPUs of the node and the processes on them. Never raises for what a driver or a card does."""
    cards = pci.scan(roots.sysfs)
    nvidia = read_nvidia(roots, cards)
    amd = amdgpu.read(roots.sysfs, roots.procfs)
    holdings = combine((*nvidia.holdings, *amd.holdings))
    units = {holding.pid: unit_of(roots.procfs, holding.pid) for holding in holdings}
    own = {pid: unit for pid, unit in units.items() if unit}
    gpus = merge(cards, nvidia, amd, own, holdings)
    ids = {gpu.pci_address: gpu.id for gpu in gpus}
    return Scan(
        gpus=gpus,
        processes=tuple(
            Process(
                pid=holding.pid,
                gpu_id=ids[holding.pci_address],
                vram_mib=holding.vram_mib,
                api=holding.api,
                unit=units[holding.pid],
            )
            for holding in holdings
            if holding.pci_address in ids
        ),
        warnings=(*nvidia.warnings, *amd.warnings),
        drivers={
            "nvidia": nvidia.driver,
            "nvidia_source": nvidia.source if nvidia.devices else "",
            "amdgpu": bool(amd.devices),
            "kfd": any(gpu.kfd_ordinal is not None for gpu in gpus),
        },
    )


def read_nvidia(roots: Roots, cards: t.Iterable[PciCard]) -> Report:
    """NVML where its binding is there and works, else nvidia-smi, else only the reason why neither answers."""
    binding = nvml.load(roots.venv)
    report = nvml.read(binding) if binding is not None else None
    if report is not None and not report.error:
        return report
    if nvidia_smi.available():
        return nvidia_smi.read()
    if report is not None:
        return report
    if any(card.vendor == NVIDIA for card in cards):
        return Report(error="neither NVML's Python binding nor nvidia-smi is installed")
    return Report()


def own_vram(found: Scan, pids: t.Collection[int]) -> dict[str, int]:
    """MiB that these processes hold, by GPU id; GPUs on which they hold none are left out."""
    held: dict[str, int] = {}
    for process in found.processes:
        if process.pid in pids:
            held[process.gpu_id] = held.get(process.gpu_id, 0) + process.vram_mib
    return held


def device_numbers(found: Scan) -> dict[str, tuple[str, t.Optional[int]]]:
    """(PCI address, ordinal among the GPUs that KFD offers, None without) by GPU id.

    The ordinal is what ROCR_VISIBLE_DEVICES takes for a card without a unique id.
    """
    return {gpu.id: (gpu.pci_address, gpu.kfd_ordinal) for gpu in found.gpus}
