# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses before it touches a host, and the files that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

ROLE = "aivailable.sdai.open_webui"
PASSWORD = 'a "b" $c `d` \\e #f'
# As the probe of set_vars.yml says it of a host where this version runs.
USUAL = {"python": "3.11.2", "version": "0.12.4"}

ACCEPTED: dict[str, tuple[dict[str, t.Any], dict[str, str]]] = {
    "as it is": ({}, {}),
    "a bare host": ({}, {"version": ""}),
    "an upgrade": ({"open_webui_version": "0.13.0"}, {"version": "0.12.11"}),
    "the newest Python": ({}, {"python": "3.12.13"}),
}
REFUSED: dict[str, tuple[dict[str, t.Any], dict[str, str], list[str]]] = {
    "no password": ({"open_webui_admin_password": ""}, {}, ["open_webui_admin_password is not set", "ansible-vault"]),
    "too long": ({"open_webui_admin_password": "x" * 73}, {}, ["open_webui_admin_password is longer than 72 bytes"]),
    "no address": ({"open_webui_admin_email": "me"}, {}, ["open_webui_admin_email: 'me'", "admin@example.org"]),
    "a downgrade": (
        {"open_webui_version": "0.12.4"},
        {"version": "0.12.10"},
        ["open_webui_version 0.12.4 is older than 0.12.10", "Nothing was touched", "backup"],
    ),
    "too new a Python": ({}, {"python": "3.13.5"}, ["open_webui_python: /usr/bin/python3", "Python 3.13", "uv python"]),
    "too old a Python": ({}, {"python": "3.9.2"}, ["open_webui_python: /usr/bin/python3", "is Python 3.9"]),
    "no Python": ({"open_webui_python": "/x"}, {"python": ""}, ["open_webui_python: /x", "is not there"]),
}


def probe(values: dict[str, str]) -> dict[str, t.Any]:
    lines = [f"{name} {value}" for name, value in (USUAL | values).items() if value]
    return {"stdout": "\n".join(lines), "stdout_lines": lines}


def run(folder: Path, hosts: dict[str, t.Any], tasks: list[dict[str, t.Any]]) -> None:
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": local}}))
    (folder / "plays.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    environ = os.environ | {"ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_LOCAL_TEMP": str(folder / "temp")}
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.json", "plays.json"]
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The message of the failed check of each case, "" where there was none; one run, each case a host."""
    folder = tmp_path_factory.mktemp("preflight")
    cases = {name: case[:2] for name, case in (ACCEPTED | REFUSED).items()}
    hosts = {
        f"case{number}": {"open_webui_admin_password": PASSWORD, **values, "__open_webui_probe": probe(said)}
        for number, (values, said) in enumerate(cases.values())
    }
    found = "ansible_play_hosts | map('extract', hostvars) | map(attribute='failure', default={})"
    written = {"content": f"{{{{ {found} | to_json }}}}", "dest": str(folder / "failures.json"), "mode": "0600"}
    facts = {"os_family": "Debian", "service_mgr": "systemd", "cacheable": True}
    tasks = [
        {"ansible.builtin.set_fact": facts, "run_once": True},
        {
            "block": [{"ansible.builtin.include_role": {"name": ROLE, "tasks_from": "preflight"}}],
            "rescue": [{"ansible.builtin.set_fact": {"failure": "{{ ansible_failed_result }}"}}],
        },
        {"ansible.builtin.copy": written, "run_once": True},
    ]
    run(folder, hosts, tasks)
    failures = json.loads((folder / "failures.json").read_text())
    return {name: failure.get("msg", "") for name, failure in zip(cases, failures, strict=True)}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(messages: dict[str, str], case: str) -> None:
    assert messages[case] == ""


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_host_and_what_to_do(messages: dict[str, str], case: str) -> None:
    for words in REFUSED[case][2]:
        assert words in messages[case]
    assert f"case{list(ACCEPTED | REFUSED).index(case)}" in messages[case]


def test_secrets_come_out_of_their_file_as_they_went_in(tmp_path: Path) -> None:
    """systemd reads a double-quoted value as a shell does."""
    template = Path(__file__).parents[4] / "roles/open_webui/templates/secrets.env.j2"
    values = {
        "open_webui_admin_password": PASSWORD,
        "open_webui_admin_email": "me@example.org",
        "open_webui_admin_name": "Me",
        "open_webui_secret_key": "",
        "open_webui_settings": {"WEBUI_BANNERS": '[{"id": "1"}]', "A_NUMBER": 5},
    }
    run(
        tmp_path,
        {"one": values},
        [{"ansible.builtin.template": {"src": str(template), "dest": str(tmp_path / "out"), "mode": "0600"}}],
    )
    command = ["sh", "-c", "set -a; . ./out; exec env -0"]
    read = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=True).stdout
    found = dict(entry.split("=", 1) for entry in read.rstrip("\0").split("\0"))
    assert {name: value for name, value in found.items() if name != "PWD"} == {
        "WEBUI_ADMIN_EMAIL": "me@example.org",
        "WEBUI_ADMIN_NAME": "Me",
        "WEBUI_ADMIN_PASSWORD": PASSWORD,
        "WEBUI_BANNERS": '[{"id": "1"}]',
        "A_NUMBER": "5",
    }
