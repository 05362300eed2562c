# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""An independent look at a plan: whether the fleet can run it, and whether each model gets what was asked.

It shares types with the rest of the core and nothing else, so that a mistake in the solver or in the rules that
the solver uses is found here. Findings are sentences for an administrator; no finding, no fault.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
from collections import Counter, defaultdict

from .errors import PlacementError

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .model import Gpu, GpuKey, Model, Need, Node, Plan, Problem, Replica

MOST_GPUS = 8
FIRST_PORT, LAST_PORT = 11500, 11999
# It becomes part of a unit's name and of paths.
_ID = re.compile(r"[a-z0-9.-]+--[1-9][0-9]*")
_SETTINGS = ("context", "parallel", "kv_cache_type", "batch")


def check_plan(problem: Problem, plan: Plan, current: Sequence[Replica]) -> list[str]:
    """Return what is wrong with the plan for this fleet and catalog, given every replica that is on the nodes.

    What runs as planned may use the margin, what is to start may use the offers. What is there as planned, be it
    down, has its size already; what is new takes what the planner would count with. How a split divides its layers is
    not looked at: the offers that it followed are of the day it was planned.
    """
    return list(_Plan(problem, plan, current).findings())


def refuse(what: str, findings: Sequence[str]) -> None:
    """Raise PlacementError, listing the findings, if there are any."""
    if findings:
        raise PlacementError(
            "\n- ".join(
                [
                    f"placement: the {what} that was made breaks the collection's own rules, so nothing is done with "
                    "it. This is a mistake of the collection: please report it with the inventory and these findings:",
                    *findings,
                ]
            )
        )


def twins(problem: Problem, planned: Sequence[Replica], current: Sequence[Replica]) -> list[Replica | None]:
    """Return for each planned replica what is on its node just like it, or None.

    The estimate of its speed may be another one, and so may the numbers that the node gives its GPUs.
    """
    sources = {model.name: model.source for model in problem.models}
    there: defaultdict[tuple[str, str], list[Replica]] = defaultdict(list)
    for replica in current:
        there[replica.node, replica.id].append(replica)

    def alike(replica: Replica, other: Replica) -> bool:
        # A node that does not say where a replica came from is taken at its word.
        return other.source in (None, sources.get(replica.model, other.source)) and (
            dataclasses.replace(other, source=replica.source, up=replica.up, speed=replica.speed, gpus=replica.gpus)
            == replica
            and [(share.id, share.layers, share.vram_mib) for share in other.gpus]
            == [(share.id, share.layers, share.vram_mib) for share in replica.gpus]
        )

    return [
        next((other for other in there[replica.node, replica.id] if alike(replica, other)), None) for replica in planned
    ]


