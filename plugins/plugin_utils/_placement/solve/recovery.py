# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The losses of nodes inside the constraint model, for fleets that are small enough to ask for all at once.

Each loss has variables of its own for the places of lost replicas and for what is stopped, and one that says whether
all minimums are met again. Minimums that are missing before the loss need not be met after it.
"""

from __future__ import annotations

import typing as t
from collections import defaultdict

from ._cp_sat import cp_model
from .losses import Fleet, Losses
from .rescue import Recovery

if t.TYPE_CHECKING:
    from collections.abc import Iterable

    from .formulation import Formulation
    from .rescue import Start


def recoveries(formulation: Formulation, nodes: Iterable[str]) -> list[cp_model.IntVar]:
    """Add the losses of these nodes to the model; return one variable each: it is survived."""
    fleet = Fleet(Losses(formulation.space), formulation.solution.chosen)
    return [_Loss(formulation, fleet, node).survived for node in nodes]


def size(losses: Losses) -> int:
    """Return about how many variables that takes."""
    space = losses.space
    wanted = [m for m, model in enumerate(space.models) if model.replicas_min]
    return len(losses.nodes) * (sum(len(losses.places[m]) for m in wanted) + len(space.candidates))


class _Loss:
    def __init__(self, formulation: Formulation, fleet: Fleet, node: str) -> None:
        self.formulation = formulation
        self.fleet = fleet
        self.space = fleet.space
        self.node = node
        self.hint = fleet.recovery(node)
        good = not self.hint.missing
        if not good:
            self.hint = Recovery(())
        self.survived = self._bool("survived", good)
        self.starts: defaultdict[int, list[tuple[cp_model.IntVar, int]]] = defaultdict(list)
        self.stops: dict[int, cp_model.IntVar] = {}
        for m, model in enumerate(self.space.models):
            if self.space.by_model[m]:
                self._model(m, model.replicas_min)
        self._memory()

    def _bool(self, name: str, value: object) -> cp_model.IntVar:
        var = self.formulation.model.new_bool_var(f"{name} {self.node}")
        self.formulation.hints.append((var, int(bool(value))))
        return var

    def _model(self, m: int, least: int) -> None:
        add, take = self.formulation.model.add, self.formulation.take
        candidates = self.space.candidates
        members = self.space.by_model[m]
        gone = [take[i] for i in members if candidates[i].node == self.node]
        left = [i for i in members if candidates[i].node != self.node]
        stops = []
        if self.formulation.limits.ceilings[m] > least:
            for i in left:
                stop = self._bool(f"stop{i}", i in self.hint.stops)
                self.stops[i] = stop
                stops.append(stop)
                add(stop <= take[i])
        kept = cp_model.LinearExpr.sum([take[i] for i in left]) - cp_model.LinearExpr.sum(stops)
        if not least:
            return
        goal = least - self.formulation.short[m]
        if not gone:
            add(kept >= goal).only_enforce_if(self.survived)
            return
        began = {place for model, place in self.hint.starts if model == m}
        short = self._bool(f"short{m}", began)
        places = self.fleet.losses.starts(m, self.node)
        starts = [self._bool(f"start{m}{place[0]}", place in began) for place in places]
        again = cp_model.LinearExpr.sum(starts)
        add(kept + again >= goal).only_enforce_if(self.survived)
        # Either it is short of a minimum and starts anew, or it has replicas to spare; survivors do not move.
        add(again <= least * short)
        if stops:
            add(cp_model.LinearExpr.sum(stops) <= len(stops) * (1 - short))
        self._together(m, left, list(zip(starts, places, strict=True)))
        for start, (gpus, mib, _at) in zip(starts, places, strict=True):
            for gpu, part in zip(gpus, mib, strict=True):
                self.starts[gpu].append((start, part))

    def _together(self, m: int, left: list[int], starts: list[tuple[cp_model.IntVar, Start]]) -> None:
        """No two replicas of a model on a GPU, a node or a failure domain, as its rules say."""
        groups: defaultdict[t.Hashable, list[cp_model.IntVar]] = defaultdict(list)
        fresh: set[t.Hashable] = set()
        for start, (gpus, _mib, at) in starts:
            for key in dict.fromkeys((*gpus, *self.fleet.keys(m, gpus, at))):
                groups[key].append(start)
                fresh.add(key)
        for i in left:
            candidate = self.space.candidates[i]
            for key in dict.fromkeys((*candidate.gpus, *self.fleet.keys(m, candidate.gpus, candidate.node))):
                if key in fresh:
                    groups[key].append(self.formulation.take[i])
        for group in groups.values():
            self.formulation.model.add_at_most_one(group)

    def _memory(self) -> None:
        take = self.formulation.take
        for gpu, starts in self.starts.items():
            free = self.space.gpus[gpu].offer_mib
            terms = list(starts)
            for i in self.space.by_gpu[gpu]:
                mib = self.space.candidates[i].mib[self.space.candidates[i].gpus.index(gpu)]
                terms.append((take[i], mib))
                if i in self.stops:
                    terms.append((self.stops[i], -mib))
            load = cp_model.LinearExpr.weighted_sum([var for var, _mib in terms], [mib for _var, mib in terms])
            if self.space.running_mib[gpu] <= free:
                self.formulation.model.add(load <= free)
                continue
            # What runs may reach into the margin, a new start may not.
            for start, _mib in starts:
                self.formulation.model.add(load <= free).only_enforce_if(start)
