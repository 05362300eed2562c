# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The mapping from the plan to what the roles take."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._deploy import (
    answer_fault,
    chat_models,
    frontend_models,
    launch_parameters,
    launch_probes,
    replica_fault,
)

PROBES = {"chat": {"prompt": "Capital?", "pattern": "(?i)paris"}, "embedding": {"prompt": "Paris", "pattern": ""}}
CATALOG = {
    "llama3.1:8b": {
        "kind": "chat",
        "architecture": "llama",
        "parameter_size": "8.0B",
        "quantization_level": "Q4_K_M",
        "size_bytes": 49,
    },
    "nomic-embed-text:latest": {"kind": "embedding"},
}
MODELS = [{"name": "llama3.1:8b"}, {"name": "nomic-embed-text"}, {"name": "mine", "source": "llama3.1:8b"}]
GPUS = [{"id": "GPU-a", "architecture": "sm_61"}, {"id": "GPU-b", "architecture": "sm_52"}]


def replica(
    identity: str, model: str = "llama3.1:8b", gpus: tuple[str, ...] = ("GPU-a",), **more: t.Any
) -> dict[str, t.Any]:
    return {
        "id": identity,
        "model": model,
        "node": "gpu1",
        "backend": "cuda",
        "gpus": [{"id": gpu, "vram_mib": 1000} for gpu in gpus],
        "port": 11500,
        "context": 8192,
        "parallel": 4,
        **more,
    }


@pytest.mark.parametrize(
    ("gpus", "backend", "on"),
    [
        (("GPU-a",), "cuda", True),
        (("GPU-b",), "cuda", False),
        (("GPU-a", "GPU-b"), "cuda", False),
        (("GPU-b",), "vulkan", True),
    ],
)
def test_flash_attention_is_on_where_every_gpu_has_it(gpus: tuple[str, ...], backend: str, on: bool) -> None:
    (launched,) = launch_parameters([replica("x--1", gpus=gpus, backend=backend)], MODELS, CATALOG, PROBES, GPUS)
    assert launched["flash_attention"] is on


@pytest.mark.parametrize(
    ("model", "source", "kind"),
    [
        ("llama3.1:8b", "llama3.1:8b", "chat"),
        ("nomic-embed-text:latest", "nomic-embed-text:latest", "embedding"),
        ("mine:latest", "llama3.1:8b", "chat"),
    ],
)
def test_source_and_probe_come_from_the_catalog(model: str, source: str, kind: str) -> None:
    (launched,) = launch_parameters([replica("x--1", model=model)], MODELS, CATALOG, PROBES, GPUS)
    assert launched["source"] == source
    assert launched["probe"] == {"kind": kind, **PROBES[kind]}
    assert launched["port"] == 11500


def test_frontends_get_one_entry_a_model_with_all_its_servers() -> None:
    fact = {
        "id": "a--1",
        "digest": "ab" * 32,
        "size_bytes": 7,
        "modified_at": "2026-01-01T00:00:00Z",
        "details": {"family": "llama"},
    }
    models = frontend_models(
        [replica("a--2", node="gpu2", port=11501), replica("b--1", model="other:latest"), replica("a--1")],
        [fact],
        {"gpu1": "10.0.0.1", "gpu2": "10.0.0.2"},
        CATALOG,
    )
    assert [(model["name"], model["context"]) for model in models] == [("llama3.1:8b", 8192), ("other:latest", 8192)]
    assert models[0]["servers"] == [
        {"id": "a--1", "address": "10.0.0.1", "port": 11500, "parallel": 4, "context": 8192},
        {"id": "a--2", "address": "10.0.0.2", "port": 11501, "parallel": 4, "context": 8192},
    ]
    assert (models[0]["digest"], models[0]["size"], models[0]["details"]) == ("ab" * 32, 7, {"family": "llama"})


def test_a_planned_model_that_nothing_serves_now_keeps_its_place_without_servers() -> None:
    serving = [replica("a--1")]
    planned = [*serving, replica("a--2"), replica("b--1", model="other:latest")]
    models = frontend_models(serving, [], {"gpu1": "10.0.0.1"}, CATALOG, planned)
    assert [(model["name"], len(model["servers"])) for model in models] == [("llama3.1:8b", 1), ("other:latest", 0)]


def test_while_a_context_changes_the_smaller_one_is_promised() -> None:
    """The servers keep their own: the frontend's health check goes by it."""
    replicas = [replica("a--1"), replica("a--2", context=4096)]
    for order in (replicas, replicas[::-1]):
        (model,) = frontend_models(order, [], {"gpu1": "10.0.0.1"}, CATALOG)
        assert model["context"] == 4096
        assert [server["context"] for server in model["servers"]] == [8192, 4096]


