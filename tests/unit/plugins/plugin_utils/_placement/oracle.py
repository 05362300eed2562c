# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the best plan of a small fleet is worth, by the rules of the design and without a look at the solver.

``best_of`` tries every plan. ``Truth`` asks an integer program of its own that is written the plainest way, for
fleets that have too many plans; ``test_all_plans`` holds it against ``best_of``. ``lost_with`` tries every way to
place again what a node's loss takes.
"""

from __future__ import annotations

import itertools
import typing as t
from collections import Counter

from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Gpu,
    Model,
    Need,
    Problem,
    Replica,
    Share,
)
from ortools.linear_solver import pywraplp

Place = tuple[Gpu, ...]
Choice = tuple[tuple[Place, ...], ...]

LAYERS = 4


# --- where a replica can be -------------------------------------------------------------------------


def allowed(wish: Model, card: Gpu) -> bool:
    rules, name = wish.constraints, f"{card.node}/{card.id}"
    number = card.architecture.removeprefix("sm_")
    capability = (int(number[:-1]), int(number[-1])) if card.architecture.startswith("sm_") else (0, 0)
    return (
        card.usable
        and card.node not in rules.exclude_nodes
        and name not in rules.exclude_gpus
        and (not rules.nodes or card.node in rules.nodes)
        and (not rules.gpus or name in rules.gpus)
        and (not rules.vendors or card.vendor in rules.vendors)
        and capability >= (rules.min_compute_capability or (0, 0))
        and 1e12 / wish.needs[card.kind][0].nanoseconds >= wish.min_speed - 1e-6
    )


def needs_on(wish: Model, place: Place) -> list[Need] | None:
    """What the model needs on each GPU, under the runner that the first prefers among those of all."""
    for first in wish.needs[place[0].kind]:
        found = [{n.runner: n for n in wish.needs[card.kind]}.get(first.runner) for card in place]
        if None not in found:
            return [each for each in found if each is not None]
    return None


def mib_on(wish: Model, place: Place) -> list[int]:
    """MiB on each GPU of the place; layers are of equal size, the output is on the last."""
    one = wish.needs[place[0].kind][0]
    if len(place) == 1:
        return [one.vram_mib]
    layered = one.vram_mib - one.output_mib - 500
    return [
        -(-layered * n // LAYERS) + 500 + (one.output_mib if card is place[-1] else 0)
        for n, card in zip(layers_on(place), place, strict=True)
    ]


def layers_on(place: Place) -> list[int]:
    total = sum(card.offer_mib for card in place)
    exact = [LAYERS * card.offer_mib / total for card in place]
    layers = [int(part) for part in exact]
    by_rest = sorted(range(len(place)), key=lambda i: (-round(exact[i] - layers[i], 9), i))
    for i in by_rest[: LAYERS - sum(layers)]:
        layers[i] += 1
    return layers


def time_on(wish: Model, place: Place) -> list[float]:
    """Seconds of a milli-token on each GPU of the place."""
    found = needs_on(wish, place)
    assert found is not None
    layers = [LAYERS] if len(place) == 1 else layers_on(place)
    return [n / LAYERS * each.nanoseconds / 1e12 for n, each in zip(layers, found, strict=True)]


def places_of(case: Problem, wish: Model) -> list[Place]:
    cards = [card for card in sorted(case.gpus, key=lambda c: (c.node, c.index)) if allowed(wish, card)]
    whole: list[Place] = [(card,) for card in cards if mib_on(wish, (card,))[0] <= card.offer_mib]
    if whole:
        return whole
    found: list[Place] = []
    with_room = [card for card in cards if card.offer_mib]
    for size in range(2, len(with_room) + 1):
        for place in itertools.combinations(with_room, size):
            if len({card.node for card in place}) > 1 or 0 in layers_on(place) or needs_on(wish, place) is None:
                continue
            if all(mib <= card.offer_mib for mib, card in zip(mib_on(wish, place), place, strict=True)):
                found.append(place)
    return [place for place in found if 1 / sum(time_on(wish, place)) >= wish.min_speed - 1e-6]


def together(case: Problem, wish: Model, places: t.Iterable[Place]) -> bool:
    """Tell whether replicas of one model may be in these places at once, room aside."""
    domains = {node.name: node.failure_domain for node in case.nodes}
    cards = [card.key for place in places for card in place]
    nodes = [place[0].node for place in places]
    return (
        len(cards) == len(set(cards))
        and (wish.constraints.spread != "node" or len(nodes) == len(set(nodes)))
        and (wish.constraints.spread != "domain" or len(nodes) == len({domains[node] for node in nodes}))
    )


def load_of(wish: Model, places: t.Iterable[Place]) -> Counter[tuple[str, str]]:
    load: Counter[tuple[str, str]] = Counter()
    for place in places:
        for mib, card in zip(mib_on(wish, place), place, strict=True):
            load[card.key] += mib
    return load


# --- every plan -------------------------------------------------------------------------------------


def plans_of(case: Problem) -> t.Iterator[Choice]:
    offers = {card.key: card.offer_mib for card in case.gpus}
    choices = [
        [
            chosen
            for count in range(wish.replicas_max + 1)
            for chosen in itertools.combinations(places_of(case, wish), count)
            if together(case, wish, chosen)
        ]
        for wish in case.models
    ]
    for choice in itertools.product(*choices):
        used: Counter[tuple[str, str]] = Counter()
        for wish, places in zip(case.models, choice, strict=True):
            used += load_of(wish, places)
        if all(mib <= offers[key] for key, mib in used.items()):
            yield choice


def classes_of(case: Problem) -> list[int]:
    return sorted({wish.priority for wish in case.models if wish.replicas_min}, reverse=True)


def survival(case: Problem, choice: Choice) -> tuple[tuple[int, ...], int]:
    """Missing minimums by class, and how many models survive the loss of any node, as a key to be minimised."""
    pairs = list(zip(case.models, choice, strict=True))
    unmet = tuple(
        sum(max(0, wish.replicas_min - len(places)) for wish, places in pairs if wish.priority == priority)
        for priority in classes_of(case)
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


def survived(case: Problem, choice: Choice) -> int:
    """How many node losses leave room for every minimum that is met."""
    replicas = [
        stand_in(wish, number, place)
        for wish, places in zip(case.models, choice, strict=True)
        for number, place in enumerate(places)
    ]
    nodes = {card.node for card in case.gpus if card.usable}
    return sum(not lost_with(case, replicas, node) for node in nodes)


def stand_in(wish: Model, number: int, place: Place) -> Replica:
    """A replica of which only its place counts."""
    mib = mib_on(wish, place)
    shares = tuple(Share(card.id, card.index, LAYERS, part) for card, part in zip(place, mib, strict=True))
    return Replica(f"{wish.name}--{number}", wish.name, place[0].node, "", shares, 0, 0, 0, "", 0, 0)


def headroom(case: Problem, choice: Choice) -> int:
    """The least MiB that are left on a GPU that holds something."""
    used: Counter[tuple[str, str]] = Counter()
    for wish, places in zip(case.models, choice, strict=True):
        used += load_of(wish, places)
    return min((card.offer_mib - used[card.key] for card in case.gpus if used[card.key]), default=0)


class Best(t.NamedTuple):
    """The best values in the order of the objectives. With ``strong`` losses survived ``served`` is the most."""

    unmet: tuple[int, ...]
    weak: int
    strong: int
    served: float


def best_of(case: Problem, given_up: float) -> Best:
    """Try all plans. Strong N-1 may cost the part ``given_up`` of what can be served."""
    choices = [(survival(case, choice), choice) for choice in plans_of(case)]
    key = min(key for key, _ in choices)
    best = [choice for found, choice in choices if found == key]
    floor = most_served(case, best) * (1 - given_up)
    by_strong: dict[int, list[Choice]] = {}
    for choice in best:
        by_strong.setdefault(survived(case, choice), []).append(choice)
    for strong, alike in sorted(by_strong.items(), reverse=True):
        service = most_served(case, alike)
        if service >= floor:
            return Best(*key, strong, service)
    raise AssertionError("the plan that serves the most serves enough")


def most_served(case: Problem, choices: t.Sequence[Choice]) -> float:
    # A plan that is part of another one cannot serve more.
    sizes = {tuple(frozenset(places) for places in choice) for choice in choices}
    full = [
        choice
        for choice in choices
        if not any(
            other != mine and all(a <= b for a, b in zip(mine, other, strict=True))
            for mine in [tuple(frozenset(places) for places in choice)]
            for other in sizes
        )
    ]
    return max(served(case, choice) for choice in full)


# --- the plainest integer program -------------------------------------------------------------------


class Truth:
    """The best values in the order of the objectives: each is found, and held for those after it."""

    def __init__(self, case: Problem) -> None:
        self.case = case
        self.solver = pywraplp.Solver.CreateSolver("SCIP")
        add, flag = self.solver.Add, self.solver.BoolVar
        self.missing: dict[int, t.Any] = dict.fromkeys(classes_of(case), 0)
        self.weak: t.Any = 0
        self.served: t.Any = 0
        self.mib: t.Any = 0
        load: dict[tuple[str, str], t.Any] = {card.key: 0 for card in case.gpus}
        busy: dict[tuple[str, str], t.Any] = {card.key: 0 for card in case.gpus}
        for wish in case.models:
            places = places_of(case, wish)
            takes = [flag("") for _ in places]
            rates = [self.solver.NumVar(0, self.solver.infinity(), "") for _ in places]
            for one, other in itertools.combinations(range(len(places)), 2):
                if not together(case, wish, (places[one], places[other])):
                    add(takes[one] + takes[other] <= 1)
            for place, take, rate in zip(places, takes, rates, strict=True):
                times = time_on(wish, place)
                add(rate * max(times) <= take)
                for mib, time, card in zip(mib_on(wish, place), times, place, strict=True):
                    load[card.key] += mib * take
                    busy[card.key] += time * rate
                    self.mib += mib * take
            placed = sum(takes)
            add(placed <= wish.replicas_max)
            self.served += wish.weight * sum(rates)
            if wish.demand is not None and rates:
                add(sum(rates) <= wish.demand)
            if wish.replicas_min:
                short = self.solver.IntVar(0, wish.replicas_min, "")
                add(short >= wish.replicas_min - placed)
                self.missing[wish.priority] += short
            if wish.replicas_min >= 2:
                safe = flag("")
                nodes = []
                for node in sorted({place[0].node for place in places}):
                    there = flag("")
                    add(there <= sum(x for x, place in zip(takes, places, strict=True) if place[0].node == node))
                    nodes.append(there)
                add(2 * safe <= sum(nodes))
                self.weak += safe
        for card in case.gpus:
            for used, most in ((load[card.key], card.offer_mib), (busy[card.key], 1)):
                if not isinstance(used, int):
                    add(used <= most)

    def least(self, what: t.Any) -> float:
        """Return the smallest value, given what was held."""
        if isinstance(what, (int, float)):
            return what
        self.solver.Minimize(what)
        parameters = pywraplp.MPSolverParameters()
        parameters.SetDoubleParam(parameters.RELATIVE_MIP_GAP, 0.0)
        status = self.solver.Solve(parameters)
        if status == pywraplp.Solver.INFEASIBLE:
            return float("inf")
        assert status == pywraplp.Solver.OPTIMAL
        return float(self.solver.Objective().Value())

    def hold(self, what: t.Any, *, at_most: float) -> None:
        if not isinstance(what, (int, float)):
            self.solver.Add(what <= at_most)

    def first_two(self) -> tuple[tuple[int, ...], int]:
        """Return the least missing by class and the most models that survive, and hold them."""
        unmet = []
        for missing in self.missing.values():
            unmet.append(round(self.least(missing)))
            self.hold(missing, at_most=unmet[-1])
        weak = -round(self.least(-1 * self.weak))
        self.hold(-1 * self.weak, at_most=-weak)
        return tuple(unmet), weak


# --- the loss of a node -----------------------------------------------------------------------------


def lost_with(case: Problem, replicas: t.Sequence[Replica], node: str) -> bool:
    """Tell whether some minimum that the plan meets, or meets a part of, cannot be met again without the node.

    Survivors stay where they are; those beyond a model's minimum may be stopped to make room.
    """
    offers = {card.key: card.offer_mib for card in case.gpus if card.node != node}
    rest = Problem(
        nodes=case.nodes,
        gpus=tuple(card for card in case.gpus if card.node != node),
        models=case.models,
        fleet_digest="",
        catalog_digest="",
    )
    cards = {card.key: card for card in case.gpus}
    before = Counter(replica.model for replica in replicas)
    survivors: dict[str, list[tuple[Place, Replica]]] = {wish.name: [] for wish in case.models}
    for replica in replicas:
        if replica.node != node:
            place = tuple(cards[replica.node, share.id] for share in replica.gpus)
            survivors[replica.model].append((place, replica))
    goals = {wish.name: min(wish.replicas_min, before[wish.name]) for wish in case.models}
    spare = [
        [
            gone
            for count in range(max(0, len(survivors[wish.name]) - goals[wish.name]) + 1)
            for gone in itertools.combinations(survivors[wish.name], count)
        ]
        for wish in case.models
    ]
    if all(len(survivors[wish.name]) >= goals[wish.name] for wish in case.models):
        return False
    # What is stopped only makes room, so as much of it as may be is all that has to be tried.
    spare = [[gone for gone in options if len(gone) == max(map(len, options))] for options in spare]
    for stopped in itertools.product(*spare):
        gone = {replica.id for part in stopped for _place, replica in part}
        free = Counter(offers)
        for replica in replicas:
            if replica.node != node and replica.id not in gone:
                free.subtract({(replica.node, share.id): share.vram_mib for share in replica.gpus})
        wanted = [wish for wish in case.models for _ in range(max(0, goals[wish.name] - len(survivors[wish.name])))]
        there = {name: [place for place, _replica in found] for name, found in survivors.items()}
        if _refit(rest, wanted, there, free):
            return False
    return True


def _refit(
    rest: Problem, wanted: t.Sequence[Model], there: dict[str, list[Place]], free: Counter[tuple[str, str]]
) -> bool:
    if not wanted:
        return True
    wish = wanted[0]
    for place in places_of(rest, wish):
        load = load_of(wish, [place])
        if all(mib <= free[key] for key, mib in load.items()) and together(rest, wish, [*there[wish.name], place]):
            left = free.copy()
            left.subtract(load)
            if _refit(rest, wanted[1:], {**there, wish.name: [*there[wish.name], place]}, left):
                return True
    return False
