# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps by which apply changes a living service."""

from __future__ import annotations

import typing as t
from itertools import chain

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._rollout import (
    restart_batches,
    routed,
    servers_down,
    start_failures,
    start_outcomes,
    waves_to_make,
)
from hypothesis import given
from hypothesis import strategies as st

STATISTICS = (
    "# pxname,svname,status,check_status,last_chk,\n"
    "a,FRONTEND,OPEN,,,\n"
    "m,m--1,UP,L7OK,ok,\n"
    "m,m--2,UP 1/2,L7RSP,,\n"
    "n,n--1,DOWN,L7RSP,rstring mismatch,\n"
    # After a reload, before its first check.
    "n,n--2,UP,INI,,\n"
    "n,BACKEND,DOWN,,,\n"
)


def runs(identity: str, node: str = "gpu1", state: str = "active") -> dict[str, t.Any]:
    return {"id": identity, "model": identity.partition("--")[0], "node": node, "state": state}


def transition(waves: list[dict[str, t.Any]], stop: list[tuple[str, str]]) -> dict[str, t.Any]:
    return {
        "waves": waves,
        "stop": [{"id": replica, "node": node, "unit": f"{replica}.service"} for replica, node in stop],
    }


def test_a_wave_says_where_each_stop_is_and_announces_its_gaps() -> None:
    waves = [
        {"start": ["a--2"], "stop": ["a--1"], "breaks": []},
        {"start": [], "stop": ["b--1"], "breaks": ["b"]},
    ]
    first, second = waves_to_make(transition(waves, [("a--1", "gpu1"), ("b--1", "gpu2")]), [runs("a--2", "gpu2")], [])
    assert (first["start"], first["stop"]) == (["a--2"], {"gpu1": ["a--1"]})
    assert first["lines"] == ["start a--2 on gpu2", "stop a--1 on gpu1"]
    assert second["lines"][-1].startswith("GAP: b ")


def test_an_id_that_leaves_two_nodes_is_stopped_on_both() -> None:
    waves = [{"start": [], "stop": ["a--1", "a--1"], "breaks": []}]
    (wave,) = waves_to_make(transition(waves, [("a--1", "gpu1"), ("a--1", "gpu2")]), [], [])
    assert wave["stop"] == {"gpu1": ["a--1"], "gpu2": ["a--1"]}


@pytest.mark.parametrize("waves", [[], [{"start": ["b--1"], "stop": ["c--1"], "breaks": []}]])
def test_what_stays_unproved_is_followed_with_the_first_starts(waves: list[dict[str, t.Any]]) -> None:
    """A run that was killed between start and proof is made good before anything stops."""
    made = waves_to_make(transition(waves, [("c--1", "gpu1")]), [runs("a--1"), runs("b--1")], ["a--1"])
    assert len(made) == 1
    assert made[0]["start"][0] == "a--1"
    assert made[0]["start"][1:] == (waves[0]["start"] if waves else [])


def test_models_of_later_starts_are_fetched_first() -> None:
    """Not that of a replica whose id something has until it stops."""
    waves = [
        {"start": ["a--2"], "stop": ["b--1"], "breaks": []},
        {"start": ["b--1", "c--1"], "stop": [], "breaks": []},
        {"start": ["d--1"], "stop": [], "breaks": []},
    ]
    planned = [runs("a--2"), runs("b--1"), runs("c--1"), runs("d--1", "gpu2")]
    made = waves_to_make(transition(waves, [("b--1", "gpu1"), ("d--1", "gpu1")]), planned, [])
    assert [wave["fetch"] for wave in made] == [["c--1", "d--1"], [], []]


def test_nothing_to_do_is_no_wave() -> None:
    assert waves_to_make(transition([], []), [runs("a--1")], []) == []


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["gpu1", "gpu2"]), st.booleans()), max_size=8, unique=False
    )
)
def test_a_rolling_restart_never_takes_two_of_a_model(entries: list[tuple[str, str, bool]]) -> None:
    """Each stale replica is in exactly one batch, and a gap is announced where, and only where, no other one serves."""
    running = [runs(f"{model}--{number}", node) for number, (model, node, _) in enumerate(entries)]
    stale: dict[str, list[str]] = {}
    for replica, (_, node, old) in zip(running, entries, strict=True):
        if old:
            stale.setdefault(node, []).append(replica["id"])
    batches = restart_batches(running, stale)
    assert sorted(replica for batch in batches for replica in batch["start"]) == sorted(
        chain.from_iterable(stale.values())
    )
    for batch in batches:
        models = [replica.partition("--")[0] for replica in batch["start"]]
        assert len(set(models)) == len(models)
        assert sorted(chain.from_iterable(batch["stop"].values())) == sorted(batch["start"])
        for line, model in zip(batch["lines"], models, strict=True):
            assert ("GAP" in line) == ([replica["model"] for replica in running].count(model) == 1)


