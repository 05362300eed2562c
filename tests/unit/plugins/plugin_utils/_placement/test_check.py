# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checker finds every kind of fault that is planted into a good plan."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.check import check_plan, refuse
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.errors import PlacementError
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Gpu,
    Model,
    Options,
    Plan,
    Problem,
    Replica,
    Share,
    Unplaced,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    need,
    problem,
    running,
)

A, B = gpu("n1", "a", 12_000, index=0), gpu("n1", "b", 12_000, index=1)
C, D = gpu("n2", "c", 12_000, margin_mib=1000), gpu("n3", "d", 12_000)
# Split over A and B, half of its four layers and the output on B.
BIG = model("big", {"slow": (need(16_000, output_mib=300),)}, constraints=Constraints(nodes=("n1",)))
TWICE = model(
    "twice", 5_000, least=2, most=2, constraints=Constraints(nodes=("n2", "n3"), spread="node"), min_speed=40_000
)
APART = model("apart", 2_000, least=2, most=3, constraints=Constraints(gpus=("n1/a", "n3/d"), spread="domain"))
RARE = model("rare", 20_000, constraints=Constraints(nodes=("n3",)))
FLEET = problem([A, B, C, D], [BIG, TWICE, APART, RARE], {"n1": "left", "n2": "left", "n3": "right"})
RUNS = running("twice", C, 5_000)
PLAN = solve(FLEET, [RUNS], Options())

Change = t.Callable[[Problem, Plan], tuple[Problem, Plan]]


def at(plan: Plan, name: str, node: str) -> Replica:
    return next(replica for replica in plan.replicas if (replica.model, replica.node) == (name, node))


def replica(name: str, node: str, /, **values: t.Any) -> Change:
    """Change the replica of a model on a node."""

    def change(case: Problem, plan: Plan) -> tuple[Problem, Plan]:
        old = at(plan, name, node)
        replicas = tuple(dataclasses.replace(old, **values) if each is old else each for each in plan.replicas)
        return case, dataclasses.replace(plan, replicas=replicas)

    return change


def shares(name: str, node: str, edit: t.Callable[[list[Share]], t.Iterable[Share]]) -> Change:
    def change(case: Problem, plan: Plan) -> tuple[Problem, Plan]:
        return replica(name, node, gpus=tuple(edit(list(at(plan, name, node).gpus))))(case, plan)

    return change


def share(name: str, node: str, place: int, /, **values: t.Any) -> Change:
    def edit(found: list[Share]) -> list[Share]:
        found[place] = dataclasses.replace(found[place], **values)
        return found

    return shares(name, node, edit)


def extra(name: str, node: str, /, **values: t.Any) -> Change:
    """Add a copy of a replica, with an id and a port of its own."""

    def change(case: Problem, plan: Plan) -> tuple[Problem, Plan]:
        more = dataclasses.replace(at(plan, name, node), **{"id": f"{name}--9", "port": 11_900, **values})
        return case, dataclasses.replace(plan, replicas=(*plan.replicas, more))

    return change


def without(name: str, node: str) -> Change:
    def change(case: Problem, plan: Plan) -> tuple[Problem, Plan]:
        old = at(plan, name, node)
        return case, dataclasses.replace(plan, replicas=tuple(each for each in plan.replicas if each is not old))

    return change


def unplaced(*entries: tuple[str, int]) -> Change:
    return lambda case, plan: (
        case,
        dataclasses.replace(plan, unplaced=tuple(Unplaced(name, 50, count, "", "") for name, count in entries)),
    )


def wish(old: Model, /, rules: dict[str, t.Any] | None = None, **values: t.Any) -> Change:
    """Change a model of the catalog; ``rules`` are constraints."""

    def change(case: Problem, plan: Plan) -> tuple[Problem, Plan]:
        new = dataclasses.replace(old, constraints=dataclasses.replace(old.constraints, **(rules or {})), **values)
        return dataclasses.replace(case, models=tuple(new if each is old else each for each in case.models)), plan

    return change


def card(old: Gpu, /, **values: t.Any) -> Change:
    new = dataclasses.replace(old, **values)
    return lambda case, plan: (
        dataclasses.replace(case, gpus=tuple(new if each is old else each for each in case.gpus)),
        plan,
    )


def moved(case: Problem, plan: Plan) -> tuple[Problem, Plan]:
    return problem([A, B, dataclasses.replace(C, node="n3", index=1), D], case.models), plan


