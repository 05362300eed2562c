# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the frontend answers itself: the lists of models, and the administrator's page."""

from __future__ import annotations

import http.client
import json
import re
import typing as t

import pytest

from .conftest import Frontend, Replica, model

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "8.0B",
    "quantization_level": "Q4_K_M",
}


@pytest.fixture(scope="module")
def frontend(module_frontend: Frontend) -> Frontend:
    replica = Replica()
    models = [
        model("tiny", replica),
        model("llama3.1:8b", replica, context=8192, details=DETAILS, digest="ab" * 32),
        model("hf.co/Ns/Repo-GGUF:Q4_K_M", replica),
        model("planned-only"),
    ]
    del models[0]["modified_at"], models[0]["details"]
    return module_frontend.start(models, haproxy_residency="warn", haproxy_ollama_version="0.12.0")


def test_both_lists_hold_the_same_names_and_only_what_is_served(frontend: Frontend) -> None:
    expected = ["tiny:latest", "llama3.1:8b", "hf.co/Ns/Repo-GGUF:Q4_K_M"]
    openai, ollama = frontend.get("/v1/models").json, frontend.get("/api/tags").json
    assert openai["object"] == "list"
    assert [entry["id"] for entry in openai["data"]] == expected
    assert [entry["name"] for entry in ollama["models"]] == expected
    assert [entry["model"] for entry in ollama["models"]] == expected


def test_every_listed_model_is_served(frontend: Frontend) -> None:
    for entry in frontend.get("/v1/models").json["data"]:
        assert frontend.post("/v1/chat/completions", {"model": entry["id"]}).status == 200
        assert frontend.get(f"/v1/models/{entry['id']}").json == entry


def test_a_model_that_nothing_serves_now_is_not_unknown(frontend: Frontend) -> None:
    refused = frontend.post("/v1/chat/completions", {"model": "planned-only"})
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "no_replica", "5")


def test_openai_entry(frontend: Frontend) -> None:
    expected = {"id": "llama3.1:8b", "object": "model", "created": 1795454506, "owned_by": "library"}
    assert frontend.get("/v1/models/llama3.1:8b").json == expected | {"context_length": 8192}


@pytest.mark.parametrize(
    "spelling", ["hf.co/Ns/Repo-GGUF:Q4_K_M", "hf.co%2FNs%2FRepo-GGUF%3AQ4_K_M", "HF.co/ns/repo-gguf:q4_k_m"]
)
def test_openai_entry_by_other_spellings(frontend: Frontend, spelling: str) -> None:
    """Clients encode slashes; nothing of this path reaches a replica."""
    assert frontend.get(f"/v1/models/{spelling}").json["id"] == "hf.co/Ns/Repo-GGUF:Q4_K_M"


@pytest.mark.parametrize("name", ["nope", "planned-only", "", "tiny/../tiny", "tiny%00x", "%22%0a"])
def test_unknown_openai_entry(frontend: Frontend, name: str) -> None:
    got = frontend.get(f"/v1/models/{name}")
    assert (got.status, got.code) == (404, "model_not_found")


def test_ollama_entry_has_the_fields_of_the_real_one(frontend: Frontend, recorded: dict[str, dict[str, t.Any]]) -> None:
    real = json.loads(recorded["tags"]["response"]["body"])["models"][0]
    entry = frontend.get("/api/tags").json["models"][1]
    assert list(entry) == [key for key in real if key != "capabilities"]
    assert entry["details"] == DETAILS
    assert list(entry["details"]) == [key for key in real["details"] if not key.endswith("_length")]
    assert re.fullmatch("[0-9a-f]{64}", entry["digest"])


def test_version_health_and_greeting(frontend: Frontend) -> None:
    assert frontend.get("/api/version").json == {"version": "0.12.0"}
    assert frontend.get("/healthz").json["status"] == "ok"
    assert frontend.get("/").body == b"Ollama is running"


def test_official_clients_read_the_lists(frontend: Frontend) -> None:
    openai = pytest.importorskip("openai")
    ollama = pytest.importorskip("ollama")
    url = f"http://127.0.0.1:{frontend.port}"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    assert [entry.id for entry in client.models.list()] == [m.model for m in ollama.Client(url).list().models]
    assert client.models.retrieve("hf.co/Ns/Repo-GGUF:Q4_K_M").context_length == 2048
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        client.chat.completions.create(model="nope", messages=[])
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found"):
        ollama.Client(url).chat("nope")


def test_without_models_the_lists_are_empty(frontend: Frontend) -> None:
    frontend.reload([])
    assert frontend.get("/v1/models").json == {"object": "list", "data": []}
    assert frontend.get("/api/tags").json == {"models": []}


def admin(address: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.request("GET", path)
    got = connection.getresponse()
    text = got.read().decode()
    connection.close()
    return got.status, text


def test_statistics_and_metrics_only_on_the_administrators_address(tmp_path_factory: pytest.TempPathFactory) -> None:
    frontend = Frontend(tmp_path_factory.mktemp("admin"))
    try:
        frontend.start([model("tiny", Replica())], haproxy_admin_address="127.0.0.2")
        status, metrics = admin("127.0.0.2", frontend.admin_port, "/metrics")
        assert status == 200
        assert 'haproxy_server_status{proxy="tiny:latest",server="tiny--1",state="UP"}' in metrics
        assert admin("127.0.0.2", frontend.admin_port, "/")[0] == 200
        with pytest.raises(ConnectionRefusedError):
            admin("127.0.0.1", frontend.admin_port, "/metrics")
        for path in ("/metrics", "/;csv", "/haproxy?stats"):
            assert frontend.get(path).status == 404
    finally:
        frontend.stop()
