# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated GPUs as the kernel would show them: trees laid out like /sys and /proc.

Formats: https://docs.kernel.org/gpu/amdgpu/driver-misc.html, https://docs.kernel.org/gpu/drm-usage-stats.html,
drivers/gpu/drm/amd/amdkfd/kfd_topology.c, and the text files of NVIDIA's kernel module.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import typing as t
import zlib

import simgpu
from simgpu import Gpu, Holding

MIB = 1 << 20
VENDORS = {"nvidia": 0x10DE, "amd": 0x1002}
BUS = "devices/pci0000:00"
KFD = "devices/virtual/kfd/kfd"
LINK = "-> "
LIVE = "(kept up to date by show_holdings)"
PROCESS_FILES = ("cgroup", "stat", "comm", "cmdline", "status", "environ")
HOST_FILES = ("cpuinfo", "meminfo", "stat", "uptime", "version", "sys")

Files = dict[str, str]


def build(gpus: list[Gpu]) -> None:
    """Brings both trees to what the cards demand. Needs root."""
    reconcile(simgpu.shm("sys"), sys_files(gpus), keep=(KFD + "/proc",))
    reconcile(simgpu.shm("proc"), proc_files(gpus, simgpu.load_document().get("drivers", {})), keep=())
    # Any process that holds VRAM writes here, whoever runs it; renames keep readers from seeing half a file.
    os.makedirs(simgpu.shm("sys", KFD, "proc"), exist_ok=True)
    for path in (KFD + "/proc", *(_device(gpu) for gpu in gpus if simgpu.present(gpu))):
        os.chmod(simgpu.shm("sys", path), 0o777)
    os.chmod(simgpu.shm("proc"), 0o777)


# What does not change while the cards stay


def sys_files(gpus: list[Gpu]) -> Files:
    """Path below /sys to contents; a text that begins with LINK is a symbolic link."""
    files: Files = {"fs": LINK + "/sys/fs", "class/drm/version": "drm 1.1.0 20060810\n"}
    # The console of a server's management controller: a display adapter that is no GPU.
    files.update(_pci("0000:00:0f.0", (0x1A03, 0x2000), "0x030000", "ast"))
    files.update(_kfd_node(0, "0", "", _cpu_properties()))
    for gpu in filter(simgpu.present, gpus):
        driver = {"nvidia": "nvidia", "amd": "amdgpu"}[gpu["vendor"]] if gpu["driver"] else ""
        vendor = VENDORS[gpu["vendor"]]
        address = gpu["pci_address"]
        kind, revision = gpu.get("pci_class", "0x030000"), gpu.get("pci_revision", "0xa1")
        files.update(_pci(address, (vendor, int(gpu["pci_device"], 16)), kind, driver, revision))
        if kind == "0x030000":
            files.update(_pci(address[:-1] + "1", (vendor, 0x10EF), "0x040300", "snd_hda_intel"))
        if driver:
            files[f"module/{driver}/initstate"] = "live\n"
        if driver == "nvidia":
            files["module/nvidia/version"] = simgpu.load_document()["drivers"]["nvidia"] + "\n"
        if driver == "amdgpu":
            files.update(_amdgpu(gpu))
            files.update(_kfd_node(*_kfd_gpu(gpu)))
    if any(path.startswith("module/amdgpu") for path in files):
        files["class/kfd/kfd"] = LINK + "../../" + KFD
    else:
        files = {path: text for path, text in files.items() if not path.startswith(KFD)}
    return files


def _pci(address: str, ids: tuple[int, int], kind: str, driver: str, revision: str = "0xa1") -> Files:
    vendor, device = ids
    here = f"{BUS}/{address}"
    uevent = f"DRIVER={driver}\n" if driver else ""
    uevent += f"PCI_CLASS={int(kind, 16):X}\nPCI_ID={vendor:04X}:{device:04X}\nPCI_SLOT_NAME={address}\n"
    files = {
        here + "/vendor": f"0x{vendor:04x}\n",
        here + "/device": f"0x{device:04x}\n",
        here + "/subsystem_vendor": f"0x{vendor:04x}\n",
        here + "/subsystem_device": f"0x{device:04x}\n",
        here + "/class": kind + "\n",
        here + "/revision": revision + "\n",
        here + "/numa_node": "-1\n",
        here + "/uevent": uevent,
        here + "/subsystem": LINK + "../../../bus/pci",
        "bus/pci/devices/" + address: LINK + "../../../" + here,
    }
    if driver:
        files[here + "/driver"] = LINK + "../../../bus/pci/drivers/" + driver
        files[f"bus/pci/drivers/{driver}/{address}"] = LINK + "../../../../" + here
    return files


