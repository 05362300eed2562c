# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module is private to the collection: it may change
# without notice between releases.
"""An OLLAMA_MODELS directory as files: names, manifests, blobs, and a replica's private view of them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import typing as t
from dataclasses import dataclass

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
MODEL_LAYER = "application/vnd.ollama.image.model"
PARAMS_LAYER = "application/vnd.ollama.image.params"
# A younger blob may belong to a pull or a create that has not written its manifest yet.
PRUNE_AGE_SECONDS = 3600
CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class Name:
    """The full name of a model: where it comes from and where its manifest lies in a store."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Name:
        """Read ``[host/][namespace/]model[:tag]``; absent parts get Ollama's defaults.

        :raises ValueError: a part is empty or would leave the store's directory.
        """
        head, slash, last = text.strip().rpartition("/")
        model, colon, tag = last.partition(":")
        parts = head.split("/") if slash else []
        if len(parts) > 2:
            raise ValueError(f"{text!r} is not a model name: more than host/namespace/model:tag")
        namespace = parts[-1] if parts else DEFAULT_NAMESPACE
        host = parts[0] if len(parts) == 2 else DEFAULT_HOST
        name = cls(host=host, namespace=namespace, model=model, tag=tag if colon else "latest")
        for part in (name.host, name.namespace, name.model, name.tag):
            if not part or part in (".", "..") or "\0" in part:
                raise ValueError(f"{text!r} is not a model name: an empty or forbidden part")
        return name

    def __str__(self) -> str:
        """The shortest spelling, the one that /api/ps and /api/tags print."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def manifest_path(self) -> str:
        """Path below an OLLAMA_MODELS directory."""
        return os.path.join("manifests", self.host, self.namespace, self.model, self.tag)

    def mirrored(self, registry: str) -> Name:
        """The same model on a mirror given as ``HOST:PORT`` or ``HOST:PORT/namespace``.

        A namespace in ``registry`` stands for the library's; models of another namespace keep theirs.
        """
        host, _slash, namespace = registry.strip("/").partition("/")
        if self.namespace != DEFAULT_NAMESPACE or not namespace:
            namespace = self.namespace
        return Name(host=host, namespace=namespace, model=self.model, tag=self.tag)


@dataclass(frozen=True)
class Layer:
    media_type: str
    digest: str
    size: int

    @property
    def blob(self) -> str:
        return self.digest.replace(":", "-")


@dataclass(frozen=True)
class Manifest:
    """A manifest with the bytes it was read from: Ollama's digest of a model is the hash of those bytes."""

    raw: bytes
    layers: tuple[Layer, ...]
    config: t.Optional[Layer]

    @classmethod
    def parse(cls, raw: bytes) -> Manifest:
        """:raises ValueError: not a manifest."""
        try:
            document = json.loads(raw)
            config = document.get("config")
            return cls(
                raw=raw,
                layers=tuple(_layer(item) for item in document["layers"]),
                config=_layer(config) if config and config.get("digest") else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not a model manifest: {exc!r}") from exc

    @property
    def digest(self) -> str:
        """64 hexadecimal digits, as in /api/ps and /api/tags."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def blobs(self) -> tuple[Layer, ...]:
        """Everything the manifest names, each once."""
        every = self.layers + ((self.config,) if self.config else ())
        return tuple({layer.digest: layer for layer in every}.values())

    @property
    def size_bytes(self) -> int:
        return sum(layer.size for layer in self.blobs)

    @property
    def model_bytes(self) -> int:
        """Size of the weights' blob: what /api/ps falls back to when it did not understand the engine's log."""
        return sum(layer.size for layer in self.layers if layer.media_type == MODEL_LAYER)

    @property
    def weights(self) -> frozenset[str]:
        """Digests of the weights; templates and licences are shared between models."""
        return frozenset(layer.digest for layer in self.layers if layer.media_type == MODEL_LAYER)

    def without_params(self) -> frozenset[tuple[str, str]]:
        return frozenset((layer.media_type, layer.digest) for layer in self.layers if layer.media_type != PARAMS_LAYER)


def _layer(item: t.Mapping[str, t.Any]) -> Layer:
    return Layer(media_type=str(item["mediaType"]), digest=str(item["digest"]), size=int(item["size"]))


class Store:
    """One OLLAMA_MODELS directory."""

    def __init__(self, path: str) -> None:
        self.path = path

    def manifest(self, name: Name) -> t.Optional[Manifest]:
        """The manifest of ``name``; None when there is none or it cannot be read as one."""
        try:
            with open(os.path.join(self.path, name.manifest_path), "rb") as file:
                return Manifest.parse(file.read())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def blob_path(self, layer: Layer) -> str:
        return os.path.join(self.path, "blobs", layer.blob)

    def has_blob(self, layer: Layer) -> bool:
        """Whether the blob is there in full: Ollama itself takes any file of that name, a cut one too."""
        try:
            return os.stat(self.blob_path(layer)).st_size == layer.size
        except FileNotFoundError:
            return False

    def missing(self, manifest: Manifest) -> tuple[Layer, ...]:
        return tuple(layer for layer in manifest.blobs if not self.has_blob(layer))

    def parameters(self, manifest: Manifest) -> dict[str, t.Any]:
        """The parameters that a manifest carries; empty when it has none."""
        for layer in manifest.layers:
            if layer.media_type == PARAMS_LAYER:
                try:
                    with open(self.blob_path(layer), "rb") as file:
                        found = json.loads(file.read())
                except (FileNotFoundError, ValueError):
                    return {}
                return found if isinstance(found, dict) else {}
        return {}

    def is_variant(self, manifest: Manifest, original: Manifest, parameters: t.Mapping[str, t.Any]) -> bool:
        """Whether ``manifest`` is ``original`` with exactly ``parameters`` merged into its own."""
        wanted = {**self.parameters(original), **parameters}
        return (
            not self.missing(manifest)
            and manifest.without_params() == original.without_params()
            and self.parameters(manifest) == wanted
        )

    def drop_cut_blobs(self, manifest: Manifest) -> tuple[str, ...]:
        """Remove blobs of the wrong size, which a pull would trust; says which."""
        dropped = []
        for layer in self.missing(manifest):
            if os.path.exists(self.blob_path(layer)):
                os.unlink(self.blob_path(layer))
                dropped.append(layer.digest)
        return tuple(dropped)

    def drop_broken_partials(self, digest: str) -> tuple[str, ...]:
        """Remove the partial files of pulls that can never be resumed; says which.

        A pull that was ended at the wrong moment leaves an empty part description, and every later pull of
        that blob ends at once with "EOF". Only the blobs with such a part lose their progress, and
        ``digest`` (may be empty) when none shows one.
        """
        folder = os.path.join(self.path, "blobs")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        partials = [name for name in names if "-partial" in name]
        broken = {
            name.partition("-partial")[0]
            for name in partials
            if name.rpartition("-")[2].isdigit() and os.stat(os.path.join(folder, name)).st_size == 0
        }
        if not broken and digest:
            broken = {digest.replace(":", "-")}
        dropped = [name for name in partials if name.partition("-partial")[0] in broken]
        for name in dropped:
            os.unlink(os.path.join(folder, name))
        return tuple(dropped)

    def drop_partials(self, digests: t.Iterable[str]) -> None:
        """Remove what was pulled in part of these blobs."""
        folder = os.path.join(self.path, "blobs")
        wanted = {digest.replace(":", "-") for digest in digests}
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            blob, partial, _part = name.partition("-partial")
            if partial and blob in wanted:
                os.unlink(os.path.join(folder, name))

    def unproved_blobs(self) -> frozenset[str]:
        """Digests of blobs that no manifest names: a pull that was ended may have left them before their verification.

        A later pull takes them as they are.
        """
        folder = os.path.join(self.path, "blobs")
        manifests = [manifest for manifest in map(self.manifest, self.names()) if manifest is not None]
        named = {layer.blob for manifest in manifests for layer in manifest.blobs}
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return frozenset(name.replace("-", ":", 1) for name in names if "-partial" not in name and name not in named)

    def drop_false_blobs(self, manifest: Manifest, suspects: t.Collection[str]) -> tuple[str, ...]:
        """Remove those of the ``suspects`` in the manifest that are not what their digest says; returns them."""
        false = []
        for layer in manifest.blobs:
            if layer.digest in suspects and f"sha256:{file_digest(self.blob_path(layer))}" != layer.digest:
                os.unlink(self.blob_path(layer))
                false.append(layer.digest)
        return tuple(false)

    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def remove(self, name: Name) -> bool:
        """Remove a name, never a blob: the server's own delete does not know the replicas' manifests."""
        path = os.path.join(self.path, name.manifest_path)
        if not os.path.exists(path):
            return False
        os.unlink(path)
        remove_empty(os.path.dirname(path), os.path.join(self.path, "manifests"))
        return True

    def names(self) -> tuple[Name, ...]:
        found = []
        root = os.path.join(self.path, "manifests")
        for folder, _folders, files in os.walk(root):
            parts = os.path.relpath(folder, root).split(os.sep)
            if len(parts) == 3:
                found += [Name(host=parts[0], namespace=parts[1], model=parts[2], tag=tag) for tag in files]
        return tuple(sorted(found, key=str))


def unnamed_blobs(store: Store, others: t.Iterable[Store], *, now: float) -> tuple[str, ...]:
    """Paths of the files in ``store``'s blobs that no manifest of ``store`` or ``others`` names, one hour old."""
    named: set[str] = set()
    for each in (store, *others):
        for name in each.names():
            manifest = each.manifest(name)
            if manifest is None:
                # Not understood: what it names is not known, so nothing may go.
                return ()
            named.update(layer.blob for layer in manifest.blobs)
    folder = os.path.join(store.path, "blobs")
    found = []
    for name_ in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name_)
        if name_ not in named and now - os.stat(path).st_mtime > PRUNE_AGE_SECONDS:
            found.append(path)
    return tuple(found)


