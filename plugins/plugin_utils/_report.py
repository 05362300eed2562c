# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A plan as text for a terminal of 100 columns: plain, so that it looks the same in a job log."""

from __future__ import annotations

import typing as t
from collections import Counter

from ._difference import against_what_runs
from ._losses import losses
from ._placement.remedy import tries
from ._tables import WIDTH, amount, count, cut, gib, objective, place, wrap

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ._placement.model import Gpu, Objective, Plan, Problem, Replica, Share, Transition

_BAR = 26
_NODE = 14
_FOREIGN, _OURS, _FREE = "▒", "█", "·"

EXPLAINED = 40
"""Replicas beyond which those of a plan are not explained one by one on a terminal, only in the page."""


def render(
    problem: Problem,
    plan: Plan,
    transition: Transition,
    *,
    current: Sequence[Replica] = (),
    why: Mapping[str, str] | None = None,
) -> str:
    """The whole report: GPUs, models, what is not usable or placed, objectives, survival, changes, transition.

    ``current`` is what runs. ``why`` says of replicas, by their ids, why they are where they are.
    """
    sections = [
        _header(problem, plan),
        _gpus(problem, plan, transition),
        _models(problem, plan),
        _unusable(problem),
        _unplaced(problem, plan),
        _objectives(plan.objectives),
        losses(problem, plan),
        _why(plan, why or {}),
        against_what_runs(current, plan),
        _transition(transition),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _header(problem: Problem, plan: Plan) -> list[str]:
    used = {(replica.node, share.id) for replica in plan.replicas for share in replica.gpus}
    missing = sum(item.missing for item in plan.unplaced)
    verdict = {
        "optimal": "proven optimal",
        "feasible": "feasible, not proven optimal (see the open objectives)",
        "infeasible": "infeasible: not every minimum can be met; what fits is planned",
    }[plan.status]
    usable = count(sum(gpu.usable for gpu in problem.gpus), "usable GPU")
    line = (
        f"{count(len(plan.replicas), 'replica')} of {count(len({r.model for r in plan.replicas}), 'model')} "
        f"on {len(used)} of {usable} in {count(len(problem.nodes), 'node')}"
    )
    return [f"PLAN  {verdict}", f"      {line}{f'; {missing} missing' if missing else ''}"]


def _gpus(problem: Problem, plan: Plan, transition: Transition) -> list[str]:
    held: dict[tuple[str, str], list[tuple[Replica, Share]]] = {}
    for replica in sorted(plan.replicas, key=lambda item: item.id):
        for share in replica.gpus:
            held.setdefault((replica.node, share.id), []).append((replica, share))
    started = set(transition.start)
    legend = f"{_OURS} planned  {_FOREIGN} held by others  {_FREE} free"
    lines = [f"{'NODE':<{_NODE}} {'GPU':<36} {'VRAM':<6}{legend:>42}", "─" * WIDTH]
    node = ""
    for gpu in sorted(problem.gpus, key=lambda item: (item.node, item.index, item.id)):
        label = gpu.node if gpu.node != node else ""
        node = gpu.node
        parts = held.get(gpu.key, [])
        lines.append(f"{cut(label, _NODE):<{_NODE}} {cut(f'{gpu.index}  {gpu.name}', 36):<36} {_vram(gpu, parts)}")
        for replica, share in parts:
            lines += _replica(replica, share, replica.id in started)
    return lines


def _vram(gpu: Gpu, parts: Sequence[tuple[Replica, Share]]) -> str:
    if not gpu.usable:
        return "not usable"
    ours = sum(share.vram_mib for _replica, share in parts)
    return f"{_bar(gpu.vram_mib, gpu.vram_foreign_mib, ours)}  {gib(ours):>5} of {gib(gpu.vram_mib):>5} GiB"


def _bar(total: int, foreign: int, ours: int) -> str:
    """Whatever holds something shows at least one cell."""
    cells = [min(_BAR, -(-value * _BAR // max(total, 1))) for value in (foreign, ours)]
    cells[1] = min(cells[1], _BAR - cells[0])
    return _FOREIGN * cells[0] + _OURS * cells[1] + _FREE * (_BAR - sum(cells))


def _replica(replica: Replica, share: Share, new: bool) -> list[str]:
    """One line; a second one where this GPU holds only some of the layers."""
    lines = [
        f"{'':<{_NODE}}   {'+' if new else '='} {cut(replica.model, 21):<21} {cut(replica.id, 22):<22} "
        f"{replica.runner:<10} {gib(share.vram_mib):>5} GiB {f'{replica.speed / 1000:.1f} tokens/s':>15}"
    ]
    if len(replica.gpus) > 1:
        place = replica.gpus.index(share)
        before = sum(part.layers for part in replica.gpus[:place])
        total = sum(part.layers for part in replica.gpus)
        others = ", ".join(str(part.index) for part in replica.gpus if part is not share)
        lines.append(
            f"{'':<{_NODE}}     layers {before + 1} to {before + share.layers} of {total}, the others on GPU {others}"
        )
    return lines


def _models(problem: Problem, plan: Plan) -> list[str]:
    if not problem.models:
        return []
    nodes: dict[str, list[str]] = {}
    for replica in plan.replicas:
        nodes.setdefault(replica.model, []).append(replica.node)
    lines = [f"{'MODEL':<32} {'PRIORITY':>8} {'REPLICAS':>9} {'MIN':>4} {'MAX':>4}   NODES", "─" * WIDTH]
    for model in sorted(problem.models, key=lambda item: (-item.priority, item.name)):
        places = nodes.get(model.name, [])
        lines.append(
            f"{cut(model.name, 32):<32} {model.priority:>8} {len(places):>9} {model.replicas_min:>4} "
            f"{model.replicas_max:>4}   {cut(_listed(places), 36)}"
        )
    return lines


def _listed(nodes: Iterable[str]) -> str:
    """Each node once, with the number of replicas there where it is more than one."""
    counts = Counter(nodes)
    return ", ".join(node if count == 1 else f"{node} ×{count}" for node, count in sorted(counts.items())) or "none"


def _unusable(problem: Problem) -> list[str]:
    cards = sorted((gpu for gpu in problem.gpus if not gpu.usable), key=lambda gpu: (gpu.node, gpu.index))
    lines = ["NOT USABLE"] if cards else []
    for gpu in cards:
        lines += wrap(f"{gpu.node}: {gpu.name or 'unknown card'} ({gpu.id}): {gpu.reason}", 4, "  ")
        if gpu.remedy:
            lines += wrap(gpu.remedy, 6, "    → ")
    return lines


def _unplaced(problem: Problem, plan: Plan) -> list[str]:
    items = sorted(plan.unplaced, key=lambda item: (-item.priority, item.model))
    lines = ["NOT PLACED"] if items else []
    for item in items:
        missing = count(item.missing, "replica")
        lines += wrap(f"{item.model}: {missing} missing (priority {item.priority}): {item.reason}", 4, "  ")
        if item.remedy:
            lines += wrap(item.remedy, 6, "    → ")
    if items and not tries(problem):
        lines.append("  No remedy was tried by a solve, which would take long for so many GPUs and models.")
    return lines


def _objectives(objectives: Iterable[Objective]) -> list[str]:
    lines = [f"{'OBJECTIVE':<64} {'VALUE':>10} {'BOUND':>10}  PROVED", "─" * WIDTH]
    for item in objectives:
        text, unit = objective(item.name, item.priority)
        value, bound = amount(item.name, item.value), amount(item.name, item.bound)
        proved = "yes" if item.proved and item.value == item.bound else "open"
        lines.append(f"{cut(f'{text} ({unit})' if unit else text, 64):<64} {value:>10} {bound:>10}  {proved}")
    return lines


def _why(plan: Plan, why: Mapping[str, str]) -> list[str]:
    """What moving one replica would cost, each with its place."""
    if len(plan.replicas) > EXPLAINED:
        return ["WHY HERE", f"  of all {len(plan.replicas)} replicas: see the page beside the plan"]
    lines = ["WHY HERE"] if why else []
    for replica in plan.replicas:
        if replica.id in why:
            lines += wrap(f"{replica.id} on {place(replica)}: {why[replica.id]}", 4, "  ")
    return lines


def _transition(transition: Transition) -> list[str]:
    lines = [
        f"TRANSITION  {len(transition.start)} to start (+), {len(transition.stop)} to stop, "
        f"{len(transition.keep)} kept (=); {gib(transition.move_mib)} GiB to load"
    ]
    waves = tuple(_waves(transition))
    return lines + (list(waves) if waves else ["  nothing to do"])


def _waves(transition: Transition) -> Iterator[str]:
    nodes = {stop.id: stop.node for stop in transition.stop}
    for number, wave in enumerate(transition.waves, start=1):
        parts = []
        if wave.start:
            parts.append(f"start {', '.join(wave.start)}")
        if wave.stop:
            parts.append(f"stop {', '.join(f'{one} on {nodes[one]}' if one in nodes else one for one in wave.stop)}")
        if wave.breaks:
            parts.append(f"falls below its minimum meanwhile: {', '.join(wave.breaks)}")
        yield from wrap("; ".join(parts), 10, f"  wave {number}: ")
