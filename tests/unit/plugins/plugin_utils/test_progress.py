# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The solver's progress as lines: seldom enough to be read, and nothing of what is quick."""

from __future__ import annotations

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._progress import Progress, progress_line


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            ("unmet_minimum", 3, 1, 100),
            "minimum replicas that found no place, priority 100: 3, at least 1 replicas possible, gap 200.0 %",
        ),
        (
            ("unmet_minimum", 3, 0, 100),
            "minimum replicas that found no place, priority 100: 3, at least 0 replicas possible",
        ),
        (("weak_n1", 4, 4, None), "models that outlive the loss of any one node: 4 models, proved"),
        (
            ("served", 700_000, 721_000, None),
            "demand served, weighted: 700.0, at most 721.0 tokens/s possible, gap 2.9 %",
        ),
        (("something_new", 1, 1, None), "something_new: 1 , proved"),
    ],
)
def test_a_line_has_value_bound_and_gap(event: tuple[str, int, int, int | None], line: str) -> None:
    assert progress_line(*event) == line


def test_what_is_quick_or_new_only_in_time_is_not_said() -> None:
    said: list[str] = []
    progress = Progress(said.append)
    progress("weak_n1", 3, 4, 0.5)
    progress("served", 700_000, 721_000, 2.0)
    progress("served", 710_000, 721_000, 3.9)
    progress("served", 710_000, 721_000, 4.0)
    progress("served", 710_000, 721_000, 60.0)
    assert [line.partition(" s  ")[0].strip() for line in said] == ["2.0", "4.0"]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (0, "all minimums can be met without moving anything"),
        (1, "1 minimum replica finds no room"),
        (2, "2 minimum replicas find no room"),
    ],
)
def test_the_first_repair_is_said_at_once(missing: int, words: str) -> None:
    said: list[str] = []
    progress = Progress(said.append)
    progress("first_repair", missing, 0, 0.034)
    progress("unmet_minimum", 0, 0, 0.5, priority=100)
    assert len(said) == 1
    assert said[0].startswith(f"   0.03 s  first repair: {words}")
