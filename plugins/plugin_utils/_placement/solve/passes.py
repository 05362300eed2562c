# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The passes of one solve: each objective in turn, with its bound, never giving back an earlier one."""

from __future__ import annotations

import dataclasses
import random
import typing as t
from dataclasses import dataclass

from ..model import Objective
from .budget import LOOK
from .dive import prices
from .formulation import TOO_BIG, Formulation
from .incumbent import fill
from .losses import Losses
from .recovery import size
from .region import Region, neighbours
from .reserve import core
from .sharing import divide
from .space import MORE_IS_BETTER, Limits, Solution, Space, balance, churn, served, unmet, weak, worth
from .start import SMALL, dived, simple_bounds
from .strong import LOSSES_LINEAR, possible, stronger
from .tight import packed
from .watch import Watch

if t.TYPE_CHECKING:
    from ._cp_sat import cp_model
    from .budget import Budget
    from .relaxation import Relaxation

REGION = 8
"""GPUs of a fleet that is too big for one model that are placed anew together."""

REGION_SECONDS = 0.1

DIVES = 0.3
"""How often they are filled by patterns instead, and then this part of all GPUs:"""

DIVED = 0.4

NEIGHBOURS = 10
"""GPUs whose replicas are placed anew together when the whole is too much to improve at once."""

NEIGHBOURHOOD_SECONDS = 0.2

EXACT = 1500
"""Variables of all losses together up to which they are part of the model; beyond it they are looked at apart."""

GIVEN_UP = 20
"""Strong N-1 may cost one part in so many of the most that can be served by its bound: 5 %."""

TIGHT = 0.3
"""Part of the time for all minimums on a fleet that has hardly more VRAM than they take."""

WHOLE = 300
"""Candidates up to which it pays to look for what serves most in the whole fleet at once."""


@dataclass(frozen=True)
class Outcome:
    """The best solution found and what was reached and proved of each objective, in order."""

    solution: Solution
    objectives: tuple[Objective, ...]


def improve(
    space: Space,
    limits: Limits,
    incumbent: Solution,
    budget: Budget,
    *,
    goal: int = 0,
    relaxation: Relaxation | None = None,
) -> Outcome:
    """Run all passes from the incumbent; the outcome is never worse than it.

    No time is spent on serving more once it is proved that ``goal`` cannot be served. The bounds of the relaxation
    are asked for where there is one; it is used up.
    """
    return _Passes(space, limits, incumbent, budget, goal=goal, relaxation=relaxation).run()


