# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every plan of a tiny fleet against all plans there are, tried one by one."""

from __future__ import annotations

import itertools
import random
import typing as t

from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Gpu,
    Model,
    Options,
    Plan,
    Problem,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.serialize import plan_to_dict
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    check,
    gpu,
    model,
    need,
    problem,
)
from hypothesis import given
from hypothesis import strategies as st
from ortools.linear_solver import pywraplp

OPTIONS = Options(seconds=10)

Place = tuple[Gpu, ...]
Choice = tuple[tuple[Place, ...], ...]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    count = draw(st.integers(1, 4))
    cards = []
    for i in range(count):
        cards.append(
            gpu(
                f"n{draw(st.integers(0, 2))}",
                f"g{i}",
                draw(st.sampled_from((0, 4000, 6000, 8000, 12_000))),
                index=i,
                kind=draw(st.sampled_from(("slow", "fast"))),
                usable=draw(st.sampled_from((True, True, True, False))),
            )
        )
    models = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        mib = draw(st.sampled_from((1700, 2900, 4000, 5300, 7000, 11_000)))
        tokens = draw(st.integers(10, 90))
        least = draw(st.integers(0, 3))
        needs = {"slow": (need(mib, tokens),), "fast": (need(mib, 2 * tokens),)}
        models.append(
            model(
                name,
                needs,
                least=least,
                most=max(1, least + draw(st.integers(0, 2))),
                priority=draw(st.sampled_from((10, 90))),
                weight=draw(st.integers(1, 3)),
                demand=draw(st.none() | st.integers(5_000, 250_000)),
                min_speed=draw(st.sampled_from((0, 0, 50_000))),
                constraints=Constraints(
                    spread=draw(st.sampled_from(("prefer", "node", "domain", "none"))),
                    exclude_nodes=draw(st.sampled_from(((), (), ("n0",)))),
                ),
            )
        )
    return problem(cards, models, {"n0": "left", "n1": "left", "n2": "right"})


# --- all plans, by the rules of the design, written without a look at the solver --------------------


def speed_of(wish: Model, card: Gpu) -> float:
    return 1e12 / wish.needs[card.kind][0].nanoseconds


def allowed(wish: Model, card: Gpu) -> bool:
    return (
        card.usable
        and card.node not in wish.constraints.exclude_nodes
        and speed_of(wish, card) >= wish.min_speed - 1e-6
    )


