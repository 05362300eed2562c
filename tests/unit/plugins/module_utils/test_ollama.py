# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import socket
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama import (
    EMBEDDING,
    Client,
    Loaded,
    Malformed,
    OllamaError,
    Refused,
    Stored,
    Unreachable,
)

DIGEST = "3f" * 32
DETAILS = {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "749K"}
PS = {
    "name": "tiny:latest",
    "model": "tiny:latest",
    "size": 9112124,
    "digest": DIGEST,
    "details": DETAILS,
    "expires_at": "2319-03-05T17:09:29.290977456Z",
    "size_vram": 9112124,
    "context_length": 2048,
}
TAG = {
    "name": "tiny:latest",
    "model": "tiny:latest",
    "modified_at": "2026-11-23T17:30:00Z",
    "size": 3007808,
    "digest": DIGEST,
    "details": DETAILS,
}


class Server(t.NamedTuple):
    client: Client
    requests: list[tuple[str, str, t.Any]]
    """Method, path and body of each request."""
    answers: dict[str, tuple[int, str]]
    """Status and text by path."""


@pytest.fixture
def server() -> t.Iterator[Server]:
    requests: list[tuple[str, str, t.Any]] = []
    answers: dict[str, tuple[int, str]] = {}

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            requests.append((self.command, self.path, json.loads(self.rfile.read(length)) if length else None))
            status, text = answers[self.path]
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer

        def log_message(self, *_arguments: t.Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Server(Client("127.0.0.1", http.server_port), requests, answers)
        http.shutdown()
        thread.join()


def test_ps(server: Server) -> None:
    server.answers["/api/ps"] = (200, json.dumps({"models": [PS]}))
    (loaded,) = server.client.ps()
    assert loaded == Loaded(name="tiny:latest", digest=DIGEST, size=9112124, size_vram=9112124, context=2048)
    assert loaded.in_vram
    assert server.requests == [("GET", "/api/ps", None)]


def test_ps_while_loading(server: Server) -> None:
    server.answers["/api/ps"] = (200, '{"models":[]}')
    assert server.client.ps() == ()


@pytest.mark.parametrize(("size", "size_vram", "in_vram"), [(5, 5, True), (5, 4, False), (5, 0, False), (0, 0, False)])
def test_in_vram(size: int, size_vram: int, in_vram: bool) -> None:
    assert Loaded(name="a", digest="", size=size, size_vram=size_vram, context=1).in_vram is in_vram


def test_tags(server: Server) -> None:
    server.answers["/api/tags"] = (200, json.dumps({"models": [TAG]}))
    assert server.client.tags() == (
        Stored(name="tiny:latest", digest=DIGEST, size=3007808, modified_at=TAG["modified_at"], details=DETAILS),
    )


@pytest.mark.parametrize(("kind", "path"), [("chat", "/api/generate"), (EMBEDDING, "/api/embed")])
def test_load_is_an_empty_request_that_never_expires(server: Server, kind: str, path: str) -> None:
    server.answers[path] = (200, '{"done":true,"done_reason":"load"}')
    server.client.load("tiny:latest", kind=kind, timeout=5)
    (request,) = server.requests
    assert request == ("POST", path, {"model": "tiny:latest", "keep_alive": -1, "stream": False})


def test_ask_sends_nothing_that_reloads_the_model(server: Server) -> None:
    server.answers["/api/chat"] = (200, '{"message":{"role":"assistant","content":"Paris."},"done":true}')
    assert server.client.ask("tiny", "Capital of France?", timeout=5, tokens=16) == "Paris."
    body = server.requests[0][2]
    assert body["messages"] == [{"role": "user", "content": "Capital of France?"}]
    assert body["options"] == {"temperature": 0, "seed": 0, "num_predict": 16}
    assert body["keep_alive"] == -1


def test_embed(server: Server) -> None:
    server.answers["/api/embed"] = (200, '{"model":"bert","embeddings":[[0.5,-1,0]]}')
    assert server.client.embed("bert", "a word", timeout=5) == (0.5, -1.0, 0.0)
    assert server.requests[0][2] == {"model": "bert", "input": "a word", "keep_alive": -1}


@pytest.mark.parametrize(
    ("status", "text", "complaint"),
    [
        (500, '{"error":"llama-server process has terminated: exit status 1"}', "500: llama-server process has"),
        (404, "404 page not found", "404: 404 page not found"),
        (403, "", "403: no text"),
        (500, '["error"]', '500: ["error"]'),
    ],
)
def test_a_refusal_says_what_the_server_said(server: Server, status: int, text: str, complaint: str) -> None:
    server.answers["/api/generate"] = (status, text)
    with pytest.raises(Refused) as caught:
        server.client.load("tiny", kind="chat", timeout=5)
    assert complaint in str(caught.value)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "text",
    ["<html>", "[]", "null", '{"models":null}', '{"models":[1]}', '{"models":[{"name":"a","size":"1"}]}'],
)
def test_an_answer_of_something_else_is_malformed(server: Server, text: str) -> None:
    server.answers["/api/ps"] = (200, text)
    with pytest.raises(Malformed):
        server.client.ps()


@pytest.mark.parametrize("text", ['{"embeddings":[]}', '{"embeddings":[1]}', '{"embedding":[1]}'])
def test_an_embedding_that_is_none(server: Server, text: str) -> None:
    server.answers["/api/embed"] = (200, text)
    with pytest.raises(Malformed):
        server.client.embed("bert", "a", timeout=5)


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match=r"does not answer.*refused"):
            Client("127.0.0.1", taken.getsockname()[1]).ps()


def test_a_server_that_accepts_and_says_nothing() -> None:
    """An open port is not a ready server: Ollama accepts connections while it still looks for GPUs."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unreachable, match="timed out"):
        Client("127.0.0.1", silent.getsockname()[1]).ps(timeout=0.1)


def test_a_proxy_of_the_environment_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.answers["/api/ps"] = (200, '{"models":[]}')
    assert Client("127.0.0.1", int(server.client.url.rpartition(":")[2])).ps() == ()


@pytest.mark.parametrize(
    ("address", "url"), [("10.0.0.11", "http://10.0.0.11:11500"), ("fd00::b", "http://[fd00::b]:11500")]
)
def test_url(address: str, url: str) -> None:
    assert Client(address, 11500).url == url


def test_every_failure_is_one_family() -> None:
    assert all(issubclass(kind, OllamaError) for kind in (Unreachable, Refused, Malformed))
