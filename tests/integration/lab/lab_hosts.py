# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ways to look into the running lab, independent of the collection's own facts where a test judges those."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import time
import typing as t
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

if t.TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[3]
BIN = ROOT / ".venv" / "bin"
INVENTORY = ROOT / "inventories" / "lab"
PLAN_FILE = INVENTORY / ".plan" / "plan.json"
API = "http://127.0.0.1:8080"
SSH = ["ssh", "-i", str(ROOT / ".lab/ssh/id_ed25519"), "-o", f"UserKnownHostsFile={ROOT / '.lab/ssh/known_hosts'}"]
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
only_long = pytest.mark.skipif(not LONG, reason="minutes of lab time each: part of make test-long")
ADDRESSES = {
    "frontend1": "10.89.77.10",
    "gpu1": "10.89.77.11",
    "gpu2": "10.89.77.12",
    "gpu3": "10.89.77.14",
    "webui1": "10.89.77.13",
}


@dataclass(frozen=True)
class PlaybookRun:
    code: int
    output: str

    @property
    def changed(self) -> dict[str, int]:
        """Number of changed tasks by host, from the recap."""
        return {host: int(count) for host, count in re.findall(r"^(\S+)\s+: ok=.*?changed=(\d+)", self.output, re.M)}


def playbook_environment() -> dict[str, str]:
    return {
        **os.environ,
        "ANSIBLE_HOME": str(ROOT / ".ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
    }


def playbook(name: str, *arguments: str, inventory: Path = INVENTORY) -> PlaybookRun:
    done = subprocess.run(
        [str(BIN / "ansible-playbook"), name, "-i", str(inventory), *arguments],
        cwd=ROOT,
        env=playbook_environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return PlaybookRun(done.returncode, done.stdout + done.stderr)


def wait_for(what: str, condition: Callable[[], t.Any], *, seconds: float, every: float = 0.1) -> float:
    """Waits until the condition is true; returns the seconds that it took, or fails the test."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if condition():
            return time.monotonic() - started
        time.sleep(every)
    pytest.fail(f"{what}: not within {seconds} s")


@dataclass(frozen=True)
class Host:
    name: str

    def run(self, command: str, *, check: bool = True) -> str:
        done = subprocess.run(
            [*SSH, f"root@{ADDRESSES[self.name]}", command], capture_output=True, text=True, timeout=180, check=False
        )
        if check and done.returncode:
            pytest.fail(f"{self.name}: {command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def replicas(self) -> list[dict[str, t.Any]]:
        """The replicas as their files on the node declare them."""
        text = self.run("for f in /etc/sdai/replicas/*.json; do [ -e $f ] && cat $f && echo; done; true")
        decoder = json.JSONDecoder()
        found, position = [], 0
        while position < len(text.rstrip()):
            value, position = decoder.raw_decode(text, position)
            found.append(value)
            while position < len(text) and text[position].isspace():
                position += 1
        return found

    def state(self, unit: str) -> str:
        return self.run(f"systemctl show -P ActiveState '{unit}'").strip()

    def held(self) -> dict[int, dict[str, int]]:
        """MiB by GPU by process, straight from the simulated GPUs' own ledger and not by our facts."""
        lines = self.run('cd /dev/shm/sdai-lab/vram && for f in *; do [ -e $f ] && sed "s/^/$f /" $f; done; true')
        result: dict[int, dict[str, int]] = {}
        for line in lines.splitlines():
            pid, _start, gpu, mib, _api = line.split()
            result.setdefault(int(pid), {})[gpu] = int(mib)
        return result

    def held_by(self, unit: str) -> int:
        """MiB that the processes of a unit hold on all GPUs."""
        pids = self.pids(unit)
        return sum(sum(by_gpu.values()) for pid, by_gpu in self.held().items() if pid in pids)

    def pids(self, unit: str) -> set[int]:
        """Processes in the unit's control group."""
        files = self.run(f"grep -l -F '/{unit}' /proc/[0-9]*/cgroup 2>/dev/null; true").split()
        return {int(file.split("/")[2]) for file in files}

    def log_cursor(self) -> str:
        """A mark in the replicas' log: what is written after it is new."""
        return self.run("journalctl --namespace=sdai -n 0 --show-cursor -q").removeprefix("-- cursor:").strip()

    def wait_for_log(self, cursor: str, unit: str, words: str) -> None:
        """Waits until the unit has logged these words since the mark: the journal takes a moment to show a line."""
        command = f"journalctl --namespace=sdai --after-cursor '{cursor}' -u {unit} -o cat --no-pager"
        wait_for(f"{words!r} in the log of {unit}", lambda: words in self.run(command), seconds=15, every=0.5)

    def cards(self) -> dict[str, int]:
        """VRAM in MiB of each simulated GPU, by id."""
        return {
            card["uuid"] or card["pci_address"]: card["vram_mib"]
            for card in json.loads(self.run("cat /etc/sdai-lab/gpus.json"))["gpus"]
        }

    def free(self, card: str) -> int:
        """MiB that nobody holds on a simulated GPU."""
        return self.cards()[card] - sum(by_gpu.get(card, 0) for by_gpu in self.held().values())


class Statistics:
    """HAProxy's own word about the replicas' servers, from the published statistics page."""

    def rows(self) -> list[dict[str, str]]:
        with urllib.request.urlopen("http://127.0.0.1:8404/stats;csv", timeout=5) as answer:
            rows = list(csv.DictReader(answer.read().decode().lstrip("# ").splitlines()))
        return [row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND") and row["pxname"] != "chat"]

    def states(self) -> dict[str, str]:
        """UP or DOWN by replica id."""
        return {row["svname"]: row["status"].split()[0] for row in self.rows()}

    def sessions(self, replica: str) -> int:
        """Requests that the replica has been given so far."""
        return sum(int(row["stot"] or 0) for row in self.rows() if row["svname"] == replica)
