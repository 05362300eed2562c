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

import dataclasses
import typing as t
from collections import Counter

from ..model import Survivability
from ._cp_sat import cp_model
from .formulation import Formulation
from .incumbent import minimums, share_time
from .passes import TOO_BIG
from .space import Limits, Solution, build

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model import Problem, Replica
    from .passes import Budget
    from .space import Space

CHECK_SECONDS = 1
"""Seconds to prove or refute that a node's minimums fit again, at most."""


def survivability(problem: Problem, replicas: Sequence[Replica], budget: Budget) -> Survivability:
    """Look at the loss of each node that has a usable GPU."""
    wanted = [model for model in problem.models if model.replicas_min >= 2]
    nodes_of: dict[str, set[str]] = {}
    for replica in replicas:
        nodes_of.setdefault(replica.model, set()).add(replica.node)
    at_risk = sorted(model.name for model in wanted if len(nodes_of.get(model.name, ())) < 2)
    losses = sorted({gpu.node for gpu in problem.gpus if gpu.usable})
    lost_with = {}
    undecided = []
    for node in losses:
        lost, proved = _lost_with(problem, replicas, node, budget)
        if lost:
            lost_with[node] = lost
            if not proved:
                undecided.append(node)
    return Survivability(
        weak_value=len(wanted) - len(at_risk),
        weak_of=len(wanted),
        weak_at_risk=tuple(at_risk),
        strong_value=len(losses) - len(lost_with),
        strong_of=len(losses),
        strong_lost_with=lost_with,
        strong_undecided=tuple(undecided),
    )


def _lost_with(
    problem: Problem, replicas: Sequence[Replica], node: str, budget: Budget
) -> tuple[tuple[str, ...], bool]:
    """Return the models whose minimums were not all met again after the loss of the node; and whether none could."""
    survivors = [replica for replica in replicas if replica.node != node]
    before = Counter(replica.model for replica in replicas)
    after = Counter(replica.model for replica in survivors)
    goals = {model.name: min(model.replicas_min, before[model.name]) for model in problem.models}
    short = {name for name, goal in goals.items() if after[name] < goal}
    if not short:
        return (), True
    rest = dataclasses.replace(
        problem,
        gpus=tuple(gpu for gpu in problem.gpus if gpu.node != node),
        models=tuple(dataclasses.replace(model, replicas_min=goals[model.name]) for model in problem.models),
    )
    space = build(rest, survivors, short)
    return _unplaced(space, goals, budget)


def _unplaced(space: Space, goals: dict[str, int], budget: Budget) -> tuple[tuple[str, ...], bool]:
    ceilings = tuple(goals[model.name] for model in space.models)
    surviving = [sum(1 for i in members if space.candidates[i].running) for members in space.by_model]
    # Survivors count towards the goal; those beyond it are the extras.
    room = Limits(ceilings=tuple(max(pair) for pair in zip(ceilings, surviving, strict=True)))
    tried = []
    for placed in minimums(space, room, frozenset(space.running)):
        tried.append((len(missing := _missing(space, goals, placed)), missing, placed))
        if not missing:
            return (), True
    _count, missing, placed = min(tried, key=lambda item: item[:2])
    if len(space.candidates) > TOO_BIG:
        return missing, False
    solution = Solution(placed, share_time(space, placed))
    formulation = Formulation(space, dataclasses.replace(room, fixed=False), solution)
    for m, members in enumerate(space.by_model):
        running = [formulation.take[i] for i in members if space.candidates[i].running]
        formulation.model.add(cp_model.LinearExpr.sum(running) >= min(goals[space.models[m].name], surviving[m]))
    formulation.model.minimize(cp_model.LinearExpr.sum(formulation.short))
    formulation.hint()
    solver = budget.solve(formulation.model, CHECK_SECONDS)
    if solver is None:
        return missing, False
    # A bound that is above none, however little, is none at all: numbers of replicas are whole.
    proved = solver.best_objective_bound > 0.5
    return _missing(space, goals, formulation.read(solver).chosen), proved


def _missing(space: Space, goals: dict[str, int], chosen: frozenset[int]) -> tuple[str, ...]:
    placed = Counter(space.models[space.candidates[i].model].name for i in chosen)
    return tuple(sorted(name for name, goal in goals.items() if placed[name] < goal))
