# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves the lab what its nodes fetch from outside on a real site: releases of (the stand-in for) Ollama, and models.

Three plain HTTP services in one process: --release-port static files below ROOT/ollama as /ollama/v<version>/…;
--registry-port the registry protocol over ROOT/registry, which redirects blobs to another host name as the real client
demands; --blobs-port the blobs, with ranges. Models are sparse files. To a client that says "X-Lab-Sparse: 1" only the
data of a range is sent: "X-Lab-Data: n" tells how many bytes come, the rest of the range is a hole, and "X-Lab-Rate:
bytes per second" at which pace to count it. Any other client gets all the zeros.

Faults are files in the faults directory: stall (blobs: ranges are taken and nothing comes), stall-mid (blobs: half of
what was asked for), reset (blobs: half, then the connection is reset), wrong-digest (blobs: the first byte is another),
no-manifest, no-blob, no-release (404), no-location (registry: a blob comes without redirect, as from a plain OCI
mirror), error (registry: 500), no-entry (registry: 401), gone (registry: connections are closed without a word).
release-stall-mid, release-reset and release-wrong-digest are those of the release archives. A file named rate holds
MiB/s and overrides --rate.
"""

from __future__ import annotations

import abc
import argparse
import json
import mimetypes
import os
import re
import socket
import struct
import sys
import threading
import time
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

MIB = 1 << 20
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")
_STALL_SECONDS = 0.2


class Site(t.NamedTuple):
    """What all three services share."""

    root: Path
    faults: Path
    rate: float
    blobs: str

    def fault(self, name: str) -> bool:
        return (self.faults / name).exists()

    @property
    def bytes_per_second(self) -> int:
        """0: as fast as it goes."""
        try:
            rate = float((self.faults / "rate").read_text())
        except (OSError, ValueError):
            rate = self.rate
        return int(rate * MIB)

    def blob(self, digest: str) -> Path:
        return self.root / "registry" / "blobs" / digest.replace(":", "-")


class Handler(BaseHTTPRequestHandler, abc.ABC):
    protocol_version = "HTTP/1.1"
    server: Service
    # Of the names of faults in what is sent.
    faults: t.ClassVar[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        try:
            self.answer(self.server.site, unquote(urlsplit(self.path).path))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    @abc.abstractmethod
    def answer(self, site: Site, path: str) -> None:
        """Send the answer to GET or HEAD ``path``."""

    def reply(self, status: int, body: bytes, content_type: str, headers: t.Sequence[tuple[str, str]] = ()) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self) -> None:
        self.reply(404, b'{"errors":[{"code":"NOT_FOUND"}]}', "application/json")

    def file(self, path: Path, content_type: str, *, sparse: bool = False) -> None:
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        wanted = _RANGE.match(self.headers.get("Range", ""))
        if wanted:
            first, last, status = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1), 206
            if first > last:
                self.reply(416, b"", content_type, [("Content-Range", f"bytes */{size}")])
                return
        with path.open("rb") as stream:
            length = last - first + 1
            data = min(length, data_from(stream.fileno(), first, size)) if sparse else length
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(data))
            self.send_header("Accept-Ranges", "bytes")
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            if sparse:
                self.send_header("X-Lab-Data", str(data))
                self.send_header("X-Lab-Rate", str(self.server.site.bytes_per_second))
            self.end_headers()
            if self.command != "HEAD":
                stream.seek(first)
                self.copy(stream, first, data)

    def copy(self, stream: t.BinaryIO, first: int, count: int) -> None:
        site, sent, half = self.server.site, 0, count // 2
        while sent < count:
            block = stream.read(min(MIB, half - sent if sent < half else count - sent))
            if first + sent == 0 and site.fault(f"{self.faults}wrong-digest"):
                block = bytes([block[0] ^ 1]) + block[1:]
            self.wfile.write(block)
            sent += len(block)
            if sent == half:
                self.falter()

    def falter(self) -> None:
        """What may happen in the middle."""
        site = self.server.site
        while site.fault(f"{self.faults}stall-mid"):
            time.sleep(_STALL_SECONDS)
        if site.fault(f"{self.faults}reset"):
            # Closed with a reset, at once.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            raise ConnectionResetError

    def log_message(self, format: str, *args: t.Any) -> None:
        sys.stderr.write(f"{self.server.server_address[1]} {self.address_string()} {format % args}\n")


def data_from(descriptor: int, offset: int, size: int) -> int:
    """Bytes from the offset to the end of the file's last data: what comes after it is all hole."""
    end = offset
    try:
        while end < size:
            end = os.lseek(descriptor, os.lseek(descriptor, end, os.SEEK_DATA), os.SEEK_HOLE)
    except OSError:  # no data behind this place
        pass
    return end - offset


