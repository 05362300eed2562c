# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What differs between two placements: replicas gained, lost and moved, and what that does to the objectives."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ._tables import MORE_IS_BETTER, Column, amount, count, gib, objective, place, table, wrap

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ._placement.model import Objective, Plan, Problem, Replica

_OBJECTIVE_COLUMNS = (
    Column("OBJECTIVE", 66),
    Column("TODAY", 10, right=True),
    Column("THEN", 10, right=True),
    Column("", 8),
)
_MODEL_COLUMNS = (
    Column("MODEL", 32),
    Column("PRIORITY", 8, right=True),
    Column("MINIMUM", 7, right=True),
    Column("TODAY", 5, right=True),
    Column("THEN", 5, right=True),
    Column("", 33),
)


@dataclass(frozen=True)
class Change:
    """What happens to the replicas of one model; ``before`` and ``after`` count them."""

    model: str
    before: int
    after: int
    gained: tuple[Replica, ...]
    lost: tuple[Replica, ...]
    moved: tuple[tuple[Replica, Replica], ...]


def changes(before: Sequence[Replica], after: Sequence[Replica]) -> list[Change]:
    """Compare two placements model by model; those without a difference are left out.

    A replica that goes and one of the same model that comes are a move.
    """
    found = []
    for model in sorted({replica.model for replica in (*before, *after)}):
        old = {_identity(replica): replica for replica in before if replica.model == model}
        new = {_identity(replica): replica for replica in after if replica.model == model}
        gone = sorted((old[key] for key in old.keys() - new.keys()), key=_order)
        come = sorted((new[key] for key in new.keys() - old.keys()), key=_order)
        if not gone and not come:
            continue
        # One that is started anew in its place is not moved elsewhere.
        by_place = {place(replica): replica for replica in gone}
        pairs = [(by_place[place(replica)], replica) for replica in come if place(replica) in by_place]
        gone = [replica for replica in gone if replica not in {old for old, _new in pairs}]
        come = [replica for replica in come if replica not in {new for _old, new in pairs}]
        pairs += list(zip(gone, come, strict=False))
        moves = min(len(gone), len(come))
        found.append(Change(model, len(old), len(new), tuple(come[moves:]), tuple(gone[moves:]), tuple(pairs)))
    return found


def _identity(replica: Replica) -> tuple[str, str, tuple[str, ...]]:
    return (replica.node, replica.id, tuple(share.id for share in replica.gpus))


def _order(replica: Replica) -> tuple[int, str, str]:
    return (len(replica.id), replica.id, replica.node)


def against_what_runs(current: Sequence[Replica], plan: Plan) -> list[str]:
    """The section of the report; nothing where nothing runs or all stays."""
    up = [replica for replica in current if replica.up]
    found = changes(up, plan.replicas) if up else []
    lines = ["CHANGES AGAINST WHAT RUNS"] if found else []
    for change in found:
        lines.append(f"  {change.model}: {change.before} → {count(change.after, 'replica')}")
        lines += _moves(change, "    ")
    return lines


def _moves(change: Change, indent: str) -> Iterator[str]:
    for old, new in change.moved:
        size = f"{gib(new.vram_mib)} GiB"
        if place(old) == place(new):
            yield from wrap(f"{old.id} on {place(old)} starts anew as {new.id}, {size}", 8, f"{indent}↻ ")
        else:
            yield from wrap(f"{old.id} on {place(old)} moves to {place(new)} as {new.id}, {size}", 8, f"{indent}→ ")
    for new in change.gained:
        yield from wrap(f"{new.id} on {place(new)}, {gib(new.vram_mib)} GiB", 8, f"{indent}+ ")
    for old in change.lost:
        yield from wrap(f"{old.id} on {place(old)}", 8, f"{indent}- ")


# --- what if --------------------------------------------------------------------------------


