#!/usr/bin/env python3
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: systemd hosts in containers with simulated GPUs, reached over ssh as real ones are.

  up            start it, or what is missing of it; quick when all runs
  down          remove the containers, the network and their state; caches stay
  status        what runs
  ssh HOST [COMMAND …]   log in as root
  reboot HOST   stop it in order and start it again
  kill HOST     take its power away
  start HOST    start it after that
  vanish HOST   let it run on, but drop every packet that it sends or is sent
  back HOST     undo that

Hosts: frontend1 (its ports 8080, 8404 and 3000 also on 127.0.0.1), webui1, gpu1 (GTX 1080 Ti, Tesla P40),
gpu2 (RX 7900 XTX, RX 580), gpu3 (Tesla M40, and four cards that nothing serves), and mirror, which serves the release
archive and the models.
Inventory: inventories/lab.

Environment, none of it needed as a rule, because `up` reads this machine's own settings:
  SDAI_LAB_CA_FILE    certificate authority for the hosts to trust (default: those in /usr/local/share/ca-certificates)
  SDAI_LAB_PIP_CONF   pip's configuration for the hosts (default: made from `pip config list`)
  SDAI_LAB_BINDS      paths, or SOURCE:TARGET, separated by commas, to mount read-only in the hosts
  CONTAINERS_CONF     Podman's configuration (default: one of the lab's own where control groups are not of version 2)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import _engine
import _hosts
import _image
import _machine
import _wheels
import snapshot
from _engine import CACHE, ROOT, STATE, LabError, podman, step
from _hosts import EVERYBODY, HOSTS, MIRROR, NETWORK, STANDIN, Host

if t.TYPE_CHECKING:
    from collections.abc import Iterator

BOOT_S = 90
VANISHED = "sdai_lab_vanished"
PREPARE = STANDIN / "build_release.py"


def up() -> None:
    _engine.need_programs()
    started = time.monotonic()
    release = _prepare_release()
    image = _image.image()
    _hosts.keys()
    _hosts.passwords()
    machine_mounts = _machine.mounts()
    wanted = {host: _hosts.run_arguments(host, image, machine_mounts) for host in EVERYBODY}
    known = _engine.containers()
    fit = {host for host in EVERYBODY if _fits(host, known.get(host.container), wanted[host])}
    for name in known.keys() - {host.container for host in fit}:
        _engine.remove(name)
    _hosts.network()
    _wheels.fetch(image, machine_mounts)
    with step("Building the release archive and the models", 60 if release and release.poll() is None else 0):
        servable = _finish_release(release)
    everybody = [host for host in EVERYBODY if host is not MIRROR or servable]
    new = [host for host in everybody if host not in fit]
    try:
        _start(new, wanted)
    except LabError as error:
        # Names or addresses still taken by what a killed run or a stopped machine left half done.
        print(f"{error}\nOnce more, from nothing.", flush=True)
        _clear()
        _hosts.network()
        new = everybody
        _start(new, wanted)
    with step("Waiting until the hosts have booted"), ThreadPoolExecutor() as pool:
        list(pool.map(wait_ready, HOSTS))
    with step("Keeping the state of the new hosts"):
        snapshot.keep_bare([host for host in new if host.systemd])
    if servable:
        _wait_for_mirror()
    running = ", ".join(f"{host.name} {host.address}" for host in EVERYBODY if host is not MIRROR or servable)
    print(f"The lab is up ({time.monotonic() - started:.0f} s): {running}")


def _prepare_release() -> subprocess.Popen[bytes] | None:
    if not PREPARE.exists():
        print(f"No {PREPARE.relative_to(ROOT)} yet: the lab comes up without its mirror.")
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen([sys.executable, PREPARE, "--cache", CACHE], cwd=ROOT, stdin=subprocess.DEVNULL)


def _finish_release(release: subprocess.Popen[bytes] | None) -> bool:
    if release is None:
        return False
    if release.wait():
        raise LabError(f"{PREPARE.relative_to(ROOT)} ended with {release.returncode}; what it said is above.")
    return True


def _fits(host: Host, listed: dict[str, t.Any] | None, arguments: list[str]) -> bool:
    """Whether the container is there, made as it would be made now, and really running or willing to start."""
    if listed is None or listed["Labels"].get("sdai-lab-spec") != _hosts.specification(host, arguments):
        return False
    # Podman may list a container as running whose processes went with the machine; then nothing can be run in it.
    if listed["State"] == "running":
        return podman("exec", host.container, "true", check=False).returncode == 0
    return podman("start", host.container, check=False).returncode == 0


def _start(hosts: list[Host], wanted: dict[Host, list[str]]) -> None:
    with step(f"Starting {', '.join(host.name for host in hosts)}"), ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: _start_new(host, wanted[host]), hosts))


