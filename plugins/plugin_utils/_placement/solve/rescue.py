# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""One try to find room for replicas, of a lost node above all, in what remains.

Each goes into the tightest room there is, else where the least has to be stopped of what is beyond a minimum.
"""

from __future__ import annotations

import typing as t
from collections import defaultdict
from dataclasses import dataclass

from ._cp_sat import np

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .losses import Fleet

Start = tuple[tuple[int, ...], tuple[int, ...], str]
"""GPUs, MiB on each of them, node."""


@dataclass(frozen=True)
class Recovery:
    """What a greedy found after one loss: the models that found no room, one entry a replica; who starts where."""

    missing: tuple[int, ...]
    starts: tuple[tuple[int, Start], ...] = ()
    stops: tuple[int, ...] = ()

    @property
    def gpus(self) -> set[int]:
        return {gpu for _model, (gpus, _mib, _node) in self.starts for gpu in gpus}


class Rescue:
    """What is free and may be stopped, of a fleet without the node, while places are given away."""

    def __init__(self, fleet: Fleet, node: str) -> None:
        self.fleet = fleet
        self.node = node
        self.space = fleet.space
        self.free = fleet.free.copy()
        for gpu in fleet.losses.members[node]:
            self.free[gpu] = -1
        self.room = np.array(self.free, np.int64)
        self.closed: dict[int, set[t.Hashable]] = {}
        self.starts: list[tuple[int, Start]] = []
        self.stops: list[int] = []
        self.spare: dict[int, int] | None = None
        self.on_gpu: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self.reclaimable = np.zeros(len(self.free), np.int64)

    def run(self, order: Iterable[int]) -> Recovery:
        """Return what is found for a replica of each of these models, the first ones first."""
        missing = []
        for model in order:
            place = self._roomy(model) or self._reclaimed(model)
            if place is None:
                missing.append(model)
                continue
            gpus, mib, node = place
            for gpu, part in zip(gpus, mib, strict=True):
                self._free(gpu, -part)
            self.closed[model].update(self.fleet.keys(model, gpus, node))
            self.starts.append((model, place))
        return Recovery(tuple(missing), tuple(self.starts), tuple(self.stops))

    def _free(self, gpu: int, mib: int) -> None:
        self.free[gpu] += mib
        self.room[gpu] = self.free[gpu]

    def _shut(self, model: int) -> set[t.Hashable]:
        if model not in self.closed:
            self.closed[model] = self.fleet.closed(model, self.node)
        return self.closed[model]

    def _roomy(self, model: int) -> Start | None:
        """Return the tightest place with room, of those on the fewest GPUs."""
        free = self.free
        # Most places are ruled out by this line, so nothing else may be slow.
        roomy = self._with_room(model, self.room)
        shut, keys = self._shut(model), self.fleet.keys
        best: Start | None = None
        fewest, least = 9, 0
        for place in roomy:
            gpus, mib, node = place
            parts = [free[gpu] - part for gpu, part in zip(gpus, mib, strict=True)]
            key = (len(gpus), sum(parts))
            if (best is None or key < (fewest, least)) and min(parts) >= 0 and shut.isdisjoint(keys(model, gpus, node)):
                best, (fewest, least) = place, key
        return best

    def _with_room(self, model: int, room: t.Any) -> list[Start]:
        """Return the places for which so much room on their first GPU is enough."""
        heads = self.fleet.losses.heads(model, self.node)
        return [heads.places[place] for place in np.flatnonzero(room[heads.gpus] >= heads.mib).tolist()]

    # --- stopping what is beyond a minimum ---

    def _find_extras(self) -> dict[int, int]:
        """Return how many of each model may be stopped, noting on which GPUs they are."""
        extras = self.fleet.extras(self.node)
        for _spare, members in extras.values():
            for i in members:
                candidate = self.space.candidates[i]
                for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
                    self.on_gpu[gpu].append((mib, i))
                    self.reclaimable[gpu] += mib
        for held in self.on_gpu.values():
            held.sort(key=lambda item: (-item[0], item[1]))
        return {model: spare for model, (spare, _members) in extras.items()}

    def _reclaimed(self, model: int) -> Start | None:
        if self.spare is None:
            self.spare = self._find_extras()
        if not self.spare:
            return None
        best: tuple[tuple[int, int], Start, set[int]] | None = None
        shut = self._shut(model)
        for place in self._with_room(model, self.room + self.reclaimable):
            stops = self._room_made(place, self.spare)
            if stops is None or not shut.isdisjoint(self.fleet.keys(model, place[0], place[2])):
                continue
            key = (len(stops), sum(self.space.candidates[i].vram_mib for i in stops))
            if best is None or key < best[0]:
                best = (key, place, stops)
        if best is None:
            return None
        for i in sorted(best[2]):
            candidate = self.space.candidates[i]
            self.spare[candidate.model] -= 1
            self.stops.append(i)
            for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
                self._free(gpu, mib)
        return best[1]

    def _room_made(self, place: Start, spare: Mapping[int, int]) -> set[int] | None:
        """Return what to stop so that the place has room, or None; ``spare`` is how many of each model may be."""
        stops: set[int] = set()
        used: dict[int, int] = {}
        for gpu, mib in zip(place[0], place[1], strict=True):
            missing = mib - self.free[gpu]
            for part, i in self.on_gpu.get(gpu, ()):
                if missing <= 0:
                    break
                if i in stops:
                    missing -= part
                    continue
                of = self.space.candidates[i].model
                if i not in self.stops and used.get(of, 0) < spare[of]:
                    stops.add(i)
                    used[of] = used.get(of, 0) + 1
                    missing -= part
            if missing > 0:
                return None
        return stops
