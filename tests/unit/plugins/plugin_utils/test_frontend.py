# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The servers of a configuration, read back from the lines that the role's template writes."""

from __future__ import annotations

import base64
import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.aivailable.sdai.plugins.plugin_utils._frontend import frontend_servers, frontends_in_the_way

ROLE = Path(__file__).resolve().parents[4] / "roles/haproxy"
TEMPLATE = ROLE / "templates/haproxy.cfg.j2"
OURS = "global\n    lua-load-per-thread /etc/haproxy/sdai/sdai_route.lua\n"
REPLICAS = [{"id": "a--1", "address": "10.0.0.1"}, {"id": "b--1", "address": "10.0.0.1"}]


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
    assert frontend_servers(OURS + text) == [
        {"id": "llama3.1-8b--1", "address": "10.0.0.11", "port": 11501},
        {"id": "llama3.1-8b--2", "address": "10.0.0.12", "port": 11500},
    ]


def test_an_address_of_version_6():
    assert frontend_servers(f"{OURS}    server a--1 fd00::11:11500 maxconn 1\n")[0] == {
        "id": "a--1",
        "address": "fd00::11",
        "port": 11500,
    }


def test_a_configuration_of_somebody_else():
    theirs = (
        "global\n    # not /etc/haproxy/sdai/sdai_route.lua\nbackend web\n    server a--1 10.0.0.1:11500 maxconn 1\n"
    )
    assert frontend_servers(theirs) == []
    assert len(frontend_servers(OURS + theirs)) == 1


def test_the_template_writes_what_is_read_here():
    """Its first line of a server, and the line that tells that a file is ours: it depends on nothing."""
    lines = TEMPLATE.read_text().splitlines()
    server = next(line for line in lines if line.startswith("    server {{"))
    mark = next(line for line in lines if line.startswith("    lua-load"))
    assert lines.index(mark) < next(number for number, line in enumerate(lines) if line.startswith("{% if"))
    values = {"server.id": "a--1", "server.address": "10.0.0.1", "server.port": "11500", "server.parallel": "4"}
    values |= yaml.safe_load((ROLE / "vars/main.yml").read_text())
    written = re.sub(r"\{\{ ([a-z._]+) \}\}", lambda match: values[match[1]], f"{mark}\n{server}\n")
    assert frontend_servers(written) == [{"id": "a--1", "address": "10.0.0.1", "port": 11500}]


def answer(frontend: str, configuration: str) -> dict[str, t.Any]:
    return {"item": frontend, "content": base64.b64encode(configuration.encode()).decode()}


def test_the_frontends_that_route_to_a_node():
    """Only they are named; a file of somebody else, a missing one and servers elsewhere are in nobody's way."""
    answers = [
        answer("f1", f"{OURS}    server b--1 10.0.0.1:11501 maxconn 1\n    server a--1 10.0.0.1:11500 maxconn 1\n"),
        answer("f2", f"{OURS}    server a--1 10.0.0.2:11500 maxconn 1\n"),
        answer("f3", "    server a--1 10.0.0.1:11500 maxconn 1\n"),
        {"item": "f4", "failed": False, "msg": "File not found: /etc/haproxy/haproxy.cfg"},
        {"item": "f5", "failed": False, "msg": "file not found: /etc/haproxy/haproxy.cfg"},
    ]
    assert frontends_in_the_way(answers, REPLICAS) == ["f1 would still route to a--1, b--1."]
    assert frontends_in_the_way(answers, []) == []


@pytest.mark.parametrize(
    "answer_",
    [
        {"item": "f1", "unreachable": True, "msg": "Connection timed out"},
        {"item": "f1", "failed": False, "msg": "File is not readable: /etc/haproxy/haproxy.cfg"},
    ],
)
def test_a_frontend_that_cannot_be_read_is_in_the_way(answer_):
    for replicas in (REPLICAS, None):
        (reason,) = frontends_in_the_way([answer_], replicas)
        assert answer_["msg"] in reason
        assert re.search("f1 .* take it out of the inventory", reason)
    assert frontends_in_the_way([answer_], []) == []
    is_away = "unreachable" in answer_
    assert (frontends_in_the_way([answer_], REPLICAS, ["f1"]) == []) == is_away
