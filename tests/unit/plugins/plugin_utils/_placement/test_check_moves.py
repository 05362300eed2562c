# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The checker finds every kind of fault that is planted into a good transition."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.check_moves import check_transition
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Options,
    Plan,
    Replica,
    Stop,
    Transition,
    Wave,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    problem,
    running,
)

# "chain" has to go where "moves" is, which goes to an empty card; "stuck" is renewed where only one of it fits.
CARDS = [gpu(f"n{i}", f"g{i}", 6_000) for i in range(5)]


def on(card: int) -> Constraints:
    return Constraints(gpus=(f"n{card}/g{card}",))


FLEET = problem(
    CARDS,
    [
        model("chain", 5_000, constraints=on(1)),
        model("moves", 5_000, constraints=on(2)),
        model("stuck", 5_000, constraints=on(3)),
        model("stays", 5_000, constraints=on(4)),
    ],
)
RUNS = [
    running("chain", CARDS[0], 5_000),
    running("moves", CARDS[1], 5_000),
    running("stuck", CARDS[3], 5_000, context=4096),
    running("stays", CARDS[4], 5_000),
    running("old", CARDS[4], 500, port=11_501, up=False),
]
PLAN = solve(FLEET, RUNS, Options())


def stop(name: str, node: str) -> Stop:
    return Stop(name, node, f"sdai-ollama@{name}.service")


GOOD = Transition(
    keep=("stays--1",),
    start=("chain--2", "moves--2", "stuck--2"),
    stop=(stop("chain--1", "n0"), stop("moves--1", "n1"), stop("stuck--1", "n3"), stop("old--1", "n4")),
    move_mib=15_000,
    waves=(
        Wave(("moves--2",), ("moves--1", "stuck--1"), ("stuck",)),
        Wave(("chain--2", "stuck--2"), ("chain--1", "old--1")),
    ),
)

Change = t.Callable[[Transition], Transition]


def wave(number: int, **values: tuple[str, ...]) -> Change:
    def change(good: Transition) -> Transition:
        waves = list(good.waves)
        waves[number - 1] = dataclasses.replace(waves[number - 1], **values)
        return dataclasses.replace(good, waves=tuple(waves))

    return change


def given(**values: t.Any) -> Change:
    return lambda good: dataclasses.replace(good, **values)


def test_a_good_transition_has_no_findings() -> None:
    assert check_transition(FLEET, RUNS, PLAN, GOOD) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        # What is kept, started and stopped at all.
        (given(keep=()), "stays--1 runs on n4 as planned: it is to be kept, once, and not to be started"),
        (given(keep=("stays--1", "stays--1")), "stays--1 runs on n4 as planned: it is to be kept, once"),
        (given(keep=("stays--1", "chain--2")), "chain--2 does not run on n1 as planned: it is to be started, once"),
        (given(start=(*GOOD.start, "stays--1")), "stays--1 runs on n4 as planned: it is to be kept, once, and not"),
        (given(start=GOOD.start[1:]), "chain--2 does not run on n1 as planned: it is to be started"),
        (given(start=(*GOOD.start, "x--1")), "x--1 is kept or started, but is no replica of the plan"),
        (given(stop=GOOD.stop[1:]), "chain--1 on n0 is not in the plan, but is not stopped"),
        (given(stop=GOOD.stop[:-1]), "old--1 on n4 is not in the plan, but is not stopped"),
        (given(stop=(*GOOD.stop, stop("stays--1", "n4"))), "stays--1 on n4 is to be stopped, but is not there, or"),
        (given(stop=(*GOOD.stop, stop("x--1", "n4"))), "x--1 on n4 is to be stopped, but is not there"),
        (given(stop=(*GOOD.stop, GOOD.stop[0])), "chain--1 on n0 is to be stopped, but is not there"),
        (given(stop=(Stop("chain--1", "n0", "sshd.service"), *GOOD.stop[1:])), "on n0 is not the unit sshd.service"),
        (given(move_mib=1), "1 MiB are said to be loaded, but what starts takes 15000 MiB"),
        # Each in one wave.
        (wave(2, start=("chain--2",)), "stuck--2 starts in 0 waves instead of one"),
        (wave(2, start=("chain--2", "moves--2", "stuck--2")), "moves--2 starts in 2 waves instead of one"),
        (wave(2, start=("chain--2", "stays--1", "stuck--2")), "stays--1 starts in a wave, but is not in the list of"),
        (wave(2, stop=("chain--1",)), "old--1 stops in 0 waves instead of one"),
        (wave(2, stop=("chain--1", "old--1", "moves--1")), "moves--1 stops in 2 waves instead of one"),
        (wave(2, stop=("chain--1", "old--1", "x--1")), "x--1 stops in a wave, but is not in the list of what stops"),
        (
            wave(2, stop=("chain--1", "old--1", "moves--1")),
            "wave 2: moves--1 is to be stopped, but nothing of that name has to go then",
        ),
        (given(waves=(*GOOD.waves, Wave((), ()))), "wave 3: nothing starts and nothing stops"),
        (given(waves=()), "chain--2 starts in 0 waves instead of one"),
        # Room, with the wave's own stops still there.
        (
            given(waves=GOOD.waves[::-1]),
            "wave 1: GPU n1/g1 offers 6000 MiB, but would have to hold 10000 MiB: moves--1 5000, chain--2 5000",
        ),
        (
            given(
                waves=(
                    Wave(("moves--2", "stuck--2"), ("moves--1", "stuck--1")),
                    Wave(("chain--2",), ("chain--1", "old--1")),
                )
            ),
            "wave 1: GPU n3/g3 offers 6000 MiB, but would have to hold 10000 MiB: stuck--1 5000, stuck--2 5000",
        ),
        # Minimums.
        (wave(1, breaks=()), "wave 1: stuck falls to 0 replicas, its minimum is 1, and nobody is told"),
        (wave(1, breaks=("moves", "stuck")), "wave 1: moves is said to fall below its minimum, but does not"),
        (wave(2, breaks=("stuck",)), "wave 2: stuck is said to fall below its minimum, but does not"),
        (wave(2, breaks=("x",)), "wave 2: x is said to fall below its minimum, but does not"),
        (
            wave(1, stop=("moves--1", "stuck--1", "chain--1")),
            "wave 1: chain falls to 0 replicas, its minimum is 1, and nobody is told",
        ),
        # The end.
        (wave(2, start=("chain--2",)), "after the last wave stuck--2 does not run on n3"),
        (wave(2, stop=("old--1",)), "after the last wave chain--1 still runs on n0"),
        (wave(2, stop=("chain--1",)), "after the last wave old--1 is still on n4, though down"),
    ],
)
def test_a_planted_fault_is_found(change: Change, finding: str) -> None:
    found = check_transition(FLEET, RUNS, PLAN, change(GOOD))
    assert [each for each in found if finding in each], found


