# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a replica is where it is: each kind of cost, and that what is said is so."""

from __future__ import annotations

import dataclasses
import re

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Gpu,
    Model,
    Options,
    Replica,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.why import MOST_GPUS, why_here
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    fleet,
    gpu,
    model,
    need,
    problem,
    running,
)

A = gpu("gpu1", "a", 8_000)
B = gpu("gpu2", "b", 8_000)
FAST = gpu("gpu3", "c", 8_000, kind="fast")
TWIN = gpu("gpu1", "d", 8_000, index=1)
TWO_SPEEDS = {"slow": (need(5_000, 50.0),), "fast": (need(5_000, 80.0),)}


def at(place: Gpu, name: str = "m", mib: int = 5_000, number: int = 1, speed: int = 50_000) -> Replica:
    return dataclasses.replace(running(name, place, mib, number=number, port=11499 + number), speed=speed)


@pytest.mark.parametrize(
    ("cards", "models", "replicas", "text"),
    [
        ([A], [model("m", 5_000)], [at(A)], "no other place may hold it"),
        ([A, B], [model("m", 5_000)], [at(A)], "next best is gpu2 GPU 0 (nvidia slow): just as fast"),
        (
            [A, FAST],
            [model("m", TWO_SPEEDS)],
            [at(FAST, speed=80_000)],
            "next best is gpu1 GPU 0 (nvidia slow): 30.0 tokens/s slower",
        ),
        (
            [A, FAST],
            [model("m", TWO_SPEEDS), model("n", {"fast": (need(2_000),)})],
            [at(A), at(FAST, "n", 2_000)],
            "next best is gpu3 GPU 0 (nvidia fast): 30.0 tokens/s faster by itself, sharing its time with n--1",
        ),
        (
            [A, B],
            [model("m", 5_000), model("n", 6_000, priority=70)],
            [at(A), at(B, "n", 6_000)],
            "next best is gpu2 GPU 0 (nvidia slow), pushing out n--1: a minimum of n (priority 70)",
        ),
        (
            [A, B],
            [model("m", 6_000), model("n", 3_000, least=0, most=1), model("o", 4_000)],
            [at(A, mib=6_000), at(B, "n", 3_000), at(B, "o", 4_000)],
            "next best is gpu2 GPU 0 (nvidia slow), pushing out n--1, o--1: a minimum of o (priority 50)",
        ),
        (
            [A, B],
            [model("m", 4_000), model("n", 3_000, least=0, most=1), model("o", 4_000)],
            [at(A, mib=4_000), at(B, "n", 3_000), at(B, "o", 4_000)],
            "next best is gpu2 GPU 0 (nvidia slow), pushing out n--1: beyond the minimum",
        ),
        (
            [A, B],
            [model("m", 5_000, least=2)],
            [at(A), at(B, number=2)],
            "every other place that may hold it has a replica of the model, or is ruled out by its spread",
        ),
        (
            [A, B, TWIN],
            [model("m", 5_000, least=2, constraints=Constraints(spread="node"))],
            [at(A), at(B, number=2)],
            "next best is gpu1 GPU 1 (nvidia slow): just as fast",
        ),
        (
            [A, B, gpu("gpu2", "e", 8_000, index=1)],
            [model("m", 5_000, least=2)],
            [at(A), at(B, number=2)],
            "next best is gpu2 GPU 1 (nvidia slow): just as fast; but then one node would hold all of the model",
        ),
    ],
)
def test_each_kind_of_cost(cards: list[Gpu], models: list[Model], replicas: list[Replica], text: str) -> None:
    assert why_here(problem(cards, models), replicas)["m--1"] == text


def test_a_split_may_take_its_own_gpus_in_another_combination() -> None:
    cards = [gpu("gpu1", name, 6_000, index=index) for index, name in enumerate("abc")]
    case = problem(cards, [model("m", 9_000)])
    plan = solve(case, (), Options())
    assert len(plan.replicas[0].gpus) == 2
    assert "next best is gpu1 GPU " in why_here(case, plan.replicas)[plan.replicas[0].id]


def test_all_replicas_of_a_full_fleet_have_a_word() -> None:
    case = fleet(24, 8)
    plan = solve(case, (), Options(seconds=1))
    assert set(why_here(case, plan.replicas)) == {replica.id for replica in plan.replicas}
    assert why_here(case, tuple(reversed(plan.replicas))) == why_here(case, plan.replicas)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_said_can_be_done(seed: int) -> None:
    """The place that is named has room for the replica once those named are gone, and for no other of its model."""
    case = fleet(14, 6, load=0.95, seed=seed)
    plan = solve(case, (), Options(seconds=1))
    replicas = {replica.id: replica for replica in plan.replicas}
    cards = {(card.node, card.index): card for card in case.gpus}
    models = {item.name: item for item in case.models}
    said = why_here(case, plan.replicas)
    found = 0
    for identity, text in said.items():
        place = re.match(r"next best is (\S+) GPU (\d+) \(", text)
        if place is None:
            continue
        found += 1
        card = cards[place[1], int(place[2])]
        pushed = re.search(r"pushing out ([^:]*):", text)
        gone = {identity, *(pushed[1].split(", ") if pushed else ())}
        assert gone <= set(replicas)
        there = [
            (other, share)
            for other in replicas.values()
            for share in other.gpus
            if other.id not in gone and (other.node, share.id) == card.key
        ]
        size = models[replicas[identity].model].needs[card.kind][0].vram_mib
        assert sum(share.vram_mib for _other, share in there) + size <= card.offer_mib
        assert replicas[identity].model not in {other.model for other, _share in there}
    assert found


def test_nothing_is_said_of_a_fleet_that_is_too_large() -> None:
    cards = [gpu(f"node{number}", "x", 8_000) for number in range(MOST_GPUS + 1)]
    assert why_here(problem(cards, [model("m", 5_000)]), [at(cards[0])]) == {}
