# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated GPUs as the engine's libraries would show them to this process."""

from __future__ import annotations

import os
import sys
import typing as t

from .config import LIB, Config

sys.path.append(os.environ.get("SDAI_LAB_LIB", "/usr/local/lib/sdai-lab"))
try:
    import simgpu
except ImportError:  # a host without simulated GPUs, such as one that only holds the store
    simgpu = None  # type: ignore[assignment]  # a module, or none

_CUDA_RANGES = {"cuda_v12": (50, 120), "cuda_v13": (75, 999)}


class Card(t.NamedTuple):
    key: str
    name: str
    architecture: str
    vram_mib: int
    bandwidth_gbs: float
    api: str
    library: str

    @property
    def flash_attention(self) -> bool:
        """The CUDA build has none below compute capability 6.0 and on 7.2."""
        if self.api != "cuda":
            return True
        capability = int(self.architecture.removeprefix("sm_"))
        return capability >= 60 and capability != 72


def libraries(config: Config) -> list[str]:
    """Folders of the release, best first; the environment may name the only one."""
    found = [p.name for p in LIB.iterdir() if p.is_dir() and p.name.startswith(("cuda_v", "rocm_v", "vulkan"))]
    if config.library:
        found = [name for name in found if name == config.library]
    if not config.vulkan:
        found = [name for name in found if name != "vulkan"]
    return sorted(found, key=lambda name: ({"c": 0, "r": 1, "v": 2}[name[0]], [-ord(c) for c in name]))


def _served(library: str, architecture: str) -> bool:
    low, high = _CUDA_RANGES.get(library, (0, 0))
    return not high or low <= int(architecture.removeprefix("sm_")) <= high


def discover(config: Config) -> list[Card]:
    """Each card once, by the first library that shows it: so one that CUDA does not see comes back through Vulkan."""
    found: dict[str, Card] = {}
    if simgpu is None:
        return []
    for library in libraries(config):
        api = library.split("_")[0]
        cards = simgpu.devices(api)
        for index in simgpu.visible(api, config.environ):
            gpu = cards[index]
            if gpu["key"] not in found and _served(library, gpu["architecture"]):
                found[gpu["key"]] = Card(
                    gpu["key"], gpu["name"], gpu["architecture"], gpu["vram_mib"], gpu["bandwidth_gbs"], api, library
                )
    return list(found.values())


def free_mib(key: str) -> int:
    return int(simgpu.free_mib(key))


def present(key: str) -> bool:
    return bool(simgpu.present(simgpu.find(key)))


def allocate(key: str, mib: int, api: str) -> bool:
    """For this process; false when it does not fit."""
    try:
        simgpu.allocate(key, mib, api)
    except simgpu.OutOfMemory:
        return False
    return True
