# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is measured, each run in a process of its own: its time, its memory and its worth as plain values.

Time and memory are those of ``solve()`` alone, ``first`` is the CPU time until minimums and weak N-1 were done,
``repair`` that until the first repair was told, None where there was none; memory
is the peak of the whole process at its end, with Python and OR-Tools.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import time
import typing as t
from dataclasses import asdict, dataclass

from _baselines import POLICIES
from _bound import Bound, survivable
from _evaluator import Score, evaluate, faults, moved_gib
from _fleets import events, make, plant
from _places import World
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Options
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import passes, solve

if t.TYPE_CHECKING:
    from collections.abc import Sequence

    from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
        Objective,
        Plan,
        Problem,
        Replica,
    )

Result = dict[str, t.Any]

EXACT = 100
"""GPUs up to which CP-SAT decides a loss where the greedy does not see how, and survivable losses are counted."""
EVENTS = 6
NOTHING = 1 << 62
"""Strong N-1 may cost one part in so many of what is served."""
BOUNDED = 1000
"""GPUs up to which the benchmark's own bound is computed."""


class InvalidPlanError(Exception):
    """A placement breaks a rule; the benchmark is of no use then."""


@dataclass(frozen=True)
class Job:
    """One run. ``kind``: plan, others, loss, events, planted or repeat. ``seconds`` as ``sdai_plan_seconds``."""

    kind: str
    gpus: int
    models: int
    load: float
    seed: int
    seconds: int = 0

    def __str__(self) -> str:
        if self.kind == "planted":
            return f"planted packing on {self.gpus} GPUs, seed {self.seed}, {self.seconds} s"
        kinds = {"plan": "", "others": ", the others", "loss": ", a node lost", "repeat": ", again"}
        kind = kinds.get(self.kind, f", {self.kind}")
        seconds = f", {self.seconds} s" if self.seconds else ""
        return f"{self.gpus}/{self.models}, load {self.load}, seed {self.seed}{seconds}{kind}"


def run(job: Job) -> Result:
    """Do it. Raises InvalidPlanError."""
    kinds = {"plan": _plan, "others": _others, "loss": _loss, "events": _events, "planted": _planted, "repeat": _repeat}
    return kinds[job.kind](job)


def _timed(problem: Problem, current: Sequence[Replica], seconds: int) -> tuple[Plan, Result]:
    wall, cpu = time.monotonic(), time.process_time()
    first = 0.0
    repaired = None

    def told(objective: Objective) -> None:
        nonlocal first, repaired
        if objective.name == "first_repair":
            repaired = time.process_time() - cpu
        elif objective.name in ("unmet_minimum", "weak_n1"):
            first = time.process_time() - cpu

    plan = solve(problem, current, Options(seconds=seconds), progress=told)
    used: Result = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu, "first": first}
    used["repair"] = repaired
    # Linux counts in KiB.
    return plan, {**used, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def _plan(job: Job) -> Result:
    problem = make(job.gpus, job.models, job.load, job.seed).problem()
    plan, used = _timed(problem, (), job.seconds)
    world = World(problem)
    score = _score(world, plan.replicas)
    result = {
        **used,
        **_values(score),
        "objectives": [asdict(objective) for objective in plan.objectives],
        "reproducible": plan.reproducible,
        "nodes": len(world.nodes),
    }
    if job.gpus <= BOUNDED:
        result["bound"] = Bound(world).served(dict(zip(score.asked, score.unmet, strict=True)))
        result["least_unmet"] = list(Bound(world).unmet(list(score.asked)))
    if job.gpus <= EXACT:
        result["survivable"] = survivable(world, score.met, score.asked)
        result["unpriced"] = _unpriced(problem, job.seconds)
    return result


def _unpriced(problem: Problem, seconds: int) -> Result:
    """The value and bound of what is served where strong N-1 may cost nothing of it."""
    kept, passes.GIVEN_UP = passes.GIVEN_UP, NOTHING
    try:
        plan = solve(problem, (), Options(seconds=seconds))
    finally:
        passes.GIVEN_UP = kept
    return next({"value": o.value, "bound": o.bound} for o in plan.objectives if o.name == "served")


def _others(job: Job) -> Result:
    world = World(make(job.gpus, job.models, job.load, job.seed).problem())
    result: Result = {}
    for policy in POLICIES:
        cpu = time.process_time()
        replicas = policy(world).run()
        result[policy.name] = {"cpu": time.process_time() - cpu, **_values(_score(world, replicas))}
    return result


def _loss(job: Job) -> Result:
    """Plan, lose a node that holds replicas, plan again from what is left, and from nothing."""
    spec = make(job.gpus, job.models, job.load, job.seed)
    before = solve(spec.problem(), (), Options(seconds=job.seconds)).replicas
    node = random.Random(job.seed).choice(sorted({replica.node for replica in before}))
    left = [replica for replica in before if replica.node != node]
    problem = spec.problem(absent=[node])
    world = World(problem)
    result: Result = {"node": node, "lost_gib": sum(r.vram_mib for r in before if r.node == node) / 1024}
    for name, current, seconds in (("first", left, 1), ("again", left, job.seconds), ("scratch", [], job.seconds)):
        plan, used = _timed(problem, current, seconds)
        score = _score(world, plan.replicas, {replica.id for replica in current})
        result[name] = {**used, **_values(score), "moved": moved_gib(left, plan.replicas)}
    return result


def _events(job: Job) -> Result:
    """Plan after each of some events, from what runs then and from nothing."""
    spec = make(job.gpus, job.models, job.load, job.seed)
    runs = solve(spec.problem(), (), Options(seconds=job.seconds)).replicas
    rows = []
    for what, catalog, away in events(spec, job.seed, EVENTS):
        problem = catalog.problem(absent=away)
        world = World(problem)
        left = [replica for replica in runs if replica.node not in away]
        row: Result = {"event": what}
        for name, current in (("scratch", []), ("again", left)):
            plan, used = _timed(problem, current, job.seconds)
            score = _score(world, plan.replicas, {replica.id for replica in current})
            row[name] = {**used, **_values(score), "moved": moved_gib(left, plan.replicas)}
            runs = plan.replicas
        rows.append(row)
    return {"events": rows}


def _planted(job: Job) -> Result:
    planted = plant(job.gpus, job.seed)
    problem = planted.spec.problem()
    plan, used = _timed(problem, (), job.seconds)
    score = _score(World(problem), plan.replicas)
    return {**used, **_values(score), "found": not any(score.unmet)}


def _repeat(job: Job) -> Result:
    """The plan of the same fleet in another order; its process has a hash seed of its own."""
    spec = make(job.gpus, job.models, job.load, 1).shuffled(job.seed)
    plan, used = _timed(spec.problem(), (), job.seconds)
    digest = hashlib.sha256(json.dumps(asdict(plan)).encode()).hexdigest()
    return {**used, "digest": digest, "reproducible": plan.reproducible}


def _score(world: World, replicas: Sequence[Replica], running: t.Collection[str] = ()) -> Score:
    found = faults(world, replicas, running)
    if found:
        raise InvalidPlanError("; ".join(found[:5]))
    return evaluate(world, replicas, exact_strong=len(world.gpus) <= EXACT)


def _values(score: Score) -> Result:
    return {**asdict(score), "unmet": list(score.unmet)}
