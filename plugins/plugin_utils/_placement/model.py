# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The values that the placement core works on.

All are immutable and hold plain Python values. VRAM is in integers of MiB, speed in
milli-tokens per second, time in nanoseconds; needs were rounded up and offers down
before they came here.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field, replace

if t.TYPE_CHECKING:
    from collections.abc import Mapping

GpuKey = tuple[str, str]
"""Identity of a GPU: (node, id)."""


@dataclass(frozen=True)
class Node:
    """A host with GPUs. ``failure_domain`` is the node's own name unless it was declared."""

    name: str
    failure_domain: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gpu:
    """One device that can hold replicas.

    ``kind`` names the class of GPU: all that decides what a model needs there and how fast it is.
    ``offer_mib`` is what new replicas may take: vram_mib - vram_foreign_mib - margin, at least 0.
    """

    node: str
    id: str
    index: int
    vendor: str
    name: str
    architecture: str
    kind: str
    vram_mib: int
    vram_foreign_mib: int
    offer_mib: int
    usable: bool = True
    reason: str = ""
    remedy: str = ""

    @property
    def key(self) -> GpuKey:
        return (self.node, self.id)


@dataclass(frozen=True)
class Need:
    """What one replica of a model takes on GPUs of one kind under one runner.

    ``vram_mib`` is the need of the whole replica on one GPU, the engine's context included.
    ``nanoseconds`` is the time of one token with the whole model on one such GPU.
    For a split, ``layer_units[i]`` is what the first i layers (weights and KV) take in units of
    1/``units_per_mib`` MiB, so that any run of layers is a difference of two entries.
    """

    runner: str
    vram_mib: int
    nanoseconds: int
    layer_units: tuple[int, ...]
    units_per_mib: int
    output_mib: int
    compute_first_mib: int
    compute_other_mib: int
    context_mib: int

    @property
    def layers(self) -> int:
        return len(self.layer_units) - 1

    @property
    def family(self) -> str:
        return self.runner.partition("_")[0]


@dataclass(frozen=True)
class Constraints:
    """Where a model may go. Empty means no rule. ``gpus`` entries are "node/id"."""

    vendors: tuple[str, ...] = ()
    min_compute_capability: tuple[int, int] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    exclude_nodes: tuple[str, ...] = ()
    exclude_gpus: tuple[str, ...] = ()
    spread: t.Literal["prefer", "node", "domain", "none"] = "prefer"


@dataclass(frozen=True)
class Model:
    """One model of the catalog. ``source`` is where its weights come from, in its normal form.

    ``needs`` gives for each kind of GPU the needs by runner, in order of preference; a kind that
    cannot hold the model at all is in ``ineligible`` with the reason instead.
    ``demand`` is in milli-tokens per second; None asks for as much as can be served.
    """

    name: str
    source: str
    context: int
    parallel: int
    kv_cache_type: str
    batch: int
    replicas_min: int
    replicas_max: int
    priority: int
    weight: int
    needs: Mapping[str, tuple[Need, ...]]
    ineligible: Mapping[str, str] = field(default_factory=dict)
    demand: int | None = None
    min_speed: int = 0
    constraints: Constraints = field(default_factory=Constraints)


@dataclass(frozen=True)
class Problem:
    """Everything a plan depends on but what runs now. Order of the tuples carries no meaning."""

    nodes: tuple[Node, ...]
    gpus: tuple[Gpu, ...]
    models: tuple[Model, ...]
    fleet_digest: str
    catalog_digest: str


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a replica on one GPU."""

    id: str
    index: int
    layers: int
    vram_mib: int


@dataclass(frozen=True)
class Replica:
    """One model held by one Ollama process, as planned or as running. ``speed`` in milli-tokens per second.

    ``source`` and ``up`` are known of what is on a node only; a plan has their defaults. ``source`` is None
    where the node does not say. A replica that is not ``up`` has an id and a port but no process, so no VRAM.
    """

    id: str
    model: str
    node: str
    runner: str
    gpus: tuple[Share, ...]
    port: int
    context: int
    parallel: int
    kv_cache_type: str
    batch: int
    speed: int
    source: str | None = None
    up: bool = True

    @property
    def planned(self) -> Replica:
        """The replica as a plan has it."""
        return replace(self, source=None, up=True)

    @property
    def backend(self) -> str:
        return self.runner.partition("_")[0]

    @property
    def unit(self) -> str:
        return f"sdai-ollama@{self.id}.service"

    @property
    def vram_mib(self) -> int:
        return sum(share.vram_mib for share in self.gpus)


@dataclass(frozen=True)
class Options:
    """How to plan. ``seconds`` becomes a deterministic budget; ``churn_budget_mib`` None is no limit."""

    seconds: int = 10
    min_gain_permille: int = 50
    churn_budget_mib: int | None = None
    replan: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Objective:
    """The result of one pass. ``priority`` only for unmet minimums of one priority class."""

    name: str
    value: int
    bound: int
    proved: bool
    priority: int | None = None


@dataclass(frozen=True)
class Unplaced:
    """A model of which ``missing`` minimum replicas found no place."""

    model: str
    priority: int
    missing: int
    reason: str
    remedy: str


@dataclass(frozen=True)
class Survivability:
    """What the loss of any one node does to the minimums: weak, is a replica left; strong, do all fit again.

    ``strong_lost_with`` names for a node the models that found no room again; for those in
    ``strong_undecided`` it is not proved that there is none.
    """

    weak_value: int
    weak_of: int
    weak_at_risk: tuple[str, ...]
    strong_value: int
    strong_of: int
    strong_lost_with: Mapping[str, tuple[str, ...]]
    strong_undecided: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The placement as a document (schema 1)."""

    status: t.Literal["optimal", "feasible", "infeasible"]
    fleet_digest: str
    catalog_digest: str
    solver_name: str
    solver_version: str
    seed: int
    reproducible: bool
    objectives: tuple[Objective, ...]
    replicas: tuple[Replica, ...]
    unplaced: tuple[Unplaced, ...]
    survivability: Survivability


@dataclass(frozen=True)
class Stop:
    """A running replica that has to go."""

    id: str
    node: str
    unit: str


@dataclass(frozen=True)
class Wave:
    """Starts that are all proven before any of the stops happens; ``breaks`` names models that lose a minimum."""

    start: tuple[str, ...]
    stop: tuple[str, ...]
    breaks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transition:
    """How to get from what runs to the plan."""

    keep: tuple[str, ...]
    start: tuple[str, ...]
    stop: tuple[Stop, ...]
    move_mib: int
    waves: tuple[Wave, ...]
