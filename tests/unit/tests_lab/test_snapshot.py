# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What two states of a lab host differ by, and what the script on the host reads."""

from __future__ import annotations

import sys
from pathlib import Path

import _snapshot_host as on_host
import pytest
import snapshot


def test_difference_by_section_and_kind():
    before = {"files": {"/etc/a": {"size": 1}, "/etc/b": {"size": 1}, "/etc/c": {"size": 1}}, "users": {"root": {}}}
    after = {"files": {"/etc/a": {"size": 1}, "/etc/b": {"size": 2}, "/etc/d": {"size": 3}}, "users": {"root": {}}}
    assert snapshot.difference(before, after) == {
        "files": {
            "created": {"/etc/d": {"size": 3}},
            "changed": {"/etc/b": [{"size": 1}, {"size": 2}]},
            "removed": {"/etc/c": {"size": 1}},
        }
    }
    assert snapshot.difference(before, before) == {}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "etc"
    root.mkdir()
    monkeypatch.setattr(on_host, "ROOTS", (str(root), str(tmp_path / "missing")))
    return root


def test_files_with_their_contents_modes_and_targets(tree):
    (tree / "file").write_text("one")
    (tree / "file").chmod(0o640)
    (tree / "link").symlink_to("file")
    before = on_host.files()
    assert before[str(tree / "file")]["mode"] == "0640"
    assert before[str(tree / "link")] == {"type": "link", "target": "file"}
    (tree / "file").write_text("two")
    after = on_host.files()
    assert list(snapshot.difference({"files": before}, {"files": after})["files"]["changed"]) == [str(tree / "file")]


def test_a_large_file_is_told_by_its_size_and_ends(tree, monkeypatch):
    monkeypatch.setattr(on_host, "WHOLE_BYTES", 10)
    monkeypatch.setattr(on_host, "END_BYTES", 4)
    (tree / "blob").write_text("head" + 8 * "." + "tail")
    first = on_host.files()
    (tree / "blob").write_text("head" + 8 * "." + "liat")
    assert on_host.files() != first


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        ("/var/log", True),
        ("/var/cache/apt", True),
        ("/var/cache/sdai", False),
        ("/etc/passwd-", True),
        ("/etc/passwd", False),
        ("/var/lib/dpkg", True),
        ("/var/lib/sdai", False),
        ("/root/.ansible_async", True),
        ("/root/.bashrc", False),
        ("/opt/sdai/node/__pycache__", True),
    ],
)
def test_left_out_is_what_hosts_write_by_themselves(path, left_out):
    assert bool(on_host.LEFT_OUT.match(path)) == left_out


def test_the_script_needs_nothing_beside_it():
    """On a host it is read from standard input, so it may use nothing beside it."""
    source = Path(on_host.__file__).read_text()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith("import ")}
    assert imported <= set(sys.stdlib_module_names)
