# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first repair: told before all else, legal, moves nothing, and no plan is worse than it."""

from __future__ import annotations

import dataclasses
import typing as t
from collections import Counter

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Gpu,
    Model,
    Objective,
    Options,
    Plan,
    Problem,
    Replica,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.running import standing
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.repair import Repair, repair
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.space import (
    Limits,
    build,
    unmet,
    weak,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    SPREAD_NODE,
    fleet,
    gpu,
    model,
    problem,
    running,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.test_dive import legal
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.worlds import larger_problems
from hypothesis import given, settings
from hypothesis import strategies as st

SHORT = Options(seconds=1)

G1, G2, G3 = gpu("n1", "g1", 9000), gpu("n2", "g2", 9000), gpu("n2", "g3", 6000, index=1)
CARDS = [G1, G2, G3]


def places(found: Repair) -> dict[str, list[str]]:
    """By model the GPUs of its replicas, those that start in brackets."""
    result: dict[str, list[str]] = {}
    for i in sorted(found.chosen, key=lambda i: found.space.candidates[i].gpus):
        candidate = found.space.candidates[i]
        name = "+".join(found.space.gpus[place].id for place in candidate.gpus)
        of = result.setdefault(found.space.models[candidate.model].name, [])
        of.append(name if candidate.running else f"({name})")
    return result


@pytest.mark.parametrize(
    ("models", "runs", "expected", "missing"),
    [
        pytest.param(
            [model("a", 5000), model("b", 5000)],
            [running("a", G1, 5000)],
            {"a": ["g1"], "b": ["(g3)"]},
            0,
            id="what misses goes into the tightest room",
        ),
        pytest.param(
            [model("a", 3000, least=3)],
            [running("a", G2, 3000)],
            {"a": ["(g1)", "g2", "(g3)"]},
            0,
            id="never twice on a GPU",
        ),
        pytest.param(
            [model("a", 3000, least=2), model("b", 5000)],
            [running("a", G2, 3000), running("b", G1, 5000)],
            {"a": ["(g1)", "g2"], "b": ["g1"]},
            0,
            id="the second replica goes to another node, though there is tighter room on the first",
        ),
        pytest.param(
            [model("a", 5000, least=3, constraints=SPREAD_NODE)],
            [running("a", G1, 5000)],
            {"a": ["g1", "(g3)"]},
            1,
            id="spread is kept",
        ),
        pytest.param(
            [model("a", 8000, priority=10), model("b", 8000, priority=90), model("c", 8000)],
            [running("c", G1, 8000)],
            {"b": ["(g2)"], "c": ["g1"]},
            1,
            id="the higher priority goes first",
        ),
        pytest.param(
            [model("a", 8000), model("b", 5000, most=3)],
            [running("b", G1, 5000), running("b", G2, 5000, number=2), running("b", G3, 5000, number=3)],
            {"a": ["(g1)"], "b": ["g2", "g3"]},
            0,
            id="what is beyond a minimum gives way",
        ),
        pytest.param(
            [model("a", 8000, constraints=Constraints(nodes=("n1",))), model("b", 5000)],
            [running("b", G1, 5000)],
            None,
            1,
            id="a minimum does not give way, nor does it move",
        ),
        pytest.param([model("a", 5000)], [running("a", G1, 5000)], None, 0, id="nothing is missing"),
        pytest.param([model("a", 5000)], [], None, 0, id="nothing runs"),
    ],
)
def test_what_is_repaired(
    models: list[Model], runs: list[Replica], expected: dict[str, list[str]] | None, missing: int
) -> None:
    found = repair(problem(CARDS, models), runs)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (places(found), found.missing) == (expected, missing)


def told(case: Problem, runs: t.Sequence[Replica]) -> tuple[Plan, list[Objective]]:
    events: list[Objective] = []
    plan = solve(case, runs, SHORT, progress=events.append)
    return plan, events


def without(case: Problem, node: str) -> Problem:
    cards: tuple[Gpu, ...] = tuple(card for card in case.gpus if card.node != node)
    nodes = tuple(other for other in case.nodes if other.name != node)
    return dataclasses.replace(case, gpus=cards, nodes=nodes)


def check_repair(case: Problem, runs: list[Replica]) -> None:
    """Legal, no replica that counts is touched, more minimums are met; told first; and the plan is no worse."""
    stays = standing(case, runs)
    found = repair(case, stays)
    plan, events = told(case, runs)
    assert [event for event in events if event.name == "first_repair"] == events[: int(found is not None)]
    if found is None:
        return
    space = build(case, stays)
    solution = found.within(space)
    everything = frozenset(space.running)
    counts = Counter(space.candidates[i].model for i in solution.chosen)
    for i in everything - solution.chosen:
        m = space.candidates[i].model
        assert counts[m] >= space.models[m].replicas_min
    ceilings = Counter(space.candidates[i].model for i in everything)
    limits = Limits(tuple(max(wish.replicas_min, ceilings[m]) for m, wish in enumerate(space.models)))
    assert legal(space, limits, solution.chosen)
    reached = unmet(space, solution.chosen)
    assert reached < unmet(space, everything)
    assert (events[0].value, events[0].proved) == (sum(reached), not any(reached))
    planned = tuple(o.value for o in plan.objectives if o.name == "unmet_minimum")
    lasting = next(o.value for o in plan.objectives if o.name == "weak_n1")
    assert (planned, -lasting) <= (reached, -weak(space, solution.chosen))


@settings(max_examples=settings.default.max_examples // 2)
@given(larger_problems(), st.integers(0, 2))
def test_no_plan_is_worse_than_its_first_repair(case: Problem, number: int) -> None:
    node = f"n{number}"
    runs = [replica for replica in solve(case, (), Options(seconds=0)).replicas if replica.node != node]
    check_repair(without(case, node), runs)


@pytest.mark.parametrize(("load", "missing"), [(0.6, 0), (0.8, 1)])
def test_a_lost_node_of_a_larger_fleet(load: float, missing: int) -> None:
    """At 0.8 one of them finds no room beside what runs."""
    case = fleet(32, 12, load=load, seed=1)
    before = solve(case, (), SHORT).replicas
    node = before[0].node
    runs = [replica for replica in before if replica.node != node]
    left = without(case, node)
    found = repair(left, standing(left, runs))
    assert found is not None
    assert found.missing == missing
    check_repair(left, runs)


def test_the_order_of_the_input_makes_no_difference() -> None:
    case = fleet(32, 12, load=0.8, seed=2)
    before = solve(case, (), SHORT).replicas
    left = without(case, before[0].node)
    runs = standing(left, [replica for replica in before if replica.node != before[0].node])
    turned = dataclasses.replace(left, nodes=left.nodes[::-1], gpus=left.gpus[::-1], models=left.models[::-1])
    one, other = repair(left, runs), repair(turned, runs[::-1])
    assert one is not None
    assert other is not None
    assert one.chosen == other.chosen
    assert one.space.candidates == other.space.candidates
