# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The difference between two plans: what counts as a move, and the answer to a question as it is printed."""

from __future__ import annotations

import dataclasses

from ansible_collections.aivailable.sdai.plugins.plugin_utils._difference import changes, what_if_report
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Objective,
    Plan,
    Replica,
    Survivability,
    Unplaced,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._tables import WIDTH
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    problem,
    running,
)

A, B, C = gpu("gpu1", "a", 8_000), gpu("gpu2", "b", 8_000), gpu("gpu3", "c", 8_000)


def ids(replicas: tuple[Replica, ...]) -> list[str]:
    return [replica.id for replica in replicas]


def test_what_stays_is_no_change() -> None:
    one = running("m", A, 5_000)
    assert changes([one], [dataclasses.replace(one, speed=1)]) == []


def test_what_goes_and_what_comes_are_moves_as_far_as_they_go() -> None:
    before = [running("m", A, 5_000, number=1), running("m", B, 5_000, number=2)]
    after = [running("m", C, 5_000, number=3)]
    (change,) = changes(before, after)
    assert [(old.id, new.id) for old, new in change.moved] == [("m--1", "m--3")]
    assert (ids(change.gained), ids(change.lost)) == ([], ["m--2"])
    (back,) = changes(after, before)
    assert (ids(back.gained), ids(back.lost), len(back.moved)) == (["m--2"], [], 1)


def test_the_same_place_is_matched_first() -> None:
    """Else a replica that is started anew would be told as two moves."""
    before = [running("m", A, 5_000, number=1), running("m", B, 5_000, number=2)]
    after = [running("m", B, 5_000, number=3), running("m", C, 5_000, number=4)]
    (change,) = changes(before, after)
    assert [(old.id, new.id) for old, new in change.moved] == [("m--2", "m--3"), ("m--1", "m--4")]


def plan(replicas: tuple[Replica, ...], missing: int, served: int, lost: dict[str, tuple[str, ...]]) -> Plan:
    return Plan(
        status="infeasible" if missing else "optimal",
        fleet_digest="f",
        catalog_digest="c",
        solver_name="s",
        solver_version="1",
        seed=0,
        reproducible=True,
        objectives=(
            Objective("unmet_minimum", missing, missing, True, 50),
            Objective("weak_n1", 1, 1, True),
            Objective("served", served, served, True),
            Objective("churn_mib", 7, 7, True),
        ),
        replicas=replicas,
        unplaced=(Unplaced("n", 50, missing, "there is no room", "buy"),) if missing else (),
        survivability=Survivability(1, 1, (), 2, 3, lost),
    )


def test_the_answer() -> None:
    """As it is printed. Of a node that is not there then nothing is said, nor of what a move would load."""
    case = problem([A, B], [model("m", 5_000, most=2), model("n", 5_000)])
    today = plan((running("m", A, 5_000), running("m", B, 5_000, number=2), running("n", C, 5_000)), 0, 90_000,
                 {"gpu1": ("m",), "gpu3": ("n",)})  # fmt: skip
    then = plan((running("m", A, 5_000), running("m", B, 5_000, number=2)), 1, 60_000, {"gpu2": ("m",)})
    then = dataclasses.replace(then, objectives=(Objective("unmet_minimum", 0, 0, True, 70), *then.objectives))
    report = what_if_report("without gpu3", case, today, then)
    assert max(map(len, report.splitlines())) <= WIDTH
    assert report.splitlines() == [
        "WHAT IF  without gpu3",
        "",
        "Compared with today's plan, if that ran (neither is written):",
        "  0 replicas gained, 1 lost, 0 moved; 0.0 GiB to load",
        "  minimum replicas without a place: 0 today, 1 then",
        "",
        "MODEL                             PRIORITY  MINIMUM  TODAY   THEN",
        "─" * 100,
        "n                                       50        1      1      0  1 below its minimum",
        "",
        "GAINED (+), LOST (-), MOVED (→)",
        "  - n--1 on gpu3 GPU 0",
        "",
        "OBJECTIVE                                                                TODAY        THEN",
        "─" * 100,
        "minimum replicas that found no place, priority 70 (replicas)                 -           0",
        "minimum replicas that found no place, priority 50 (replicas)                 0           1  worse",
        "models that outlive the loss of any one node (models)                        1           1  the same",
        "demand served, weighted (tokens/s)                                        90.0        60.0  worse",
        "",
        "LOSS OF ANY ONE NODE",
        "  models wanted twice or more that would keep a replica: 1 of 1 today, 1 of 1 then",
        "  losses that would leave room for every minimum: 2 of 3 today, 2 of 3 then",
        "    → without gpu1: no room again for m today, room for all then",
        "    → without gpu2: room for all today, no room again for m then",
        "",
        "NOT PLACED",
        "  n: 1 replica more missing (priority 50): there is no room",
    ]
    assert "then placed: n" in what_if_report("with gpu3", case, then, today)


def test_no_difference_is_an_answer_too() -> None:
    case = problem([A], [model("m", 5_000)])
    same = plan((running("m", A, 5_000),), 0, 50_000, {})
    assert "no replica is gained, lost or moved" in what_if_report("with nothing", case, same, same)
