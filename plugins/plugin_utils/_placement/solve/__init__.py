# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""From problem to plan: the only door of the solver.

Same problem, same running replicas, same options: same plan. OR-Tools is used below this package
and nowhere else.
"""

from __future__ import annotations

import dataclasses
import typing as t
from collections import Counter
from importlib import metadata

from ..explain import explain
from ..model import Objective, Options, Plan, Replica
from ..naming import next_id, next_port, slugs
from ..rules import check_model
from ..running import standing
from .between import between
from .budget import Budget
from .incumbent import adopt, greedy
from .matching import matched
from .passes import Outcome, improve
from .relaxation import RELAXED, Relaxation
from .repair import repair
from .space import MORE_IS_BETTER, Limits, Solution, Space, churn, gains, moved_mib, occupied, served, vacant, worth
from .start import SMALL, simple_bounds, start
from .survive import survivability

if t.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..model import Problem, Unplaced


OWN = ("churn_mib", "balance_mib")

NOTHING_MORE = 1 << 62
"""A goal that no plan can serve."""


def solve(
    problem: Problem,
    current: Sequence[Replica],
    options: Options,
    *,
    progress: Callable[[Objective], None] | None = None,
) -> Plan:
    """Return the best plan found for the problem, given what runs.

    ``current`` is every replica that runs and is worth counting; those that are still valid may be
    kept. Ids and ports of all of them stay taken. ``progress`` is told how far each objective is: at the start of its
    pass, whenever it is better, and at the end; more than once where what runs is weighed against what could. Before
    all that it is told of ``first_repair`` where minimums are missed that could be started at once: how many still miss
    then.

    Raises ContradictionError for a model whose settings exclude each other, and
    PortsExhaustedError for a node without a free port. A plan that leaves models out is a result.
    """
    for model in problem.models:
        check_model(model)
    current = sorted(current, key=lambda r: (r.model, len(r.id), r.id, r.node))
    stays = standing(problem, current)
    budget = Budget(options.seconds, options.seed, progress)
    repaired = repair(problem, stays)
    if repaired is not None:
        budget.tell(Objective("first_repair", repaired.missing, 0, proved=not repaired.missing))
    fresh = vacant(problem)
    space = occupied(fresh, stays)
    at_once = None if repaired is None else repaired.within(space)
    with budget.capped(0.9):
        outcome = _decide(fresh, space, at_once, options, budget)
    replicas = _replicas(space, outcome.solution, current)
    survival = survivability(fresh, replicas, budget)
    objectives = _decided(outcome.objectives, survival.strong_value)
    return Plan(
        status=_status(objectives),
        fleet_digest=problem.fleet_digest,
        catalog_digest=problem.catalog_digest,
        solver_name="ortools-cp-sat",
        solver_version=metadata.version("ortools"),
        seed=options.seed,
        reproducible=budget.reproducible,
        objectives=objectives,
        replicas=replicas,
        unplaced=_unplaced(problem, space, replicas, objectives, options),
        survivability=survival,
    )


def _decide(fresh: Space, space: Space, repaired: Solution | None, options: Options, budget: Budget) -> Outcome:
    """Choose between keeping what runs and moving it ("Re-planning" of the design).

    What would be planned if nothing ran is the measure, and the same whatever runs: nothing is moved, and nothing
    started beyond the minimums, unless that gains over what runs. So a plan that has been made real is kept,
    also where more time would have found a better one.
    """
    full = Limits(tuple(model.replicas_max for model in space.models))
    relaxation = Relaxation(fresh, full) if len(fresh.gpus) >= RELAXED else None
    enough = _enough(fresh, full, relaxation)
    with budget.capped(0.7):
        first = start(fresh, full, frozenset(), budget.spend, enough)
        ideal = improve(fresh, full, first, budget, relaxation=relaxation)
    # A search that was cut short may have left room that a minimum fits into, as the next run would see.
    filled = greedy(fresh, full, ideal.solution.chosen)
    if worth(fresh, filled) < worth(fresh, ideal.solution):
        with budget.capped(0.3):
            more = improve(fresh, full, filled, budget, goal=NOTHING_MORE)
        if _values(more.objectives) < _values(ideal.objectives):
            ideal = dataclasses.replace(more, objectives=_against(more.objectives, ideal.objectives))
    if not space.running:
        return ideal
    goal = matched(space, adopt(fresh, ideal.solution, space))

    kept = _kept(space, repaired, budget)
    chosen = kept
    wishes = [goal] if repaired is None else [goal, repaired]
    if options.replan or any(gains(space, wish, kept.solution, options.min_gain_permille) for wish in wishes):
        chosen = _replanned(space, kept, wishes, options, budget)
    return dataclasses.replace(chosen, objectives=_against(chosen.objectives, ideal.objectives))


def _enough(space: Space, limits: Limits, relaxation: Relaxation | None) -> tuple[tuple[int, ...], int]:
    """Return bounds of the unmet minimums by class and of the models that survive, the tighter ones of both kinds."""
    missing, survivors, _served = simple_bounds(space, limits)
    if relaxation is None:
        return missing, survivors
    relaxed, lasting = relaxation.least()
    return tuple(map(max, missing, relaxed)), min(survivors, lasting)


def _kept(space: Space, repaired: Solution | None, budget: Budget) -> Outcome:
    """Keep all that runs and start what the minimums miss."""
    everything = frozenset(space.running)
    running = Counter(space.candidates[i].model for i in space.running)
    least = Limits(tuple(max(model.replicas_min, running[m]) for m, model in enumerate(space.models)))
    starts = [greedy(space, least, everything)]
    if repaired is not None and everything <= repaired.chosen:
        starts.append(repaired)
    first = min(starts, key=lambda solution: worth(space, solution))
    with budget.capped(0.3):
        return improve(space, least, first, budget, goal=NOTHING_MORE)


def _replanned(space: Space, kept: Outcome, wishes: Sequence[Solution], options: Options, budget: Budget) -> Outcome:
    """Return what gains enough over ``kept``: more starts, moves of a few, or the placement that ignores what runs.

    The latter is the first of the ``wishes``, the other one the repair that moves nothing. ``kept`` and ``grown`` are A
    of the design, without and with starts beyond the minimums; ``moved`` is its B.
    """

    def gained(new: Solution, old: Solution) -> bool:
        return gains(space, new, old, options.min_gain_permille)

    full = tuple(model.replicas_max for model in space.models)
    goal = wishes[0]
    grown = kept
    if len(space.gpus) <= SMALL or worth(space, goal)[:2] >= worth(space, kept.solution)[:2]:
        with budget.capped(0.3):
            starts = (kept.solution, start(space, Limits(full), kept.solution.chosen, budget.spend))
            first = min(starts, key=lambda solution: worth(space, solution))
            grown = improve(space, Limits(full), first, budget, goal=_goal(space, kept, options))
    chosen = grown if gained(grown.solution, kept.solution) else kept

    limits = Limits(full, fixed=False, moves_mib=options.churn_budget_mib)
    picked = _picked(space, limits, [chosen.solution, *wishes], options, budget)
    if picked is chosen.solution:
        with budget.capped(0.7):
            moved = improve(space, limits, grown.solution, budget, goal=_goal(space, chosen, options))
    else:
        moved = improve(space, limits, picked, budget, goal=NOTHING_MORE)
    if options.replan or gained(moved.solution, chosen.solution):
        chosen = moved
    return chosen


def _picked(space: Space, limits: Limits, ends: Sequence[Solution], options: Options, budget: Budget) -> Solution:
    """Return what gains enough over what moves less: of the ends, and of placements between the first two that move
    ever more.
    """
    permille = 0 if options.replan else options.min_gain_permille
    picked, goal = ends[:2]
    found = [*ends[1:]]
    if len(space.gpus) > SMALL:
        with budget.capped(0.8):
            moving = [*between(space, limits, goal, budget.spend, permille)]
        found += moving
        nearest = min(moving, key=lambda solution: (worth(space, solution)[:2], churn(space, solution.chosen)))
        if worth(space, goal)[:2] < worth(space, nearest)[:2]:
            with budget.capped(0.6):
                found.append(improve(space, limits, nearest, budget, goal=NOTHING_MORE).solution)
    if limits.moves_mib is not None:
        found = [solution for solution in found if moved_mib(space, solution.chosen) <= limits.moves_mib]
    for solution in sorted(found, key=lambda solution: churn(space, solution.chosen)):
        if gains(space, solution, picked, permille):
            picked = solution
    return picked


def _goal(space: Space, old: Outcome, options: Options) -> int:
    """Return what another outcome has to serve to be of interest, if only its service could be better."""
    return 0 if options.replan else served(space, old.solution) * (1000 + options.min_gain_permille) // 1000


def _values(objectives: Sequence[Objective]) -> tuple[int, ...]:
    """Return a key that is smaller the better a plan is that nothing runs of yet."""
    return tuple(-o.value if o.name in MORE_IS_BETTER else o.value for o in objectives if o.name not in OWN)


def _against(own: tuple[Objective, ...], freest: tuple[Objective, ...]) -> tuple[Objective, ...]:
    """Measure a plan against the bounds of the freest solve.

    A bound presumes the values of the objectives before it, so from the first difference on the
    plan's own bounds are the ones that hold. So do its own for churn, which the freest knows nothing of, for what
    comes after it, and where what runs is better than any start could be, as it may use the margin.
    """
    measured = []
    same = True
    for objective, free in zip(own, freest, strict=True):
        sign = -1 if objective.name in MORE_IS_BETTER else 1
        measurable = (
            same and objective.name not in ("churn_mib", "balance_mib") and sign * objective.value >= sign * free.bound
        )
        bound = free.bound if measurable else objective.bound
        measured.append(dataclasses.replace(objective, bound=bound, proved=objective.value == bound))
        same = same and objective.value == free.value
    return tuple(measured)


def _decided(objectives: tuple[Objective, ...], strong: int) -> tuple[Objective, ...]:
    """Let strong N-1 be what was decided loss by loss in the end, which may be more than was seen on the way."""
    return tuple(
        dataclasses.replace(o, value=strong, proved=strong == o.bound) if o.name == "strong_n1" else o
        for o in objectives
    )


def _status(objectives: Sequence[Objective]) -> t.Literal["optimal", "feasible", "infeasible"]:
    if any(o.name == "unmet_minimum" and o.bound > 0 for o in objectives):
        return "infeasible"
    return "optimal" if all(o.proved for o in objectives) else "feasible"


def _replicas(space: Space, solution: Solution, current: Sequence[Replica]) -> tuple[Replica, ...]:
    """Name the chosen candidates: what runs keeps id, port and shares; the rest takes the lowest free ones."""
    bases = slugs(model.name for model in space.models)
    ids = {replica.id for replica in current}
    ports: dict[str, set[int]] = {}
    for replica in current:
        ports.setdefault(replica.node, set()).add(replica.port)
    replicas = []
    # Candidates are in a fixed order, so the names do not depend on how the solver came to its choice.
    for i in sorted(solution.chosen):
        candidate = space.candidates[i]
        if candidate.running is not None:
            replicas.append(dataclasses.replace(candidate.running.planned, speed=candidate.speed))
            continue
        model = space.models[candidate.model]
        identity = next_id(bases[model.name], ids)
        port = next_port(candidate.node, ports.setdefault(candidate.node, set()))
        ids.add(identity)
        ports[candidate.node].add(port)
        replicas.append(
            Replica(
                id=identity,
                model=model.name,
                node=candidate.node,
                runner=candidate.runner,
                gpus=space.shares(i),
                port=port,
                context=model.context,
                parallel=model.parallel,
                kv_cache_type=model.kv_cache_type,
                batch=model.batch,
                speed=candidate.speed,
            )
        )
    return tuple(sorted(replicas, key=lambda r: (r.model, len(r.id), r.id)))


def _unplaced(
    problem: Problem,
    space: Space,
    replicas: Sequence[Replica],
    objectives: Sequence[Objective],
    options: Options,
) -> tuple[Unplaced, ...]:
    placed = Counter(replica.model for replica in replicas)
    proved = {o.priority for o in objectives if o.name == "unmet_minimum" and o.proved}
    limited = options.churn_budget_mib is not None and bool(space.running)
    return tuple(
        explain(problem, replicas, model, proved=model.priority in proved, limited=limited)
        for model in space.models
        if placed[model.name] < model.replicas_min
    )
