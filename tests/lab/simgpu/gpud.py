#!/usr/bin/python3 -I
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the kernel drivers: nodes and trees at boot, VRAM freed when a process dies, cards that come and go.

``gpud.py --once`` sets all up and ends; ``gpud.py`` then keeps it so.
"""

from __future__ import annotations

import contextlib
import grp
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import simgpu
import simtree

POLL_S = 0.2


def main() -> None:
    set_up()
    if "--once" in sys.argv[1:]:
        return
    last: object = None
    while True:
        time.sleep(POLL_S)
        described = os.stat(simgpu.etc("gpus.json")).st_mtime_ns
        state = (described, sorted(os.listdir(simgpu.shm("vram"))), simgpu.holdings())
        if state != last:
            refresh()
            last = state
        nodes(simgpu.load_gpus())


def set_up() -> None:
    """Root's folders, open to every user that may hold VRAM or read who does."""
    for path, mode in ((simgpu.shm(), 0o755), (simgpu.shm("vram"), 0o1777), (simgpu.shm("faults"), 0o1777)):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    with open(simgpu.shm("lock"), "a", encoding="ascii"):
        os.chmod(simgpu.shm("lock"), 0o644)
    refresh()
    nodes(simgpu.load_gpus())


def refresh() -> None:
    gpus = simgpu.load_gpus()
    with simgpu.locked():
        held = simgpu.holdings()
        alive = {str(holding.pid) for holding in held}
        for name in os.listdir(simgpu.shm("vram")):
            if name not in alive:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(simgpu.shm("vram", name))
        simtree.build(gpus)
        simtree.show_holdings(gpus, held)


def nodes(gpus: list[simgpu.Gpu]) -> None:
    """AMD's nodes come with the driver; NVIDIA's are made by nvidia-modprobe and only go with their card here."""
    wanted: dict[str, str] = {}
    for gpu in gpus:
        if gpu["vendor"] == "amd" and gpu["driver"] and simgpu.present(gpu) and simgpu.node_due(gpu):
            minor = simgpu.render_minor(gpu)
            wanted[simgpu.dev("dri", f"renderD{minor}")] = "render"
            wanted[simgpu.dev("dri", f"card{minor - 128}")] = "video"
            wanted[simgpu.dev("kfd")] = "render"
        elif gpu["vendor"] == "nvidia" and gpu["driver"] and not simgpu.present(gpu):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(simgpu.dev(f"nvidia{simgpu.nvidia_minor(gpu)}"))
    for path, group in wanted.items():
        if not os.path.exists(path):
            make_node(path, group, 0o660)
    folder = simgpu.dev("dri")
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if os.path.join(folder, name) not in wanted:
            os.unlink(os.path.join(folder, name))


def make_node(path: str, group: str, mode: int) -> None:
    """A plain file in the place of a device: rights are what programs look at, and it needs no driver."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(KeyError, PermissionError), open(path, "a", encoding="ascii"):
        os.chmod(path, mode)
        os.chown(path, 0, grp.getgrnam(group).gr_gid)


if __name__ == "__main__":
    main()
