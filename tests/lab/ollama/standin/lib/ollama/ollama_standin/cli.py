# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`ollama serve` and `ollama --version`."""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import signal
import sys
import threading
from pathlib import Path

from . import download
from .api_library import Library
from .api_native import Native
from .api_openai import OpenAI
from .config import Config
from .sched import Scheduler
from .store import Store
from .web import Server

_USAGE = "Stand-in for Ollama (lab of aivailable.sdai), without a model.\n\nUsage: ollama serve | ollama --version\n"


def _version(config: Config) -> int:
    """Like the real client: the server's version where one answers, else its own with a warning."""
    host = "127.0.0.1" if config.address in ("0.0.0.0", "::") else config.address
    connection = http.client.HTTPConnection(host, config.port, timeout=2)
    try:
        connection.request("GET", "/api/version")
        server = json.load(connection.getresponse())["version"]
        print(f"ollama version is {server}")
        if server != config.version:
            print(f"Warning: client version is {config.version}")
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        print("Warning: could not connect to a running Ollama instance")
        print(f"Warning: client version is {config.version}")
    finally:
        connection.close()
    print("(stand-in of the aivailable.sdai lab, not Ollama itself)")
    return 0


def _key(config: Config) -> str:
    """The server's identity below HOME; without a place for it the real server does not start either."""
    if not config.home:
        return "Error: $HOME is not defined"
    path = Path(config.home, ".ollama", "id_ed25519")
    if path.exists():
        return ""
    print(f"Couldn't find '{path}'. Generating new private key.", flush=True)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        body = base64.b64encode(secrets.token_bytes(192)).decode()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"no key, but what the stand-in keeps in its place\n{body}\n")
        path.with_suffix(".pub").write_text(f"ssh-ed25519 {body[:68]} stand-in\n")
    except OSError as error:
        return f"Error: could not create key {path}: {(error.strerror or '').lower()}"
    return ""


def _serve(config: Config) -> int:
    refused = _key(config)
    if refused:
        print(refused, file=sys.stderr)
        return 1
    store = Store(config)
    try:
        server = Server(config)
    except OSError as error:
        where = f"{config.address}:{config.port}"
        print(f"Error: listen tcp {where}: bind: {(error.strerror or '').lower()}", file=sys.stderr)
        return 1
    scheduler = Scheduler(config)

    def stop(*_: object) -> None:
        server.hang_up()
        scheduler.stop()
        download.terminated(config.port)
        os._exit(0)

    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    Library(server, store, scheduler)
    OpenAI(server, store, scheduler, Native(server, store, scheduler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if not config.no_prune:
        gone = store.prune()
        sys.stderr.write(f'level=INFO source=images.go msg="total unused blobs removed: {gone}"\n')
    sys.stderr.write(
        f'level=INFO source=routes.go msg="Listening on {config.address}:{config.port} (version {config.version}, '
        'stand-in)"\n'
    )
    sys.stderr.flush()
    scheduler.discover()
    server.ready.set()
    while True:  # a signal that another thread caught wakes this one, in which handlers run
        os.read(wake, 64)


def main(arguments: list[str]) -> int:
    config = Config(os.environ)
    if arguments[:1] in (["--version"], ["-v"]):
        return _version(config)
    if arguments[:1] in (["serve"], ["start"]):
        return _serve(config)
    sys.stderr.write(_USAGE)
    return 0 if arguments[:1] in ([], ["help"], ["--help"], ["-h"]) else 1
