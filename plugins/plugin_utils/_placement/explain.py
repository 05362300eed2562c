# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Why a model's minimum found no place, in numbers, and what would help.

No solver is asked: each reason can be checked with pencil and paper.
"""

from __future__ import annotations

import typing as t
from collections import Counter

from .model import Unplaced
from .rules import eligibility, eligible_gpus, gpu_order, nodes_by_name
from .shapes import fitting, places, single, splits

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Gpu, GpuKey, Model, Problem, Replica
    from .shapes import Shape

_SMALLER = "a smaller context, fewer parallel requests or a smaller quantisation"


def explain(
    problem: Problem, replicas: Sequence[Replica], model: Model, *, proved: bool, limited: bool = False
) -> Unplaced:
    """Return the reason and the remedy for a model that has fewer replicas than its minimum.

    ``proved``: no plan serves more minimums of its priority class. ``limited``: a budget capped the moves.
    """
    placed = sum(1 for replica in replicas if replica.model == model.name)
    missing = model.replicas_min - placed
    gpus = eligible_gpus(problem, model)
    if not gpus:
        reason, remedy = _nowhere(problem, model)
    else:
        shapes = fitting(model, gpus)
        if not shapes:
            reason, remedy = _too_large(model, gpus)
        elif places(problem, model, shapes) < model.replicas_min:
            reason, remedy = _too_few(problem, model, shapes)
        else:
            reason, remedy = _crowded_out(problem, model, replicas, shapes, proved=proved, limited=limited)
    return Unplaced(
        model=model.name,
        priority=model.priority,
        missing=missing,
        reason=reason,
        remedy=f"{remedy}; or {fewer(placed)}",
    )


def fewer(placed: int) -> str:
    """The remedy that is always there: to ask for no more than has a place."""
    return f"lower replicas.min to {placed}" + ("" if placed else " (the model is then not served)")


def _nowhere(problem: Problem, model: Model) -> tuple[str, str]:
    if not problem.gpus:
        return "the fleet has no GPU", "add a node with a GPU"
    nodes = nodes_by_name(problem)
    refusals = Counter(eligibility(model, gpu, nodes[gpu.node]) or "" for gpu in problem.gpus)
    parts = [f"{text} ({count} GPU{'s' if count > 1 else ''})" for text, count in _by_count(refusals)]
    repairs = sorted({gpu.remedy for gpu in problem.gpus if not gpu.usable and gpu.remedy})
    remedy = "change what refuses the GPUs, or add a GPU that the model may use"
    if repairs:
        remedy += " (" + "; ".join(repairs) + ")"
    return "no eligible GPU: " + "; ".join(parts), remedy


def _by_count(counter: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _too_large(model: Model, gpus: Sequence[Gpu]) -> tuple[str, str]:
    need = min(single(model, gpu).vram_mib for gpu in gpus)
    offers: Counter[str] = Counter()
    for gpu in gpus:
        offers[gpu.node] += gpu.offer_mib
    node, most = min(offers.items(), key=lambda item: (-item[1], item[0]))
    whole = f"a GPU that offers {_up(need)}" + (" for each replica" if model.replicas_min > 1 else "")
    if most < need:
        return (
            f"needs {_up(need)} on one node; the most one node offers is {_down(most)} ({node})",
            f"add {whole}, or save {_up(need - most)} by {_SMALLER}",
        )
    largest = min(gpus, key=lambda gpu: (-gpu.offer_mib, gpu_order(gpu)))
    reason = (
        f"needs {_up(need)} on one GPU; the most one GPU offers is {_down(largest.offer_mib)} "
        f"({largest.node} GPU {largest.index})"
    )
    closest = min(splits(model, gpus), key=lambda s: (_lacking(s), len(s.gpus), gpu_order(s.gpus[0])), default=None)
    if closest is None:
        return f"{reason}, and no GPUs of one node share a runner for a split", f"add {whole}"
    on = _place(closest)
    if _lacking(closest) == 0:
        speed = f"{closest.speed / 1000:.1f}"
        return f"{reason}, and the split over {on} gives only {speed} tokens/s", f"add {whole}"
    return (
        f"{reason}, and the closest split ({on}, {_up(closest.vram_mib)} in all) misses by {_up(_lacking(closest))}",
        f"add {whole}, or save memory by {_SMALLER}",
    )


def _place(shape: Shape) -> str:
    return f"{shape.gpus[0].node} GPU {'+'.join(str(gpu.index) for gpu in shape.gpus)}"


def _lacking(shape: Shape) -> int:
    return sum(max(0, s.vram_mib - gpu.offer_mib) for s, gpu in zip(shape.shares, shape.gpus, strict=True))


def _unit(model: Model) -> str:
    return {"node": "node", "domain": "failure domain"}.get(model.constraints.spread, "GPU")


def _too_few(problem: Problem, model: Model, shapes: Sequence[Shape]) -> tuple[str, str]:
    most = places(problem, model, shapes)
    unit = _unit(model)
    why = "two replicas of a model never share a GPU" if unit == "GPU" else f"spread: {model.constraints.spread}"
    if min(len(shape.gpus) for shape in shapes) > 1:
        why += "; a replica is split over several"
    need = min(shape.vram_mib for shape in shapes)
    reason = (
        f"{model.replicas_min} replicas are asked for, but the empty fleet holds at most {most}: "
        f"one per {unit} that can hold it ({why})"
    )
    remedy = f"add a GPU that offers {_up(need)} for each missing replica"
    if unit != "GPU":
        remedy += f" on another {unit}, or set constraints.spread to prefer"
    return reason, remedy


def _crowded_out(
    problem: Problem,
    model: Model,
    replicas: Sequence[Replica],
    shapes: Sequence[Shape],
    *,
    proved: bool,
    limited: bool,
) -> tuple[str, str]:
    used: Counter[GpuKey] = Counter()
    for replica in replicas:
        used.update({(replica.node, share.id): share.vram_mib for share in replica.gpus})
    own = {(replica.node, share.id) for replica in replicas if replica.model == model.name for share in replica.gpus}

    def lacking(shape: Shape) -> int:
        pairs = zip(shape.shares, shape.gpus, strict=True)
        return sum(max(0, share.vram_mib - (gpu.offer_mib - used[gpu.key])) for share, gpu in pairs)

    free = [shape for shape in shapes if not own & {gpu.key for gpu in shape.gpus}] or list(shapes)
    closest = min(free, key=lambda shape: (lacking(shape), gpu_order(shape.gpus[0])))
    place = _place(closest)
    keys = {gpu.key for shape in shapes for gpu in shape.gpus}
    priority = {m.name: m.priority for m in problem.models}
    rivals: Counter[str] = Counter()
    for replica in replicas:
        if replica.model != model.name:
            rivals[replica.model] += sum(s.vram_mib for s in replica.gpus if (replica.node, s.id) in keys)
    named = [
        f"{name} (priority {priority[name]}) {_up(mib)}"
        for name, mib in sorted(rivals.items(), key=lambda item: (-item[1], item[0]))
        if mib
    ]
    listed = ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
    reason = (
        f"a replica needs {_up(closest.vram_mib)} and would fit an empty fleet, but other models take the room: "
        f"{listed}; the closest place left ({place}) misses {_up(lacking(closest))}"
    )
    remedy = f"add a GPU that offers {_up(closest.vram_mib)} for each missing replica, or lower the minimums of others"
    if not proved:
        reason = f"no place found in the planning time: {reason}"
        remedy = f"raise sdai_plan_seconds, or {remedy}"
    if limited:
        remedy += ", or raise sdai_churn_budget_gib"
    return reason, remedy


def _up(mib: int) -> str:
    return f"{-(-mib * 10 // 1024) / 10:.1f} GiB"


def _down(mib: int) -> str:
    return f"{mib * 10 // 1024 / 10:.1f} GiB"
