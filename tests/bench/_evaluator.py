# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Judges a placement, whoever made it: is it valid, and what is it worth. Shares no code with the engine.

Served demand is the optimum of a linear program over the time of the GPUs, the same for everyone.
"""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict
from dataclasses import dataclass

from _places import Place, World, may_use
from _survival import Strong, strong
from ortools.linear_solver import pywraplp

if t.TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Model, Replica

PORTS = range(11500, 12000)


@dataclass(frozen=True)
class Score:
    """What a placement is worth. ``asked`` and ``met`` are minimum replicas by priority, the highest first.

    ``inversions`` are models that miss a minimum although a GPU would have room but for lower priorities.
    ``served`` and ``demand`` are weighted tokens per second, ``gib`` all VRAM that is taken.
    """

    asked: dict[int, int]
    met: dict[int, int]
    inversions: int
    weak: int
    weak_of: int
    strong: Strong
    served: float
    demand: float
    replicas: int
    gib: float

    @property
    def unmet(self) -> tuple[int, ...]:
        """Missing minimum replicas by class, the highest priority first."""
        return tuple(self.asked[priority] - self.met[priority] for priority in self.asked)


def evaluate(world: World, replicas: Sequence[Replica], *, exact_strong: bool) -> Score:
    """The worth of a valid placement. Without ``exact_strong`` the strong N-1 is what a greedy finds, a lower bound."""
    classes = sorted({m.priority for m in world.models.values() if m.replicas_min}, reverse=True)
    count = Counter(replica.model for replica in replicas)
    asked = dict.fromkeys(classes, 0)
    met = dict.fromkeys(classes, 0)
    for model in world.models.values():
        if model.replicas_min:
            asked[model.priority] += model.replicas_min
            met[model.priority] += min(model.replicas_min, count[model.name])
    twice = [model.name for model in world.models.values() if model.replicas_min >= 2]
    nodes = defaultdict(set)
    for replica in replicas:
        nodes[replica.model].add(replica.node)
    demands = [(model.weight, model.demand or 0) for model in world.models.values()]
    return Score(
        asked=asked,
        met=met,
        inversions=inversions(world, replicas),
        weak=sum(len(nodes[name]) >= 2 for name in twice),
        weak_of=len(twice),
        strong=strong(world, replicas, exact=exact_strong),
        served=served(world, replicas),
        demand=sum(weight * demand for weight, demand in demands) / 1000,
        replicas=len(replicas),
        gib=sum(share.vram_mib for replica in replicas for share in replica.gpus) / 1024,
    )


def inversions(world: World, replicas: Sequence[Replica]) -> int:
    """Models that miss a minimum, and for which one GPU would do if only what is of lower priority were not there."""
    count = Counter(replica.model for replica in replicas)
    found = 0
    for model in world.models.values():
        if count[model.name] < model.replicas_min:
            free = world.offer.copy()
            mine = set()
            for replica in replicas:
                if world.models[replica.model].priority >= model.priority:
                    for share in replica.gpus:
                        free[world.position[replica.node, share.id]] -= share.vram_mib
                if replica.model == model.name:
                    mine |= {world.position[replica.node, share.id] for share in replica.gpus}
            room = world.needs(model) <= free
            room[list(world.closed(model, mine))] = False
            found += bool(room.any())
    return found


def served(world: World, replicas: Sequence[Replica]) -> float:
    """The most weighted tokens per second that the replicas can serve: Σ rate · time ≤ 1 on each GPU."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    busy: dict[int, t.Any] = {}
    total: dict[str, t.Any] = {}
    objective = solver.Objective()
    objective.SetMaximization()
    for replica in replicas:
        model = world.models[replica.model]
        if model.name not in total:
            most = solver.infinity() if model.demand is None else model.demand / 1000
            total[model.name] = solver.Constraint(0, most)
        rate = solver.NumVar(0, solver.infinity(), "")
        total[model.name].SetCoefficient(rate, 1)
        objective.SetCoefficient(rate, model.weight)
        whole = sum(share.layers for share in replica.gpus)
        for share in replica.gpus:
            gpu = world.position[replica.node, share.id]
            need = next(n for n in model.needs[world.gpus[gpu].kind] if n.runner == replica.runner)
            busy.setdefault(gpu, solver.Constraint(0, 1)).SetCoefficient(
                rate, -(-need.nanoseconds * share.layers // whole) / 1e9
            )
    status = solver.Solve()
    if status != pywraplp.Solver.OPTIMAL:
        raise RuntimeError(f"the linear program of the served demand ended with status {status}")
    return float(objective.Value())


def moved_gib(before: Sequence[Replica], after: Sequence[Replica]) -> float:
    """GiB of replicas in places where the same model did not run before."""
    there = {_where(replica) for replica in before}
    return sum(share.vram_mib for r in after if _where(r) not in there for share in r.gpus) / 1024


def _where(replica: Replica) -> tuple[object, ...]:
    return (replica.model, replica.node, replica.runner, tuple((s.id, s.layers) for s in replica.gpus))


# --- validity -------------------------------------------------------------------------------


def faults(world: World, replicas: Sequence[Replica], running: Collection[str] = ()) -> list[str]:
    """All that is wrong with a placement.

    ``running`` are the ids that run already: they keep what they hold, and the margin does not bind them.
    """
    found = [
        f"{replica.id}: {fault}" for replica in replicas for fault in _alone(world, replica, replica.id in running)
    ]
    if not found:
        found += _rooms(world, replicas, running)
        found += _siblings(world, replicas)
    ids = Counter(replica.id for replica in replicas)
    ports = Counter((replica.node, replica.port) for replica in replicas)
    found += [f"the id {name} is given {n} times" for name, n in ids.items() if n > 1]
    found += [f"port {port} of {node} is given {n} times" for (node, port), n in ports.items() if n > 1]
    return found


def _alone(world: World, replica: Replica, runs: bool) -> Iterator[str]:
    model = world.models.get(replica.model)
    if model is None:
        yield "no such model"
        return
    gpus = [world.position.get((replica.node, share.id)) for share in replica.gpus]
    known = [gpu for gpu in gpus if gpu is not None]
    if not gpus or len(known) != len(gpus) or len(set(known)) != len(known):
        yield "its GPUs are not there, or are named twice"
        return
    if replica.port not in PORTS:
        yield f"port {replica.port} is not for replicas"
    wanted = (model.context, model.parallel, model.kv_cache_type, model.batch)
    if (replica.context, replica.parallel, replica.kv_cache_type, replica.batch) != wanted:
        yield "it does not run as the catalog says"
    refusals = [may_use(model, world.gpus[gpu], world.labels[replica.node]) for gpu in known]
    if any(refusals):
        yield f"it may not use its GPUs: {refusals}"
        return
    if runs:
        return
    place = _place(world, model, replica, known)
    if place is None:
        yield f"it cannot lie there under {replica.runner}"
        return
    shares = [(known[i], share.layers, share.vram_mib) for i, share in enumerate(replica.gpus)]
    if sorted(shares) != list(zip(place.gpus, place.layers, place.mib, strict=True)):
        yield f"shares {shares} should be {place}"


def _place(world: World, model: Model, replica: Replica, gpus: list[int]) -> Place | None:
    if len(gpus) > 1:
        return world.split(model, gpus, replica.runner)
    place = world.whole(model, gpus[0])
    return place if place.runner == replica.runner else None


def _rooms(world: World, replicas: Sequence[Replica], running: Collection[str]) -> Iterator[str]:
    used: Counter[int] = Counter()
    starts = set()
    for replica in replicas:
        for share in replica.gpus:
            gpu = world.position[replica.node, share.id]
            used[gpu] += share.vram_mib
            if replica.id not in running:
                starts.add(gpu)
    for gpu, mib in sorted(used.items()):
        card = world.gpus[gpu]
        room = card.offer_mib if gpu in starts else card.vram_mib - card.vram_foreign_mib
        if mib > room:
            yield f"{card.node}/{card.id} has room for {room} MiB, {mib} are planned"


def _siblings(world: World, replicas: Sequence[Replica]) -> Iterator[str]:
    by_model: dict[str, list[Replica]] = defaultdict(list)
    for replica in replicas:
        by_model[replica.model].append(replica)
    domain = dict(zip(world.nodes, world.domain_of, strict=True))
    for name, members in sorted(by_model.items()):
        model = world.models[name]
        gpus = Counter((replica.node, share.id) for replica in members for share in replica.gpus)
        spread = model.constraints.spread
        if len(members) > model.replicas_max:
            yield f"{name}: {len(members)} replicas, at most {model.replicas_max} may be"
        if max(gpus.values()) > 1:
            yield f"{name}: two replicas on one GPU"
        if spread == "node" and len({r.node for r in members}) < len(members):
            yield f"{name}: two replicas on one node"
        if spread == "domain" and len({domain[r.node] for r in members}) < len(members):
            yield f"{name}: two replicas in one failure domain"
