# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a replica lies on GPUs: shares, layers, times."""

from __future__ import annotations

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Need, Share
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.shapes import (
    as_it_runs,
    fitting,
    proportional,
    single,
    split,
    splits,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    need,
    running,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("total", "weights", "wanted"),
    [
        (32, [10, 10], [16, 16]),
        (33, [10, 10], [17, 16]),  # a tie goes to the lower index
        (10, [1, 1, 1], [4, 3, 3]),
        (11, [1, 1, 1], [4, 4, 3]),
        (32, [10240, 23552], [10, 22]),  # 9.70 and 22.30
        (3, [1, 100], [0, 3]),
        (5, [0, 0], [0, 0]),
    ],
)
def test_layers_in_proportion(total: int, weights: list[int], wanted: list[int]) -> None:
    assert proportional(total, weights) == wanted


@given(st.integers(1, 200), st.lists(st.integers(1, 50_000), min_size=1, max_size=8))
def test_proportions_are_complete_and_fair(total: int, weights: list[int]) -> None:
    """All layers are placed, each GPU within one layer of its exact part."""
    parts = proportional(total, weights)
    assert sum(parts) == total
    assert all(abs(part - total * weight / sum(weights)) < 1 for part, weight in zip(parts, weights, strict=True))


SPLIT_NEED = Need(
    runner="cuda_v12",
    vram_mib=9_000,
    nanoseconds=10_000_001,
    # Layers of unequal size, in halves of a MiB.
    layer_units=(0, 1001, 3002, 6003, 10_004),
    units_per_mib=2,
    output_mib=700,
    compute_first_mib=90,
    compute_other_mib=40,
    context_mib=500,
)


def test_split_counts_layers_output_compute_and_context() -> None:
    """First GPU: layers + first compute + context; last: layers + output + other compute + context; all rounded up."""
    cards = [gpu("n", "a", 3000), gpu("n", "b", 9000, index=1)]
    shape = split(model("m", {"slow": (SPLIT_NEED,)}), cards)
    assert shape is not None
    assert shape.shares == (Share("a", 0, 1, 501 + 90 + 500), Share("b", 1, 3, 4502 + 700 + 40 + 500))
    assert shape.times == (2_500_001, 7_500_001)
    assert shape.speed == 10**12 // 10_000_002


def test_split_takes_the_first_runner_in_common() -> None:
    needs = {
        "slow": (need(5000, 50, runner="cuda_v12"), need(5000, 25, runner="vulkan")),
        "fast": (need(5000, 100, runner="rocm_v7_2"), need(5000, 80, runner="vulkan")),
    }
    both = split(model("m", needs), [gpu("n", "a", 3000), gpu("n", "b", 3000, kind="fast", index=1)])
    alone = split(model("m", needs), [gpu("n", "a", 3000), gpu("n", "b", 3000, index=1)])
    assert both is not None
    assert alone is not None
    assert (both.runner, alone.runner) == ("vulkan", "cuda_v12")
    assert both.times == (20_000_000, 6_250_000)


def test_no_split_without_a_common_runner_or_with_an_idle_gpu() -> None:
    needs = {"slow": (need(5000),), "fast": (need(5000, runner="rocm_v7_2"),)}
    assert split(model("m", needs), [gpu("n", "a", 3000), gpu("n", "b", 3000, kind="fast")]) is None
    assert split(model("m", 5000), [gpu("n", "a", 100), gpu("n", "b", 9000, index=1)]) is None


def test_single_takes_the_preferred_runner() -> None:
    shape = single(model("m", {"slow": (need(5000, 50), need(4000, 25, runner="vulkan"))}), gpu("n", "a", 9000))
    assert (shape.runner, shape.shares, shape.speed) == ("cuda_v12", (Share("a", 0, 4, 5000),), 50_000)


def test_splits_only_where_no_single_gpu_holds_the_model() -> None:
    cards = [gpu("n", "a", 6000), gpu("n", "b", 6000, index=1), gpu("o", "a", 6000)]
    assert [len(shape.gpus) for shape in fitting(model("m", 6000), cards)] == [1, 1, 1]
    assert [[g.key for g in shape.gpus] for shape in fitting(model("m", 6001), cards)] == [[("n", "a"), ("n", "b")]]
    assert fitting(model("m", 12_001), cards) == []


@pytest.mark.parametrize(("cards", "count"), [(1, 0), (2, 1), (4, 11), (8, 247), (10, 9 + 8 + 7 + 6 + 5 + 4 + 3)])
def test_splits_stay_few(cards: int, count: int) -> None:
    """All subsets up to 8 GPUs; beyond, neighbours only."""
    node = [gpu("n", f"g{i:02}", 2000, index=i) for i in range(cards)]
    assert len(list(splits(model("m", {"slow": (need(9000, layers=32),)}), node))) == count


def test_a_slow_split_is_left_out() -> None:
    cards = [gpu("n", "a", 6000), gpu("n", "b", 6000, index=1)]
    assert len(fitting(model("m", 9000, tokens=10, min_speed=10_000), cards)) == 1
    assert fitting(model("m", 9000, tokens=10, min_speed=10_001), cards) == []


def test_what_runs_keeps_its_shares_and_takes_todays_speed() -> None:
    card = gpu("n", "a", 6000)
    shape = as_it_runs(model("m", 5000, tokens=20), running("m", card, 4321), [card])
    assert shape is not None
    assert (shape.vram_mib, shape.speed) == (4321, 20_000)
    assert as_it_runs(model("m", 5000), running("m", card, 4321, runner="vulkan"), [card]) is None