def mib_on(wish: Model, place: Place) -> list[int]:
    """MiB on each GPU of the place; layers are of equal size and there are four."""
    needs = wish.needs[place[0].kind][0]
    if len(place) == 1:
        return [needs.vram_mib]
    layers = layers_on(place)
    return [-(-(needs.vram_mib - 500) * n // 4) + 500 for n in layers]


def layers_on(place: Place) -> list[int]:
    total = sum(card.offer_mib for card in place)
    exact = [4 * card.offer_mib / total for card in place]
    layers = [int(part) for part in exact]
    by_rest = sorted(range(len(place)), key=lambda i: (-round(exact[i] - layers[i], 9), i))
    for i in by_rest[: 4 - sum(layers)]:
        layers[i] += 1
    return layers


def time_on(wish: Model, place: Place) -> list[float]:
    if len(place) == 1:
        return [1 / speed_of(wish, place[0])]
    return [n / 4 / speed_of(wish, card) for n, card in zip(layers_on(place), place, strict=True)]


def places_of(case: Problem, wish: Model) -> list[Place]:
    cards = [card for card in sorted(case.gpus, key=lambda c: (c.node, c.index)) if allowed(wish, card)]
    whole: list[Place] = [(card,) for card in cards if mib_on(wish, (card,))[0] <= card.offer_mib]
    if whole:
        return whole
    found: list[Place] = []
    with_room = [card for card in cards if card.offer_mib]
    for size in range(2, len(with_room) + 1):
        for place in itertools.combinations(with_room, size):
            if len({card.node for card in place}) > 1 or 0 in layers_on(place):
                continue
            if all(mib <= card.offer_mib for mib, card in zip(mib_on(wish, place), place, strict=True)):
                found.append(place)
    return [place for place in found if 1 / sum(time_on(wish, place)) >= wish.min_speed - 1e-6]


def choices_of(case: Problem, wish: Model) -> list[tuple[Place, ...]]:
    domains = {node.name: node.failure_domain for node in case.nodes}
    found = []
    for count in range(wish.replicas_max + 1):
        for chosen in itertools.combinations(places_of(case, wish), count):
            cards = [card.key for place in chosen for card in place]
            nodes = [place[0].node for place in chosen]
            if len(cards) != len(set(cards)):
                continue
            if wish.constraints.spread == "node" and len(nodes) != len(set(nodes)):
                continue
            if wish.constraints.spread == "domain" and len(nodes) != len({domains[node] for node in nodes}):
                continue
            found.append(chosen)
    return found


def plans_of(case: Problem) -> t.Iterator[Choice]:
    for choice in itertools.product(*(choices_of(case, wish) for wish in case.models)):
        used = {card.key: 0 for card in case.gpus}
        for wish, places in zip(case.models, choice, strict=True):
            for place in places:
                for mib, card in zip(mib_on(wish, place), place, strict=True):
                    used[card.key] += mib
        if all(used[card.key] <= card.offer_mib for card in case.gpus):
            yield choice


def survival(case: Problem, choice: Choice) -> tuple[tuple[int, ...], int]:
    classes = sorted({wish.priority for wish in case.models if wish.replicas_min}, reverse=True)
    pairs = list(zip(case.models, choice, strict=True))
    unmet = tuple(
        sum(max(0, wish.replicas_min - len(places)) for wish, places in pairs if wish.priority == priority)
        for priority in classes
    )
    weak = sum(wish.replicas_min >= 2 and len({place[0].node for place in places}) >= 2 for wish, places in pairs)
    return unmet, -weak


def served(case: Problem, choice: Choice) -> float:
    """Weighted milli-tokens per second, by a linear program."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    busy: dict[tuple[str, str], t.Any] = {card.key: 0 for card in case.gpus}
    worth: t.Any = 0
    for wish, places in zip(case.models, choice, strict=True):
        rates = [solver.NumVar(0, solver.infinity(), "") for _ in places]
        for rate, place in zip(rates, places, strict=True):
            for time, card in zip(time_on(wish, place), place, strict=True):
                busy[card.key] += rate * time
        if rates and wish.demand is not None:
            solver.Add(sum(rates) <= wish.demand)
        worth += wish.weight * sum(rates)
    for load in busy.values():
        if not isinstance(load, int):
            solver.Add(load <= 1)
    solver.Maximize(worth)
    assert solver.Solve() == pywraplp.Solver.OPTIMAL
    return float(solver.Objective().Value())


def best_of(case: Problem) -> tuple[tuple[int, ...], int, float]:
    choices = [(survival(case, choice), choice) for choice in plans_of(case)]
    key = min(key for key, _ in choices)
    # A plan that is part of another one cannot serve more.
    best = [choice for found, choice in choices if found == key]
    sizes = {tuple(frozenset(places) for places in choice) for choice in best}
    full = [
        choice
        for choice in best
        if not any(
            other != mine and all(a <= b for a, b in zip(mine, other, strict=True))
            for mine in [tuple(frozenset(places) for places in choice)]
            for other in sizes
        )
    ]
    return (*key, max(served(case, choice) for choice in full))


def reached(plan: Plan) -> tuple[tuple[int, ...], int, int]:
    values = [objective.value for objective in plan.objectives]
    return tuple(values[:-3]), -values[-3], values[-2]


@given(problems())
def test_no_plan_is_better(case: Problem) -> None:
    """Minimums by class, then survival, then service: what the solver reaches is the best there is, and it knows."""
    plan = solve(case, (), OPTIONS)
    check(case, plan)
    unmet, weak, service = best_of(case)
    assert [o.name for o in plan.objectives] == ["unmet_minimum"] * len(unmet) + ["weak_n1", "served", "churn_mib"]
    assert reached(plan)[:2] == (unmet, weak)
    # The solver divides a GPU's time into 10,000 slots and rounds times up to nanoseconds.
    resolution = 3 * len(case.gpus) * len(case.models) * 200_000 / 10_000
    assert service - resolution <= reached(plan)[2] <= service + 1
    assert all(objective.proved for objective in plan.objectives)
    assert plan.status == ("infeasible" if any(unmet) else "optimal")
    assert plan.reproducible


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
    assert second.objectives[-1].value == 0


@given(problems(), problems(), st.sampled_from((None, 0, 6000)), st.booleans())
def test_a_changed_world_is_planned_validly(before: Problem, after: Problem, budget: int | None, replan: bool) -> None:
    """Whatever ran before: the new plan is valid, and never worse in its minimums than starting from nothing allows."""
    ran = solve(before, (), OPTIONS).replicas
    plan = solve(after, ran, Options(seconds=10, churn_budget_mib=budget, replan=replan))
    check(after, plan, ran)
    again = solve(after, plan.replicas, Options(seconds=10, churn_budget_mib=budget))
    assert reached(again)[0] <= reached(plan)[0]
