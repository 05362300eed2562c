# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What each wanted model needs on each kind of GPU: the estimators' answers in the placement core's terms."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from functools import lru_cache

from ..module_utils._footprint import (
    MIB,
    FootprintError,
    Launch,
    ModelShape,
    estimate,
    prefix_sums,
    shape_from_catalog,
    split_compute_mib,
)
from ..module_utils._footprint import Footprint as Estimate
from ..module_utils._speed import Calibration, choose_calibration, gpu_seconds_per_token
from ..module_utils._support import flash_attention, trusted_kv_types
from ._catalog import Footprint, Wanted, same_name
from ._placement.model import Need
from ._validate import closest, describe

if t.TYPE_CHECKING:
    from collections.abc import Mapping

    from ._nodes import Card, Host
    from ._validate import Findings


class Unplaceable(Exception):
    """No GPU of a kind can hold the model; the message says why."""


@dataclass(frozen=True)
class Engine:
    """One runner on a kind of GPU: the MiB of its context, and how fast it is."""

    runner: str
    context_mib: int
    calibration: Calibration

    @property
    def family(self) -> str:
        return self.runner.partition("_")[0]


@dataclass(frozen=True)
class Kind:
    """All that decides what a model needs on a GPU and how fast it is there."""

    architecture: str
    bandwidth_gbs: float
    engines: tuple[Engine, ...]

    @property
    def name(self) -> str:
        """Readable, and different for different kinds."""
        engines = (
            f"{e.runner} context {e.context_mib} efficiency {e.calibration.efficiency} "
            f"overhead {e.calibration.overhead_ms} by {e.calibration.source}"
            for e in self.engines
        )
        return f"{self.architecture}, {self.bandwidth_gbs} GB/s: {', '.join(engines)}"


def kind_of(card: Card, host: Host) -> Kind:
    """The kind of a usable card on its host."""
    inventory = {family: speed.numbers for family, speed in host.speed.items()}
    engines = []
    for runner in card.backends:
        family = runner.partition("_")[0]
        calibration = choose_calibration(family, card.architecture, host=card.speed.numbers, inventory=inventory)
        engines.append(Engine(runner, host.context_mib[family], calibration))
    return Kind(card.architecture, card.bandwidth_gbs or 0.0, tuple(engines))


class Catalog:
    """The known models' shapes, by name; an entry is read when a wanted model asks for it."""

    def __init__(self, entries: Mapping[str, t.Any]) -> None:
        self._entries = {same_name(str(name)): (str(name), entry) for name, entry in entries.items()}
        self._shapes: dict[str, ModelShape] = {}

    def check(self, model: Wanted, findings: Findings) -> None:
        """Note a model that is neither known nor has a footprint of its own."""
        told = findings.about(f"{model.key}.name") or findings.about(f"{model.key}.source")
        if model.footprint is not None or not model.name or told:
            return
        if self._find(model) is None:
            names = [name for name, _entry in self._entries.values()]
            findings.add(
                f"{model.key}.source" if model.source != model.name else f"{model.key}.name",
                f"{describe(model.source)} is not in the catalog of known models",
                "Name a known model, or give this one a footprint: {layers, weights_mib, kv_mib, compute_mib}."
                f"{closest(model.source, names)}",
            )
            return
        try:
            shape = self.shape(model)
        except FootprintError as error:
            findings.add(f"{model.key}.name", str(error), "Correct the catalog, or give the model a footprint.")
            return
        if shape is not None and model.context > shape.trained_context:
            findings.add(
                f"{model.key}.context",
                f"{model.context} is more than {model.name} was trained for",
                f"Give at most {shape.trained_context}.",
            )

    def _find(self, model: Wanted) -> tuple[str, t.Any] | None:
        return self._entries.get(same_name(model.source)) or self._entries.get(same_name(model.name))

    def shape(self, model: Wanted) -> ModelShape | None:
        """The model's shape; None for one with a footprint of its own. Raises FootprintError."""
        found = None if model.footprint is not None else self._find(model)
        if found is None:
            return None
        name, entry = found
        if name not in self._shapes:
            self._shapes[name] = shape_from_catalog(name, entry)
        return self._shapes[name]


