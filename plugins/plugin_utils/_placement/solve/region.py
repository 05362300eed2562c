# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Some GPUs of a large fleet placed anew, while all other replicas stay where they are and keep their time."""

from __future__ import annotations

import dataclasses
import typing as t

from .formulation import Formulation
from .incumbent import share_time
from .space import Solution, Space

if t.TYPE_CHECKING:
    import random
    from collections.abc import Collection, Sequence

    from ._cp_sat import cp_model
    from .space import Limits


def neighbours(space: Space, solution: Solution, draw: random.Random, count: int) -> set[int]:
    """Draw GPUs to place anew together; some of them could hold a model that misses replicas, if one does."""
    short = [
        m
        for m, model in enumerate(space.models)
        if space.by_model[m] and model.replicas_min > sum(i in solution.chosen for i in space.by_model[m])
    ]
    wanted: set[int] = set()
    if short:
        hosts = sorted({gpu for i in space.by_model[draw.choice(short)] for gpu in space.candidates[i].gpus})
        wanted = set(draw.sample(hosts, min(len(hosts), count // 2)))
    others = [gpu for gpu in range(len(space.gpus)) if gpu not in wanted]
    return wanted | set(draw.sample(others, min(len(others), count - len(wanted))))


class Region:
    """The constraint model of the candidates that are wholly on these GPUs; all others are as in the solution.

    Of all losses those of ``nodes`` count.
    """

    def __init__(
        self, space: Space, limits: Limits, solution: Solution, gpus: Collection[int], nodes: Sequence[str] = ()
    ) -> None:
        self.whole = space
        there = frozenset(gpus)
        free = {i for gpu in there for i in space.by_gpu[gpu] if there.issuperset(space.candidates[i].gpus)}
        # What runs counts for the budget of moves, wherever it is and whether it is chosen or not.
        self.members = sorted(free | solution.chosen | set(space.running))
        position = {i: place for place, i in enumerate(self.members)}
        part = dataclasses.replace(
            space,
            candidates=tuple(space.candidates[i] for i in self.members),
            by_model=_sorted_by(((space.candidates[i].model,) for i in self.members), len(space.models)),
            by_gpu=_sorted_by(
                (tuple(there.intersection(space.candidates[i].gpus)) for i in self.members), len(space.gpus)
            ),
        )
        self.formulation = Formulation(
            part,
            limits,
            Solution(
                frozenset(position[i] for i in solution.chosen),
                {position[i]: slots for i, slots in solution.slots.items() if i in position},
            ),
            settled=frozenset(position[i] for i in self.members if i not in free),
            nodes=nodes,
        )

    def chosen(self, solver: cp_model.CpSolver) -> frozenset[int]:
        """Return what the solver's solution takes of the whole space."""
        return frozenset(self.members[place] for place in self.formulation.chosen(solver))

    def read(self, solver: cp_model.CpSolver) -> Solution:
        """Return the solver's solution as one of the whole space."""
        found = self.formulation.read(solver)
        chosen = frozenset(self.members[place] for place in found.chosen)
        if self.formulation.slots:
            return Solution(chosen, {self.members[place]: slots for place, slots in found.slots.items()})
        return Solution(chosen, share_time(self.whole, chosen))


def _sorted_by(keys: t.Iterable[tuple[int, ...]], count: int) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _key in range(count)]
    for place, of in enumerate(keys):
        for key in of:
            found[key].append(place)
    return tuple(tuple(places) for places in found)
