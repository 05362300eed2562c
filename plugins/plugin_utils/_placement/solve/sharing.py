# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The time of the GPUs, divided among replicas whose places are settled, so that the most is served.

With the places given this is a linear program. Its answer is rounded down to slots, and what the rounding left is
handed out greedily, so a division is always one that the GPUs have the time for.
"""

from __future__ import annotations

import typing as t

from ._cp_sat import pywraplp
from .incumbent import share_time
from .space import LOAD, SLOTS, Solution, served

if t.TYPE_CHECKING:
    from .space import Space


def divide(space: Space, chosen: frozenset[int]) -> Solution:
    """Return the chosen places with the division of time that serves the most."""
    quick = Solution(chosen, share_time(space, chosen))
    shares = _program(space, chosen)
    slots = {i: int(SLOTS * share * (1 - 1e-9)) for i, share in shares.items()}
    exact = Solution(chosen, share_time(space, chosen, slots))
    return max(quick, exact, key=lambda solution: served(space, solution))


def _program(space: Space, chosen: frozenset[int]) -> dict[int, float]:
    solver = pywraplp.Solver.CreateSolver("GLOP")
    members = sorted(chosen)
    share = {i: solver.NumVar(0, 1, "") for i in members}
    busy: dict[int, t.Any] = {}
    rates: dict[int, t.Any] = {}
    objective = solver.Objective()
    objective.SetMaximization()
    for i in members:
        candidate = space.candidates[i]
        model = space.models[candidate.model]
        if candidate.model not in rates:
            most = solver.infinity() if model.demand is None else model.demand
            rate = solver.NumVar(0, most, "")
            rates[candidate.model] = solver.Constraint(-solver.infinity(), 0)
            rates[candidate.model].SetCoefficient(rate, 1)
            objective.SetCoefficient(rate, model.weight)
        rates[candidate.model].SetCoefficient(share[i], -candidate.top)
        for gpu, load in zip(candidate.gpus, candidate.loads, strict=True):
            if gpu not in busy:
                busy[gpu] = solver.Constraint(-solver.infinity(), LOAD)
            busy[gpu].SetCoefficient(share[i], load)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return {}
    return {i: max(0.0, min(1.0, share[i].solution_value())) for i in members}
