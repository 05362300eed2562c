# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""One run at a time changes a fleet: who holds the lock, whether that one is dead, and the lock's file."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import json
import os
import tempfile
import time
import typing as t
from dataclasses import asdict, dataclass

STALE_SECONDS = 900


@dataclass(frozen=True)
class Holder:
    """A run of ansible-playbook. Pids and start times are reused and host names are not unique: all fields count."""

    user: str
    host: str
    machine: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: str

    @classmethod
    def from_dict(cls, value: t.Any) -> Holder:
        """:raises ValueError: not a holder."""
        try:
            return cls(
                **{name: str(value[name]) for name in cls.__dataclass_fields__ if name != "pid"}, pid=int(value["pid"])
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not the holder of a lock: {exc!r}") from exc

    def to_dict(self) -> dict[str, t.Any]:
        return asdict(self)

    def same_host(self, other: Holder) -> bool:
        return (self.host, self.machine) == (other.host, other.machine)

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (pid {self.pid})"


@dataclass(frozen=True)
class Lock:
    """What lies on the node. ``holder`` is None where nobody can read who it is; ``age`` counts from the last refresh.

    ``version`` changes with every refresh: who saw a dead lock replaces that one and no other.
    """

    holder: t.Optional[Holder]
    since: str
    age: float
    version: str

    @classmethod
    def from_dict(cls, value: t.Mapping[str, t.Any]) -> Lock:
        holder = Holder.from_dict(value["holder"]) if value["holder"] else None
        return cls(holder=holder, since=value["since"], age=value["age"], version=value["version"])

    def to_dict(self) -> dict[str, t.Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.holder is None:
            return f"somebody whose entry cannot be read, last heard of {self.age:.0f} s ago"
        return f"{self.holder}, since {self.since}, last heard of {self.age:.0f} s ago"


class Verdict(enum.Enum):
    """What a lock means to a run."""

    OURS = "ours"
    HELD = "held"
    GONE = "its process is gone"
    STALE = f"not refreshed for {STALE_SECONDS // 60} minutes"


def judge(lock: Lock, *, me: Holder, alive: t.Optional[bool]) -> Verdict:
    """Whether ``lock`` is dead. ``alive``: whether its process runs; None where that cannot be seen from here.

    Who is seen to be alive holds the lock however long ago it was refreshed.
    """
    if lock.holder == me:
        return Verdict.OURS
    if alive is False:
        return Verdict.GONE
    if alive is None and lock.age >= STALE_SECONDS:
        return Verdict.STALE
    return Verdict.HELD


def read(path: str) -> t.Optional[Lock]:
    """The lock that lies there; None where there is none."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
            written = os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        document = json.loads(raw)
        holder, since = Holder.from_dict(document["holder"]), str(document["since"])
    except (KeyError, TypeError, ValueError):
        holder, since = None, ""
    return Lock(
        holder=holder,
        since=since,
        # A clock that was set back makes a lock younger, never older.
        age=max(0.0, time.time() - written.st_mtime),
        version=f"{hashlib.sha256(raw).hexdigest()} {written.st_mtime_ns}",
    )


def take(path: str, me: Holder, *, over: str = "", force: bool = False) -> t.Optional[Lock]:
    """Take the lock where there is none, or over the one of version ``over``, or by ``force`` over any.

    Returns the lock that is in the way; None when the lock is ours.
    """
    with _alone(os.path.dirname(path)):
        found = read(path)
        if found is not None and found.holder == me:
            os.utime(path)
            return None
        if found is not None and not force and found.version != over:
            return found
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        handle, side = tempfile.mkstemp(dir=os.path.dirname(path))
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"holder": me.to_dict(), "since": since}, file)
        os.replace(side, path)
    return None


def refresh(path: str, me: Holder) -> bool:
    """Say that ``me`` is still there; False when the lock is no longer ours."""
    with _alone(os.path.dirname(path)):
        found = read(path)
        if found is None or found.holder != me:
            return False
        os.utime(path)
    return True


def release(path: str, me: Holder) -> bool:
    """Give the lock back; False when it is no longer ours."""
    folder = os.path.dirname(path)
    with _alone(folder):
        found = read(path)
        ours = found is not None and found.holder == me
        if ours:
            os.unlink(path)
        # Nothing is left behind on a host that has no other part of the site.
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return ours


@contextlib.contextmanager
def _alone(folder: str) -> t.Iterator[None]:
    """One process at a time looks at and changes what is in ``folder``; makes the folder."""
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
            os.chmod(folder, 0o755)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Who held it before may have removed it.
            if os.path.isdir(folder) and os.path.samestat(os.stat(folder), os.fstat(handle)):
                yield
                return
        finally:
            os.close(handle)
