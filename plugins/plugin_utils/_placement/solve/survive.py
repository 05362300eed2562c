# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What the loss of any one node does to the minimums that the plan meets.

Weak: is a replica left? Strong: do the lost minimum replicas fit again into what remains, without
moving survivors; replicas beyond a model's minimum may be stopped for them. Where the greedy does not see how
and no solver decides it in the time, the loss counts as one that is not survived, and is named undecided.
"""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict

from ..model import Survivability
from ._cp_sat import cp_model
from .losses import Fleet, Losses
from .space import occupied

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import Replica
    from .budget import Budget
    from .rescue import Start
    from .space import Space

CHECK_SECONDS = 0.3
"""Seconds to prove or refute that a node's minimums fit again, at most."""

TOO_MANY = 4000
"""Places and replicas to stop beyond which no solver is asked."""


def survivability(vacant: Space, replicas: Sequence[Replica], budget: Budget) -> Survivability:
    """Look at the loss of each node that has a usable GPU, when these replicas are in the space and nothing else is."""
    wanted = [model for model in vacant.models if model.replicas_min >= 2]
    nodes_of: dict[str, set[str]] = {}
    for replica in replicas:
        nodes_of.setdefault(replica.model, set()).add(replica.node)
    at_risk = sorted(model.name for model in wanted if len(nodes_of.get(model.name, ())) < 2)
    space = occupied(vacant, replicas)
    losses = Losses(space)
    fleet = Fleet(losses, space.running)
    lost_with = {}
    undecided = []
    for node in losses.nodes:
        missing = fleet.recovery(node).missing
        proved = True
        if missing:
            missing, proved = decide(fleet, node, missing, budget)
        if missing:
            lost_with[node] = tuple(sorted({space.models[m].name for m in missing}))
            if not proved:
                undecided.append(node)
    return Survivability(
        weak_value=len(wanted) - len(at_risk),
        weak_of=len(wanted),
        weak_at_risk=tuple(at_risk),
        strong_value=len(losses.nodes) - len(lost_with),
        strong_of=len(losses.nodes),
        strong_lost_with=lost_with,
        strong_undecided=tuple(undecided),
    )


def decide(fleet: Fleet, node: str, missing: tuple[int, ...], budget: Budget) -> tuple[tuple[int, ...], bool]:
    """Return which models find no room again, given what a greedy missed; and whether it is proved that some do not."""
    refuted = tuple(sorted({m for m in missing if fleet.hopeless(m, node)}))
    if refuted:
        return missing, True
    places = sum(len(fleet.open(m, node)) for m in {*fleet.lost(node)})
    if places > TOO_MANY:
        return missing, False
    loss = _Loss(fleet, node)
    if loss.size > TOO_MANY:
        return missing, False
    solver = budget.solve(loss.model, CHECK_SECONDS)
    if solver is None:
        return missing, False
    # A bound that is below all of them, however little, is one that one of them misses: replicas are whole.
    proved = solver.best_objective_bound < loss.wanted - 0.5
    return loss.missing(solver), proved


class _Loss:
    """Where the lost replicas of a node go, and what is stopped for them, as a constraint model."""

    def __init__(self, fleet: Fleet, node: str) -> None:
        self.model = cp_model.CpModel()
        self.lost = Counter(fleet.lost(node))
        self.wanted = self.lost.total()
        self.takes: list[tuple[int, cp_model.IntVar]] = []
        self.on_gpu: defaultdict[int, list[tuple[cp_model.IntVar, int]]] = defaultdict(list)
        for m, count in sorted(self.lost.items()):
            self._place(m, count, fleet.open(m, node), fleet)
        self.size = len(self.takes)
        self.freed: defaultdict[int, list[tuple[cp_model.IntVar, int]]] = defaultdict(list)
        for spare, members in fleet.extras(node).values():
            self._stop(spare, members, fleet)
        for gpu, takes in self.on_gpu.items():
            needed = cp_model.LinearExpr.weighted_sum([var for var, _mib in takes], [mib for _var, mib in takes])
            freed = cp_model.LinearExpr.sum([var * mib for var, mib in self.freed[gpu]])
            if fleet.free[gpu] >= 0:
                self.model.add(needed - freed <= fleet.free[gpu])
                continue
            # What runs may reach into the margin, a new start may not.
            for var, _mib in takes:
                self.model.add(needed - freed <= fleet.free[gpu]).only_enforce_if(var)
        self.model.maximize(cp_model.LinearExpr.sum([var for _m, var in self.takes]))

    def _place(self, m: int, count: int, places: Sequence[Start], fleet: Fleet) -> None:
        takes = []
        together: defaultdict[t.Hashable, list[cp_model.IntVar]] = defaultdict(list)
        for gpus, mib, at in places:
            take = self.model.new_bool_var("")
            takes.append(take)
            for gpu, part in zip(gpus, mib, strict=True):
                self.on_gpu[gpu].append((take, part))
            for key in dict.fromkeys((*gpus, *fleet.keys(m, gpus, at))):
                together[key].append(take)
        for group in together.values():
            self.model.add_at_most_one(group)
        self.model.add(cp_model.LinearExpr.sum(takes) <= count)
        self.takes += [(m, take) for take in takes]

    def _stop(self, spare: int, members: Sequence[int], fleet: Fleet) -> None:
        stops = []
        for i in members:
            candidate = fleet.space.candidates[i]
            if self.on_gpu.keys().isdisjoint(candidate.gpus):
                continue
            stops.append(self.model.new_bool_var(""))
            for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
                self.freed[gpu].append((stops[-1], mib))
        self.size += len(stops)
        self.model.add(cp_model.LinearExpr.sum(stops) <= spare)

    def missing(self, solver: cp_model.CpSolver) -> tuple[int, ...]:
        """Return the models of the replicas that the solver placed nowhere."""
        placed = Counter(m for m, take in self.takes if solver.value(take))
        return tuple(sorted((self.lost - placed).elements()))
