# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Gpu,
    Model,
    Node,
    Objective,
    Plan,
    Problem,
    Replica,
    Share,
    Stop,
    Survivability,
    Transition,
    Unplaced,
    Wave,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._report import render
from ansible_collections.aivailable.sdai.plugins.plugin_utils._tables import WIDTH


def gpu(place: str, index: int, name: str, vram: int, *, foreign: int = 0, reason: str = "") -> Gpu:
    node, _, gpu_id = place.partition("/")
    return Gpu(
        node=node,
        id=gpu_id,
        index=index,
        vendor="nvidia",
        name=name,
        architecture="sm_61",
        kind="k",
        vram_mib=vram,
        vram_foreign_mib=foreign,
        offer_mib=max(vram - foreign - 1024, 0),
        usable=not reason,
        reason=reason,
        remedy="replace the card" if reason else "",
    )


def model(name: str, least: int, most: int, priority: int) -> Model:
    return Model(name, name, 8192, 4, "q8_0", 1024, least, most, priority, 1, needs={})


def replica(identifier: str, name: str, node: str, shares: tuple[Share, ...], port: int = 11500) -> Replica:
    return Replica(identifier, name, node, "cuda_v12", shares, port, 8192, 4, "q8_0", 1024, 71_000)


PROBLEM = Problem(
    nodes=(Node("gpu1", "gpu1"), Node("gpu2", "gpu2")),
    gpus=(
        gpu("gpu2/GPU-3", 0, "NVIDIA GeForce RTX 3090", 24576, foreign=2048),
        gpu("gpu2/GPU-4", 1, "NVIDIA GeForce RTX 3090 with a name that is far too long", 24576),
        gpu("gpu1/GPU-1", 0, "NVIDIA GeForce GTX 1080 Ti", 11264),
        gpu("gpu1/0000:02:00.0", 1, "Tesla K80", 11441, reason="Ollama serves compute capability 5.0 and up"),
    ),
    models=(model("llama3.1:8b", 2, 4, 100), model("llama3.3:70b", 1, 1, 40), model("our-model:180b", 1, 1, 10)),
    fleet_digest="f",
    catalog_digest="c",
)
SMALL = replica("llama3.1-8b--1", "llama3.1:8b", "gpu1", (Share("GPU-1", 0, 32, 7327),))
LARGE = replica(
    "llama3.3-70b--1", "llama3.3:70b", "gpu2", (Share("GPU-3", 0, 38, 21000), Share("GPU-4", 1, 42, 22500)), 11501
)
PLAN = Plan(
    status="infeasible",
    fleet_digest="f",
    catalog_digest="c",
    solver_name="s",
    solver_version="1",
    seed=0,
    reproducible=True,
    objectives=(
        Objective("unmet_minimum", 1, 1, True, 100),
        Objective("weak_n1", 0, 0, True),
        Objective("served", 142_000, 150_000, False),
    ),
    replicas=(SMALL, LARGE),
    unplaced=(
        Unplaced(
            "our-model:180b", 10, 1, "needs 103.0 GiB on one node; the most one node offers is 44.0 GiB", "buy it"
        ),
    ),
    survivability=Survivability(0, 1, ("llama3.1:8b",), 1, 2, {"gpu2": ("llama3.3:70b",)}),
)
TRANSITION = Transition(
    keep=("llama3.1-8b--1",),
    start=("llama3.3-70b--1",),
    stop=(Stop("old--1", "gpu2", "sdai-ollama@old--1.service"),),
    move_mib=43_500,
    waves=(Wave((), ("old--1",), ("old:1b",)), Wave(("llama3.3-70b--1",), ())),
)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return render(PROBLEM, PLAN, TRANSITION).splitlines()


def test_fits_a_terminal(lines: list[str]) -> None:
    assert max(map(len, lines)) <= WIDTH
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in "".join(lines)


def test_bars_show_others_ours_and_free(lines: list[str]) -> None:
    shared = next(line for line in lines if "RTX 3090 " in line and "20.5 of" in line)
    assert shared.count("▒") == 3
    assert shared.count("█") == 23
    own = next(line for line in lines if "1080 Ti" in line)
    assert (own.count("▒"), own.count("█"), own.count("·")) == (0, 17, 9)


def test_replicas_stand_under_their_gpus(lines: list[str]) -> None:
    place = next(number for number, line in enumerate(lines) if "1080 Ti" in line)
    assert lines[place + 1].split() == [
        "=", "llama3.1:8b", "llama3.1-8b--1", "cuda_v12", "7.2", "GiB", "71.0", "tokens/s",
    ]  # fmt: skip
    place = next(number for number, line in enumerate(lines) if "+ llama3.3:70b" in line)
    assert lines[place + 1].strip() == "layers 1 to 38 of 80, the others on GPU 1"


