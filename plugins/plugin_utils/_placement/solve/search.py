# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A search that moves minimum replicas until what any one node holds would fit into the room that is left elsewhere.

Replicas beyond the minimums count as room here, since they may be stopped. A step moves a few replicas, and is taken
back if it is worse than what was reached some steps before. The number of steps is the limit, never the clock.
"""

from __future__ import annotations

import typing as t
from collections import Counter

from .losses import Fleet, Losses
from .rescue import Recovery

if t.TYPE_CHECKING:
    import random


HISTORY = 40
"""A step may be as bad as what was reached so many steps ago."""

SEARCH_TRIES = 2

STEP = 3000
"""Looks that a step counts as, or a round of consolidation: about as long as so many looks at one place."""

ROUNDS = 100
"""Times that consolidation is taken up again where it is stuck."""

KICKS = 3
"""Swaps at random where consolidation is stuck."""


class Search:
    """The arrangement of the minimums, what is known of each loss, and how bad that is."""

    def __init__(self, losses: Losses, start: frozenset[int], draw: random.Random, *, large: int) -> None:
        self.losses = losses
        self.space = losses.space
        self.draw = draw
        self.large = large
        self.fleet = Fleet(losses, start)
        self.on_gpu: list[set[int]] = [set() for _gpu in self.space.gpus]
        for i in start:
            for gpu in self.space.candidates[i].gpus:
                self.on_gpu[gpu].add(i)
        self.chosen = set(start)
        self.known = {node: self.fleet.recovery(node, SEARCH_TRIES) for node in losses.nodes}
        sizes = [losses.least[m] for m, model in enumerate(self.space.models) if model.replicas_min]
        self.fee = sum(sizes) // max(1, len(sizes))
        # What a node offers beyond all that is free cannot find room elsewhere, whatever lies there.
        room = sum(self.fleet.free)
        self.hopeless = {
            node for node in losses.nodes if sum(self.space.gpus[gpu].offer_mib for gpu in losses.members[node]) > room
        }
        self.back = {
            (candidate.model, candidate.gpus[0]): i
            for i, candidate in enumerate(self.space.candidates)
            if len(candidate.gpus) == 1 and not candidate.running
        }
        self.cost = sum(self._cost(node, found) for node, found in self.known.items())

    def run(self, steps: int, looks: int) -> list[tuple[int, frozenset[int]]]:
        """Search; return each arrangement that survived more than all before it, with the losses that it does not."""
        best = self.failed()
        found = []
        self.consolidate(ROUNDS, looks)
        if self.failed() < best:
            best = self.failed()
            found.append((best, frozenset(self.chosen)))
        history = [self.cost] * HISTORY
        for step in range(steps):
            if not best or self.losses.looks >= looks:
                break
            self.losses.looks += STEP
            moves = self._proposal()
            if not moves:
                continue
            old = self.cost
            undo = self._apply(moves)
            place = step % HISTORY
            if self.cost > max(old, history[place]):
                self._revert(moves, undo, old)
            elif self.cost < old and self.failed() < best:
                best = self.failed()
                found.append((best, frozenset(self.chosen)))
            history[place] = min(history[place], self.cost) if self.cost < history[place] else max(self.cost, old)
        return found

    def failed(self) -> int:
        """Return how many losses are not survived."""
        return sum(bool(found.missing) for found in self.known.values())

    def _cost(self, node: str, found: Recovery) -> int:
        if node in self.hopeless:
            return 0
        return self.fee * bool(found.missing) + sum(self.losses.least[m] for m in found.missing)

    # --- one large room instead of many small ones ---

    def consolidate(self, rounds: int, looks: int) -> None:
        """Move and swap replicas so that what is free lies on few and large GPUs.

        Where nothing gains any more, a few are moved at random, and back if that leads nowhere.
        """
        best, kept, members = -1, frozenset(self.chosen), sorted(self.chosen)
        for _round in range(rounds):
            if self.losses.looks >= looks:
                break
            self.losses.looks += STEP
            self._climb(members)
            reached = sum(self._use(gpu, room) for gpu, room in enumerate(self.fleet.free))
            if reached > best:
                best, kept = reached, frozenset(self.chosen)
            else:
                self._become(kept)
            members = []
            for _try in range(10 * KICKS):
                for old, new in self._swap():
                    self._drop(old)
                    self._take(new)
                    members.append(new)
                if len(members) >= 2 * KICKS:
                    break
            nearby = {gpu for i in members for gpu in self.space.candidates[i].gpus}
            members = sorted(i for gpu in nearby for i in self.on_gpu[gpu])
        self._become(kept)
        self._look()

    def _climb(self, members: list[int]) -> None:
        while members:
            touched: set[int] = set()
            for i in self.draw.sample(members, len(members)):
                if i in self.chosen and self._movable(i):
                    moves = self._denser(i)
                    for old, _new in moves:
                        self._drop(old)
                    for _old, new in moves:
                        self._take(new)
                    touched.update(gpu for move in moves for j in move for gpu in self.space.candidates[j].gpus)
            members = sorted({i for gpu in touched for i in self.on_gpu[gpu]})

    def _become(self, chosen: frozenset[int]) -> None:
        for i in sorted(self.chosen - chosen):
            self._drop(i)
        for i in sorted(chosen - self.chosen):
            self._take(i)

    def _use(self, gpu: int, room: int) -> int:
        """Return what so much room on the GPU is worth: more in one piece, and in some searches on a large GPU."""
        return room * (room + self.large * self.space.gpus[gpu].offer_mib)

    def _denser(self, i: int) -> list[tuple[int, int]]:
        """Return the move of the replica, or its swap with another, that gains most."""
        candidates, free, use = self.space.candidates, self.fleet.free, self._use
        one = candidates[i]
        if len(one.gpus) > 1:
            return []
        gpu, size = one.gpus[0], one.mib[0]
        room = free[gpu]
        found: list[tuple[int, list[tuple[int, int]]]] = []
        for new in self.space.by_model[one.model]:
            other = candidates[new]
            if len(other.gpus) > 1 or other.running or new in self.chosen:
                continue
            there, mib = other.gpus[0], other.mib[0]
            left = free[there]
            if left >= mib:
                gain = use(gpu, room + size) - use(gpu, room) + use(there, left - mib) - use(there, left)
                if gain > 0:
                    found.append((gain, [(i, new)]))
            if there == gpu:
                continue
            for j in self.on_gpu[there]:
                back = self.back.get((candidates[j].model, gpu))
                if back is None or len(candidates[j].gpus) > 1 or not self._movable(j):
                    continue
                here = room + size - candidates[back].mib[0]
                after = left + candidates[j].mib[0] - mib
                if here >= 0 and after >= 0:
                    gain = use(gpu, here) - use(gpu, room) + use(there, after) - use(there, left)
                    if gain > 0:
                        found.append((gain, [(i, new), (j, back)]))
        self.losses.looks += len(self.space.by_model[one.model])
        found.sort(key=lambda item: (-item[0], item[1]))
        return next((moves for _gain, moves in found[:4] if self._checked(moves)), [])

    def _look(self) -> None:
        """See anew what each loss would be."""
        self.known = {node: self.fleet.recovery(node, SEARCH_TRIES) for node in self.losses.nodes}
        self.cost = sum(self._cost(node, found) for node, found in self.known.items())

    # --- a step and its way back ---

    def _apply(self, moves: list[tuple[int, int]]) -> dict[str, Recovery]:
        """Move replicas from one candidate to another; return what was known of the losses that it bears on."""
        for old, _new in moves:
            self._drop(old)
        for _old, new in moves:
            self._take(new)
        candidates = self.space.candidates
        nodes = {candidates[i].node for move in moves for i in move}
        models = {candidates[old].model for old, _new in moves}
        less = {gpu for _old, new in moves for gpu in candidates[new].gpus}
        more = {gpu for old, _new in moves for gpu in candidates[old].gpus}
        undo = {}
        for node, found in self.known.items():
            if node in nodes or self._stale(found, models, less, more):
                undo[node] = found
        for node, found in undo.items():
            self.known[node] = self.fleet.recovery(node, SEARCH_TRIES)
            self.cost += self._cost(node, self.known[node]) - self._cost(node, found)
        return undo

    def _stale(self, found: Recovery, models: set[int], less: set[int], more: set[int]) -> bool:
        if any(model in models or not less.isdisjoint(place[0]) for model, place in found.starts):
            return True
        free = self.fleet.free
        return any(m in models or any(free[gpu] >= self.losses.narrowest[m] for gpu in more) for m in found.missing)

    def _revert(self, moves: list[tuple[int, int]], undo: dict[str, Recovery], cost: int) -> None:
        for _old, new in moves:
            self._drop(new)
        for old, _new in moves:
            self._take(old)
        self.known.update(undo)
        self.cost = cost

    def _take(self, i: int) -> None:
        self.fleet.take(i)
        self.chosen.add(i)
        for gpu in self.space.candidates[i].gpus:
            self.on_gpu[gpu].add(i)

    def _drop(self, i: int) -> None:
        self.fleet.drop(i)
        self.chosen.remove(i)
        for gpu in self.space.candidates[i].gpus:
            self.on_gpu[gpu].remove(i)

    # --- what to try ---

    def _proposal(self) -> list[tuple[int, int]]:
        failed = [node for node, found in self.known.items() if found.missing and node not in self.hopeless]
        if not failed:
            return []
        node = self.draw.choice(failed)
        kind = self.draw.random()
        if kind < 0.5:
            return self._hole(node)
        if kind < 0.75:
            return self._unload(node)
        return self._swap()

    def _movable(self, i: int) -> bool:
        return not self.space.candidates[i].running

    def _hole(self, node: str) -> list[tuple[int, int]]:
        """Make room elsewhere for a model that the loss leaves without."""
        m = self.draw.choice(self.known[node].missing)
        free = self.fleet.free
        options = []
        for gpus, mib, _at in self.fleet.open(m, node):
            lacking = [(part - free[gpu], gpu) for gpu, part in zip(gpus, mib, strict=True) if part > free[gpu]]
            if lacking:
                options.append((sum(part for part, _gpu in lacking), lacking))
        if not options:
            return []
        options.sort(key=lambda option: option[0])
        _mib, lacking = options[min(len(options) - 1, int(self.draw.expovariate(0.3)))]
        moves: list[tuple[int, int]] = []
        for part, gpu in lacking:
            moves += self._emptied(gpu, part, {gone for gone, _new in moves})
        return self._checked(moves)

    def _emptied(self, gpu: int, mib: int, gone: set[int]) -> list[tuple[int, int]]:
        """Move so much from the GPU elsewhere."""
        here = []
        for i in sorted(self.on_gpu[gpu] - gone):
            if self._movable(i):
                candidate = self.space.candidates[i]
                here.append((candidate.mib[candidate.gpus.index(gpu)], i))
        here.sort()
        enough = [item for item in here if item[0] >= mib]
        leave = [self.draw.choice(enough[:2])] if enough else []
        if not enough:
            for part, i in reversed(here):
                leave.append((part, i))
                mib -= part
                if mib <= 0:
                    break
            else:
                return []
        moves = []
        for _part, i in leave:
            new = self._elsewhere(i, {gpu})
            if new is None:
                return []
            moves.append((i, new))
        return moves

    def _elsewhere(self, i: int, shut: set[int]) -> int | None:
        """Return one of the tightest places with room for the replica."""
        candidates, free = self.space.candidates, self.fleet.free
        old = candidates[i]
        found = []
        for new in self.space.by_model[old.model]:
            candidate = candidates[new]
            if candidate.running or new in self.chosen or not shut.isdisjoint(candidate.gpus):
                continue
            left = 0
            for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
                part = free[gpu] - mib
                if part < 0:
                    break
                left += part
            else:
                if self._allowed(i, new):
                    found.append((left, new))
        if not found:
            return None
        found.sort()
        return found[min(len(found) - 1, int(self.draw.expovariate(0.7)))][1]

    def _unload(self, node: str) -> list[tuple[int, int]]:
        """Move a replica off the node whose loss is too much."""
        here = [i for i in sorted(self.fleet.on_node[node]) if self._movable(i)]
        if not here:
            return []
        i = self.draw.choice(here)
        new = self._elsewhere(i, set(self.losses.members[node]))
        return self._checked([(i, new)]) if new is not None else []

    def _swap(self) -> list[tuple[int, int]]:
        """Let two replicas of different models change places."""
        members = sorted(self.chosen)
        i, j = self.draw.choice(members), self.draw.choice(members)
        one, other = self.space.candidates[i], self.space.candidates[j]
        if one.model == other.model or one.gpus == other.gpus or not (self._movable(i) and self._movable(j)):
            return []
        there = [new for new in self.space.by_model[one.model] if self.space.candidates[new].gpus == other.gpus]
        back = [new for new in self.space.by_model[other.model] if self.space.candidates[new].gpus == one.gpus]
        return self._checked([(i, there[0]), (j, back[0])]) if there and back else []

    def _allowed(self, old: int, new: int) -> bool:
        """Tell whether the rules of the model allow the move, and whether it outlives a node as before."""
        candidates, keys = self.space.candidates, self.fleet.keys
        candidate = candidates[new]
        m = candidate.model
        others = [candidates[i] for i in self.fleet.of_model[m] if i != old]
        mine = set(keys(m, candidate.gpus, candidate.node)) | set(candidate.gpus)
        if any(not mine.isdisjoint((*keys(m, one.gpus, one.node), *one.gpus)) for one in others):
            return False
        nodes = {one.node for one in others}
        return not (
            self.space.models[m].replicas_min >= 2
            and len({*nodes, candidates[old].node}) >= 2
            and len({*nodes, candidate.node}) < 2
        )

    def _checked(self, moves: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the moves if they are possible together, else none."""
        candidates = self.space.candidates
        if len({candidates[old].model for old, _new in moves}) < len(moves):
            return []
        load: Counter[int] = Counter()
        for old, new in moves:
            if candidates[new].running or new in self.chosen or not self._allowed(old, new):
                return []
            load.subtract(_mib(candidates[old]))
            load.update(_mib(candidates[new]))
        return moves if all(mib <= max(0, self.fleet.free[gpu]) for gpu, mib in load.items() if mib > 0) else []


def _mib(candidate: t.Any) -> dict[int, int]:
    return dict(zip(candidate.gpus, candidate.mib, strict=True))
