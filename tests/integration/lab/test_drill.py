# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The short form of `make drill`: one round of the commonest failures under 24 streaming clients."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab_hosts import API, BIN, ROOT, Host, Statistics, only_long, wait_for

if t.TYPE_CHECKING:
    from pathlib import Path

FAILURES = ("node killed", "node vanished", "server killed", "engine killed", "HAProxy killed")
STARTS = 8
# Fewer than the two replicas have slots, and mostly idle: so are the frontend's connections to the replicas.
CONNECTIONS = 6
PAUSE_S = 0.3


def lab(verb: str, host: str) -> None:
    subprocess.run([str(BIN / "python"), str(ROOT / "tests/lab/lab.py"), verb, host], cwd=ROOT, check=True, timeout=120)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, t.Any]]:
    """What the drill wrote of each failure; it fails by itself where a promise was not kept."""
    results: Path = tmp_path_factory.mktemp("drill") / "results.json"
    only = [word for name in FAILURES for word in ("--only", name)]
    command = [BIN / "python", ROOT / "tests/lab/drill.py", "--rounds", "1", "--results", results, *only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return {entry["failure"]: entry for entry in json.loads(results.read_text())["rounds"]}


@pytest.mark.timeout(960)
@pytest.mark.parametrize(("name", "down_s"), [("node killed", 3), ("node vanished", 5), ("server killed", 3)])
def test_nothing_is_lost_that_had_not_begun(rounds: dict[str, dict[str, t.Any]], name: str, down_s: float) -> None:
    found = rounds[name]
    assert found["waiting"] > 24
    assert found["failed"] == 0, found["errors"]
    assert found["down_s"] <= down_s
    assert found["back_s"] is not None


def test_a_killed_engine_costs_only_what_it_was_doing(rounds: dict[str, dict[str, t.Any]]) -> None:
    """Four requests at once are the most that it can have; the next one finds it dead and has it replaced."""
    found = rounds["engine killed"]
    assert 1 <= found["cut"] + found["failed"] <= 4, found
    assert found["back_s"] is not None


def test_a_killed_frontend_is_back_at_once(rounds: dict[str, dict[str, t.Any]]) -> None:
    assert rounds["HAProxy killed"]["back_s"] is not None


def test_all_is_as_before(rounds: dict[str, dict[str, t.Any]], statistics: Statistics) -> None:
    assert len(rounds) == len(FAILURES)
    assert set(statistics.states().values()) == {"UP"}


@only_long
def test_requests_over_idle_connections_are_not_lost_with_the_node(
    plan: dict[str, t.Any], statistics: Statistics
) -> None:
    """They wait for an acknowledgement that never comes, during which the kernel sends no probes."""
    model = next(replica["model"] for replica in plan["replicas"] if replica["node"] == "gpu1")
    assert len({replica["node"] for replica in plan["replicas"] if replica["model"] == model}) == 2
    body = json.dumps({"model": model, "prompt": "hi", "stream": False, "options": {"num_predict": 1}})
    over = threading.Event()

    def ask() -> list[str]:
        """What became of one request after the other on one connection."""
        connection, found = http.client.HTTPConnection("127.0.0.1", 8080, timeout=30), []
        while not over.is_set():
            try:
                connection.request("POST", "/api/generate", body)
                got = connection.getresponse()
                got.read()
                found.append(str(got.status))
                over.wait(PAUSE_S)
            except (OSError, http.client.HTTPException) as error:
                return [*found, repr(error)]
        return found

    before = reused(statistics)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        asking = [pool.submit(ask) for _ in range(CONNECTIONS)]
        try:
            wait_for("idle connections", lambda: reused(statistics) - before > 2 * CONNECTIONS, seconds=30)
            lab("vanish", "gpu1")
            down = [replica["id"] for replica in plan["replicas"] if replica["node"] == "gpu1"]
            wait_for("gpu1 DOWN", lambda: {statistics.states()[replica] for replica in down} == {"DOWN"}, seconds=15)
        finally:
            over.set()
            # Whoever waits for the node must get over it before the node returns.
            answers = {answer for future in asking for answer in future.result()}
            lab("back", "gpu1")
    wait_for("all UP", lambda: set(statistics.states().values()) == {"UP"}, seconds=15)
    assert answers == {"200"}


def reused(statistics: Statistics) -> int:
    """Requests so far that went over a connection that others had used."""
    return sum(int(row["reuse"] or 0) for row in statistics.rows())


@only_long
def test_haproxy_is_started_again_however_often_it_ends(hosts: dict[str, Host]) -> None:
    """By default systemd leaves a unit for dead that ended five times in ten seconds."""
    for _ in range(STARTS):
        hosts["frontend1"].run("systemctl kill --kill-whom=all --signal=KILL haproxy")
        wait_for("the frontend", lambda: "ok" in fetch(f"{API}/healthz"), seconds=10)


def fetch(url: str) -> str:
    return subprocess.run(["curl", "-s", "-m", "2", url], capture_output=True, text=True, check=False).stdout
