# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Equal input, equal plan and transition, byte for byte: in another order, another process, another hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Options
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import LONG, fleet

SEEDS = range(20 if LONG else 3)

CORE = Options.__module__.removesuffix(".model")

SCRIPT = f"""
import dataclasses, json, random, sys
from {CORE}.model import Options
from {CORE}.serialize import plan_to_dict, transition_to_dict
from {CORE}.solve import solve
from {CORE}.waves import transition
from {fleet.__module__} import fleet

shuffle = random.Random(int(sys.argv[1]))

def mixed(items):
    return tuple(shuffle.sample(items, len(items)))

def mixed_needs(model):
    return dataclasses.replace(model, needs=dict(mixed(list(model.needs.items()))))

case = fleet(14, 8, load=0.8, seed=3)
lost = case.gpus[0].node
before = solve(case, (), Options(seconds=1)).replicas
case = dataclasses.replace(
    case,
    nodes=mixed([node for node in case.nodes if node.name != lost]),
    gpus=mixed([gpu for gpu in case.gpus if gpu.node != lost]),
    models=mixed([mixed_needs(model) for model in case.models]),
)
runs = mixed([replica for replica in before if replica.node != lost])
plan = solve(case, runs, Options(seconds=2))
print(json.dumps([plan_to_dict(plan), transition_to_dict(transition(runs, plan, case))]))
"""


def test_equal_input_gives_the_same_plan_and_transition() -> None:
    """After the loss of a node: what runs, nodes, GPUs, models and their kinds in any order."""

    def output(seed: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, str(seed)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    outputs = [output(seed) for seed in SEEDS]
    assert '"reproducible": true' in outputs[0]
    assert '"start": ["' in outputs[0]
    assert len(set(outputs)) == 1
