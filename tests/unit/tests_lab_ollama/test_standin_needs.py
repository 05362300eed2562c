# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in's VRAM needs are the measured ones: rows as they are, splits row by row or between rows by layers."""

from __future__ import annotations

import sys

import pytest
import standin_lab as lab

sys.path.insert(0, str(lab.ROOT / "tests/lab/ollama"))

import footprints
from ollama_standin import needs
from ollama_standin.needs import Entry, Flags, NoRow

TABLE = footprints.table(lab.ROOT / "tests/data")["models"]


def entry(name: str) -> Entry:
    return Entry(name, TABLE[name])


def test_every_measured_model_is_there() -> None:
    assert len(TABLE) == 18
    assert sum(len(model["rows"]) for model in TABLE.values()) > 500


@pytest.mark.parametrize(
    ("model", "flags", "sizes"),
    [
        ("llama3.1-8b", Flags(8192, 4, "q8_0", True, 1024), (4403, 2176, 248)),
        ("llama3.1-8b", Flags(8192, 4, "f16", False, 1024), (4403, 4096, 1128)),
        ("llama3.2-1b", Flags(4096, 1, "f16", True, 512), (762, 128, 68)),
    ],
)
def test_rows(model: str, flags: Flags, sizes: tuple[int, int, int]) -> None:
    assert entry(model).whole(flags) == sizes


@pytest.mark.parametrize("flags", [Flags(5000, 1, "f16", True, 512), Flags(8192, 3, "f16", True, 512)])
def test_what_was_not_measured_is_refused(flags: Flags) -> None:
    with pytest.raises(NoRow, match=r"truth\.csv"):
        entry("llama3.1-8b").whole(flags)


def test_a_measured_split_is_taken_as_it_is() -> None:
    found = entry("llama3.1-8b").split(Flags(8192, 1, "f16", True, 1024), [12, 10, 10])
    assert found == [(1497, 384, 472), (1232, 320, 392), (1674, 320, 392)]


@pytest.mark.parametrize("layers", [[16, 16], [9, 23], [20, 12], [30, 2], [11, 11, 10]])
@pytest.mark.parametrize("flags", [Flags(8192, 4, "q8_0", True, 1024), Flags(32768, 4, "q8_0", True, 2048)])
def test_other_splits_lie_between(layers: list[int], flags: Flags) -> None:
    """All of the weights and cache is somewhere, in proportion to the layers but for the head on the last card."""
    model = entry("llama3.1-8b")
    weights, kv, _ = model.whole(flags)
    parts = model.split(flags, layers)
    assert sum(part[0] for part in parts) == pytest.approx(weights)
    assert sum(part[1] for part in parts) == pytest.approx(kv)
    for count, part in zip(layers, parts, strict=True):
        assert part[1] == pytest.approx(kv * count / 32, rel=0.02)
    for count, part in zip(layers[:-1], parts[:-1], strict=True):
        assert part[0] == pytest.approx((weights - 411) * count / 32, rel=0.05)


def test_automatic_batch() -> None:
    assert [needs.automatic_batch(n, np) for n, np in ((4096, 1), (8192, 4), (32768, 4))] == [512, 1024, 2048]
