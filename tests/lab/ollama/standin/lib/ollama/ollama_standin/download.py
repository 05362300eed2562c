# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One blob on its way into the store: parts in parallel, progress that outlives a cancelled pull.

The lab's blob server sends only the data of a sparse file: "X-Lab-Data: n" says that n bytes come and that the rest of
the range is a hole, "X-Lab-Rate" at which pace (bytes a second) to count that hole, so that progress can be seen.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import typing as t
from pathlib import Path

from . import faults, remote
from .gojson import ApiError
from .store import Store, go_error

MEGABYTE = 1000 * 1000
_PARTS, _SMALLEST, _LARGEST = 16, 100 * MEGABYTE, 1000 * MEGABYTE
_TRIES = 6
_BLOCK = 1 << 18
_active: dict[str, Download] = {}
_guard = threading.Lock()


class _Cancelled(Exception):
    """Nobody waits for this blob any more."""


class _Part:
    def __init__(self, number: int, offset: int, size: int, completed: int = 0) -> None:
        self.number, self.offset, self.size, self.completed = number, offset, size, completed

    def document(self) -> str:
        return json.dumps({"N": self.number, "Offset": self.offset, "Size": self.size, "Completed": self.completed})


class _Pace:
    """Counts bytes for all parts together at one rate."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.due = time.monotonic()

    def wait(self, count: int, rate: int) -> None:
        with self.lock:
            self.due = max(self.due, time.monotonic()) + count / rate
            pause = self.due - time.monotonic()
        time.sleep(pause)


class Download:
    def __init__(self, store: Store, url: str, digest: str) -> None:
        self.config, self.url = store.config, url
        self.path = store.blob(digest)
        self.partial = self.path.with_name(self.path.name + "-partial")
        self.parts: list[_Part] = []
        self.total = 0
        self.users = 0
        self.error: ApiError | None = None
        self.done = threading.Event()
        self.cancelled = threading.Event()
        self.pace = _Pace()
        self.transfers: set[http.client.HTTPConnection] = set()

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self.parts)

    def wait(self, seconds: float) -> bool:
        return self.done.wait(seconds)

    def leave(self) -> None:
        with _guard:
            self.users -= 1
            if self.users == 0 and not self.done.is_set():
                self.cancelled.set()
        if self.cancelled.is_set():
            for connection in list(self.transfers):
                with contextlib.suppress(OSError, AttributeError):  # not connected yet, or no longer
                    connection.sock.shutdown(socket.SHUT_RDWR)
            self.done.wait()

    def part_file(self, part: _Part) -> Path:
        return self.partial.with_name(f"{self.partial.name}-{part.number}")

    def _save(self, part: _Part) -> None:
        path = self.part_file(part)
        try:
            path.write_text(part.document())
        except OSError as error:
            raise go_error("open", path, error) from None

    def run(self) -> None:
        try:
            self._prepare()
            where = remote.direct(self.url, self.config)
            failures: list[ApiError] = []
            gate = threading.Semaphore(_PARTS)
            threads = [threading.Thread(target=self._get, args=(p, where, failures, gate), daemon=True)
                       for p in self.parts if p.completed < p.size]  # fmt: skip
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if failures:
                raise failures[0]
            if self.cancelled.is_set():
                raise ApiError(500, "context canceled")
            for part in self.parts:
                self.part_file(part).unlink(missing_ok=True)
            self.partial.replace(self.path)
        except ApiError as error:
            self.error = error
        except OSError as error:
            self.error = go_error("open", self.partial, error)
        finally:
            with _guard:
                _active.pop(str(self.path), None)
            self.done.set()

    def _prepare(self) -> None:
        found = sorted(self.path.parent.glob(self.partial.name + "-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]))
        for path in found:
            try:
                document = json.loads(path.read_text())
            except ValueError:
                raise ApiError(500, "EOF") from None
            self.parts.append(_Part(document["N"], document["Offset"], document["Size"], document["Completed"]))
        if self.parts:
            self.total = sum(part.size for part in self.parts)
            return
        total = remote.size(self.url, self.config)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        size = min(max(total // _PARTS, _SMALLEST), _LARGEST)
        for number, offset in enumerate(range(0, total, size)):
            part = _Part(number, offset, min(size, total - offset))
            self._save(part)
            self.parts.append(part)
        self.total = total
        with self.partial.open("wb") as stream:
            stream.truncate(total)

    def _get(self, part: _Part, where: str, failures: list[ApiError], gate: threading.Semaphore) -> None:
        with gate:
            try:
                self._with_retries(part, where)
            except _Cancelled:
                pass
            except ApiError as error:
                failures.append(error)
                self.cancelled.set()
            finally:
                with contextlib.suppress(ApiError):
                    self._save(part)

    def _with_retries(self, part: _Part, where: str) -> None:
        tries = 0
        while True:
            try:
                self._range(part, where)
                return
            except TimeoutError:
                continue  # a stalled part starts again from where it is, as often as it takes
            except (ConnectionError, http.client.HTTPException, remote.Unreachable) as error:
                if tries == _TRIES:
                    raise ApiError(500, f"max retries exceeded: {error}") from None
                if self.cancelled.wait(2.0**tries):
                    raise _Cancelled from None
                tries += 1
            except OSError as error:
                raise go_error("write", self.partial, error) from None

    def _range(self, part: _Part, where: str) -> None:
        first, last = part.offset + part.completed, part.offset + part.size - 1
        connection = remote.connect(where)
        self.transfers.add(connection)
        try:
            try:
                connection.request(
                    "GET",
                    remote.target(where),
                    headers={
                        "Range": f"bytes={first}-{last}",
                        "User-Agent": "Go-http-client/1.1",
                        "X-Lab-Sparse": "1",
                    },
                )
                response = connection.getresponse()
            except TimeoutError:
                raise
            except OSError as error:
                raise remote.Unreachable(remote.reworded(error, where)) from None
            if response.status not in (200, 206):
                raise remote.Unreachable(f"unexpected status code {response.status}")
            sparse = response.headers.get("X-Lab-Data")
            data = int(sparse) if sparse is not None else last - first + 1
            self._receive(part, response, data)
            rate = int(response.headers.get("X-Lab-Rate") or 0)
            while part.completed < part.size:
                self._skip(part, rate)
        finally:
            self.transfers.discard(connection)
            connection.close()

    def _receive(self, part: _Part, response: t.Any, count: int) -> None:
        with self.partial.open("r+b") as stream:
            stream.seek(part.offset + part.completed)
            while count > 0:
                if self.cancelled.is_set():
                    raise _Cancelled
                block = response.read1(min(_BLOCK, count))
                if not block:
                    raise remote.Unreachable("unexpected EOF")
                stream.write(block)
                part.completed += len(block)
                count -= len(block)

    def _skip(self, part: _Part, rate: int) -> None:
        """A hole: nothing to write, the file has its full length already."""
        if self.cancelled.is_set():
            raise _Cancelled
        count = min(part.size - part.completed, max(_BLOCK, rate // 50) if rate else part.size)
        if rate:
            self.pace.wait(count, rate)
        part.completed += count


def join(store: Store, url: str, digest: str) -> Download:
    """The download of a blob, shared by all who want it from this server."""
    with _guard:
        key = str(store.blob(digest))
        task = _active.get(key)
        if task is None:
            task = _active[key] = Download(store, url, digest)
            threading.Thread(target=task.run, daemon=True).start()
        task.users += 1
        return task


def terminated(port: int) -> None:
    """What SIGTERM can leave behind in the real server, on demand: an empty part file, on which later pulls fail."""
    if faults.active("empty-part-on-term", port):
        for task in list(_active.values()):
            for part in task.parts[:1]:
                task.part_file(part).write_bytes(b"")
