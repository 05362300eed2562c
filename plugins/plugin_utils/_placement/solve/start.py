# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The first placement of a solve: the best of the greedy ones and of price and dive."""

from __future__ import annotations

import typing as t
from collections import Counter

from .apart import set_apart
from .dive import HASTY, THOROUGH, dive
from .incumbent import greedy, minimums
from .repair import instead_of_extras
from .sharing import divide
from .space import unmet, weak, worth

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .dive import Effort
    from .space import Limits, Solution, Space

SMALL = 8
"""GPUs up to which the solver needs no better start than a greedy one."""

TRIES = 4
"""Placements in which those go first that found no place, at most."""


def start(
    space: Space,
    limits: Limits,
    kept: frozenset[int],
    spend: Callable[[int], bool],
    enough: tuple[tuple[int, ...], int] | None = None,
) -> Solution:
    """Return a placement that has the ``kept`` candidates and is no worse than any greedy one.

    Greedy ones often meet all minimums that can be met. Where they do not, patterns are asked, in a hurry first; but
    not where ``enough`` is reached: unmet minimums by class and models that survive, as good as they can be.
    """
    enough = enough or simple_bounds(space, limits)[:2]
    best = _apart(space, limits, greedy(space, limits, kept, enough), enough)
    for effort in (HASTY, THOROUGH) if len(space.gpus) > SMALL else ():
        if (unmet(space, best.chosen), weak(space, best.chosen)) == enough or (effort is THOROUGH and not spend(0)):
            break
        found = dived(space, limits, kept, spend, effort=effort)
        if effort is THOROUGH:
            found = _hard_first(space, limits, kept, spend, found)
        best = min(best, _apart(space, limits, found, enough), key=lambda solution: worth(space, solution))
    return min(best, divide(space, best.chosen), key=lambda solution: worth(space, solution))


def _apart(space: Space, limits: Limits, found: Solution, enough: tuple[tuple[int, ...], int]) -> Solution:
    """Return the placement with more models on two nodes where that alone is missing."""
    if unmet(space, found.chosen) != enough[0] or weak(space, found.chosen) == enough[1]:
        return found
    chosen = set_apart(space, limits, found.chosen)
    return min(found, divide(space, chosen), key=lambda solution: worth(space, solution))


def _hard_first(
    space: Space, limits: Limits, kept: frozenset[int], spend: Callable[[int], bool], found: Solution
) -> Solution:
    """Return the best of the placement found and some in which those go first that missed replicas, whoever comes last.

    What is settled of patterns may leave a few of a higher class out that the program in fractions had placed.
    """
    best = found
    first: set[int] = set()
    for _try in range(TRIES):
        counts = Counter(space.candidates[i].model for i in found.chosen)
        short = {m for m, model in enumerate(space.models) if counts[m] < model.replicas_min}
        urgent = {m for m in short if space.models[m].priority > space.classes[-1]} - first
        if not urgent or not spend(0):
            break
        first |= urgent
        found = dived(space, limits, minimums(space, first, kept), spend)
        best = min(best, found, key=lambda solution: worth(space, solution))
    return best


def dived(
    space: Space,
    limits: Limits,
    kept: Iterable[int],
    spend: Callable[[int], bool],
    *,
    missing: Sequence[int] | None = None,
    effort: Effort = THOROUGH,
) -> Solution:
    """Return what patterns make of the room beside the ``kept`` candidates, and greedy ones of what these leave."""
    given = frozenset(kept)
    state = dive(space, limits, given, spend, unmet=missing, effort=effort)
    chosen = frozenset(state.chosen)
    chosen = greedy(space, limits, chosen, (unmet(space, chosen), weak(space, chosen))).chosen
    if unmet(space, chosen) > tuple(missing or [0] * len(space.classes)):
        # Patterns are settled one after the other, so the last replica of a minimum may find extras in its place.
        instead = instead_of_extras(space, chosen)
        if given <= instead and unmet(space, instead) < unmet(space, chosen):
            chosen = greedy(space, limits, instead, (unmet(space, instead), weak(space, instead))).chosen
    if missing is not None and unmet(space, chosen) <= tuple(missing):
        apart = set_apart(space, limits, chosen)
        chosen = apart if given <= apart else chosen
    return divide(space, chosen)


def simple_bounds(space: Space, limits: Limits) -> tuple[tuple[int, ...], int, int]:
    """Return bounds that need no solver: unmet minimums by class, weak N-1 models, served."""
    missing = dict.fromkeys(space.classes, 0)
    survivors = 0
    most = 0
    for m, model in enumerate(space.models):
        if model.replicas_min > 0:
            missing[model.priority] += max(0, model.replicas_min - space.holds(m))
        nodes = {space.candidates[i].node for i in space.by_model[m]}
        survivors += model.replicas_min >= 2 and len(nodes) >= 2 and limits.ceilings[m] >= 2
        most += model.weight * space.demand(m, limits.ceilings[m])
    return tuple(missing[priority] for priority in space.classes), survivors, most
