# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook plan as administrators run it, on declared fleets and, where the system lets us, without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from offline import without_network

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = ROOT / ".venv" / "bin" / "ansible-playbook"
EXAMPLE = ROOT / "inventories" / "example"

CARDS: list[dict[str, t.Any]] = [
    {"name": "NVIDIA GeForce GTX 1080 Ti", "architecture": "sm_61", "vram_mib": 11264, "bandwidth_gbs": 484},
    {"name": "Tesla P40", "architecture": "sm_61", "vram_mib": 24576, "bandwidth_gbs": 347},
    {"name": "NVIDIA GeForce RTX 3090", "architecture": "sm_86", "vram_mib": 24576, "bandwidth_gbs": 936},
    {"name": "Tesla M40", "architecture": "sm_52", "vram_mib": 12288, "bandwidth_gbs": 288},
]
MODELS: list[dict[str, t.Any]] = [
    {"name": "llama3.1:8b", "context": 8192, "parallel": 4, "kv_cache_type": "q8_0", "replicas": {"min": 4, "max": 8}},
    {"name": "gemma3:4b", "context": 8192, "parallel": 2, "replicas": {"min": 4, "max": 6}, "demand": 400},
    {"name": "qwen2.5:14b", "context": 8192, "kv_cache_type": "q8_0", "replicas": {"min": 2, "max": 4}, "priority": 80},
    {
        "name": "llama3.3:70b",
        "context": 4096,
        "kv_cache_type": "q8_0",
        "replicas": {"min": 1, "max": 1},
        "priority": 40,
    },
]


@dataclass(frozen=True)
class Run:
    code: int
    output: str

    @property
    def words(self) -> str:
        """The output without line breaks, as the callback breaks messages where it likes."""
        return " ".join(self.output.split())


