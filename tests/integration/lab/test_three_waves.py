# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Three models move around, each to the place of the next: three waves, also where the run is killed on its way."""

from __future__ import annotations

import json
import typing as t

import pytest
from lab_changes import Models, kill_at, whole
from lab_clients import Clients
from lab_hosts import PLAN_FILE, Host, Statistics, only_long, playbook

pytestmark = only_long

SMALL = "gpu1/GPU-1b06a1de-0001-4a11-8c01-000000000001"
LARGE = "gpu1/GPU-1b38a1de-0002-4a11-8c01-000000000002"
OTHER = "gpu2/GPU-7900a1de00000003"
# SMALL holds one of these models, LARGE and OTHER three each, one place is free: each move waits for the one before.
HERE = {"a": SMALL, "b": LARGE, "c": LARGE, "d": LARGE, "e": OTHER, "f": OTHER}
THERE = {**HERE, "b": OTHER, "a": LARGE, "e": SMALL}
# By the banners of their tasks, and at which appearance: what stays is described first, before all waves.
STEPS = {
    "replicas | Describe each to its node": 2,
    "start | Start them": 1,
    "start | Wait until each has proved itself": 1,
    "Route to them": 1,
    "Route away from them": 1,
    "Let running answers end": 1,
    "retire | Remove its settings": 1,
}
# Of what is retired down to its view nothing is left for the waves of the next run, which goes on with the next one.
LAST_STEP = "retire | Remove its view of the model"
WAVES = 3


def pinned(places: dict[str, str]) -> Models:
    return [
        {
            "name": f"{letter}:8b",
            "source": "llama3.1:8b",
            "context": 8192,
            "parallel": 4,
            "kv_cache_type": "q8_0",
            "replicas": {"min": 1, "max": 1},
            "constraints": {"gpus": [place]},
        }
        for letter, place in places.items()
    ]


def places() -> dict[str, str]:
    replicas = json.loads(PLAN_FILE.read_text())["replicas"]
    return {replica["model"].split(":")[0]: f"{replica['node']}/{replica['gpus'][0]['id']}" for replica in replicas}


@pytest.fixture(scope="module", autouse=True)
def full_lab(catalog: t.Callable[[Models], list[str]]) -> t.Iterator[None]:
    """The six models in their first places; the inventory's own catalog again when the module is done."""
    run = playbook("aivailable.sdai.apply", *catalog(pinned(HERE)))
    assert run.code == 0, run.output
    yield
    run = playbook("aivailable.sdai.apply")
    assert run.code == 0, run.output


def test_three_waves_undisturbed(
    gpu_hosts: list[Host], statistics: Statistics, catalog: t.Callable[[Models], list[str]]
) -> None:
    """Nothing is broken on the way: each model answers all the time."""
    with Clients(f"{letter}:8b" for letter in HERE) as clients:
        run = playbook("aivailable.sdai.apply", *catalog(pinned(THERE)))
    assert run.code == 0, run.output
    assert "Begin wave 3 of 3" in run.output
    assert "GAP" not in run.output
    assert clients.faults == []
    assert places() == THERE
    whole(gpu_hosts, statistics)


@pytest.mark.timeout(3600)
def test_killed_at_each_step_of_each_wave(
    gpu_hosts: list[Host], statistics: Statistics, catalog: t.Callable[[Models], list[str]]
) -> None:
    """Each run goes on from where the one before was killed, and is killed one step later; the last may end.

    Each step but the last one on the way from here to there, or from there to here; the last one on the way back.
    """
    first, second = (HERE, THERE) if places() == THERE else (THERE, HERE)
    steps = list(STEPS.items())
    for target, kills in ((first, WAVES * steps), (second, WAVES * [(LAST_STEP, 1)])):
        with Clients(f"{letter}:8b" for letter in HERE) as clients:
            for step, appearance in kills:
                kill_at(step, catalog(pinned(target)), time=appearance)
                assert clients.faults == [], f"after a run that was killed at: {step}"
            run = playbook("aivailable.sdai.apply", *catalog(pinned(target)))
        assert run.code == 0, run.output
        assert "GAP" not in run.output
        assert clients.faults == []
        assert places() == target
        whole(gpu_hosts, statistics)
