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
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import nlargest

from ....module_utils._speed import milli_tokens_per_second
from ..rules import allowed, gpu_order
from ..shapes import as_it_runs, fitting, single, split, splits, whole
from ._cp_sat import np
from .unswept import unswept

if t.TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ..model import Gpu, Model, Problem, Replica, Share
    from ..shapes import Shape

SLOTS = 10_000
LOAD = 1000

MORE_IS_BETTER = ("weak_n1", "strong_n1", "served", "balance_mib")
"""Of the other objectives less is better."""

Layout = tuple[tuple[int, ...], tuple[int, ...], int, int, str]
"""``mib``, ``loads``, ``top``, ``speed`` and ``runner`` of a candidate: the same on all GPUs of a kind."""


class Candidate(t.NamedTuple):
    """One place for one replica. ``model`` and ``gpus`` are positions in the space's tuples.

    Large fleets have more than a million, so all but these and ``running`` is shared among those that are alike.
    """

    model: int
    gpus: tuple[int, ...]
    node: str
    mib: tuple[int, ...]
    """MiB on each of the GPUs."""
    loads: tuple[int, ...]
    top: int
    speed: int
    runner: str
    running: Replica | None = None

    @property
    def vram_mib(self) -> int:
        return sum(self.mib)

    @property
    def start_mib(self) -> int:
        """MiB to load in a new place when this candidate is taken."""
        return 0 if self.running else sum(self.mib)


