# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GGUF headers: hand-made bytes, and sparse files with the headers of real models."""

from __future__ import annotations

import contextlib
import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType

import gguf
import pytest
import yaml
from ansible_collections.aivailable.sdai.plugins.module_utils import _footprint as footprint
from ansible_collections.aivailable.sdai.plugins.module_utils import _gguf
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[4]
CATALOG = yaml.safe_load((ROOT / "playbooks/vars/catalog.yml").read_text())["sdai_catalog"]


@pytest.fixture(scope="module")
def sparse() -> ModuleType:
    """tests/lab/make_sparse_gguf.py, which is a program and no package."""
    spec = importlib.util.spec_from_file_location("make_sparse_gguf", ROOT / "tests/lab/make_sparse_gguf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def number(key: str, value: int) -> bytes:
    return pair(key, 4, struct.pack("<I", value))


def array(key: str, kind: int, items: list[bytes]) -> bytes:
    return pair(key, 9, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def tensor(name: str, *shape: int, kind: int = 0) -> bytes:
    dimensions = b"".join(struct.pack("<Q", size) for size in shape)
    return string(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, 0)


def header(pairs: list[bytes], tensors: list[bytes], version: int = 3) -> bytes:
    counts = struct.pack("<IQQ", version, len(tensors), len(pairs))
    return b"GGUF" + counts + b"".join(pairs) + b"".join(tensors)


PAIRS = {
    "general.architecture": pair("general.architecture", 8, string("llama")),
    "block_count": number("llama.block_count", 2),
    "embedding_length": number("llama.embedding_length", 64),
    "head_count": number("llama.attention.head_count", 4),
    "feed_forward_length": number("llama.feed_forward_length", 128),
    "context_length": number("llama.context_length", 4096),
    "tokens": array("tokenizer.ggml.tokens", 8, [string(f"token {index}") for index in range(2000)]),
    "scores": array("tokenizer.ggml.scores", 6, [struct.pack("<f", 0.5)] * 2000),
    "small": array("general.languages", 8, [string("en"), string("pt")]),
}
TENSORS = [
    tensor("token_embd.weight", 64, 1000, kind=2),
    tensor("output_norm.weight", 64),
    tensor("blk.0.attn_q.weight", 64, 64, kind=8),
    tensor("blk.1.attn_q.weight", 64, 64, kind=1),
]


def tiny(extra: list[bytes] | None = None, more: list[bytes] | None = None, **changed: bytes | None) -> bytes:
    """The bytes of a small model; a changed pair replaces the one of that name, None takes it away."""
    pairs = [pair for pair in {**PAIRS, **changed}.values() if pair is not None]
    return header(pairs + (extra or []), TENSORS + (more or []))


@pytest.mark.parametrize("version", [2, 3])
def test_header(version: int) -> None:
    """Metadata without the tokenizer's arrays, and every tensor with its bytes."""
    parsed = _gguf.parse(header(list(PAIRS.values()), TENSORS, version) + b"tensor data")
    assert parsed.metadata["general.architecture"] == "llama"
    assert parsed.metadata["llama.block_count"] == 2
    assert parsed.metadata["general.languages"] == ("en", "pt")
    assert not [key for key in parsed.metadata if key.startswith("tokenizer.")]
    assert parsed.tensors[0] == _gguf.Tensor("token_embd.weight", (64, 1000), "Q4_0", 36000)
    assert [entry.size for entry in parsed.tensors[1:]] == [256, 4352, 8192]


def test_defaults_of_the_shape() -> None:
    """Keys that writers leave out follow from others; a model without output.weight has tied embeddings."""
    shape = _gguf.shape_of(_gguf.parse(tiny()))
    assert (shape.kv_heads, shape.key_length, shape.value_length) == (4, 16, 16)
    assert (shape.experts, shape.experts_used, shape.sliding_window, shape.vocabulary) == (0, 0, 0, 1000)
    assert shape.layer_bytes == (4352, 8192)
    assert shape.output_bytes == 36000 + 256
    assert shape.active_bytes == sum(shape.layer_bytes) + shape.output_bytes


def test_what_the_gpus_of_the_text_model_do_not_hold() -> None:
    """Encoders and projectors are left out, and so is the token embedding where there is an output head."""
    names = ["v.blk.0.attn_q.weight", "mm.0.weight", "a.conv1d.weight", "per_layer_token_embd.weight"]
    aside = [tensor(name, 64, 64) for name in names]
    shape = _gguf.shape_of(_gguf.parse(tiny(more=[*aside, tensor("output.weight", 64, 1000, kind=8)])))
    assert shape.layer_bytes == (4352, 8192)
    assert shape.output_bytes == 68000 + 256


def test_used_experts_are_read() -> None:
    """Of the experts' tensors a token reads the used part."""
    counts = [number("llama.expert_count", 8), number("llama.expert_used_count", 2)]
    shape = _gguf.shape_of(_gguf.parse(tiny(counts, [tensor("blk.0.ffn_up_exps.weight", 64, 32, 8)])))
    assert shape.layer_bytes[0] == 4352 + 65536
    assert shape.active_bytes == sum(shape.layer_bytes) + shape.output_bytes - 65536 * 3 // 4


def test_one_number_per_layer() -> None:
    """Equal numbers are one number, others are not understood."""
    equal = array("llama.attention.head_count_kv", 4, [struct.pack("<I", 2)] * 2)
    assert _gguf.shape_of(_gguf.parse(tiny([equal]))).kv_heads == 2
    unequal = array("llama.attention.head_count_kv", 4, [struct.pack("<I", 2), struct.pack("<I", 0)])
    with pytest.raises(_gguf.GgufError, match=r"llama\.attention\.head_count_kv"):
        _gguf.shape_of(_gguf.parse(tiny([unequal])))


@given(cut=st.integers(0, len(tiny()) - 1))
def test_truncated(cut: int) -> None:
    """Wherever the bytes end within the header, more are asked for."""
    with pytest.raises(_gguf.GgufTruncated, match=f"{cut} bytes given: read more"):
        _gguf.parse(tiny()[:cut])


@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Nothing but a domain error comes of bytes that are no header."""
    with contextlib.suppress(_gguf.GgufError, footprint.UnsupportedArchitecture):
        _gguf.shape_of(_gguf.parse(b"GGUF\x03\x00\x00\x00" + data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04", "not a GGUF file"),
        (header([], [], version=1), "version 1 is not supported"),
        (header([pair("x", 99, b"")], []), "unknown GGUF metadata type 99"),
        (header([array("x", 9, [b""])], []), "nested arrays"),
        (header([], [tensor("x", 64, kind=5)]), "tensor x has the unknown type 5"),
    ],
)
def test_not_readable(data: bytes, message: str) -> None:
    with pytest.raises(_gguf.GgufError, match=message):
        _gguf.parse(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiny(**{"general.architecture": None}), "does not name an architecture"),
        (tiny(block_count=None), "lacks llama.block_count"),
        (tiny(head_count=number("llama.attention.head_count", 0)), "head_count of 0"),
        (tiny(context_length=pair("llama.context_length", 8, string("4k"))), "llama.context_length in the GGUF header"),
        (tiny([number("split.count", 3)]), "several GGUF files"),
        (tiny(more=[tensor("blk.2.attn_q.weight", 64, 64)]), "blk.2.attn_q.weight belongs to none of the 2 layers"),
        (header(list(PAIRS.values()), TENSORS[1:]), "no tensor token_embd.weight"),
    ],
)
def test_no_shape(data: bytes, message: str) -> None:
    with pytest.raises(_gguf.GgufError, match=message):
        _gguf.shape_of(_gguf.parse(data))


def test_name_that_ollama_gives() -> None:
    """Ollama's own gpt-oss files call the architecture gptoss, and their keys too."""
    renamed = tiny().replace(string("llama"), string("gptoss"))
    for key in PAIRS:
        renamed = renamed.replace(string(f"llama.{key}"), string(f"gptoss.{key}"))
    renamed = renamed.replace(string("llama.attention.head_count"), string("gptoss.attention.head_count"))
    shape = _gguf.shape_of(_gguf.parse(renamed))
    assert (shape.architecture, shape.layers, shape.heads) == ("gpt-oss", 2, 4)


def test_unsupported_architecture_is_named() -> None:
    data = tiny(**{"general.architecture": pair("general.architecture", 8, string("mamba"))})
    with pytest.raises(footprint.UnsupportedArchitecture, match="'mamba'"):
        _gguf.shape_of(_gguf.parse(data))


def test_tensor_types_agree_with_the_reference() -> None:
    """Block sizes are ggml's, as its own Python package has them."""
    sizes = {kind.name: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    for name, numbers, size in _gguf._TENSOR_TYPES.values():
        assert sizes[name] == (numbers, size)


@pytest.mark.parametrize("name", ["llama3.2:1b", "qwen2.5:7b", "qwen3:30b", "gemma3:4b", "phi3:3.8b", "gpt-oss:20b"])
def test_sparse_file_equals_the_catalog(name: str, sparse: ModuleType, tmp_path: Path) -> None:
    """The header of a file of full size gives the estimates that the catalog gives."""
    path = tmp_path / "model.gguf"
    written = sparse.write(CATALOG[name]["reference"], path)
    with path.open("rb") as file:
        shape = _gguf.shape_of(_gguf.parse(file.read(written.header)))
    expected = footprint.shape_from_catalog(name, CATALOG[name])
    for flags in (footprint.Launch(8192, 4, "q8_0", 1024), footprint.Launch(32768, 1, "f16", 1024)):
        assert footprint.estimate(shape, flags, flash_attention=True) == footprint.estimate(
            expected, flags, flash_attention=True
        )