def test_only_what_proved_itself_and_stays_is_routed_to() -> None:
    running = [runs("a--1"), runs("b--1", state="activating"), runs("c--1", state="failed"), runs("d--1", "gpu2")]
    assert [replica["id"] for replica in routed(running, [], {})] == ["a--1", "d--1"]
    assert [replica["id"] for replica in routed(running, [], {"gpu2": ["d--1"], "gpu1": ["d--1"]})] == ["a--1"]


@pytest.mark.parametrize("order", [1, -1])
def test_an_id_on_two_nodes_is_routed_to_where_the_plan_has_it(order: int) -> None:
    """A node that was away comes back with a replica whose id was given to another node meanwhile."""
    running = [runs("a--1", "gpu1"), runs("a--1", "gpu2")][::order]
    (found,) = routed(running, [runs("a--1", "gpu2")], {})
    assert found["node"] == "gpu2"
    (found,) = routed(running, [runs("a--1", "gpu2")], {"gpu2": ["a--1"]})
    assert found["node"] == "gpu1"


def proof(proved: bool, *, enabled: bool, reason: str = "prove failed: x") -> dict[str, t.Any]:
    return {"id": "a--1", "proved": proved, "enabled": enabled, "reason": reason, "step": "loads", "seconds": 9}


@pytest.mark.parametrize(
    ("model", "proofs", "proved", "words"),
    [
        ({"msg": "no room"}, [], False, "its model cannot be had: no room"),
        ({"digest": "x"}, [proof(True, enabled=False)], True, ""),
        ({"digest": "x"}, [], True, ""),
        ({"digest": "x"}, [proof(False, enabled=False)], False, "prove failed: x (it was removed again)"),
        ({"digest": "x"}, [proof(False, enabled=True)], False, "systemd goes on trying"),
        ({"digest": "x"}, [proof(False, enabled=True, reason="")], False, "it still loads after 9 s"),
    ],
)
def test_what_became_of_a_start(model: dict[str, t.Any], proofs: list[t.Any], proved: bool, words: str) -> None:
    (found,) = start_outcomes([{"item": {"id": "a--1"}, **model}], proofs)
    assert found["proved"] is proved
    assert words in found["reason"]


def test_a_restart_without_another_replica_that_serves_is_a_gap() -> None:
    (batch,) = restart_batches([runs("a--1"), runs("a--2", state="failed")], {"gpu1": ["a--1"]})
    assert "GAP" in batch["lines"][0]
    (batch,) = restart_batches([runs("a--1"), runs("a--2", state="failed")], {"gpu1": ["a--2"]})
    assert "GAP" not in batch["lines"][0]


def test_a_failure_names_replica_node_reason_and_command() -> None:
    start = {"id": "a--1", "proved": False, "reason": "prove failed: x"}
    hosts = [{"inventory_hostname": "gpu1", "ollama_started": [start]}, {"inventory_hostname": "gpu2"}]
    (found,) = start_failures(hosts, ["a--1"])
    for word in ("a--1", "gpu1", "prove failed: x", "journalctl --namespace=sdai -u sdai-ollama@a--1.service"):
        assert word in found["text"]


def test_a_frontend_that_does_not_see_a_proved_replica_is_a_failure() -> None:
    frontend = {"inventory_hostname": "frontend1", "sdai_statistics": STATISTICS}
    (found,) = start_failures([frontend], ["m--1", "n--1"])
    assert found["id"] == "n--1"
    assert "frontend1" in found["text"]
    assert "L7RSP" in found["text"]


def test_servers_that_are_down_or_not_there() -> None:
    assert [entry["id"] for entry in servers_down(STATISTICS, ["m--1", "m--2", "n--1", "n--2", "o--1"])] == [
        "n--1",
        "n--2",
        "o--1",
    ]


def test_a_page_that_does_not_answer_is_no_word_on_its_servers() -> None:
    (found,) = servers_down("", ["m--1"])
    assert found == {"id": "m--1", "text": "its HAProxy's statistics page does not answer"}