def _amdgpu(gpu: Gpu) -> Files:
    here = _device(gpu)
    minor = simgpu.render_minor(gpu)
    card, render = f"card{minor - 128}", f"renderD{minor}"
    files = {
        here + "/mem_info_vram_total": f"{gpu['vram_mib'] * MIB}\n",
        here + "/mem_info_vis_vram_total": f"{gpu['vram_mib'] * MIB}\n",
        here + "/mem_info_gtt_total": f"{16384 * MIB}\n",
        here + "/mem_info_vram_used": LIVE,
        here + "/gpu_busy_percent": "0\n",
        here + f"/drm/{card}/device": LINK + "../../../" + gpu["pci_address"],
        here + f"/drm/{card}/dev": f"226:{minor - 128}\n",
        here + f"/drm/{card}/{card}-DP-1/device": LINK + "../../" + card,
        here + f"/drm/{card}/{card}-DP-1/status": "disconnected\n",
        here + f"/drm/{render}/device": LINK + "../../../" + gpu["pci_address"],
        here + f"/drm/{render}/dev": f"226:{minor}\n",
        "class/drm/" + card: LINK + f"../../{here}/drm/{card}",
        f"class/drm/{card}-DP-1": LINK + f"../../{here}/drm/{card}/{card}-DP-1",
        "class/drm/" + render: LINK + f"../../{here}/drm/{render}",
    }
    # Polaris and older cards have no such file.
    if gpu["uuid"]:
        files[here + "/unique_id"] = f"{_unique_id(gpu):016x}\n"
    return files


def _device(gpu: Gpu) -> str:
    return "{}/{}".format(BUS, gpu["pci_address"])


def _unique_id(gpu: Gpu) -> int:
    return int((gpu["uuid"] or "GPU-0").removeprefix("GPU-"), 16)


def kfd_id(gpu: Gpu) -> int:
    """KFD's own 16-bit name of a card, a hash of what it is and where."""
    return zlib.crc32(gpu["pci_address"].encode()) & 0xFFFF or 1


def gfx_target_version(architecture: str) -> int:
    """gfx1100 → 110000, gfx90a → 90010, gfx803 → 80003."""
    digits = architecture.removeprefix("gfx")
    return int(digits[:-2]) * 10000 + int(digits[-2], 16) * 100 + int(digits[-1], 16)


def _kfd_node(number: int, gpu_id: str, name: str, properties: dict[str, int]) -> Files:
    here = f"{KFD}/topology/nodes/{number}"
    return {
        here + "/gpu_id": gpu_id + "\n",
        here + "/name": name + "\n",
        here + "/properties": "".join("{} {}\n".format(*item) for item in properties.items()),
    }


def _kfd_gpu(gpu: Gpu) -> tuple[int, str, str, dict[str, int]]:
    domain, bus, rest = gpu["pci_address"].split(":")
    slot, function = rest.split(".")
    minor = simgpu.render_minor(gpu)
    modern = gpu["architecture"].startswith("gfx1")
    properties = {
        "cpu_cores_count": 0,
        "simd_count": 192 if modern else 144,
        "mem_banks_count": 1,
        "wave_front_size": 32 if modern else 64,
        "gfx_target_version": gfx_target_version(gpu["architecture"]),
        "vendor_id": VENDORS["amd"],
        "device_id": int(gpu["pci_device"], 16),
        "location_id": int(bus, 16) << 8 | int(slot, 16) << 3 | int(function),
        "domain": int(domain, 16),
        "drm_render_minor": minor,
        "unique_id": _unique_id(gpu),
        "num_xcc": 1,
        "local_mem_size": 0,
    }
    return minor - 127, str(kfd_id(gpu)), "ip discovery" if modern else "polaris10", properties


def _cpu_properties() -> dict[str, int]:
    return {
        "cpu_cores_count": 16,
        "simd_count": 0,
        "mem_banks_count": 1,
        "gfx_target_version": 0,
        "vendor_id": 0,
        "device_id": 0,
        "location_id": 0,
        "domain": 0,
        "drm_render_minor": 0,
        "unique_id": 0,
    }


def proc_files(gpus: list[Gpu], drivers: dict[str, t.Any]) -> Files:
    files: Files = {name: LINK + "/proc/" + name for name in HOST_FILES}
    served = [gpu for gpu in gpus if gpu["vendor"] == "nvidia" and gpu["driver"] and simgpu.present(gpu)]
    if not served or any("driver-not-loaded" in gpu["faults"] for gpu in served):
        return files
    files["driver/nvidia/version"] = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Sun Mar 23 02:48:10 UTC 2025\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n".format(drivers["nvidia"])
    )
    for gpu in served:
        files["driver/nvidia/gpus/{}/information".format(gpu["pci_address"])] = (
            "Model: \t\t {}\nIRQ:   \t\t 16\nGPU UUID: \t {}\nVideo BIOS: \t 86.02.39.00.01\nBus Type: \t PCIe\n"
            "DMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\nBus Location: \t {}\nDevice Minor: \t {}\n"
            "GPU Excluded:\t No\n".format(gpu["name"], gpu["uuid"], gpu["pci_address"], simgpu.nvidia_minor(gpu))
        )
    return files


