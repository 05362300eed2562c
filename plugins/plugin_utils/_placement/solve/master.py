# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The master program of price and dive: how many GPUs of each class get which pattern, in fractions, and its prices."""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import dataclass

from ._cp_sat import pywraplp
from .knapsack import Item

if t.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .incumbent import State
    from .space import Candidate, Space

SHORT = 4.0
"""What a missing minimum replica of the lowest priority costs, where all that could be served is worth one."""

ALONE = 2.0
"""What it costs when a model that is wanted twice or more is on one node only."""

DOMINANCE = 8.0
"""How many times that it costs in the next class, up to the fifth."""


@dataclass
class Class:
    """GPUs that are alike. ``models`` gives for each model that fits its need in MiB and its speed there."""

    room: int
    gpus: list[int]
    models: dict[int, tuple[int, int]]
    first: int = -1


@dataclass(frozen=True)
class Pattern:
    kind: int
    models: tuple[int, ...]
    busy: int | None


PartKey = tuple[int, int, int, int]
"""What some splits take of some GPUs: model, first GPU of the class, MiB, load per mille."""


@dataclass(frozen=True)
class Prices:
    """What a replica, or a part of one, is worth on a GPU by being there, and by having its whole time.

    Being there is worth less than nothing where a model has all the replicas that it may have.
    """

    whole: Mapping[tuple[int, int], tuple[float, float]]
    """By model and first GPU of the class."""
    parts: Mapping[PartKey, tuple[float, float]]


