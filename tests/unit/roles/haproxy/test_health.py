# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica is up while its /api/ps proves that its model is wholly in VRAM, and never else."""

from __future__ import annotations

import time
import typing as t

import pytest

from .conftest import Frontend, Replica, model, ps_body, wait_for

RECORDED = {
    "ps-resident": "UP",
    "ps-after-runner-kill": "UP",  # a dead engine stays listed; the unit's watch finds it
    "ps-cpu-but-log-not-understood": "UP",  # size equals the file's there: the unit's own proof refuses that
    "ps-empty": "DOWN",
    "ps-partial-4-of-5": "DOWN",
    "ps-cpu": "DOWN",
    "ps-two-models": "DOWN",
    "ps-embed": "DOWN",
    "nogpu-ps": "DOWN",
}
MADE = {
    "resident": (ps_body(), "UP"),
    "one byte missing": (ps_body(size_vram=9112123), "DOWN"),
    "a prefix of the size": (ps_body(size_vram=911212), "DOWN"),
    "the size is a prefix": (ps_body(size=911212), "DOWN"),
    "nothing in VRAM": (ps_body(size_vram=0), "DOWN"),
    "sizes of zero": (ps_body(size=0, size_vram=0), "DOWN"),
    "another tag": (ps_body(name="tiny:8b"), "DOWN"),
    "another name": (ps_body(name="xtiny:latest"), "DOWN"),
    "smaller context": (ps_body(context=204), "DOWN"),
    "larger context": (ps_body(context=20480), "DOWN"),
    "no JSON": ("Ollama is running", "DOWN"),
    "something behind": (ps_body() + "\n{}", "DOWN"),
}


def states(frontend: Frontend) -> list[str]:
    """The state of r1, r2, … once each was checked."""

    def read() -> list[str] | None:
        rows = [row for row in frontend.servers().values() if row["svname"].startswith("r")]
        rows.sort(key=lambda row: int(row["svname"][1:]))
        checked = all("INI" not in row["check_status"] for row in rows)
        return [row["status"].split()[0] for row in rows] if checked else None

    return t.cast("list[str]", wait_for(read))


def start(frontend: Frontend, bodies: list[str], name: str = "tiny", **variables: t.Any) -> list[Replica]:
    replicas = [Replica(body) for body in bodies]
    servers = [
        {"id": f"r{n}", "address": "127.0.0.1", "port": replica.port, "parallel": 1}
        for n, replica in enumerate(replicas, 1)
    ]
    frontend.start([model(name, *servers)], **variables)
    return replicas


def test_recorded_and_made_answers(frontend: Frontend, recorded: dict[str, dict[str, t.Any]]) -> None:
    bodies = [recorded[name]["response"]["body"] for name in RECORDED]
    start(frontend, [*bodies, *(body for body, _ in MADE.values())])
    expected = [*RECORDED.values(), *(state for _, state in MADE.values())]
    assert dict(zip([*RECORDED, *MADE], states(frontend), strict=True)) == dict(
        zip([*RECORDED, *MADE], expected, strict=True)
    )


def test_while_a_context_changes_both_are_right(frontend: Frontend) -> None:
    """What runs with the old one serves until what starts with the new one does."""
    bodies = [ps_body(context=8192), ps_body(context=4096), ps_body(context=2048), ps_body(context=81924096)]
    replicas = [Replica(body) for body in bodies]
    servers = [
        {"id": f"r{n}", "address": "127.0.0.1", "port": replica.port, "parallel": 1, "context": context}
        for n, (replica, context) in enumerate(zip(replicas, (8192, 4096, 8192, 4096), strict=True), 1)
    ]
    frontend.start([model("tiny", *servers, context=4096)])
    assert states(frontend) == ["UP", "UP", "DOWN", "DOWN"]


@pytest.mark.parametrize("name", ["hf.co/Ns/Repo-GGUF:Q4_K_M", "qwen2.5:0.5b"])
def test_names_are_matched_literally(frontend: Frontend, name: str) -> None:
    start(frontend, [ps_body(name=name), ps_body(name=name.replace(".", "x"))], name=name)
    assert states(frontend) == ["UP", "DOWN"]


def test_warn_takes_whatever_answers(frontend: Frontend) -> None:
    replicas = start(frontend, ['{"models":[]}', ps_body(size_vram=0), "x"], haproxy_residency="warn")
    assert states(frontend) == ["UP"] * 3
    replicas[2].ps_status = 500
    wait_for(lambda: states(frontend) == ["UP", "UP", "DOWN"])


def test_a_spilled_replica_is_down_within_3_s_and_recovers(frontend: Frontend) -> None:
    good, bad = start(frontend, [ps_body(), ps_body()])
    assert states(frontend) == ["UP", "UP"]
    bad.ps = ps_body(size_vram=4_000_000)
    spilled = time.monotonic()
    wait_for(lambda: states(frontend) == ["UP", "DOWN"])
    assert time.monotonic() - spilled < 3
    served = len(bad.requests)
    for _ in range(10):
        assert frontend.post("/api/chat", {"model": "tiny"}).headers["x-sdai-replica"] == "r1"
    assert len(bad.requests) == served
    assert len(good.requests) >= 10
    bad.ps = ps_body()
    wait_for(lambda: states(frontend) == ["UP", "UP"])


def test_no_request_reaches_a_replica_before_its_first_check(frontend: Frontend) -> None:
    """HAProxy takes servers for good after a start or reload; requests must wait for the check that follows."""
    good, bad = start(frontend, [ps_body(), ps_body(size_vram=4_000_000)])
    models = frontend.models
    for _ in range(3):
        for _ in range(4):
            assert frontend.post("/api/chat", {"model": "tiny"}).headers["x-sdai-replica"] == "r1"
        models[0]["size"] += 1
        frontend.reload(models)
    assert bad.requests == []
    assert len(good.requests) == 12
