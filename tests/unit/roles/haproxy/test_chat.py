# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The chat page's port: requests and WebSockets pass, and who comes while the page is down is told so."""

from __future__ import annotations

import http.client
import socket
import socketserver
import threading
import typing as t

import pytest

from .conftest import Frontend, free_port, wait_for

if t.TYPE_CHECKING:
    from collections.abc import Iterator

UPGRADE = b"GET /ws/socket.io/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
UPGRADE += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
# What that key is answered with (RFC 6455, 1.3).
ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Page(socketserver.ThreadingTCPServer):
    """Answers each request with its own headers; after an upgrade it echoes."""

    allow_reuse_address = True
    daemon_threads = True
    healthy = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(socketserver.StreamRequestHandler):
    server: Page

    def handle(self) -> None:
        while head := self.head():
            if b"\nupgrade: websocket" in head.lower():
                self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
                self.wfile.write(ACCEPT + b"\r\n\r\n")
                while data := self.request.recv(100):
                    self.request.sendall(data.upper())
                return
            status = b"200 OK" if self.server.healthy or b"/health" not in head else b"500 Down"
            self.wfile.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(head), head))

    def head(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()).strip():
            lines.append(line)
        return b"".join(lines)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def page(frontend: Frontend, port: int) -> Iterator[Page]:
    """Behind the frontend, which knows already that it is up."""
    with Page(free_port()) as served:
        server = {"id": "webui1", "address": "127.0.0.1", "port": served.server_address[1]}
        frontend.start([], haproxy_chat_servers=[server], haproxy_chat_port=port)
        wait_for(lambda: get(port)[0] == 200)
        yield served
        served.shutdown()


def get(port: int, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.usefixtures("page")
def test_it_learns_who_asks_from_the_frontend_alone(port: int) -> None:
    status, head = get(port, X_Forwarded_For="10.9.9.9", Forwarded="for=10.9.9.9", X_Real_IP="10.9.9.9")
    assert status == 200
    assert "10.9.9.9" not in head
    assert "x-forwarded-for: 127.0.0.1" in head.lower()


@pytest.mark.usefixtures("page")
def test_a_websocket_passes_both_ways(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(UPGRADE)
        answer = connection.makefile("rb")
        assert answer.readline().split()[1] == b"101"
        while answer.readline().strip():
            pass
        for word in (b"first\n", b"second\n"):
            connection.sendall(word)
            assert answer.readline() == word.upper()


def test_while_it_is_down_users_are_told(page: Page, port: int) -> None:
    page.healthy = False
    wait_for(lambda: get(port)[0] == 503, seconds=20)
    assert get(port)[1] == "The chat page is not up. Please try again."


def test_without_a_page_there_is_no_port(frontend: Frontend, port: int) -> None:
    frontend.start([], haproxy_chat_port=port)
    with pytest.raises(ConnectionRefusedError):
        get(port)
