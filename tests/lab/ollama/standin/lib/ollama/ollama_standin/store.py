# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model store on disk: manifests by name, blobs by digest, in Ollama's layout."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import typing as t
from pathlib import Path

from . import gguf, names
from .config import Config
from .gojson import ApiError, dumps
from .names import Name

MODEL = "application/vnd.ollama.image.model"
TEMPLATE = "application/vnd.ollama.image.template"
SYSTEM = "application/vnd.ollama.image.system"
PARAMS = "application/vnd.ollama.image.params"
LICENSE = "application/vnd.ollama.image.license"
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
PRUNE_AGE = 3600.0
_ERRNO = {
    errno.EROFS: "read-only file system", errno.EACCES: "permission denied", errno.ENOSPC: "no space left on device",
    errno.ENOENT: "no such file or directory", errno.ENOTDIR: "not a directory", errno.EPERM: "operation not permitted",
}  # fmt: skip


def go_error(operation: str, path: Path | str, error: OSError) -> ApiError:
    text = _ERRNO.get(error.errno or 0, os.strerror(error.errno or 0).lower())
    return ApiError(500, f"{operation} {path}: {text}")


class Model:
    """One manifest with what its layers say."""

    def __init__(self, store: Store, name: Name, path: Path, raw: bytes) -> None:
        self.store, self.name, self.path = store, name, path
        self.digest = hashlib.sha256(raw).hexdigest()
        self.modified_ns = path.stat().st_mtime_ns
        manifest = json.loads(raw)
        self.layers: list[dict[str, t.Any]] = manifest["layers"]
        self.config_layer: dict[str, t.Any] = manifest["config"]
        self.size = sum(layer["size"] for layer in [*self.layers, self.config_layer])

    def layer(self, media: str) -> dict[str, t.Any] | None:
        return next((layer for layer in self.layers if layer["mediaType"] == media), None)

    def text(self, media: str) -> str:
        layer = self.layer(media)
        return self.store.blob(layer["digest"]).read_text() if layer else ""

    @property
    def weights(self) -> Path:
        layer = self.layer(MODEL)
        if layer is None:
            raise ApiError(500, "model has no weights")
        return self.store.blob(layer["digest"])

    @property
    def gguf(self) -> gguf.Gguf:
        try:
            return gguf.cached(self.weights)
        except (gguf.NotGguf, OSError) as error:
            raise ApiError(500, "unable to load model: " + str(self.weights)) from error

    @property
    def config(self) -> dict[str, t.Any]:
        return dict(json.loads(self.store.blob(self.config_layer["digest"]).read_text()))

    @property
    def parameters(self) -> dict[str, t.Any]:
        text = self.text(PARAMS)
        return dict(json.loads(text)) if text else {}

    @property
    def template(self) -> str:
        return self.text(TEMPLATE) or "{{ .Prompt }}"

    @property
    def capabilities(self) -> list[str]:
        if self.gguf.embedding:
            return ["embedding"]
        found = ["completion"]
        found += ["tools"] if ".Tools" in self.template else []
        found += ["thinking"] if ".Thinking" in self.template else []
        return found

    def details(self) -> dict[str, t.Any]:
        config = self.config
        layer = self.layer(MODEL) or {}
        return {
            "parent_model": layer.get("from", ""),
            "format": config["model_format"],
            "family": config["model_family"],
            "families": config["model_families"],
            "parameter_size": config["model_type"],
            "quantization_level": config["file_type"],
        }

    @property
    def complete(self) -> bool:
        return all(self.store.blob(layer["digest"]).exists() for layer in [*self.layers, self.config_layer])


