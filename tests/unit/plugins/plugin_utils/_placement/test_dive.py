# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Price and dive, and the division of time: what they return is legal, keeps what is given, and is no worse."""

from __future__ import annotations

from collections import Counter

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.dive import HASTY, THOROUGH, Effort, dive
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.incumbent import (
    greedy,
    minimums,
    share_time,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.relaxation import Relaxation
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.repair import instead_of_extras
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.sharing import divide
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.space import (
    LOAD,
    SLOTS,
    Limits,
    Solution,
    Space,
    build,
    served,
    unmet,
    weak,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.start import dived, start
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import fleet

SEEDS = range(1, 5)


def space_of(seed: int, load: float = 0.8) -> tuple[Space, Limits]:
    space = build(fleet(16, 10, load=load, seed=seed), ())
    return space, Limits(tuple(model.replicas_max for model in space.models))


def endless(_items: int) -> bool:
    return True


def legal(space: Space, limits: Limits, chosen: frozenset[int]) -> bool:
    """Room on each GPU, one replica of a model on it, no model more often than it may be."""
    used: Counter[int] = Counter()
    for i in chosen:
        for gpu, mib in zip(space.candidates[i].gpus, space.candidates[i].mib, strict=True):
            used[gpu] += mib
    there = Counter((gpu, space.candidates[i].model) for i in chosen for gpu in space.candidates[i].gpus)
    often = Counter(space.candidates[i].model for i in chosen)
    return (
        all(mib <= space.gpus[gpu].offer_mib for gpu, mib in used.items())
        and all(number == 1 for number in there.values())
        and all(number <= limits.ceilings[m] for m, number in often.items())
    )


@pytest.mark.parametrize("effort", [HASTY, THOROUGH])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_dive_is_legal_and_keeps_what_is_given(seed: int, effort: Effort) -> None:
    space, limits = space_of(seed)
    given = frozenset(sorted(greedy(space, limits, frozenset()).chosen)[:3])
    closed = frozenset({0, 5}) - {gpu for i in given for gpu in space.candidates[i].gpus}
    chosen = frozenset(dive(space, limits, given, endless, effort=effort, closed=closed).chosen)
    assert given <= chosen
    assert len(chosen) > len(given)
    assert legal(space, limits, chosen)
    assert closed.isdisjoint(gpu for i in chosen for gpu in space.candidates[i].gpus)


def test_a_dive_without_time_places_replicas_all_the_same() -> None:
    space, limits = space_of(1)
    chosen = frozenset(dive(space, limits, (), lambda _items: False).chosen)
    assert legal(space, limits, chosen)
    assert sum(unmet(space, chosen)) < sum(unmet(space, frozenset()))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_division_of_time_serves_no_less_than_the_greedy_one_and_no_gpu_works_longer_than_it_can(seed: int) -> None:
    space, limits = space_of(seed)
    chosen = greedy(space, limits, frozenset()).chosen
    found = divide(space, chosen)
    assert found.chosen == chosen
    assert served(space, found) >= served(space, Solution(chosen, share_time(space, chosen)))
    busy: Counter[int] = Counter()
    for i, slots in found.slots.items():
        assert 0 <= slots <= SLOTS
        for gpu, load in zip(space.candidates[i].gpus, space.candidates[i].loads, strict=True):
            busy[gpu] += slots * load
    assert max(busy.values()) <= SLOTS * LOAD


@pytest.mark.parametrize("load", [0.8, 1.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_bounds_for_the_minimums_are_never_better_than_what_is_reached(seed: int, load: float) -> None:
    space, limits = space_of(seed, load)
    relaxation = Relaxation(space, limits)
    missing, lasting = relaxation.least()
    assert relaxation.least() == (missing, lasting)
    chosen = start(space, limits, frozenset(), endless, (missing, lasting)).chosen
    assert legal(space, limits, chosen)
    assert missing <= unmet(space, chosen)
    assert missing != unmet(space, chosen) or lasting >= weak(space, chosen)
    assert (unmet(space, chosen), -weak(space, chosen)) <= _reached(space, greedy(space, limits, frozenset()))


def _reached(space: Space, solution: Solution) -> tuple[tuple[int, ...], int]:
    return unmet(space, solution.chosen), -weak(space, solution.chosen)


def test_the_minimums_of_some_models_are_placed_beside_what_is_there() -> None:
    space, limits = space_of(2)
    given = frozenset(sorted(greedy(space, limits, frozenset()).chosen)[:3])
    wanted = {4, 7}
    chosen = minimums(space, wanted, given)
    assert given <= chosen
    assert legal(space, limits, chosen)
    often = Counter(space.candidates[i].model for i in chosen - given)
    assert set(often) <= wanted
    assert all(number <= space.models[m].replicas_min for m, number in often.items())
    assert often


@pytest.mark.parametrize("load", [0.8, 0.95, 1.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_minimum_misses_what_an_extra_could_give_way_to(seed: int, load: float) -> None:
    space, limits = space_of(seed, load)
    found = dived(space, limits, (), endless)
    assert legal(space, limits, found.chosen)
    assert unmet(space, instead_of_extras(space, found.chosen)) == unmet(space, found.chosen)
