# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's release archives and its mirror: what nodes download, with the faults that a real site knows."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import signal
import subprocess
import sys
import typing as t

import pytest
import standin_lab as lab

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Mirror = Callable[..., t.Any]

BUILD = lab.ROOT / "tests/lab/ollama/build_release.py"
HOLE = 3 << 20
needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the command zstd")


def build(cache: Path, *models: str) -> None:
    command = [sys.executable, str(BUILD), "--cache", str(cache), "--version", "9.8.7", "--models", *models]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def fetch(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
    response = connection.getresponse()
    try:
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


@needs_zstd
def test_release_is_laid_out_like_upstreams_and_made_once(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    before = stamps(tmp_path)
    build(tmp_path / "cache")
    assert stamps(tmp_path) == before
    folder = tmp_path / "cache/ollama/v9.8.7"
    sums = dict(reversed(line.split()) for line in (folder / "sha256sum.txt").read_text().splitlines())
    assert set(sums) == {f"./ollama-linux-{name}.tar.zst" for name in ("amd64", "amd64-rocm", "arm64")}
    for name, digest in sums.items():
        content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        unpacked = subprocess.run(["zstd", "-dc"], input=content, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "x", "-C", tmp_path], input=unpacked, check=True)
    wanted = {"llama-server", "cuda_v12", "cuda_v13", "vulkan", "rocm_v7_2"}
    assert {path.name for path in (tmp_path / "lib/ollama").iterdir()} >= wanted
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OLLAMA_HOST": "127.0.0.1:9"}
    command = [sys.executable, str(tmp_path / "bin/ollama"), "--version"]
    told = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert "9.8.7" in told
    assert "stand-in" in told


@needs_zstd
def test_models_are_sparse_and_made_once(tmp_path: Path) -> None:
    build(tmp_path, "llama3.2:1b")
    manifest = json.loads((tmp_path / "registry/manifests/library/llama3.2/1b").read_text())
    layers = {layer["mediaType"].rsplit(".", 1)[1]: layer for layer in manifest["layers"]}
    assert set(layers) == {"model", "template", "params", "license"}
    weights = tmp_path / "registry/blobs" / layers["model"]["digest"].replace(":", "-")
    assert weights.stat().st_size == layers["model"]["size"] > 700_000_000
    assert weights.stat().st_blocks * 512 < 1 << 20
    before = stamps(tmp_path)
    build(tmp_path, "llama3.2:1b")
    assert stamps(tmp_path) == before


def test_releases_with_ranges(mirror: Mirror) -> None:
    site = mirror()
    path = site.root / "ollama/v1.0.0/file"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"0123456789")
    port = site.ports["release"]
    assert fetch(port, "/")[::2] == (200, b"v1.0.0\n")
    assert fetch(port, "/ollama/v1.0.0/file")[::2] == (200, b"0123456789")
    status, headers, body = fetch(port, "/ollama/v1.0.0/file", Range="bytes=2-4")
    assert (status, headers["Content-Range"], body) == (206, "bytes 2-4/10", b"234")
    assert fetch(port, "/ollama/v1.0.0/file", Range="bytes=10-")[0] == 416
    assert fetch(port, "/ollama/../registry/index.json")[0] == 404
    site.fault("no-release")
    assert fetch(port, "/ollama/v1.0.0/file")[0] == 404


def test_blobs_whole_and_sparse(mirror: Mirror) -> None:
    site = mirror(rate="7")
    layer = site.blob(b"data", hole=HOLE)
    path, port = f"/data/{layer['digest']}", site.ports["blobs"]
    status, _, body = fetch(port, path)
    assert status == 200
    assert "sha256:" + hashlib.sha256(body).hexdigest() == layer["digest"]
    status, headers, body = fetch(port, path, X_Lab_Sparse="1", Range=f"bytes=0-{HOLE}")
    assert status == 206
    assert headers["X-Lab-Rate"] == str(7 << 20)
    assert len(body) == int(headers["X-Lab-Data"]) < HOLE
    assert body.startswith(b"data")
    assert fetch(port, path, X_Lab_Sparse="1", Range=f"bytes={HOLE - 9}-{HOLE}")[2] == b""
    status, headers, _ = fetch(site.ports["registry"], f"/v2/lab/x/blobs/{layer['digest']}")
    assert (status, headers["Location"]) == (307, f"http://localhost:{port}{path}")


@pytest.fixture
def site(mirror: Mirror, models: dict[str, bytes]) -> t.Any:
    found = mirror()
    found.model("tiny2", models["tiny2"], hole=HOLE)
    return found


def pull(server: lab.Server, site: t.Any) -> dict[str, t.Any]:
    name = f"{site.registry}/lab/tiny2:v1"
    return dict(server.post("/api/pull", model=name, insecure=True, stream=False).json)


def begin_pull(server: lab.Server, site: t.Any) -> http.client.HTTPConnection:
    connection = server.connect()
    body = {"model": f"{site.registry}/lab/tiny2:v1", "insecure": True}
    connection.request("POST", "/api/pull", json.dumps(body))
    return connection


def blobs(server: lab.Server) -> list[str]:
    folder = server.models / "blobs"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_faults_of_a_registry(start: Callable[..., lab.Server], site: t.Any) -> None:
    server = start(None)
    for fault, error in (
        ("no-manifest", "file does not exist"),
        ("no-location", "no Location header"),
        ("wrong-digest", "digest mismatch"),
    ):
        site.fault(fault)
        assert error in pull(server, site)["error"]
        site.fault(fault, on=False)
    assert pull(server, site) == {"status": "success"}
    assert len(blobs(server)) == 4


def test_stalled_blobs_go_on_when_the_stall_ends(start: Callable[..., lab.Server], site: t.Any) -> None:
    server = start(None)
    site.fault("stall")
    connection = begin_pull(server, site)
    response = connection.getresponse()
    for _ in range(4):
        assert b'"completed"' not in response.readline()
    site.fault("stall", on=False)
    assert b'"success"' in response.read()
    connection.close()


def test_sigterm_in_a_pull_can_leave_what_stops_all_later_ones(
    start: Callable[..., lab.Server], card: lab.Card, site: t.Any
) -> None:
    server = start(card)
    card.fault("empty-part-on-term")
    site.fault("stall")
    connection = begin_pull(server, site)
    lab.wait_for(lambda: any(name.endswith("-partial-0") for name in blobs(server)), "a part")
    server.stop(signal.SIGTERM)
    connection.close()
    site.fault("stall", on=False)
    again = start(card)
    assert pull(again, site) == {"error": "EOF"}
    for path in (again.models / "blobs").glob("*-partial*"):
        path.unlink()
    assert pull(again, site) == {"status": "success"}
