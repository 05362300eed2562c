# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names and ports of replicas."""

from __future__ import annotations

import re

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.errors import PortsExhaustedError
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.naming import (
    PORTS,
    next_id,
    next_port,
    slug,
    slugs,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("llama3.1:8b", "llama3.1-8b"),
        ("hf.co/Org/Repo_X:Q4_K_M", "hf.co-org-repo-x-q4-k-m"),
        ("Qwen2.5:latest", "qwen2.5-latest"),
        ("modèle", "mod-le"),
    ],
)
def test_slug(name: str, wanted: str) -> None:
    assert slug(name) == wanted


def test_colliding_slugs_get_a_hash_each() -> None:
    named = slugs(["a:b", "a-b", "c"])
    assert named["c"] == "c"
    assert named["a:b"] != named["a-b"]
    assert all(re.fullmatch(r"a-b-[0-9a-f]{6}", named[name]) for name in ("a:b", "a-b"))
    assert slugs(["c", "a-b", "a:b"]) == named


@given(st.lists(st.text("aA1.:/-_ é", min_size=1, max_size=6)))
def test_slugs_are_unique_and_fit_a_unit_name(names: list[str]) -> None:
    named = slugs(names)
    assert len(set(named.values())) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9.-]+", value) for value in named.values())


@pytest.mark.parametrize(
    ("used", "wanted"), [((), "m--1"), (("m--1", "m--3"), "m--2"), (("m--2",), "m--1"), (("m--1", "m--2"), "m--3")]
)
def test_lowest_free_id(used: tuple[str, ...], wanted: str) -> None:
    assert next_id("m", used) == wanted


@pytest.mark.parametrize(("used", "wanted"), [((), 11500), ((11500, 11502), 11501), (range(11500, 11999), 11999)])
def test_lowest_free_port(used: tuple[int, ...], wanted: int) -> None:
    assert next_port("gpu1", set(used)) == wanted


def test_ports_run_out_with_a_clear_error() -> None:
    with pytest.raises(PortsExhaustedError, match=r"node gpu1: all replica ports 11500 to 11999 are in use"):
        next_port("gpu1", set(PORTS))
