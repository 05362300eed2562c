# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""How to get from what runs to the plan.

A wave is legal when its starts fit beside everything that runs, its own stops included. A wave starts
all that fits; of what it replaces, that stops what the next starts need the room of, and what is in
nobody's way stays until all is started. So a chain of moves takes as many waves as it has links, and no
model falls below its minimum, or what it had of it. Where nothing could go on in that way, something
breaks before it is made: what costs the least of all orders where the moves are few (see ``knots``), else the
least that lets one more replica start.
"""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict

from .errors import PlacementError
from .knots import FEW, Floors, Search, after_step, claims, knots
from .model import Stop, Transition, Wave
from .running import already

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .knots import Step
    from .model import GpuKey, Plan, Problem, Replica


def transition(current: Sequence[Replica], plan: Plan, problem: Problem) -> Transition:
    """Return what to keep, start and stop, in waves.

    ``current`` is every replica on the nodes. One that is down holds no VRAM but an id and a port; it is
    started, not stopped, where the plan has the same in its place.

    Raises PlacementError for a plan that holds more than its GPUs offer.
    """
    there = already(problem, current, plan.replicas)
    keep = [replica for replica in plan.replicas if replica in there and there[replica].up]
    kept = set(keep)
    start = [replica for replica in plan.replicas if replica not in kept]
    staying = set(there.values())
    stop = sorted(
        (replica for replica in current if replica not in staying),
        key=lambda r: (r.model, len(r.id), r.id, r.node),
    )
    return Transition(
        keep=tuple(replica.id for replica in keep),
        start=tuple(replica.id for replica in start),
        stop=tuple(Stop(id=replica.id, node=replica.node, unit=replica.unit) for replica in stop),
        move_mib=sum(replica.vram_mib for replica in start),
        waves=_waves(keep, start, stop, problem),
    )


def _waves(
    keep: Sequence[Replica], start: Sequence[Replica], stop: Sequence[Replica], problem: Problem
) -> tuple[Wave, ...]:
    """Start all at the first chance; where that breaks something, perhaps it breaks less if some starts wait.

    Where both break something, each knot of a few moves gets the order that is the best of all.
    """
    floors = Floors(problem.models, [*keep, *stop], [*keep, *start])
    steps = list(_Schedule(keep, start, stop, problem).steps())
    if floors.cost_of(steps).told:
        patient = list(_Schedule(keep, start, stop, problem, patient=True).steps())
        steps = min(steps, patient, key=floors.cost_of)
    if floors.cost_of(steps).told:
        steps = min(steps, _untied(steps, keep, problem), key=floors.cost_of)
    return tuple(_told(steps, floors))


def _untied(steps: Sequence[Step], keep: Sequence[Replica], problem: Problem) -> list[Step]:
    """Return the steps with each small knot that breaks something in its best order; knots need not wait."""
    free: Counter[GpuKey] = Counter({gpu.key: gpu.offer_mib for gpu in problem.gpus})
    for replica in keep:
        free.subtract(dict(_places(replica)))
    merged: list[Step] = []
    for knot in knots([replica for step in steps for part in step for replica in part]):
        own = [(_only(starts, knot), _only(stops, knot)) for starts, stops in steps]
        own = [step for step in own if any(step)]
        starts = sorted((replica for step in own for replica in step[0]), key=_order)
        stops = sorted((replica for step in own for replica in step[1]), key=_order)
        names = {replica.model for replica in knot}
        models = [model for model in problem.models if model.name in names]
        kept = [replica for replica in keep if replica.model in names]
        floors = Floors(models, [*kept, *stops], [*kept, *starts])
        cost = floors.cost_of(own)
        if cost.told and len(knot) <= FEW:
            own = Search(free, starts, stops, floors).better(cost) or own
        merged += [((), ())] * (len(own) - len(merged))
        for place, (more_starts, more_stops) in enumerate(own):
            merged[place] = (merged[place][0] + more_starts, merged[place][1] + more_stops)
    return merged


def _only(replicas: Iterable[Replica], knot: set[Replica]) -> tuple[Replica, ...]:
    return tuple(replica for replica in replicas if replica in knot)


def _told(steps: Sequence[Step], floors: Floors) -> Iterator[Wave]:
    """Yield the waves of the steps; each says which models fall below their minimum."""
    had = floors.before
    for starts, stops in steps:
        has = after_step(had, starts, stops)
        yield Wave(
            start=tuple(replica.id for replica in sorted(starts, key=_order)),
            stop=tuple(dict.fromkeys(replica.id for replica in sorted(stops, key=_order))),
            breaks=tuple(floors.told(had, has)),
        )
        had = has


def _places(replica: Replica) -> Iterator[tuple[GpuKey, int]]:
    return (((replica.node, share.id), share.vram_mib) for share in replica.gpus if replica.up)


def _order(replica: Replica) -> tuple[str, int, str, str]:
    return (replica.model, len(replica.id), replica.id, replica.node)


class _Schedule:
    """What runs as the waves go by, and what is still to start and to stop."""

    def __init__(
        self,
        keep: Sequence[Replica],
        start: Sequence[Replica],
        stop: Sequence[Replica],
        problem: Problem,
        *,
        patient: bool = False,
    ) -> None:
        self.patient = patient
        self.start = dict.fromkeys(start)
        self.stop = dict.fromkeys(stop)
        self.models = {model.name: model for model in problem.models}
        self.planned = Counter(replica.model for replica in [*keep, *start])
        self.count = Counter(replica.model for replica in [*keep, *stop] if replica.up)
        self.had = Counter(self.count)
        self.free: Counter[GpuKey] = Counter({gpu.key: gpu.offer_mib for gpu in problem.gpus})
        for replica in [*keep, *stop]:
            self.free.subtract(dict(_places(replica)))
        self.holders: defaultdict[t.Hashable, dict[Replica, None]] = defaultdict(dict)
        for replica in stop:
            for claim in claims(replica):
                self.holders[claim][replica] = None
        self.promised: set[Replica] = set()

    def steps(self) -> Iterator[Step]:
        while self.start or self.stop:
            self.had = Counter(self.count)
            started = self._start(self.patient)
            stopped = self._make_room()
            if self.patient and not stopped:
                started += self._start()
                stopped = self._make_room()
            if not stopped:
                stopped = self._break_least() if self.start else self._end(list(self.stop))
            if not started and not stopped:
                left = ", ".join(replica.id for replica in self.start)
                raise PlacementError(f"plan: the GPUs have no room for {left}; make the plan anew")
            yield tuple(started), tuple(stopped)

    # --- starts ---

    def _start(self, useful_only: bool = False) -> list[Replica]:
        """Start all that fits."""
        started = []
        wanted = self._wanted()
        for replica in sorted(self._useful_first(), key=lambda replica: replica not in self.promised):
            if useful_only and replica.model not in wanted:
                continue
            if self._in_the_way(replica, Counter()) == []:
                started.append(replica)
                del self.start[replica]
                self.count[replica.model] += 1
                self.free.subtract(dict(_places(replica)))
        return started

    def _useful_first(self) -> list[Replica]:
        """Return what is to start; first what lets a replica of its own model stop and so makes room."""
        wanted = self._wanted()
        return sorted(self.start, key=lambda replica: replica.model not in wanted)

    def _wanted(self) -> set[str]:
        """Return the models of what is to stop and holds what a start claims."""
        return {other.model for replica in self.start for claim in claims(replica) for other in self.holders[claim]}

    # --- stops ---

    def _make_room(self) -> list[Replica]:
        """Stop what may go and lets more start in the next wave."""
        stopped: list[Replica] = []
        reserved: Counter[GpuKey] = Counter()
        self.promised = set()
        # A replica that takes the place of its own model gives back at once what the model could spare.
        for own in (True, False):
            for replica in self._useful_first():
                found = None if replica in self.promised else self._in_the_way(replica, reserved)
                if not found or self._missed(found):
                    continue
                if not own or {other.model for other in found} <= {replica.model}:
                    stopped += self._end(found)
                    reserved.update(dict(_places(replica)))
                    self.promised.add(replica)
        return stopped

    def _break_least(self) -> list[Replica]:
        """Stop what must not go: for each knot of models the least that lets one of their replicas start."""
        stopped: list[Replica] = []
        for knot in self._knots():
            ways = []
            for replica in self.start:
                found = self._in_the_way(replica, Counter()) if replica.model in knot else None
                if found is not None:
                    ways.append((self._harm(found), _order(replica), replica, found))
            if ways:
                *_rank, replica, found = min(ways, key=lambda way: way[:2])
                stopped += self._end(found)
                self.promised.add(replica)
        return stopped

    def _knots(self) -> list[frozenset[str]]:
        """Return the sets of models that wait for each other and for nobody else: in each, one has to break."""
        waits: dict[str, set[str]] = {replica.model: {replica.model} for replica in self.start}
        for replica in self.start:
            for claim in claims(replica):
                waits[replica.model].update(other.model for other in self.holders[claim] if other.model in waits)
        reach = {model: self._reach(model, waits) for model in waits}
        return sorted({found for found in reach.values() if all(reach[model] == found for model in found)}, key=sorted)

    def _reach(self, model: str, waits: dict[str, set[str]]) -> frozenset[str]:
        found = {model}
        fresh = [model]
        while fresh:
            more = waits[fresh.pop()] - found
            found |= more
            fresh += more
        return frozenset(found)

    def _in_the_way(self, replica: Replica, reserved: Counter[GpuKey]) -> list[Replica] | None:
        """Return what has to stop before the replica can start beside what is reserved; None if it never can.

        What may go is taken first, then what holds most.
        """
        names = [replica.id, (replica.node, replica.port)]
        named = [other.id for name in names for other in self.holders[name]]
        found = list(dict.fromkeys(other for name in named for other in self.holders[name]))
        for key, mib in _places(replica):
            held = {other: dict(_places(other))[key] for other in self.holders[key]}
            lacking = mib - self.free[key] + reserved[key] - sum(held.get(other, 0) for other in found)
            while lacking > 0:
                left = [other for other in held if other not in found]
                if not left:
                    return None
                best = min(left, key=lambda o: (bool(self._missed([*found, o])), -held[o], _order(o)))
                # Whoever makes a wave knows the ids of what stops: all of one id stop together.
                found += [other for other in self.holders[best.id] if other not in found]
                lacking = mib - self.free[key] + reserved[key] - sum(held.get(other, 0) for other in found)
        return found

    def _missed(self, stops: Iterable[Replica]) -> list[str]:
        """Return the models that these stops would take below their minimum, unless they were or shall be."""
        after = Counter(self.count)
        names = [replica.model for replica in stops if replica.up and replica.model in self.models]
        after.subtract(names)
        return sorted(
            name
            for name in set(names)
            if after[name] < min(self.models[name].replicas_min, self.planned[name], self.had[name])
        )

    def _harm(self, stops: Sequence[Replica]) -> tuple[int, int, int]:
        """Models that would not be served at all, models below their minimum, the highest priority of these."""
        missed = self._missed(stops)
        gone = Counter(replica.model for replica in stops)
        return (
            sum(self.count[name] <= gone[name] for name in missed),
            len(missed),
            max((self.models[name].priority for name in missed), default=0),
        )

    def _end(self, stops: Sequence[Replica]) -> list[Replica]:
        for replica in stops:
            del self.stop[replica]
            self.count[replica.model] -= replica.up
            self.free.update(dict(_places(replica)))
            for claim in claims(replica):
                del self.holders[claim][replica]
        return list(stops)
