# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a request for text to the engine's words: checks, loading, the cut of long prompts, tools."""

from __future__ import annotations

import json
import secrets
import socket
import string
import time
import typing as t

from . import answers, options
from .engine import EngineDied
from .gojson import ApiError, dumps
from .sched import Gone, Loaded, Scheduler
from .store import Model

DIED = "an error was encountered while running the model: unexpected EOF"
_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)
_NO_IMAGES = "Multimodal data provided, but model does not support multimodal requests."
_TEMPLATE_TOKENS = 21


class Ask(t.NamedTuple):
    """A request for text, whatever the interface it came through."""

    model: Model
    spelled: str
    kind: str  # "generate" or "chat"
    messages: list[dict[str, t.Any]]
    options: dict[str, t.Any]
    keep: int | None = None
    shift: bool = True
    truncate: bool = True
    format: t.Any = None
    tools: list[dict[str, t.Any]] | None = None
    think: bool = False


class Outcome:
    """What is known when the last word is said."""

    def __init__(self) -> None:
        self.started = time.time_ns()
        self.load_ns = self.prompt_ns = self.eval_ns = 0
        self.prompt_tokens = self.eval_tokens = 0
        self.reason = "stop"
        self.tool_calls: list[dict[str, t.Any]] = []

    @property
    def total_ns(self) -> int:
        return time.time_ns() - self.started

    @property
    def tokens(self) -> list[int]:
        """The token numbers that /api/generate calls context; they mean nothing here."""
        return [(n * 7919) % 32000 for n in range(self.prompt_tokens + self.eval_tokens)]


def check(ask: Ask) -> None:
    capabilities = ask.model.capabilities
    if "completion" not in capabilities:
        raise ApiError(400, f'"{ask.spelled}" does not support {ask.kind}')
    if ask.tools and "tools" not in capabilities:
        raise ApiError(400, f"{ask.model.name.full} does not support tools")
    if ask.think and "thinking" not in capabilities:
        raise ApiError(400, f'"{ask.spelled}" does not support thinking')


def load(scheduler: Scheduler, ask: Ask, gone: Gone) -> tuple[Loaded, dict[str, t.Any]]:
    opts = options.merge(ask.model.parameters, ask.options)
    return scheduler.acquire(ask.model, opts, ask.keep, ask.shift, gone), opts


def text_of(message: dict[str, t.Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _has_image(message: dict[str, t.Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return bool(message.get("images")) or any(isinstance(p, dict) and p.get("type") == "image_url" for p in parts)


def _fit(ask: Ask, context: int) -> int:
    """Tokens of the prompt after what the real server cuts without a word, or the refusal that was asked for."""
    extra = _TEMPLATE_TOKENS + (answers.tokens(dumps(ask.tools)) if ask.tools else 0)
    sizes = [answers.tokens(text_of(message)) for message in ask.messages]
    total = sum(sizes) + extra
    if total <= context:
        return total
    if not ask.shift:
        raise ApiError(400, _TOO_LONG)
    if not ask.truncate:
        detail = {
            "code": 400,
            "message": f"request ({total} tokens) exceeds the available context size ({context} tokens), "
            "try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": total,
            "n_ctx": context,
        }
        raise ApiError(400, json.dumps({"error": detail}, separators=(",", ":")))
    last = len(ask.messages) - 1
    kept = sum(n for i, n in enumerate(sizes) if i == last or ask.messages[i].get("role") == "system") + extra
    return kept if kept <= context else context // 2 + 3


def _limit(opts: dict[str, t.Any], context: int, prompt: int, shift: bool) -> int:
    limit = int(opts["num_predict"])
    longest = 10 * context if shift else max(1, context - prompt)
    return min(limit, longest) if limit > 0 else 0 if shift else longest


def _tool_call(ask: Ask, question: str) -> dict[str, t.Any] | None:
    """A call when a schema forces one or when the question names the tool."""
    forced = ask.format if isinstance(ask.format, dict) else {}
    name = forced.get("properties", {}).get("name", {}).get("const")
    for tool in ask.tools or []:
        function = tool.get("function", {})
        if function.get("name") == name or str(function.get("name")) in question.split():
            label = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
            arguments = answers.instance(function.get("parameters", {"type": "object"}))
            return {"id": f"call_{label}", "function": {"index": 0, "name": function["name"], "arguments": arguments}}
    return None


def speak(
    scheduler: Scheduler, ask: Ask, outcome: Outcome, client: socket.socket | None, gone: Gone
) -> t.Iterator[str]:
    """Words as they come; `outcome` is complete after the last one. Raises ApiError, EngineDied or ClientGone."""
    check(ask)
    loaded, opts = load(scheduler, ask, gone)
    outcome.load_ns = outcome.total_ns
    try:
        if any(_has_image(message) for message in ask.messages):
            detail = {"code": 400, "message": _NO_IMAGES, "type": "invalid_request_error"}
            raise ApiError(400, json.dumps({"error": detail}, separators=(",", ":")))
        context = loaded.launch.context
        outcome.prompt_tokens = _fit(ask, context)
        question = text_of(ask.messages[-1])
        call = _tool_call(ask, question)
        literal = None
        if call is not None:
            literal = dumps({"name": call["function"]["name"], "parameters": call["function"]["arguments"]})
        elif ask.format:
            literal = json.dumps(answers.instance(ask.format))
        request = {
            "prompt": question,
            "prompt_tokens": outcome.prompt_tokens,
            "limit": 0 if call else _limit(opts, context, outcome.prompt_tokens, ask.shift),
            "literal": literal,
        }
        for item in loaded.engine.completion(request, client):
            if "done" in item:
                outcome.reason = "stop" if call else item["done"]
                outcome.eval_tokens, outcome.eval_ns = item["eval"], item["eval_ns"]
                outcome.prompt_ns = item["prompt_ns"]
            elif call is None:
                yield item["t"]
        if call is not None:
            outcome.tool_calls = [call]
    finally:
        scheduler.release(loaded)


def whole(scheduler: Scheduler, ask: Ask, outcome: Outcome, client: socket.socket | None, gone: Gone) -> str:
    try:
        return "".join(speak(scheduler, ask, outcome, client, gone))
    except EngineDied:
        raise ApiError(500, DIED) from None
