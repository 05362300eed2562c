# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""A small client for one Ollama server: what it holds, make it load a model, put a question to it.

The API: https://github.com/ollama/ollama/blob/main/docs/api.md. Sizes are in bytes, time-outs in seconds.
"""

from __future__ import annotations

import http.client
import json
import typing as t
import urllib.error
import urllib.request
from dataclasses import dataclass

# Loaded until the server ends. The API takes the number; the string "-1" is refused.
FOR_EVER = -1
QUICK_S = 3.0

CHAT = "chat"
EMBEDDING = "embedding"


class OllamaError(Exception):
    """An Ollama server could not do what was asked; the text says which server, and why."""


class Unreachable(OllamaError):
    """No answer: nothing listens, the connection broke, or the time was up."""


class Refused(OllamaError):
    """The server answered with an error. ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Malformed(OllamaError):
    """The answer is not one of Ollama's: something else listens there."""


@dataclass(frozen=True)
class Loaded:
    """An entry of /api/ps: a model in memory."""

    name: str
    digest: str
    size: int
    size_vram: int
    context: int

    @property
    def in_vram(self) -> bool:
        """All of it is in VRAM as far as Ollama knows, which is necessary but proves nothing."""
        return self.size == self.size_vram > 0


@dataclass(frozen=True)
class Stored:
    """An entry of /api/tags: a model in the server's store. ``details`` is as the server gives it."""

    name: str
    digest: str
    size: int
    modified_at: str
    details: t.Mapping[str, t.Any]


class Client:
    """Talks to one server. Every call raises :class:`OllamaError` when it fails."""

    def __init__(self, address: str, port: int) -> None:
        self.url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
        # No proxy, whatever the environment says: the server is on this host.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ps(self, timeout: float = QUICK_S) -> tuple[Loaded, ...]:
        """The models in memory; none while one is being loaded."""
        return tuple(
            Loaded(
                name=self._field(item, "name", str),
                digest=self._field(item, "digest", str),
                size=self._field(item, "size", int),
                size_vram=self._field(item, "size_vram", int),
                context=self._field(item, "context_length", int),
            )
            for item in self._models("/api/ps", timeout)
        )

    def tags(self, timeout: float = QUICK_S) -> tuple[Stored, ...]:
        """The models in the server's store."""
        return tuple(
            Stored(
                name=self._field(item, "name", str),
                digest=self._field(item, "digest", str),
                size=self._field(item, "size", int),
                modified_at=self._field(item, "modified_at", str),
                details=self._field(item, "details", dict),
            )
            for item in self._models("/api/tags", timeout)
        )

    def load(self, model: str, *, kind: str, timeout: float, keep_alive: int = FOR_EVER) -> None:
        """Load a model, or find it loaded, by the empty request of its kind (``chat`` or ``embedding``).

        Also renews the expiry without a reload, and replaces an engine that died or hangs; the latter takes some
        20 s. A client that leaves early aborts the load: be patient.
        """
        path = "/api/embed" if kind == EMBEDDING else "/api/generate"
        self._call(path, timeout, {"model": model, "keep_alive": keep_alive, "stream": False})

    def ask(self, model: str, prompt: str, *, timeout: float, tokens: int) -> str:
        """The answer to one question, at most ``tokens`` long, the same every time as far as the engine allows."""
        answer = self._call(
            "/api/chat",
            timeout,
            {
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "stream": False,
                "keep_alive": FOR_EVER,
                "options": {"temperature": 0, "seed": 0, "num_predict": tokens},
            },
        )
        return str(self._field(self._field(answer, "message", dict), "content", str))

    def embed(self, model: str, text: str, *, timeout: float) -> tuple[float, ...]:
        """The embedding of one text."""
        answer = self._call("/api/embed", timeout, {"model": model, "input": text, "keep_alive": FOR_EVER})
        vectors = self._field(answer, "embeddings", list)
        if len(vectors) != 1 or not isinstance(vectors[0], list):
            raise Malformed(f"{self.url} gave {len(vectors)} embeddings for one text")
        return tuple(float(number) for number in vectors[0])

    def _models(self, path: str, timeout: float) -> list[t.Any]:
        return list(self._field(self._call(path, timeout), "models", list))

    def _field(self, item: t.Any, key: str, kind: type) -> t.Any:
        value = item.get(key) if isinstance(item, dict) else None
        if not isinstance(value, kind):
            raise Malformed(f"{self.url} gave no {kind.__name__} for {key!r}: is this an Ollama server?")
        return value

    def _call(self, path: str, timeout: float, body: t.Optional[dict[str, t.Any]] = None) -> t.Any:
        """The answer to a request, a POST where there is a body."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=timeout) as response:
                raw = response.read()
        except urllib.error.HTTPError as error:
            raise Refused(f"{self.url}{path} answered {error.code}: {_complaint(error.read())}", error.code) from error
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise Unreachable(f"{self.url}{path} does not answer: {reason or type(error).__name__}") from error
        try:
            return json.loads(raw)
        except ValueError as error:
            raise Malformed(f"{self.url}{path} did not answer with JSON") from error


def _complaint(raw: bytes) -> str:
    """What an error says: the field ``error`` of Ollama's JSON, else the bare text."""
    text = raw.decode("utf-8", "replace").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:200] or "no text"
