# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pulling a model: manifest, then blob after blob, with progress lines and Ollama's errors."""

from __future__ import annotations

import json
import typing as t

from . import download, remote, sparse
from .config import Config
from .engine import ClientGone
from .gojson import ApiError
from .names import Name
from .store import MANIFEST, Model, Store

Report = t.Callable[[dict[str, t.Any]], None]
Gone = t.Callable[[], bool]
_TICK = 0.06


def pull(store: Store, name: Name, insecure: bool, *, report: Report, gone: Gone) -> None:
    config = store.config
    report({"status": "pulling manifest"})
    store.prepare(name)
    old = store.get(name)
    base = f"{'http' if insecure else 'https'}://{name.host}/v2/{name.namespace}/{name.model}"
    raw = _manifest(config, f"{base}/manifests/{name.tag}")
    manifest = json.loads(raw)
    fresh = []
    for layer in _once([*manifest["layers"], manifest["config"]]):
        if _fetch(store, f"{base}/blobs/{layer['digest']}", layer["digest"], report, gone):
            fresh.append(layer["digest"])
    report({"status": "verifying sha256 digest"})
    for digest in fresh:
        _verify(store, digest)
    report({"status": "writing manifest"})
    store.write_raw(name, raw)
    if old is not None and not config.no_prune:
        _forget(store, old)
    report({"status": "success"})


def _once(layers: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    return list({layer["digest"]: layer for layer in layers}.values())


def _manifest(config: Config, url: str) -> bytes:
    try:
        answer = remote.get(url, {"Accept": MANIFEST, "User-Agent": remote.agent(config)})
    except remote.Unreachable as error:
        raise ApiError(500, f'pull model manifest: Get "{url}": {error}') from None
    if answer.status == 404:
        raise ApiError(500, "pull model manifest: file does not exist")
    if answer.status >= 400:
        raise ApiError(500, f"pull model manifest: {answer.status}: {answer.body.decode('utf-8', 'replace')}")
    return answer.body


def _fetch(store: Store, url: str, digest: str, report: Report, gone: Gone) -> bool:
    """Have a blob; false when it was there. What is there is trusted, whatever its content."""
    line = {"status": f"pulling {digest.removeprefix('sha256:')[:12]}", "digest": digest}
    path = store.blob(digest)
    if path.exists():
        size = path.stat().st_size
        report({**line, "total": size, "completed": size})
        return False
    task = download.join(store, url, digest)
    try:
        while not task.wait(_TICK):
            if gone():
                raise ClientGone
            report(_progress(line, task))
    finally:
        task.leave()
    if task.error is not None:
        raise task.error
    report(_progress(line, task))
    return True


def _progress(line: dict[str, t.Any], task: download.Download) -> dict[str, t.Any]:
    found = {**line, "total": task.total}
    if task.completed:
        found["completed"] = task.completed
    return found


def _verify(store: Store, digest: str) -> None:
    path = store.blob(digest)
    got = "sha256:" + sparse.sha256(path)
    if got != digest:
        path.unlink()
        raise ApiError(500, f"digest mismatch, file must be downloaded again: want {digest}, got {got}")


def _forget(store: Store, old: Model) -> None:
    """Layers of the replaced manifest that nothing names any more."""
    named = store.named_digests()
    for layer in [*old.layers, old.config_layer]:
        if layer["digest"] not in named:
            store.blob(layer["digest"]).unlink(missing_ok=True)
