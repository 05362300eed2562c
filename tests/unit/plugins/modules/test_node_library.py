# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the module installs must work on a node without the collection."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

Module = t.Callable[..., dict[str, t.Any]]

UTILS = Path(__file__).resolve().parents[4] / "plugins/module_utils"


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "node/sdai_node"


@pytest.fixture
def run(module: Module, dest: Path) -> Module:
    return lambda *flags: module("node_library", f"dest={dest}", *flags)


def test_what_it_installs_runs_by_itself_and_is_the_collections_own(run: Module, dest: Path) -> None:
    result = run()
    assert sorted(result["written"]) == sorted(str(path) for path in dest.rglob("*.py"))
    for path in dest.rglob("*.py"):
        assert path.read_bytes() == (UTILS / path.relative_to(dest)).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o644
    program = f"import sys; sys.path.insert(0, {str(dest.parent)!r}); from sdai_node._replica_tool import main; main()"
    usage = subprocess.run([sys.executable, "-IBSc", program, "--help"], capture_output=True, text=True, check=True)
    assert "preflight" in usage.stdout
    again = run()
    assert (again["changed"], again["written"], again["removed"]) == (False, [], [])


def test_it_mends_what_differs_and_removes_what_is_no_longer_part_of_it(run: Module, dest: Path) -> None:
    run()
    (dest / "_replica.py").write_text("")
    (dest / "_support.py").chmod(0o600)
    (dest / "_gpu/older.py").write_text("")
    wrong = {str(dest / "_replica.py"), str(dest / "_support.py")}
    if os.geteuid() == 0:
        # Root runs these files: they are nobody else's.
        os.chown(dest / "_ollama.py", 1, 1)
        wrong.add(str(dest / "_ollama.py"))
    for arguments in (["--check"], []):
        result = run(*arguments)
        assert (set(result["written"]), result["removed"]) == (wrong, [str(dest / "_gpu/older.py")])
        assert (dest / "_gpu/older.py").exists() == bool(arguments)
    assert run()["changed"] is False


def test_in_check_mode_nothing_is_made(run: Module, dest: Path) -> None:
    result = run("--check")
    assert (result["changed"], len(result["written"]) > 10, dest.parent.exists()) == (True, True, False)


def test_a_place_that_cannot_be_written_is_one_clear_message(run: Module, dest: Path) -> None:
    dest.parent.write_text("")
    result = run()
    assert result["failed"] is True
    assert f"See that {dest} can be written" in result["msg"]
