# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a host of the lab by snapshot.py: prints the host's state as JSON. Standard library only, changes nothing."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import subprocess

ROOTS = ("/etc", "/opt", "/usr", "/var", "/root", "/home", "/srv", "/run/sdai", "/run/haproxy", "/run/systemd/system")
# What a host writes by itself while it runs or that says nothing of its own: logs, caches, Ansible's scratch folders,
# and what the sections on packages, users and units tell better.
LEFT_OUT = re.compile(
    r"/(etc/(\.pwd\.lock|(passwd|shadow|group|gshadow|subuid|subgid)-|ld\.so\.cache)"
    r"|root/\.ansible(_async)?"
    r"|var/(log|cache/(?!sdai)[^/]+|tmp|backups|spool"
    r"|lib/(apt|dpkg|ucf|systemd/(timers|catalog|random-seed|timesync|coredump|deb-systemd-[^/]*)))"
    r"|.*/__pycache__)\Z"
)
# Of 800 MB that pip writes the directory says enough.
NOT_ENTERED = re.compile(r"/opt/sdai/open-webui/[^/]+/lib\Z")
# Larger files are told apart by their size and their ends: a model's blob is gigabytes of holes.
WHOLE_BYTES, END_BYTES = 64 << 20, 1 << 20
# Units that come and go with logins and with systemd's own timers.
PASSING = re.compile(r"user@|user-runtime-dir@|ssh@|run-|session-|getty@|console-getty|systemd-(?!.*@sdai)")
EPHEMERAL = 32768


def said(*command: str) -> str:
    """What the program prints; nothing where it is missing."""
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        return ""
    # Formats of numbers and dates must not depend on who asks.
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    return subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, env=environment
    ).stdout


def files() -> dict[str, dict[str, object]]:
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        elsewhere = {line.split()[4] for line in mounts} - {"/", "/run"}
    found: dict[str, dict[str, object]] = {}
    pending = [root for root in ROOTS if os.path.lexists(root)]
    while pending:
        path = pending.pop()
        if path in elsewhere or LEFT_OUT.match(path):
            continue
        try:
            found[path] = entry(path)
            if found[path]["type"] == "directory" and not NOT_ENTERED.match(path):
                pending += [os.path.join(path, name) for name in os.listdir(path)]
        except FileNotFoundError:
            # Gone since its directory was listed.
            found.pop(path, None)
    return found


def entry(path: str) -> dict[str, object]:
    status = os.lstat(path)
    result: dict[str, object] = {
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "owner": f"{name_of_user(status.st_uid)}:{name_of_group(status.st_gid)}",
    }
    if stat.S_ISREG(status.st_mode):
        return {"type": "file", **result, "size": status.st_size, "sha256": digest(path, status.st_size)}
    if stat.S_ISLNK(status.st_mode):
        # A link has neither a mode nor an owner that matters.
        return {"type": "link", "target": os.readlink(path)}
    return {"type": "directory" if stat.S_ISDIR(status.st_mode) else "other", **result}


def digest(path: str, size: int) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        if size <= WHOLE_BYTES:
            total.update(file.read())
        else:
            total.update(file.read(END_BYTES))
            file.seek(-END_BYTES, os.SEEK_END)
            total.update(file.read())
    return total.hexdigest()


def name_of_user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def name_of_group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def unit_files() -> dict[str, str]:
    return {
        unit["unit_file"]: unit["state"]
        for unit in json.loads(said("systemctl", "list-unit-files", "--output=json"))
        # Made anew by generators at each boot and reload, from mounts.
        if unit["state"] not in ("generated", "transient")
    }


def running_units() -> dict[str, str]:
    """Active and failed ones: whether systemd still remembers an inactive unit is chance."""
    # No targets: one that was reached stays so until the next boot.
    kinds = "--type=service,socket,timer,path"
    listed = json.loads(said("systemctl", "list-units", "--all", kinds, "--output=json"))
    return {
        unit["unit"]: f"{unit['active']} ({unit['sub']})"
        for unit in listed
        if unit["active"] != "inactive" and not PASSING.match(unit["unit"])
    }


def packages() -> dict[str, dict[str, str]]:
    """Installed ones, and those removed whose configuration is left."""
    manual = set(said("apt-mark", "showmanual").split())
    query = said("dpkg-query", "-W", "-f", "${binary:Package} ${Version} ${db:Status-Status}\n")
    return {
        name: {"version": version, "state": state, "mark": "manual" if name.split(":")[0] in manual else "auto"}
        for name, version, state in (line.split() for line in query.splitlines())
    }


def firewall() -> dict[str, str]:
    """The text of each table, without what its counters have counted."""
    tables: dict[str, str] = {}
    name = ""
    for line in said("nft", "list", "ruleset").splitlines():
        if line.startswith("table "):
            name = line.removesuffix(" {")
        tables[name] = tables.get(name, "") + re.sub(r"packets \d+ bytes \d+", "packets … bytes …", line) + "\n"
    return tables


def sockets() -> dict[str, int]:
    """How many sockets a program listens on, by protocol and address; a port that was left to the kernel is a star."""
    counts: dict[str, int] = {}
    for line in said("ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric", "--processes").splitlines():
        protocol, _state, _received, _sent, local, _peer, *users = line.split()
        address, _colon, port = local.rpartition(":")
        program = re.search(r'"([^"]+)"', " ".join(users))
        if port.isdigit() and int(port) >= EPHEMERAL:
            port = "*"
        key = f"{protocol} {address}:{port} {program.group(1) if program else ''}".rstrip()
        counts[key] = counts.get(key, 0) + 1
    return counts


def users() -> dict[str, dict[str, object]]:
    return {
        user.pw_name: {"uid": user.pw_uid, "gid": user.pw_gid, "home": user.pw_dir, "shell": user.pw_shell}
        for user in pwd.getpwall()
    }


def groups() -> dict[str, dict[str, object]]:
    return {group.gr_name: {"gid": group.gr_gid, "members": sorted(group.gr_mem)} for group in grp.getgrall()}


if __name__ == "__main__":
    state = {
        "files": files(),
        "unit_files": unit_files(),
        "running_units": running_units(),
        "users": users(),
        "groups": groups(),
        "packages": packages(),
        "firewall": firewall(),
        "sockets": sockets(),
    }
    print(json.dumps(state, sort_keys=True))
