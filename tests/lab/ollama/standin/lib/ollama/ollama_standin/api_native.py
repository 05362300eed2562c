# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The native interface, /api/*: text and embeddings."""

from __future__ import annotations

import struct
import time
import typing as t

from . import answers, inference, options
from .engine import EngineDied
from .gojson import ApiError, bind, dumps, duration, stamp
from .inference import DIED, Ask, Outcome
from .sched import Scheduler
from .store import Model, Store
from .web import NDJSON, PLAIN_JSON, Handler, Server

_COMMON: dict[str, tuple[type, ...]] = {
    "model": (str,), "stream": (bool,), "format": (str, dict), "keep_alive": (str, int, float, bool, list, dict),
    "options": (dict,), "think": (bool, str), "shift": (bool,), "truncate": (bool,),
}  # fmt: skip
_GENERATE: dict[str, tuple[type, ...]] = {
    **_COMMON, "prompt": (str,), "suffix": (str,), "system": (str,), "template": (str,), "context": (list,),
    "raw": (bool,), "images": (list,),
}  # fmt: skip
_CHAT: dict[str, tuple[type, ...]] = {**_COMMON, "messages": (list,), "tools": (list,)}
_EMBED: dict[str, tuple[type, ...]] = {**_COMMON, "input": (str, list), "dimensions": (int,)}
_EMBEDDINGS: dict[str, tuple[type, ...]] = {**_COMMON, "prompt": (str,)}
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"


def _keep(request: dict[str, t.Any]) -> int | None:
    return duration(request["keep_alive"]) if "keep_alive" in request else None


def _now() -> str:
    return stamp(time.time_ns())


def _ask(store: Store, request: dict[str, t.Any], kind: str, messages: list[dict[str, t.Any]]) -> Ask:
    spelled = request.get("model", "")
    return Ask(
        model=store.require(spelled),
        spelled=spelled,
        kind=kind,
        messages=messages,
        options=request.get("options", {}),
        keep=_keep(request),
        shift=request.get("shift", True),
        truncate=request.get("truncate", True),
        format=request.get("format") or None,
        tools=request.get("tools") or None,
        think=bool(request.get("think")),
    )


