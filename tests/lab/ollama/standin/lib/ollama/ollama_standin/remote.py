# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP requests to a registry, with errors worded as Go words them."""

from __future__ import annotations

import http.client
import socket
import typing as t
from urllib.parse import urljoin, urlsplit

from .config import Config
from .gojson import ApiError

STALL_SECONDS = 30.0
_REDIRECTS = (301, 302, 303, 307, 308)


class Unreachable(Exception):
    """The request got no answer."""


class Answer(t.NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def agent(config: Config) -> str:
    return f"ollama/{config.version} (amd64 linux) Go/go1.27.3"


def connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=STALL_SECONDS)


def target(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + ("?" + parts.query if parts.query else "")


def reworded(error: Exception, url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {parts.hostname}: no such host"
    if isinstance(error, ConnectionRefusedError):
        try:
            address = socket.gethostbyname(parts.hostname or "")
        except OSError:
            address = parts.hostname or ""
        return f"dial tcp {address}:{port}: connect: connection refused"
    text = str(error)
    if "CERTIFICATE_VERIFY" in text:
        return "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    if "SSL" in text or "WRONG_VERSION" in text:
        return "tls: first record does not look like a TLS handshake"
    if isinstance(error, TimeoutError):
        return f"dial tcp {parts.hostname}:{port}: i/o timeout"
    return text or "EOF"


def request(method: str, url: str, headers: dict[str, str]) -> Answer:
    connection = connect(url)
    try:
        connection.request(method, target(url), headers=headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(reworded(error, url)) from None
    finally:
        connection.close()


def get(url: str, headers: dict[str, str]) -> Answer:
    """A GET that follows redirects."""
    for _ in range(10):
        answer = request("GET", url, headers)
        if answer.status not in _REDIRECTS:
            break
        url = urljoin(url, answer.headers.get("Location", ""))
    return answer


def size(url: str, config: Config) -> int:
    try:
        answer = request("HEAD", url, {"User-Agent": agent(config)})
    except Unreachable as error:
        raise ApiError(500, f'Head "{url}": {error}') from None
    if answer.status >= 400:
        raise ApiError(500, "file does not exist" if answer.status == 404 else f"{answer.status}: ")
    return int(answer.headers.get("Content-Length") or 0)


def direct(url: str, config: Config) -> str:
    """Where the content is: the first redirect to another host, or a Location of the final answer."""
    start = urlsplit(url).hostname
    for _ in range(10):
        connection = connect(url)
        try:
            connection.request("GET", target(url), headers={"User-Agent": agent(config)})
            response = connection.getresponse()
            where = response.headers.get("Location")
            status = response.status
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(500, f'Get "{url}": {reworded(error, url)}') from None
        finally:
            connection.close()  # the body, if there is one, is not read
        if where is None:
            break
        found = urljoin(url, where)
        if status not in _REDIRECTS or urlsplit(found).hostname != start:
            return found
        url = found
    raise ApiError(500, "http: no Location header in response")
