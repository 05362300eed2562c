# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A placement of the whole fleet by price and dive: column generation over what one GPU can hold, then rounding.

GPUs with the same room that are the same to every model form a class. A *pattern* is a set of models that one GPU of a
class holds together, and the one of them that has its time. The master program decides how many GPUs of each class get
which pattern, in fractions; its prices make a knapsack of each class, whose best filling is the next pattern
(Gilmore and Gomory, 1961). When no filling is worth more than its price, patterns are settled on GPUs, those first
that the program wants wholly, and the rest is decided again.

Replicas that are split over GPUs are given, as what runs is: patterns are for the room that these leave.
"""

from __future__ import annotations

import typing as t

from .incumbent import State
from .knapsack import fill
from .master import Class, Master, Pattern

if t.TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from .master import Prices
    from .space import Limits, Space


class Effort(t.NamedTuple):
    """Rounds of pricing at most: before the first pattern is settled, and between two settlements."""

    first: int
    between: int


HASTY = Effort(8, 1)
THOROUGH = Effort(80, 6)

SETTLED = 0.04
"""Part of the open GPUs that is settled in a step when the program wants no pattern wholly."""

SPLIT_STEPS = 12
"""Times that the program is asked for splits, at most."""

ALMOST = 0.7
"""Part of a split from which on it is taken for wanted wholly."""

OPEN = 1e-3
"""What new patterns could add to the program at most for it to be done, where all that is served is worth one."""

EXACT = 1e-4
"""The same where the prices are for a bound."""


def prices(space: Space, limits: Limits, spend: Callable[[int], bool], unmet: Sequence[int] | None = None) -> Prices:
    """Return what all is worth on the empty fleet, with splits, and just so many minimum replicas missing by class."""
    program = _Dive(space, limits, (), spend, unmet=unmet, splits=True)
    program.converge(THOROUGH.first, gap=EXACT)
    return program.master.prices()


def dive(
    space: Space,
    limits: Limits,
    given: Iterable[int],
    spend: Callable[[int], bool],
    *,
    unmet: Sequence[int] | None = None,
    effort: Effort = THOROUGH,
    closed: frozenset[int] = frozenset(),
) -> State:
    """Return a placement that has the given candidates and is completed by patterns.

    ``spend`` is told of the work done, in models that a GPU is priced for, and says whether there is time for more.
    ``unmet`` is how many minimum replicas of each class may be missing; else one costs more than all that is served.
    Nothing is put on the ``closed`` GPUs.
    """
    chosen = frozenset(given)
    if any(len(candidate.gpus) > 1 and not candidate.running for candidate in space.candidates):
        for _step in range(SPLIT_STEPS):
            program = _Dive(space, limits, chosen, spend, unmet=unmet, splits=True, closed=closed)
            program.converge(effort.first)
            more = program.settle_splits()
            if not more:
                break
            chosen |= more
    return _Dive(space, limits, chosen, spend, unmet=unmet, closed=closed).run(effort)


def regrets(
    space: Space, limits: Limits, placed: Collection[int], spend: Callable[[int], bool], unmet: Sequence[int]
) -> list[float]:
    """Return for each GPU how much less what is placed there is worth than what it would best be filled with.

    Worth is what the empty fleet's prices say when just so many minimum replicas are missing by class.
    """
    program = _Dive(space, limits, (), spend, unmet=unmet, splits=True)
    program.converge(THOROUGH.first)
    found = [0.0] * len(space.gpus)
    for kind, of in enumerate(program.classes):
        most, _models, _busy = fill(program.master.items(kind), of.room)
        for gpu in of.gpus:
            worths = [program.master.worth(kind, space.candidates[i], gpu) for i in space.by_gpu[gpu] if i in placed]
            found[gpu] = most - sum(held for held, _busy in worths) - max((busy for _held, busy in worths), default=0.0)
    return found


class _Dive:
    def __init__(
        self,
        space: Space,
        limits: Limits,
        given: Iterable[int],
        spend: Callable[[int], bool],
        *,
        unmet: Sequence[int] | None = None,
        splits: bool = False,
        closed: frozenset[int] = frozenset(),
    ) -> None:
        self.space = space
        self.spend = spend
        self.state = State(space, limits.ceilings, given, closed)
        self.single = space.singles
        self.classes = _classes(space, self.state, self.single)
        self.master = Master(space, self.state, self.classes, unmet)
        if splits:
            self.master.add_splits()

    def converge(self, rounds: int, gap: float = OPEN) -> None:
        """Price patterns until new ones could add no more than the gap."""
        self.master.solve()
        for done in range(rounds):
            # What is hasty is done also when the time is over, for a placement is wanted.
            if (done >= HASTY.first and not self.spend(0)) or self._price() <= gap:
                break
            self.master.solve()

    def settle_splits(self) -> frozenset[int]:
        """Take the splits that the program wants (almost) wholly, or else the one that it wants most."""
        before = frozenset(self.state.chosen)
        wanted = self.master.splits_wanted()
        whole = [pair for pair in wanted if pair[0] >= ALMOST] or wanted[:1]
        for number, candidates in whole:
            for _replica in range(max(1, int(number + 1 - ALMOST))):
                fitting = [i for i in candidates if self.state.fits(i)]
                if fitting:
                    self.state.take(min(fitting, key=lambda i: (self.state.new_node(i), i)))
        return frozenset(self.state.chosen) - before

    def run(self, effort: Effort) -> State:
        rounds = effort.first
        while any(of.gpus for of in self.classes):
            self.converge(rounds)
            if not self._settle(self.master.wanted()):
                break
            rounds = effort.between
        return self.state

    def _price(self) -> float:
        """Add the pattern of each class that is worth the most, if that is above its price; return what all add."""
        found = []
        gap = 0.0
        for kind, of in enumerate(self.classes):
            if of.gpus:
                items = self.master.items(kind)
                worth, models, busy = fill(items, of.room)
                self.spend(len(items))
                above = worth - self.master.price(kind)
                if above > 0:
                    gap += above * len(of.gpus)
                    found.append(Pattern(kind, models, busy))
        if gap > 0:
            # Prices are gone once the program has changed.
            new = [self.master.add(pattern) for pattern in found]
            return gap if any(new) else 0.0
        return 0.0

    def _settle(self, wanted: Sequence[tuple[float, Pattern]]) -> bool:
        """Give GPUs the patterns that are wanted wholly, or else those wanted most; tell whether there were any."""
        chosen = [(int(number + 1e-6), pattern) for number, pattern in wanted if number >= 1 - 1e-6]
        if not chosen:
            most = max(1, int(SETTLED * sum(len(of.gpus) for of in self.classes)))
            chosen = [(1, pattern) for number, pattern in wanted[:most] if number > 1e-6]
        for number, pattern in chosen:
            for _gpu in range(min(number, len(self.classes[pattern.kind].gpus))):
                self._give(pattern)
        self.master.update()
        return bool(chosen)

    def _give(self, pattern: Pattern) -> None:
        """Put the pattern on the GPU of its class where most of it may be."""
        best, gpu = (1, 0), -1
        gpus = self.classes[pattern.kind].gpus
        ideal = (-len(pattern.models), sum(not self.state.alone(m) for m in pattern.models))
        for other in gpus:
            fitting = [i for m in pattern.models if self.state.fits(i := self.single[other][m])]
            misfit = (-len(fitting), sum(self.state.new_node(i) for i in fitting))
            if misfit < best:
                best, gpu = misfit, other
                if misfit == ideal:
                    break
        gpus.remove(gpu)
        placed = [m for m in pattern.models if self.state.fits(self.single[gpu][m])]
        for m in placed:
            self.state.take(self.single[gpu][m])
        self.master.settle(pattern.kind, tuple(placed))


def _classes(space: Space, state: State, single: Sequence[dict[int, int]]) -> list[Class]:
    found: dict[t.Hashable, Class] = {}
    # What is left of GPUs that were alike is alike where as much room is left beside the same models.
    known: dict[t.Hashable, Class] = {}
    for gpu, places in enumerate(single):
        room = state.free[gpu]
        key = (space.alike[gpu], room, frozenset(state.on_gpu[gpu]))
        if key not in known:
            models = {
                m: (space.candidates[i].mib[0], space.candidates[i].top)
                for m, i in places.items()
                if space.candidates[i].mib[0] <= room and m not in state.on_gpu[gpu]
            }
            known[key] = found.setdefault((room, tuple(models.items())), Class(room, [], models, gpu))
        known[key].gpus.append(gpu)
    return list(found.values())
