# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a replica can lie, worked out from the design's rules alone: nothing here is shared with the engine.

The benchmark judges the engine, so what a model needs on which GPUs is computed a second time. VRAM in MiB, time in
nanoseconds of one token. GPUs are positions in ``World.gpus``, in the order (node, index, id).
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
        Gpu,
        Model,
        Need,
        Problem,
    )

NEVER = 1 << 40
"""The need of a model on a GPU that it may not use: more than any card has."""

MOST_GPUS = 8


@dataclass(frozen=True)
class Place:
    """One replica of a model on one GPU, or on several of one node in index order."""

    runner: str
    gpus: tuple[int, ...]
    layers: tuple[int, ...]
    mib: tuple[int, ...]
    times: tuple[int, ...]


class World:
    """A problem, indexed. ``node_of[g]`` is the position in ``nodes`` of the GPU's node."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.models = {model.name: model for model in problem.models}
        self.gpus: tuple[Gpu, ...] = tuple(sorted(problem.gpus, key=lambda gpu: (gpu.node, gpu.index, gpu.id)))
        self.nodes = sorted({gpu.node for gpu in self.gpus})
        number = {name: i for i, name in enumerate(self.nodes)}
        domains = {node.name: node.failure_domain for node in problem.nodes}
        self.labels = {node.name: node.labels for node in problem.nodes}
        self.domain_of = [domains[name] for name in self.nodes]
        self.node_of = np.array([number[gpu.node] for gpu in self.gpus])
        self.position = {(gpu.node, gpu.id): i for i, gpu in enumerate(self.gpus)}
        self.offer = np.array([gpu.offer_mib if gpu.usable else 0 for gpu in self.gpus])
        self._needs: dict[str, np.ndarray] = {}
        self._windows: dict[str, list[Place]] = {}

    @cached_property
    def members(self) -> list[list[int]]:
        """The GPUs of each node."""
        found: list[list[int]] = [[] for _node in self.nodes]
        for gpu, node in enumerate(self.node_of):
            found[node].append(gpu)
        return found

    def closed(self, model: Model, taken: t.Collection[int]) -> set[int]:
        """The GPUs that no other replica of the model may use, given those that its replicas have taken."""
        spread = model.constraints.spread
        if spread not in ("node", "domain"):
            return set(taken)
        group: Sequence[object] = range(len(self.nodes)) if spread == "node" else self.domain_of
        used = {group[self.node_of[gpu]] for gpu in taken}
        return {gpu for node, local in enumerate(self.members) if group[node] in used for gpu in local}

    def needs(self, model: Model) -> np.ndarray:
        """MiB of the whole model on each GPU; NEVER where it may not go or does not fit."""
        if model.name not in self._needs:
            values = [
                model.needs[gpu.kind][0].vram_mib if may_use(model, gpu, self.labels[gpu.node]) is None else NEVER
                for gpu in self.gpus
            ]
            self._needs[model.name] = np.where(np.array(values) <= self.offer, values, NEVER)
        return self._needs[model.name]

    def whole(self, model: Model, gpu: int) -> Place:
        """The model on one GPU that it may use."""
        need = model.needs[self.gpus[gpu].kind][0]
        return Place(need.runner, (gpu,), (layers_of(need),), (need.vram_mib,), (need.nanoseconds,))

    def split(self, model: Model, gpus: Sequence[int], runner: str | None = None) -> Place | None:
        """The model over these GPUs of one node, or None where the rules do not allow it. Offers are not looked at."""
        gpus = tuple(sorted(gpus))
        cards = [self.gpus[gpu] for gpu in gpus]
        if not 2 <= len(cards) <= MOST_GPUS or any(may_use(model, card, self.labels[card.node]) for card in cards):
            return None
        names = [need.runner for need in model.needs[cards[0].kind]] if runner is None else [runner]
        for name in names:
            needs = [need for card in cards for need in model.needs[card.kind] if need.runner == name]
            if len(needs) == len(cards) and len({layers_of(need) for need in needs}) == 1:
                return self._divided(model, gpus, needs)
        return None

    def _divided(self, model: Model, gpus: tuple[int, ...], needs: list[Need]) -> Place | None:
        total = layers_of(needs[0])
        layers = by_largest_remainder(total, [int(self.offer[gpu]) for gpu in gpus])
        times = tuple(-(-need.nanoseconds * count // total) for need, count in zip(needs, layers, strict=True))
        if 0 in layers or 10**12 // max(1, sum(times)) < model.min_speed:
            return None
        return Place(needs[0].runner, gpus, tuple(layers), tuple(_shares(needs, layers)), times)

    def windows(self, model: Model) -> list[Place]:
        """Splits over neighbouring GPUs that fit the empty fleet, the fewest GPUs first; none if one GPU is enough."""
        if model.name not in self._windows:
            self._windows[model.name] = [] if self.needs(model).min() < NEVER else self._all_windows(model)
        return self._windows[model.name]

    def _all_windows(self, model: Model) -> list[Place]:
        groups = (
            local[start : start + size]
            for local in self.members
            for size in range(2, min(len(local), MOST_GPUS) + 1)
            for start in range(len(local) - size + 1)
        )
        return sorted(self.fitting_splits(model, groups), key=lambda place: (len(place.gpus), place.gpus))

    def subsets(self, model: Model, node: int) -> list[Place]:
        """Every split within a node that fits its empty GPUs."""
        local = [gpu for gpu in self.members[node] if self.offer[gpu] > 0]
        sizes = range(2, min(len(local), MOST_GPUS) + 1)
        return list(self.fitting_splits(model, (group for size in sizes for group in combinations(local, size))))

    def fitting_splits(self, model: Model, groups: Iterable[Sequence[int]]) -> Iterator[Place]:
        """The splits over these groups of GPUs that fit the offers."""
        for group in groups:
            place = self.split(model, group)
            if place is not None and all(mib <= self.offer[g] for mib, g in zip(place.mib, place.gpus, strict=True)):
                yield place


def layers_of(need: Need) -> int:
    """How many layers the model has."""
    return len(need.layer_units) - 1


def by_largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Deal ``total`` out in proportion to the weights; the rest goes to the largest remainders, ties to the first."""
    scale = sum(weights)
    if scale <= 0:
        return [0] * len(weights)
    exact = [divmod(total * weight, scale) for weight in weights]
    dealt = [quotient for quotient, _remainder in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: -exact[i][1])
    for i in by_remainder[: total - sum(dealt)]:
        dealt[i] += 1
    return dealt