def test_a_replica_that_does_not_run_yet_is_described_by_the_catalog() -> None:
    (model,) = frontend_models([replica("a--1")], [], {"gpu1": "10.0.0.1"}, CATALOG)
    assert model["size"] == 49
    assert re.fullmatch(r"[0-9a-f]{64}", model["digest"])
    assert model["details"]["parameter_size"] == "8.0B"


def as_it_runs(**more: t.Any) -> dict[str, t.Any]:
    """A replica as replica_facts returns it."""
    running = replica("x--1", unit="sdai-ollama@x--1.service", runner="cuda_v12", address="10.0.0.1", **more)
    running["gpus"] = [{"id": "GPU-a", "index": 0, "layers": 32, "vram_mib": 1000}]
    proof = {"blob_bytes": 1, "load_seconds": 60, "probe": {"kind": "chat", **PROBES["chat"]}}
    return proof | {"state": "active", "resident": True, "vram_measured_mib": {"GPU-a": 1000}} | running | more


def test_each_running_model_is_asked_once() -> None:
    embedding = {"kind": "embedding", **PROBES["embedding"]}
    questions = launch_probes([as_it_runs(model="b:latest", probe=embedding), as_it_runs(), as_it_runs()])
    assert [(question["model"], question["path"]) for question in questions] == [
        ("b:latest", "/v1/embeddings"),
        ("llama3.1:8b", "/v1/chat/completions"),
    ]


@pytest.mark.parametrize(
    ("running", "fault"),
    [
        (as_it_runs(), ""),
        (as_it_runs(vram_measured_mib={"GPU-a": 950}), ""),
        (as_it_runs(vram_measured_mib={"GPU-a": 1000, "GPU-b": 64}), ""),
        (as_it_runs(vram_measured_mib={"GPU-a": 949}), "holds 949 MiB on GPU GPU-a"),
        (as_it_runs(vram_measured_mib={}), "holds 0 MiB on GPU GPU-a"),
        (as_it_runs(vram_measured_mib={"GPU-a": 1000, "GPU-b": 65}), "not planned for it"),
        (as_it_runs(state="failed"), "its unit is failed"),
        (as_it_runs(resident=False), "wholly in VRAM"),
    ],
)
def test_a_replica_must_be_as_planned(running: dict[str, t.Any], fault: str) -> None:
    found = replica_fault(running)
    assert fault in found
    assert bool(found) is bool(fault)


def chat_answer(content: str) -> dict[str, t.Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (chat_answer("It is Paris."), ""),
        (chat_answer("@@GG"), "garbage"),
        ({"model": "paris", "choices": []}, "form"),
        ({}, "form"),
    ],
)
def test_the_answer_itself_is_judged(answer: dict[str, t.Any], fault: str) -> None:
    (question,) = launch_probes([as_it_runs()])
    found = answer_fault(answer, question)
    assert fault in found
    assert bool(found) is bool(fault)


@pytest.mark.parametrize(("numbers", "right"), [([0.1, -0.2], True), ([0.0, 0.0], False), ([], False)])
def test_an_embedding_is_numbers_that_say_something(numbers: list[float], right: bool) -> None:
    (question,) = launch_probes([as_it_runs(probe={"kind": "embedding", **PROBES["embedding"]})])
    assert (answer_fault({"data": [{"embedding": numbers}]}, question) == "") is right


def placed(model: str, *vram_mib: int) -> dict[str, t.Any]:
    return {"model": model, "gpus": [{"vram_mib": each} for each in vram_mib]}


@pytest.mark.parametrize(
    ("replicas", "default", "task"),
    [
        ([placed("mine:latest", 900), placed("llama3.1:8b", 7000)], "llama3.1:8b", "mine:latest"),
        # By weight where priorities are equal; split over two GPUs it takes what both hold.
        ([placed("heavy:latest", 500, 500), placed("mine:latest", 900)], "heavy:latest", "mine:latest"),
        # One that makes embeddings answers nobody.
        ([placed("nomic-embed-text:latest", 300), placed("mine:latest", 900)], "mine:latest", "mine:latest"),
        ([placed("nomic-embed-text:latest", 300)], "", ""),
        ([], "", ""),
    ],
)
def test_the_chat_page_gets_two_of_the_placed_models(replicas: list[dict[str, t.Any]], default: str, task: str) -> None:
    models = [
        {"name": "mine", "priority": 10},
        {"name": "heavy", "priority": 10, "weight": 5},
        {"name": "llama3.1:8b", "priority": 90},
        {"name": "nomic-embed-text", "priority": 100},
    ]
    assert chat_models(replicas, models, CATALOG) == {"default": default, "task": task}
