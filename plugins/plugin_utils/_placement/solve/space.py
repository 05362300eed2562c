# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The search space: every place a replica could take, and what a choice among them is worth.

A GPU's time is counted in slots: a whole GPU has ``SLOTS`` of them, and a replica that takes all
the time of its slowest GPU serves its ``top`` milli-tokens per second. ``loads`` are per mille of
the replica's slots that each of its GPUs is busy for (1000 on the slowest one).
"""

from __future__ import annotations

import typing as t
from array import array
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import nlargest

from ....module_utils._speed import milli_tokens_per_second
from ..rules import eligible_gpus, gpu_order
from ..shapes import Shape, as_it_runs, fitting, splits

if t.TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ..model import Gpu, Model, Problem, Replica

SLOTS = 10_000
LOAD = 1000

MORE_IS_BETTER = ("weak_n1", "strong_n1", "served", "balance_mib")
"""Of the other objectives less is better."""


@dataclass(frozen=True)
class Candidate:
    """One place for one replica. ``model`` and ``gpus`` are positions in the space's tuples."""

    model: int
    gpus: tuple[int, ...]
    shape: Shape
    running: Replica | None = None

    @cached_property
    def node(self) -> str:
        return self.shape.gpus[0].node

    @cached_property
    def mib(self) -> tuple[int, ...]:
        return tuple(share.vram_mib for share in self.shape.shares)

    @cached_property
    def start_mib(self) -> int:
        """MiB to load in a new place when this candidate is taken."""
        return 0 if self.running else self.shape.vram_mib

    @cached_property
    def top(self) -> int:
        return milli_tokens_per_second(max(self.shape.times))

    @cached_property
    def loads(self) -> tuple[int, ...]:
        slowest = max(1, *self.shape.times)
        return tuple(-(-LOAD * time // slowest) for time in self.shape.times)


@dataclass(frozen=True)
class Space:
    """All candidates. Models are in the order (priority descending, name); GPUs in that of ``rules.gpu_order``."""

    models: tuple[Model, ...]
    gpus: tuple[Gpu, ...]
    domains: Mapping[str, str]
    candidates: tuple[Candidate, ...]
    by_model: tuple[Sequence[int], ...]
    """The candidates of each model, which follow one upon the other."""
    by_gpu: tuple[tuple[int, ...], ...]
    eligible: tuple[tuple[Gpu, ...], ...] = ()
    """For each model the GPUs that its constraints allow, whether they have the room or not."""

    @cached_property
    def first_gpu(self) -> array[int]:
        """The (first) GPU of each candidate."""
        return array("i", [candidate.gpus[0] for candidate in self.candidates])

    @cached_property
    def first_mib(self) -> array[int]:
        """MiB that each candidate takes of its (first) GPU."""
        return array("i", [candidate.mib[0] for candidate in self.candidates])

    @cached_property
    def fastest(self) -> tuple[tuple[int, ...], ...]:
        """For each model the milli-tokens per second of its fastest places, as many as it may have replicas."""
        return tuple(
            tuple(nlargest(model.replicas_max, (self.candidates[i].top for i in of)))
            for model, of in zip(self.models, self.by_model, strict=True)
        )

    @cached_property
    def least_mib(self) -> tuple[int, ...]:
        """MiB that a replica of each model takes at least, all its GPUs together; 0 where it has no place."""
        return tuple(min((sum(self.candidates[i].mib) for i in of), default=0) for of in self.by_model)

    @cached_property
    def running(self) -> tuple[int, ...]:
        return tuple(i for i, candidate in enumerate(self.candidates) if candidate.running)

    @cached_property
    def loose(self) -> Space:
        """The same candidates, but those that run may be taken like any other."""
        return replace(self, candidates=tuple(replace(candidate, running=None) for candidate in self.candidates))

    @cached_property
    def running_mib(self) -> tuple[int, ...]:
        """MiB per GPU that the valid running replicas take."""
        used = [0] * len(self.gpus)
        for i in self.running:
            for gpu, mib in zip(self.candidates[i].gpus, self.candidates[i].mib, strict=True):
                used[gpu] += mib
        return tuple(used)

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """Priorities of models that ask for a minimum, highest first."""
        return tuple(sorted({model.priority for model in self.models if model.replicas_min > 0}, reverse=True))

    def demand(self, model: int, ceiling: int) -> int:
        """Return the milli-tokens per second that at most ``ceiling`` replicas of the model could ever serve.

        ``ceiling`` is no more than the model's maximum.
        """
        most = sum(self.fastest[model][:ceiling])
        wanted = self.models[model].demand
        return most if wanted is None else min(wanted, most)

    def splits(self, model: int) -> list[Candidate]:
        """Return the splits of the model that fit the empty fleet, also where a whole one would fit somewhere."""
        position = {gpu.key: i for i, gpu in enumerate(self.gpus)}
        wish = self.models[model]
        return [
            Candidate(model, tuple(position[gpu.key] for gpu in shape.gpus), shape)
            for shape in splits(wish, self.eligible[model])
            if shape.fits and shape.speed >= wish.min_speed
        ]

    def holds(self, model: int) -> int:
        """Return how many replicas of the model the empty fleet could hold, at most: an upper bound."""
        spread = self.models[model].constraints.spread
        if spread == "node":
            return len({self.candidates[i].node for i in self.by_model[model]})
        if spread == "domain":
            return len({self.domains[self.candidates[i].node] for i in self.by_model[model]})
        fewest = min((len(self.candidates[i].gpus) for i in self.by_model[model]), default=1)
        return len({gpu for i in self.by_model[model] for gpu in self.candidates[i].gpus}) // fewest


@dataclass(frozen=True)
class Limits:
    """What one solve may do: most replicas per model, whether what runs is fixed, MiB of voluntary moves."""

    ceilings: tuple[int, ...]
    fixed: bool = True
    moves_mib: int | None = None


@dataclass(frozen=True)
class Solution:
    """Chosen candidates and the slots each of them gets."""

    chosen: frozenset[int]
    slots: Mapping[int, int] = field(default_factory=dict)


def build(problem: Problem, running: Iterable[Replica]) -> Space:
    """Enumerate the candidates: what is there (valid together, see ``running.standing``) and what could start."""
    ordered = tuple(sorted(problem.models, key=lambda model: (-model.priority, model.name)))
    gpus = tuple(sorted(problem.gpus, key=gpu_order))
    position = {gpu.key: i for i, gpu in enumerate(gpus)}
    by_name: dict[str, list[Replica]] = {}
    for replica in sorted(running, key=lambda r: (len(r.id), r.id)):
        by_name.setdefault(replica.model, []).append(replica)
    candidates: list[Candidate] = []
    eligible = []
    by_model = []
    for m, model in enumerate(ordered):
        first = len(candidates)
        taken = set()
        for replica in by_name.get(model.name, ()):
            places = tuple(position[replica.node, share.id] for share in replica.gpus)
            shape = as_it_runs(model, replica, [gpus[place] for place in places])
            if shape is not None:
                candidates.append(Candidate(m, places, shape, replica))
                taken.add((places, shape.runner))
        eligible.append(tuple(eligible_gpus(problem, model)))
        for shape in fitting(model, eligible[m]):
            places = tuple([position[gpu.key] for gpu in shape.gpus])
            if (places, shape.runner) not in taken:
                candidates.append(Candidate(m, places, shape))
        by_model.append(range(first, len(candidates)))
    return Space(
        models=ordered,
        gpus=gpus,
        domains={node.name: node.failure_domain for node in problem.nodes},
        candidates=tuple(candidates),
        by_model=tuple(by_model),
        by_gpu=_by_gpu(candidates, len(gpus)),
        eligible=tuple(eligible),
    )


def _by_gpu(candidates: Sequence[Candidate], count: int) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _gpu in range(count)]
    for i, candidate in enumerate(candidates):
        for gpu in candidate.gpus:
            found[gpu].append(i)
    return tuple(tuple(members) for members in found)


# --- what a choice is worth -----------------------------------------------------------------


def unmet(space: Space, chosen: Collection[int]) -> tuple[int, ...]:
    """Return the missing minimum replicas of each priority class."""
    placed = Counter([space.candidates[i].model for i in chosen])
    missing = dict.fromkeys(space.classes, 0)
    for m, model in enumerate(space.models):
        if model.replicas_min > placed[m]:
            missing[model.priority] += model.replicas_min - placed[m]
    return tuple(missing[priority] for priority in space.classes)


def weak(space: Space, chosen: Collection[int]) -> int:
    """Return how many models with a minimum of 2 or more are on at least two nodes."""
    nodes: list[set[str]] = [set() for _model in space.models]
    for i in chosen:
        nodes[space.candidates[i].model].add(space.candidates[i].node)
    return sum(model.replicas_min >= 2 and len(on) >= 2 for model, on in zip(space.models, nodes, strict=True))


def served_by_model(space: Space, solution: Solution) -> list[int]:
    """Return milli-tokens per second served of each model, demand respected."""
    given = [0] * len(space.models)
    for i, slots in solution.slots.items():
        given[space.candidates[i].model] += space.candidates[i].top * slots
    rates = [slots // SLOTS for slots in given]
    return [
        rate if model.demand is None else min(rate, model.demand)
        for model, rate in zip(space.models, rates, strict=True)
    ]


def served(space: Space, solution: Solution) -> int:
    """Return the weighted milli-tokens per second served."""
    return sum(model.weight * rate for model, rate in zip(space.models, served_by_model(space, solution), strict=True))


def churn(space: Space, chosen: frozenset[int]) -> int:
    """Return the MiB to load in new places."""
    return sum(space.candidates[i].start_mib for i in chosen)


def balance(space: Space, chosen: frozenset[int]) -> int:
    """Return the least MiB left of what a GPU offers, of those that hold a replica; 0 where none does."""
    free = [gpu.offer_mib for gpu in space.gpus]
    used = set()
    for i in chosen:
        for gpu, mib in zip(space.candidates[i].gpus, space.candidates[i].mib, strict=True):
            free[gpu] -= mib
            used.add(gpu)
    return max(0, min((free[gpu] for gpu in used), default=0))


def moved_mib(space: Space, chosen: frozenset[int]) -> int:
    """Return the MiB of voluntary moves: of each model the lesser of what stops and what starts."""
    starts, stops = [0] * len(space.models), [0] * len(space.models)
    for i in chosen.symmetric_difference(space.running):
        candidate = space.candidates[i]
        (starts if i in chosen else stops)[candidate.model] += candidate.shape.vram_mib
    return sum(map(min, starts, stops))


def worth(space: Space, solution: Solution) -> tuple[tuple[int, ...], int, int, int]:
    """Return a key that is smaller the better the solution is, in the order of the objectives; but without strong N-1,
    which takes longer to look at than all the others, and balance.
    """
    chosen = solution.chosen
    return (unmet(space, chosen), -weak(space, chosen), -served(space, solution), churn(space, chosen))


def gains(space: Space, new: Solution, old: Solution, permille: int) -> bool:
    """Tell whether ``new`` is enough of an improvement over ``old`` to be worth its moves or starts."""
    new_unmet, new_weak, *_rest = worth(space, new)
    old_unmet, old_weak, *_rest = worth(space, old)
    if new_unmet != old_unmet:
        return new_unmet < old_unmet
    if new_weak != old_weak:
        return new_weak < old_weak
    before, after = served(space, old), served(space, new)
    return after > before and after * 1000 >= before * (1000 + permille)
