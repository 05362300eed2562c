# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The control node: which run of ansible-playbook this is, and whether another one of it still runs."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
from pathlib import Path

from ..module_utils._run_lock import Holder

PROC = Path("/proc")
MACHINE_ID = Path("/etc/machine-id")


def this_run(pid: int) -> Holder:
    """The run whose ansible-playbook is the process ``pid``."""
    return Holder(
        user=_user(),
        host=socket.gethostname(),
        # The number itself is not for other hosts to see: machine-id(5).
        machine=hashlib.sha256(b"aivailable.sdai " + _text(MACHINE_ID).encode()).hexdigest()[:16],
        boot_id=_text(PROC / "sys/kernel/random/boot_id"),
        pid_namespace=_pid_namespace(),
        pid=pid,
        started=_started(pid) or "",
    )


def is_alive(holder: Holder, *, me: Holder) -> bool | None:
    """Whether the process of ``holder`` runs; None where that cannot be seen from here.

    Containers of one host share its boot but not its processes.
    """
    if not holder.same_host(me):
        return None
    if holder.boot_id != me.boot_id:
        return False
    if holder.pid_namespace != me.pid_namespace:
        return None
    return _started(holder.pid) == holder.started if holder.started else _exists(holder.pid)


def _exists(pid: int) -> bool:
    """For a control node without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container that runs under a number without a name.
        return str(os.getuid())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the boot; None when there is none, or only its corpse. See proc(5)."""
    fields = _text(PROC / str(pid) / "stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in ("Z", "X") else None
