# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""NVIDIA cards by NVML, through the optional package nvidia-ml-py (module ``pynvml``).

https://docs.nvidia.com/deploy/nvml-api/. The binding loads ``libnvidia-ml.so.1``, a name that cannot be changed.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import typing as t
from pathlib import Path

from .model import MIB, NVIDIA, Device, Holding, Report, pci_address


def load(venv: str) -> t.Any:
    """The module ``pynvml``, from the interpreter's own path or from the virtual environment; None without it.

    The binding is pure Python over ctypes, so one installed for another Python version serves as well.
    """
    for path in (None, *sorted(Path(venv).glob("lib/python3*/site-packages"))):
        if path is not None:
            sys.path.append(str(path))
        try:
            return importlib.import_module("pynvml")
        except ImportError:
            continue
        finally:
            if path is not None:
                sys.path.remove(str(path))
    return None


def read(nvml: t.Any) -> Report:
    """All cards that the driver works, with the processes on them. Never raises: a refusal is in ``error``."""
    refusals = _refusals(nvml)
    try:
        nvml.nvmlInit()
    except refusals as error:
        return Report(source="nvml", error=str(error))
    try:
        return _read(nvml, refusals)
    except refusals as error:
        return Report(source="nvml", error=str(error))
    finally:
        with contextlib.suppress(*refusals):
            nvml.nvmlShutdown()


def _refusals(nvml: t.Any) -> tuple[type[Exception], ...]:
    # A function that the library lacks is reported by a class outside of NVMLError's family.
    return (nvml.NVMLError, nvml.NVMLLibraryMismatchError)


def _read(nvml: t.Any, refusals: tuple[type[Exception], ...]) -> Report:
    devices = []
    holdings: list[Holding] = []
    warnings = []
    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            identity = _identity(nvml, handle)
        except refusals as error:
            warnings.append(f"NVML cannot open its GPU {number}: {error}")
            continue
        try:
            devices.append(_measured(nvml, handle, identity, refusals))
        except refusals as error:
            devices.append(Device(**identity, error=str(error)))
            continue
        try:
            held = _holdings(nvml, handle, identity["pci_address"])
        except refusals as error:
            warnings.append(f"NVML does not list the processes on {identity['uuid']}: {error}")
            continue
        holdings += [holding for holding in held if holding.vram_mib]
        if any(not holding.vram_mib for holding in held):
            warnings.append(
                f"NVML does not tell how much VRAM some processes hold on {identity['uuid']}: it counts as foreign"
            )
    return Report(
        source="nvml",
        driver=nvml.nvmlSystemGetDriverVersion(),
        devices=tuple(devices),
        holdings=tuple(holdings),
        warnings=tuple(warnings),
    )


def _identity(nvml: t.Any, handle: t.Any) -> dict[str, t.Any]:
    place = nvml.nvmlDeviceGetPciInfo(handle)
    bus_id = place.busId
    return {
        "vendor": NVIDIA,
        "pci_address": pci_address(bus_id.decode() if isinstance(bus_id, bytes) else bus_id),
        # The upper half is the device, the lower half the vendor.
        "pci_device": f"0x{place.pciDeviceId >> 16:04x}",
        "uuid": nvml.nvmlDeviceGetUUID(handle),
        "name": nvml.nvmlDeviceGetName(handle),
    }


def _measured(nvml: t.Any, handle: t.Any, identity: dict[str, t.Any], refusals: tuple[type[Exception], ...]) -> Device:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    # Version 1 of the call counts what driver and firmware reserve as used, which nobody can have.
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Device(
        **identity,
        architecture=f"sm_{major}{minor}",
        vram_mib=memory.total // MIB,
        used_mib=-(-memory.used // MIB),
        bandwidth_gbs=_bandwidth_gbs(nvml, handle, refusals),
    )


def _bandwidth_gbs(nvml: t.Any, handle: t.Any, refusals: tuple[type[Exception], ...]) -> int:
    """The memory's peak: two transfers in each cycle of the clock that NVML reports; 0 where it tells none.

    Within 3 % of the data sheets from GDDR5 to HBM3e: 347 on a Tesla P40 (3615 MHz, 384 bits), 4916 on an H200
    (3201 MHz, 6144 bits; its data sheet says 4800).
    """
    try:
        clock_mhz = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        bits: int = nvml.nvmlDeviceGetMemoryBusWidth(handle)
    except refusals:
        # Drivers before 510 do not know the bus.
        return 0
    return int(2 * clock_mhz * bits // 8 // 1000)


def _holdings(nvml: t.Any, handle: t.Any, address: str) -> list[Holding]:
    """CUDA programs are compute processes, Vulkan programs graphics processes."""
    return [
        Holding(pid=process.pid, pci_address=address, vram_mib=(process.usedGpuMemory or 0) // MIB, api=api)
        for api, processes in (
            ("cuda", nvml.nvmlDeviceGetComputeRunningProcesses(handle)),
            ("vulkan", nvml.nvmlDeviceGetGraphicsRunningProcesses(handle)),
        )
        for process in processes
    ]
