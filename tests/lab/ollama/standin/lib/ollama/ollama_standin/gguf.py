# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a GGUF file says about itself: metadata (arrays only counted) and the tensor table."""

from __future__ import annotations

import struct
import typing as t
from pathlib import Path

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 30: "BF16", 39: "MXFP4",
}  # fmt: skip
_FILE_TYPES = {1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 10: "Q2_K", 14: "Q4_K_S", 15: "Q4_K_M", 17: "Q5_K_M",
               18: "Q6_K", 32: "BF16", 38: "MXFP4"}  # fmt: skip


class Gguf(t.NamedTuple):
    metadata: dict[str, t.Any]
    tensors: list[tuple[str, str, list[int]]]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def title(self) -> str:
        """The name in the table of VRAM needs."""
        name = self.metadata.get("general.name")
        return str(name or f"{self.architecture}-{human_parameters(self.parameters)}")

    def number(self, key: str) -> int:
        return int(self.metadata.get(f"{self.architecture}.{key}", 0))

    @property
    def parameters(self) -> int:
        total = 0
        for _, _, shape in self.tensors:
            count = 1
            for size in shape:
                count *= size
            total += count
        return total

    @property
    def quantization(self) -> str:
        return _FILE_TYPES.get(self.metadata.get("general.file_type", -1), "unknown")

    @property
    def embedding(self) -> bool:
        return f"{self.architecture}.pooling_type" in self.metadata


class NotGguf(Exception):
    """The file does not begin as a GGUF file does."""


def _unpack(stream: t.BinaryIO, layout: str) -> t.Any:
    size = struct.calcsize(layout)
    data = stream.read(size)
    if len(data) < size:
        raise NotGguf
    return struct.unpack(layout, data)[0]


def _string(stream: t.BinaryIO) -> str:
    return stream.read(_unpack(stream, "<Q")).decode("utf-8", "replace")


def _value(stream: t.BinaryIO, kind: int) -> t.Any:
    if kind == _STRING:
        return _string(stream)
    if kind != _ARRAY:
        return _unpack(stream, _SCALARS[kind])
    inner, count = _unpack(stream, "<I"), _unpack(stream, "<Q")
    if inner in _SCALARS:
        stream.seek(struct.calcsize(_SCALARS[inner]) * count, 1)
    else:
        for _ in range(count):
            _value(stream, inner)
    return None


def read(path: Path) -> Gguf:
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise NotGguf
        _unpack(stream, "<I")
        tensor_count, pairs = _unpack(stream, "<Q"), _unpack(stream, "<Q")
        metadata = {}
        for _ in range(pairs):
            key = _string(stream)
            metadata[key] = _value(stream, _unpack(stream, "<I"))
        tensors = []
        for _ in range(tensor_count):
            name = _string(stream)
            shape = [_unpack(stream, "<Q") for _ in range(_unpack(stream, "<I"))]
            tensors.append((name, _TYPES.get(_unpack(stream, "<I"), "unknown"), shape))
            _unpack(stream, "<Q")
        return Gguf(metadata, tensors)


_CACHE: dict[tuple[str, int, int], Gguf] = {}


def cached(path: Path) -> Gguf:
    """A blob never changes under its name, but a test may cut one short: size and time are part of the key."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _CACHE:
        _CACHE[key] = read(path)
    return _CACHE[key]


def human_parameters(count: int) -> str:
    for unit, letter, places in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else places}f}{letter}"
    return str(count)
