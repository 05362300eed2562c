# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who holds the lock of a fleet: what a lock means to a run, and its file among several takers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._run_lock import (
    STALE_SECONDS,
    Holder,
    Lock,
    Verdict,
    judge,
    read,
    refresh,
    release,
    take,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils import _control
from ansible_collections.aivailable.sdai.plugins.plugin_utils._control import is_alive, this_run

ME = Holder(user="alice", host="control1", machine="m1", boot_id="b1", pid_namespace="pid:[1]", pid=100, started="5000")
OTHER = replace(ME, user="bob", pid=200)
FRESH, OLD = STALE_SECONDS - 1.0, float(STALE_SECONDS)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "sdai" / "lock.json")


def aged(path: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


class Case(t.NamedTuple):
    holder: Holder | None
    age: float
    alive: bool | None
    expected: Verdict


@pytest.mark.parametrize(
    "case",
    [
        Case(ME, 0.0, True, Verdict.OURS),
        Case(ME, OLD, True, Verdict.OURS),
        Case(OTHER, 0.0, True, Verdict.HELD),
        # Seen to be alive: no matter how long it said nothing.
        Case(OTHER, OLD, True, Verdict.HELD),
        Case(OTHER, 0.0, False, Verdict.GONE),
        Case(OTHER, OLD, False, Verdict.GONE),
        Case(OTHER, FRESH, None, Verdict.HELD),
        Case(OTHER, OLD, None, Verdict.STALE),
        Case(None, FRESH, None, Verdict.HELD),
        Case(None, OLD, None, Verdict.STALE),
    ],
)
def test_what_a_lock_means(case: Case) -> None:
    lock = Lock(holder=case.holder, since="2026-11-23 20:00:00 UTC", age=case.age, version="v")
    assert judge(lock, me=ME, alive=case.alive) is case.expected


class Life(t.NamedTuple):
    change: dict[str, t.Any]
    expected: bool | None


@pytest.mark.parametrize(
    "life",
    [
        Life({}, True),
        # The number was given to another process since.
        Life({"started": "1"}, False),
        Life({"pid": 2**22 + 1}, False),
        Life({"boot_id": "an earlier one"}, False),
        Life({"boot_id": "an earlier one", "pid_namespace": "pid:[2]"}, False),
        # Another container of this host: its processes are not seen.
        Life({"pid_namespace": "pid:[2]"}, None),
        Life({"host": "control2"}, None),
        Life({"host": "control2", "boot_id": "b"}, None),
        # Two hosts that were given the same name.
        Life({"machine": "another", "boot_id": "b"}, None),
    ],
)
def test_whether_a_run_still_lives(life: Life) -> None:
    me = this_run(os.getpid())
    assert is_alive(replace(me, **life.change), me=me) is life.expected


def test_a_run_that_has_ended_and_was_not_yet_waited_for_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = this_run(process.pid)
    assert is_alive(me, me=me) is True
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_alive(me, me=me) is False
    process.communicate()
    assert is_alive(me, me=me) is False


def test_a_control_node_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_control, "PROC", tmp_path)
    me = this_run(os.getpid())
    assert (me.boot_id, me.started) == ("", "")
    assert is_alive(me, me=me) is True
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert is_alive(replace(me, pid=process.pid), me=me) is False


def test_take_refresh_and_give_back(path: str) -> None:
    assert read(path) is None
    assert take(path, ME) is None
    found = read(path)
    assert found is not None
    assert found.holder == ME
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o755
    aged(path, 600)
    assert (read(path) or found).age >= 600
    assert refresh(path, ME)
    assert (read(path) or found).age < 60
    assert release(path, ME)
    assert not os.path.exists(os.path.dirname(path))


def test_what_else_is_in_the_directory_stays(path: str) -> None:
    take(path, ME)
    beside = Path(path).parent / "pull"
    beside.mkdir()
    assert release(path, ME)
    assert beside.exists()


def test_taking_it_again_is_no_error(path: str) -> None:
    take(path, ME)
    assert take(path, ME) is None


def test_another_run_is_in_the_way(path: str) -> None:
    take(path, OTHER)
    found = take(path, ME)
    assert found is not None
    assert found.holder == OTHER
    for part in ("bob", "control1", "200", found.since):
        assert part in str(found)
    assert not refresh(path, ME)
    assert not release(path, ME)
    assert (read(path) or found).holder == OTHER


def test_who_lost_the_lock_is_told(path: str) -> None:
    take(path, ME)
    os.unlink(path)
    assert not refresh(path, ME)
    assert not release(path, ME)
    assert not os.path.exists(path)


def test_a_dead_lock_is_taken_over_only_as_it_was_seen(path: str) -> None:
    take(path, OTHER)
    aged(path, STALE_SECONDS)
    seen = take(path, ME)
    assert seen is not None
    # It was not dead after all.
    assert refresh(path, OTHER)
    found = take(path, ME, over=seen.version)
    assert found is not None
    assert take(path, ME, over=found.version) is None


def test_force_takes_it_from_a_live_run(path: str) -> None:
    take(path, OTHER)
    assert take(path, ME, force=True) is None
    assert not refresh(path, OTHER)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"holder": {"user": "bob"}, "since": ""}'])
def test_an_entry_that_cannot_be_read_is_somebodys(path: str, content: bytes) -> None:
    os.mkdir(os.path.dirname(path))
    Path(path).write_bytes(content)
    found = take(path, ME)
    assert found is not None
    assert found.holder is None
    assert Lock.from_dict(found.to_dict()) == found
    assert take(path, ME, over=found.version) is None


def test_a_clock_that_was_set_back_makes_no_lock_old(path: str) -> None:
    take(path, OTHER)
    aged(path, -3600)
    assert (read(path) or Lock(None, "", -1.0, "")).age == 0.0


def winners(takers: list[Holder], path: str, over: str = "") -> list[Holder]:
    with ThreadPoolExecutor(len(takers)) as pool:
        ways = pool.map(lambda me: take(path, me, over=over), takers)
        return [me for me, way in zip(takers, ways, strict=True) if way is None]


@pytest.mark.parametrize("dead", [False, True], ids=["no lock", "over a dead one"])
def test_of_many_takers_one_wins(path: str, dead: bool) -> None:
    takers = [replace(ME, pid=number) for number in range(1000, 1016)]
    for _round in range(20):
        if dead:
            take(path, OTHER)
        seen = read(path)
        (winner,) = winners(takers, path, seen.version if seen else "")
        found = read(path)
        assert found is not None
        assert found.holder == winner
        assert release(path, winner)
