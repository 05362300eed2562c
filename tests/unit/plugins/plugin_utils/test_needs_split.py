# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shares that the planner counts with against what llama-server reported for splits."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from ansible_collections.aivailable.sdai.plugins.module_utils._footprint import (
    Launch,
    ModelShape,
    estimate,
    shape_from_catalog,
)
from ansible_collections.aivailable.sdai.plugins.module_utils._speed import DEFAULTS
from ansible_collections.aivailable.sdai.plugins.plugin_utils._needs import Engine, Kind, estimated
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.shapes import shares_mib
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[4]
CATALOG = yaml.safe_load((ROOT / "playbooks/vars/catalog.yml").read_text())["sdai_catalog"]
SHAPES = {entry["reference"]: shape_from_catalog(name, entry) for name, entry in CATALOG.items()}
# The report does not count the engine's context.
ENGINE = Engine("cuda_v12", 0, DEFAULTS["cuda"])
KIND = Kind("sm_86", 448.0, (ENGINE,))
Row = dict[str, str]


def rows(file: str) -> list[Row]:
    with (ROOT / "tests/data" / file).open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["model"] in SHAPES]


# The engine's own split of an even number of layers counts the output as one more: one layer moves to the first GPU.
SPLITS = rows("splits.csv") + [
    {**row, "layers": f"{SHAPES[row['model']].layers // 2 + 1}+{SHAPES[row['model']].layers // 2 - 1}"}
    for row in rows("truth.csv")
    if row["backend"].startswith("2gpu(")
]


def test_reference_data_is_whole() -> None:
    assert {row["model"] for row in SPLITS} == set(SHAPES)


def label(row: Row) -> str:
    return "-".join(row[key] for key in ("model", "layers", "ctx_per_slot", "parallel", "kv_type", "n_ubatch"))


@pytest.mark.parametrize("row", SPLITS, ids=label)
def test_shares(row: Row) -> None:
    """Weights, output and KV cache to the MiB (each is rounded), in all between -1 % and +3 %."""
    layers = [int(count) for count in row["layers"].split("+")]
    launch = Launch(int(row["ctx_per_slot"]), int(row["parallel"]), row["kv_type"], int(row["n_ubatch"]))
    need = estimated(SHAPES[row["model"]], launch, KIND, ENGINE)
    shares = shares_mib([need] * len(layers), layers)
    for gpu, share in enumerate(shares):
        weights, kv, compute = (int(row[key].split("+")[gpu]) for key in ("weights_MiB", "kv_MiB", "compute_MiB"))
        ours = need.compute_other_mib if gpu else need.compute_first_mib
        assert abs(share - ours - weights - kv) <= 3
        assert 0.99 <= share / (weights + kv + compute) <= 1.03


@given(
    shape=st.sampled_from(sorted(SHAPES.values(), key=lambda shape: shape.layer_bytes)),
    context=st.integers(1, 131072),
    parallel=st.integers(1, 16),
    data=st.data(),
)
def test_a_split_holds_what_one_gpu_holds(shape: ModelShape, context: int, parallel: int, data: st.DataObject) -> None:
    """Shares of weights and KV add up to the whole, but for rounding."""
    cuts = data.draw(st.sets(st.integers(1, shape.layers - 1), min_size=1, max_size=3).map(sorted))
    layers = [end - start for start, end in zip([0, *cuts], [*cuts, shape.layers], strict=True)]
    launch = Launch(context, parallel, "q8_0", 512)
    whole = estimate(shape, launch, flash_attention=True)
    need = estimated(shape, launch, KIND, ENGINE)
    compute = need.compute_first_mib + need.compute_other_mib * len(cuts)
    more = sum(shares_mib([need] * len(layers), layers)) - compute - whole.weights_mib - whole.kv_mib
    # The whole rounds twice; a split once for each GPU and once for the output.
    assert -2 < more < len(layers) + 1