class _Plan:
    def __init__(self, problem: Problem, plan: Plan, current: Sequence[Replica]) -> None:
        self.problem = problem
        self.replicas = plan.replicas
        self.unplaced = plan.unplaced
        self.models: dict[str, Model] = {model.name: model for model in problem.models}
        self.nodes: dict[str, Node] = {node.name: node for node in problem.nodes}
        self.gpus: dict[GpuKey, Gpu] = {gpu.key: gpu for gpu in problem.gpus}
        there = list(zip(plan.replicas, twins(problem, plan.replicas, current), strict=True))
        self.present = {id(replica) for replica, found in there if found is not None}
        self.runs = {id(replica) for replica, found in there if found is not None and found.up}

    def findings(self) -> Iterator[str]:
        yield from self._names()
        yield from self._counts()
        for replica in self.replicas:
            yield from self._place(replica)
            if replica.model in self.models:
                yield from self._settings(replica, self.models[replica.model])
        yield from self._together()
        yield from self._capacity()

    # --- names and numbers ---

    def _names(self) -> Iterator[str]:
        for identity, count in sorted(Counter(replica.id for replica in self.replicas).items()):
            if count > 1:
                yield f"{identity} is the id of {count} replicas"
            if not _ID.fullmatch(identity):
                yield f"{identity} is no id of a replica: lower-case letters, digits, dots and dashes, then --number"
        for (node, port), count in sorted(Counter((replica.node, replica.port) for replica in self.replicas).items()):
            if count > 1:
                yield f"port {port} of {node} is given to {count} replicas"
            if not FIRST_PORT <= port <= LAST_PORT:
                yield f"port {port} of {node} is none for replicas: those are {FIRST_PORT} to {LAST_PORT}"

    def _counts(self) -> Iterator[str]:
        """What a plan misses of a minimum it has to say, so that whoever reviews it can see it."""
        placed = Counter(replica.model for replica in self.replicas)
        listed: Counter[str] = Counter()
        for item in self.unplaced:
            listed[item.model] += item.missing
        for name in sorted({*placed, *listed} - set(self.models)):
            yield f"{name} is no longer in sdai_models"
        for name, model in sorted(self.models.items()):
            if placed[name] > model.replicas_max:
                yield f"{name} has {placed[name]} replicas in the plan, but its maximum is {model.replicas_max}"
            if model.replicas_min and not placed[name] and not listed[name]:
                yield f"{name} is in sdai_models, but the plan neither places it nor lists it as unplaced"
            elif max(0, model.replicas_min - placed[name]) != listed[name]:
                yield (
                    f"{name} has {placed[name]} replicas in the plan and {listed[name]} listed as unplaced, "
                    f"but its minimum is {model.replicas_min}"
                )

    def _settings(self, replica: Replica, model: Model) -> Iterator[str]:
        for name in _SETTINGS:
            then, now = getattr(replica, name), getattr(model, name)
            if then != now:
                yield f"{replica.id}: {name} was planned as {then} and is wanted as {now}"

    # --- one replica ---

    def _place(self, replica: Replica) -> Iterator[str]:
        model = self.models.get(replica.model)
        keys = [(replica.node, share.id) for share in replica.gpus]
        if not 1 <= len(keys) <= MOST_GPUS or len(keys) != len(set(keys)):
            yield f"{replica.id} is given {len(keys)} GPUs of {replica.node}; it takes 1 to {MOST_GPUS} different ones"
        if [share.index for share in replica.gpus] != sorted(share.index for share in replica.gpus):
            yield f"{replica.id}: its GPUs on {replica.node} are not in the order of their numbers"
        needs: list[Need] = []
        for share in replica.gpus:
            where = f"{replica.id}: GPU {replica.node}/{share.id}"
            gpu = self.gpus.get((replica.node, share.id))
            if gpu is None:
                yield f"{where} {self._whereabouts(share.id)}"
                continue
            if gpu.index != share.index and id(replica) not in self.present:
                yield f"{where} was number {share.index} of its node and is number {gpu.index}"
            if model is None:
                continue
            refused = self._refused(model, gpu)
            found = [need for need in model.needs.get(gpu.kind, ()) if need.runner == replica.runner]
            if refused is not None:
                yield f"{where}: {refused}"
            elif not found:
                yield f"{where} no longer has the runner {replica.runner}"
            else:
                needs.append(found[0])
        if model is not None and needs and len(needs) == len(keys):
            yield from self._parts(replica, model, needs)

    def _whereabouts(self, identity: str) -> str:
        """Where a card went. An address says nothing: each node has one like it."""
        moved = [gpu for gpu in self.problem.gpus if gpu.id == identity and ":" not in identity]
        return f"is in {moved[0].node} now, as its number {moved[0].index}" if len(moved) == 1 else "is gone"

    def _refused(self, model: Model, gpu: Gpu) -> str | None:
        """Return the first reason why the model may not be on the GPU."""
        rules, node, name = model.constraints, self.nodes[gpu.node], f"{gpu.node}/{gpu.id}"
        needs = model.needs.get(gpu.kind)
        lacking = [f"{key}: {value}" for key, value in sorted(rules.labels.items()) if node.labels.get(key) != value]
        reasons = [
            (not gpu.usable, f"not usable: {gpu.reason or 'no reason given'}"),
            (bool(rules.nodes) and gpu.node not in rules.nodes, "node is not in constraints.nodes"),
            (gpu.node in rules.exclude_nodes, "node is in constraints.exclude_nodes"),
            (bool(rules.gpus) and name not in rules.gpus, "GPU is not in constraints.gpus"),
            (name in rules.exclude_gpus, "GPU is in constraints.exclude_gpus"),
            (
                bool(rules.vendors) and gpu.vendor not in rules.vendors,
                f"vendor {gpu.vendor} is not in constraints.vendors",
            ),
            (bool(lacking), f"node lacks the label {', '.join(lacking)} of constraints.labels"),
            (
                rules.min_compute_capability is not None and not _capable(gpu, rules.min_compute_capability),
                f"{gpu.architecture} is below constraints.min_compute_capability",
            ),
            (not needs, model.ineligible.get(gpu.kind, "no runner of the GPU can hold the model")),
            (
                bool(needs) and _rate(needs[0].nanoseconds if needs else 0) < model.min_speed,
                f"it is slower than the min_tokens_per_second {model.min_speed / 1000:.1f}",
            ),
        ]
        return next((reason for refused, reason in reasons if refused), None)

    def _parts(self, replica: Replica, model: Model, needs: Sequence[Need]) -> Iterator[str]:
        """``needs[i]`` is the model's on the replica's GPU i, under its runner."""
        layers = [share.layers for share in replica.gpus]
        total = sum(layers)
        nanoseconds = sum(
            -(-need.nanoseconds * count // max(1, total)) for need, count in zip(needs, layers, strict=True)
        )
        if _rate(nanoseconds) < model.min_speed:
            yield (
                f"{replica.id} gives {_rate(nanoseconds) / 1000:.1f} tokens/s on {replica.node}, below the "
                f"min_tokens_per_second {model.min_speed / 1000:.1f} of {model.name}"
            )
        if id(replica) in self.present:
            return
        if min(layers) < 1 or any(len(need.layer_units) - 1 != total for need in needs):
            yield f"{replica.id} has {total} layers in the plan, its model has {needs[0].layers}"
            return
        first = 0
        for place, (share, need) in enumerate(zip(replica.gpus, needs, strict=True)):
            mib = need.vram_mib
            if len(needs) > 1:
                units = need.layer_units[first + share.layers] - need.layer_units[first]
                mib = -(-units // need.units_per_mib) + need.context_mib
                mib += need.compute_other_mib if place else need.compute_first_mib
                mib += need.output_mib if place == len(needs) - 1 else 0
            first += share.layers
            if share.vram_mib != mib:
                yield (
                    f"{replica.id}: {share.vram_mib} MiB are planned on GPU {replica.node}/{share.id}, "
                    f"where it takes {mib} MiB"
                )

    # --- replicas beside each other ---

    def _together(self) -> Iterator[str]:
        shared: Counter[tuple[str, str, str]] = Counter()
        nodes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for replica in self.replicas:
            shared.update({(replica.node, share.id, replica.model) for share in replica.gpus})
            nodes[replica.model][replica.node] += 1
        for (node, gpu, name), count in sorted(shared.items()):
            if count > 1:
                yield f"GPU {node}/{gpu} is given to {name} {count} times"
        for name, model in sorted(self.models.items()):
            if model.constraints.spread == "node":
                for node, count in sorted(nodes[name].items()):
                    if count > 1:
                        yield f"{name} has {count} replicas on {node}, and its constraints.spread is node"
            if model.constraints.spread == "domain":
                domains: Counter[str] = Counter()
                for node, count in nodes[name].items():
                    domains[self.nodes[node].failure_domain if node in self.nodes else node] += count
                for domain, count in sorted(domains.items()):
                    if count > 1:
                        yield f"{name} has {count} replicas in {domain}, and its constraints.spread is domain"

    def _capacity(self) -> Iterator[str]:
        wanted: Counter[GpuKey] = Counter()
        starting: set[GpuKey] = set()
        for replica in self.replicas:
            for share in replica.gpus:
                wanted[replica.node, share.id] += share.vram_mib
                if id(replica) not in self.runs:
                    starting.add((replica.node, share.id))
        for key, gpu in sorted(self.gpus.items()):
            room = gpu.offer_mib if key in starting else gpu.vram_mib - gpu.vram_foreign_mib
            if wanted[key] > room:
                yield f"GPU {gpu.node}/{gpu.id}: {wanted[key]} MiB are planned, {room} MiB are left"


def _rate(nanoseconds: int) -> int:
    """Milli-tokens per second of one token in this time, rounded down."""
    return 10**12 // max(1, nanoseconds)


def _capable(gpu: Gpu, least: tuple[int, int]) -> bool:
    """An architecture such as sm_61 is a compute capability of 6.1; others have none."""
    found = re.fullmatch(r"sm_(\d+)(\d)", gpu.architecture)
    return found is not None and (int(found[1]), int(found[2])) >= least
