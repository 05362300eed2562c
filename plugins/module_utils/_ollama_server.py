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
import urllib.request

from ._ollama import Malformed, OllamaError, Refused, Unreachable

# Create reads the weights' header and may write a copy of them; copy is immediate.
CHANGE_SECONDS = 1800.0

# The node's own server is never behind a proxy, whatever the environment says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class StoreServer:
    """One server by its URL. Every call raises :class:`OllamaError` when it fails."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def lines(self, path: str, body: t.Mapping[str, t.Any], timeout: float) -> t.Iterator[dict[str, t.Any]]:
        """POST ``body``; the objects of the streamed answer as they come. ``timeout`` counts silence, in seconds."""
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with _OPENER.open(request, timeout=timeout) as answer:
                for line in answer:
                    if line.strip():
                        yield _object(line)
        except (OSError, http.client.HTTPException) as exc:
            raise _error(self.url + path, exc) from exc

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
        for line in self.lines(path, body, CHANGE_SECONDS):
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
