# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""An independent look at a transition: each wave is played through, from what runs to the plan.

It shares types with what makes the waves and nothing else. Findings are sentences for an administrator.
"""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict

from .check import twins

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .model import Gpu, GpuKey, Plan, Problem, Replica, Transition, Wave


def check_transition(problem: Problem, current: Sequence[Replica], plan: Plan, transition: Transition) -> list[str]:
    """Return what is wrong with this way from every replica that is on the nodes to the plan.

    A wave's starts have to fit the offers beside all that runs, the wave's own stops included. A model breaks in a
    wave that leaves it fewer replicas than its minimum, or than it had before the wave where that was fewer already;
    exactly these models the wave has to announce.
    """
    return list(_Moves(problem, current, plan, transition).findings())


class _Moves:
    def __init__(self, problem: Problem, current: Sequence[Replica], plan: Plan, transition: Transition) -> None:
        self.transition = transition
        self.least = {model.name: model.replicas_min for model in problem.models}
        self.gpus: dict[GpuKey, Gpu] = {gpu.key: gpu for gpu in problem.gpus}
        self.planned = {replica.id: replica for replica in plan.replicas}
        there = dict(zip(self.planned, twins(problem, list(self.planned.values()), current), strict=True))
        self.kept = {name for name, found in there.items() if found is not None and found.up}
        staying = {id(found) for found in there.values() if found is not None}
        self.going = [replica for replica in current if id(replica) not in staying]
        # What stays, or starts again, is there as the plan has it; one that is down has no process.
        self.up = [self.planned[name] for name in sorted(self.kept)]
        self.up += [replica for replica in self.going if replica.up]
        self.down = [self.planned[name] for name, found in there.items() if found is not None and not found.up]
        self.down += [replica for replica in self.going if not replica.up]

    def findings(self) -> Iterator[str]:
        yield from self._lists()
        for number, wave in enumerate(self.transition.waves, start=1):
            for finding in self._wave(wave):
                yield f"wave {number}: {finding}"
        yield from self._end()

    # --- what is kept, started and stopped at all ---

    def _lists(self) -> Iterator[str]:
        keep, start = Counter(self.transition.keep), Counter(self.transition.start)
        for name in sorted({*keep, *start, *self.planned}):
            replica = self.planned.get(name)
            if replica is None:
                yield f"{name} is kept or started, but is no replica of the plan"
            elif name in self.kept:
                if (keep[name], start[name]) != (1, 0):
                    yield f"{name} runs on {replica.node} as planned: it is to be kept, once, and not to be started"
            elif (keep[name], start[name]) != (0, 1):
                yield f"{name} does not run on {replica.node} as planned: it is to be started, once, and not kept"
        stops = Counter((stop.node, stop.id) for stop in self.transition.stop)
        going = Counter((replica.node, replica.id) for replica in self.going)
        for node, name in sorted({*stops, *going}):
            if stops[node, name] > going[node, name]:
                yield f"{name} on {node} is to be stopped, but is not there, or belongs to the plan"
            if stops[node, name] < going[node, name]:
                yield f"{name} on {node} is not in the plan, but is not stopped"
        for stop in self.transition.stop:
            if stop.unit not in {replica.unit for replica in self.going if replica.id == stop.id}:
                yield f"{stop.id} on {stop.node} is not the unit {stop.unit}"
        mib = sum(self.planned[name].vram_mib for name in self.transition.start if name in self.planned)
        if mib != self.transition.move_mib:
            yield f"{self.transition.move_mib} MiB are said to be loaded, but what starts takes {mib} MiB"
        yield from _once("starts", self.transition.start, [wave.start for wave in self.transition.waves])
        stopped = [stop.id for stop in self.transition.stop]
        yield from _once("stops", stopped, [wave.stop for wave in self.transition.waves])

    # --- one wave ---

    def _wave(self, wave: Wave) -> Iterator[str]:
        if not wave.start and not wave.stop:
            yield "nothing starts and nothing stops"
        had = Counter(replica.model for replica in self.up)
        starting = [self.planned[name] for name in wave.start if name in self.planned]
        # A replica that is down starts again in its own place.
        again = {replica.id for replica in starting}
        self.down = [replica for replica in self.down if replica.id not in again or replica in self.going]
        yield from self._names(starting)
        self.up += starting
        yield from self._room(starting)
        named = set(wave.stop)
        for name in sorted(named - {replica.id for replica in self.going}):
            yield f"{name} is to be stopped, but nothing of that name has to go then"
        # Whoever makes the wave knows a name only: all that have it and have to go, go.
        gone = {id(replica) for replica in self.going if replica.id in named}
        self.going, self.up, self.down = (
            [replica for replica in there if id(replica) not in gone] for there in (self.going, self.up, self.down)
        )
        yield from self._breaks(wave, had)

    def _names(self, starting: Sequence[Replica]) -> Iterator[str]:
        """The id has to be free in the fleet, the port on its node."""
        ids: dict[str, Replica] = {}
        ports: dict[tuple[str, int], Replica] = {}
        for replica in [*self.up, *self.down, *starting]:
            ids.setdefault(replica.id, replica)
            ports.setdefault((replica.node, replica.port), replica)
        for replica in starting:
            other, beside = ids[replica.id], ports[replica.node, replica.port]
            if other != replica:
                yield f"{replica.id} is to start on {replica.node} while one of that name is on {other.node}"
            elif beside != replica:
                yield f"{replica.id} is to start on port {replica.port} of {replica.node}, which {beside.id} still has"

    def _room(self, starting: Sequence[Replica]) -> Iterator[str]:
        held: defaultdict[GpuKey, list[tuple[str, int]]] = defaultdict(list)
        for replica in self.up:
            for share in replica.gpus:
                held[replica.node, share.id].append((replica.id, share.vram_mib))
        for key in sorted({(replica.node, share.id) for replica in starting for share in replica.gpus}):
            total = sum(mib for _name, mib in held[key])
            if key in self.gpus and total > self.gpus[key].offer_mib:
                yield (
                    f"GPU {'/'.join(key)} offers {self.gpus[key].offer_mib} MiB, but would have to hold {total} MiB: "
                    f"{', '.join(f'{name} {mib}' for name, mib in held[key])}"
                )

    def _breaks(self, wave: Wave, had: Counter[str]) -> Iterator[str]:
        has = Counter(replica.model for replica in self.up)
        fallen = {name for name, least in self.least.items() if has[name] < min(least, had[name])}
        for name in sorted(fallen - set(wave.breaks)):
            yield f"{name} falls to {has[name]} replicas, its minimum is {self.least[name]}, and nobody is told"
        for name in sorted(set(wave.breaks) - fallen):
            yield f"{name} is said to fall below its minimum, but does not"

    # --- when all waves are done ---

    def _end(self) -> Iterator[str]:
        there = Counter((replica.node, replica.id) for replica in self.up)
        wanted = Counter((replica.node, replica.id) for replica in self.planned.values())
        for node, name in sorted((there - wanted).keys()):
            yield f"after the last wave {name} still runs on {node}"
        for node, name in sorted((wanted - there).keys()):
            yield f"after the last wave {name} does not run on {node}"
        for replica in self.down:
            yield f"after the last wave {replica.id} is still on {replica.node}, though down"


def _once(does: str, listed: Sequence[str], waves: Iterable[Sequence[str]]) -> Iterator[str]:
    named = Counter(name for wave in waves for name in wave)
    for name in sorted({*listed, *named}):
        if named[name] != 1:
            yield f"{name} {does} in {named[name]} waves instead of one"
        elif name not in listed:
            yield f"{name} {does} in a wave, but is not in the list of what {does}"
