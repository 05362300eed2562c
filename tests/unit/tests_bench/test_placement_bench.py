# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The placement benchmark in small: relations of quality, never times; and the benchmark's own parts."""

from __future__ import annotations

import dataclasses
import typing as t
from functools import cache

import pytest
from _baselines import POLICIES
from _bound import Bound
from _compare import equal_or_better, never_worse
from _evaluator import Score, evaluate, faults, inversions, served
from _fleets import MARGIN, Spec, events, make, need, plant
from _places import World
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Options, Replica, Share
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve

if t.TYPE_CHECKING:
    from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Plan

Fleet = tuple[int, int, float, int]

FLEETS: list[Fleet] = [
    (8, 10, 0.9, 1),
    (8, 10, 0.9, 2),
    # Where the plainest of all policies survives every loss, and serves nearly all that can be served.
    (12, 6, 0.7, 4999),
    (40, 20, 0.6, 1),
    (40, 20, 0.9, 1),
    (40, 20, 1.1, 2),
]
SECONDS = 2
ROUNDING = 0.001
"""Ours counts time in ten-thousandths of a GPU, the evaluator exactly."""


@cache
def planned(fleet: Fleet) -> tuple[World, Plan, dict[str, t.Any]]:
    problem = make(*fleet).problem()
    plan = solve(problem, (), Options(seconds=SECONDS))
    world = World(problem)
    score = evaluate(world, plan.replicas, exact_strong=True)
    return world, plan, values(score) | {"objectives": [dataclasses.asdict(o) for o in plan.objectives]}


@cache
def others(fleet: Fleet) -> dict[str, dict[str, t.Any]]:
    world, _plan, _ours = planned(fleet)
    return {p.name: values(evaluate(world, p(world).run(), exact_strong=True)) for p in POLICIES}


def values(score: Score) -> dict[str, t.Any]:
    return dataclasses.asdict(score) | {"unmet": list(score.unmet)}


def objective(plan: Plan, name: str) -> t.Any:
    return next(o for o in plan.objectives if o.name == name)


# --- our plans --------------------------------------------------------------------------------


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
def test_our_plan_is_valid(fleet: Fleet) -> None:
    world, plan, _ours = planned(fleet)
    assert faults(world, plan.replicas) == []


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
def test_no_policy_is_ahead_of_us(fleet: Fleet) -> None:
    _world, _plan, ours = planned(fleet)
    assert [name for name, other in others(fleet).items() if not never_worse(ours, other)] == []


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
def test_the_plan_says_of_itself_what_the_evaluator_finds(fleet: Fleet) -> None:
    _world, plan, ours = planned(fleet)
    assert [o.value for o in plan.objectives if o.name == "unmet_minimum"] == ours["unmet"]
    assert (plan.survivability.weak_value, plan.survivability.weak_of) == (ours["weak"], ours["weak_of"])
    assert objective(plan, "weak_n1").value == ours["weak"]
    # The exact division of time serves at least what the plan promises.
    assert objective(plan, "served").value <= 1000 * ours["served"] + len(plan.replicas)
    # What the evaluator places again after a loss is proof.
    survived = plan.survivability.strong_value + len(plan.survivability.strong_undecided)
    assert ours["strong"]["value"] <= survived


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
def test_no_placement_is_better_than_our_bounds(fleet: Fleet) -> None:
    _world, plan, ours = planned(fleet)
    for other in (ours, *others(fleet).values()):
        bounds = [o.bound for o in plan.objectives if o.name == "unmet_minimum"]
        for place, bound in enumerate(bounds):
            # A bound presumes what was reached before it.
            if other["unmet"][:place] == ours["unmet"][:place]:
                assert bound <= other["unmet"][place]
        if equal_or_better(other, ours):
            assert other["weak"] <= objective(plan, "weak_n1").bound
            assert 1000 * other["served"] <= objective(plan, "served").bound * (1 + ROUNDING)


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
def test_no_placement_is_better_than_the_bound_of_the_benchmark(fleet: Fleet) -> None:
    world, _plan, ours = planned(fleet)
    classes = list(ours["asked"])
    least = list(Bound(world).unmet(classes))
    # What misses the most minimums has the loosest bound, and holds for all that miss no more.
    loosest = {p: max(o["asked"][p] - o["met"][p] for o in (ours, *others(fleet).values())) for p in classes}
    most = Bound(world).served(loosest)
    for other in (ours, *others(fleet).values()):
        assert least <= other["unmet"]
        assert other["served"] <= most
    assert ours["served"] <= Bound(world).served(dict(zip(classes, ours["unmet"], strict=True)))


