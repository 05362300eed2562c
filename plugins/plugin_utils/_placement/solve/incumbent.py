# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Greedy placement: the incumbent that the solver starts from and that no result is worse than."""

from __future__ import annotations

import copy
import heapq
import typing as t

from ._cp_sat import np
from .space import LOAD, SLOTS, Limits, Solution, Space, unmet, weak, worth

if t.TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

Order = t.Callable[["State", t.Any], list[int]]
"""Sorts an array of candidates of one model; of equal ones the lower goes first."""

ModelOrder = t.Callable[[Space, int], tuple[int, ...]]
"""The key that models of one priority are sorted by."""


class State:
    """A growing placement: free VRAM and time of each GPU, who is where."""

    def __init__(
        self, space: Space, ceilings: tuple[int, ...], chosen: Iterable[int], closed: Iterable[int] = ()
    ) -> None:
        self.space = space
        self.ceilings = ceilings
        self.free = [gpu.offer_mib for gpu in space.gpus]
        # The same as an array, for questions about many places at once.
        self.room = np.array(self.free, np.int64)
        self.time = [SLOTS * LOAD] * len(space.gpus)
        self.on_gpu: list[set[int]] = [set() for _gpu in space.gpus]
        self.nodes: list[list[str]] = [[] for _model in space.models]
        self.chosen: set[int] = set()
        self.given = [0] * len(space.models)
        for i in sorted(chosen):
            self.take(i)
        for gpu in closed:
            self.free[gpu] = self.room[gpu] = 0

    def copy(self) -> State:
        """Return one that may grow without this one."""
        other = copy.copy(self)
        other.free, other.room, other.time = self.free.copy(), self.room.copy(), self.time.copy()
        other.on_gpu = [held.copy() for held in self.on_gpu]
        other.nodes = [nodes.copy() for nodes in self.nodes]
        other.chosen, other.given = self.chosen.copy(), self.given.copy()
        return other

    def take(self, i: int) -> None:
        candidate = self.space.candidates[i]
        self.chosen.add(i)
        self.nodes[candidate.model].append(candidate.node)
        for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
            self.free[gpu] -= mib
            self.room[gpu] = self.free[gpu]
            self.on_gpu[gpu].add(candidate.model)

    def drop(self, i: int) -> None:
        """Remove a replica that is there."""
        candidate = self.space.candidates[i]
        self.chosen.remove(i)
        self.nodes[candidate.model].remove(candidate.node)
        for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
            self.free[gpu] += mib
            self.room[gpu] = self.free[gpu]
            self.on_gpu[gpu].remove(candidate.model)

    def fits(self, i: int) -> bool:
        candidate = self.space.candidates[i]
        m = candidate.model
        if candidate.running or len(self.nodes[m]) >= self.ceilings[m]:
            return False
        for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True):
            if mib > self.free[gpu] or m in self.on_gpu[gpu]:
                return False
        spread = self.space.models[m].constraints.spread
        if spread == "node":
            return candidate.node not in self.nodes[m]
        if spread == "domain":
            domains = self.space.domains
            return domains[candidate.node] not in {domains[node] for node in self.nodes[m]}
        return True

    def roomy(self, members: Sequence[int]) -> t.Any:
        """Return an array of those of successive candidates that may start and have room on their (first) GPU."""
        first, last = (members[0], members[-1] + 1) if members else (0, 0)
        space = self.space
        fit = (self.room[space.first_gpu[first:last]] >= space.first_mib[first:last]) & (space.sizes[first:last] > 0)
        return np.flatnonzero(fit) + first

    def new_node(self, i: int) -> int:
        """0 when the candidate would bring its model to the second node that survival asks for, else 1."""
        candidate = self.space.candidates[i]
        return 0 if self.alone(candidate.model) and candidate.node != self.nodes[candidate.model][0] else 1

    def alone(self, m: int) -> bool:
        """Tell whether the model is on one node and ought to be on two."""
        nodes = self.nodes[m]
        return self.space.models[m].replicas_min >= 2 and len(nodes) > 0 and nodes.count(nodes[0]) == len(nodes)


def _tightest(state: State, members: t.Any) -> list[int]:
    return _by_room_left(state, members, 1)


def _emptiest(state: State, members: t.Any) -> list[int]:
    return _by_room_left(state, members, -1)


def _by_room_left(state: State, members: t.Any, sign: int) -> list[int]:
    """Those on the fewest GPUs first; of these the one that leaves least there, or most where ``sign`` is -1."""
    space = state.space
    left = state.room[space.first_gpu[members]] - space.first_mib[members]
    sizes = space.sizes[members]
    for place in np.flatnonzero(sizes > 1):
        candidate = space.candidates[members[place]]
        left[place] = sum(state.free[gpu] - mib for gpu, mib in zip(candidate.gpus, candidate.mib, strict=True))
    return _listed(members, np.lexsort((sign * left, sizes)))


def _fastest(state: State, members: t.Any) -> list[int]:
    return _listed(members, np.argsort(-state.space.speeds[members], kind="stable"))


