# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small things the tests of the stand-in are made of: servers, tiny models, a simulated card, a mirror."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import time
import typing as t
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
STANDIN = ROOT / "tests/lab/ollama/standin"
MIRROR = ROOT / "tests/lab/ollama/mirror.py"
RECORDED = ROOT / "tests/data/ollama/recorded.jsonl"
CARD = "GPU-1b06a1de-0001-4a11-8c01-000000000001"
MIB = 1 << 20
_WAIT_SECONDS = 20.0


def wait_for(condition: t.Callable[[], t.Any], what: str) -> t.Any:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited in vain for {what}")


class Card:
    """A host with one simulated card (or none), below a folder of its own."""

    def __init__(self, folder: Path, *, vram_mib: int = 11264, cards: int = 1, architecture: str = "sm_61") -> None:
        self.folder = folder
        for name in ("etc", "shm/vram", "dev/dri", "faults"):
            (folder / name).mkdir(parents=True)
        (folder / "shm/lock").touch()
        gpus = []
        for number in range(cards):
            (folder / f"dev/nvidia{number}").touch()
            gpus.append(
                {
                    "vendor": "nvidia", "name": "Test card", "uuid": CARD[:-1] + str(number + 1),
                    "pci_address": f"0000:0{number + 1}:00.0", "pci_device": "0x1b06", "architecture": architecture,
                    "vram_mib": vram_mib, "bandwidth_gbs": 484, "driver": True, "faults": [],
                }
            )  # fmt: skip
        (folder / "dev/nvidia-uvm").touch()
        (folder / "etc/gpus.json").write_text(json.dumps({"drivers": {}, "gpus": gpus}))

    @property
    def environ(self) -> dict[str, str]:
        return {
            "SDAI_LAB_LIB": str(ROOT / "tests/lab/simgpu"),
            "SDAI_LAB_ETC": str(self.folder / "etc"),
            "SDAI_LAB_SHM": str(self.folder / "shm"),
            "SDAI_LAB_DEV": str(self.folder / "dev"),
            "SDAI_LAB_FAULTS": str(self.folder / "faults"),
        }

    def fault(self, name: str, on: bool = True) -> None:
        path = self.folder / "faults" / name
        if on:
            path.touch()
        else:
            path.unlink()

    def held(self) -> dict[str, int]:
        """MiB in the ledger by card, whoever holds it."""
        found: dict[str, int] = {}
        for path in (self.folder / "shm/vram").glob("[0-9]*"):
            if Path("/proc", path.name).exists():
                for line in path.read_text().splitlines():
                    _, key, mib, _ = line.split()
                    found[key] = found.get(key, 0) + int(mib)
        return found