def renamed(**values: t.Any) -> Plan:
    replicas = (dataclasses.replace(r, **values) if r.id == "moves--2" else r for r in PLAN.replicas)
    return dataclasses.replace(PLAN, replicas=tuple(replicas))


@pytest.mark.parametrize(
    ("more", "plan", "finding"),
    [
        (
            running("moves", CARDS[0], 500, number=2, port=11_777),
            PLAN,
            "wave 1: moves--2 is to start on n2 while one of that name is on n0",
        ),
        (
            running("down", CARDS[2], 500, up=False),
            renamed(port=11_500),
            "wave 1: moves--2 is to start on port 11500 of n2, which down--1 still has",
        ),
    ],
)
def test_a_name_or_port_that_is_taken_is_found(more: Replica, plan: Plan, finding: str) -> None:
    """Also by what is down."""
    way = dataclasses.replace(GOOD, stop=(*GOOD.stop, stop(more.id, more.node)))
    late = wave(2, stop=("chain--1", "old--1", more.id))(way)
    assert check_transition(FLEET, [*RUNS, more], plan, late) == [finding]
    early = dataclasses.replace(late, waves=(Wave((), (more.id,)), *GOOD.waves))
    assert check_transition(FLEET, [*RUNS, more], plan, early) == []


def test_what_is_down_starts_again_in_its_place() -> None:
    runs = [dataclasses.replace(each, up=each.model != "stays") for each in RUNS if each.model != "old"]
    again = dataclasses.replace(
        GOOD,
        keep=(),
        start=(*GOOD.start, "stays--1"),
        stop=GOOD.stop[:-1],
        move_mib=20_000,
        waves=(
            dataclasses.replace(GOOD.waves[0], start=("moves--2", "stays--1")),
            dataclasses.replace(GOOD.waves[1], stop=("chain--1",)),
        ),
    )
    assert check_transition(FLEET, runs, PLAN, again) == []


def test_a_name_is_taken_also_by_what_is_down_elsewhere() -> None:
    """While the plan's own replica of that name, down as well, is in nobody's way."""
    own, other = (running("m", card, 5_000, up=False) for card in CARDS[:2])
    case = dataclasses.replace(FLEET, models=(model("m", 5_000),))
    plan = dataclasses.replace(PLAN, replicas=(dataclasses.replace(own, up=True),))
    way = Transition((), ("m--1",), (stop("m--1", "n1"),), 5_000, (Wave(("m--1",), ("m--1",)),))
    assert check_transition(case, [own, other], plan, way) == [
        "wave 1: m--1 is to start on n0 while one of that name is on n1"
    ]
    later = dataclasses.replace(way, waves=(Wave((), ("m--1",)), Wave(("m--1",), ())))
    assert check_transition(case, [own, other], plan, later) == []


def test_all_of_a_name_stop_together() -> None:
    """Whoever makes the waves knows the name alone."""
    namesakes = [running("m", card, 5_000) for card in CARDS[:2]]
    case = problem(CARDS[:2], [model("m", 5_000, least=2)])
    plan = dataclasses.replace(
        PLAN, replicas=tuple(running("m", c, 5_000, number=i + 2, port=11_600) for i, c in enumerate(CARDS[2:4]))
    )
    way = Transition(
        keep=(),
        start=("m--2", "m--3"),
        stop=(stop("m--1", "n0"), stop("m--1", "n1")),
        move_mib=10_000,
        waves=(Wave(("m--2",), ("m--1",)), Wave(("m--3",), ())),
    )
    fleet = dataclasses.replace(case, gpus=tuple(CARDS))
    assert check_transition(fleet, namesakes, plan, way) == [
        "wave 1: m falls to 1 replicas, its minimum is 2, and nobody is told"
    ]