class _Passes:
    def __init__(
        self,
        space: Space,
        limits: Limits,
        incumbent: Solution,
        budget: Budget,
        *,
        goal: int,
        relaxation: Relaxation | None,
    ) -> None:
        self.space = space
        self.limits = limits
        self.budget = budget
        self.best = incumbent
        self.goal = goal
        self.bounds = simple_bounds(space, limits)
        self.relaxation = relaxation
        self.priced = False
        self.overfull = False
        self.cp: Formulation | None = None
        self.losses = Losses(space)
        self.exact = size(self.losses) <= EXACT
        self.possible = self.losses.nodes
        self.survived: int | None = None
        self.watch: Watch | None = None
        self.most_served: int | None = None
        self.objectives: list[Objective] = []
        self.reached: Objective

    def run(self) -> Outcome:
        space = self.space
        self._pack()
        for position, priority in enumerate(space.classes):
            value = unmet(space, self.best.chosen)[position]
            bound = self.bounds[0][position]
            if self.overfull and position == len(space.classes) - 1 and not any(o.value for o in self.objectives):
                bound = max(bound, 1)
            self._minimise("unmet_minimum", value, bound, 0.4, priority=priority)
        self._maximise("weak_n1", weak(space, self.best.chosen), self.bounds[1], 0.3)
        self._prepare()
        self._strong()
        self._refill()
        self._maximise("served", served(space, self.best), self.bounds[2], 0.8)
        self._minimise("churn_mib", churn(space, self.best.chosen), 0, 0.9)
        self._balance()
        return Outcome(self.best, tuple(map(self._as_it_is, self.objectives)))

    def _pack(self) -> None:
        """Meet all minimums at once where hardly more VRAM is there than they take, or prove that this cannot be."""
        if len(self.space.gpus) <= SMALL or not self._free:
            # CP-SAT has the whole of it in its model, or what runs is in the way.
            return
        if not any(unmet(self.space, self.best.chosen)) or any(self.bounds[0]):
            return
        packing = packed(self.space, self.budget, TIGHT)
        if packing.chosen is not None:
            self.best = fill(self.space, self.limits, packing.chosen, self.best)
            self.bounds = (self.bounds[0], min(self.bounds[1], packing.lasting), self.bounds[2])
        self.overfull = packing.refuted

    def _as_it_is(self, objective: Objective) -> Objective:
        """Return an objective with what the best solution has of it: a later pass may have found more on its way."""
        value = objective.value
        if objective.name == "unmet_minimum":
            position = self.space.classes.index(objective.priority or 0)
            value = unmet(self.space, self.best.chosen)[position]
        elif objective.name == "weak_n1":
            value = weak(self.space, self.best.chosen)
        return dataclasses.replace(objective, value=value, proved=value == objective.bound)

    def _prepare(self) -> None:
        """Start the pass of what is served from the best division of time, and from patterns for all of the fleet."""
        space = self.space
        found = [self.best, divide(space, self.best.chosen)]
        if self._free and len(space.gpus) > SMALL:
            missing = unmet(space, self.best.chosen)
            found.append(dived(space, self.limits, (), self.budget.spend, missing=missing))
        self.best = min(found, key=lambda solution: worth(space, solution))

    def _refill(self) -> None:
        """Add what serves most beside the minimums that strong N-1 has moved."""
        space = self.space
        if self.survived is None or not self._free or len(space.gpus) <= SMALL:
            return
        kept = core(space, self.best)
        found = dived(space, self.limits, kept, self.budget.spend, missing=unmet(space, self.best.chosen))
        if worth(space, found) < worth(space, self.best) and self._held(found.chosen):
            self.best = found

    @property
    def _free(self) -> bool:
        """Whether nothing runs that would have to be moved."""
        return not self.space.running

    def _minimise(self, name: str, value: int, bound: int, part: float, priority: int | None = None) -> None:
        self._pass(name, value, bound, part, sign=1, priority=priority)

    def _maximise(self, name: str, value: int, bound: int, part: float) -> None:
        self._pass(name, value, bound, part, sign=-1, priority=None)

    def _pass(self, name: str, value: int, bound: int, part: float, *, sign: int, priority: int | None) -> None:
        self.reached = Objective(name, value, bound, value == bound, priority)
        self.budget.tell(self.reached)
        if value != bound:
            bound = self._relaxed(name, priority, bound)
        if value != bound and len(self.space.candidates) <= (WHOLE if name == "served" else TOO_BIG):
            cp = self._formulation()
            cp.model.minimize(sign * cp.objective(name, priority))
            with self.budget.capped(part):
                if not self.limits.fixed and name != "served":
                    # What a few GPUs can repair moves less than a new placement of everything.
                    with self.budget.capped(0.4):
                        value = self._neighbourhoods(cp, value, bound, sign)
                value, bound = self._whole(cp, value, bound, sign, 0.4 if name == "served" else 0.75)
                if name != "served" or bound >= self.goal:
                    value = self._neighbourhoods(cp, value, bound, sign)
        elif value != bound and (name != "served" or bound >= self.goal):
            with self.budget.capped(part):
                value = self._regions(name, priority, value, bound, sign)
        self.reached = Objective(name, value, bound, value == bound, priority)
        self.budget.tell(self.reached)
        self.objectives.append(self.reached)
        if (name, value) == ("strong_n1", 0):
            # What comes next need not carry the losses along.
            self.cp = None
        elif self.cp is not None:
            self.cp.keep(name, priority, value, sign)
        if self.relaxation is not None and name == "unmet_minimum" and priority is not None:
            self.relaxation.keep(priority, value)

    def _strong(self) -> None:
        """Survive the loss of more nodes, at the cost of so much service at most (GIVEN_UP).

        Small fleets have the losses in the model. In others nothing that comes later is taken if fewer are survived.
        """
        value = self.losses.survived(self.best.chosen)
        bound = self.losses.most(sum(unmet(self.space, self.best.chosen)))
        if value < bound:
            floor = self._floor()
            self._strengthen(floor)
            if self.exact:
                with self.budget.capped(0.7):
                    self.possible = possible(self.losses, self.best, self.budget, floor, self._formulated)
                bound = min(bound, len(self.possible))
                cp = self._formulation()
                cp.model.add(cp.objective("served", None) >= floor)
            value = self.losses.survived(self.best.chosen)
        if self.exact:
            self._maximise("strong_n1", value, bound, 0.5)
            return
        self.reached = Objective("strong_n1", value, bound, value == bound)
        self.budget.tell(self.reached)
        self.objectives.append(self.reached)
        self.survived = value

    def _floor(self) -> int:
        """Return what has to be served while strong N-1 grows: what is served without it, less 5 % of the bound."""
        value, bound = served(self.space, self.best), self.bounds[2]
        if self.relaxation is not None:
            bound = self._relaxed("served", None, bound)
        elif self.goal == 0 and value < bound and len(self.space.candidates) <= TOO_BIG:
            cp = self._formulation()
            cp.model.minimize(-1 * cp.objective("served", None))
            with self.budget.capped(0.4), self.budget.silent():
                value, bound = self._whole(cp, value, bound, -1, 0.9)
        self.bounds = (*self.bounds[:2], bound)
        return max(0, value - bound // GIVEN_UP)

    def _strengthen(self, floor: int) -> None:
        with self.budget.capped(0.5):
            found = stronger(self.losses, self.limits, self.best, self.budget, floor)
        if found is not self.best:
            self.best = found
            # The hints of the model are those of another solution.
            self.cp = None

    def _balance(self) -> None:
        """Leave as much as can be free where the least is, against estimates that err."""
        space = self.space
        value = balance(space, self.best.chosen)
        placed = range(len(space.candidates)) if self.best.chosen else ()
        bound = max(
            (
                min(space.gpus[gpu].offer_mib - mib for gpu, mib in zip(c.gpus, c.mib, strict=True))
                for c in (space.candidates[i] for i in placed)
            ),
            default=0,
        )
        if self.exact:
            self._maximise("balance_mib", value, max(value, bound), 1.0)
            return
        self.reached = Objective("balance_mib", value, max(value, bound), value >= bound)
        self.budget.tell(self.reached)
        self.objectives.append(self.reached)

    def _held(self, chosen: frozenset[int]) -> bool:
        """Tell whether a solution survives as many losses as it has to."""
        if self.survived is None:
            return True
        looks = self.losses.looks
        if self.watch is None:
            self.watch = Watch(self.losses, self.best.chosen)
        held = self.watch.follow(chosen, self.survived)
        self.budget.charge(LOOK * (self.losses.looks - looks))
        return held

    def _relaxed(self, name: str, priority: int | None, bound: int) -> int:
        """Return the tighter one of the bound and the relaxation's."""
        if self.relaxation is None:
            return bound
        if name == "unmet_minimum" and priority is not None:
            return max(bound, self._relaxed_unmet(self.relaxation, priority))
        if name == "weak_n1":
            return min(bound, self.relaxation.weak())
        if name == "served":
            if self.most_served is None:
                missing = unmet(self.space, self.best.chosen)
                self.relaxation.value(prices(self.space, self.limits, self.budget.spend, missing))
                self.most_served = self.relaxation.served()
            return min(bound, self.most_served)
        return bound

    def _relaxed_unmet(self, relaxation: Relaxation, priority: int) -> int:
        """Return how many are missing at least; prices are asked for only where that tells something."""
        position = self.space.classes.index(priority)
        value = unmet(self.space, self.best.chosen)[position]
        bound = relaxation.unmet(priority)
        if bound < value and not self.priced:
            self.priced = True
            relaxation.value(prices(self.space, self.limits, self.budget.spend))
            bound = max(bound, relaxation.unmet(priority))
        return bound

    def _whole(self, cp: Formulation, value: int, bound: int, sign: int, part: float) -> tuple[int, int]:
        """Solve for all places at once; return the value reached and the bound."""
        if self.survived is not None:
            # Whatever else moves, the minimums stay where they can be placed again from.
            solver = self.budget.solve(cp.keeping(core(self.space, self.best)), self.budget.left * part)
            return self._take(cp, solver, value, sign), bound
        cp.hint()
        linearization = LOSSES_LINEAR if self.reached.name == "strong_n1" else 1
        solver = self.budget.solve(cp.model, self.budget.left * part, linearization=linearization)
        if solver is None:
            return value, bound
        proved: int = round(sign * solver.best_objective_bound)
        return self._take(cp, solver, value, sign), max(bound, proved) if sign > 0 else min(bound, proved)

    def _neighbourhoods(self, cp: Formulation, value: int, bound: int, sign: int) -> int:
        """Place the replicas of a few GPUs anew at a time, for as long as the budget lasts."""
        draw = random.Random(self.budget.seed)
        while value != bound and self.budget.left > 0 and len(self.space.gpus) > NEIGHBOURS:
            held = core(self.space, self.best) if self.survived is not None and draw.random() < 0.5 else ()
            part = cp.neighbourhood(neighbours(self.space, self.best, draw, NEIGHBOURS), held)
            value = self._take(cp, self.budget.solve(part, NEIGHBOURHOOD_SECONDS, linearization=1), value, sign)
        return value

    def _regions(self, name: str, priority: int | None, value: int, bound: int, sign: int) -> int:
        """Place the replicas of some GPUs anew at a time, each time in a model of these alone, or by patterns."""
        draw = random.Random(self.budget.seed)
        while value != bound and self.budget.left > 0:
            if name == "served" and self._free and draw.random() < DIVES:
                value = self._dive_again(draw, value)
                continue
            gpus = neighbours(self.space, self.best, draw, REGION)
            region = Region(self.space, self.limits, self.best, gpus, self.possible)
            cp = region.formulation
            for done in self._modelled():
                cp.keep(done.name, done.priority, done.value, -1 if done.name in MORE_IS_BETTER else 1)
            cp.model.minimize(sign * cp.objective(name, priority))
            cp.hint()
            solver = self.budget.solve(cp.model, REGION_SECONDS, linearization=1)
            value = self._take(region, solver, value, sign)
        return value

    def _dive_again(self, draw: random.Random, value: int) -> int:
        """Fill some of the GPUs anew by patterns."""
        space = self.space
        gpus = set(draw.sample(range(len(space.gpus)), max(NEIGHBOURS, int(len(space.gpus) * DIVED))))
        kept = frozenset(i for i in self.best.chosen if not gpus.issuperset(space.candidates[i].gpus))
        found = dived(space, self.limits, kept, self.budget.spend, missing=unmet(space, self.best.chosen))
        if worth(space, found)[:3] < worth(space, self.best)[:3] and self._held(found.chosen):
            self.best = found
            value = served(space, found)
            self.reached = dataclasses.replace(self.reached, value=value, proved=value == self.reached.bound)
            self.budget.tell(self.reached)
        return value

    def _take(self, cp: Formulation | Region, solver: cp_model.CpSolver | None, value: int, sign: int) -> int:
        """Take a better solution over; return the value of the best one."""
        if solver is None:
            return value
        reached: int = round(sign * solver.objective_value)
        if sign * reached >= sign * value or not self._held(cp.chosen(solver)):
            return value
        self.best = cp.read(solver)
        self.reached = dataclasses.replace(self.reached, value=reached, proved=reached == self.reached.bound)
        self.budget.tell(self.reached)
        return reached

    def _modelled(self) -> list[Objective]:
        """Return what was reached before and can be asked of a model."""
        return [done for done in self.objectives if done.name != "strong_n1" or (self.exact and done.value)]

    def _formulation(self) -> Formulation:
        if self.cp is None:
            self.cp = self._formulated(self.possible)
        return self.cp

    def _formulated(self, nodes: tuple[str, ...]) -> Formulation:
        """Return a model that keeps what was reached, and knows of the losses of these nodes."""
        cp = Formulation(self.space, self.limits, self.best, nodes=nodes)
        for done in self._modelled():
            cp.keep(done.name, done.priority, done.value, -1 if done.name in MORE_IS_BETTER else 1)
        return cp
