#!/usr/bin/env python3
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make drill`: failures one by one on the lab, while official clients stream without a pause.

The lab is started and the site deployed where they are not yet. At the end, also after Ctrl-C, the lab is healthy
again. A table tells for each failure what the clients saw; the figures of each round are in .cache/drill/.
Exit status 1: a promise of docs/failures.md was not kept; the last lines say which.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import typing as t
from dataclasses import asdict, dataclass, field
from pathlib import Path

import demo
from _engine import ROOT, LabError, podman
from _hosts import HOSTS
from drill_faults import FAILURES, FRONTEND, Failure, Target, heal
from drill_load import Load, Watcher

PLAN = ROOT / "inventories" / "lab" / ".plan" / "plan.json"
RESULTS = ROOT / ".cache" / "drill"
CLIENTS = 24
# Those of which the bars speak are repeated: chance has a part in what is on its way at that moment.
REPEATED = ("node killed", "node vanished")
HEALTHY_S = 180
ENDED_S = 120
DOWN_S = 20
CALM_S = 3


@dataclass
class Round:
    """What one failure did. Counts are of requests; times are seconds after the failure, or after the repair."""

    failure: str
    target: str
    down_s: float | None = None
    waiting: int = 0
    failed: int = 0
    cut: int = 0
    retried: int = 0
    slowest_retried_s: float | None = None
    slowest_s: float = 0.0
    back_s: float | None = None
    errors: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


T = t.TypeVar("T")


def wait_for(what: str, condition: t.Callable[[], T | None], seconds: float) -> T:
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


def healthy() -> bool:
    states = Watcher.states()
    return bool(states) and set(states.values()) == {"UP"}


class Drill:
    def __init__(self, load: Load, watcher: Watcher, targets: list[Target]) -> None:
        self.load, self.watcher, self.targets = load, watcher, targets

    def run(self, failure: Failure, number: int) -> Round:
        target = Target(FRONTEND) if failure.at_frontend else self.targets[number % len(self.targets)]
        wait_for("every replica UP", healthy, HEALTHY_S)
        calm = time.monotonic()
        wait_for("answers from each replica", lambda: self._all_answer(calm), ENDED_S)
        time.sleep(max(0.0, calm + CALM_S - time.monotonic()))
        result = Round(failure.name, target.replica or target.host.name)
        try:
            struck_at = failure.strike(target)
            struck = struck_at - time.time() + time.monotonic()
            down = self._detected(failure, target, struck)
            if failure.repair:
                # Not before whatever was on its way has met its fate: what returns soon would hide it.
                known = down or time.monotonic()
                wait_for("the end of what was on its way", lambda: self._ended(known), ENDED_S)
                since = time.monotonic()
                failure.repair(target)
            else:
                since = struck
        except BaseException:
            # At once, also after Ctrl-C: the clients that wait for the replica can end only then.
            heal()
            raise
        back = self._back(target, struck, max(since, down or struck), failure.back_s + 60)
        self._judge(failure, result, struck, back)
        # Also where it need not be known: an engine that is replaced may be missed for a moment.
        down = down or (self.watcher.first(struck, target.replica, up=False) if target.replica else None)
        result.down_s = down and down - struck
        result.back_s = back and back - since
        result.retried, result.slowest_retried_s = retried(struck_at)
        result.broken = broken(failure, result)
        return result

    def _all_answer(self, since: float) -> bool:
        begun = {request.replica for request in list(self.load.requests) if request.begun and request.begun > since}
        return begun >= {target.replica for target in self.targets}

    def _ended(self, until: float) -> bool:
        return all(request.ended for request in list(self.load.requests) if request.submitted <= until)

    def _detected(self, failure: Failure, target: Target, struck: float) -> float | None:
        if failure.down_s is None:
            return None
        deadline = struck + DOWN_S
        while time.monotonic() < deadline:
            down = self.watcher.first(struck, target.replica, up=False)
            if down:
                return down
            time.sleep(0.05)
        return None

    def _back(self, target: Target, struck: float, since: float, seconds: float) -> float | None:
        """When a request of after the failure was first answered: by this replica, and after it was UP again."""

        def answered() -> float | None:
            after = since
            if target.replica and self.watcher.first(struck, target.replica, up=False):
                up = self.watcher.first(since, target.replica, up=True)
                if up is None:
                    return None
                after = up
            begun = [
                request.begun
                for request in list(self.load.requests)
                if request.begun
                and request.begun > after
                and request.submitted > struck
                and target.replica in ("", request.replica)
            ]
            return min(begun, default=None)

        try:
            return wait_for("the minimum", answered, seconds)
        except LabError:
            return None

    def _judge(self, failure: Failure, result: Round, struck: float, back: float | None) -> None:
        until = back or time.monotonic()
        if not failure.repair:
            # What comes after may have met it too.
            until += CALM_S
            time.sleep(max(0.0, until - time.monotonic()))
        try:
            wait_for("the end of what was on its way", lambda: self._ended(until), ENDED_S)
        except LabError as error:
            result.errors.append(str(error))
        seen = [r for r in list(self.load.requests) if r.submitted <= until and (r.ended is None or r.ended > struck)]
        waiting = [request for request in seen if request.submitted > struck or request.pending(struck)]
        failed = [request for request in waiting if request.begun is None]
        cut = [request for request in seen if request.begun and not request.whole]
        result.waiting, result.failed, result.cut = len(waiting), len(failed), len(cut)
        result.slowest_s = max((r.begun - r.submitted for r in waiting if r.begun), default=0.0)
        result.errors += [f"{request.client}: {request.error or 'no end'}" for request in failed]


def retried(since: float) -> tuple[int, float | None]:
    """By HAProxy's log: how many requests it gave to a replica again, and how long the slowest waited for an answer."""
    script = f"journalctl -t haproxy -o cat --no-pager --since @{since:.6f}"
    lines = podman("exec", FRONTEND.container, "sh", "-c", script, seconds=30).stdout.splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    again = [entry for entry in entries if entry["retries"].lstrip("+") != "0"]
    waits = [
        (entry["queue_ms"] + entry["connect_ms"] + entry["first_byte_ms"]) / 1000
        for entry in again
        if entry["status"] == 200
    ]
    return len(again), max(waits, default=None)


def broken(failure: Failure, result: Round) -> list[str]:
    """The promises that this round did not keep."""
    found = []
    if failure.down_s is not None and (result.down_s is None or result.down_s > failure.down_s):
        found.append(f"HAProxy must know within {failure.down_s} s, not {seconds(result.down_s)}")
    if failure.lossless and result.failed:
        found.append(f"{result.failed} requests failed that had not begun: {'; '.join(result.errors[:3])}")
    if failure.uncut and result.cut:
        found.append(f"{result.cut} running answers were cut")
    if result.back_s is None or result.back_s > failure.back_s:
        found.append(f"the minimum must be back within {failure.back_s} s, not {seconds(result.back_s)}")
    return found


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


HEAD = ("failure", "rounds", "DOWN s", "not begun", "failed", "cut", "retried", "slowest retried s", "back s")


def table(rounds: list[Round]) -> str:
    """One line for each failure: sums of the counts, the worst of the times."""

    def worst(values: t.Iterable[float | None]) -> str:
        return seconds(max((value for value in values if value is not None), default=None))

    lines = [HEAD]
    for name in dict.fromkeys(result.failure for result in rounds):
        mine = [result for result in rounds if result.failure == name]
        counts = [str(sum(getattr(r, key) for r in mine)) for key in ("waiting", "failed", "cut", "retried")]
        times = [worst(getattr(r, key) for r in mine) for key in ("down_s", "slowest_retried_s", "back_s")]
        lines.append((name, str(len(mine)), times[0], *counts, times[1], times[2]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )  # fmt: skip


def prepare() -> list[Target]:
    """The lab and the site as they must be; the replicas of the model that has one on each of two nodes."""
    if not healthy():
        demo.step("The lab", [sys.executable, ROOT / "tests/lab/lab.py", "up"])
        demo.step("The site", [demo.BIN / "ansible-playbook", "aivailable.sdai.site", "-i", "inventories/lab"])
    nodes = {host.name: host for host in HOSTS}
    replicas = [replica for replica in json.loads(PLAN.read_text())["replicas"] if replica["model"] == demo.MODEL]
    if len({replica["node"] for replica in replicas}) == 2 == len(replicas):
        return [Target(nodes[replica["node"]], replica["id"]) for replica in replicas]
    raise LabError(f"the plan does not have {demo.MODEL} twice, on two nodes")


def drill(failures: list[Failure], rounds: int, clients: int, done: list[Round]) -> None:
    targets = prepare()
    print(f"\n{clients} clients stream {demo.MODEL} from {', '.join(target.replica for target in targets)}", flush=True)
    with Watcher() as watcher, Load(demo.MODEL, clients) as load:
        work = Drill(load, watcher, targets)
        for failure in failures:
            count = rounds if failure.name in REPEATED else 1
            for number in range(count):
                print(f"{failure.name} ({number + 1}/{count}) …", end=" ", flush=True)
                result = work.run(failure, number)
                done.append(result)
                print(
                    f"{result.target}: DOWN after {seconds(result.down_s)} s; of {result.waiting} not begun "
                    f"{result.failed} failed; {result.cut} cut; slowest retried {seconds(result.slowest_retried_s)} s; "
                    f"back after {seconds(result.back_s)} s",
                    *(f"\n    {line}" for line in result.broken), flush=True,
                )  # fmt: skip


def main(words: list[str]) -> int:
    names = [failure.name for failure in FAILURES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help=f"of {' and '.join(REPEATED)} (default: 10)")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--only", action="append", choices=names, help="may be given several times (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS / "last.json", help="where the figures are written")
    options = parser.parse_args(words)
    failures = [failure for failure in FAILURES if failure.name in (options.only or names)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started, busy = time.time(), os.getloadavg()[0]
    rounds: list[Round] = []
    try:
        drill(failures, options.rounds, options.clients, rounds)
    finally:
        kept = {"started": started, "load_before": busy, "clients": options.clients}
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(kept | {"rounds": [asdict(r) for r in rounds]}, indent=1) + "\n")
        print(f"\n{table(rounds)}\n\n{time.time() - started:.0f} s; each round is in {options.results}", flush=True)
        heal()
        wait_for("every replica UP again", healthy, HEALTHY_S)
    faults = [f"{result.failure} ({result.target}): {line}" for result in rounds for line in result.broken]
    print("\n".join(faults) or "Every promise was kept.")
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"drill: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
