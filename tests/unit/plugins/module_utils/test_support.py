# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils import _support as support
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("vendor", "architecture", "driver", "backends"),
    [
        ("nvidia", "sm_50", "570.10", ("cuda_v12", "vulkan")),
        ("nvidia", "sm_61", "570.133.20", ("cuda_v12", "vulkan")),
        ("nvidia", "sm_61", "580.65.06", ("cuda_v12", "vulkan")),
        ("nvidia", "sm_70", "550.54", ("cuda_v12", "vulkan")),
        ("nvidia", "sm_75", "550.54", ("cuda_v12", "vulkan")),
        ("nvidia", "sm_75", "580.65.06", ("cuda_v13", "cuda_v12", "vulkan")),
        ("nvidia", "sm_89", "580.65.06", ("cuda_v13", "cuda_v12", "vulkan")),
        ("nvidia", "sm_120", "575.1", ("cuda_v12", "vulkan")),
        ("nvidia", "sm_121", "580.65.06", ("cuda_v13", "vulkan")),
        ("amd", "gfx1100", "", ("rocm_v7_2", "vulkan")),
        ("amd", "gfx90a", "", ("rocm_v7_2", "vulkan")),
        ("amd", "gfx1201", "6.14", ("rocm_v7_2", "vulkan")),
        ("amd", "gfx803", "", ("vulkan",)),
        ("amd", "gfx900", "", ("vulkan",)),
        ("amd", "gfx906", "", ("vulkan",)),
        ("amd", "gfx1031", "", ("vulkan",)),
    ],
)
def test_cards_are_served_by_these_runners(vendor: str, architecture: str, driver: str, backends: tuple[str]) -> None:
    assert support.runners(vendor, architecture, driver) == support.Support(backends)


@pytest.mark.parametrize(
    ("vendor", "architecture", "driver", "reason", "remedy"),
    [
        ("nvidia", "sm_37", "470.256.02", "5.0 and up, not 3.7", "replace the card"),
        ("nvidia", "sm_61", "550.54", "driver 550.54 is too old: compute capability 6.1 needs 570", "570 or 580"),
        ("nvidia", "sm_86", "535.183", "compute capability 8.6 needs 550", "580 or later"),
        ("nvidia", "sm_121", "570.1", "compute capability 12.1 needs 580", "580 or later"),
        ("nvidia", "sm_86", "", "driver unknown is too old", "580 or later"),
        ("nvidia", "", "570.1", "(none reported) is not known", "declare the card"),
        ("amd", "gfx701", "", "gfx701 is older", "replace the card"),
        ("amd", "sm_61", "", "(sm_61) is not known", "declare the card"),
        ("intel", "xe2", "", "(xe2) is not known", "declare the card"),
    ],
)
def test_what_is_not_served_has_reason_and_remedy(
    vendor: str, architecture: str, driver: str, reason: str, remedy: str
) -> None:
    found = support.runners(vendor, architecture, driver)
    assert found.backends == ()
    assert reason in found.reason
    assert remedy in found.remedy


@given(
    st.sampled_from(["nvidia", "amd", "other"]),
    st.one_of(st.text(max_size=8), st.integers(0, 200).map("sm_{}".format), st.integers(0, 2000).map("gfx{}".format)),
    st.one_of(st.text(max_size=8), st.integers(0, 999).map("{}.1".format)),
)
def test_runners_answers_anything_with_runners_or_a_reason(vendor: str, architecture: str, driver: str) -> None:
    found = support.runners(vendor, architecture, driver)
    assert bool(found.backends) != bool(found.reason)
    assert bool(found.reason) == bool(found.remedy)


@given(st.integers(30, 130), st.integers(400, 700), st.integers(0, 100))
def test_a_newer_driver_never_takes_runners_away(capability: int, driver: int, newer: int) -> None:
    older = support.runners("nvidia", f"sm_{capability}", f"{driver}.1")
    assert set(older.backends) <= set(support.runners("nvidia", f"sm_{capability}", f"{driver + newer}.1").backends)


@pytest.mark.parametrize(
    ("architecture", "family", "flash", "trusted"),
    [
        ("sm_52", "cuda", False, ("f16",)),
        ("sm_60", "cuda", True, ("f16", "q8_0", "q4_0")),
        ("sm_61", "cuda", True, ("f16", "q8_0", "q4_0")),
        ("sm_72", "cuda", False, ("f16",)),
        ("sm_75", "cuda", True, ("f16", "q8_0", "q4_0")),
        ("sm_120", "cuda", True, ("f16", "q8_0", "q4_0")),
        ("", "cuda", False, ("f16",)),
        ("gfx1100", "rocm", True, ("f16", "q8_0", "q4_0")),
        ("gfx803", "vulkan", True, ("f16",)),
        ("sm_61", "vulkan", True, ("f16",)),
    ],
)
def test_flash_attention_and_kv_types(architecture: str, family: str, flash: bool, trusted: tuple[str, ...]) -> None:
    assert support.flash_attention(architecture, family) is flash
    assert support.trusted_kv_types(family, architecture) == trusted


@pytest.mark.parametrize(
    ("vendor", "architecture", "remedy"),
    [
        ("nvidia", "sm_61", "570 or 580"),
        ("nvidia", "sm_86", "580 or later"),
        ("nvidia", "", "lspci"),
        ("amd", "gfx803", "amdgpu"),
    ],
)
def test_driver_remedy(vendor: str, architecture: str, remedy: str) -> None:
    assert remedy in support.driver_remedy(vendor, architecture)


@given(
    st.sampled_from(["sm_37", "sm_52", "sm_61", "sm_70", "sm_75", "sm_121", "gfx803", "gfx900", "gfx1100", "gfx600"]),
    st.integers(400, 700),
)
def test_a_driver_gives_no_runner_that_the_card_cannot_have(architecture: str, driver: int) -> None:
    vendor = "nvidia" if architecture.startswith("sm_") else "amd"
    possible = support.possible_runners(vendor, architecture)
    assert set(support.runners(vendor, architecture, f"{driver}.10").backends) <= set(possible.backends)
    assert support.runners(vendor, architecture, "700.10") == possible
