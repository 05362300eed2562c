#!/usr/bin/env python3
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a check run said what the real run did: as sets of what is created, changed, removed, started, stopped.

  check_truth.py before          keep the state of the hosts as it is before a run, in .lab/truth
  check_truth.py compare         compare the results of the check run (callbacks/sdai_results.py) with what has changed
                                 on the hosts since; ends with 1 and lists the differences if there are any

What is said comes from the results of tasks alone, what was done from the hosts alone (and from HAProxy's own word on
its servers). Both are brought to the same grain:

  file      a file or directory, by path. What a tool writes as a whole is one item, see TREES: a virtual environment,
            an unpacked release, a replica's private view without its manifests. A pull is its manifest: blobs follow
            from the manifests that name them, and go an hour after the last of these, whenever that is noticed.
  package   one that is asked for. What it brings, its files and what it depends on, is its own affair.
  unit      enabled, disabled, started, stopped, restarted. A replica's watch and log come and go with the replica.
  user, group, replica (said by the transition, done by what runs), server (HAProxy's, with address and limit)
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from _check_results import RESULTS, Said, said
from _engine import STATE, LabError, write
from _hosts import HOSTS, ssh_command
from snapshot import Section, Snapshot, difference, snapshot

if t.TYPE_CHECKING:
    from collections.abc import Iterable

KEPT = STATE / "truth"
FRONTEND = "frontend1"
# Over HAProxy's own socket, because its page does not tell addresses. Nothing listens there before the first run.
STATISTICS = r"""python3 -c '
import os, socket
if os.path.exists("/run/haproxy/admin.sock"):
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect("/run/haproxy/admin.sock")
        admin.sendall(b"show stat\n")
        print(admin.makefile().read())
'"""

MARK = "-- next --"

Item = tuple[str, str, str]  # kind, name, what happens to it

# What a tool writes as a whole, and its name as one item.
TREES = (
    # python -m venv, pip
    (re.compile(r"(/opt/sdai/venv)(/.*)?"), r"\1"),
    # Ollama's release archive and the runner that has an archive of its own
    (re.compile(r"(/opt/sdai/ollama/[0-9][^/]*)(/.*)?"), r"\1"),
    # the chat page's program
    (re.compile(r"(/opt/sdai/open-webui/[0-9][^/]*)(/.*)?"), r"\1"),
    # what HAProxy did before the role came
    (re.compile(r"(/var/lib/sdai/haproxy)(/.*)?"), r"\1"),
    # a replica's private view; its manifests are items of their own
    (re.compile(r"(/var/lib/sdai/replicas/[^/]+)(/(?!models/manifests/).*|/models/manifests)?"), r"\1"),
)
# Names of models are the files in here; the directories on the way to them come and go with them.
MANIFESTS = re.compile(r"(/var/lib/sdai/(?:store|replicas/[^/]+/models)/manifests)(/.*)?")
MANIFEST_DEPTH = 4
# What follows from something else that is compared.
CONSEQUENCES = re.compile(
    # of manifests
    r"/var/lib/sdai/store/blobs(/.*)?"
    # of packages: all that dpkg keeps under /usr, and what their scripts make
    r"|/usr(/(?!local/).*)?|/etc/(alternatives|rc[0-6S]\.d)/.*|/etc/networks|/var/lib/haproxy/.*"
    # of users and groups, which are compared by name
    r"|/etc/(passwd|shadow|group|gshadow|subuid|subgid)"
    # of what runs: sockets, a server's key, the lock of a store, the tool's word on what it started with
    r"|/run/.*|/var/lib/sdai/(home/.*|store/\.lock)|/var/cache/sdai/.*"
    # of the chat page: its database, and what lies beside it
    r"|/var/lib/sdai/open-webui/data/.*"
    # of sshd and of logging in
    r"|/root/\..*"
)
ENABLED = re.compile(r"/etc/systemd/system/[^/]+\.(?:wants|requires|upholds)(?:/(?P<unit>[^/]+))?")
# They come and go with a replica's unit.
COMPANIONS = re.compile(r"sdai-ollama-watch@.*|systemd-journald(-varlink)?@sdai\..*")
REPLICA = re.compile(r"/etc/sdai/replicas/(?P<id>[^/]+)\.json")


@dataclass(frozen=True)
class HostState:
    """A snapshot, and what it does not tell."""

    snapshot: Snapshot
    # Paths outside of /usr that belong to packages and are as they brought them.
    owned: frozenset[str]
    # By unit: a new one with each start.
    invocations: dict[str, str]
    # By backend/server: address and limit, as the running HAProxy says.
    servers: dict[str, str]


def state(host: str) -> HostState:
    command = ssh_command(next(each for each in HOSTS if each.name == host))
    questions = (
        "cat /var/lib/dpkg/info/*.list | grep -v '^/usr'",
        # Configuration that is no longer as its package brought it.
        "dpkg --verify | awk '$2 == \"c\" {print $3}'",
        "systemctl show --property=Id,InvocationID 'sdai*' haproxy.service",
        STATISTICS if host == FRONTEND else "true",
    )
    done = subprocess.run(
        [*command, f"; echo {MARK}; ".join(questions)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise LabError(f"The state of {host} cannot be read: {done.stderr.strip()}")
    owned, altered, units, statistics = done.stdout.split(f"{MARK}\n")
    shown = re.findall(r"^Id=(.+)\nInvocationID=(.+)$", units, re.M)
    return HostState(
        snapshot(host), frozenset(owned.split("\n")) - set(altered.split("\n")), dict(shown), servers(statistics)
    )


def servers(statistics: str) -> dict[str, str]:
    """Of HAProxy's statistics as CSV."""
    rows = csv.DictReader(statistics.lstrip("# \n").splitlines())
    return {
        # The chat page's server has no limit.
        f"{row['pxname']}/{row['svname']}": row["addr"] + (f" maxconn {row['slim']}" if row["slim"] else "")
        for row in rows
        if row["svname"] not in ("FRONTEND", "BACKEND")
    }


def states() -> dict[str, HostState]:
    with ThreadPoolExecutor() as pool:
        names = [host.name for host in HOSTS]
        return dict(zip(names, pool.map(state, names), strict=True))


def named(path: str) -> str:
    """The item that a path belongs to; empty where it follows from something else."""
    for pattern, name in TREES:
        if match := pattern.fullmatch(path):
            return match.expand(name)
    if match := MANIFESTS.fullmatch(path):
        return path if (match[2] or "").count("/") == MANIFEST_DEPTH else ""
    return "" if CONSEQUENCES.fullmatch(path) or ENABLED.fullmatch(path) else path


def done(before: HostState, after: HostState) -> set[Item]:
    """What happened on a host between two states."""
    found = difference(before.snapshot, after.snapshot)
    items: set[Item] = set()
    packaged = after.owned | before.owned
    for part, paths in found.get("files", {}).items():
        for path in paths:
            if match := ENABLED.fullmatch(path):
                if match["unit"]:
                    items.add(("unit", match["unit"], "disabled" if part == "removed" else "enabled"))
            elif part == "removed" and goes_with_directory(path, paths):
                continue
            elif path not in packaged or path in before.snapshot["files"]:
                items |= {("file", name, change(name, before, after)) for name in [named(path)] if name}
    installed = packages(found)
    brought = {name for _kind, name, _verb in installed}
    for part_name, kind in (("users", "user"), ("groups", "group")):
        for part, names in found.get(part_name, {}).items():
            items |= {(kind, name, part) for name in names.keys() - brought}
    items |= installed
    items |= units(before, after) | replicas(before, after)
    for name in before.servers.keys() | after.servers.keys():
        old, new = before.servers.get(name), after.servers.get(name)
        if old != new:
            verb = "created" if old is None else "removed" if new is None else "changed"
            items.add(("server", f"{name} {new or old}", verb))
    return items


def goes_with_directory(path: str, removed: Section) -> bool:
    return any(str(parent) in removed and named(str(parent)) for parent in PurePosixPath(path).parents)


def change(name: str, before: HostState, after: HostState) -> str:
    """What happened to a path, or to the tree of that name."""
    was, is_now = name in before.snapshot["files"], name in after.snapshot["files"]
    return "removed" if not is_now else "changed" if was else "created"


def packages(found: dict[str, dict[str, t.Any]]) -> set[Item]:
    parts = found.get("packages", {})
    return {("package", name, "created") for name, value in parts.get("created", {}).items() if asked_for(value)} | {
        ("package", name, "removed") for name, value in parts.get("removed", {}).items() if asked_for(value)
    }


def asked_for(package: t.Any) -> bool:
    return bool(package["mark"] == "manual")


def units(before: HostState, after: HostState) -> set[Item]:
    items: set[Item] = set()
    old, new = (
        {name for name, value in each.snapshot["running_units"].items() if value.startswith("active")}
        for each in (before, after)
    )
    for unit in old | new:
        if COMPANIONS.fullmatch(unit):
            continue
        if unit not in old:
            items.add(("unit", unit, "started"))
        elif unit not in new:
            items.add(("unit", unit, "stopped"))
        elif before.invocations.get(unit) != after.invocations.get(unit):
            items.add(("unit", unit, "restarted"))
    return items


def replicas(before: HostState, after: HostState) -> set[Item]:
    """A replica is there when its description is and its unit runs."""

    def running(each: HostState) -> dict[str, str | None]:
        ids = {match["id"] for path in each.snapshot["files"] if (match := REPLICA.fullmatch(path))}
        found = {id_: f"sdai-ollama@{id_}.service" for id_ in ids}
        return {
            id_: each.invocations.get(unit)
            for id_, unit in found.items()
            if each.snapshot["running_units"].get(unit, "").startswith("active")
        }

    old, new = running(before), running(after)
    return (
        {("replica", id_, "created") for id_ in new.keys() - old.keys()}
        | {("replica", id_, "removed") for id_ in old.keys() - new.keys()}
        | {("replica", id_, "changed") for id_ in old.keys() & new.keys() if old[id_] != new[id_]}
    )


def predicted(results: Iterable[str], before: dict[str, HostState]) -> dict[str, set[Item]]:
    """What the results of a check run say, by host, of hosts in these states."""
    return {host: translated(each, before[host]) for host, each in said(results, set(before)).items()}


def translated(words: Said, before: HostState) -> set[Item]:
    """The tasks' words in the grain of what is compared."""
    items: set[Item] = set()
    for path, is_gone in words.paths.items():
        if name := named(path):
            was = name in before.snapshot["files"]
            items.add(("file", name, "removed" if is_gone and name == path else "changed" if was else "created"))
    items |= {("file", path, "created") for path in words.folders - before.snapshot["files"].keys()}
    items |= {("package", name, "created") for name in words.packages}
    items |= {("user", name, "created") for name in words.users}
    items |= {("group", name, "created") for name in words.groups}
    items |= {("unit", unit, verb) for unit, verb in words.units if not COMPANIONS.fullmatch(unit)}
    items |= {("replica", id_, verb) for id_, verb in words.replicas}
    if words.servers is not None:
        for name in before.servers.keys() | words.servers.keys():
            old, new = before.servers.get(name), words.servers.get(name)
            if old != new:
                verb = "created" if old is None else "removed" if new is None else "changed"
                items.add(("server", f"{name} {new or old}", verb))
    return items


def compared(results: Path, before: dict[str, HostState], after: dict[str, HostState]) -> list[str]:
    """The differences between what was said and what was done, one a line."""
    lines: list[str] = []
    words = predicted(results.read_text().splitlines(), before)
    for host in sorted(before):
        expected, happened = words.get(host, set()), done(before[host], after[host])
        lines += [f"{host}: said, but not done: {' '.join(item)}" for item in sorted(expected - happened)]
        lines += [f"{host}: done, but not said: {' '.join(item)}" for item in sorted(happened - expected)]
    return lines


def keep() -> None:
    for host, each in states().items():
        document = {**vars(each), "owned": sorted(each.owned)}
        write(KEPT / f"{host}.json", json.dumps(document))
    (KEPT / RESULTS).unlink(missing_ok=True)


def kept() -> dict[str, HostState]:
    found = {host.name: json.loads((KEPT / f"{host.name}.json").read_text()) for host in HOSTS}
    return {name: HostState(**{**each, "owned": frozenset(each["owned"])}) for name, each in found.items()}


def main(words: list[str]) -> None:
    match words:
        case ["before"]:
            keep()
        case ["compare"]:
            before, after = kept(), states()
            lines = compared(KEPT / RESULTS, before, after)
            if lines:
                sys.exit("\n".join(["The check run and the real run differ:", *lines]))
            print(f"{sum(len(done(before[host], after[host])) for host in before)} items, all said and done")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LabError as error:
        sys.exit(f"check_truth: {error}")
