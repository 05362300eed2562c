# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What no placement can exceed: a linear program over classes of GPUs, apart from the engine's own bounds.

GPUs with the same offer and the same needs are one class, nodes with the same cards one type. The program decides how
many replicas of a model lie in each class, as fractions. Rows with dual feasible functions (Fekete and Schepers,
2001: an item counts for ⌊(j+1)·need/(offer+1)⌋ of j) know that two models of 13 GiB do not share 24. It holds for
fresh plans. GLOP answers in floating point; bounds are widened by one in a million.
"""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict
from math import ceil

import numpy as np
from _places import NEVER, Place, World
from ortools.linear_solver import pywraplp

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Model

WIDEN = 1e-6
FUNCTIONS = range(1, 8)
SMALL = 40
"""GPUs up to which splits of models that fit one GPU of the fleet are looked at too. The engine makes none."""


class Bound:
    """Bounds for a fleet; ``without`` is the type of one node that is lost."""

    def __init__(self, world: World, without: int | None = None) -> None:
        self.world = world
        matrix = np.stack([world.needs(model) for model in world.models.values()] + [world.offer])
        keys = [matrix[:, i].tobytes() + gpu.kind.encode() for i, gpu in enumerate(world.gpus)]
        numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        self.class_of = [numbers[key] for key in keys]
        shapes = [tuple(self.class_of[gpu] for gpu in local) for local in world.members]
        self.types = list(dict.fromkeys(shapes))
        self.type_of = [self.types.index(shape) for shape in shapes]
        self.nodes = Counter(self.type_of)
        if without is not None:
            self.nodes[without] -= 1
        self.count: Counter[int] = Counter()
        for number, shape in enumerate(self.types):
            for gpu_class in shape:
                self.count[gpu_class] += self.nodes[number]
        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        self.rows: dict[object, t.Any] = {}
        self.short: dict[str, t.Any] = {}
        self.rates: list[tuple[int, t.Any]] = []
        for model in world.models.values():
            self._add(model)

    def _row(self, key: object, most: float) -> t.Any:
        if key not in self.rows:
            self.rows[key] = self.solver.Constraint(-self.solver.infinity(), most)
        return self.rows[key]

    def _columns(self, model: Model) -> dict[object, tuple[int, Place]]:
        """One place of each different form: (type of node, classes), with the type."""
        world = self.world
        needs = world.needs(model)
        found: dict[object, tuple[int, Place]] = {}
        alone = needs.min() < NEVER
        for node in {self.type_of[n]: n for n in reversed(range(len(world.nodes)))}.values():
            kind = self.type_of[node]
            for gpu in world.members[node]:
                if needs[gpu] < NEVER:
                    found.setdefault((kind, self.class_of[gpu]), (kind, world.whole(model, gpu)))
            if not alone or len(world.gpus) <= SMALL:
                for place in world.subsets(model, node):
                    found.setdefault((kind, *(self.class_of[gpu] for gpu in place.gpus)), (kind, place))
        return found

    def _add(self, model: Model) -> None:
        solver, endless = self.solver, self.solver.infinity()
        domains = len(set(self.world.domain_of))
        most = min(model.replicas_max, domains) if model.constraints.spread == "domain" else model.replicas_max
        number = self._row(("most", model.name), most)
        served = self._row(("demand", model.name), endless if model.demand is None else model.demand / 1000)
        least = solver.Constraint(model.replicas_min, endless)
        self.short[model.name] = solver.NumVar(0, model.replicas_min, "")
        least.SetCoefficient(self.short[model.name], 1)
        for kind, place in self._columns(model).values():
            replicas, rate = solver.NumVar(0, endless, ""), solver.NumVar(0, endless, "")
            self.rates.append((model.weight, rate))
            number.SetCoefficient(replicas, 1)
            least.SetCoefficient(replicas, 1)
            served.SetCoefficient(rate, 1)
            if model.constraints.spread in ("node", "domain"):
                self._row(("spread", model.name, kind), self.nodes[kind]).SetCoefficient(replicas, 1)
            whole = solver.Constraint(-endless, 0)
            whole.SetCoefficient(rate, max(place.times) / 1e9)
            whole.SetCoefficient(replicas, -1)
            self._use(model, place, replicas, rate)

    def _use(self, model: Model, place: Place, replicas: t.Any, rate: t.Any) -> None:
        load: dict[object, float] = defaultdict(float)
        busy: dict[object, float] = defaultdict(float)
        for gpu, mib, time in zip(place.gpus, place.mib, place.times, strict=True):
            own, offer = self.class_of[gpu], int(self.world.offer[gpu])
            number = self.count[own]
            load["mib", own, offer * number] += mib
            load[f"once {model.name}", own, number] += 1
            busy["time", own, number] += time / 1e9
            for j in FUNCTIONS:
                load[f"function {j}", own, j * number] += (j + 1) * mib // (offer + 1)
        for variable, terms in ((replicas, load), (rate, busy)):
            for key, coefficient in terms.items():
                name, own, most = t.cast("tuple[str, int, float]", key)
                if coefficient:
                    self._row((name, own), most).SetCoefficient(variable, coefficient)

    def unmet(self, priorities: Sequence[int]) -> tuple[int, ...]:
        """The fewest missing minimums of each class, given those before it."""
        objective = self.solver.Objective()
        found = []
        for priority in priorities:
            objective.Clear()
            objective.SetMinimization()
            shorts = [self.short[m.name] for m in self.world.models.values() if m.priority == priority]
            keep = self.solver.Constraint(0, self.solver.infinity())
            for short in shorts:
                objective.SetCoefficient(short, 1)
                keep.SetCoefficient(short, 1)
            found.append(ceil(self._solved() - 1e-5))
            keep.SetUb(found[-1])
        return tuple(found)

    def served(self, unmet: dict[int, int]) -> float:
        """The most weighted tokens per second of a placement that misses so many minimums of each class at most."""
        for priority, most in unmet.items():
            keep = self._row(("unmet", priority), most)
            for model in self.world.models.values():
                if model.priority == priority:
                    keep.SetCoefficient(self.short[model.name], 1)
        objective = self.solver.Objective()
        objective.Clear()
        objective.SetMaximization()
        for weight, rate in self.rates:
            objective.SetCoefficient(rate, weight)
        return self._solved() * (1 + WIDEN)

    def _solved(self) -> float:
        status = self.solver.Solve()
        if status != pywraplp.Solver.OPTIMAL:
            raise RuntimeError(f"the linear program of the bound ended with status {status}")
        return float(self.solver.Objective().Value())


def survivable(world: World, met: dict[int, int], asked: dict[int, int]) -> int:
    """How many single node losses could be survived at most, by any placement that meets as many minimums."""
    whole = Bound(world)
    total = 0
    for kind, count in whole.nodes.items():
        rest = Bound(world, kind).unmet(list(asked))
        total += count * all(
            asked[priority] - lost >= met[priority] for priority, lost in zip(asked, rest, strict=True)
        )
    return total
