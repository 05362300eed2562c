# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A replica's view of a model, against a store server that keeps its store as the real one does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import typing as t
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils import _ollama_pull
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_lock import (
    Busy,
    is_held,
    store_lock,
    wait_for_store,
)
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_pull import Progress, StoreError, write_progress
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_server import StoreServer
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_store import Name, PrivateStore, Store
from ansible_collections.aivailable.sdai.plugins.module_utils._ollama_variant import (
    Outcome,
    Wanted,
    clean,
    ensure,
    retire,
)

MODEL = "application/vnd.ollama.image.model"
PARAMS = "application/vnd.ollama.image.params"
TEMPLATE = "application/vnd.ollama.image.template"
CONFIG = "application/vnd.docker.container.image.v1+json"
GOOD = {"num_ctx": 4096, "num_batch": 512, "num_gpu": 999}


def blob(store: Path, content: bytes, media: str) -> dict[str, t.Any]:
    """Write a blob as the server does; returns its layer."""
    digest = hashlib.sha256(content).hexdigest()
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    (store / "blobs" / f"sha256-{digest}").write_bytes(content)
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}


def manifest(store: Path, name: Name, layers: list[dict[str, t.Any]]) -> None:
    path = store / name.manifest_path
    path.parent.mkdir(parents=True, exist_ok=True)
    config = blob(store, b'{"model_format":"gguf"}', CONFIG)
    path.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}))


class FakeServer:
    """Answers the four requests that change a store. ``pulls`` holds what the next pulls answer; empty: success."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.requests: list[tuple[str, dict[str, t.Any]]] = []
        self.pulls: list[list[dict[str, t.Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path.startswith("/api/blobs/"):
                    outer.requests.append((self.path, {}))
                    blob(outer.store, body, MODEL)
                    self.answer(b"", 201)
                    return
                outer.requests.append((self.path, json.loads(body)))
                lines = outer.handle(self.path, json.loads(body))
                self.answer(b"".join(json.dumps(line).encode() + b"\n" for line in lines), 200)

            def answer(self, content: bytes, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: t.Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def handle(self, path: str, body: dict[str, t.Any]) -> list[dict[str, t.Any]]:
        if path == "/api/pull":
            if self.pulls:
                return self.pulls.pop(0)
            weights = blob(self.store, b"weights of " + body["model"].rpartition("/")[2].encode(), MODEL)
            template = blob(self.store, b"{{ .Prompt }}", TEMPLATE)
            own = blob(self.store, b'{"stop":["</s>"]}', PARAMS)
            manifest(self.store, Name.parse(body["model"]), [weights, template, own])
            size = weights["size"]
            return [
                {"status": "pulling manifest"},
                {"status": "pulling weights", "digest": weights["digest"], "total": size, "completed": size},
                {"status": "success"},
            ]
        if path == "/api/copy":
            source = self.store / Name.parse(body["source"]).manifest_path
            target = self.store / Name.parse(body["destination"]).manifest_path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            return []
        if "files" in body:
            digest = next(iter(body["files"].values())).replace(":", "-")
            content = (self.store / "blobs" / digest).read_bytes()
            manifest(self.store, Name.parse(body["model"]), [blob(self.store, content, MODEL)])
            return [{"status": "success"}]
        document = json.loads((self.store / Name.parse(body["from"]).manifest_path).read_text())
        layers = [layer for layer in document["layers"] if layer["mediaType"] != PARAMS]
        merged: dict[str, t.Any] = {}
        for layer in document["layers"]:
            if layer["mediaType"] == PARAMS:
                merged = json.loads((self.store / "blobs" / layer["digest"].replace(":", "-")).read_text())
        merged.update(body["parameters"])
        manifest(
            self.store, Name.parse(body["model"]), [*layers, blob(self.store, json.dumps(merged).encode(), PARAMS)]
        )
        return [{"status": "success"}]


class Node:
    """A node's directories and its store server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store_path = root / "store"
        self.store_path.mkdir()
        self.replicas = root / "replicas"
        self.store = Store(str(self.store_path))
        self.server = FakeServer(self.store_path)
        self.seen: list[Progress] = []

    def ensure(self, replica: str = "tiny--1", name: str = "tiny", **options: t.Any) -> Outcome:
        private = PrivateStore(str(self.replicas / replica / "models"), self.store)
        wanted = Wanted(
            id=replica,
            name=Name.parse(name),
            source=options.get("source", name),
            registry=options.get("registry", ""),
            insecure=options.get("insecure", False),
            parameters=options.get("parameters", GOOD),
        )
        return ensure(
            wanted,
            StoreServer(self.server.url),
            self.store,
            private,
            check=options.get("check", False),
            may_pull=options.get("may_pull", True),
            report=self.seen.append,
        )

    def served(self, replica: str = "tiny--1", name: str = "tiny") -> dict[str, t.Any]:
        """The parameters that a server on the replica's own directory would find."""
        own = Store(str(self.replicas / replica / "models"))
        found = own.manifest(Name.parse(name))
        assert found is not None
        assert not own.missing(found)
        return own.parameters(found)

    def paths(self) -> list[str]:
        return [path for path, _body in self.server.requests]

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[Node]:
    """A node whose registry cannot be asked for a manifest, as behind a proxy, and that does not wait."""
    monkeypatch.setattr(_ollama_pull, "registry_manifest", lambda *_a, **_k: None)
    monkeypatch.setattr(_ollama_pull.pull, "__kwdefaults__", {"sleep": lambda _s: None, "clock": lambda: 0.0})
    found = Node(tmp_path)
    yield found
    found.server.http.shutdown()
    found.server.http.server_close()


