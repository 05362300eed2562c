# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What keeps a replica on its GPUs, and what counts as proof that it is there."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama import Loaded
from ansible_collections.aivailable.sdai.plugins.module_utils._replica import (
    Replica,
    ReplicaError,
    check_answer,
    check_embedding,
    check_environment,
    check_ps,
    check_vram,
    fixed_selectors,
    resolved_selectors,
    vulkan_indices,
)

NVIDIA = "GPU-1b06a1de-0001-4a11-8c01-000000000001"
OTHER = "GPU-1b38a1de-0002-4a11-8c01-000000000002"
AMD = "GPU-7900a1de00000003"
PCI = "0000:0a:00.0"
NUMBERS = {AMD: ("0000:03:00.0", 0), PCI: (PCI, 1), NVIDIA: ("0000:01:00.0", None)}
VULKANINFO = """
Device Properties and Extensions:
=================================
GPU0:
VkPhysicalDeviceProperties:
---------------------------
	apiVersion        = 1.3.255 (4206847)
	deviceName        = AMD Radeon RX 7900 XTX
VkPhysicalDevicePCIBusInfoPropertiesEXT:
----------------------------------------
	pciDomain   = 0
	pciBus      = 3
	pciDevice   = 0
	pciFunction = 0

GPU1:
VkPhysicalDevicePCIBusInfoPropertiesEXT:
----------------------------------------
	pciDomain   = 0
	pciBus      = 10
	pciDevice   = 0
	pciFunction = 0
"""


def replica(backend: str = "cuda", gpus: t.Sequence[tuple[str, int, int]] = ((NVIDIA, 16, 1000),)) -> Replica:
    """``gpus``: id, layers, MiB."""
    return Replica.from_dict(
        {
            "id": "tiny--1",
            "unit": "sdai-ollama@tiny--1.service",
            "model": "tiny",
            "backend": backend,
            "runner": {"cuda": "cuda_v12", "rocm": "rocm_v7_2", "vulkan": "vulkan"}[backend],
            "gpus": [
                {"id": gpu_id, "index": index, "layers": layers, "vram_mib": mib}
                for index, (gpu_id, layers, mib) in enumerate(gpus)
            ],
            "address": "10.0.0.11",
            "port": 11500,
            "context": 2048,
            "probe": {"kind": "chat", "prompt": "Capital of France?", "pattern": "paris"},
            "blob_bytes": 500,
            "load_seconds": 300,
        }
    )


@pytest.mark.parametrize(
    ("backend", "gpus", "wanted", "unset"),
    [
        (
            "cuda",
            [(NVIDIA, 16, 1)],
            {"OLLAMA_LLM_LIBRARY": "cuda_v12", "CUDA_VISIBLE_DEVICES": NVIDIA, "GGML_VK_VISIBLE_DEVICES": "-1"},
            [],
        ),
        (
            "rocm",
            [(AMD, 16, 1)],
            {"ROCR_VISIBLE_DEVICES": AMD, "HIP_VISIBLE_DEVICES": "0", "GGML_VK_VISIBLE_DEVICES": "-1"},
            ["CUDA_VISIBLE_DEVICES"],
        ),
        ("rocm", [(AMD, 8, 1), (PCI, 8, 1)], {"HIP_VISIBLE_DEVICES": "0,1"}, ["CUDA_VISIBLE_DEVICES"]),
        ("vulkan", [(PCI, 16, 1)], {"OLLAMA_LLM_LIBRARY": "vulkan"}, []),
        (
            "cuda",
            [(NVIDIA, 10, 1), (OTHER, 6, 1)],
            {
                "CUDA_VISIBLE_DEVICES": f"{NVIDIA},{OTHER}",
                "OLLAMA_SCHED_SPREAD": "1",
                "LLAMA_ARG_TENSOR_SPLIT": "10,7",
            },
            [],
        ),
    ],
)
def test_selectors_of_each_kind(
    backend: str, gpus: list[tuple[str, int, int]], wanted: dict[str, str], unset: list[str]
) -> None:
    """The design's table: each family hides the others' cards, and a split says where its layers go."""
    found = fixed_selectors(replica(backend, gpus))
    assert wanted.items() <= found.items()
    assert [name for name, value in found.items() if value is None] == unset
    assert ("LLAMA_ARG_TENSOR_SPLIT" in found) == (len(gpus) > 1)


