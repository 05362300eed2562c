# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Between keeping what runs and placing all anew: plans that move some of it, legal and each as good as it says."""

from __future__ import annotations

import typing as t
from functools import cache

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Options,
    Problem,
    Replica,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.between import between
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.matching import matched
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.space import (
    SLOTS,
    Limits,
    Solution,
    Space,
    build,
    churn,
    moved_mib,
    served,
    unmet,
    weak,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.start import start
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    LONG,
    check,
    fleet,
    gpu,
    model,
    problem,
    running,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.test_dive import endless, legal

OPTIONS = Options(seconds=2)


@cache
def after_a_loss(seed: int) -> tuple[Problem, list[Replica]]:
    """A planned fleet that has lost the node with the fewest replicas."""
    whole = fleet(32, 12, load=0.85, seed=seed)
    replicas = solve(whole, (), OPTIONS).replicas
    nodes = sorted({replica.node for replica in replicas})
    lost = min(nodes, key=lambda node: sum(replica.node == node for replica in replicas))
    left = problem([card for card in whole.gpus if card.node != lost], whole.models)
    return left, [replica for replica in replicas if replica.node != lost]


def anew(space: Space) -> tuple[Limits, Solution]:
    limits = Limits(tuple(model.replicas_max for model in space.models))
    return limits, start(space.loose, limits, frozenset(), endless)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_placement_between_is_legal_and_the_first_moves_nothing_that_counts(seed: int) -> None:
    case, left = after_a_loss(seed)
    space = build(case, left)
    limits, goal = anew(space)
    found = list(between(space, limits, goal, endless, 50))
    assert found
    for solution in found:
        assert legal(space, limits, solution.chosen)
        assert sum(solution.slots.values()) <= SLOTS * len(solution.chosen)
    assert churn(space, found[0].chosen) <= churn(space, goal.chosen)


@pytest.mark.parametrize("seed", [2, 3] if LONG else [2])
def test_a_repair_moves_less_than_the_placement_anew_at_equal_minimums(seed: int) -> None:
    case, left = after_a_loss(seed)
    scratch, repaired = solve(case, (), OPTIONS), solve(case, left, OPTIONS)
    check(case, repaired, left)
    reached = [o.value for o in scratch.objectives if o.name == "unmet_minimum"]
    assert [o.value for o in repaired.objectives if o.name == "unmet_minimum"] <= reached
    runs = {(replica.model, replica.node, share.id) for replica in left for share in replica.gpus}

    def loaded(replicas: tuple[Replica, ...]) -> int:
        return sum(r.vram_mib for r in replicas if any((r.model, r.node, share.id) not in runs for share in r.gpus))

    assert loaded(repaired.replicas) <= 0.65 * loaded(scratch.replicas)


def test_a_budget_of_moves_is_kept() -> None:
    case, left = after_a_loss(2)
    space = build(case, left)
    plan = solve(case, left, Options(seconds=2, churn_budget_mib=20_000))
    stay = {replica.id for replica in plan.replicas}
    places = {(c.model, c.gpus): i for i, c in enumerate(space.candidates)}
    position = {card.key: place for place, card in enumerate(space.gpus)}
    of = {model.name: m for m, model in enumerate(space.models)}
    chosen = frozenset(
        places[of[r.model], tuple(position[r.node, share.id] for share in r.gpus)] for r in plan.replicas
    )
    assert stay
    assert moved_mib(space, chosen) <= 20_000


# --- GPUs that are alike ---

CARDS = [gpu("n0", "g0", 9000), gpu("n1", "g1", 9000), gpu("n2", "g2", 9000)]
A, B = model("a", 5000), model("b", 3000)


def placed(space: Space, *places: tuple[str, str]) -> Solution:
    """Return the solution with these models on these GPUs, from the candidates that run or could start there."""
    chosen = set()
    for name, card in places:
        chosen.add(
            min(
                i
                for i, c in enumerate(space.candidates)
                if space.models[c.model].name == name and space.gpus[c.gpus[0]].id == card
            )
        )
    return Solution(frozenset(chosen), dict.fromkeys(chosen, SLOTS))


def test_alike_gpus_swap_all_that_they_hold() -> None:
    space = build(problem(CARDS, [A, B]), [running("a", CARDS[0], 5000), running("b", CARDS[1], 3000)])
    goal = placed(space, ("a", "g1"), ("b", "g0"))
    found = matched(space, goal)
    assert found.chosen == frozenset(space.running)
    assert served(space, found) == served(space, goal)


def test_gpus_that_differ_do_not_swap() -> None:
    cards = [gpu("n0", "g0", 9000), gpu("n1", "g1", 8000)]
    space = build(problem(cards, [A, B]), [running("a", cards[0], 5000), running("b", cards[1], 3000)])
    goal = placed(space, ("a", "g1"), ("b", "g0"))
    assert matched(space, goal) == goal


@pytest.mark.parametrize(("spread", "swaps"), [("none", True), ("node", False)])
def test_a_swap_keeps_models_apart(spread: t.Any, swaps: bool) -> None:
    cards = [gpu("n0", "g0", 9000), gpu("n1", "g1", 9000), gpu("n1", "g2", 9000, index=1)]
    rules = Constraints(spread=spread)
    models = [model("a", 5000, least=2, most=2, constraints=rules), model("c", 2000)]
    # The one on n1 ran; a second one, which stays, is there by now.
    space = build(problem(cards, models), [running("a", cards[1], 5000)])
    goal = placed(space, ("a", "g0"), ("a", "g2"), ("c", "g1"))
    found = matched(space, goal)
    assert unmet(space, found.chosen) == unmet(space, goal.chosen)
    assert weak(space, found.chosen) == weak(space, goal.chosen)
    both = {space.candidates[i].node for i in found.chosen if space.candidates[i].model == 0}
    assert both == {"n0", "n1"}
    assert (churn(space, found.chosen) < churn(space, goal.chosen)) or not swaps
