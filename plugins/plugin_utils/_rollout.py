# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The steps by which apply changes a living service: waves, a rolling restart, and what went wrong in a step.

Everything here is a mapping of plain values: plan and transition are those documents, replicas have the shape that
replica_facts returns.
"""

from __future__ import annotations

import csv
import io
import typing as t
from collections import Counter

if t.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Values = t.Mapping[str, t.Any]


def waves_to_make(transition: Values, planned: Iterable[Values], unproved: Sequence[str]) -> list[dict[str, t.Any]]:
    """The transition's waves: what starts, what stops on which node, and the lines that announce them.

    The first wave also fetches the models of later starts, so that no gap lasts as long as a pull; not those whose
    id, and with it their view of the model, something that stops still has.
    ``unproved``: ids of replicas that stay but have not proved themselves; they are followed with the first starts.
    """
    waves = [dict(wave) for wave in transition["waves"]]
    if unproved:
        waves = waves or [{"start": [], "stop": [], "breaks": []}]
        waves[0]["start"] = [*unproved, *(each for each in waves[0]["start"] if each not in unproved)]
    nodes = {replica["id"]: replica["node"] for replica in planned}
    places = [(entry["id"], entry["node"]) for entry in transition["stop"]]
    later = [each for wave in waves[1:] for each in wave["start"] if (each, nodes[each]) not in places]
    return [
        {
            "start": list(wave["start"]),
            "fetch": later if number == 0 else [],
            "stop": _by_node((replica, node) for replica, node in places if replica in wave["stop"]),
            "lines": [
                *(f"start {replica} on {nodes[replica]}" for replica in wave["start"]),
                *(f"stop {replica} on {node}" for replica, node in places if replica in wave["stop"]),
                *(f"GAP: {model} falls below its minimum until a later wave" for model in wave["breaks"]),
            ],
        }
        for number, wave in enumerate(waves)
    ]


def restart_batches(running: Iterable[Values], stale: Mapping[str, Sequence[str]]) -> list[dict[str, t.Any]]:
    """Group the replicas that run with older settings so that no two of a batch serve the same model.

    ``stale``: ids by node.
    """
    running = list(running)
    batches: list[list[Values]] = []
    for replica in sorted(running, key=lambda replica: (replica["model"], replica["id"])):
        if replica["id"] not in stale.get(replica["node"], ()):
            continue
        for batch in batches:
            if all(other["model"] != replica["model"] for other in batch):
                batch.append(replica)
                break
        else:
            batches.append([replica])
    serving = Counter(replica["model"] for replica in running if replica["state"] == "active")
    others = {each["id"]: serving[each["model"]] - (each["state"] == "active") for each in running}
    return [
        {
            "start": [replica["id"] for replica in batch],
            "stop": _by_node((replica["id"], replica["node"]) for replica in batch),
            "lines": [
                f"restart {replica['id']} on {replica['node']}: its settings changed"
                + ("" if others[replica["id"]] else f"; GAP: no other replica serves {replica['model']}")
                for replica in batch
            ],
        }
        for batch in batches
    ]


def routed(running: Iterable[Values], planned: Iterable[Values], leaving: Mapping[str, Sequence[str]]) -> list[Values]:
    """The replicas that frontends may route to: those that run, have proved themselves and are not ``leaving``.

    An id that runs on two nodes (one of them was away) is routed to where the plan has it, if it is there.
    """
    nodes = {replica["id"]: replica["node"] for replica in planned}
    found: dict[str, Values] = {}
    for replica in running:
        if replica["state"] != "active" or replica["id"] in leaving.get(replica["node"], ()):
            continue
        if replica["id"] not in found or nodes.get(replica["id"]) == replica["node"]:
            found[replica["id"]] = replica
    return [found[replica] for replica in sorted(found)]


def start_outcomes(models: Iterable[Values], proofs: Iterable[Values]) -> list[dict[str, t.Any]]:
    """What became of the starts of one node. ``models``: ollama_model's results; ``proofs``: replica_wait's."""
    by_id = {proof["id"]: proof for proof in proofs}
    return [_outcome(model, by_id.get(model["item"]["id"])) for model in models]


def _outcome(model: Values, proof: Values | None) -> dict[str, t.Any]:
    replica = model["item"]["id"]
    if "digest" not in model:
        return {"id": replica, "proved": False, "reason": f"its model cannot be had: {model.get('msg', '')}"}
    if proof is None or proof["proved"]:
        # Without a proof it is check mode.
        return {"id": replica, "proved": True, "reason": ""}
    reason = proof["reason"] or f"it still {proof['step']} after {proof['seconds']} s"
    after = "systemd goes on trying, because it has served before" if proof["enabled"] else "it was removed again"
    return {"id": replica, "proved": False, "reason": f"{reason} ({after})"}


def start_failures(hosts: Iterable[Values], joining: Iterable[str]) -> list[dict[str, str]]:
    """What went wrong with the starts of this step: ``id`` and ``text``, one for each replica and host.

    ``hosts``: the variables of nodes and frontends.
    """
    hosts = list(hosts)
    failures = [
        {"id": start["id"], "text": _text(start, host["inventory_hostname"])}
        for host in hosts
        for start in host.get("ollama_started", ())
        if not start["proved"]
    ]
    proved = [replica for replica in joining if replica not in {failure["id"] for failure in failures}]
    for host in hosts:
        if "sdai_statistics" in host:
            failures += [
                {"id": down["id"], "text": f"{down['id']} is not up for {host['inventory_hostname']}: {down['text']}"}
                for down in servers_down(host["sdai_statistics"], proved)
            ]
    return failures


def _text(start: Values, node: str) -> str:
    return (
        f"{start['id']} on {node} does not serve: {start['reason']}. "
        f"More on {node}: journalctl --namespace=sdai -u sdai-ollama@{start['id']}.service"
    )


def servers_down(statistics: str, ids: Iterable[str]) -> list[dict[str, str]]:
    """Of these replicas those that HAProxy does not find up, by its statistics as CSV."""
    rows = {row["svname"]: row for row in csv.DictReader(io.StringIO(statistics.lstrip("# "))) if row.get("svname")}
    if not rows:
        return [{"id": replica, "text": "its HAProxy's statistics page does not answer"} for replica in ids]
    found = []
    for replica in ids:
        row = rows.get(replica)
        if row is None:
            found.append({"id": replica, "text": "its HAProxy does not route to it"})
        # After a reload HAProxy calls UP what it has not checked yet.
        elif not row["status"].startswith("UP") or "INI" in row["check_status"]:
            said = f"{row['check_status']} {row.get('last_chk', '')}".strip()
            found.append({"id": replica, "text": f"HAProxy says {row['status']} ({said})"})
    return found


def _by_node(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for replica, node in places:
        found.setdefault(node, []).append(replica)
    return found
