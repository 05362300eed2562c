# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filling of one GPU, against all fillings."""

from __future__ import annotations

from itertools import combinations

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.knapsack import CELLS, Item, fill
from hypothesis import given
from hypothesis import strategies as st

# Sixteenths, so that sums are exact and equal worths are equal.
WORTH = st.integers(-32, 64).map(lambda n: n / 16)
TIME = st.integers(0, 64).map(lambda n: n / 16)


@st.composite
def items(draw: st.DrawFn) -> list[Item]:
    return [Item(model, draw(st.integers(1, 40)), draw(WORTH), draw(TIME)) for model in range(draw(st.integers(0, 6)))]


def best(offered: list[Item], room: int) -> float:
    found = [0.0]
    for number in range(1, len(offered) + 1):
        for chosen in combinations(offered, number):
            if sum(item.mib for item in chosen) <= room:
                found.append(sum(item.held for item in chosen) + max(item.busy for item in chosen))
    return max(found)


@given(items(), st.integers(1, 100))
def test_no_filling_is_worth_more(offered: list[Item], room: int) -> None:
    worth, models, owner = fill(offered, room)
    chosen = [item for item in offered if item.model in models]
    assert sum(item.mib for item in chosen) <= room
    assert worth == pytest.approx(best(offered, room))
    time = next((item.busy for item in chosen if item.model == owner), 0.0)
    assert worth == pytest.approx(sum(item.held for item in chosen) + time)


def test_what_is_filled_into_a_large_gpu_fits_although_it_is_counted_in_cells() -> None:
    room = 10 * CELLS + 7
    offered = [Item(model, room // 3 + 1, 1.0, 0.0) for model in range(3)]
    worth, models, _owner = fill(offered, room)
    assert (worth, len(models)) == (2.0, 2)
