# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# This module is private to the collection: it may change
# without notice between releases.
"""VRAM that a model needs on one GPU or split over several.

Everything follows from the hyper-parameters in the GGUF header and from the launch flags. The buffers are those of
llama.cpp's graph: weights, KV cache, and a compute buffer whose size is that of the largest phase of the graph. The
structure was checked against what llama-server itself reports (tests/data/truth.csv and splits.csv).

Units: bytes inside, MiB rounded up at the border. "Row" below means the numbers of one token (f32, 4 bytes each).
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import accumulate

MIB = 1 << 20

# Bytes per 32 numbers, of ggml's block types.
KV_BLOCK_BYTES: t.Mapping[str, int] = {"f16": 64, "q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_0": 18}
_KV_BLOCK = 32
_CELL_PADDING = 256
# With several GPUs llama.cpp has four batches in flight and keeps that many copies of what goes into each GPU.
_PIPELINE_COPIES = 4


class FootprintError(ValueError):
    """A footprint cannot be told; the message says why in the user's words."""


class UnsupportedArchitecture(FootprintError):
    """No formula is known for this model architecture."""


class UnsupportedKvCache(FootprintError):
    """This KV cache type cannot be used here."""


class CatalogError(FootprintError):
    """An entry of the catalog of known models is malformed; the message names the key."""


@dataclass(frozen=True)
class _Graph:
    """What distinguishes an architecture's graph, in rows.

    full_every: every n-th layer attends to the whole context, the others to the sliding window (1: no windows).
    feed_rows: rows of the embedding's width alive beside the feed-forward network.
    expert_rows: the used experts' outputs lie side by side until they are summed.
    attention_kv_rows: K or V rows alive beside the attention scores.
    split_query_rows: query rows that a GPU of a split holds in addition, where their width differs from the embedding's
        (blocks of unequal size cannot reuse one another's memory).
    window: sliding window where the header has none.
    """

    full_every: int = 1
    feed_rows: int = 4
    expert_rows: bool = True
    attention_kv_rows: int = 2
    split_query_rows: int = 2
    window: int = 0


_GRAPHS: t.Mapping[str, _Graph] = {
    "llama": _Graph(),
    "qwen2": _Graph(),
    "qwen3": _Graph(),
    "qwen3moe": _Graph(split_query_rows=1),
    "phi3": _Graph(),
    # The gemma family norms after each block too and so keeps one more row.
    "gemma2": _Graph(full_every=2, feed_rows=5, attention_kv_rows=5, split_query_rows=1, window=4096),
    "gemma3": _Graph(full_every=6, feed_rows=5, attention_kv_rows=0),
    "gpt-oss": _Graph(full_every=2, expert_rows=False, attention_kv_rows=4, split_query_rows=1),
}
ARCHITECTURES: tuple[str, ...] = tuple(_GRAPHS)


@dataclass(frozen=True)
class ModelShape:
    """What a GGUF header says about a model, as far as memory and speed depend on it.

    layer_bytes: tensor bytes of every block. output_bytes: what the last GPU holds besides its blocks: output head (or
    the token embedding where it serves as one), output norm, rope factors. active_bytes: tensor bytes read per
    generated token (of a mixture of experts only the used ones). experts, experts_used, expert_feed_forward and
    sliding_window are 0 where the model has none.
    """

    architecture: str
    layers: int
    embedding: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    feed_forward: int
    vocabulary: int
    experts: int
    experts_used: int
    expert_feed_forward: int
    sliding_window: int
    trained_context: int
    layer_bytes: tuple[int, ...]
    output_bytes: int
    active_bytes: int

    @property
    def moe(self) -> bool:
        """Whether only some of the weights are read per token."""
        return self.experts > 0


@dataclass(frozen=True)
class Launch:
    """Flags the engine is started with. context: tokens per request; parallel: requests at once; batch: num_batch."""

    context: int
    parallel: int
    kv_cache_type: str
    batch: int


@dataclass(frozen=True)
class Footprint:
    """Need of a whole model on one GPU, MiB. output_mib is part of weights_mib; active_mib and kv_read_mib are what a
    generated token reads (weights, and half of one slot's KV cache)."""

    weights_mib: int
    kv_mib: int
    compute_mib: int
    output_mib: int
    active_mib: int
    kv_read_mib: int
    layers: int

    @property
    def total_mib(self) -> int:
        """Without the engine's own context (CUDA and the like), which is a matter of the site."""
        return self.weights_mib + self.kv_mib + self.compute_mib