def stretched(found: list[Share]) -> list[Share]:
    return [dataclasses.replace(found[0], id=f"x{place}", index=place) for place in range(9)]


SLOWER = {"slow": (dataclasses.replace(need(16_000, output_mib=300), nanoseconds=30_000_000),)}
OTHER_RUNNER = {"slow": (need(16_000, output_mib=300, runner="vulkan"),)}


def test_a_good_plan_has_no_findings() -> None:
    assert check_plan(FLEET, PLAN, [RUNS]) == []
    refuse("plan", check_plan(FLEET, PLAN, [RUNS]))
    assert [(each.model, each.node, len(each.gpus)) for each in PLAN.replicas] == [
        ("apart", "n1", 1),
        ("apart", "n3", 1),
        ("big", "n1", 2),
        ("twice", "n2", 1),
        ("twice", "n3", 1),
    ]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (replica("twice", "n2", model="other"), "other is no longer in sdai_models"),
        (unplaced(("rare", 1), ("gone", 1)), "gone is no longer in sdai_models"),
        (replica("twice", "n2", context=4096), "twice--1: context was planned as 4096 and is wanted as 8192"),
        (replica("twice", "n2", batch=1), "twice--1: batch was planned as 1 and is wanted as 512"),
        (replica("twice", "n2", parallel=2), "twice--1: parallel was planned as 2 and is wanted as 1"),
        (replica("twice", "n2", kv_cache_type="q8_0"), "kv_cache_type was planned as q8_0 and is wanted as f16"),
        # Names, ports and numbers.
        (replica("twice", "n3", id="twice--1"), "twice--1 is the id of 2 replicas"),
        (replica("twice", "n3", id="Twice--2"), "Twice--2 is no id of a replica"),
        (replica("twice", "n3", id="../x--2"), "../x--2 is no id of a replica"),
        (replica("twice", "n3", id="twice--0"), "twice--0 is no id of a replica"),
        (lambda *old: replica("big", "n1", port=at(old[1], "apart", "n1").port)(*old), "is given to 2 replicas"),
        (replica("twice", "n3", port=12_000), "port 12000 of n3 is none for replicas: those are 11500 to 11999"),
        (wish(TWICE, replicas_min=1, replicas_max=1), "twice has 2 replicas in the plan, but its maximum is 1"),
        (
            without("twice", "n3"),
            "twice has 1 replicas in the plan and 0 listed as unplaced, but its minimum is 2",
        ),
        (unplaced(("rare", 1), ("twice", 1)), "twice has 2 replicas in the plan and 1 listed as unplaced"),
        (unplaced(), "rare is in sdai_models, but the plan neither places it nor lists it"),
        # One replica's place.
        (replica("twice", "n2", node="n9"), "twice--1: GPU n9/c is in n2 now, as its number 0"),
        (share("twice", "n2", 0, id="0000:01:00.0"), "twice--1: GPU n2/0000:01:00.0 is gone"),
        (moved, "twice--1: GPU n2/c is in n3 now, as its number 1"),
        (share("twice", "n3", 0, index=4), "twice--2: GPU n3/d was number 4 of its node and is number 0"),
        (shares("big", "n1", lambda found: found[:1] * 2), "big--1 is given 2 GPUs of n1; it takes 1 to 8 different"),
        (shares("big", "n1", lambda found: found[:0]), "big--1 is given 0 GPUs of n1"),
        (shares("big", "n1", stretched), "big--1 is given 9 GPUs of n1"),
        (shares("big", "n1", reversed), "big--1: its GPUs on n1 are not in the order of their numbers"),
        # Eligibility.
        (card(C, usable=False, reason="broken"), "twice--1: GPU n2/c: not usable: broken"),
        (wish(TWICE, rules={"nodes": ("n3",)}), "twice--1: GPU n2/c: node is not in constraints.nodes"),
        (wish(TWICE, rules={"exclude_nodes": ("n2",)}), "twice--1: GPU n2/c: node is in constraints.exclude_nodes"),
        (wish(APART, rules={"gpus": ("n1/a",)}), "GPU n3/d: GPU is not in constraints.gpus"),
        (wish(TWICE, rules={"exclude_gpus": ("n2/c",)}), "twice--1: GPU n2/c: GPU is in constraints.exclude_gpus"),
        (wish(TWICE, rules={"vendors": ("amd",)}), "twice--1: GPU n2/c: vendor nvidia is not in constraints.vendors"),
        (wish(TWICE, rules={"labels": {"room": "a"}}), "GPU n2/c: node lacks the label room: a of constraints.labels"),
        (
            wish(TWICE, rules={"min_compute_capability": (7, 0)}),
            "twice--1: GPU n2/c: sm_61 is below constraints.min_compute_capability",
        ),
        (wish(BIG, rules={"exclude_gpus": ("n1/b",)}), "big--1: GPU n1/b: GPU is in constraints.exclude_gpus"),
        (
            wish(TWICE, needs={}, ineligible={"slow": "q8_0 needs flash attention"}),
            "twice--1: GPU n2/c: q8_0 needs flash attention",
        ),
        (wish(TWICE, min_speed=50_001), "twice--1: GPU n2/c: it is slower than the min_tokens_per_second 50.0"),
        (card(B, kind="fast"), "big--1: GPU n1/b: no runner of the GPU can hold the model"),
        (wish(BIG, needs=OTHER_RUNNER), "big--1: GPU n1/a no longer has the runner cuda_v12"),
        (replica("twice", "n3", runner="vulkan"), "twice--2: GPU n3/d no longer has the runner vulkan"),
        # What it takes.
        (share("twice", "n3", 0, layers=3), "twice--2 has 3 layers in the plan, its model has 4"),
        (share("big", "n1", 1, layers=3), "big--1 has 5 layers in the plan, its model has 4"),
        (
            share("twice", "n3", 0, vram_mib=4_999),
            "twice--2: 4999 MiB are planned on GPU n3/d, where it takes 5000 MiB",
        ),
        (
            share("twice", "n3", 0, vram_mib=5_001),
            "twice--2: 5001 MiB are planned on GPU n3/d, where it takes 5000 MiB",
        ),
        (share("big", "n1", 0, vram_mib=8_400), "big--1: 8400 MiB are planned on GPU n1/a, where it takes 8100 MiB"),
        (share("big", "n1", 1, vram_mib=8_100), "big--1: 8100 MiB are planned on GPU n1/b, where it takes 8400 MiB"),
        (card(D, offer_mib=6_999), "GPU n3/d: 7000 MiB are planned, 6999 MiB are left"),
        (card(C, vram_foreign_mib=8_001), "GPU n2/c: 5000 MiB are planned, 4999 MiB are left"),
        # Beside each other.
        (extra("big", "n1"), "GPU n1/b is given to big 2 times"),
        (extra("twice", "n3"), "twice has 2 replicas on n3, and its constraints.spread is node"),
        (extra("apart", "n1"), "apart has 2 replicas in left, and its constraints.spread is domain"),
    ],
)
def test_a_planted_fault_is_found(change: Change, finding: str) -> None:
    case, plan = change(FLEET, PLAN)
    found = check_plan(case, plan, [RUNS])
    assert [each for each in found if finding in each], found
    with pytest.raises(PlacementError, match="report it"):
        refuse("plan", found)


