# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in answers as the real server was recorded to answer: status, headers, form and order of fields."""

from __future__ import annotations

import json
import typing as t
from concurrent.futures import ThreadPoolExecutor

import recorded_form
import standin_lab as lab

if t.TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Mirror = Callable[..., t.Any]

RECORDED = lab.recorded()
NOT_SERVED = "/v1/responses and /v1/messages are not offered to the lab's clients and not imitated"
VENDOR = "asks the vendor's registry by its name, which a test must not depend on"
LEFT_OUT = {
    **dict.fromkeys(
        ["ctx-v1resp-2500", "ctx-v1msg-2500", "unknown-model-v1-messages", "unknown-model-v1-responses", "v1-responses",
         "v1-responses-stream", "v1-messages", "v1-messages-stream", "runner-killed-v1-messages-stream"], NOT_SERVED),
    **dict.fromkeys(
        ["create-missing-from", "pull-offline-plain-name", "pull-plain-tls-unknown-ca", "pull-plain-tls-ca",
         "pull-plain-insecure-flag", "push"], VENDOR),
    "about": "describes the recording",
    "recs": "the vendor's list of recommended models; not imitated",
    "pull-loc200": "a registry that answers 200 with Location; the lab's redirects",
    "pull-disk-full": "needs a full disk, which sparse files do not fill",
    "ps-final-release-build": "ps-two-models again, by another build of the real server",
}  # fmt: skip
PULLS = [
    "pull-http-no-insecure", "pull-http-scheme-no-insecure", "pull-no-location-http-scheme-insecure",
    "pull-no-location-insecure-again", "pull-no-location-nostream", "pull-missing", "pull-missing-nostream",
    "pull-bad-digest", "pull-no-name", "pull-unreachable", "pull-ok-stream", "pull-again-all-cached", "copy-to-plain",
    "pull-resumed", "pull-over-truncated-blob", "pull-registry-side", "pull-after-partials-removed",
]  # fmt: skip
NO_GPU = ["nogpu-create-params", "nogpu-load-999", "nogpu-ps", "pull-after-create-params"]
NO_ROOM = ["load-out-of-memory", "load-out-of-memory-v1-stream", "load-out-of-memory-chat-stream"]
READ_ONLY = ["readonly-store-create", "readonly-store-copy", "readonly-store-delete", "readonly-store-pull"]
QUEUE = ["queue-full-503", "queue-full-200", "queue-full-v1-503", "queue-full-v1-200"]
ELSEWHERE = {*LEFT_OUT, *PULLS, *NO_GPU, *NO_ROOM, *READ_ONLY, *QUEUE}
LONG_RUN = [name for name in RECORDED if name not in ELSEWHERE]
WORDS = {"2500": 2500, "6000": 6000, "during-generation": 1900, "over": 900}


def _body(name: str, text: str) -> bytes | None:
    """What was sent; long prompts are described in the recording and made up here."""
    if name == "invalid-utf8":
        return text.replace("\ufffd\ufffd", "\udcff\udcfe").encode("utf-8", "surrogateescape")
    if not text.startswith("<prompt of "):
        return text.encode()
    request = json.loads(text[text.index("{") :])
    prompt = "running " * int(text.split()[2])
    path = RECORDED[name]["request"]["path"]
    if "history" in name:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "yes"}]
        request["messages"] = [*turns, {"role": "user", "content": "and now"}]
    elif "chat" in path or "messages" in path:
        request["messages"] = [{"role": "user", "content": prompt}]
    else:
        request["input" if "embed" in path else "prompt"] = prompt
    return json.dumps(request).encode()


# what the recorded model happened to say: it ended by itself
REASON = r"_reason\":\"{}\""
CHANCE = {"ctx-chat-shift-during-generation", "ctx-v1chat-during-generation"}


def replay(server: lab.Server, name: str, replace: dict[str, str] | None = None) -> lab.Reply:
    """Send a recorded request and hold the answer against the recorded one."""
    exchange = RECORDED[name]
    got = send(server, name, replace)
    check(name, exchange, got, replace)
    return got


