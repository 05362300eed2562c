# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No layer on a CPU, and each replica on its planned GPU: proved, and refused where it is not so."""

from __future__ import annotations

import json
import typing as t
import urllib.error
import urllib.request

import pytest
from lab_hosts import API, Host, Statistics, wait_for


def generate(model: str, **more: t.Any) -> int:
    """Asks through the front door; returns the HTTP status."""
    body = json.dumps({"model": model, "prompt": "hi", "stream": False, "options": {"num_predict": 2}, **more}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{API}/api/generate", data=body), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def ask_directly(host: Host, replica: dict[str, t.Any], body: dict[str, t.Any] | None) -> str:
    """Asks the replica itself, on its node, past the front door; without a body, what it has loaded."""
    url = f"http://{replica['address']}:{replica['port']}/api/"
    arguments = f"{url}generate -d '{json.dumps(body)}'" if body else f"{url}ps"
    return host.run(f"curl -s -m 60 {arguments}")


def same_model(one: str, other: str) -> bool:
    return one.rpartition("--")[0] == other.rpartition("--")[0]


def planned_on(gpu_hosts: list[Host], backend: str) -> tuple[Host, dict[str, t.Any]]:
    for host in gpu_hosts:
        for replica in host.replicas():
            if replica["backend"] == backend:
                return host, replica
    pytest.fail(f"the lab's plan puts nothing on {backend}: its catalog must")


def put_back(host: Host, replica: str, text: str) -> None:
    unit = f"sdai-ollama@{replica}.service"
    host.run(f"cat > /etc/sdai/replicas/{replica}.env <<'END'\n{text.rstrip()}\nEND\n")
    host.run(f"systemctl restart --no-block {unit}")
    wait_for(f"{replica} active again", lambda: host.state(unit) == "active", seconds=90)


@pytest.fixture
def unit_file() -> t.Iterator[t.Callable[[Host, str], None]]:
    """Puts a replica's environment file back as it was, and the unit to work."""
    saved: list[tuple[Host, str, str]] = []

    def save(host: Host, replica: str) -> None:
        saved.append((host, replica, host.run(f"cat /etc/sdai/replicas/{replica}.env")))

    yield save
    for host, replica, text in saved:
        put_back(host, replica, text)


@pytest.mark.parametrize("backend", ["cuda", "rocm", "vulkan"])
def test_replicas_hold_their_planned_gpus_and_no_other(gpu_hosts: list[Host], backend: str) -> None:
    """By the ledger of the simulated GPUs: at least 95 % of the planned MiB on each, nothing elsewhere."""
    planned_on(gpu_hosts, backend)
    for host in gpu_hosts:
        held = host.held()
        for replica in host.replicas():
            if replica["backend"] != backend:
                continue
            by_gpu: dict[str, int] = {}
            for pid in host.pids(replica["unit"]):
                for gpu, mib in held.get(pid, {}).items():
                    by_gpu[gpu] = by_gpu.get(gpu, 0) + mib
            assert set(by_gpu) == {gpu["id"] for gpu in replica["gpus"]}, replica["id"]
            for gpu in replica["gpus"]:
                assert 0.95 * gpu["vram_mib"] <= by_gpu[gpu["id"]] <= gpu["vram_mib"], replica["id"]


@pytest.mark.parametrize(
    ("backend", "selector"),
    [
        ("cuda", "CUDA_VISIBLE_DEVICES"),
        ("cuda", "GGML_VK_VISIBLE_DEVICES"),
        ("cuda", "OLLAMA_LLM_LIBRARY"),
        ("rocm", "ROCR_VISIBLE_DEVICES"),
        ("rocm", "HIP_VISIBLE_DEVICES"),
        ("vulkan", "OLLAMA_LLM_LIBRARY"),
    ],
)
def test_a_selector_removed_by_hand_fails_the_unit(
    gpu_hosts: list[Host], unit_file: t.Callable[[Host, str], None], backend: str, selector: str
) -> None:
    host, replica = planned_on(gpu_hosts, backend)
    unit_file(host, replica["id"])
    cursor = host.log_cursor()
    host.run(f"grep -q '^{selector}=' /etc/sdai/replicas/{replica['id']}.env")
    host.run(f"sed -i '/^{selector}=/d' /etc/sdai/replicas/{replica['id']}.env")
    code = host.run(f"systemctl restart {replica['unit']} >/dev/null 2>&1; echo $?").strip()
    assert code != "0"
    assert host.state(replica["unit"]) != "active"
    host.wait_for_log(cursor, replica["unit"], selector)


@pytest.mark.parametrize("pinned", [True, False], ids=["layers pinned", "layers not pinned"])
def test_a_spilled_replica_is_down_and_recovers(
    gpu_hosts: list[Host], unit_file: t.Callable[[Host, str], None], statistics: Statistics, pinned: bool
) -> None:
    """VRAM is taken away behind its back and the model reloaded: DOWN within 3 s, no request reaches it,
    and once the VRAM is free it comes back by itself."""
    host, replica = planned_on(gpu_hosts, "rocm")
    name, unit, card, model = replica["id"], replica["unit"], replica["gpus"][0]["id"], replica["model"]
    options: dict[str, t.Any] = {}
    if not pinned:
        # What lets a model spill: the unit's own safeguard gone, and a client that unpins the layers.
        unit_file(host, name)
        host.run(f"sed -i /^LLAMA_ARG_FIT=/d /etc/sdai/replicas/{name}.env && systemctl restart {unit}")
        options = {"num_gpu": -1}
    wait_for("UP", lambda: statistics.states()[name] == "UP", seconds=30)
    # The watch would repair the scene while it is set.
    watch = f"sdai-ollama-watch@{name}"
    host.run(f"systemctl stop {watch}.timer")
    wait_for("the watch to end", lambda: host.state(f"{watch}.service") in ("inactive", "failed"), seconds=60)
    ask_directly(host, replica, {"model": model, "keep_alive": 0})
    wait_for("unloaded", lambda: not host.held_by(unit), seconds=10)
    host.run(f"sdai-lab-gpu take {card} {host.free(card) - 1024}")
    try:
        ask_directly(host, replica, {"model": model, "prompt": "x", "options": options, "stream": False})
        loaded = json.loads(ask_directly(host, replica, None))["models"]
        if pinned:
            assert not loaded, "with its layers pinned it must not load at all"
        else:
            assert loaded[0]["size_vram"] < loaded[0]["size"], "it did not spill"
        wait_for("DOWN in HAProxy", lambda: statistics.states()[name] == "DOWN", seconds=3)
        host.run(f"systemctl start {watch}.timer")
        served = statistics.sessions(name)
        siblings = [other for other in statistics.states() if other != name and same_model(other, name)]
        for _ in range(10):
            assert generate(model) == (200 if siblings else 503)
        assert statistics.sessions(name) == served, "a request reached a replica that is not resident"
    finally:
        host.run("sdai-lab-gpu drop")
    wait_for("UP again by itself", lambda: statistics.states()[name] == "UP", seconds=120, every=0.5)


def test_garbage_never_joins(gpu_hosts: list[Host], statistics: Statistics) -> None:
    """A replica that answers the known question with garbage fails its proof, over and over."""
    host, replica = planned_on(gpu_hosts, "vulkan")
    cursor = host.log_cursor()
    fault = f"/dev/shm/sdai-lab/faults/garbage.{replica['port']}"
    host.run(f"mkdir -p /dev/shm/sdai-lab/faults && touch {fault}")
    try:
        assert host.run(f"systemctl restart {replica['unit']} >/dev/null 2>&1; echo $?").strip() != "0"
        wait_for("DOWN in HAProxy", lambda: statistics.states()[replica["id"]] == "DOWN", seconds=5)
        host.wait_for_log(cursor, replica["unit"], "prove failed: the known question")
    finally:
        host.run(f"rm -f {fault}")
    wait_for("UP again", lambda: statistics.states()[replica["id"]] == "UP", seconds=90, every=0.5)
