# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# This module is private to the collection: it may change
# without notice between releases.
"""Reads the header of a GGUF file (versions 2 and 3, little endian) from the file's first bytes.

The header is metadata and a table of tensors: 0.7 to 12.4 MiB, nearly all of it the tokenizer. The tensors themselves
are never needed. Layout: the GGUF specification in ggml's docs/gguf.md.
"""

from __future__ import annotations

import struct
import typing as t
from dataclasses import dataclass
from math import prod

from ._footprint import ARCHITECTURES, ModelShape, UnsupportedArchitecture

# ggml's tensor types that occur in files: number -> (name, numbers per block, bytes per block).
_TENSOR_TYPES: t.Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    4: ("MXFP4", 32, 17),  # Ollama's first gpt-oss files
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}
# Metadata value types: number -> struct format.
_SCALARS: t.Mapping[int, str] = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
# Longer arrays belong to the tokenizer.
_LONGEST_KEPT_ARRAY = 1024
# Architectures that Ollama's own converter names differently.
_ALIASES: t.Mapping[str, str] = {"gptoss": "gpt-oss"}
# Parts that the text model's GPUs do not hold: vision and audio encoders, projectors, gemma3n's embeddings.
_NOT_ON_GPU = ("v.", "mm.", "a.", "per_layer_token_embd.")

Scalar = t.Union[int, float, bool, str]
Value = t.Union[Scalar, "tuple[Scalar, ...]"]


class GgufError(ValueError):
    """These bytes are not the beginning of a GGUF file that can be read."""


class GgufTruncated(GgufError):
    """The header goes on after the bytes given: read more of the file and try again."""


