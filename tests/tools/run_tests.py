# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the steps of `make test` one after the other and says how long each took.

usage: run_tests.py [lint] [release] [unit] [molecule] [lab]     (default: all)

What asserts no times runs beside molecule, which mostly waits for its hosts; pytest of the rest comes last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
COLLECTION = ROOT / ".venv" / "tree" / "ansible_collections" / "aivailable" / "sdai"
PACKAGE = "ansible_collections.aivailable.sdai.plugins"

LAB_DOWN = [str(BIN / "python"), str(ROOT / "tests" / "lab" / "lab.py"), "down"]

# They assert no times.
PLUGINS = "tests/unit/plugins"

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


def pytest_step(name: str, paths: list[str]) -> Step:
    return (name, [str(BIN / "pytest"), "--durations=10", *paths], ROOT)


def run(steps: list[Step], env: dict[str, str], *, output: t.IO[bytes] | None = None) -> int:
    """Runs steps until one fails; returns its exit status. ``output`` takes what they say, else it is shown."""
    for name, command, cwd in steps:
        say(f"--- {name}", output)
        started = time.monotonic()
        code = subprocess.run(command, cwd=cwd, env=env, check=False, stdout=output, stderr=output).returncode
        seconds = f"{time.monotonic() - started:.0f} s"
        if code:
            say(f"--- {name} failed after {seconds} (exit {code})", output)
            return code
        # pytest comes last, so its summary closes the run; the times of the steps before it are shown first.
        if name != "pytest":
            say(f"--- {name}: {seconds}", output)
    return 0


def say(line: str, output: t.IO[bytes] | None) -> None:
    if output is None:
        print(line, flush=True)
    else:
        output.write(f"{line}\n".encode())
        output.flush()


def run_beside(steps: list[Step], others: list[Step], env: dict[str, str]) -> int:
    """Runs both lists at the same time; what the others say is shown when both have ended."""
    if not (steps and others):
        return run(steps + others, env)
    print(f"--- at the same time, shown later: {', '.join(name for name, *_rest in others)}", flush=True)
    with tempfile.TemporaryFile() as output, ThreadPoolExecutor(1) as pool:
        beside = pool.submit(run, others, env, output=output)
        code = run(steps, env)
        code = beside.result() or code
        output.seek(0)
        print(output.read().decode(errors="replace"), end="", flush=True)
    return code


def main(wanted: list[str]) -> int:
    complete = not wanted
    wanted = wanted or ["lint", "release", "molecule", "unit", "lab"]
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
    lint = lint_steps() if "lint" in wanted else []
    molecule = molecule_steps() if "molecule" in wanted else []
    beside = release_steps() if "release" in wanted else []
    last = []
    if complete:
        beside.append(pytest_step("tests of plugins", [PLUGINS]))
        last.append(f"--ignore={PLUGINS}")
    last += ["tests/unit"] if "unit" in wanted else []
    last += ["tests/integration"] if "lab" in wanted else []
    tests = [pytest_step("pytest", last)] if last else []
    code = run(lint, env) or run_beside(molecule, beside, env) or run(tests, env)
    if code:
        return code
    if complete:
        # Without a word: pytest's summary closes the run. After a failure the lab stays, to be looked at.
        subprocess.run(LAB_DOWN, cwd=ROOT, env=env, check=False, capture_output=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
