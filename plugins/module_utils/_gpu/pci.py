# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The graphics cards on the PCI bus, from sysfs: there whether or not a driver works them."""

from __future__ import annotations

import os
from pathlib import Path

from .model import PCI_VENDORS, PciCard, listed, read_text

# PCI base class and sub-class: VGA, 3D controller, other display controller (AMD Instinct up to MI200),
# processing accelerator (AMD Instinct MI300). https://pci-ids.ucw.cz/read/PD/
CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")


def scan(sysfs: str) -> tuple[PciCard, ...]:
    """NVIDIA and AMD cards in the order of their addresses; other vendors' display adapters are left out."""
    cards = []
    for entry in listed(Path(sysfs) / "bus/pci/devices"):
        vendor = PCI_VENDORS.get((read_text(entry / "vendor") or "").lower())
        kind = read_text(entry / "class") or ""
        if vendor is None or not kind.lower().startswith(CLASSES):
            continue
        cards.append(
            PciCard(
                address=entry.name.lower(),
                vendor=vendor,
                device=(read_text(entry / "device") or "").lower(),
                driver=bound_driver(entry),
            )
        )
    return tuple(cards)


def bound_driver(entry: Path) -> str:
    """Name of the kernel driver that holds a device, empty for none."""
    link = entry / "driver"
    return os.path.basename(os.path.realpath(link)) if link.is_symlink() else ""
