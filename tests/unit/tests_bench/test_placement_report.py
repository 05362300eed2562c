# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the placement benchmark prints, from runs on the smallest fleet."""

from __future__ import annotations

import json
import typing as t
from pathlib import Path
from xml.etree import ElementTree

import pytest
from _compare import never_worse
from _figure import figure
from _goals import goals
from _runs import Job, Result, run
from _tables import markdown, write_docs

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def done() -> dict[Job, Result]:
    """Runs as they come back from their processes, shown as those of a fleet that the figure has."""
    jobs = [Job(kind, 8, 10, 0.9, 1, 1) for kind in ("plan", "loss", "repeat")] + [Job("others", 8, 10, 0.9, 1)]
    return {Job(job.kind, 40, 20, 0.9, 1, job.seconds): json.loads(json.dumps(run(job))) for job in jobs}


def test_every_run_has_its_table(done: dict[Job, Result]) -> None:
    text = markdown(done)
    for title in ("### Goals", "### Plans", "### All policies", "### After the loss of a node"):
        assert title in text
    for policy in ("first fit", "k8s spread", "GPUStack", "Ollama", "**sdai**"):
        assert f"\n| {policy}" in text


@pytest.mark.parametrize(
    ("times", "measured", "met"),
    [
        ([0.2, 0.4, None], "0.4 s; proved 2 of 3", True),
        ([0.2, 1.4, 0.3], "0.3 s; proved 3 of 3", True),
        ([0.2, None, None], "never; proved 1 of 3", False),
    ],
)
def test_a_proof_that_is_missing_took_forever(times: list[float | None], measured: str, met: bool) -> None:
    """The median decides."""
    runs = {
        Job("plan", 8, 10, 0.9, seed, 10): {"objectives": [{"proved": time is not None}], "cpu": time or 9, "wall": 9}
        for seed, time in enumerate(times)
    }
    (row,) = [goal for goal in goals(t.cast("dict[Job, Result]", runs)) if goal[0] == "8/10"]
    assert row[2:] == (measured, met)


def test_what_was_not_run_is_not_in_the_tables() -> None:
    assert markdown({}) == ""


def test_the_figure_is_an_svg_with_a_bar_for_every_policy(done: dict[Job, Result]) -> None:
    drawing = ElementTree.fromstring(figure(done))
    bars = [element.get("class") for element in drawing.iter("{http://www.w3.org/2000/svg}rect")]
    assert (bars.count("open"), bars.count("other"), bars.count("own")) == (8, 7, 1)


def test_tables_and_figure_replace_those_of_the_page(done: dict[Job, Result], tmp_path: Path) -> None:
    page = tmp_path / "placement.md"
    page.write_text((DOCS / "placement.md").read_text())
    write_docs(done, tmp_path)
    once = page.read_text()
    write_docs(done, tmp_path)
    assert page.read_text() == once
    assert once.count("### Plans") == 1
    assert once.endswith((DOCS / "placement.md").read_text()[-100:])
    assert (tmp_path / "placement.svg").exists()


BASE: Result = {
    "unmet": [0, 1],
    "weak": 3,
    "strong": {"value": 2, "of": 4},
    "served": 10.0,
    "objectives": [{"name": "strong_n1"}, {"name": "served", "bound": 10_000}],
}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, True),
        ({"unmet": [1, 0]}, True),
        ({"unmet": [0, 0]}, False),
        ({"unmet": [0, 2], "served": 99.0}, True),
        ({"weak": 4, "served": 1.0}, False),
        ({"weak": 2, "served": 99.0}, True),
        ({"strong": {"value": 3, "of": 4}}, False),
        ({"strong": {"value": 3, "of": 4}, "served": 9.0}, True),
        ({"strong": {"value": 1, "of": 4}, "served": 99.0}, True),
        ({"served": 10.1}, False),
    ],
)
def test_the_first_objective_that_differs_decides(other: dict[str, t.Any], expected: bool) -> None:
    assert never_worse(BASE, BASE | other) is expected


def test_strong_survival_does_not_count_where_the_engine_does_not_pursue_it() -> None:
    ours = BASE | {"objectives": [{"name": "served", "bound": 10_000}]}
    assert never_worse(ours, BASE | {"strong": {"value": 3, "of": 4}})