class Store:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.manifests = config.models / "manifests"
        self.blobs = config.models / "blobs"

    def blob(self, digest: str) -> Path:
        return self.blobs / digest.replace(":", "-")

    def _existing(self, name: Name) -> Path:
        """The manifest's file whatever the case of its name on disk."""
        exact = self.manifests / name.path
        if exact.exists():
            return exact
        where = self.manifests
        for part in name.path.parts:
            try:
                entries = os.listdir(where)
            except OSError:
                return exact
            match = next((e for e in sorted(entries) if e.lower() == part.lower()), None)
            if match is None:
                return exact
            where = where / match
        return where

    def get(self, name: Name) -> Model | None:
        path = self._existing(name)
        try:
            raw = path.read_bytes()
            found = Name(*path.relative_to(self.manifests).parts[-4:])
            model = Model(self, found, path, raw)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return model if model.complete else None

    def all(self) -> list[Model]:
        """Newest first, to the second."""
        found = []
        for path in self.manifests.glob("*/*/*/*"):
            model = self.get(Name(*path.relative_to(self.manifests).parts))
            if model is not None:
                found.append(model)
        return sorted(found, key=lambda m: m.modified_ns // 10**9, reverse=True)

    def require(self, text: str, *, quote: str = "'{}'", suffix: str = "", shortest: bool = False) -> Model:
        """The model of a request, or the error a client gets."""
        missing = "model " + quote.format(text) + " not found" + suffix
        if text == "":
            raise ApiError(404, missing)
        name = names.parse(text)
        if not name.valid:
            raise ApiError(400, "invalid model name")
        model = self.get(name)
        if model is None:
            raise ApiError(404, f"model '{name.shortest}' not found" if shortest else missing)
        return model

    def _mkdir(self, path: Path) -> None:
        missing = path
        while not missing.parent.exists():
            missing = missing.parent
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise go_error("mkdir", missing, error) from error

    def prepare(self, name: Name) -> Path:
        """The directory of a manifest that is about to be written."""
        path = self._existing(name)
        self._mkdir(path.parent)
        return path

    def write_manifest(self, name: Name, config: dict[str, t.Any], layers: list[dict[str, t.Any]]) -> None:
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        self.write_raw(name, (dumps(document) + "\n").encode())

    def write_raw(self, name: Name, raw: bytes) -> None:
        path = self.prepare(name)
        try:
            path.write_bytes(raw)
        except OSError as error:
            raise go_error("open", path, error) from error

    def add_layer(self, media: str, content: bytes) -> tuple[dict[str, t.Any], bool]:
        """Store content as a blob; tells whether it is new."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        path = self.blob(digest)
        layer = {"mediaType": media, "digest": digest, "size": len(content)}
        if path.exists():
            self.touch(digest)
            return layer, False
        self._mkdir(self.blobs)
        temporary = self.blobs / f"sha256-{os.getpid()}-{time.monotonic_ns()}.tmp"
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            raise go_error("open", temporary, error) from error
        return layer, True

    def touch(self, digest: str) -> None:
        path = self.blob(digest)
        try:
            os.utime(path)
        except OSError as error:
            raise go_error("chtimes", path, error) from error

    def copy(self, source: Name, target: Name) -> None:
        raw = self._existing(source).read_bytes()
        self.write_raw(target, raw)

    def delete(self, model: Model) -> None:
        try:
            model.path.unlink()
        except OSError as error:
            raise go_error("remove", model.path, error) from error
        for parent in list(model.path.parents)[:3]:
            try:
                parent.rmdir()
            except OSError:
                break
        named = self.named_digests()
        for layer in [*model.layers, model.config_layer]:
            if layer["digest"] not in named:
                self.blob(layer["digest"]).unlink(missing_ok=True)

    def named_digests(self) -> set[str]:
        found: set[str] = set()
        for path in self.manifests.glob("*/*/*/*"):
            try:
                manifest = json.loads(path.read_bytes())
                found |= {layer["digest"] for layer in [*manifest["layers"], manifest["config"]]}
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found

    def prune(self) -> int:
        """What the real server does at start: blobs and partials that no manifest names, older than an hour, go."""
        named = {digest.replace(":", "-") for digest in self.named_digests()}
        limit, gone = time.time() - PRUNE_AGE, 0
        for path in self.blobs.glob("sha256-*"):
            try:
                if path.name not in named and path.stat().st_mtime < limit:
                    path.unlink()
                    gone += 1
            except OSError:
                continue
        return gone
