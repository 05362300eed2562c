# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Why a replica is where it is: what its next best place would cost, all others staying where they are.

That is what moving this one would do, not what another plan of all would. Speeds are of a replica alone.
"""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict
from dataclasses import dataclass

from .rules import eligible_gpus, gpu_order
from .shapes import fitting

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .model import GpuKey, Problem, Replica
    from .shapes import Shape


MOST_GPUS = 600
"""GPUs beyond which nothing is said: it would take longer than planning does."""


def why_here(problem: Problem, replicas: Sequence[Replica]) -> dict[str, str]:
    """Return for the id of each replica of a plan what its next best place would cost; nothing for a large fleet."""
    if len(problem.gpus) > MOST_GPUS:
        return {}
    return _Fleet(problem, replicas).all()


class _Eviction(t.NamedTuple):
    """What has to go before a replica has room somewhere, and what that harms."""

    shape: Shape
    gone: tuple[Replica, ...]
    harm: tuple[int, int, int]


@dataclass
class _Ranked:
    """A model's places, the fastest first; those with room as all is; what a push into each harms, the least first."""

    shapes: Sequence[Shape]
    free: Sequence[Shape]
    pushes: Sequence[_Eviction] | None = None


class _Fleet:
    """The plan's replicas on their GPUs, and what they leave free."""

    def __init__(self, problem: Problem, replicas: Sequence[Replica]) -> None:
        self.problem = problem
        self.models = {model.name: model for model in problem.models}
        self.domains = {node.name: node.failure_domain for node in problem.nodes}
        self.free: Counter[GpuKey] = Counter({gpu.key: gpu.offer_mib for gpu in problem.gpus})
        self.holders: defaultdict[GpuKey, list[Replica]] = defaultdict(list)
        self.by_model: defaultdict[str, list[Replica]] = defaultdict(list)
        for replica in sorted(replicas, key=lambda r: (r.model, len(r.id), r.id)):
            self.by_model[replica.model].append(replica)
            for key, mib in _held(replica).items():
                self.free[key] -= mib
                self.holders[key].append(replica)

    def all(self) -> dict[str, str]:
        found = {}
        for name, members in self.by_model.items():
            if name not in self.models:
                continue
            shapes = fitting(self.models[name], eligible_gpus(self.problem, self.models[name]))
            shapes.sort(key=lambda s: (-s.speed, len(s.gpus), gpu_order(s.gpus[0])))
            ranked = _Ranked(shapes, [shape for shape in shapes if self._has_room(shape, {})])
            for replica in members:
                found[replica.id] = self._why(replica, ranked)
        return found

    def _why(self, replica: Replica, ranked: _Ranked) -> str:
        own = _held(replica)
        allowed = self._allowed(replica)
        # The GPUs of a split are free for it in another combination, too.
        free = ranked.free if len(own) == 1 else [shape for shape in ranked.shapes if self._has_room(shape, own)]
        best = self._best_free(replica, (shape for shape in free if allowed(shape)))
        if best is not None:
            return self._cost(replica, best)
        if not any(allowed(shape) for shape in ranked.shapes):
            if all({gpu.key for gpu in shape.gpus} == own.keys() for shape in ranked.shapes):
                return "no other place may hold it"
            return "every other place that may hold it has a replica of the model, or is ruled out by its spread"
        if ranked.pushes is None:
            ranked.pushes = sorted(
                (self._evicted(replica.model, shape) for shape in ranked.shapes), key=lambda push: push.harm
            )
        return self._push(next(push for push in ranked.pushes if allowed(push.shape)))

    def _has_room(self, shape: Shape, own: Mapping[GpuKey, int]) -> bool:
        pairs = zip(shape.shares, shape.gpus, strict=True)
        return all(share.vram_mib <= self.free[gpu.key] + own.get(gpu.key, 0) for share, gpu in pairs)

    def _allowed(self, replica: Replica) -> Callable[[Shape], bool]:
        """Whether the replica could be elsewhere as far as the others of its model go."""
        own = _held(replica).keys()
        siblings = [other for other in self.by_model[replica.model] if other is not replica]
        taken = {key for other in siblings for key in _held(other)}
        spread = self.models[replica.model].constraints.spread
        nodes = {other.node for other in siblings} if spread in ("node", "domain") else set()
        if spread == "domain":
            domains = {self.domains.get(node, node) for node in nodes}
            nodes = {node for node, domain in self.domains.items() if domain in domains}

        def allowed(shape: Shape) -> bool:
            keys = {gpu.key for gpu in shape.gpus}
            return shape.gpus[0].node not in nodes and not keys & taken and keys != own

        return allowed

    def _best_free(self, replica: Replica, shapes: Iterable[Shape]) -> Shape | None:
        """The fastest of the places with room, rather one that leaves the model on two nodes."""
        second = None
        for shape in shapes:
            if not self._gathers(replica, shape):
                return shape
            second = second or shape
        return second

    def _gathers(self, replica: Replica, shape: Shape) -> bool:
        """Whether all of a model that is wanted twice would then be on one node, and are not now."""
        if self.models[replica.model].replicas_min < 2:
            return False
        others = {other.node for other in self.by_model[replica.model] if other is not replica}
        return len(others | {replica.node}) > 1 and len(others | {shape.gpus[0].node}) == 1

    def _cost(self, replica: Replica, shape: Shape) -> str:
        difference = replica.speed - shape.speed
        if difference > 0:
            cost = f"{_speed(difference)} slower"
        elif difference < 0:
            cost = f"{_speed(-difference)} faster by itself"
        else:
            cost = "just as fast"
        beside = {other.id: other for gpu in shape.gpus for other in self.holders[gpu.key] if other is not replica}
        if beside:
            cost += f", sharing its time with {_listed(sorted(beside))}"
        if self._gathers(replica, shape):
            cost += "; but then one node would hold all of the model"
        return f"next best is {_place(shape)}: {cost}"

    def _evicted(self, name: str, shape: Shape) -> _Eviction:
        """What would have to go for the shape: on each GPU what harms least, of that the least that is enough."""
        gone: dict[str, Replica] = {}
        for share, gpu in zip(shape.shares, shape.gpus, strict=True):
            held = [(other, _held(other)[gpu.key]) for other in self.holders[gpu.key] if other.model != name]
            lacking = share.vram_mib - self.free[gpu.key] - sum(mib for other, mib in held if other.id in gone)
            held = [(other, mib) for other, mib in held if other.id not in gone]
            while lacking > 0 and held:
                enough = [item for item in held if item[1] >= lacking]
                chosen = min(
                    enough or held,
                    key=lambda item: (self._harm([*gone.values(), item[0]]), item[1] if enough else -item[1]),
                )
                held.remove(chosen)
                gone[chosen[0].id] = chosen[0]
                lacking -= chosen[1]
        replicas = tuple(gone.values())
        return _Eviction(shape, replicas, self._harm(replicas))

    def _missed(self, gone: Iterable[Replica]) -> list[str]:
        """The models that would miss a minimum without these."""
        count = Counter(replica.model for replica in gone)
        return [
            name
            for name in sorted(count)
            if name in self.models and len(self.by_model[name]) - count[name] < self.models[name].replicas_min
        ]

    def _harm(self, gone: Sequence[Replica]) -> tuple[int, int, int]:
        missed = self._missed(gone)
        highest = max((self.models[name].priority for name in missed), default=-1)
        return (highest, len(missed), sum(replica.vram_mib for replica in gone))

    def _push(self, push: _Eviction) -> str:
        shape, gone, _harm = push
        missed = self._missed(gone)
        named = _listed([replica.id for replica in gone])
        if missed:
            models = _listed([f"{name} (priority {self.models[name].priority})" for name in missed])
            return f"next best is {_place(shape)}, pushing out {named}: a minimum of {models}"
        return f"next best is {_place(shape)}, pushing out {named}: beyond the minimum"


def _held(replica: Replica) -> dict[GpuKey, int]:
    return {(replica.node, share.id): share.vram_mib for share in replica.gpus}


def _place(shape: Shape) -> str:
    numbers = "+".join(str(gpu.index) for gpu in shape.gpus)
    return f"{shape.gpus[0].node} GPU {numbers} ({shape.gpus[0].name})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _speed(milli: int) -> str:
    return f"{milli / 1000:.1f} tokens/s"
