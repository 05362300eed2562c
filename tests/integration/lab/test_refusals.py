# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What plan, apply and site refuse to do, each with a message that helps."""

from __future__ import annotations

import typing as t

import pytest
import yaml
from lab_hosts import PLAN_FILE, playbook

if t.TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def more(tmp_path: Path) -> t.Callable[..., list[str]]:
    """Arguments that add a node to the lab's inventory and keep its plan out of the lab's folder."""

    def arguments(name: str, variables: dict[str, t.Any]) -> list[str]:
        file = tmp_path / "more.yml"
        file.write_text(yaml.safe_dump({"gpu_nodes": {"hosts": {name: variables}}}))
        return ["-i", str(file), "-e", f"sdai_plan_dir={tmp_path / 'plan'}"]

    return arguments


@pytest.mark.parametrize("name", ["plan", "apply", "site"])
def test_limit_is_refused(name: str) -> None:
    before = PLAN_FILE.read_bytes()
    run = playbook(f"aivailable.sdai.{name}", "--limit", "gpu1")
    assert run.code != 0
    assert "--limit" in run.output
    assert set(run.changed.values()) <= {0}
    assert PLAN_FILE.read_bytes() == before


@pytest.mark.parametrize("name", ["plan", "site"])
def test_an_unreachable_node_is_refused_by_name(more: t.Callable[..., list[str]], tmp_path: Path, name: str) -> None:
    run = playbook(f"aivailable.sdai.{name}", *more("gpu9", {"ansible_host": "10.89.77.99", "ansible_timeout": 2}))
    assert run.code != 0
    assert "gpu9" in run.output
    assert "sdai_absent_nodes" in run.output
    assert set(run.changed.values()) <= {0}
    assert not (tmp_path / "plan").exists()


def test_a_node_away_on_purpose_is_planned_without(more: t.Callable[..., list[str]]) -> None:
    arguments = more("gpu9", {"ansible_host": "10.89.77.99"})
    run = playbook("aivailable.sdai.plan", *arguments, "-e", '{"sdai_absent_nodes": ["gpu9"]}')
    assert run.code == 0, run.output


def test_declared_gpus_are_for_planning_only(more: t.Callable[..., list[str]]) -> None:
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
    arguments = more("gpu9", {"sdai_address": "10.89.77.99", "sdai_gpus": [card]})
    what_if = playbook("aivailable.sdai.plan", *arguments)
    assert what_if.code == 0, what_if.output
    assert "gpu9" in what_if.output
    applied = playbook("aivailable.sdai.apply", *arguments)
    assert applied.code != 0
    assert "gpu9" in applied.output
    assert "sdai_gpus" in applied.output