def test_first_run_pulls_creates_and_writes(node: Node) -> None:
    """The replica serves the model under its name with the plan's parameters over the model's own."""
    outcome = node.ensure()
    assert [word.split()[0] for word in outcome.done] == ["pulled", "created", "wrote"]
    assert node.served() == {"stop": ["</s>"], **GOOD}
    assert os.readlink(node.replicas / "tiny--1/models/blobs") == str(node.store_path / "blobs")
    assert outcome.manifest is not None
    assert outcome.manifest.model_bytes == len("weights of tiny:latest")
    assert str(node.seen[1]).startswith("tiny:latest: 100 % of")


def test_second_run_asks_nothing(node: Node) -> None:
    node.ensure()
    node.server.requests.clear()
    assert node.ensure().done == ()
    assert node.paths() == []


def test_check_mode_tells_and_changes_nothing(node: Node) -> None:
    before = node.files()
    outcome = node.ensure(check=True)
    assert outcome.pull_needed
    assert outcome.done
    assert (node.files(), node.paths()) == (before, [])
    node.ensure()
    before, requests = node.files(), node.paths()
    assert node.ensure(check=True, parameters={**GOOD, "num_ctx": 8192}).done
    assert node.ensure(check=True).done == ()
    assert (node.files(), node.paths()) == (before, requests)


def test_changed_parameters_start_from_the_pulled_model(node: Node) -> None:
    """A create merges, so one that started from the variant would keep what the plan dropped."""
    node.ensure()
    outcome = node.ensure(parameters={"num_ctx": 1024})
    assert [word.split()[0] for word in outcome.done] == ["created", "wrote"]
    assert node.served() == {"stop": ["</s>"], "num_ctx": 1024}


def test_two_replicas_of_one_model_keep_their_own_parameters(node: Node) -> None:
    node.ensure("tiny--1")
    node.ensure("tiny--2", parameters={**GOOD, "num_ctx": 512})
    assert node.served("tiny--1")["num_ctx"] == 4096
    assert node.served("tiny--2")["num_ctx"] == 512
    assert node.paths().count("/api/pull") == 1


def test_cut_blob_is_pulled_again(node: Node) -> None:
    """Ollama trusts a blob that is there, however short."""
    node.ensure()
    found = node.store.manifest(Name.parse("tiny"))
    assert found is not None
    weights = next(layer for layer in found.layers if layer.media_type == MODEL)
    os.truncate(node.store.blob_path(weights), 3)
    assert node.ensure().done[0].startswith("pulled")
    assert not node.store.missing(found)


def test_mirror_is_pulled_by_its_name_and_copied_to_the_plain_one(node: Node) -> None:
    node.ensure(registry="mirror:5000/library", insecure=True)
    assert node.server.requests[0] == (
        "/api/pull",
        {"model": "mirror:5000/library/tiny:latest", "insecure": True, "stream": True},
    )
    assert {str(name) for name in node.store.names()} == {"tiny:latest", "sdai/tiny--1:v1"}


@pytest.mark.parametrize(
    ("name", "source", "path"),
    [
        ("tiny:1b", "tiny:1b", "registry.ollama.ai/library/tiny/1b"),
        ("chat", "tiny:1b", "registry.ollama.ai/library/chat/latest"),
        ("hf.co/ns/Repo:Q4_K_M", "hf.co/ns/Repo:Q4_K_M", "hf.co/ns/Repo/Q4_K_M"),
        ("ns/tiny", "ns/tiny", "registry.ollama.ai/ns/tiny/latest"),
    ],
)
def test_manifest_lies_where_its_name_says(node: Node, name: str, source: str, path: str) -> None:
    node.ensure(name=name, source=source)
    assert (node.replicas / "tiny--1/models/manifests" / path).is_file()


