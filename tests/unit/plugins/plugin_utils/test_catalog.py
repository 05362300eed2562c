# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._catalog import (
    Footprint,
    Wanted,
    normalise,
    read_models,
    same_name,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Constraints
from ansible_collections.aivailable.sdai.plugins.plugin_utils._validate import Findings, InputError


def read(*models: object) -> tuple[Wanted, ...]:
    findings = Findings()
    wanted = read_models(list(models), findings)
    findings.check()
    return wanted


def refusal(*models: object) -> str:
    with pytest.raises(InputError) as caught:
        read(*models)
    return str(caught.value)


def test_a_name_is_enough() -> None:
    assert read({"name": "llama3.1"}) == (
        Wanted(
            key="sdai_models[0]",
            name="llama3.1:latest",
            source="llama3.1:latest",
            context=8192,
            parallel=1,
            kv_cache_type="f16",
            replicas_min=1,
            replicas_max=1,
            priority=50,
            weight=1,
            demand=None,
            min_speed=0,
        ),
    )


def test_everything_that_can_be_said() -> None:
    """The contract's example, value by value."""
    (model,) = read(
        {
            "name": "llama3.1:8b",
            "source": "hf.co/meta/llama:Q4_K_M",
            "context": 8192,
            "parallel": 4,
            "kv_cache_type": "q8_0",
            "replicas": {"min": 2, "max": 4},
            "priority": 100,
            "demand": 150.5,
            "weight": 3,
            "min_tokens_per_second": "10",
            "constraints": {
                "vendors": ["nvidia"],
                "min_compute_capability": "7.0",
                "labels": {"room": "a", "floor": 2},
                "nodes": ["gpu1"],
                "gpus": ["gpu1/GPU-1b2c"],
                "exclude_nodes": ["gpu2"],
                "exclude_gpus": ["gpu1/0000:01:00.0"],
                "spread": "domain",
            },
            "footprint": {"layers": 32, "weights_mib": 4403, "kv_mib": 2176, "compute_mib": 248, "active_mib": 4400},
        }
    )
    assert model.source == "hf.co/meta/llama:Q4_K_M"
    assert (model.context, model.parallel, model.kv_cache_type, model.batch) == (8192, 4, "q8_0", 1024)
    assert (model.replicas_min, model.replicas_max, model.priority, model.weight) == (2, 4, 100, 3)
    assert (model.demand, model.min_speed) == (150_500, 10_000)
    assert model.constraints == Constraints(
        vendors=("nvidia",),
        min_compute_capability=(7, 0),
        labels={"room": "a", "floor": "2"},
        nodes=("gpu1",),
        gpus=("gpu1/GPU-1b2c",),
        exclude_nodes=("gpu2",),
        exclude_gpus=("gpu1/0000:01:00.0",),
        spread="domain",
    )
    assert model.footprint == Footprint(32, 4403, 2176, 248, 4400, 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("gguf: /models/a.gguf", "gguf:/models/a.gguf"),
        ({"gguf": "/models/a.gguf"}, "gguf:/models/a.gguf"),
        ("mirror:5000/library/llama3.1", "mirror:5000/library/llama3.1:latest"),
        (None, "m:latest"),
    ],
)
def test_sources(given: object, expected: str) -> None:
    assert read({"name": "m", "source": given})[0].source == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3.1", "llama3.1:latest"),
        ("llama3.1:8b", "llama3.1:8b"),
        ("mirror:5000/ns/llama", "mirror:5000/ns/llama:latest"),
    ],
)
def test_no_tag_means_latest(name: str, expected: str) -> None:
    assert normalise(name) == expected
    assert normalise(expected) == expected


def test_names_that_ollama_takes_for_one() -> None:
    assert {same_name(name) for name in ("tiny", "TINY", "Tiny:LATEST", "library/tiny")} == {"tiny:latest"}


@pytest.mark.parametrize("given", [7.5, "7.5"])
def test_compute_capability_may_be_a_number(given: object) -> None:
    (model,) = read({"name": "m", "constraints": {"min_compute_capability": given}})
    assert model.constraints.min_compute_capability == (7, 5)


def with_rules(**rules: object) -> dict[str, t.Any]:
    return {"name": "m", "constraints": rules}


