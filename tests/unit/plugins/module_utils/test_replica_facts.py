# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import typing as t
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils import _replica_facts as facts
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu.model import Process, Roots, Scan
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama import Loaded, OllamaError, Stored

DETAILS = {"format": "gguf", "family": "llama"}
STORED = Stored(name="tiny:latest", digest="d1", size=700, modified_at="2026-11-23T17:30:00Z", details=DETAILS)


def document(**changes: t.Any) -> dict[str, t.Any]:
    return {
        "id": "tiny-latest--1",
        "unit": "sdai-ollama@tiny-latest--1.service",
        "model": "tiny:latest",
        "node": "gpu1",
        "backend": "cuda",
        "gpus": [{"id": "GPU-a", "index": 0, "layers": 5, "vram_mib": 900}],
        "address": "127.0.0.1",
        "port": 11500,
        "context": 2048,
        "size_bytes": 650,
        **changes,
    }


def loaded(**changes: t.Any) -> Loaded:
    fields = {"name": "tiny:latest", "digest": "d0", "size": 9, "size_vram": 9, "context": 2048}
    return Loaded(**{**fields, **changes})


def described(answer: facts.Answer, state: str = "active") -> dict[str, t.Any]:
    return facts.describe(document(), facts.Unit(state, 41), answer, pids=[42, 41], vram={"GPU-a": 880})


def test_a_resident_replica() -> None:
    """The plan's keys stay; the loaded digest counts, which differs from the stored one after a change."""
    assert described(facts.Answer((loaded(),), STORED)) == {
        **document(),
        "state": "active",
        "resident": True,
        "vram_measured_mib": {"GPU-a": 880},
        "pids": [41, 42],
        "digest": "d0",
        "size_bytes": 700,
        "modified_at": "2026-11-23T17:30:00Z",
        "details": DETAILS,
    }


def test_a_replica_that_says_nothing() -> None:
    found = described(facts.Answer(), state="activating")
    assert (found["state"], found["resident"], found["digest"], found["details"]) == ("activating", False, "", {})
    assert (found["size_bytes"], found["modified_at"]) == (650, "")


@pytest.mark.parametrize(
    ("models", "resident"),
    [
        ((), False),
        ((loaded(size_vram=8),), False),
        ((loaded(size=0, size_vram=0),), False),
        ((loaded(context=4096),), False),
        ((loaded(name="other:latest"),), False),
        ((loaded(), loaded(name="other:latest")), False),
        ((loaded(),), True),
    ],
)
def test_resident(models: tuple[Loaded, ...], resident: bool) -> None:
    assert described(facts.Answer(models, STORED))["resident"] is resident


def write(directory: Path, **documents: t.Any) -> str:
    for name, content in documents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / f"{name}.json").write_text(text)
    return str(directory)


def test_documents_are_read_by_name(tmp_path: Path) -> None:
    write(tmp_path, b=document(id="b"), a=document(id="a"))
    (tmp_path / "a.env").write_text("OLLAMA_HOST=…")
    assert [found["id"] for found in facts.read_documents(str(tmp_path))] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "a.json is not valid JSON"),
        ("", "a.json is not valid JSON"),
        ("[]", "a.json does not hold an object"),
        (document(port="11500"), "a.json: 'port' must be of type int"),
        ({"id": "a"}, "a.json: 'unit' must be of type str"),
    ],
)
def test_a_damaged_file_is_named_with_its_remedy(tmp_path: Path, content: t.Any, message: str) -> None:
    with pytest.raises(facts.ReplicaFactsError) as caught:
        facts.read_documents(write(tmp_path, a=content))
    assert message in str(caught.value)
    assert "aivailable.sdai.site" in str(caught.value)


def test_no_replicas_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node where nothing was deployed needs neither systemd nor GPUs."""
    monkeypatch.setenv("PATH", "")
    assert facts.gather(str(tmp_path / "absent"), Roots()) == ([], ())


Tool = t.Callable[[str], Path]


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Puts a systemctl on PATH; its text is a shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write_tool(script: str) -> Path:
        (folder / "systemctl").write_text(f"#!/bin/sh\n{script}")
        (folder / "systemctl").chmod(0o755)
        return folder

    return write_tool


def test_all_units_by_one_call(systemctl: Tool) -> None:
    folder = systemctl(
        'echo "$*" >> "$(dirname "$0")/calls"\n'
        "printf 'MainPID=41\\nId=a.service\\nActiveState=active\\n\\n"
        "MainPID=0\\nId=b.service\\nActiveState=activating\\n\\n"
        "MainPID=0\\nId=c.service\\nActiveState=deactivating\\n'\n"
    )
    assert facts.unit_states(["a.service", "b.service", "c.service", "d.service"]) == {
        "a.service": facts.Unit("active", 41),
        "b.service": facts.Unit("activating", 0),
        "c.service": facts.Unit("inactive", 0),
        "d.service": facts.Unit("inactive", 0),
    }
    calls = (folder / "calls").read_text().splitlines()
    assert calls == ["show --property=Id,ActiveState,MainPID -- a.service b.service c.service d.service"]


def test_a_host_without_systemd(systemctl: Tool) -> None:
    systemctl("echo 'System has not been booted with systemd as init system'; exit 1\n")
    with pytest.raises(facts.ReplicaFactsError, match="is systemd running"):
        facts.unit_states(["a.service"])


def test_gather(tmp_path: Path, systemctl: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    """VRAM is that of the unit's own processes; a neighbour's on the same card is not counted."""
    systemctl("printf 'MainPID=41\\nId=sdai-ollama@tiny-latest--1.service\\nActiveState=active\\n'\n")
    for pid in (41, 42):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/cgroup").write_text("0::/system.slice/sdai-ollama@tiny-latest--1.service\n")
    unit = "sdai-ollama@tiny-latest--1.service"
    processes = (Process(42, "GPU-a", 880, "cuda", unit), Process(43, "GPU-a", 500, "cuda", "sdai-ollama@x.service"))
    monkeypatch.setattr(facts, "scan", lambda _roots: Scan(gpus=(), processes=processes, warnings=("blind",)))
    monkeypatch.setattr(facts, "ask", lambda _document: facts.Answer((loaded(),), STORED))
    (tmp_path / "etc").mkdir()
    (replica,), warnings = facts.gather(
        write(tmp_path / "etc", a=document()), Roots(procfs=str(tmp_path / "proc"), sysfs=str(tmp_path))
    )
    assert replica["pids"] == [41, 42]
    assert replica["vram_measured_mib"] == {"GPU-a": 880}
    assert replica["resident"] is True
    assert warnings == ("blind",)


@pytest.mark.parametrize(
    ("tags_fail", "ps_fails", "answer"),
    [
        (False, False, facts.Answer((loaded(),), STORED)),
        (False, True, facts.Answer((), STORED)),
        (True, False, facts.Answer()),
    ],
)
def test_a_silent_server_is_no_exception(
    monkeypatch: pytest.MonkeyPatch, tags_fail: bool, ps_fails: bool, answer: facts.Answer
) -> None:
    class Client:
        def __init__(self, *_address: t.Any) -> None:
            pass

        def tags(self) -> tuple[Stored, ...]:
            if tags_fail:
                raise OllamaError
            return (STORED,)

        def ps(self) -> tuple[Loaded, ...]:
            if ps_fails:
                raise OllamaError
            return (loaded(),)

    monkeypatch.setattr(facts, "Client", Client)
    assert facts.ask(document()) == answer
