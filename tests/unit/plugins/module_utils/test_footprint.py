# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The footprint against what llama-server reported for models with real hyper-parameters."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ansible_collections.aivailable.sdai.plugins.module_utils import _footprint as footprint
from ansible_collections.aivailable.sdai.plugins.module_utils._footprint import Launch, ModelShape
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[4]
CATALOG = yaml.safe_load((ROOT / "playbooks/vars/catalog.yml").read_text())["sdai_catalog"]
SHAPES = {entry["reference"]: footprint.shape_from_catalog(name, entry) for name, entry in CATALOG.items()}
LLAMA = SHAPES["llama3.1-8b"]
Row = dict[str, str]


def rows(file: str) -> list[Row]:
    with (ROOT / "tests/data" / file).open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["model"] in SHAPES]


def launch(row: Row) -> Launch:
    return Launch(int(row["ctx_per_slot"]), int(row["parallel"]), row["kv_type"], int(row["n_ubatch"]))


def mib(row: Row) -> tuple[int, int, int]:
    weights, kv, compute = (int(row[key]) for key in ("weights_MiB", "kv_MiB", "compute_MiB"))
    return weights, kv, compute


def label(row: Row) -> str:
    keys = ("model", "layers", "ctx_per_slot", "parallel", "kv_type", "fa", "n_ubatch")
    return "-".join(row[key] for key in keys if key in row)


ONE_GPU = [row for row in rows("truth.csv") if row["backend"].startswith("gpu(")]


def test_reference_data_is_whole() -> None:
    """All fifteen models are there, with flash attention and without."""
    assert len(SHAPES) == 15
    assert {row["model"] for row in ONE_GPU if row["fa"] == "off"} == set(SHAPES)
    assert {SHAPES[row["model"]].architecture for row in ONE_GPU} == set(footprint.ARCHITECTURES)


@pytest.mark.parametrize("row", ONE_GPU, ids=label)
def test_one_gpu(row: Row) -> None:
    """Weights and KV cache to the MiB, in all within 0.9 %."""
    need = footprint.estimate(SHAPES[row["model"]], launch(row), flash_attention=row["fa"] == "on")
    weights, kv, compute = mib(row)
    assert abs(need.weights_mib - weights) <= 1
    assert abs(need.kv_mib - kv) <= 1
    assert need.total_mib == pytest.approx(weights + kv + compute, rel=0.009)


def test_example() -> None:
    """The numbers of one well-known launch, in full."""
    need = footprint.estimate(LLAMA, Launch(8192, 4, "q8_0", 1024), flash_attention=True)
    assert need == footprint.Footprint(
        weights_mib=4404, kv_mib=2176, compute_mib=248, output_mib=411, active_mib=4404, kv_read_mib=272, layers=32
    )
    assert need.total_mib == 6828


@pytest.mark.parametrize(
    ("context", "parallel", "batch"),
    [(2048, 2, 512), (4096, 1, 512), (4097, 1, 1024), (8192, 4, 1024), (8193, 4, 2048), (131072, 1, 2048)],
)
def test_default_batch(context: int, parallel: int, batch: int) -> None:
    """Ollama's rule counts the cells of all slots, and cells come in 256s."""
    assert footprint.default_batch(context, parallel) == batch


def test_small_context_bounds_the_batch() -> None:
    """A batch never exceeds the cells there are."""
    small = footprint.estimate(LLAMA, Launch(256, 1, "f16", 256), flash_attention=True)
    assert footprint.estimate(LLAMA, Launch(200, 1, "f16", 2048), flash_attention=True) == small


def test_split_without_flash_attention() -> None:
    """The scores of all heads are written down on every GPU, so that each needs more than one GPU alone."""
    flags = Launch(32768, 1, "f16", 512)
    whole = footprint.estimate(LLAMA, flags, flash_attention=False).compute_mib
    assert whole == 2148
    assert all(mib > whole for mib in footprint.split_compute_mib(LLAMA, flags, flash_attention=False))


def test_large_vocabulary_decides_the_compute_buffer() -> None:
    """With many slots and small batches the output phase is the largest."""
    shape = replace(SHAPES["gemma3-4b"], embedding=1152, feed_forward=6912)
    few, many = (
        footprint.estimate(shape, Launch(4096, slots, "f16", 512), flash_attention=True).compute_mib
        for slots in (1, 64)
    )
    assert many > few


def test_window_defaults() -> None:
    """gemma2's header may leave its window out; architectures without windowed layers ignore the key."""
    gemma, flags = SHAPES["gemma2-9b"], Launch(32768, 1, "f16", 1024)
    assert footprint.estimate(replace(gemma, sliding_window=0), flags, flash_attention=True) == footprint.estimate(
        gemma, flags, flash_attention=True
    )
    phi = SHAPES["phi3-mini"]
    assert footprint.estimate(replace(phi, sliding_window=2047), flags, flash_attention=True) == footprint.estimate(
        phi, flags, flash_attention=True
    )


