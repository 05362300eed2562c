# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Gives a replica its private view of a model, and takes it away.

Parameters belong to a name in a store and are read at every request, and a create merges them. So each replica
has a side name in the node's store, created from the pulled manifest, whose manifest is copied into the replica's
own directory under the name that clients ask for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import typing as t
from dataclasses import dataclass

from ._ollama import OllamaError
from ._ollama_lock import Busy, is_held, store_lock
from ._ollama_pull import STALL_SECONDS, Progress, StoreError, pull
from ._ollama_server import StoreServer
from ._ollama_store import (
    DEFAULT_HOST,
    Manifest,
    Name,
    PrivateStore,
    Store,
    make_folders,
    prune,
    write_file,
)

GGUF = "gguf:"
SIDE_NAMESPACE = "sdai"
GGUF_NAMESPACE = "sdai-gguf"
CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class Wanted:
    """One replica's model. ``source`` is an Ollama name or ``gguf:/path``; ``registry`` a mirror, or empty.

    ``stall_seconds``: how long a pull may stand still before it is begun anew.
    """

    id: str
    name: Name
    source: str
    registry: str
    insecure: bool
    parameters: t.Mapping[str, t.Any]
    stall_seconds: float = STALL_SECONDS

    @property
    def original(self) -> Name:
        """Where the model without our parameters is in the store."""
        if self.source.startswith(GGUF):
            return Name(host=DEFAULT_HOST, namespace=GGUF_NAMESPACE, model=self.name.model, tag=self.name.tag)
        return Name.parse(self.source)

    @property
    def side(self) -> Name:
        return side_name(self.id)


@dataclass(frozen=True)
class Outcome:
    """``done`` is what was, or in check mode would be, done; ``manifest`` is the replica's, None before a pull."""

    done: tuple[str, ...]
    manifest: t.Optional[Manifest]
    pull_needed: bool = False


def side_name(replica_id: str) -> Name:
    return Name(host=DEFAULT_HOST, namespace=SIDE_NAMESPACE, model=replica_id, tag="v1")


def ensure(
    wanted: Wanted,
    server: StoreServer,
    store: Store,
    private: PrivateStore,
    *,
    check: bool,
    may_pull: bool,
    report: t.Callable[[Progress], None],
) -> Outcome:
    """Make the private store hold the wanted model; without a word to the server when it does.

    With ``may_pull`` false it stops before a pull or the reading of a GGUF file and says that one is needed.

    :raises StoreError: the model cannot be had.
    """
    done: list[str] = []
    original = _held(store, wanted.original)
    if wanted.source.startswith(GGUF) and not _gguf_known(wanted, store):
        original = None
    if original is None:
        if check or not may_pull:
            then = (f"create {wanted.side}", f"write the manifest of {wanted.name}") if check else ()
            return Outcome((f"pull {wanted.original}", *then), None, pull_needed=True)
        _fetch(wanted, server, store, report)
        done.append(f"pulled {wanted.original}")
        original = _held(store, wanted.original)
        if original is None:
            raise StoreError(
                f"{wanted.original} is not whole in {store.path} after the pull",
                "Look at journalctl --namespace=sdai -u sdai-ollama-store.service and run again",
            )
    variant = store.manifest(wanted.side)
    if variant is None or not store.is_variant(variant, original, wanted.parameters):
        done.append(f"{'create' if check else 'created'} {wanted.side}")
        if check:
            return Outcome((*done, f"write the manifest of {wanted.name}"), original)
        variant = _create(wanted, server, store, original)
    if not private.is_current(wanted.name, variant):
        done.append(f"{'write' if check else 'wrote'} the manifest of {wanted.name}")
        if not check:
            private.write(wanted.name, variant)
    return Outcome(tuple(done), variant)


def retire(
    replica_id: str, store: Store, replicas: str, *, with_models: bool, check: bool
) -> tuple[tuple[str, ...], int]:
    """Remove a replica's names; with ``with_models`` also the models that no replica of the node uses any more.

    Blobs that nothing names go in any case. Returns what was done and the bytes that were freed.
    """
    done = []
    own = os.path.join(replicas, replica_id)
    if os.path.isdir(own):
        done.append(f"removed {own}")
        if not check:
            shutil.rmtree(own)
    if store.manifest(side_name(replica_id)) is not None:
        done.append(f"removed {side_name(replica_id)}")
        if not check:
            store.remove(side_name(replica_id))
    others = _private_stores(replicas, but=replica_id)
    if with_models:
        done += _remove_unused(store, others, check=check)
    pruned, freed = _prune(store, others, check=check)
    return (*done, *pruned), freed


def clean(store: Store, replicas: str, *, check: bool) -> tuple[tuple[str, ...], int]:
    """Remove the blobs that nothing names. Returns what was done and the bytes that were freed."""
    return _prune(store, _private_stores(replicas, but=""), check=check)


def _private_stores(replicas: str, *, but: str) -> list[Store]:
    entries = sorted(os.listdir(replicas)) if os.path.isdir(replicas) else []
    return [Store(os.path.join(replicas, entry, "models")) for entry in entries if entry != but]


