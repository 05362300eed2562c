# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/vars/catalog.yml: what others read from it besides the shapes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.aivailable.sdai.plugins.module_utils import _footprint as footprint

ROOT = Path(__file__).parents[4]
FILE = ROOT / "playbooks/vars/catalog.yml"
DOCUMENT = yaml.safe_load(FILE.read_text())
PROBES = DOCUMENT["sdai_probes"]


@pytest.mark.parametrize(("name", "entry"), DOCUMENT["sdai_catalog"].items(), ids=DOCUMENT["sdai_catalog"])
def test_entry(name: str, entry: dict[str, Any]) -> None:
    """A real tag, a probe for its kind, and sizes that agree with each other."""
    shape = footprint.shape_from_catalog(name, entry)
    assert re.fullmatch(r"[a-z0-9.-]+:[a-z0-9.-]+", name)
    assert entry["kind"] in PROBES
    assert re.fullmatch(r"\d+\.\dB", entry["parameter_size"])
    assert entry["quantization_level"] in ("Q4_K_M", "MXFP4")
    weights = sum(shape.layer_bytes) + shape.output_bytes
    assert shape.active_bytes == weights or (shape.moe and shape.active_bytes < weights)
    # The file also holds the tokenizer, and the token embedding where that is not the output head.
    assert 0.92 < weights / entry["size_bytes"] < 1.0


def test_probes() -> None:
    """A chat model proves that it knows the answer; an embedding model has none to check."""
    assert re.search(PROBES["chat"]["pattern"], "The capital is PARIS.")
    assert not re.search(PROBES["chat"]["pattern"], "GGGGGGGG")
    assert PROBES["embedding"]["pattern"] == ""
    assert all(set(probe) == {"prompt", "pattern"} and probe["prompt"] for probe in PROBES.values())


def test_generated() -> None:
    """The file is what its generator writes: nobody edits numbers by hand."""
    command = [sys.executable, str(ROOT / "tests/tools/make_catalog.py")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == FILE.read_text()
