# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The life of a lab: random events one after the other, each planned for, each transition looked at and made.

No minimum may break where it need not. That is decided by trying every order of the moves (``best_waves``); where
there are too many for that, by whether all that starts fits beside all that runs.
"""

from __future__ import annotations

import dataclasses
import random
import typing as t
from collections import Counter

from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.check import check_plan
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.check_moves import check_transition
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Gpu,
    Model,
    Options,
    Plan,
    Problem,
    Replica,
    Transition,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.waves import transition
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.best_waves import Moves
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    LONG,
    gpu,
    model,
    problem,
)

EVENTS = 200 if LONG else 20
FEW = 8
MARGIN = 1_000
SIZES = (1_900, 2_700, 3_400, 4_800, 6_100, 7_900, 14_000)


class Lab:
    """Nodes, what others hold there, the catalog, and what runs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cards = [
            gpu(f"n{node}", f"g{node}{i}", self.random.choice((7_000, 11_000, 15_000)), index=i, margin_mib=MARGIN)
            for node in range(5)
            for i in range(self.random.choice((1, 1, 2)))
        ]
        self.away: dict[str, list[Replica]] = {}
        self.foreign: Counter[tuple[str, str]] = Counter()
        self.models: list[Model] = []
        self.runs: list[Replica] = []
        for _ in range(5):
            self.a_model_more()

    def case(self) -> Problem:
        return problem([self._now(card) for card in self.cards if card.node not in self.away], self.models)

    def _now(self, card: Gpu) -> Gpu:
        held = self.foreign[card.key]
        return dataclasses.replace(card, vram_foreign_mib=held, offer_mib=max(0, card.vram_mib - held - MARGIN))

    # --- what may happen ---

    def event(self) -> str:
        happens: list[t.Callable[[], None]] = [
            self.a_node_is_lost,
            self.a_node_is_back,
            self.a_model_more,
            self.a_model_less,
            self.a_model_of_another_size,
            self.others_use_a_gpu,
            self.others_use_a_gpu,
            self.a_replica_fails,
        ]
        chosen = self.random.choice(happens)
        chosen()
        return chosen.__name__

    def a_node_is_lost(self) -> None:
        nodes = sorted({card.node for card in self.cards} - self.away.keys())
        if len(nodes) > 2:
            node = self.random.choice(nodes)
            self.away[node] = [replica for replica in self.runs if replica.node == node]
            self.runs = [replica for replica in self.runs if replica.node != node]

    def a_node_is_back(self) -> None:
        """With all its units, whatever has been planned meanwhile."""
        if self.away:
            self.runs += self.away.pop(self.random.choice(sorted(self.away)))

    def a_model_more(self) -> None:
        names = [name for name in "abcdefgh" if name not in {wish.name for wish in self.models}]
        if names:
            least = self.random.choice((1, 1, 2, 2, 3))
            self.models.append(
                model(
                    self.random.choice(names),
                    self.random.choice(SIZES),
                    least=least,
                    most=least + self.random.choice((0, 1)),
                    priority=self.random.choice((10, 50, 90)),
                    demand=1000 * self.random.randrange(20, 200),
                )
            )

    def a_model_less(self) -> None:
        if len(self.models) > 3:
            self.models.remove(self.random.choice(self.models))

    def a_model_of_another_size(self) -> None:
        old = self.random.choice(self.models)
        new = model("", self.random.choice(SIZES)).needs
        self.models[self.models.index(old)] = dataclasses.replace(old, needs=new, context=old.context + 1)

    def others_use_a_gpu(self) -> None:
        card = self.random.choice(self.cards)
        self.foreign[card.key] = self.random.choice((0, 0, 1_024, 4_096, card.vram_mib))

    def a_replica_fails(self) -> None:
        if self.runs:
            place = self.random.randrange(len(self.runs))
            self.runs[place] = dataclasses.replace(self.runs[place], up=False)

    # --- what is done about it ---

    def make(self, plan: Plan, way: Transition) -> None:
        """Make the waves; now and then somebody kills the run between two of them."""
        planned = {replica.id: replica for replica in plan.replicas}
        stops = {(stop.node, stop.id) for stop in way.stop}
        last = self.random.randrange(len(way.waves) + 1) if self.random.random() < 0.2 else len(way.waves)
        for wave in way.waves[:last]:
            for name in wave.start:
                new = planned[name]
                self.runs = [old for old in self.runs if (old.node, old.id) != (new.node, name)] + [new]
            gone = {(node, name) for node, name in stops if name in wave.stop}
            self.runs = [old for old in self.runs if (old.node, old.id) not in gone]


def avoidable(case: Problem, runs: t.Sequence[Replica], plan: Plan, way: Transition) -> bool:
    """Tell whether the transition takes a model below what it need not lose, though there is a way that does not."""
    moves = Moves(case, runs, plan, way)
    taken = moves.taken(way)
    if not taken.breaks:
        return False
    if len(moves.starts) + len(moves.stops) <= FEW:
        return taken[:4] > moves.best()[:4]
    nothing: frozenset[Replica] = frozenset()
    return moves.allowed(frozenset(moves.starts), nothing, nothing)


def test_a_walk_of_random_events() -> None:
    lab = Lab(seed=7)
    seen: Counter[str] = Counter()
    for number in range(EVENTS):
        event = lab.event() if number else "the first plan"
        case = lab.case()
        plan = solve(case, lab.runs, Options(seconds=1))
        assert check_plan(case, plan, lab.runs) == [], (number, event)
        way = transition(lab.runs, plan, case)
        assert check_transition(case, lab.runs, plan, way) == [], (number, event)
        assert not avoidable(case, lab.runs, plan, way), (number, event, way)
        seen["moves"] += len(way.start) + len(way.stop)
        seen["kept"] += len(way.keep)
        seen["several waves"] += len(way.waves) > 1
        seen["breaks"] += any(wave.breaks for wave in way.waves)
        lab.make(plan, way)
    # The walk was one: things moved, things stayed, and not all could be done at once.
    assert seen["moves"] > EVENTS
    assert seen["kept"] > EVENTS
    assert seen["several waves"] > EVENTS // 20