class Reply(t.NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> t.Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[str]:
        return self.body.decode().split("\n")


class Server:
    """A running stand-in. Its log goes to a file, so that nothing blocks on a full pipe."""

    def __init__(self, folder: Path, card: Card | None, wrapper: t.Sequence[str] = (), **environ: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.card = folder, card
        self.models = Path(environ.get("OLLAMA_MODELS", str(folder / "models")))
        self.log, self.access = folder / "stderr.log", folder / "stdout.log"
        base = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG")}
        base |= {
            "HOME": str(folder), "OLLAMA_HOST": "127.0.0.1:0", "OLLAMA_MODELS": str(self.models),
            "OLLAMA_NO_CLOUD": "1", "SDAI_LAB_LOAD_SECONDS": "0", "SDAI_LAB_DISCOVERY_SECONDS": "0",
            "SDAI_LAB_LIB": "/nowhere",
        }  # fmt: skip
        environ = base | (card.environ if card else {}) | environ
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, str(STANDIN / "bin/ollama"), "serve"],
            env=environ, stdout=self.access.open("wb"), stderr=self.log.open("wb"),
        )  # fmt: skip
        self.port = int(wait_for(self._port, "the port"))
        wait_for(lambda: self.get("/").status == 200, "the first answer")

    def _port(self) -> str:
        text = self.log.read_text()
        if self.process.poll() is not None:
            raise AssertionError(text)
        return text.split("Listening on 127.0.0.1:", 1)[-1].split(" ", 1)[0] if "Listening on" in text else ""

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Reply:
        connection = self.connect()
        try:
            data = body.encode() if isinstance(body, str) else body
            connection.request(method, path, data, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, **body: t.Any) -> Reply:
        return self.ask("POST", path, json.dumps(body), Content_Type="application/json")

    def put(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        assert self.ask("POST", f"/api/blobs/{digest}", content).status == 201
        return digest

    def create(self, name: str, content: bytes, **parameters: t.Any) -> None:
        digest = self.put(content)
        assert self.post("/api/create", model=name, files={"a.gguf": digest}, stream=False).status == 200
        if parameters:
            done = self.post("/api/create", model=name, **{"from": name}, parameters=parameters, stream=False)
            assert done.status == 200

    def ps(self) -> list[dict[str, t.Any]]:
        return list(self.get("/api/ps").json["models"])

    def runners(self) -> list[int]:
        """The living engines of this server."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent = path.read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == self.process.pid and state != "Z" and "llama-server" in _cmdline(int(path.parent.name)):
                found.append(int(path.parent.name))
        return found

    def kill_runner(self) -> None:
        (pid,) = self.runners()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.runners(), "the end of the engine")

    def stop(self, how: int = signal.SIGTERM) -> float:
        """Seconds until it is gone."""
        began = time.monotonic()
        self.process.send_signal(how)
        self.process.wait(10)
        return time.monotonic() - began


def _cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


# Models


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: t.Any) -> bytes:
    if value is None:  # a list that interfaces leave out
        return struct.pack("<IIQ", 9, 4, 1) + struct.pack("<I", 0)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<I", 8) + _string(value)


def gguf(metadata: dict[str, t.Any], tensors: list[dict[str, t.Any]], padding: int = 0) -> bytes:
    """A GGUF file with F32 tensors; the data are zeros."""
    metadata = {key: value for key, value in metadata.items() if key != "general.parameter_count"}
    body, offset = b"", 0
    for tensor in tensors:
        shape = tensor["shape"]
        body += _string(tensor["name"]) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        body += struct.pack("<IQ", 0, offset)
        count = 4
        for size in shape:
            count *= size
        offset += count
    pairs = b"".join(_string(key) + _value(value) for key, value in metadata.items())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    return head + pairs + body + bytes(offset + padding)


def recorded() -> dict[str, dict[str, t.Any]]:
    """The exchanges by name, in the order they were recorded in."""
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return {row["name"]: row for row in rows}


def tiny_models() -> dict[str, bytes]:
    """The recording's models, from what /api/show said of them (tiny2, of which nobody asked it, is a smaller tiny)."""
    rows = recorded()
    show = json.loads(rows["show"]["response"]["body"])
    embed = json.loads(rows["show-embed"]["response"]["body"])
    small = {**show["model_info"], "llama.context_length": 4096, "llama.embedding_length": 64}
    count = 211 * 1000 // 64
    return {
        "tiny": gguf(show["model_info"], show["tensors"]),
        "tiny2": gguf(small, [{"name": "output.weight", "shape": [64, count]}]),
        "tinyembed": gguf(embed["model_info"], embed["tensors"]),
    }


def tiny_needs(path: Path) -> Path:
    """VRAM needs of the tiny models: at the recording's own flags the recorded sizes, elsewhere in proportion."""
    sizes = {"llama-749K": 9112124, "llama-211K": 10202643, "bert-105K": 1593834}
    models: dict[str, t.Any] = {}
    for name, size in sizes.items():
        contexts, batches = (128, 256, 512, 1024, 2048, 4096, 8192), (256, 512, 1024, 2048)
        rows = {}
        for flags in itertools.product(contexts, (1, 2, 4), ("f16", "q8_0"), ("on", "off"), batches):
            context, parallel, kv, _, _ = flags
            cache = size / MIB * 0.5 * context / 2048 * parallel * (0.53 if kv == "q8_0" else 1.0)
            if (name, context) in (("llama-749K", 2048), ("llama-211K", 4096), ("bert-105K", 512)) and parallel == 1:
                cache = size / MIB * 0.5 * (0.53 if kv == "q8_0" else 1.0)
            rows[",".join(map(str, flags))] = [size / MIB * 0.3, cache, size / MIB * 0.2]
        models[name] = {"layers": 2 if name.startswith("bert") else 4, "rows": rows}
    path.write_text(json.dumps({"models": models}))
    return path
