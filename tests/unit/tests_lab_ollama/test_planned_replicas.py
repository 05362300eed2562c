# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan for a node of the lab, started with the role's environment: the engine holds what was planned, where it was.

What an engine takes is measured, what a plan counts with is computed.
"""

from __future__ import annotations

import json
import sys
import typing as t

import pytest
import standin_lab as lab
import yaml
from ansible_collections.aivailable.sdai.plugins.module_utils._replica import Replica, check_vram
from ansible_collections.aivailable.sdai.plugins.module_utils._support import flash_attention, runners
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import build_problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Options
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.serialize import replica_to_dict
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.tests.unit.roles.ollama.test_role import render

sys.path.insert(0, str(lab.ROOT / "tests/lab/ollama"))

import footprints

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Start = Callable[..., lab.Server]

CATALOG = yaml.safe_load((lab.ROOT / "playbooks/vars/catalog.yml").read_text())["sdai_catalog"]
KNOWN_TO_THE_NODE = {"address": "127.0.0.1", "blob_bytes": 1, "load_seconds": 1}
PROBE = {"kind": "chat", "prompt": "", "pattern": ""}


def host(name: str) -> dict[str, t.Any]:
    return dict(json.loads((lab.ROOT / f"tests/lab/simgpu/hosts/{name}.json").read_text()))


def facts(name: str) -> list[dict[str, t.Any]]:
    """The cards that the simulated driver of a host serves, as gpu_facts has them."""
    document = host(name)
    served = [gpu for gpu in document["gpus"] if gpu["driver"]]
    keys = ("vendor", "name", "architecture", "vram_mib", "bandwidth_gbs")
    return [
        {
            **{key: gpu[key] for key in keys},
            "id": gpu["uuid"],
            "index": index,
            "backends": list(runners("nvidia", gpu["architecture"], document["drivers"]["nvidia"]).backends),
        }
        for index, gpu in enumerate(served)
    ]


def planned(name: str, model: dict[str, t.Any]) -> dict[str, t.Any]:
    problem = build_problem(fleet={name: {"gpus": facts(name)}}, models=[model], catalog=CATALOG)
    (replica,) = solve(problem, (), Options()).replicas
    document = replica_to_dict(replica)
    architectures = {gpu["id"]: gpu["architecture"] for gpu in facts(name)}
    flash = all(flash_attention(architectures[gpu["id"]], document["backend"]) for gpu in document["gpus"])
    return {**document, "flash_attention": flash}


def weights(reference: str) -> bytes:
    """A tiny file that goes by the name of a measured model."""
    show = json.loads(lab.recorded()["show"]["response"]["body"])
    return lab.gguf({**show["model_info"], "general.name": reference, "llama.context_length": 131072}, show["tensors"])


@pytest.fixture
def launch(start: Start, card: lab.Card, tmp_path: Path) -> Callable[[str, dict[str, t.Any]], lab.Server]:
    """Starts a server on a host's cards by the environment that the role gives a replica."""

    def begin(name: str, replica: dict[str, t.Any]) -> lab.Server:
        for number in range(len(facts(name))):
            (card.folder / f"dev/nvidia{number}").touch()
        (card.folder / "etc/gpus.json").write_text(json.dumps(host(name)))
        needs = tmp_path / "measured.json"
        needs.write_text(json.dumps(footprints.table(lab.ROOT / "tests/data")))
        text = render("replica.env.j2", item=replica, ollama_address="127.0.0.1", __ollama_load_seconds=60)
        environ = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
        here = {"OLLAMA_HOST": "127.0.0.1:0", "OLLAMA_MODELS": str(tmp_path / "models"), "SDAI_LAB_NEEDS": str(needs)}
        return start(card, **{**environ, **here})

    return begin


@pytest.mark.parametrize(
    ("name", "model", "layers"),
    [
        pytest.param("gpu1", ("llama3.1:8b", 8192, "q8_0"), [32], id="whole"),
        pytest.param("gpu1", ("gemma3:27b", 32768, "q8_0"), [19, 43], id="split"),
        pytest.param("gpu3", ("gemma3:4b", 8192, "f16"), [34], id="without flash attention"),
    ],
)
def test_the_engine_takes_what_was_planned(
    launch: Callable[..., lab.Server], card: lab.Card, name: str, model: tuple[str, int, str], layers: list[int]
) -> None:
    title, context, kv_cache_type = model
    replica = planned(name, {"name": title, "context": context, "parallel": 4, "kv_cache_type": kv_cache_type})
    assert [gpu["layers"] for gpu in replica["gpus"]] == layers
    assert replica["flash_attention"] is (name != "gpu3")
    server = launch(name, replica)
    parameters = {"num_ctx": context, "num_batch": replica["batch"], "num_gpu": 999}
    server.create(title, weights(CATALOG[title]["reference"]), **parameters)
    assert server.post("/api/generate", model=title, prompt="x", stream=False, keep_alive=-1).status == 200
    held = card.held()
    check_vram(Replica.from_dict({**replica, **KNOWN_TO_THE_NODE, "probe": PROBE}), held)
    assert held == {gpu["id"]: pytest.approx(gpu["vram_mib"], rel=0.02) for gpu in replica["gpus"]}
    (loaded,) = server.ps()
    assert loaded["size"] == loaded["size_vram"]
