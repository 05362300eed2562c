# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from decimal import Decimal

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._validate import (
    Finding,
    Findings,
    InputError,
    Reader,
    closest,
    describe,
)


def reader(value: object, findings: Findings) -> Reader:
    return Reader({"x": value}, "top", findings, host="gpu1", known=("x", "other_key"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(8192, 8192, id="number"),
        pytest.param("8192", 8192, id="text, as -e gives it"),
        pytest.param(8192.0, 8192, id="whole float"),
        pytest.param(0, 0, id="least"),
    ],
)
def test_whole_numbers(given: object, expected: int) -> None:
    findings = Findings()
    assert reader(given, findings).whole("x", "Fix it.") == expected
    findings.check()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        pytest.param(-5, "-5 is negative", id="negative"),
        pytest.param(True, "true is not a whole number", id="boolean"),
        pytest.param("eight", '"eight" is not a whole number', id="word"),
        pytest.param(1.5, "1.5 is not a whole number", id="fraction"),
        pytest.param(float("nan"), "NaN is not a whole number", id="nan"),
        pytest.param("Infinity", '"Infinity" is not a whole number', id="infinity"),
        pytest.param([1], "a list is not a whole number", id="list"),
        pytest.param({"a": 1}, "a mapping is not a whole number", id="mapping"),
        pytest.param(101, "101 is above 100", id="too large"),
        pytest.param(None, "is missing", id="null"),
    ],
)
def test_what_is_not_a_whole_number(given: object, problem: str) -> None:
    findings = Findings()
    reader(given, findings).whole("x", "Fix it.", most=100)
    assert findings.items == [Finding("top.x", "gpu1", problem, "Fix it.")]


@pytest.mark.parametrize(
    ("given", "above", "expected"),
    [
        pytest.param("0.05", False, Decimal("0.05"), id="text"),
        pytest.param(0.1, False, Decimal("0.1"), id="as written, not as stored"),
        pytest.param(0, False, Decimal(0), id="zero"),
        pytest.param(None, False, None, id="not given"),
        pytest.param(0, True, None, id="zero is refused where it must be above"),
        pytest.param(-1, False, None, id="negative"),
        pytest.param("much", False, None, id="word"),
    ],
)
def test_numbers(given: object, above: bool, expected: Decimal | None) -> None:
    assert reader(given, Findings()).number("x", "Fix it.", above=above) == expected


@pytest.mark.parametrize(("given", "expected"), [(True, True), ("yes", True), ("False", False), (0, False)])
def test_booleans(given: object, expected: bool) -> None:
    findings = Findings()
    assert reader(given, findings).boolean("x", "Fix it.", default=not expected) is expected
    findings.check()


def test_a_misspelt_key_is_named_with_the_right_one() -> None:
    findings = Findings()
    Reader({"other_kye": 1}, "top", findings, known=("x", "other_key"))
    with pytest.raises(InputError, match=r"^top\.other_kye \(all hosts\): .* Did you mean other_key\?$"):
        findings.check()


def test_one_message_for_all_findings_and_one_line_for_equal_ones() -> None:
    """A value of group_vars is wrong on each host: it is said once."""
    findings = Findings()
    for host in ("gpu1", "gpu2", "gpu3", "gpu4"):
        findings.add("sdai_vram_margin_mib", "-1 is negative", "Fix it.", host=host)
    findings.add("sdai_models[0].name", "is missing", "Write one.")
    with pytest.raises(InputError) as caught:
        findings.check()
    assert str(caught.value).splitlines() == [
        "2 values of the inventory are wrong:",
        "- sdai_vram_margin_mib (hosts gpu1, gpu2, gpu3 and 1 more): -1 is negative. Fix it.",
        "- sdai_models[0].name (all hosts): is missing. Write one.",
    ]


def test_description_is_short() -> None:
    assert len(describe("x" * 1000)) < 70


@pytest.mark.parametrize(
    ("word", "expected"), [("llama3.1:8B", " Did you mean llama3.1:8b?"), ("zzz", "")], ids=["near", "far"]
)
def test_closest(word: str, expected: str) -> None:
    assert closest(word, ["llama3.1:8b", "gemma3:4b"]) == expected
