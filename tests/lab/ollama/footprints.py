# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in's table of VRAM needs from the measurements in tests/data, and the facts of a GGUF file's header."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
import typing as t
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "standin" / "lib" / "ollama"))

from ollama_standin import gguf, sparse

__all__ = ["header", "sparse", "table"]
_LAYERS = re.compile(r";L=(\d+);")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split("+")]


def table(data: Path) -> dict[str, t.Any]:
    """Shape: see ollama_standin/needs.py."""
    models: dict[str, dict[str, t.Any]] = {}
    with (data / "truth.csv").open() as stream:
        for row in csv.DictReader(stream):
            layers = int(_LAYERS.search(row["arch_params"])[1])  # type: ignore[index]  # each row says L=
            model = models.setdefault(row["model"], {"layers": layers, "rows": {}, "splits": []})
            sizes = [_numbers(row[f"{part}_MiB"]) for part in ("weights", "kv", "compute")]
            flags = [int(row["ctx_per_slot"]), int(row["parallel"]), row["kv_type"]]
            if row["backend"].startswith("gpu"):
                key = ",".join(str(part) for part in (*flags, row["fa"], row["n_ubatch"]))
                model["rows"][key] = [values[0] for values in sizes]
            elif row["backend"].startswith("2gpu"):
                # The engine's own cut; which layers went where shows in the cache, alike for all layers or nearly so.
                first = round(layers * sizes[1][0] / sum(sizes[1]))
                model["splits"].append([[first, layers - first], *flags, int(row["n_ubatch"]), *sizes])
    with (data / "splits.csv").open() as stream:
        for row in csv.DictReader(stream):
            sizes = [_numbers(row[f"{part}_MiB"]) for part in ("weights", "kv", "compute")]
            flags = [int(row["ctx_per_slot"]), int(row["parallel"]), row["kv_type"], int(row["n_ubatch"])]
            models[row["model"]]["splits"].insert(0, [_numbers(row["layers"]), *flags, *sizes])
    return {"models": models}


def header(path: Path) -> dict[str, t.Any]:
    """What a registry says about a model, and what tells one sparse file from another without reading its zeros."""
    info = gguf.read(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        digest = hashlib.sha256(stream.read(1 << 24)).hexdigest()
    return {
        "family": info.architecture,
        "parameter_size": gguf.human_parameters(info.parameters),
        "quantization": info.quantization,
        "size": size,
        "header": digest,
    }
