# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Bounds for a whole fleet by a linear program over classes of GPUs, quick at any size and true whatever it rounds.

GPUs on which the same models take the same and are as fast form a class; the program decides how many replicas of
each model are in each class, in fractions, and how much time they get. Besides the VRAM of the class it has, for
j = 1 to 7, the rows of a dual feasible function: replicas that fit one GPU of capacity C have
sum(floor((j + 1) * need / (C + 1))) <= j, whatever they are, so a class of n GPUs has at most j * n.

The solver's floating-point result is not trusted: any multipliers y >= 0 of the rows A x <= b give
c x <= y b + sum(max(0, c - y A) u) for all 0 <= x <= u. That is computed in whole numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import typing as t
from collections import Counter, defaultdict

from ._cp_sat import pywraplp
from .knapsack import Table
from .unswept import unswept

if t.TYPE_CHECKING:
    from .master import Prices
    from .space import Limits, Space

RELAXED = 24
"""GPUs from which on the bounds of the program are asked for: below it the whole model is quicker and exact."""

FUNCTIONS = range(1, 8)

FEW = 6
"""Nodes up to which it is asked whether a model finds room off each of them."""

METHODS = ("", "use_dual_simplex: true", "use_preprocessing: false")
"""What the solver is set to, in turn, until it is sure of its result."""

SCALE = 1 << 60
"""Multipliers are whole numbers of 1/SCALE."""

WORTH = 1_000_000
"""What all models together are worth on a GPU, in the rows of prices."""

FRACTION = 1000
"""A GPU's time, as ``loads`` count it."""


