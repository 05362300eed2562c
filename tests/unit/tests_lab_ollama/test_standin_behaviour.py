# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the stand-in does besides answering: VRAM taken and given back, spills, reloads, death, expiry, limits."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import standin_lab as lab

if t.TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., lab.Server]

KEY = lab.CARD
PINNED = {"num_ctx": 2048, "num_batch": 256, "num_gpu": 999}
PROCESS_MIB = 455  # what a CUDA process takes beside the model


@pytest.fixture
def server(start: Start, card: lab.Card, models: dict[str, bytes]) -> lab.Server:
    found = start(card)
    found.create("tiny", models["tiny"], **PINNED)
    return found


def load(server: lab.Server, **body: t.Any) -> int:
    return server.post("/api/generate", model="tiny", **{"keep_alive": -1, **body}).status


def only(server: lab.Server) -> dict[str, t.Any]:
    (entry,) = server.ps()
    return entry


def test_engine_holds_the_vram_and_death_gives_it_back(server: lab.Server, card: lab.Card) -> None:
    assert card.held() == {}
    assert load(server) == 200
    assert card.held() == {KEY: PROCESS_MIB + 9}
    assert only(server)["size"] == only(server)["size_vram"] == 9112124
    assert only(server)["expires_at"].startswith("2319") or only(server)["expires_at"].startswith("2318")
    assert load(server, keep_alive=0) == 200
    lab.wait_for(lambda: not card.held(), "free VRAM")
    assert server.ps() == []


def test_dead_engine_stays_listed_until_the_next_request(server: lab.Server) -> None:
    load(server)
    before = only(server)["size"]
    server.kill_runner()
    assert only(server)["size_vram"] == before
    assert load(server) == 200
    assert len(server.runners()) == 1


RELOADS: list[tuple[dict[str, t.Any], bool]] = [
    ({"options": {"num_ctx": 2048}}, False),
    ({"options": {"num_ctx": 1024}}, True),
    ({"options": {"num_ctx": 2048.7}}, False),
    ({"options": {"num_ctx": None}}, False),
    ({"options": {"NUM_CTX": 1024}}, False),
    ({"OPTIONS": {"num_ctx": 1024}}, True),
    ({"options": {"num_batch": 512}}, True),
    ({"options": {"num_gpu": -1}}, False),
    ({"options": {"num_gpu": 998}}, True),
    ({"options": {"use_mmap": True}}, True),
    ({"options": {"num_thread": 0}}, False),
    ({"options": {"seed": 1, "temperature": 0}}, False),
    ({"shift": False}, True),
    ({"shift": True, "truncate": False}, False),
    ({"keep_alive": "5m"}, False),
]


def test_what_reloads(server: lab.Server) -> None:
    for body, reloads in RELOADS:
        load(server)
        before = server.runners()
        assert load(server, **body) == 200
        assert (server.runners() != before) is reloads, body


def test_keep_alive_is_sticky_and_expires(server: lab.Server) -> None:
    load(server)
    load(server, keep_alive="5m")
    assert server.post("/api/generate", model="tiny").status == 200
    assert only(server)["expires_at"].startswith(time.strftime("%Y-", time.gmtime()))
    assert server.post("/api/generate", model="tiny", keep_alive="-1").status == 400
    load(server, keep_alive="100ms")
    lab.wait_for(lambda: server.ps() == [], "the expiry")


@pytest.mark.parametrize(
    ("vram", "settings", "becomes"),
    [
        (11264, {"num_gpu": 999}, "resident"),
        (460, {"num_gpu": 999}, "an error"),
        (460, {"LLAMA_ARG_FIT": "off"}, "an error"),
        (460, {"LLAMA_ARG_N_GPU_LAYERS": "999"}, "an error"),
        (1029, {}, "spilled"),
        (11264, {"num_gpu": 3}, "spilled"),
        (11264, {}, "resident"),
    ],
)
def test_what_does_not_fit_spills_or_fails(
    start: Start, models: dict[str, bytes], vram: int, settings: dict[str, t.Any], becomes: str
) -> None:
    """settings: parameters of the model (lower case) and the server's environment."""
    environ = {key: value for key, value in settings.items() if key.isupper()}
    parameters = {key: value for key, value in settings.items() if not key.isupper()}
    server = start({"vram_mib": vram}, **environ)
    server.create("tiny", models["tiny"], num_ctx=2048, num_batch=256, **parameters)
    assert load(server) == (500 if becomes == "an error" else 200)
    if becomes == "an error":
        assert server.ps() == []
    else:
        assert (only(server)["size"] == only(server)["size_vram"]) is (becomes == "resident")
        assert only(server)["size_vram"] > 0


