# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a replica takes: rows measured on a real engine, never a formula of the project (which is to be tested).

Table (JSON): {"models": {title: {"layers": L, "rows": {"ctx,parallel,kv,fa,ubatch": [weights, kv, compute]},
"splits": [[layers, ctx, parallel, kv, ubatch, weights, kv, compute], ...]}}}, MiB; lists go GPU by GPU.
"""

from __future__ import annotations

import itertools
import json
import os
import typing as t
from pathlib import Path

MIB = 1 << 20
Triple = tuple[float, float, float]


class NoRow(Exception):
    """The table has nothing for this model with these flags."""


class Flags(t.NamedTuple):
    context: int
    parallel: int
    kv: str
    flash: bool
    batch: int

    @property
    def key(self) -> str:
        return f"{self.context},{self.parallel},{self.kv},{'on' if self.flash else 'off'},{self.batch}"


class Entry:
    def __init__(self, name: str, data: dict[str, t.Any]) -> None:
        self.name = name
        self.layers: int = data["layers"]
        self.rows: dict[str, list[float]] = data["rows"]
        self.splits: list[list[t.Any]] = data.get("splits", [])

    def whole(self, flags: Flags) -> Triple:
        row = self.rows.get(flags.key)
        if row is None:
            raise NoRow(
                f"the lab has no measured footprint of {self.name} with context,parallel,kv,flash,batch = {flags.key}; "
                "use a combination of tests/data/truth.csv"
            )
        return row[0], row[1], row[2]

    def _cumulative(self, column: int) -> list[tuple[int, float]]:
        """(layers on the first cards, share of the total there), from all measured splits."""
        points = {0: 0.0}
        for row in self.splits:
            values = row[column]
            total = sum(values)
            for index, layers in enumerate(itertools.accumulate(row[0][:-1])):
                points[layers] = sum(values[: index + 1]) / total
        return sorted(points.items())

    def _share(self, column: int, layers: int) -> float:
        points = self._cumulative(column)
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            if layers <= x1:
                return y0 + (y1 - y0) * (layers - x0) / (x1 - x0)
        (x0, y0), (x1, y1) = points[-2:]
        return min(1.0, y1 + (y1 - y0) * (layers - x1) / (x1 - x0))

    def split(self, flags: Flags, layers: list[int]) -> list[Triple]:
        """Shares for the given real layers per GPU; the output head is on the last one."""
        for row in self.splits:
            if row[0] == layers and (row[1], row[2], row[3], row[4]) == (
                flags.context, flags.parallel, flags.kv, flags.batch,
            ):  # fmt: skip
                return list(zip(row[5], row[6], row[7], strict=True))
        same = [r for r in self.splits if r[1] == flags.context and r[4] == flags.batch]
        if not same or not flags.flash:
            raise NoRow(
                f"the lab has no measured split of {self.name} with context {flags.context}, batch {flags.batch}; "
                "use a combination of tests/data/splits.csv"
            )
        same.sort(key=lambda r: len(r[0]) != len(layers))
        compute = same[0][7]
        weights, kv, _ = self.whole(flags)
        shares, before = [], 0
        for index, count in enumerate(layers):
            last = index == len(layers) - 1
            upto = before + count
            w = (1.0 if last else self._share(5, upto)) - (self._share(5, before) if before else 0.0)
            k = (1.0 if last else self._share(6, upto)) - (self._share(6, before) if before else 0.0)
            shares.append((weights * w, kv * k, compute[0] if index == 0 else compute[-1]))
            before = upto
        return shares


def load() -> dict[str, Entry]:
    """The release's table, and those named by SDAI_LAB_NEEDS (tests bring their own small models)."""
    files = [Path(__file__).with_name("needs.json")]
    files += [Path(p) for p in os.environ.get("SDAI_LAB_NEEDS", "").split(":") if p]
    entries: dict[str, Entry] = {}
    for path in files:
        if path.exists():
            models = json.loads(path.read_text())["models"]
            entries.update({name: Entry(name, data) for name, data in models.items()})
    return entries


def automatic_batch(context: int, parallel: int) -> int:
    total = context * parallel
    return 512 if total <= 4096 else 1024 if total <= 32768 else 2048
