# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A simulated host without a container: the same files in a folder of the test's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SIMGPU = ROOT / "tests" / "lab" / "simgpu"
sys.path[:0] = [str(SIMGPU), str(SIMGPU.parent)]


class SimulatedHost:
    """gpu1 (GTX 1080 Ti, Tesla P40) or gpu2 (RX 7900 XTX, RX 580) of the lab, below a folder."""

    def __init__(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.etc, self.shm, self.dev = folder / "etc", folder / "shm", folder / "dev"
        for path, variable in ((self.etc, "ETC"), (self.shm, "SHM"), (self.dev, "DEV")):
            path.mkdir()
            monkeypatch.setenv(f"SDAI_LAB_{variable}", str(path))
        shutil.copy(SIMGPU / "hosts" / f"{name}.json", self.etc / "gpus.json")
        import gpud

        gpud.set_up()

    def run(self, program: str, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            [SIMGPU / program, *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout if check else f"{done.returncode}: {done.stdout}{done.stderr}"

    def take(self, *words: str) -> int:
        return int(self.run("sdai-lab-gpu", "take", *words))


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[t.Callable[[str], SimulatedHost]]:
    hosts = []

    def make(name: str) -> SimulatedHost:
        hosts.append(SimulatedHost(name, tmp_path, monkeypatch))
        return hosts[-1]

    yield make
    for host in hosts:
        host.run("sdai-lab-gpu", "drop")
