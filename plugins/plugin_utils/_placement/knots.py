# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Knots: starts and stops that are in each other's way, and the best order of a few of them.

A step is a set of starts, then a set of stops, as in a wave.
"""

from __future__ import annotations

import heapq
import itertools
import typing as t
from collections import Counter, defaultdict

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .model import GpuKey, Model, Replica

Step = tuple[tuple["Replica", ...], tuple["Replica", ...]]

FEW = 9
"""Moves whose best order is searched for: there are three to their power of steps to look at, so a second at most."""


class Cost(t.NamedTuple):
    """What an order of steps costs, summed over the steps, what weighs most first.

    A model's floor is what it need not lose: the least of its minimum, what ran before the first step and what is
    planned. ``dark``: models with a floor of which nothing runs. ``broken``: models that fall below their floor.
    ``rank``: their classes, counted from the lowest. ``below``: models that are below their floor. ``told``: models
    that fall below their minimum, or below what they had of it. ``steps``: 1 each. ``idle``: what is not started yet
    or stopped already.
    """

    dark: int = 0
    broken: int = 0
    rank: int = 0
    below: int = 0
    told: int = 0
    steps: int = 0
    idle: int = 0

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(*(mine + its for mine, its in zip(self, other, strict=True)))


class Floors:
    """What each model has to keep on the way from ``current`` to ``planned``."""

    def __init__(self, models: Iterable[Model], current: Iterable[Replica], planned: Iterable[Replica]) -> None:
        models = tuple(models)
        self.before = count(current)
        after = count(planned)
        self.least = {model.name: model.replicas_min for model in models}
        self.floor = {name: min(least, self.before[name], after[name]) for name, least in self.least.items()}
        classes = sorted({model.priority for model in models})
        self.rank = {model.name: classes.index(model.priority) for model in models}

    def told(self, had: Counter[str], has: Counter[str]) -> list[str]:
        """Return the models that fall below their minimum, or below what they had of it."""
        return sorted(name for name, least in self.least.items() if has[name] < min(least, had[name]))

    def cost(self, had: Counter[str], has: Counter[str], idle: int) -> Cost:
        """Return what one step costs that leads from one number of running replicas to another."""
        below = [name for name, floor in self.floor.items() if has[name] < floor]
        broken = [name for name in below if has[name] < had[name]]
        return Cost(
            dark=sum(has[name] == 0 for name in below),
            broken=len(broken),
            rank=sum(self.rank[name] for name in broken),
            below=len(below),
            told=len(self.told(had, has)),
            steps=1,
            idle=idle,
        )

    def cost_of(self, steps: Sequence[Step]) -> Cost:
        """Return what all the steps cost."""
        total, had = Cost(), self.before
        waiting, gone = sum(len(starts) for starts, _stops in steps), 0
        for starts, stops in steps:
            has = after_step(had, starts, stops)
            waiting, gone = waiting - len(starts), gone + len(stops)
            total += self.cost(had, has, waiting + gone)
            had = has
        return total


def count(replicas: Iterable[Replica]) -> Counter[str]:
    """Return how many of each model run."""
    return Counter(replica.model for replica in replicas if replica.up)


def after_step(had: Counter[str], starts: Iterable[Replica], stops: Iterable[Replica]) -> Counter[str]:
    """Return how many of each model run after a step."""
    has = had.copy()
    has.update(count(starts))
    has.subtract(count(stops))
    return has


def claims(replica: Replica) -> Iterator[t.Hashable]:
    """Yield what two replicas may quarrel about: id, port and GPUs."""
    yield replica.id
    yield (replica.node, replica.port)
    yield from ((replica.node, share.id) for share in replica.gpus if replica.up)


def knots(replicas: Iterable[Replica]) -> list[set[Replica]]:
    """Return the replicas in groups that have nothing to do with each other: no model, id, port or GPU in common."""
    holders: defaultdict[t.Hashable, list[Replica]] = defaultdict(list)
    for replica in replicas:
        for claim in _ties(replica):
            holders[claim].append(replica)
    left = dict.fromkeys(replicas)
    found = []
    while left:
        fresh = [next(iter(left))]
        del left[fresh[0]]
        knot = set(fresh)
        while fresh:
            for claim in _ties(fresh.pop()):
                for other in holders.pop(claim, ()):
                    if left.pop(other, other) is None:
                        knot.add(other)
                        fresh.append(other)
        found.append(knot)
    return found


def _ties(replica: Replica) -> Iterator[t.Hashable]:
    yield ("model", replica.model)
    yield from claims(replica)


class Search:
    """The best order of a few starts and stops; ``free`` is what the GPUs offer beside what is kept.

    ``floors`` are those of the knot's models.
    """

    def __init__(
        self, free: Mapping[GpuKey, int], starts: Sequence[Replica], stops: Sequence[Replica], floors: Floors
    ) -> None:
        self.free = free
        self.starts = starts
        # Whoever makes a wave knows the ids of what stops: all of one id stop together.
        named: defaultdict[str, list[Replica]] = defaultdict(list)
        for replica in stops:
            named[replica.id].append(replica)
        self.stops = list(named.values())
        self.floors = floors
        self.names = [
            frozenset(
                place
                for place, group in enumerate(self.stops)
                if any(old.id == new.id or (old.node, old.port) == (new.node, new.port) for old in group)
            )
            for new in starts
        ]

    def better(self, bound: Cost) -> list[Step] | None:
        """Return the best order if it costs less than ``bound``."""
        nothing: frozenset[int] = frozenset()
        ticket = itertools.count()
        queue: list[tuple[Cost, int, frozenset[int], frozenset[int], list[Step]]] = [
            (Cost(), next(ticket), nothing, nothing, [])
        ]
        done: set[tuple[frozenset[int], frozenset[int]]] = set()
        while queue:
            cost, _ticket, started, stopped, steps = heapq.heappop(queue)
            if len(started) == len(self.starts) and len(stopped) == len(self.stops):
                return steps
            if (started, stopped) in done:
                continue
            done.add((started, stopped))
            had = after_step(self.floors.before, *self._step(started, stopped))
            for new, old in self._next(started, stopped):
                then = (started | new, stopped | old)
                if then not in done:
                    step = self._step(new, old)
                    idle = len(self.starts) - len(then[0]) + sum(len(self.stops[i]) for i in then[1])
                    total = cost + self.floors.cost(had, after_step(had, *step), idle)
                    if total < bound:
                        heapq.heappush(queue, (total, next(ticket), *then, [*steps, step]))
        return None

    def _next(
        self, started: frozenset[int], stopped: frozenset[int]
    ) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
        """Yield the steps that are possible: starts that fit beside what runs, then stops."""
        left = [i for i in range(len(self.stops)) if i not in stopped]
        going = list(_subsets(left))
        load = _load([*(self.starts[i] for i in started), *(replica for i in left for replica in self.stops[i])])
        able = [i for i in range(len(self.starts)) if i not in started and self.names[i] <= stopped]
        for new in _subsets(able):
            wanted = _load(self.starts[i] for i in new)
            if all(load[key] + mib <= self.free.get(key, 0) for key, mib in wanted.items()):
                yield from ((new, old) for old in going if new or old)

    def _step(self, new: Iterable[int], old: Iterable[int]) -> Step:
        return (
            tuple(self.starts[i] for i in sorted(new)),
            tuple(replica for i in sorted(old) for replica in self.stops[i]),
        )


def _subsets(items: Sequence[int]) -> Iterator[frozenset[int]]:
    for size in range(len(items) + 1):
        yield from map(frozenset, itertools.combinations(items, size))


def _load(replicas: Iterable[Replica]) -> Counter[GpuKey]:
    load: Counter[GpuKey] = Counter()
    for replica in replicas:
        if replica.up:
            load.update({(replica.node, share.id): share.vram_mib for share in replica.gpus})
    return load