def test_at_low_load_a_greedy_is_as_good_at_minimums() -> None:
    _world, _plan, ours = planned((40, 20, 0.6, 1))
    assert any(other["unmet"] == ours["unmet"] for other in others((40, 20, 0.6, 1)).values())


def test_events_are_planned_for_from_what_runs() -> None:
    spec = make(*FLEETS[0])
    runs = planned(FLEETS[0])[1].replicas
    for _what, catalog, away in events(spec, seed=1, count=6):
        problem = catalog.problem(absent=away)
        left = [replica for replica in runs if replica.node not in away]
        runs = solve(problem, left, Options(seconds=1)).replicas
        assert faults(World(problem), runs, {replica.id for replica in left}) == []


# --- planted packings -------------------------------------------------------------------------


def packed(spec: Spec, packing: dict[str, tuple[str, ...]]) -> list[Replica]:
    """The certificate as replicas."""
    problem = spec.problem()
    world = World(problem)
    replicas = []
    for gpu, card in enumerate(world.gpus):
        for name in packing[card.id]:
            model, number = world.models[name], len(replicas)
            place = world.whole(model, gpu)
            share = Share(card.id, card.index, place.layers[0], place.mib[0])
            settings = (model.context, model.parallel, model.kv_cache_type, model.batch)
            replicas.append(
                Replica(f"{name}--{number}", name, card.node, place.runner, (share,), 11500 + number, *settings, 0)
            )
    return replicas


@pytest.mark.parametrize("seed", range(1, 11))
def test_planted_packings_are_valid_meet_all_minimums_and_leave_nothing(seed: int) -> None:
    planted = plant(20, seed)
    problem = planted.spec.problem()
    world = World(problem)
    replicas = packed(planted.spec, planted.packing)
    assert faults(world, replicas) == []
    assert not any(evaluate(world, replicas, exact_strong=False).unmet)
    assert sum(replica.vram_mib for replica in replicas) == sum(gpu.offer_mib for gpu in problem.gpus)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_small_planted_packing_is_found(seed: int) -> None:
    problem = plant(6, seed, models=6).spec.problem()
    plan = solve(problem, (), Options(seconds=10))
    assert not any(evaluate(World(problem), plan.replicas, exact_strong=False).unmet)


# --- the benchmark's own parts ------------------------------------------------------------------


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
def test_policies_place_validly(fleet: Fleet) -> None:
    world, _plan, _ours = planned(fleet)
    assert {policy.name: faults(world, policy(world).run()) for policy in POLICIES} == {p.name: [] for p in POLICIES}


def test_the_same_seed_makes_the_same_fleet_and_another_one_another() -> None:
    assert make(40, 20, 0.9, 1) == make(40, 20, 0.9, 1)
    assert make(40, 20, 0.9, 1) != make(40, 20, 0.9, 2)


@pytest.mark.parametrize("load", [0.6, 0.9, 1.1])
def test_minimums_ask_for_as_much_as_the_load_says(load: float) -> None:
    spec = make(100, 40, load, 1)
    asked = sum(need(model["footprint"]) * model["replicas"]["min"] for model in spec.models)
    offered = sum(gpu["vram_mib"] - MARGIN for host in spec.fleet.values() for gpu in host["gpus"])
    assert load - 0.05 <= asked / offered <= load


