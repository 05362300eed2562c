# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The first repair: no replica moves, and the minimums that what runs does not meet are started where there is room.

Places are listed for the models that miss replicas alone, so this is done within a blink also on fleets whose plan
takes many seconds. Where there is no room left, replicas beyond the minimums of other models are stopped.
"""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import dataclass

from .incumbent import least_missing
from .losses import Fleet, Losses
from .sharing import divide
from .space import Solution, occupied, unmet, vacant

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import Problem, Replica
    from .space import Space

NOWHERE = ""
"""The node that is lost when what is missing is not to be the work of any one."""


@dataclass(frozen=True)
class Repair:
    """Chosen candidates of a space that has no places but those asked for."""

    space: Space
    chosen: frozenset[int]

    @property
    def missing(self) -> int:
        """How many minimum replicas still have no place."""
        return sum(unmet(self.space, self.chosen))

    def within(self, space: Space) -> Solution:
        """Return the same placement in the space that has all places."""
        return divide(space, frozenset(space.find(self.space.candidates[i]) for i in self.chosen))


def repair(problem: Problem, standing: Sequence[Replica]) -> Repair | None:
    """Return what runs (valid together) with more of the minimums met; None if no more are."""
    there = Counter(replica.model for replica in standing)
    short = {model.name for model in problem.models if there[model.name] < model.replicas_min}
    if not standing or not short:
        return None
    space = occupied(vacant(problem, short), standing)
    running = frozenset(space.running)
    chosen = least_missing(space, running)
    if any(unmet(space, chosen)):
        chosen = instead_of_extras(space, chosen)
    return Repair(space, chosen) if chosen != running else None


def instead_of_extras(space: Space, chosen: frozenset[int]) -> frozenset[int]:
    """Start what minimums miss where replicas beyond a minimum may be stopped for it, higher priorities first."""
    losses = Losses(space)
    counts = Counter(space.candidates[i].model for i in chosen)
    missing = [m for m, model in enumerate(space.models) for _replica in range(model.replicas_min - counts[m])]
    missing.sort(key=lambda m: (-space.models[m].priority, -losses.least[m], m))
    found = Fleet(losses, chosen).rescue(missing, NOWHERE, tries=1)
    starts = {(m, gpus) for m, (gpus, _mib, _node) in found.starts}
    started = {
        i
        for m, gpus in starts
        for i in space.by_gpu[gpus[0]]
        if space.candidates[i].model == m and space.candidates[i].gpus == gpus and not space.candidates[i].running
    }
    return (chosen - set(found.stops)) | started