def reconcile(root: str, files: Files, keep: tuple[str, ...]) -> None:
    """Makes the tree at root hold exactly these files, and what is below the paths of keep and numbered processes."""
    for path, text in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if text.startswith(LINK):
            if not os.path.islink(full) or os.readlink(full) != text[len(LINK) :]:
                _remove(full)
                os.symlink(text[len(LINK) :], full)
        elif text == LIVE:
            if not os.path.exists(full):
                simgpu.write(full, "0\n")
        elif _read(full) != text:
            simgpu.write(full, text)
    for base, folders, names in os.walk(root):
        inside = os.path.relpath(base, root)
        for name in [*names, *folders]:
            path = os.path.normpath(os.path.join(inside, name))
            known = path in files or path in keep or any(file.startswith(path + "/") for file in (*files, *keep))
            if not known and not path.isdecimal():
                _remove(os.path.join(base, name))
        below = {name: os.path.normpath(os.path.join(inside, name)) for name in folders}
        folders[:] = [name for name, path in below.items() if path not in keep and not path.isdecimal()]


# What changes with the processes


def show_holdings(gpus: list[Gpu], holdings: list[Holding]) -> None:
    """Brings the figures of VRAM in use, and who uses it, to the ledger. Called under its lock, by any user."""
    cards = [gpu for gpu in gpus if gpu["vendor"] == "amd" and gpu["driver"] and simgpu.present(gpu)]
    pids = {holding.pid for holding in holdings}
    for gpu in cards:
        used = sum(holding.mib for holding in holdings if holding.key == gpu["key"])
        _replace(simgpu.shm("sys", _device(gpu), "mem_info_vram_used"), f"{used * MIB}\n")
    kfd: dict[int, Files] = {holding.pid: {} for holding in holdings if holding.api == simgpu.ROCM}
    for pid, files in kfd.items():
        for gpu in cards:
            held = sum(h.mib for h in holdings if (h.pid, h.key, h.api) == (pid, gpu["key"], simgpu.ROCM))
            files[f"vram_{kfd_id(gpu)}"] = f"{held * MIB}\n"
            files[f"sdma_{kfd_id(gpu)}"] = "0\n"
    _show_processes(simgpu.shm("sys", KFD, "proc"), kfd)
    fdinfo: dict[int, Files] = {pid: {} for pid in pids}
    for number, gpu in enumerate(cards):
        for pid in pids:
            held = sum(h.mib for h in holdings if (h.pid, h.key, h.api) == (pid, gpu["key"], simgpu.VULKAN))
            # Libraries duplicate the file: two descriptors of one client, whose VRAM counts once.
            files = {str(8 + 2 * number + copy): _fdinfo(gpu, pid, held) for copy in (0, 1)} if held else {}
            fdinfo[pid].update(files)
    _show_processes(simgpu.shm("proc"), {pid: _process(pid, files) for pid, files in fdinfo.items()})


def _process(pid: int, fdinfo: Files) -> Files:
    links = {name: LINK + f"/proc/{pid}/{name}" for name in PROCESS_FILES}
    nothing = {"fdinfo/0": "pos:\t0\nflags:\t0100000\nmnt_id:\t14\nino:\t4\n"}
    return {**links, **nothing, **{"fdinfo/" + name: text for name, text in fdinfo.items()}}


def _fdinfo(gpu: Gpu, pid: int, mib: int) -> str:
    return (
        "pos:\t0\nflags:\t02100002\nmnt_id:\t25\nino:\t{}\ndrm-driver:\tamdgpu\ndrm-client-id:\t{}\ndrm-pdev:\t{}\n"
        "pasid:\t32770\ndrm-total-vram:\t{} KiB\ndrm-shared-vram:\t0\ndrm-memory-vram:\t{} KiB\n"
        "drm-memory-gtt:\t2048 KiB\ndrm-memory-cpu:\t0 KiB\ndrm-engine-compute:\t0 ns\n".format(
            simgpu.render_minor(gpu) + 300, pid * 2 + simgpu.render_minor(gpu), gpu["pci_address"], mib << 10, mib << 10
        )
    )


def _show_processes(root: str, processes: dict[int, Files]) -> None:
    """One folder for each process, removed with it by whoever comes next."""
    if not os.path.isdir(root):
        return
    for name in os.listdir(root):
        if name.isdecimal() and int(name) not in processes:
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
    for pid, files in processes.items():
        here = os.path.join(root, str(pid))
        for folder in {os.path.dirname(os.path.join(here, path)) for path in files}:
            for made in (here, folder):
                if not os.path.isdir(made):
                    os.mkdir(made)
                    os.chmod(made, 0o777)
        reconcile_process(here, files)


def reconcile_process(here: str, files: Files) -> None:
    for path, text in files.items():
        full = os.path.join(here, path)
        if not text.startswith(LINK):
            _replace(full, text)
        elif not os.path.islink(full):
            os.symlink(text[len(LINK) :], full)
    stale = set(os.listdir(os.path.join(here, "fdinfo"))) if os.path.isdir(os.path.join(here, "fdinfo")) else set()
    for name in stale - {os.path.basename(path) for path in files if path.startswith("fdinfo/")}:
        _remove(os.path.join(here, "fdinfo", name))


def _replace(path: str, text: str) -> None:
    if os.path.isdir(os.path.dirname(path)) and _read(path) != text:
        simgpu.write(path, text)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
