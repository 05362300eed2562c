# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Where a model may go: one GPU at a time, without regard to what is free there."""

from __future__ import annotations

import typing as t

from ...module_utils._speed import milli_tokens_per_second
from .errors import ContradictionError
from .model import Constraints

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import Gpu, Model, Node, Problem


def compute_capability(gpu: Gpu) -> tuple[int, int] | None:
    """Return (major, minor) of an NVIDIA architecture such as sm_61, else None."""
    prefix, _separator, digits = gpu.architecture.partition("_")
    if prefix != "sm" or len(digits) < 2 or not digits.isdigit():
        return None
    return int(digits[:-1]), int(digits[-1])


def eligibility(model: Model, gpu: Gpu, node: Node) -> str | None:
    """Return why the model may not use the GPU, or None when it may."""
    if not gpu.usable:
        return f"not usable: {gpu.reason or 'no reason given'}"
    return next(_refusals(model, gpu, node), None)


def _refusals(model: Model, gpu: Gpu, node: Node) -> Iterator[str]:
    yield from _refused_by_place(model.constraints, gpu, node)
    yield from _refused_by_kind(model, gpu)


def _refused_by_place(rules: Constraints, gpu: Gpu, node: Node) -> Iterator[str]:
    name = f"{gpu.node}/{gpu.id}"
    if rules.nodes and gpu.node not in rules.nodes:
        yield "node is not in constraints.nodes"
    if gpu.node in rules.exclude_nodes:
        yield "node is in constraints.exclude_nodes"
    if rules.gpus and name not in rules.gpus:
        yield "GPU is not in constraints.gpus"
    if name in rules.exclude_gpus:
        yield "GPU is in constraints.exclude_gpus"
    if rules.vendors and gpu.vendor not in rules.vendors:
        yield f"vendor {gpu.vendor} is not in constraints.vendors"
    for label, wanted in sorted(rules.labels.items()):
        if node.labels.get(label) != wanted:
            yield f"node lacks the label {label}: {wanted} of constraints.labels"
    if rules.min_compute_capability is not None:
        yield from _refused_by_capability(gpu, rules.min_compute_capability)


def _refused_by_capability(gpu: Gpu, least: tuple[int, int]) -> Iterator[str]:
    capability = compute_capability(gpu)
    wanted = "{}.{}".format(*least)
    if capability is None:
        yield f"{gpu.architecture} has no compute capability, constraints.min_compute_capability asks for {wanted}"
    elif capability < least:
        yield "compute capability {}.{} is below constraints.min_compute_capability {}".format(*capability, wanted)


def _refused_by_kind(model: Model, gpu: Gpu) -> Iterator[str]:
    needs = model.needs.get(gpu.kind)
    if not needs:
        yield model.ineligible.get(gpu.kind, "no runner of the GPU can hold the model")
        return
    speed = milli_tokens_per_second(needs[0].nanoseconds)
    if speed < model.min_speed:
        yield f"{speed / 1000:.1f} tokens/s is below min_tokens_per_second {model.min_speed / 1000:.1f}"


class Contradiction(t.NamedTuple):
    """Two keys of a model's constraints that leave no GPU of any fleet."""

    first: str
    second: str
    why: str


def contradictions(rules: Constraints) -> Iterator[Contradiction]:
    """Yield the pairs of constraints that exclude each other whatever the fleet is."""
    gpu_nodes = {entry.partition("/")[0] for entry in rules.gpus}
    if rules.nodes and set(rules.nodes) <= set(rules.exclude_nodes):
        yield Contradiction("nodes", "exclude_nodes", "every node named is excluded")
    if rules.gpus and set(rules.gpus) <= set(rules.exclude_gpus):
        yield Contradiction("gpus", "exclude_gpus", "every GPU named is excluded")
    if rules.gpus and gpu_nodes <= set(rules.exclude_nodes):
        yield Contradiction("gpus", "exclude_nodes", "the nodes of all GPUs named are excluded")
    if rules.gpus and rules.nodes and not gpu_nodes & set(rules.nodes):
        yield Contradiction("gpus", "nodes", "no GPU named is on a node named")
    if rules.vendors and "nvidia" not in rules.vendors and rules.min_compute_capability is not None:
        yield Contradiction("vendors", "min_compute_capability", "only NVIDIA GPUs have a compute capability")


def check_model(model: Model) -> None:
    """Raise ContradictionError, naming both keys, when two settings of the model exclude each other."""
    found = [
        Contradiction(f"constraints.{first}", f"constraints.{second}", why)
        for first, second, why in contradictions(model.constraints)
    ]
    if model.replicas_min > model.replicas_max:
        found.append(Contradiction("replicas.min", "replicas.max", "the minimum is above the maximum"))
    for first, second, why in found:
        raise ContradictionError(
            f"model {model.name}: {first} and {second} contradict each other: {why}; change one of them"
        )


def nodes_by_name(problem: Problem) -> dict[str, Node]:
    """Index the nodes of the problem."""
    return {node.name: node for node in problem.nodes}


def eligible_gpus(problem: Problem, model: Model) -> list[Gpu]:
    """Return the GPUs the model may use, in the order (node, index, id)."""
    return sorted(allowed(problem, model), key=gpu_order)


def allowed(problem: Problem, model: Model) -> list[Gpu]:
    """Return the GPUs the model may use, in the order of the problem."""
    # Thousands of GPUs are of a few kinds, and most models have no rule for the place.
    kinds = {gpu.kind: gpu for gpu in problem.gpus}
    fit = {kind for kind, gpu in kinds.items() if next(_refused_by_kind(model, gpu), None) is None}
    gpus = [gpu for gpu in problem.gpus if gpu.usable and gpu.kind in fit]
    rules = model.constraints
    if rules != Constraints(spread=rules.spread):
        nodes = nodes_by_name(problem)
        gpus = [gpu for gpu in gpus if next(_refused_by_place(rules, gpu, nodes[gpu.node]), None) is None]
    return gpus


def gpu_order(gpu: Gpu) -> tuple[str, int, str]:
    """Sort key of GPUs: by node, then as the node counts them."""
    return (gpu.node, gpu.index, gpu.id)
