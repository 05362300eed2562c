# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What one GPU is best filled with, when each model has a price for being there and one for having the GPU's time."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ._cp_sat import np

if t.TYPE_CHECKING:
    from collections.abc import Sequence

CELLS = 3000
"""The room is counted in so many parts at most; needs are rounded up to them."""


@dataclass(frozen=True)
class Item:
    """A model that takes ``mib``; ``held`` is what its being there is worth, ``busy`` what the GPU's whole time is."""

    model: int
    mib: int
    held: float
    busy: float


def fill(items: Sequence[Item], room: int) -> tuple[float, tuple[int, ...], int | None]:
    """Return the worth of the best filling, its models, and the one of them that gets the time."""
    unit = max(1, -(-room // CELLS))
    cells = room // unit
    # Row 0 is worth without anybody having the time, row 1 with.
    worth = np.zeros((2, cells + 1))
    worth[1] = -1.0
    taken = []
    for item in items:
        size = -(-item.mib // unit)
        left = cells + 1 - size
        if left <= 0:
            taken.append(None)
            continue
        without = worth[0, :left] + item.held
        busy = without + item.busy
        with_time = np.maximum(worth[1, :left] + item.held, busy)
        takes = np.zeros((2, cells + 1), dtype=bool)
        takes[0, size:] = without > worth[0, size:]
        takes[1, size:] = with_time > worth[1, size:]
        gives = np.zeros(cells + 1, dtype=bool)
        gives[size:] = busy >= with_time
        worth[0, size:] = np.maximum(worth[0, size:], without)
        worth[1, size:] = np.maximum(worth[1, size:], with_time)
        taken.append((takes, gives, size))
    row = int(worth[1, cells] > worth[0, cells])
    best = float(worth[row, cells])
    models = []
    owner = None
    cell = cells
    for item, step in zip(reversed(items), reversed(taken), strict=True):
        if step is None:
            continue
        takes, gives, size = step
        if takes[row, cell]:
            models.append(item.model)
            if row == 1 and gives[cell]:
                owner = item.model
                row = 0
            cell -= size
    return best, tuple(sorted(models)), owner
