# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated GPUs: which cards a host has, who may see them, and who holds how much of their VRAM.

The cards stand in /etc/sdai-lab/gpus.json, which survives a reboot. Who holds VRAM stands in a ledger below /dev/shm,
which does not: one text file per process, lines ``<start time> <card> <MiB> <api>``. An entry counts only while the
process with that start time lives, as a driver frees what a dead process held.

The programs that play the engines import this file; the fake libnvidia-ml reads the same ledger; simtree.py shows it
as sysfs and procfs. Only the standard library, and little of it: the commands are started often.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import typing as t

CUDA, ROCM, VULKAN = APIS = ("cuda", "rocm", "vulkan")
ROCM_ARCHITECTURES = frozenset(
    [
        "gfx908",
        "gfx90a",
        "gfx942",
        "gfx950",
        "gfx1030",
        "gfx1100",
        "gfx1101",
        "gfx1102",
        "gfx1150",
        "gfx1151",
        "gfx1200",
        "gfx1201",
    ]
)
LATE_S = 15.0
"""How long after boot the nodes of a card with the fault ``late-node`` appear."""

Gpu = dict[str, t.Any]


class SimulationError(Exception):
    """The simulated GPUs of this host are not set up, or a card was named that it does not have."""


class OutOfMemory(Exception):
    """The card has less free VRAM than was asked for."""


class Holding(t.NamedTuple):
    """What one living process holds on one card by one API."""

    pid: int
    key: str
    mib: int
    api: str


def etc(*names: str) -> str:
    return os.path.join(os.environ.get("SDAI_LAB_ETC", "/etc/sdai-lab"), *names)


def shm(*names: str) -> str:
    return os.path.join(os.environ.get("SDAI_LAB_SHM", "/dev/shm/sdai-lab"), *names)


def dev(*names: str) -> str:
    return os.path.join(os.environ.get("SDAI_LAB_DEV", "/dev"), *names)


# Cards


def load_document() -> dict[str, t.Any]:
    try:
        with open(etc("gpus.json"), encoding="utf-8") as file:
            document: dict[str, t.Any] = json.load(file)
    except FileNotFoundError:
        return {"drivers": {}, "gpus": []}
    return document


def load_gpus() -> list[Gpu]:
    """All cards in PCI order, the vanished too, each with its ``key`` (UUID, else PCI address) and ``faults``."""
    return [
        {"faults": [], **gpu, "key": gpu.get("uuid") or gpu["pci_address"]} for gpu in load_document().get("gpus", [])
    ]


def find(key: str) -> Gpu:
    for gpu in load_gpus():
        if key in (gpu["key"], gpu["pci_address"]):
            return gpu
    raise SimulationError(f"this host has no GPU {key}")


def present(gpu: Gpu) -> bool:
    return "vanished" not in gpu["faults"]


def boot_age_s() -> float:
    """Seconds since the host's first process started; /proc/uptime alone would be that of the container's host."""
    with open("/proc/uptime", encoding="ascii") as file:
        up = float(file.read().split()[0])
    started = start_time(1)
    return up - (started or 0) / os.sysconf("SC_CLK_TCK")


def node_due(gpu: Gpu) -> bool:
    """Whether the driver offers the card's device node by now."""
    return "late-node" not in gpu["faults"] or boot_age_s() >= LATE_S


def nvidia_minor(gpu: Gpu) -> int:
    """Number of /dev/nvidia<n>: the place among the cards that the driver serves, vanished ones included."""
    cards = [other["pci_address"] for other in load_gpus() if other["vendor"] == "nvidia" and other["driver"]]
    return cards.index(gpu["pci_address"])


def render_minor(gpu: Gpu) -> int:
    """Number of /dev/dri/renderD<n>."""
    cards = [other["pci_address"] for other in load_gpus() if other["vendor"] == "amd" and other["driver"]]
    return 128 + cards.index(gpu["pci_address"])


def devices(api: str) -> list[Gpu]:
    """The cards that a program of this process's rights finds by an API, in that API's numbering, selectors aside.

    What cannot be opened is not counted, so the numbers of the others move, as with the real libraries.
    """
    return [gpu for gpu in load_gpus() if gpu["driver"] and present(gpu) and _reaches(api, gpu)]


def _reaches(api: str, gpu: Gpu) -> bool:
    if gpu["vendor"] == "nvidia":
        if api == ROCM or "driver-not-loaded" in gpu["faults"]:
            return False
        nodes = [dev(f"nvidia{nvidia_minor(gpu)}"), *([dev("nvidia-uvm")] if api == CUDA else [])]
    else:
        if api == CUDA or (api == ROCM and gpu["architecture"] not in ROCM_ARCHITECTURES):
            return False
        nodes = [dev("dri", f"renderD{render_minor(gpu)}"), *([dev("kfd")] if api == ROCM else [])]
    return all(os.access(node, os.R_OK | os.W_OK) for node in nodes)