def prune(store: Store, others: t.Iterable[Store], *, dry: bool) -> tuple[int, int]:
    """Remove what :func:`unnamed_blobs` finds; returns (files, bytes)."""
    paths = unnamed_blobs(store, others, now=time.time())
    size = sum(os.stat(path).st_size for path in paths)
    if not dry:
        for path in paths:
            os.unlink(path)
    return len(paths), size


class PrivateStore:
    """A replica's own OLLAMA_MODELS: one manifest, the blobs a link to the node's store."""

    def __init__(self, path: str, store: Store) -> None:
        self.path = path
        self.store = store

    @property
    def blobs(self) -> str:
        return os.path.join(self.path, "blobs")

    def is_current(self, name: Name, manifest: t.Optional[Manifest]) -> bool:
        """Whether it holds just ``name`` with the bytes of ``manifest``, and the link."""
        own = Store(self.path)
        held = own.manifest(name)
        return (
            manifest is not None
            and held is not None
            and held.raw == manifest.raw
            and own.names() == (name,)
            and os.path.islink(self.blobs)
            and os.readlink(self.blobs) == os.path.join(self.store.path, "blobs")
        )

    def write(self, name: Name, manifest: Manifest) -> None:
        """Make it so. The manifest is replaced in one step: a running replica reads it at each request."""
        target = os.path.join(self.path, name.manifest_path)
        make_folders(os.path.dirname(target))
        own = Store(self.path)
        for other in own.names():
            if other != name:
                own.remove(other)
        link = os.path.join(self.store.path, "blobs")
        if not os.path.islink(self.blobs) or os.readlink(self.blobs) != link:
            if os.path.lexists(self.blobs):
                os.unlink(self.blobs)
            os.symlink(link, self.blobs)
        write_file(target, manifest.raw)


def file_digest(path: str) -> str:
    """64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def make_folders(path: str) -> None:
    """Like ``mkdir -p`` with mode 0755 whatever the umask: the service user must be able to read them."""
    if os.path.isdir(path):
        return
    make_folders(os.path.dirname(path))
    os.mkdir(path)
    os.chmod(path, 0o755)


def write_file(path: str, content: bytes) -> None:
    """Replace a file in one step, readable for all."""
    handle, side = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(side, 0o644)
        os.replace(side, path)
    except OSError:
        os.unlink(side)
        raise


def remove_empty(path: str, stop: str) -> None:
    """Remove ``path`` and its parents below ``stop`` while they are empty."""
    while path != stop and os.path.isdir(path) and not os.listdir(path):
        os.rmdir(path)
        path = os.path.dirname(path)
