#!/usr/bin/env python3
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench-placement`: the planner against seven other policies on generated fleets, as Markdown tables.

Each run has a process of its own, two at a time. The figures of all runs are kept in .cache/bench/placement.json;
--keep takes those that are there as they are. docs/placement.md says how fleets are made and how to read the tables.
Exit status 1: a plan was not valid.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple
from pathlib import Path

from _runs import Job, Result, run
from _tables import markdown, write_docs

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / ".cache" / "bench" / "placement.json"

# GPUs, models, load, and the seconds to plan for: first those in which minimums and weak N-1 are to be proved.
FLEETS: tuple[tuple[int, int, float, tuple[int, ...]], ...] = (
    (8, 10, 0.9, (10,)),
    (40, 20, 0.6, (10,)),
    (40, 20, 0.9, (1, 10)),
    (100, 40, 0.9, (2, 10)),
    (400, 80, 0.9, (5, 10)),
    (1000, 150, 0.9, (5, 60)),
    (4000, 300, 0.9, (15, 120)),
    (100, 40, 1.1, (30,)),
    (400, 80, 1.1, (30,)),
)
LONG = 60
OFTEN = {(8, 10): 5}
"""Fleets that are so quickly planned that they are drawn so many times as often."""
KINDS = ("plan", "loss", "events", "planted", "repeat")
LOSSES = ((100, 40, 0.9, 10), (400, 80, 0.9, 10))
EVENTS = (40, 20, 0.9, 2)
REPEATS = (40, 20, 0.9, 2)
PLANTED = (20, 10, 60)


def main() -> int:
    args = _arguments()
    if args.job:
        print(json.dumps(run(Job(**json.loads(args.job)))))
        return 0
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() and (args.keep or args.report) else {}
    done = {Job(*entry["job"]): entry["result"] for entry in kept.get("runs", [])}
    if not args.report:
        failures = _run([job for job in _jobs(args) if job not in done], done, args.jobs)
        if failures:
            print("\n".join(f"{job}: {error}" for job, error in failures), file=sys.stderr)
            return 1
    print(markdown(done))
    if args.write:
        write_docs(done, ROOT / "docs")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    parser.add_argument("--fleet", action="append", metavar="GPUS/MODELS", help="these fleets only, for example 100/40")
    parser.add_argument("--load", type=float, action="append", help="these loads: VRAM that minimums ask for, of all")
    parser.add_argument("--seconds", type=int, action="append", help="time to plan for, instead of each fleet's own")
    parser.add_argument("--seeds", type=int, default=3, help="fleets of each kind (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=KINDS, help="runs of this kind only")
    parser.add_argument("--long", action="store_true", help=f"plan 40 to 400 GPUs for {LONG} s too")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s), at most one a core")
    parser.add_argument("--keep", action="store_true", help="take runs that were done before as they are")
    parser.add_argument("--report", action="store_true", help="run nothing, show the figures that are there")
    parser.add_argument("--write", action="store_true", help="put tables and figure into docs/")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args()


def _jobs(args: argparse.Namespace) -> list[Job]:
    fleets = list(FLEETS)
    if args.fleet:
        sizes = [tuple(int(number) for number in fleet.split("/")) for fleet in args.fleet]
        known = {(gpus, models): seconds for gpus, models, load, seconds in FLEETS if load == 0.9}
        fleets = [(g, m, load, known.get((g, m), (10,))) for g, m in sizes for load in args.load or [0.9]]
    elif args.load:
        fleets = [fleet for fleet in FLEETS if fleet[2] in args.load]
    jobs = []
    for gpus, models, load, own in fleets:
        seconds = args.seconds or [*own, *([LONG] if args.long and load == 0.9 and 40 <= gpus <= 400 else [])]
        for seed in range(1, args.seeds * OFTEN.get((gpus, models), 1) + 1):
            jobs += [Job("plan", gpus, models, load, seed, time) for time in seconds]
            jobs.append(Job("others", gpus, models, load, seed))
    if not (args.fleet or args.load):
        jobs += [Job("loss", *loss[:3], seed, loss[3]) for loss in LOSSES for seed in range(1, args.seeds + 1)]
        jobs += [Job("events", *EVENTS[:3], 1, EVENTS[3])]
        jobs += [Job("planted", *PLANTED[:2], 1.0, seed, PLANTED[2]) for seed in range(1, 11)]
        jobs += [Job("repeat", *REPEATS[:3], seed, REPEATS[3]) for seed in range(1, 21)]
    wanted = args.only or KINDS
    return [job for job in jobs if (job.kind if job.kind != "others" else "plan") in wanted]


def _run(jobs: list[Job], done: dict[Job, Result], at_once: int) -> list[tuple[Job, str]]:
    started = time.monotonic()
    failures = []
    finished = 0

    def one(job: Job) -> None:
        nonlocal finished
        command = [sys.executable, __file__, "--job", json.dumps(asdict(job))]
        env = {**os.environ, "PYTHONHASHSEED": str(job.seed), "PYTHONDONTWRITEBYTECODE": "1"}
        ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        finished += 1
        so_far = f"[{finished}/{len(jobs)}, {time.monotonic() - started:.0f} s]"
        if ended.returncode:
            failures.append((job, ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else "killed"))
            print(f"{so_far} {job}: FAILED", file=sys.stderr, flush=True)
            return
        done[job] = json.loads(ended.stdout)
        print(f"{so_far} {job}{_in_short(job, done[job])}", file=sys.stderr, flush=True)
        _save(done)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, jobs))
    return failures


def _in_short(job: Job, result: Result) -> str:
    if job.kind == "plan":
        share = f"served {result['served'] / result['demand']:.3f}"
        return f": {sum(result['unmet'])} minimums open, {share}, {result['wall']:.1f} s, CPU {result['cpu']:.1f} s"
    return ": found" if result.get("found") else ""


def _save(done: dict[Job, Result]) -> None:
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    runs = [{"job": astuple(job), "result": result} for job, result in sorted(done.items(), key=_in_order)]
    FIGURES.write_text(json.dumps({"runs": runs}, indent=1))


def _in_order(item: tuple[Job, Result]) -> tuple[t.Any, ...]:
    return astuple(item[0])


if __name__ == "__main__":
    sys.exit(main())