def send(server: lab.Server, name: str, replace: dict[str, str] | None = None) -> lab.Reply:
    request = RECORDED[name]["request"]
    path, text = request["path"], request["body"]
    for old, new in (replace or {}).items():
        path, text = path.replace(old, new), text.replace(old, new) if text is not None else None
    headers = {key.replace("-", "_"): value for key, value in request["headers"].items()}
    return server.ask(request["method"], path, None if text is None else _body(name, text), **headers)


def check(name: str, exchange: dict[str, t.Any], got: lab.Reply, replace: dict[str, str] | None = None) -> None:
    text = json.dumps(exchange["response"])
    for old, new in (replace or {}).items():
        text = text.replace(old, new)
    if name in CHANCE:
        text = text.replace(REASON.format("stop"), REASON.format("length"))
    found = recorded_form.compare(json.loads(text), got)
    assert not found, (name, found)


def test_every_exchange_is_replayed_or_left_out_for_a_reason() -> None:
    replayed = [*LONG_RUN, *PULLS, *NO_GPU, *NO_ROOM, *READ_ONLY, *QUEUE]
    assert sorted(replayed + list(LEFT_OUT)) == sorted(RECORDED)
    assert len(replayed) == 175


class LongRun:
    """The recording's main session: one server, one card, from an empty store on. Some exchanges need a step before."""

    def __init__(self, server: lab.Server, models: dict[str, bytes]) -> None:
        self.server, self.models = server, models
        self.replace: dict[str, str] = {}

    def before(self, name: str) -> None:
        step = getattr(self, "before_" + name.replace("-", "_"), None)
        if step is not None:
            step()

    def load(self, **options: t.Any) -> None:
        done = self.server.post("/api/generate", model="tiny", keep_alive=-1, options=options)
        assert done.status == 200, done.body

    def before_blob_head_present(self) -> None:
        sent = {"create-from-file": "tiny", "create-second": "tiny2", "create-embed": "tinyembed"}
        for exchange, model in sent.items():
            (digest,) = json.loads(RECORDED[exchange]["request"]["body"])["files"].values()
            self.replace[digest] = self.server.put(self.models[model])

    def before_ps_partial_4_of_5(self) -> None:
        self.load(num_gpu=4)

    def before_ps_cpu(self) -> None:
        self.load(num_gpu=0)

    def before_restore_keepalive(self) -> None:
        self.load()

    def before_ps_embed(self) -> None:
        self.server.post("/api/generate", model="tiny", keep_alive=0)

    def before_ps_cpu_but_log_not_understood(self) -> None:
        assert self.server.card is not None
        for model in ("tiny2", "tinytools"):
            self.server.post("/api/generate", model=model, keep_alive=0)
        self.server.post("/api/embed", model="tinyembed", keep_alive=0)
        self.load()
        self.server.card.fault("ps-log-not-understood")

    def before_ps_after_runner_kill(self) -> None:
        assert self.server.card is not None
        self.server.card.fault("ps-log-not-understood", on=False)
        self.server.kill_runner()

    def before_ps_two_models(self) -> None:
        self.server.post("/api/generate", model="tiny", keep_alive=0)
        self.load()
        assert self.server.post("/api/generate", model="tiny2").status == 200

    def run(self, name: str) -> lab.Reply:
        if not name.startswith("runner-killed"):
            return replay(self.server, name, self.replace)
        self.load()  # so that there is one engine to kill, and no load to wait for
        begun = self.server.log.read_text().count("launch_slot_")
        request = RECORDED[name]["request"]
        connection = self.server.connect()
        connection.request("POST", request["path"], request["body"])
        first = b""
        if name.endswith("nonstream"):
            lab.wait_for(lambda: self.server.log.read_text().count("launch_slot_") > begun, "work in the engine")
            self.server.kill_runner()
            response = connection.getresponse()
        else:
            response = connection.getresponse()
            first = b"".join(response.readline() for _ in range(4))  # so that some words are out
            self.server.kill_runner()
        got = lab.Reply(response.status, dict(response.getheaders()), first + response.read())
        connection.close()
        check(name, RECORDED[name], got, self.replace)
        return got


