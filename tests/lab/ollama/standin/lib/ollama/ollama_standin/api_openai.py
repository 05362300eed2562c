# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAI interface, /v1/*: models, chat completions, completions, embeddings."""

from __future__ import annotations

import base64
import secrets
import struct
import time
import typing as t

from . import inference
from .api_native import Native
from .engine import EngineDied
from .gojson import ApiError, bind, dumps
from .inference import DIED, Ask, Outcome
from .sched import Scheduler
from .store import Model, Store
from .web import JSON, PLAIN_JSON, SSE, Handler, Server

_SAMPLING: dict[str, tuple[type, ...]] = {
    "model": (str,), "stream": (bool,), "stream_options": (dict,), "max_tokens": (int,), "seed": (int,),
    "temperature": (float, int), "top_p": (float, int), "stop": (str, list), "frequency_penalty": (float, int),
    "presence_penalty": (float, int),
}  # fmt: skip
_CHAT: dict[str, tuple[type, ...]] = {
    **_SAMPLING, "messages": (list,), "tools": (list,), "response_format": (dict,), "max_completion_tokens": (int,),
    "reasoning_effort": (str,),
}  # fmt: skip
_COMPLETION: dict[str, tuple[type, ...]] = {**_SAMPLING, "prompt": (str, list), "suffix": (str,)}
_EMBED: dict[str, tuple[type, ...]] = {
    "model": (str,), "input": (str, list), "dimensions": (int,), "encoding_format": (str,),
}  # fmt: skip
_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


def error_body(error: ApiError) -> dict[str, t.Any]:
    kind = _TYPES.get(error.status, "api_error")
    return {"error": {"message": error.text, "type": kind, "param": None, "code": None}}


class _BadRequest(Exception):
    """A body that could not even be read: answered by another layer of the real server, hence its own headers."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.text)
        self.error = error


def _bound(web: Handler, struct_name: str, fields: dict[str, tuple[type, ...]]) -> dict[str, t.Any]:
    encoding = web.headers.get("Content-Encoding")
    try:
        if encoding:
            raise ApiError(400, f"unsupported content encoding: {encoding}")
        return bind(web.body(), struct_name, fields, "openai")
    except ApiError as error:
        raise _BadRequest(error) from None


def _guarded(endpoint: t.Callable[..., None]) -> t.Callable[..., None]:
    """Errors in OpenAI's form."""

    def call(web: Handler, *arguments: str) -> None:
        try:
            endpoint(web, *arguments)
        except _BadRequest as bad:
            web.json(bad.error.status, error_body(bad.error), JSON)
        except ApiError as error:
            status = 501 if "does not support embeddings" in error.text else error.status
            web.json(status, error_body(error), PLAIN_JSON, "\n")

    return call


def _options(request: dict[str, t.Any]) -> dict[str, t.Any]:
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    found = {"temperature": request.get("temperature", 1.0), "top_p": request.get("top_p", 1.0)}
    if limit:
        found["num_predict"] = limit
    if "seed" in request:
        found["seed"] = request["seed"]
    return found


def _format(request: dict[str, t.Any]) -> t.Any:
    wanted = request.get("response_format", {})
    if wanted.get("type") == "json_object":
        return "json"
    if wanted.get("type") == "json_schema":
        return wanted.get("json_schema", {}).get("schema")
    return None


def _usage(outcome: Outcome) -> dict[str, int]:
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.eval_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.eval_tokens,
    }


def _tool_calls(outcome: Outcome) -> list[dict[str, t.Any]]:
    return [
        {
            "id": call["id"],
            "index": call["function"]["index"],
            "type": "function",
            "function": {"name": call["function"]["name"], "arguments": dumps(call["function"]["arguments"])},
        }
        for call in outcome.tool_calls
    ]


