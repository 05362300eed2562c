# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions as administrators write them, what is refused of them, and the fleet that they ask about."""

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import build_problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._validate import InputError
from ansible_collections.aivailable.sdai.plugins.plugin_utils._what_if import ask
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils.fleet_builders import CATALOG, card, explicit

WORLD: dict[str, t.Any] = {
    "fleet": {"gpu1": {"gpus": [card(index=3)]}, "gpu2": {"gpus": [card()]}, "gpu3": {}},
    "models": [explicit(), explicit(name="twice", replicas={"min": "2", "max": 3})],
    "catalog": CATALOG,
    "absent_nodes": ["gpu3"],
}


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"without_nodes": ["gpu2", "gpu2"]}, "without gpu2"),
        ('{"without_nodes": [gpu2]}', "without gpu2"),
        (
            {"with_gpus": {"gpu1": ["Tesla P40", "RTX 3090"]}, "without_nodes": ["gpu2"]},
            "without gpu2; with Tesla P40, RTX 3090 in gpu1",
        ),
        ({"replicas": {"mine:8b": 2}}, "with mine:8b 2 times"),
    ],
)
def test_the_question_in_a_line(question: object, words: str) -> None:
    assert ask(question, WORLD)[0] == words


def changed(question: dict[str, t.Any]) -> t.Any:
    return build_problem(**ask(question, WORLD)[1])


def test_without_a_node() -> None:
    assert [node.name for node in changed({"without_nodes": ["gpu2"]}).nodes] == ["gpu1"]


def test_a_known_card_needs_only_its_name() -> None:
    problem = changed({"with_gpus": {"gpu1": ["Tesla P40", {"name": "RTX 3090", "vram_foreign_mib": 64}]}})
    own, p40, new = (gpu for gpu in problem.gpus if gpu.node == "gpu1")
    assert (own.id, own.index) == ("GPU-1", 3)
    assert (p40.id, p40.index, p40.architecture, p40.vram_mib) == ("what-if-1", 4, "sm_61", 24576)
    assert (new.id, new.index, new.architecture, new.vram_foreign_mib) == ("what-if-2", 5, "sm_86", 64)
    assert p40.kind != own.kind


def test_an_unknown_card_is_written_out() -> None:
    problem = changed({"with_gpus": {"gpu2": [card(id="new", index=7, name="Dream", bandwidth_gbs=9000)]}})
    assert [(gpu.id, gpu.index, gpu.name) for gpu in problem.gpus if gpu.node == "gpu2"] == [
        ("GPU-1", 0, "NVIDIA GeForce GTX 1080 Ti"),
        ("new", 7, "Dream"),
    ]


@pytest.mark.parametrize(
    ("model", "number", "limits"),
    [("mine:8b", 2, (2, 2)), ("twice", 4, (4, 4)), ("twice:latest", 3, (3, 3)), ("twice", 1, (2, 3))],
)
def test_a_model_more_often(model: str, number: int, limits: tuple[int, int]) -> None:
    """Never less often than it is wanted already."""
    problem = changed({"replicas": {model: number}})
    found = {item.name: (item.replicas_min, item.replicas_max) for item in problem.models}
    assert found["mine:8b" if model == "mine:8b" else "twice:latest"] == limits


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ([], "sdai_what_if (all hosts): is a list, not a mapping. Write the keys without_nodes, with_gpus, replicas."),
        (
            '{"without_nodes":',
            'sdai_what_if (all hosts): is the text "{\\"without_nodes\\":", not a mapping. On the command line write',
        ),
        ({}, "sdai_what_if (all hosts): asks nothing. Write at least one of the keys without_nodes, with_gpus"),
        ({"with_gpu": {}}, "sdai_what_if.with_gpu (all hosts): is not a key that is known here. Remove or rename it."),
        (
            {"without_nodes": "gpu2"},
            'sdai_what_if.without_nodes (all hosts): is the text "gpu2", not a list. Write a list',
        ),
        (
            {"without_nodes": ["gpu3"]},
            'sdai_what_if.without_nodes[0] (all hosts): "gpu3" is not a node that is planned with. Write one of gpu1',
        ),
        ({"without_nodes": ["gpu1", "gpu2"]}, "sdai_what_if.without_nodes (all hosts): names every node."),
        ({"with_gpus": ["Tesla P40"]}, "sdai_what_if.with_gpus (all hosts): is a list, not a mapping."),
        ({"with_gpus": {"gpu9": ["Tesla P40"]}}, 'sdai_what_if.with_gpus.gpu9 (all hosts): "gpu9" is not a node'),
        ({"with_gpus": {"gpu1": "Tesla P40"}}, 'sdai_what_if.with_gpus.gpu1 (all hosts): is the text "Tesla P40"'),
        ({"with_gpus": {"gpu1": [40]}}, "sdai_what_if.with_gpus.gpu1[0] (all hosts): is 40. Write the name of a known"),
        (
            {"with_gpus": {"gpu1": ["Tesla P41"]}},
            'sdai_what_if.with_gpus.gpu1[0] (all hosts): "Tesla P41" is not in the table of known cards. Give vendor, '
            "architecture, vram_mib, bandwidth_gbs and backends too. Did you mean Tesla P4",
        ),
        (
            {"with_gpus": {"gpu1": [{"name": "Tesla P40", "vram_mib": "much"}]}},
            'sdai_what_if.with_gpus.gpu1[0].vram_mib (all hosts): "much" is not a whole number.',
        ),
        (
            {"with_gpus": {"gpu1": ["Tesla P40"]}, "without_nodes": ["gpu1"]},
            "sdai_what_if.with_gpus (all hosts): gpu1 is in sdai_what_if.without_nodes too.",
        ),
        ({"replicas": {"mine:9b": 2}}, "sdai_what_if.replicas.mine:9b (all hosts): is not a model of sdai_models."),
        ({"replicas": {"mine:8b": 0}}, "sdai_what_if.replicas.mine:8b (all hosts): 0 is below 1."),
        ({"replicas": 2}, "sdai_what_if.replicas (all hosts): is the value 2, not a mapping."),
    ],
    ids=lambda value: json.dumps(value) if not isinstance(value, str) else "",
)
def test_what_is_wrong_is_one_error(question: object, error: str) -> None:
    with pytest.raises(InputError) as caught:
        ask(question, WORLD)
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)
