# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reasons in numbers, and remedies that are true."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.explain import explain
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Constraints, Gpu, Model, Options
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    need,
    problem,
)

SMALL = gpu("gpu1", "a", 6_144)
TWIN = gpu("gpu1", "b", 6_144, index=1)
BIG = gpu("gpu3", "c", 22_528)
DEAD = gpu("gpu4", "d", 0, usable=False, reason="no driver", remedy="install nvidia-driver")


@pytest.mark.parametrize(
    ("cards", "wish", "reason", "remedy"),
    [
        (
            [SMALL, TWIN, BIG],
            model("m", 42_188),
            "needs 41.2 GiB on one node; the most one node offers is 22.0 GiB (gpu3)",
            "add a GPU that offers 41.2 GiB, or save 19.2 GiB by a smaller context, fewer parallel requests or a "
            "smaller quantisation; or lower replicas.min to 0 (the model is then not served)",
        ),
        (
            [SMALL, TWIN],
            model("m", 11_900),
            "needs 11.7 GiB on one GPU; the most one GPU offers is 6.0 GiB (gpu1 GPU 0), and the closest split "
            "(gpu1 GPU 0+1, 12.2 GiB in all) misses by 0.2 GiB",
            "add a GPU that offers 11.7 GiB, or save memory by",
        ),
        (
            [SMALL, gpu("gpu1", "b", 6_144, index=1, kind="fast")],
            model("m", {"slow": (need(9_000),), "fast": (need(9_000, runner="vulkan"),)}),
            "and no GPUs of one node share a runner for a split",
            "add a GPU that offers 8.8 GiB;",
        ),
        (
            [SMALL, TWIN, DEAD],
            model("m", 1_000, constraints=Constraints(vendors=("amd",))),
            "no eligible GPU: vendor nvidia is not in constraints.vendors (2 GPUs); not usable: no driver (1 GPU)",
            "or add a GPU that the model may use (install nvidia-driver); or lower replicas.min to 0",
        ),
        ([], model("m", 1_000), "the fleet has no GPU", "add a node with a GPU"),
        (
            [SMALL, TWIN, BIG],
            model("m", 1_000, least=4),
            "4 replicas are asked for, but the empty fleet holds at most 3: one per GPU that can hold it "
            "(two replicas of a model never share a GPU)",
            "add a GPU that offers 1.0 GiB for each missing replica; or lower replicas.min to 3",
        ),
        (
            [SMALL, TWIN, BIG],
            model("m", 1_000, least=3, constraints=Constraints(spread="node")),
            "the empty fleet holds at most 2: one per node that can hold it (spread: node)",
            "on another node, or set constraints.spread to prefer; or lower replicas.min to 2",
        ),
    ],
)
def test_alone_in_the_fleet(cards: list[Gpu], wish: Model, reason: str, remedy: str) -> None:
    """What no other model is to blame for."""
    plan = solve(problem(cards, [wish]), (), Options())
    assert plan.status == "infeasible"
    assert reason in plan.unplaced[0].reason
    assert remedy in plan.unplaced[0].remedy


def test_crowded_out_names_the_rivals_and_the_closest_place() -> None:
    models = [model("small", 4_096, priority=10), model("large", 22_000, priority=90), model("mid", 4_096, priority=90)]
    plan = solve(problem([SMALL, BIG], models), (), Options())
    assert [(u.model, u.priority, u.missing) for u in plan.unplaced] == [("small", 10, 1)]
    assert plan.unplaced[0].reason == (
        "a replica needs 4.0 GiB and would fit an empty fleet, but other models take the room: "
        "large (priority 90) 21.5 GiB, mid (priority 90) 4.0 GiB; the closest place left (gpu1 GPU 0) misses 2.0 GiB"
    )
    assert "add a GPU that offers 4.0 GiB for each missing replica" in plan.unplaced[0].remedy


def test_what_is_not_proven_is_not_claimed() -> None:
    case = problem([SMALL], [model("m", 4_096), model("n", 4_096)])
    plan = solve(case, (), Options())
    left = next(m for m in case.models if m.name == plan.unplaced[0].model)
    unproven = explain(case, plan.replicas, left, proved=False, limited=True)
    assert unproven.reason.startswith("no place found in the planning time: ")
    assert "sdai_plan_seconds" in unproven.remedy
    assert "sdai_churn_budget_gib" in unproven.remedy


@pytest.mark.parametrize("least", [1, 2, 3])
def test_the_remedies_work(least: int) -> None:
    """Adding what is asked for, or lowering the minimum as said, leaves nothing out."""
    wish = model("m", 7_000, least=least)
    plan = solve(problem([SMALL], [wish]), (), Options())
    found = plan.unplaced[0]
    assert "offers 6.9 GiB" in found.remedy
    more = [gpu(f"new{i}", "x", 7_066) for i in range(found.missing)]
    assert solve(problem([SMALL, *more], [wish]), (), Options()).unplaced == ()
    assert f"lower replicas.min to {least - found.missing}" in found.remedy
    lower = dataclasses.replace(wish, replicas_min=least - found.missing)
    assert solve(problem([SMALL], [lower]), (), Options()).unplaced == ()