class OpenAI:
    def __init__(self, server: Server, store: Store, scheduler: Scheduler, native: Native) -> None:
        self.store, self.scheduler, self.native = store, scheduler, native
        server.add("GET", "/v1/models", _guarded(self.models))
        server.add("GET", "/v1/models/:", _guarded(self.model))
        server.add("POST", "/v1/chat/completions", _guarded(self.chat))
        server.add("POST", "/v1/completions", _guarded(self.completions))
        server.add("POST", "/v1/embeddings", _guarded(self.embeddings))

    def models(self, web: Handler) -> None:
        data = [_card(model.name.shortest, model) for model in self.store.all()]
        web.json(200, {"object": "list", "data": data or None}, PLAIN_JSON, "\n")

    def model(self, web: Handler, spelled: str) -> None:
        model = self.store.require(spelled, shortest=True)
        web.json(200, _card(spelled, model), PLAIN_JSON, "\n")

    def chat(self, web: Handler) -> None:
        request = _bound(web, "ChatCompletionRequest", _CHAT)
        messages = [m for m in request.get("messages", []) if isinstance(m, dict)]
        if not messages:
            raise _BadRequest(ApiError(400, "[] is too short - 'messages'"))
        ask = self._ask(request, "chat", messages)
        shape = _Chat(ask.spelled)
        self._answer(web, ask, request, shape)

    def completions(self, web: Handler) -> None:
        request = _bound(web, "CompletionRequest", _COMPLETION)
        prompt = request.get("prompt", "")
        prompt = " ".join(str(part) for part in prompt) if isinstance(prompt, list) else prompt
        ask = self._ask(request, "generate", [{"role": "user", "content": prompt}])
        shape = _Completion(ask.spelled)
        if prompt == "":
            inference.check(ask)
            loaded, _ = inference.load(self.scheduler, ask, web.gone)
            self.scheduler.release(loaded)
            outcome = Outcome()
            outcome.reason = "load"
            web.json(200, shape.whole("", outcome), PLAIN_JSON, "\n")
            return
        self._answer(web, ask, request, shape)

    def _ask(self, request: dict[str, t.Any], kind: str, messages: list[dict[str, t.Any]]) -> Ask:
        spelled = request.get("model", "")
        return Ask(
            model=self.store.require(spelled),
            spelled=spelled,
            kind=kind,
            messages=messages,
            options=_options(request),
            format=_format(request),
            tools=request.get("tools") or None,
        )

    def _answer(self, web: Handler, ask: Ask, request: dict[str, t.Any], shape: _Chat) -> None:
        outcome = Outcome()
        if not request.get("stream", False):
            text = inference.whole(self.scheduler, ask, outcome, web.connection, web.gone)
            web.json(200, shape.whole(text, outcome), PLAIN_JSON, "\n")
            return
        usage = bool(request.get("stream_options", {}).get("include_usage"))
        shape.usage_wanted = usage
        began = False

        def event(value: dict[str, t.Any]) -> None:
            nonlocal began
            if not began:
                web.begin(200, SSE)
                began = True
            web.send(b"data: " + dumps(value).encode() + b"\n\n")

        try:
            for word in inference.speak(self.scheduler, ask, outcome, web.connection, web.gone):
                event(shape.part(word))
        except EngineDied:
            if not began:
                raise ApiError(500, DIED) from None
            event(shape.broken())
            web.finish_stream()
            return
        for value in shape.last(outcome):
            event(value)
        web.send(b"data: [DONE]\n\n")
        web.finish_stream()

    def embeddings(self, web: Handler) -> None:
        request = _bound(web, "EmbedRequest", _EMBED)
        spelled = request.get("model", "")
        model = self.store.require(spelled, quote='"{}"', suffix=", try pulling it first")
        vectors, _, count = self.native.vectors(web, model, request)
        data = []
        for index, vector in enumerate(vectors):
            coded: t.Any = vector
            if request.get("encoding_format") == "base64":
                coded = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "embedding": coded, "index": index})
        usage = {"prompt_tokens": count, "total_tokens": count}
        web.json(200, {"object": "list", "data": data, "model": spelled, "usage": usage}, PLAIN_JSON, "\n")


def _card(name: str, model: Model) -> dict[str, t.Any]:
    owner = model.name.namespace
    return {"id": name, "object": "model", "created": model.modified_ns // 10**9, "owned_by": owner}


class _Chat:
    """The documents of /v1/chat/completions."""

    prefix, object = "chatcmpl", "chat.completion"

    def __init__(self, spelled: str) -> None:
        self.spelled = spelled
        self.id = f"{self.prefix}-{secrets.randbelow(1000)}"
        self.created = int(time.time())
        self.first = True
        self.usage_wanted = False

    def _document(self, kind: str, choices: list[dict[str, t.Any]], model: str | None = None) -> dict[str, t.Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.spelled if model is None else model,
            "system_fingerprint": "fp_ollama",
            "choices": choices,
        }

    def _chunk(self, delta: dict[str, t.Any], reason: str | None = None, model: str | None = None) -> dict[str, t.Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self._document("chat.completion.chunk", [choice], model)

    def whole(self, text: str, outcome: Outcome) -> dict[str, t.Any]:
        message: dict[str, t.Any] = {"role": "assistant", "content": text}
        reason = outcome.reason
        if outcome.tool_calls:
            message["tool_calls"] = _tool_calls(outcome)
            reason = "tool_calls"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return {**self._document(self.object, [choice]), "usage": _usage(outcome)}

    def part(self, word: str) -> dict[str, t.Any]:
        delta = {"role": "assistant", "content": word} if self.first else {"content": word}
        self.first = False
        return self._chunk(delta)

    def broken(self) -> dict[str, t.Any]:
        """The last sign of a stream whose engine died."""
        return self._chunk({"content": ""}, model="")

    def last(self, outcome: Outcome) -> t.Iterator[dict[str, t.Any]]:
        reason = outcome.reason
        if outcome.tool_calls:
            yield self._chunk({"role": "assistant", "content": "", "tool_calls": _tool_calls(outcome)})
            reason = "tool_calls"
        yield self._chunk({}, reason)
        if self.usage_wanted:
            yield {**self._document("chat.completion.chunk", []), "usage": _usage(outcome)}


class _Completion(_Chat):
    """The documents of /v1/completions. Its chunks carry a zero usage each where usage is wanted."""

    prefix, object = "cmpl", "text_completion"

    def whole(self, text: str, outcome: Outcome) -> dict[str, t.Any]:
        choice = {"text": text, "index": 0, "finish_reason": outcome.reason}
        return {**self._document(self.object, [choice]), "usage": _usage(outcome)}

    def _text(self, choices: list[dict[str, t.Any]], outcome: Outcome) -> dict[str, t.Any]:
        document = {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "choices": choices,
            "model": self.spelled,
            "system_fingerprint": "fp_ollama",
        }
        return {**document, "usage": _usage(outcome)} if self.usage_wanted else document

    def part(self, word: str) -> dict[str, t.Any]:
        return self._text([{"text": word, "index": 0, "finish_reason": None}], Outcome())

    def broken(self) -> dict[str, t.Any]:
        return {**self._text([{"text": "", "index": 0, "finish_reason": None}], Outcome()), "model": ""}

    def last(self, outcome: Outcome) -> t.Iterator[dict[str, t.Any]]:
        yield self._text([{"text": "", "index": 0, "finish_reason": outcome.reason}], Outcome())
        if self.usage_wanted:
            yield self._text([], outcome)