def plan(inventory: Path, *arguments: str) -> Run:
    environment = {
        **os.environ,
        "ANSIBLE_HOME": str(ROOT / ".ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_INJECT_FACT_VARS": "false",
    }
    done = subprocess.run(
        [*without_network(), str(PLAYBOOK), "aivailable.sdai.plan", "-i", str(inventory), *arguments],
        cwd=inventory.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return Run(done.returncode, done.stdout)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Forty GPUs on ten nodes that nobody could reach."""
    return write(tmp_path / "lab", nodes(10), {"sdai_models": MODELS, "sdai_plan_seconds": 2})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three nodes, for what does not depend on size."""
    return write(tmp_path / "lab", nodes(3), {"sdai_models": MODELS, "sdai_plan_seconds": 1})


def nodes(count: int) -> dict[str, dict[str, t.Any]]:
    return {
        f"gpu{number}": {
            "ansible_host": "192.0.2.1",
            "sdai_gpus": [
                {
                    "id": f"GPU-{number}-{index}",
                    "index": index,
                    "vendor": "nvidia",
                    "backends": ["cuda_v12", "vulkan"],
                    **CARDS[(number + index // 2) % len(CARDS)],
                }
                for index in range(4)
            ],
        }
        for number in range(1, count + 1)
    }


def write(folder: Path, hosts: dict[str, dict[str, t.Any]], variables: dict[str, t.Any]) -> Path:
    (folder / "group_vars").mkdir(parents=True)
    (folder / "hosts.yml").write_text(yaml.safe_dump({"gpu_nodes": {"hosts": hosts}}))
    (folder / "group_vars" / "all.yml").write_text(yaml.safe_dump(variables))
    return folder


@pytest.mark.skipif(not without_network(), reason="this system lets nobody take the network away (unshare --net)")
def test_forty_gpus_without_any_network(inventory: Path) -> None:
    """Also: the second run leaves plan.json alone, and check mode writes nothing."""
    checked = plan(inventory, "--check", "--diff")
    assert checked.code == 0, checked.output
    assert not (inventory / ".plan").exists()
    first = plan(inventory)
    assert first.code == 0, first.output
    assert re.search(r"on \d+ of 40 usable GPUs in 10 nodes", first.output)
    assert len(re.findall(r"^.{15}\d  \S.* of +\d+\.\d GiB$", first.output, re.M)) == 40
    assert (
        max(len(line) for line in first.output[first.output.index("PLAN ") :].split("Planned in")[0].splitlines())
        <= 100
    )
    document, page = inventory / ".plan" / "plan.json", inventory / ".plan" / "plan.html"
    written = json.loads(document.read_text())
    assert written["status"] in ("optimal", "feasible")
    assert written["unplaced"] == []
    before = [(file.stat().st_mtime_ns, file.stat().st_ino) for file in (document, page)]
    second = plan(inventory)
    assert second.code == 0, second.output
    assert re.search(r"^localhost .*changed=0", second.output, re.M)
    assert [(file.stat().st_mtime_ns, file.stat().st_ino) for file in (document, page)] == before


def test_infeasible_ends_well_with_reasons(small: Path) -> None:
    huge = {"name": "huge:1", "footprint": {"layers": 100, "weights_mib": 300_000, "kv_mib": 0, "compute_mib": 100}}
    arguments = ["-e", json.dumps({"sdai_models": [*MODELS, huge]})]
    run = plan(small, *arguments)
    assert run.code == 0, run.output
    assert "huge:1: 1 replica missing" in run.output
    assert "→" in run.output
    required = plan(small, *arguments, "-e", "sdai_require=feasible")
    assert required.code != 0
    assert "sdai_require=feasible was asked for. huge:1: needs" in required.words


def test_what_if(small: Path) -> None:
    """A difference to today's plan, and no file."""
    question = {"without_nodes": ["gpu2"], "with_gpus": {"gpu1": ["Tesla P40"]}, "replicas": {"llama3.1:8b": 6}}
    run = plan(small, "-e", json.dumps({"sdai_what_if": question}), "--diff")
    assert run.code == 0, run.output
    assert "WHAT IF  without gpu2; with Tesla P40 in gpu1; with llama3.1:8b 6 times" in run.output
    assert re.search(r"^llama3.1:8b +50 +6 +\d", run.output, re.M)
    assert re.search(r"^demand served, weighted \(tokens/s\) +\d+\.\d +\d+\.\d  ", run.output, re.M)
    assert re.search(r"^localhost .*changed=0", run.output, re.M)
    assert not (small / ".plan").exists()


def test_the_example_inventory(tmp_path: Path) -> None:
    """It is what a newcomer runs first: no warning, every kind of card, one model that does not fit.

    What README.md shows of it, line by line with its cuts, is what it prints.
    """
    run = plan(EXAMPLE, "-e", f"sdai_plan_dir={tmp_path}")
    assert run.code == 0, run.output
    assert "WARNING" not in run.output
    assert "our-thesis-model:180b: 1 replica missing" in run.output
    assert run.output.count("Tesla K80 (0000:8") == 2
    assert {replica["model"] for replica in json.loads((tmp_path / "plan.json").read_text())["replicas"]} == {
        "llama3.1:8b", "gemma3:4b", "qwen2.5:14b", "qwen3:30b", "llama3.3:70b",
    }  # fmt: skip
    (shown,) = re.findall(r"^```\n(PLAN .*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    rest = run.output
    for part in shown.split("…\n"):
        _before, found, rest = rest.partition(f"\n{part}")
        assert found, f"{part} is not in the output, or not after what README.md has before it:\n{run.output}"


def test_a_reviewed_plan(small: Path) -> None:
    plan(small)
    reviewed = small.parent / "reviewed.json"
    shutil.copy(small / ".plan" / "plan.json", reviewed)
    same = plan(small, "-e", "sdai_plan_file=reviewed.json")
    assert same.code == 0, same.output
    assert re.search(r"^localhost .*changed=0", same.output, re.M)
    other = plan(small, "-e", "sdai_plan_file=reviewed.json", "-e", json.dumps({"sdai_models": MODELS[:3]}))
    assert other.code != 0
    assert "llama3.3:70b is no longer in sdai_models" in other.words


@pytest.mark.parametrize("limit", ["gpu1", "gpu*:!gpu2", "frontend1"])
def test_limit_is_refused(small: Path, limit: str) -> None:
    (small / "more.yml").write_text(yaml.safe_dump({"frontends": {"hosts": {"frontend1": {}}}}))
    run = plan(small, "--limit", limit)
    assert run.code != 0
    assert f"--limit {limit} is refused: half a fleet" in run.words
    assert "sdai_absent_nodes" in run.words
    assert not (small / ".plan").exists()


def test_a_node_that_does_not_answer(small: Path) -> None:
    """It is refused by name, unless it is away on purpose."""
    hosts = {"gpu_nodes": {"hosts": {"gpu9": {"ansible_host": "192.0.2.1", "ansible_timeout": 1}}}}
    (small / "more.yml").write_text(yaml.safe_dump(hosts))
    run = plan(small)
    assert run.code != 0
    assert "sdai_gpus (host gpu9): no facts of its GPUs" in run.words
    assert "add it to sdai_absent_nodes" in run.words
    assert not (small / ".plan").exists()
    away = plan(small, "-e", '{"sdai_absent_nodes": ["gpu9"]}')
    assert away.code == 0, away.output
