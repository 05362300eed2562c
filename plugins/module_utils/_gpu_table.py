# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# This module is private to the collection: it may change
# without notice between releases.
"""What is known about GPU cards, as data: memory bandwidth decides how fast a card generates.

Sources: bandwidth and memory from the vendors' specification pages and data sheets of each card; device ids from the
PCI ID database; efficiencies fitted to tests/data/tokens_per_second.csv (see EFFICIENCY).
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One model of card, or one die of a dual card.

    architecture: CUDA's sm_XX or AMD's gfxXXXX. vram_mib: nominal; 0 where it shares the host's memory.
    bandwidth_gbs: 10⁹ bytes per second. pci_devices: four hexadecimal digits each; several cards may share one.
    """

    vendor: str
    name: str
    architecture: str
    vram_mib: int
    bandwidth_gbs: float
    pci_devices: tuple[str, ...]


def _cards(vendor: str, rows: str) -> t.Iterator[Card]:
    """Parse the table below: name | architecture | GiB | GB/s | PCI device ids."""
    for row in rows.strip().splitlines():
        name, architecture, gib, bandwidth, devices = (cell.strip() for cell in row.split("|"))
        yield Card(vendor, name, architecture, int(gib) * 1024, float(bandwidth), tuple(devices.split()))


_NVIDIA = """
GeForce GTX 680            | sm_30  |  2 |  192   | 1180
Tesla K80                  | sm_37  | 12 |  240   | 102d
GeForce GTX 970            | sm_52  |  4 |  224   | 13c2
GeForce GTX 980            | sm_52  |  4 |  224   | 13c0
GeForce GTX 980 Ti         | sm_52  |  6 |  336   | 17c8
GeForce GTX TITAN X        | sm_52  | 12 |  336   | 17c2
Tesla M40                  | sm_52  | 12 |  288   | 17fd
Tesla M40 24GB             | sm_52  | 24 |  288   | 17fd
Tesla M60                  | sm_52  |  8 |  160   | 13f2
Tesla P100-PCIE-12GB       | sm_60  | 12 |  549   | 15f7
Tesla P100-PCIE-16GB       | sm_60  | 16 |  732   | 15f8
Tesla P100-SXM2-16GB       | sm_60  | 16 |  732   | 15f9
GeForce GTX 1050 Ti        | sm_61  |  4 |  112   | 1c82
GeForce GTX 1060 3GB       | sm_61  |  3 |  192   | 1c02
GeForce GTX 1060 6GB       | sm_61  |  6 |  192   | 1c03
GeForce GTX 1070           | sm_61  |  8 |  256   | 1b81
GeForce GTX 1070 Ti        | sm_61  |  8 |  256   | 1b82
GeForce GTX 1080           | sm_61  |  8 |  320   | 1b80
GeForce GTX 1080 Ti        | sm_61  | 11 |  484   | 1b06
TITAN X (Pascal)           | sm_61  | 12 |  480   | 1b00
TITAN Xp                   | sm_61  | 12 |  547.7 | 1b02
Tesla P4                   | sm_61  |  8 |  192   | 1bb3
Tesla P40                  | sm_61  | 24 |  347   | 1b38
Quadro P4000               | sm_61  |  8 |  243   | 1bb1
Quadro P5000               | sm_61  | 16 |  288   | 1bb0
Quadro P6000               | sm_61  | 24 |  432   | 1b30
TITAN V                    | sm_70  | 12 |  652.8 | 1d81
Tesla V100-PCIE-16GB       | sm_70  | 16 |  900   | 1db4
Tesla V100-PCIE-32GB       | sm_70  | 32 |  900   | 1db6
Tesla V100-SXM2-16GB       | sm_70  | 16 |  900   | 1db1
Tesla V100-SXM2-32GB       | sm_70  | 32 |  900   | 1db5
Quadro GV100               | sm_70  | 32 |  870   | 1dba
GeForce GTX 1650           | sm_75  |  4 |  128   | 1f82
GeForce GTX 1660           | sm_75  |  6 |  192   | 2184
GeForce GTX 1660 SUPER     | sm_75  |  6 |  336   | 21c4
GeForce GTX 1660 Ti        | sm_75  |  6 |  288   | 2182
GeForce RTX 2060           | sm_75  |  6 |  336   | 1f08 1e89
GeForce RTX 2060 SUPER     | sm_75  |  8 |  448   | 1f06
GeForce RTX 2070           | sm_75  |  8 |  448   | 1f02 1f07
GeForce RTX 2070 SUPER     | sm_75  |  8 |  448   | 1e84 1ec2 1ec7
GeForce RTX 2080           | sm_75  |  8 |  448   | 1e82 1e87
GeForce RTX 2080 SUPER     | sm_75  |  8 |  496   | 1e81
GeForce RTX 2080 Ti        | sm_75  | 11 |  616   | 1e04 1e07
TITAN RTX                  | sm_75  | 24 |  672   | 1e02
Quadro RTX 4000            | sm_75  |  8 |  416   | 1eb1
Quadro RTX 5000            | sm_75  | 16 |  448   | 1eb0
Quadro RTX 6000            | sm_75  | 24 |  672   | 1e30 1e78
Quadro RTX 8000            | sm_75  | 48 |  672   | 1e30 1e78
Tesla T4                   | sm_75  | 16 |  320   | 1eb8
A100-PCIE-40GB             | sm_80  | 40 | 1555   | 20f1 20b1
A100 80GB PCIe             | sm_80  | 80 | 1935   | 20b5
A100-SXM4-40GB             | sm_80  | 40 | 1555   | 20b0
A100-SXM4-80GB             | sm_80  | 80 | 2039   | 20b2
A30                        | sm_80  | 24 |  933   | 20b7
RTX A400                   | sm_86  |  4 |   96   | 25b2
RTX A2000                  | sm_86  |  6 |  288   | 2531
RTX A2000 12GB             | sm_86  | 12 |  288   | 2571
RTX A4000                  | sm_86  | 16 |  448   | 24b0
RTX A4500                  | sm_86  | 20 |  640   | 2232
RTX A5000                  | sm_86  | 24 |  768   | 2231
RTX A5500                  | sm_86  | 24 |  768   | 2233
RTX A6000                  | sm_86  | 48 |  768   | 2230
A2                         | sm_86  | 16 |  200   | 25b6
A16                        | sm_86  | 16 |  200   | 25b6
A10                        | sm_86  | 24 |  600   | 2236
A40                        | sm_86  | 48 |  696   | 2235
GeForce RTX 3050           | sm_86  |  8 |  224   | 2507 2582
GeForce RTX 3050 6GB       | sm_86  |  6 |  168   | 2584
GeForce RTX 3060           | sm_86  | 12 |  360   | 2503 2504 2487 2509 2544
GeForce RTX 3060 Ti        | sm_86  |  8 |  448   | 2486 2489 2414
GeForce RTX 3070           | sm_86  |  8 |  448   | 2484 2488
GeForce RTX 3080           | sm_86  | 10 |  760   | 2206 2216
GeForce RTX 3080 12GB      | sm_86  | 12 |  912   | 220a
GeForce RTX 3080 Ti        | sm_86  | 12 |  912   | 2208
GeForce RTX 3090           | sm_86  | 24 |  936.2 | 2204
GeForce RTX 3090 Ti        | sm_86  | 24 | 1008   | 2203
GeForce RTX 4060           | sm_89  |  8 |  272   | 2882 2808
GeForce RTX 4060 Ti        | sm_89  |  8 |  288   | 2803 2788
GeForce RTX 4060 Ti 16GB   | sm_89  | 16 |  288   | 2805
GeForce RTX 4070           | sm_89  | 12 |  504   | 2786 2709
GeForce RTX 4070 SUPER     | sm_89  | 12 |  504   | 2783
GeForce RTX 4070 Ti        | sm_89  | 12 |  504   | 2782
GeForce RTX 4070 Ti SUPER  | sm_89  | 16 |  672   | 2705
GeForce RTX 4080           | sm_89  | 16 |  716.8 | 2704
GeForce RTX 4080 SUPER     | sm_89  | 16 |  736   | 2702
GeForce RTX 4090           | sm_89  | 24 | 1008   | 2684
RTX 4000 Ada Generation    | sm_89  | 20 |  360   | 27b2
RTX 4500 Ada Generation    | sm_89  | 24 |  432   | 27b1
RTX 5000 Ada Generation    | sm_89  | 32 |  576   | 26b2
RTX 6000 Ada Generation    | sm_89  | 48 |  960   | 26b1
L4                         | sm_89  | 24 |  300   | 27b8
L40                        | sm_89  | 48 |  864   | 26b5
L40S                       | sm_89  | 48 |  864   | 26b9
H100 PCIe                  | sm_90  | 80 | 2000   | 2331
H100 80GB HBM3             | sm_90  | 80 | 3350   | 2330
H100 NVL                   | sm_90  | 94 | 3938   | 2321
H200                       | sm_90  | 141 | 4800  | 2335
H200 NVL                   | sm_90  | 141 | 4800  | 233b
GeForce RTX 5060           | sm_120 |  8 |  448   | 2d05
GeForce RTX 5060 Ti        | sm_120 | 16 |  448   | 2d04
GeForce RTX 5070           | sm_120 | 12 |  672   | 2f04
GeForce RTX 5070 Ti        | sm_120 | 16 |  896   | 2c05
GeForce RTX 5080           | sm_120 | 16 |  960   | 2c02
GeForce RTX 5090           | sm_120 | 32 | 1792   | 2b85
RTX PRO 6000 Blackwell Workstation Edition | sm_120 | 96 | 1792 | 2bb1
"""

