# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Remedies: each kind, in order of its size, and each true when the changed problem is solved as it stands."""

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import read_problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement import remedy
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.errors import PlacementError
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Gpu,
    Model,
    Options,
    Plan,
    Problem,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.remedy import with_remedies
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    need,
    problem,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils.fleet_builders import CATALOG, card

QUICK = Options(seconds=1)
CARD = gpu("gpu1", "a", 8_000)
SMALL = gpu("gpu2", "b", 4_000)
BIG = gpu("gpu3", "c", 16_000)


def fixed(_model: str, *, context: int | None = None, kv_cache_type: str | None = None) -> None:
    """The variant of a model with a footprint of its own."""


def planned(case: Problem) -> Plan:
    return solve(case, (), QUICK)


def remedies(case: Problem, variant: remedy.Variant = fixed) -> dict[str, str]:
    return {item.model: item.remedy for item in with_remedies(case, planned(case), planned, variant).unplaced}


def missing(case: Problem) -> dict[str, int]:
    return {item.model: item.missing for item in planned(case).unplaced}


def with_model(case: Problem, name: str, **changes: t.Any) -> Problem:
    models = (dataclasses.replace(m, **changes) if m.name == name else m for m in case.models)
    return dataclasses.replace(case, models=tuple(models))


def with_cards(case: Problem, *cards: Gpu) -> Problem:
    return problem([*case.gpus, *cards], case.models)


class Case(t.NamedTuple):
    """A fleet in which m misses a place, what is said, and the change that this means."""

    cards: list[Gpu]
    models: list[Model]
    text: str
    change: t.Callable[[Problem], Problem]
    left: dict[str, int]


