#!/usr/bin/env python3
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write playbooks/vars/catalog.yml from GGUF headers, so that no number in it was typed by hand.

The headers are those of tests/lab/make_sparse_gguf.py. usage: make_catalog.py > playbooks/vars/catalog.yml
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

import make_sparse_gguf
from ansible_collections.aivailable.sdai.plugins.module_utils import _gguf
from ansible_collections.aivailable.sdai.plugins.module_utils._footprint import ModelShape

# Ollama's tag -> (model of make_sparse_gguf and of tests/data/truth.csv, parameters as Ollama writes them).
TAGS = {
    "llama3.2:1b": ("llama3.2-1b", "1.2B"),
    "llama3.2:3b": ("llama3.2-3b", "3.2B"),
    "llama3.1:8b": ("llama3.1-8b", "8.0B"),
    "llama3.3:70b": ("llama3.3-70b", "70.6B"),
    "mistral:7b": ("mistral-7b", "7.2B"),
    "qwen2.5:7b": ("qwen2.5-7b", "7.6B"),
    "qwen2.5:14b": ("qwen2.5-14b", "14.8B"),
    "qwen3:8b": ("qwen3-8b", "8.2B"),
    "qwen3:30b": ("qwen3-30b-a3b", "30.5B"),
    "gemma2:9b": ("gemma2-9b", "9.2B"),
    "gemma3:4b": ("gemma3-4b", "3.9B"),
    "gemma3:27b": ("gemma3-27b", "27.0B"),
    "phi3:3.8b": ("phi3-mini", "3.8B"),
    "phi4:14b": ("phi4-14b", "14.7B"),
    "gpt-oss:20b": ("gpt-oss-20b", "20.9B"),
}
QUANTIZATION = {"gpt-oss:20b": "MXFP4"}
# The reference headers of these claim more than the models were trained for, to be measured at 32k.
TRAINED_CONTEXT = {"gemma2:9b": 8192, "phi4:14b": 16384}
OPTIONAL = ("experts", "experts_used", "expert_feed_forward", "sliding_window")

HEAD = """\
---
# Known models: what their GGUF headers say, so that a plan needs neither the model nor a network.
# Written by tests/tools/make_catalog.py; the numbers are of Q4_K_M files (gpt-oss: MXFP4) and of the text model alone.
# A model whose tag holds another quantisation or a projector needs an explicit footprint, or its own header read.
#
# Units: bytes, and counts. layer_bytes lists every block's tensor bytes in order: `of`, `repeat` times over.
# output_bytes: output head (the token embedding where it serves as one) and what sits with it.
# active_bytes: read per generated token. size_bytes: the file. reference: the model's name in the measurements.

# The known-answer test of each kind of model (temperature 0, seed 0). pattern is a regular expression that the answer
# must match; an embedding model answers with numbers, so that an answer is all there is to see.
sdai_probes:
  chat:
    prompt: What is the capital of France? Answer with one word.
    pattern: (?i)paris
  embedding:
    prompt: Paris
    pattern: ""

sdai_catalog:
"""


def shape(reference: str) -> ModelShape:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.gguf"
        written = make_sparse_gguf.write(reference, path)
        with path.open("rb") as file:
            return _gguf.shape_of(_gguf.parse(file.read(written.header)))


def runs(sizes: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Short description of the sequence: from each place on, the pattern of up to 4 that covers most, then the next."""
    found = []
    start = 0
    while start < len(sizes):
        best = (1, sizes[start : start + 1])
        for length in range(1, 5):
            pattern = sizes[start : start + length]
            repeat = 1
            while sizes[start + repeat * length : start + (repeat + 1) * length] == pattern:
                repeat += 1
            if (repeat > 1 or length == 1) and repeat * len(pattern) > best[0] * len(best[1]):
                best = (repeat, pattern)
        found.append(best)
        start += best[0] * len(best[1])
    return found


def entry(tag: str) -> list[str]:
    reference, parameters = TAGS[tag]
    model = shape(reference)
    model = replace(model, trained_context=TRAINED_CONTEXT.get(tag, model.trained_context))
    lines = [
        f'  "{tag}":',
        "    kind: chat",
        f"    parameter_size: {parameters}",
        f"    quantization_level: {QUANTIZATION.get(tag, 'Q4_K_M')}",
        f"    size_bytes: {make_sparse_gguf.MODELS[reference].published}",
        f"    reference: {reference}",
    ]
    for key, value in asdict(model).items():
        if key == "layer_bytes":
            lines.append("    layer_bytes:")
            lines += [
                f"      - {{repeat: {repeat}, of: [{', '.join(map(str, of))}]}}"
                for repeat, of in runs(model.layer_bytes)
            ]
        elif value or key not in OPTIONAL:
            lines.append(f"    {key}: {value}")
    return lines


if __name__ == "__main__":
    print(HEAD + "\n".join(line for tag in TAGS for line in entry(tag)))
