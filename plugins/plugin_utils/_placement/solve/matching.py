# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A placement turned towards what runs: GPUs that are alike swap all that they hold, so that less has to be loaded."""

from __future__ import annotations

import typing as t
from collections import defaultdict

from .space import Solution, churn, weak

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .space import Space

ROUNDS = 3
"""Times that all pairs are looked at, at most."""


def matched(space: Space, solution: Solution) -> Solution:
    """Return a placement that serves as much, misses as little, survives as much weakly, and moves no more."""
    return _Matching(space, solution).run()


class _Matching:
    def __init__(self, space: Space, solution: Solution) -> None:
        self.space = space
        self.slots = dict(solution.slots)
        self.held: list[set[int]] = [set() for _gpu in space.gpus]
        self.chosen = set(solution.chosen)
        self.split: set[int] = set()
        for i in solution.chosen:
            gpus = space.candidates[i].gpus
            self.split.update(gpus if len(gpus) > 1 else ())
            for gpu in gpus:
                self.held[gpu].add(i)
        # What runs goes before what could start in the same place.
        self.place: list[dict[int, int]] = [{} for _gpu in space.gpus]
        for gpu, members in enumerate(space.by_gpu):
            for i in sorted(members, key=lambda i: space.candidates[i].running is None, reverse=True):
                if len(space.candidates[i].gpus) == 1:
                    self.place[gpu][space.candidates[i].model] = i

    def run(self) -> Solution:
        alike: defaultdict[t.Hashable, list[int]] = defaultdict(list)
        for gpu, places in enumerate(self.place):
            if gpu not in self.split:
                tops = sorted((m, self.space.candidates[i].top) for m, i in places.items())
                alike[self.space.gpus[gpu].offer_mib, tuple(tops)].append(gpu)
        for _round in range(ROUNDS):
            swaps = [self._swapped(gpus) for gpus in alike.values()]
            if not any(swaps):
                break
        return Solution(frozenset(self.chosen), {i: self.slots.get(i, 0) for i in self.chosen})

    def _swapped(self, gpus: Sequence[int]) -> bool:
        done = False
        for place, one in enumerate(gpus):
            for other in gpus[place + 1 :]:
                done |= self._swap(one, other)
        return done

    def _swap(self, one: int, other: int) -> bool:
        """Swap what two GPUs hold if that moves less and no rule forbids it."""
        old = self.held[one] | self.held[other]
        there = {i: self._at(i, other) for i in self.held[one]} | {i: self._at(i, one) for i in self.held[other]}
        new = {i for i in there.values() if i is not None}
        if len(new) < len(old) or churn(self.space, frozenset(new)) >= churn(self.space, frozenset(old)):
            return False
        chosen = frozenset((self.chosen - old) | new)
        models = {self.space.candidates[i].model for i in old}
        if not (self._fits(new) and all(self._apart(m, chosen) for m in models)):
            return False
        if weak(self.space, chosen) < weak(self.space, frozenset(self.chosen)):
            return False
        slots = {after: self.slots.pop(before, 0) for before, after in there.items() if after is not None}
        self.slots.update(slots)
        self.chosen = set(chosen)
        self.held[one], self.held[other] = (
            {i for i in new if self.space.candidates[i].gpus == (gpu,)} for gpu in (one, other)
        )
        return True

    def _at(self, i: int, gpu: int) -> int | None:
        return self.place[gpu].get(self.space.candidates[i].model)

    def _fits(self, members: Iterable[int]) -> bool:
        # A running replica may take more than a new one would.
        free = {gpu: self.space.gpus[gpu].offer_mib for i in members for gpu in self.space.candidates[i].gpus}
        for i in members:
            (gpu,) = self.space.candidates[i].gpus
            free[gpu] -= self.space.candidates[i].mib[0]
        return all(left >= 0 for left in free.values())

    def _apart(self, m: int, chosen: frozenset[int]) -> bool:
        spread = self.space.models[m].constraints.spread
        if spread not in ("node", "domain"):
            return True
        nodes = [self.space.candidates[i].node for i in self.space.by_model[m] if i in chosen]
        keys = nodes if spread == "node" else [self.space.domains[node] for node in nodes]
        return len(set(keys)) == len(keys)
