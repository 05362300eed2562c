# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which running replicas a new plan may keep."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.check import check_plan
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Constraints, Options, Share
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.running import already, invalid, standing
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.waves import transition
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    need,
    problem,
    running,
)

CARD = gpu("n", "a", 9000, margin_mib=1000)
OTHER = gpu("n", "b", 9000, index=1)
AWAY = gpu("o", "a", 9000)
RUNS = running("m", CARD, 5000, source="m")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"context": 4096}, "changed"),
        ({"parallel": 2}, "changed"),
        ({"kv_cache_type": "q8_0"}, "changed"),
        ({"batch": 1024}, "changed"),
        ({"source": "hf.co/else/where:q4"}, "source changed from m to hf.co/else/where:q4"),
        ({"name": "other"}, "no longer has the model"),
        ({"constraints": Constraints(exclude_nodes=("n",))}, "constraints.exclude_nodes"),
        ({"min_speed": 50_001}, "min_tokens_per_second"),
        ({"needs": {}}, "no runner"),
    ],
)
def test_a_replica_stays_only_as_the_catalog_wants_it(change: dict[str, t.Any], reason: str | None) -> None:
    wish = dataclasses.replace(model("m", 5000), **change)
    found = invalid(problem([CARD], [wish]), RUNS)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert reason in found


def test_a_source_that_the_node_does_not_say_is_the_same() -> None:
    assert invalid(problem([CARD], [model("m", 5000, source="else")]), running("m", CARD, 5000)) is None


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ([OTHER], "gone"),
        ([AWAY], "gone"),
        ([dataclasses.replace(CARD, usable=False, reason="fell off the bus")], "fell off the bus"),
        ([dataclasses.replace(CARD, kind="unknown")], "no runner"),
    ],
)
def test_a_replica_stays_only_where_its_gpu_is(cards: list[t.Any], reason: str) -> None:
    found = invalid(problem(cards, [model("m", 5000)]), RUNS)
    assert found is not None
    assert reason in found


def test_another_runner_is_no_longer_served() -> None:
    found = invalid(problem([CARD], [model("m", 5000)]), dataclasses.replace(RUNS, runner="vulkan"))
    assert found == "runner vulkan no longer serves its GPU"


def test_a_runner_that_is_too_slow_does_not_stay() -> None:
    """Though a start on that GPU would be quick enough, with its first runner."""
    needs = {"slow": (need(5000, 80.0), need(5000, 20.0, runner="vulkan"))}
    case = problem([CARD], [model("m", needs, min_speed=60_000)])
    assert invalid(case, RUNS) is None
    found = invalid(case, dataclasses.replace(RUNS, runner="vulkan"))
    assert found == "20.0 tokens/s is below min_tokens_per_second 60.0"


@pytest.mark.parametrize(("foreign", "stays"), [(0, True), (1000, True), (1001, False)])
def test_what_runs_may_reach_into_the_margin(foreign: int, stays: bool) -> None:
    card = dataclasses.replace(CARD, vram_foreign_mib=foreign, offer_mib=8999)
    replica = running("m", card, 9000)
    assert standing(problem([card], [model("m", 9000)]), [replica]) == ((replica,) if stays else ())


@pytest.mark.parametrize(("foreign", "stays"), [(0, True), (1, False)])
def test_what_is_down_starts_again_within_the_offer(foreign: int, stays: bool) -> None:
    card = dataclasses.replace(CARD, vram_foreign_mib=foreign, offer_mib=9000 - foreign)
    replica = running("m", card, 9000, up=False)
    assert standing(problem([card], [model("m", 9000)]), [replica]) == ((replica,) if stays else ())


def test_what_is_down_gives_way_to_what_is_up() -> None:
    """Also to a lower priority: nothing that serves is stopped for it here."""
    low, high = running("low", CARD, 5000), running("high", CARD, 5000, port=11501, up=False)
    models = [model("low", 5000, priority=10), model("high", 5000, priority=90)]
    assert standing(problem([CARD], models), [low, high]) == (low,)


def test_on_a_card_grown_too_small_the_higher_priority_stays() -> None:
    card = dataclasses.replace(CARD, vram_foreign_mib=2000)
    low, high = running("low", card, 5000), running("high", card, 5000, port=11501)
    models = [model("low", 5000, priority=10), model("high", 5000, priority=90)]
    assert standing(problem([card], models), [low, high]) == (high,)


@pytest.mark.parametrize(
    ("most", "spread", "wanted"), [(3, "prefer", 3), (2, "prefer", 2), (3, "node", 2), (3, "domain", 1)]
)
def test_maximum_and_spread_bind_what_runs(most: int, spread: t.Any, wanted: int) -> None:
    runs = [running("m", card, 5000, number=i) for i, card in enumerate((CARD, OTHER, AWAY), 1)]
    wish = model("m", 5000, most=most, constraints=Constraints(spread=spread))
    kept = standing(problem([CARD, OTHER, AWAY], [wish], {"n": "rack", "o": "rack"}), runs)
    assert [replica.id for replica in kept] == [r.id for r in runs if r in kept]
    assert len(kept) == wanted


def test_two_replicas_of_a_model_never_share_a_gpu() -> None:
    runs = [running("m", CARD, 2000, number=1), running("m", CARD, 2000, number=2, port=11501)]
    assert standing(problem([CARD], [model("m", 2000, most=2)]), runs) == (runs[0],)


def test_a_replica_has_the_numbers_that_its_node_gives_the_gpus_now() -> None:
    """A card that is taken out renumbers the others; what runs on them needs no new start."""
    card = dataclasses.replace(CARD, index=3)
    case = problem([card], [model("m", 5000)])
    (kept,) = standing(case, [RUNS])
    assert [share.index for share in kept.gpus] == [3]
    assert already(case, [RUNS], [kept.planned]) == {kept.planned: RUNS}
    plan = solve(case, [RUNS], Options(seconds=1))
    assert [share.index for replica in plan.replicas for share in replica.gpus] == [3]
    assert check_plan(case, plan, [RUNS]) == []
    assert transition([RUNS], plan, case).start == ()


def test_a_split_whose_gpus_change_their_order_does_not_stay() -> None:
    shares = (Share("a", 0, 2, 2500), Share("b", 1, 2, 2500))
    split = dataclasses.replace(RUNS, gpus=shares)
    assert invalid(problem([CARD, OTHER], [model("m", 5000)]), split) is None
    renumbered = [dataclasses.replace(CARD, index=1), dataclasses.replace(OTHER, index=0)]
    assert invalid(problem(renumbered, [model("m", 5000)]), split) == "its GPUs are numbered in another order by now"
