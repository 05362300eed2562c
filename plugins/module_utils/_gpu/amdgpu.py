# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""AMD cards by sysfs: the amdgpu driver, and KFD, the kernel interface that ROCm stands on.

https://docs.kernel.org/gpu/amdgpu/driver-misc.html (mem_info_vram_*, unique_id),
https://docs.kernel.org/gpu/drm-usage-stats.html (fdinfo). Needs no ROCm, which legacy cards do not have.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

from .model import AMD, MIB, PCI_VENDORS, Device, Holding, Report, listed, read_int, read_text
from .processes import combine

# What the driver itself keeps on an idle card stays below this.
UNEXPLAINED_MIB = 256
# Polaris 10 cards share a device id and differ in bandwidth: the revision tells them apart (libdrm, data/amdgpu.ids).
POLARIS = "0x67df"
POLARIS_NAMES = {
    "AMD Radeon RX 470": ("0xc5", "0xcf", "0xd7", "0xe0", "0xff"),
    "AMD Radeon RX 480": ("0xc4", "0xc7"),
    "AMD Radeon RX 570": ("0xc2", "0xc6", "0xef"),
    "AMD Radeon RX 580": ("0xc1", "0xc3", "0xe7"),
    "AMD Radeon RX 590": ("0xe1",),
}
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20}


@dataclass(frozen=True)
class KfdNode:
    """A GPU as KFD offers it. ``ordinal`` is its number for ROCR_VISIBLE_DEVICES, which counts GPU nodes only."""

    ordinal: int
    gpu_id: int
    pci_address: str
    architecture: str


def read(sysfs: str, procfs: str) -> Report:
    """All cards that amdgpu works, with the processes on them."""
    nodes = {node.pci_address: node for node in kfd_nodes(sysfs)}
    devices = tuple(sorted(_devices(sysfs, nodes), key=lambda device: device.pci_address))
    if not devices:
        return Report(source="amdgpu")
    vulkan, unseen = fdinfo_holdings(procfs)
    holdings = combine((*kfd_holdings(sysfs, nodes.values()), *vulkan))
    return Report(
        source="amdgpu",
        driver=read_text(Path(sysfs) / "module/amdgpu/version") or "",
        devices=devices,
        holdings=holdings,
        warnings=_blind_spots(devices, holdings, unseen),
    )


def architecture(gfx_target_version: int) -> str:
    """KFD's decimal major·10000 + minor·100 + step as LLVM's name: 110000 → gfx1100, 90010 → gfx90a."""
    major, rest = divmod(gfx_target_version, 10000)
    minor, step = divmod(rest, 100)
    return f"gfx{major}{minor:x}{step:x}"


def kfd_nodes(sysfs: str) -> list[KfdNode]:
    """The GPUs among KFD's nodes, in KFD's order; processors are nodes without a gpu_id."""
    nodes: list[KfdNode] = []
    entries = [entry for entry in listed(Path(sysfs) / "class/kfd/kfd/topology/nodes") if entry.name.isdecimal()]
    for entry in sorted(entries, key=lambda entry: int(entry.name)):
        gpu_id = read_int(entry / "gpu_id")
        if not gpu_id:
            continue
        lines = [line.split() for line in (read_text(entry / "properties") or "").splitlines()]
        values = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}
        nodes.append(
            KfdNode(
                ordinal=len(nodes),
                gpu_id=gpu_id,
                pci_address=_location(values.get("domain", 0), values.get("location_id", 0)),
                architecture=architecture(values.get("gfx_target_version", 0)),
            )
        )
    return nodes


def _location(domain: int, location_id: int) -> str:
    return f"{domain:04x}:{location_id >> 8 & 0xFF:02x}:{location_id >> 3 & 0x1F:02x}.{location_id & 0x7:x}"


