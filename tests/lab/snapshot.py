#!/usr/bin/env python3
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of the lab's hosts as data, to be compared: files, units, users, packages, firewall, listening sockets.

  snapshot.py HOST               print its state as JSON
  snapshot.py HOST FILE          print what has changed since that state was written to FILE; ends with 1 if anything

`lab.py up` keeps the state of each new host, as it is before the first run, in .lab/snapshots/bare/HOST.json.
What is left out stands in _snapshot_host.py, with the reasons.
"""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _engine import STATE, LabError, write
from _hosts import HOSTS, Host, ssh_command

if t.TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = Path(__file__).with_name("_snapshot_host.py")
LIMIT_S = 120

Section = dict[str, t.Any]
# Section by name: "files", "unit_files", "running_units", "users", "groups", "packages", "firewall", "sockets".
Snapshot = dict[str, Section]


def snapshot(host: str) -> Snapshot:
    """The state of a host of the lab, given by name."""
    known = {each.name: each for each in HOSTS}
    if host not in known:
        raise LabError(f"There is no host {host}; the lab has {', '.join(known)}.")
    done = subprocess.run(
        [*ssh_command(known[host]), "python3 -"],
        input=SCRIPT.read_text(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise LabError(f"The state of {host} cannot be read: {done.stderr.strip()}")
    state: Snapshot = json.loads(done.stdout)
    return state


def difference(before: Snapshot, after: Snapshot) -> dict[str, dict[str, Section]]:
    """By section `created` (with the new value), `changed` (a pair, old and new) and `removed` (with the old value).

    What is empty is left out, so equal states have the difference {}.
    """
    result: dict[str, dict[str, Section]] = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, {}), after.get(name, {})
        parts = {
            "created": {key: new[key] for key in sorted(new.keys() - old.keys())},
            "changed": {key: [old[key], new[key]] for key in sorted(old.keys() & new.keys()) if old[key] != new[key]},
            "removed": {key: old[key] for key in sorted(old.keys() - new.keys())},
        }
        kept = {part: values for part, values in parts.items() if values}
        if kept:
            result[name] = kept
    return result


def bare_file(host: str) -> Path:
    return STATE / "snapshots" / "bare" / f"{host}.json"


def keep_bare(hosts: Sequence[Host]) -> None:
    """Keeps the states of hosts that were made just now."""
    with ThreadPoolExecutor() as pool:
        for host, state in zip(hosts, pool.map(lambda host: snapshot(host.name), hosts), strict=True):
            write(bare_file(host.name), json.dumps(state, sort_keys=True))


def bare(host: str) -> Snapshot | None:
    """The state of a host before the first run, where it was kept."""
    path = bare_file(host)
    state: Snapshot | None = json.loads(path.read_text()) if path.exists() else None
    return state


def main(words: list[str]) -> None:
    match words:
        case [host] if not host.startswith("-"):
            print(json.dumps(snapshot(host), indent=1, sort_keys=True))
        case [host, file]:
            found = difference(json.loads(Path(file).read_text()), snapshot(host))
            print(json.dumps(found, indent=1))
            sys.exit(1 if found else 0)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LabError as error:
        sys.exit(f"snapshot: {error}")
