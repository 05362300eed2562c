# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The catalog of wanted models (``sdai_models``) as typed values."""

from __future__ import annotations

import re
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..module_utils._footprint import default_batch
from ._placement.model import Constraints
from ._placement.rules import contradictions
from ._validate import Findings, Reader, closest, describe

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

KV_TYPES = ("f16", "q8_0", "q4_0")
VENDORS = ("nvidia", "amd")
SPREADS = ("prefer", "node", "domain", "none")
DEFAULT_TAG = "latest"

_MODEL_KEYS = (
    "name",
    "source",
    "context",
    "parallel",
    "kv_cache_type",
    "replicas",
    "priority",
    "demand",
    "weight",
    "min_tokens_per_second",
    "constraints",
    "footprint",
)
_CONSTRAINT_KEYS = (
    "vendors",
    "min_compute_capability",
    "labels",
    "nodes",
    "gpus",
    "exclude_nodes",
    "exclude_gpus",
    "spread",
)
_FOOTPRINT_KEYS = ("layers", "weights_mib", "kv_mib", "compute_mib", "active_mib", "output_mib")

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
# [host[:port]/][namespace/]model[:tag], as Ollama's name parser has it.
_NAME = re.compile(rf"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/)?(?:{_PART}/){{0,2}}{_PART}(?::{_PART})?")
_GGUF = re.compile(r"gguf:\s*(/.+)")
_CLOUD = re.compile(r":(.*-)?cloud")
# Clients ask by the short name, and that is what Ollama lists.
_DEFAULTS = re.compile(r"(?:registry\.ollama\.ai/)?library/|registry\.ollama\.ai/")
_CAPABILITY = re.compile(r"1?[0-9]\.[0-9]")


@dataclass(frozen=True)
class Footprint:
    """What the administrator says a replica takes, in MiB; ``active_mib`` is read for each token."""

    layers: int
    weights_mib: int
    kv_mib: int
    compute_mib: int
    active_mib: int
    output_mib: int


@dataclass(frozen=True)
class Wanted:
    """One entry of ``sdai_models``. Speeds in milli-tokens per second; ``key`` is its place in the inventory."""

    key: str
    name: str
    source: str
    context: int
    parallel: int
    kv_cache_type: str
    replicas_min: int
    replicas_max: int
    priority: int
    weight: int
    demand: int | None
    min_speed: int
    constraints: Constraints = field(default_factory=Constraints)
    footprint: Footprint | None = None

    @property
    def batch(self) -> int:
        """num_batch, pinned to what Ollama would pick where it has room, so that the plan is exact."""
        return default_batch(self.context, self.parallel)


