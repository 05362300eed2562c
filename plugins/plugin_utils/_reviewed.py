# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Whether a plan that somebody reviewed still holds on fresh facts."""

from __future__ import annotations

import typing as t
from collections import Counter

from ._placement.errors import PlacementError
from ._placement.rules import eligibility, nodes_by_name
from ._placement.running import already
from ._placement.shapes import shares_mib

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._placement.model import Model, Need, Plan, Problem, Replica

_SETTINGS = ("context", "parallel", "kv_cache_type", "batch")


class OutdatedPlanError(PlacementError):
    """The reviewed plan is not one for this fleet and catalog; the message says what differs."""


def check_reviewed(problem: Problem, plan: Plan, current: Sequence[Replica]) -> None:
    """Raise OutdatedPlanError with all differences unless the plan fits the fleet as it is now."""
    differences = [
        *_names(plan),
        *_models(problem, plan),
        *_minimums(problem, plan),
        *_places(problem, plan),
        *_sizes(problem, plan, current),
        *_capacity(problem, plan, current),
        *_digests(problem, plan),
    ]
    if differences:
        raise OutdatedPlanError(
            "\n- ".join(["sdai_plan_file: the reviewed plan no longer holds; make and review a new one:", *differences])
        )


def _digests(problem: Problem, plan: Plan) -> Iterator[str]:
    if plan.fleet_digest != problem.fleet_digest:
        yield (
            "the fleet is not the one that was planned: in the inventory or on the nodes a node, a GPU, a label or a "
            f"failure domain has changed since (digest {plan.fleet_digest[:12]} in the file, "
            f"{problem.fleet_digest[:12]} now); undo that, or make the plan anew"
        )
    if plan.catalog_digest != problem.catalog_digest:
        yield (
            "the catalog is not the one that was planned: sdai_models of the inventory has changed since "
            f"(digest {plan.catalog_digest[:12]} in the file, {problem.catalog_digest[:12]} now); undo that, "
            "or make the plan anew"
        )


def _names(plan: Plan) -> Iterator[str]:
    """A file may have been edited: ids are unique in the fleet, ports on their node, GPUs in their replica."""
    for identity, count in sorted(Counter(replica.id for replica in plan.replicas).items()):
        if count > 1:
            yield f"{identity} is the id of {count} replicas"
    for (node, port), count in sorted(Counter((replica.node, replica.port) for replica in plan.replicas).items()):
        if count > 1:
            yield f"port {port} of {node} is given to {count} replicas"
    for (node, gpu, model), count in sorted(
        Counter((replica.node, share.id, replica.model) for replica in plan.replicas for share in replica.gpus).items()
    ):
        if count > 1:
            yield f"GPU {node}/{gpu} is given to {model} {count} times"


def _models(problem: Problem, plan: Plan) -> Iterator[str]:
    models = {model.name: model for model in problem.models}
    planned = {replica.model for replica in plan.replicas} | {item.model for item in plan.unplaced}
    for name in sorted(planned - set(models)):
        yield f"{name} is no longer in sdai_models"
    for name in sorted({model.name for model in problem.models if model.replicas_min} - planned):
        yield f"{name} is new in sdai_models"
    for replica in plan.replicas:
        model = models.get(replica.model)
        if model is not None:
            yield from _settings(replica, model)


def _minimums(problem: Problem, plan: Plan) -> Iterator[str]:
    """What a plan misses of a minimum it has to say, so that whoever reviews it can see it."""
    placed = Counter(replica.model for replica in plan.replicas)
    listed = {item.model: item.missing for item in plan.unplaced}
    for model in sorted(problem.models, key=lambda model: model.name):
        count, missing = placed[model.name], listed.get(model.name, 0)
        if count + missing < model.replicas_min and (count or missing):
            yield (
                f"{model.name} has {count} replicas in the plan and {missing} listed as unplaced, "
                f"but its minimum is {model.replicas_min}"
            )


