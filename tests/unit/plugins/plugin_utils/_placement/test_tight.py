# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fleets with hardly more VRAM than the minimums take: a placement of all of them is found, or proved not to be."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Constraints, Options, Problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.budget import Budget
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.space import build, unmet, weak
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.tight import packed
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    LONG,
    SPREAD_NODE,
    check,
    fleet,
    gpu,
    model,
    problem,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.oracle import Truth


def planted(seed: int, gpus: int, models: int, *, equal: bool = False, slack: int = 0, spread: int = 0) -> Problem:
    """GPUs as large as what was put on them, up to ``slack`` MiB; of the first ``spread`` models one for each node."""
    draw = random.Random(seed)
    sizes = [500 * draw.randint(4, 16) if equal else draw.randint(2000, 9000) for _model in range(models)]
    cards = []
    counts: Counter[int] = Counter()
    there: set[tuple[str, int]] = set()
    while len(cards) < gpus:
        node = f"node{len(cards) // 2:02d}"
        held = draw.sample(range(models), draw.randint(2, min(4, models)))
        held = [m for m in held if m >= spread or (node, m) not in there]
        there.update((node, m) for m in held)
        counts.update(held)
        room = sum(sizes[m] for m in held) + draw.randint(0, slack)
        cards.append(gpu(node, f"GPU-{len(cards)}", room, index=len(cards) % 2))
    return problem(
        cards,
        [
            model(
                f"m{m:02d}",
                sizes[m],
                least=counts[m],
                most=counts[m] + draw.randint(0, 2),
                constraints=SPREAD_NODE if m < spread else Constraints(),
            )
            for m in range(models)
            if counts[m]
        ],
    )


CASES = {
    "cards of all sizes": {"gpus": 20, "models": 10},
    "more models": {"gpus": 40, "models": 20},
    "a little free": {"gpus": 12, "models": 8, "slack": 40},
    "cards of few sizes": {"gpus": 24, "models": 8, "equal": True},
    "spread over nodes": {"gpus": 16, "models": 8, "spread": 3},
}


@pytest.mark.parametrize("seed", range(1, 4 if LONG else 2))
@pytest.mark.parametrize("case", CASES)
def test_all_minimums_are_met_where_that_takes_every_mib(case: str, seed: int) -> None:
    fleet_of = planted(seed, **CASES[case])
    plan = solve(fleet_of, (), Options(seconds=5))
    check(fleet_of, plan)
    assert [o.value for o in plan.objectives if o.name == "unmet_minimum"] == [0]


@pytest.mark.parametrize("seed", range(1, 13))
def test_what_is_found_or_refuted_is_what_a_plain_integer_program_says(seed: int) -> None:
    case = planted(seed, 5, 5, slack=seed % 3 * 20, spread=seed % 2 * 2)
    # A few MiB less than were planted: sometimes another packing does.
    less = dataclasses.replace(case.gpus[0], offer_mib=case.gpus[0].offer_mib - seed % 4 * 10)
    case = dataclasses.replace(case, gpus=(less, *case.gpus[1:]))
    missing, lasting = Truth(case).first_two()
    space = build(case, ())
    found = packed(space, Budget(10, 0), 1.0)
    assert found.refuted == any(missing)
    if found.chosen is not None:
        assert not any(unmet(space, found.chosen))
        assert weak(space, found.chosen) == found.lasting == lasting


def test_a_model_that_is_split_takes_its_part_of_each_gpu() -> None:
    halves = [gpu("node1", f"GPU-{index}", 7250, index=index) for index in range(2)]
    case = problem([*halves, gpu("node2", "GPU-9", 5000)], [model("large", 10_000), model("small", 2000, least=3)])
    space = build(case, ())
    found = packed(space, Budget(10, 0), 1.0)
    assert found.chosen is not None
    assert unmet(space, found.chosen) == (0,)


def test_a_mib_too_little_is_proved_to_be_too_little() -> None:
    case = planted(1, 20, 10)
    less = dataclasses.replace(case.gpus[3], offer_mib=case.gpus[3].offer_mib - 1)
    more = dataclasses.replace(case.gpus[4], offer_mib=case.gpus[4].offer_mib + 1)
    plan = solve(dataclasses.replace(case, gpus=(*case.gpus[:3], less, more, *case.gpus[5:])), (), Options(seconds=5))
    assert plan.status == "infeasible"
    assert [(o.value, o.bound) for o in plan.objectives if o.name == "unmet_minimum"] == [(1, 1)]


def test_nothing_is_looked_for_where_much_may_stay_free() -> None:
    budget = Budget(10, 0)
    found = packed(build(fleet(16, 10, load=0.6), ()), budget, 1.0)
    assert (found.chosen, found.refuted, budget.left) == (None, False, 5)
