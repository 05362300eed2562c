# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What others would do: seven policies that place one replica after the other and never move one.

All of them know the true footprints, respect every constraint of the catalog, and first place the minimum replicas of
all models, then deal out further ones in turns up to each model's maximum: kinder than most of them are. Where a
policy has no rule (which GPU within a node, ties) the next sensible one is taken, and said so. Written from the
documented rules.
"""

from __future__ import annotations

import typing as t
from collections import Counter, defaultdict

import numpy as np
from _places import NEVER, Place, World
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Replica, Share

if t.TYPE_CHECKING:
    from collections.abc import Iterable

    from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Model

WORST = -1e18


class Policy:
    """The order in which models are served, and a score for places: the highest wins, ties go to the first GPU."""

    name = ""

    def __init__(self, world: World) -> None:
        self.world = world
        self.free = world.offer.copy()
        self.taken: dict[str, set[int]] = defaultdict(set)
        self.placed: list[tuple[Model, Place]] = []

    def order(self, models: Iterable[Model]) -> list[Model]:
        """By priority, then the largest first, as "decreasing" says."""
        return sorted(models, key=lambda model: (-model.priority, -self._size(model), model.name))

    def whole_scores(self, model: Model) -> np.ndarray:
        """A score for every GPU; those without room are dealt with elsewhere."""
        raise NotImplementedError

    def split_score(self, model: Model, place: Place) -> float:
        """A score for one split, asked for only where no single GPU of the fleet could hold the model."""
        del model
        return -len(place.gpus)

    def closed(self, model: Model) -> set[int]:
        """GPUs that the next replica of the model may not use."""
        return self.world.closed(model, self.taken[model.name])

    def run(self) -> tuple[Replica, ...]:
        """Place all there is room for."""
        models = self.order(self.world.models.values())
        for model in models:
            for _replica in range(model.replicas_min):
                if not self._place(model):
                    break
        growing = models
        while growing:
            growing = [m for m in growing if self._count(m) < m.replicas_max and self._place(m)]
        return _replicas(self.world, self.placed)

    def _count(self, model: Model) -> int:
        return sum(1 for other, _place in self.placed if other is model)

    def _place(self, model: Model) -> bool:
        place = self._best(model)
        if place is None:
            return False
        self.placed.append((model, place))
        for gpu, mib in zip(place.gpus, place.mib, strict=True):
            self.free[gpu] -= mib
            self.taken[model.name].add(gpu)
        self.note(model, place)
        return True

    def note(self, model: Model, place: Place) -> None:
        """Remember what a policy counts."""

    def _best(self, model: Model) -> Place | None:
        closed = self.closed(model)
        fits = self.world.needs(model) <= self.free
        fits[list(closed)] = False
        if fits.any():
            return self.world.whole(model, int(np.where(fits, self.whole_scores(model), WORST).argmax()))
        open_places = (
            place
            for place in self.splits(model)
            if not closed & set(place.gpus)
            and all(m <= self.free[g] for g, m in zip(place.gpus, place.mib, strict=True))
        )
        return max(open_places, key=lambda place: self.split_score(model, place), default=None)

    def splits(self, model: Model) -> list[Place]:
        """The splits that are looked at: over neighbouring GPUs."""
        return self.world.windows(model)

    def _size(self, model: Model) -> int:
        return max((need[0].vram_mib for need in model.needs.values()), default=0)


class FirstFit(Policy):
    """First-fit-decreasing: the first GPU in the inventory's order with room (Johnson, 1973)."""

    name = "first fit"

    def whole_scores(self, model: Model) -> np.ndarray:
        del model
        return -np.arange(len(self.free), dtype=float)


class BestFit(Policy):
    """Best-fit-decreasing: the GPU that is left with the least room (Johnson, 1973)."""

    name = "best fit"

    def whole_scores(self, model: Model) -> np.ndarray:
        return -(self.free - self.world.needs(model)).astype(float)

    def split_score(self, model: Model, place: Place) -> float:
        del model
        return -float(sum(self.free[gpu] for gpu in place.gpus) - sum(place.mib))


class FastestFirst(Policy):
    """The GPU on which the model alone is fastest; among equals the tightest."""

    name = "fastest"

    def whole_scores(self, model: Model) -> np.ndarray:
        time = {kind: needs[0].nanoseconds for kind, needs in model.needs.items()}
        times = np.array([time.get(gpu.kind, NEVER) for gpu in self.world.gpus], dtype=float)
        return -times - (self.free - self.world.needs(model)) / NEVER

    def split_score(self, model: Model, place: Place) -> float:
        del model
        return -float(sum(place.times))


class _Kubernetes(Policy):
    """kube-scheduler's NodeResourcesFit with VRAM as the one resource it scores.

    Pods are taken by priority, then in the order of their creation (the PrioritySort queue). A node's score is the
    share of its VRAM that would be allocated with the pod
    (kubernetes.io/docs/concepts/configuration/resource-bin-packing and
    …/reference/config-api/kube-scheduler-config.v1, ScoringStrategy). Within a node, which it says nothing about, the
    GPU is chosen by the same rule. Topology spread is left out; it is not part of the scoring strategy.
    """

    sign = 1

    def order(self, models: Iterable[Model]) -> list[Model]:
        return sorted(models, key=lambda model: (-model.priority, model.name))

    def whole_scores(self, model: Model) -> np.ndarray:
        world = self.world
        offer = np.maximum(world.offer, 1)
        allocated = (world.offer - self.free) + np.minimum(world.needs(model), offer)
        node_offer = np.bincount(world.node_of, weights=offer)
        node_free = np.bincount(world.node_of, weights=self.free)
        node = (node_offer - node_free)[world.node_of] + np.minimum(world.needs(model), offer)
        return self.sign * (1000 * np.round(100 * node / node_offer[world.node_of]) + allocated / offer)

    def split_score(self, model: Model, place: Place) -> float:
        del model
        local = self.world.members[int(self.world.node_of[place.gpus[0]])]
        used = sum(self.world.offer[gpu] - self.free[gpu] for gpu in local) + sum(place.mib)
        return self.sign * float(used / max(1, sum(self.world.offer[gpu] for gpu in local)))


