# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""The command /opt/sdai/node/sdai-replica: what a replica's unit runs before, after and while it serves.

``stale`` is the role's question: it prints the ids of those that were started with other settings than they have now.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path

from ._gpu.model import Roots
from ._gpu.scan import device_numbers, scan
from ._ollama import EMBEDDING, Client, OllamaError
from ._replica import (
    Replica,
    ReplicaError,
    check_answer,
    check_embedding,
    check_environment,
    check_ps,
    check_vram,
    fixed_selectors,
    resolved_selectors,
    vulkan_indices,
)

CONFIG = Path("/etc/sdai")
RUN = Path("/run/sdai/replicas")
UNITS = Path("/etc/systemd/system")
# A card's driver may still be at work when the unit is started at boot.
DEVICE_SECONDS = 120
# A server answers when it has looked for GPUs, which takes a slow driver half a minute.
SERVER_SECONDS = 120
# Figures of the driver follow an allocation with a delay.
SETTLE_SECONDS = 15
# A hung engine is replaced in 21 s (the server pings it twice for 10 s).
WATCH_SECONDS = 30
# A server lists its store in milliseconds, whatever its engine does.
ALIVE_SECONDS = 10
ANSWER_SECONDS = 300
# Enough for a model that thinks before it answers.
ANSWER_TOKENS = 512
POLL_SECONDS = 0.5
VULKAN_SECONDS = 60

T = t.TypeVar("T")


def wait_for(check: t.Callable[[], T], seconds: float, *, alive: t.Callable[[], bool] = lambda: True) -> T:
    """Call ``check`` until it does not raise; its last error when the time is up or ``alive`` is false."""
    end = time.monotonic() + seconds
    while True:
        try:
            return check()
        except (ReplicaError, OllamaError) as exc:
            if not alive():
                raise ReplicaError(f"the server has ended ({exc})") from exc
            if time.monotonic() >= end:
                raise
            time.sleep(POLL_SECONDS)


def load_replica(replica_id: str) -> Replica:
    """:raises ReplicaError: not described on this node, or damaged."""
    path = CONFIG / "replicas" / f"{replica_id}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ReplicaError(f"{path} is missing: this node has no such replica") from exc
    except ValueError as exc:
        raise ReplicaError(f"{path} is damaged ({exc}); run the role again") from exc
    return Replica.from_dict(document)


def load_roots() -> Roots:
    found = json.loads((CONFIG / "node.json").read_text(encoding="utf-8"))
    return Roots(sysfs=found["sysfs_root"], procfs=found["procfs_root"], venv=found["venv"])


def preflight(replica: Replica, roots: Roots, environ: t.Mapping[str, str]) -> dict[str, str]:
    """Before the server starts, which looks for GPUs once: the selectors hold and the devices are there.

    Returns the selectors that only this start can know.
    """
    check_environment(fixed_selectors(replica), environ)
    check_localhost()
    return wait_for(lambda: _devices(replica, roots), DEVICE_SECONDS)


