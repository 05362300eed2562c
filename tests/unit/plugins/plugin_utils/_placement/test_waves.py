# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what runs to the plan: legal waves, and nothing broken that need not be."""

from __future__ import annotations

import dataclasses
import typing as t
from collections import Counter

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Gpu,
    Model,
    Options,
    Plan,
    Problem,
    Replica,
    Stop,
    Transition,
    Wave,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.waves import transition
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    problem,
    running,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SMALL = gpu("n1", "small", 6_000)
BIG = gpu("n2", "big", 12_000)
ON_SMALL = Constraints(gpus=("n1/small",))
ON_BIG = Constraints(gpus=("n2/big",))
OPTIONS = Options(seconds=10, replan=True)


def planned(cards: list[Gpu], models: list[Model], runs: list[Replica]) -> tuple[Plan, Transition]:
    case = problem(cards, models)
    plan = solve(case, runs, OPTIONS)
    return plan, transition(runs, plan, case)


def test_nothing_to_do_is_no_wave() -> None:
    runs = running("m", SMALL, 5_000)
    _, found = planned([SMALL], [model("m", 5_000)], [runs])
    assert found == Transition(keep=("m--1",), start=(), stop=(), move_mib=0, waves=())


def test_a_new_fleet_starts_in_one_wave() -> None:
    _, found = planned([SMALL, BIG], [model("a", 5_000), model("b", 7_000)], [])
    assert found == Transition((), ("a--1", "b--1"), (), 12_000, (Wave(("a--1", "b--1"), ()),))


def test_a_move_is_made_before_it_breaks() -> None:
    """Raising the context fits beside what runs on the other card: one wave, nothing broken."""
    old = running("m", SMALL, 5_000, context=4096)
    _, found = planned([SMALL, BIG], [model("m", 5_500, constraints=ON_BIG)], [old])
    assert found.waves == (Wave(("m--2",), ("m--1",)),)
    assert found.stop == (Stop("m--1", "n1", "sdai-ollama@m--1.service"),)
    assert found.move_mib == 5_500


def test_what_does_not_fit_beside_breaks_first_and_says_so() -> None:
    old = running("m", SMALL, 5_000, context=4096)
    _, found = planned([SMALL], [model("m", 5_500)], [old])
    assert found.waves == (Wave((), ("m--1",), ("m",)), Wave(("m--2",), ()))


def test_only_what_stands_in_the_way_stops_early() -> None:
    """c leaves the card that b needs; a, renewed on its own large card, is made before it breaks."""
    runs = [running("a", BIG, 4_000, context=4096), running("c", SMALL, 5_000, context=4096)]
    models = [model("a", 4_000, constraints=ON_BIG), model("b", 5_500, constraints=ON_SMALL)]
    _, found = planned([SMALL, BIG], models, runs)
    assert found.waves == (Wave(("a--2",), ("c--1",)), Wave(("b--1",), ("a--1",)))


def test_a_model_that_loses_its_minimum_for_good_is_named() -> None:
    models = [model("low", 5_000, priority=10), model("high", 5_500, priority=90)]
    _, found = planned([SMALL], models, [running("low", SMALL, 5_000)])
    assert found.waves == (Wave((), ("low--1",), ("low",)), Wave(("high--1",), ()))


def test_what_is_not_in_the_catalog_any_more_stops_unmourned() -> None:
    _, found = planned([SMALL], [], [running("gone", SMALL, 5_000)])
    assert found.waves == (Wave((), ("gone--1",)),)


def test_a_replica_of_the_same_name_elsewhere_stops_before_its_namesake_starts() -> None:
    """What was not counted when planning still holds its name, its port and maybe its memory."""
    case = problem([SMALL, BIG], [model("m", 5_000)])
    plan = solve(case, (), OPTIONS)
    namesake = dataclasses.replace(running("m", SMALL, 5_000), node="n9")
    found = transition([namesake], plan, case)
    assert [wave.start for wave in found.waves] == [(), ("m--1",)]
    assert found.waves[0].stop == ("m--1",)


