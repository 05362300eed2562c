# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run is told about the lock; the module's part runs here, on a file of the test."""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.aivailable.sdai.plugins.action import run_lock
from ansible_collections.aivailable.sdai.plugins.action.run_lock import KEEP_SECONDS, LockKeeper
from ansible_collections.aivailable.sdai.plugins.module_utils._run_lock import STALE_SECONDS, read, take
from ansible_collections.aivailable.sdai.plugins.module_utils._run_lock import refresh as refresh_file
from ansible_collections.aivailable.sdai.plugins.modules import run_lock as module
from ansible_collections.aivailable.sdai.plugins.plugin_utils._control import this_run

if t.TYPE_CHECKING:
    from pathlib import Path

ME = this_run(os.getppid())
# A process that lives, on this host and unseen on another.
HERE = this_run(os.getpid())
GONE = replace(HERE, started="1")
ELSEWHERE = replace(HERE, user="bob", host="control2", pid=4711)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "sdai" / "lock.json")


def run(path: str, state: str = "held", *, check: bool = False, **arguments: object) -> dict[str, t.Any]:
    task = MagicMock(async_val=0, check_mode=check, diff=False, delegate_to="frontend1")
    task.args = {"state": state, "path": path, **arguments}
    action = run_lock.ActionModule(
        task=task, connection=MagicMock(), play_context=MagicMock(), loader=None, templar=None, shared_loader_obj=None
    )

    def execute(module_args: dict[str, t.Any], **_more: t.Any) -> dict[str, t.Any]:
        given = {name: spec.get("default") for name, spec in module.ARGUMENTS.items()}
        ours, found = module.act(t.cast("t.Any", SimpleNamespace(params={**given, **module_args}, check_mode=check)))
        return {"changed": False, "ours": ours, "found": found.to_dict() if found else {}}

    action._execute_module = execute
    action._remove_tmp_path = MagicMock()
    return action.run(task_vars={})


def holder(path: str) -> object:
    found = read(path)
    return found.holder if found else None


def test_a_run_by_itself_hears_nothing(path: str) -> None:
    for state in ("held", "refreshed", "absent"):
        result = run(path, state)
        assert not result.get("warnings")
        assert result["ours"]
        assert result["changed"] is False
    assert holder(path) is None


@pytest.mark.parametrize("other", [HERE, ELSEWHERE])
def test_a_live_run_is_in_the_way_and_named(path: str, other: t.Any) -> None:
    take(path, other)
    with pytest.raises(AnsibleActionFail) as refused:
        run(path)
    for word in (other.user, other.host, str(other.pid), "since 20", "-e sdai_break_lock=true"):
        assert word in str(refused.value)
    assert holder(path) == other


def old(path: str) -> None:
    os.utime(path, (0, 0))


def test_a_run_whose_process_is_gone_is_followed_with_a_notice(path: str) -> None:
    take(path, GONE)
    (notice,) = run(path)["warnings"]
    assert "taken over (its process is gone)" in notice
    assert str(GONE.pid) in notice
    assert holder(path) == ME


def test_a_run_elsewhere_that_is_silent_is_followed_with_a_notice(path: str) -> None:
    take(path, ELSEWHERE)
    old(path)
    (notice,) = run(path)["warnings"]
    assert f"not refreshed for {STALE_SECONDS // 60} minutes" in notice
    assert "bob on control2" in notice
    assert holder(path) == ME


def test_a_live_run_of_this_host_is_never_followed_for_its_silence(path: str) -> None:
    take(path, HERE)
    old(path)
    with pytest.raises(AnsibleActionFail):
        run(path)
    assert holder(path) == HERE


def test_a_lock_is_broken_when_asked(path: str) -> None:
    take(path, ELSEWHERE)
    (notice,) = run(path, break_lock=True)["warnings"]
    assert "broken" in notice
    assert "bob on control2" in notice
    assert holder(path) == ME


