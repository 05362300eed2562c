# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Words and columns that all reports of a plan share, for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
import typing as t
from itertools import zip_longest

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ._placement.model import Replica

WIDTH = 100

_OBJECTIVES = {
    "unmet_minimum": ("minimum replicas that found no place", "replicas", 1),
    "weak_n1": ("models that outlive the loss of any one node", "models", 1),
    "strong_n1": ("node losses that minimums survive, at ≤ 5 % of service", "nodes", 1),
    "served": ("demand served, weighted", "tokens/s", 1000),
    "churn_mib": ("to load in new places", "GiB", 1024),
    "balance_mib": ("least left free on a GPU in use", "GiB", 1024),
}
MORE_IS_BETTER = ("weak_n1", "strong_n1", "served", "balance_mib")


class Column(t.NamedTuple):
    """A column of a table; numbers stand to the right."""

    title: str
    width: int
    right: bool = False


def gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def wrap(text: str, indent: int, first: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False)


def place(replica: Replica) -> str:
    """Where a replica is: node and numbers of its GPUs."""
    numbers = "+".join(str(share.index) for share in replica.gpus)
    return f"{replica.node} GPU {numbers}"


def objective(name: str, priority: int | None = None) -> tuple[str, str]:
    """What an objective counts, and its unit."""
    text, unit, _scale = _OBJECTIVES.get(name, (name, "", 1))
    return (f"{text}, priority {priority}" if priority is not None else text), unit


def amount(name: str, value: int) -> str:
    """A value of an objective in the unit of ``objective``."""
    scale = _OBJECTIVES.get(name, ("", "", 1))[2]
    return f"{value / scale:.1f}" if scale > 1 else str(value)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """A head, a rule, and the rows; what is too long for its column goes on below."""
    lines = [indent + _line(columns, [column.title for column in columns])]
    lines.append(indent + "─" * (sum(column.width for column in columns) + 2 * (len(columns) - 1)))
    for row in rows:
        cells = [
            textwrap.wrap(cell, column.width, break_on_hyphens=False) for column, cell in zip(columns, row, strict=True)
        ]
        lines += [indent + _line(columns, part) for part in zip_longest(*cells, fillvalue="")]
    return lines


def _line(columns: Sequence[Column], cells: Sequence[str]) -> str:
    padded = (
        f"{cell:>{column.width}}" if column.right else f"{cell:<{column.width}}"
        for column, cell in zip(columns, cells, strict=True)
    )
    return "  ".join(padded).rstrip()