FAULTS: dict[str, t.Callable[[list[Replica]], list[Replica]]] = {
    "no such model": lambda r: [dataclasses.replace(r[0], model="other"), *r[1:]],
    "its GPUs are not there": lambda r: [dataclasses.replace(r[0], node="elsewhere"), *r[1:]],
    "named twice": lambda r: [dataclasses.replace(r[0], gpus=r[0].gpus * 2), *r[1:]],
    "is not for replicas": lambda r: [dataclasses.replace(r[0], port=80), *r[1:]],
    "does not run as the catalog says": lambda r: [dataclasses.replace(r[0], context=1), *r[1:]],
    "cannot lie there": lambda r: [dataclasses.replace(r[0], runner="rocm_v7_2"), *r[1:]],
    "should be": lambda r: [dataclasses.replace(r[0], gpus=(dataclasses.replace(r[0].gpus[0], vram_mib=1),)), *r[1:]],
    "is given 2 times": lambda r: [dataclasses.replace(r[0], id=r[1].id), *r[1:]],
    "two replicas on one GPU": lambda r: [*r, dataclasses.replace(r[0], id="more", port=11999)],
    "has room for": lambda r: [*r, dataclasses.replace(r[0], id="more", port=11999)],
    "at most": lambda r: [*r, dataclasses.replace(r[0], id="more", port=11999)],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_evaluator_finds_every_fault(fault: str) -> None:
    planted = plant(4, 1, models=5)
    replicas = FAULTS[fault](packed(planted.spec, planted.packing))
    assert fault in "\n".join(faults(World(planted.spec.problem()), replicas))


@pytest.mark.parametrize(
    ("spread", "fault"), [("node", "two replicas on one node"), ("domain", "in one failure domain")]
)
def test_the_evaluator_minds_the_spread(spread: str, fault: str) -> None:
    planted = plant(4, 1, models=4)
    models = [{**model, "constraints": {"spread": spread}} for model in planted.spec.models]
    domains = {host: {**entry, "failure_domain": "rack"} for host, entry in planted.spec.fleet.items()}
    spec = dataclasses.replace(planted.spec, models=models, fleet=domains)
    assert fault in "\n".join(faults(World(spec.problem()), packed(spec, planted.packing)))


def test_served_shares_the_time_of_a_gpu() -> None:
    """Replicas on one GPU serve no more than one of them alone, and never more than is asked for."""
    planted = plant(1, 1, models=4)
    greedy = [{**model, "demand": 1_000_000, "weight": 1} for model in planted.spec.models]
    spec = dataclasses.replace(planted.spec, models=greedy)
    world = World(spec.problem())
    replicas = packed(spec, planted.packing)
    assert len(replicas) >= 2
    assert served(world, replicas) == pytest.approx(served(world, replicas[:1]), rel=1e-6)
    modest = dataclasses.replace(spec, models=[{**model, "demand": 1} for model in greedy])
    assert served(World(modest.problem()), replicas) == pytest.approx(len(replicas), rel=1e-6)


def test_strong_survival_stops_extras_for_lost_minimums() -> None:
    """Two nodes, two cards of 10 GiB: a's only replica is lost, and b's second one gives way."""
    card = {"vendor": "nvidia", "name": "Tesla P40", "architecture": "sm_61", "vram_mib": 10240, "index": 0}
    card |= {"vram_foreign_mib": 0, "bandwidth_gbs": 347, "backends": ["cuda_v12"], "usable": True}
    fleet = {host: {"gpus": [{**card, "id": host}]} for host in ("n1", "n2", "n3")}
    footprint = {"layers": 10, "weights_mib": 8000, "kv_mib": 500, "compute_mib": 100, "active_mib": 8000}
    models = [
        {"name": name, "kv_cache_type": "f16", "replicas": {"min": 1, "max": most}, "footprint": footprint}
        for name, most in (("a", 1), ("b", 2))
    ]
    spec = Spec(fleet, models, margin=0)
    packing = {"n1": ("a:latest",), "n2": ("b:latest",), "n3": ("b:latest",)}
    score = evaluate(World(spec.problem()), packed(spec, packing), exact_strong=True)
    assert (score.strong.value, score.strong.of) == (3, 3)
    needed = [{**model, "replicas": {"min": model["replicas"]["max"], "max": 2}} for model in models]
    spec = Spec(fleet, needed, margin=0)
    score = evaluate(World(spec.problem()), packed(spec, packing), exact_strong=True)
    assert (score.strong.value, score.strong.of, score.strong.undecided) == (0, 3, 0)


def test_an_inversion_is_a_lower_priority_in_the_way() -> None:
    card = {"vendor": "nvidia", "name": "Tesla P40", "architecture": "sm_61", "vram_mib": 10240, "index": 0, "id": "g"}
    card |= {"vram_foreign_mib": 0, "bandwidth_gbs": 347, "backends": ["cuda_v12"], "usable": True}
    footprint = {"layers": 10, "weights_mib": 8000, "kv_mib": 500, "compute_mib": 100, "active_mib": 8000}
    models = [
        {"name": name, "kv_cache_type": "f16", "priority": priority, "footprint": footprint}
        for name, priority in (("high", 100), ("low", 10))
    ]
    spec = Spec({"n1": {"gpus": [card]}}, models, margin=0)
    world = World(spec.problem())
    assert inversions(world, packed(spec, {"g": ("low:latest",)})) == 1
    assert inversions(world, packed(spec, {"g": ("high:latest",)})) == 0