class KubernetesBinpack(_Kubernetes):
    """MostAllocated: the fullest node, which is what Kubernetes documents for bin packing."""

    name = "k8s binpack"


class KubernetesSpread(_Kubernetes):
    """LeastAllocated: the emptiest node, which is kube-scheduler's default."""

    name = "k8s spread"
    sign = -1


class GpuStack(Policy):
    """GPUStack's scheduler with its default placement strategy, spread.

    One instance at a time in the order of creation; there are no priorities. A single GPU of a worker is tried first,
    then several of one worker (docs.gpustack.ai, "Scheduler"). Spread prefers workers without instances, then those
    with only other models' instances, then those with only this model's, then both; among them GPUs with fewer
    instances (gpustack/policies/scorers/placement_scorer.py in gpustack/gpustack).
    """

    name = "GPUStack"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.instances = np.zeros(len(world.gpus))
        self.total = np.zeros(len(world.nodes))
        self.own_gpu: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(world.gpus)))
        self.own_node: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(world.nodes)))

    def order(self, models: Iterable[Model]) -> list[Model]:
        return sorted(models, key=lambda model: model.name)

    def note(self, model: Model, place: Place) -> None:
        for gpu in place.gpus:
            self.instances[gpu] += 1
            self.own_gpu[model.name][gpu] += 1
        node = self.world.node_of[place.gpus[0]]
        self.total[node] += 1
        self.own_node[model.name][node] += 1

    def whole_scores(self, model: Model) -> np.ndarray:
        world = self.world
        own = self.own_node[model.name][world.node_of]
        others = self.total[world.node_of] - own
        own_here = self.own_gpu[model.name]
        others_here = self.instances - own_here
        step = 10 / (np.bincount(world.node_of)[world.node_of] + 1)
        levels = [(own == 0) & (others == 0), own == 0, others == 0]
        among = [
            np.full(len(own), 100.0),
            90 + step / (others_here + 1),
            80 + step / (own_here + 1),
        ]
        both = 70 + np.where(self.instances == 0, step, step / ((own_here + 1) + 0.2 * (others_here + 1)))
        return np.select(levels, among, both)

    def split_score(self, model: Model, place: Place) -> float:
        return -100 * len(place.gpus) + float(max(self.whole_scores(model)[list(place.gpus)]))


class Ollama(Policy):
    """Ollama's own scheduler on every node, with a balancer that knows each node's free VRAM.

    A model that fits one GPU wholly goes to the one with the most free VRAM, however slow (ollama/ollama#5773); else it
    is spread over all of the server's GPUs (docs/faq.mdx in ollama/ollama, "How does Ollama load models on multiple
    GPUs?"). A server holds one copy of a model; there are no priorities. What would spill to the CPU or evict another
    model counts as not placed.
    """

    name = "Ollama"

    def order(self, models: Iterable[Model]) -> list[Model]:
        return sorted(models, key=lambda model: model.name)

    def closed(self, model: Model) -> set[int]:
        nodes = {self.world.node_of[gpu] for gpu in self.taken[model.name]}
        return super().closed(model) | {gpu for node in nodes for gpu in self.world.members[node]}

    def whole_scores(self, model: Model) -> np.ndarray:
        del model
        return self.free.astype(float)

    def splits(self, model: Model) -> list[Place]:
        members = [set(local) for local in self.world.members]
        return [p for p in self.world.windows(model) if set(p.gpus) == members[int(self.world.node_of[p.gpus[0]])]]

    def split_score(self, model: Model, place: Place) -> float:
        del model
        return float(sum(self.free[gpu] for gpu in place.gpus))


POLICIES: tuple[type[Policy], ...] = (
    FirstFit,
    BestFit,
    FastestFirst,
    KubernetesBinpack,
    KubernetesSpread,
    GpuStack,
    Ollama,
)
GREEDIES = tuple(policy.name for policy in POLICIES if policy not in (GpuStack,))
"""Those that "best greedy" speaks of; GPUStack is compared with by itself."""


def _replicas(world: World, placed: Iterable[tuple[Model, Place]]) -> tuple[Replica, ...]:
    numbers: Counter[str] = Counter()
    ports: Counter[str] = Counter()
    replicas = []
    for model, place in placed:
        cards = [world.gpus[gpu] for gpu in place.gpus]
        numbers[model.name] += 1
        ports[cards[0].node] += 1
        parts = zip(cards, place.layers, place.mib, strict=True)
        replicas.append(
            Replica(
                id=f"{model.name}--{numbers[model.name]}",
                model=model.name,
                node=cards[0].node,
                runner=place.runner,
                gpus=tuple(Share(card.id, card.index, layers, mib) for card, layers, mib in parts),
                port=11499 + ports[cards[0].node],
                context=model.context,
                parallel=model.parallel,
                kv_cache_type=model.kv_cache_type,
                batch=model.batch,
                speed=10**12 // max(1, sum(place.times)),
            )
        )
    return tuple(replicas)
