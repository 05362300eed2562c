# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After a teardown the lab's hosts are what they were before the first run.

The last of the lab's tests, hence its name: it leaves bare hosts behind. The tests in it build on each other.
"""

from __future__ import annotations

import json
import re
import subprocess
import typing as t
from pathlib import Path

import pytest
import snapshot
import yaml
from lab_changes import kill_at, starts, whole
from lab_hosts import (
    ADDRESSES,
    BIN,
    INVENTORY,
    ROOT,
    Host,
    PlaybookRun,
    Statistics,
    only_long,
    playbook,
    playbook_environment,
    wait_for,
)

STORE = "/var/lib/sdai/store"
CHATS = "/var/lib/sdai/open-webui"
# Where a teardown is killed, one after the other.
TEARDOWN_TASKS = (
    "absent | Stop watches, replicas, store server and firewall",
    "absent | Let systemd forget the units",
    "absent | Stop HAProxy",
    "absent | Remove the packages that the role installed",
)
# Their server looks like one of ours.
THEIRS = (
    "defaults\n mode http\n timeout client 5s\n timeout connect 5s\n timeout server 5s\n"
    "frontend theirs\n bind 127.0.0.1:9999\n monitor-uri /there\n default_backend web\n"
    f"backend web\n server llama3.1-8b--1 {ADDRESSES['gpu1']}:11500 maxconn 4\n"
)
LEFTOVERS = {"ansible.builtin.include_tasks": str(ROOT / "playbooks/includes/leftovers.yml")}
# The nodes of the inventory when gpu2 is none any more.
OTHERS = {name: address for name, address in ADDRESSES.items() if name in ("gpu1", "gpu3")}
# An address of the lab's network that no host has.
NOBODY = "10.89.77.99"
REMOVE = ("aivailable.sdai.teardown", "-e", "sdai_teardown=true")


@pytest.fixture(scope="module")
def bare() -> dict[str, snapshot.Snapshot]:
    """The states of the hosts before the first run, which `lab.py up` keeps when it makes them."""
    kept = {name: snapshot.bare(name) for name in ADDRESSES}
    lacking = [name for name, state in kept.items() if state is None]
    if lacking:
        pytest.skip(f"the first state of {', '.join(lacking)} was not kept: run make lab-down")
    return t.cast(dict[str, snapshot.Snapshot], kept)


def lab(*words: str) -> None:
    subprocess.run([BIN / "python", ROOT / "tests/lab/lab.py", *words], cwd=ROOT, check=True)


def without_models(found: dict[str, dict[str, snapshot.Section]]) -> dict[str, t.Any]:
    """The difference, less the store and the chats that are kept and the way to them."""
    created = found.get("files", {}).get("created", {})
    rest = {path: value for path, value in created.items() if not f"{path}/".startswith((f"{STORE}/", f"{CHATS}/"))}
    rest.pop("/var/lib/sdai", None)
    result: dict[str, t.Any] = {section: parts for section, parts in found.items() if section != "files"}
    files = {part: values for part, values in found.get("files", {}).items() if part != "created"}
    if rest or files:
        result["files"] = {**files, **({"created": rest} if rest else {})}
    return result


def leftovers(bare: dict[str, snapshot.Snapshot], *names: str) -> dict[str, t.Any]:
    return {name: found for name in names if (found := snapshot.difference(bare[name], snapshot.snapshot(name)))}


def lab_groups() -> dict[str, t.Any]:
    groups: dict[str, t.Any] = yaml.safe_load((INVENTORY / "hosts.yml").read_text())["lab"]["children"]
    return groups


def inventory(folder: Path, groups: dict[str, t.Any]) -> Path:
    """The lab's inventory with other groups, two folders deep as the lab's, which finds its keys from there."""
    (folder / ".lab").symlink_to(ROOT / ".lab")
    made = folder / "inventories" / "lab"
    made.mkdir(parents=True)
    (made / "hosts.yml").write_text(yaml.safe_dump({"lab": {"children": groups}}))
    (made / "group_vars").symlink_to(INVENTORY / "group_vars")
    return made


def lost_at(task: str, host: str, *arguments: str) -> PlaybookRun:
    """Runs a teardown and kills a host of the lab when the run shows this task's banner."""
    command = [str(BIN / "ansible-playbook"), *REMOVE, "-i", str(INVENTORY), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=playbook_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        seen = []
        for line in t.cast("t.IO[str]", run.stdout):
            seen.append(line)
            if line.startswith("TASK [") and line.split("]")[0].endswith(task):
                lab("kill", host)
    return PlaybookRun(run.returncode, "".join(seen))


def play(folder: Path, hosts: str, *tasks: dict[str, t.Any], **variables: t.Any) -> PlaybookRun:
    """Runs these tasks on a group of the lab, as apply does."""
    file = folder / "play.yml"
    file.write_text(json.dumps([{"hosts": hosts, "gather_facts": False, "vars": variables, "tasks": tasks}]))
    return playbook(str(file))


def test_replicas_of_a_host_that_left_the_inventory_are_reported(tmp_path: Path, hosts: dict[str, Host]):
    """gpu2 is no node any more; its servers are in the frontend's configuration, and its units still run."""
    run = play(tmp_path, "frontends", LEFTOVERS, __sdai_addresses=OTHERS)
    assert run.code == 0, run.output
    message = run.output.replace("\n", " ")
    theirs = ", ".join(sorted(replica["id"] for replica in hosts["gpu2"].replicas()))
    assert f"frontend1 routes to {theirs} at {ADDRESSES['gpu2']}, which is no host of the inventory" in message
    assert "They still run there" in message
    assert not any(replica["id"] in message for name in OTHERS for replica in hosts[name].replicas())


def test_a_node_that_is_away_on_purpose_is_no_stranger(tmp_path: Path):
    run = play(tmp_path, "frontends", LEFTOVERS, __sdai_addresses=OTHERS, sdai_absent_nodes=["gpu2"])
    assert run.code == 0, run.output
    assert "no host of the inventory" not in run.output


@only_long
def test_a_host_that_left_the_inventory_serves_no_longer(
    tmp_path: Path, hosts: dict[str, Host], gpu_hosts: list[Host], statistics: Statistics
):
    """A real run without gpu2: no frontend routes there any more. Back in the inventory, it is taken as it runs."""
    before = starts(gpu_hosts)
    groups = lab_groups()
    del groups["gpu_nodes"]["hosts"]["gpu2"]
    run = playbook("aivailable.sdai.apply", inventory=inventory(tmp_path, groups))
    assert run.code == 0, run.output
    assert "They still run there" in run.output.replace("\n", " ")
    assert set(statistics.states()) == {replica["id"] for name in OTHERS for replica in hosts[name].replicas()}
    theirs = starts([hosts["gpu2"]])
    assert theirs
    assert theirs == {replica: start for replica, start in before.items() if replica in theirs}
    run = playbook("aivailable.sdai.apply")
    assert run.code == 0, run.output
    whole(gpu_hosts, statistics)


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
    assert "from frontend1, gpu1, gpu2, gpu3, webui1" in run.output
    assert "-e sdai_teardown=true" in run.output


def test_no_node_is_taken_away_under_a_frontend(tmp_path: Path, hosts: dict[str, Host]):
    """Nor under one that does not say where it routes to."""
    replicas = hosts["gpu2"].replicas()
    groups = lab_groups()
    groups["frontends"]["hosts"]["frontend2"] = {"sdai_address": NOBODY}
    run = playbook(*REMOVE, "--limit", "gpu2", inventory=inventory(tmp_path, groups))
    assert run.code != 0
    routed = re.search(r"frontend1 would still route to ([^ ]+(?:, [^ ]+)*)\. ", run.output)
    assert routed, run.output
    assert sorted(routed[1].split(", ")) == sorted(replica["id"] for replica in replicas)
    assert "Whether frontend2 would still route here cannot be read" in run.output
    assert "frontend2 would still route to" not in run.output
    assert all(hosts["gpu2"].state(replica["unit"]) == "active" for replica in replicas)
    assert hosts["frontend1"].run("ls /run/sdai/lock.json 2>/dev/null; true") == "", "the lock was not given back"


def test_only_models_and_chats_are_left(
    bare: dict[str, snapshot.Snapshot], hosts: dict[str, Host], gpu_hosts: list[Host]
):
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
    assert f"webui1 keeps the accounts and chats of its users in {CHATS}: " in run.output
    assert hosts["webui1"].run(f"find {CHATS} ! -user root").split() == []


@only_long
def test_a_kept_store_is_used_again_and_a_killed_teardown_is_ended(
    bare: dict[str, snapshot.Snapshot], gpu_hosts: list[Host], statistics: Statistics
):
    """Nothing is downloaded twice; and wherever a teardown ended, the next one goes on."""
    inodes = "find /var/lib/sdai/store/blobs -type f -printf '%f %i\\n' | sort"
    kept = {host.name: set(host.run(inodes).splitlines()) for host in gpu_hosts}
    run = playbook("aivailable.sdai.site")
    assert run.code == 0, run.output
    whole(gpu_hosts, statistics)
    for host in gpu_hosts:
        assert kept[host.name] <= set(host.run(inodes).splitlines()), f"{host.name} fetched a model again"
    for task in TEARDOWN_TASKS:
        kill_at(task, list(REMOVE[1:]), name=REMOVE[0])
    run = playbook(*REMOVE)
    assert run.code == 0, run.output
    assert {name: rest for name, found in leftovers(bare, *bare).items() if (rest := without_models(found))} == {}


@only_long
def test_a_node_that_is_away_is_reported_and_removed_later(hosts: dict[str, Host], bare: dict[str, snapshot.Snapshot]):
    """It is lost on the way, and still away at the next run."""
    run = lost_at("absent | Remove the models", "gpu2", "-e", "sdai_purge_models=true")
    assert run.code != 0
    assert "gpu2 is not clean: it was lost on the way." in run.output
    assert "--limit gpu2" in run.output
    assert "gpu1 is clean" in run.output
    # Run again it finds nothing but what it now was asked for: the models, and with them the directory.
    assert (run.changed["frontend1"], run.changed["gpu1"]) == (0, 2)
    assert leftovers(bare, "frontend1", *OTHERS) == {}
    run = playbook(*REMOVE, "-e", "sdai_purge_models=true", "--limit", "gpu2")
    assert run.code != 0
    assert "gpu2 does not answer: nothing was removed there" in run.output
    assert hosts["frontend1"].run("ls -d /run/sdai 2>/dev/null; true") == "", "the lock was not given back"
    lab("start", "gpu2")
    run = playbook(*REMOVE, "-e", "sdai_purge_models=true", "--limit", "gpu2")
    assert run.code == 0, run.output
    assert leftovers(bare, "gpu2") == {}


@only_long
def test_a_haproxy_that_was_there_before_runs_as_before(
    tmp_path: Path, hosts: dict[str, Host], bare: dict[str, snapshot.Snapshot]
):
    """Its configuration, its state and its package are somebody else's."""
    frontend = hosts["frontend1"]
    frontend.run("DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends haproxy")
    try:
        frontend.run(f"printf '{THEIRS}' > /etc/haproxy/haproxy.cfg && systemctl restart haproxy")
        before = snapshot.snapshot("frontend1")
        role = {"name": "aivailable.sdai.haproxy"}
        run = play(tmp_path, "frontends", {"ansible.builtin.include_role": role}, haproxy_models=[])
        assert run.code == 0, run.output
        asked = "curl -s -m 2 -o /dev/null -w '%{http_code}' http://127.0.0.1:9999/there; true"
        assert frontend.run(asked) == "000"
        run = play(tmp_path, "frontends", {"ansible.builtin.include_role": {**role, "tasks_from": "absent"}})
        assert run.code == 0, run.output
        wait_for("their frontend", lambda: frontend.run(asked) == "200", seconds=10, every=0.5)
        # Their server is none of ours: neither is it reported, nor does a teardown stop what is not its own.
        run = play(tmp_path, "frontends", LEFTOVERS, __sdai_addresses={})
        assert run.code == 0, run.output
        assert "llama3.1-8b--1" not in run.output
        process = frontend.run("systemctl show -p InvocationID,MainPID haproxy.service")
        run = playbook(*REMOVE)
        assert run.code == 0, run.output
        assert frontend.run(asked) == "200"
        assert frontend.run("systemctl show -p InvocationID,MainPID haproxy.service") == process
        assert snapshot.difference(before, snapshot.snapshot("frontend1")) == {}
    finally:
        frontend.run("apt-get purge --yes --autoremove haproxy; rm -rf /etc/haproxy /var/lib/haproxy /run/haproxy")
    assert leftovers(bare, "frontend1") == {}