@pytest.mark.parametrize("kv_cache_type", ["q8_0", "q5_1", "q5_0", "q4_0"])
def test_quantised_kv_needs_flash_attention(kv_cache_type: str) -> None:
    with pytest.raises(footprint.UnsupportedKvCache, match=f"{kv_cache_type} needs flash attention"):
        footprint.estimate(LLAMA, Launch(8192, 1, kv_cache_type, 512), flash_attention=False)


def test_unknown_kv_type() -> None:
    with pytest.raises(footprint.UnsupportedKvCache, match="'q3_0'"):
        footprint.estimate(LLAMA, Launch(8192, 1, "q3_0", 512), flash_attention=True)


def test_unknown_architecture_is_named() -> None:
    with pytest.raises(footprint.UnsupportedArchitecture, match="'mamba'"):
        footprint.estimate(replace(LLAMA, architecture="mamba"), Launch(8192, 1, "f16", 512), flash_attention=True)


shapes = st.sampled_from(sorted(SHAPES.values(), key=lambda shape: shape.layer_bytes))
launches = st.builds(
    Launch,
    context=st.integers(1, 131072),
    parallel=st.integers(1, 16),
    kv_cache_type=st.sampled_from(sorted(footprint.KV_BLOCK_BYTES)),
    batch=st.sampled_from([512, 1024, 2048]),
)


@given(shape=shapes, flags=launches, on=st.booleans())
def test_a_split_never_computes_in_less(shape: ModelShape, flags: Launch, on: bool) -> None:
    flags = flags if on else replace(flags, kv_cache_type="f16")
    whole = footprint.estimate(shape, flags, flash_attention=on).compute_mib
    first, other = footprint.split_compute_mib(shape, flags, flash_attention=on)
    assert first >= other >= whole


@given(shape=shapes, flags=launches)
def test_more_asked_is_never_less_need(shape: ModelShape, flags: Launch) -> None:
    """The need grows with context and slots, and without flash attention."""
    need = footprint.estimate(shape, flags, flash_attention=True)
    longer = replace(flags, context=flags.context + 256)
    assert footprint.estimate(shape, longer, flash_attention=True).total_mib >= need.total_mib
    wider = replace(flags, parallel=flags.parallel + 1)
    assert footprint.estimate(shape, wider, flash_attention=True).total_mib > need.total_mib
    plain = replace(flags, kv_cache_type="f16")
    with_fa, without = (footprint.estimate(shape, plain, flash_attention=on).compute_mib for on in (True, False))
    assert without >= with_fa


ENTRY = CATALOG["llama3.1:8b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": "32"}, "'m': heads must be a whole number of at least 1"),
        ({"heads": 32.0}, "'m': heads must be"),
        ({"heads": True}, "'m': heads must be"),
        ({"embedding": -1}, "'m': embedding must be"),
        ({"experts": -1}, "'m': experts must be a whole number of at least 0"),
        ({"active_bytes": None}, "'m': active_bytes must be"),
        ({"colour": 1}, "'m': unknown key 'colour'"),
        ({"architecture": 5}, "'m': architecture must be a string"),
        ({"layers": 31}, "layer_bytes describes 32 layers, layers says 31"),
        ({"layer_bytes": 5}, "layer_bytes must be a list"),
        ({"layer_bytes": [5]}, "layer_bytes must be a list"),
        ({"layer_bytes": [{"repeat": 32}]}, "layer_bytes must be a list"),
        ({"layer_bytes": [{"repeat": 32, "of": 5}]}, "layer_bytes must be a list"),
        ({"layer_bytes": [{"repeat": 0, "of": [5]}]}, "layer_bytes must be a whole number"),
        ({"layer_bytes": [{"repeat": 32, "of": [-5]}]}, "layer_bytes must be a whole number"),
    ],
)
def test_malformed_catalog_entry(change: dict[str, object], message: str) -> None:
    with pytest.raises(footprint.CatalogError, match="catalog entry") as error:
        footprint.shape_from_catalog("m", {**ENTRY, **change})
    assert message in str(error.value)


def test_catalog_entry_must_be_a_mapping() -> None:
    with pytest.raises(footprint.CatalogError, match="'m' is not a mapping"):
        footprint.shape_from_catalog("m", [])


def test_missing_key_is_named() -> None:
    with pytest.raises(footprint.CatalogError, match="vocabulary"):
        footprint.shape_from_catalog("m", {key: value for key, value in ENTRY.items() if key != "vocabulary"})