@dataclass(frozen=True)
class Tensor:
    """One entry of the tensor table. shape: row length first, as in the file; size: bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    size: int


@dataclass(frozen=True)
class Header:
    """metadata: without arrays of more than 1024 elements (the tokenizer's)."""

    metadata: t.Mapping[str, Value]
    tensors: tuple[Tensor, ...]


class _Reader:
    """A position in the bytes given."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def skip(self, size: int) -> int:
        """Step over size bytes and return where they began."""
        start = self._position
        if start + size > len(self._data):
            raise GgufTruncated(f"the GGUF header goes on after the {len(self._data)} bytes given: read more")
        self._position = start + size
        return start

    def scalar(self, form: str) -> t.Any:
        return struct.unpack_from(form, self._data, self.skip(struct.calcsize(form)))[0]

    def string(self) -> str:
        size = self.scalar("<Q")
        start = self.skip(size)
        return self._data[start : start + size].decode("utf-8", "replace")

    def value(self, kind: int) -> t.Optional[Value]:
        """The next value of this type; None for a long array, which is stepped over."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        return t.cast(Scalar, self.scalar(_format(kind)))

    def _array(self) -> t.Optional[tuple[Scalar, ...]]:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind == _ARRAY:
            raise GgufError("nested arrays in GGUF metadata are not supported")
        if count <= _LONGEST_KEPT_ARRAY:
            return tuple(t.cast(Scalar, self.value(kind)) for _index in range(count))
        if kind == _STRING:
            for _index in range(count):
                self.skip(self.scalar("<Q"))
        else:
            self.skip(count * struct.calcsize(_format(kind)))
        return None


def _format(kind: int) -> str:
    try:
        return _SCALARS[kind]
    except KeyError:
        raise GgufError(f"unknown GGUF metadata type {kind}") from None


def parse(data: bytes) -> Header:
    """Read the header from the first bytes of a file.

    :raises GgufTruncated: more bytes are needed.
    :raises GgufError: not GGUF, or a version, metadata type or tensor type that is not known.
    """
    reader = _Reader(data)
    if data[:4] != b"GGUF"[: len(data)]:
        raise GgufError("not a GGUF file")
    reader.skip(4)
    version = reader.scalar("<I")
    if version not in (2, 3):
        raise GgufError(f"GGUF version {version} is not supported (2 and 3 are)")
    tensor_count, pair_count = reader.scalar("<Q"), reader.scalar("<Q")
    metadata: dict[str, Value] = {}
    for _index in range(pair_count):
        key = reader.string()
        value = reader.value(reader.scalar("<I"))
        if value is not None:
            metadata[key] = value
    tensors = tuple(_tensor(reader) for _index in range(tensor_count))
    return Header(metadata, tensors)


def _tensor(reader: _Reader) -> Tensor:
    name = reader.string()
    shape = tuple(reader.scalar("<Q") for _index in range(reader.scalar("<I")))
    kind = reader.scalar("<I")
    reader.skip(8)  # where its data lies
    if kind not in _TENSOR_TYPES:
        raise GgufError(f"tensor {name} has the unknown type {kind}")
    type_name, numbers, size = _TENSOR_TYPES[kind]
    return Tensor(name, shape, type_name, prod(shape) // numbers * size)


def shape_of(header: Header) -> ModelShape:
    """The model's shape: what its GPUs hold, without encoders and projectors of other media.

    :raises UnsupportedArchitecture: its footprint is not known.
    :raises GgufError: a key or tensor that is needed is missing or malformed, or the file is one of several.
    """
    metadata = header.metadata
    prefix = metadata.get("general.architecture")
    if not isinstance(prefix, str):
        raise GgufError("the GGUF header does not name an architecture")
    architecture = _ALIASES.get(prefix, prefix)
    if architecture not in ARCHITECTURES:
        raise UnsupportedArchitecture(
            f"the footprint of architecture '{architecture}' is not known (known: {', '.join(ARCHITECTURES)}); "
            "give the model an explicit footprint"
        )
    if _whole(metadata, "split.count", 1) > 1:
        raise GgufError("the model is split over several GGUF files, of which this is one")

    def number(key: str, default: t.Optional[int] = None) -> int:
        return _whole(metadata, f"{prefix}.{key}", default)

    layers, embedding, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    if not (layers and embedding and heads):
        raise GgufError("the GGUF header has a block_count, embedding_length or head_count of 0")
    experts, experts_used = number("expert_count", 0), number("expert_used_count", 0)
    key_length = number("attention.key_length", embedding // heads)
    embeddings = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embeddings is None:
        raise GgufError("the GGUF header has no tensor token_embd.weight")
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    layer_bytes, output_bytes, idle_bytes = [0] * layers, 0, 0
    for tensor in header.tensors:
        if tensor.name.startswith(_NOT_ON_GPU) or (tensor is embeddings and not tied):
            continue
        block = _block(tensor.name)
        if block is None:
            output_bytes += tensor.size
        elif block < layers:
            layer_bytes[block] += tensor.size
        else:
            raise GgufError(f"tensor {tensor.name} belongs to none of the {layers} layers")
        if "_exps." in tensor.name and experts:
            idle_bytes += tensor.size * (experts - experts_used) // experts
    return ModelShape(
        architecture=architecture,
        layers=layers,
        embedding=embedding,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        key_length=key_length,
        value_length=number("attention.value_length", key_length),
        feed_forward=number("feed_forward_length"),
        vocabulary=embeddings.shape[-1],
        experts=experts,
        experts_used=experts_used,
        expert_feed_forward=number("expert_feed_forward_length", 0),
        sliding_window=number("attention.sliding_window", 0),
        trained_context=number("context_length"),
        layer_bytes=tuple(layer_bytes),
        output_bytes=output_bytes,
        active_bytes=sum(layer_bytes) + output_bytes - idle_bytes,
    )


def _whole(metadata: t.Mapping[str, Value], key: str, default: t.Optional[int]) -> int:
    """A whole number; some writers give one per layer, which is the same thing where all are equal."""
    value = metadata.get(key, default)
    if isinstance(value, tuple) and len(set(value)) == 1:
        value = value[0]
    if value is None:
        raise GgufError(f"the GGUF header lacks {key}")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise GgufError(f"{key} in the GGUF header is no whole number (or differs between layers)")
    return value


def _block(name: str) -> t.Optional[int]:
    head, _dot, rest = name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if head == "blk" and number.isdigit() else None
