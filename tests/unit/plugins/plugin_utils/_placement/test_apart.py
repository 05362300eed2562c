# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A second node for models on one: what makes room for it, and what must not."""

from __future__ import annotations

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Constraints, Gpu, Model, Replica
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.apart import set_apart
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.incumbent import greedy
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.relaxation import Relaxation
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve.space import (
    Limits,
    Space,
    build,
    unmet,
    weak,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    fleet,
    gpu,
    model,
    problem,
    running,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.test_dive import legal
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.test_losses import limits_of, on

PAIR = [gpu("n1", "g1", 9000), gpu("n1", "g2", 9000, index=1), gpu("n2", "g3", 9000)]
ROW = [gpu(f"n{number}", f"g{number}", 9000) for number in range(1, 5)]


def names(space: Space, chosen: frozenset[int]) -> set[tuple[str, str]]:
    found = (space.candidates[i] for i in chosen)
    return {(space.models[one.model].name, space.gpus[gpu].id) for one in found for gpu in one.gpus}


@pytest.mark.parametrize(
    ("cards", "models", "runs", "placed", "moved"),
    [
        pytest.param(
            PAIR,
            [model("a", 5000, least=2), model("b", 8000)],
            [],
            {("a", "g1"), ("a", "g2"), ("b", "g3")},
            {("a", "g1"), ("a", "g3"), ("b", "g2")},
            id="another model goes where one replica was",
        ),
        pytest.param(
            ROW,
            [model("a", 6000, least=2), model("b", 6000, least=3)],
            [],
            {("a", "g1"), ("b", "g2"), ("b", "g3"), ("b", "g4")},
            {("a", "g1"), ("a", "g2"), ("b", "g3"), ("b", "g4")},
            id="another model of the same priority misses one instead",
        ),
        pytest.param(
            ROW,
            [model("a", 6000, least=2), model("b", 6000, least=4)],
            [],
            {("b", "g1"), ("b", "g2"), ("b", "g3"), ("b", "g4")},
            {("a", "g1"), ("a", "g2"), ("b", "g3"), ("b", "g4")},
            id="twice for a model that is nowhere",
        ),
        pytest.param(
            ROW[:3],
            [model("a", 6000, least=2), model("b", 6000, least=2)],
            [],
            {("a", "g1"), ("b", "g2"), ("b", "g3")},
            None,
            id="not if that one is then on one node",
        ),
        pytest.param(
            ROW,
            [model("a", 6000, least=2, priority=10), model("b", 6000, least=3, priority=90)],
            [],
            {("a", "g1"), ("b", "g2"), ("b", "g3"), ("b", "g4")},
            None,
            id="not if that one has a higher priority",
        ),
        pytest.param(
            PAIR,
            [model("a", 5000, least=2), model("b", 8000)],
            [running("b", PAIR[2], 8000)],
            {("a", "g1"), ("a", "g2"), ("b", "g3")},
            None,
            id="not if that one runs",
        ),
        pytest.param(
            PAIR,
            [model("a", 5000, least=2, constraints=Constraints(nodes=("n1",))), model("b", 8000)],
            [],
            {("a", "g1"), ("a", "g2"), ("b", "g3")},
            None,
            id="not where it may not be",
        ),
    ],
)
def test_who_makes_room(
    cards: list[Gpu],
    models: list[Model],
    runs: list[Replica],
    placed: set[tuple[str, str]],
    moved: set[tuple[str, str]] | None,
) -> None:
    space = build(problem(cards, models), runs)
    chosen = set_apart(space, limits_of(space), on(space, sorted(placed)))
    assert names(space, chosen) == (placed if moved is None else moved)


@pytest.mark.parametrize("load", [0.8, 0.95, 1.1])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_given_up(seed: int, load: float) -> None:
    space = build(fleet(30, 12, load=load, seed=seed), ())
    limits: Limits = limits_of(space)
    before = greedy(space, limits, frozenset()).chosen
    after = set_apart(space, limits, before)
    assert legal(space, limits, after)
    assert (unmet(space, after), -weak(space, after)) <= (unmet(space, before), -weak(space, before))


def test_the_bound_knows_that_two_nodes_are_needed() -> None:
    """There is room for a twice on n1, but b, which has no other place, leaves none on n2."""
    models = [model("a", 8000, least=2, priority=10), model("b", 9000, constraints=Constraints(nodes=("n2",)))]
    space = build(problem([*PAIR, gpu("n3", "g4", 500)], models), ())
    assert Relaxation(space, limits_of(space)).least() == ((0, 0), 0)
