# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP as Go's server and gin speak it: routing, headers, chunked streams, access log, Host and Origin rules."""

from __future__ import annotations

import contextlib
import ipaddress
import posixpath
import socket
import sys
import threading
import time
import typing as t
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

from . import gojson
from .config import Config
from .engine import ClientGone
from .gojson import ApiError

JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
_CHUNK_ABOVE = 2048  # Go knows the length of what fits its buffer
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
Endpoint = t.Callable[..., None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    wbufsize = 65536

    def __getattr__(self, name: str) -> t.Any:
        if name.startswith("do_"):  # any method goes through the routes
            return self.dispatch
        raise AttributeError(name)

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.status = 0
        self.chunked = False

    def log_message(self, format: str, *args: t.Any) -> None:
        """Nothing of http.server's own; the access log is written by `dispatch`."""

    def gone(self) -> bool:
        """Whether the client has closed the connection."""
        try:
            return len(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) == 0
        except BlockingIOError:
            return False
        except OSError:
            return True

    def dispatch(self) -> None:
        self.server.ready.wait()
        started = time.monotonic_ns()
        self.status, self.chunked = 0, False
        self.body_read = False
        try:
            self._answer()
            self.wfile.flush()
        except ClientGone:
            self.status = self.status if self.chunked else self.status or 499
            self.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            self.status = self.status or 499
            self.close_connection = True
        self._access_log(time.monotonic_ns() - started)

    def _answer(self) -> None:
        if self.request_version == "HTTP/1.1" and "Host" not in self.headers:
            self.text(400, "400 Bad Request: missing required Host header")
            self.close_connection = True
            return
        if not self._host_allowed() or not self._origin_allowed():
            self.empty(403)
            return
        # http.server folds leading slashes, Go redirects: so the request line itself is read
        path = unquote(self.requestline.split()[1].split("?")[0])
        clean = posixpath.normpath(path) if path.startswith("/") else path
        clean = "/" + clean.lstrip("/")
        if clean != path:
            self.redirect(301 if path == clean + "/" else 307, quote(clean))
            return
        endpoint, argument, allowed = self.server.find(self.command, path)
        if endpoint is None:
            self.body()
            if allowed:
                self.text(405, "405 method not allowed", [("Allow", ", ".join(allowed))])
            else:
                self.text(404, "404 page not found")
            return
        try:
            endpoint(self, *argument)
            self.drain()
        except ApiError as error:
            self.json(error.status, {"error": error.text})

    def _host_allowed(self) -> bool:
        if not self.server.loopback:
            return True
        host = self.headers.get("Host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        try:
            address = ipaddress.ip_address(name)
            return address.is_loopback or address.is_private
        except ValueError:
            return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(_LOCAL_SUFFIXES)

    def _origin_allowed(self) -> bool:
        origin = self.headers.get("Origin")
        if origin is None:
            return True
        parts = urlsplit(origin)
        if parts.scheme in ("http", "https") and parts.netloc == self.headers.get("Host"):
            return True
        if parts.hostname in ("localhost", "127.0.0.1", "0.0.0.0") or parts.scheme in ("app", "file", "tauri"):
            return True
        return origin in self.server.config.origins or "*" in self.server.config.origins

    def _access_log(self, nanos: int) -> None:
        units = ((10**9, "s"), (10**6, "ms"), (10**3, "µs"))
        took = next((f"{nanos / unit:.6g}{name}" for unit, name in units if nanos >= unit), f"{nanos}ns")
        client = self.headers.get("X-Forwarded-For", "").split(",")[0].strip() or self.client_address[0]
        now = time.strftime("%Y/%m/%d - %H:%M:%S")
        line = f'[GIN] {now} | {self.status} | {took:>13} | {client:>15} | {self.command:<8} "{self.path}"\n'
        self.server.access_log(line)

    # requests

    def body(self) -> bytes:
        return b"".join(self.body_parts())

    def body_parts(self) -> t.Iterator[bytes]:
        if self.body_read:
            return
        self.body_read = True
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while True:
                size = int(self.rfile.readline().split(b";")[0] or b"0", 16)
                if size:
                    yield self.rfile.read(size)
                self.rfile.readline()
                if not size:
                    return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            data = self.rfile.read(min(left, 1 << 20))
            if not data:
                raise ClientGone
            left -= len(data)
            yield data

    def drain(self) -> None:
        for _ in self.body_parts():
            pass

    # answers

    def head(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.status = status
        self.send_response_only(status, HTTPStatus(status).phrase)
        for name, value in headers[:1]:
            self.send_header(name, value)
        self.send_header("Date", self.date_time_string())
        for name, value in headers[1:]:
            self.send_header(name, value)
        if self.close_connection and self.request_version == "HTTP/1.1":
            self.send_header("Connection", "close")
        self.end_headers()

    def json(self, status: int, value: t.Any, content_type: str = JSON, end: str = "") -> None:
        self.reply(status, (gojson.dumps(value) + end).encode(), content_type)

    def reply(self, status: int, data: bytes, content_type: str, extra: t.Sequence[tuple[str, str]] = ()) -> None:
        self.drain()
        if len(data) > _CHUNK_ABOVE and self.command != "HEAD":
            self.begin(status, content_type)
            self.send(data)
            self.finish_stream()
            return
        self.head(status, [*extra, ("Content-Type", content_type), ("Content-Length", str(len(data)))])
        if self.command != "HEAD":
            self.wfile.write(data)

    def text(self, status: int, text: str, extra: t.Sequence[tuple[str, str]] = ()) -> None:
        self.reply(status, text.encode(), "text/plain", extra)

    def empty(self, status: int) -> None:
        self.drain()
        self.head(status, [("Content-Length", "0")])

    def redirect(self, status: int, where: str) -> None:
        self.drain()
        self.head(status, [("Location", where), ("Content-Length", "0")])

    def begin(self, status: int, content_type: str) -> None:
        """Start of a body of unknown length."""
        headers = [("Content-Type", content_type)]
        self.chunked = self.request_version == "HTTP/1.1"
        if self.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        else:
            self.close_connection = True
        self.head(status, headers)

    def send(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)
        self.wfile.flush()

    def line(self, value: t.Any) -> None:
        self.send((gojson.dumps(value) + "\n").encode())

    def finish_stream(self) -> None:
        if self.chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, config: Config) -> None:
        self.config = config
        self.routes: dict[str, dict[str, Endpoint]] = {}
        self.prefixes: list[tuple[str, dict[str, Endpoint]]] = []
        self.ready = threading.Event()
        self.log_lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self.address_family = socket.AF_INET6 if ":" in config.address else socket.AF_INET
        super().__init__((config.address, config.port), Handler)
        config.port = self.server_address[1]
        try:
            self.loopback = ipaddress.ip_address(str(self.server_address[0])).is_loopback
        except ValueError:
            self.loopback = False

    def server_bind(self) -> None:
        """Without the reverse look-up of http.server."""
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def get_request(self) -> tuple[socket.socket, t.Any]:
        accepted = super().get_request()
        # As Go's listeners do: a client that went away without a word is noticed and does not seem to wait for ever.
        accepted[0].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 9)):
            accepted[0].setsockopt(socket.IPPROTO_TCP, option, value)
        self.connections.add(accepted[0])
        return accepted

    def shutdown_request(self, request: t.Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """The real server's end begins with this: no answer tells of engines that end after it."""
        for connection in (self.socket, *self.connections.copy()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, methods: str, path: str, endpoint: Endpoint) -> None:
        """A path that ends with "/:" takes the rest as an argument."""
        if path.endswith("/:"):
            table = next((table for prefix, table in self.prefixes if prefix == path[:-1]), None)
            if table is None:
                table = {}
                self.prefixes.append((path[:-1], table))
        else:
            table = self.routes.setdefault(path, {})
        for method in methods.split(","):
            table[method] = endpoint

    def find(self, method: str, path: str) -> tuple[Endpoint | None, tuple[str, ...], list[str]]:
        table, argument = self.routes.get(path), ()  # type: tuple[t.Any, t.Any]
        if table is None:
            for prefix, candidates in self.prefixes:
                if path.startswith(prefix) and len(path) > len(prefix):
                    table, argument = candidates, (path[len(prefix) :],)
        if table is None:
            return None, (), []
        return table.get(method), argument, sorted(table)

    def access_log(self, line: str) -> None:
        with self.log_lock:
            try:
                sys.stdout.write(line)
                sys.stdout.flush()
            except OSError:
                return

    def handle_error(self, request: t.Any, client_address: t.Any) -> None:
        """A client that goes away is no error; anything else is told on stderr by the base class."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)
