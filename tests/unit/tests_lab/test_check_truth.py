# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the words of a check run and the states of hosts are brought to one grain, and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import check_truth as truth
import pytest
from _check_results import said

ROOT = Path(__file__).resolve().parents[3]
UNIT = "sdai-ollama@a--1.service"
ACTIVE = {"ActiveState": "active", "UnitFileState": "enabled"}
INACTIVE = {"ActiveState": "inactive", "UnitFileState": "disabled"}


def line(action: str, arguments: dict[str, t.Any], *, changed: bool = True, **result: t.Any) -> str:
    return json.dumps(
        {
            "host": "gpu1",
            "task": "a task",
            "action": f"ansible.builtin.{action}",
            "item": None,
            "arguments": arguments,
            "result": {"changed": changed, **result},
        }
    )


def systemd(status: dict[str, str] | None, **arguments: t.Any) -> str:
    return line("systemd_service", {"name": UNIT, **arguments}, **({"status": status} if status else {}))


def host(files: t.Iterable[str] = (), *, running: t.Iterable[str] = (), **more: t.Any) -> truth.HostState:
    snapshot = {
        "files": {path: {"type": "file"} for path in files},
        "running_units": dict.fromkeys(running, "active (running)"),
        "packages": {},
    }
    return truth.HostState(
        {**snapshot, **more.get("sections", {})},
        frozenset(more.get("owned", ())),
        more.get("invocations", {}),
        more.get("servers", {}),
    )


@pytest.mark.parametrize(
    ("words", "verbs"),
    [
        pytest.param([systemd(None, enabled=True, state="started")], {"enabled", "started"}, id="not there yet"),
        pytest.param([systemd(INACTIVE, state="started")], {"started"}, id="start"),
        pytest.param([systemd(ACTIVE, state="started", enabled=True)], set(), id="as it is"),
        pytest.param([systemd(ACTIVE, state="stopped", enabled=False)], {"stopped", "disabled"}, id="retire"),
        pytest.param([systemd(ACTIVE, state="stopped"), systemd(ACTIVE, state="started")], {"restarted"}, id="both"),
        pytest.param([systemd(ACTIVE, state="restarted")], {"restarted"}, id="restart"),
        pytest.param([systemd(INACTIVE, state="restarted")], {"started"}, id="restart of what does not run"),
        pytest.param(
            [systemd(None, state="started"), systemd(None, state="restarted")], {"started"}, id="and a handler"
        ),
        pytest.param([systemd(ACTIVE, state="reloaded")], set(), id="reload"),
    ],
)
def test_all_words_on_a_unit_are_one(words: list[str], verbs: set[str]) -> None:
    assert said(words, {"gpu1"})["gpu1"].units == {(UNIT, verb) for verb in verbs}


def test_the_last_word_on_a_file_counts() -> None:
    """As where a wave routes and a later one routes back: each is compared with the file as it is."""
    there = line("template", {"dest": "/etc/a"})
    assert truth.predicted([there], {"gpu1": host()}) == {"gpu1": {("file", "/etc/a", "created")}}
    assert truth.predicted([there], {"gpu1": host(["/etc/a"])}) == {"gpu1": {("file", "/etc/a", "changed")}}
    back = line("template", {"dest": "/etc/a"}, changed=False)
    assert truth.predicted([there, back], {"gpu1": host(["/etc/a"])}) == {"gpu1": set()}


def test_a_change_of_an_unknown_kind_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="what does lineinfile change"):
        said([line("lineinfile", {"path": "/etc/a"})], {"gpu1"})


def test_a_pull_is_said_as_it_is_done() -> None:
    words = line(
        "ollama_model", {"id": "a--1"}, done=["pull a:1b", "create sdai/a--1:v1", "write the manifest of a:1b"]
    )
    store, private = "/var/lib/sdai/store", "/var/lib/sdai/replicas/a--1"
    after = host(
        [
            store,
            f"{store}/blobs",
            f"{store}/blobs/sha256-1",
            f"{store}/manifests",
            f"{store}/manifests/registry.ollama.ai/library/a/1b",
            f"{store}/manifests/registry.ollama.ai/sdai/a--1/v1",
            private,
            f"{private}/models",
            f"{private}/models/blobs",
            f"{private}/models/manifests/registry.ollama.ai/library/a",
            f"{private}/models/manifests/registry.ollama.ai/library/a/1b",
        ]
    )
    before = host([store])
    expected = truth.predicted([words], {"gpu1": before})["gpu1"]
    assert ("file", f"{private}/models/manifests/registry.ollama.ai/library/a/1b", "created") in expected
    assert len(expected) == 4
    assert truth.done(before, after) == expected


def test_what_goes_with_its_directory_is_one_removal() -> None:
    private, side = "/var/lib/sdai/replicas/a--1", "/var/lib/sdai/store/manifests/registry.ollama.ai/sdai/a--1"
    drop_in = "/etc/systemd/system/sdai-ollama@a--1.service.d"
    before = host(
        [drop_in, f"{drop_in}/10-sdai.conf", side, f"{side}/v1", private, f"{private}/models/manifests/h/n/a/1b"]
    )
    words = [
        line("file", {"path": drop_in, "state": "absent"}),
        line("ollama_model", {"id": "a--1"}, done=[f"removed {private}", "removed sdai/a--1:v1"]),
    ]
    expected = {("file", path, "removed") for path in (drop_in, private, f"{side}/v1")}
    assert truth.done(before, host()) == expected
    assert truth.predicted(words, {"gpu1": before}) == {"gpu1": expected}


