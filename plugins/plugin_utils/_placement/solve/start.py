# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The first placement of a solve: the best of the greedy ones and of price and dive."""

from __future__ import annotations

import typing as t

from .dive import dive
from .incumbent import greedy
from .sharing import divide
from .space import unmet, worth

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .space import Limits, Solution, Space

SMALL = 8
"""GPUs up to which the solver needs no better start than a greedy one."""


def start(space: Space, limits: Limits, kept: frozenset[int], spend: Callable[[int], bool]) -> Solution:
    """Return a placement that has the ``kept`` candidates and is no worse than any greedy one."""
    found = [greedy(space, limits, kept)]
    if len(space.gpus) > SMALL:
        found.append(dived(space, limits, kept, spend))
        missing = unmet(space, found[-1].chosen)
        if any(missing):
            found.append(dived(space, limits, kept, spend, missing))
    best = min(found, key=lambda solution: worth(space, solution))
    return min(best, divide(space, best.chosen), key=lambda solution: worth(space, solution))


def dived(
    space: Space,
    limits: Limits,
    kept: Iterable[int],
    spend: Callable[[int], bool],
    missing: Sequence[int] | None = None,
) -> Solution:
    """Return what patterns make of the room beside the ``kept`` candidates, and greedy ones of what these leave."""
    state = dive(space, limits, kept, spend, missing)
    return divide(space, greedy(space, limits, frozenset(state.chosen)).chosen)
