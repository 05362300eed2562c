# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The native interface, /api/*: the store, what is loaded, and the few calls that have to do with the vendor."""

from __future__ import annotations

import hashlib
import os
import time
import typing as t

from . import create, names, pull
from .engine import ClientGone
from .gojson import ApiError, bind, stamp
from .sched import Scheduler
from .store import SYSTEM, Model, Store, go_error
from .web import JSON, NDJSON, PLAIN_JSON, Handler, Server

_MODEL: dict[str, tuple[type, ...]] = {"model": (str,), "name": (str,), "verbose": (bool,)}
_PULL: dict[str, tuple[type, ...]] = {**_MODEL, "insecure": (bool,), "stream": (bool,)}
_CREATE: dict[str, tuple[type, ...]] = {
    **_MODEL, "from": (str,), "files": (dict,), "parameters": (dict,), "template": (str,), "system": (str,),
    "stream": (bool,),
}  # fmt: skip
_COPY: dict[str, tuple[type, ...]] = {"source": (str,), "destination": (str,)}


def _spelled(request: dict[str, t.Any]) -> str:
    return str(request.get("model") or request.get("name") or "")


class Library:
    def __init__(self, server: Server, store: Store, scheduler: Scheduler) -> None:
        self.store, self.scheduler, self.config = store, scheduler, server.config
        for methods, path, endpoint in (
            ("GET,HEAD", "/", self.root),
            ("GET,HEAD", "/api/version", self.version),
            ("GET", "/api/status", self.status),
            ("GET", "/api/ps", self.ps),
            ("GET,HEAD", "/api/tags", self.tags),
            ("POST", "/api/show", self.show),
            ("POST", "/api/pull", self.pull),
            ("POST", "/api/push", self.push),
            ("POST", "/api/create", self.create),
            ("POST", "/api/copy", self.copy),
            ("DELETE", "/api/delete", self.delete),
            ("HEAD", "/api/blobs/:", self.has_blob),
            ("POST", "/api/blobs/:", self.put_blob),
            ("POST", "/api/me", self.me),
            ("POST", "/api/experimental/web_search", self.web),
            ("POST", "/api/experimental/web_fetch", self.web),
        ):
            server.add(methods, path, endpoint)

    def root(self, web: Handler) -> None:
        web.reply(200, b"Ollama is running", "text/plain; charset=utf-8")

    def version(self, web: Handler) -> None:
        web.json(200, {"version": self.config.version})

    def status(self, web: Handler) -> None:
        cloud = {"disabled": self.config.no_cloud, "source": "env" if self.config.no_cloud else "none"}
        web.json(200, {"cloud": cloud})

    def ps(self, web: Handler) -> None:
        models = []
        for loaded in self.scheduler.listing():
            size, vram = self.scheduler.sizes(loaded)
            models.append(
                {
                    "name": loaded.name,
                    "model": loaded.name,
                    "size": size,
                    "digest": loaded.digest,
                    "details": loaded.details,
                    "expires_at": stamp(loaded.expires_ns),
                    "size_vram": vram,
                    "context_length": loaded.launch.context,
                }
            )
        web.json(200, {"models": models})

    def tags(self, web: Handler) -> None:
        models = []
        for model in self.store.all():
            info = model.gguf
            name = model.name.shortest
            models.append(
                {
                    "name": name,
                    "model": name,
                    "modified_at": stamp(model.modified_ns),
                    "size": model.size,
                    "digest": model.digest,
                    "details": {
                        **model.details(),
                        "context_length": info.number("context_length"),
                        "embedding_length": info.number("embedding_length"),
                    },
                    "capabilities": model.capabilities,
                }
            )
        web.json(200, {"models": models})

    def show(self, web: Handler) -> None:
        model = self.store.require(_spelled(bind(web.body(), "ShowRequest", _MODEL)), shortest=True)
        info = model.gguf
        facts = {key: _whole(value) for key, value in info.metadata.items()}
        facts["general.parameter_count"] = info.parameters
        parameters = _lines(model.parameters)
        document: dict[str, t.Any] = {"modelfile": _modelfile(model, parameters)}
        if parameters:
            document["parameters"] = "\n".join(f"{key:<30} {value}" for key, value in parameters)
        document["template"] = model.template
        if model.text(SYSTEM):
            document["system"] = model.text(SYSTEM)
        document |= {
            "details": model.details(),
            "model_info": dict(sorted(facts.items())),
            "tensors": [{"name": n, "type": kind, "shape": shape} for n, kind, shape in info.tensors],
            "capabilities": model.capabilities,
            "modified_at": stamp(model.modified_ns),
        }
        web.json(200, document)

    def _report(self, web: Handler, stream: bool, work: t.Callable[[create.Report], None]) -> None:
        """Progress as lines, or only the end. Errors after the first line come with status 200."""
        if not stream:
            try:
                work(lambda _line: None)
            except ApiError as error:
                web.json(error.status, {"error": error.text}, PLAIN_JSON)
                return
            web.json(200, {"status": "success"}, PLAIN_JSON)
            return
        web.begin(200, NDJSON)
        try:
            work(web.line)
        except ApiError as error:
            web.line({"error": error.text})
        web.finish_stream()

    def pull(self, web: Handler) -> None:
        request = bind(web.body(), "PullRequest", _PULL)
        name = names.parse(_spelled(request))
        if not name.valid:
            raise ApiError(400, "invalid model name")
        insecure = request.get("insecure", False)
        self._report(
            web,
            request.get("stream", True),
            lambda report: pull.pull(self.store, name, insecure, report=report, gone=web.gone),
        )

    def push(self, web: Handler) -> None:
        model = self.store.require(_spelled(bind(web.body(), "PushRequest", _PULL)))
        digest = model.layers[0]["digest"]
        url = f"https://{model.name.host}/v2/{model.name.namespace}/{model.name.model}/blobs/{digest}"
        web.json(500, {"error": f'Head "{url}": the stand-in pushes nothing'}, PLAIN_JSON)

    def create(self, web: Handler) -> None:
        request = bind(web.body(), "CreateRequest", _CREATE)
        name = names.parse(_spelled(request))
        if not name.valid:
            raise ApiError(400, "invalid model name")
        if not request.get("from") and not request.get("files"):
            web.json(400, {"error": "neither 'from' or 'files' was specified"}, PLAIN_JSON)
            return

        def work(report: create.Report) -> None:
            base = names.parse(request.get("from", ""))
            if request.get("from") and self.store.get(base) is None:
                pull.pull(self.store, base, False, report=report, gone=web.gone)
            create.create(self.store, name, request, report)

        self._report(web, request.get("stream", True), work)

    def copy(self, web: Handler) -> None:
        request = bind(web.body(), "CopyRequest", _COPY)
        source, target = names.parse(request.get("source", "")), names.parse(request.get("destination", ""))
        if not source.valid:
            raise ApiError(400, f'source "{request.get("source", "")}" is invalid')
        if not target.valid:
            raise ApiError(400, f'destination "{request.get("destination", "")}" is invalid')
        model = self.store.get(source)
        if model is None:
            raise ApiError(404, f"model '{request['source']}' not found")
        self.store.copy(model.name, target)
        web.empty(200)

    def delete(self, web: Handler) -> None:
        model = self.store.require(_spelled(bind(web.body(), "DeleteRequest", _MODEL)))
        self.store.delete(model)
        self.scheduler.unload(model)
        web.empty(200)

    def has_blob(self, web: Handler, digest: str) -> None:
        path = self.store.blob(digest)
        if path.exists():
            web.head(200, [])
            return
        raise ApiError(404, f'blob "{digest}" not found')

    def put_blob(self, web: Handler, digest: str) -> None:
        path = self.store.blob(digest)
        temporary = path.with_name(f"sha256-{os.getpid()}-{time.monotonic_ns()}.tmp")
        sha = hashlib.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                for part in web.body_parts():
                    sha.update(part)
                    stream.write(part)
            got = f"sha256:{sha.hexdigest()}"
            if got != digest:
                temporary.unlink()
                raise ApiError(400, f'digest mismatch, expected "{digest}", got "{got}"')
            temporary.replace(path)
        except OSError as error:
            if isinstance(error, (ConnectionError, ClientGone)):
                raise
            raise go_error("open", temporary, error) from error
        web.empty(201)

    def me(self, web: Handler) -> None:
        web.json(503, {"error": "account unavailable"})

    def web(self, web: Handler) -> None:
        web.json(403, {"error": "ollama cloud is disabled: web search is unavailable"}, JSON)


def _whole(value: t.Any) -> t.Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lines(parameters: dict[str, t.Any]) -> list[tuple[str, str]]:
    """One pair per value, sorted by name; text is quoted."""
    found = []
    for key, value in sorted(parameters.items()):
        for item in value if isinstance(value, list) else [value]:
            found.append((key, f'"{item}"' if isinstance(item, str) else str(_whole(item))))
    return found


def _modelfile(model: Model, parameters: list[tuple[str, str]]) -> str:
    name = model.name.shortest
    text = (
        '# Modelfile generated by "ollama show"\n# To build a new Modelfile based on this, replace FROM with:\n'
        f"# FROM {name}\n\nFROM {model.weights}\n"
    )
    template = model.template
    text += f'TEMPLATE "{template}"\n' if "\n" in template else f"TEMPLATE {template}\n"
    if model.text(SYSTEM):
        text += f"SYSTEM {model.text(SYSTEM)}\n"
    return text + "".join(f"PARAMETER {key} {value.strip(chr(34))}\n" for key, value in parameters)