@pytest.mark.parametrize(
    ("models", "key", "problem"),
    [
        pytest.param([{}], "sdai_models[0].name", "is missing", id="no name"),
        pytest.param([{"name": 7}], "sdai_models[0].name", "7 is not text", id="name is a number"),
        pytest.param([{"name": "a b"}], "sdai_models[0].name", '"a b" is not of that form', id="name with a blank"),
        pytest.param([{"name": "a:"}], "sdai_models[0].name", '"a:" is not of that form', id="empty tag"),
        pytest.param([{"name": "../a"}], "sdai_models[0].name", '"../a" is not of that form', id="path"),
        pytest.param([{"name": "big:cloud"}], "sdai_models[0].name", "outside the lab", id="cloud model"),
        pytest.param(["llama3.1:8b"], "sdai_models[0]", "not a mapping", id="model is text"),
        pytest.param([{"name": "m", "ctx": 1}], "sdai_models[0].ctx", "not a key", id="unknown key"),
        pytest.param([{"name": "m"}, {"name": "M:latest"}], "sdai_models[1].name", "already the name", id="twice"),
        pytest.param([{"name": "m", "context": "8k"}], "sdai_models[0].context", "not a whole number", id="context"),
        pytest.param([{"name": "m", "context": -1}], "sdai_models[0].context", "-1 is negative", id="negative"),
        pytest.param([{"name": "m", "parallel": 0}], "sdai_models[0].parallel", "0 is below 1", id="parallel"),
        pytest.param(
            [{"name": "m", "kv_cache_type": "q8"}], "sdai_models[0].kv_cache_type", '"q8" is not possible', id="KV type"
        ),
        pytest.param(
            [{"name": "m", "replicas": {"min": 3, "max": 2}}],
            "sdai_models[0].replicas.min",
            "more than max",
            id="min > max",
        ),
        pytest.param([{"name": "m", "replicas": 2}], "sdai_models[0].replicas", "not a mapping", id="replicas"),
        pytest.param([{"name": "m", "priority": "high"}], "sdai_models[0].priority", "not a whole", id="priority"),
        pytest.param([{"name": "m", "demand": -2}], "sdai_models[0].demand", "-2 is negative", id="demand"),
        pytest.param(
            [{"name": "m", "footprint": {"layers": 2}}],
            "sdai_models[0].footprint.weights_mib",
            "missing",
            id="footprint",
        ),
        pytest.param(
            [with_rules(min_compute_capability="seven")],
            "sdai_models[0].constraints.min_compute_capability",
            "not a compute capability",
            id="compute capability",
        ),
        pytest.param(
            [with_rules(vendors=["intel"])], "sdai_models[0].constraints.vendors[0]", "not possible", id="vendor"
        ),
        pytest.param([with_rules(vendors="amd")], "sdai_models[0].constraints.vendors", "not a list", id="no list"),
        pytest.param([with_rules(spread="far")], "sdai_models[0].constraints.spread", "not possible", id="spread"),
        pytest.param([with_rules(gpus=["GPU-1"])], "sdai_models[0].constraints.gpus[0]", "form", id="GPU without node"),
        pytest.param(
            [with_rules(nodes=["a"], exclude_nodes=["a"])],
            "sdai_models[0].constraints.exclude_nodes",
            "contradicts nodes: every node named is excluded",
            id="contradictory nodes",
        ),
        pytest.param(
            [with_rules(gpus=["a/1"], exclude_nodes=["a"])],
            "sdai_models[0].constraints.exclude_nodes",
            "contradicts gpus: the nodes of all GPUs named are excluded",
            id="GPU on an excluded node",
        ),
        pytest.param(
            [with_rules(vendors=["amd"], min_compute_capability="7.0")],
            "sdai_models[0].constraints.min_compute_capability",
            "contradicts vendors: only NVIDIA GPUs have a compute capability",
            id="compute capability of AMD",
        ),
        pytest.param(
            [{"name": "m", "source": "gguf: a.gguf"}], "sdai_models[0].source", "not of that form", id="relative path"
        ),
    ],
)
def test_one_error_with_key_and_remedy(models: list[object], key: str, problem: str) -> None:
    message = refusal(*models)
    assert "\n" not in message.replace("\n- ", "") or "values of the inventory are wrong" in message
    line = next(line for line in message.splitlines() if line.removeprefix("- ").startswith(f"{key} ("))
    assert problem in line
    assert line.endswith((".", "?"))


@pytest.mark.parametrize(("given", "problem"), [(None, "is missing"), ("llama", "not a list"), (7, "not a list")])
def test_the_list_itself(given: object, problem: str) -> None:
    findings = Findings()
    assert read_models(given, findings) == ()
    assert [(item.key, problem in item.problem) for item in findings.items] == [("sdai_models", True)]
