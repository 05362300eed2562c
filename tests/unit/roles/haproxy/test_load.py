# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether to reload is read off the running process: a run that died before its reload is healed by the next."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import conftest
from .conftest import Frontend, Replica, model

# Stands for systemd: an active unit, whose reload goes to the test's own process.
SYSTEMCTL = """#!/bin/sh
echo "$@" >>{calls}
case $1 in
  show) echo LoadState=loaded; echo ActiveState=active ;;
  reload) kill -USR2 {pid} ;;
esac
"""


class Site:
    """Runs the role's step that loads the configuration, with its handler, on the frontend of a test."""

    def __init__(self, frontend: Frontend, folder: Path) -> None:
        assert frontend.process
        self.frontend, self.folder, self.calls = frontend, folder, folder / "calls"
        self.calls.touch()
        programs = folder / "bin"
        programs.mkdir()
        (programs / "systemctl").write_text(SYSTEMCTL.format(calls=self.calls, pid=frontend.process.pid))
        (programs / "systemctl").chmod(0o755)
        steps = [{"ansible.builtin.include_role": {"name": "aivailable.sdai.haproxy", "tasks_from": step}}
                 for step in ("load", "verify")]  # fmt: skip
        steps.insert(1, {"ansible.builtin.meta": "flush_handlers"})
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "environment": {"PATH": f"{programs}:{os.environ['PATH']}"},
        }
        # Twice: what the first play loads, the second must find loaded.
        (folder / "play.json").write_text(json.dumps([play | {"tasks": steps}] * 2))

    def run(self, *options: str) -> int:
        """The number of changes that Ansible tells."""
        variables = self.frontend.variables | {"ansible_python_interpreter": sys.executable}
        (self.folder / "variables.json").write_text(json.dumps(variables))
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [program, "-e", f"@{self.folder / 'variables.json'}", *options, self.folder / "play.json"]
        environ = os.environ | {
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "temp"),
        }
        done = subprocess.run(command, env=environ, cwd=self.folder, capture_output=True, text=True, check=False)
        recap = re.search(r"changed=(\d+) +unreachable=0 +failed=0 ", done.stdout)
        assert recap, done.stdout + done.stderr
        return int(recap[1])

    @property
    def reloads(self) -> int:
        return self.calls.read_text().count("reload haproxy")


@pytest.fixture
def site(frontend: Frontend, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(frontend.start([model("tiny", Replica())]), tmp_path_factory.mktemp("site"))


def names(frontend: Frontend) -> list[str]:
    return [entry["id"] for entry in frontend.get("/v1/models").json["data"]]


def test_files_of_a_run_that_died_are_loaded_by_the_next(site: Site) -> None:
    """The files are new, the process is old, nothing is left to write: only the process itself can tell."""
    frontend = site.frontend
    frontend.render([model("tiny", Replica()), model("other", Replica())])
    assert site.run("--check") == 2  # each play tells it
    assert (site.reloads, names(frontend)) == (0, ["tiny:latest"])
    assert site.run() == 2  # the comparison and the handler; the second play changes nothing
    assert (site.reloads, names(frontend)) == (1, ["tiny:latest", "other:latest"])


@pytest.mark.parametrize(
    "changed",
    [
        *(f"templates/{name}.j2" for name in ("models.map", "entries.map", "models.json", "tags.json", "haproxy.cfg")),
        "files/sdai_route.lua",
    ],
)
def test_each_file_counts(frontend: Frontend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """A new release of the role may change any of them and no variable."""
    frontend.render([model("tiny")])
    before = frontend.revision
    role = shutil.copytree(conftest.ROLE, tmp_path / "role")
    monkeypatch.setattr(conftest, "ROLE", role)
    frontend.render([model("tiny")])
    assert frontend.revision == before
    with (role / changed).open("a") as file:
        file.write("changed\n")
    frontend.render([model("tiny")])
    assert frontend.revision != before
