# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""After a teardown the lab's hosts are what they were before the first run.

The last of the lab's tests, hence its name: it leaves bare hosts behind. The tests in it build on each other.
"""

from __future__ import annotations

import subprocess
import sys
import typing as t

import pytest
from lab_hosts import BIN, ROOT, Host, playbook

sys.path.append(str(ROOT / "tests" / "lab"))
import snapshot

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
    assert leftovers(bare, "frontend1", "gpu1") == {}
    lab("start", "gpu2")
    run = playbook(*REMOVE, "-e", "sdai_purge_models=true", "--limit", "gpu2")
    assert run.code == 0, run.output
    assert leftovers(bare, "gpu2") == {}


def test_a_second_run_changes_nothing():
    run = playbook(*REMOVE, "-e", "sdai_purge_models=true")
    assert run.code == 0, run.output
    assert run.changed == {"frontend1": 0, "gpu1": 0, "gpu2": 0}
