# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""One at a time changes a node's store: a pull goes on in the background when the run that began it was killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import typing as t

from ._ollama_pull import Progress, StoreError

# As long as a pull is given.
WAIT_SECONDS = 48 * 3600.0
POLL_SECONDS = 2.0


class Busy(Exception):
    """Somebody else changes the store."""


@contextlib.contextmanager
def store_lock(store: str, progress: str) -> t.Iterator[None]:
    """Hold the store in the directory ``store``, or do not wait. ``progress`` names the file that tells how far one is.

    The kernel lets go of it when the process ends, however it does.

    :raises Busy: somebody else holds it.
    """
    # Never through a link: the directory is the service's, this process is root.
    handle = os.open(os.path.join(store, ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Busy(file.read()) from exc
        file.truncate(0)
        file.write(progress)
        file.flush()
        yield


@contextlib.contextmanager
def wait_for_store(
    store: str,
    progress: str,
    report: t.Callable[[Progress], None],
    *,
    sleep: t.Callable[[float], None] = time.sleep,
    clock: t.Callable[[], float] = time.monotonic,
) -> t.Iterator[None]:
    """Like :func:`store_lock`, but wait and report how far the other is.

    :raises StoreError: the time is up.
    """
    end = clock() + WAIT_SECONDS
    with contextlib.ExitStack() as stack:
        while (other := _take(stack, store, progress)) is not None:
            if clock() >= end:
                raise StoreError(
                    f"another pull has held {store} for {WAIT_SECONDS / 3600:.0f} hours",
                    f"Find it with `fuser {store}/.lock` on the node, end it and run again",
                )
            # Where both tell it in the same file, the other's word is there already.
            if other != progress:
                report(Progress(store, f"waiting for another pull: {_word(other)}", 0, 0))
            sleep(POLL_SECONDS)
        yield


def _take(stack: contextlib.ExitStack, store: str, progress: str) -> t.Optional[str]:
    """Hold the lock as long as ``stack``, or return where the one that holds it tells how far it is."""
    try:
        stack.enter_context(store_lock(store, progress))
    except Busy as exc:
        return str(exc)
    return None


def is_held(store: str) -> bool:
    """Whether somebody changes the store now; looks without leaving anything behind."""
    try:
        handle = os.open(os.path.join(store, ".lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _word(path: str) -> str:
    """What the other says; empty before its first word."""
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file)["text"])
    except (OSError, ValueError, KeyError):
        return ""
