# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""How to get from what runs to the plan.

A wave is legal when its starts fit beside everything that runs, its own stops included. What does
not fit beside has to break before it is made: it stops in one wave and starts in the next.
"""

from __future__ import annotations

import typing as t
from collections import Counter

from .model import Stop, Transition, Wave
from .running import already

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .model import GpuKey, Plan, Problem, Replica


def transition(current: Sequence[Replica], plan: Plan, problem: Problem) -> Transition:
    """Return what to keep, start and stop, in at most two waves.

    ``current`` is every replica on the nodes. One that is down holds no VRAM but an id and a port; it is
    started, not stopped, where the plan has the same in its place.
    """
    there = already(problem, current, plan.replicas)
    keep = [replica for replica in plan.replicas if replica in there and there[replica].up]
    start = [replica for replica in plan.replicas if replica not in keep]
    staying = set(there.values())
    stop = sorted(
        (replica for replica in current if replica not in staying),
        key=lambda r: (r.model, len(r.id), r.id, r.node),
    )
    first = _fitting_beside([*keep, *stop], start, stop, problem)
    later = [replica for replica in start if replica not in first]
    return Transition(
        keep=tuple(replica.id for replica in keep),
        start=tuple(replica.id for replica in start),
        stop=tuple(Stop(id=replica.id, node=replica.node, unit=replica.unit) for replica in stop),
        move_mib=sum(replica.vram_mib for replica in start),
        waves=tuple(_waves(keep, first, later, stop, problem)),
    )


def _fitting_beside(
    before: Sequence[Replica], start: Sequence[Replica], stop: Sequence[Replica], problem: Problem
) -> list[Replica]:
    """Return the starts that fit beside everything that runs, and need no id or port of what stops."""
    free = {gpu.key: gpu.offer_mib for gpu in problem.gpus}
    for replica in before:
        for key, mib in _places(replica):
            free[key] = free.get(key, 0) - mib
    ids = {replica.id for replica in stop}
    ports = {(replica.node, replica.port) for replica in stop}
    fitting = []
    for replica in start:
        if replica.id in ids or (replica.node, replica.port) in ports:
            continue
        if all(mib <= free[key] for key, mib in _places(replica)):
            fitting.append(replica)
            for key, mib in _places(replica):
                free[key] -= mib
    return fitting


def _places(replica: Replica) -> Iterable[tuple[GpuKey, int]]:
    return (((replica.node, share.id), share.vram_mib) for share in replica.gpus if replica.up)


def _waves(
    keep: Sequence[Replica],
    first: Sequence[Replica],
    later: Sequence[Replica],
    stop: Sequence[Replica],
    problem: Problem,
) -> Iterable[Wave]:
    if not later:
        if first or stop:
            yield _wave([*keep, *stop], first, stop, problem)
        return
    # Only what stands in the way of a later start goes early; the rest stays until all starts are proven.
    ids = {replica.id for replica in later}
    ports = {(replica.node, replica.port) for replica in later}
    keys = {key for replica in later for key, _ in _places(replica)}
    early = [
        replica
        for replica in stop
        if replica.id in ids or (replica.node, replica.port) in ports or any(key in keys for key, _ in _places(replica))
    ]
    late = [replica for replica in stop if replica not in early]
    yield _wave([*keep, *stop], first, early, problem)
    yield _wave([*keep, *first, *late], later, late, problem)


def _wave(before: Sequence[Replica], start: Sequence[Replica], stop: Sequence[Replica], problem: Problem) -> Wave:
    """Build a wave; it breaks the models that had more replicas before it and fall below their minimum."""
    count = Counter(replica.model for replica in before if replica.up)
    after = count + Counter(replica.model for replica in start)
    after.subtract(replica.model for replica in stop if replica.up)
    breaks = sorted(
        model.name for model in problem.models if after[model.name] < min(model.replicas_min, count[model.name])
    )
    return Wave(
        start=tuple(replica.id for replica in start),
        stop=tuple(replica.id for replica in stop),
        breaks=tuple(breaks),
    )
