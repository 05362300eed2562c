# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module is private to the collection: it may change
# without notice between releases.
"""Pulls a model through the store server: bounded retries, resumed parts, progress, errors with a remedy."""

from __future__ import annotations

import json
import os
import time
import typing as t
import urllib.request
from dataclasses import dataclass

from ._ollama import OllamaError
from ._ollama_store import DEFAULT_HOST, Manifest, Name, Store, make_folders, write_file

ATTEMPTS = 5
# No line comes while a blob is verified: 100 GB from a slow disk.
SILENCE_SECONDS = 1800
# A pull ends with the disk full instead of looking first; the variant and the logs need a little too.
SPARE_BYTES = 256 * 1024 * 1024
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class StoreError(Exception):
    """A model cannot be had. ``remedy`` says what the administrator can do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.args[0]}. {self.remedy}"


class Server(t.Protocol):
    """What a pull asks of the store server's client."""

    def lines(self, path: str, body: t.Mapping[str, t.Any], timeout: float) -> t.Iterator[dict[str, t.Any]]:
        """POST ``body``; the objects of the streamed answer. Raises :class:`OllamaError`."""


@dataclass(frozen=True)
class Progress:
    """How far a pull is, in bytes; ``total`` 0 while it is not known."""

    name: str
    status: str
    completed: int
    total: int
    rate: float = 0.0

    def __str__(self) -> str:
        if self.total <= 0:
            return f"{self.name}: {self.status}"
        gib = 1024.0**3
        return (
            f"{self.name}: {100 * self.completed // self.total} % of {self.total / gib:.2f} GiB"
            f" ({self.rate / 1024**2:.0f} MiB/s), {self.status}"
        )


class Tally:
    """Adds up the lines of a pull, blob by blob."""

    def __init__(self, name: str, sizes: t.Mapping[str, int], clock: t.Callable[[], float]) -> None:
        self._name = name
        self._totals: dict[str, int] = dict(sizes)
        self._done: dict[str, int] = {}
        self._clock = clock
        self._mark: t.Optional[tuple[float, int]] = None
        self._rate = 0.0
        self.digest = ""

    @property
    def total(self) -> int:
        return sum(self._totals.values())

    def add(self, line: t.Mapping[str, t.Any]) -> Progress:
        digest = str(line.get("digest", ""))
        if digest:
            self.digest = digest
            self._totals[digest] = int(line.get("total", self._totals.get(digest, 0)))
            self._done[digest] = int(line.get("completed", 0))
        completed = sum(self._done.values())
        now = self._clock()
        if self._mark is None:
            self._mark = (now, completed)
        elif now - self._mark[0] >= 1.0:
            self._rate = max(0.0, (completed - self._mark[1]) / (now - self._mark[0]))
            self._mark = (now, completed)
        return Progress(self._name, str(line.get("status", "")), completed, self.total, self._rate)


def registry_manifest(name: Name, *, insecure: bool, timeout: float = 20.0) -> t.Optional[Manifest]:
    """The manifest as the registry has it; None when it cannot be read from here.

    The store server may reach a registry that this process does not (a proxy in its environment), so not
    getting it is no error: the pull will tell.
    """
    scheme = "http" if insecure else "https"
    url = f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
    request = urllib.request.Request(url, headers={"Accept": MANIFEST_TYPE})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return Manifest.parse(answer.read())
    except (OSError, ValueError):
        return None


def check_space(name: Name, need: int, free: int) -> None:
    """:raises StoreError: ``need`` bytes and a spare do not fit in ``free``."""
    if need + SPARE_BYTES > free:
        gib = 1024.0**3
        raise StoreError(
            f"no room for {name}: {need / gib:.2f} GiB are to be pulled, {free / gib:.2f} GiB are free",
            "Free space below /var/lib/sdai/store, retire models with ollama_prune, or mount a larger disk there",
        )


def pull(
    server: Server,
    store: Store,
    name: Name,
    *,
    insecure: bool,
    report: t.Callable[[Progress], None],
    sleep: t.Callable[[float], None] = time.sleep,
    clock: t.Callable[[], float] = time.monotonic,
) -> None:
    """Pull ``name`` into ``store`` through ``server``; returns when all of it is there.

    :raises StoreError: it cannot be had, or not within the bound of retries.
    """
    known = registry_manifest(name, insecure=insecure)
    sizes: dict[str, int] = {}
    if known is not None:
        store.drop_cut_blobs(known)
        sizes = {layer.digest: layer.size for layer in store.missing(known)}
        check_space(name, sum(sizes.values()) - _partly(store, sizes), store.free_bytes())
    last = ""
    for attempt in range(1, ATTEMPTS + 1):
        tally = Tally(str(name), sizes, clock)
        try:
            last = _attempt(server, store, name, insecure=insecure, tally=tally, report=report, checked=bool(sizes))
        except OllamaError as exc:
            last = str(exc)
        if not last:
            return
        _give_up_if_final(name, last)
        if "EOF" in last:
            store.drop_broken_partials(tally.digest)
        report(Progress(str(name), f"attempt {attempt} of {ATTEMPTS} ended: {last}", 0, 0))
        if attempt < ATTEMPTS:
            sleep(2.0**attempt)
    raise StoreError(
        f"pulling {name} failed {ATTEMPTS} times, at last with: {last}",
        f"See that this node reaches {name.host} (journalctl --namespace=sdai -u sdai-ollama-store.service), "
        "then run again: what has been pulled is kept",
    )


def _partly(store: Store, sizes: t.Mapping[str, int]) -> int:
    """Bytes on disk of blobs that were pulled in part: allocated blocks, the file itself has its full length."""
    done = 0
    for digest, size in sizes.items():
        path = os.path.join(store.path, "blobs", digest.replace(":", "-") + "-partial")
        if os.path.exists(path):
            done += min(size, os.stat(path).st_blocks * 512)
    return done


def _attempt(
    server: Server,
    store: Store,
    name: Name,
    *,
    insecure: bool,
    tally: Tally,
    report: t.Callable[[Progress], None],
    checked: bool,
) -> str:
    """One pull; returns what ended it, empty on success."""
    success = False
    for line in server.lines("/api/pull", {"model": str(name), "insecure": insecure, "stream": True}, SILENCE_SECONDS):
        if "error" in line:
            return str(line["error"]) or "an error without words"
        progress = tally.add(line)
        report(progress)
        if not checked and progress.total > progress.completed:
            check_space(name, progress.total - progress.completed, store.free_bytes())
        success = line.get("status") == "success"
    return "" if success else "the answer ended early"


def _give_up_if_final(name: Name, error: str) -> None:
    """:raises StoreError: an error that no retry cures."""
    if "no space left" in error:
        raise StoreError(
            f"the disk is full while pulling {name}: {error}",
            "Free space below /var/lib/sdai/store and run again",
        )
    if "file does not exist" in error or "manifest unknown" in error:
        where = "the Ollama library" if name.host == DEFAULT_HOST else name.host
        raise StoreError(
            f"{where} has no model {name} ({error})",
            "Correct the model's name or tag, or its `source` in the catalog",
        )
    if "invalid model name" in error:
        raise StoreError(f"{name} is not a name that Ollama takes ({error})", "Correct the model's `source`")


def write_progress(path: str, progress: Progress) -> None:
    """Leave the state of a pull where the control node looks for it."""
    make_folders(path.rpartition("/")[0])
    content = {"text": str(progress), "completed": progress.completed, "total": progress.total}
    write_file(path, json.dumps(content).encode())