def test_what_is_not_placed_or_not_usable_has_reason_and_remedy(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert "Tesla K80 (0000:02:00.0): Ollama serves compute capability 5.0 and up\n    → replace the card" in text
    assert "our-model:180b: 1 replica missing (priority 10): needs 103.0 GiB on one node" in text
    assert "    → buy it" in text


def test_open_objectives_are_told_from_proved_ones(lines: list[str]) -> None:
    served = next(line for line in lines if line.startswith("demand served"))
    assert served.split()[-3:] == ["142.0", "150.0", "open"]
    minimum = next(line for line in lines if "priority 100 (replicas)" in line)
    assert minimum.split()[-3:] == ["1", "1", "yes"]


def test_survival_and_transition(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert "    → at risk: llama3.1:8b" in text
    assert "1 to start (+), 1 to stop, 1 kept (=); 42.5 GiB to load" in text
    assert "wave 1: stop old--1 on gpu2; falls below its minimum meanwhile: old:1b" in text


def test_a_loss_that_was_not_decided_is_not_called_one_that_does_not_fit() -> None:
    survival = Survivability(0, 0, (), 0, 2, {"gpu1": ("a",), "gpu2": ("b", "c")}, ("gpu2",))
    text = render(PROBLEM, replace(PLAN, survivability=survival), TRANSITION)
    assert "  at least 0 of 2 possible losses would leave room" in text
    assert re.search(r"^gpu1 .*  a$", text, re.M)
    assert re.search(r"^gpu2 .*  b, c \(none found in the$\n *planning time\)$", text, re.M)


def test_each_node_has_its_loss(lines: list[str]) -> None:
    """What is lost at once, and what for good; the whole section as it is printed."""
    start = lines.index("LOSS OF ANY ONE NODE")
    assert lines[start : lines.index("", start + 6)] == [
        "LOSS OF ANY ONE NODE",
        "  0 of 1 model wanted twice or more would keep a replica",
        "    → at risk: llama3.1:8b",
        "  1 of 2 possible losses would leave room for every minimum",
        "",
        "NODE LOST       GPUS  REPLICAS  NOT SERVED AT FIRST              NO ROOM AGAIN FOR A MINIMUM OF",
        "─" * 96,
        "gpu1               1         1  llama3.1:8b                      -",
        "gpu2               2         1  llama3.3:70b                     llama3.3:70b",
    ]


def test_of_many_nodes_those_that_lose_most_are_shown() -> None:
    cards = tuple(gpu(f"gpu{number:02d}/A", 0, "Tesla P40", 24576) for number in range(50))
    survival = Survivability(0, 0, (), 49, 50, {"gpu49": ("a",)})
    many = replace(PROBLEM, gpus=cards, nodes=tuple(Node(card.node, card.node) for card in cards))
    text = render(many, replace(PLAN, replicas=(), survivability=survival), TRANSITION)
    assert text.index("\ngpu49  ", text.index("NODE LOST")) < text.index("\ngpu00  ", text.index("NODE LOST"))
    assert "… and 10 nodes more: see the page beside the plan" in text


def test_why_here_stands_with_the_place() -> None:
    text = render(PROBLEM, PLAN, TRANSITION, why={"llama3.3-70b--1": "no other place may hold it"})
    assert "WHY HERE\n  llama3.3-70b--1 on gpu2 GPU 0+1: no other place may hold it\n" in text
    assert "WHY HERE" not in render(PROBLEM, PLAN, TRANSITION)


def test_what_a_large_fleet_is_spared_is_said() -> None:
    """Remedies by a solve, and a line for each of many replicas."""
    cards = tuple(gpu(f"gpu{number}/A", 0, "Tesla P40", 24576) for number in range(601))
    many = tuple(replace(SMALL, id=f"a--{number}") for number in range(41))
    text = render(replace(PROBLEM, gpus=cards), replace(PLAN, replicas=many), TRANSITION)
    assert "  No remedy was tried by a solve, which would take long for so many GPUs and models.\n" in text
    assert "WHY HERE\n  of all 41 replicas: see the page beside the plan\n" in text
    assert "No remedy was tried" not in render(PROBLEM, PLAN, TRANSITION)


def test_changes_against_what_runs() -> None:
    """A move, a new start of other settings in the same place, a gain and a loss; nothing where nothing runs."""
    old = replica("llama3.3-70b--0", "llama3.3:70b", "gpu1", (Share("GPU-1", 0, 80, 9000),))
    anew = replace(SMALL, id="llama3.1-8b--7")
    gone = replica("old--1", "old:1b", "gpu2", (Share("GPU-3", 0, 9, 900),), 11502)
    more = replica("more--1", "more:1b", "gpu2", (Share("GPU-3", 0, 9, 900),), 11502)
    plan = replace(PLAN, replicas=(*PLAN.replicas, more))
    text = render(PROBLEM, plan, TRANSITION, current=(old, anew, gone))
    assert text[text.index("CHANGES") : text.index("\n\n", text.index("CHANGES"))].splitlines() == [
        "CHANGES AGAINST WHAT RUNS",
        "  llama3.1:8b: 1 → 1 replica",
        "    ↻ llama3.1-8b--7 on gpu1 GPU 0 starts anew as llama3.1-8b--1, 7.2 GiB",
        "  llama3.3:70b: 1 → 1 replica",
        "    → llama3.3-70b--0 on gpu1 GPU 0 moves to gpu2 GPU 0+1 as llama3.3-70b--1, 42.5 GiB",
        "  more:1b: 0 → 1 replica",
        "    + more--1 on gpu2 GPU 0, 0.9 GiB",
        "  old:1b: 1 → 0 replicas",
        "    - old--1 on gpu2 GPU 0",
    ]
    assert "CHANGES" not in render(PROBLEM, PLAN, TRANSITION, current=(replace(old, up=False),))
    assert "CHANGES" not in render(PROBLEM, PLAN, TRANSITION, current=PLAN.replicas)


def test_an_empty_plan_is_a_report_too() -> None:
    empty = replace(PLAN, status="optimal", replicas=(), unplaced=(), objectives=())
    problem = replace(PROBLEM, models=(), gpus=(), nodes=())
    assert "nothing to do" in render(problem, empty, Transition((), (), (), 0, ()))