def test_every_selector_is_missed() -> None:
    """Whichever is taken out or changed, the unit must not start, and the message names it."""
    for backend, gpus in [("cuda", [(NVIDIA, 9, 1), (OTHER, 7, 1)]), ("rocm", [(AMD, 16, 1)])]:
        wanted = fixed_selectors(replica(backend, gpus))
        environ = {name: value for name, value in wanted.items() if value is not None}
        check_environment(wanted, environ)
        for name in environ:
            with pytest.raises(ReplicaError, match=f"^{name} is missing"):
                check_environment(wanted, {key: value for key, value in environ.items() if key != name})
            with pytest.raises(ReplicaError, match=f"^{name} is 'x'"):
                check_environment(wanted, {**environ, name: "x"})


def test_selector_that_must_be_absent() -> None:
    wanted = fixed_selectors(replica("rocm", [(AMD, 16, 1)]))
    environ = {name: value for name, value in wanted.items() if value is not None}
    with pytest.raises(ReplicaError, match="CUDA_VISIBLE_DEVICES must not be set"):
        check_environment(wanted, {**environ, "CUDA_VISIBLE_DEVICES": "-1"})


def test_numbers_are_looked_up_at_each_start() -> None:
    vulkan = vulkan_indices(VULKANINFO)
    assert vulkan == {"0000:03:00.0": 0, "0000:0a:00.0": 1}
    assert resolved_selectors(replica("vulkan", [(PCI, 1, 1)]), NUMBERS, vulkan) == {"GGML_VK_VISIBLE_DEVICES": "1"}
    assert resolved_selectors(replica("vulkan", [(AMD, 1, 1)]), NUMBERS, vulkan) == {"GGML_VK_VISIBLE_DEVICES": "0"}
    assert resolved_selectors(replica("rocm", [(AMD, 1, 1), (PCI, 1, 1)]), NUMBERS, {}) == {
        "ROCR_VISIBLE_DEVICES": f"{AMD},1"
    }
    assert resolved_selectors(replica("rocm", [(AMD, 1, 1)]), NUMBERS, {}) == {}
    assert resolved_selectors(replica(), NUMBERS, {}) == {}


@pytest.mark.parametrize("backend", ["vulkan", "rocm"])
def test_card_that_is_not_counted(backend: str) -> None:
    with pytest.raises(ReplicaError, match="offers no device for GPU 0000:ff"):
        resolved_selectors(replica(backend, [("0000:ff:00.0", 1, 1)]), NUMBERS, {})


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({NVIDIA: 1000}, ""),
        ({NVIDIA: 950}, ""),
        ({NVIDIA: 949}, "holds 949 MiB on GPU"),
        ({}, "holds 0 MiB on GPU"),
        ({NVIDIA: 1000, OTHER: 64}, ""),
        ({NVIDIA: 1000, OTHER: 65}, f"holds 65 MiB on GPU {OTHER}, which is not planned"),
        ({OTHER: 1000}, "holds 0 MiB on GPU"),
    ],
)
def test_vram_is_where_it_is_planned(held: dict[str, int], words: str) -> None:
    if not words:
        check_vram(replica(), held)
    else:
        with pytest.raises(ReplicaError, match=words):
            check_vram(replica(), held)


def loaded(name: str = "tiny:latest", size: int = 900, vram: int = 900, context: int = 2048) -> Loaded:
    return Loaded(name=name, digest="ab", size=size, size_vram=vram, context=context)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([loaded()], ""),
        ([], "lists 0 models"),
        ([loaded(), loaded()], "lists 2 models"),
        ([loaded(name="other:latest")], "planned is 'tiny:latest'"),
        ([loaded(context=1024)], "context 1024, planned is 2048"),
        ([loaded(vram=899)], "899 of 900 bytes"),
        ([loaded(size=0, vram=0)], "0 of 0 bytes"),
        ([loaded(size=500, vram=500)], "repeats the file's size"),
    ],
)
def test_servers_own_word(models: list[Loaded], words: str) -> None:
    if not words:
        check_ps(replica(), models)
    else:
        with pytest.raises(ReplicaError, match=words):
            check_ps(replica(), models)


def test_known_answer() -> None:
    check_answer(replica(), "<think>hm</think>\nIt is Paris.")
    with pytest.raises(ReplicaError, match=r"got 'GGGG'.*garbage"):
        check_answer(replica(), " GGGG ")
    check_embedding(replica(), [0.0, 0.5])
    for numbers in ([], [0.0, 0.0], [0.5, float("nan")], [float("inf")]):
        with pytest.raises(ReplicaError, match="garbage"):
            check_embedding(replica(), numbers)


def test_damaged_description() -> None:
    with pytest.raises(ReplicaError, match=r"damaged.*run the role again"):
        Replica.from_dict({"id": "tiny--1"})
