# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the planner is to reach, and whether it does: each goal with what was measured.

A goal is met when the median of its seeds meets it, and where equality is asked for, when all do. What was not proved
took forever. Times are CPU seconds, as others may be at work on the machine; or those of the wall, where several
threads take more.
"""

from __future__ import annotations

import math
import typing as t
from statistics import geometric_mean, median

from _baselines import GREEDIES
from _compare import gap, minimums_proved, never_worse, ratios, unpriced_gap
from _runs import Job

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _runs import Result

    Done = dict[Job, Result]
    Goal = tuple[str, str, str, bool | None]

# GPUs, models: seconds in which minimums and weak N-1 are to be proved; seconds to plan for: greatest gap; most MB.
PROVED = {(8, 10): 1, (40, 20): 1, (100, 40): 2, (400, 80): 5, (1000, 150): 5, (4000, 300): 15}
GAPS = {
    (40, 20): {10: 0.03, 60: 0.01},
    (100, 40): {10: 0.05, 60: 0.03},
    (400, 80): {10: 0.03, 60: 0.015},
    (1000, 150): {60: 0.04},
    (4000, 300): {120: 0.05},
}
MEMORY = {(400, 80): 500, (4000, 300): 2000}
REPAIRED = 400
"""GPUs of the fleets whose first repair is looked at."""
FULL = 0.9
"""The load that these goals are meant for."""


def goals(done: Done) -> list[Goal]:
    """What, the goal, what was measured, whether it is met (None: nothing to compare with), if it was run."""
    return [*_fleets(done), *_overloaded(done), *_others(done), *_survival(done), *_losses(done), *_rest(done)]


def _plans(done: Done, fleet: tuple[int, int], load: float, seconds: int | None = None) -> list[Result]:
    wanted = (*fleet, load)
    return [
        result
        for job, result in done.items()
        if job.kind == "plan" and (job.gpus, job.models, job.load) == wanted and seconds in (None, job.seconds)
    ]


def _fleets(done: Done) -> Iterator[Goal]:
    for fleet, seconds in PROVED.items():
        name = f"{fleet[0]}/{fleet[1]}"
        everything = fleet[0] == 8
        # A plan of the smallest fleets ends when all is proved, whatever time it was given.
        results = _plans(done, fleet, FULL, None if everything else seconds)
        if results:
            proofs = [all(o["proved"] for o in r["objectives"]) if everything else minimums_proved(r) for r in results]
            # The time of a plan goes on after them, to serve more.
            ended = [min(r["cpu"], r["wall"]) if everything else r["first"] for r in results]
            used = median(spent if proved else math.inf for spent, proved in zip(ended, proofs, strict=True))
            what = "all passes" if everything else "minimums and weak N-1"
            time = "never" if used == math.inf else f"{used:.1f} s"
            measured = f"{time}; proved {sum(proofs)} of {len(proofs)}"
            yield name, f"{what} proved < {seconds} s", measured, used < seconds
        for limit, most in GAPS.get(fleet, {}).items():
            results = _plans(done, fleet, FULL, limit)
            if results:
                reached = median(map(gap, results))
                free = [found for found in map(unpriced_gap, results) if found is not None]
                also = f" ({median(free):.1%} without strong N-1)" if free else ""
                yield name, f"gap ≤ {most:.1%} at {limit} s", f"{reached:.1%}{also}", reached <= most
        if fleet in MEMORY and (results := _plans(done, fleet, FULL)):
            peak = max(result["mb"] for result in results)
            yield name, f"< {MEMORY[fleet]} MB", f"{peak:.0f} MB", peak < MEMORY[fleet]


def _overloaded(done: Done) -> Iterator[Goal]:
    for fleet in ((100, 40), (400, 80)):
        results = _plans(done, fleet, 1.1, 30)
        if results:
            opened = median(sum(r["unmet"]) / sum(r["asked"].values()) for r in results)
            top = [next(o["proved"] for o in r["objectives"] if o["name"] == "unmet_minimum") for r in results]
            bounds = [sum(o["bound"] for o in r["objectives"] if o["name"] == "unmet_minimum") for r in results]
            least = median(bound / sum(r["asked"].values()) for bound, r in zip(bounds, results, strict=True))
            measured = f"{opened:.1%} (proved: at least {least:.1%}), {sum(top)} of {len(top)}"
            goal = "≤ 2 % of minimums open at 30 s, top class proved"
            yield f"{fleet[0]}/{fleet[1]}, load 1.1", goal, measured, opened <= 0.02 and all(top)


def pairs(done: Done, least: int, most: int, load: float) -> list[tuple[Result, Result]]:
    """Our plan with the most time and the others' placements, for each fleet of these sizes from this load on."""
    longest: dict[tuple[t.Any, ...], Job] = {}
    for job in sorted((j for j in done if j.kind == "plan"), key=lambda j: j.seconds):
        if least <= job.gpus <= most and job.load >= load:
            longest[job.gpus, job.models, job.load, job.seed] = job
    others = [Job("others", *key) for key in longest]
    return [(done[ours], done[other]) for ours, other in zip(longest.values(), others, strict=True) if other in done]


