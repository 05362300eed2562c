# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The best way from what runs to a plan: every set of starts and stops of every wave is tried."""

from __future__ import annotations

import heapq
import itertools
import typing as t
from collections import Counter

from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Plan,
    Problem,
    Replica,
    Transition,
)


class Cost(t.NamedTuple):
    """What a way costs, summed over its waves, in the order of importance.

    A model need not lose the least of its minimum, what ran at the beginning and what the plan has. ``dark``: models
    that need not, but of which nothing runs. ``breaks``: models that fall below what they need not lose; ``classes``:
    their priorities' places from below. ``below``: models that are below it. ``told``: announcements. ``waves``: waves.
    """

    dark: int = 0
    breaks: int = 0
    classes: int = 0
    below: int = 0
    told: int = 0
    waves: int = 0

    def plus(self, other: Cost) -> Cost:
        return Cost(*(mine + its for mine, its in zip(self, other, strict=True)))


def subsets(items: t.Sequence[Replica]) -> t.Iterator[frozenset[Replica]]:
    for size in range(len(items) + 1):
        yield from (frozenset(chosen) for chosen in itertools.combinations(items, size))


class Moves:
    """Kept, started and stopped as a transition says; waves left open."""

    def __init__(self, problem: Problem, current: t.Sequence[Replica], plan: Plan, transition: Transition) -> None:
        self.offers = {gpu.key: gpu.offer_mib for gpu in problem.gpus}
        self.least = {model.name: model.replicas_min for model in problem.models}
        planned = {replica.id: replica for replica in plan.replicas}
        self.keep = [planned[name] for name in transition.keep]
        self.starts = [planned[name] for name in transition.start]
        gone = {(stop.node, stop.id) for stop in transition.stop}
        self.stops = [replica for replica in current if (replica.node, replica.id) in gone]
        final = Counter(replica.model for replica in plan.replicas)
        first = Counter(replica.model for replica in current if replica.up)
        priorities = sorted({model.priority for model in problem.models})
        self.places = {model.name: priorities.index(model.priority) for model in problem.models}
        self.floor = {name: min(least, first[name], final[name]) for name, least in self.least.items()}

    def running(self, started: frozenset[Replica], stopped: frozenset[Replica]) -> list[Replica]:
        return [*self.keep, *started, *(r for r in self.stops if r.up and r not in stopped)]

    def count(self, started: frozenset[Replica], stopped: frozenset[Replica]) -> Counter[str]:
        return Counter(replica.model for replica in self.running(started, stopped))

    def allowed(self, new: frozenset[Replica], started: frozenset[Replica], stopped: frozenset[Replica]) -> bool:
        """Tell whether all of ``new`` may start in one wave."""
        there = [*self.keep, *started, *(r for r in self.stops if r not in stopped)]
        ids = Counter(r.id for r in [*there, *new])
        ports = Counter((r.node, r.port) for r in [*there, *new])
        if any(ids[r.id] > 1 or ports[r.node, r.port] > 1 for r in new):
            return False
        load: Counter[tuple[str, str]] = Counter()
        for r in self.running(started | new, stopped):
            for share in r.gpus:
                load[r.node, share.id] += share.vram_mib
        return all(load[r.node, share.id] <= self.offers[r.node, share.id] for r in new for share in r.gpus)

    def cost(self, before: Counter[str], after: Counter[str]) -> Cost:
        fallen = [name for name, floor in self.floor.items() if after[name] < min(floor, before[name])]
        return Cost(
            sum(floor > 0 and after[name] == 0 for name, floor in self.floor.items()),
            len(fallen),
            sum(self.places[name] for name in fallen),
            sum(after[name] < floor for name, floor in self.floor.items()),
            sum(after[name] < min(least, before[name]) for name, least in self.least.items()),
            1,
        )

    def best(self) -> Cost:
        """Return the least cost of any legal sequence of waves."""
        nothing: frozenset[Replica] = frozenset()
        end = (frozenset(self.starts), frozenset(self.stops))
        seen: set[tuple[frozenset[Replica], frozenset[Replica]]] = set()
        number = itertools.count()
        queue: list[tuple[Cost, int, frozenset[Replica], frozenset[Replica]]] = [(Cost(), 0, nothing, nothing)]
        while queue:
            cost, _, started, stopped = heapq.heappop(queue)
            if (started, stopped) == end:
                return cost
            if (started, stopped) in seen:
                continue
            seen.add((started, stopped))
            before = self.count(started, stopped)
            for new in subsets([r for r in self.starts if r not in started]):
                if not self.allowed(new, started, stopped):
                    continue
                for old in subsets([r for r in self.stops if r not in stopped]):
                    ids = {r.id for r in old}
                    # A wave names what stops by its id: all that have it stop.
                    if (new or old) and not any(r.id in ids for r in self.stops if r not in old | stopped):
                        then = (started | new, stopped | old)
                        total = cost.plus(self.cost(before, self.count(*then)))
                        heapq.heappush(queue, (total, next(number), *then))
        raise AssertionError("the plan cannot be reached")

    def taken(self, transition: Transition) -> Cost:
        """Return the cost of a transition's own waves."""
        total = Cost()
        started: frozenset[Replica] = frozenset()
        stopped: frozenset[Replica] = frozenset()
        for wave in transition.waves:
            before = self.count(started, stopped)
            started |= {r for r in self.starts if r.id in wave.start}
            stopped |= {r for r in self.stops if r.id in wave.stop}
            total = total.plus(self.cost(before, self.count(started, stopped)))
        return total