def test_a_split_that_is_too_slow_as_a_whole_is_found() -> None:
    """Each card alone is quick enough with its first runner; the one that they have in common is not."""
    first, other = need(16_000, 80.0), need(16_000, 20.0, runner="vulkan")
    big = dataclasses.replace(BIG, needs={"slow": (first, other)}, min_speed=60_000)
    plan = solve(problem([A, B], [big]), (), Options())
    assert check_plan(problem([A, B], [big]), plan, ()) == []
    slow = dataclasses.replace(plan, replicas=(dataclasses.replace(plan.replicas[0], runner="vulkan"),))
    assert check_plan(problem([A, B], [big]), slow, ()) == [
        "big--1 gives 20.0 tokens/s on n1, below the min_tokens_per_second 60.0 of big"
    ]


def test_what_runs_may_use_the_margin_and_has_shown_what_it_takes() -> None:
    """What starts, or starts again, may not; nor may what is another than planned."""
    card_ = gpu("n1", "a", 5_000, margin_mib=1_000)
    case = problem([card_], [model("m", 4_000)])
    runs = running("m", card_, 5_500)
    plan = dataclasses.replace(solve(case, [runs], Options()), replicas=(runs,))
    assert check_plan(case, plan, [runs]) == []
    too_much = "GPU n1/a: 5500 MiB are planned, 5000 MiB are left"
    for other in (None, dataclasses.replace(runs, up=False), dataclasses.replace(runs, source="another")):
        assert too_much in check_plan(case, plan, [] if other is None else [other])
    assert check_plan(case, plan, [dataclasses.replace(runs, source="m", speed=7)]) == []