def test_pull_that_always_ends_at_once_loses_its_broken_parts(node: Node) -> None:
    """An empty part description ends every later pull of that blob with EOF until it is removed."""
    parts = node.store_path / "blobs"
    parts.mkdir()
    for name, content in {"sha256-aa-partial": b"x", "sha256-aa-partial-0": b"", "sha256-bb-partial-0": b"{}"}.items():
        (parts / name).write_bytes(content)
    node.server.pulls = [[{"status": "pulling manifest"}, {"error": "EOF"}]]
    node.ensure()
    assert sorted(path.name for path in parts.glob("*-partial*")) == ["sha256-bb-partial-0"]


def test_pull_is_tried_again_but_not_for_ever(node: Node) -> None:
    failure = [{"error": "max retries exceeded: unexpected EOF"}]
    node.server.pulls = [failure] * (_ollama_pull.ATTEMPTS - 1)
    node.ensure()
    node.server.pulls = [failure] * _ollama_pull.ATTEMPTS
    with pytest.raises(StoreError, match=r"failed 5 times.*unexpected EOF.*run again"):
        node.ensure("other--1", "other")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("pull model manifest: file does not exist", "Correct the model's name"),
        ("write: no space left on device", "Free space"),
        ("invalid model name", "Correct the model's `source`"),
    ],
)
def test_what_no_retry_cures_ends_at_once(node: Node, error: str, words: str) -> None:
    node.server.pulls = [[{"error": error}]] * 2
    with pytest.raises(StoreError, match=words):
        node.ensure()
    assert node.paths() == ["/api/pull"]


def test_full_disk_is_seen_before_it_is_full(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "free_bytes", lambda _self: 10 * 2**30)
    node.server.pulls = [[{"status": "pulling", "digest": "sha256:aa", "total": 20 * 2**30, "completed": 1}]]
    with pytest.raises(StoreError, match=r"no room for tiny:latest: 20\.00 GiB .* 10\.00 GiB are free"):
        node.ensure()


def test_gguf_file_becomes_a_model_and_is_read_once(node: Node) -> None:
    file = node.root / "mine.gguf"
    file.write_bytes(b"GGUF and so on")
    source = f"gguf:{file}"
    node.ensure("mine--1", "mine", source=source)
    assert node.served("mine--1", "mine") == GOOD
    node.server.requests.clear()
    assert node.ensure("mine--1", "mine", source=source).done == ()
    assert node.paths() == []
    file.write_bytes(b"GGUF of another kind")
    assert node.ensure("mine--1", "mine", source=source).done


def test_missing_gguf_file_is_named(node: Node) -> None:
    with pytest.raises(StoreError, match=r"/none\.gguf cannot be read.*Copy the GGUF file"):
        node.ensure(source="gguf:/none.gguf")


def old(path: Path) -> None:
    for file in path.iterdir():
        os.utime(file, (1, 1))


def test_retired_replica_leaves_the_model(node: Node) -> None:
    node.ensure()
    done, freed = retire("tiny--1", node.store, str(node.replicas), with_models=False, check=False)
    assert len(done) == 2
    assert freed == 0
    assert [str(name) for name in node.store.names()] == ["tiny:latest"]
    assert retire("tiny--1", node.store, str(node.replicas), with_models=False, check=False) == ((), 0)


def test_pruning_spares_what_another_replica_uses(node: Node) -> None:
    """Both models share template and configuration; each keeps its own."""
    node.ensure("tiny--1")
    node.ensure("other--1", "other")
    old(node.store_path / "blobs")
    retire("other--1", node.store, str(node.replicas), with_models=True, check=False)
    assert node.served("tiny--1")["num_ctx"] == 4096
    assert {str(name) for name in node.store.names()} == {"tiny:latest", "sdai/tiny--1:v1"}
    contents = [path.read_bytes() for path in (node.store_path / "blobs").iterdir()]
    assert b"weights of tiny:latest" in contents
    assert b"weights of other:latest" not in contents


def test_pruning_spares_young_blobs_and_says_in_check_mode_what_it_would_do(node: Node) -> None:
    node.ensure()
    before = node.files()
    assert retire("tiny--1", node.store, str(node.replicas), with_models=True, check=True)[0]
    assert node.files() == before
    retire("tiny--1", node.store, str(node.replicas), with_models=True, check=False)
    assert node.store.names() == ()
    assert list((node.store_path / "blobs").iterdir())


