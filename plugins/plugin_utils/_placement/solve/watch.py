# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Strong N-1 of a placement that changes a little at a time."""

from __future__ import annotations

import typing as t

from .losses import Fleet

if t.TYPE_CHECKING:
    from collections.abc import Iterable

    from .losses import Losses


class Watch:
    """How many losses a placement survives while it changes a little at a time, without looking at all of them anew."""

    def __init__(self, losses: Losses, chosen: frozenset[int]) -> None:
        self.fleet = Fleet(losses, chosen)
        self.chosen = chosen
        self.known = {node: self.fleet.recovery(node) for node in losses.nodes}

    @property
    def survived(self) -> int:
        """Return how many node losses are survived, at least."""
        return sum(not found.missing for found in self.known.values())

    def follow(self, chosen: frozenset[int], least: int) -> bool:
        """Take the placement over if it survives at least so many losses; tell whether it does."""
        gone, come = sorted(self.chosen - chosen), sorted(chosen - self.chosen)
        self._change(gone=gone, come=come)
        before = self.known
        again = self._touched(gone, come)
        self.known = {node: self.fleet.recovery(node) if node in again else found for node, found in before.items()}
        if self.survived < least:
            self.known = before
            self._change(gone=come, come=gone)
            return False
        self.chosen = chosen
        return True

    def _change(self, *, gone: Iterable[int], come: Iterable[int]) -> None:
        for i in gone:
            self.fleet.drop(i)
        for i in come:
            self.fleet.take(i)

    def _touched(self, gone: Iterable[int], come: Iterable[int]) -> set[str]:
        """Return the nodes whose losses may be another matter now."""
        candidates = self.fleet.space.candidates
        models = {candidates[i].model for i in (*gone, *come)}
        fuller = {gpu for i in come for gpu in candidates[i].gpus}
        found = {candidates[i].node for i in (*gone, *come)}
        for m in models:
            found.update(candidates[i].node for i in self.fleet.of_model[m])
        for node, known in self.known.items():
            uses = any(m in models or not fuller.isdisjoint(start[0]) for m, start in known.starts)
            if uses or any(candidates[i].model in models for i in known.stops):
                found.add(node)
        return found