def _prune(store: Store, others: t.Sequence[Store], *, check: bool) -> tuple[tuple[str, ...], int]:
    # What a pull has brought is named when all of it is there.
    if not os.path.isdir(store.path) or is_held(store.path):
        return (), 0
    try:
        with contextlib.nullcontext() if check else store_lock(store.path, ""):
            count, freed = prune(store, others, dry=check)
    except Busy:
        return (), 0
    return ((f"removed {count} blobs",) if count else ()), freed


def _held(store: Store, name: Name) -> t.Optional[Manifest]:
    """The manifest of a name of which every blob is there in full."""
    manifest = store.manifest(name)
    return manifest if manifest is not None and not store.missing(manifest) else None


def _fetch(wanted: Wanted, server: StoreServer, store: Store, report: t.Callable[[Progress], None]) -> None:
    if wanted.source.startswith(GGUF):
        _create_from_gguf(wanted, server, store, report)
        return
    name = wanted.original
    if not wanted.registry or name.host != DEFAULT_HOST:
        pull(server, store, name, insecure=False, report=report, stall_seconds=wanted.stall_seconds)
        return
    mirrored = name.mirrored(wanted.registry)
    pull(server, store, mirrored, insecure=wanted.insecure, report=report, stall_seconds=wanted.stall_seconds)
    try:
        server.copy(str(mirrored), str(name))
    except OllamaError as exc:
        raise StoreError(f"{mirrored} cannot be copied to {name}: {exc}", _remedy(exc, store)) from exc
    store.remove(mirrored)


def _create(wanted: Wanted, server: StoreServer, store: Store, original: Manifest) -> Manifest:
    try:
        server.create(str(wanted.side), {"from": str(wanted.original), "parameters": dict(wanted.parameters)})
    except OllamaError as exc:
        raise StoreError(f"{wanted.side} cannot be created: {exc}", _remedy(exc, store)) from exc
    variant = store.manifest(wanted.side)
    if variant is None or not store.is_variant(variant, original, wanted.parameters):
        raise StoreError(
            f"{wanted.side} is not {wanted.original} with the plan's parameters after its creation",
            "This Ollama version creates models in a way the collection does not know; use a tested one",
        )
    return variant


def _remedy(error: OllamaError, store: Store) -> str:
    if "no space left" in str(error):
        return f"Free space below {store.path} and run again"
    return "See the log of the store server: journalctl --namespace=sdai -u sdai-ollama-store.service"


def _gguf_path(wanted: Wanted) -> str:
    return wanted.source[len(GGUF) :]


def _gguf_record(wanted: Wanted, store: Store) -> str:
    return os.path.join(store.path, "gguf", f"{wanted.name.model}_{wanted.name.tag}.json")


def _gguf_state(path: str) -> dict[str, t.Any]:
    """:raises StoreError: no such file on this node."""
    try:
        found = os.stat(path)
    except OSError as exc:
        raise StoreError(
            f"{path} cannot be read ({exc})", "Copy the GGUF file to this node, or correct `source`"
        ) from exc
    return {"path": path, "size": found.st_size, "mtime_ns": found.st_mtime_ns}


def _gguf_known(wanted: Wanted, store: Store) -> bool:
    """Whether the file is the one that the model was created from; its size and time stand for its content."""
    try:
        with open(_gguf_record(wanted, store), encoding="utf-8") as file:
            return bool(json.load(file) == _gguf_state(_gguf_path(wanted)))
    except (FileNotFoundError, ValueError):
        return False


def _create_from_gguf(wanted: Wanted, server: StoreServer, store: Store, report: t.Callable[[Progress], None]) -> None:
    path = _gguf_path(wanted)
    state = _gguf_state(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        read = 0
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
            read += len(chunk)
            report(Progress(path, "reading", read, state["size"]))
        file.seek(0)
        name = f"sha256:{digest.hexdigest()}"
        try:
            server.send_blob(name, file, state["size"])
            server.create(str(wanted.original), {"files": {os.path.basename(path): name}})
        except OllamaError as exc:
            raise StoreError(f"no model can be created from {path}: {exc}", "See that it is a GGUF file") from exc
    make_folders(os.path.dirname(_gguf_record(wanted, store)))
    write_file(_gguf_record(wanted, store), json.dumps(state).encode())


def _remove_unused(store: Store, replicas: t.Sequence[Store], *, check: bool) -> list[str]:
    """Remove the names in the store whose weights no replica of the node uses."""
    used: set[str] = set()
    for replica in replicas:
        for name in replica.names():
            manifest = replica.manifest(name)
            if manifest is None:
                # Not understood: what it uses is not known, so nothing may go.
                return []
            used |= manifest.weights
    done = []
    for name in store.names():
        manifest = store.manifest(name)
        if manifest is not None and not manifest.weights & used:
            done.append(f"removed {name}")
            if not check:
                store.remove(name)
    return done
