# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the steps of `make test` and says how long each took.

usage: run_tests.py [lint] [release] [unit] [molecule] [lab]     (default: all)

All together, they run in two rows: in front molecule, and the tests on the lab that it deployed; behind them everything
else (`run_tests.py lint release unit offline`), with what the first row leaves of the machine. What the second row says
is shown at the end, so that pytest's summary closes the run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import typing as t
from contextlib import contextmanager, suppress
from pathlib import Path

if t.TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
COLLECTION = ROOT / ".venv" / "tree" / "ansible_collections" / "aivailable" / "sdai"
PACKAGE = "ansible_collections.aivailable.sdai.plugins"

LAB_DOWN = [str(BIN / "python"), str(ROOT / "tests" / "lab" / "lab.py"), "down"]

ON_LAB = "tests/integration/lab"
# Of the second row: a tenth of the share of the first, so that its own time-outs are not reached.
NICENESS = 10

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
        ("changelog", [str(BIN / "antsibull-changelog"), "lint"], ROOT),
        ("ansible-lint", [str(BIN / "ansible-lint"), "--offline", "-q"], ROOT),
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
        ("environments of the release checks", ["make", "--no-print-directory", "release-venvs"], ROOT),
        ("release", [pytest, "--durations=0", "--durations-min=1", "tests/release"], ROOT),
        # Found before those of .venv, which adds the test tools.
        (
            "plugins with the oldest ansible-core",
            ["env", f"PYTHONPATH={oldest}", pytest, "tests/unit/plugins/action", "tests/unit/plugins/modules"],
            ROOT,
        ),
    ]


def run(steps: list[Step], env: dict[str, str]) -> int:
    """Runs steps until one fails; returns its exit status."""
    for name, command, cwd in steps:
        print(f"--- {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, cwd=cwd, env=env, check=False).returncode
        seconds = f"{time.monotonic() - started:.0f} s"
        if code:
            print(f"--- {name} failed after {seconds} (exit {code})", flush=True)
            return code
        # pytest comes last and says by itself how long it took: its summary closes the run.
        if name != "pytest":
            print(f"--- {name}: {seconds}", flush=True)
    return 0


@contextmanager
def second_row(env: dict[str, str]) -> Iterator[t.Callable[[], int]]:
    """Gives a function that waits for the second row, shows what it said and returns its exit status."""
    with tempfile.TemporaryFile() as output:
        command = ["nice", "-n", str(NICENESS), sys.executable, __file__, "lint", "release", "unit", "offline"]
        row = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
        # Linux may give each session an equal share whatever its processes' niceness: then the session has to be nice.
        with suppress(OSError):
            Path(f"/proc/{row.pid}/autogroup").write_text(str(NICENESS))

        def ended() -> int:
            code = row.wait()
            output.seek(0)
            print(output.read().decode(errors="replace"), end="", flush=True)
            return code

        try:
            yield ended
        finally:
            if row.poll() is None:
                os.killpg(row.pid, signal.SIGTERM)
                row.wait()


def pytest_steps(wanted: list[str]) -> list[Step]:
    """One run of pytest for all that is wanted."""
    paths = {
        "unit": ["tests/unit"],
        "offline": ["tests/integration", f"--ignore={ON_LAB}"],
        "lab": ["tests/integration"],
        "deployed": [ON_LAB],
    }
    found = [path for word, each in paths.items() if word in wanted for path in each]
    return [("pytest", [str(BIN / "pytest"), "--durations=10", *found], ROOT)] if found else []


def steps_of(wanted: list[str]) -> list[Step]:
    return [
        *(lint_steps() if "lint" in wanted else []),
        *(release_steps() if "release" in wanted else []),
        *(molecule_steps() if "molecule" in wanted else []),
        *pytest_steps(wanted),
    ]


def main(wanted: list[str]) -> int:
    env = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(ROOT / ".ansible"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # What newer versions of ansible-core do by default: facts only in ansible_facts.
        "ANSIBLE_INJECT_FACT_VARS": "false",
    }
    if wanted:
        return run(steps_of(wanted), env)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # The second row has to be ended too.
        signal.signal(ending, lambda number, _frame: sys.exit(128 + number))
    with second_row(env) as second_row_ended:
        # Molecule deploys this very tree, and sees that a second run changes nothing.
        code = run(steps_of(["molecule", "deployed"]), {**env, "SDAI_LAB_IS_DEPLOYED": "1"})
        code = code or second_row_ended()
    if code == 0:
        # Without a word: pytest's summary closes the run. After a failure the lab stays, to be looked at.
        subprocess.run(LAB_DOWN, cwd=ROOT, env=env, check=False, capture_output=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
