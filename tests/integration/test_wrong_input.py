# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What administrators mistype gives one error with key, host or model, and remedy; nothing is written or contacted.

tests/data/wrong_input.yml has the mistakes. Each is read as the playbooks read it, those with ``playbook`` also by
ansible-playbook. In ``error``, … stands for a list that is too long to be repeated.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import typing as t
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible_collections.aivailable.sdai.plugins.filter.fleet import FilterModule

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = ROOT / ".venv" / "bin" / "ansible-playbook"
CATALOG = yaml.safe_load((ROOT / "playbooks/vars/catalog.yml").read_text())["sdai_catalog"]
inventory_fault = FilterModule().filters()["inventory_fault"]
ROWS: list[dict[str, t.Any]] = yaml.safe_load((ROOT / "tests/data/wrong_input.yml").read_text())
NODES = ["gpu1", "gpu2", "gpu3"]

# gpu3 is asked by ssh, the others are declared. A value that needs its facts cannot be judged before.
RIGHT: dict[str, dict[str, t.Any]] = yaml.safe_load(
    """
    all:
      sdai_models:
        - name: llama3.1:8b
          context: 8192
          parallel: 4
          kv_cache_type: q8_0
          replicas: {min: 1, max: 2}
          priority: 100
          constraints: {}
        - name: mine:7b
          footprint: {layers: 32, weights_mib: 4403, kv_mib: 2176, compute_mib: 248}
    gpu1:
      sdai_gpus:
        - id: GPU-00000000-0000-4000-8000-000000000001
          index: 0
          vendor: nvidia
          name: Tesla P40
          architecture: sm_61
          vram_mib: 24576
          backends: [cuda_v12, vulkan]
    gpu2:
      sdai_gpus:
        - id: "0000:0a:00.0"
          index: 0
          vendor: amd
          name: AMD Radeon RX 580
          architecture: gfx803
          vram_mib: 8192
          backends: [vulkan]
    gpu3:
      ollama_mirror: "http://{{ ansible_facts['domain'] }}/ollama"
    frontend1:
      haproxy_port: "8443"
    """
)


class HostVars(dict[str, dict[str, t.Any]]):
    """As Ansible's: localhost can be asked for, and is not listed."""

    def __iter__(self) -> t.Iterator[str]:
        return (host for host in super().__iter__() if host != "localhost")


@dataclass(frozen=True)
class Run:
    code: int
    output: str
    contacted: bool
    before: dict[Path, bytes]
    after: dict[Path, bytes]

    @property
    def words(self) -> str:
        """The output without line breaks, as the callback breaks messages where it likes."""
        return " ".join(self.output.split())


def mistaken(change: dict[str, t.Any]) -> dict[str, dict[str, t.Any]]:
    """The inventory with these values changed: gpu1.sdai_gpus.0.id, or all.sdai_models.0.name."""
    world = copy.deepcopy(RIGHT)
    for path, value in change.items():
        place: t.Any = world
        *parts, last = (int(part) if part.isdigit() else part for part in path.split("."))
        for part in parts:
            place = place[part]
        if value == "(removed)":
            del place[last]
        elif isinstance(place, list):
            place[last:] = [value]
        else:
            place[last] = value
    return world


