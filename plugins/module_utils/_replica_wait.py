# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""How far replicas are: whether their units have proved themselves, or whether their last answers have ended."""

from __future__ import annotations

import json
import re
import subprocess
import time
import typing as t
from pathlib import Path

PROPERTIES = (
    "Id",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "Result",
    "Job",
    "InvocationID",
    "InactiveExitTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
)
COMMAND_TIMEOUT_S = 20
POLL_S = 0.25
# A frontend that has requests waiting sends the next one as soon as one ends.
QUIET_S = 1.0
# The journal shows a line some time after it was written.
JOURNAL_S = 5.0
JOURNAL_LINES = 60
TCP_ESTABLISHED = "01"
TCP_SYN_RECV = "03"
OWN_WORDS = re.compile(r": (preflight|prove) failed: ")
STEPS = {"start-pre": "waits for its GPU", "start-post": "loads", "auto-restart": "failed"}


class WaitError(Exception):
    """The node cannot be asked; one line for the administrator."""


def unit_of(replica_id: str) -> str:
    return f"sdai-ollama@{replica_id}.service"


def parse_show(text: str) -> dict[str, dict[str, str]]:
    """The properties of each unit, by its name, from what ``systemctl show`` prints."""
    found = {}
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("Id"):
            found[values["Id"]] = values
    return found


def progress(values: t.Mapping[str, str], now: float) -> dict[str, t.Any]:
    """How far the proof of one unit is. ``now``: seconds of the clock that systemd's monotonic timestamps count."""
    active, sub = values.get("ActiveState", "inactive"), values.get("SubState", "dead")
    begun = int(values.get("InactiveExitTimestampMonotonic") or 0) / 1e6
    entered = int(values.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    proved = active in ("active", "reloading", "refreshing")
    pending = values.get("Job", "") not in ("", "0")
    failed = not proved and (
        active == "failed" or sub.startswith("auto-restart") or (active == "inactive" and not pending)
    )
    return {
        "proved": proved,
        "failed": failed,
        "settled": proved or failed,
        "enabled": values.get("UnitFileState") == "enabled",
        "paused": sub.startswith("auto-restart"),
        "step": "proved" if proved else "failed" if failed else STEPS.get(sub, "starts"),
        "seconds": round(max(0.0, (entered if proved else now) - begun)) if begun else 0,
    }


def reason(lines: t.Sequence[str], result: str) -> str:
    """Why a unit failed, in its own words where it found some."""
    own = [line for line in lines if OWN_WORDS.search(line)]
    if own:
        return own[-1]
    said = " | ".join(lines[-5:])
    return f"systemd says {result or 'nothing'}" + (f"; its last lines: {said}" if said else "")


def established(tables: t.Iterable[str], port: int) -> int:
    """Connections that others hold to a port, counted in the text of /proc/net/tcp and tcp6."""
    wanted = f"{port:04X}"
    count = 0
    for table in tables:
        for line in table.splitlines()[1:]:
            fields = line.split()
            if fields[1].rpartition(":")[2] == wanted and fields[3] in (TCP_ESTABLISHED, TCP_SYN_RECV):
                count += 1
    return count


def wait_proved(ids: t.Sequence[str], seconds: float) -> list[dict[str, t.Any]]:
    """Wait until each unit is active, which takes its proof, or has failed; at most so long.

    :raises WaitError: systemd does not answer.
    """
    end = time.monotonic() + seconds
    while True:
        units = _show([unit_of(each) for each in ids])
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        found = [{"id": each, **progress(units.get(unit_of(each), {}), now)} for each in ids]
        if all(each["settled"] for each in found) or time.monotonic() >= end:
            break
        time.sleep(POLL_S)
    for each in found:
        values = units.get(unit_of(each["id"]), {})
        each["reason"] = _why(values) if each["failed"] and seconds > 0 else ""
    return found


def wait_drained(ids: t.Sequence[str], config_dir: str, seconds: float) -> list[dict[str, t.Any]]:
    """Wait until nobody is connected to any of the replicas any more; at most so long."""
    ports = {each: _port(Path(config_dir, f"{each}.json")) for each in ids}
    begun = time.monotonic()
    quiet = dict.fromkeys(ids, begun)
    while True:
        tables = [path.read_text() for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
        now = time.monotonic()
        held = {each: established(tables, port) if port else 0 for each, port in ports.items()}
        quiet = {each: now if held[each] else quiet[each] for each in ids}
        left = [each for each in ids if now - quiet[each] < QUIET_S]
        if not left or now - begun >= seconds:
            break
        time.sleep(POLL_S)
    return [
        {
            "id": each,
            "settled": each not in left,
            "step": f"{held[each]} answers still run" if each in left else "drained",
            "seconds": round(now - begun),
        }
        for each in ids
    ]


def _port(file: Path) -> int:
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["port"])
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WaitError(f"{file} cannot be read ({error!r}); run aivailable.sdai.site, which writes it anew") from error


def _why(values: t.Mapping[str, str]) -> str:
    invocation = values.get("InvocationID", "")
    if not invocation:
        return "its unit does not run"
    end = time.monotonic() + JOURNAL_S
    while True:
        match = f"_SYSTEMD_INVOCATION_ID={invocation}"
        text = _run(["journalctl", "--namespace=sdai", "--output=cat", "--no-pager", f"-n{JOURNAL_LINES}", match])
        said = reason([line.strip() for line in text.splitlines() if line.strip()], values.get("Result", ""))
        if OWN_WORDS.search(said) or time.monotonic() >= end:
            return said
        time.sleep(POLL_S)


def _show(units: t.Sequence[str]) -> dict[str, dict[str, str]]:
    return parse_show(_run(["systemctl", "show", f"--property={','.join(PROPERTIES)}", "--", *units]))


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=True,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise WaitError(f"{command[0]} does not answer ({error}); is systemd running on this node?") from error
    return done.stdout
