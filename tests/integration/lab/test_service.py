# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What users and administrators see of the deployed site."""

from __future__ import annotations

import json
import re
import typing as t
import urllib.request

import check_truth
import ollama
import openai
import pytest
from lab_hosts import API, PLAN_FILE, Host, Statistics, only_long, playbook


@pytest.fixture(scope="module")
def catalog_names() -> set[str]:
    plan = json.loads(PLAN_FILE.read_text())
    return {replica["model"] for replica in plan["replicas"]}


def test_every_model_is_listed_alike_on_both_apis(catalog_names: set[str]) -> None:
    by_openai = {model.id for model in openai.OpenAI(base_url=f"{API}/v1", api_key="none").models.list()}
    by_ollama = {model.model for model in ollama.Client(host=API).list().models}
    assert by_openai == by_ollama == catalog_names


def test_every_model_streams_by_the_openai_client(catalog_names: set[str]) -> None:
    client = openai.OpenAI(base_url=f"{API}/v1", api_key="none", timeout=60)
    for name in sorted(catalog_names):
        stream = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "What is a GPU?"}], stream=True, max_tokens=12
        )
        pieces = [
            chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content
        ]
        assert len(pieces) > 3, f"{name} did not stream: {pieces}"


def test_every_model_streams_by_the_ollama_client(catalog_names: set[str]) -> None:
    client = ollama.Client(host=API, timeout=60)
    for name in sorted(catalog_names):
        question = "What is the capital of France? Answer with one word."
        parts = list(client.chat(model=name, messages=[{"role": "user", "content": question}], stream=True))
        assert "Paris" in "".join(part.message.content or "" for part in parts), name
        assert parts[-1].done


def test_the_answer_names_its_replica(catalog_names: set[str], plan: dict[str, t.Any]) -> None:
    name = sorted(catalog_names)[0]
    body = json.dumps({"model": name, "prompt": "hello", "stream": False, "options": {"num_predict": 3}}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{API}/api/generate", data=body), timeout=60) as answer:
        replica = answer.headers["X-Sdai-Replica"]
    assert replica in {entry["id"] for entry in plan["replicas"] if entry["model"] == name}


def test_the_model_that_does_not_fit_is_explained(plan: dict[str, t.Any]) -> None:
    """It misses by more than 2 GiB, and the plan says what it needs, what there is, and what would help."""
    (entry,) = plan["unplaced"]
    assert entry["model"] == "llama3.3:70b"
    needs, offers = (float(word) for word in re.findall(r"([0-9.]+) GiB", entry["reason"])[:2])
    assert needs - offers > 2
    assert entry["remedy"]
    assert plan["status"] == "infeasible"


def test_replicas_listen_for_the_frontends_only(hosts: dict[str, Host], plan: dict[str, t.Any]) -> None:
    """The firewall admits the frontend and drops everybody else, the other nodes included."""
    replica = next(entry for entry in plan["replicas"] if entry["node"] == "gpu1")
    probe = f"curl -s -o /dev/null -m 3 -w '%{{http_code}}' http://10.89.77.11:{replica['port']}/api/version; true"
    assert hosts["frontend1"].run(probe) == "200"
    assert hosts["gpu2"].run(probe) == "000"
    listening = hosts["gpu1"].run("ss -Hltn | awk '{print $4}'").split()
    assert not [address for address in listening if address.endswith(":11434") and not address.startswith("127.0.0.1")]
    assert not [address for address in listening if address.startswith(("0.0.0.0:115", "*:115", "[::]:115"))]


# Molecule's second run is the short form.
@only_long
def test_a_second_site_changes_nothing_though_foreign_vram_moved(gpu_hosts: list[Host], statistics: Statistics) -> None:
    """300 MiB more of foreign use on every GPU, and then less again: same plan, byte for byte; nothing changes."""
    before = (PLAN_FILE.read_bytes(), PLAN_FILE.stat().st_mtime_ns)
    states = check_truth.states()
    for host in gpu_hosts:
        for card in host.cards():
            host.run(f"sdai-lab-gpu take {card} 300")
    try:
        with_foreign = playbook("aivailable.sdai.site")
    finally:
        for host in gpu_hosts:
            host.run("sdai-lab-gpu drop")
    done = {name: check_truth.done(states[name], state) for name, state in check_truth.states().items()}
    assert done == {name: set() for name in states}
    without = playbook("aivailable.sdai.plan")
    for run in (with_foreign, without):
        assert run.code == 0, run.output
        assert set(run.changed.values()) == {0}, run.output
    assert (PLAN_FILE.read_bytes(), PLAN_FILE.stat().st_mtime_ns) == before
    assert set(statistics.states().values()) == {"UP"}
