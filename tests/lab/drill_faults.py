# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The failures of the drill: how each is brought about, and how the lab gets over it where it cannot by itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
import typing as t
from dataclasses import dataclass

import lab
from _engine import ROOT, LabError, containers, podman
from _hosts import HOSTS, Host

BIN = ROOT / ".venv" / "bin"
FRONTEND = next(host for host in HOSTS if host.name == "frontend1")
APPLY_S = 240


@dataclass(frozen=True)
class Target:
    """The replica that is hit, and its node. Where the frontend is hit there is no replica."""

    host: Host
    replica: str = ""

    @property
    def unit(self) -> str:
        return f"sdai-ollama@{self.replica}.service"


@dataclass(frozen=True)
class Failure:
    """`strike` returns the time of day (time.time()) when it had happened.

    `down_s`: HAProxy must know within that time; None: it need not. `lossless`: no request that had not begun may fail,
    and with `uncut` no other either. `back_s`: bound for the minimum, counted from `repair` or, without one, from the
    failure.
    """

    name: str
    strike: t.Callable[[Target], float]
    back_s: float
    repair: t.Callable[[Target], None] | None = None
    down_s: float | None = None
    lossless: bool = True
    uncut: bool = False
    at_frontend: bool = False


def inside(host: Host, script: str) -> str:
    """Not by ssh, which a vanished node does not answer."""
    return podman("exec", host.container, "sh", "-c", script, seconds=30).stdout


def _timed(host: Host, script: str) -> float:
    return float(inside(host, f"date +%s.%N && {script}").split()[0])


def kill_node(target: Target) -> float:
    # The time that Podman takes to do it counts too.
    begun = time.time()
    lab.kill(target.host)
    return begun


def start_node(target: Target) -> None:
    podman("start", target.host.container, seconds=60)


def _signal(name: str, whom: str) -> t.Callable[[Target], float]:
    def strike(target: Target) -> float:
        return _timed(target.host, f"systemctl kill --kill-whom={whom} --signal={name} {target.unit}")

    return strike


def _signal_engine(name: str) -> t.Callable[[Target], float]:
    def strike(target: Target) -> float:
        return _timed(target.host, f"pkill --signal {name} --parent $(systemctl show -P MainPID {target.unit})")

    return strike


def _haproxy(verb: str) -> t.Callable[[Target], float]:
    return lambda target: _timed(target.host, f"systemctl {verb} haproxy")


def kill_apply(_target: Target) -> float:
    """SIGKILL for a run of apply, and all that it started, while its roles work on the nodes."""
    command = [BIN / "ansible-playbook", "aivailable.sdai.apply", "-i", ROOT / "inventories/lab"]
    environment = {**os.environ, "ANSIBLE_HOME": str(ROOT / ".ansible"), "ANSIBLE_NOCOLOR": "1"}
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    guard = threading.Timer(APPLY_S, os.killpg, (run.pid, signal.SIGKILL))
    guard.start()
    said = ""
    try:
        for line in run.stdout or ():
            said = said[-4000:] + line
            if re.match(r"TASK \[aivailable\.sdai\.ollama : ", line):
                return time.time()
        raise LabError(f"apply ended before its roles came to the nodes; it said:\n{said}")
    finally:
        guard.cancel()
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


FAILURES = (
    Failure("node killed", kill_node, back_s=90, repair=start_node, down_s=3),
    Failure("node vanished", lambda target: lab.vanish(target.host), back_s=15, down_s=5,
            repair=lambda target: lab.back(target.host)),
    Failure("server killed", _signal("KILL", "main"), back_s=60, down_s=3),
    Failure("engine killed", _signal_engine("KILL"), back_s=30, lossless=False),
    Failure("server and engine hang", _signal("STOP", "all"), back_s=120, down_s=5),
    Failure("engine hangs", _signal_engine("STOP"), back_s=120, lossless=False),
    Failure("HAProxy killed", _haproxy("kill --kill-whom=all --signal=KILL"), back_s=5, lossless=False,
            at_frontend=True),
    Failure("HAProxy restarted", _haproxy("restart"), back_s=5, lossless=False, at_frontend=True),
    Failure("HAProxy reloaded", _haproxy("reload"), back_s=20, uncut=True, at_frontend=True),
    Failure("apply killed", kill_apply, back_s=20, uncut=True, at_frontend=True),
)  # fmt: skip


def heal() -> None:
    """Undoes whatever an interrupted drill has left; safe at any time."""
    listed = containers()
    for host in HOSTS:
        if host.container not in listed:
            raise LabError(f"{host.container} is gone; `make demo` makes the lab anew")
        if listed[host.container]["State"] != "running":
            podman("start", host.container, seconds=60)
        if host.gpus:
            lab.back(host)
            inside(host, "systemctl kill --kill-whom=all --signal=CONT 'sdai-ollama@*.service' 2>/dev/null; true")
