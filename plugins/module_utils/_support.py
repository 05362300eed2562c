# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Which card is served by which runner of Ollama, and what it can do there: a table, and the questions put to it.

Sources, as of mid-2026:

- https://docs.ollama.com/gpu: NVIDIA compute capability 5.0 and up with driver 550 (below 7.0: 570); the AMD cards
  of ROCm; Vulkan for the others.
- https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/: CUDA 13 needs driver 580 and begins at 7.5; driver 580
  is the last one for 5.x, 6.x and 7.0.
- https://www.nvidia.com/en-us/drivers/unix/legacy-gpu/: 470 is the last driver for Kepler (3.x).
- Flash attention: Ollama's CUDA build has none below 6.0 and on 7.2, and without it llama.cpp refuses a quantised
  KV cache. On a Radeon RX 580 a q8_0 KV cache gave garbage under Vulkan, so Vulkan is trusted with f16 alone.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

CUDA_V13 = "cuda_v13"
CUDA_V12 = "cuda_v12"
ROCM = "rocm_v7_2"
VULKAN = "vulkan"
# By vendor, what a release of Ollama brings.
RUNNERS: t.Mapping[str, tuple[str, ...]] = {
    "nvidia": (CUDA_V13, CUDA_V12, VULKAN),
    "amd": (ROCM, VULKAN),
}

# (runner, lowest and highest compute capability, lowest major version of the driver), the preferred one first.
CUDA_RUNNERS = (
    (CUDA_V13, (7, 5), (99, 0), 580),
    (CUDA_V12, (7, 0), (12, 0), 550),
    (CUDA_V12, (5, 0), (6, 9), 570),
)
OLDEST_CUDA = (5, 0)
UNKNOWN = (0, 0)
# Below this compute capability driver 580 is the last one.
NEWEST_NEEDS = (7, 5)

ROCM_ARCHITECTURES = (
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
)
# Tonga, Fiji, Polaris: the first that llama.cpp's Vulkan shaders, which need 16-bit storage, were seen to run on.
OLDEST_VULKAN_GFX = 8

KV_TYPES = ("f16", "q8_0", "q4_0")


@dataclass(frozen=True)
class Support:
    """Runners in order of preference; without any, why and what to do about it."""

    backends: tuple[str, ...]
    reason: str = ""
    remedy: str = ""


def runners(vendor: str, architecture: str, driver_version: str) -> Support:
    """The runners that serve a card of this architecture (``sm_61``, ``gfx1100``) under this driver.

    ``driver_version`` (``570.133.20``) decides for NVIDIA only: amdgpu comes with the kernel.
    """
    if vendor == "nvidia" and _capability(architecture) != UNKNOWN:
        return _nvidia(architecture, driver_version)
    if vendor == "amd" and _gfx(architecture):
        return _amd(architecture)
    return Support(
        (),
        f"its architecture ({architecture or 'none reported'}) is not known",
        "update aivailable.sdai, or declare the card in sdai_gpus",
    )


def possible_runners(vendor: str, architecture: str) -> Support:
    """As ``runners``, under whatever driver serves most: for a card that nobody has yet."""
    if vendor == "nvidia" and _capability(architecture) >= OLDEST_CUDA:
        capability = _capability(architecture)
        return Support((*(row[0] for row in CUDA_RUNNERS if row[1] <= capability <= row[2]), VULKAN))
    return runners(vendor, architecture, "")


def driver_remedy(vendor: str, architecture: str) -> str:
    """What makes a driver answer for a card that none answers for."""
    if vendor == "amd":
        return "load the kernel module amdgpu with its firmware (package firmware-amd-graphics or linux-firmware)"
    capability = _capability(architecture)
    if capability == UNKNOWN:
        # A node has one driver: another one may cost it the cards that work.
        return (
            "look up what it is (lspci -nn) and install the NVIDIA driver that serves it, "
            "if that one serves the node's other cards too"
        )
    if capability < NEWEST_NEEDS:
        return "install NVIDIA driver 570 or 580: later ones do not serve this card"
    return "install NVIDIA driver 580 or later"


def flash_attention(architecture: str, family: str) -> bool:
    """Whether Ollama's runners of a family (cuda, rocm, vulkan) have flash attention on this architecture."""
    if family != "cuda":
        return True
    capability = _capability(architecture)
    return capability >= (6, 0) and capability != (7, 2)


def trusted_kv_types(family: str, architecture: str) -> tuple[str, ...]:
    """The KV cache types that give right answers on this architecture under this family."""
    if family == "vulkan" or not flash_attention(architecture, family):
        return KV_TYPES[:1]
    return KV_TYPES


def _nvidia(architecture: str, driver_version: str) -> Support:
    capability = _capability(architecture)
    shown = "{}.{}".format(*capability)
    if capability < OLDEST_CUDA:
        return Support(
            (),
            f"Ollama serves compute capability 5.0 and up, not {shown}",
            "replace the card; only old forks of Ollama run on it, with driver 470 at most",
        )
    major = driver_version.partition(".")[0]
    driver = int(major) if major.isdecimal() else 0
    fitting = [row for row in CUDA_RUNNERS if row[1] <= capability <= row[2]]
    served = tuple(row[0] for row in fitting if driver >= row[3])
    if served:
        return Support((*served, VULKAN))
    needed = min(row[3] for row in fitting)
    return Support(
        (),
        f"driver {driver_version or 'unknown'} is too old: compute capability {shown} needs {needed}",
        driver_remedy("nvidia", architecture),
    )


def _amd(architecture: str) -> Support:
    if architecture in ROCM_ARCHITECTURES:
        return Support((ROCM, VULKAN))
    if _gfx(architecture) < OLDEST_VULKAN_GFX:
        reason = f"{architecture} is older than what Ollama's Vulkan runner works on (gfx800)"
        return Support((), reason, "replace the card")
    return Support((VULKAN,))


def _capability(architecture: str) -> tuple[int, int]:
    """(6, 1) of sm_61, (12, 0) of sm_120; (0, 0) of anything else."""
    match = re.match(r"sm_(\d+)(\d)$", architecture)
    return (int(match[1]), int(match[2])) if match else UNKNOWN


def _gfx(architecture: str) -> int:
    """The major version, 11 of gfx1100, 9 of gfx90a; 0 of anything else."""
    match = re.match(r"gfx(\d+)[0-9a-f]{2}$", architecture)
    return int(match[1]) if match else 0
