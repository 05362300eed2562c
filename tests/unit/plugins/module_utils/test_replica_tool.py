# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command of a replica's unit, with a server and cards that do what the test says."""

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils import _replica_tool as tool
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Gpu, Process, Scan
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama import Loaded, Stored, Unreachable

CARD = "GPU-7900a1de00000003"
UNIT = "sdai-ollama@tiny--1.service"
SELECTORS = {
    "OLLAMA_LLM_LIBRARY": "rocm_v7_2",
    "OLLAMA_MODELS": "/var/lib/sdai/replicas/tiny--1/models",
    "OLLAMA_NOPRUNE": "1",
    "OLLAMA_MAX_LOADED_MODELS": "1",
    "ROCR_VISIBLE_DEVICES": CARD,
    "HIP_VISIBLE_DEVICES": "0",
    "GGML_VK_VISIBLE_DEVICES": "-1",
}


class Server:
    """Stands for the replica's server. ``loads`` holds errors of the next loads, ``answer`` what it says."""

    def __init__(self) -> None:
        self.loads: list[Exception] = []
        self.answer = "Paris"
        self.models: tuple[Loaded, ...] = ()
        self.down = False
        self.hangs = False

    def __call__(self, address: str, port: int) -> Server:
        assert (address, port) == ("10.0.0.11", 11500)
        return self

    def ps(self, timeout: float = 3) -> tuple[Loaded, ...]:
        assert timeout > 0
        if self.down:
            raise Unreachable("does not answer: refused")
        return self.models

    def tags(self, timeout: float) -> tuple[Stored, ...]:
        # Longer than a busy server takes, shorter than an engine is given.
        assert 3 < timeout < 25
        if self.hangs:
            raise Unreachable("does not answer: timed out")
        return ()

    def load(self, model: str, *, kind: str, timeout: float) -> None:
        assert not self.hangs, "waits for an engine where no server answers"
        assert (model, kind) == ("tiny:latest", "chat")
        assert timeout > 25
        if self.loads:
            raise self.loads.pop(0)
        self.models = (Loaded("tiny:latest", "ab", 900, 900, 2048),)

    def ask(self, model: str, prompt: str, *, timeout: float, tokens: int) -> str:
        assert (model, prompt, tokens > 0, timeout > 0) == ("tiny:latest", "Capital of France?", True, True)
        return self.answer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A node that has the replica and its card, on which the unit holds the planned VRAM."""
    found = Server()
    for folder in ("replicas", "run/tiny--1"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "node.json").write_text(json.dumps({"sysfs_root": "/x", "procfs_root": "/x", "venv": "/x"}))
    description = {
        "id": "tiny--1",
        "unit": UNIT,
        "model": "tiny",
        "backend": "rocm",
        "runner": "rocm_v7_2",
        "gpus": [{"id": CARD, "index": 0, "layers": 16, "vram_mib": 1000}],
        "address": "10.0.0.11",
        "port": 11500,
        "context": 2048,
        "probe": {"kind": "chat", "prompt": "Capital of France?", "pattern": "paris"},
        "blob_bytes": 500,
        "load_seconds": 300,
    }
    (tmp_path / "replicas/tiny--1.json").write_text(json.dumps(description))
    times = iter(range(10**6))
    monkeypatch.setattr(tool.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(tool.time, "monotonic", lambda: float(next(times)))
    monkeypatch.setattr(tool, "CONFIG", tmp_path)
    monkeypatch.setattr(tool, "RUN", tmp_path / "run")
    monkeypatch.setattr(tool, "Client", found)
    monkeypatch.setattr(tool, "_nodes", lambda _paths: None)
    monkeypatch.setattr(tool, "_environ", lambda _pid: SELECTORS)
    cards(monkeypatch, held=1000)
    monkeypatch.setenv("MAINPID", str(os.getpid()))
    for name, value in SELECTORS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    replica_on_disk(monkeypatch, tmp_path)
    return found


def cards(monkeypatch: pytest.MonkeyPatch, *, held: int, gpu_id: str = CARD) -> None:
    card = Gpu(gpu_id, 0, "amd", "RX", "gfx1100", 24560, 0, 960.0, ("rocm_v7_2",), True, "", "", "0000:03:00.0", 0, 0)
    processes = (Process(1, gpu_id, held, "rocm", UNIT), Process(2, gpu_id, 5000, "rocm", "sdai-ollama@o--1.service"))
    monkeypatch.setattr(tool, "scan", lambda _roots: Scan(gpus=(card,), processes=processes))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = tool.main(arguments)
    return status, capsys.readouterr().err


@pytest.mark.parametrize("command", ["preflight", "prove", "watch"])
@pytest.mark.usefixtures("server")
def test_all_is_well(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(capsys, command, "tiny--1") == (0, "")


@pytest.mark.usefixtures("server")
def test_selector_taken_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    status, words = run(capsys, "preflight", "tiny--1")
    assert status == 1
    assert words.startswith("tiny--1: preflight failed: HIP_VISIBLE_DEVICES is missing")


@pytest.mark.usefixtures("server")
def test_server_runs_with_other_selectors_than_its_file_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A drop-in may set what the environment file does not: the process itself is looked at."""
    monkeypatch.setattr(tool, "_environ", lambda _pid: {**SELECTORS, "CUDA_VISIBLE_DEVICES": "0"})
    assert "CUDA_VISIBLE_DEVICES must not be set" in run(capsys, "prove", "tiny--1")[1]