class Native:
    def __init__(self, server: Server, store: Store, scheduler: Scheduler) -> None:
        self.store, self.scheduler = store, scheduler
        server.add("POST", "/api/generate", self.generate)
        server.add("POST", "/api/chat", self.chat)
        server.add("POST", "/api/embed", self.embed)
        server.add("POST", "/api/embeddings", self.embeddings)

    def generate(self, web: Handler) -> None:
        request = bind(web.body(), "GenerateRequest", _GENERATE)
        prompt = request.get("prompt", "")
        message: dict[str, t.Any] = {"role": "user", "content": prompt}
        if request.get("images"):
            message["images"] = request["images"]
        system = [{"role": "system", "content": request["system"]}] if request.get("system") else []
        ask = _ask(self.store, request, "generate", [*system, message])
        empty = prompt == "" and not request.get("images")
        self._answer(web, ask, request.get("stream", True), empty, "response")

    def chat(self, web: Handler) -> None:
        request = bind(web.body(), "ChatRequest", _CHAT)
        messages = [m for m in request.get("messages", []) if isinstance(m, dict)]
        ask = _ask(self.store, request, "chat", messages)
        self._answer(web, ask, request.get("stream", True), not messages, "message")

    def _answer(self, web: Handler, ask: Ask, stream: bool, empty: bool, field: str) -> None:
        if empty:
            web.json(200, self._idle(web, ask, field))
            return
        outcome = Outcome()
        if not stream:
            text = inference.whole(self.scheduler, ask, outcome, web.connection, web.gone)
            web.json(200, self._final(ask, outcome, field, text))
            return
        words = inference.speak(self.scheduler, ask, outcome, web.connection, web.gone)
        began = False
        try:
            for word in words:
                if not began:
                    web.begin(200, NDJSON)
                    began = True
                web.line(self._part(ask, field, word))
        except EngineDied:
            if not began:
                raise ApiError(500, DIED) from None
            web.line({"error": DIED})
            web.finish_stream()
            return
        except ApiError as error:
            if error.status != 400 or outcome.load_ns == 0:
                raise
            # what the engine refuses comes when the stream has been set up
            web.begin(error.status, PLAIN_JSON)
            web.send(dumps({"error": error.text}).encode())
            web.finish_stream()
            return
        if not began:
            web.begin(200, NDJSON)
        if outcome.tool_calls:
            part = self._part(ask, field, "")
            part["message"]["tool_calls"] = outcome.tool_calls
            web.line(part)
            outcome.tool_calls = []
        web.line(self._final(ask, outcome, field, ""))
        web.finish_stream()

    def _idle(self, web: Handler, ask: Ask, field: str) -> dict[str, t.Any]:
        """A request without a prompt: loads, renews the expiry, or (keep_alive 0) unloads."""
        reason = "load"
        inference.check(ask)
        if ask.keep == 0:
            reason = "unload"
            self.scheduler.unload(ask.model)
        else:
            loaded, _ = inference.load(self.scheduler, ask, web.gone)
            self.scheduler.release(loaded)
        return {**self._part(ask, field, ""), "done": True, "done_reason": reason}

    def _part(self, ask: Ask, field: str, text: str) -> dict[str, t.Any]:
        said: t.Any = text if field == "response" else {"role": "assistant", "content": text}
        return {"model": ask.spelled, "created_at": _now(), field: said, "done": False}

    def _final(self, ask: Ask, outcome: Outcome, field: str, text: str) -> dict[str, t.Any]:
        part = self._part(ask, field, text)
        if outcome.tool_calls:
            part["message"]["tool_calls"] = outcome.tool_calls
        part |= {"done": True, "done_reason": outcome.reason}
        if field == "response":
            part["context"] = outcome.tokens
        return part | {
            "total_duration": outcome.total_ns,
            "load_duration": outcome.load_ns,
            "prompt_eval_count": outcome.prompt_tokens,
            "prompt_eval_duration": outcome.prompt_ns,
            "eval_count": outcome.eval_tokens,
            "eval_duration": outcome.eval_ns,
        }

    def embed(self, web: Handler) -> None:
        request = bind(web.body(), "EmbedRequest", _EMBED)
        spelled = request.get("model", "")
        model = self.store.require(spelled, quote='"{}"', suffix=", try pulling it first")
        started = time.time_ns()
        vectors, load_ns, count = self.vectors(web, model, request)
        result: dict[str, t.Any] = {"model": spelled, "embeddings": vectors}
        if vectors:
            result |= {
                "total_duration": time.time_ns() - started,
                "load_duration": load_ns,
                "prompt_eval_count": count,
            }
        web.json(200, result)

    def vectors(self, web: Handler, model: Model, request: dict[str, t.Any]) -> tuple[list[list[float]], int, int]:
        """(vectors, nanoseconds of loading, tokens read) for the texts of an embedding request."""
        given = request.get("input", [])
        texts = [given] if isinstance(given, str) else list(given)
        started = time.time_ns()
        opts = options.merge(model.parameters, request.get("options", {}))
        loaded = self.scheduler.acquire(model, opts, _keep(request), True, web.gone)
        load_ns = time.time_ns() - started
        try:
            if not model.gguf.embedding:
                if texts:
                    raise ApiError(500, NO_EMBEDDINGS)
                return [], load_ns, 0
            size = model.gguf.number("embedding_length")
            count = 0
            for text in texts:
                tokens = answers.tokens(str(text)) + 2
                if tokens > loaded.launch.context and not request.get("truncate", True):
                    raise ApiError(400, "the input length exceeds the context length")
                count += min(tokens, loaded.launch.context)
            width = min(size, request.get("dimensions", 0) or size)
            return [_single(answers.unit(answers.embedding(str(x), size)[:width])) for x in texts], load_ns, count
        finally:
            self.scheduler.release(loaded)

    def embeddings(self, web: Handler) -> None:
        """The older form: one text, full precision."""
        request = bind(web.body(), "EmbeddingRequest", _EMBEDDINGS)
        model = self.store.require(request.get("model", ""))
        text = request.get("prompt", "")
        vectors, _, _ = self.vectors(web, model, {**request, "input": [text] if text else []})
        web.json(200, {"embedding": vectors[0] if vectors else []})


def _single(values: list[float]) -> list[float]:
    """Rounded to what a 32-bit float holds, in few digits."""
    return [float(f"{struct.unpack('<f', struct.pack('<f', x))[0]:.8g}") for x in values]