def normalise(name: str) -> str:
    """The name with its tag: no tag means ``:latest``."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:{DEFAULT_TAG}"


def same_name(name: str) -> str:
    """What two names of one model have in common: Ollama ignores case and its default namespace."""
    return normalise(name).lower().removeprefix("library/")


def read_models(raw: object, findings: Findings) -> tuple[Wanted, ...]:
    """All of ``sdai_models``; what is wrong goes to ``findings``."""
    holder = Reader({"sdai_models": raw}, "", findings, known=("sdai_models",))
    remedy = "Write a list of models, each with at least a name."
    if raw is None:
        holder.complain("sdai_models", "is missing", remedy)
    models = [
        _model(item, f"sdai_models[{place}]", findings)
        for place, item in enumerate(holder.items("sdai_models", remedy))
    ]
    first: dict[str, Wanted] = {}
    for model in models:
        if not model.name:
            continue
        earlier = first.setdefault(same_name(model.name), model)
        if earlier is not model:
            findings.add(
                f"{model.key}.name",
                f"{describe(model.name)} is already the name of {earlier.key}",
                "Remove one of the two, or give one another name and the same source.",
            )
    return tuple(models)


def _model(raw: object, key: str, findings: Findings) -> Wanted:
    if isinstance(raw, Mapping) and isinstance(raw.get("name"), str):
        findings.models[key] = str(raw["name"])
    reader = Reader(raw, key, findings, known=_MODEL_KEYS)
    name = reader.text("name", "Write an Ollama name such as llama3.1:8b.", pattern=_NAME)
    if _CLOUD.search(name):
        reader.complain("name", f"{describe(name)} would be served outside the lab", "Choose a tag without cloud.")
    elif long := _DEFAULTS.match(name):
        reader.complain("name", f"{describe(name)} is the long form of a name", f"Write it without {long[0]}.")
    name = normalise(name) if name else ""
    low, high = _replicas(reader)
    demand = reader.number("demand", "Give the tokens per second wanted in all, for example 150.", above=True)
    speed = reader.number("min_tokens_per_second", "Give tokens per second of one request, for example 10.")
    return Wanted(
        key=key,
        name=name,
        source=_source(reader, name),
        context=reader.whole(
            "context", "Give tokens per request, for example 8192.", default=8192, least=1, most=2**24
        ),
        parallel=reader.whole(
            "parallel", "Give the requests at once per replica, for example 4.", default=1, least=1, most=256
        ),
        kv_cache_type=reader.choice("kv_cache_type", KV_TYPES, default="f16"),
        replicas_min=low,
        replicas_max=high,
        priority=reader.whole(
            "priority", "Give a whole number such as 100; higher is placed first.", default=50, most=10**6
        ),
        weight=reader.whole("weight", "Give the value of one token, for example 1.", default=1, least=1, most=1000),
        demand=None if demand is None else milli(demand),
        min_speed=0 if speed is None else milli(speed),
        constraints=_constraints(reader),
        footprint=_footprint(reader),
    )


def milli(number: Decimal) -> int:
    """Thousandths, rounded to the nearest."""
    return int((number * 1000).to_integral_value())


def _source(reader: Reader, name: str) -> str:
    """An Ollama name, hf.co/ns/repo:quant or gguf:/path; the name itself where none is given."""
    remedy = "Write an Ollama name, hf.co/namespace/repository:quantisation, or gguf: /path/file.gguf."
    given = reader.values.get("source")
    if isinstance(given, Mapping):
        path = Reader(given, reader.path("source"), reader.findings, known=("gguf",)).text("gguf", remedy)
        return f"gguf:{path}" if path else name
    text = reader.text("source", remedy, default="")
    if not text:
        return name
    file = _GGUF.fullmatch(text)
    if file:
        return f"gguf:{file[1]}"
    if text.lower().startswith("gguf:") or not _NAME.fullmatch(text):
        reader.complain("source", f"{describe(text)} is not of that form", remedy)
        return name
    return normalise(text)


def _replicas(reader: Reader) -> tuple[int, int]:
    if not reader.has("replicas"):
        return 1, 1
    inner = Reader(reader.values["replicas"], reader.path("replicas"), reader.findings, known=("min", "max"))
    before = len(reader.findings.items)
    low = inner.whole("min", "Give the replicas that must run, for example 1.", default=1, most=10_000)
    high = inner.whole("max", "Give the most replicas, for example 4.", default=max(low, 1), least=1, most=10_000)
    if low > high and len(reader.findings.items) == before:
        inner.complain("min", f"{low} is more than max, which is {high}", "Lower min or raise max.")
    return low, high


def _footprint(reader: Reader) -> Footprint | None:
    if not reader.has("footprint"):
        return None
    inner = Reader(reader.values["footprint"], reader.path("footprint"), reader.findings, known=_FOOTPRINT_KEYS)
    mib = "Give MiB as a whole number."
    before = len(reader.findings.items)
    weights = inner.whole("weights_mib", mib, least=1)
    output = inner.whole("output_mib", mib, default=0)
    if output > weights and len(reader.findings.items) == before:
        inner.complain("output_mib", f"{output} is more than weights_mib, which holds it", "Lower it or leave it out.")
    return Footprint(
        layers=inner.whole("layers", "Give the number of the model's layers, for example 32.", least=1, most=2000),
        weights_mib=weights,
        kv_mib=inner.whole("kv_mib", mib),
        compute_mib=inner.whole("compute_mib", mib),
        active_mib=inner.whole("active_mib", mib, default=weights, least=1),
        output_mib=output,
    )


def _constraints(reader: Reader) -> Constraints:
    if not reader.has("constraints"):
        return Constraints()
    inner = Reader(reader.values["constraints"], reader.path("constraints"), reader.findings, known=_CONSTRAINT_KEYS)
    constraints = Constraints(
        vendors=inner.words("vendors", f"Write a list of {' and '.join(VENDORS)}.", choices=VENDORS),
        min_compute_capability=_capability(inner),
        labels=inner.labels("labels", "Write label: value, as in sdai_labels."),
        nodes=inner.words("nodes", "Write a list of inventory host names."),
        gpus=_gpu_names(inner, "gpus"),
        exclude_nodes=inner.words("exclude_nodes", "Write a list of inventory host names."),
        exclude_gpus=_gpu_names(inner, "exclude_gpus"),
        spread=t.cast(
            "t.Literal['prefer', 'node', 'domain', 'none']", inner.choice("spread", SPREADS, default="prefer")
        ),
    )
    for first, second, why in contradictions(constraints):
        inner.complain(second, f"contradicts {first}: {why}", "Change one of the two.")
    return constraints


def _gpu_names(reader: Reader, name: str) -> tuple[str, ...]:
    remedy = 'Write "node/id" for each, for example "gpu1/0000:01:00.0".'
    given = reader.words(name, remedy)
    for place, gpu in enumerate(given):
        if not all(gpu.partition("/")):
            reader.complain(f"{name}[{place}]", f"{describe(gpu)} is not of that form", remedy)
    return given


def _capability(reader: Reader) -> tuple[int, int] | None:
    """The compute capability, also where YAML made a number of it."""
    name = "min_compute_capability"
    if not reader.has(name):
        return None
    given = reader.values[name]
    text = str(given).strip()
    if isinstance(given, int) and not isinstance(given, bool):
        text += ".0"
    if isinstance(given, (bool, list, dict)) or not _CAPABILITY.fullmatch(text):
        reader.complain(
            name, f"{describe(given)} is not a compute capability", 'Write it in quotes, for example "7.0".'
        )
        return None
    major, _dot, minor = text.partition(".")
    return int(major), int(minor)


def check_places(models: Sequence[Wanted], nodes: Iterable[str], findings: Findings) -> None:
    """Constraints may only name nodes of the inventory, absent ones included.

    GPU ids are not checked: a card that died must not stop the planning of all others.
    """
    known = sorted(nodes)
    for model in models:
        rules = model.constraints
        for name, values in (
            ("nodes", rules.nodes),
            ("exclude_nodes", rules.exclude_nodes),
            ("gpus", tuple(gpu.partition("/")[0] for gpu in rules.gpus)),
            ("exclude_gpus", tuple(gpu.partition("/")[0] for gpu in rules.exclude_gpus)),
        ):
            for place, node in enumerate(values):
                key = f"{model.key}.constraints.{name}[{place}]"
                if node not in known and not findings.about(key):
                    findings.add(
                        key,
                        f"{describe(node)} is not a node of the inventory",
                        f"Name a host of the GPU nodes' group.{closest(node, known)}",
                    )
