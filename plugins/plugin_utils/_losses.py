# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What is lost with each node: at once, and for good."""

from __future__ import annotations

import typing as t
from collections import Counter
from dataclasses import dataclass

from ._tables import Column, count, table, wrap

if t.TYPE_CHECKING:
    from ._placement.model import Plan, Problem

# Rows of the table on a terminal; on larger fleets first those that lose something.
_MOST_ROWS = 40

_COLUMNS = (
    Column("NODE LOST", 14),
    Column("GPUS", 4, right=True),
    Column("REPLICAS", 8, right=True),
    Column("NOT SERVED AT FIRST", 31),
    Column("NO ROOM AGAIN FOR A MINIMUM OF", 31),
)


@dataclass(frozen=True)
class Loss:
    """What the loss of one node does.

    ``replicas`` are lost, by model. ``silent`` models have no other replica. For ``lost`` models a minimum does not
    fit again into what remains; where that is not ``decided``, no room was found in the time.
    """

    node: str
    gpus: int
    replicas: dict[str, int]
    silent: tuple[str, ...]
    lost: tuple[str, ...]
    decided: bool


def losses_of(problem: Problem, plan: Plan) -> list[Loss]:
    """The loss of each node that has a usable GPU, by name."""
    gpus = Counter(gpu.node for gpu in problem.gpus if gpu.usable)
    total = Counter(replica.model for replica in plan.replicas)
    on: dict[str, Counter[str]] = {node: Counter() for node in gpus}
    for replica in plan.replicas:
        on.setdefault(replica.node, Counter())[replica.model] += 1
    survival = plan.survivability
    return [
        Loss(
            node=node,
            gpus=gpus[node],
            replicas=dict(sorted(on[node].items())),
            silent=tuple(sorted(name for name, number in on[node].items() if number == total[name])),
            lost=survival.strong_lost_with.get(node, ()),
            decided=node not in survival.strong_undecided,
        )
        for node in sorted(on)
    ]


def losses(problem: Problem, plan: Plan) -> list[str]:
    """The section of the report."""
    survival = plan.survivability
    lines = [
        "LOSS OF ANY ONE NODE",
        f"  {survival.weak_value} of {count(survival.weak_of, 'model')} wanted twice or more would keep a replica",
    ]
    if survival.weak_at_risk:
        lines += wrap(f"at risk: {', '.join(survival.weak_at_risk)}", 6, "    → ")
    possible = count(survival.strong_of, "possible loss", "possible losses")
    least = "at least " if survival.strong_undecided else ""
    lines.append(f"  {least}{survival.strong_value} of {possible} would leave room for every minimum")
    found = losses_of(problem, plan)
    if not found:
        return lines
    shown = found
    if len(found) > _MOST_ROWS:
        shown = sorted(found, key=lambda loss: (not loss.lost, not loss.silent, loss.node))[:_MOST_ROWS]
    lines += ["", *table(_COLUMNS, [_row(loss) for loss in shown])]
    if len(found) > len(shown):
        lines.append(f"… and {len(found) - len(shown)} nodes more: see the page beside the plan")
    return lines


def _row(loss: Loss) -> tuple[str, ...]:
    lost = ", ".join(loss.lost)
    if lost and not loss.decided:
        lost += " (none found in the planning time)"
    return (loss.node, str(loss.gpus), str(sum(loss.replicas.values())), ", ".join(loss.silent) or "-", lost or "-")
