# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The search for a placement that survives more node losses, and the proof that some cannot be survived."""

from __future__ import annotations

import typing as t

from .budget import LOOK
from .formulation import TOO_BIG
from .incumbent import fill, grown
from .losses import Fleet
from .reserve import lasting, strengthen
from .sharing import divide
from .space import unmet
from .spare import spared
from .start import SMALL, dived

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from .budget import Budget
    from .formulation import Formulation
    from .losses import Losses
    from .space import Limits, Solution

STEPS = 800
"""Attempts to move something for strong N-1, at most."""

LOSSES_LINEAR = 2
"""How much of the losses the linear program of a model is told (``Budget.solve``): most are refuted by it alone."""

ALONE = ((LOSSES_LINEAR, 0.05), (0, 0.4))
"""The same where one loss is looked at by itself, and the part of the time for it; in turn, until it is decided."""


def stronger(losses: Losses, limits: Limits, best: Solution, budget: Budget, floor: int) -> Solution:
    """Return a solution that survives more losses, or as many and serves more; ``best`` if none is found.

    It is no worse in what goes before, and serves at least ``floor``.
    """
    space = losses.space
    patterns = not space.running and len(space.gpus) > SMALL
    missing = unmet(space, best.chosen)
    looks = losses.looks
    most = looks + int(budget.left / LOOK)

    def completed(chosen: frozenset[int]) -> Solution:
        if patterns:
            return dived(space, limits, chosen, budget.spend, missing=missing)
        return fill(space, limits, chosen, best)

    first = best
    if not space.running and len(space.candidates) <= TOO_BIG:
        # Some greedy placements survive by their order alone.
        full = [divide(space, chosen) for chosen in grown(space, limits)]
        first = lasting(losses, [best, *full], best, floor)
    if patterns:
        first = spared(losses, limits, first, budget.spend, floor)
    found = strengthen(losses, first, completed, floor_served=floor, seed=budget.seed, steps=STEPS, looks=most)
    budget.charge(LOOK * (losses.looks - looks))
    return found


def possible(
    losses: Losses,
    best: Solution,
    budget: Budget,
    floor: int,
    formulated: Callable[[tuple[str, ...]], Formulation],
) -> tuple[str, ...]:
    """Return the nodes whose losses, each by itself, may be survived by a placement that serves at least ``floor``.

    ``formulated`` makes a model that knows of the losses of some nodes.
    """
    fleet = Fleet(losses, best.chosen)

    def refuted(node: str) -> bool:
        for linearization, part in ALONE:
            cp = formulated((node,))
            cp.model.add(cp.objective("served", None) >= floor)
            cp.model.add(cp.objective("strong_n1", None) == 1)
            if budget.solve(cp.model, budget.left * part, linearization=linearization) is not None:
                return False
            if budget.refuted:
                return True
        return False

    return tuple(node for node in losses.nodes if not fleet.recovery(node).missing or not refuted(node))
