# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether to reload is read off the running process: a run that died before its reload is healed by the next."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from . import conftest
from .conftest import Frontend, Replica, model, run_plays

# Stands for systemd: an active unit whose reload goes to the test's own process, and lasts until that is ready.
SYSTEMCTL = """#!{python}
import os, signal, sys, urllib.request
with open("{calls}", "a") as calls:
    print(*sys.argv[1:], file=calls)
if sys.argv[1] == "show":
    print("LoadState=loaded", "ActiveState=active", sep="\\n")
else:
    os.kill({pid}, signal.SIGUSR2)
    while b"{revision}" not in urllib.request.urlopen("http://127.0.0.1:{port}/healthz").read():
        pass
"""


def load(frontend: Frontend, folder: Path, *options: str, times: int) -> tuple[int, list[str]]:
    """Runs the role's step with its handler, so often: the changes that Ansible tells, and the calls of systemctl."""
    assert frontend.process
    calls, programs = folder / "calls", folder / "bin"
    calls.write_text("")
    programs.mkdir(exist_ok=True)
    known = {"calls": calls, "pid": frontend.process.pid, "port": frontend.port, "revision": frontend.revision}
    (programs / "systemctl").write_text(SYSTEMCTL.format(python=sys.executable, **known))
    (programs / "systemctl").chmod(0o755)
    (folder / "variables.json").write_text(json.dumps(frontend.variables))
    step = {"name": "aivailable.sdai.haproxy", "tasks_from": "load"}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.include_role": step}]}
    play["environment"] = {"PATH": f"{programs}:{os.environ['PATH']}"}
    told = run_plays(folder, [play] * times, "-e", f"@{folder / 'variables.json'}", *options)
    changes = re.search(r" changed=(\d+) ", told)
    assert changes, told
    return int(changes[1]), calls.read_text().splitlines()


def names(frontend: Frontend) -> list[str]:
    return [entry["id"] for entry in frontend.get("/v1/models").json["data"]]


def test_files_of_a_run_that_died_are_loaded_by_the_next(
    frontend: Frontend, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The files are new, the process is old, nothing is left to write: only the process itself can tell."""
    folder = tmp_path_factory.mktemp("site")
    frontend.start([])
    frontend.render([model("tiny", Replica()), model("other", Replica())])
    # Told, not done.
    assert load(frontend, folder, "--check", times=1) == (2, ["show haproxy"])
    assert names(frontend) == []
    # The comparison and the handler of the first time; the second finds nothing to do.
    assert load(frontend, folder, times=2) == (2, ["show haproxy", "reload haproxy"])
    assert names(frontend) == ["tiny:latest", "other:latest"]


def test_each_file_changes_the_revision(frontend: Frontend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new release of the role may change any file that HAProxy reads, and no variable."""
    role = shutil.copytree(conftest.ROLE, tmp_path / "role")
    monkeypatch.setattr(conftest, "ROLE", role)
    read = [*sorted(role.glob("templates/*.*.j2")), role / "files" / "sdai_route.lua"]
    assert len(read) == 6
    frontend.render([model("tiny")])
    revisions = [frontend.revision]
    for path in read:
        with path.open("a") as file:
            file.write("changed\n")
        frontend.render([model("tiny")])
        revisions.append(frontend.revision)
    assert len({*revisions}) == 1 + len(read)