def _first(_state: State, members: t.Any) -> list[int]:
    return _listed(members)


def _listed(members: t.Any, order: t.Any = slice(None)) -> list[int]:
    found: list[int] = members[order].tolist()
    return found


COMPLETED = 4
"""Greedy placements, alike in what goes before service, that are compared by what they serve."""


def _largest(space: Space, m: int) -> tuple[int, ...]:
    return (-space.least_mib[m], m)


def _rarest(space: Space, m: int) -> tuple[int, ...]:
    return (len(space.by_model[m]), m)


ORDERS: tuple[tuple[ModelOrder, Order, bool], ...] = tuple(
    (models, places, apart)
    for models in (_largest, _rarest)
    for places, apart in (
        (_tightest, True),
        (_tightest, False),
        (_fastest, True),
        (_first, False),
        (_emptiest, False),
    )
)
"""Which model goes first, which place is tried first, and whether one on a second node goes before all others where
survival asks for it.
"""


def greedy(
    space: Space, limits: Limits, start: frozenset[int], enough: tuple[tuple[int, ...], int] | None = None
) -> Solution:
    """Return the best of the greedy placements, with what serves more beyond the minimums.

    No other one is looked for when one reaches ``enough``: unmet minimums by class and models that survive.
    """
    states = _best(space, limits.ceilings, start, enough)[:COMPLETED]
    return min(map(_completed, states), key=lambda solution: worth(space, solution))


def grown(space: Space, limits: Limits) -> list[frozenset[int]]:
    """Return what greedy orders make of the fleet that miss least, and of these survive most weakly.

    Beside the minimums each model in turn gets one more replica for as long as there is room, whether it serves or not.
    """
    found = []
    for models, places, apart in ORDERS:
        state = _attempt(State(space, limits.ceilings, ()), models, places, apart=apart)
        reached = (unmet(space, state.chosen), -weak(space, state.chosen))
        _grow(state, models, places)
        found.append((reached, frozenset(state.chosen)))
    best = min(reached for reached, _chosen in found)
    return [chosen for reached, chosen in found if reached == best]


def _grow(state: State, models: ModelOrder, places: Order) -> None:
    space = state.space
    before = -1
    while before < len(state.chosen):
        before = len(state.chosen)
        for m in sorted(range(len(space.models)), key=lambda m: (-space.models[m].priority, models(space, m))):
            order = places(state, state.roomy(space.by_model[m]))
            _take_first(state, order, wanted=min(state.ceilings[m], len(state.nodes[m]) + 1))


def _completed(state: State) -> Solution:
    slots = _share_time(state, {})
    _add_extras(state, slots)
    return Solution(frozenset(state.chosen), slots)


def least_missing(space: Space, start: frozenset[int]) -> frozenset[int]:
    """Return ``start`` and beside it the minimums, as many as one of the greedy orders finds room for."""
    ceilings = tuple(model.replicas_min for model in space.models)
    nothing = tuple(0 for _priority in space.classes)
    lasting = sum(model.replicas_min >= 2 for model in space.models)
    return frozenset(_best(space, ceilings, start, (nothing, lasting))[0].chosen)


def _best(
    space: Space, ceilings: tuple[int, ...], start: frozenset[int], enough: tuple[tuple[int, ...], int] | None
) -> list[State]:
    """Return the greedy placements of the minimums that miss least, and of these survive most weakly."""
    states = []
    for state in _attempts(space, ceilings, start):
        chosen = frozenset(state.chosen)
        states.append(((unmet(space, chosen), -weak(space, chosen)), state))
        if enough is not None and states[-1][0] == (enough[0], -enough[1]):
            break
    best = min(reached for reached, _state in states)
    return [state for reached, state in states if reached == best]


def minimums(space: Space, models: Collection[int], start: frozenset[int]) -> frozenset[int]:
    """Return ``start`` and beside it the minimums of these models, as many as find room."""
    least = tuple(model.replicas_min if m in models else 0 for m, model in enumerate(space.models))
    return frozenset(_attempt(State(space, least, start), _largest, _tightest, apart=True).chosen)


def fill(space: Space, limits: Limits, least: frozenset[int], wish: Solution) -> Solution:
    """Return ``least`` with what of ``wish`` has room beside it, and what serves more beyond the minimums."""
    state = State(space, limits.ceilings, least)
    for i in sorted(wish.chosen - least, key=lambda i: (-wish.slots.get(i, 0) * space.candidates[i].top, i)):
        if state.fits(i):
            state.take(i)
    slots = _share_time(state, {})
    _add_extras(state, slots)
    return Solution(frozenset(state.chosen), slots)


def _attempts(space: Space, ceilings: tuple[int, ...], start: frozenset[int]) -> Iterator[State]:
    state = State(space, ceilings, start)
    for models, places, apart in ORDERS:
        yield _attempt(state.copy(), models, places, apart=apart)


