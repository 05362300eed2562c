# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules as Ansible packs them for a node, which is where a missing or wrong import would show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.fixture
def module(tmp_path: Path) -> t.Callable[..., dict[str, t.Any]]:
    """Runs one of the collection's modules: its name, its arguments as text, flags of ``ansible``.

    The result has a key ``failed`` in any case.
    """

    def run(name: str, arguments: str, *flags: str) -> dict[str, t.Any]:
        interpreter = f"ansible_python_interpreter={sys.executable}"
        command = [BIN / "ansible", "-i", "localhost,", "localhost", "-c", "local", "-e", interpreter, *flags]
        done = subprocess.run(
            [*command, "-m", f"aivailable.sdai.{name}", "-a", arguments],
            env={**os.environ, "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_HOME": str(tmp_path / "ansible")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        status, _arrow, text = done.stdout.partition("=>")
        return {"failed": "FAILED!" in status, **json.loads(text)}

    return run