def kfd_holdings(sysfs: str, nodes: t.Iterable[KfdNode]) -> tuple[Holding, ...]:
    """VRAM of ROCm programs: class/kfd/kfd/proc/<pid>/vram_<gpu_id>, in bytes."""
    nodes = tuple(nodes)
    return tuple(
        Holding(pid=int(entry.name), pci_address=node.pci_address, vram_mib=held // MIB, api="rocm")
        for entry in listed(Path(sysfs) / "class/kfd/kfd/proc")
        if entry.name.isdecimal()
        for node in nodes
        for held in (read_int(entry / f"vram_{node.gpu_id}"),)
        if held is not None and held >= MIB
    )


def fdinfo_holdings(procfs: str) -> tuple[tuple[Holding, ...], int]:
    """VRAM by open files of the graphics driver, which is all there is for Vulkan programs on AMD.

    Returns the holdings and the number of processes that could not be looked into.
    """
    held: dict[tuple[int, str], int] = {}
    clients: set[tuple[str, str]] = set()
    unseen = 0
    for entry in listed(Path(procfs)):
        if not entry.name.isdecimal():
            continue
        try:
            files = sorted((entry / "fdinfo").iterdir())
        except PermissionError:
            unseen += 1
            continue
        except OSError:
            continue
        for file in files:
            found = parse_fdinfo(read_text(file) or "")
            if found is None:
                continue
            address, client, amount = found
            # Files that were duplicated or passed on show the same client once more.
            if client and (address, client) in clients:
                continue
            clients.add((address, client))
            key = (int(entry.name), address)
            held[key] = held.get(key, 0) + amount
    return (
        tuple(
            Holding(pid=pid, pci_address=address, vram_mib=amount // MIB, api="vulkan")
            for (pid, address), amount in sorted(held.items())
            if amount >= MIB
        ),
        unseen,
    )


def parse_fdinfo(text: str) -> t.Optional[tuple[str, str, int]]:
    """(PCI address, client, bytes of VRAM) of an open file of amdgpu; None for any other file."""
    if "drm-driver:" not in text:
        return None
    pairs = (line.partition(":") for line in text.splitlines())
    values = {key: value.strip() for key, _sep, value in pairs}
    # Kernels from 6.13 on prefer the second name for the same figure.
    amount = values.get("drm-memory-vram") or values.get("drm-resident-vram") or ""
    match = re.match(r"(\d+)\s*(|KiB|MiB)$", amount)
    if values["drm-driver"] != "amdgpu" or "drm-pdev" not in values or match is None:
        return None
    return values["drm-pdev"].lower(), values.get("drm-client-id", ""), int(match[1]) * UNITS[match[2]]


def _devices(sysfs: str, nodes: t.Mapping[str, KfdNode]) -> t.Iterator[Device]:
    for entry in listed(Path(sysfs) / "class/drm"):
        device = entry / "device"
        total = read_int(device / "mem_info_vram_total")
        used = read_int(device / "mem_info_vram_used")
        vendor = PCI_VENDORS.get(read_text(device / "vendor") or "")
        if not re.match(r"card\d+$", entry.name) or vendor != AMD or total is None or used is None:
            continue
        address = _address(device)
        pci_device = (read_text(device / "device") or "").lower()
        node = nodes.get(address)
        yield Device(
            vendor=AMD,
            pci_address=address,
            pci_device=pci_device,
            uuid=_uuid(read_text(device / "unique_id") or ""),
            name=read_text(device / "product_name") or _name(pci_device, read_text(device / "revision") or ""),
            architecture=node.architecture if node else "",
            vram_mib=total // MIB,
            used_mib=-(-used // MIB),
            kfd_ordinal=node.ordinal if node else None,
        )


def _name(pci_device: str, revision: str) -> str:
    names = (name for name, revisions in POLARIS_NAMES.items() if pci_device == POLARIS and revision in revisions)
    return next(names, "")


def _address(device: Path) -> str:
    match = re.search(r"^PCI_SLOT_NAME=(\S+)$", read_text(device / "uevent") or "", re.M)
    return (match[1] if match else os.path.basename(os.path.realpath(device))).lower()


def _uuid(unique_id: str) -> str:
    """ROCm's name of a card: GPU- and 16 hexadecimal digits. Polaris and older cards have none."""
    try:
        number = int(unique_id, 16)
    except ValueError:
        return ""
    return f"GPU-{number:016x}" if number else ""


def _blind_spots(devices: t.Iterable[Device], holdings: t.Iterable[Holding], unseen: int) -> tuple[str, ...]:
    """Says so where VRAM is in use by nobody that may be seen: it may be our own and then counts twice."""
    if not unseen:
        return ()
    hidden = {device: device.used_mib for device in devices}
    for device in hidden:
        hidden[device] -= sum(held.vram_mib for held in holdings if held.pci_address == device.pci_address)
    return tuple(
        f"{amount} MiB on {device.uuid or device.pci_address} are held by nobody that this user may look at "
        f"({unseen} processes of other users are hidden), so they count as foreign; "
        "run with become to see who holds them"
        for device, amount in hidden.items()
        if amount > UNEXPLAINED_MIB
    )
