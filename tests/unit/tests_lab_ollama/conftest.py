# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for the tests of the lab's stand-in for Ollama."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import standin_lab as lab

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., lab.Server]


@pytest.fixture(scope="session")
def models() -> dict[str, bytes]:
    return lab.tiny_models()


@pytest.fixture(scope="session")
def needs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(lab.tiny_needs(tmp_path_factory.mktemp("needs") / "needs.json"))


@pytest.fixture
def card(tmp_path: Path) -> lab.Card:
    return lab.Card(tmp_path / "card")


@pytest.fixture
def start(tmp_path: Path, needs: str) -> Iterator[Start]:
    """Starts stand-ins and ends them: start(card, its settings or None, name, wrapper, **environ)."""
    running: list[lab.Server] = []

    def begin(
        card: lab.Card | dict[str, t.Any] | None, name: str = "server", wrapper: t.Sequence[str] = (), **environ: str
    ) -> lab.Server:
        if isinstance(card, dict):
            card = lab.Card(tmp_path / f"card-of-{name}", **card)
        server = lab.Server(
            tmp_path / name, card, wrapper, **{"SDAI_LAB_NEEDS": needs, "SDAI_LAB_SPEED": "20", **environ}
        )
        running.append(server)
        return server

    yield begin
    for server in running:
        if server.process.poll() is None:
            server.stop()


class Mirror:
    """The lab's mirror over a registry made for a test."""

    def __init__(self, folder: Path, rate: str) -> None:
        self.root, self.faults = folder / "root", folder / "faults"
        self.faults.mkdir(parents=True)
        self.log = folder / "mirror.log"
        ports = [f"--{name}-port=0" for name in ("release", "registry", "blobs")]
        self.process = subprocess.Popen(
            [sys.executable, str(lab.MIRROR), "--root", str(self.root), "--address", "127.0.0.1", "--blobs-host",
             "localhost", "--faults", str(self.faults), "--rate", rate, *ports],
            stdout=subprocess.PIPE, stderr=self.log.open("wb"),
        )  # fmt: skip
        assert self.process.stdout is not None
        self.ports: dict[str, int] = json.loads(self.process.stdout.readline())
        self.registry = f"127.0.0.1:{self.ports['registry']}"

    def blob(self, content: bytes, hole: int = 0) -> dict[str, t.Any]:
        """A blob of the content and a hole behind it."""
        blobs = self.root / "registry/blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        scratch = blobs / "scratch"
        scratch.write_bytes(content)
        with scratch.open("r+b") as stream:
            stream.truncate(len(content) + hole)
        digest = subprocess.run(["sha256sum", scratch], stdout=subprocess.PIPE, check=True, text=True).stdout.split()[0]
        scratch.rename(blobs / f"sha256-{digest}")
        return {"digest": f"sha256:{digest}", "size": len(content) + hole}

    def model(self, name: str, content: bytes, hole: int = 0, **config: t.Any) -> dict[str, t.Any]:
        """Publish as lab/<name>:v1 with a template and parameters; returns the manifest."""
        media = "application/vnd.ollama.image."
        layers = [
            {"mediaType": media + "model", **self.blob(content, hole)},
            {"mediaType": media + "template", **self.blob(b"{{ .Prompt }}")},
            {"mediaType": media + "params", **self.blob(b'{"stop":["<|im_start|>"]}')},
        ]
        document = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"],
                    "model_type": "211K", "file_type": "unknown", **config}  # fmt: skip
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json",
                       **self.blob(json.dumps(document).encode())},
            "layers": layers,
        }  # fmt: skip
        self.publish(name, manifest)
        return manifest

    def publish(self, name: str, manifest: dict[str, t.Any]) -> None:
        path = self.root / "registry/manifests/lab" / name / "v1"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))

    def fault(self, name: str, on: bool = True) -> None:
        path = self.faults / name
        if on:
            path.touch()
        else:
            path.unlink()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Callable[..., Mirror]]:
    running: list[Mirror] = []

    def begin(rate: str = "0") -> Mirror:
        found = Mirror(tmp_path / f"mirror{len(running)}", rate)
        running.append(found)
        return found

    yield begin
    for found in running:
        found.process.terminate()
        found.process.wait(10)


@pytest.fixture(scope="session")
def read_only() -> list[str]:
    """A command prefix that runs a program with its first argument's folder mounted read-only."""
    script = 'd=$1; shift; mount --bind "$d" "$d" && mount -o remount,ro,bind "$d" && exec "$@"'
    prefix = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "ro"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "/tmp", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets nobody mount a folder read-only")
    return prefix