def test_another_source_stops_what_runs() -> None:
    """Also where a reviewed plan gives the new replica the name of the old one."""
    old = running("m", SMALL, 5_000, source="old")
    plan, found = planned([SMALL], [model("m", 5_000, source="new")], [old])
    assert found.waves == (Wave((), ("m--1",), ("m",)), Wave(("m--2",), ()))
    namesake = dataclasses.replace(plan, replicas=(dataclasses.replace(old, source=None),))
    found = transition([old], namesake, problem([SMALL], [model("m", 5_000, source="new")]))
    assert (found.keep, found.start) == ((), ("m--1",))
    assert [stop.id for stop in found.stop] == ["m--1"]


def test_what_is_down_starts_again_under_its_name() -> None:
    _, found = planned([SMALL], [model("m", 5_000)], [running("m", SMALL, 5_000, up=False)])
    assert found == Transition((), ("m--1",), (), 5_000, (Wave(("m--1",), ()),))


def test_what_is_down_holds_no_memory_and_breaks_nothing() -> None:
    """Its successor starts beside it."""
    down = running("m", SMALL, 5_000, context=4096, up=False)
    _, found = planned([SMALL], [model("m", 5_500)], [down])
    assert found.waves == (Wave(("m--2",), ("m--1",)),)


def test_todays_speed_is_no_change() -> None:
    case = problem([SMALL], [model("m", 5_000, tokens=20)])
    plan = solve(case, [running("m", SMALL, 5_000)], OPTIONS)
    assert transition([running("m", SMALL, 5_000)], plan, case).keep == ("m--1",)


@st.composite
def changes(draw: st.DrawFn) -> tuple[Problem, Problem]:
    def world() -> Problem:
        cards = [gpu(f"n{i // 2}", f"g{i}", draw(st.sampled_from((4_000, 6_000, 9_000))), index=i) for i in range(4)]
        models = [
            model(
                name,
                draw(st.sampled_from((1_500, 2_500, 3_900, 5_000))),
                least=draw(st.integers(0, 2)),
                most=3,
                priority=draw(st.sampled_from((10, 90))),
                demand=60_000,
            )
            for name in "abc"
        ]
        return problem(cards, models)

    return world(), world()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes(), st.sets(st.integers(0, 8)))
def test_every_wave_is_legal(worlds: tuple[Problem, Problem], down: set[int]) -> None:
    """Replayed step by step: starts fit beside all that runs; the end is the plan; breaks are exactly the broken."""
    before, after = worlds
    runs = [
        dataclasses.replace(replica, up=place not in down)
        for place, replica in enumerate(solve(before, (), OPTIONS).replicas)
    ]
    plan = solve(after, runs, OPTIONS)
    found = transition(runs, plan, after)
    alive = {replica.id: replica for replica in runs if replica.up}
    wanted = {replica.id: replica for replica in plan.replicas}
    offers = {card.key: card.offer_mib for card in after.gpus}
    least = {m.name: m.replicas_min for m in after.models}
    for wave in found.waves:
        had = Counter(replica.model for replica in alive.values())
        assert not alive.keys() & set(wave.start)
        alive |= {name: wanted[name] for name in wave.start}
        assert len({(r.node, r.port) for r in alive.values()}) == len(alive)
        for name in wave.start:
            for key, _mib in load_of([wanted[name]]).items():
                assert load_of(alive.values())[key] <= offers[key]
        for name in wave.stop:
            alive.pop(name, None)
        has = Counter(replica.model for replica in alive.values())
        broken = {name for name, minimum in least.items() if has[name] < min(minimum, had[name])}
        assert set(wave.breaks) == broken
    assert alive.keys() == wanted.keys()
    assert found.move_mib == sum(wanted[name].vram_mib for name in found.start)
    assert set(found.keep) | set(found.start) == wanted.keys()
    assert {stop.id for stop in found.stop} == {r.id for r in runs} - wanted.keys()


def load_of(replicas: t.Iterable[Replica]) -> Counter[tuple[str, str]]:
    load: Counter[tuple[str, str]] = Counter()
    for replica in replicas:
        for share in replica.gpus:
            load[replica.node, share.id] += share.vram_mib
    return load


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_what_runs_means_nothing(order: int) -> None:
    runs = [running("a", BIG, 4_000, context=4096), running("c", SMALL, 5_000, context=4096)]
    case = problem([SMALL, BIG], [model("a", 4_000), model("b", 5_500)])
    plan = solve(case, runs, OPTIONS)
    assert transition(runs[::order], plan, case) == transition(runs, plan, case)
