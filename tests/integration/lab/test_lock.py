# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One run at a time changes the fleet."""

from __future__ import annotations

import json
import signal
import subprocess
import typing as t

import pytest
import yaml
from lab_hosts import BIN, INVENTORY, ROOT, Host, playbook, playbook_environment, wait_for

if t.TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "/run/sdai/lock.json"
APPLY = "aivailable.sdai.apply"
# A run that gets past the lock without doing anything: it is refused where the plan is made.
FUTILE = ["-e", "sdai_plan_file=/nowhere/plan.json"]


@pytest.fixture
def keeper(hosts: dict[str, Host]) -> Iterator[Host]:
    """The host that keeps the lock, with no lock before and after."""
    host = hosts["frontend1"]
    host.run(f"rm -f {LOCK}")
    yield host
    host.run(f"rm -f {LOCK}")


def lock_of(host: Host) -> dict[str, t.Any]:
    text = host.run(f"cat {LOCK} 2>/dev/null; true")
    return dict(json.loads(text)) if text else {}


def test_the_second_run_says_who_holds_the_lock_and_a_third_follows_a_killed_one(keeper: Host, tmp_path: Path) -> None:
    said = tmp_path / "first.log"
    with said.open("w") as log:
        first = subprocess.Popen(
            [str(BIN / "ansible-playbook"), APPLY, "-i", str(INVENTORY)],
            cwd=ROOT,
            env=playbook_environment(),
            stdout=log,
            stderr=log,
        )
    try:
        wait_for("the lock, or an end", lambda: lock_of(keeper) or first.poll() is not None, seconds=150, every=0.3)
        assert first.poll() is None, said.read_text()
        # Held up, since a run that changes nothing may be over before those that are refused.
        first.send_signal(signal.SIGSTOP)
        held = lock_of(keeper)
        second = playbook(APPLY)
        assert second.code != 0
        assert f"(pid {first.pid})" in second.output
        assert held["since"] in second.output
        assert "sdai_break_lock=true" in second.output
        assert set(second.changed.values()) <= {0}
        assert lock_of(keeper) == held
        checked = playbook(APPLY, "--check", *FUTILE)
        assert f"(pid {first.pid})" in checked.output
        assert "/nowhere/plan.json" in checked.output
        assert lock_of(keeper) == held
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    assert lock_of(keeper) == held
    third = playbook(APPLY, *FUTILE)
    assert "A dead lock of the fleet was taken over (its process is gone)" in third.output
    assert f"(pid {first.pid})" in third.output
    assert "/nowhere/plan.json" in third.output
    # A refused run keeps nothing.
    assert lock_of(keeper) == {}


def test_a_run_on_another_control_node_counts_until_it_is_silent_for_long(keeper: Host) -> None:
    holder = {
        "user": "bob",
        "host": "elsewhere",
        "machine": "0",
        "boot_id": "0",
        "pid_namespace": "0",
        "pid": 4711,
        "started": "1",
    }
    document = json.dumps({"holder": holder, "since": "2026-01-01 00:00:00 UTC"})
    keeper.run(f"mkdir -p /run/sdai && echo '{document}' > {LOCK}")
    fresh = playbook(APPLY, *FUTILE)
    assert "bob on elsewhere (pid 4711), since 2026-01-01 00:00:00 UTC" in fresh.output
    assert "/nowhere/plan.json" not in fresh.output
    keeper.run(f"touch -d '16 minutes ago' {LOCK}")
    old = playbook(APPLY, *FUTILE)
    assert "A dead lock of the fleet was taken over (not refreshed for 15 minutes)" in old.output
    assert "/nowhere/plan.json" in old.output


def test_a_pull_on_a_node_keeps_the_lock_on_the_frontend(keeper: Host, tmp_path: Path) -> None:
    books = ROOT / "playbooks"
    take = {"ansible.builtin.import_tasks": str(books / "includes/lock_take.yml")}
    age = {"ansible.builtin.command": f"touch -d '14 minutes ago' {LOCK}", "delegate_to": "frontend1"}
    # One that the registry does not have: it is followed all the same.
    model = {"id": "test--1", "name": "nosuch:1b", "registry": "mirror:5000/library", "insecure": True}
    pull = {"aivailable.sdai.ollama_model": model, "ignore_errors": True}
    plays = [
        {"hosts": "localhost", "vars_files": [str(books / "vars/lock.yml")], "tasks": [take]},
        {"hosts": "gpu1", "become": True, "tasks": [age, pull]},
    ]
    play = tmp_path / "pull.yml"
    play.write_text(yaml.safe_dump([{"gather_facts": False, **each} for each in plays]))
    # A host's variables may be made of others: the lab's ansible_host is.
    run = playbook(str(play))
    assert run.code == 0, run.output
    assert "mirror:5000 has no model" in run.output
    assert keeper.run(f"find {LOCK} -mmin -5").strip() == LOCK, run.output
