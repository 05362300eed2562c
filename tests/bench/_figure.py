# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The figure of docs/placement.md: what each policy leaves out and serves, as a small SVG for light and dark pages."""

from __future__ import annotations

import typing as t

from _baselines import POLICIES
from _runs import Job

if t.TYPE_CHECKING:
    from _runs import Result

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } .small { font-size: 11px }
.other { fill: #8c959f } .own { fill: #1a7f37 } .open { fill: #cf222e } .axis { stroke: #d0d7de }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .other { fill: #7d8590 } .own { fill: #3fb950 } .open { fill: #f85149 }
  .axis { stroke: #444c56 }
}
"""
FLEETS = ((40, 20, 0.9), (100, 40, 0.9), (400, 80, 0.9))
ROW, PANEL, LEFT, BAR, TOP = 20, 380, 90, 105, 58


def figure(done: dict[Job, Result]) -> str:
    """One panel for each fleet: left the minimums that are open, right what is served of the demand, in per cent."""
    panels = [(fleet, found) for fleet in FLEETS if (found := _bars(done, *fleet))]
    height = TOP + ROW * (len(POLICIES) + 1) + 10
    parts = []
    for number, ((gpus, models, load), bars) in enumerate(panels):
        x = number * PANEL
        parts.append(f'<text class="title" x="{x + 4}" y="18">{gpus} GPUs, {models} models, load {load}</text>')
        parts.append(f'<text class="small" x="{x + LEFT}" y="42">minimums open, %</text>')
        parts.append(f'<text class="small" x="{x + LEFT + BAR + 38}" y="42">demand served, %</text>')
        # Even a few per cent of open minimums are to be seen.
        scale = max(10.0, *(opened for _name, opened, _served in bars))
        for row, (name, opened, served) in enumerate(bars):
            y = TOP + row * ROW
            parts.append(f'<text x="{x + 4}" y="{y + 11}">{name}</text>')
            parts += _bar(x + LEFT, y, opened / scale, f"{opened:.1f}", "open")
            parts += _bar(x + LEFT + BAR + 38, y, served / 100, f"{served:.0f}", "own" if name == "sdai" else "other")
        for start in (x + LEFT, x + LEFT + BAR + 38):
            parts.append(f'<path class="axis" d="M{start} {TOP - 4}V{height - 8}"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PANEL * max(1, len(panels))} {height}" role="img">'
    title = "<title>Minimums left open and demand served, by policy</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _bar(x: int, y: int, part: float, label: str, kind: str) -> list[str]:
    width = round(part * BAR, 1)
    return [
        f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="14"/>',
        f'<text class="small" x="{x + width + 4}" y="{y + 11}">{label}</text>',
    ]


def _bars(done: dict[Job, Result], gpus: int, models: int, load: float) -> list[tuple[str, float, float]]:
    fleet = (gpus, models, load)
    others = [r for j, r in done.items() if j.kind == "others" and (j.gpus, j.models, j.load) == fleet]
    longest = max((j.seconds for j in done if j.kind == "plan" and (j.gpus, j.models, j.load) == fleet), default=0)
    ours = [r for j, r in done.items() if j == Job("plan", *fleet, j.seed, longest)]
    if not others or not ours:
        return []
    makers = {policy.name: [result[policy.name] for result in others] for policy in POLICIES} | {"sdai": ours}
    return [
        (
            name,
            100 * sum(sum(r["unmet"]) for r in own) / sum(sum(r["asked"].values()) for r in own),
            100 * sum(r["served"] for r in own) / sum(r["demand"] for r in own),
        )
        for name, own in makers.items()
    ]
