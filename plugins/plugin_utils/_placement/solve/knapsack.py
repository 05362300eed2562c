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

CELLS = 1500
"""The room is counted in so many cells at most where rounding does no harm."""


@dataclass(frozen=True)
class Item:
    """A model that takes ``mib``; ``held`` is what its being there is worth, ``busy`` what the GPU's whole time is."""

    model: int
    mib: int
    held: float
    busy: float


class Table:
    """The most that each number of cells can be filled with: ``idle`` without anybody having the time, ``busy`` with.

    Worths are whole numbers where ``kind`` is int, and then exact.
    """

    def __init__(self, cells: int, kind: type) -> None:
        self.cells = cells
        self.idle: t.Any = np.zeros(self.cells + 1, dtype=kind)
        self.busy: t.Any = np.full(self.cells + 1, -1, dtype=kind)

    def add(self, size: int, held: float, busy: float) -> tuple[t.Any, t.Any, t.Any]:
        """Offer one more item; return where it is taken without the time and with it, and where it gets the time."""
        left = self.cells + 1 - size
        idle = self.idle[:left] + held
        owning = idle + busy
        sharing = np.maximum(self.busy[:left] + held, owning)
        taken_idle = idle > self.idle[size:]
        taken_busy = sharing > self.busy[size:]
        # Both are computed before either is written: an item is taken once.
        self.idle[size:] = np.maximum(self.idle[size:], idle)
        self.busy[size:] = np.maximum(self.busy[size:], sharing)
        return taken_idle, taken_busy, owning >= sharing

    @property
    def best(self) -> t.Any:
        return max(self.idle[-1], self.busy[-1])


def fill(items: Sequence[Item], room: int) -> tuple[float, tuple[int, ...], int | None]:
    """Return the worth of the best filling, its models, and the one of them that gets the time.

    Needs are rounded up to cells, so what is filled in fits.
    """
    unit = max(1, -(-room // CELLS))
    table = Table(room // unit, float)
    fitting = [(item, size) for item in items if (size := -(-item.mib // unit)) <= table.cells]
    steps = [table.add(size, item.held, item.busy) for item, size in fitting]
    timed = bool(table.busy[-1] > table.idle[-1])
    best = float(table.best)
    models = []
    owner = None
    cell = table.cells
    for (item, size), (taken_idle, taken_busy, owns) in zip(reversed(fitting), reversed(steps), strict=True):
        if cell < size or not (taken_busy if timed else taken_idle)[cell - size]:
            continue
        models.append(item.model)
        if timed and owns[cell - size]:
            owner = item.model
            timed = False
        cell -= size
    return best, tuple(sorted(models)), owner