def test_lies_on_demand(start: Start, card: lab.Card, models: dict[str, bytes]) -> None:
    server = start(card)
    server.create("tiny", models["tiny"], num_ctx=2048, num_batch=256, num_gpu=2)
    load(server)
    assert only(server)["size_vram"] < only(server)["size"]
    card.fault(f"ps-lies.{server.port}")
    assert only(server)["size_vram"] == only(server)["size"]
    card.fault(f"ps-lies.{server.port}", on=False)
    card.fault("ps-log-not-understood")
    assert only(server)["size_vram"] == only(server)["size"] == len(models["tiny"])


@pytest.mark.parametrize(
    ("environ", "api"),
    [
        ({}, "cuda"),
        ({"OLLAMA_LLM_LIBRARY": "cuda_v12", "CUDA_VISIBLE_DEVICES": KEY}, "cuda"),
        ({"OLLAMA_LLM_LIBRARY": "cuda_v13"}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "vulkan"),
        ({"CUDA_VISIBLE_DEVICES": "-1", "GGML_VK_VISIBLE_DEVICES": "-1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1", "OLLAMA_LLM_LIBRARY": "cuda_v12"}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1", "OLLAMA_VULKAN": "0"}, None),
    ],
)
def test_a_hidden_card_comes_back_through_vulkan_and_none_means_cpu(
    start: Start, card: lab.Card, models: dict[str, bytes], environ: dict[str, str], api: str | None
) -> None:
    server = start(card, **environ)
    server.create("tiny", models["tiny"], **PINNED)
    assert load(server) == 200
    apis = {line.split()[3] for path in (card.folder / "shm/vram").glob("[0-9]*") for line in path.open()}
    assert apis == ({api} if api else set())
    assert (only(server)["size_vram"] > 0) is (api is not None)


def test_vanished_card_takes_the_engine_along_and_leaves_the_cpu(server: lab.Server, card: lab.Card) -> None:
    load(server)
    document = json.loads((card.folder / "etc/gpus.json").read_text())
    document["gpus"][0]["faults"] = ["vanished"]
    (card.folder / "etc/gpus.json").write_text(json.dumps(document))
    assert only(server)["size_vram"] > 0
    assert server.post("/api/generate", model="tiny", prompt="x", stream=False).status == 500
    assert server.post("/api/generate", model="tiny", prompt="x", stream=False).status == 200
    assert only(server)["size_vram"] == 0


@pytest.mark.parametrize(
    ("architecture", "environ", "status"),
    [
        ("sm_61", {"OLLAMA_KV_CACHE_TYPE": "q8_0"}, 200),
        ("sm_52", {"OLLAMA_KV_CACHE_TYPE": "q8_0"}, 500),
        ("sm_61", {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "0"}, 500),
        ("sm_61", {"OLLAMA_KV_CACHE_TYPE": "q9_0"}, 500),
        ("sm_52", {}, 200),
    ],
)
def test_cache_types_and_flash_attention(
    start: Start, models: dict[str, bytes], architecture: str, environ: dict[str, str], status: int
) -> None:
    server = start({"architecture": architecture}, **environ)
    server.create("tiny", models["tiny"], **PINNED)
    assert load(server) == status


def test_no_measured_row_is_a_clear_refusal(server: lab.Server) -> None:
    reply = server.post("/api/generate", model="tiny", options={"num_ctx": 3000})
    assert reply.status == 500
    assert "no measured footprint of llama-749K" in reply.json["error"]


def test_slots_are_shared_and_others_wait(start: Start, card: lab.Card, models: dict[str, bytes]) -> None:
    server = start(card, OLLAMA_NUM_PARALLEL="2", SDAI_LAB_SPEED="1")
    server.create("tiny", models["tiny"], **PINNED)
    load(server)

    def ask(_: int) -> dict[str, t.Any]:
        options = {"num_predict": 100}
        return dict(server.post("/api/generate", model="tiny", prompt="hello", stream=False, options=options).json)

    alone = ask(0)["eval_duration"]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, range(3)))
    assert max(answer["eval_duration"] for answer in answers) > 1.5 * alone
    # the third one had to wait for a slot
    assert max(answer["total_duration"] - answer["eval_duration"] for answer in answers) > 0.7 * alone


def test_a_client_that_leaves_frees_its_slot(start: Start, card: lab.Card, models: dict[str, bytes]) -> None:
    server = start(card, SDAI_LAB_SPEED="0.02")
    server.create("tiny", models["tiny"], **PINNED)
    load(server)
    for stream in (True, False):
        begun = server.log.read_text().count("launch_slot_")
        connection = server.connect()
        body = {"model": "tiny", "prompt": "hello", "stream": stream, "options": {"num_predict": 2000}}
        connection.request("POST", "/api/generate", json.dumps(body))
        lab.wait_for(lambda seen=begun: server.log.read_text().count("launch_slot_") > seen, "work")
        connection.close()
        lab.wait_for(lambda s=stream: server.log.read_text().count("cancel task") == (1 if s else 2), "a free slot")
    assert load(server) == 200


