# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A plan as text for a terminal of 100 columns: plain, so that it looks the same in a job log."""

from __future__ import annotations

import textwrap
import typing as t
from collections import Counter

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._placement.model import Gpu, Objective, Plan, Problem, Replica, Share, Survivability, Transition

WIDTH = 100
_BAR = 26
_NODE = 14
_FOREIGN, _OURS, _FREE = "▒", "█", "·"

_OBJECTIVES = {
    "unmet_minimum": ("minimum replicas that found no place", "replicas", 1),
    "weak_n1": ("models that outlive the loss of any one node", "models", 1),
    "strong_n1": ("node losses after which every minimum fits again", "nodes", 1),
    "served": ("demand served, weighted", "tokens/s", 1000),
    "churn_mib": ("to load in new places", "GiB", 1024),
    "balance_mib": ("out of balance", "GiB", 1024),
}


def render(problem: Problem, plan: Plan, transition: Transition) -> str:
    """The whole report: GPUs, what is not usable, what is not placed, objectives, survival, transition."""
    sections = [
        _header(problem, plan),
        _gpus(problem, plan, transition),
        _models(problem, plan),
        _unusable(problem),
        _unplaced(plan),
        _objectives(plan.objectives),
        _survival(plan.survivability),
        _transition(transition),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _wrap(text: str, indent: int, first: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False)


def _header(problem: Problem, plan: Plan) -> list[str]:
    used = {(replica.node, share.id) for replica in plan.replicas for share in replica.gpus}
    missing = sum(item.missing for item in plan.unplaced)
    verdict = {
        "optimal": "proven optimal",
        "feasible": "feasible, not proven optimal (see the open objectives)",
        "infeasible": "infeasible: not every minimum can be met; what fits is planned",
    }[plan.status]
    line = (
        f"{_count(len(plan.replicas), 'replica')} of {_count(len({r.model for r in plan.replicas}), 'model')} "
        f"on {len(used)} of {_count(len(problem.gpus), 'GPU')} in {_count(len(problem.nodes), 'node')}"
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
        lines.append(f"{_cut(label, _NODE):<{_NODE}} {_cut(f'{gpu.index}  {gpu.name}', 36):<36} {_vram(gpu, parts)}")
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
        f"{'':<{_NODE}}   {'+' if new else '='} {_cut(replica.model, 21):<21} {_cut(replica.id, 22):<22} "
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
            f"{_cut(model.name, 32):<32} {model.priority:>8} {len(places):>9} {model.replicas_min:>4} "
            f"{model.replicas_max:>4}   {_cut(_places(places), 36)}"
        )
    return lines


def _places(nodes: Iterable[str]) -> str:
    """Each node once, with the number of replicas there where it is more than one."""
    counts = Counter(nodes)
    return ", ".join(node if count == 1 else f"{node} ×{count}" for node, count in sorted(counts.items())) or "none"


def _unusable(problem: Problem) -> list[str]:
    cards = sorted((gpu for gpu in problem.gpus if not gpu.usable), key=lambda gpu: (gpu.node, gpu.index))
    lines = ["NOT USABLE"] if cards else []
    for gpu in cards:
        lines += _wrap(f"{gpu.node}: {gpu.name or 'unknown card'} ({gpu.id}): {gpu.reason}", 4, "  ")
        if gpu.remedy:
            lines += _wrap(gpu.remedy, 6, "    → ")
    return lines


def _unplaced(plan: Plan) -> list[str]:
    items = sorted(plan.unplaced, key=lambda item: (-item.priority, item.model))
    lines = ["NOT PLACED"] if items else []
    for item in items:
        missing = _count(item.missing, "replica")
        lines += _wrap(f"{item.model}: {missing} missing (priority {item.priority}): {item.reason}", 4, "  ")
        if item.remedy:
            lines += _wrap(item.remedy, 6, "    → ")
    return lines


def _objectives(objectives: Iterable[Objective]) -> list[str]:
    lines = [f"{'OBJECTIVE':<64} {'VALUE':>10} {'BOUND':>10}  PROVED", "─" * WIDTH]
    for item in objectives:
        text, unit, scale = _OBJECTIVES.get(item.name, (item.name, "", 1))
        label = f"{text}, priority {item.priority}" if item.priority is not None else text
        value, bound = (f"{number / scale:.1f}" if scale > 1 else str(number) for number in (item.value, item.bound))
        proved = "yes" if item.proved and item.value == item.bound else "open"
        lines.append(f"{_cut(f'{label} ({unit})' if unit else label, 64):<64} {value:>10} {bound:>10}  {proved}")
    return lines


def _survival(survival: Survivability) -> list[str]:
    lines = [
        "LOSS OF ANY ONE NODE",
        f"  {survival.weak_value} of {_count(survival.weak_of, 'model')} wanted twice or more would keep a replica",
    ]
    if survival.weak_at_risk:
        lines += _wrap(f"at risk: {', '.join(survival.weak_at_risk)}", 6, "    → ")
    losses = _count(survival.strong_of, "possible loss", "possible losses")
    least = "at least " if survival.strong_undecided else ""
    lines.append(f"  {least}{survival.strong_value} of {losses} would leave room for every minimum")
    for node, models in sorted(survival.strong_lost_with.items()):
        undecided = node in survival.strong_undecided
        fate = "found no room again in the planning time" if undecided else "would not fit"
        lines += _wrap(f"without {node}: {', '.join(models)} {fate}", 6, "    → ")
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
        yield from _wrap("; ".join(parts), 10, f"  wave {number}: ")