@pytest.mark.usefixtures("server")
def test_card_that_never_comes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cards(monkeypatch, held=0, gpu_id="GPU-other")
    assert f"GPU {CARD} is not there; it has GPU-other instead" in run(capsys, "preflight", "tiny--1")[1]


@pytest.mark.usefixtures("server")
def test_card_that_comes_late(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            cards(monkeypatch, held=0)

    cards(monkeypatch, held=0, gpu_id="GPU-other")
    monkeypatch.setattr(tool.time, "sleep", sleep)
    assert run(capsys, "preflight", "tiny--1") == (0, "")
    assert len(waits) == 3


def test_failed_load_is_tried_once_more(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.loads = [Unreachable("port taken")]
    assert run(capsys, "prove", "tiny--1") == (0, "")
    server.loads = [Unreachable("port taken"), Unreachable("out of memory")]
    assert run(capsys, "prove", "tiny--1") == (1, "tiny--1: prove failed: out of memory\n")


@pytest.mark.usefixtures("server")
def test_model_that_is_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The server's word is not enough; another unit's memory on the same card does not count."""
    cards(monkeypatch, held=500)
    for command in ("prove", "watch"):
        assert "holds 500 MiB on GPU" in run(capsys, command, "tiny--1")[1]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("source", "command", "status"), [("", "watch", 0), ("", "prove", 1), ("nvml", "watch", 1), ("nvml", "prove", 1)]
)
def test_silent_driver_ends_no_replica_that_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, command: str, status: int
) -> None:
    """NVML is mute from an upgrade of its packages to the reboot. A driver that knows other cards only is not mute."""
    path = tmp_path / "replicas/tiny--1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "backend": "cuda", "runner": "cuda_v12"}))
    environ = {**SELECTORS, "OLLAMA_LLM_LIBRARY": "cuda_v12", "CUDA_VISIBLE_DEVICES": CARD}
    monkeypatch.setattr(tool, "_environ", lambda _pid: environ)
    monkeypatch.setattr(tool, "scan", lambda _roots: Scan((), (), drivers={"nvidia_source": source}))
    assert tool.main([command, "tiny--1"]) == status


def test_garbage_answer(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = "@@@@"
    assert "got '@@@@'" in run(capsys, "prove", "tiny--1")[1]


def test_server_that_ended(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Not waited for until the time is up; and another server's answer on its port is none."""
    monkeypatch.setenv("MAINPID", "999999999")
    assert "another process holds port 11500" in run(capsys, "prove", "tiny--1")[1]
    server.down = True
    assert "the server has ended" in run(capsys, "prove", "tiny--1")[1]


def test_watch_of_a_server_that_hangs_waits_for_no_engine(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.hangs = True
    assert run(capsys, "watch", "tiny--1") == (1, "tiny--1: watch failed: does not answer: timed out\n")


@pytest.mark.usefixtures("server")
def test_watch_of_several_names_each_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    status, words = run(capsys, "watch", "none--1", "tiny--1", "none--2")
    assert status == 1
    assert [line.partition(":")[0] for line in words.splitlines()] == ["none--1", "none--2"]


def replica_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """The files that a start reads; their folders are those of the test."""
    models = tmp_path / "models"
    monkeypatch.setattr(tool, "_models", lambda _replica: models)
    monkeypatch.setattr(tool, "UNITS", tmp_path / "units")
    monkeypatch.setattr(tool, "_reload_needed", lambda _unit: False)
    found = {
        "environment": tmp_path / "replicas/tiny--1.env",
        "unit": tmp_path / "units/sdai-ollama@.service",
        "drop-in": tmp_path / f"units/{UNIT}.d/10-sdai.conf",
        "manifest": models / "manifests/registry.ollama.ai/library/tiny/latest",
    }
    for path in found.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as before")
    return found


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("changed", ["", "environment", "unit", "drop-in", "manifest"])
def test_replica_that_was_started_with_other_settings_is_stale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    files = replica_on_disk(monkeypatch, tmp_path)
    assert tool.main(["preflight", "tiny--1"]) == 0
    if changed:
        files[changed].write_text("other")
    assert tool.main(["stale", "tiny--1", "not-running--1"]) == 0
    assert capsys.readouterr().out == ("tiny--1\n" if changed else "")


@pytest.mark.usefixtures("server")
def test_replica_on_another_card_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Vulkan's selector is in no file: it is looked up at each start."""
    assert tool.main(["preflight", "tiny--1"]) == 0
    path = tmp_path / "replicas/tiny--1.json"
    description = json.loads(path.read_text())
    description["gpus"][0]["id"] = "GPU-other"
    path.write_text(json.dumps(description))
    assert tool.main(["stale", "tiny--1"]) == 0
    assert capsys.readouterr().out == "tiny--1\n"


@pytest.mark.usefixtures("server")
def test_start_by_units_that_systemd_has_not_read_is_stale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "_reload_needed", lambda _unit: True)
    assert tool.main(["preflight", "tiny--1"]) == 0
    assert tool.main(["stale", "tiny--1"]) == 0
    assert capsys.readouterr().out == "tiny--1\n"


@pytest.mark.usefixtures("server")
def test_counted_selectors_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "replicas/tiny--1.json"
    description: dict[str, t.Any] = {**json.loads(path.read_text()), "backend": "vulkan", "runner": "vulkan"}
    path.write_text(json.dumps(description))
    monkeypatch.setenv("OLLAMA_LLM_LIBRARY", "vulkan")
    text = "GPU0:\nGPU1:\n\tpciDomain = 0\n\tpciBus = 3\n\tpciDevice = 0\n\tpciFunction = 0\n"
    monkeypatch.setattr(tool, "_vulkaninfo", lambda: text)
    assert run(capsys, "preflight", "tiny--1") == (0, "")
    assert (tmp_path / "run/tiny--1/selectors.env").read_text() == "GGML_VK_VISIBLE_DEVICES=1\n"
    environ = {**SELECTORS, "OLLAMA_LLM_LIBRARY": "vulkan"}
    monkeypatch.setattr(tool, "_environ", lambda _pid: environ)
    assert "GGML_VK_VISIBLE_DEVICES is '-1'" in run(capsys, "prove", "tiny--1")[1]
    environ["GGML_VK_VISIBLE_DEVICES"] = "1"
    assert run(capsys, "prove", "tiny--1") == (0, "")
