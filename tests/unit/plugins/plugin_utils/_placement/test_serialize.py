# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans as documents: their schema, the way back, and what counts as the same plan."""

from __future__ import annotations

import copy
import dataclasses
import json
import typing as t
from pathlib import Path

import jsonschema
import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.errors import DocumentError
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Options,
    Plan,
    Replica,
    Share,
    Stop,
    Transition,
    Wave,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.serialize import (
    plan_from_dict,
    plan_to_dict,
    replica_to_dict,
    running_from_dict,
    same_plan,
    transition_to_dict,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import gpu, model, problem

ROOT = Path(__file__).resolve().parents[5]
SCHEMA = json.loads((ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8"))


class Tagged(str):
    """As Ansible hands texts over: a subclass with something attached."""

    __slots__ = ("origin",)


def tagged(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {Tagged(key): tagged(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tagged(item) for item in value]
    return Tagged(value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def plan() -> Plan:
    cards = [gpu("n1", "a", 6_000), gpu("n1", "b", 6_000, index=1), gpu("n2", "a", 9_000)]
    models = [
        model("one:8b", 5_000, least=2, priority=90, tokens=48.16),
        model("split:12b", 9_500, priority=50),
        model("huge:70b", 40_000, priority=10),
    ]
    return solve(problem(cards, models), (), Options())


@pytest.fixture
def document(plan: Plan) -> dict[str, t.Any]:
    return plan_to_dict(plan)


def test_a_plan_follows_the_schema(document: dict[str, t.Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert list(document) == SCHEMA["required"]


def test_losses_that_nobody_decided_are_part_of_the_document(plan: Plan) -> None:
    survival = dataclasses.replace(plan.survivability, strong_undecided=tuple(plan.survivability.strong_lost_with))
    document = plan_to_dict(dataclasses.replace(plan, survivability=survival))
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert document["survivability"]["strong"]["undecided"]
    assert plan_from_dict(document).survivability == survival
    assert document["unplaced"]
    assert any(value["lost_with"] for value in document["survivability"].values() if "lost_with" in value)


def test_replica_object() -> None:
    replica = Replica(
        id="llama3.1-8b--1",
        model="llama3.1:8b",
        node="gpu1",
        runner="cuda_v12",
        gpus=(Share("GPU-1b2c", 0, 32, 7327),),
        port=11500,
        context=8192,
        parallel=4,
        kv_cache_type="q8_0",
        batch=1024,
        speed=71_049,
    )
    assert replica_to_dict(replica) == {
        "id": "llama3.1-8b--1",
        "unit": "sdai-ollama@llama3.1-8b--1.service",
        "model": "llama3.1:8b",
        "node": "gpu1",
        "backend": "cuda",
        "runner": "cuda_v12",
        "gpus": [{"id": "GPU-1b2c", "index": 0, "layers": 32, "vram_mib": 7327}],
        "port": 11500,
        "context": 8192,
        "parallel": 4,
        "kv_cache_type": "q8_0",
        "batch": 1024,
        "tokens_per_second": 71.0,
    }


def test_there_and_back(plan: Plan, document: dict[str, t.Any]) -> None:
    """All survives but speeds beyond one decimal; through JSON and Ansible's texts alike."""
    rounded = dataclasses.replace(
        plan, replicas=tuple(dataclasses.replace(r, speed=round(r.speed / 100) * 100) for r in plan.replicas)
    )
    assert plan_from_dict(json.loads(json.dumps(document))) == rounded
    read = plan_from_dict(tagged(document))
    assert read == rounded
    assert plan_to_dict(read) == document


def test_texts_become_plain(document: dict[str, t.Any]) -> None:
    read = plan_from_dict(tagged(document))
    replica = read.replicas[0]
    texts = [replica.id, replica.model, replica.node, replica.gpus[0].id, replica.kv_cache_type, read.fleet_digest]
    texts += [*read.survivability.strong_lost_with, *read.survivability.weak_at_risk, read.status]
    assert {type(text) for text in texts} == {str}


def test_what_a_node_adds_is_left_aside(document: dict[str, t.Any]) -> None:
    fact = {**document["replicas"][0], "state": "active", "resident": True, "vram_measured_mib": {}, "pids": [1]}
    assert running_from_dict(fact).id == document["replicas"][0]["id"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 2, "plan.schema: this version reads schema 1, not 2"),
        (("status",), "fine", "plan.status: expected one of optimal, feasible, infeasible, got 'fine'"),
        (("replicas",), {}, "plan.replicas: expected a list, got {}"),
        (("replicas", 0), "x", "plan.replicas[0]: expected a mapping, got str"),
        (("replicas", 0, "port"), "11500", "plan.replicas[0].port: expected an integer of 0 or more, got '11500'"),
        (("replicas", 0, "port"), True, "plan.replicas[0].port: expected an integer of 0 or more, got True"),
        (("replicas", 0, "gpus"), [], "plan.replicas[0].gpus: expected at least one GPU"),
        (("replicas", 0, "gpus", 0, "layers"), -1, "plan.replicas[0].gpus[0].layers: expected an integer of 0 or more"),
        (("replicas", 0, "tokens_per_second"), "9", "plan.replicas[0].tokens_per_second: expected a number"),
        (("replicas", 0, "tokens_per_second"), float("nan"), "plan.replicas[0].tokens_per_second: expected a number"),
        (("replicas", 0, "node"), 7, "plan.replicas[0].node: expected text, got 7"),
        (("solver", "reproducible"), "yes", "plan.solver.reproducible: expected true or false, got 'yes'"),
        (("unplaced", 0, "priority"), 1.5, "plan.unplaced[0].priority: expected an integer, got 1.5"),
        (("survivability", "weak", "at_risk"), [1], "plan.survivability.weak.at_risk: expected a list of texts"),
    ],
)
def test_a_malformed_plan_names_its_key(
    document: dict[str, t.Any], path: tuple[t.Any, ...], value: object, message: str
) -> None:
    broken = copy.deepcopy(document)
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(DocumentError) as caught:
        plan_from_dict(broken)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["schema", "solver", "replicas", "survivability", "fleet_digest"])
def test_a_missing_key_is_named(document: dict[str, t.Any], key: str) -> None:
    broken = {name: value for name, value in document.items() if name != key}
    with pytest.raises(DocumentError, match=rf"^plan\.{key}: missing$"):
        plan_from_dict(broken)


@pytest.mark.parametrize("value", [None, [], "plan", 3])
def test_what_is_no_mapping_is_no_plan(value: object) -> None:
    with pytest.raises(DocumentError, match="plan: expected a mapping"):
        plan_from_dict(value)
    assert not same_plan(value, value)


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        (("replicas", 0, "tokens_per_second"), 1.0, True),
        (("status",), "feasible", True),
        (("objectives",), [], True),
        (("unplaced", 0, "reason"), "other", True),
        (("survivability", "strong", "value"), 9, True),
        (("unplaced", 0, "missing"), 9, False),
        (("unplaced", 0, "model"), "other", False),
        (("unplaced",), [], False),
        (("replicas", 0, "port"), 11999, False),
        (("replicas", 0, "gpus", 0, "vram_mib"), 1, False),
        (("replicas",), [], False),
        (("replicas", 0, "node"), 7, False),
        (("fleet_digest",), "0" * 64, False),
        (("catalog_digest",), "0" * 64, False),
    ],
)
def test_same_plan(document: dict[str, t.Any], path: tuple[t.Any, ...], value: object, same: bool) -> None:
    other = copy.deepcopy(document)
    place = other
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert same_plan(document, other) is same
    assert same_plan(document, tagged(copy.deepcopy(document)))


def test_transition_document() -> None:
    transition = Transition(
        keep=("a--1",),
        start=("b--2",),
        stop=(Stop("b--1", "gpu1", "sdai-ollama@b--1.service"),),
        move_mib=5_530,
        waves=(Wave((), ("b--1",), ("b",)), Wave(("b--2",), ())),
    )
    assert transition_to_dict(transition) == {
        "keep": ["a--1"],
        "start": ["b--2"],
        "stop": [{"id": "b--1", "node": "gpu1", "unit": "sdai-ollama@b--1.service"}],
        "move_gib": 5.4,
        "waves": [
            {"start": [], "stop": ["b--1"], "breaks": ["b"]},
            {"start": ["b--2"], "stop": [], "breaks": []},
        ],
    }