def test_a_client_that_is_gone_without_a_word_is_asked_for(server: lab.Server) -> None:
    """By the kernel, 15 s after its last one."""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        ends = f":{server.port:04X} 0100007F:{client.getsockname()[1]:04X} 01"

        def timer() -> str:
            lines = [line for line in Path("/proc/net/tcp").read_text().splitlines() if ends in line]
            return lines[0].split()[5] if lines else ""

        lab.wait_for(lambda: timer().startswith("02:"), "a keep-alive timer")
        hertz = os.sysconf("SC_CLK_TCK")
        assert 10 * hertz < int(timer().removeprefix("02:"), 16) <= 15 * hertz


def test_hung_engine_blocks_ps_until_it_is_replaced(start: Start, card: lab.Card, models: dict[str, bytes]) -> None:
    """Two pings (of ten seconds in the lab, as measured on the real server), while /api/ps waits."""
    server = start(card, SDAI_LAB_PING_SECONDS="1")
    server.create("tiny", models["tiny"], **PINNED)
    load(server)
    (pid,) = server.runners()
    os.kill(pid, signal.SIGSTOP)
    assert only(server)["size_vram"] > 0
    began = time.monotonic()
    assert load(server) == 200
    assert time.monotonic() - began > 2
    assert server.runners() != [pid]


def test_ps_waits_while_somebody_pings_a_hung_engine(server: lab.Server) -> None:
    load(server)
    (pid,) = server.runners()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        repair = pool.submit(load, server)
        lab.wait_for(lambda: _times_out(server), "a check that times out")
        os.kill(pid, signal.SIGCONT)
        assert repair.result() == 200
    assert server.runners() == [pid]


def _times_out(server: lab.Server) -> bool:
    connection = server.connect()
    connection.timeout = 0.3
    try:
        connection.request("GET", "/api/ps")
        connection.getresponse()
    except TimeoutError:
        return True
    finally:
        connection.close()
    return False


def test_sigterm_ends_it_with_its_engines_and_sigkill_orphans_them(server: lab.Server, card: lab.Card) -> None:
    load(server)
    (pid,) = server.runners()
    os.kill(pid, signal.SIGSTOP)
    assert server.stop() < 1
    lab.wait_for(lambda: not Path(f"/proc/{pid}/cmdline").exists(), "the engine's end")
    assert card.held() == {}


def test_sigterm_cuts_connections_before_it_ends_engines(
    start: Start, card: lab.Card, models: dict[str, bytes]
) -> None:
    """No 500 about an engine that ended: by that a proxy sees that the request may be given to another server."""
    server = start(card, SDAI_LAB_SPEED="0.02")
    server.create("tiny", models["tiny"], **PINNED)
    load(server)
    connection = server.connect()
    body = {"model": "tiny", "prompt": "hello", "stream": False, "options": {"num_predict": 2000}}
    connection.request("POST", "/api/generate", json.dumps(body))
    lab.wait_for(lambda: "launch_slot_" in server.log.read_text(), "work")
    server.stop()
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        connection.getresponse()


def test_sizes_and_start(server: lab.Server) -> None:
    load(server)
    for pid in (server.process.pid, *server.runners()):
        status = Path(f"/proc/{pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert rss < 40 * 1024
    assert Path(f"/proc/{server.process.pid}/comm").read_text() == "ollama\n"


@pytest.mark.parametrize(("no_prune", "left"), [("1", 3), ("", 1)])
def test_start_prunes_what_is_old_and_unnamed(start: Start, tmp_path: Path, no_prune: str, left: int) -> None:
    blobs = tmp_path / "server/models/blobs"
    blobs.mkdir(parents=True)
    for name, age in (
        ("sha256-" + "a" * 64, 4000),
        ("sha256-" + "b" * 64 + "-partial", 4000),
        ("sha256-" + "c" * 64, 9),
    ):
        (blobs / name).touch()
        os.utime(blobs / name, (time.time() - age,) * 2)
    start(None, OLLAMA_NOPRUNE=no_prune)
    assert len(list(blobs.iterdir())) == left


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("//api/ps", {}, 307), ("/api/./ps", {}, 307), ("/x/../api/ps", {}, 307), ("/api/ps/", {}, 301),
        ("/api/%70s", {}, 200), ("/api%2fps", {}, 200), ("/API/ps", {}, 404),
        ("/api/ps", {"Host": "frontend.example.org"}, 403), ("/api/ps", {"Host": "10.1.2.3:11500"}, 200),
        ("/api/ps", {"Origin": "https://evil.example"}, 403), ("/api/ps", {"Origin": "null"}, 403),
        ("/api/ps", {"Origin": "http://localhost:3000"}, 200),
    ],
)  # fmt: skip
def test_paths_hosts_and_origins(start: Start, path: str, headers: dict[str, str], status: int) -> None:
    reply = start(None).get(path, **headers)
    assert reply.status == status
    assert status != 403 or reply.body == b""
