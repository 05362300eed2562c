# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the steps of `make test` one after the other and says how long each took.

usage: run_tests.py [lint] [release] [unit] [molecule] [lab]     (default: all; pytest of the others comes last)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
COLLECTION = ROOT / ".venv" / "tree" / "ansible_collections" / "aivailable" / "sdai"
PACKAGE = "ansible_collections.aivailable.sdai.plugins"

LAB_DOWN = [str(BIN / "python"), str(ROOT / "tests" / "lab" / "lab.py"), "down"]

Step = tuple[str, list[str], Path]


def lint_steps() -> list[Step]:
    return [
        ("ruff check", [str(BIN / "ruff"), "check", "--quiet", "."], ROOT),
        ("ruff format", [str(BIN / "ruff"), "format", "--check", "--quiet", "."], ROOT),
        (
            "mypy",
            [
                str(BIN / "mypy"),
                f"--config-file={ROOT / 'pyproject.toml'}",
                f"--cache-dir={ROOT / '.mypy_cache'}",
                "-p",
                f"{PACKAGE}.module_utils",
                "-p",
                f"{PACKAGE}.plugin_utils",
            ],
            ROOT / ".venv" / "tree",
        ),
        ("ansible-lint", [str(BIN / "ansible-lint"), "--offline", "-q"], ROOT),
        ("changelog", [str(BIN / "antsibull-changelog"), "lint"], ROOT),
    ]


def molecule_steps() -> list[Step]:
    # Bare hosts are what the scenario begins with; the lab stays up for the tests that follow.
    return [
        ("a fresh lab", LAB_DOWN, ROOT),
        ("molecule", [str(BIN / "molecule"), "test", "--all", "--destroy=never"], COLLECTION),
    ]


def release_steps() -> list[Step]:
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    oldest = ROOT / ".cache" / "oldest" / "lib" / python / "site-packages"
    pytest = str(BIN / "pytest")
    return [
        ("release", [pytest, "--durations=0", "--durations-min=1", "tests/release"], ROOT),
        # Found before those of .venv, which adds the test tools.
        (
            "plugins with the oldest ansible-core",
            ["env", f"PYTHONPATH={oldest}", pytest, "tests/unit/plugins/action", "tests/unit/plugins/modules"],
            ROOT,
        ),
    ]


def pytest_step(paths: list[str]) -> Step:
    return ("pytest", [str(BIN / "pytest"), "--durations=10", *paths], ROOT)


def main(wanted: list[str]) -> int:
    complete = not wanted
    wanted = wanted or ["lint", "release", "molecule", "unit", "lab"]
    steps: list[Step] = []
    if "lint" in wanted:
        steps += lint_steps()
    if "release" in wanted:
        steps += release_steps()
    if "molecule" in wanted:
        steps += molecule_steps()
    paths = [path for name, path in (("unit", "tests/unit"), ("lab", "tests/integration")) if name in wanted]
    if paths:
        steps.append(pytest_step(paths))
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(ROOT / ".ansible"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # What newer versions of ansible-core do by default: facts only in ansible_facts.
        "ANSIBLE_INJECT_FACT_VARS": "false",
    }
    if "molecule" in wanted:
        # Molecule has just deployed this very tree, and seen that a second run changes nothing.
        env["SDAI_LAB_IS_DEPLOYED"] = "1"
    # pytest comes last, so its summary closes the run; the times of the steps before it are shown first.
    for name, command, cwd in steps:
        print(f"--- {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, cwd=cwd, env=env, check=False).returncode
        if code:
            print(f"--- {name} failed after {time.monotonic() - started:.0f} s (exit {code})", flush=True)
            return code
        if name != "pytest":
            print(f"--- {name}: {time.monotonic() - started:.0f} s", flush=True)
    if complete:
        # Without a word: pytest's summary closes the run. After a failure the lab stays, to be looked at.
        subprocess.run(LAB_DOWN, cwd=ROOT, env=env, check=False, capture_output=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
