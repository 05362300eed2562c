# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""How far the solver is, line by line, for whoever waits."""

from __future__ import annotations

import typing as t

from ._tables import MORE_IS_BETTER, amount, count, objective

if t.TYPE_CHECKING:
    from collections.abc import Callable

EVERY = 2.0
"""Seconds between two lines; nothing is said of what takes less, but the first repair at once."""


class Progress:
    """Says what the solver tells it, as seldom as is useful. Time is that of the events: there is no clock here."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._said = 0.0
        self._last = ""

    def __call__(self, name: str, value: int, bound: int, seconds: float, *, priority: int | None = None) -> None:
        """An objective of the pass at hand: value and bound so far, ``seconds`` after the start."""
        if name == "first_repair":
            self._show(f"{seconds:>7.2f} s  {repair_line(value)}")
            return
        line = progress_line(name, value, bound, priority)
        if seconds - self._said >= EVERY and line != self._last:
            self._said, self._last = seconds, line
            self._show(f"{seconds:>7.1f} s  {line}")


def repair_line(missing: int) -> str:
    """What the first repair reaches, before any other plan is looked for."""
    if not missing:
        return "first repair: all minimums can be met without moving anything; looking for a better plan"
    left = count(missing, "minimum replica finds", "minimum replicas find")
    return f"first repair: {left} no room without moving something; looking for a better plan"


def progress_line(name: str, value: int, bound: int, priority: int | None = None) -> str:
    """One pass: value, bound, and the gap between them."""
    text, unit = objective(name, priority)
    more = name in MORE_IS_BETTER
    limit = f"{'at most' if more else 'at least'} {amount(name, bound)} {unit}"
    gap = bound - value if more else value - bound
    if gap <= 0:
        return f"{text}: {amount(name, value)} {unit}, proved"
    share = f", gap {100 * gap / bound:.1f} %" if bound > 0 else ""
    return f"{text}: {amount(name, value)}, {limit} possible{share}"
