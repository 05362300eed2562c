# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import build_problem, read_options
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Options
from ansible_collections.aivailable.sdai.plugins.plugin_utils._validate import InputError
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils.fleet_builders import card, explicit, problem


@pytest.mark.parametrize(
    ("arguments", "start", "remedy"),
    [
        pytest.param(
            {"cards": "GPU-1"},
            "sdai_gpus (host gpu1): is",
            "list of GPUs, as gpu_facts returns it",
            id="no list of GPUs",
        ),
        pytest.param(
            {"cards": [card(vram_mib="11 GiB")]},
            'sdai_gpus[0].vram_mib (host gpu1): "11 GiB" is not a whole number.',
            "for example 11264",
            id="wrong type",
        ),
        pytest.param(
            {"cards": [card(vram_foreign_mib=-1)]},
            "sdai_gpus[0].vram_foreign_mib (host gpu1): -1 is negative.",
            "MiB that other processes hold",
            id="negative number",
        ),
        pytest.param(
            {"cards": [card(), card(index=1)]},
            'sdai_gpus[1].id (host gpu1): "GPU-1" is the id of sdai_gpus[0] too.',
            "its own id",
            id="duplicate id",
        ),
        pytest.param(
            {"cards": [card(), card(id="B")]},
            "sdai_gpus[1].index (host gpu1): 0 is the index of sdai_gpus[0] too.",
            "Number the GPUs",
            id="duplicate index",
        ),
        pytest.param(
            {"cards": [card(bandwith_gbs=1)]},
            "sdai_gpus[0].bandwith_gbs (host gpu1): is not a key that is known here.",
            "Did you mean bandwidth_gbs?",
            id="unknown key",
        ),
        pytest.param(
            {"cards": [card(vendor="intel")]},
            'sdai_gpus[0].vendor (host gpu1): "intel" is not possible.',
            "nvidia, amd",
            id="vendor",
        ),
        pytest.param(
            {"cards": [card(backends=["cuda12"])]},
            'sdai_gpus[0].backends[0] (host gpu1): "cuda12" is not a runner for NVIDIA cards.',
            "Did you mean cuda_v12?",
            id="runner",
        ),
        pytest.param(
            {"cards": [card(backends=["cuda_v12", "rocm_v7_2"])]},
            'sdai_gpus[0].backends[1] (host gpu1): "rocm_v7_2" is not a runner for NVIDIA cards.',
            "cuda_v13, cuda_v12, vulkan.",
            id="ROCm on NVIDIA",
        ),
        pytest.param(
            {"cards": [card(vendor="amd", architecture="gfx1100", backends=["cuda_v12"])]},
            'sdai_gpus[0].backends[0] (host gpu1): "cuda_v12" is not a runner for AMD cards.',
            "rocm_v7_2, vulkan.",
            id="CUDA on AMD",
        ),
        pytest.param(
            {"cards": [card(name="Accelerator 9000", bandwidth_gbs=None)]},
            "sdai_gpus[0].bandwidth_gbs (host gpu1): is missing",
            "data sheet",
            id="unknown card without bandwidth",
        ),
        pytest.param(
            {"cards": [card(efficiency=3)]},
            "sdai_gpus[0].efficiency (host gpu1): 3 is above 2.",
            "0.78",
            id="efficiency",
        ),
        pytest.param(
            {"host": {"labels": ["a"]}},
            "sdai_labels (host gpu1): is a list, not a mapping.",
            "label: value",
            id="labels",
        ),
        pytest.param(
            {"host": {"failure_domain": 7}},
            "sdai_failure_domain (host gpu1): 7 is not text.",
            "in quotes",
            id="failure domain",
        ),
        pytest.param(
            {"host": {"vram_margin_mib": -1}}, "sdai_vram_margin_mib (host gpu1): -1 is negative.", "1024", id="margin"
        ),
        pytest.param(
            {"host": {"vram_context_mib": {"cuda": "x"}}},
            'sdai_vram_context_mib.cuda (host gpu1): "x" is not a whole number.',
            "by family",
            id="engine context",
        ),
        pytest.param(
            {"speed": {"cuda": {"efficiency": 0}}},
            "sdai_speed.cuda.efficiency (all hosts): 0 is not above 0.",
            "0.78",
            id="speed",
        ),
        pytest.param(
            {"speed": {"metal": {}}}, "sdai_speed.metal (all hosts): is not a key", "cuda, rocm, vulkan", id="family"
        ),
        pytest.param(
            {"models": [{"name": "lama3.1:8b"}]},
            'sdai_models[0].name (model lama3.1:8b): "lama3.1:8b" is not in the catalog of known models.',
            "Did you mean llama3.1:8b?",
            id="unknown model",
        ),
        pytest.param(
            {"models": [{"name": "chat", "source": "hf.co/a/b:Q4"}]},
            'sdai_models[0].source (model chat): "hf.co/a/b:Q4" is not in the catalog of known models.',
            "footprint",
            id="unknown source",
        ),
        pytest.param(
            {"models": [{"name": "gemma2:9b", "context": 100_000}]},
            "sdai_models[0].context (model gemma2:9b): 100000 is more than gemma2:9b was trained for.",
            "at most 8192",
            id="context beyond training",
        ),
        pytest.param(
            {"models": [explicit(constraints={"nodes": ["gpu2"]})]},
            'sdai_models[0].constraints.nodes[0] (model mine:8b): "gpu2" is not a node of the inventory.',
            "Did you mean gpu1?",
            id="unknown node",
        ),
        pytest.param(
            {"models": [explicit(constraints={"exclude_gpus": ["gpu7/GPU-1"]})]},
            'sdai_models[0].constraints.exclude_gpus[0] (model mine:8b): "gpu7" is not a node',
            "gpu1",
            id="unknown node of a GPU",
        ),
        pytest.param(
            {"absent_nodes": ["gpu2"]},
            'sdai_absent_nodes[0] (all hosts): "gpu2" is not a node of the inventory.',
            "Did you mean gpu1?",
            id="absent node",
        ),
        pytest.param(
            {"absent_nodes": "gpu1"}, "sdai_absent_nodes (all hosts): is", "list of inventory host names", id="no list"
        ),
        pytest.param(
            {"fleet": {"gpu1": {}}},
            "sdai_gpus (host gpu1): no facts of its GPUs",
            "sdai_absent_nodes",
            id="unreachable node",
        ),
        pytest.param({"fleet": {}}, "fleet (all hosts): has no GPU nodes.", "gpu_nodes", id="no nodes"),
    ],
)
def test_one_error_names_key_host_and_remedy(arguments: dict[str, t.Any], start: str, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        problem(**arguments)
    message = str(caught.value)
    assert message.startswith(start)
    assert "\n" not in message
    assert remedy in message[len(start) :]


def test_constraints_may_name_absent_nodes() -> None:
    """A model pinned to a node that is away waits; it is no mistake."""
    fleet = {"gpu1": {"gpus": [card()]}, "gpu2": {}}
    planned = build_problem(
        fleet=fleet, models=[explicit(constraints={"nodes": ["gpu2"]})], catalog={}, absent_nodes=["gpu2"]
    )
    assert [node.name for node in planned.nodes] == ["gpu1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, Options()),
        (
            {"plan_seconds": "30", "min_gain": "0.1", "churn_budget_gib": 1.5, "replan": "true"},
            Options(30, 100, 1536, True),
        ),
        ({"churn_budget_gib": 0}, Options(churn_budget_mib=0)),
    ],
)
def test_options(arguments: dict[str, object], expected: Options) -> None:
    assert read_options(**arguments) == expected


def test_wrong_options_are_named() -> None:
    with pytest.raises(
        InputError, match=r"sdai_plan_seconds .*0 is below 1[\s\S]*sdai_replan .*neither true nor false"
    ):
        read_options(plan_seconds=0, replan="perhaps")
