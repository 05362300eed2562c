# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""gpu3, a node of old cards: one works, each of the others is shown with what to do about it.

That the one that works holds what was planned is seen where all replicas are looked at (test_residency.py).
"""

from __future__ import annotations

import re
import typing as t

import pytest
from lab_hosts import Host, PlaybookRun, playbook

M40 = "GPU-17fda1de-0003-4a11-8c01-000000000005"


@pytest.fixture(scope="module")
def shown() -> PlaybookRun:
    run = playbook("aivailable.sdai.plan")
    assert run.code == 0, run.output
    return run


def test_without_flash_attention_the_card_gets_f16_only(hosts: dict[str, Host], plan: dict[str, t.Any]) -> None:
    """The lab's other models have a KV cache of q8_0, and there is room for each of them."""
    here = [replica for replica in plan["replicas"] if replica["node"] == "gpu3"]
    assert [(replica["model"], replica["kv_cache_type"], replica["runner"]) for replica in here] == [
        ("gemma3:4b", "f16", "cuda_v12")
    ]
    assert [gpu["id"] for gpu in here[0]["gpus"]] == [M40]
    assert hosts["gpu3"].state(here[0]["unit"]) == "active"


def test_each_useless_card_is_in_the_table(shown: PlaybookRun) -> None:
    for index, name in enumerate(("Tesla K80", "Tesla K80", "GeForce GTX 680", "NVIDIA device 0xfade"), start=1):
        assert re.search(rf"^ +{index}  {name} +not usable$", shown.output, re.M), shown.output


@pytest.mark.parametrize(
    ("card", "reason", "remedy"),
    [
        (r"Tesla K80 \(0000:06:00\.0\)", "compute capability 5.0 and up, not 3.7", "replace the card"),
        (r"Tesla K80 \(0000:07:00\.0\)", "compute capability 5.0 and up, not 3.7", "replace the card"),
        (r"GeForce GTX 680 \(0000:0a:00\.0\)", "compute capability 5.0 and up, not 3.0", "replace the card"),
        (r"NVIDIA device 0xfade \(0000:0b:00\.0\)", "not in the table of known cards", "look up what it is"),
    ],
)
def test_and_says_why_and_what_to_do(shown: PlaybookRun, card: str, reason: str, remedy: str) -> None:
    words = " ".join(shown.output.split())
    assert re.search(rf"gpu3: {card}: (?:(?!gpu3:).)*{re.escape(reason)}(?:(?!gpu3:).)*→ {remedy}", words), shown.output
