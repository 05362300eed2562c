# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is found after the loss of a node, and how placements get better at it."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Options,
    Plan,
    Problem,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import passes, solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.budget import Budget
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.formulation import Formulation
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.incumbent import fill, greedy
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.losses import Fleet, Losses
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.reserve import strengthen
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.space import (
    Limits,
    Solution,
    Space,
    build,
    served,
    unmet,
    weak,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.strong import possible
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.survive import decide
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    check,
    fleet,
    gpu,
    model,
    need,
    problem,
    running,
)

ENDLESS = 1 << 60


def value(plan: Plan, name: str) -> int:
    return next(objective.value for objective in plan.objectives if objective.name == name)


def on(space: Space, places: t.Iterable[tuple[str, str]]) -> frozenset[int]:
    """The candidates of models whole on GPUs."""
    wanted = set(places)
    return frozenset(
        i
        for i, candidate in enumerate(space.candidates)
        if len(candidate.gpus) == 1 and (space.models[candidate.model].name, space.gpus[candidate.gpus[0]].id) in wanted
    )


def limits_of(space: Space) -> Limits:
    return Limits(tuple(wish.replicas_max for wish in space.models))


# --- one loss ---------------------------------------------------------------------------------------


def four_on_one_card() -> tuple[Space, Fleet]:
    """Once n1 is lost, the two larger have to share g2, and the two smaller g3."""
    cards = [gpu("n1", "g1", 17_000), gpu("n2", "g2", 10_000), gpu("n3", "g3", 7_000)]
    sizes = {"a": 5_000, "b": 5_000, "c": 4_000, "d": 3_000}
    space = build(problem(cards, [model(name, mib) for name, mib in sizes.items()]), ())
    return space, Fleet(Losses(space), on(space, [(name, "g1") for name in sizes]))


def test_who_finds_no_room_goes_first_in_the_next_try() -> None:
    """The tightest room for the first is g3, which leaves none for the last."""
    space, found = four_on_one_card()
    assert [space.models[m].name for m in found.recovery("n1", 1).missing] == ["d"]
    assert found.recovery("n1").missing == ()


def test_a_solver_finds_what_the_greedy_does_not() -> None:
    _space, found = four_on_one_card()
    assert decide(found, "n1", found.recovery("n1", 1).missing, Budget(1, 0)) == ((), False)


def test_what_has_no_room_at_all_needs_no_solver() -> None:
    space = build(problem([gpu("n1", "g1", 9_000), gpu("n2", "g2", 6_000)], [model("m", 7_000)]), ())
    found = Fleet(Losses(space), on(space, [("m", "g1")]))
    budget = Budget(1, 0)
    assert decide(found, "n1", found.recovery("n1").missing, budget) == ((0,), True)
    assert budget.left == Budget(1, 0).left


@pytest.mark.parametrize(("least", "survived"), [(1, 1), (2, 0)])
def test_only_what_is_beyond_a_minimum_gives_way(least: int, survived: int) -> None:
    """b has two replicas, one of which is where a would have to go."""
    cards = [gpu("n1", "g1", 6_000), gpu("n2", "g2", 6_000), gpu("n2", "g3", 2_000, index=1)]
    models = [model("a", 5_000), model("b", 2_000, least=least, most=2)]
    space = build(problem(cards, models), ())
    chosen = on(space, [("a", "g1"), ("b", "g2"), ("b", "g3")])
    # Without n2 there is no room for b on g1.
    assert Losses(space).survived(chosen) == survived


def test_a_model_is_split_only_where_nothing_else_is_left() -> None:
    cards = [gpu("n1", "g1", 12_000), gpu("n2", "g2", 6_000), gpu("n2", "g3", 6_000, index=1)]
    space = build(problem(cards, [model("m", 10_000)]), ())
    found = Fleet(Losses(space), on(space, [("m", "g1")])).recovery("n1")
    assert [len(gpus) for _model, (gpus, _mib, _node) in found.starts] == [2]


# --- strengthening ----------------------------------------------------------------------------------