def _shares(needs: Sequence[Need], layers: Sequence[int]) -> Iterator[int]:
    """Weights and KV of the layers that lie there, compute, context, and on the last GPU the output head."""
    begin = 0
    for i, (need, count) in enumerate(zip(needs, layers, strict=True)):
        units = need.layer_units[begin + count] - need.layer_units[begin]
        compute = need.compute_other_mib if i else need.compute_first_mib
        output = need.output_mib if i == len(layers) - 1 else 0
        yield -(-units // need.units_per_mib) + compute + need.context_mib + output
        begin += count


def may_use(model: Model, gpu: Gpu, labels: t.Mapping[str, str]) -> str | None:
    """Why the model may not use the GPU, or None. Free VRAM is not looked at."""
    rules = model.constraints
    name = f"{gpu.node}/{gpu.id}"
    least = rules.min_compute_capability
    refusals = {
        "not usable": not gpu.usable,
        "node not named": bool(rules.nodes) and gpu.node not in rules.nodes,
        "node excluded": gpu.node in rules.exclude_nodes,
        "GPU not named": bool(rules.gpus) and name not in rules.gpus,
        "GPU excluded": name in rules.exclude_gpus,
        "vendor": bool(rules.vendors) and gpu.vendor not in rules.vendors,
        "label": any(labels.get(key) != value for key, value in rules.labels.items()),
        "compute capability": least is not None and _capability(gpu.architecture) < least,
        "no runner": not model.needs.get(gpu.kind),
    }
    found = next((reason for reason, refused in refusals.items() if refused), None)
    if found is None and 10**12 // max(1, model.needs[gpu.kind][0].nanoseconds) < model.min_speed:
        found = "too slow"
    return found


def _capability(architecture: str) -> tuple[int, int]:
    digits = architecture.removeprefix("sm_")
    return (int(digits[:-1]), int(digits[-1])) if architecture.startswith("sm_") and digits.isdigit() else (0, 0)
