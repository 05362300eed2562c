# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What the loss of each node takes, and whether a greedy finds room for it again in what remains.

Survivors stay where they are; those beyond a model's minimum may be stopped. The lost replicas go, the one with the
largest need first. Whoever finds no room goes first in the next try. So what is found is proof, what is not found is
none.
"""

from __future__ import annotations

import typing as t
from bisect import bisect_left
from collections import Counter, defaultdict

from ..shapes import MAX_SPLIT, single, split
from ._cp_sat import np
from .rescue import Recovery, Rescue
from .space import candidate_at

if t.TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from .rescue import Start
    from .space import Candidate, Space

TRIES = 4
"""Orders of the lost replicas that are tried, at most."""


class Heads(t.NamedTuple):
    """Places, and as arrays the first GPU of each and the MiB on it."""

    places: tuple[Start, ...]
    gpus: t.Any
    mib: t.Any

    @classmethod
    def of(cls, places: tuple[Start, ...]) -> Heads:
        count = len(places)
        gpus = np.fromiter((gpus[0] for gpus, _mib, _node in places), np.int32, count)
        return cls(places, gpus, np.fromiter((mib[0] for _gpus, mib, _node in places), np.int64, count))


Value = t.TypeVar("Value")


class _Each(dict[int, Value]):
    """Something of each model, worked out when it is first asked for."""

    def __init__(self, make: Callable[[int], Value]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, model: int) -> Value:
        found = self[model] = self.make(model)
        return found


class Losses:
    """The node losses of a space. Made once, asked for any choice of its candidates."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.nodes = tuple(sorted({gpu.node for gpu in space.gpus if gpu.usable}))
        self.members: dict[str, list[int]] = defaultdict(list)
        for position, gpu in enumerate(space.gpus):
            self.members[gpu.node].append(position)
        self.places = _Each(lambda m: _starts(space, m))
        self.least = _Each(lambda m: min((sum(mib) for _gpus, mib, _node in self.places[m]), default=0))
        self.narrowest = _Each(lambda m: min((min(mib) for _gpus, mib, _node in self.places[m]), default=0))
        # A count of the work that is done here, which is the same on every machine.
        self.looks = 0
        self._heads: dict[int, Heads] = {}
        self._splits: dict[tuple[int, str], tuple[Start, ...]] = {}
        self._cards: dict[int, Counter[str]] = {}

    def starts(self, model: int, node: str) -> tuple[Start, ...]:
        """Return where the model could start once the node is lost."""
        left = tuple([place for place in self.places[model] if place[2] != node])
        return left or self._split(model, node)

    def _split(self, model: int, node: str) -> tuple[Start, ...]:
        """Return the splits off the node of a model that no single GPU of the rest can hold."""
        if (model, node) not in self._splits:
            found = self.space.splits(model) if self.places[model] else ()
            self._splits[model, node] = tuple(_start(place) for place in found if place.node != node)
        return self._splits[model, node]

    def heads(self, model: int, node: str) -> Heads:
        """Return the same places; but those on the node may be among them, where there is no room any more."""
        if model not in self._heads:
            self._heads[model] = Heads.of(self.places[model])
        heads = self._heads[model]
        if self.cards(model).keys() == {node}:
            heads = Heads.of(self._split(model, node))
        self.looks += len(heads.places)
        return heads

    def cards(self, model: int) -> Counter[str]:
        """Return on how many GPUs of each node the model could start."""
        if model not in self._cards:
            cards = {(node, gpu) for gpus, _mib, node in self.places[model] for gpu in gpus}
            self._cards[model] = Counter([node for node, _gpu in cards])
        return self._cards[model]

    def survived(self, chosen: Collection[int]) -> int:
        """Return how many node losses are survived, at least."""
        fleet = Fleet(self, chosen)
        return sum(not fleet.recovery(node).missing for node in self.nodes)

    def most(self, unmet: int) -> int:
        """Return how many losses any placement survives at most that misses so many minimums: what fits without a node.

        For each size: a GPU holds so many replicas that are not smaller, whatever they are.
        """
        space = self.space
        sizes = sorted(
            size for m, model in enumerate(space.models) for size in [self._size(m)] * model.replicas_min if size
        )
        steps = sorted(set(sizes))
        held = {node: self._held(node, steps) for node in self.nodes}
        total = [sum(column) for column in zip(*held.values(), strict=True)]
        wanted = [len(sizes) - bisect_left(sizes, step) - unmet for step in steps]
        return sum(
            all(every - here >= least for every, here, least in zip(total, held[node], wanted, strict=True))
            and (unmet > 0 or all(self._holds(m, node) for m in range(len(space.models))))
            for node in self.nodes
        )

    def _size(self, model: int) -> int:
        """Return the least MiB of a replica of the model on whatever single GPU; 0 where it may be split."""
        places, members = self.places[model], self.space.by_model[model]
        if len({node for _gpus, _mib, node in places}) < 2 or any(len(gpus) > 1 for gpus, _mib, _node in places):
            return 0
        runs = [self.space.candidates[i] for i in members if self.space.candidates[i].running]
        if any(len(candidate.gpus) > 1 for candidate in runs):
            return 0
        return min(*(mib[0] for _gpus, mib, _node in places), *(candidate.mib[0] for candidate in runs))

    def _held(self, node: str, sizes: Iterable[int]) -> list[int]:
        """Return for each size how many replicas the GPUs of the node hold that are not smaller, at most."""
        space = self.space
        rooms = [max(space.gpus[gpu].offer_mib, space.running_mib[gpu]) for gpu in self.members[node]]
        return [sum(room // size for room in rooms) for size in sizes]

    def _holds(self, model: int, node: str) -> bool:
        """Tell whether the empty fleet could hold the minimum of the model without the node."""
        rules = self.space.models[model]
        if rules.replicas_min <= self._surely(model, node):
            return True
        places = [*self.starts(model, node)]
        runs = (self.space.candidates[i] for i in self.space.by_model[model] if self.space.candidates[i].running)
        places += [_start(candidate) for candidate in runs if candidate.node != node]
        if rules.constraints.spread == "node":
            return len({at for _gpus, _mib, at in places}) >= rules.replicas_min
        if rules.constraints.spread == "domain":
            return len({self.space.domains[at] for _gpus, _mib, at in places}) >= rules.replicas_min
        fewest = min((len(gpus) for gpus, _mib, _at in places), default=1)
        return len({gpu for gpus, _mib, _at in places for gpu in gpus}) // fewest >= rules.replicas_min

    def _surely(self, model: int, node: str) -> int:
        """Return how many replicas find a place without the node, at least: quickly told, and mostly enough."""
        cards, places = self.cards(model), self.places[model]
        spread = self.space.models[model].constraints.spread
        if spread == "node":
            return len(cards) - 1
        if spread == "domain":
            return len({self.space.domains[at] for at in cards}) - 1
        widest = MAX_SPLIT if places and len(places[-1][0]) > 1 else 1
        return (cards.total() - cards[node]) // widest


class Fleet:
    """Chosen candidates, which may be changed one by one, and the room that they leave."""

    def __init__(self, losses: Losses, chosen: Iterable[int]) -> None:
        space = losses.space
        self.losses = losses
        self.space = space
        self.free = [gpu.offer_mib for gpu in space.gpus]
        self.of_model: list[set[int]] = [set() for _model in space.models]
        self.on_node: defaultdict[str, set[int]] = defaultdict(set)
        for i in chosen:
            self.take(i)

    def take(self, i: int) -> None:
        """Add a replica; there is room for it."""
        candidate = self.space.candidates[i]
        self.of_model[candidate.model].add(i)
        self.on_node[candidate.node].add(i)
        for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
            self.free[gpu] -= mib

    def drop(self, i: int) -> None:
        """Remove a replica that is there."""
        candidate = self.space.candidates[i]
        self.of_model[candidate.model].remove(i)
        self.on_node[candidate.node].remove(i)
        for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
            self.free[gpu] += mib

    def goal(self, model: int) -> int:
        """Return how many replicas of the model have to be there again."""
        return min(self.space.models[model].replicas_min, len(self.of_model[model]))

    def lost(self, node: str) -> list[int]:
        """Return the models that fall below their goal with the node, one entry a replica, the largest first."""
        gone: dict[int, int] = defaultdict(int)
        for i in self.on_node[node]:
            gone[self.space.candidates[i].model] += 1
        found = []
        for model, count in gone.items():
            found += [model] * max(0, count - (len(self.of_model[model]) - self.goal(model)))
        return sorted(found, key=lambda model: (-self.losses.least[model], model))

    def keys(self, model: int, gpus: Iterable[int], node: str) -> Iterable[t.Hashable]:
        """Return what no other replica of the model may share: GPUs, or the node or failure domain."""
        spread = self.space.models[model].constraints.spread
        if spread == "node":
            return (node,)
        return (self.space.domains[node],) if spread == "domain" else gpus

    def closed(self, model: int, node: str) -> set[t.Hashable]:
        """Return the keys that survivors of the node's loss have."""
        survivors = (self.space.candidates[i] for i in self.of_model[model])
        return {key for one in survivors if one.node != node for key in self.keys(model, one.gpus, one.node)}

    def open(self, model: int, node: str) -> list[Start]:
        """Return where the model could start beside its survivors, room aside."""
        closed = self.closed(model, node)
        places = self.losses.starts(model, node)
        return [place for place in places if closed.isdisjoint(self.keys(model, place[0], place[2]))]

    def extras(self, node: str) -> dict[int, tuple[int, list[int]]]:
        """Return for each model that has survivors beyond its goal how many, and all its survivors."""
        found = {}
        for model, members in enumerate(self.of_model):
            if len(members) <= self.space.models[model].replicas_min:
                continue
            left = sorted(i for i in members if self.space.candidates[i].node != node)
            if len(left) > self.goal(model):
                found[model] = (len(left) - self.goal(model), left)
        return found

    def hopeless(self, model: int, node: str) -> bool:
        """Tell whether no place would have room for the model even if all that may be stopped on it were."""
        freed: defaultdict[int, int] = defaultdict(int)
        for _spare, members in self.extras(node).values():
            for i in members:
                candidate = self.space.candidates[i]
                for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
                    freed[gpu] += mib
        return not any(
            all(mib <= self.free[gpu] + freed[gpu] for gpu, mib in zip(place[0], place[1], strict=True))
            for place in self.open(model, node)
        )

    def recovery(self, node: str, tries: int = TRIES) -> Recovery:
        """Return what is found for the lost replicas of the node: the best of several tries."""
        return self.rescue(self.lost(node), node, tries)

    def rescue(self, order: list[int], node: str, tries: int) -> Recovery:
        """Return what is found off the node for a replica of each of these models, the first ones first."""
        best = Recovery(tuple(order))
        if not order:
            return best
        for _try in range(tries):
            found = Rescue(self, node).run(order)
            if len(found.missing) < len(best.missing) or not best.starts:
                best = found
            if not found.missing:
                break
            first = set(found.missing)
            again = [m for m in order if m in first] + [m for m in order if m not in first]
            if again == order:
                break
            order = again
        return best


def _starts(space: Space, model: int) -> tuple[Start, ...]:
    """Return where the model could start, also in place of what runs."""
    members = [space.candidates[i] for i in space.by_model[model]]
    fresh = [candidate for candidate in members if not candidate.running]
    whole = any(len(candidate.gpus) == 1 for candidate in members)
    for candidate in members:
        if candidate.running and (len(candidate.gpus) == 1) == whole:
            gpus = [space.gpus[gpu] for gpu in candidate.gpus]
            shape = single(space.models[model], gpus[0]) if whole else split(space.models[model], gpus)
            if shape is not None and shape.fits and shape.runner == candidate.runner:
                fresh.append(candidate_at(model, candidate.gpus, shape))
    return tuple(_start(candidate) for candidate in sorted(fresh, key=lambda candidate: candidate.gpus))


def _start(candidate: Candidate) -> Start:
    return (candidate.gpus, candidate.mib, candidate.node)
