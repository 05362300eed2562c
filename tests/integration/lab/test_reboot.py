# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node that goes away and comes back serves again without the control node."""

from __future__ import annotations

import subprocess

import pytest
from lab_hosts import BIN, ROOT, Host, Statistics, wait_for


@pytest.mark.parametrize("name", ["gpu1", "gpu2"])
def test_a_rebooted_node_serves_again_by_itself(hosts: dict[str, Host], statistics: Statistics, name: str) -> None:
    host = hosts[name]
    replicas = {replica["id"]: replica["unit"] for replica in host.replicas()}
    assert replicas

    def invocations() -> set[str]:
        return {host.run(f"systemctl show -P InvocationID {unit}").strip() for unit in replicas.values()}

    before = invocations()
    subprocess.run([str(BIN / "python"), str(ROOT / "tests/lab/lab.py"), "reboot", name], cwd=ROOT, check=True)
    for unit in replicas.values():
        wait_for(f"{unit} active", lambda unit=unit: host.state(unit) == "active", seconds=120, every=0.5)
    assert not before & invocations(), "the units are still those from before the reboot"
    wait_for(
        f"all replicas of {name} UP",
        lambda: all(statistics.states().get(replica) == "UP" for replica in replicas),
        seconds=10,
    )
