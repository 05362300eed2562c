# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page of a plan, read by a parser: all is in it, nothing is fetched, and no name is markup."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._page import page_digest, render_page, shows
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Gpu,
    Objective,
    Options,
    Plan,
    Problem,
    Survivability,
    Unplaced,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    fleet,
    gpu,
    model,
    need,
    problem,
    running,
)

VOID = {"meta", "input", "br", "link", "img"}
EVIL = "<script>alert(1)</script>\"'&"


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Elements with the text that stands directly in them; what is not closed in order is a mistake."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1].text += data

    def of(self, name: str) -> list[Element]:
        return [element for element in self.elements if name in element.attributes.get("class", "").split()]

    @property
    def texts(self) -> list[str]:
        return [element.text for element in self.elements if element.tag not in ("style", "script")]


def read(page: str) -> Page:
    parser = Page()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def lab() -> tuple[Problem, Plan]:
    cards = [
        gpu("gpu1", "GPU-a", 8_000),
        gpu("gpu1", "GPU-b", 6_000, index=1, foreign_mib=2_048),
        gpu("gpu2", "GPU-c", 0, usable=False, reason="no driver", remedy="install it"),
        gpu("gpu3", "GPU-d", 4_000),
    ]
    case = problem(
        cards,
        [
            model("split", {"slow": (need(12_000, layers=20),)}),
            model("small", 3_000),
            model("huge", 90_000, priority=7),
        ],
    )
    return case, solve(case, (), Options(seconds=1))


def test_all_of_the_plan_is_in_it(lab: tuple[Problem, Plan]) -> None:
    case, plan = lab
    page = read(render_page(case, plan, {"small--1": "next best is nowhere"}))
    bars = page.of("gpu")
    assert [bar.attributes["data-find"] for bar in bars] == ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]
    segments = Counter(segment.attributes["title"].partition(":")[0] for segment in page.of("seg"))
    assert segments == {"split--1": 2, "small--1": 1}
    assert [node.attributes["data-node"] for node in page.of("node")] == ["0", "1", "2"]
    assert [item.attributes["title"] for item in page.of("dead")] == ["not usable: no driver"]
    assert [item.attributes["title"] for item in page.of("foreign") if "title" in item.attributes] == [
        "2.0 GiB held by others"
    ]
    (missing,) = plan.unplaced
    for text in ("huge", missing.reason, missing.remedy, "install it", "next best is nowhere", " small--1"):
        assert text in page.texts, text
    rows = [element for element in page.elements if element.tag == "tr" and "data-models" in element.attributes]
    assert len(rows) == 2


def test_parts_of_a_bar_are_of_the_whole_card(lab: tuple[Problem, Plan]) -> None:
    page = read(render_page(*lab, {}))
    parts = [float(re.findall(r"--part:([\d.]+)", item.attributes["style"])[0]) for item in page.of("seg")]
    by_share = sorted(
        round(100 * share.vram_mib / card.vram_mib, 1)
        for replica in lab[1].replicas
        for share in replica.gpus
        for card in lab[0].gpus
        if card.key == (replica.node, share.id)
    )
    assert sorted(parts) == by_share


def test_it_needs_nothing_else(lab: tuple[Problem, Plan]) -> None:
    text = render_page(*lab, {})
    page = read(text)
    assert not {"link", "img", "iframe", "object"} & {element.tag for element in page.elements}
    assert not {"src", "href"} & {name for element in page.elements for name in element.attributes}
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", text)


def test_hostile_names_stay_text() -> None:
    """Wherever a name, a reason or a remedy stands."""
    place: Gpu = gpu(f"gpu{EVIL}", f"GPU-{EVIL}", 8_000)
    dead = gpu(f"dead{EVIL}", f"GPU-{EVIL}", 0, usable=False, reason=f"r{EVIL}", remedy=f"x{EVIL}")
    bad = replace(dead, name=f"card{EVIL}")
    case = problem([replace(place, name=f"card{EVIL}"), bad], [model(f"m{EVIL}", 5_000), model(f"n{EVIL}", 5_000)])
    case = replace(case, nodes=tuple(replace(node, failure_domain=f"rack{EVIL}") for node in case.nodes))
    held = replace(running(f"m{EVIL}", place, 5_000), id=f"id{EVIL}")
    plan = Plan(
        "infeasible", f"f{EVIL}", f"c{EVIL}", f"s{EVIL}", f"v{EVIL}", 0, True,
        (Objective(f"o{EVIL}", 1, 1, True),),
        (held,),
        (Unplaced(f"n{EVIL}", 1, 1, f"why{EVIL}", f"do{EVIL}"),),
        Survivability(0, 1, (f"m{EVIL}",), 0, 1, {f"gpu{EVIL}": (f"m{EVIL}",)}),
    )  # fmt: skip
    text = render_page(case, plan, {f"id{EVIL}": f"because{EVIL}"})
    page = read(text)
    assert sum(element.tag == "script" for element in page.elements) == 1
    assert EVIL not in text
    for name in ("gpu", "m", "why", "do", "because", "r", "x", "rack"):
        found = [*page.texts, *(value for element in page.elements for value in element.attributes.values())]
        assert any(f"{name}{EVIL}" in value for value in found), name
    handlers = {name for element in page.elements for name in element.attributes if name.startswith("on")}
    assert handlers == set()


def test_a_large_fleet_is_drawn_without_words_and_in_full() -> None:
    case = fleet(120, 20)
    plan = replace(solve(fleet(24, 8), (), Options(seconds=1)), replicas=())
    page = read(render_page(case, plan, {}))
    assert len(page.of("gpu")) == 120
    assert len(page.of("dense")) == 1


def test_it_is_drawn_anew_for_another_placement_only(lab: tuple[Problem, Plan]) -> None:
    case, plan = lab
    page = render_page(case, plan, {})
    assert render_page(case, plan, {}) == page
    assert shows(page, plan)
    measured = replace(plan, replicas=tuple(replace(replica, speed=1) for replica in plan.replicas))
    assert shows(page, replace(measured, objectives=(), solver_version="2"))
    for other in (
        replace(plan, replicas=plan.replicas[1:]),
        replace(plan, fleet_digest="0" * 64),
        replace(plan, catalog_digest="0" * 64),
        replace(plan, unplaced=()),
    ):
        assert not shows(page, other)
        assert page_digest(other) != page_digest(plan)
    assert not shows("", plan)
    assert not shows("<html></html>", plan)


def test_an_empty_plan_is_a_page_too(lab: tuple[Problem, Plan]) -> None:
    case, plan = lab
    empty = replace(plan, status="optimal", replicas=(), unplaced=(), objectives=())
    page = read(render_page(replace(case, models=(), gpus=(), nodes=()), empty, {}))
    assert "proven optimal" in page.texts
    assert page.of("seg") == []
