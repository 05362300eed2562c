# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module is private to the collection: it may change
# without notice between releases.
"""Pulls a model through the store server: bounded retries, resumed parts, progress, errors with a remedy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import typing as t
import urllib.request
from dataclasses import dataclass

from ._ollama import OllamaError
from ._ollama_server import Patience
from ._ollama_store import DEFAULT_HOST, Manifest, Name, Store, make_folders, write_file

# In a row without a step forward.
ATTEMPTS = 5
STEP_BYTES = 64 * 1024 * 1024
# Ollama asks a registry that sends nothing again and again for ever; to begin anew often helps.
STALL_SECONDS = 120
# No line comes while a blob is verified: 100 GB from a slow disk.
VERIFY_SECONDS = 1800
# A registry that changes what it sends does so again: once may be an accident.
MISMATCHES = 2
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

    def lines(
        self, path: str, body: t.Mapping[str, t.Any], patience: Patience
    ) -> t.Generator[dict[str, t.Any], None, None]:
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

    @property
    def completed(self) -> int:
        return sum(self._done.values())

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(self._totals)

    def add(self, line: t.Mapping[str, t.Any]) -> Progress:
        digest = str(line.get("digest", ""))
        if digest:
            self.digest = digest
            self._totals[digest] = int(line.get("total", self._totals.get(digest, 0)))
            self._done[digest] = int(line.get("completed", 0))
        completed = self.completed
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
        with urllib.request.build_opener().open(request, timeout=timeout) as answer:
            return Manifest.parse(answer.read())
    except (OSError, ValueError):
        return None


def check_space(name: Name, need: int, free: int) -> None:
    """:raises StoreError: ``need`` bytes and a spare do not fit in ``free``."""
    if need + SPARE_BYTES > free:
        gib = 1024.0**3
        raise StoreError(
            f"no room for {name}: {need / gib:.2f} GiB are to be pulled, {free / gib:.2f} GiB are free",
            "Free space on the disk of /var/lib/sdai/store, or mount a larger one there",
        )


def pull(
    server: Server,
    store: Store,
    name: Name,
    *,
    insecure: bool,
    report: t.Callable[[Progress], None],
    stall_seconds: float = STALL_SECONDS,
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
    fruitless, mismatches, best = 0, 0, 0
    while True:
        suspects = store.unproved_blobs()
        tally = Tally(str(name), sizes, clock)
        error, stalled = _attempt(
            server, store, name, insecure=insecure, tally=tally, report=report, stall_seconds=stall_seconds, clock=clock
        )
        error = error or _false_blobs(store, name, suspects)
        if not error:
            return
        mismatches += "digest mismatch" in error
        _give_up_if_final(store, name, error, tally, mismatches)
        if error == "EOF":
            store.drop_broken_partials(tally.digest)
        fruitless = 1 if fruitless and tally.completed >= best + STEP_BYTES else fruitless + 1
        best = max(best, tally.completed)
        if fruitless >= ATTEMPTS:
            break
        report(Progress(str(name), f"begins anew ({fruitless} of {ATTEMPTS} times without success): {error}", 0, 0))
        # Who stalled has been waited for.
        sleep(1.0 if stalled else 2.0**fruitless)
    raise StoreError(
        f"pulling {name} failed {ATTEMPTS} times in a row, at last with: {error}",
        f"See that this node reaches {name.host} and what it sends is stored there (journalctl --namespace=sdai "
        "-u sdai-ollama-store.service), then run again: what has been pulled is kept",
    )


def _false_blobs(store: Store, name: Name, suspects: t.Collection[str]) -> str:
    """Looks into the blobs that the pull found there; returns what is wrong with them, empty when nothing is."""
    manifest = store.manifest(name)
    false = store.drop_false_blobs(manifest, suspects) if manifest is not None else ()
    if false:
        store.remove(name)
    return f"what an earlier pull had left was not {', '.join(false)}" if false else ""


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
    stall_seconds: float,
    clock: t.Callable[[], float],
) -> tuple[str, bool]:
    """One pull; returns what ended it, empty on success, and whether that was silence."""

    def patience(line: t.Mapping[str, t.Any]) -> float:
        return VERIFY_SECONDS if str(line.get("status", "")).startswith(("verifying", "writing")) else stall_seconds

    known = tally.total > 0
    success = False
    seen: tuple[str, int] = ("", 0)
    since = clock()
    body = {"model": str(name), "insecure": insecure, "stream": True}
    try:
        with contextlib.closing(server.lines("/api/pull", body, patience)) as lines:
            for line in lines:
                if "error" in line:
                    return str(line["error"]) or "an error without words", False
                progress = tally.add(line)
                report(progress)
                if not known and progress.total > progress.completed:
                    check_space(name, progress.total - progress.completed, store.free_bytes())
                # Lines come all the time, also while nothing else does.
                if seen != (progress.status, progress.completed):
                    seen, since = (progress.status, progress.completed), clock()
                elif clock() - since >= patience(line):
                    return f"{name.host} has sent nothing for {stall_seconds:.0f} s", True
                success = line.get("status") == "success"
    except OllamaError as exc:
        return str(exc), False
    return "" if success else "the answer ended early", False


def _give_up_if_final(store: Store, name: Name, error: str, tally: Tally, mismatches: int) -> None:
    """:raises StoreError: an error that no retry cures."""
    where = "the Ollama library" if name.host == DEFAULT_HOST else name.host
    if "no space left" in error:
        # What runs on the node needs the disk more than the next pull needs this.
        store.drop_partials(tally.digests)
        raise StoreError(
            f"the disk was full while pulling {name} ({error}). What had come of it was removed",
            f"Free space below {store.path}, {(tally.total + SPARE_BYTES) / 1024.0**3:.1f} GiB in all, and run again",
        )
    if error.startswith("pull model manifest") and ("file does not exist" in error or "manifest unknown" in error):
        raise StoreError(
            f"{where} has no model {name} ({error})",
            "Correct the model's name or tag, or its `source` in the catalog",
        )
    if "file does not exist" in error:
        raise StoreError(
            f"{where} names {name} but does not have all of it ({error})",
            "Complete it there, or set another `source` in the catalog",
        )
    if "no Location header" in error:
        raise StoreError(
            f"{where} sends {name} without the redirect to another host name that Ollama insists on ({error})",
            "Use a mirror that redirects them",
        )
    if re.search(r'\b40[13]: |unauthorized|access denied|unsupported protocol scheme ""', error):
        raise StoreError(
            f"{where} refuses to give {name} to this node ({error})",
            "See that its name is right and that it is public, or allow the key of the node's store server there",
        )
    if mismatches >= MISMATCHES:
        raise StoreError(
            f"{where} sends other data for {name} than its manifest promises ({error}). Nothing of it was kept",
            "Look for a proxy or a mirror that changes or mixes up downloads, then run again",
        )
    if "invalid model name" in error:
        raise StoreError(f"{name} is not a name that Ollama takes ({error})", "Correct the model's `source`")


def write_progress(path: str, progress: Progress) -> None:
    """Leave the state of a pull where the control node looks for it."""
    make_folders(path.rpartition("/")[0])
    content = {"text": str(progress), "completed": progress.completed, "total": progress.total}
    write_file(path, json.dumps(content).encode())
