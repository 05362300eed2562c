# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the drill makes of what it saw: a drill that calls everything kept would be worth nothing."""

from __future__ import annotations

import json
import subprocess
import typing as t

import drill
import pytest
from drill_faults import FAILURES, Failure, Target
from drill_load import Request, Watcher

KILL = next(failure for failure in FAILURES if failure.name == "node killed")
RELOAD = next(failure for failure in FAILURES if failure.name == "HAProxy reloaded")
KEPT = {"down_s": 2.9, "back_s": 30.0}


class Load:
    def __init__(self, *requests: Request) -> None:
        self.requests = list(requests)


def judged(*requests: Request) -> drill.Round:
    """Of a failure at 10 s whose minimum was back at 20 s."""
    result = drill.Round("node killed", "a--1")
    drill.Drill(t.cast("drill.Load", Load(*requests)), Watcher(), [])._judge(KILL, result, 10.0, 20.0)
    return result


@pytest.mark.parametrize(
    ("failure", "seen", "words"),
    [
        (KILL, {}, []),
        (KILL, {"down_s": 3.1}, ["within 3 s, not 3.1"]),
        (KILL, {"down_s": None}, ["within 3 s, not -"]),
        (KILL, {"failed": 1}, ["1 requests failed that had not begun"]),
        (KILL, {"cut": 4}, []),
        (KILL, {"back_s": None}, ["the minimum must be back within 90 s, not -"]),
        (RELOAD, {"cut": 1, "back_s": 1}, ["1 running answers were cut"]),
    ],
)
def test_each_promise_is_looked_at(failure: Failure, seen: dict[str, t.Any], words: list[str]) -> None:
    found = drill.broken(failure, drill.Round(failure.name, "a--1", **{**KEPT, **seen}))
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("request_", "counts"),
    [
        (Request("openai", 1, begun=2, ended=9, whole=True), (0, 0, 0)),  # over before
        (Request("openai", 1, begun=9, ended=12, whole=True), (0, 0, 0)),  # ran through
        (Request("openai", 1, begun=9, ended=11), (0, 0, 1)),
        (Request("openai", 9, begun=14, ended=15, whole=True), (1, 0, 0)),
        (Request("openai", 9, begun=14, ended=15), (1, 0, 1)),  # begun anew, then cut
        (Request("openai", 9, ended=11, error="502"), (1, 1, 0)),
        (Request("openai", 15, ended=16, error="503"), (1, 1, 0)),
        (Request("openai", 21, ended=22, error="503"), (0, 0, 0)),  # after all was well again
    ],
)
def test_what_became_of_a_request(request_: Request, counts: tuple[int, int, int]) -> None:
    found = judged(request_)
    assert (found.waiting, found.failed, found.cut) == counts


def test_a_request_without_an_end_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "ENDED_S", 0)
    found = judged(Request("ollama", 9))
    assert (found.waiting, found.failed) == (1, 1)
    assert "ollama: no end" in found.errors


def test_when_a_replica_was_seen_down_and_up_again() -> None:
    watcher = Watcher()
    watcher.changes = [(1.0, {"a--1": "UP"}), (11.0, {"a--1": "DOWN"}), (12.0, {}), (20.0, {"a--1": "INI"})]
    watcher.changes.append((21.0, {"a--1": "UP"}))
    assert watcher.first(10, "a--1", up=False) == 11
    assert watcher.first(11, "a--1", up=True) == 21
    assert watcher.first(22, "a--1", up=False) is None


def test_retried_requests_are_those_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"status": 200, "queue_ms": 3000, "connect_ms": 0, "first_byte_ms": 500, "retries": "0"}
    entries = [entry, {**entry, "retries": "+1"}, {**entry, "retries": "2", "queue_ms": 9000, "status": 503}]
    said = "\n".join(["Server a is DOWN", *map(json.dumps, entries)])
    monkeypatch.setattr(drill, "podman", lambda *_, **__: subprocess.CompletedProcess([], 0, said, ""))
    assert drill.retried(0) == (2, 3.5)


def test_the_table_adds_counts_and_shows_the_worst_times() -> None:
    rounds = [
        drill.Round("node killed", "a--1", down_s=1.0, waiting=30, cut=2, back_s=9.0),
        drill.Round("node killed", "a--2", down_s=2.0, waiting=31, cut=1, retried=4, slowest_retried_s=8.1, back_s=7.0),
        drill.Round("HAProxy reloaded", Target(drill.FRONTEND).host.name),
    ]
    lines = [line.split("  ") for line in drill.table(rounds).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[1] == ["node killed", "2", "2.0", "61", "0", "3", "4", "8.1", "9.0"]
    assert cells[2] == ["HAProxy reloaded", "1", "-", "0", "0", "0", "0", "-", "-"]
