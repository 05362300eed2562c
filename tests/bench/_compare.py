# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our plans beside those of others. A result is a score as plain values; ours has the engine's ``objectives`` too."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Result = dict[str, t.Any]

SLOTS = 0.001
"""The engine counts time in ten-thousandths of a GPU, the evaluator exactly."""

GIVEN_UP = 0.05
"""The part of the served bound that the strong N-1 may cost."""


def never_worse(ours: Result, other: Result) -> bool:
    """Whether the other is not ahead in the first objective that differs.

    Strong N-1 counts where the engine pursues it, and the other serves enough to keep that pass's constraint.
    """
    if other["unmet"] != ours["unmet"]:
        return list(ours["unmet"]) < list(other["unmet"])
    if other["weak"] != ours["weak"]:
        return bool(ours["weak"] > other["weak"])
    ahead = ours["strong"]["value"] - other["strong"]["value"]
    if ahead and any(objective["name"] == "strong_n1" for objective in ours["objectives"]):
        bound = next(o["bound"] for o in ours["objectives"] if o["name"] == "served") / 1000
        return bool(ahead > 0 or other["served"] < (1 - GIVEN_UP) * bound)
    return bool(ours["served"] >= other["served"] * (1 - SLOTS))


def equal_or_better(other: Result, ours: Result) -> bool:
    """Whether the other reaches at least the same minimums, weak and strong N-1."""
    same = list(other["unmet"]) <= list(ours["unmet"]) and other["weak"] >= ours["weak"]
    return bool(same and other["strong"]["value"] >= ours["strong"]["value"])


def ratios(pairs: Iterable[tuple[Result, Result]], names: Sequence[str], *, equal: bool) -> list[float]:
    """Served by us over the most served by one of the policies; ``equal``: of those no worse in what is before."""
    found = []
    for ours, others in pairs:
        rivals = [others[name] for name in names if not equal or equal_or_better(others[name], ours)]
        if rivals:
            found.append(ours["served"] / max(rival["served"] for rival in rivals))
    return found


def own_gap(result: Result) -> float:
    """How far the engine's served value is from the engine's own bound, in its own numbers."""
    served = next(o for o in result["objectives"] if o["name"] == "served")
    return float(1 - served["value"] / served["bound"]) if served["bound"] else 0.0


def gap(result: Result) -> float:
    """How far what is served is from the lower of the two bounds: the engine's, and the benchmark's own."""
    known = [own_gap(result)]
    if result.get("bound"):
        known.append(1 - result["served"] / result["bound"])
    return max(0.0, min(known))


def unpriced_gap(result: Result) -> float | None:
    """How far the engine's served value is from its bound where strong N-1 costs nothing; None if that was not run."""
    served = result.get("unpriced")
    return float(1 - served["value"] / served["bound"]) if served and served["bound"] else None


def minimums_proved(result: Result) -> bool:
    """Whether the minimums of every class and weak N-1 are as good as proved possible."""
    first = [o for o in result["objectives"] if o["name"] in ("unmet_minimum", "weak_n1")]
    return all(objective["proved"] for objective in first)