def adopt(known: Space, solution: Solution, space: Space) -> Solution:
    """Return a solution of the space without running replicas as one of the space that has them.

    Where a running replica takes more than a new one would, the places that it leaves no room for are given anew.
    """
    ceilings = tuple(model.replicas_max for model in space.models)
    state = State(space, ceilings, ())
    slots = {}
    for i in sorted(solution.chosen):
        there = space.find(known.candidates[i])
        mine = space.candidates[there]
        if all(mib <= state.free[gpu] for gpu, mib in zip(mine.gpus, mine.mib, strict=True)):
            state.take(there)
            slots[there] = solution.slots.get(i, 0)
    if len(state.chosen) == len(solution.chosen):
        return Solution(frozenset(state.chosen), slots)
    return greedy(space, Limits(ceilings), frozenset(state.chosen))


def _attempt(
    state: State,
    models: ModelOrder,
    places: Order,
    *,
    apart: bool,
) -> State:
    space = state.space
    for priority in space.classes:
        members = [m for m, model in enumerate(space.models) if model.priority == priority]
        for m in sorted(members, key=lambda m: models(space, m)):
            wanted = space.models[m].replicas_min
            if len(state.nodes[m]) >= wanted:
                continue
            # Of what the order depends on, a replica changes nothing at the places that are left for its model.
            order = places(state, state.roomy(space.by_model[m]))
            if apart and len(state.nodes[m]) < wanted:
                _take_first(state, order, wanted=1)
                if state.alone(m):
                    home = state.nodes[m][0]
                    _take_first(state, (i for i in order if space.candidates[i].node != home), wanted=min(2, wanted))
            _take_first(state, order, wanted=wanted)
    return state


def _take_first(state: State, order: Iterable[int], wanted: int) -> None:
    """Take the first candidates of one model that fit until so many are there."""
    for i in order:
        if len(state.nodes[state.space.candidates[i].model]) >= wanted:
            break
        if state.fits(i):
            state.take(i)


def share_time(space: Space, chosen: frozenset[int], given: Mapping[int, int] | None = None) -> dict[int, int]:
    """Divide the time that is left of the GPUs after what is ``given``, the most valuable tokens first."""
    return _share_time(State(space, (), chosen), given or {})


def _share_time(state: State, given: Mapping[int, int]) -> dict[int, int]:
    space = state.space
    order = sorted(
        state.chosen,
        key=lambda i: (-space.models[space.candidates[i].model].weight * space.candidates[i].top, i),
    )
    slots: dict[int, int] = {}
    for i, most in given.items():
        _grant(state, slots, i, most)
    for i in order:
        _grant(state, slots, i)
    return slots


def _useful_slots(state: State, i: int) -> int:
    """Return how many slots the candidate could still use: time of its GPUs, open demand of its model."""
    candidate = state.space.candidates[i]
    most = min(state.time[gpu] // load for gpu, load in zip(candidate.gpus, candidate.loads, strict=True) if load)
    demand = state.space.models[candidate.model].demand
    if demand is not None:
        open_slots = -(-(demand * SLOTS - state.given[candidate.model]) // max(1, candidate.top))
        most = min(most, max(0, open_slots))
    return min(most, SLOTS)


def _wanting(state: State, m: int) -> bool:
    """Tell whether the model may have another replica, and demand is left for it."""
    demand = state.space.models[m].demand
    return len(state.nodes[m]) < state.ceilings[m] and (demand is None or state.given[m] < demand * SLOTS)


def _grant(state: State, slots: dict[int, int], i: int, most: int = SLOTS) -> None:
    granted = min(most, SLOTS - slots.get(i, 0), _useful_slots(state, i))
    slots[i] = slots.get(i, 0) + granted
    candidate = state.space.candidates[i]
    state.given[candidate.model] += candidate.top * granted
    for gpu, load in zip(candidate.gpus, candidate.loads, strict=True):
        state.time[gpu] -= load * granted


def _add_extras(state: State, slots: dict[int, int]) -> None:
    """Add replicas beyond the minimums while one serves more, the greatest gain first."""
    space = state.space

    def gain(i: int) -> int:
        candidate = space.candidates[i]
        return space.models[candidate.model].weight * candidate.top * _useful_slots(state, i) // SLOTS

    roomy = state.roomy(range(len(space.candidates)))
    # On most GPUs there is no time left, and most models are served, so nothing else is asked of these.
    wanting = np.array([_wanting(state, m) for m in range(len(space.models))], dtype=bool)
    idle = _listed(roomy, (np.array(state.time)[space.first_gpu[roomy]] > 0) & wanting[space.model_of[roomy]])
    # A gain only shrinks as time and demand are used up, so a stale entry that still leads is the best.
    heap = [(-gain(i), i) for i in idle if state.fits(i)]
    heapq.heapify(heap)
    while heap:
        stale, i = heapq.heappop(heap)
        if not state.fits(i):
            continue
        fresh = gain(i)
        if fresh <= 0:
            continue
        if fresh < -stale and heap and -fresh > heap[0][0]:
            heapq.heappush(heap, (-fresh, i))
            continue
        state.take(i)
        _grant(state, slots, i)