def what_if_report(question: str, problem: Problem, today: Plan, then: Plan) -> str:
    """The answer to a what-if question as a difference to today's plan; ``problem`` is the changed one."""
    sections = [
        wrap(f"WHAT IF  {question}", 9, ""),
        _summary(today, then),
        _models(problem, today, then),
        _replica_moves(today, then),
        _objectives(today.objectives, then.objectives),
        _survival(problem, today, then),
        _unplaced(today, then),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _summary(today: Plan, then: Plan) -> list[str]:
    found = changes(today.replicas, then.replicas)
    gained, lost = sum(len(c.gained) for c in found), sum(len(c.lost) for c in found)
    moved = [pair for c in found for pair in c.moved]
    load = sum(replica.vram_mib for c in found for replica in c.gained) + sum(new.vram_mib for _old, new in moved)
    missing = [sum(item.missing for item in plan.unplaced) for plan in (today, then)]
    return [
        "Compared with today's plan, if that ran (neither is written):",
        f"  {count(gained, 'replica')} gained, {lost} lost, {len(moved)} moved; {gib(load)} GiB to load"
        if found
        else "  no replica is gained, lost or moved",
        f"  minimum replicas without a place: {missing[0]} today, {missing[1]} then",
    ]


def _models(problem: Problem, today: Plan, then: Plan) -> list[str]:
    known = {model.name: model for model in problem.models}
    rows = []
    for change in changes(today.replicas, then.replicas):
        model = known.get(change.model)
        least = model.replicas_min if model else 0
        note = f"{least - change.after} below its minimum" if change.after < least else ""
        priority = str(model.priority) if model else "-"
        rows.append((change.model, priority, str(least), str(change.before), str(change.after), note))
    rows.sort(key=lambda row: (-int(row[1]) if row[1] != "-" else 0, row[0]))
    return table(_MODEL_COLUMNS, rows) if rows else []


def _replica_moves(today: Plan, then: Plan) -> list[str]:
    found = changes(today.replicas, then.replicas)
    return ["GAINED (+), LOST (-), MOVED (→)", *(line for c in found for line in _moves(c, "  "))] if found else []


def _objectives(today: Sequence[Objective], then: Sequence[Objective]) -> list[str]:
    old: Mapping[tuple[str, int | None], Objective] = {(item.name, item.priority): item for item in today}
    rows = []
    for item in then:
        # What it would take to get there is said above, in another unit of comparison.
        if item.name == "churn_mib":
            continue
        before = old.get((item.name, item.priority))
        text, unit = objective(item.name, item.priority)
        if before is None:
            rows.append((f"{text} ({unit})", "-", amount(item.name, item.value), ""))
            continue
        gain = (item.value - before.value) * (1 if item.name in MORE_IS_BETTER else -1)
        words = amount(item.name, before.value), amount(item.name, item.value)
        # What is too small to be written is too small to be called a difference.
        verdict = "the same" if words[0] == words[1] else "better" if gain > 0 else "worse"
        rows.append((f"{text} ({unit})", *words, verdict))
    return table(_OBJECTIVE_COLUMNS, rows)


def _survival(problem: Problem, today: Plan, then: Plan) -> list[str]:
    old, new = today.survivability, then.survivability
    lines = [
        "LOSS OF ANY ONE NODE",
        f"  models wanted twice or more that would keep a replica: {old.weak_value} of {old.weak_of} today, "
        f"{new.weak_value} of {new.weak_of} then",
        f"  losses that would leave room for every minimum: {old.strong_value} of {old.strong_of} today, "
        f"{new.strong_value} of {new.strong_of} then",
    ]
    there = {node.name for node in problem.nodes}
    for node in sorted(there & {*old.strong_lost_with, *new.strong_lost_with}):
        before, after = old.strong_lost_with.get(node, ()), new.strong_lost_with.get(node, ())
        if before != after:
            lines += wrap(f"without {node}: {_again(before)} today, {_again(after)} then", 6, "    → ")
    return lines


def _again(lost: Sequence[str]) -> str:
    return f"no room again for {', '.join(lost)}" if lost else "room for all"


def _unplaced(today: Plan, then: Plan) -> list[str]:
    before = {item.model: item.missing for item in today.unplaced}
    lines = []
    for item in then.unplaced:
        if item.missing > before.get(item.model, 0):
            more = count(item.missing - before.get(item.model, 0), "replica")
            lines += wrap(f"{item.model}: {more} more missing (priority {item.priority}): {item.reason}", 4, "  ")
    after = {item.model for item in then.unplaced}
    placed = sorted(set(before) - after)
    if placed:
        lines += wrap(f"then placed: {', '.join(placed)}", 4, "  ")
    return ["NOT PLACED", *lines] if lines else []
