# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine process: one per loaded model. It holds the simulated VRAM and says words at the simulated speed.

The server talks to it over loopback with one JSON line per request:
{"op": "health"} -> {"status": "ok"};
{"op": "completion", "prompt": …, "prompt_tokens": n, "limit": n, "literal": text or null} -> lines {"t": word} and at
last {"done": "stop"|"length", "prompt_ns": …, "eval_ns": …, "eval": n}.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import typing as t

from . import answers, faults, gpus

_PROMPT_SPEED = 20  # a prompt is read this many times faster than words are said


def _log(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Engine:
    def __init__(self, plan: dict[str, t.Any]) -> None:
        self.plan = plan
        self.slots = threading.Semaphore(plan["slots"])
        self.lock = threading.Lock()
        self.busy = 0
        self.task = 0

    def hang(self) -> None:
        """The fault of an engine that no longer answers (the process stays)."""
        while faults.active("hang-runner", self.plan["server_port"]):
            time.sleep(0.2)

    def check_cards(self) -> None:
        """A card that fell off the bus takes the engine with it at the next piece of work."""
        missing = [key for key, _ in self.plan["shares"] if not gpus.present(key)]
        if missing:
            _log(f"CUDA error: unspecified launch failure (device {missing[0]} is gone)")
            os._exit(134)

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            try:
                request = json.loads(stream.readline() or "{}")
                self.hang()
                if request.get("op") == "health":
                    stream.write(b'{"status":"ok"}\n')
                    stream.flush()
                elif request.get("op") == "completion":
                    self.completion(connection, stream, request)
            except OSError:
                return

    def completion(self, connection: socket.socket, stream: t.Any, request: dict[str, t.Any]) -> None:
        while not self.slots.acquire(timeout=0.05):
            if _left(connection):
                return
        with self.lock:
            self.busy += 1
            self.task += 1
            task = self.task
        try:
            self.check_cards()
            tokens = request["prompt_tokens"]
            _log(f"slot launch_slot_: id 0 | task {task} | processing task, n_prompt_tokens = {tokens}")
            self.speak(connection, stream, request, task)
        finally:
            with self.lock:
                self.busy -= 1
            self.slots.release()

    def speak(self, connection: socket.socket, stream: t.Any, request: dict[str, t.Any], task: int) -> None:
        speed = self.plan["tokens_per_second"]
        garbage = self.plan["garbage"] or faults.active("garbage", self.plan["server_port"])
        started = time.monotonic_ns()
        due = time.monotonic() + request["prompt_tokens"] / (speed * _PROMPT_SPEED)
        count, limit = 0, request["limit"]
        time.sleep(max(0.0, due - time.monotonic()))
        begun = time.monotonic_ns()
        for word in answers.words(request["prompt"], limit, request["literal"], garbage):
            self.hang()
            due = max(due, time.monotonic() - 0.05) + self.busy / speed
            if _left(connection, max(0.0, due - time.monotonic())):
                _log(f"srv          stop: cancel task, id_task = {task}")
                return
            count += 1
            stream.write(json.dumps({"t": word}).encode() + b"\n")
            stream.flush()
        now = time.monotonic_ns()
        _log(f"slot print_timing: id 0 | task {task} | eval time = {(now - begun) / 1e6:.2f} ms / {count} tokens")
        done = {"done": "length" if 0 < limit <= count else "stop", "eval": count,
                "prompt_ns": begun - started, "eval_ns": now - begun}  # fmt: skip
        stream.write(json.dumps(done).encode() + b"\n")
        stream.flush()


def _left(connection: socket.socket, wait: float = 0.0) -> bool:
    """Wait at most that long; true as soon as the other side has gone."""
    readable, _, _ = select.select([connection], [], [], wait)
    return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""


def _hold(plan: dict[str, t.Any]) -> None:
    for number, (key, mib) in enumerate(plan["shares"]):
        _log(f"{plan['api'].upper()}{number} model buffer + context: {mib} MiB on {key}")
        if not gpus.allocate(key, mib, plan["api"]):
            _log("cudaMalloc failed: out of memory")
            _log(f"error loading model: unable to allocate {plan['buffer']}{number} buffer")
            sys.exit(1)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--version", action="version", version="stand-in for llama-server (lab of aivailable.sdai)")
    options, _ = parser.parse_known_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan = json.loads(os.environ["SDAI_LAB_ENGINE"])
    if plan["refuse"]:
        _log(plan["refuse"])
        return 1
    _hold(plan)
    time.sleep(plan["load_seconds"])
    engine = Engine(plan)
    listener = socket.create_server(("127.0.0.1", options.port), backlog=128)
    _log(f"main: server is listening on http://127.0.0.1:{options.port}")
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=engine.serve, args=(connection,), daemon=True).start()