def test_main_session(start: Callable[..., lab.Server], card: lab.Card, models: dict[str, bytes]) -> None:
    # slow enough for an engine to be killed in the middle of an answer
    server = start(card, OLLAMA_MAX_LOADED_MODELS="2", OLLAMA_CONTEXT_LENGTH="4096", SDAI_LAB_SPEED="0.2")
    session = LongRun(server, models)
    failed = []
    for name in LONG_RUN:
        session.before(name)
        try:
            got = session.run(name)
        except AssertionError as error:
            failed.append(str(error))
            continue
        if name == "ps-resident":
            assert got.json["models"][0]["size"] == 9112124
    assert not failed, "\n".join(failed)


def test_server_without_a_gpu(start: Callable[..., lab.Server], models: dict[str, bytes], mirror: Mirror) -> None:
    server = start(None)
    site = mirror()
    site.model("tinyx", models["tiny2"])
    assert server.post("/api/pull", model=f"{site.registry}/lab/tinyx:v1", insecure=True, stream=False).status == 200
    assert server.post("/api/copy", source=f"{site.registry}/lab/tinyx:v1", destination="tinyx").status == 200
    for name in NO_GPU[:3]:
        replay(server, name)
    # a pull throws the parameters away, and the next request would run with others
    name = f"{site.registry}/lab/tinyx:v1"
    server.post("/api/create", model=name, **{"from": name}, parameters={"num_ctx": 512}, stream=False)
    assert server.post("/api/show", model=name).json["parameters"].startswith("num_ctx")
    replay(server, NO_GPU[3], {'"tinyx"': f'"{name}", "insecure": true'})
    assert "num_ctx" not in server.post("/api/show", model=name).json["parameters"]


def test_card_too_full(start: Callable[..., lab.Server], models: dict[str, bytes]) -> None:
    server = start({"vram_mib": 400})
    server.create("tiny", models["tiny"], num_gpu=999, num_ctx=2048, num_batch=256)
    for name in NO_ROOM:
        replay(server, name)
    assert server.ps() == []


def test_read_only_store(
    start: Callable[..., lab.Server], models: dict[str, bytes], mirror: Mirror, read_only: list[str]
) -> None:
    site = mirror()
    site.model("tiny2", models["tiny2"])
    writer = start(None, "writer")
    for model in ("tiny", "tiny2"):
        writer.create(model, models[model])
    folder = str(writer.models)
    before = sorted(str(path) for path in writer.models.rglob("*"))
    server = start(None, "reader", [*read_only, folder], OLLAMA_MODELS=folder, OLLAMA_NOPRUNE="1")
    (layer,) = [path.name for path in (writer.models / "blobs").iterdir() if path.read_bytes() == models["tiny"]]
    assert layer.startswith("sha256-")
    for name in READ_ONLY:
        replay(server, name, {"/srv/ro": folder, "127.0.0.1:5557": site.registry})
    assert server.post("/api/generate", model="tiny", options={"num_ctx": 2048}).status == 200
    assert sorted(str(path) for path in writer.models.rglob("*")) == before


def test_full_queue(start: Callable[..., lab.Server], card: lab.Card, models: dict[str, bytes]) -> None:
    server = start(card, OLLAMA_MAX_QUEUE="2", SDAI_LAB_LOAD_SECONDS="0.5")
    server.create("tiny", models["tiny"], num_ctx=2048)
    for refused, served in (QUEUE[:2], QUEUE[2:]):
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda _, name=served: send(server, name), range(6)))
        assert {reply.status for reply in replies} == {200, 503}
        for name in (refused, served):
            status = RECORDED[name]["response"]["status"]
            check(name, RECORDED[name], next(reply for reply in replies if reply.status == status))
        server.post("/api/generate", model="tiny", keep_alive=0)