class Master:
    """The program over patterns: what is served less what is missing; all that could be served is worth one."""

    def __init__(self, space: Space, state: State, classes: Sequence[Class], unmet: Sequence[int] | None) -> None:
        self.space = space
        self.state = state
        self.classes = classes
        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        self.patterns: dict[Pattern, t.Any] = {}
        self.sold: list[tuple[float, float]] = []
        self.extra: dict[tuple[int, int], float] = {}
        self.price_of: list[float] = []
        self.values: list[float] = []
        self.split_values: list[float] = []
        self.elsewhere: dict[int, set[int]] = {}
        self.parts: dict[PartKey, int] = {}
        self.splits: list[tuple[t.Any, list[int]]] = []
        self.settled: dict[tuple[int, tuple[int, ...]], list[t.Any]] = {}
        self.demands = [max(1, space.demand(m, state.ceilings[m])) for m in range(len(space.models))]
        total = sum(model.weight * demand for model, demand in zip(space.models, self.demands, strict=True))
        ranks = {priority: rank for rank, priority in enumerate(reversed(space.classes))}
        infinity = self.solver.infinity()
        objective = self.solver.Objective()
        objective.SetMaximization()
        missing = {
            priority: self.solver.Constraint(-infinity, most)
            for priority, most in zip(space.classes, unmet or (), strict=unmet is not None)
        }
        for priority, row in missing.items():
            more = self.solver.NumVar(0, infinity, "")
            row.SetCoefficient(more, -1)
            objective.SetCoefficient(more, -SHORT * DOMINANCE ** min(4, ranks[priority]))
        self.counts, self.ceilings, self.rates = [], [], []
        for m, model in enumerate(space.models):
            short = self.solver.NumVar(0, infinity, "")
            if unmet is None:
                objective.SetCoefficient(short, -SHORT * DOMINANCE ** min(4, ranks.get(model.priority, 0)))
            elif model.priority in missing:
                missing[model.priority].SetCoefficient(short, 1)
            self.counts.append(self.solver.Constraint(0, infinity))
            self.counts[m].SetCoefficient(short, 1)
            self.ceilings.append(self.solver.Constraint(-infinity, 0))
            # In parts of the demand, so that the program's numbers are of one size.
            rate = self.solver.NumVar(0, 1, "")
            objective.SetCoefficient(rate, model.weight * self.demands[m] / max(1, total))
            self.rates.append(self.solver.Constraint(-infinity, 0))
            self.rates[m].SetCoefficient(rate, 1)
        self.sizes = [self.solver.Constraint(-infinity, 0) for _class in classes]
        self.spread = {
            (kind, m): self.solver.Constraint(-infinity, 0)
            for kind, of in enumerate(classes)
            for m in of.models
            if space.models[m].constraints.spread in ("node", "domain")
        }
        self.apart = {
            m: self.solver.Constraint(0, infinity) for m, model in enumerate(space.models) if model.replicas_min >= 2
        }
        for row in self.apart.values():
            alone = self.solver.NumVar(0, 1, "")
            row.SetCoefficient(alone, 1)
            objective.SetCoefficient(alone, -ALONE)
        self._time_of_given()
        for kind, of in enumerate(classes):
            for m in of.models:
                self.add(Pattern(kind, (m,), m))
        self.update()

    def _time_of_given(self) -> None:
        busy: dict[int, t.Any] = {}
        for i in sorted(self.state.chosen):
            candidate = self.space.candidates[i]
            share = self.solver.NumVar(0, 1, "")
            self.rates[candidate.model].SetCoefficient(share, -candidate.top / self.demands[candidate.model])
            for gpu, load in zip(candidate.gpus, candidate.loads, strict=True):
                if gpu not in busy:
                    busy[gpu] = self.solver.Constraint(-self.solver.infinity(), 1000)
                busy[gpu].SetCoefficient(share, load)

    def add_splits(self) -> None:
        """Let the program have splits: each takes a part of some GPUs, which these may have like a model."""
        space = self.space
        kind_of = {gpu: kind for kind, of in enumerate(self.classes) for gpu in of.gpus}
        groups: dict[tuple[int, int, tuple[PartKey, ...]], list[int]] = {}
        for i, candidate in enumerate(space.candidates):
            if len(candidate.gpus) > 1 and self.state.fits(i):
                held = zip(candidate.gpus, candidate.mib, candidate.loads, strict=True)
                parts = tuple(
                    sorted((candidate.model, self.classes[kind_of[gpu]].first, mib, load) for gpu, mib, load in held)
                )
                groups.setdefault((candidate.model, candidate.top, parts), []).append(i)
        for (m, top, parts), members in groups.items():
            most = min(len(members), self.state.ceilings[m])
            places, share = self.solver.NumVar(0, most, ""), self.solver.NumVar(0, most, "")
            self.splits.append((places, members))
            at_most = self.solver.Constraint(-self.solver.infinity(), 0)
            at_most.SetCoefficient(share, 1)
            at_most.SetCoefficient(places, -1)
            self.counts[m].SetCoefficient(places, 1)
            self.ceilings[m].SetCoefficient(places, 1)
            self.rates[m].SetCoefficient(share, -top / self.demands[m])
            for part, times in Counter(parts).items():
                pseudo = self._part(part, kind_of[part[1]])
                self.counts[pseudo].SetCoefficient(places, -times)
                self.rates[pseudo].SetCoefficient(share, times * part[3] / 1000)

    def splits_wanted(self) -> list[tuple[float, list[int]]]:
        """Return splits that are alike and how many of them are wanted, the most wanted first."""
        wanted = [(n, members) for n, (_places, members) in zip(self.split_values, self.splits, strict=True)]
        return sorted((pair for pair in wanted if pair[0] > 1e-6), key=lambda pair: (-pair[0], pair[1]))

    def _part(self, part: PartKey, kind: int) -> int:
        """Return the number by which patterns know a part: those after the models'."""
        if part not in self.parts:
            infinity = self.solver.infinity()
            pseudo = self.parts[part] = len(self.counts)
            self.counts.append(self.solver.Constraint(0, infinity))
            self.ceilings.append(self.solver.Constraint(-infinity, infinity))
            self.rates.append(self.solver.Constraint(-infinity, 0))
            self.demands.append(1)
            self.classes[kind].models[pseudo] = (part[2], 1)
            self.add(Pattern(kind, (pseudo,), pseudo))
        return self.parts[part]

    def update(self) -> None:
        """Take over what is settled by now."""
        space, state = self.space, self.state
        for m, model in enumerate(space.models):
            placed = len(state.nodes[m])
            self.counts[m].SetLb(max(0, model.replicas_min - placed))
            self.ceilings[m].SetUb(max(0, state.ceilings[m] - placed))
        for kind, of in enumerate(self.classes):
            self.sizes[kind].SetUb(len(of.gpus))
        nodes_of = [{space.gpus[gpu].node for gpu in of.gpus} for of in self.classes]
        for m, row in self.apart.items():
            nodes = set(state.nodes[m])
            row.SetLb(int(len(nodes) == 1))
            if len(nodes) == 1:
                self.elsewhere[m] = {kind for kind, there in enumerate(nodes_of) if there - nodes}
                for pattern, column in self.patterns.items():
                    if m in pattern.models:
                        row.SetCoefficient(column, int(pattern.kind in self.elsewhere[m]))
        for (kind, m), row in self.spread.items():
            nodes = nodes_of[kind]
            if space.models[m].constraints.spread == "node":
                row.SetUb(len(nodes.difference(state.nodes[m])))
            else:
                taken = {space.domains[node] for node in state.nodes[m]}
                row.SetUb(len({space.domains[node] for node in nodes} - taken))

    def settle(self, kind: int, models: tuple[int, ...]) -> None:
        """Count a GPU that holds these models: its time may still go to any of them."""
        if (kind, models) not in self.settled:
            row = self.solver.Constraint(-self.solver.infinity(), 0)
            self.settled[kind, models] = [row]
            for m in models:
                share = self.solver.NumVar(0, 0, "")
                row.SetCoefficient(share, 1)
                self.rates[m].SetCoefficient(share, -self.classes[kind].models[m][1] / self.demands[m])
                self.settled[kind, models].append(share)
        row, *shares = self.settled[kind, models]
        number = row.ub() + 1
        row.SetUb(number)
        for share in shares:
            share.SetUb(number)

    def add(self, pattern: Pattern) -> bool:
        """Add a pattern; False when it is there already."""
        if pattern in self.patterns:
            return False
        column = self.solver.NumVar(0, self.solver.infinity(), "")
        self.patterns[pattern] = column
        self.sizes[pattern.kind].SetCoefficient(column, 1)
        for m in pattern.models:
            self.counts[m].SetCoefficient(column, 1)
            self.ceilings[m].SetCoefficient(column, 1)
            if (pattern.kind, m) in self.spread:
                self.spread[pattern.kind, m].SetCoefficient(column, 1)
            if pattern.kind in self.elsewhere.get(m, ()):
                self.apart[m].SetCoefficient(column, 1)
        if pattern.busy is not None:
            top = self.classes[pattern.kind].models[pattern.busy][1]
            self.rates[pattern.busy].SetCoefficient(column, -top / self.demands[pattern.busy])
        return True

    def solve(self) -> None:
        """Solve the program, and take its prices."""
        if self.solver.Solve() != pywraplp.Solver.OPTIMAL:
            # Nothing is known to be worth anything, nothing is wanted: what is settled stays.
            self.sold = [(0.0, 0.0)] * len(self.counts)
            self.price_of = [0.0] * len(self.sizes)
            self.values = []
            self.split_values = [0.0] * len(self.splits)
            return
        self.sold = [
            (count.dual_value() + ceiling.dual_value(), rate.dual_value() / demand)
            for count, ceiling, rate, demand in zip(self.counts, self.ceilings, self.rates, self.demands, strict=True)
        ]
        self.extra = {key: row.dual_value() for key, row in self.spread.items()}
        for m, row in self.apart.items():
            for kind in self.elsewhere.get(m, ()):
                self.extra[kind, m] = self.extra.get((kind, m), 0.0) + row.dual_value()
        self.price_of = [row.dual_value() for row in self.sizes]
        self.values = [column.solution_value() for column in self.patterns.values()]
        self.split_values = [places.solution_value() for places, _members in self.splits]

    def wanted(self) -> list[tuple[float, Pattern]]:
        """Return the patterns that are wanted, the most wanted first."""
        # Patterns that were added since have no value yet.
        valued = zip(self.values, self.patterns, strict=False)
        found = [(n, pattern) for n, pattern in valued if n > 1e-6 and self.classes[pattern.kind].gpus]
        return sorted(found, key=lambda pair: (-pair[0], pair[1].kind, pair[1].models, pair[1].busy or 0))

    def prices(self) -> Prices:
        worth = {
            (m, of.first): (self._held(kind, m), self._busy(kind, m))
            for kind, of in enumerate(self.classes)
            for m in of.models
        }
        pseudo = {number: part for part, number in self.parts.items()}
        return Prices(
            {key: pair for key, pair in worth.items() if key[0] not in pseudo},
            {pseudo[m]: pair for (m, _first), pair in worth.items() if m in pseudo},
        )

    def price(self, kind: int) -> float:
        return self.price_of[kind]

    def items(self, kind: int) -> list[Item]:
        """Return what each model is worth on a GPU of the class."""
        found = []
        for m, (mib, _top) in self.classes[kind].models.items():
            held, busy = self._held(kind, m), self._busy(kind, m)
            if held + max(0.0, busy) > 0:
                found.append(Item(m, mib, held, busy))
        return found

    def worth(self, kind: int, candidate: Candidate, gpu: int) -> tuple[float, float]:
        """Return what a replica, or its part on a GPU of the class, is worth by being there, and by having its time."""
        m = candidate.model
        if len(candidate.gpus) == 1:
            return self._held(kind, m), self.sold[m][1] * candidate.top
        place = candidate.gpus.index(gpu)
        part = self.parts.get((m, self.classes[kind].first, candidate.mib[place], candidate.loads[place]))
        return (0.0, 0.0) if part is None else (self._held(kind, part), self._busy(kind, part))

    def _held(self, kind: int, m: int) -> float:
        return -self.sold[m][0] - self.extra.get((kind, m), 0.0)

    def _busy(self, kind: int, m: int) -> float:
        return self.sold[m][1] * self.classes[kind].models[m][1]