def better(space: Space, solution: Solution, floor: int = 0, seed: int = 0) -> Solution:
    limits = limits_of(space)
    return strengthen(
        Losses(space),
        solution,
        lambda chosen: fill(space, limits, chosen, solution),
        floor_served=floor,
        seed=seed,
        steps=200,
        looks=300_000,
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_more_losses_are_survived_and_nothing_before_is_given_up(seed: int) -> None:
    space = build(fleet(30, 12, load=0.8, seed=seed), ())
    start = greedy(space, limits_of(space), frozenset())
    found = better(space, start)
    assert Losses(space).survived(found.chosen) > Losses(space).survived(start.chosen)
    assert unmet(space, found.chosen) <= unmet(space, start.chosen)
    assert weak(space, found.chosen) >= weak(space, start.chosen)
    assert better(space, start) == found


def test_service_is_not_given_up_beyond_the_floor() -> None:
    space = build(fleet(30, 12, load=0.8, seed=1), ())
    start = greedy(space, limits_of(space), frozenset())
    floor = served(space, start) * 99 // 100
    assert served(space, better(space, start, floor)) >= floor
    assert better(space, start, ENDLESS) == start


def test_what_runs_is_not_moved_for_it() -> None:
    case = fleet(30, 12, load=0.8, seed=1)
    space = build(case, solve(case, (), Options(seconds=0)).replicas)
    runs = frozenset(space.running)
    assert runs
    assert runs <= better(space, Solution(runs, {})).chosen


def test_a_loss_that_cannot_be_survived_is_refuted_by_itself() -> None:
    """Without n1 no two of the three share a card, though each card is large enough for two of the smallest."""
    cards = [gpu("n1", "g1", 17_000), gpu("n2", "g2", 10_000), gpu("n3", "g3", 10_000)]
    sizes = {"a": 6_000, "b": 5_500, "c": 4_600}
    space = build(problem(cards, [model(name, mib) for name, mib in sizes.items()]), ())
    losses, limits = Losses(space), limits_of(space)
    assert losses.most(0) == 3
    best = greedy(space, limits, frozenset())

    def formulated(nodes: tuple[str, ...]) -> Formulation:
        cp = Formulation(space, limits, best, nodes=nodes)
        cp.keep("unmet_minimum", space.classes[0], 0, 1)
        return cp

    assert possible(losses, best, Budget(10, 0), 0, formulated) == ("n2", "n3")


# --- plans ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slow", "survived"), [(96, 3), (94, 2)])
def test_strong_n1_costs_five_percent_at_most(slow: int, survived: int) -> None:
    """a is fastest where c would have to go if its own card is lost."""
    needs = {"slow": (need(4_000, slow),), "fast": (need(4_000, 100),)}
    cards = [
        gpu("n1", "fast", 8_000, kind="fast"),
        gpu("n2", "slow", 8_000),
        gpu("n3", "other", 8_000, kind="other"),
    ]
    models = [model("a", needs), model("c", {"fast": (need(8_000, 10),), "other": (need(8_000, 10),)}, demand=0)]
    plan = solve(problem(cards, models), (), Options(seconds=10))
    assert plan.status == "optimal"
    assert value(plan, "strong_n1") == survived


def test_the_tightest_card_is_left_as_much_as_can_be() -> None:
    cards = [gpu("n1", "g1", 10_000), gpu("n2", "g2", 10_000), gpu("n3", "g3", 7_000)]
    plan = solve(problem(cards, [model("a", 6_000), model("b", 6_000)]), (), Options(seconds=10))
    assert value(plan, "balance_mib") == 4_000
    assert plan.status == "optimal"


def test_larger_fleets_look_at_losses_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is valid, says what it survives, and is not behind that of the model that has all losses in it."""
    case: Problem = fleet(8, 6, load=0.8, seed=2)
    exact = solve(case, (), Options(seconds=4))
    monkeypatch.setattr(passes, "EXACT", 0)
    plan = solve(case, (), Options(seconds=4))
    check(case, plan)
    assert value(plan, "strong_n1") == plan.survivability.strong_value
    strong = next(objective for objective in plan.objectives if objective.name == "strong_n1")
    assert strong.bound >= value(exact, "strong_n1")
    assert solve(case, plan.replicas, Options(seconds=4)).replicas == plan.replicas


def test_a_repair_puts_new_starts_where_more_is_survived() -> None:
    """All cards are as fast; on the smallest b leaves room for what n1 holds."""
    cards = [gpu("n1", "g1", 6_000), gpu("n2", "g2", 6_000), gpu("n3", "g3", 3_000)]
    a, b = model("a", 5_000), model("b", 2_500)
    runs = running("a", cards[0], 5_000)
    plan = solve(problem(cards, [a, b]), [runs], Options(seconds=10))
    assert {r.model: r.gpus[0].id for r in plan.replicas} == {"a": "g1", "b": "g3"}
    assert value(plan, "strong_n1") == 3
