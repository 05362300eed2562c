# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From what runs to the plan: legal waves, and nothing broken that need not be."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.check_moves import check_transition
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.errors import PlacementError
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
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.best_waves import Moves
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    problem,
    running,
)
from hypothesis import given, settings
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


def test_a_chain_of_moves_takes_a_wave_for_each_link() -> None:
    """a takes the place of b, b that of c, c a free one: nothing breaks."""
    cards = [gpu(f"n{i}", f"g{i}", 6_000) for i in range(4)]

    def pinned(place: int) -> Constraints:
        return Constraints(gpus=(f"n{place}/g{place}",))

    runs = [running(name, cards[i], 5_000) for i, name in enumerate("abc")]
    models = [model(name, 5_000, constraints=pinned(i + 1)) for i, name in enumerate("abc")]
    _, found = planned(cards, models, runs)
    assert found.waves == (Wave(("c--2",), ("c--1",)), Wave(("b--2",), ("b--1",)), Wave(("a--2",), ("a--1",)))


def test_of_two_that_have_to_break_one_still_serves() -> None:
    cards = [SMALL, dataclasses.replace(SMALL, node="n2")]
    runs = [running("m", card, 5_000, number=i + 1, context=4096) for i, card in enumerate(cards)]
    _, found = planned(cards, [model("m", 5_000, least=2)], runs)
    assert found.waves == (
        Wave((), ("m--1",), ("m",)),
        Wave(("m--3",), ("m--2",)),
        Wave(("m--4",), ()),
    )


def test_that_something_serves_weighs_more_than_a_short_break() -> None:
    """And where either of two models has to break, it is the one of less priority."""
    cards = [gpu("n0", "g0", 9_000), gpu("n1", "g1", 6_000)]
    runs = [running("high", cards[0], 5_000), running("low", cards[1], 5_000)]
    for low, first in ((10, "low"), (99, "high")):
        models = [
            model("high", 5_000, priority=90, constraints=Constraints(gpus=("n1/g1",))),
            model("low", 5_000, priority=low, constraints=Constraints(gpus=("n0/g0",))),
        ]
        _, found = planned(cards, models, runs)
        assert found.waves[0] == Wave((), (f"{first}--1",), (first,))


def test_namesakes_stop_together() -> None:
    """The wave that names one stops both: they are counted as one stop."""
    cards = [gpu(f"n{i}", f"g{i}", 6_000) for i in range(3)]
    runs = [running("m", cards[i], 5_000, context=4096) for i in (0, 1)]
    case = problem(cards, [model("m", 5_000, least=2, constraints=Constraints(exclude_nodes=("n1",)))])
    plan = solve(case, runs, OPTIONS)
    found = transition(runs, plan, case)
    assert check_transition(case, runs, plan, found) == []
    assert [wave.stop for wave in found.waves] == [("m--1",), ()]


def test_models_that_wait_for_themselves_break_together() -> None:
    """And of two that wait for each other's place only the one of less priority does."""
    cards = [gpu(f"n{i}", f"g{i}", 6_000) for i in range(4)]
    runs = [running(name, cards[i], 5_000, context=4096) for i, name in enumerate("abcd")]
    places = {"a": 0, "b": 1, "c": 3, "d": 2}
    models = [
        model(name, 5_000, priority=100 - ord(name), constraints=Constraints(gpus=(f"n{i}/g{i}",)))
        for name, i in places.items()
    ]
    _, found = planned(cards, models, runs)
    assert found.waves == (
        Wave((), ("a--1", "b--1", "d--1"), ("a", "b", "d")),
        Wave(("a--2", "b--2", "c--2"), ("c--1",)),
        Wave(("d--2",), ()),
    )


def test_an_addition_waits_where_its_room_saves_a_minimum() -> None:
    """new fits at once, but then m could not be renewed beside itself."""
    runs = [running("m", BIG, 4_000, context=4096), running("old", BIG, 3_000, port=11501)]
    models = [model("m", 4_000), model("new", 3_000, priority=90, constraints=ON_BIG)]
    _, found = planned([BIG], models, runs)
    assert found.waves == (Wave(("m--2",), ("m--1",)), Wave(("new--1",), ("old--1",)))


