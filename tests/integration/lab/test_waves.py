# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes of a living service: what must move moves, nobody notices, and a failure or a kill leaves it whole."""

from __future__ import annotations

import copy
import json
import re
import typing as t

import check_truth
import pytest
from lab_changes import BASE, Models, kill_at, starts, whole
from lab_clients import Clients
from lab_hosts import PLAN_FILE, Host, Statistics, only_long, playbook

if t.TYPE_CHECKING:
    from pathlib import Path

# The task at whose banner the run is killed, and what it leaves behind then.
BOUNDARIES = {
    "replicas | Describe each to its node": "what stays is not described anew yet",
    "start | Start them": "described, never started",
    "start | Wait until each has proved itself": "started, not proved",
    "Route to them": "proved, not routed to",
    "Route away from them": "routed to, the old ones too",
    "Let running answers end": "routed away, not stopped",
    "retire | Remove its settings": "stopped, not removed",
    "retire | Remove its view of the model": "half removed",
}


def small(name: str) -> dict[str, t.Any]:
    """One more model, of weights that the nodes have already."""
    return {"name": name, "source": "llama3.2:1b", "parallel": 4, "kv_cache_type": "q8_0", "context": 8192}


def changed(*more: dict[str, t.Any]) -> Models:
    """The lab's models with another context for one of them, another place for another, and ``more``."""
    models = copy.deepcopy(BASE)
    by_name = {model["name"]: model for model in models}
    by_name["llama3.2:1b"]["context"] = 4096
    by_name["qwen3:8b"]["constraints"] = {"nodes": ["gpu1"]}
    return [*models, *more]


def the_other(gpu_hosts: list[Host]) -> tuple[set[str], set[str], Models]:
    """Of the two catalogs the one that is not deployed; and which models are, and which of them will leave."""
    there = {replica["model"] for host in gpu_hosts for replica in host.replicas()}
    leaving = there - {model["name"] for model in BASE}
    return there, leaving, BASE if leaving else changed(small("helper:1b"))


@only_long
def test_only_what_must_move_moves(
    gpu_hosts: list[Host], statistics: Statistics, catalog: t.Callable[[Models], list[str]]
) -> None:
    """A model more, another context, another place: under streams of every model, none of which loses a word."""
    names = {replica["model"] for replica in json.loads(PLAN_FILE.read_text())["replicas"]}
    before = starts(gpu_hosts)
    with Clients(names) as clients:
        run = playbook("aivailable.sdai.apply", *catalog(changed(small("helper:1b"))))
    assert run.code == 0, run.output
    assert clients.faults == []
    assert all(clients.ended[name] > 1 for name in names), clients.ended
    replicas = {replica["id"]: replica for replica in json.loads(PLAN_FILE.read_text())["replicas"]}
    after = starts(gpu_hosts)
    moved = {"qwen3-8b", "llama3.2-1b", "helper-1b"}
    assert {replica.rpartition("--")[0] for replica in after.keys() - before.keys()} == moved
    stayed = {replica for replica in before if replica.rpartition("--")[0] not in moved}
    assert {replica: after.get(replica) for replica in stayed} == {replica: before[replica] for replica in stayed}
    assert {replica["node"] for replica in replicas.values() if replica["model"] == "qwen3:8b"} == {"gpu1"}
    assert {replica["context"] for replica in replicas.values() if replica["model"] == "llama3.2:1b"} == {4096}
    assert re.search(r"^gpu1 \| qwen3-8b--\d+: proved, \d+ s$", run.output, re.M), run.output
    whole(gpu_hosts, statistics)