@pytest.mark.parametrize(("other", "words"), [(ELSEWHERE, "bob on control2"), (GONE, "would be taken over")])
def test_check_mode_takes_nothing_but_tells(path: str, other: t.Any, words: str) -> None:
    assert not run(path, check=True).get("warnings")
    assert holder(path) is None
    take(path, other)
    (notice,) = run(path, check=True)["warnings"]
    assert words in notice
    for state in ("refreshed", "absent"):
        assert not run(path, state, check=True).get("warnings")
    assert holder(path) == other


def test_a_run_that_lost_the_lock_stops(path: str) -> None:
    run(path)
    take(path, ELSEWHERE, force=True)
    with pytest.raises(AnsibleActionFail, match="taken over by bob on control2"):
        run(path, "refreshed")
    (notice,) = run(path, "absent")["warnings"]
    assert "taken over by bob on control2" in notice
    assert holder(path) == ELSEWHERE


def test_a_run_whose_lock_is_gone_stops(path: str) -> None:
    run(path)
    os.unlink(path)
    with pytest.raises(AnsibleActionFail, match="it is gone"):
        run(path, "refreshed")


def test_a_host_that_cannot_be_reached_is_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_arguments: object, **_more: object) -> t.NoReturn:
        raise AnsibleConnectionFailure("no route to host")

    monkeypatch.setattr(run_lock.ActionModule, "_call", unreachable)
    with pytest.raises(AnsibleActionFail, match=r"frontend1, the host that keeps the lock.*no route to host"):
        run(path)


class Waiting:
    """A task on another host that waits, and what it hears of the lock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: str, hostvars: dict[str, t.Any]) -> None:
        self.now = 0.0
        self.refreshed: list[float] = []
        self.reachable = True
        self.keeper = LockKeeper(MagicMock(), {"hostvars": hostvars}, clock=lambda: self.now)

        def refresh(_keeper: LockKeeper) -> dict[str, t.Any]:
            if not self.reachable:
                raise AnsibleConnectionFailure("no route to host")
            self.refreshed.append(self.now)
            ours = refresh_file(path, ME)
            return {"ours": ours, "found": {}}

        monkeypatch.setattr(LockKeeper, "_refresh", refresh)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.keeper.tick()
            self.now += 2.0


HOSTVARS = {"localhost": {"sdai_lock_host": "frontend1"}, "frontend1": {}}


def test_a_pull_of_hours_keeps_the_lock_fresh(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    run(path)
    pull = Waiting(monkeypatch, path, HOSTVARS)
    pull.wait(4 * 3600)
    gaps = [later - earlier for earlier, later in pairwise(pull.refreshed)]
    assert max(gaps) < STALE_SECONDS / 5
    assert min(gaps) >= KEEP_SECONDS


def test_a_refresh_that_does_not_get_through_is_tried_again(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    run(path)
    pull = Waiting(monkeypatch, path, HOSTVARS)
    pull.reachable = False
    pull.wait(600)
    assert pull.refreshed == []
    pull.reachable = True
    pull.wait(STALE_SECONDS - 600)
    assert pull.refreshed


def test_a_pull_stops_when_the_lock_is_lost(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    run(path)
    pull = Waiting(monkeypatch, path, HOSTVARS)
    pull.wait(10)
    take(path, ELSEWHERE, force=True)
    with pytest.raises(AnsibleActionFail, match="no longer holds the lock"):
        pull.wait(KEEP_SECONDS + 10)


@pytest.mark.parametrize("hostvars", [{}, {"localhost": {}}])
def test_who_holds_no_lock_keeps_none(monkeypatch: pytest.MonkeyPatch, path: str, hostvars: dict[str, t.Any]) -> None:
    """As in a check run, and where a playbook of the user's own pulls a model."""
    pull = Waiting(monkeypatch, path, hostvars)
    pull.wait(3600)
    assert pull.refreshed == []
