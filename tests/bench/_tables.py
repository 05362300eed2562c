# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The benchmark's figures as Markdown, and where they go in docs/placement.md.

Minimums, weak and strong N-1 are summed over the seeds; everything else is the median.
"""

from __future__ import annotations

import typing as t
from statistics import geometric_mean, median

from _baselines import GREEDIES, POLICIES
from _compare import own_gap, ratios, unpriced_gap
from _figure import figure
from _goals import as_rows, goals
from _runs import EXACT, Job, Result

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

BEGIN, END = "<!-- begin: make bench-placement -->", "<!-- end: make bench-placement -->"

Done = dict[Job, Result]


def markdown(done: Done) -> str:
    """All tables there are figures for."""
    return "\n\n".join(part for part in _sections(done) if part)


def _sections(done: Done) -> tuple[str, ...]:
    return (_goals(done), _plans(done), _others(done), _losses(done), _events(done))


def write_docs(done: Done, docs: Path) -> None:
    """Put the tables between the marks of placement.md, and the figure beside it."""
    page = docs / "placement.md"
    before, _begin, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{markdown(done)}\n\n{END}{after}")
    (docs / "placement.svg").write_text(figure(done))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """A Markdown table; the first column is text."""
    lines = [head, ["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _goals(done: Done) -> str:
    rows = as_rows(goals(done))
    return "### Goals\n\n" + table(["what", "goal", "measured", "met"], rows, numbers=False) if rows else ""


def _plans(done: Done) -> str:
    kinds = sorted({(j.gpus, j.models, j.load, j.seconds) for j in done if j.kind == "plan"})
    head = [
        "fleet",
        "load",
        "for",
        "seeds",
        "minimums met of asked, by priority",
        "inversions",
        "weak N-1",
        "strong N-1",
    ]
    head += [
        "served of demand",
        "of bound",
        "own gap",
        "without strong N-1",
        "× best greedy",
        "× equal greedy",
        "× GPUStack",
    ]
    head += ["wall", "CPU", "memory"]
    rows = []
    for kind in kinds:
        jobs = [j for j in done if j.kind == "plan" and (j.gpus, j.models, j.load, j.seconds) == kind]
        ours = [done[job] for job in jobs]
        others = [Job("others", job.gpus, job.models, job.load, job.seed) for job in jobs]
        pairs = [(done[job], done[other]) for job, other in zip(jobs, others, strict=True) if other in done]
        rows.append(
            [
                f"{kind[0]}/{kind[1]}",
                str(kind[2]),
                f"{kind[3]} s",
                str(len(ours)),
                *_worth(ours, lower_bound=kind[0] > EXACT),
                _median(ours, lambda r: r["served"] / r["bound"] if r.get("bound") else None, ".3f"),
                _median(ours, own_gap, ".1%"),
                _median(ours, unpriced_gap, ".1%"),
                _ratio(pairs, GREEDIES, equal=False),
                _ratio(pairs, GREEDIES, equal=True),
                _ratio(pairs, ("GPUStack",), equal=False),
                _median(ours, lambda r: r["wall"], ".1f") + " s",
                _median(ours, lambda r: r["cpu"], ".1f") + " s",
                _median(ours, lambda r: r["mb"], ".0f") + " MB",
            ]
        )
    return "### Plans\n\n" + table(head, rows) if rows else ""


def _worth(results: Sequence[Result], *, lower_bound: bool) -> list[str]:
    priorities = sorted({priority for result in results for priority in result["asked"]}, key=int, reverse=True)
    met = [f"{_sum(results, 'met', p)} of {_sum(results, 'asked', p)}" for p in priorities]
    strong = f"{_sum(results, 'strong', 'value')} of {_sum(results, 'strong', 'of')}"
    return [
        ", ".join(met),
        str(sum(result["inversions"] for result in results)),
        f"{sum(r['weak'] for r in results)} of {sum(r['weak_of'] for r in results)}",
        ("≥ " if lower_bound else "") + strong,
        _median(results, lambda r: r["served"] / r["demand"], ".3f"),
    ]


def _sum(results: Iterable[Result], key: str, entry: str) -> int:
    return sum(int(result[key].get(entry, 0)) for result in results)


def _median(results: Iterable[Result], value: Callable[[Result], float | None], form: str) -> str:
    values = [number for result in results if (number := value(result)) is not None]
    return format(median(values), form) if values else "–"


def _ratio(pairs: Sequence[tuple[Result, Result]], names: Sequence[str], *, equal: bool) -> str:
    found = ratios(pairs, names, equal=equal)
    if not found:
        return "none equal" if pairs else "–"
    partly = f" ({len(found)} of {len(pairs)})" if len(found) < len(pairs) else ""
    return f"{geometric_mean(found):.3f}{partly}"


def _others(done: Done) -> str:
    fleets = sorted({(j.gpus, j.models, j.load) for j in done if j.kind == "others"})
    head = [
        "policy",
        "minimums met of asked, by priority",
        "inversions",
        "weak N-1",
        "strong N-1",
        "served of demand",
        "CPU",
    ]
    parts = []
    for fleet in fleets:
        results = [result for j, result in done.items() if j.kind == "others" and (j.gpus, j.models, j.load) == fleet]
        makers = {policy.name: [result[policy.name] for result in results] for policy in POLICIES}
        longest = max((j.seconds for j in done if j.kind == "plan" and (j.gpus, j.models, j.load) == fleet), default=0)
        ours = [result for j, result in done.items() if j == Job("plan", *fleet, j.seed, longest)]
        makers |= {f"**sdai**, {longest} s": ours} if ours else {}
        rows = [
            [name, *_worth(own, lower_bound=fleet[0] > EXACT), _median(own, lambda r: r["cpu"], ".2f") + " s"]
            for name, own in makers.items()
        ]
        parts.append(f"#### {fleet[0]}/{fleet[1]}, load {fleet[2]}\n\n{table(head, rows)}")
    return "### All policies\n\n" + "\n\n".join(parts) if parts else ""


def _losses(done: Done) -> str:
    head = ["fleet", "seed", "lost", "moved, 1 s to plan", "moved", "from nothing", "share", "minimums open"]
    head += ["from nothing", "served", "from nothing", "first repair", "CPU for 1 s"]
    rows = []
    for job in sorted((j for j in done if j.kind == "loss"), key=lambda j: (j.gpus, j.seed)):
        result = done[job]
        first, again, scratch = result["first"], result["again"], result["scratch"]
        rows.append(
            [
                f"{job.gpus}/{job.models}",
                str(job.seed),
                f"{result['lost_gib']:.0f} GiB",
                *(f"{part['moved']:.0f} GiB" for part in (first, again, scratch)),
                f"{again['moved'] / scratch['moved']:.2f}" if scratch["moved"] else "–",
                *(str(sum(part["unmet"])) for part in (again, scratch)),
                *(f"{part['served'] / part['demand']:.3f}" for part in (again, scratch)),
                f"{1000 * first['repair']:.0f} ms" if first.get("repair") is not None else "–",
                f"{first['cpu']:.2f} s",
            ]
        )
    return "### After the loss of a node\n\n" + table(head, rows) if rows else ""


def _events(done: Done) -> str:
    head = [
        "fleet",
        "seed",
        "event",
        "moved",
        "from nothing",
        "minimums open",
        "from nothing",
        "served",
        "from nothing",
    ]
    rows = []
    for job in sorted((j for j in done if j.kind == "events"), key=lambda j: (j.gpus, j.seed)):
        for row in done[job]["events"]:
            parts = (row["again"], row["scratch"])
            rows.append(
                [
                    f"{job.gpus}/{job.models}",
                    str(job.seed),
                    row["event"],
                    *(f"{part['moved']:.0f} GiB" for part in parts),
                    *(str(sum(part["unmet"])) for part in parts),
                    *(f"{part['served'] / part['demand']:.3f}" for part in parts),
                ]
            )
    return "### One event after the other\n\n" + table(head, rows) if rows else ""