_AMD = """
Radeon RX 470              | gfx803  |  4 |  211   | 67df
Radeon RX 480              | gfx803  |  8 |  256   | 67df
Radeon RX 570              | gfx803  |  8 |  224   | 67df
Radeon RX 580              | gfx803  |  8 |  256   | 67df
Radeon RX 590              | gfx803  |  8 |  256   | 67df
Radeon RX Vega 56          | gfx900  |  8 |  410   | 687f
Radeon RX Vega 64          | gfx900  |  8 |  484   | 687f
Radeon Instinct MI25       | gfx900  | 16 |  484   | 6860
Radeon VII                 | gfx906  | 16 | 1024   | 66af
Radeon Instinct MI50       | gfx906  | 16 | 1024   | 66a1
Radeon Instinct MI60       | gfx906  | 32 | 1024   | 66a1
Instinct MI100             | gfx908  | 32 | 1228.8 | 738c 738e
Instinct MI210             | gfx90a  | 64 | 1638.4 | 740f
Instinct MI300X            | gfx942  | 192 | 5325  | 74a1
Radeon RX 5700             | gfx1010 |  8 |  448   | 731f
Radeon RX 5700 XT          | gfx1010 |  8 |  448   | 731f
Radeon RX 6800             | gfx1030 | 16 |  512   | 73bf
Radeon RX 6800 XT          | gfx1030 | 16 |  512   | 73bf
Radeon RX 6900 XT          | gfx1030 | 16 |  512   | 73bf 73af
Radeon RX 6950 XT          | gfx1030 | 16 |  576   | 73a5
Radeon PRO W6800           | gfx1030 | 32 |  512   | 73a3
Radeon RX 6700 XT          | gfx1031 | 12 |  384   | 73df
Radeon RX 6750 XT          | gfx1031 | 12 |  432   | 73df
Radeon RX 6600             | gfx1032 |  8 |  224   | 73ff
Radeon RX 6600 XT          | gfx1032 |  8 |  256   | 73ff
Radeon RX 6650 XT          | gfx1032 |  8 |  280   | 73ef
Radeon RX 7900 GRE         | gfx1100 | 16 |  576   | 744c
Radeon RX 7900 XT          | gfx1100 | 20 |  800   | 744c
Radeon RX 7900 XTX         | gfx1100 | 24 |  960   | 744c
Radeon PRO W7900           | gfx1100 | 48 |  864   | 7448 744a
Radeon RX 7700 XT          | gfx1101 | 12 |  432   | 747e
Radeon RX 7800 XT          | gfx1101 | 16 |  624   | 747e
Radeon RX 7600             | gfx1102 |  8 |  288   | 7480
Radeon 780M                | gfx1103 |  0 |   89.6 | 15bf
Radeon 8060S               | gfx1151 |  0 |  256   | 1586
Radeon RX 9070 XT          | gfx1201 | 16 |  640   | 7550
Radeon RX 9070             | gfx1201 | 16 |  640   | 7550
Radeon RX 9060 XT          | gfx1200 | 16 |  320   | 7590
"""

