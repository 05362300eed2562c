# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The servers of a configuration, read back from the lines that the role's template writes."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.aivailable.sdai.plugins.plugin_utils._frontend import frontend_servers

TEMPLATE = Path(__file__).resolve().parents[4] / "roles/haproxy/templates/haproxy.cfg.j2"


def test_servers_by_id_without_the_frontends_own():
    """Neither default-server nor a comment nor an option of the same word is a server."""
    text = """
backend llama3.1:8b
    default-server check inter 1s
    # server old--1 10.0.0.9:11500
    option http-server-close
    server llama3.1-8b--2 10.0.0.12:11500 maxconn 4
    server llama3.1-8b--1 10.0.0.11:11501 maxconn 4
"""
    assert frontend_servers(text) == [
        {"id": "llama3.1-8b--1", "address": "10.0.0.11", "port": 11501},
        {"id": "llama3.1-8b--2", "address": "10.0.0.12", "port": 11500},
    ]


def test_an_address_of_version_6():
    assert frontend_servers("    server a--1 fd00::11:11500 maxconn 1\n")[0] == {
        "id": "a--1",
        "address": "fd00::11",
        "port": 11500,
    }


def test_a_configuration_of_somebody_else():
    assert frontend_servers("global\n    log /dev/log local0\n") == []


def test_the_template_writes_what_is_read_here():
    line = next(line for line in TEMPLATE.read_text().splitlines() if line.startswith("    server {{"))
    values = {"server.id": "a--1", "server.address": "10.0.0.1", "server.port": "11500", "server.parallel": "4"}
    written = re.sub(r"\{\{ ([a-z.]+) \}\}", lambda match: values[match[1]], line)
    assert frontend_servers(written) == [{"id": "a--1", "address": "10.0.0.1", "port": 11500}]
