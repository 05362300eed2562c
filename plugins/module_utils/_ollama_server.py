# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Talks to a node's store server: what changes its store, streamed line by line or sent as a file."""

from __future__ import annotations

import http.client
import json
import typing as t
import urllib.error
import urllib.parse
import urllib.request

from ._ollama import Malformed, OllamaError, Refused, Unreachable

# Create reads the weights' header and may write a copy of them; copy is immediate.
CHANGE_SECONDS = 1800.0

# Seconds of silence to be borne after a line of an answer, or after nothing but the request.
Patience = t.Callable[[t.Mapping[str, t.Any]], float]

# The node's own server is never behind a proxy, whatever the environment says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class StoreServer:
    """One server by its URL. Every call raises :class:`OllamaError` when it fails."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def lines(
        self, path: str, body: t.Mapping[str, t.Any], patience: Patience
    ) -> t.Generator[dict[str, t.Any], None, None]:
        """POST ``body``; the objects of the streamed answer as they come, ``patience`` bounds the silence between."""
        where = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        connection = kind(where.hostname or "", where.port, timeout=patience({}))
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", where.path + path, body=json.dumps(body).encode(), headers=headers)
            # An answer that is not kept alive takes it from the connection.
            socket = connection.sock
            answer = connection.getresponse()
            if answer.status >= http.client.BAD_REQUEST:
                text = answer.read().decode(errors="replace").strip()[:500]
                raise Refused(f"{self.url}{path} answered {answer.status}: {text or answer.reason}", answer.status)
            for line in answer:
                if line.strip():
                    found = _object(line)
                    yield found
                    socket.settimeout(patience(found))
        except (OSError, http.client.HTTPException) as exc:
            raise _error(self.url + path, exc) from exc
        finally:
            connection.close()

    def create(self, model: str, body: t.Mapping[str, t.Any]) -> None:
        """Create ``model``; ``body`` says from what."""
        self._change("/api/create", {"model": model, **body})

    def copy(self, source: str, destination: str) -> None:
        self._change("/api/copy", {"source": source, "destination": destination})

    def send_blob(self, digest: str, file: t.BinaryIO, size: int) -> None:
        """Put a file of ``size`` bytes with that digest (``sha256:…``) into the store."""
        url = f"{self.url}/api/blobs/{digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        request = urllib.request.Request(url, data=file, headers=headers, method="POST")
        try:
            with _OPENER.open(request, timeout=CHANGE_SECONDS):
                return
        except (OSError, http.client.HTTPException) as exc:
            raise _error(url, exc) from exc

    def _change(self, path: str, body: t.Mapping[str, t.Any]) -> None:
        for line in self.lines(path, body, lambda _line: CHANGE_SECONDS):
            # An error in a stream comes with status 200.
            if "error" in line:
                raise Refused(f"{self.url}{path} answered: {line['error']}", 200)


def _object(raw: bytes) -> dict[str, t.Any]:
    try:
        found = json.loads(raw)
    except ValueError as exc:
        raise Malformed(f"an answer that is not JSON: {raw[:80]!r}") from exc
    if not isinstance(found, dict):
        raise Malformed(f"an answer that is not an object: {raw[:80]!r}")
    return found


def _error(url: str, exc: Exception) -> OllamaError:
    if isinstance(exc, urllib.error.HTTPError):
        text = exc.read().decode(errors="replace").strip()[:500]
        return Refused(f"{url} answered {exc.code}: {text or exc.reason}", exc.code)
    reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    return Unreachable(f"{url} does not answer: {reason or type(exc).__name__}")