def _settings(replica: Replica, model: Model) -> Iterator[str]:
    for name in _SETTINGS:
        then, now = getattr(replica, name), getattr(model, name)
        if then != now:
            yield f"{replica.id}: {name} was planned as {then} and is wanted as {now}"


def _places(problem: Problem, plan: Plan) -> Iterator[str]:
    models = {model.name: model for model in problem.models}
    gpus = {gpu.key: gpu for gpu in problem.gpus}
    nodes = nodes_by_name(problem)
    for replica in plan.replicas:
        model = models.get(replica.model)
        for share in replica.gpus:
            gpu = gpus.get((replica.node, share.id))
            where = f"{replica.id}: GPU {replica.node}/{share.id}"
            if gpu is None:
                yield f"{where} {_whereabouts(problem, share.id)}"
                continue
            if gpu.index != share.index:
                yield f"{where} was number {share.index} of its node and is number {gpu.index}"
            refused = eligibility(model, gpu, nodes[gpu.node]) if model is not None else None
            if refused is not None:
                yield f"{where}: {refused}"
            elif model is not None and replica.runner not in {need.runner for need in model.needs[gpu.kind]}:
                yield f"{where} no longer has the runner {replica.runner}"


def _whereabouts(problem: Problem, identity: str) -> str:
    """Where a card went. An address says nothing: each node has one like it."""
    moved = [gpu for gpu in problem.gpus if gpu.id == identity and ":" not in identity]
    return f"is in {moved[0].node} now, as its number {moved[0].index}" if len(moved) == 1 else "is gone"


def _sizes(problem: Problem, plan: Plan, current: Sequence[Replica]) -> Iterator[str]:
    """What starts takes what the planner would count with; what runs has shown what it takes."""
    models = {model.name: model for model in problem.models}
    gpus = {gpu.key: gpu for gpu in problem.gpus}
    running = already(problem, current, plan.replicas)
    for replica in plan.replicas:
        places = [gpus.get((replica.node, share.id)) for share in replica.gpus]
        if replica in running or replica.model not in models or None in places:
            continue
        found = [
            need
            for gpu in places
            if gpu is not None
            for need in models[replica.model].needs.get(gpu.kind, ())
            if need.runner == replica.runner
        ]
        if len(found) == len(places):
            yield from _shares(replica, found)


def _shares(replica: Replica, needs: Sequence[Need]) -> Iterator[str]:
    layers = [share.layers for share in replica.gpus]
    if sum(layers) != needs[0].layers or min(layers) < 1:
        yield f"{replica.id} has {sum(layers)} layers in the plan, its model has {needs[0].layers}"
        return
    least = [needs[0].vram_mib] if len(layers) == 1 else shares_mib(needs, layers)
    for share, mib in zip(replica.gpus, least, strict=True):
        if share.vram_mib < mib:
            yield (
                f"{replica.id}: {share.vram_mib} MiB are planned on GPU {replica.node}/{share.id}, "
                f"where it takes {mib} MiB"
            )


def _capacity(problem: Problem, plan: Plan, current: Sequence[Replica]) -> Iterator[str]:
    """What runs may use the margin, what starts may not."""
    running = already(problem, (replica for replica in current if replica.up), plan.replicas)
    wanted: Counter[tuple[str, str]] = Counter()
    starting: set[tuple[str, str]] = set()
    for replica in plan.replicas:
        for share in replica.gpus:
            wanted[replica.node, share.id] += share.vram_mib
            if replica not in running:
                starting.add((replica.node, share.id))
    for gpu in sorted(problem.gpus, key=lambda gpu: gpu.key):
        room = gpu.offer_mib if gpu.key in starting else gpu.vram_mib - gpu.vram_foreign_mib
        if wanted[gpu.key] > room:
            yield f"GPU {gpu.node}/{gpu.id}: {wanted[gpu.key]} MiB are planned, {room} MiB are left"