CASES = {
    "one replica less of a model that keeps one": Case(
        [CARD, gpu("gpu2", "b", 8_000)],
        [model("m", 5_000), model("n", 5_000, least=2, priority=60), model("o", 1_000, priority=60)],
        "lower replicas.min of n to 1 (now 2)",
        lambda case: with_model(case, "n", replicas_min=1, replicas_max=1),
        {},
    ),
    "a lower priority where one less is not enough": Case(
        [CARD, gpu("gpu1", "b", 8_000, index=1)],
        [model("m", 12_000), model("n", 5_000, least=2, priority=60), model("o", 1_000, priority=60)],
        "set the priority of n below 50 (now 60): it then misses 2 replicas",
        lambda case: with_model(case, "n", priority=49),
        {"n": 2},
    ),
    "the smallest card that does": Case(
        [CARD, SMALL, BIG],
        [model("m", 7_000), model("n", 7_500, priority=60), model("o", 15_000, priority=60)],
        "add one nvidia slow (8 GiB) to gpu1",
        lambda case: with_cards(case, gpu("gpu1", "new", 8_000, index=1)),
        {},
    ),
    "a small card that another moves to": Case(
        [CARD, SMALL],
        [model("m", 5_000), model("n", 3_500, priority=60), model("o", 3_500, priority=60)],
        "add one nvidia slow (4 GiB) to gpu1",
        lambda case: with_cards(case, gpu("gpu1", "new", 4_000, index=1)),
        {},
    ),
    "several cards for a split": Case(
        [CARD],
        [model("m", {"slow": (need(20_000, layers=20),)})],
        "add 2 nvidia slow (8 GiB each) to gpu1",
        lambda case: with_cards(case, *(gpu("gpu1", f"new{i}", 8_000, index=1 + i) for i in range(2))),
        {},
    ),
    "a node where the spread asks for one": Case(
        [CARD],
        [model("m", 5_000, least=2, constraints=Constraints(spread="node"))],
        "add a node with one nvidia slow (8 GiB), set up as in gpu1",
        lambda case: with_cards(case, gpu("gpu9", "new", 8_000)),
        {},
    ),
    "a part of what is missing": Case(
        [CARD],
        [model("m", 5_000, least=3)],
        "add one nvidia slow (8 GiB) to gpu1 (places 1 of the 2 missing)",
        lambda case: with_cards(case, gpu("gpu1", "new", 8_000, index=1)),
        {"m": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_is_said_and_true(name: str) -> None:
    case = CASES[name]
    given = problem(case.cards, case.models)
    assert "m" in missing(given)
    text = remedies(given)["m"]
    assert case.text in text
    assert text.startswith("a solve has shown that ")
    assert missing(case.change(given)) == case.left


def test_what_others_lose_by_is_none() -> None:
    """One more card, and one replica less of another, would place m only in the place of a third."""
    case = problem([CARD], [model("m", 7_500, priority=50), model("n", 7_500, priority=90)])
    text = remedies(case)["m"]
    assert "lower replicas.min of n to 0" in text
    assert "a solve has shown" in text
    small = problem([SMALL], [model("m", 3_500), model("n", 3_500), model("o", 3_500, priority=90)])
    assert set(missing(small)) == {"m", "n"}
    assert "lower replicas.min of n to 0" not in remedies(small)["m"]


WANTED = {"name": "llama3.1:8b", "context": 32768, "parallel": 2, "kv_cache_type": "f16"}


def real(**changes: t.Any) -> tuple[Problem, remedy.Variant]:
    """One GTX 1080 Ti for a model whose KV cache alone takes 8 GiB."""
    fleet = {"gpu1": {"gpus": [card(backends=["cuda_v12"])]}}
    return read_problem(fleet=fleet, models=[{**WANTED, **changes}], catalog=CATALOG)


def test_the_longest_context_that_fits_and_the_next_that_does_not() -> None:
    case, variant = real()
    text = remedies(case, variant)["llama3.1:8b"]
    assert "set kv_cache_type to q8_0 (now f16)" in text
    assert missing(real(kv_cache_type="q8_0")[0]) == {}
    start = text.index("set context to ")
    longest = int(text[start:].split()[3])
    assert missing(real(context=longest)[0]) == {}
    assert missing(real(context=longest + 1024)[0]) == {"llama3.1:8b": 1}
    # A look at the empty fleet is enough for that, and no solve: nothing is said of a proof.
    assert "is proved too much" not in text


def test_what_is_too_much_is_said_where_it_is_proved() -> None:
    other = {"name": "mine:1", "footprint": {"layers": 1, "weights_mib": 1_000, "kv_mib": 0, "compute_mib": 0}}
    fleet = {"gpu1": {"gpus": [card(backends=["cuda_v12"])]}}
    models = [{**WANTED, "context": 16384, "priority": 10}, {**other, "priority": 90}]
    case, variant = read_problem(fleet=fleet, models=models, catalog=CATALOG)
    text = remedies(case, variant)["llama3.1:8b"]
    longest, now = 15360, 16384
    for length in range(1024, now, 1024):
        changed = dataclasses.replace(
            case, models=(t.cast("Model", variant("llama3.1:8b", context=length)), case.models[1])
        )
        if missing(changed):
            longest = length - 1024
            break
    assert f"set context to {longest} (now {now}; {longest + 1024} is proved too much)" in text


def test_a_larger_kv_cache_where_old_cards_are_trusted_with_nothing_else() -> None:
    fleet = {"gpu1": {"gpus": [card(architecture="sm_52", name="Tesla M40", vram_mib=12288, bandwidth_gbs=288)]}}
    wanted = {"name": "llama3.2:1b", "context": 4096, "kv_cache_type": "q8_0"}
    case, variant = read_problem(fleet=fleet, models=[wanted], catalog=CATALOG)
    assert "set kv_cache_type to f16 (now q8_0)" in remedies(case, variant)["llama3.2:1b"]


def test_without_a_remedy_the_reckoning_stays() -> None:
    case = problem([CARD], [model("m", 900_000)])
    assert remedies(case)["m"] == planned(case).unplaced[0].remedy


@pytest.mark.parametrize("count", [1, 3])
def test_the_solves_are_few_and_shared(count: int) -> None:
    """Each model has its part of them, however many miss a place; the same ones each time."""
    cards = [gpu(f"gpu{number}", "x", 8_000) for number in range(count)]
    models = []
    for number in range(count):
        here = Constraints(nodes=(f"gpu{number}",))
        models += [model(f"m{number}", 7_500, constraints=here)]
        models += [model(f"n{number}", 7_500, constraints=here, priority=90)]
    case = problem(cards, models)
    plan = planned(case)
    asked: list[Problem] = []

    def counted(changed: Problem) -> Plan:
        asked.append(changed)
        return planned(changed)

    first = with_remedies(case, plan, counted, fixed)
    assert len(asked) <= remedy.tries(case) <= remedy.SOLVES
    assert len(first.unplaced) == count
    for number, item in enumerate(first.unplaced):
        assert f"a solve has shown that each of these does: lower replicas.min of n{number} to 0" in item.remedy
    before = list(asked)
    asked.clear()
    assert with_remedies(case, plan, counted, fixed) == first
    assert asked == before


def test_what_nobody_tried_is_said_after_what_was() -> None:
    case = problem([CARD], [model("m", 7_500), model("n", 7_500, priority=90)])
    plan = planned(case)
    (item,) = with_remedies(case, plan, planned, fixed, limited=True).unplaced
    assert item.remedy.endswith("to gpu1; or raise sdai_churn_budget_gib; or lower replicas.min to 0 (the model is "
                                "then not served)")  # fmt: skip
    open_ones = tuple(dataclasses.replace(objective, proved=False) for objective in plan.objectives)
    (item,) = with_remedies(case, dataclasses.replace(plan, objectives=open_ones), planned, fixed).unplaced
    assert "to gpu1; or raise sdai_plan_seconds; or lower replicas.min to 0" in item.remedy


def test_a_solve_that_is_refused_is_no_remedy() -> None:
    """A node may have no free port for one replica more."""

    def refused(_changed: Problem) -> Plan:
        raise PlacementError("node gpu1: all replica ports are in use")

    case = problem([CARD], [model("m", 7_500), model("n", 7_500, priority=90)])
    assert with_remedies(case, planned(case), refused, fixed) == planned(case)


def test_nothing_is_solved_without_need() -> None:
    def never(_changed: Problem) -> Plan:
        raise AssertionError

    fits = problem([CARD], [model("m", 5_000)])
    assert with_remedies(fits, planned(fits), never, fixed) == planned(fits)
    cards = [gpu(f"node{number}", "x", 1_000) for number in range(remedy.WORK // 2 + 1)]
    large = problem(cards, [model("m", 5_000)])
    assert remedy.tries(large) == 0
    assert with_remedies(large, planned(large), never, fixed) == planned(large)