def _start_new(host: Host, arguments: list[str]) -> None:
    _hosts.lay_out(host)
    snapshot.bare_file(host.name).unlink(missing_ok=True)
    label = f"--label=sdai-lab-spec={_hosts.specification(host, arguments)}"
    done = podman("run", "--detach", label, *arguments, check=False)
    if "address already in use" in done.stderr:
        sys.exit(f"lab: another program listens on a port that {host.name} publishes: {', '.join(host.publish)}")
    if done.returncode:
        raise LabError(f"{host.name} does not start: {done.stderr.strip()}")


def wait_ready(host: Host) -> None:
    """Until systemd has started everything (an apt-get before that leaves broken lists) and ssh lets us in."""
    deadline = time.monotonic() + BOOT_S
    state = ""
    while state not in ("running", "degraded"):
        if time.monotonic() > deadline:
            raise LabError(f"{host.name} did not boot within {BOOT_S} s (systemd: {state or 'no answer'})")
        if state:
            time.sleep(0.2)
        done = _engine.run([*_hosts.ssh_command(host), "systemctl is-system-running"], check=False)
        state = done.stdout.strip() or done.stderr.strip() or "no answer"


def _wait_for_mirror() -> None:
    for _attempt in range(100):
        probe = "import urllib.request as u; u.urlopen('http://mirror:8000/', timeout=2)"
        done = podman("exec", MIRROR.container, "python3", "-c", probe, check=False)
        if done.returncode == 0 or "HTTP Error" in done.stderr:
            return
        time.sleep(0.2)
    logs = podman("logs", "--tail", "15", MIRROR.container, check=False)
    raise LabError(f"The mirror does not answer: {(logs.stdout + logs.stderr).strip()}")


def down() -> None:
    with step("Removing the lab"):
        if shutil.which("podman"):
            _clear()
        # The plan was made for hosts that are no more.
        _engine.run(["rm", "-rf", STATE, ROOT / "inventories" / "lab" / ".plan"], root=True)
    print("The lab is removed; its caches stay in .cache/lab.")


def _clear() -> None:
    for name in {*_engine.containers(), *(host.container for host in EVERYBODY)}:
        if podman("container", "exists", name, check=False).returncode == 0:
            _engine.remove(name)
    if podman("network", "exists", NETWORK, check=False).returncode == 0:
        podman("network", "rm", "--force", NETWORK)


def status() -> None:
    known = _engine.containers()
    for host in EVERYBODY:
        listed = known.get(host.container)
        print(f"{host.name:10} {host.address:12} {listed['State'] if listed else 'absent'}")
    if any(known.get(host.container, {}).get("State") != "running" for host in EVERYBODY):
        sys.exit(1)


def kill(host: Host) -> None:
    podman("kill", host.container)


def start(host: Host) -> None:
    podman("start", host.container)
    if host.systemd:
        wait_ready(host)


def vanish(host: Host) -> float:
    """Without a word to anybody who is connected to it; ssh ends too. Returns the time of day when it was so."""
    chains = " ".join(
        f'add chain netdev {VANISHED} {hook} {{ type filter hook {hook} device "eth0" priority -500; policy drop; }};'
        for hook in ("ingress", "egress")
    )
    script = f"nft 'add table netdev {VANISHED}; {chains}' && date +%s.%N"
    return float(podman("exec", host.container, "sh", "-c", script, seconds=30).stdout)


def back(host: Host) -> None:
    # Also where it did not vanish.
    script = f"nft 'add table netdev {VANISHED}; delete table netdev {VANISHED}'"
    podman("exec", host.container, "sh", "-c", script, seconds=30)


def reboot(host: Host) -> None:
    podman("stop", "--time", "30", host.container)
    start(host)


def ssh(host: Host, words: list[str]) -> t.NoReturn:
    command = [*_hosts.ssh_command(host), *words]
    os.execvp(command[0], command)


@contextmanager
def alone() -> Iterator[None]:
    """One change of the lab at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another lab.py …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(words: list[str]) -> None:
    hosts = {host.name: host for host in EVERYBODY}
    match words:
        case ["up"]:
            with alone():
                up()
        case ["down"]:
            with alone():
                down()
        case ["status"]:
            status()
        case ["ssh", name, *rest] if name in hosts:
            ssh(hosts[name], rest)
        case [("reboot" | "kill" | "start" | "vanish" | "back") as verb, name] if name in hosts:
            {"reboot": reboot, "kill": kill, "start": start, "vanish": vanish, "back": back}[verb](hosts[name])
        case ["--help" | "-h" | "help"]:
            print(__doc__)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LabError as error:
        sys.exit(f"lab: {error}")
