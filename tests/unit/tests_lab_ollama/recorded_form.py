# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How an answer of the stand-in is held against a recorded one: same form, same words where words are meant."""

from __future__ import annotations

import json
import re
import typing as t

from standin_lab import Reply

# values that clients act on: they must be the same, not only of the same type
_EXACT = {
    "error", "message", "code", "status", "done", "done_reason", "finish_reason", "object", "role", "param",
    "owned_by", "format", "family", "families", "capabilities", "parameters", "template", "model", "name",
    "context_length", "truncation", "system_fingerprint", "parent_model", "parameter_size", "quantization_level",
    "index", "embedding_length",
}  # fmt: skip
_HEADERS = ("content-type", "allow", "cache-control", "transfer-encoding")
_MASKS = (
    (re.compile(r"[0-9a-f]{64}"), "<digest>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<short>"),
    (re.compile(r" on 127\.0\.0\.53:53"), ""),
    (re.compile(r"\d+ tokens\)"), "<n> tokens)"),
    (re.compile(r'"n_prompt_tokens\\?":\d+'), '"n_prompt_tokens":<n>'),
)


def masked(text: str) -> str:
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text


def _kind(value: t.Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def differences(want: t.Any, got: t.Any, where: str = "", exact: bool = False) -> list[str]:
    """What is unlike: types, keys and their order everywhere; values where they are meant to be the same."""
    if _kind(want) != _kind(got):
        return [f"{where}: {want!r} recorded, {got!r} here"]
    if isinstance(want, dict):
        if list(want) != list(got):
            return [f"{where}: keys {list(want)} recorded, {list(got)} here"]
        return [line for key in want for line in differences(want[key], got[key], f"{where}.{key}", key in _EXACT)]
    if isinstance(want, list) and bool(want) == bool(got):
        return [line for pair in zip(want, got, strict=False) for line in differences(*pair, f"{where}[]", exact)]
    if isinstance(want, list) or (exact and _plain(want) != _plain(got)):
        return [f"{where}: {want!r} recorded, {got!r} here"]
    return []


def _plain(value: t.Any) -> t.Any:
    return masked(value) if isinstance(value, str) else value


def _events(lines: t.Sequence[str]) -> list[tuple[str, t.Any]]:
    """(prefix, document) of NDJSON and SSE lines; several of one form count as one."""
    found: list[tuple[str, t.Any]] = []
    for line in lines:
        if line in ("", "<eof>"):
            continue
        prefix, brace, rest = line.partition("{")
        value = json.loads(brace + rest) if brace else line
        form = (prefix, _form(value))
        if not found or (found[-1][0], _form(found[-1][1])) != form:
            found.append((prefix, value))
    return found


def _form(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return tuple((key, _form(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(_form(item) for item in value)
    if isinstance(value, str) and ("pulling" in value or "layer" in value):
        return "progress"
    return _kind(value) if not isinstance(value, bool) else value


def _without_progress(events: list[tuple[str, t.Any]]) -> list[tuple[str, t.Any]]:
    """How many progress lines come and whether they say "completed" is a matter of timing."""
    return [event for event in events if not (isinstance(event[1], dict) and "digest" in event[1])]


def compare(want: dict[str, t.Any], got: Reply) -> list[str]:
    found = [] if want["status"] == got.status else [f"status {want['status']} recorded, {got.status} here"]
    headers = {key.lower(): value for key, value in want["headers"]}
    mine = {key.lower(): value for key, value in got.headers.items()}
    for name in _HEADERS:
        if headers.get(name) != mine.get(name):
            found.append(f"header {name}: {headers.get(name)!r} recorded, {mine.get(name)!r} here")
    if "content-length" in headers and "content-length" not in mine:
        found.append("no content-length")
    text, body = got.body.decode(), want["body"]
    if isinstance(body, list):
        recorded, here = _without_progress(_events(body)), _without_progress(_events(text.split("\n")))
        if [event[0] for event in recorded] != [event[0] for event in here]:
            return [*found, f"lines: {recorded} recorded, {here} here"]
        for (prefix, one), (_, other) in zip(recorded, here, strict=True):
            found += differences(one, other, prefix)
        return found
    if not body.strip().startswith("{"):
        return found if masked(body) == masked(text) else [*found, f"body {body!r} recorded, {text!r} here"]
    if body.endswith("\n") != text.endswith("\n"):
        found.append("final newline")
    return found + differences(_sorted(json.loads(body)), _sorted(json.loads(text)))


def _sorted(document: t.Any) -> t.Any:
    """Models of one second come in no certain order from the real server's /api/tags."""
    models = document.get("models")
    if models and "modified_at" in models[0]:
        document["models"] = sorted(models, key=lambda model: str(model["name"]))
    return document
