# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""gpu3, a node whose driver serves one of its cards: from the bus to the plan's table, nothing is hidden."""

from __future__ import annotations

import json
import os
import re
import typing as t
from pathlib import Path

import gpud
import pytest
import yaml
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import nvml
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu import scan as scanning
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Roots
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import build_problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Options, Plan, Problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.solve import solve
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.waves import transition
from ansible_collections.aivailable.sdai.plugins.plugin_utils._report import render

ROOT = Path(__file__).resolve().parents[3]
CATALOG = yaml.safe_load((ROOT / "playbooks/vars/catalog.yml").read_text())["sdai_catalog"]
HOSTS = ROOT / "tests/lab/simgpu/hosts"
M40 = "GPU-17fda1de-0003-4a11-8c01-000000000005"
# The last major version of NVIDIA's driver for these architectures; new enough is every version in the lab.
LAST_DRIVER = {"sm_3": 470, "sm_5": 580, "sm_6": 580}


@pytest.fixture
def gathered(
    simulated: t.Callable[[str], t.Any], monkeypatch: pytest.MonkeyPatch
) -> t.Callable[..., list[dict[str, t.Any]]]:
    """The facts of gpu3 by nvidia-smi, as it is or with another driver, which serves more of the cards."""
    # The binding keeps the library that it has loaded, which may be that of another test.
    monkeypatch.setattr(nvml, "load", lambda _venv: None)
    monkeypatch.setenv("PATH", f"{ROOT / 'tests/lab/simgpu'}:{os.environ['PATH']}")

    def gather(driver: str = "", **ids: str) -> list[dict[str, t.Any]]:
        host = simulated("gpu3")
        if driver:
            document = json.loads((host.etc / "gpus.json").read_text())
            document["drivers"]["nvidia"] = driver
            for gpu in document["gpus"]:
                if gpu["architecture"] in ids:
                    gpu.update(driver=True, uuid=ids[gpu["architecture"]])
            (host.etc / "gpus.json").write_text(json.dumps(document))
            gpud.refresh()
        roots = Roots(sysfs=str(host.shm / "sys"), procfs=str(host.shm / "proc"), venv="/nowhere")
        return [gpu.as_fact() for gpu in scanning.scan(roots).gpus]

    return gather


@pytest.fixture
def gpus(gathered: t.Callable[..., list[dict[str, t.Any]]]) -> list[dict[str, t.Any]]:
    return gathered()


def model(kv_cache_type: str) -> dict[str, t.Any]:
    return {"name": "gemma3:4b", "context": 8192, "parallel": 4, "kv_cache_type": kv_cache_type}


def planned(gpus: list[dict[str, t.Any]], kv_cache_type: str) -> tuple[Problem, Plan]:
    problem = build_problem(fleet={"gpu3": {"gpus": gpus}}, models=[model(kv_cache_type)], catalog=CATALOG)
    return problem, solve(problem, (), Options())


@pytest.mark.parametrize("path", sorted(HOSTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_simulated_driver_serves_what_a_real_one_does(path: Path) -> None:
    document = json.loads(path.read_text())
    for gpu in document["gpus"]:
        if gpu["vendor"] == "nvidia" and gpu["architecture"]:
            version = int(document["drivers"]["nvidia"].split(".")[0])
            assert gpu["driver"] == (version <= LAST_DRIVER[gpu["architecture"][:-1]]), gpu["name"]


def test_each_card_is_listed_and_the_useless_with_reason_and_remedy(gpus: list[dict[str, t.Any]]) -> None:
    shown = [(gpu["index"], gpu["id"], gpu["name"], gpu["architecture"], gpu["backends"]) for gpu in gpus]
    assert shown == [
        (0, M40, "Tesla M40 24GB", "sm_52", ["cuda_v12", "vulkan"]),
        (1, "0000:06:00.0", "Tesla K80", "sm_37", []),
        (2, "0000:07:00.0", "Tesla K80", "sm_37", []),
        (3, "0000:0a:00.0", "GeForce GTX 680", "sm_30", []),
        (4, "0000:0b:00.0", "NVIDIA device 0xfade", "", []),
    ]
    assert [gpu["usable"] for gpu in gpus] == [True, False, False, False, False]
    for gpu, capability in zip(gpus[1:4], ("3.7", "3.7", "3.0"), strict=True):
        assert gpu["reason"] == f"Ollama serves compute capability 5.0 and up, not {capability}"
        assert gpu["remedy"].startswith("replace the card")
    assert gpus[4]["reason"] == (
        "it is not in the table of known cards, and no driver answers for this card: "
        "driver 570.133.20 of this node serves others only"
    )
    assert "lspci" in gpus[4]["remedy"]


def test_no_driver_serves_the_oldest_and_the_others(gathered: t.Callable[..., list[dict[str, t.Any]]]) -> None:
    """470 answers for a GTX 680 too, but Ollama does not serve it, and wants a newer one for the M40."""
    cards = {gpu["id"]: gpu for gpu in gathered("470.256.02", sm_30="GPU-680")}
    assert not cards["GPU-680"]["usable"]
    assert cards["GPU-680"]["reason"] == "Ollama serves compute capability 5.0 and up, not 3.0"
    assert cards[M40]["reason"] == "driver 470.256.02 is too old: compute capability 5.2 needs 570"
    assert cards[M40]["remedy"] == "install NVIDIA driver 570 or 580: later ones do not serve this card"


def test_the_table_shows_each_card_and_what_to_do_about_it(gpus: list[dict[str, t.Any]]) -> None:
    problem, plan = planned(gpus, "f16")
    text = render(problem, plan, transition((), plan, problem))
    assert re.search(r"0  Tesla M40 24GB .* GiB\n\s+\+ gemma3:4b .* cuda_v12 ", text), text
    for gpu in gpus[1:]:
        assert re.search(rf"{gpu['index']}  {gpu['name']} +not usable\n", text)
    words = " ".join(text.split())
    for gpu in gpus[1:]:
        assert f"gpu3: {gpu['name']} ({gpu['id']}): {gpu['reason']} → {gpu['remedy']}" in words


def test_without_flash_attention_only_f16_is_right(gpus: list[dict[str, t.Any]]) -> None:
    _problem, plan = planned(gpus, "f16")
    (replica,) = plan.replicas
    assert [(share.id, share.layers) for share in replica.gpus] == [(M40, 34)]
    _problem, plan = planned(gpus, "q8_0")
    assert plan.replicas == ()
    (refused,) = plan.unplaced
    reason = "q8_0 KV needs flash attention, which compute capability 5.2 does not have"
    assert reason in refused.reason
    assert "f16 would do (1 GPU)" in refused.reason
