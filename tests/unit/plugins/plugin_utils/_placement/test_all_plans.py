# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every plan of a tiny fleet against all plans there are, tried one by one."""

from __future__ import annotations

import dataclasses
import random
import typing as t

from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.check_moves import check_transition
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Objective,
    Options,
    Plan,
    Problem,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.serialize import plan_to_dict
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.dive import prices
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.losses import Losses
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.relaxation import Relaxation
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.space import Limits, build
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.watch import Watch
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.waves import transition
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import check
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.oracle import (
    Choice,
    Truth,
    best_of,
    headroom,
    lost_with,
    plans_of,
    survival,
    survived,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.worlds import (
    larger_problems,
    problems,
)
from hypothesis import given, settings
from hypothesis import strategies as st

OPTIONS = Options(seconds=10)


LAST = ["weak_n1", "strong_n1", "served", "churn_mib", "balance_mib"]
MORE_IS_BETTER = ("weak_n1", "strong_n1", "served", "balance_mib")
GIVEN_UP = 0.05


def value(plan: Plan, name: str) -> int:
    return next(objective.value for objective in plan.objectives if objective.name == name)


def reached(plan: Plan) -> tuple[tuple[int, ...], int]:
    """Missing minimums by class, and the models that survive weakly, as a key to be minimised."""
    return tuple(o.value for o in plan.objectives if o.name == "unmet_minimum"), -value(plan, "weak_n1")


def resolution(case: Problem) -> float:
    """Milli-tokens per second that rounding may cost: a GPU's time is divided into 10,000 slots."""
    return 3 * len(case.gpus) * len(case.models) * 200_000 / 10_000


@given(problems())
def test_no_plan_is_better(case: Problem) -> None:
    """Minimums by class, then survival, then service: what the solver reaches is the best there is, and it knows."""
    plan = solve(case, (), OPTIONS)
    check(case, plan)
    best = best_of(case, GIVEN_UP)
    assert [o.name for o in plan.objectives] == ["unmet_minimum"] * len(best.unmet) + LAST
    assert reached(plan) == (best.unmet, best.weak)
    if value(plan, "strong_n1") != best.strong:
        # How much service is given up, to the last slot, decides what is survived.
        assert value(plan, "strong_n1") in {best_of(case, GIVEN_UP + 0.01 * sign).strong for sign in (-1, 1)}
    else:
        assert value(plan, "served") <= best.served + 1
        assert value(plan, "served") >= best.served - resolution(case)
    assert value(plan, "balance_mib") == headroom(case, choice_of(case, plan))
    assert all(objective.proved for objective in plan.objectives)
    assert plan.status == ("infeasible" if any(best.unmet) else "optimal")
    assert plan.reproducible
    # And the integer program, which can look at larger fleets, knows the same.
    truth = Truth(case)
    assert truth.first_two() == (best.unmet, -best.weak)
    assert -truth.least(-1 * truth.served) >= best.served * (1 - 1e-6) - 1


def choice_of(case: Problem, plan: Plan) -> Choice:
    """The plan as the oracle has it."""
    cards = {card.key: card for card in case.gpus}
    return tuple(
        tuple(
            tuple(cards[replica.node, share.id] for share in replica.gpus)
            for replica in plan.replicas
            if replica.model == wish.name
        )
        for wish in case.models
    )


def sound(objective: Objective, truth: float, *, tolerance: float = 0) -> None:
    """Assert that the bound is not below what can be had, and the value not above; that what is proved is true."""
    sign = -1 if objective.name in MORE_IS_BETTER else 1
    assert sign * objective.value >= sign * truth - tolerance, objective
    assert sign * objective.bound <= sign * truth + tolerance, objective
    assert objective.proved == (objective.value == objective.bound)


@settings(max_examples=settings.default.max_examples // 2)
@given(larger_problems(), st.booleans())
def test_the_relaxation_is_never_below_the_truth(case: Problem, priced: bool) -> None:
    """Asked of small fleets, too, which it is not meant for."""
    space = build(case, ())
    limits = Limits(tuple(model.replicas_max for model in space.models))
    relaxation = Relaxation(space, limits)
    truth = Truth(case)
    unmet, weak = truth.first_two()
    if priced:
        relaxation.value(prices(space, limits, lambda _items: True))
    for priority, missing in zip(space.classes, unmet, strict=True):
        assert relaxation.unmet(priority) <= missing
        relaxation.keep(priority, missing)
    assert relaxation.weak() >= weak
    if priced:
        relaxation.value(prices(space, limits, lambda _items: True, unmet))
    service = -truth.least(-1 * truth.served)
    assert relaxation.served() >= service - resolution(case)


# Without a budget some gaps stay open, so that bounds are no values.
@settings(max_examples=settings.default.max_examples // 2)
@given(larger_problems(), st.sampled_from((0, 10)))
def test_bounds_are_never_below_the_truth(case: Problem, seconds: int) -> None:
    plan = solve(case, (), Options(seconds=seconds))
    check(case, plan)
    truth = Truth(case)
    unmet, weak = truth.first_two()
    *missing, survivors, losses, service, mib, balance = plan.objectives
    for objective, least in zip(missing, unmet, strict=True):
        sound(objective, least)
        if objective.value != least:
            return
    sound(survivors, weak)
    if survivors.value != weak:
        return
    most = -truth.least(-1 * truth.served)
    assert service.value <= most + resolution(case)
    assert losses.bound >= losses.value == plan.survivability.strong_value
    assert balance.bound >= balance.value == headroom(case, choice_of(case, plan))
    # A bound presumes the values before it; to serve as much in slots, more may have to be served in truth.
    truth.hold(-1 * truth.served, at_most=-(service.value - 1))
    assert mib.value >= truth.least(truth.mib) - 0.5
    assert mib.proved == (mib.value == mib.bound)
    # The integer program knows nothing of losses.
    if losses.value == 0:
        sound(service, most, tolerance=resolution(case))
        truth.hold(-1 * truth.served, at_most=-(service.value + resolution(case)))
        assert mib.bound <= truth.least(truth.mib) + 0.5


@settings(max_examples=settings.default.max_examples // 2)
@given(problems(), st.randoms(use_true_random=False))
def test_losses_are_never_promised_in_vain(case: Problem, draw: random.Random) -> None:
    """Of any placement: the greedy's count is not above the truth, and the bound for as many minimums not below it."""
    space = build(case, ())
    losses = Losses(space)
    names = [wish.name for wish in case.models]
    position = {
        (names.index(space.models[c.model].name), tuple(space.gpus[gpu].key for gpu in c.gpus)): i
        for i, c in enumerate(space.candidates)
    }
    choices = list(plans_of(case))
    watch = Watch(losses, frozenset())
    for choice in draw.sample(choices, min(5, len(choices))):
        chosen = frozenset(
            position[m, tuple(card.key for card in place)] for m, places in enumerate(choice) for place in places
        )
        truth = survived(case, choice)
        assert losses.survived(chosen) <= truth
        assert not watch.follow(chosen, truth + 1)
        assert watch.follow(chosen, 0)
        assert watch.survived <= truth
        assert losses.most(sum(survival(case, choice)[0])) >= truth


@settings(max_examples=settings.default.max_examples // 2)
@given(larger_problems())
def test_the_losses_that_are_survived_are_those(case: Problem) -> None:
    """Weak and strong N-1 of the plan, against every way to place again what is lost."""
    plan = solve(case, (), Options(seconds=2))
    found = plan.survivability
    losses = sorted({card.node for card in case.gpus if card.usable})
    lost = {node for node in losses if lost_with(case, plan.replicas, node)}
    assert found.strong_of == len(losses)
    assert found.strong_value == len(losses) - len(found.strong_lost_with)
    assert lost <= set(found.strong_lost_with)
    assert set(found.strong_lost_with) - lost <= set(found.strong_undecided)
    wanted = [wish.name for wish in case.models if wish.replicas_min >= 2]
    nodes = {name: {r.node for r in plan.replicas if r.model == name} for name in wanted}
    assert found.weak_of == len(wanted)
    assert list(found.weak_at_risk) == sorted(name for name in wanted if len(nodes[name]) < 2)
    for node, models in found.strong_lost_with.items():
        assert models
        assert {r.model for r in plan.replicas if r.node == node} >= set(models)


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_the_input_means_nothing(case: Problem, shuffle: random.Random) -> None:
    def shuffled(items: t.Sequence[t.Any]) -> tuple[t.Any, ...]:
        return tuple(shuffle.sample(list(items), len(items)))

    other = Problem(
        nodes=shuffled(case.nodes),
        gpus=shuffled(case.gpus),
        models=shuffled(case.models),
        fleet_digest=case.fleet_digest,
        catalog_digest=case.catalog_digest,
    )
    assert plan_to_dict(solve(case, (), OPTIONS)) == plan_to_dict(solve(other, (), OPTIONS))


@given(problems(), st.booleans())
def test_a_second_run_changes_nothing(case: Problem, replan: bool) -> None:
    first = solve(case, (), OPTIONS)
    second = solve(case, first.replicas, Options(seconds=10, replan=replan))
    assert second.replicas == first.replicas
    assert [(u.model, u.missing) for u in second.unplaced] == [(u.model, u.missing) for u in first.unplaced]
    assert second.status == first.status
    assert value(second, "churn_mib") == 0


@given(problems(), problems(), st.sampled_from((None, 0, 6000)), st.booleans(), st.sets(st.integers(0, 8), max_size=2))
def test_a_changed_world_is_planned_validly(
    before: Problem, after: Problem, budget: int | None, replan: bool, down: set[int]
) -> None:
    """Whatever ran before: the new plan is valid, and never worse in its minimums than starting from nothing allows."""
    ran = [
        dataclasses.replace(replica, up=place not in down)
        for place, replica in enumerate(solve(before, (), OPTIONS).replicas)
    ]
    plan = solve(after, ran, Options(seconds=10, churn_budget_mib=budget, replan=replan))
    check(after, plan, ran)
    assert check_transition(after, ran, plan, transition(ran, plan, after)) == []
    again = solve(after, plan.replicas, Options(seconds=10, churn_budget_mib=budget))
    assert reached(again)[0] <= reached(plan)[0]


@settings(max_examples=settings.default.max_examples // 5)
@given(larger_problems(), st.booleans())
def test_after_a_loss_the_minimums_are_as_good_as_from_nothing(case: Problem, replan: bool) -> None:
    """Whatever stays where it is; and with a free hand no service is lost to what runs."""
    lost, *left = case.gpus
    after = dataclasses.replace(case, gpus=tuple(left))
    ran = [
        replica
        for replica in solve(case, (), OPTIONS).replicas
        if lost.key not in {(replica.node, share.id) for share in replica.gpus}
    ]
    plan = solve(after, ran, Options(seconds=10, replan=replan))
    check(after, plan, ran)
    truth = Truth(after)
    unmet, weak = truth.first_two()
    assert reached(plan) == (unmet, -weak)
    service = -truth.least(-1 * truth.served)
    assert not replan or value(plan, "served") >= service * (1 - GIVEN_UP) - resolution(after)
