# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A placement of the whole fleet by price and dive: column generation over what one GPU can hold, then rounding.

GPUs with the same room that are the same to every model form a class. A *pattern* is a set of models that one GPU of a
class holds together, and the one of them that has its time. The master program decides how many GPUs of each class get
which pattern, in fractions; its prices make a knapsack of each class, whose best filling is the next pattern
(Gilmore and Gomory, 1961). When no filling is worth more than its price, patterns are settled on GPUs, those first
that the program wants wholly, and the rest is decided again.

Replicas that are split over GPUs are given, as what runs is: patterns are for the room that these leave.
"""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import dataclass

from ._cp_sat import pywraplp
from .incumbent import State
from .knapsack import Item, fill

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .space import Limits, Space


class Effort(t.NamedTuple):
    """Rounds of pricing at most: before the first pattern is settled, and between two settlements."""

    first: int
    between: int


HASTY = Effort(8, 1)
THOROUGH = Effort(80, 6)

SETTLED = 0.04
"""Part of the open GPUs that is settled in a step when the program wants no pattern wholly."""

SPLIT_STEPS = 12
"""Times that the program is asked for splits, at most."""

ALMOST = 0.7
"""Part of a split from which on it is taken for wanted wholly."""

SHORT = 4.0
"""What a missing minimum replica of the lowest priority costs, where all that could be served is worth one."""

ALONE = 2.0
"""What it costs when a model that is wanted twice or more is on one node only."""

DOMINANCE = 8.0
"""How many times that it costs in the next class, up to the fifth."""

OPEN = 1e-3
"""What new patterns could add to the program at most for it to be done, where all that is served is worth one."""

EXACT = 1e-4
"""The same where the prices are for a bound."""


@dataclass
class _Class:
    """GPUs that are alike. ``models`` gives for each model that fits its need in MiB and its speed there."""

    room: int
    gpus: list[int]
    models: dict[int, tuple[int, int]]
    first: int = -1


@dataclass(frozen=True)
class _Pattern:
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


def prices(space: Space, limits: Limits, spend: Callable[[int], bool], unmet: Sequence[int] | None = None) -> Prices:
    """Return what all is worth on the empty fleet, with splits, and just so many minimum replicas missing by class."""
    program = _Dive(space, limits, (), spend, unmet=unmet, splits=True)
    program.converge(THOROUGH.first, gap=EXACT)
    return program.master.prices()


def dive(
    space: Space,
    limits: Limits,
    given: Iterable[int],
    spend: Callable[[int], bool],
    *,
    unmet: Sequence[int] | None = None,
    effort: Effort = THOROUGH,
    closed: frozenset[int] = frozenset(),
) -> State:
    """Return a placement that has the given candidates and is completed by patterns.

    ``spend`` is told of the work done, in models that a GPU is priced for, and says whether there is time for more.
    ``unmet`` is how many minimum replicas of each class may be missing; else one costs more than all that is served.
    Nothing is put on the ``closed`` GPUs.
    """
    chosen = frozenset(given)
    if any(len(candidate.gpus) > 1 and not candidate.running for candidate in space.candidates):
        for _step in range(SPLIT_STEPS):
            program = _Dive(space, limits, chosen, spend, unmet=unmet, splits=True, closed=closed)
            program.converge(effort.first)
            more = program.settle_splits()
            if not more:
                break
            chosen |= more
    return _Dive(space, limits, chosen, spend, unmet=unmet, closed=closed).run(effort)


class _Dive:
    def __init__(
        self,
        space: Space,
        limits: Limits,
        given: Iterable[int],
        spend: Callable[[int], bool],
        *,
        unmet: Sequence[int] | None = None,
        splits: bool = False,
        closed: frozenset[int] = frozenset(),
    ) -> None:
        self.space = space
        self.spend = spend
        self.state = State(space, limits.ceilings, given, closed)
        self.single = [_singles(space, gpu) for gpu in range(len(space.gpus))]
        self.classes = _classes(space, self.state, self.single)
        self.master = _Master(space, self.state, self.classes, unmet)
        if splits:
            self.master.add_splits()

    def converge(self, rounds: int, gap: float = OPEN) -> None:
        """Price patterns until new ones could add no more than the gap."""
        self.master.solve()
        for done in range(rounds):
            # What is hasty is done also when the time is over, for a placement is wanted.
            if (done >= HASTY.first and not self.spend(0)) or self._price() <= gap:
                break
            self.master.solve()

    def settle_splits(self) -> frozenset[int]:
        """Take the splits that the program wants (almost) wholly, or else the one that it wants most."""
        before = frozenset(self.state.chosen)
        wanted = self.master.splits_wanted()
        whole = [pair for pair in wanted if pair[0] >= ALMOST] or wanted[:1]
        for number, candidates in whole:
            for _replica in range(max(1, int(number + 1 - ALMOST))):
                fitting = [i for i in candidates if self.state.fits(i)]
                if fitting:
                    self.state.take(min(fitting, key=lambda i: (self.state.new_node(i), i)))
        return frozenset(self.state.chosen) - before

    def run(self, effort: Effort) -> State:
        rounds = effort.first
        while any(of.gpus for of in self.classes):
            self.converge(rounds)
            if not self._settle(self.master.wanted()):
                break
            rounds = effort.between
        return self.state

    def _price(self) -> float:
        """Add the pattern of each class that is worth the most, if that is above its price; return what all add."""
        found = []
        gap = 0.0
        for kind, of in enumerate(self.classes):
            if of.gpus:
                items = self.master.items(kind)
                worth, models, busy = fill(items, of.room)
                self.spend(len(items))
                above = worth - self.master.price(kind)
                if above > 0:
                    gap += above * len(of.gpus)
                    found.append(_Pattern(kind, models, busy))
        if gap > 0:
            # Prices are gone once the program has changed.
            new = [self.master.add(pattern) for pattern in found]
            return gap if any(new) else 0.0
        return 0.0

    def _settle(self, wanted: Sequence[tuple[float, _Pattern]]) -> bool:
        """Give GPUs the patterns that are wanted wholly, or else those wanted most; tell whether there were any."""
        chosen = [(int(number + 1e-6), pattern) for number, pattern in wanted if number >= 1 - 1e-6]
        if not chosen:
            most = max(1, int(SETTLED * sum(len(of.gpus) for of in self.classes)))
            chosen = [(1, pattern) for number, pattern in wanted[:most] if number > 1e-6]
        for number, pattern in chosen:
            for _gpu in range(min(number, len(self.classes[pattern.kind].gpus))):
                self._give(pattern)
        self.master.update()
        return bool(chosen)

    def _give(self, pattern: _Pattern) -> None:
        """Put the pattern on the GPU of its class where most of it may be."""

        def misfit(gpu: int) -> tuple[int, int, int]:
            fitting = [self.single[gpu][m] for m in pattern.models if self.state.fits(self.single[gpu][m])]
            return (-len(fitting), sum(self.state.new_node(i) for i in fitting), gpu)

        gpus = self.classes[pattern.kind].gpus
        gpu = min(gpus, key=misfit)
        gpus.remove(gpu)
        placed = [m for m in pattern.models if self.state.fits(self.single[gpu][m])]
        for m in placed:
            self.state.take(self.single[gpu][m])
        self.master.settle(pattern.kind, tuple(placed))


def _singles(space: Space, gpu: int) -> dict[int, int]:
    """Return for each model its candidate that is wholly on this GPU and could start there."""
    return {
        space.candidates[i].model: i
        for i in space.by_gpu[gpu]
        if len(space.candidates[i].gpus) == 1 and not space.candidates[i].running
    }


def _classes(space: Space, state: State, single: Sequence[dict[int, int]]) -> list[_Class]:
    found: dict[t.Hashable, _Class] = {}
    for gpu, places in enumerate(single):
        room = state.free[gpu]
        models = {
            m: (space.candidates[i].mib[0], space.candidates[i].top)
            for m, i in places.items()
            if space.candidates[i].mib[0] <= room and m not in state.on_gpu[gpu]
        }
        of = found.setdefault((room, tuple(models.items())), _Class(room, [], models, gpu))
        of.gpus.append(gpu)
    return list(found.values())


class _Master:
    """The program over patterns: what is served less what is missing; all that could be served is worth one."""

    def __init__(self, space: Space, state: State, classes: Sequence[_Class], unmet: Sequence[int] | None) -> None:
        self.space = space
        self.state = state
        self.classes = classes
        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        self.patterns: dict[_Pattern, t.Any] = {}
        self.sold: list[tuple[float, float]] = []
        self.extra: dict[tuple[int, int], float] = {}
        self.price_of: list[float] = []
        self.values: dict[_Pattern, float] = {}
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
                self.add(_Pattern(kind, (m,), m))
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
            self.add(_Pattern(kind, (pseudo,), pseudo))
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

    def add(self, pattern: _Pattern) -> bool:
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
            self.values = {}
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
        self.values = {pattern: column.solution_value() for pattern, column in self.patterns.items()}
        self.split_values = [places.solution_value() for places, _members in self.splits]

    def wanted(self) -> list[tuple[float, _Pattern]]:
        """Return the patterns that are wanted, the most wanted first."""
        found = [(n, pattern) for pattern, n in self.values.items() if n > 1e-6 and self.classes[pattern.kind].gpus]
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

    def _held(self, kind: int, m: int) -> float:
        return -self.sold[m][0] - self.extra.get((kind, m), 0.0)

    def _busy(self, kind: int, m: int) -> float:
        return self.sold[m][1] * self.classes[kind].models[m][1]
