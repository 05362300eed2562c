# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests of changes share: the lab's own catalog, what runs, and a run that is killed on its way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import typing as t

import pytest
import yaml
from lab_hosts import BIN, INVENTORY, PLAN_FILE, ROOT, Host, Statistics, playbook_environment

Models = list[dict[str, t.Any]]

BASE: Models = yaml.safe_load((INVENTORY / "group_vars/all/models.yml").read_text())["sdai_models"]


def starts(gpu_hosts: list[Host]) -> dict[str, str]:
    """What tells one start of each replica from another, by id."""
    found = {}
    for host in gpu_hosts:
        units = {replica["unit"]: replica["id"] for replica in host.replicas()}
        text = host.run(f"systemctl show -p Id,InvocationID -- {' '.join(units)}") if units else ""
        for block in text.strip().split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines())
            found[units[values["Id"]]] = values["InvocationID"]
    return found


def whole(gpu_hosts: list[Host], statistics: Statistics) -> None:
    """Plan, descriptions, views of models, units that run and start at boot, and HAProxy's servers name the same."""
    planned: dict[str, set[str]] = {host.name: set() for host in gpu_hosts}
    for replica in json.loads(PLAN_FILE.read_text())["replicas"]:
        planned[replica["node"]].add(replica["id"])
    for host in gpu_hosts:
        views = set(host.run("ls /var/lib/sdai/replicas").split())
        units = host.run("systemctl list-units --state=active --plain --no-legend 'sdai-ollama@*'")
        wanted = host.run("ls /etc/systemd/system/multi-user.target.wants | grep '^sdai-ollama@'; true")
        settings = host.run("ls -d /etc/systemd/system/sdai-ollama@*.d; ls /etc/sdai/replicas/*.env; true")
        assert {replica["id"] for replica in host.replicas()} == planned[host.name]
        assert views == planned[host.name]
        for text in (units, wanted):
            assert set(re.findall(r"sdai-ollama@(\S+)\.service", text)) == planned[host.name]
        assert set(re.findall(r"sdai-ollama@(\S+)\.service\.d", settings)) == planned[host.name]
        assert set(re.findall(r"replicas/(\S+)\.env", settings)) == planned[host.name]
    states = statistics.states()
    assert set(states) == set().union(*planned.values())
    assert set(states.values()) == {"UP"}


def kill_at(task: str, arguments: list[str], *, time: int = 1, name: str = "aivailable.sdai.apply") -> None:
    """Run a playbook and kill it, with all that it started here, when it shows this task's banner, the n-th time."""
    command = [str(BIN / "ansible-playbook"), name, "-i", str(INVENTORY), *arguments]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=playbook_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        seen = []
        for line in t.cast("t.IO[str]", run.stdout):
            seen.append(line)
            time -= line.startswith("TASK [") and line.split("]")[0].endswith(task)
            if time == 0:
                os.killpg(run.pid, signal.SIGKILL)
                break
        else:
            pytest.fail(f"never reached: {task}\n{''.join(seen)}")
