# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Strong N-1: the best of several searches for an arrangement of the minimums, filled up with what serves more."""

from __future__ import annotations

import random
import typing as t

from .search import Search
from .space import served, unmet, weak

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .losses import Losses
    from .space import Solution, Space

RESTARTS = 10
"""Searches from the same start, at most, since each ends somewhere else."""

CHOICES = 8
"""Of the arrangements found so many are filled up and looked at, the best first."""


def strengthen(
    losses: Losses,
    solution: Solution,
    complete: Callable[[frozenset[int]], Solution],
    *,
    floor_served: int,
    seed: int,
    steps: int,
    looks: int,
) -> Solution:
    """Return a solution after which more node losses are survived, or the given one.

    It misses as many minimums of each class, survives as much weakly, and serves at least ``floor_served``. What runs
    stays where it is. A search ends after so many ``steps``, attempts to move something, and the last one
    when ``losses`` has looked so often. ``complete`` adds to an arrangement of the minimums what serves more.
    """
    start = core(losses.space, solution)
    found: list[tuple[int, frozenset[int]]] = []
    for number in range(RESTARTS):
        search = Search(losses, start, random.Random(seed * RESTARTS + number), large=1 - number % 2)
        found += search.run(steps, looks)
        if losses.looks >= looks or not search.failed():
            break
    found.sort(key=lambda item: item[0])
    choices = [complete(chosen) for _failed, chosen in found[:CHOICES]]
    return lasting(losses, [solution, *choices], solution, floor_served)


def lasting(losses: Losses, choices: Iterable[Solution], than: Solution, floor_served: int) -> Solution:
    """Return the one of the acceptable solutions that survives most losses; of equal ones what serves most."""
    good = [choice for choice in choices if choice is than or acceptable(losses.space, choice, than, floor_served)]
    return max(good, key=lambda choice: (losses.survived(choice.chosen), served(losses.space, choice)))


def acceptable(space: Space, found: Solution, than: Solution, floor_served: int) -> bool:
    """Tell whether a solution is no worse than another one in what goes before strong N-1, and serves enough."""
    standard = (unmet(space, than.chosen), -weak(space, than.chosen))
    return served(space, found) >= floor_served and (unmet(space, found.chosen), -weak(space, found.chosen)) <= standard


def core(space: Space, solution: Solution) -> frozenset[int]:
    """Return the replicas that count for the minimums: of each model those that serve most, on two nodes if may be."""
    found: set[int] = set()
    for m, model in enumerate(space.models):
        members = [i for i in space.by_model[m] if i in solution.chosen]
        members.sort(key=lambda i: (-solution.slots.get(i, 0) * space.candidates[i].top, i))
        first = {space.candidates[i].node for i in members[:1]}
        second = next((i for i in members if space.candidates[i].node not in first), None)
        if model.replicas_min >= 2 and second is not None:
            members.remove(second)
            members.insert(1, second)
        found.update(members[: model.replicas_min])
    return frozenset(found)