def _others(done: Done) -> Iterator[Goal]:
    everyone = pairs(done, 0, 4000, 0)
    if everyone:
        beaten = [never_worse(ours, other) for ours, others in everyone for other in others.values()]
        yield "all fleets", "never behind any policy", f"{sum(beaten)} of {len(beaten)}", all(beaten)
        inverted = sum(ours["inversions"] for ours, _others in everyone)
        yield "all fleets", "no priority inversion", f"{inverted} in {len(everyone)} plans", not inverted
    compared = pairs(done, 40, 400, 0.85)
    for name, rivals, least in (("best greedy", GREEDIES, 1.10), ("GPUStack", ("GPUStack",), 1.20)):
        found = ratios(compared, rivals, equal=True)
        goal = f"served ≥ {least:.2f} × {name} at equal minimums and N-1"
        if compared:
            measured = f"{geometric_mean(found):.3f} ({len(found)} of {len(compared)})" if found else "none is equal"
            yield "40 to 400, load ≥ .85", goal, measured, geometric_mean(found) >= least if found else None


def _survival(done: Done) -> Iterator[Goal]:
    longest = max((j.seconds for j in done if j.kind == "plan" and (j.gpus, j.load) == (100, FULL)), default=0)
    results = [r for r in _plans(done, (100, 40), FULL, longest) if "survivable" in r]
    if results:
        share = median(r["strong"]["value"] / max(1, r["survivable"]) for r in results)
        yield "100/40", "strong N-1 ≥ 90 % of what could be", f"{share:.0%}", share >= 0.9


def _losses(done: Done) -> Iterator[Goal]:
    losses = [result for job, result in done.items() if job.kind == "loss"]
    equal = [r for r in losses if r["again"]["unmet"] <= r["scratch"]["unmet"] and r["scratch"]["moved"]]
    if equal:
        share = median(r["again"]["moved"] / r["scratch"]["moved"] for r in equal)
        measured = f"{share:.2f} ({len(equal)} of {len(losses)})"
        yield "a node lost", "≤ 0.65 × GiB from nothing at equal minimums", measured, share <= 0.65
    repairs = [r["first"].get("repair") for job, r in done.items() if job.kind == "loss" and job.gpus == REPAIRED]
    known = [seconds for seconds in repairs if seconds is not None]
    if known:
        measured = f"{1000 * median(known):.0f} ms ({len(known)} of {len(repairs)})"
        yield f"a node lost, {REPAIRED} GPUs", "first repair < 50 ms", measured, median(known) < 0.05
    if losses:
        points = median((r["scratch"]["served"] - r["again"]["served"]) / r["again"]["demand"] for r in losses)
        yield "a node lost", "served within 5 points", f"{100 * points:.1f} points", points <= 0.05


def _rest(done: Done) -> Iterator[Goal]:
    digests = [result["digest"] for job, result in done.items() if job.kind == "repeat"]
    if digests:
        same = digests.count(max(set(digests), key=digests.count))
        goal = "byte-identical; input order and hash seed varied"
        yield "determinism", goal, f"{same} of {len(digests)}", same == len(digests)
    found = [result["found"] for job, result in done.items() if job.kind == "planted"]
    if found:
        yield "planted, 20 GPUs, no slack", "10 of 10 at 60 s", f"{sum(found)} of {len(found)}", all(found)


def as_rows(found: Sequence[Goal]) -> list[list[str]]:
    """As cells of a table."""
    words = {True: "yes", False: "**no**", None: "–"}
    return [[what, goal, measured, words[met]] for what, goal, measured, met in found]
