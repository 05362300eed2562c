# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the results of a check run say about each host (see check_truth.py).

Each task speaks of the host as it is, also where an earlier task of the same run has spoken of the same thing: so of
one task's words on one thing the last count, and of different tasks' words all.
"""

from __future__ import annotations

import json
import re
import typing as t
from dataclasses import dataclass, field
from pathlib import PurePosixPath

if t.TYPE_CHECKING:
    from collections.abc import Iterable

RESULTS = "check.jsonl"
STORE = "/var/lib/sdai/store"
PRIVATE = "/var/lib/sdai/replicas"
DEFAULT_HOST = "registry.ollama.ai"
SERVER = re.compile(
    r"^ *(?:backend (?P<backend>\S+)|server (?P<id>\S+) (?P<rest>\S+:\d+(?: maxconn \d+)?)(?: .*)?)$", re.M
)

Line = dict[str, t.Any]


@dataclass
class Said:
    # By path: whether it would be removed.
    paths: dict[str, bool] = field(default_factory=dict)
    # Directories that are made where they are missing.
    folders: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    units: set[tuple[str, str]] = field(default_factory=set)
    replicas: set[tuple[str, str]] = field(default_factory=set)
    # By backend/server; None where HAProxy's configuration stays as it is.
    servers: dict[str, str] | None = None


def said(results: Iterable[str], hosts: set[str]) -> dict[str, Said]:
    """:raises ValueError: a task changes something in a way that is not understood here."""
    found = {host: Said() for host in hosts}
    last: dict[tuple[str, str, str], Line] = {}
    on_units: list[Line] = []
    for line in map(json.loads, results):
        if line["action"].endswith(".placement"):
            transition(line["result"], found)
        elif line["action"].endswith(".systemd_service"):
            on_units.append(line)
        elif line["host"] in hosts:
            last[line["host"], line["action"], thing(line)] = line
    for (host, _action, _thing), line in last.items():
        if line["result"].get("changed"):
            hear(line, found[host])
    hear_units(on_units, found)
    return found


def thing(line: Line) -> str:
    """What a result is about: two results of one action about the same thing are two words on it."""
    arguments = line["arguments"]
    for key in ("dest", "path", "creates"):
        if arguments.get(key):
            return str(arguments[key])
    return json.dumps([arguments.get("name") or line["task"], arguments.get("id"), arguments.get("state")])


def hear(line: Line, host: Said) -> None:
    arguments, result = line["arguments"], line["result"]
    match line["action"].rpartition(".")[2]:
        case "file" | "copy" | "template":
            hear_file(arguments, result, host)
        case "command" | "shell" if arguments.get("creates"):
            host.paths[arguments["creates"]] = False
        case "node_library":
            host.paths.update(dict.fromkeys(result["removed"], True) | dict.fromkeys(result["written"], False))
            host.folders.update(*map(folders_above, result["written"]))
        case "pip":
            host.paths[arguments["virtualenv"]] = False
        case "packages" if arguments["state"] == "present":
            host.packages.update(result["installed"])
            host.paths[arguments["record"]] = False
            host.folders.add(str(PurePosixPath(arguments["record"]).parent))
        case "user":
            host.users.add(arguments["name"])
        case "group":
            host.groups.add(arguments["name"])
        case "ollama_model":
            for words in result["done"]:
                model(words, str(arguments["id"]), host)
        case "uri":
            # A question whose answer makes a handler speak.
            pass
        case action:
            raise ValueError(f"{line['task']}: what does {action} change?")


def hear_file(arguments: Line, result: Line, host: Said) -> None:
    path = arguments.get("path") or arguments["dest"]
    host.paths[path] = arguments.get("state") == "absent"
    if arguments.get("state") == "directory":
        host.folders.update(folders_above(path))
    if path.endswith("/haproxy.cfg"):
        host.servers = servers(after(result))


def folders_above(path: str) -> list[str]:
    """The project's own: others come with packages, or have been there."""
    return [str(parent) for parent in PurePosixPath(path).parents if "sdai" in parent.parts]


