# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The running lab with the site deployed on it."""

from __future__ import annotations

import json
import os
import subprocess
import typing as t
from pathlib import Path

import pytest
from lab_hosts import ADDRESSES, BIN, PLAN_FILE, ROOT, Host, Statistics, playbook

if t.TYPE_CHECKING:
    from collections.abc import Callable

    from lab_changes import Models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A limit for what may deploy more than once, its fixtures included."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def hosts() -> dict[str, Host]:
    return {name: Host(name) for name in ADDRESSES}


@pytest.fixture(scope="session")
def gpu_hosts(hosts: dict[str, Host]) -> list[Host]:
    return [host for name, host in hosts.items() if name.startswith("gpu")]


@pytest.fixture(scope="session", autouse=True)
def site() -> None:
    """The lab up and the site deployed, unless the run of all tests has just done it (tests/tools/run_tests.py)."""
    if os.environ.get("SDAI_LAB_IS_DEPLOYED"):
        return
    up = subprocess.run([str(BIN / "python"), str(ROOT / "tests/lab/lab.py"), "up"], cwd=ROOT, check=False)
    assert up.returncode == 0, "the lab did not start: see above"
    run = playbook("aivailable.sdai.site")
    assert run.code == 0, run.output


@pytest.fixture
def plan() -> dict[str, t.Any]:
    value: dict[str, t.Any] = json.loads(PLAN_FILE.read_text())
    return value


@pytest.fixture(scope="session")
def statistics() -> Statistics:
    return Statistics()


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Models], list[str]]:
    """Arguments for a playbook, to wish for these models instead of the inventory's."""

    def write(models: Models) -> list[str]:
        file = tmp_path_factory.mktemp("catalog") / "models.json"
        file.write_text(json.dumps({"sdai_models": models}))
        return ["-e", f"@{file}"]

    return write


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs a playbook in check mode; the file of its results."""

    def run(name: str, *arguments: str) -> Path:
        results = tmp_path / "check.jsonl"
        with monkeypatch.context() as patched:
            patched.setenv("ANSIBLE_CALLBACK_PLUGINS", str(ROOT / "tests/lab/callbacks"))
            patched.setenv("ANSIBLE_CALLBACKS_ENABLED", "sdai_results")
            patched.setenv("SDAI_RESULTS", str(results))
            done = playbook(name, "--check", "--diff", *arguments)
        assert done.code == 0, done.output
        return results

    return run
