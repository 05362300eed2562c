# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One engine process as the server sees it: start, sign of life, completions, end."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

from .config import LIB, Config
from .options import Launch
from .place import Placement

GIB = 1 << 30


class LoadError(Exception):
    """The engine ended or did not answer in time."""


class ClientGone(Exception):
    """Whoever asked has closed the connection."""


class EngineDied(Exception):
    """The engine went away in the middle of an answer."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Engine:
    def __init__(
        self, config: Config, weights: Path, placement: Placement, launch: Launch, *, parallel: int, embedding: bool
    ) -> None:
        self.config, self.placement, self.launch = config, placement, launch
        self.weights, self.parallel, self.embedding = weights, parallel, embedding
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.tail: list[str] = []

    @property
    def exited(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def _arguments(self) -> list[str]:
        launch, config = self.launch, self.config
        flash = {None: "auto", True: "on", False: "off"}[config.flash_attention]
        arguments = [
            "--model", str(self.weights), "--port", str(self.port), "--host", "127.0.0.1", "--no-webui", "--offline",
            "-c", str(launch.context * self.parallel), "-np", str(self.parallel), "--flash-attn", flash,
        ]  # fmt: skip
        if config.kv_cache_type != "f16":
            arguments += ["--cache-type-k", config.kv_cache_type, "--cache-type-v", config.kv_cache_type]
        if self.embedding:
            arguments.append("--embedding")
        if launch.batch:
            arguments += ["-b", str(launch.batch), "-ub", str(launch.batch)]
        if launch.num_gpu >= 0:
            arguments += ["-ngl", str(launch.num_gpu)]
        if launch.num_thread:
            arguments += ["-t", str(launch.num_thread)]
        if not self.placement.shares:
            arguments += ["--load-mode", "none"]
        elif len(self.placement.shares) == 1 and not config.spread:
            arguments += ["--split-mode", "none", "--main-gpu", "0"]
        return arguments

    def _environment(self) -> dict[str, str]:
        placement, config = self.placement, self.config
        plan = {
            "shares": placement.shares,
            "api": placement.api,
            "buffer": placement.buffer,
            "refuse": placement.refuse,
            "slots": self.parallel,
            "server_port": config.port,
            "tokens_per_second": placement.tokens_per_second * config.speed,
            # q8_0 and q4_0 caches are not to be trusted under Vulkan
            "garbage": placement.api == "vulkan" and config.kv_cache_type != "f16",
            "load_seconds": config.load_seconds + config.load_seconds_per_gib * placement.size / GIB,
        }
        return {**config.environ, "SDAI_LAB_ENGINE": json.dumps(plan)}

    def start(self, gone: t.Callable[[], bool]) -> None:
        self.port = _free_port()
        command = [str(LIB / "llama-server"), *self._arguments()]
        sys.stderr.write(f'level=INFO source=server.go msg="starting llama-server" cmd="{" ".join(command)}"\n')
        sys.stderr.flush()
        self.process = subprocess.Popen(
            command, env=self._environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        reader = threading.Thread(target=self._forward, daemon=True)
        reader.start()
        deadline = time.monotonic() + self.config.load_timeout
        while not self._connects():
            if self.process.poll() is not None:
                reader.join(1)
                loading = "error loading" in "".join(self.tail[-1:])
                text = "\n".join(self.tail[-2:] if loading else self.tail[-1:])
                raise LoadError(
                    f"llama-server process has terminated: exit status {self.process.returncode}: {text}".rstrip(": ")
                )
            if gone():
                self.kill()
                raise ClientGone
            if time.monotonic() > deadline:
                self.kill()
                raise LoadError("timed out waiting for llama-server to start")
            time.sleep(0.02)

    def _forward(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode("utf-8", "replace").rstrip()
            self.tail = [*self.tail[-9:], text]
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _connects(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def ping(self) -> bool:
        """The engine's own health answer, within the time-out (ten seconds on the real server)."""
        if self.exited:
            return False
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=self.config.ping_seconds) as connection:
                connection.sendall(b'{"op":"health"}\n')
                return bool(connection.recv(64))
        except OSError:
            return False

    def completion(self, request: dict[str, t.Any], client: socket.socket | None) -> t.Iterator[dict[str, t.Any]]:
        """Lines of the engine's answer, the last has "done". Ends the work there when the client goes."""
        try:
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=self.config.ping_seconds)
        except OSError:
            raise EngineDied from None
        with connection:
            connection.settimeout(None)
            connection.sendall(json.dumps({"op": "completion", **request}).encode() + b"\n")
            buffer = b""
            watched = [connection] if client is None else [connection, client]
            while True:
                readable, _, _ = select.select(watched, [], [])
                if client in readable and client is not None:
                    if _closed(client):
                        raise ClientGone
                    watched = [connection]  # a pipelined request: nothing to learn here any more
                if connection not in readable:
                    continue
                try:
                    data = connection.recv(65536)
                except OSError:
                    raise EngineDied from None
                if not data:
                    raise EngineDied
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    item = json.loads(line)
                    yield item
                    if "done" in item:
                        return

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def _closed(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