class _Program:
    """maximise c x; A x <= b; 0 <= x <= u, all in whole numbers."""

    def __init__(self) -> None:
        self.upper: list[int] = []
        self.rows: list[tuple[dict[int, int], int]] = []

    def column(self, upper: int) -> int:
        self.upper.append(upper)
        return len(self.upper) - 1

    def row(self, terms: dict[int, int], most: int) -> None:
        self.rows.append((terms, most))

    def copy(self) -> _Program:
        """Return one that may be extended without this one."""
        found = _Program()
        found.upper, found.rows = self.upper.copy(), self.rows.copy()
        return found

    def bound(self, objective: dict[int, int]) -> int:
        """Return a number that the objective is never above."""
        multipliers = [max(0, round(SCALE * dual)) for dual in self._duals(objective)]
        rest = [SCALE * objective.get(column, 0) for column in range(len(self.upper))]
        total = 0
        for multiplier, (terms, most) in zip(multipliers, self.rows, strict=True):
            if multiplier:
                total += multiplier * most
                for column, factor in terms.items():
                    rest[column] -= multiplier * factor
        total += sum(left * upper for left, upper in zip(rest, self.upper, strict=True) if left > 0)
        return total // SCALE

    def _duals(self, objective: dict[int, int]) -> list[float]:
        for method in METHODS:
            duals = self._duals_by(method, objective)
            if duals is not None:
                return duals
        return [0.0] * len(self.rows)

    def _duals_by(self, method: str, objective: dict[int, int]) -> list[float] | None:
        solver = pywraplp.Solver.CreateSolver("GLOP")
        solver.SetSolverSpecificParametersAsString(method)
        # Each column in parts of its upper bound, each row in parts of its largest factor: numbers of one size.
        columns = [solver.NumVar(0, 1, "") for _upper in self.upper]
        rows = []
        scales = []
        for terms, most in self.rows:
            scale = max((abs(factor) * self.upper[column] for column, factor in terms.items()), default=0) or 1
            row = solver.Constraint(-solver.infinity(), most / scale)
            for column, factor in terms.items():
                row.SetCoefficient(columns[column], factor * self.upper[column] / scale)
            rows.append(row)
            scales.append(scale)
        whole = max((abs(factor) * self.upper[column] for column, factor in objective.items()), default=0) or 1
        for column, factor in objective.items():
            solver.Objective().SetCoefficient(columns[column], factor * self.upper[column] / whole)
        solver.Objective().SetMaximization()
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            return None
        return [row.dual_value() * whole / scale for row, scale in zip(rows, scales, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Part:
    """What some candidates take of a GPU of one class, the ``whole`` of them or a part."""

    model: int
    whole: bool
    places: int
    shares: int
    mib: int
    load: int


class Relaxation:
    """The program of a space in which nothing runs yet."""

    @unswept()
    def __init__(self, space: Space, limits: Limits) -> None:
        self.space = space
        self.program = _Program()
        self.short = [self.program.column(model.replicas_min) for model in space.models]
        self.rate = [self.program.column(space.demand(m, limits.ceilings[m])) for m in range(len(space.models))]
        self.count: list[dict[int, int]] = [{} for _model in space.models]
        self.homes: dict[int, str] = {}
        self._places(limits)
        for m, model in enumerate(space.models):
            most = min(limits.ceilings[m], space.holds(m))
            self.program.row(self.count[m], most)
            least = dict.fromkeys(self.count[m], -1)
            self.program.row({**least, self.short[m]: -1}, -model.replicas_min)

    def value(self, prices: Prices) -> None:
        """Add for each class what its GPUs can be worth at most at these prices.

        Any prices make true rows: a GPU's replicas, and the one that has its time, are worth no more together than
        the best filling of a knapsack of its size.
        """
        for kind, parts in self.parts.items():
            worths = [
                prices.whole.get((part.model, kind), (0.0, 0.0))
                if part.whole
                else prices.parts.get((part.model, kind, part.mib, part.load), (0.0, 0.0))
                for part in parts
            ]
            most = sum(abs(held) + abs(busy) for held, busy in worths)
            if not most > 0:
                continue
            table = Table(self.space.gpus[kind].offer_mib, int)
            terms: Counter[int] = Counter()
            offered = set()
            for part, worth in zip(parts, worths, strict=True):
                held, busy = int(WORTH * worth[0] / most), max(0, int(WORTH * worth[1] / most))
                terms[part.places] += held
                terms[part.shares] += busy * part.load // FRACTION
                what = (part.model, part.mib, part.load)
                if held + busy > 0 and what not in offered:
                    offered.add(what)
                    table.add(part.mib, held, busy)
            self.program.row(
                {column: factor for column, factor in terms.items() if factor}, int(table.best) * self.size[kind]
            )

    def _places(self, limits: Limits) -> None:
        space, program = self.space, self.program
        of = space.alike
        size = Counter(of)
        groups: defaultdict[tuple[int, int, tuple[tuple[int, int, int], ...]], set[t.Hashable]] = defaultdict(set)
        for candidate in space.candidates:
            if len(candidate.gpus) == 1:
                taken: tuple[tuple[int, int, int], ...] = (
                    (of[candidate.gpus[0]], candidate.mib[0], candidate.loads[0]),
                )
            else:
                parts = zip(candidate.gpus, candidate.mib, candidate.loads, strict=True)
                taken = tuple([(of[gpu], mib, load) for gpu, mib, load in parts])
            alike = groups[candidate.model, candidate.top, taken]
            # Of the places that spread lets no two replicas have, one counts.
            spread = space.models[candidate.model].constraints.spread
            if spread == "node":
                alike.add(candidate.node)
            else:
                alike.add(space.domains[candidate.node] if spread == "domain" else candidate.gpus)
        nodes: defaultdict[int, set[str]] = defaultdict(set)
        for gpu, kind in enumerate(of):
            nodes[kind].add(space.gpus[gpu].node)
        self.size = size
        self.parts: dict[int, list[_Part]] = {kind: [] for kind in size}
        memory: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        time: defaultdict[int, Counter[int]] = defaultdict(Counter)
        served: list[dict[int, int]] = [{column: 1} for column in self.rate]
        for (m, top, held_parts), places_of in groups.items():
            most = min(len(places_of), limits.ceilings[m])
            places, shares = program.column(most), program.column(most)
            program.row({shares: 1, places: -1}, 0)
            self.count[m][places] = 1
            # A replica is on one node, so all that are counted here are where one of their classes is.
            home = next((min(nodes[kind]) for kind, _mib, _load in held_parts if len(nodes[kind]) == 1), None)
            if home is not None:
                self.homes[places] = home
            served[m][shares] = -top
            for kind, mib, load in held_parts:
                memory[kind].append((places, mib))
                time[kind][shares] += load
                self.parts[kind].append(_Part(m, len(held_parts) == 1, places, shares, mib, load))
        for kind, held in memory.items():
            offer = space.gpus[kind].offer_mib
            program.row(_sums(held), offer * size[kind])
            for j in FUNCTIONS:
                terms = _sums([(column, (j + 1) * mib // (offer + 1)) for column, mib in held])
                program.row({column: factor for column, factor in terms.items() if factor}, j * size[kind])
            program.row(dict(time[kind]), FRACTION * size[kind])
        for terms in served:
            program.row(terms, 0)

    def least(self) -> tuple[tuple[int, ...], int]:
        """Return how many minimum replicas are missing at least, each class as few as can be, and how many survive at
        most then, weakly. Who reaches all of these has reached the best.
        """
        trial = copy.copy(self)
        trial.program = self.program.copy()
        missing = []
        for priority in self.space.classes:
            missing.append(trial.unmet(priority))
            trial.keep(priority, missing[-1])
        return tuple(missing), trial.weak()

    def unmet(self, priority: int) -> int:
        """Return how many minimum replicas of the class are missing at least."""
        return max(0, -self.program.bound(dict.fromkeys(self._short(priority), -1)))

    def keep(self, priority: int, value: int) -> None:
        """From now on no more than this many of the class are missing."""
        self.program.row(dict.fromkeys(self._short(priority), 1), value)

    def weak(self) -> int:
        """Return how many of the models that are wanted twice or more can be there twice at most.

        From now on they are columns of the program, each of which needs two places; and one off each node, which is
        asked for where a model has few nodes at all.
        """
        lasting = []
        for m, model in enumerate(self.space.models):
            nodes = {self.space.candidates[i].node for i in self.space.by_model[m]}
            if model.replicas_min >= 2 and len(nodes) >= 2:
                lasting.append(self.program.column(1))
                self.program.row({**dict.fromkeys(self.count[m], -1), lasting[-1]: 2}, 0)
                for home in (
                    ()
                    if len(nodes) > FEW
                    else {self.homes[column]: 0 for column in self.count[m] if column in self.homes}
                ):
                    off = [column for column in self.count[m] if self.homes.get(column) != home]
                    self.program.row({**dict.fromkeys(off, -1), lasting[-1]: 1}, 0)
        return self.program.bound(dict.fromkeys(lasting, 1))

    def served(self) -> int:
        """Return the weighted milli-tokens per second that can be served at most."""
        return self.program.bound(
            {column: model.weight for column, model in zip(self.rate, self.space.models, strict=True)}
        )

    def _short(self, priority: int) -> list[int]:
        return [
            column
            for column, model in zip(self.short, self.space.models, strict=True)
            if model.priority == priority and model.replicas_min > 0
        ]


def _sums(terms: list[tuple[int, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for column, factor in terms:
        total[column] += factor
    return dict(total)
