# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chat page from one release to the next and back, with the accounts and chats that are in it."""

from __future__ import annotations

import re
import typing as t

import _image
import _machine
import _wheels
import pytest
from lab_chat import add_user, ask_page, log_in
from lab_hosts import ROOT, Host, only_long, playbook

pytestmark = only_long

# Six changes of the database lie between it and the present one.
FORMER = "0.11.4"
PRESENT = _wheels.folder().name
STATE = "/var/lib/sdai/open-webui"
README = ROOT / "roles/open_webui/README.md"


def apply(version: str) -> str:
    """What the run said; it must succeed."""
    run = playbook("aivailable.sdai.apply", "-e", f"open_webui_version={version}")
    assert run.code == 0, run.output
    assert ask_page("config")["version"] == version
    return run.output


@pytest.fixture
def former(hosts: dict[str, Host]) -> t.Iterator[None]:
    """The chat page as one release before would have installed it on a new host; the present one again at the end."""
    _wheels.add(FORMER, _image.image(), _machine.mounts())
    hosts["webui1"].run(f"systemctl stop sdai-open-webui && rm -r {STATE}")
    apply(FORMER)
    yield
    apply(PRESENT)


def say(token: str, words: str) -> str:
    """A new chat; its id."""
    chat = {"title": words, "messages": [{"id": "1", "role": "user", "content": words}], "models": ["gemma3:4b"]}
    id_: str = ask_page("v1/chats/new", token, {"chat": chat})["id"]
    return id_


def chats(user: dict[str, str], ids: list[str]) -> set[str]:
    """The titles of those of these chats that the user still has."""
    listed = ask_page("v1/chats/", log_in(user["email"], user["password"]))
    return {chat["title"] for chat in listed if chat["id"] in ids}


def way_back() -> str:
    """The commands that the role's README gives."""
    found = re.search(r"To go back:\n\n```\n(.*?)```", README.read_text(), re.S)
    assert found
    return re.sub(r"backups/\S+\.tar\.gz", f"backups/{FORMER}.tar.gz", found[1])


@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("former")
def test_an_upgrade_keeps_what_is_in_it_and_there_is_a_way_back(hosts: dict[str, Host]) -> None:
    webui = hosts["webui1"]
    user = add_user()
    ids = [say(log_in(user["email"], user["password"]), "before")]

    apply(PRESENT)
    assert chats(user, ids) == {"before"}
    ids.append(say(log_in(user["email"], user["password"]), "after"))
    assert webui.run(f"ls {STATE}/backups").split() == [f"{FORMER}.tar.gz"]
    assert webui.run(f"stat --format=%a:%U {STATE}/backups/{FORMER}.tar.gz").strip() == "600:root"
    assert webui.run("ls /opt/sdai/open-webui").split() == [f"{PRESENT}-slim"]

    refused = playbook("aivailable.sdai.apply", "-e", f"open_webui_version={FORMER}")
    assert refused.code != 0
    assert f"open_webui_version {FORMER} is older than {PRESENT}" in re.sub(r"\s+", " ", refused.output)
    assert ask_page("config")["version"] == PRESENT
    assert chats(user, ids) == {"before", "after"}

    webui.run(way_back())
    apply(FORMER)
    assert chats(user, ids) == {"before"}
