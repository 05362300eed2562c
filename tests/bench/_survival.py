# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Strong N-1, node by node: do the minimums lost with it fit again into what remains?

Survivors stay where they are; those beyond a model's minimum may be stopped for room. A greedy answers first, and what
it cannot place is decided by CP-SAT where that is asked for. What stays open counts as not survived.
"""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from _places import NEVER, Place, World
from ortools.sat.python import cp_model

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Model, Replica

CHECK = 0.3
"""Deterministic seconds to decide one loss."""


MOST_LOSSES = 150
"""Node losses that are looked at; of larger fleets as many at even distances."""


@dataclass(frozen=True)
class Strong:
    """``value`` of ``of`` node losses that were looked at are survived; of ``undecided`` others it is not known."""

    value: int
    of: int
    undecided: int


def strong(world: World, replicas: Sequence[Replica], *, exact: bool) -> Strong:
    """Look at the loss of nodes that have a usable GPU, up to MOST_LOSSES of them."""
    losses = [n for n in range(len(world.nodes)) if any(world.gpus[g].usable for g in world.members[n])]
    losses = losses[:: -(-len(losses) // MOST_LOSSES)]
    survived = undecided = 0
    for node in losses:
        loss = _Loss(world, replicas, node)
        answer: bool | None = loss.greedy() or (loss.exact() if exact else None)
        survived += answer is True
        undecided += answer is None
    return Strong(survived, len(losses), undecided)


class _Loss:
    def __init__(self, world: World, replicas: Sequence[Replica], node: int) -> None:
        self.world = world
        self.node = node
        before = Counter(replica.model for replica in replicas)
        self.left = [replica for replica in replicas if replica.node != world.nodes[node]]
        after = Counter(replica.model for replica in self.left)
        goal = {name: min(model.replicas_min, before[name]) for name, model in world.models.items()}
        self.extras = {name: after[name] - goal[name] for name in after if after[name] > goal[name]}
        self.lost = {name: goal[name] - after[name] for name in goal if goal[name] > after[name]}
        self.free = world.offer.copy()
        self.free[world.members[node]] = -1
        self.on: dict[int, list[tuple[str, int]]] = defaultdict(list)
        self.taken: dict[str, set[int]] = defaultdict(set)
        for replica in self.left:
            gpus = [world.position[replica.node, share.id] for share in replica.gpus]
            for gpu, share in zip(gpus, replica.gpus, strict=True):
                self.free[gpu] -= share.vram_mib
                self.taken[replica.model].add(gpu)
            if len(gpus) == 1 and replica.model in self.extras:
                self.on[gpus[0]].append((replica.model, replica.gpus[0].vram_mib))

    # --- greedy: the largest first, into the tightest room; else where the least has to be stopped ---

    def greedy(self) -> bool:
        free = self.free.copy()
        budget = Counter(self.extras)
        stopped: set[tuple[int, str]] = set()
        taken = {name: set(gpus) for name, gpus in self.taken.items()}
        models = [self.world.models[name] for name, count in self.lost.items() for _replica in range(count)]
        models.sort(key=lambda model: (-int(self.world.needs(model).min()), model.name))
        for model in models:
            mine = taken.setdefault(model.name, set())
            place = self._roomy(model, free, mine) or self._reclaimed(model, free, mine, budget, stopped)
            if place is None:
                return False
            for gpu, mib in zip(place.gpus, place.mib, strict=True):
                free[gpu] -= mib
                mine.add(gpu)
        return True

    def _roomy(self, model: Model, free: np.ndarray, mine: set[int]) -> Place | None:
        closed = self.world.closed(model, mine)
        for place in self.world.windows(model):
            if not closed & set(place.gpus) and all(m <= free[g] for g, m in zip(place.gpus, place.mib, strict=True)):
                return place
        room = free - self.world.needs(model)
        room[list(closed)] = -1
        gpu = int(np.where(room >= 0, room, NEVER).argmin())
        return self.world.whole(model, gpu) if room[gpu] >= 0 else None

    def _reclaimed(
        self,
        model: Model,
        free: np.ndarray,
        mine: set[int],
        budget: Counter[str],
        stopped: set[tuple[int, str]],
    ) -> Place | None:
        needs = self.world.needs(model)
        closed = self.world.closed(model, mine)
        best: tuple[int, int, list[tuple[str, int]]] | None = None
        for gpu, extras in self.on.items():
            if gpu in closed or needs[gpu] >= NEVER:
                continue
            missing = int(needs[gpu] - free[gpu])
            usable = [(n, mib) for n, mib in extras if budget[n] > 0 and (gpu, n) not in stopped]
            chosen = []
            for name, mib in sorted(usable, key=lambda extra: (-extra[1], extra[0])):
                if missing > 0:
                    chosen.append((name, mib))
                    missing -= mib
            if missing <= 0 and (best is None or (len(chosen), gpu) < best[:2]):
                best = (len(chosen), gpu, chosen)
        if best is None:
            return None
        _count, gpu, chosen = best
        for name, mib in chosen:
            budget[name] -= 1
            stopped.add((gpu, name))
            free[gpu] += mib
        return self.world.whole(model, gpu)

    # --- exact ---

    def exact(self) -> bool | None:
        """Whether there is a way at all; None if that could not be decided."""
        world = self.world
        cp = cp_model.CpModel()
        load: dict[int, list[tuple[t.Any, int]]] = defaultdict(list)
        for name, extras in self.extras.items():
            stops = []
            for gpu, local in self.on.items():
                for mib in (m for n, m in local if n == name):
                    stops.append(cp.new_bool_var(""))
                    load[gpu].append((stops[-1], -mib))
            cp.add(sum(stops) <= extras)
        for name, count in self.lost.items():
            model = world.models[name]
            takes = []
            groups: dict[object, list[t.Any]] = defaultdict(list)
            for place in self._places(model):
                take = cp.new_bool_var("")
                takes.append(take)
                for gpu, mib in zip(place.gpus, place.mib, strict=True):
                    load[gpu].append((take, mib))
                    groups[gpu].append(take)
                node = int(world.node_of[place.gpus[0]])
                if model.constraints.spread == "node":
                    groups["node", node].append(take)
                if model.constraints.spread == "domain":
                    groups["domain", world.domain_of[node]].append(take)
            for together in groups.values():
                cp.add_at_most_one(together)
            if len(takes) < count:
                return False
            cp.add(sum(takes) == count)
        for gpu, terms in load.items():
            cp.add(sum(var * mib for var, mib in terms) <= int(self.free[gpu]))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.max_deterministic_time = CHECK
        status = solver.solve(cp)
        return {cp_model.OPTIMAL: True, cp_model.FEASIBLE: True, cp_model.INFEASIBLE: False}.get(status)

    def _places(self, model: Model) -> list[Place]:
        closed = self.world.closed(model, self.taken[model.name]) | set(self.world.members[self.node])
        needs = self.world.needs(model)
        places = [self.world.whole(model, int(g)) for g in np.flatnonzero(needs < NEVER) if g not in closed]
        return places + [place for place in self.world.windows(model) if not closed & set(place.gpus)]
