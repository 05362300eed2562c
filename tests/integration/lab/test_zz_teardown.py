# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After a teardown the lab's hosts are what they were before the first run.

The last of the lab's tests, hence its name: it leaves bare hosts behind. The tests in it build on each other.
"""

from __future__ import annotations

import json
import subprocess
import typing as t
from pathlib import Path

import pytest
import snapshot
from lab_hosts import ADDRESSES, BIN, ROOT, Host, PlaybookRun, only_long, playbook

pytestmark = only_long

STORE = "/var/lib/sdai/store"
REMOVE = ("aivailable.sdai.teardown", "-e", "sdai_teardown=true")


@pytest.fixture(scope="module")
def bare() -> dict[str, snapshot.Snapshot]:
    """The states of the hosts before the first run, which `lab.py up` keeps when it makes them."""
    kept = {name: snapshot.bare(name) for name in ("frontend1", "gpu1", "gpu2")}
    lacking = [name for name, state in kept.items() if state is None]
    if lacking:
        pytest.skip(f"the first state of {', '.join(lacking)} was not kept: run make lab-down")
    return t.cast(dict[str, snapshot.Snapshot], kept)


def lab(*words: str) -> None:
    subprocess.run([BIN / "python", ROOT / "tests/lab/lab.py", *words], cwd=ROOT, check=True)


def without_models(found: dict[str, dict[str, snapshot.Section]]) -> dict[str, t.Any]:
    """The difference, less the store that is kept and the way to it."""
    created = found.get("files", {}).get("created", {})
    rest = {path: value for path, value in created.items() if not f"{path}/".startswith(f"{STORE}/")}
    rest.pop("/var/lib/sdai", None)
    result: dict[str, t.Any] = {section: parts for section, parts in found.items() if section != "files"}
    files = {part: values for part, values in found.get("files", {}).items() if part != "created"}
    if rest or files:
        result["files"] = {**files, **({"created": rest} if rest else {})}
    return result


def leftovers(bare: dict[str, snapshot.Snapshot], *names: str) -> dict[str, t.Any]:
    return {name: found for name in names if (found := snapshot.difference(bare[name], snapshot.snapshot(name)))}


def play(folder: Path, hosts: str, *tasks: dict[str, t.Any], **variables: t.Any) -> PlaybookRun:
    """Runs these tasks on a group of the lab, as apply does."""
    file = folder / "play.yml"
    file.write_text(json.dumps([{"hosts": hosts, "gather_facts": False, "vars": variables, "tasks": tasks}]))
    return playbook(str(file))


def test_replicas_of_a_host_that_left_the_inventory_are_reported(tmp_path: Path, hosts: dict[str, Host]):
    """gpu2 is no node any more; its servers are in the frontend's configuration, and its units still run."""
    include = {"ansible.builtin.include_tasks": str(ROOT / "playbooks/includes/leftovers.yml")}
    run = play(tmp_path, "frontends", include, __sdai_addresses={"gpu1": ADDRESSES["gpu1"]})
    assert run.code == 0, run.output
    message = run.output.replace("\n", " ")
    theirs = ", ".join(sorted(replica["id"] for replica in hosts["gpu2"].replicas()))
    assert f"frontend1 routes to {theirs} at {ADDRESSES['gpu2']}, which is no host of the inventory" in message
    assert "They still run there" in message
    assert not any(replica["id"] in message for replica in hosts["gpu1"].replicas())


def test_a_node_that_is_away_on_purpose_is_no_stranger(tmp_path: Path):
    include = {"ansible.builtin.include_tasks": str(ROOT / "playbooks/includes/leftovers.yml")}
    run = play(tmp_path, "frontends", include, __sdai_addresses={"gpu1": ADDRESSES["gpu1"]}, sdai_absent_nodes=["gpu2"])
    assert run.code == 0, run.output
    assert "no host of the inventory" not in run.output


def test_units_that_nothing_describes_are_removed(tmp_path: Path, hosts: dict[str, Host]):
    """As somebody leaves them who deletes files by hand."""
    gpu1 = hosts["gpu1"]
    known = {replica["id"] for replica in gpu1.replicas()}
    stray = "/etc/systemd/system/multi-user.target.wants/sdai-ollama@old--1.service"
    gpu1.run(f"ln -s /etc/systemd/system/sdai-ollama@.service {stray}")
    include = {"ansible.builtin.include_role": {"name": "aivailable.sdai.ollama", "tasks_from": "strays"}}
    run = play(tmp_path, "gpu1", include)
    assert run.code == 0, run.output
    assert f"they are stopped and removed: {stray}" in run.output
    assert gpu1.run(f"test -L {stray} && echo there; true") == ""
    assert {replica["id"] for replica in gpu1.replicas()} == known
    assert all(gpu1.state(replica["unit"]) == "active" for replica in gpu1.replicas())


def test_it_wants_to_be_asked_for():
    run = playbook("aivailable.sdai.teardown")
    assert run.code != 0
    assert "from frontend1, gpu1, gpu2" in run.output
    assert "-e sdai_teardown=true" in run.output


def test_no_node_is_taken_away_under_a_frontend(hosts: dict[str, Host]):
    replicas = hosts["gpu2"].replicas()
    run = playbook(*REMOVE, "--limit", "gpu2")
    assert run.code != 0
    assert "frontend1 would still route to" in run.output
    assert all(replica["id"] in run.output for replica in replicas)
    assert all(hosts["gpu2"].state(replica["unit"]) == "active" for replica in replicas)


def test_only_the_models_are_left(bare: dict[str, snapshot.Snapshot], gpu_hosts: list[Host]):
    blobs = {host.name: host.run(f"ls {STORE}/blobs").split() for host in gpu_hosts}
    run = playbook(*REMOVE)
    assert run.code == 0, run.output
    found = leftovers(bare, *bare)
    assert {name: rest for name in found if (rest := without_models(found[name]))} == {}
    for host in gpu_hosts:
        assert host.run(f"ls {STORE}/blobs").split() == blobs[host.name]
        assert f"{host.name} keeps its models in {STORE}: " in run.output
        assert host.run(f"find {STORE} ! -user root").split() == []
        assert host.run("find /var/log/journal /run/log/journal -name '*.sdai' 2>/dev/null; true") == ""


def test_a_node_that_is_away_is_reported_and_removed_later(bare: dict[str, snapshot.Snapshot]):
    lab("kill", "gpu2")
    run = playbook(*REMOVE, "-e", "sdai_purge_models=true")
    assert run.code != 0
    assert "gpu2 does not answer: nothing was removed there" in run.output
    # Run again it finds nothing but what it now was asked for: the models, and with them the directory.
    assert (run.changed["frontend1"], run.changed["gpu1"]) == (0, 2)
    assert leftovers(bare, "frontend1", "gpu1") == {}
    lab("start", "gpu2")
    run = playbook(*REMOVE, "-e", "sdai_purge_models=true", "--limit", "gpu2")
    assert run.code == 0, run.output
    assert leftovers(bare, "gpu2") == {}