# Selectors


def visible(api: str, environ: t.Mapping[str, str]) -> list[int]:
    """What the selectors of an environment leave of ``devices(api)``: numbers in that list, in the selectors' order."""
    cards = devices(api)
    everything = list(range(len(cards)))
    if api == CUDA:
        return _select(everything, cards, environ.get("CUDA_VISIBLE_DEVICES"))
    if api == VULKAN:
        return _select(everything, None, environ.get("GGML_VK_VISIBLE_DEVICES"))
    # The runtime below filters first; HIP counts within what is left, and takes CUDA's variable where its own is unset.
    left = _select(everything, cards, environ.get("ROCR_VISIBLE_DEVICES"))
    chosen = environ.get("HIP_VISIBLE_DEVICES", environ.get("CUDA_VISIBLE_DEVICES"))
    return _select(left, cards, chosen)


def _select(numbers: list[int], cards: list[Gpu] | None, selector: str | None) -> list[int]:
    """A list of places and UUIDs (or their beginnings) ends at its first entry that names nothing."""
    if selector is None:
        return numbers
    chosen: list[int] = []
    for part in (part.strip() for part in selector.split(",")):
        if part.isdecimal():
            found = numbers[int(part) : int(part) + 1]
        elif part.startswith("GPU-") and cards is not None:
            found = [n for n in numbers if (cards[n]["uuid"] or "").lower().startswith(part.lower())]
        else:
            found = []
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


# Ledger


def start_time(pid: int) -> int | None:
    """Clock ticks between the machine's boot and the process's start; None when it is dead or a zombie.

    0 for a process that lives but may not be looked at (ProtectProc=invisible).
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return 0
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def holdings() -> list[Holding]:
    """What living processes hold."""
    found: list[Holding] = []
    try:
        names = os.listdir(shm("vram"))
    except FileNotFoundError:
        return []
    for name in sorted(name for name in names if name.isdecimal()):
        pid = int(name)
        started = start_time(pid)
        if started is None:
            continue
        try:
            with open(shm("vram", name), encoding="ascii") as file:
                lines = [line.split() for line in file.read().splitlines()]
        except FileNotFoundError:
            continue
        found += [Holding(pid, key, int(mib), api) for begun, key, mib, api in lines if started in (0, int(begun))]
    return found


def free_mib(key: str) -> int:
    gpu = find(key)
    used = sum(holding.mib for holding in holdings() if holding.key == gpu["key"])
    return int(gpu["vram_mib"]) - used if present(gpu) else 0


def allocate(key: str, mib: int, api: str) -> None:
    """Takes VRAM for this process; further calls add to it. Raises OutOfMemory when it does not fit."""
    if api not in APIS:
        raise ValueError(api)
    gpu = find(key)
    with locked():
        free = free_mib(key)
        if mib > free:
            raise OutOfMemory("{} MiB asked for, {} MiB free on {}".format(mib, free, gpu["key"]))
        mine = {(h.key, h.api): h.mib for h in holdings() if h.pid == os.getpid()}
        mine[gpu["key"], api] = mine.get((gpu["key"], api), 0) + mib
        started = start_time(os.getpid())
        lines = [f"{started} {held_on} {held} {by}\n" for (held_on, by), held in mine.items()]
        write(shm("vram", str(os.getpid())), "".join(lines))
        _show()


def release() -> None:
    """Gives back all that this process holds."""
    with locked():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(shm("vram", str(os.getpid())))
        _show()


def _show() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    if here not in sys.path:
        sys.path.append(here)
    import simtree

    simtree.show_holdings(load_gpus(), holdings())


@contextlib.contextmanager
def locked() -> t.Iterator[None]:
    """One change of the ledger at a time. The file is root's and only read, so any user may lock it."""
    try:
        fd = os.open(shm("lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SimulationError("no simulated GPUs: sdai-lab-gpud.service has not set them up") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    """Replaces a file at once, readable by everybody whatever the umask."""
    scratch = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}")
    with open(scratch, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    os.rename(scratch, path)


def set_fault(key: str, name: str, on: bool) -> None:
    """Switches a fault of a card; it stays over a reboot."""
    address = find(key)["pci_address"]
    document = load_document()
    for gpu in document["gpus"]:
        if gpu["pci_address"] == address:
            faults = set(gpu.get("faults", [])) - {name}
            gpu["faults"] = sorted(faults | ({name} if on else set()))
    write(etc("gpus.json"), json.dumps(document, indent=1) + "\n")