def test_nothing_is_pruned_beside_a_manifest_that_cannot_be_read(node: Node) -> None:
    node.ensure("tiny--1")
    node.ensure("other--1", "other")
    old(node.store_path / "blobs")
    (node.replicas / "tiny--1/models" / Name.parse("tiny").manifest_path).write_text("{}")
    before = sorted((node.store_path / "blobs").iterdir())
    retire("other--1", node.store, str(node.replicas), with_models=True, check=False)
    assert sorted((node.store_path / "blobs").iterdir()) == before


def test_what_nothing_names_goes_when_it_is_an_hour_old(node: Node) -> None:
    """In check mode too it is said; a second time there is nothing left to do."""
    node.ensure()
    for name in ("sha256-aa", "sha256-bb-partial"):
        (node.store_path / "blobs" / name).write_bytes(b"left behind")
    assert clean(node.store, str(node.replicas), check=False) == ((), 0)
    old(node.store_path / "blobs")
    before = node.files()
    for check in (True, False):
        assert clean(node.store, str(node.replicas), check=check) == (("removed 2 blobs",), 22)
        assert (node.files() == before) is check
    assert clean(node.store, str(node.replicas), check=False) == ((), 0)
    assert node.served()["num_ctx"] == 4096


def test_retiring_takes_what_nothing_names_and_leaves_the_model(node: Node) -> None:
    node.ensure()
    old(node.store_path / "blobs")
    done, freed = retire("tiny--1", node.store, str(node.replicas), with_models=False, check=False)
    assert done[-1] == "removed 1 blobs"
    assert freed > 0
    found = node.store.manifest(Name.parse("tiny"))
    assert found is not None
    assert not node.store.missing(found)


def test_nothing_is_pruned_while_a_pull_is_under_way(node: Node) -> None:
    node.ensure()
    (node.store_path / "blobs/sha256-aa").write_bytes(b"of a large model")
    old(node.store_path / "blobs")
    with store_lock(str(node.store_path), ""):
        for check in (True, False):
            assert clean(node.store, str(node.replicas), check=check) == ((), 0)
    assert clean(node.store, str(node.replicas), check=False)[0]


def test_second_pull_waits_and_tells_how_far_the_first_is(node: Node) -> None:
    store, first, second = str(node.store_path), str(node.root / "first.json"), str(node.root / "second.json")
    other = store_lock(store, first)
    other.__enter__()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            write_progress(first, Progress("large:70b", "pulling", 2**30, 2**31))
        if len(waits) == 3:
            other.__exit__(None, None, None)

    with wait_for_store(store, second, node.seen.append, sleep=sleep), pytest.raises(Busy), store_lock(store, first):
        pass
    assert len(waits) == 3
    assert str(node.seen[-1]).endswith("waiting for another pull: large:70b: 50 % of 2.00 GiB (0 MiB/s), pulling")


def test_wait_for_another_pull_has_an_end(node: Node) -> None:
    store, times = str(node.store_path), iter(range(0, 10**7, 3600))
    with (
        store_lock(store, ""),
        pytest.raises(StoreError, match=r"held .* for 48 hours.*fuser .*/\.lock"),
        wait_for_store(store, "", node.seen.append, sleep=lambda _s: None, clock=lambda: float(next(times))),
    ):
        pass


def test_pull_whose_process_was_killed_holds_nothing(node: Node) -> None:
    """The kernel lets go: nothing is to be removed by hand."""
    script = "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.flock(f,2); print(1,flush=True); time.sleep(99)"
    words = [sys.executable, "-c", script, str(node.store_path / ".lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert is_held(str(node.store_path))
        other.kill()
    assert not is_held(str(node.store_path))


def test_module_runs_as_ansible_packs_it_and_shows_progress(node: Node) -> None:
    """Through the action plugin: the pull runs in the background of the node, then nothing is left to do."""
    arguments = {
        "id": "tiny--1",
        "name": "tiny",
        # Not to be reached: the manifest of a mirror is asked for by the module itself.
        "registry": "127.0.0.1:9/library",
        "insecure": True,
        "parameters": GOOD,
        "server": node.server.url,
        "store": str(node.store_path),
        "replicas": str(node.replicas),
        "progress": str(node.root / "progress.json"),
    }
    for changed in (True, False):
        done = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "ansible"), "-i", "localhost,", "localhost", "-c", "local"),
                *("-m", "aivailable.sdai.ollama_model", "-a", json.dumps(arguments), "-e"),
                f"ansible_python_interpreter={sys.executable}",
            ],
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        _before, word, result_text = re.split(r"^localhost \| (CHANGED|SUCCESS) => ", done.stdout, flags=re.M)
        assert word == ("CHANGED" if changed else "SUCCESS")
        result = json.loads(result_text)
        assert result["changed"] is changed
        assert result["blob_bytes"] == len("weights of tiny:latest")
    assert node.served()["num_gpu"] == 999
