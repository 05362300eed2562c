# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A check run says what the real run does, no less and no more.

The first run is compared by molecule's scenario, and a change that was killed on its way by test_waves.py.
"""

from __future__ import annotations

import json
import typing as t

import check_truth as truth
import yaml
from lab_hosts import INVENTORY, PlaybookRun, only_long, playbook

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SERVED = "llama3.2:1b"
CHANGED = "qwen3:8b"


def well(run: PlaybookRun) -> PlaybookRun:
    assert run.code == 0, run.output
    return run


def with_other_models() -> list[str]:
    """Arguments: one model less, and another one with half its context."""
    models = yaml.safe_load((INVENTORY / "group_vars/all/models.yml").read_text())["sdai_models"]
    others = [{**model, "context": 4096} if model["name"] == CHANGED else model for model in models]
    return ["-e", json.dumps({"sdai_models": [model for model in others if model["name"] != SERVED]})]


@only_long
def test_a_change_is_said_as_it_is_done(check: Callable[..., Path]) -> None:
    """A model added, and the context of another one changed; a plan moves what it wants besides."""
    well(playbook("aivailable.sdai.apply", *with_other_models()))
    try:
        before = truth.states()
        results = check("aivailable.sdai.apply")
    finally:
        back = playbook("aivailable.sdai.apply")
    well(back)
    after = truth.states()
    assert truth.compared(results, before, after) == []
    # The sets are not equal because they are empty.
    kinds_and_verbs = {(kind, verb) for host in before for kind, _name, verb in truth.done(before[host], after[host])}
    assert kinds_and_verbs >= {
        ("file", "created"),
        ("file", "changed"),
        ("file", "removed"),
        ("unit", "started"),
        ("unit", "stopped"),
        ("replica", "created"),
        ("replica", "removed"),
        ("server", "created"),
        ("server", "removed"),
    }


@only_long
def test_no_change_is_said_where_none_is_done(check: Callable[..., Path]) -> None:
    """Not a task changes. That the real run does nothing then is seen where a second site is run."""
    before = truth.states()
    results = [json.loads(line) for line in check("aivailable.sdai.site").read_text().splitlines()]
    assert len(results) > 50
    assert [result["task"] for result in results if result["result"].get("changed")] == []
    assert truth.predicted(map(json.dumps, results), before) == {host: set() for host in before}