def after(result: Line) -> str:
    """The new text of a file, from --diff."""
    diffs = result["diff"] if isinstance(result["diff"], list) else [result["diff"]]
    return next(str(each["after"]) for each in diffs if "after" in each)


def servers(configuration: str) -> dict[str, str]:
    found, backend = {}, ""
    for match in SERVER.finditer(configuration):
        backend = match["backend"] or backend
        if match["id"]:
            found[f"{backend}/{match['id']}"] = match["rest"]
    return found


def unit_verbs(lines: Iterable[Line]) -> set[str]:
    """What all words on one unit come to. Each begins from the unit's state as it is; one not yet there has none."""
    was_active = was_enabled = is_active = is_enabled = is_restarted = False
    for number, line in enumerate(lines):
        arguments, status = line["arguments"], line["result"].get("status") or {}
        if number == 0:
            was_active = is_active = status.get("ActiveState") in ("active", "activating", "reloading")
            was_enabled = is_enabled = status.get("UnitFileState") == "enabled"
        if arguments.get("enabled") is not None:
            is_enabled = arguments["enabled"]
        match arguments.get("state"):
            case "started":
                is_active = True
            case "stopped":
                is_restarted, is_active = True, False
            case "restarted":
                is_restarted = is_active = True
    found = set()
    if is_enabled != was_enabled:
        found.add("enabled" if is_enabled else "disabled")
    if is_active != was_active:
        found.add("started" if is_active else "stopped")
    elif is_active and is_restarted:
        found.add("restarted")
    return found


def hear_units(lines: Iterable[Line], hosts: dict[str, Said]) -> None:
    by_unit: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if name := line["arguments"].get("name"):
            unit = name if re.search(r"\.(service|timer|socket|path|target)$", name) else f"{name}.service"
            by_unit.setdefault((line["host"], unit), []).append(line)
    for (host, unit), each in by_unit.items():
        hosts[host].units |= {(unit, verb) for verb in unit_verbs(each)}
        match = re.fullmatch(r"sdai-ollama@(.+)\.service", unit)
        if match and (unit, "restarted") in hosts[host].units:
            hosts[host].replicas.add((match[1], "changed"))


def transition(result: Line, hosts: dict[str, Said]) -> None:
    nodes = {replica["id"]: replica["node"] for replica in result["plan"]["replicas"]}
    for id_ in result["transition"]["start"]:
        hosts[nodes[id_]].replicas.add((id_, "created"))
    for stop in result["transition"]["stop"]:
        hosts[stop["node"]].replicas.add((stop["id"], "removed"))


def model(words: str, replica: str, host: Said) -> None:
    """One of the things that ollama_model would do."""
    match words.split():
        case ["pull" | "create", name]:
            host.paths[f"{STORE}/manifests/{manifest(name)}"] = False
        case ["write", "the", "manifest", "of", name]:
            private = f"{PRIVATE}/{replica}"
            host.paths |= {private: False, f"{private}/models/manifests/{manifest(name)}": False}
        case ["removed", _number, "blobs"]:
            pass
        case ["removed", path] if path.startswith("/"):
            host.paths[path] = True
        case ["removed", name]:
            host.paths[f"{STORE}/manifests/{manifest(name)}"] = True
        case _:
            raise ValueError(f"ollama_model: what is {words!r}?")


def manifest(name: str) -> PurePosixPath:
    """Where a store keeps the manifest of a name."""
    model_and_namespace, _, tag = name.rpartition(":")
    parts = model_and_namespace.split("/")
    if len(parts) == 1:
        parts = ["library", *parts]
    if len(parts) == 2:
        parts = [DEFAULT_HOST, *parts]
    return PurePosixPath(*parts, tag)