def fault(world: dict[str, dict[str, t.Any]]) -> str:
    common = world["all"]
    hosts = {host: {**common, **values} for host, values in world.items() if host != "all"}
    return t.cast("str", inventory_fault(HostVars(hosts, localhost=common), NODES, "gpu_nodes", ["frontend1"], CATALOG))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(folder: Path, world: dict[str, dict[str, t.Any]], playbook: str, *arguments: str) -> Run:
    """ansible-playbook on the inventory, with an older plan beside it and an ssh that tells that it was called."""
    lab, called, ssh = folder / "lab", folder / "called", folder / "ssh"
    (lab / "group_vars").mkdir(parents=True)
    (lab / ".plan").mkdir()
    (lab / ".plan/plan.json").write_text("the plan of yesterday\n")
    ssh.write_text(f"#!/bin/sh\necho contacted >> {called}\nexit 255\n")
    ssh.chmod(0o755)
    groups = {
        "gpu_nodes": {"hosts": {node: world[node] for node in NODES}},
        "frontends": {"hosts": {"frontend1": world["frontend1"]}},
    }
    (lab / "hosts.yml").write_text(yaml.safe_dump(groups))
    (lab / "group_vars/all.yml").write_text(yaml.safe_dump({**world["all"], "ansible_ssh_executable": str(ssh)}))
    before = files(lab)
    inventory = [] if "-i" in arguments else ["-i", str(lab)]
    done = subprocess.run(
        [str(PLAYBOOK), f"aivailable.sdai.{playbook}", *inventory, *arguments],
        cwd=folder,
        env={**os.environ, "ANSIBLE_HOME": str(ROOT / ".ansible"), "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    return Run(done.returncode, done.stdout.replace('\\"', '"'), called.exists(), before, files(lab))


def name_of(row: dict[str, t.Any]) -> str:
    return json.dumps(row["change"], ensure_ascii=False).replace('"', "")


def test_what_is_right_is_not_refused() -> None:
    assert fault(RIGHT) == ""
    assert fault(mistaken({"all.sdai_absent_nodes": ["frontend1", "gpu1"]})) == ""


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_one_error_for_one_mistake(row: dict[str, t.Any]) -> None:
    found, (start, cut, end) = fault(mistaken(row["change"])), row["error"].partition("…")
    assert found.startswith(start) and found.endswith(end) if cut else found == start
    assert "\n" not in found


# What is not a value of the inventory: playbook, arguments, changes, what the error says.
COMMANDS: dict[str, tuple[str, list[str], dict[str, t.Any], list[str]]] = {
    "no such inventory": (
        "plan",
        ["-i", "nowhere"],
        {},
        ["gpu_nodes (all hosts): this inventory group has no hosts.", "see that -i names your inventory"],
    ),
    "no such group": ("apply", ["-e", "sdai_gpu_nodes_group=gpus"], {}, ["gpus (all hosts): this inventory group has"]),
    "no frontends": (
        "apply",
        ["-e", "sdai_frontends_group=doors"],
        {"gpu1.sdai_gpus": "(removed)", "gpu2.sdai_gpus": "(removed)"},
        ["The inventory group doors has no hosts", "Put at least one host into it"],
    ),
    "a chat page without a password": (
        "apply",
        ["-e", "sdai_webui_group=frontends"],
        {"gpu1.sdai_gpus": "(removed)", "gpu2.sdai_gpus": "(removed)"},
        ["open_webui_admin_password is not set for frontend1:", "Set it in group_vars, encrypted with ansible-vault"],
    ),
    "two chat pages": (
        "apply",
        ["-e", "sdai_webui_group=gpu_nodes"],
        {"gpu1.sdai_gpus": "(removed)", "gpu2.sdai_gpus": "(removed)"},
        ["The inventory group gpu_nodes has gpu1, gpu2, gpu3: each would have accounts", "Keep one of them."],
    ),
    "declared GPUs": (
        "apply",
        [],
        {},
        ["sdai_gpus is declared for gpu1, gpu2:", "Remove sdai_gpus there to apply"],
    ),
    "a question that cannot be applied": (
        "site",
        ["-e", "{sdai_what_if: {without_nodes: [gpu2]}}"],
        {"gpu1.sdai_gpus": "(removed)", "gpu2.sdai_gpus": "(removed)"},
        ["sdai_what_if asks what would be planned;", "Run aivailable.sdai.plan to get the answer"],
    ),
    "half a question": (
        "plan",
        ["-e", 'sdai_what_if={"without_nodes": [gpu2]}'],
        {},
        ["sdai_what_if (all hosts): is the text", "On the command line write -e '{sdai_what_if:"],
    ),
    "half a fleet": ("apply", ["--limit", "gpu1"], {}, ["--limit gpu1 is refused:", "Run without --limit"]),
    "an undefined variable": (
        "plan",
        [],
        {"all.sdai_models.0.context": "{{ kontext }}"},
        ["'kontext' is undefined", "group_vars/all.yml", "context: '{{ kontext }}'"],
    ),
    "removal that nobody confirmed": ("teardown", [], {}, ["remove the service from frontend1, gpu1, gpu2, gpu3:"]),
    "a list on the command line": (
        "teardown",
        ["-e", "sdai_teardown=true", "-e", "sdai_absent_nodes=gpu3"],
        {},
        ['sdai_absent_nodes (all hosts): is the text "gpu3", not a list. Write a list of inventory host names.'],
    ),
    "a misspelt confirmation": (
        "teardown",
        ["-e", "sdai_teardwn=true"],
        {},
        ["sdai_teardwn (hosts frontend1, gpu1, gpu2 and 1 more): is not", "Did you mean sdai_teardown?"],
    ),
    "a misspelt confirmation of part": (
        "teardown",
        ["--limit", "gpu1", "-e", "sdai_teardwn=true"],
        {},
        ["sdai_teardwn (hosts frontend1, gpu1, gpu2 and 1 more): is not", "Did you mean sdai_teardown?"],
    ),
}
ABSENT = {"all.sdai_absent_nodes": ["gpu3"]}
# What the planner itself refuses, with gpu3 away on purpose.
PLANS: dict[str, tuple[str, list[str], dict[str, t.Any], list[str]]] = {
    "a plan that is not there": (
        "plan",
        ["-e", "sdai_plan_file=nowhere.json"],
        ABSENT,
        [
            "sdai_plan_file: cannot read",
            "nowhere.json: No such file",
            "Name a plan.json that aivailable.sdai.plan wrote.",
        ],
    ),
    "a question about a reviewed plan": (
        "plan",
        ["-e", "{sdai_what_if: {without_nodes: [gpu2]}}", "-e", "sdai_plan_file=lab/.plan/plan.json"],
        ABSENT,
        ["sdai_what_if (all hosts): asks about a plan that is made, and sdai_plan_file names one that is. Leave out"],
    ),
    "a plan that is none": (
        "plan",
        ["-e", "sdai_plan_file=lab/.plan/plan.json"],
        ABSENT,
        ["sdai_plan_file:", "lab/.plan/plan.json is not JSON", "Make the plan again."],
    ),
    "no folder for the plan": (
        "plan",
        ["-e", "sdai_plan_dir=lab/hosts.yml"],
        ABSENT,
        ["Cannot write the plan to", "lab/hosts.yml/plan.json:", "Name a folder for it with sdai_plan_dir."],
    ),
    "less than was asked for": (
        "plan",
        ["-e", "sdai_require=feasible"],
        {**ABSENT, "all.sdai_models.1.footprint.weights_mib": 90_000},
        ["infeasible, and sdai_require=feasible was asked for. mine:7b: needs"],
    ),
}
BY_PLAYBOOK = [row for row in ROWS if "playbook" in row]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[dict[str, Future[Run]]]:
    """All of them, as many at once as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wanted = {name_of(row): (row["playbook"], [], row["change"]) for row in BY_PLAYBOOK}
        wanted |= {name: row[:3] for name, row in {**COMMANDS, **PLANS, "right": ("plan", [], {}, [])}.items()}
        started = {
            name: pool.submit(run, tmp_path_factory.mktemp("run"), mistaken(change), playbook, *arguments)
            for name, (playbook, arguments, change) in wanted.items()
        }
        yield started
        for future in started.values():
            future.cancel()


def refused(done: Run) -> str:
    """One error, no traceback, nothing written, nobody contacted; what it says."""
    assert done.code != 0
    assert done.output.count("[ERROR]: ") == 1, done.output
    assert done.output.count("fatal: [") == 1, done.output
    assert "Traceback" not in done.output
    assert "changed=0" in done.output
    assert not done.contacted, done.output
    assert done.after == done.before
    return done.words


@pytest.mark.parametrize("row", BY_PLAYBOOK, ids=name_of)
def test_a_playbook_says_the_same(row: dict[str, t.Any], runs: dict[str, Future[Run]]) -> None:
    assert row["error"].partition("…")[0] in refused(runs[name_of(row)].result())


@pytest.mark.parametrize("name", [*COMMANDS, *PLANS])
def test_a_command_that_is_wrong(name: str, runs: dict[str, Future[Run]]) -> None:
    said = refused(runs[name].result())
    for words in {**COMMANDS, **PLANS}[name][3]:
        assert words in said


def test_without_a_mistake_the_node_is_contacted(runs: dict[str, Future[Run]]) -> None:
    """Otherwise the others would prove nothing. It does not answer, which is refused by name; nothing is written."""
    done = runs["right"].result()
    assert done.contacted
    assert "sdai_gpus (host gpu3): no facts of its GPUs" in done.words
    assert "add it to sdai_absent_nodes" in done.words
    assert done.after == done.before
