# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Placements between keeping all that runs and placing all anew: some GPUs are filled anew by patterns.

The prices of the whole fleet say how much less what runs on a GPU is worth than the best that it could hold. GPUs are
opened in this order, by what a MiB moved there gains, more of them from one placement to the next. Elsewhere the
replicas that count for the minimums stay, and those beyond them as long as no minimum needs their room.
"""

from __future__ import annotations

import typing as t

from .dive import dive, regrets
from .incumbent import State, share_time
from .reserve import core
from .sharing import divide
from .space import Limits, Solution, gains, unmet, worth
from .start import dived

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .space import Space

NEVER = 1_000_000
"""More than any placement serves more than another one, per mille: fewer minimums missing still count."""

PARTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Parts of all GPUs that are opened, in turn."""

TRIES = 2
"""Placements with such a part, at most: in another one GPUs that could hold what misses are opened, too."""

HOSTS = 4
"""So many for each replica that misses."""


def between(
    space: Space, limits: Limits, goal: Solution, spend: Callable[[int], bool], permille: int
) -> Iterator[Solution]:
    """Yield placements that move more and more, until one is reached than which the ``goal`` gains no more."""
    missing = unmet(space, goal.chosen)
    running = frozenset(space.running)
    gain = [
        regret / max(1, mib)
        for regret, mib in zip(regrets(space.loose, limits, running, spend, missing), space.running_mib, strict=True)
    ]
    order = sorted(range(len(space.gpus)), key=lambda gpu: (-gain[gpu], gpu))
    counting = core(space, Solution(running, share_time(space, running)))
    for part in PARTS:
        opened = set(order[: int(part * len(order))])
        for _try in range(TRIES):
            kept = frozenset(i for i in counting if opened.isdisjoint(space.candidates[i].gpus))
            repaired = _repaired(space, limits, kept, missing, spend)
            yield repaired
            grown = dived(space.loose, limits, repaired.chosen, spend, missing=missing)
            yield grown
            reached = min(repaired, grown, key=lambda solution: worth(space, solution)[:3])
            if not gains(space, goal, reached, permille if spend(0) else NEVER):
                return
            more = _hosts(space, reached, order, opened) if spend(0) else set()
            if not more:
                break
            opened |= more


def _hosts(space: Space, solution: Solution, order: Sequence[int], opened: set[int]) -> set[int]:
    """Return some more GPUs for each model that misses replicas: of those that could hold one, the first in order."""
    found: set[int] = set()
    for m, model in enumerate(space.models):
        short = model.replicas_min - sum(i in solution.chosen for i in space.by_model[m])
        if short > 0:
            hosts = {gpu for i in space.by_model[m] for gpu in space.candidates[i].gpus} - opened
            found.update([gpu for gpu in order if gpu in hosts][: HOSTS * short])
    return found


def _repaired(
    space: Space, limits: Limits, kept: frozenset[int], missing: Sequence[int], spend: Callable[[int], bool]
) -> Solution:
    """Return the minimums placed beside the kept replicas, and what else runs as far as it has room."""
    least = Limits(tuple(min(m.replicas_min, most) for m, most in zip(space.models, limits.ceilings, strict=True)))
    state = dive(space.loose, least, kept, spend, unmet=missing)
    state = State(space.loose, limits.ceilings, state.chosen)
    slots = share_time(space, frozenset(space.running))
    for i in sorted(space.running, key=lambda i: (-slots[i] * space.candidates[i].top, i)):
        if i not in state.chosen and state.fits(i):
            state.take(i)
    return divide(space, frozenset(state.chosen))
