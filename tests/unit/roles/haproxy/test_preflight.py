# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses before it touches a host, and what it says then."""

from __future__ import annotations

import json
import sys
import typing as t

import pytest

from .conftest import model, run_plays

SERVER = {"id": "tiny--1", "address": "127.0.0.1", "port": 11500, "parallel": 4}


def offered(name: str = "tiny", server: dict[str, t.Any] | None = None, **more: t.Any) -> dict[str, t.Any]:
    return model(name, SERVER | (server or {}), **more)


ACCEPTED = {
    "plain": [offered()],
    "names of every form": [
        *(offered(name, {"id": f"r--{n}"}) for n, name in enumerate(["llama3.1:8b", "hf.co/Ns/Repo-GGUF:Q4_K_M"])),
        *(offered(name, {"id": f"s--{n}"}) for n, name in enumerate(["ns/own", "mirror:5000/ns/own:x", "cloud"])),
    ],
    "nothing": [],
}
REFUSED: dict[str, tuple[list[dict[str, t.Any]], str]] = {
    "space in a name": ([offered("ti ny")], "'ti ny' is not a model name"),
    "line end in a name": ([offered("tiny\n")], "is not a model name"),
    "default registry": ([offered("registry.ollama.ai/library/tiny")], "is not a model name"),
    "library": ([offered("library/tiny")], "is not a model name"),
    "cloud model": ([offered("gpt-oss:120b-cloud")], "'gpt-oss:120b-cloud' is not a model name"),
    "short digest": ([offered(digest="0b")], "Model 'tiny' needs a digest of 64 hexadecimal digits"),
    "no context": ([offered(context=0)], "a context above 0"),
    "equal names": ([offered("tiny"), offered("Tiny:LATEST", {"id": "tiny--2"})], "names that Ollama takes for equal"),
    "replica twice": ([offered("tiny"), offered("other")], "Replica 'tiny--1' needs an id"),
    "no slot": ([offered(server={"parallel": 0})], "parallel above 0"),
    "no port": ([offered(server={"port": 65536})], "a port from 1 to 65535"),
    "id with a space": ([offered(server={"id": "tiny 1"})], "Replica 'tiny 1' needs an id"),
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The message of the failed check of each case, "" where there was none; one run, each case a host."""
    folder = tmp_path_factory.mktemp("preflight")
    cases = ACCEPTED | {name: models for name, (models, _) in REFUSED.items()}
    hosts = {f"case{number}": {"haproxy_models": models} for number, models in enumerate(cases.values())}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    facts = {"os_family": "Debian", "service_mgr": "systemd", "cacheable": True}
    found = "ansible_play_hosts | map('extract', hostvars) | map(attribute='failure', default={})"
    written = {"content": f"{{{{ {found} | to_json }}}}", "dest": str(folder / "failures.json"), "mode": "0600"}
    role = {"name": "aivailable.sdai.haproxy", "tasks_from": "preflight"}
    tasks = [
        {"ansible.builtin.set_fact": facts, "run_once": True},
        {
            "block": [{"ansible.builtin.include_role": role}],
            "rescue": [{"ansible.builtin.set_fact": {"failure": "{{ ansible_failed_result }}"}}],
        },
        {"ansible.builtin.copy": written, "run_once": True},
    ]
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": local}}))
    run_plays(folder, [{"hosts": "all", "gather_facts": False, "tasks": tasks}], "-i", folder / "hosts.json")
    failures = json.loads((folder / "failures.json").read_text())
    return {name: message(failure) for name, failure in zip(cases, failures, strict=True)}


def message(failure: dict[str, t.Any]) -> str:
    """The text of a failed assert, looped or not."""
    return " ".join(result["msg"] for result in failure.get("results", [failure]) if result.get("failed"))


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(messages: dict[str, str], case: str) -> None:
    assert messages[case] == ""


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_what_to_do(messages: dict[str, str], case: str) -> None:
    assert REFUSED[case][1] in messages[case]