class Pulls:
    """The recording's pulls. 5556 redirects within its host, 5557 to another one, 9 is nobody."""

    def __init__(self, server: lab.Server, site: t.Any, models: dict[str, bytes]) -> None:
        self.server, self.site = server, site
        self.tiny2 = site.model("tiny2", models["tiny2"])
        self.big = site.model("big", models["tiny2"], hole=262144000 - len(models["tiny2"]))
        self.replace = {"127.0.0.1:5556": site.registry, "127.0.0.1:5557": site.registry}
        wrong = {**self.tiny2["layers"][0], "digest": "sha256:" + "1".zfill(64)}
        site.publish("bad", {**self.tiny2, "layers": [wrong, *self.tiny2["layers"][1:]]})
        (site.root / "registry/blobs" / ("sha256-" + "1".zfill(64))).write_bytes(b"other content")

    def blob(self, digest: str) -> Path:
        return self.server.models / "blobs" / digest.replace(":", "-")

    def before(self, name: str) -> None:
        if name == "pull-no-location-http-scheme-insecure":
            self.site.fault("no-location")
        elif name == "pull-missing":
            self.site.fault("no-location", on=False)
        elif name == "pull-resumed":
            self.leave_early()
        elif name == "pull-over-truncated-blob":
            with self.blob(self.tiny2["layers"][0]["digest"]).open("r+b") as stream:
                stream.truncate(1000)
        elif name == "pull-after-partials-removed":
            for path in (self.server.models / "blobs").glob(self.blob(self.big["layers"][0]["digest"]).name + "*"):
                path.unlink()

    def leave_early(self) -> None:
        """A client that goes away in the middle: the parts keep what they have."""
        (self.site.faults / "rate").write_text("100")
        before = self.ended()
        connection = self.server.connect()
        body = json.dumps({"model": f"{self.site.registry}/lab/big:v1", "insecure": True})
        connection.request("POST", "/api/pull", body)
        response = connection.getresponse()
        while b'"completed"' not in response.readline():
            pass
        connection.sock.close()
        response.close()
        name = self.blob(self.big["layers"][0]["digest"]).name
        parts = (self.server.models / "blobs").glob(name + "-partial-*")
        lab.wait_for(lambda: self.ended() > before, "the pull's end")
        assert sum(json.loads(path.read_text())["Completed"] for path in parts) > 0

    def ended(self) -> int:
        return self.server.access.read_text().count("/api/pull")


def test_pulls(start: Callable[..., lab.Server], models: dict[str, bytes], mirror: Mirror) -> None:
    session = Pulls(start(None), mirror(), models)
    failed = []
    for name in PULLS:
        session.before(name)
        try:
            if name == "pull-registry-side":
                _registry_side(session)
                continue
            got = replay(session.server, name, session.replace)
        except AssertionError as error:
            failed.append(str(error))
            continue
        if name == "pull-resumed":
            first = next(json.loads(line) for line in got.lines if '"total"' in line)
            assert first["total"] == 262144000
            assert first["completed"] > 0
    assert not failed, "\n".join(failed)
    weights = session.blob(session.big["layers"][0]["digest"])
    assert weights.stat().st_size == 262144000
    assert weights.stat().st_blocks * 512 < 4 << 20, "the hole stays a hole"


def _registry_side(session: Pulls) -> None:
    """What the registry is asked while a model that is not there is pulled, in the recorded order."""
    wanted = [
        (request["method"], "blobs" if request["path"].startswith("/data") else "registry", request["answered"])
        for request in RECORDED["pull-registry-side"]["requests"]
    ]
    for layer in [*session.tiny2["layers"], session.tiny2["config"]]:
        session.blob(layer["digest"]).unlink()
    begun = len(session.site.log.read_text().splitlines())
    replay(session.server, "pull-ok-stream", session.replace)
    names = {str(port): name for name, port in session.site.ports.items()}
    lines = [line.split() for line in session.site.log.read_text().splitlines()[begun:]]
    assert [(line[2].strip('"'), names[line[0]], int(line[5])) for line in lines] == wanted
