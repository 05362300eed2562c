# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""NVIDIA cards by the driver's own tool, for hosts where nothing was installed beside the driver."""

from __future__ import annotations

import csv
import shutil
import subprocess
import typing as t
from xml.etree import ElementTree

from .model import NVIDIA, Device, Holding, Report, pci_address

TIMEOUT_S = 20
FIELDS = ("pci.bus_id", "pci.device_id", "uuid", "name", "memory.total", "memory.free", "driver_version")
# Unknown to drivers before 510: those are too old to serve anything, but their cards must be listed.
CAPABILITY = "compute_cap"


class ToolError(Exception):
    """nvidia-smi failed; the text is what it said."""


def available() -> bool:
    return shutil.which("nvidia-smi") is not None


def read(timeout: float = TIMEOUT_S) -> Report:
    """All cards that the driver works, with the processes on them. Never raises: a refusal is in ``error``."""
    try:
        try:
            rows = _query((*FIELDS, CAPABILITY), timeout)
        except ToolError as error:
            if CAPABILITY not in str(error):
                raise
            rows = _query(FIELDS, timeout)
        devices = tuple(_device(row) for row in rows)
    except (ToolError, ValueError) as error:
        return Report(source="nvidia-smi", error=str(error))
    driver = rows[0]["driver_version"] if rows else ""
    try:
        holdings = parse_processes(_run(["-q", "-x"], timeout))
    except (ToolError, ElementTree.ParseError, ValueError) as error:
        warning = f"nvidia-smi does not list the processes ({error}): all VRAM in use counts as foreign"
        return Report(source="nvidia-smi", driver=driver, devices=devices, warnings=(warning,))
    return Report(source="nvidia-smi", driver=driver, devices=devices, holdings=holdings)


def parse_processes(document: str) -> tuple[Holding, ...]:
    """Who holds VRAM, from ``nvidia-smi -q -x``: --query-compute-apps would not tell the Vulkan programs."""
    holdings = []
    for gpu in ElementTree.fromstring(document).iter("gpu"):
        address = pci_address(gpu.attrib["id"])
        for process in gpu.iter("process_info"):
            amount, _sep, unit = (process.findtext("used_memory") or "").partition(" ")
            if unit != "MiB":
                continue
            api = "cuda" if "C" in (process.findtext("type") or "") else "vulkan"
            pid = int(process.findtext("pid") or "")
            holdings.append(Holding(pid=pid, pci_address=address, vram_mib=int(amount), api=api))
    return tuple(holdings)


def _query(fields: tuple[str, ...], timeout: float) -> list[dict[str, str]]:
    output = _run(["--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits"], timeout)
    rows = [[cell.strip() for cell in row] for row in csv.reader(output.splitlines())]
    if any(len(row) != len(fields) for row in rows):
        raise ToolError(f"nvidia-smi answered something else than {len(fields)} columns: {output[:200]}")
    return [dict(zip(fields, row)) for row in rows]


def _device(row: dict[str, str]) -> Device:
    identity: dict[str, t.Any] = {
        "vendor": NVIDIA,
        "pci_address": pci_address(row["pci.bus_id"]),
        # 0x1B0610DE: device, then vendor.
        "pci_device": row["pci.device_id"][:6].lower(),
        "uuid": row["uuid"],
        "name": row["name"],
    }
    if not (row["memory.total"].isdecimal() and row["memory.free"].isdecimal()):
        return Device(**identity, error=row["memory.total"].strip("[]"))
    total = int(row["memory.total"])
    capability = row.get(CAPABILITY, "")
    return Device(
        **identity,
        architecture="sm_" + capability.replace(".", "") if capability else "",
        vram_mib=total,
        # memory.used leaves out what the driver reserves, which nobody can have.
        used_mib=total - int(row["memory.free"]),
    )


def _run(arguments: list[str], timeout: float) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"nvidia-smi did not answer within {timeout:g} s") from None
    except OSError as error:
        raise ToolError(f"nvidia-smi cannot be run: {error}") from error
    if done.returncode:
        raise ToolError(" ".join(done.stdout.split())[:300] or f"nvidia-smi ended with {done.returncode}")
    return done.stdout