def needs_of(model: Wanted, shape: ModelShape | None, kind: Kind) -> tuple[Need, ...]:
    """The needs under every runner that is trusted with the model's KV cache, in order of preference.

    Raises Unplaceable where there is none.
    """
    engines = [e for e in kind.engines if model.kv_cache_type in trusted_kv_types(e.family, kind.architecture)]
    if not engines:
        raise Unplaceable(_untrusted(model.kv_cache_type, kind))
    return tuple(_need(model, shape, kind, engine) for engine in engines)


def _untrusted(kv_cache_type: str, kind: Kind) -> str:
    """Why no runner of the kind may hold this KV cache, each family with its reason."""
    families = tuple(dict.fromkeys(engine.family for engine in kind.engines))
    without = [family for family in families if not flash_attention(kind.architecture, family)]
    reasons = [f"needs flash attention, which {_generation(kind.architecture)} does not have"] if without else []
    reasons += [
        f"{family} is not trusted with it on {kind.architecture}" for family in families if family not in without
    ]
    trusted = sorted({kv for family in families for kv in trusted_kv_types(family, kind.architecture)})
    return f"{kv_cache_type} KV{' ' if without else ': '}{'; '.join(reasons)}; {' and '.join(trusted)} would do"


def _generation(architecture: str) -> str:
    digits = architecture.removeprefix("sm_")
    return f"compute capability {digits[:-1]}.{digits[-1]}" if digits != architecture else architecture


def _need(model: Wanted, shape: ModelShape | None, kind: Kind, engine: Engine) -> Need:
    if model.footprint is not None:
        return _explicit(model.footprint, kind, engine)
    if shape is None:
        raise Unplaceable("its footprint is not known")
    launch = Launch(model.context, model.parallel, model.kv_cache_type, model.batch)
    return estimated(shape, launch, kind, engine)


def _explicit(footprint: Footprint, kind: Kind, engine: Engine) -> Need:
    """An explicit footprint: the same for every class of GPU, its layers all alike."""
    spread = footprint.weights_mib - footprint.output_mib + footprint.kv_mib
    return Need(
        runner=engine.runner,
        vram_mib=footprint.weights_mib + footprint.kv_mib + footprint.compute_mib + engine.context_mib,
        nanoseconds=_nanoseconds(kind, engine, footprint.active_mib, 0, moe=False),
        layer_units=tuple(spread * layer for layer in range(footprint.layers + 1)),
        units_per_mib=footprint.layers,
        output_mib=footprint.output_mib,
        compute_first_mib=footprint.compute_mib,
        compute_other_mib=footprint.compute_mib,
        context_mib=engine.context_mib,
    )


@dataclass(frozen=True)
class _Sizes:
    """What the estimator says of a model, alike for all cards with or all without flash attention."""

    whole: Estimate
    layer_units: tuple[int, ...]
    compute_first_mib: int
    compute_other_mib: int


@lru_cache(maxsize=4096)
def _sizes(shape: ModelShape, launch: Launch, flash: bool) -> _Sizes:
    whole = estimate(shape, launch, flash_attention=flash)
    weights, kv = prefix_sums(shape, launch, flash)
    first, other = split_compute_mib(shape, launch, flash_attention=flash)
    return _Sizes(whole, tuple(w + k for w, k in zip(weights, kv, strict=True)), first, other)


def estimated(shape: ModelShape, launch: Launch, kind: Kind, engine: Engine) -> Need:
    """The need of a known model under one runner of a kind of GPU. Raises FootprintError."""
    sizes = _sizes(shape, launch, flash_attention(kind.architecture, engine.family))
    whole = sizes.whole
    return Need(
        runner=engine.runner,
        vram_mib=whole.total_mib + engine.context_mib,
        nanoseconds=_nanoseconds(kind, engine, whole.active_mib, whole.kv_read_mib, moe=shape.moe),
        layer_units=sizes.layer_units,
        units_per_mib=MIB,
        output_mib=whole.output_mib,
        compute_first_mib=sizes.compute_first_mib,
        compute_other_mib=sizes.compute_other_mib,
        context_mib=engine.context_mib,
    )


def _nanoseconds(kind: Kind, engine: Engine, active_mib: int, kv_read_mib: int, *, moe: bool) -> int:
    return gpu_seconds_per_token(active_mib, kv_read_mib, kind.bandwidth_gbs, engine.calibration, moe)
