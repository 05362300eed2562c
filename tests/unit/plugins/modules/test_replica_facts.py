# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module as Ansible packs it for a node, which is where a missing or wrong import would show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

BIN = Path(sys.executable).parent


def run(tmp_path: Path) -> dict[str, t.Any]:
    arguments = f"config_dir={tmp_path}/replicas sysfs_root={tmp_path}/sys procfs_root={tmp_path}/proc"
    done = subprocess.run(
        [
            BIN / "ansible",
            "-i",
            "localhost,",
            "localhost",
            "-c",
            "local",
            "-m",
            "aivailable.sdai.replica_facts",
            "-a",
            arguments,
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            "--check",
        ],
        env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    status, _arrow, text = done.stdout.partition("=>")
    return {"failed": "FAILED!" in status, **json.loads(text)}


def test_a_bare_node_has_no_replicas(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result["failed"], result["changed"], result["replicas"]) == (False, False, [])


def test_a_damaged_file_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "replicas").mkdir()
    (tmp_path / "replicas/tiny--1.json").write_text("{")
    result = run(tmp_path)
    assert result["failed"] is True
    assert result["msg"].startswith(f"{tmp_path}/replicas/tiny--1.json is not valid JSON")
    assert "exception" not in result
