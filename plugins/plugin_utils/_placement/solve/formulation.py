# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The placement as a constraint model: places of replicas, and the time of the GPUs they get."""

from __future__ import annotations

import typing as t

from ._cp_sat import cp_model
from .incumbent import share_time
from .recovery import recoveries
from .space import LOAD, SLOTS, Limits, Solution, Space, balance, served_by_model

if t.TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

TOO_BIG = 12_000
"""Candidates beyond which a model of the whole fleet no longer pays: some GPUs at a time are placed anew instead."""


class Formulation:
    """The constraint model. Each variable carries the value it has in the best solution, as its hint.

    The candidates in ``settled`` are as in the solution, and so is their time. Of all losses those of ``nodes`` count.
    """

    def __init__(
        self,
        space: Space,
        limits: Limits,
        solution: Solution,
        settled: frozenset[int] = frozenset(),
        nodes: Sequence[str] = (),
    ) -> None:
        self.space = space
        self.limits = limits
        self.solution = solution
        self.model = cp_model.CpModel()
        self.hints: list[tuple[cp_model.IntVar, int]] = []
        self.settled = settled
        self.nodes = nodes
        self.take = [self._place(i) for i in range(len(space.candidates))]
        self.slots: list[cp_model.IntVar] = []
        self.served: list[cp_model.IntVar] = []
        self.short: list[cp_model.IntVar] = []
        self.lasting: list[cp_model.IntVar] | None = None
        self.survived: list[cp_model.IntVar] | None = None
        self._fixed()
        self._memory()
        self._counts()
        self._spread()
        if limits.moves_mib is not None:
            self._moves(limits.moves_mib)

    # --- variables and hints ---

    def _int(self, low: int, high: int, name: str, value: int) -> cp_model.IntVar:
        var = self.model.new_int_var(low, high, name)
        self.hints.append((var, value))
        return var

    def _bool(self, name: str, value: int) -> cp_model.IntVar:
        var = self.model.new_bool_var(name)
        self.hints.append((var, value))
        return var

    def _place(self, i: int) -> cp_model.IntVar:
        value = int(i in self.solution.chosen)
        return self.model.new_constant(value) if i in self.settled else self._bool(f"x{i}", value)

    def _slots(self, i: int) -> cp_model.IntVar:
        value = self.solution.slots.get(i, 0) if i in self.solution.chosen else 0
        return self.model.new_constant(value) if i in self.settled else self._int(0, SLOTS, f"slots{i}", value)

    def hint(self) -> None:
        """Hint every variable, since a partial hint is no incumbent."""
        self.model.clear_hints()
        for var, value in self.hints:
            self.model.add_hint(var, value)

    def keeping(self, held: Iterable[int]) -> cp_model.CpModel:
        """Return the model with these replicas where they are."""
        self.hint()
        part = self.model.clone()
        for i in sorted(held):
            part.add(part.get_bool_var_from_proto_index(self.take[i].index) == 1)
        return part

    def neighbourhood(self, gpus: set[int], held: Collection[int] = ()) -> cp_model.CpModel:
        """Return the model with all replicas where they are but those wholly on these GPUs and not ``held``."""
        self.hint()
        part = self.model.clone()
        for i, var in enumerate(self.take):
            if i in held or not gpus.issuperset(self.space.candidates[i].gpus):
                part.add(part.get_bool_var_from_proto_index(var.index) == int(i in self.solution.chosen))
        return part

    def chosen(self, solver: cp_model.CpSolver) -> frozenset[int]:
        """Return the candidates that the solver's solution takes."""
        return frozenset(i for i, var in enumerate(self.take) if solver.value(var))

    def read(self, solver: cp_model.CpSolver) -> Solution:
        """Take the solver's solution over as the best one."""
        self.hints = [(var, solver.value(var)) for var, _old in self.hints]
        chosen = self.chosen(solver)
        if self.slots:
            slots = {i: solver.value(self.slots[i]) for i in chosen}
        elif chosen == self.solution.chosen:
            slots = dict(self.solution.slots)
        else:
            slots = share_time(self.space, chosen)
        self.solution = Solution(chosen, slots)
        return self.solution

    # --- constraints ---

    def _fixed(self) -> None:
        if self.limits.fixed:
            for i in self.space.running:
                self.model.add(self.take[i] == 1)

    def _memory(self) -> None:
        space = self.space
        for gpu, members in enumerate(space.by_gpu):
            if not members:
                continue
            needs = {i: self._mib_on(i, gpu) for i in members}
            total = cp_model.LinearExpr.weighted_sum([self.take[i] for i in members], [needs[i] for i in members])
            offer = space.gpus[gpu].offer_mib
            if space.running_mib[gpu] <= offer:
                self.model.add(total <= offer)
                continue
            # What runs may reach into the margin, a new start may not.
            for i in members:
                if not space.candidates[i].running:
                    self.model.add(total <= offer).only_enforce_if(self.take[i])

    def _mib_on(self, i: int, gpu: int) -> int:
        candidate = self.space.candidates[i]
        return candidate.mib[candidate.gpus.index(gpu)]

    def _counts(self) -> None:
        for m, members in enumerate(self.space.by_model):
            self.model.add(self._sum(members) <= self.limits.ceilings[m])
            missing = max(0, self.space.models[m].replicas_min - sum(i in self.solution.chosen for i in members))
            short = self._int(0, self.space.models[m].replicas_min, f"short{m}", missing)
            self.model.add(short + self._sum(members) >= self.space.models[m].replicas_min)
            self.short.append(short)
            self._at_most_one(members, lambda i: self.space.candidates[i].gpus)

    def _spread(self) -> None:
        space = self.space
        for m, members in enumerate(space.by_model):
            if space.models[m].constraints.spread == "node":
                self._at_most_one(members, lambda i: (space.candidates[i].node,))
            elif space.models[m].constraints.spread == "domain":
                self._at_most_one(members, lambda i: (space.domains[space.candidates[i].node],))

    def _at_most_one(self, members: Iterable[int], places: t.Callable[[int], Iterable[t.Hashable]]) -> None:
        groups: dict[t.Hashable, list[int]] = {}
        for i in members:
            for place in places(i):
                groups.setdefault(place, []).append(i)
        for group in groups.values():
            if len(group) > 1:
                self.model.add_at_most_one(self.take[i] for i in group)

    def _moves(self, most: int) -> None:
        """Cap the MiB moved: of each model the lesser of what stops and what starts."""
        moved = []
        for m, members in enumerate(self.space.by_model):
            old = [i for i in members if self.space.candidates[i].running]
            new = [i for i in members if not self.space.candidates[i].running]
            if not old or not new:
                continue
            big = sum(self.space.candidates[i].vram_mib for i in members)
            stops = sum(self._mib(i) * (1 - self.take[i]) for i in old)
            starts = sum(self._mib(i) * self.take[i] for i in new)
            stopped = sum(self._mib(i) for i in old if i not in self.solution.chosen)
            started = sum(self._mib(i) for i in new if i in self.solution.chosen)
            fewer = self._bool(f"fewer{m}", int(started < stopped))
            lesser = self._int(0, big, f"moved{m}", min(started, stopped))
            self.model.add(lesser >= stops - big * fewer)
            self.model.add(lesser >= starts - big * (1 - fewer))
            moved.append(lesser)
        self.model.add(cp_model.LinearExpr.sum(moved) <= most)

    def _mib(self, i: int) -> int:
        return self.space.candidates[i].vram_mib

    def _sum(self, members: Iterable[int]) -> cp_model.LinearExpr:
        return cp_model.LinearExpr.sum([self.take[i] for i in members])

    # --- objectives ---

    def objective(self, name: str, priority: int | None) -> cp_model.LinearExpr:
        """Return the expression of an objective, adding what it needs to the model."""
        space = self.space
        if name == "unmet_minimum":
            short = [var for var, model in zip(self.short, space.models, strict=True) if model.priority == priority]
            return cp_model.LinearExpr.sum(short)
        if name == "weak_n1":
            return cp_model.LinearExpr.sum(self._lasting())
        if name == "strong_n1":
            if self.survived is None:
                self.survived = recoveries(self, self.nodes)
            return cp_model.LinearExpr.sum(self.survived)
        if name == "balance_mib":
            return self._least_free()
        if name == "served":
            return cp_model.LinearExpr.weighted_sum(self._served(), [model.weight for model in space.models])
        new = [i for i in range(len(space.candidates)) if not space.candidates[i].running]
        return cp_model.LinearExpr.weighted_sum([self.take[i] for i in new], [self._mib(i) for i in new])

    def keep(self, name: str, priority: int | None, value: int, sign: int) -> None:
        """Never be worse in this objective again."""
        self.model.add(sign * self.objective(name, priority) <= sign * value)

    def _lasting(self) -> list[cp_model.IntVar]:
        """One variable per model with a minimum of two or more: it is on at least two nodes."""
        if self.lasting is None:
            self.lasting = []
            for m, members in enumerate(self.space.by_model):
                if self.space.models[m].replicas_min >= 2:
                    self.lasting.append(self._lasting_of(m, members))
        return self.lasting

    def _lasting_of(self, m: int, members: Sequence[int]) -> cp_model.IntVar:
        nodes: dict[str, list[int]] = {}
        for i in members:
            nodes.setdefault(self.space.candidates[i].node, []).append(i)
        on = {node: any(i in self.solution.chosen for i in group) for node, group in nodes.items()}
        lasting = self._bool(f"lasting{m}", int(sum(on.values()) >= 2))
        present = []
        for node, group in nodes.items():
            here = self._bool(f"here{m}{node}", int(on[node]))
            self.model.add(here <= self._sum(group))
            present.append(here)
        self.model.add(cp_model.LinearExpr.sum(present) >= 2 * lasting)
        return lasting

    def _least_free(self) -> cp_model.IntVar:
        """The least MiB that are left on a GPU that holds something."""
        space, add = self.space, self.model.add
        most = max((gpu.offer_mib for gpu in space.gpus), default=0)
        least = self._int(0, most, "least", balance(space, self.solution.chosen))
        add(least <= most * self._sum(range(len(self.take))))
        for gpu, members in enumerate(space.by_gpu):
            offer = space.gpus[gpu].offer_mib
            held = [i for i in members if i in self.solution.chosen]
            used = self._bool(f"used{gpu}", int(bool(held)))
            over = self._bool(f"over{gpu}", int(sum(self._mib_on(i, gpu) for i in held) > offer))
            for i in members:
                add(used >= self.take[i])
            load = cp_model.LinearExpr.weighted_sum(
                [self.take[i] for i in members], [self._mib_on(i, gpu) for i in members]
            )
            add(least + load <= offer).only_enforce_if(used, ~over)
            add(least <= 0).only_enforce_if(over)
        return least

    def _served(self) -> list[cp_model.IntVar]:
        if not self.served:
            space = self.space
            self.slots = [self._slots(i) for i in range(len(space.candidates))]
            for i, slots in enumerate(self.slots):
                if i not in self.settled:
                    self.model.add(slots <= SLOTS * self.take[i])
            for gpu, members in enumerate(space.by_gpu):
                if not members:
                    continue
                loads = [space.candidates[i].loads[space.candidates[i].gpus.index(gpu)] for i in members]
                total = cp_model.LinearExpr.weighted_sum([self.slots[i] for i in members], loads)
                self.model.add(total <= SLOTS * LOAD)
            values = served_by_model(space, self.solution)
            for m, of in enumerate(space.by_model):
                most = space.demand(m, self.limits.ceilings[m])
                rate = self._int(0, most, f"served{m}", values[m])
                tops = [space.candidates[i].top for i in of]
                given = cp_model.LinearExpr.weighted_sum([self.slots[i] for i in of], tops)
                self.model.add(SLOTS * rate <= given)
                self.served.append(rate)
        return self.served
