# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Which running replicas a new plan may keep as they are."""

from __future__ import annotations

import dataclasses
import typing as t
from collections import Counter, defaultdict

from .rules import eligibility, nodes_by_name
from .shapes import as_it_runs

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .model import Gpu, GpuKey, Model, Problem, Replica


def invalid(problem: Problem, replica: Replica) -> str | None:
    """Return why a running replica, looked at alone, cannot stay, or None."""
    return _invalid(_Known(problem), replica)


class _Known:
    """The parts of a problem by their names."""

    def __init__(self, problem: Problem) -> None:
        self.models = {model.name: model for model in problem.models}
        self.nodes = nodes_by_name(problem)
        self.gpus = {gpu.key: gpu for gpu in problem.gpus}
        self.domains = {node.name: node.failure_domain for node in problem.nodes}


def _invalid(known: _Known, replica: Replica) -> str | None:
    model = known.models.get(replica.model)
    if model is None:
        return "the catalog no longer has the model"
    changed = _changed(replica, model)
    if changed is not None:
        return changed
    gpus = [known.gpus.get((replica.node, share.id)) for share in replica.gpus]
    present = [gpu for gpu in gpus if gpu is not None]
    if replica.node not in known.nodes or not gpus or len(present) != len(gpus):
        return "its node or GPU is gone"
    for gpu in present:
        refused = eligibility(model, gpu, known.nodes[gpu.node])
        if refused is not None:
            return refused
    numbers = [gpu.index for gpu in present]
    if numbers != sorted(numbers):
        return "its GPUs are numbered in another order by now"
    return _unserved(model, replica, present)


def _unserved(model: Model, replica: Replica, gpus: Sequence[Gpu]) -> str | None:
    shape = as_it_runs(model, replica, gpus)
    if shape is None:
        return f"runner {replica.runner} no longer serves its GPU"
    if shape.speed < model.min_speed:
        return f"{shape.speed / 1000:.1f} tokens/s is below min_tokens_per_second {model.min_speed / 1000:.1f}"
    return None


def _changed(replica: Replica, model: Model) -> str | None:
    if _settings(replica) != _settings(model):
        return "context, parallel, kv_cache_type or batch changed"
    return None if _same_source(replica, model) else f"source changed from {replica.source} to {model.source}"


def _settings(thing: Replica | Model) -> tuple[int, int, str, int]:
    return (thing.context, thing.parallel, thing.kv_cache_type, thing.batch)


def _same_source(replica: Replica, model: Model) -> bool:
    # A node that does not say where a replica came from is taken to have what is wanted.
    return replica.source in (None, model.source)


def already(problem: Problem, current: Iterable[Replica], planned: Iterable[Replica]) -> dict[Replica, Replica]:
    """Map each planned replica that is there already to the running one.

    All is alike but the estimate of its speed, and the numbers that its node gives its GPUs: a GPU is known by its id.
    """
    models = {model.name: model for model in problem.models}
    running = {(replica.node, replica.id): replica for replica in current}
    found = {}
    for replica in planned:
        old = running.get((replica.node, replica.id))
        if old is None or _unnumbered(dataclasses.replace(old.planned, speed=replica.speed)) != _unnumbered(replica):
            continue
        if replica.model not in models or _same_source(old, models[replica.model]):
            found[replica] = old
    return found


def _unnumbered(replica: Replica) -> Replica:
    return dataclasses.replace(replica, gpus=tuple(dataclasses.replace(share, index=0) for share in replica.gpus))


def standing(problem: Problem, current: Iterable[Replica]) -> tuple[Replica, ...]:
    """Return the replicas that are valid together, those that are down too if they may start again in their place.

    Where not all can stay (maximum lowered, spread asked for, foreign VRAM grown) what is up, then the
    higher priority, then the faster replica stays. Their GPUs have the numbers that the node gives them now.
    """
    known = _Known(problem)
    alone = [replica for replica in current if _invalid(known, replica) is None]
    alone.sort(key=lambda r: (not r.up, -known.models[r.model].priority, r.model, -r.speed, len(r.id), r.id))
    kept: list[Replica] = []
    siblings: defaultdict[str, list[Replica]] = defaultdict(list)
    ids: set[str] = set()
    used: Counter[GpuKey] = Counter()
    for replica in alone:
        if replica.id in ids or not _compatible(known, siblings[replica.model], replica):
            continue
        if _has_room(known.gpus, used, replica):
            kept.append(_numbered(known, replica))
            siblings[replica.model].append(replica)
            ids.add(replica.id)
            used.update({(replica.node, share.id): share.vram_mib for share in replica.gpus})
    return tuple(sorted(kept, key=lambda r: (r.model, len(r.id), r.id)))


def _numbered(known: _Known, replica: Replica) -> Replica:
    numbers = [known.gpus[replica.node, share.id].index for share in replica.gpus]
    if numbers == [share.index for share in replica.gpus]:
        return replica
    shares = zip(replica.gpus, numbers, strict=True)
    return dataclasses.replace(replica, gpus=tuple(dataclasses.replace(share, index=i) for share, i in shares))


def _compatible(known: _Known, siblings: Sequence[Replica], replica: Replica) -> bool:
    model, domains = known.models[replica.model], known.domains
    if len(siblings) >= model.replicas_max:
        return False
    taken = {(other.node, share.id) for other in siblings for share in other.gpus}
    if taken & {(replica.node, share.id) for share in replica.gpus}:
        return False
    if model.constraints.spread == "node":
        return all(other.node != replica.node for other in siblings)
    if model.constraints.spread == "domain":
        return all(domains[other.node] != domains[replica.node] for other in siblings)
    return True


def _has_room(gpus: dict[GpuKey, Gpu], used: Counter[GpuKey], replica: Replica) -> bool:
    # The margin binds starts only, so what runs is measured against the whole card.
    for share in replica.gpus:
        gpu = gpus[replica.node, share.id]
        room = gpu.vram_mib - gpu.vram_foreign_mib if replica.up else gpu.offer_mib
        if used[gpu.key] + share.vram_mib > room:
            return False
    return True
