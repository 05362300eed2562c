# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""What a frontend routes to, read back from its configuration."""

from __future__ import annotations

import re
import typing as t

# As the role's template writes them.
_SERVER = re.compile(r"^\s+server (?P<id>\S+) (?P<address>\S+):(?P<port>[0-9]+)(?= |$)", re.MULTILINE)


def frontend_servers(configuration: str) -> list[dict[str, t.Any]]:
    """The replicas that a haproxy.cfg of ours routes to, by id, with the addresses where it looks for them."""
    found = [
        {"id": match["id"], "address": match["address"], "port": int(match["port"])}
        for match in _SERVER.finditer(configuration)
    ]
    return sorted(found, key=lambda server: (server["id"], server["address"], server["port"]))