def test_packages_are_said_with_their_record() -> None:
    record = "/var/lib/sdai/packages.json"
    words = [line("packages", {"state": "present", "record": record, "name": ["zstd", "nftables"]}, installed=["zstd"])]
    of_packages = {("package", "zstd", "created"), ("file", record, "created")}
    assert truth.predicted(words, {"gpu1": host(["/var/lib/sdai"])}) == {"gpu1": of_packages}
    with_folder = {*of_packages, ("file", "/var/lib/sdai", "created")}
    assert truth.predicted(words, {"gpu1": host()}) == {"gpu1": with_folder}


def test_what_packages_bring_is_theirs() -> None:
    after = host(
        ["/etc/haproxy", "/etc/haproxy/haproxy.cfg", "/etc/haproxy/sdai", "/usr/sbin/haproxy", "/usr/local/bin/x"],
        owned=["/etc/haproxy", "/etc/haproxy/haproxy.cfg"],
        sections={
            "packages": {"haproxy": {"mark": "manual", "version": "2"}, "liblua": {"mark": "auto", "version": "5"}}
        },
    )
    assert truth.done(host(), after) == {
        ("package", "haproxy", "created"),
        ("file", "/etc/haproxy/sdai", "created"),
        ("file", "/usr/local/bin/x", "created"),
    }


def test_replicas_and_units_are_seen_by_what_runs() -> None:
    description, companion = "/etc/sdai/replicas/a--1.json", "sdai-ollama-watch@a--1.timer"
    wants = f"/etc/systemd/system/multi-user.target.wants/{UNIT}"
    gone, there = host(), host([description, wants], running=[UNIT, companion], invocations={UNIT: "1"})
    again = host([description, wants], running=[UNIT, companion], invocations={UNIT: "2"})
    assert truth.done(gone, there) == {
        ("file", description, "created"),
        ("replica", "a--1", "created"),
        ("unit", UNIT, "started"),
        ("unit", UNIT, "enabled"),
    }
    assert truth.done(there, again) == {("replica", "a--1", "changed"), ("unit", UNIT, "restarted")}
    assert ("replica", "a--1", "removed") in truth.done(there, gone)
    assert truth.done(there, there) == set()


def test_servers_are_those_of_the_configuration() -> None:
    configuration = "backend a:1b\n    balance leastconn\n    server a--1 10.0.0.1:11500 maxconn 4 tcp-ut 3s\n"
    words = line("template", {"dest": "/etc/haproxy/haproxy.cfg"}, diff=[{"before": "", "after": configuration}])
    page = "# pxname,svname,slim,addr\na:1b,a--1,4,10.0.0.1:11500\na:1b,BACKEND,,\nold,old--1,4,10.0.0.2:11500\n"
    before = host(["/etc/haproxy/haproxy.cfg"], servers=truth.servers(page))
    assert truth.predicted([words], {"gpu1": before})["gpu1"] == {
        ("file", "/etc/haproxy/haproxy.cfg", "changed"),
        ("server", "old/old--1 10.0.0.2:11500 maxconn 4", "removed"),
    }


def test_differences_are_named(tmp_path: Path) -> None:
    results = tmp_path / "check.jsonl"
    results.write_text(line("copy", {"dest": "/etc/said"}) + "\n")
    assert truth.compared(results, {"gpu1": host()}, {"gpu1": host(["/etc/done"])}) == [
        "gpu1: said, but not done: file /etc/said created",
        "gpu1: done, but not said: file /etc/done created",
    ]


def test_the_callback_keeps_check_runs_only_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / "secret.j2").write_text("PASSWORD={{ 'hunter' ~ 2 }}\n")
    (tmp_path / "play.yml").write_text(
        """
- hosts: localhost
  gather_facts: false
  vars: {folder: "{{ playbook_dir }}"}
  tasks:
    - ansible.builtin.template: {src: secret.j2, dest: "{{ folder }}/secret", mode: "0600"}
      no_log: true
    - ansible.builtin.file: {path: "{{ folder }}/{{ item }}", state: directory, mode: "0700"}
      loop: [a, b]
"""
    )
    results = tmp_path / "kept" / "check.jsonl"
    environment = {
        **os.environ,
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/lab/callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "sdai_results",
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "SDAI_RESULTS": str(results),
    }

    def play(*words: str) -> None:
        command = [str(Path(sys.executable).with_name("ansible-playbook")), str(tmp_path / "play.yml"), *words]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)

    play("--check", "--diff")
    text = results.read_text()
    kept = [json.loads(each) for each in text.splitlines()]
    assert [each["arguments"].get("dest") or each["arguments"]["path"] for each in kept] == [
        f"{tmp_path}/{name}" for name in ("secret", "a", "b")
    ]
    assert all(each["result"]["changed"] for each in kept)
    assert "hunter2" not in text
    play()
    assert results.read_text() == text
