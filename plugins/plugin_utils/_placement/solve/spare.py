# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Strong N-1 from the start: the minimums are placed beside some GPUs that are spared, and what serves more upon them.

The spared GPUs have the time to serve, by replicas that may be stopped, and are the room for what a lost node held.
That keeps far more of what is served than making room afterwards.
"""

from __future__ import annotations

import typing as t
from collections import Counter

from .dive import dive
from .reserve import core, lasting
from .space import Limits, unmet
from .start import dived

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from .losses import Losses
    from .space import Solution, Space

PARTS = (1.0, 0.85, 0.7, 0.5, 0.3)
"""Parts of the room beyond the minimums that are spared, in turn."""


def spared(
    losses: Losses, limits: Limits, solution: Solution, spend: Callable[[int], bool], floor_served: int
) -> Solution:
    """Return the solution that survives most losses, of the given one and those with some GPUs spared."""
    space = losses.space
    least = Limits(
        tuple(min(model.replicas_min, most) for model, most in zip(space.models, limits.ceilings, strict=True))
    )
    missing = unmet(space, solution.chosen)
    choices = [solution]
    for part in PARTS:
        if not spend(0):
            break
        closed = _spare(space, solution, part)
        state = dive(space, least, (), spend, closed=closed)
        choices.append(dived(space, limits, state.chosen, spend, missing=missing))
    return lasting(losses, choices, solution, floor_served)


def _spare(space: Space, solution: Solution, part: float) -> frozenset[int]:
    """Choose GPUs that offer so much of the room beyond the minimums: half of a node at most, those first that most
    models could use.
    """
    taken = sum(space.candidates[i].vram_mib for i in core(space, solution))
    room = int((sum(gpu.offer_mib for gpu in space.gpus) - taken) * part)
    models = [len({space.candidates[i].model for i in members}) for members in space.by_gpu]
    left = {node: max(1, count // 2) for node, count in Counter(gpu.node for gpu in space.gpus).items()}
    chosen = set()
    for gpu in sorted(range(len(space.gpus)), key=lambda gpu: (-models[gpu], -space.gpus[gpu].offer_mib, gpu)):
        offer, node = space.gpus[gpu].offer_mib, space.gpus[gpu].node
        if offer <= room and left[node] and models[gpu]:
            chosen.add(gpu)
            room -= offer
            left[node] -= 1
    return frozenset(chosen)