@only_long
def test_a_failing_start_leaves_the_service_as_it_was(
    gpu_hosts: list[Host], statistics: Statistics, catalog: t.Callable[[Models], list[str]]
) -> None:
    """The new replica answers garbage: nothing is stopped for it, and it is gone again; the run says which and why."""
    before, states = starts(gpu_hosts), statistics.states()
    names = {replica["model"] for replica in json.loads(PLAN_FILE.read_text())["replicas"]}
    folder = "/dev/shm/sdai-lab/faults"
    for host in gpu_hosts:
        free = set(range(11500, 11520)) - {replica["port"] for replica in host.replicas()}
        host.run(f"mkdir -p {folder}; cd {folder}; touch {' '.join(f'garbage.{port}' for port in free)}")
    try:
        with Clients(names) as clients:
            run = playbook("aivailable.sdai.apply", *catalog(changed(small("broken:1b"))))
    finally:
        for host in gpu_hosts:
            host.run(f"rm -f {folder}/garbage.*")
    assert run.code != 0
    said = re.search(r"broken-1b--1 on (gpu\d) does not serve: [^\n]*known question[^\n]*journalctl", run.output)
    assert said, run.output
    assert clients.faults == []
    assert starts(gpu_hosts) == before, "the replica that failed is still described, or another one was touched"
    assert statistics.states() == states
    (host,) = (host for host in gpu_hosts if host.name == said[1])
    assert host.state("sdai-ollama@broken-1b--1.service") == "inactive"
    assert not host.pids("sdai-ollama@broken-1b--1.service")


@only_long
@pytest.mark.parametrize("task", BOUNDARIES)
def test_a_killed_run_is_picked_up(
    gpu_hosts: list[Host], statistics: Statistics, catalog: t.Callable[[Models], list[str]], task: str
) -> None:
    """Whatever the killed run left half-done, the next one ends where an undisturbed one would, and nobody notices.

    Both replicas of a model seem to run with older settings meanwhile: they are started anew one after the other.
    """
    old = {replica: start for replica, start in starts(gpu_hosts).items() if replica.startswith("llama3.1-8b--")}
    assert len(old) == 2
    for host in gpu_hosts:
        host.run("rm -f /run/sdai/replicas/llama3.1-8b--*/settings.sum")
    there, leaving, target = the_other(gpu_hosts)
    with Clients(there, leaving=leaving) as clients:
        kill_at(task, catalog(target))
        run = playbook("aivailable.sdai.apply", *catalog(target))
    assert run.code == 0, run.output
    assert clients.faults == []
    assert "Begin batch 2 of 2" in run.output
    new = starts(gpu_hosts)
    assert not [replica for replica in old if new[replica] == old[replica]], "a replica was not started anew"
    whole(gpu_hosts, statistics)


@only_long
@pytest.mark.timeout(3600)
def test_a_check_run_says_what_a_killed_run_and_the_next_one_do(
    gpu_hosts: list[Host],
    statistics: Statistics,
    catalog: t.Callable[[Models], list[str]],
    check: t.Callable[..., Path],
) -> None:
    """Killed when old and new replicas are routed to; what both runs did together is what the check run said."""
    there, leaving, target = the_other(gpu_hosts)
    before, old = check_truth.states(), starts(gpu_hosts)
    results = check("aivailable.sdai.apply", *catalog(target))
    with Clients(there, leaving=leaving) as clients:
        kill_at("Route away from them", catalog(target))
        run = playbook("aivailable.sdai.apply", *catalog(target))
    assert run.code == 0, run.output
    assert clients.faults == []
    new = starts(gpu_hosts)
    moved = {"qwen3-8b", "llama3.2-1b", "helper-1b"}
    assert {replica.rpartition("--")[0] for replica, _start in old.items() ^ new.items()} == moved
    whole(gpu_hosts, statistics)
    after = check_truth.states()
    assert check_truth.compared(results, before, after) == []
    # The sets are not equal because they are empty.
    done = {item for host in before for item in check_truth.done(before[host], after[host])}
    for kind, verb in (
        ("file", "created"),
        ("file", "removed"),
        ("unit", "started"),
        ("unit", "stopped"),
        ("replica", "created"),
        ("replica", "removed"),
        ("server", "created"),
        ("server", "removed"),
    ):
        assert [item for item in done if (item[0], item[2]) == (kind, verb)], f"no {kind} {verb}"
