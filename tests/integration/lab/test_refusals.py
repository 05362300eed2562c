# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What plan, apply and site refuse to do, each with a message that helps."""

from __future__ import annotations

import shutil
import typing as t

import pytest
import yaml
from lab_hosts import INVENTORY, PLAN_FILE, playbook

if t.TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A copy of the lab's inventory beside which a test can put more."""
    copy = tmp_path / "lab"
    shutil.copytree(INVENTORY, copy, ignore=shutil.ignore_patterns(".plan"))
    return copy


def add_node(inventory: Path, name: str, variables: dict[str, t.Any]) -> None:
    hosts = {"gpu_nodes": {"hosts": {name: variables}}}
    (inventory / "more.yml").write_text(yaml.safe_dump(hosts))


@pytest.mark.parametrize("name", ["plan", "apply", "site"])
def test_limit_is_refused(name: str) -> None:
    before = PLAN_FILE.read_bytes()
    run = playbook(f"aivailable.sdai.{name}", "--limit", "gpu1")
    assert run.code != 0
    assert "--limit" in run.output
    assert set(run.changed.values()) <= {0}
    assert PLAN_FILE.read_bytes() == before


@pytest.mark.parametrize("name", ["plan", "site"])
def test_an_unreachable_node_is_refused_by_name(inventory: Path, name: str) -> None:
    add_node(inventory, "gpu9", {"ansible_host": "10.89.77.99", "ansible_ssh_timeout": 2, "ansible_timeout": 2})
    run = playbook(f"aivailable.sdai.{name}", inventory=inventory)
    assert run.code != 0
    assert "gpu9" in run.output
    assert "sdai_absent_nodes" in run.output
    assert set(run.changed.values()) <= {0}
    assert not (inventory / ".plan").exists()


def test_a_node_away_on_purpose_is_planned_without(inventory: Path) -> None:
    add_node(inventory, "gpu9", {"ansible_host": "10.89.77.99"})
    run = playbook("aivailable.sdai.plan", "-e", '{"sdai_absent_nodes": ["gpu9"]}', inventory=inventory)
    assert run.code == 0, run.output


def test_declared_gpus_are_for_planning_only(inventory: Path) -> None:
    card = {
        "id": "GPU-1",
        "index": 0,
        "vendor": "nvidia",
        "name": "Tesla P40",
        "architecture": "sm_61",
        "vram_mib": 24576,
        "vram_foreign_mib": 0,
        "bandwidth_gbs": 347,
        "backends": ["cuda_v12"],
        "usable": True,
    }
    add_node(inventory, "gpu9", {"sdai_gpus": [card]})
    what_if = playbook("aivailable.sdai.plan", inventory=inventory)
    assert what_if.code == 0, what_if.output
    assert "gpu9" in what_if.output
    applied = playbook("aivailable.sdai.apply", inventory=inventory)
    assert applied.code != 0
    assert "gpu9" in applied.output
    assert "sdai_gpus" in applied.output
