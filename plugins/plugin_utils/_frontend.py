# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What a frontend routes to, read back from its configuration."""

from __future__ import annotations

import base64
import re
import typing as t

# As the role's template writes them. A file without the router is somebody else's.
_OURS = re.compile(r"^\s+lua-load-per-thread /etc/haproxy/sdai/sdai_route\.lua$", re.MULTILINE)
# The chat page's server has no maxconn.
_SERVER = re.compile(r"^\s+server (?P<id>\S+) (?P<address>\S+):(?P<port>[0-9]+) maxconn ", re.MULTILINE)


def frontend_servers(configuration: str) -> list[dict[str, t.Any]]:
    """The replicas that a haproxy.cfg of ours routes to, by id, with the addresses where it looks for them.

    None where the file is not ours: its servers are no replicas.
    """
    if not _OURS.search(configuration):
        return []
    found = [
        {"id": match["id"], "address": match["address"], "port": int(match["port"])}
        for match in _SERVER.finditer(configuration)
    ]
    return sorted(found, key=lambda server: (server["id"], server["address"], server["port"]))


def frontends_in_the_way(
    answers: t.Iterable[t.Mapping[str, t.Any]],
    replicas: t.Iterable[t.Mapping[str, t.Any]] | None,
    away: t.Collection[str] = (),
) -> list[str]:
    """Why a node's replicas cannot be taken away, a sentence for each frontend that would go on routing to them.

    ``answers``: what slurp said of each haproxy.cfg, with the frontend as ``item``. ``replicas``: those of the node,
    None where they could not be read. ``away``: hosts that need not answer.
    """
    places = {(replica["id"], replica["address"]) for replica in replicas or ()}
    if replicas is not None and not places:
        return []
    reasons = []
    for answer in answers:
        frontend, said = answer["item"], str(answer.get("msg", "")).strip()
        if "content" in answer:
            servers = frontend_servers(base64.b64decode(answer["content"]).decode(errors="replace"))
            routed = [server["id"] for server in servers if (server["id"], server["address"]) in places]
            if routed:
                reasons.append(f"{frontend} would still route to {', '.join(routed)}.")
        elif answer.get("unreachable") and frontend in away:
            continue
        # Where HAProxy was never installed nothing is routed.
        elif "file not found" not in said.lower():
            reasons.append(
                f"Whether {frontend} would still route here cannot be read ({said}). Make it answer; if it is away for "
                "good, take it out of the inventory."
            )
    return reasons