def test_a_plan_that_does_not_fit_is_refused() -> None:
    case = problem([SMALL], [model("m", 5_000)])
    plan = solve(case, (), OPTIONS)
    smaller = problem([dataclasses.replace(SMALL, offer_mib=4_000)], [model("m", 5_000)])
    with pytest.raises(PlacementError, match="no room for m--1; make the plan anew"):
        transition([], plan, smaller)


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


# An example solves twice.
@settings(max_examples=settings.default.max_examples // 3)
@given(changes(), st.sets(st.integers(0, 8)))
def test_every_wave_is_legal(worlds: tuple[Problem, Problem], down: set[int]) -> None:
    """From one solved world to another."""
    before, after = worlds
    runs = [
        dataclasses.replace(replica, up=place not in down)
        for place, replica in enumerate(solve(before, (), OPTIONS).replicas)
    ]
    plan = solve(after, runs, OPTIONS)
    assert check_transition(after, runs, plan, transition(runs, plan, after)) == []


@st.composite
def placements(draw: st.DrawFn, most: int) -> tuple[Problem, list[Replica], Plan]:
    """A full fleet and two placements on it that have nothing to do with each other, some of the first one down."""
    cards = [
        gpu(f"n{i}", f"g{i}", draw(st.sampled_from((4_000, 6_000, 9_000)))) for i in range(draw(st.integers(1, 4)))
    ]
    models = [
        model(
            name,
            draw(st.sampled_from((1_500, 2_500, 3_900, 5_000))),
            least=draw(st.integers(0, 2)),
            most=9,
            priority=draw(st.sampled_from((10, 90))),
        )
        for name in "abcd"
    ]

    def placed(context: int, port: int, repeat: bool) -> list[Replica]:
        found: list[Replica] = []
        for number in range(draw(st.integers(1, most))):
            wish, card = draw(st.sampled_from(models)), draw(st.sampled_from(cards))
            mib = wish.needs["slow"][0].vram_mib
            beside = [replica for replica in found if replica.node == card.node]
            # What somebody started by hand may have the name of what is on another node.
            namesake = [r.id for r in found if r.model == wish.name and r not in beside] if repeat else []
            if sum(replica.vram_mib for replica in beside) + mib <= card.offer_mib:
                replica = running(wish.name, card, mib, number=port + number, port=port + number, context=context)
                found.append(dataclasses.replace(replica, id=namesake[0]) if namesake else replica)
        return found

    same_names, repeat = draw(st.booleans()), draw(st.integers(0, 4)) == 0
    runs = [dataclasses.replace(replica, up=draw(st.integers(0, 9)) > 0) for replica in placed(4096, 11500, repeat)]
    wanted = placed(8192, 11500 if same_names else 11600, False)
    return problem(cards, models), runs, dataclasses.replace(EMPTY, replicas=tuple(wanted))


EMPTY = solve(problem([], []), (), OPTIONS)


@given(placements(most=7))
def test_any_placement_can_be_reached(case: tuple[Problem, list[Replica], Plan]) -> None:
    world, runs, plan = case
    assert check_transition(world, runs, plan, transition(runs, plan, world)) == []


@given(placements(most=4))
def test_no_order_of_waves_breaks_less(case: tuple[Problem, list[Replica], Plan]) -> None:
    """All orders are tried: none leaves fewer models without a replica or below what they need not lose, or for a
    shorter time, or has fewer breaks to announce; the number of waves may be one more."""
    world, runs, plan = case
    found = transition(runs, plan, world)
    moves = Moves(world, runs, plan, found)
    taken, best = moves.taken(found), moves.best()
    assert taken[:-1] == best[:-1]
    assert taken.waves <= best.waves + 1


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_what_runs_means_nothing(order: int) -> None:
    runs = [running("a", BIG, 4_000, context=4096), running("c", SMALL, 5_000, context=4096)]
    case = problem([SMALL, BIG], [model("a", 4_000), model("b", 5_500)])
    plan = solve(case, runs, OPTIONS)
    assert transition(runs[::order], plan, case) == transition(runs, plan, case)