def default_batch(context: int, parallel: int) -> int:
    """num_batch as Ollama picks it from the cells of all slots (read in its source, version of mid-2026)."""
    cells = _padded(context) * parallel
    if cells <= 4096:
        return 512
    return 1024 if cells <= 32768 else 2048


def estimate(shape: ModelShape, launch: Launch, *, flash_attention: bool) -> Footprint:
    """Need of the whole model on one GPU.

    :raises UnsupportedArchitecture: no formula is known.
    :raises UnsupportedKvCache: unknown type, or a quantised one without flash attention.
    """
    weights, kv = prefix_sums(shape, launch, flash_attention)
    return Footprint(
        weights_mib=_mib(weights[-1] + shape.output_bytes),
        kv_mib=_mib(kv[-1]),
        compute_mib=_mib(_compute_bytes(shape, launch, flash_attention)),
        output_mib=_mib(shape.output_bytes),
        active_mib=_mib(shape.active_bytes),
        kv_read_mib=-(-kv[-1] // (2 * launch.parallel * MIB)),
        layers=shape.layers,
    )


def split_compute_mib(shape: ModelShape, launch: Launch, *, flash_attention: bool) -> tuple[int, int]:
    """Compute buffer of the first and of each other GPU of a split, whichever layers they hold.

    :raises UnsupportedArchitecture: no formula is known.
    """
    first, other = _split_compute_bytes(shape, launch, flash_attention)
    return _mib(first), _mib(other)


def _mib(size: int) -> int:
    return -(-size // MIB)


def _padded(cells: int) -> int:
    return -(-cells // _CELL_PADDING) * _CELL_PADDING


def _graph(architecture: str) -> _Graph:
    try:
        return _GRAPHS[architecture]
    except KeyError:
        raise UnsupportedArchitecture(
            f"the footprint of architecture '{architecture}' is not known (known: {', '.join(ARCHITECTURES)}); "
            "give the model an explicit footprint"
        ) from None


def _check_kv(kv_cache_type: str, flash_attention: bool) -> None:
    if kv_cache_type not in KV_BLOCK_BYTES:
        raise UnsupportedKvCache(f"unknown KV cache type '{kv_cache_type}' (known: {', '.join(KV_BLOCK_BYTES)})")
    if kv_cache_type != "f16" and not flash_attention:
        raise UnsupportedKvCache(f"KV cache type {kv_cache_type} needs flash attention, which this GPU does not have")


def _window_cells(shape: ModelShape, launch: Launch) -> int:
    """Cells per slot of a sliding-window layer; 0 where the architecture has no such layers."""
    graph = _graph(shape.architecture)
    window = (shape.sliding_window or graph.window) if graph.full_every > 1 else 0
    return _padded(min(_padded(launch.context), window + _micro_batch(launch))) if window else 0


def _micro_batch(launch: Launch) -> int:
    """The engine never batches more tokens than its cache holds."""
    return min(launch.batch, _padded(launch.context) * launch.parallel)


@lru_cache(maxsize=4096)
def prefix_sums(shape: ModelShape, launch: Launch, flash_attention: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes of weights and of KV cache of the first 0, 1, …, L blocks: a planner asks for many splits of one model."""
    graph = _graph(shape.architecture)
    _check_kv(launch.kv_cache_type, flash_attention)
    full, window = _padded(launch.context), _window_cells(shape, launch)
    numbers = shape.kv_heads * (shape.key_length + shape.value_length)
    cell_bytes = -(-numbers * KV_BLOCK_BYTES[launch.kv_cache_type] // _KV_BLOCK)
    kv = (
        launch.parallel * cell_bytes * (window if window and (layer + 1) % graph.full_every else full)
        for layer in range(shape.layers)
    )
    return tuple(accumulate(shape.layer_bytes, initial=0)), tuple(accumulate(kv, initial=0))


def _phases(shape: ModelShape, launch: Launch, flash_attention: bool, feed_rows: int) -> tuple[int, int, int]:
    """Bytes of the three phases that can decide the compute buffer: feed-forward, attention, output."""
    graph = _graph(shape.architecture)
    batch, embedding = _micro_batch(launch), shape.embedding
    query = shape.heads * shape.key_length
    if shape.moe:
        hidden = (shape.expert_feed_forward or shape.feed_forward) * shape.experts_used
        experts = shape.experts_used * embedding if graph.expert_rows else 0
    else:
        hidden, experts = shape.feed_forward, 0
    feed_forward = batch * (3 * hidden + experts + feed_rows * embedding)
    kv_rows = graph.attention_kv_rows * shape.kv_heads * shape.key_length
    states = 4 * max(embedding, query) if graph.full_every == 1 else 4 * embedding + 2 * query
    # Flash attention never writes the scores of all heads against all cells down.
    scores = 0 if flash_attention else _padded(launch.context) * shape.heads
    attention = batch * (states + kv_rows + scores)
    output = launch.parallel * shape.vocabulary + 4 * embedding * batch
    return 4 * feed_forward, 4 * attention, 4 * output


def _mask_bytes(shape: ModelShape, launch: Launch, flash_attention: bool) -> int:
    """Attention masks of full and of sliding-window layers: f16 with flash attention, else f32."""
    cells = _padded(launch.context) + _window_cells(shape, launch)
    return (2 if flash_attention else 4) * _micro_batch(launch) * cells


def _compute_bytes(shape: ModelShape, launch: Launch, flash_attention: bool) -> int:
    phases = _phases(shape, launch, flash_attention, _graph(shape.architecture).feed_rows)
    return _mask_bytes(shape, launch, flash_attention) + max(phases)


def _split_compute_bytes(shape: ModelShape, launch: Launch, flash_attention: bool) -> tuple[int, int]:
    """Bytes on the first and on each other GPU of a split: more copies of what goes in, as batches overlap."""
    embedding, query = shape.embedding, shape.heads * shape.key_length
    masks = _PIPELINE_COPIES * _mask_bytes(shape, launch, flash_attention)
    working = max(_phases(shape, launch, flash_attention, feed_rows=4))
    uneven = _graph(shape.architecture).split_query_rows * query if query != embedding else 0
    row = 4 * _micro_batch(launch)
    other = masks + working + row * (6 * embedding + uneven)
    return other + row * 5 * embedding, other


_OPTIONAL_KEYS = ("experts", "experts_used", "expert_feed_forward", "sliding_window")
# What else an entry may say: it is for others (frontends, the known-answer test), not for the footprint.
_OTHER_KEYS = ("kind", "parameter_size", "quantization_level", "size_bytes", "reference")


def shape_from_catalog(name: str, entry: object) -> ModelShape:
    """Turn an entry of the catalog of known models into a shape. layer_bytes is written as a list of
    `{repeat: n, of: [bytes, …]}`.

    :raises CatalogError: names the model and the key that is missing, unknown, of a wrong type, or negative.
    """
    if not isinstance(entry, t.Mapping):
        raise CatalogError(f"catalog entry '{name}' is not a mapping")
    known = [field.name for field in fields(ModelShape)]
    for key in entry:
        if key not in known and key not in _OTHER_KEYS:
            raise CatalogError(f"catalog entry '{name}': unknown key '{key}'")
    architecture = entry.get("architecture")
    if not isinstance(architecture, str):
        raise CatalogError(f"catalog entry '{name}': architecture must be a string")
    layer_bytes = _unpacked(name, entry.get("layer_bytes"))
    numbers = {
        key: _number(name, key, entry.get(key, 0 if key in _OPTIONAL_KEYS else None), 0 if key in _OPTIONAL_KEYS else 1)
        for key in known
        if key not in ("architecture", "layer_bytes")
    }
    if len(layer_bytes) != numbers["layers"]:
        raise CatalogError(
            f"catalog entry '{name}': layer_bytes describes {len(layer_bytes)} layers, layers says {numbers['layers']}"
        )
    return ModelShape(architecture=str(architecture), layer_bytes=layer_bytes, **numbers)


def _number(name: str, key: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise CatalogError(f"catalog entry '{name}': {key} must be a whole number of at least {least}")
    return int(value)


def _unpacked(name: str, runs: object) -> tuple[int, ...]:
    malformed = CatalogError(f"catalog entry '{name}': layer_bytes must be a list of {{repeat: n, of: [bytes, …]}}")
    if not isinstance(runs, (list, tuple)):
        raise malformed
    sizes: list[int] = []
    for run in runs:
        if not isinstance(run, t.Mapping) or set(run) != {"repeat", "of"} or not isinstance(run["of"], (list, tuple)):
            raise malformed
        block = [_number(name, "layer_bytes", size, 1) for size in run["of"]]
        sizes += block * _number(name, "layer_bytes", run["repeat"], 1)
    return tuple(sizes)
