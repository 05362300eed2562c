# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the module makes of a node's files."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

Module = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def run(module: Module, tmp_path: Path) -> Module:
    arguments = f"config_dir={tmp_path}/replicas sysfs_root={tmp_path}/sys procfs_root={tmp_path}/proc"
    return lambda: module("replica_facts", arguments, "--check")


def test_a_bare_node_has_no_replicas(run: Module) -> None:
    result = run()
    assert (result["failed"], result["changed"], result["replicas"]) == (False, False, [])


def test_a_damaged_file_is_one_clear_message(run: Module, tmp_path: Path) -> None:
    (tmp_path / "replicas").mkdir()
    (tmp_path / "replicas/tiny--1.json").write_text("{")
    result = run()
    assert result["failed"] is True
    assert result["msg"].startswith(f"{tmp_path}/replicas/tiny--1.json is not valid JSON")
    assert "exception" not in result
