# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What the replicas of a node are and do: their files, their units, their servers' word and the VRAM they hold."""

from __future__ import annotations

import json
import subprocess
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ._gpu.model import Roots
from ._gpu.processes import unit_pids
from ._gpu.scan import own_vram, scan
from ._ollama import Client, Loaded, OllamaError, Stored

SYSTEMCTL_TIMEOUT_S = 20
# The keys that these facts need; whatever else the plan wrote is passed on.
NEEDED = {"id": str, "unit": str, "model": str, "address": str, "port": int, "context": int}
# systemd's words for what passes by are those of where it leads.
STATES = {
    "active": "active",
    "reloading": "active",
    "refreshing": "active",
    "activating": "activating",
    "failed": "failed",
    "inactive": "inactive",
    "deactivating": "inactive",
    "maintenance": "inactive",
}


class ReplicaFactsError(Exception):
    """The node's own record of its replicas cannot be read; the text names the file and the remedy."""


@dataclass(frozen=True)
class Unit:
    """A systemd unit: active, activating, failed or inactive, and its main process (0 without one)."""

    state: str
    main_pid: int


@dataclass(frozen=True)
class Answer:
    """What a replica's server says of its model; None where it says nothing."""

    loaded: tuple[Loaded, ...] = ()
    stored: t.Optional[Stored] = None


def gather(config_dir: str, roots: Roots) -> tuple[list[dict[str, t.Any]], tuple[str, ...]]:
    """The facts of all replicas, by id, and the warnings of the GPU scan.

    :raises ReplicaFactsError: a file is damaged, or systemd does not answer.
    """
    documents = read_documents(config_dir)
    if not documents:
        return [], ()
    found = scan(roots)
    pids = unit_pids(roots.procfs)
    units = unit_states([document["unit"] for document in documents])
    with ThreadPoolExecutor(max_workers=min(len(documents), 16)) as pool:
        answers = list(pool.map(ask, documents))
    facts = []
    for document, answer in zip(documents, answers):
        unit = units[document["unit"]]
        mine = {*pids.get(document["unit"], ()), *([unit.main_pid] if unit.main_pid else [])}
        facts.append(describe(document, unit, answer, pids=mine, vram=own_vram(found, mine)))
    return facts, found.warnings


def describe(
    document: t.Mapping[str, t.Any], unit: Unit, answer: Answer, *, pids: t.Collection[int], vram: t.Mapping[str, int]
) -> dict[str, t.Any]:
    """The plan's replica object as it was written, with what is true of it now."""
    stored = answer.stored
    resident = [
        loaded
        for loaded in answer.loaded
        if loaded.name == document["model"] and loaded.in_vram and loaded.context == document["context"]
    ]
    loaded_digest = next((loaded.digest for loaded in answer.loaded if loaded.name == document["model"]), "")
    return {
        **document,
        "state": unit.state,
        # A second model in memory may have pushed layers of the first one out.
        "resident": len(resident) == 1 == len(answer.loaded),
        "vram_measured_mib": dict(vram),
        "pids": sorted(pids),
        "digest": loaded_digest or (stored.digest if stored else ""),
        "size_bytes": stored.size if stored else document.get("size_bytes", 0),
        "modified_at": stored.modified_at if stored else "",
        "details": dict(stored.details) if stored else {},
    }


def ask(document: t.Mapping[str, t.Any]) -> Answer:
    """What the replica's server says; nothing where it does not answer in time."""
    client = Client(document["address"], document["port"])
    try:
        stored = next((entry for entry in client.tags() if entry.name == document["model"]), None)
    except OllamaError:
        return Answer()
    try:
        return Answer(loaded=client.ps(), stored=stored)
    except OllamaError:
        return Answer(stored=stored)


def read_documents(config_dir: str) -> list[dict[str, t.Any]]:
    """The replicas that the role wrote down, by id; none where the directory is not there.

    :raises ReplicaFactsError: a file cannot be read or lacks a key.
    """
    try:
        files = sorted(Path(config_dir).glob("*.json"))
        return [_document(file) for file in files]
    except OSError as error:
        raise ReplicaFactsError(f"{config_dir} cannot be read: {error}; run with become") from error


def _document(file: Path) -> dict[str, t.Any]:
    remedy = "remove the file if the replica is gone, else run aivailable.sdai.site, which writes it anew"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReplicaFactsError(f"{file} is not valid JSON ({error}); {remedy}") from error
    if not isinstance(document, dict):
        raise ReplicaFactsError(f"{file} does not hold an object; {remedy}")
    for key, kind in NEEDED.items():
        if not isinstance(document.get(key), kind):
            raise ReplicaFactsError(f"{file}: {key!r} must be of type {kind.__name__}; {remedy}")
    return document


def unit_states(units: t.Sequence[str]) -> dict[str, Unit]:
    """The state of each unit, by one call of systemctl; a unit that systemd does not know is inactive.

    :raises ReplicaFactsError: systemd does not answer.
    """
    command = ["systemctl", "show", "--property=Id,ActiveState,MainPID", "--", *units]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SYSTEMCTL_TIMEOUT_S,
            check=False,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReplicaFactsError(f"systemctl does not answer ({error}); is systemd running on this node?") from error
    if done.returncode:
        raise ReplicaFactsError(f"systemctl failed: {done.stdout.strip()}; is systemd running on this node?")
    found = dict(parse_unit(block) for block in done.stdout.split("\n\n") if block.strip())
    return {unit: found.get(unit, Unit("inactive", 0)) for unit in units}


def parse_unit(block: str) -> tuple[str, Unit]:
    """(name, state) of one unit's block of ``systemctl show``."""
    values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    state = STATES.get(values.get("ActiveState", ""), "inactive")
    return values.get("Id", ""), Unit(state, int(values.get("MainPID") or 0))
