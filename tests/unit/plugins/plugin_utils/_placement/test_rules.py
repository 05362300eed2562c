# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a model may go, and settings that exclude each other."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.errors import ContradictionError
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Constraints, Node
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.rules import (
    check_model,
    compute_capability,
    eligibility,
)
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import gpu, model

CARD = gpu("gpu1", "GPU-a", 10_000)
HOST = Node("gpu1", "rack1", {"room": "a"})


@pytest.mark.parametrize(
    ("architecture", "wanted"),
    [("sm_61", (6, 1)), ("sm_120", (12, 0)), ("gfx1100", None), ("sm_", None), ("sm_x1", None), ("", None)],
)
def test_compute_capability(architecture: str, wanted: tuple[int, int] | None) -> None:
    assert compute_capability(gpu("n", "g", 1, architecture=architecture)) == wanted


@pytest.mark.parametrize(
    ("constraints", "reason"),
    [
        ({}, None),
        ({"nodes": ("gpu1",), "gpus": ("gpu1/GPU-a",), "vendors": ("nvidia", "amd"), "labels": {"room": "a"}}, None),
        ({"min_compute_capability": (6, 1)}, None),
        ({"nodes": ("gpu2",)}, "constraints.nodes"),
        ({"exclude_nodes": ("gpu1",)}, "constraints.exclude_nodes"),
        ({"gpus": ("gpu2/GPU-a",)}, "constraints.gpus"),
        ({"exclude_gpus": ("gpu1/GPU-a",)}, "constraints.exclude_gpus"),
        ({"vendors": ("amd",)}, "vendor nvidia is not in constraints.vendors"),
        ({"labels": {"room": "b"}}, "lacks the label room: b"),
        ({"labels": {"floor": "2"}}, "lacks the label floor: 2"),
        ({"min_compute_capability": (7, 0)}, "compute capability 6.1 is below constraints.min_compute_capability 7.0"),
    ],
)
def test_each_constraint_refuses_by_name(constraints: dict[str, t.Any], reason: str | None) -> None:
    refused = eligibility(model("m", 5000, constraints=Constraints(**constraints)), CARD, HOST)
    if reason is None:
        assert refused is None
    else:
        assert refused is not None
        assert reason in refused


def test_an_amd_gpu_has_no_compute_capability() -> None:
    card = gpu("gpu1", "GPU-a", 10_000, vendor="amd", architecture="gfx1100")
    refused = eligibility(model("m", 5000, constraints=Constraints(min_compute_capability=(5, 0))), card, HOST)
    assert refused == "gfx1100 has no compute capability, constraints.min_compute_capability asks for 5.0"


def test_an_unusable_gpu_is_refused_with_the_reason_of_the_facts() -> None:
    card = gpu("gpu1", "GPU-a", 10_000, usable=False, reason="no driver")
    assert eligibility(model("m", 5000), card, HOST) == "not usable: no driver"


def test_a_kind_that_cannot_hold_the_model_says_why() -> None:
    wish = model("m", {}, ineligible={"slow": "q8_0 needs flash attention"})
    assert eligibility(wish, CARD, HOST) == "q8_0 needs flash attention"
    assert eligibility(model("m", {}), CARD, HOST) == "no runner of the GPU can hold the model"


@pytest.mark.parametrize(
    ("min_speed", "reason"),
    [(10_000, None), (10_001, "10.0 tokens/s is below min_tokens_per_second 10.0"), (0, None)],
)
def test_minimum_speed(min_speed: int, reason: str | None) -> None:
    assert eligibility(model("m", 5000, tokens=10.0, min_speed=min_speed), CARD, HOST) == reason


@pytest.mark.parametrize(
    ("constraints", "least", "keys"),
    [
        ({"nodes": ("a",), "exclude_nodes": ("a", "b")}, 1, ("constraints.nodes", "constraints.exclude_nodes")),
        ({"gpus": ("a/x",), "exclude_gpus": ("a/x",)}, 1, ("constraints.gpus", "constraints.exclude_gpus")),
        ({"gpus": ("a/x",), "exclude_nodes": ("a",)}, 1, ("constraints.gpus", "constraints.exclude_nodes")),
        ({"gpus": ("a/x",), "nodes": ("b",)}, 1, ("constraints.gpus", "constraints.nodes")),
        (
            {"vendors": ("amd",), "min_compute_capability": (7, 0)},
            1,
            ("constraints.vendors", "constraints.min_compute_capability"),
        ),
        ({}, 3, ("replicas.min", "replicas.max")),
    ],
)
def test_contradictions_name_the_model_and_both_keys(
    constraints: dict[str, t.Any], least: int, keys: tuple[str, str]
) -> None:
    with pytest.raises(ContradictionError) as caught:
        check_model(model("llama", 5000, least=least, most=2, constraints=Constraints(**constraints)))
    assert all(word in str(caught.value) for word in ("llama", *keys))


@pytest.mark.parametrize(
    "constraints",
    [
        {"nodes": ("a", "b"), "exclude_nodes": ("a",)},
        {"gpus": ("a/x", "b/x"), "nodes": ("b",)},
        {"vendors": ("amd", "nvidia"), "min_compute_capability": (7, 0)},
    ],
)
def test_constraints_that_leave_something_do_not_contradict(constraints: dict[str, t.Any]) -> None:
    check_model(model("m", 5000, constraints=Constraints(**constraints)))
