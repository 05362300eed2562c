# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A replica as its node knows it: the selectors that keep it on its GPUs, and what counts as proof. No I/O."""

from __future__ import annotations

import math
import re
import typing as t
from dataclasses import dataclass

from ._ollama import Loaded
from ._ollama_store import Name

# A replica that holds less than this share of its plan has left a part of the model elsewhere.
RESIDENT_PERCENT = 95
# Listing the Vulkan devices leaves a little on every card of the node; a layer is larger than that.
STRAY_MIB = 64


class ReplicaError(Exception):
    """A replica that must not serve; the message is one line for the administrator."""


@dataclass(frozen=True)
class Share:
    """What a replica takes of one GPU."""

    id: str
    index: int
    layers: int
    vram_mib: int


@dataclass(frozen=True)
class Probe:
    """A question with a known answer. ``kind`` is chat or embedding; ``pattern`` is searched, case ignored."""

    kind: str
    prompt: str
    pattern: str


@dataclass(frozen=True)
class Replica:
    """What /etc/sdai/replicas/<id>.json says. ``load_seconds`` bounds one load of the model."""

    id: str
    unit: str
    model: str
    backend: str
    runner: str
    gpus: tuple[Share, ...]
    address: str
    port: int
    context: int
    probe: Probe
    blob_bytes: int
    load_seconds: int

    @classmethod
    def from_dict(cls, document: t.Mapping[str, t.Any]) -> Replica:
        """:raises ReplicaError: a key is missing or of the wrong kind."""
        try:
            probe = document["probe"]
            return cls(
                id=str(document["id"]),
                unit=str(document["unit"]),
                model=str(Name.parse(str(document["model"]))),
                backend=str(document["backend"]),
                runner=str(document["runner"]),
                gpus=tuple(
                    Share(str(gpu["id"]), int(gpu["index"]), int(gpu["layers"]), int(gpu["vram_mib"]))
                    for gpu in document["gpus"]
                ),
                address=str(document["address"]),
                port=int(document["port"]),
                context=int(document["context"]),
                probe=Probe(str(probe["kind"]), str(probe["prompt"]), str(probe["pattern"])),
                blob_bytes=int(document["blob_bytes"]),
                load_seconds=int(document["load_seconds"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise ReplicaError(f"the replica's description is damaged ({exc!r}); run the role again") from exc

    @property
    def models_path(self) -> str:
        return f"/var/lib/sdai/replicas/{self.id}/models"


def has_uuid(gpu_id: str) -> bool:
    """Whether an id is one that CUDA and ROCm take; otherwise it is the card's PCI address."""
    return gpu_id.startswith(("GPU-", "MIG-"))


def fixed_selectors(replica: Replica) -> dict[str, t.Optional[str]]:
    """The variables that the unit's environment file must hold; None where one must be absent.

    They keep the server on the planned GPUs and in its own store: a card hidden from CUDA or ROCm comes back
    through Vulkan, and a server that finds no GPU answers from the CPU.
    """
    ids = [gpu.id for gpu in replica.gpus]
    wanted: dict[str, t.Optional[str]] = {
        "OLLAMA_LLM_LIBRARY": replica.runner,
        "OLLAMA_MODELS": replica.models_path,
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
    }
    if replica.backend == "cuda":
        wanted["CUDA_VISIBLE_DEVICES"] = ",".join(ids)
        wanted["GGML_VK_VISIBLE_DEVICES"] = "-1"
    elif replica.backend == "rocm":
        if all(has_uuid(each) for each in ids):
            wanted["ROCR_VISIBLE_DEVICES"] = ",".join(ids)
        # HIP counts within what ROCR left, and reads CUDA's variable as its own.
        wanted["HIP_VISIBLE_DEVICES"] = ",".join(str(place) for place in range(len(ids)))
        wanted["GGML_VK_VISIBLE_DEVICES"] = "-1"
        wanted["CUDA_VISIBLE_DEVICES"] = None
    if len(ids) > 1:
        wanted["OLLAMA_SCHED_SPREAD"] = "1"
        layers = [gpu.layers for gpu in replica.gpus]
        # The engine counts the output head as one more layer, on the last GPU.
        wanted["LLAMA_ARG_TENSOR_SPLIT"] = ",".join(str(count) for count in [*layers[:-1], layers[-1] + 1])
    return wanted


def check_environment(wanted: t.Mapping[str, t.Optional[str]], found: t.Mapping[str, str]) -> None:
    """:raises ReplicaError: a selector is missing, changed, or there though it must not be."""
    for name, value in wanted.items():
        if value is None and name in found:
            raise ReplicaError(f"{name} must not be set for this replica, it is {found[name]!r}; run the role again")
        if value is not None and found.get(name) != value:
            held = repr(found[name]) if name in found else "missing"
            raise ReplicaError(
                f"{name} is {held}, the plan needs {value!r}: without it the replica would leave its GPU; "
                "run the role again"
            )


def resolved_selectors(
    replica: Replica,
    numbers: t.Mapping[str, tuple[str, t.Optional[int]]],
    vulkan: t.Mapping[str, int],
) -> dict[str, str]:
    """The selectors that only this start can know, because they count cards.

    ``numbers`` maps a GPU's id to its PCI address and ROCm ordinal, ``vulkan`` a PCI address to Vulkan's index.

    :raises ReplicaError: a planned card is not there.
    """
    found: dict[str, str] = {}
    if replica.backend == "vulkan":
        places = []
        for gpu in replica.gpus:
            address = numbers.get(gpu.id, ("", None))[0]
            if address not in vulkan:
                raise ReplicaError(f"Vulkan offers no device for GPU {gpu.id}; see `vulkaninfo --summary`")
            places.append(str(vulkan[address]))
        found["GGML_VK_VISIBLE_DEVICES"] = ",".join(places)
    elif replica.backend == "rocm" and not all(has_uuid(gpu.id) for gpu in replica.gpus):
        names = []
        for gpu in replica.gpus:
            ordinal = numbers.get(gpu.id, ("", None))[1]
            if ordinal is None:
                raise ReplicaError(f"ROCm offers no device for GPU {gpu.id}; see /sys/class/kfd/kfd/topology/nodes")
            names.append(gpu.id if has_uuid(gpu.id) else str(ordinal))
        found["ROCR_VISIBLE_DEVICES"] = ",".join(names)
    return found


def vulkan_indices(vulkaninfo: str) -> dict[str, int]:
    """Vulkan's index by PCI address, from the text that vulkaninfo prints."""
    found: dict[str, int] = {}
    index = -1
    parts: dict[str, int] = {}
    for line in vulkaninfo.splitlines():
        section = re.match(r"\s*GPU(\d+)\s*:", line)
        if section:
            index, parts = int(section[1]), {}
            continue
        field = re.match(r"\s*pci(Domain|Bus|Device|Function)\s*=\s*(0x[0-9a-fA-F]+|\d+)", line)
        if field and index >= 0:
            parts[field[1]] = int(field[2], 0)
            if len(parts) == 4:
                address = "{Domain:04x}:{Bus:02x}:{Device:02x}.{Function:x}".format(**parts)
                found.setdefault(address, index)
    return found


def check_vram(replica: Replica, held: t.Mapping[str, int]) -> None:
    """``held``: MiB of the unit's processes by GPU id.

    :raises ReplicaError: less than planned on a planned GPU, or something on another.
    """
    for gpu in replica.gpus:
        mib = held.get(gpu.id, 0)
        if mib * 100 < gpu.vram_mib * RESIDENT_PERCENT:
            raise ReplicaError(
                f"holds {mib} MiB on GPU {gpu.id}, planned are {gpu.vram_mib} MiB: a part of the model is elsewhere"
            )
    planned = {gpu.id for gpu in replica.gpus}
    for gpu_id, mib in sorted(held.items()):
        if gpu_id not in planned and mib > STRAY_MIB:
            raise ReplicaError(f"holds {mib} MiB on GPU {gpu_id}, which is not planned for it")


def check_ps(replica: Replica, models: t.Sequence[Loaded]) -> None:
    """``models``: what /api/ps answers.

    :raises ReplicaError: not exactly the planned model, wholly in VRAM.
    """
    if len(models) != 1:
        raise ReplicaError(f"/api/ps lists {len(models)} models, one is planned")
    loaded = models[0]
    if loaded.name != replica.model:
        raise ReplicaError(f"/api/ps lists {loaded.name!r}, planned is {replica.model!r}")
    if loaded.context != replica.context:
        raise ReplicaError(f"runs with context {loaded.context}, planned is {replica.context}")
    if not loaded.in_vram:
        raise ReplicaError(
            f"/api/ps says that {loaded.size_vram} of {loaded.size} bytes are in VRAM: "
            "a part of the model is on the CPU"
        )
    if loaded.size == replica.blob_bytes:
        # A true size has the KV cache on top of the file.
        raise ReplicaError("the server repeats the file's size: it did not understand where the engine put the model")


def check_answer(replica: Replica, answer: str) -> None:
    """:raises ReplicaError: the known question got another answer."""
    if not re.search(replica.probe.pattern, answer, re.IGNORECASE | re.DOTALL):
        raise ReplicaError(
            f"the known question {replica.probe.prompt!r} got {answer.strip()[:80]!r}: "
            f"{replica.runner} computes garbage on this GPU or with this KV cache type"
        )


def check_embedding(replica: Replica, numbers: t.Sequence[float]) -> None:
    """:raises ReplicaError: not finite numbers, or all zero."""
    if not any(numbers) or not all(math.isfinite(number) for number in numbers):
        raise ReplicaError(f"the embedding of {replica.probe.prompt!r} is empty or not finite: garbage on this GPU")
