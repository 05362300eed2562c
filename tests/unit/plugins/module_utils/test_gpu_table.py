# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of cards, and how one is found in it."""

from __future__ import annotations

import re

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu_table import CARDS, EFFICIENCY, Card, lookup
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("vendor", "device", "name", "vram_mib", "expected"),
    [
        ("nvidia", "0x1b06", "NVIDIA GeForce GTX 1080 Ti", 11264, ("sm_61", 484)),
        ("nvidia", "1B38", "Tesla P40", 0, ("sm_61", 347)),
        ("nvidia", "0x17fd", "Tesla M40 24GB", 0, ("sm_52", 288)),
        ("nvidia", "0x102d", "", 0, ("sm_37", 240)),
        ("nvidia", "0x1180", "", 0, ("sm_30", 192)),
        ("amd", "0x744c", "Radeon RX 7900 XTX", 0, ("gfx1100", 960)),
        ("amd", "0x67df", "AMD Radeon RX 580 Series (RADV POLARIS10)", 0, ("gfx803", 256)),
        # An id that is not in the table: the name decides.
        ("nvidia", "", "NVIDIA A100-SXM4-80GB", 0, ("sm_80", 2039)),
        ("nvidia", "0xffff", "NVIDIA TITAN X (Pascal)", 0, ("sm_61", 480)),
        ("nvidia", "", "NVIDIA GeForce GTX TITAN X", 0, ("sm_52", 336)),
        ("nvidia", "", "NVIDIA RTX A6000", 0, ("sm_86", 768)),
        # Cards that share an id and have no telling name: by memory, then the slowest.
        ("amd", "0x744c", "", 24560, ("gfx1100", 960)),
        ("amd", "0x744c", "", 20464, ("gfx1100", 800)),
        ("amd", "0x744c", "", 0, ("gfx1100", 576)),
        ("amd", "0x67df", "", 8192, ("gfx803", 224)),
        # The id is what the card is, whatever it is called.
        ("nvidia", "0x1b06", "Tesla P40", 0, ("sm_61", 484)),
    ],
)
def test_lookup(vendor: str, device: str, name: str, vram_mib: int, expected: tuple[str, float]) -> None:
    card = lookup(vendor, device, name, vram_mib)
    assert card is not None
    assert (card.architecture, card.bandwidth_gbs) == expected


@pytest.mark.parametrize(
    ("vendor", "device", "name"),
    [("nvidia", "0xffff", "GeForce RTX 9090"), ("amd", "0x1b06", ""), ("nvidia", "", ""), ("", "0x1b06", "")],
)
def test_unknown(vendor: str, device: str, name: str) -> None:
    assert lookup(vendor, device, name) is None


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_row(card: Card) -> None:
    """Every row is well formed, and is found by its name and by its id."""
    assert re.fullmatch(r"sm_\d{2,3}" if card.vendor == "nvidia" else r"gfx[0-9a-f]{3,4}", card.architecture)
    assert 50 <= card.bandwidth_gbs <= 8000
    assert card.pci_devices
    assert all(re.fullmatch(r"[0-9a-f]{4}", device) for device in card.pci_devices)
    assert lookup(card.vendor, "", card.name) == card
    for device in card.pci_devices:
        assert lookup(card.vendor, f"0x{device}", card.name) == card


def test_names_are_unique() -> None:
    assert len({(card.vendor, card.name) for card in CARDS}) == len(CARDS)


def test_efficiencies_are_of_known_architectures() -> None:
    assert {architecture for architecture, _family in EFFICIENCY} <= {card.architecture for card in CARDS}


@given(vendor=st.sampled_from(["nvidia", "amd"]), device=st.text(max_size=8), name=st.text(max_size=40))
def test_any_text(vendor: str, device: str, name: str) -> None:
    """Whatever a driver says, the answer is a card of that vendor or none."""
    card = lookup(vendor, device, name)
    assert card is None or card.vendor == vendor