def layout(shape: Shape) -> Layout:
    """Return what a candidate has of its shape."""
    slowest = max(shape.times)
    loads = tuple([-(-LOAD * time // max(1, slowest)) for time in shape.times])
    mib = tuple([share.vram_mib for share in shape.shares])
    return mib, loads, milli_tokens_per_second(slowest), shape.speed, shape.runner


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
    def first_gpu(self) -> t.Any:
        """The (first) GPU of each candidate, as an array like the next ones."""
        return np.fromiter((candidate.gpus[0] for candidate in self.candidates), np.int32, len(self.candidates))

    @cached_property
    def first_mib(self) -> t.Any:
        """MiB that each candidate takes of its (first) GPU."""
        return np.fromiter((candidate.mib[0] for candidate in self.candidates), np.int64, len(self.candidates))

    @cached_property
    def speeds(self) -> t.Any:
        return np.fromiter((candidate.speed for candidate in self.candidates), np.int64, len(self.candidates))

    @cached_property
    def sizes(self) -> t.Any:
        """How many GPUs each candidate is on; 0 for what runs, which cannot start."""
        sizes = (0 if candidate.running else len(candidate.gpus) for candidate in self.candidates)
        return np.fromiter(sizes, np.int8, len(self.candidates))

    @cached_property
    def model_of(self) -> t.Any:
        return np.fromiter((candidate.model for candidate in self.candidates), np.int32, len(self.candidates))

    @cached_property
    def alike(self) -> tuple[int, ...]:
        """For each GPU the first one of its class: those with as much room that are the same to every model."""
        first: dict[t.Hashable, int] = {}
        found = []
        for gpu, members in enumerate(self.by_gpu):
            there = [self.candidates[i] for i in members]
            signature = tuple([(one.model, one.mib, one.top) for one in there if len(one.gpus) == 1])
            found.append(first.setdefault((self.gpus[gpu].offer_mib, signature), gpu))
        return tuple(found)

    @cached_property
    def singles(self) -> tuple[dict[int, int], ...]:
        """For each GPU the candidate of each model that is wholly on it and could start there."""
        found: tuple[dict[int, int], ...] = tuple({} for _gpu in self.gpus)
        for i, candidate in enumerate(self.candidates):
            if len(candidate.gpus) == 1 and not candidate.running:
                found[candidate.gpus[0]][candidate.model] = i
        return found

    @cached_property
    def fastest(self) -> tuple[tuple[int, ...], ...]:
        """For each model the milli-tokens per second of its fastest places, as many as it may have replicas."""
        return tuple(
            tuple(nlargest(model.replicas_max, [self.candidates[i].top for i in of]))
            for model, of in zip(self.models, self.by_model, strict=True)
        )

    @cached_property
    def least_mib(self) -> tuple[int, ...]:
        """MiB that a replica of each model takes at least, all its GPUs together; 0 where it has no place."""
        return tuple(min((self.candidates[i].vram_mib for i in of), default=0) for of in self.by_model)

    @cached_property
    def running(self) -> tuple[int, ...]:
        return tuple(i for i, candidate in enumerate(self.candidates) if candidate.running)

    @cached_property
    def loose(self) -> Space:
        """The same candidates, but those that run may be taken like any other."""
        return replace(self, candidates=tuple(candidate._replace(running=None) for candidate in self.candidates))

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

    def find(self, wanted: Candidate) -> int:
        """Return where the candidate of another space of the same problem is in this one, whether it runs or not."""
        there = self.by_gpu[wanted.gpus[0]]
        place = bisect_left(there, self.by_model[wanted.model][0])
        while self.candidates[there[place]][:2] != wanted[:2] or self.candidates[there[place]].runner != wanted.runner:
            place += 1
        return there[place]

    def shares(self, i: int) -> tuple[Share, ...]:
        """Return what the candidate takes of each of its GPUs."""
        candidate = self.candidates[i]
        if candidate.running is not None:
            return candidate.running.gpus
        gpus = [self.gpus[gpu] for gpu in candidate.gpus]
        model = self.models[candidate.model]
        # There is a split: the candidate was made from it.
        shape = single(model, gpus[0]) if len(gpus) == 1 else t.cast("Shape", split(model, gpus))
        return shape.shares

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
            candidate_at(model, tuple([position[gpu.key] for gpu in shape.gpus]), shape)
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


def candidate_at(model: int, gpus: tuple[int, ...], shape: Shape, running: Replica | None = None) -> Candidate:
    """Return the candidate of a shape; ``model`` and ``gpus`` are positions."""
    return Candidate(model, gpus, shape.gpus[0].node, *layout(shape), running)


def build(problem: Problem, running: Iterable[Replica]) -> Space:
    """Enumerate the candidates: what is there (valid together, see ``running.standing``) and what could start."""
    return occupied(vacant(problem), running)


@unswept()
def vacant(problem: Problem, names: Collection[str] | None = None) -> Space:
    """Enumerate the places where replicas could start: of all models, or of these only."""
    ordered = tuple(sorted(problem.models, key=lambda model: (-model.priority, model.name)))
    gpus = tuple(sorted(problem.gpus, key=gpu_order))
    problem = replace(problem, gpus=gpus)
    position = {gpu.key: i for i, gpu in enumerate(gpus)}
    alone = [(i,) for i in range(len(gpus))]
    candidates: list[Candidate] = []
    eligible = []
    by_model = []
    for m, model in enumerate(ordered):
        first = len(candidates)
        eligible.append(tuple(allowed(problem, model)) if names is None or model.name in names else ())
        roomy = whole(model, eligible[m])
        layouts = {gpu.kind: layout(single(model, gpu)) for gpu in {gpu.kind: gpu for gpu in roomy}.values()}
        candidates += [Candidate(m, alone[position[gpu.key]], gpu.node, *layouts[gpu.kind]) for gpu in roomy]
        if not roomy:
            for shape in fitting(model, eligible[m]):
                candidates.append(candidate_at(m, tuple([position[gpu.key] for gpu in shape.gpus]), shape))
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


def occupied(space: Space, running: Iterable[Replica]) -> Space:
    """Return the places of a space in which nothing runs, with what runs (valid together) instead of the same start."""
    by_name: dict[str, list[Replica]] = {}
    for replica in sorted(running, key=lambda r: (len(r.id), r.id)):
        by_name.setdefault(replica.model, []).append(replica)
    if not by_name:
        return space
    position = {gpu.key: i for i, gpu in enumerate(space.gpus)}
    candidates: list[Candidate] = []
    by_model = []
    for m, model in enumerate(space.models):
        first = len(candidates)
        taken = set()
        for replica in by_name.get(model.name, ()):
            places = tuple([position[replica.node, share.id] for share in replica.gpus])
            shape = as_it_runs(model, replica, [space.gpus[place] for place in places])
            if shape is not None:
                candidates.append(candidate_at(m, places, shape, replica))
                taken.add((places, shape.runner))
        starts = [space.candidates[i] for i in space.by_model[m]]
        candidates += [one for one in starts if (one.gpus, one.runner) not in taken] if taken else starts
        by_model.append(range(first, len(candidates)))
    by_gpu = _by_gpu(candidates, len(space.gpus))
    return replace(space, candidates=tuple(candidates), by_model=tuple(by_model), by_gpu=by_gpu)


def _by_gpu(candidates: Sequence[Candidate], count: int) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _gpu in range(count)]
    for i, candidate in enumerate(candidates):
        for gpu in candidate.gpus:
            found[gpu].append(i)
    return tuple(map(tuple, found))


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
        (starts if i in chosen else stops)[candidate.model] += candidate.vram_mib
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
