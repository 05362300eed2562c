# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model that fits no single GPU of the lab runs on both of gpu1, each holding what was planned there.

The engine is started with such a plan in every run of the tests, without a host (test_planned_replicas.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t

import openai
import pytest
from lab_changes import Models, whole
from lab_hosts import API, PLAN_FILE, ROOT, Host, Statistics, only_long, playbook

pytestmark = only_long

# By splits.csv it takes about 31 GiB in all, of which neither of gpu1's cards has enough.
LARGE: Models = [
    {
        "name": "gemma3:27b",
        "context": 32768,
        "parallel": 4,
        "kv_cache_type": "q8_0",
        "replicas": {"min": 1, "max": 1},
        "constraints": {"nodes": ["gpu1"]},
    }
]


@pytest.fixture
def large(catalog: t.Callable[[Models], list[str]]) -> t.Iterator[None]:
    """The model alone in the lab, and the inventory's own catalog again at the end."""
    builder = [sys.executable, ROOT / "tests/lab/ollama/build_release.py", "--cache", ROOT / ".cache/lab"]
    subprocess.run([*builder, "--models", "gemma3:27b"], check=True)
    run = playbook("aivailable.sdai.apply", *catalog(LARGE))
    assert run.code == 0, run.output
    yield
    run = playbook("aivailable.sdai.apply")
    assert run.code == 0, run.output


@pytest.mark.usefixtures("large")
@pytest.mark.timeout(1800)
def test_each_card_holds_its_planned_part(
    hosts: dict[str, Host], gpu_hosts: list[Host], statistics: Statistics
) -> None:
    (replica,) = json.loads(PLAN_FILE.read_text())["replicas"]
    assert (replica["node"], len(replica["gpus"])) == ("gpu1", 2)
    host = hosts["gpu1"]
    held: dict[str, int] = {}
    for pid, by_gpu in host.held().items():
        if pid in host.pids(replica["unit"]):
            for card, mib in by_gpu.items():
                held[card] = held.get(card, 0) + mib
    assert set(held) == {gpu["id"] for gpu in replica["gpus"]}
    for gpu in replica["gpus"]:
        # Splits were measured by halves, thirds and quarters. Between two of them the stand-in draws a straight line,
        # while a card has one layer without a window more or not, which is 200 MiB of KV cache here.
        assert held[gpu["id"]] == pytest.approx(gpu["vram_mib"], rel=0.02), (gpu, held)
    environment = host.run(f"cat /etc/sdai/replicas/{replica['id']}.env")
    first, second = (gpu["layers"] for gpu in replica["gpus"])
    # The output head counts as one more layer, on the last card.
    assert f"LLAMA_ARG_TENSOR_SPLIT={first},{second + 1}" in environment.replace('"', "")
    assert "OLLAMA_SCHED_SPREAD=1" in environment.replace('"', "")
    whole(gpu_hosts, statistics)
    client = openai.OpenAI(base_url=f"{API}/v1", api_key="none", timeout=120)
    stream = client.chat.completions.create(
        model="gemma3:27b", messages=[{"role": "user", "content": "What is a GPU?"}], stream=True, max_tokens=12
    )
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in stream) > 3
