# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's pulls against a registry that fails, through a store server that pulls as the real one does."""

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t
from itertools import pairwise

import pytest
import standin_lab as lab
from ansible_collections.aivailable.sdai.plugins.module_utils import _ollama_pull
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_pull import Progress, StoreError, pull
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_server import StoreServer
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_store import Name, Store, file_digest

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOLE = 3 << 20
GIB = 1 << 30


@pytest.fixture
def site(mirror: Callable[..., t.Any], models: dict[str, bytes]) -> t.Any:
    found = mirror()
    found.model("tiny2", models["tiny2"], hole=HOLE)
    return found


class Node:
    """A store server with its store, and what the screen would show of its pulls."""

    def __init__(self, server: lab.Server, registry: str) -> None:
        self.server = server
        self.store = Store(str(server.models))
        self.blobs = server.models / "blobs"
        self.name = Name.parse(f"{registry}/lab/tiny2:v1")
        self.shown: list[Progress] = []
        self.pauses: list[float] = []

    def pull(self, name: Name | None = None, on_pause: Callable[[], None] = lambda: None) -> None:
        def sleep(seconds: float) -> None:
            self.pauses.append(seconds)
            on_pause()

        server = StoreServer(f"http://127.0.0.1:{self.server.port}")
        wanted = name or self.name
        pull(server, self.store, wanted, insecure=True, report=self.shown.append, stall_seconds=0.4, sleep=sleep)

    def whole(self) -> bool:
        manifest = self.store.manifest(self.name)
        return manifest is not None and not self.store.missing(manifest) and not list(self.blobs.glob("*-partial*"))


@pytest.fixture
def node(start: Callable[..., lab.Server], site: t.Any, tmp_path: Path) -> Node:
    models = tmp_path / "store"
    models.mkdir()
    return Node(start(None, OLLAMA_MODELS=str(models)), site.registry)


@pytest.mark.parametrize(
    ("fault", "words", "attempts"),
    [
        ("stall", "has sent nothing", 5),
        ("stall-mid", "has sent nothing", 5),
        ("error", "500", 5),
        ("gone", "failed 5 times in a row", 5),
        ("wrong-digest", "sends other data", 2),
        ("no-manifest", "has no model", 1),
        ("no-blob", "does not have all of it", 1),
        ("no-location", "redirect", 1),
        ("no-entry", "refuses to give", 1),
    ],
)
def test_one_error_then_the_next_run_succeeds(node: Node, site: t.Any, fault: str, words: str, attempts: int) -> None:
    site.fault(fault)
    with pytest.raises(StoreError) as failed:
        node.pull()
    assert words in str(failed.value)
    assert "tiny2:v1" in str(failed.value)
    assert failed.value.remedy
    assert len(node.pauses) == attempts - 1
    assert node.store.manifest(node.name) is None
    site.fault(fault, on=False)
    node.pull()
    assert node.whole()


def test_a_registry_that_nobody_hears(node: Node) -> None:
    with pytest.raises(StoreError, match=r"connection refused.*what has been pulled is kept"):
        node.pull(Name.parse("127.0.0.1:9/lab/tiny2:v1"))
    assert [later / earlier for earlier, later in pairwise(node.pauses)] == [2.0] * (len(node.pauses) - 1)


@pytest.mark.parametrize("fault", ["stall", "stall-mid", "error", "gone", "wrong-digest"])
def test_what_ends_by_itself_is_outlived(node: Node, site: t.Any, fault: str) -> None:
    site.fault(fault)

    def end() -> None:
        if len(node.pauses) == 1:
            site.fault(fault, on=False)

    node.pull(on_pause=end)
    # Ollama stops at the first false blob: the others are found when they are looked into.
    assert len(node.pauses) == (2 if fault == "wrong-digest" else 1)
    assert node.whole()
    manifest = node.store.manifest(node.name)
    assert manifest is not None
    for layer in manifest.blobs:
        assert f"sha256:{file_digest(node.store.blob_path(layer))}" == layer.digest


def test_what_was_pulled_is_not_pulled_again(node: Node, site: t.Any) -> None:
    site.fault("stall-mid")
    with pytest.raises(StoreError):
        node.pull()
    kept = max(line.completed for line in node.shown)
    assert kept > 0
    site.fault("stall-mid", on=False)
    node.shown.clear()
    node.pull()
    assert min(line.completed for line in node.shown if line.completed) >= kept


def test_steps_forward_count_though_each_pull_ends_early(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that breaks every hour brings a large model all the same."""
    monkeypatch.setattr(_ollama_pull, "STEP_BYTES", 10)
    pulls = 0

    class Broken:
        def lines(self, *_arguments: t.Any) -> t.Generator[dict[str, t.Any], None, None]:
            nonlocal pulls
            pulls += 1
            yield {"status": "pulling a", "digest": "sha256:a", "total": 200, "completed": min(200, 10 * pulls)}
            if pulls == 20:
                yield {"status": "success"}

    name = Name.parse("127.0.0.1:9/lab/tiny2:v1")
    pull(Broken(), node.store, name, insecure=True, report=node.shown.append, sleep=node.pauses.append)
    assert pulls == 20


def test_what_an_ended_pull_left_is_looked_into(node: Node) -> None:
    """A blob that is there is taken by Ollama as it is; one that nothing names may never have been verified."""
    node.pull()
    manifest = node.store.manifest(node.name)
    assert manifest is not None
    weights = manifest.layers[0]
    node.store.remove(node.name)
    path = node.blobs / weights.blob
    with path.open("r+b") as stream:
        stream.write(b"other")
    node.pull()
    assert node.pauses
    assert node.whole()
    assert f"sha256:{file_digest(str(path))}" == weights.digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False)
    if done.returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_node(start: Callable[..., lab.Server], site: t.Any, small_disk: Path) -> Node:
    return Node(start(None, OLLAMA_MODELS=str(small_disk)), site.registry)


def test_a_disk_without_room_is_refused_before_the_pull(small_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="no room for"):
        small_node.pull()
    assert not small_node.blobs.exists()
    monkeypatch.setattr(_ollama_pull, "SPARE_BYTES", 0)
    small_node.pull()
    assert small_node.whole()


def test_a_disk_that_somebody_fills_during_the_pull(
    small_node: Node, models: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ollama_pull, "SPARE_BYTES", 0)
    other = small_node.blobs.parent / "of somebody else"
    # All but less than the model's data.
    free = shutil.disk_usage(small_node.blobs.parent).free
    monkeypatch.setattr(Store, "free_bytes", lambda _store: free)
    other.write_bytes(os.urandom(free - len(models["tiny2"]) // 2))
    with pytest.raises(StoreError, match="the disk was full while pulling") as failed:
        small_node.pull()
    assert str(small_node.blobs.parent) in failed.value.remedy
    assert not list(small_node.blobs.glob("*-partial*"))
    other.unlink()
    small_node.pull()
    assert small_node.whole()