class Releases(Handler):
    faults = "release-"

    def answer(self, site: Site, path: str) -> None:
        base = site.root / "ollama"
        if path == "/":
            versions = sorted(entry.name for entry in base.glob("v*")) if base.exists() else []
            self.reply(200, ("\n".join(versions) + "\n").encode(), "text/plain")
            return
        wanted = (site.root / path.lstrip("/")).resolve()
        if site.fault("no-release") or not wanted.is_relative_to(base.resolve()) or not wanted.is_file():
            self.missing()
            return
        self.file(wanted, mimetypes.guess_type(wanted.name)[0] or "application/octet-stream")


class Registry(Handler):
    faults = ""

    def answer(self, site: Site, path: str) -> None:
        parts = path.strip("/").split("/")
        if site.fault("gone"):
            self.close_connection = True
        elif site.fault("error"):
            self.reply(500, b'{"errors":[{"code":"UNKNOWN"}]}', "application/json")
        elif site.fault("no-entry"):
            self.reply(401, b'{"error":"Invalid username or password."}', "application/json")
        elif parts == ["v2"]:
            self.reply(200, b"{}", "application/json")
        elif len(parts) == 5 and parts[0] == "v2" and parts[3] == "manifests":
            self.manifest(site, parts[1], parts[2], parts[4])
        elif len(parts) == 5 and parts[0] == "v2" and parts[3] == "blobs":
            self.blob(site, parts[4])
        else:
            self.missing()

    def manifest(self, site: Site, namespace: str, model: str, tag: str) -> None:
        base = (site.root / "registry" / "manifests").resolve()
        path = (base / namespace / model / tag).resolve()
        if site.fault("no-manifest") or not path.is_relative_to(base) or not path.is_file():
            self.missing()
            return
        self.reply(200, path.read_bytes(), _MANIFEST)

    def blob(self, site: Site, digest: str) -> None:
        path = site.blob(digest)
        if site.fault("no-blob") or not _DIGEST.match(digest) or not path.exists():
            self.missing()
        elif self.command == "HEAD" or site.fault("no-location"):
            self.file(path, "application/octet-stream")
        else:
            self.reply(307, b"", "text/plain", [("Location", f"http://{site.blobs}/data/{digest}")])


class Blobs(Handler):
    faults = ""

    def answer(self, site: Site, path: str) -> None:
        digest = path.removeprefix("/data/")
        file = site.blob(digest)
        if site.fault("no-blob") or not _DIGEST.match(digest) or not file.exists():
            self.missing()
            return
        while site.fault("stall"):
            time.sleep(_STALL_SECONDS)
        self.file(file, "application/octet-stream", sparse=self.headers.get("X-Lab-Sparse") == "1")


class Service(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, handler: type[Handler], site: Site) -> None:
        self.site = site
        super().__init__((address, port), handler)


def start(site: Site, address: str, release: int, registry: int, blobs: int) -> dict[str, int]:
    """Start the three services on threads; port 0 takes a free one. Returns their ports."""
    served = Service(address, blobs, Blobs, site)
    if site.blobs.endswith(":0"):
        site = site._replace(blobs=site.blobs.removesuffix("0") + str(served.server_address[1]))
    services = {
        "blobs": served,
        "registry": Service(address, registry, Registry, site),
        "release": Service(address, release, Releases, site),
    }
    for service in services.values():
        threading.Thread(target=service.serve_forever, daemon=True).start()
    return {name: int(service.server_address[1]) for name, service in services.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--root", type=Path, required=True, help="what build_release.py --cache made")
    parser.add_argument("--address", default="0.0.0.0")
    parser.add_argument("--release-port", type=int, default=8000)
    parser.add_argument("--registry-port", type=int, default=5000)
    parser.add_argument("--blobs-port", type=int, default=5001)
    parser.add_argument("--blobs-host", default="blobs", help="host name in redirects; another than the registry's")
    parser.add_argument("--faults", type=Path, default=Path("/dev/shm/sdai-lab/faults"))
    parser.add_argument("--rate", type=float, default=2000.0, help="MiB/s at which clients count holes; 0: at once")
    options = parser.parse_args()
    site = Site(options.root, options.faults, options.rate, f"{options.blobs_host}:{options.blobs_port}")
    ports = start(site, options.address, options.release_port, options.registry_port, options.blobs_port)
    print(json.dumps(ports), flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
