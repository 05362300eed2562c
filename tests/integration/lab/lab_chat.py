# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chat page's own API, as the page itself uses it."""

from __future__ import annotations

import json
import typing as t
import urllib.request
import uuid

from lab_hosts import ROOT

URL = "http://127.0.0.1:3000"
EMAIL = "admin@localhost"
PASSWORD = ROOT / ".lab" / "chat-password"


def ask_page(path: str, token: str = "", body: dict[str, t.Any] | None = None) -> t.Any:
    """What it answers, out of JSON."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{URL}/api/{path}", content, headers), timeout=60) as answer:
        return json.load(answer)


def log_in(email: str, password: str) -> str:
    """The token of a login."""
    token: str = ask_page("v1/auths/signin", body={"email": email, "password": password})["token"]
    return token


def add_user() -> dict[str, str]:
    """Somebody whom the administrator has just added, and who may do no more than have chats."""
    values = {
        "email": f"{uuid.uuid4().hex[:8]}@example.org",
        "password": uuid.uuid4().hex,
        "name": "Alex",
        "role": "user",
    }
    ask_page("v1/auths/add", log_in(EMAIL, PASSWORD.read_text()), values)
    return values
