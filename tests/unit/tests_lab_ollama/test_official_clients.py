# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The official clients of Ollama and OpenAI work with the stand-in."""

from __future__ import annotations

import typing as t

import ollama
import openai
import pytest

if t.TYPE_CHECKING:
    from collections.abc import Callable

    import standin_lab as lab

QUESTION = "What is the capital of France? Answer with one word."


@pytest.fixture
def server(start: Callable[..., lab.Server], card: lab.Card, models: dict[str, bytes]) -> lab.Server:
    found = start(card)
    found.create("tiny", models["tiny"], num_ctx=2048, num_batch=256, num_gpu=999)
    found.create("embed", models["tinyembed"])
    return found


def test_ollama_client(server: lab.Server, mirror: Callable[..., t.Any], models: dict[str, bytes]) -> None:
    client = ollama.Client(host=f"http://127.0.0.1:{server.port}")
    assert {model.model for model in client.list().models} == {"tiny:latest", "embed:latest"}
    messages = [{"role": "user", "content": QUESTION}]
    assert client.chat("tiny", messages=messages).message.content == "Paris"
    words = [
        part.response for part in client.generate("tiny", "Say something", stream=True, options={"num_predict": 9})
    ]
    assert len(words) == 10
    assert "stand-in" in "".join(words) or "Say something" in "".join(words)
    assert len(client.embed("embed", "hello").embeddings[0]) == 64
    assert client.embed("embed", "hello").embeddings == client.embed("embed", ["hello"]).embeddings
    assert client.ps().models[0].size_vram
    assert client.show("tiny").parameters is not None
    site = mirror()
    site.model("tiny2", models["tiny2"])
    name = f"{site.registry}/lab/tiny2:v1"
    assert [line.status for line in client.pull(name, insecure=True, stream=True)][-1] == "success"
    client.copy(name, "second")
    client.delete(name)
    assert client.create("second", from_="second", parameters={"num_ctx": 512}).status == "success"
    with pytest.raises(ollama.ResponseError) as refused:
        client.chat("absent", messages=messages)
    assert refused.value.status_code == 404


def test_openai_client(server: lab.Server) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
    assert {model.id for model in client.models.list()} == {"tiny:latest", "embed:latest"}
    messages: t.Any = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    assert client.chat.completions.create(model="tiny", messages=messages).choices[0].message.content == "Paris"
    messages = [{"role": "user", "content": "Say something"}]
    stream = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert client.completions.create(model="tiny", prompt="hello", max_tokens=5).usage is not None
    vectors = client.embeddings.create(model="embed", input=["hello", "world"], dimensions=8)
    assert [len(item.embedding) for item in vectors.data] == [8, 8]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="absent", messages=messages)