def check_localhost() -> None:
    """The server's engine is reached by that name; where it does not resolve, ports collide."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo("localhost", None)}
    except OSError:
        found = set()
    if not found & {"127.0.0.1", "::1"}:
        raise ReplicaError("localhost does not resolve; add `127.0.0.1 localhost` to /etc/hosts")


def _devices(replica: Replica, roots: Roots) -> dict[str, str]:
    """:raises ReplicaError: a device that the plan needs is not (yet) there."""
    numbers = device_numbers(scan(roots))
    for gpu in replica.gpus:
        if gpu.id not in numbers:
            raise ReplicaError(f"GPU {gpu.id} is not there; it has {', '.join(sorted(numbers)) or 'no GPU'} instead")
    if replica.backend == "cuda":
        _nodes([Path("/dev/nvidiactl"), Path("/dev/nvidia-uvm")])
        _nodes(_nvidia_nodes(roots, [numbers[gpu.id][0] for gpu in replica.gpus]))
    elif replica.backend == "rocm":
        _nodes([Path("/dev/kfd")])
    vulkan = vulkan_indices(_vulkaninfo()) if replica.backend == "vulkan" else {}
    return resolved_selectors(replica, numbers, vulkan)


def _nodes(paths: t.Iterable[Path]) -> None:
    for path in paths:
        if not os.access(path, os.R_OK | os.W_OK):
            raise ReplicaError(
                f"the device {path} is missing or closed to this user; see systemctl status sdai-gpu-devices.service"
            )


def _nvidia_nodes(roots: Roots, addresses: t.Iterable[str]) -> list[Path]:
    """The device node of each card, by the minor number that the driver gives it."""
    found = []
    for address in addresses:
        path = Path(roots.procfs, "driver/nvidia/gpus", address, "information")
        minor = re.search(r"^Device Minor:\s*(\d+)", path.read_text(encoding="utf-8"), re.M) if path.exists() else None
        if minor:
            found.append(Path(f"/dev/nvidia{minor[1]}"))
    return found


def _vulkaninfo() -> str:
    # What hides cards from the server must not hide them here: the index counts all of them.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GGML_VK_")}
    try:
        done = subprocess.run(
            ["vulkaninfo"], env=environ, capture_output=True, text=True, timeout=VULKAN_SECONDS, check=True
        )
    except FileNotFoundError as exc:
        raise ReplicaError("vulkaninfo is missing; install the package vulkan-tools") from exc
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        raise ReplicaError(f"vulkaninfo fails: {exc}") from exc
    return done.stdout


def check_resident(client: Client, replica: Replica, roots: Roots, *, mute_driver: bool) -> None:
    """``mute_driver``: whether NVIDIA's driver may be silent altogether.

    :raises ReplicaError: by its own word or by the drivers', the model is not where it is planned.
    """
    check_ps(replica, client.ps(WATCH_SECONDS))
    found = scan(roots)
    if mute_driver and replica.backend == "cuda" and not found.drivers.get("nvidia_source"):
        return
    held: dict[str, int] = {}
    for process in found.processes:
        if process.unit == replica.unit:
            held[process.gpu_id] = held.get(process.gpu_id, 0) + process.vram_mib
    check_vram(replica, held)


def ask(client: Client, replica: Replica) -> None:
    """:raises ReplicaError: the known question gets another answer."""
    probe = replica.probe
    if probe.kind == EMBEDDING:
        check_embedding(replica, client.embed(replica.model, probe.prompt, timeout=ANSWER_SECONDS))
    else:
        answer = client.ask(replica.model, probe.prompt, timeout=ANSWER_SECONDS, tokens=ANSWER_TOKENS)
        check_answer(replica, answer)


def prove(replica: Replica, roots: Roots, main_pid: int, resolved: t.Mapping[str, str]) -> None:
    """After the server was started: the model is loaded, resident on its GPUs, and answers sense.

    :raises ReplicaError, OllamaError: it must not serve.
    """
    client = Client(replica.address, replica.port)

    def alive() -> bool:
        return Path("/proc", str(main_pid)).exists()

    wait_for(client.ps, SERVER_SECONDS, alive=alive)
    if not alive():
        # Somebody else answered.
        raise ReplicaError(f"the server has ended: another process holds port {replica.port} of {replica.address}")
    check_environment({**fixed_selectors(replica), **resolved}, _environ(main_pid))
    try:
        client.load(replica.model, kind=replica.probe.kind, timeout=replica.load_seconds)
    except OllamaError:
        # The server picks its engine's port before the engine takes it: rarely somebody else was faster.
        client.load(replica.model, kind=replica.probe.kind, timeout=replica.load_seconds)
    wait_for(lambda: check_resident(client, replica, roots, mute_driver=False), SETTLE_SECONDS, alive=alive)
    ask(client, replica)


def _environ(pid: int) -> dict[str, str]:
    try:
        raw = Path("/proc", str(pid), "environ").read_bytes()
    except OSError as exc:
        raise ReplicaError(f"the environment of the server cannot be read ({exc})") from exc
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, _eq, value in pairs}


def watch(replica: Replica, roots: Roots) -> None:
    """While it serves: a sign of life, the empty request, then residency again.

    :raises ReplicaError, OllamaError: it must be started anew.
    """
    client = Client(replica.address, replica.port)
    # First what needs no engine: requests wait for nothing in a server that hangs, so it is found out soon.
    client.tags(ALIVE_SECONDS)
    client.load(replica.model, kind=replica.probe.kind, timeout=WATCH_SECONDS)
    # An upgrade of the driver's packages silences NVML until the reboot, while what runs runs on: not to be ended.
    wait_for(lambda: check_resident(client, replica, roots, mute_driver=True), SETTLE_SECONDS)


def settings_sum(replica: Replica) -> str:
    """A hash of what is fixed while the replica runs: a change has effect only after the next start."""
    found = hashlib.sha256(",".join(gpu.id for gpu in replica.gpus).encode())
    for path in (
        CONFIG / "replicas" / f"{replica.id}.env",
        UNITS / "sdai-ollama@.service",
        *sorted((UNITS / f"{replica.unit}.d").glob("*.conf")),
        *sorted(each for each in (_models(replica) / "manifests").rglob("*") if each.is_file()),
    ):
        found.update(f"\n{path}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _models(replica: Replica) -> Path:
    return Path(replica.models_path)


def stale(replica_id: str) -> bool:
    """Whether it runs, or is being started, with other settings than those on disk now."""
    folder = RUN / replica_id
    if not folder.exists():
        return False
    record = folder / "settings.sum"
    return not record.exists() or record.read_text(encoding="utf-8") != settings_sum(load_replica(replica_id))


def _reload_needed(unit: str) -> bool:
    """Whether systemd starts the unit by older files than those on disk."""
    words = ["systemctl", "show", "--property=NeedDaemonReload", "--value", unit]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() == "yes"


def read_selectors(path: Path) -> dict[str, str]:
    """What preflight left for this start."""
    if not path.exists():
        return {}
    pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {key: value for key, _eq, value in pairs}


def run(command: str, replica_id: str) -> None:
    """:raises ReplicaError, OllamaError: what the unit, or the administrator, must be told."""
    if command == "stale":
        if stale(replica_id):
            sys.stdout.write(f"{replica_id}\n")
        return
    replica = load_replica(replica_id)
    roots = load_roots()
    selectors = RUN / replica.id / "selectors.env"
    if command == "preflight":
        # Before anything is read that this start uses: what changes from here on is seen as a change.
        settings = "" if _reload_needed(replica.unit) else settings_sum(replica)
        (RUN / replica.id / "settings.sum").write_text(settings, encoding="utf-8")
        resolved = preflight(replica, roots, os.environ)
        selectors.write_text("".join(f"{key}={value}\n" for key, value in resolved.items()), encoding="utf-8")
    elif command == "prove":
        prove(replica, roots, int(os.environ["MAINPID"]), read_selectors(selectors))
    else:
        watch(replica, roots)


def main(argv: t.Optional[t.Sequence[str]] = None) -> int:
    """Exit status 0, or 1 with one line on standard error for each replica that fails."""
    parser = argparse.ArgumentParser(prog="sdai-replica", description=__doc__)
    parser.add_argument("command", choices=["preflight", "prove", "watch", "stale"])
    parser.add_argument("ids", nargs="+", metavar="id")
    arguments = parser.parse_args(argv)
    failed = 0
    for replica_id in arguments.ids:
        try:
            run(arguments.command, replica_id)
        except (ReplicaError, OllamaError) as exc:
            sys.stderr.write(f"{replica_id}: {arguments.command} failed: {exc}\n")
            failed = 1
    return failed
