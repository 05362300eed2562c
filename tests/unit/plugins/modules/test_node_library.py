# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module as Ansible packs it for a node: what it installs must work there without the collection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
UTILS = Path(__file__).resolve().parents[4] / "plugins/module_utils"


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "node/sdai_node"


def run(dest: Path, *arguments: str) -> dict[str, t.Any]:
    command = [BIN / "ansible", "-i", "localhost,", "localhost", "-c", "local", "-m", "aivailable.sdai.node_library"]
    done = subprocess.run(
        [*command, "-a", f"dest={dest}", "-e", f"ansible_python_interpreter={sys.executable}", *arguments],
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_HOME": str(dest.parents[1] / "ansible")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    status, _arrow, text = done.stdout.partition("=>")
    return {"failed": "FAILED!" in status, **json.loads(text)}


def test_what_it_installs_runs_by_itself_and_is_the_collections_own(dest: Path) -> None:
    result = run(dest)
    assert sorted(result["written"]) == sorted(str(path) for path in dest.rglob("*.py"))
    for path in dest.rglob("*.py"):
        assert path.read_bytes() == (UTILS / path.relative_to(dest)).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o644
    program = f"import sys; sys.path.insert(0, {str(dest.parent)!r}); from sdai_node._replica_tool import main; main()"
    usage = subprocess.run([sys.executable, "-IBSc", program, "--help"], capture_output=True, text=True, check=True)
    assert "preflight" in usage.stdout
    again = run(dest)
    assert (again["changed"], again["written"], again["removed"]) == (False, [], [])


def test_it_mends_what_differs_and_removes_what_is_no_longer_part_of_it(dest: Path) -> None:
    run(dest)
    (dest / "_replica.py").write_text("")
    (dest / "_support.py").chmod(0o600)
    (dest / "_gpu/older.py").write_text("")
    wrong = {str(dest / "_replica.py"), str(dest / "_support.py")}
    for arguments in (["--check"], []):
        result = run(dest, *arguments)
        assert (set(result["written"]), result["removed"]) == (wrong, [str(dest / "_gpu/older.py")])
        assert (dest / "_gpu/older.py").exists() == bool(arguments)
    assert run(dest)["changed"] is False


def test_in_check_mode_nothing_is_made(dest: Path) -> None:
    result = run(dest, "--check")
    assert (result["changed"], len(result["written"]) > 10, dest.parent.exists()) == (True, True, False)


def test_a_place_that_cannot_be_written_is_one_clear_message(dest: Path) -> None:
    dest.parent.write_text("")
    result = run(dest)
    assert result["failed"] is True
    assert f"See that {dest} can be written" in result["msg"]
