# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""All minimums on a fleet that has hardly more VRAM than they take: what a GPU may hold is then few sets of replicas.

What all GPUs offer less what the minimums take at least is all that may stay free, so no GPU may have more of it
free; and less than that where others cannot be filled to the last MiB. Sets that leave no more are counted to the
MiB, and each GPU gets one of them: an exact cover.
"""

from __future__ import annotations

import typing as t
from collections import defaultdict
from dataclasses import dataclass

from ._cp_sat import cp_model

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .budget import Budget
    from .space import Space

PATTERNS = 20_000
"""Sets of replicas beyond which the fleet is not tight."""

Item = tuple[int, int]
"""A candidate, and the MiB that it takes of the GPU."""


@dataclass(frozen=True)
class Packing:
    """A placement of all minimums, if one was found, and how many models are on two nodes at most in such a one; or
    whether it is proved that there is none.
    """

    chosen: frozenset[int] | None = None
    lasting: int = 0
    refuted: bool = False


def packed(space: Space, budget: Budget, part: float) -> Packing:
    """Look for a placement of all minimums, with that part of the budget. Nothing runs.

    Where much may stay free, nothing is looked for.
    """
    wanted = {m for m, model in enumerate(space.models) if model.replicas_min}
    offered = [gpu.offer_mib if members else 0 for gpu, members in zip(space.gpus, space.by_gpu, strict=True)]
    free = sum(offered) - sum(space.models[m].replicas_min * space.least_mib[m] for m in wanted)
    if free < 0:
        return Packing(refuted=True)
    if not all(space.by_model[m] for m in wanted) or free * len(space.gpus) >= sum(offered):
        return Packing()
    fillings = [_Filling(space, gpu, wanted) for gpu in range(len(space.gpus))]
    wasted = sum(filling.waste for filling in fillings)
    if wasted > free:
        return Packing(refuted=True)
    patterns: list[list[tuple[int, ...]]] = []
    left = PATTERNS
    for filling in fillings:
        found = []
        for pattern in filling.leaving(free - wasted + filling.waste):
            found.append(pattern)
            left -= 1
            if not left:
                return Packing()
        patterns.append(found)
    return _cover(space, wanted, patterns, budget, part)


class _Filling:
    """What one GPU can hold of the wanted models."""

    def __init__(self, space: Space, gpu: int, wanted: set[int]) -> None:
        self.room = space.gpus[gpu].offer_mib if space.by_gpu[gpu] else 0
        by_model: defaultdict[int, list[Item]] = defaultdict(list)
        for i in space.by_gpu[gpu]:
            candidate = space.candidates[i]
            if candidate.model in wanted:
                by_model[candidate.model].append((i, candidate.mib[candidate.gpus.index(gpu)]))
        self.choices: list[list[Item]] = sorted(by_model.values(), key=lambda items: (-items[0][1], items))
        # Bit s of the entry k: choices from k on can take s MiB together.
        within = (1 << (self.room + 1)) - 1
        self.sums = [1]
        for items in reversed(self.choices):
            rest = self.sums[-1]
            for _i, mib in items:
                rest |= (self.sums[-1] << mib) & within
            self.sums.append(rest)
        self.sums.reverse()
        self.waste = self.room + 1 - self.sums[0].bit_length()

    def leaving(self, waste: int) -> Iterator[tuple[int, ...]]:
        """Yield each set of candidates that leaves no more than so many MiB free."""
        width = (1 << (waste + 1)) - 1
        stack: list[tuple[int, int, tuple[int, ...]]] = [(0, self.room, ())]
        while stack:
            place, room, chosen = stack.pop()
            low = max(0, room - waste)
            if not (self.sums[place] >> low) & (width >> (waste - room + low)):
                continue
            if place == len(self.choices):
                yield chosen
                continue
            stack.append((place + 1, room, chosen))
            stack += [(place + 1, room - mib, (*chosen, i)) for i, mib in self.choices[place] if mib <= room]


def _cover(
    space: Space, wanted: set[int], patterns: Sequence[Sequence[tuple[int, ...]]], budget: Budget, part: float
) -> Packing:
    """Give each GPU one of its patterns, so that each model is there as often as is wanted."""
    model = cp_model.CpModel()
    take = {i: model.new_bool_var("") for of in patterns for pattern in of for i in pattern}
    for gpu, of in enumerate(patterns):
        held: defaultdict[int, list[cp_model.IntVar]] = defaultdict(list)
        chosen = [model.new_bool_var("") for _pattern in of]
        model.add_exactly_one(chosen)
        for pattern, var in zip(of, chosen, strict=True):
            for i in pattern:
                held[i].append(var)
        for i in space.by_gpu[gpu]:
            if i in take:
                model.add(cp_model.LinearExpr.sum(held[i]) == take[i])
    lasting = []
    for m in sorted(wanted):
        there = [i for i in space.by_model[m] if i in take]
        model.add(cp_model.LinearExpr.sum([take[i] for i in there]) == space.models[m].replicas_min)
        apart: defaultdict[str, list[cp_model.IntVar]] = defaultdict(list)
        for i in there:
            node = space.candidates[i].node
            spread = space.models[m].constraints.spread
            if spread in ("node", "domain"):
                apart[node if spread == "node" else space.domains[node]].append(take[i])
        for group in apart.values():
            model.add_at_most_one(group)
        if space.models[m].replicas_min >= 2:
            lasting.append(_lasting(space, model, {i: take[i] for i in there}))
    model.maximize(cp_model.LinearExpr.sum(lasting))
    solver = budget.solve(model, budget.left * part)
    if solver is None:
        return Packing(refuted=budget.refuted)
    return Packing(
        frozenset(i for i, var in take.items() if solver.value(var)), lasting=round(solver.best_objective_bound)
    )


def _lasting(space: Space, model: cp_model.CpModel, takes: Mapping[int, cp_model.IntVar]) -> cp_model.IntVar:
    """Return a variable that says whether these places of one model are on at least two nodes."""
    on_node: defaultdict[str, list[cp_model.IntVar]] = defaultdict(list)
    for i, var in takes.items():
        on_node[space.candidates[i].node].append(var)
    lasting = model.new_bool_var("")
    here = [model.new_bool_var("") for _node in on_node]
    for var, there in zip(here, on_node.values(), strict=True):
        model.add(var <= cp_model.LinearExpr.sum(there))
    model.add(cp_model.LinearExpr.sum(here) >= 2 * lasting)
    return lasting
