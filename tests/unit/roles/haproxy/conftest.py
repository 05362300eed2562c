# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's own templates, rendered and run by the real HAProxy on loopback, before fake replicas."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parents[4] / "roles" / "haproxy"
RECORDED = Path(__file__).parents[3] / "data" / "ollama" / "recorded.jsonl"
PROGRAM = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: t.Callable[[], t.Any], seconds: float = 8.0) -> t.Any:
    """The first true value of condition(), or a failure after that many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")


def ps_body(name: str = "tiny:latest", size: int = 9112124, size_vram: int = 9112124, context: int = 2048) -> str:
    details = {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"]}
    entry = {"name": name, "model": name, "size": size, "digest": "0b" * 32, "details": details}
    entry |= {"expires_at": "2319-03-05T17:09:29.29Z", "size_vram": size_vram, "context_length": context}
    return json.dumps({"models": [entry]}, separators=(",", ":"))


class Request(t.NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Replica:
    """A server that answers GET /api/ps with `ps` and every POST by `behave`; keeps what it was asked."""

    def __init__(self, ps: str | None = None) -> None:
        self.ps = ps_body() if ps is None else ps
        self.ps_status = 200
        self.requests: list[Request] = []
        self.running = 0
        self.lock = threading.Lock()
        self.behave: t.Callable[[BaseHTTPRequestHandler, Request], None] = answer
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: t.Any) -> None:
                pass

            def do_GET(self) -> None:
                reply(self, replica.ps_status, replica.ps.encode())

            def do_POST(self) -> None:
                request = Request("POST", self.path, dict(self.headers), read_body(self))
                with replica.lock:
                    replica.requests.append(request)
                    replica.running += 1
                try:
                    replica.behave(self, request)
                except OSError:
                    self.close_connection = True
                finally:
                    with replica.lock:
                        replica.running -= 1

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128
            connections: t.ClassVar[list[socket.socket]] = []

            def handle_error(self, request: t.Any, client_address: t.Any) -> None:
                pass

            def get_request(self) -> t.Any:
                accepted = super().get_request()
                self.connections.append(accepted[0])
                return accepted

        Server.connections = []
        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def kill(self) -> None:
        """As kill -9: the port is closed and every connection ends."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.server.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    parts = []
    while size := int(handler.rfile.readline().strip(), 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return b"".join(parts)


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Type", "application/json; charset=utf-8")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def answer(handler: BaseHTTPRequestHandler, _request: Request) -> None:
    reply(handler, 200, b'{"done":true}')


class Response(t.NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> t.Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error, whose whole shape is checked on the way."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "code"}
        assert error["message"]
        return str(error["code"])


def model(name: str, *servers: Replica | dict[str, t.Any], parallel: int = 4, **more: t.Any) -> dict[str, t.Any]:
    """An element of haproxy_models; replicas are named r1, r2, … behind the model's name."""
    slug = re.sub("[^a-z0-9.]", "-", name.lower())
    listed = [
        server
        if isinstance(server, dict)
        else {"id": f"{slug}--{n}", "address": "127.0.0.1", "port": server.port, "parallel": parallel}
        for n, server in enumerate(servers, 1)
    ]
    filled = {"name": name, "context": 2048, "size": 3008121, "digest": "0b" * 32, "details": {"family": "llama"}}
    return filled | {"modified_at": "2026-11-23T17:21:46.053610983Z", "servers": listed} | more


class Frontend:
    """HAProxy under the role's configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.admin_port = free_port(), free_port()
        self.log_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.log_socket.bind(("127.0.0.1", 0))
        self.log_socket.settimeout(3)
        self.process: subprocess.Popen[bytes] | None = None
        self.revision = ""
        self.models: list[dict[str, t.Any]] = []
        self.variables: dict[str, t.Any] = {}

    def render(self, models: list[dict[str, t.Any]], **variables: t.Any) -> Path:
        """Writes all files of the configuration and returns the path of haproxy.cfg."""
        self.models = models
        loader = DataLoader()
        known: dict[str, t.Any] = {}
        for part in ("defaults", "vars"):
            known |= loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
        self.variables = {
            "haproxy_models": models,
            "haproxy_address": "127.0.0.1",
            "haproxy_port": self.port,
            "haproxy_admin_port": self.admin_port,
            "haproxy_log_target": f"127.0.0.1:{self.log_socket.getsockname()[1]}",
            "__haproxy_dir": str(self.folder),
            "__haproxy_socket": str(self.folder / "admin.sock"),
        } | variables
        known |= {"ansible_managed": "Ansible managed", "ansible_search_path": [str(ROLE)]} | self.variables
        templar = Templar(loader=loader, variables=known)
        templar = templar.copy_with_new_env(searchpath=[str(ROLE / "templates")])
        for source in sorted((ROLE / "templates").glob("*.*.j2")):
            text = templar.template(trust_as_template(source.read_text()), escape_backslashes=False)
            if not isinstance(text, str):
                text = json.dumps(text)
            if source.name == "haproxy.cfg.j2":
                # Only root may change its user or root directory.
                text = re.sub(r"(?m)^ +(user|group|chroot) .*\n", "", text)
            (self.folder / source.stem).write_text(text)
        shutil.copy(ROLE / "files" / "sdai_route.lua", self.folder)
        self.revision = str(templar.template(trust_as_template("{{ __haproxy_revision }}")))
        return self.folder / "haproxy.cfg"

    def start(self, models: list[dict[str, t.Any]], **variables: t.Any) -> Frontend:
        config = self.render(models, **variables)
        self.process = subprocess.Popen([str(PROGRAM), "-W", "-f", str(config)], stderr=subprocess.DEVNULL)
        wait_for(self.runs_the_rendered)
        return self

    def reload(self, models: list[dict[str, t.Any]], **variables: t.Any) -> None:
        assert self.process
        self.render(models, **variables)
        self.process.send_signal(signal.SIGUSR2)
        wait_for(self.runs_the_rendered)

    def runs_the_rendered(self) -> bool:
        try:
            return bool(self.get("/healthz").json["revision"] == self.revision)
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(5)
        self.log_socket.close()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            got = connection.getresponse()
            return Response(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def get(self, path: str) -> Response:
        return self.request("GET", path)

    def post(self, path: str, body: t.Any, **headers: str) -> Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, {k.replace("_", "-"): v for k, v in headers.items()})

    def raw(self, data: bytes, seconds: float = 5.0) -> bytes:
        """Everything the frontend answers to these bytes until it closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), seconds) as connection:
            connection.sendall(data)
            got = b""
            while b"\r\n\r\n" not in got:
                piece = connection.recv(65536)
                if not piece:
                    break
                got += piece
            return got

    def statistics(self) -> list[dict[str, str]]:
        """The rows of the statistics page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        connection.request("GET", "/;csv")
        text = connection.getresponse().read().decode().lstrip("# ")
        connection.close()
        return list(csv.DictReader(text.splitlines()))

    def servers(self) -> dict[str, dict[str, str]]:
        """The rows of the statistics page, by server."""
        return {row["svname"]: row for row in self.statistics() if row["svname"] not in ("FRONTEND", "BACKEND")}

    def waiting(self) -> int:
        """Requests that wait for a place at any replica of their model."""
        return sum(int(row["qcur"]) for row in self.statistics() if row["svname"] == "BACKEND")

    def state(self, server: str) -> str:
        """UP, DOWN, or "" while its first check is still to come."""
        row = self.servers()[server]
        return "" if "INI" in row["check_status"] else row["status"].split()[0]

    def forget_log(self) -> None:
        """Makes room for new lines: the socket holds only so many."""
        self.log_socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.log_socket.recv(65536):
                pass
        self.log_socket.settimeout(3)

    def log_line(self, wanted: str) -> dict[str, t.Any]:
        """The next log line that contains the text, without its syslog header."""
        while True:
            line = self.log_socket.recv(65536).decode()
            if wanted in line:
                return dict(json.loads(line[line.index("{") :]))


def run_plays(folder: Path, plays: list[dict[str, t.Any]], *options: str | Path) -> str:
    """What ansible-playbook prints, which must succeed."""
    (folder / "plays.json").write_text(json.dumps(plays))
    environ = os.environ | {"ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_LOCAL_TEMP": str(folder / "temp")}
    command = [Path(sys.executable).with_name("ansible-playbook"), *options, folder / "plays.json"]
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def module_frontend(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Frontend]:
    if PROGRAM is None:
        pytest.skip("haproxy is not installed")
    frontend = Frontend(tmp_path_factory.mktemp("haproxy"))
    yield frontend
    frontend.stop()


@pytest.fixture
def frontend(tmp_path: Path) -> t.Iterator[Frontend]:
    if PROGRAM is None:
        pytest.skip("haproxy is not installed")
    frontend = Frontend(tmp_path)
    yield frontend
    frontend.stop()


@pytest.fixture(scope="session")
def recorded() -> dict[str, dict[str, t.Any]]:
    """Exchanges recorded from the real Ollama, by name."""
    return {line["name"]: line for line in map(json.loads, RECORDED.read_text().splitlines())}