CARDS: tuple[Card, ...] = (*_cards("nvidia", _NVIDIA), *_cards("amd", _AMD))

# (architecture, family) -> part of the bandwidth that generation uses, with the family's overhead (_speed.DEFAULTS):
# geometric mean over the rows of dense models in tests/data/tokens_per_second.csv, where there are two or more. One
# measurement alone is not taken for a whole architecture. tests/unit repeats the fit.
EFFICIENCY: t.Mapping[tuple[str, str], float] = {
    ("sm_75", "cuda"): 0.793,
    ("sm_86", "cuda"): 0.78,
    ("sm_86", "vulkan"): 0.771,
    ("sm_120", "cuda"): 0.8,
    ("gfx1100", "rocm"): 0.747,
    ("gfx1100", "vulkan"): 0.679,
}

_NOISE = re.compile(
    r"\(radv.*|\b(nvidia|amd|ati|corporation|geforce|radeon|tesla|instinct|graphics|series)\b|\((tm|r)\)"
)


def lookup(vendor: str, pci_device: str, name: str, vram_mib: int = 0) -> t.Optional[Card]:
    """The card with this PCI device id, else with this name; None when it is not in the table.

    vendor: nvidia or amd. pci_device: hexadecimal, with or without 0x; may be empty. Where cards share an id the name
    decides, then the memory (vram_mib, 0: unknown), then caution: the slowest.
    """
    device = pci_device.lower().replace("0x", "", 1).zfill(4)
    same_name = [card for card in CARDS if card.vendor == vendor and _plain(card.name) == _plain(name)]
    same_device = [card for card in CARDS if card.vendor == vendor and device in card.pci_devices]
    candidates = [card for card in same_device if card in same_name] or same_device or same_name
    if not candidates:
        return None
    return min(candidates, key=lambda card: (abs(card.vram_mib - vram_mib) if vram_mib else 0, card.bandwidth_gbs))


def _plain(name: str) -> str:
    """The name without what drivers write differently: vendor, brand, hyphens."""
    return " ".join(_NOISE.sub(" ", name.lower()).replace("-", " ").split())
