# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A second node for models that should outlive the loss of one, without another minimum missed for it.

Greedy orders place one model after the other, so the last ones may find no room, or none on a second node. There, a
replica of another model makes room: by going elsewhere, or, where both miss replicas of one priority, for good.
"""

from __future__ import annotations

import typing as t
from collections import Counter
from itertools import islice

from .incumbent import State

if t.TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from .space import Limits, Space

TRIES = 1000
"""Exchanges that are tried for a model, at most."""


def set_apart(space: Space, limits: Limits, chosen: frozenset[int]) -> frozenset[int]:
    """Return a placement that has more models on two nodes and misses no more of a class, where one is near."""
    state = State(space, limits.ceilings, chosen)
    for m in range(len(space.models)):
        while _nodes_short(state, m):
            if not any(_exchange(state, i, leaving) for i, leaving in islice(_proposals(state, m), TRIES)):
                break
    return frozenset(state.chosen)


def _proposals(state: State, m: int) -> Iterator[tuple[int, list[int]]]:
    """Yield places off the model's node, if it has one, each with what would have to leave for it."""
    candidates, home = state.space.candidates, state.nodes[m][:1]
    own = [i for i in state.space.by_model[m] if i in state.chosen and not candidates[i].running][-1:]
    if len(state.nodes[m]) < state.space.models[m].replicas_min:
        own = []
    places = [i for i in state.space.by_model[m] if candidates[i].node not in home and not candidates[i].running]
    for i in places:
        yield i, own
    for i in places:
        gpu = candidates[i].gpus[0]
        for j in state.space.by_gpu[gpu] if len(candidates[i].gpus) == 1 else ():
            other = candidates[j]
            if j in state.chosen and not other.running and state.free[gpu] + other.mib[0] >= candidates[i].mib[0]:
                yield i, [*own, j]


def _exchange(state: State, i: int, leaving: list[int]) -> bool:
    """Take the candidate in place of those that leave, and others for these; undo it all where that is no gain."""
    candidates = state.space.candidates
    m = candidates[i].model
    models = {m, *(candidates[j].model for j in leaving)}
    before = _lacking(state, models)
    for j in leaving:
        state.drop(j)
    taken = []
    if state.fits(i):
        state.take(i)
        taken.append(i)
        for j in leaving:
            other = _another(state, j) if candidates[j].model != m else None
            if other is not None:
                state.take(other)
                taken.append(other)
        if _lacking(state, models) < before:
            return True
    for j in taken:
        state.drop(j)
    for j in leaving:
        state.take(j)
    return False


def _lacking(state: State, models: Collection[int]) -> tuple[list[tuple[int, int]], int]:
    """Return what these models miss, the highest class first, and how many nodes they lack."""
    missing = Counter({-state.space.models[m].priority: 0 for m in models})
    for m in models:
        missing[-state.space.models[m].priority] += max(0, state.space.models[m].replicas_min - len(state.nodes[m]))
    return sorted(missing.items()), sum(_nodes_short(state, m) for m in models)


def _nodes_short(state: State, m: int) -> int:
    """Return on how many more nodes the model has to be to outlive the loss of one."""
    return max(0, 2 - len(set(state.nodes[m]))) if state.space.models[m].replicas_min >= 2 else 0


def _another(state: State, j: int) -> int | None:
    """Return another place for what has left, on another node than the model's others where it has to be."""
    members = state.roomy(state.space.by_model[state.space.candidates[j].model]).tolist()
    fitting = (i for i in members if i != j and state.fits(i))
    return min(fitting, key=lambda i: (state.new_node(i), i), default=None)
