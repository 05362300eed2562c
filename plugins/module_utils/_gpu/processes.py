# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Which process holds how much VRAM, and which of them are our own replicas."""

from __future__ import annotations

import re
import typing as t
from pathlib import Path

from .model import Holding, listed, read_text

UNIT = re.compile(r"/(sdai-ollama@[^/\s]+\.service)(?:/|$)", re.M)


def combine(holdings: t.Iterable[Holding]) -> tuple[Holding, ...]:
    """One holding per process and card.

    A driver shows the same memory twice: a ROCm program in KFD and by its open files, a CUDA program that also
    draws in both of NVML's lists. The larger figure counts, and the compute interface names the api.
    """
    best: dict[tuple[int, str], Holding] = {}
    for holding in holdings:
        key = (holding.pid, holding.pci_address)
        other = best.get(key, holding)
        best[key] = Holding(
            pid=holding.pid,
            pci_address=holding.pci_address,
            vram_mib=max(holding.vram_mib, other.vram_mib),
            api=holding.api if other.api == "vulkan" else other.api,
        )
    return tuple(best[key] for key in sorted(best))


def unit_of(procfs: str, pid: int) -> str:
    """The replica's unit that a process belongs to, by its control group; empty for a process that is not ours."""
    match = UNIT.search(read_text(Path(procfs) / str(pid) / "cgroup") or "")
    return match[1] if match else ""


def unit_pids(procfs: str) -> dict[str, tuple[int, ...]]:
    """All processes of our replicas, by unit."""
    found: dict[str, list[int]] = {}
    for pid in sorted(int(entry.name) for entry in listed(Path(procfs)) if entry.name.isdecimal()):
        unit = unit_of(procfs, pid)
        if unit:
            found.setdefault(unit, []).append(pid)
    return {unit: tuple(pids) for unit, pids in found.items()}
