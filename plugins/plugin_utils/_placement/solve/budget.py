# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The time of a plan, counted in the solver's deterministic seconds, so that equal input ends at the same point."""

from __future__ import annotations

import typing as t
from contextlib import contextmanager

from ._cp_sat import cp_model

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..model import Objective

PACE = 0.5
"""Deterministic seconds per second asked for. One of them takes one to two seconds of two shared cores."""

SET_UP = 40e-6
"""Deterministic seconds that a solve is charged for each variable: loading and presolve, which are not all counted."""

PRICING = 25e-6
"""Deterministic seconds that are charged for each model that a GPU is priced for, the master program included."""

LOOK = 3e-7
"""Deterministic seconds that such a search is charged for each place that it looks at."""

GUARD = 10
"""Wall-clock seconds per deterministic second after which a solve is cut. Only a starved machine is that slow."""


class Budget:
    """The deterministic seconds that are left of those asked for.

    ``reproducible`` turns False once the wall clock had to cut a solve. ``refuted`` is whether the last solve proved
    that there is no solution. ``tell`` is told of each objective as it is at the start of its pass, whenever it is
    better, and at the end.
    """

    def __init__(self, seconds: float, seed: int, tell: Callable[[Objective], None] | None = None) -> None:
        self.left = seconds * PACE
        self.seed = seed
        self.tell = tell or (lambda _objective: None)
        self.reproducible = True
        self.refuted = False

    def spend(self, items: int) -> bool:
        """Charge the pricing of so many models on a GPU; tell whether time is left."""
        self.charge(PRICING * items)
        return self.left > 0

    @contextmanager
    def capped(self, part: float) -> Iterator[None]:
        """Keep the rest of what is left for later."""
        reserve = self.left * (1 - part)
        self.left -= reserve
        yield
        self.left += reserve

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Tell nobody: what is looked at is not yet the objective whose turn it is."""
        tell, self.tell = self.tell, lambda _objective: None
        yield
        self.tell = tell

    def charge(self, seconds: float) -> None:
        """Take off what was spent without a solver."""
        self.left = max(0.0, self.left - seconds)

    def solve(self, model: cp_model.CpModel, seconds: float, *, linearization: int = 1) -> cp_model.CpSolver | None:
        """Solve for at most this long; None when no solution was found.

        ``linearization`` is how much of the model the linear program has: 0 nothing, 1 what is linear, 2 all.
        """
        limit = max(0.01, min(seconds, self.left))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = self.seed
        solver.parameters.max_deterministic_time = limit
        solver.parameters.max_time_in_seconds = GUARD * limit + GUARD
        solver.parameters.linearization_level = linearization
        solver.parameters.symmetry_level = 2
        status = solver.solve(model)
        spent = solver.response_proto.deterministic_time + SET_UP * len(model.proto.variables)
        self.charge(spent)
        if status in (cp_model.FEASIBLE, cp_model.UNKNOWN) and solver.wall_time >= GUARD * limit + GUARD:
            self.reproducible = False
        self.refuted = status == cp_model.INFEASIBLE
        return solver if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None
