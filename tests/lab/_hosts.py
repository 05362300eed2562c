# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of the lab and how each is started."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import typing as t
from dataclasses import dataclass
from pathlib import Path

import _wheels
from _engine import CACHE, ROOT, STATE, podman, run, write
from _image import digest, nvml

if t.TYPE_CHECKING:
    from collections.abc import Sequence

NETWORK = "sdai-lab"
SUBNET, GATEWAY = "10.89.77.0/24", "10.89.77.1"
SIMGPU = ROOT / "tests/lab/simgpu"
STANDIN = ROOT / "tests/lab/ollama"
LIBRARY = "/usr/local/lib/sdai-lab"
WHEELS = "/srv/sdai-lab-wheels"
PIP_CONF = ":/etc/pip.conf:ro"
# What Ansible's modules compile to, shared by all hosts (tests/lab/image/sdai_lab_compile_once.py).
COMPILED = CACHE / "compiled"
CHAT_PASSWORD = STATE / "chat-password"
SSH = STATE / "ssh"
HOST_SSH = STATE / "host-ssh"


@dataclass(frozen=True)
class Host:
    """A container. `gpus` names its cards' description; `systemd` is false for the one that only serves files.

    `wheels`: it installs Python packages from those that are kept here, and from nowhere else.
    """

    name: str
    address: str
    publish: tuple[str, ...] = ()
    gpus: Path | None = None
    nvidia: bool = False
    systemd: bool = True
    wheels: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def container(self) -> str:
        return f"sdai-lab-{self.name}"

    @property
    def mac(self) -> str:
        """Stays over a reboot as a real card's does, or the neighbours would look for the old one for half a minute."""
        return "02:5d:a1:" + ":".join(f"{int(part):02x}" for part in self.address.split(".")[1:])


HOSTS = (
    Host("frontend1", "10.89.77.10", publish=tuple(f"127.0.0.1:{port}:{port}" for port in (8080, 8404, 3000))),
    Host("webui1", "10.89.77.13", wheels=True),
    Host("gpu1", "10.89.77.11", gpus=SIMGPU / "hosts/gpu1.json", nvidia=True),
    Host("gpu2", "10.89.77.12", gpus=SIMGPU / "hosts/gpu2.json"),
    Host("gpu3", "10.89.77.14", gpus=SIMGPU / "hosts/gpu3.json", nvidia=True),
)
MIRROR = Host("mirror", "10.89.77.2", systemd=False, aliases=("blobs",))
EVERYBODY = (*HOSTS, MIRROR)


def run_arguments(host: Host, image: str, machine_mounts: Sequence[str]) -> list[str]:
    """All of `podman run` after its own options and before the label that tells their digest."""
    names = [f"--add-host={name}:{other.address}" for other in EVERYBODY for name in (other.name, *other.aliases)]
    arguments = [
        f"--name={host.container}", f"--hostname={host.name}", "--label=sdai-lab",
        f"--network={NETWORK}", f"--ip={host.address}", f"--mac-address={host.mac}",
        *names, *(f"--publish={port}" for port in host.publish),
    ]  # fmt: skip
    if not host.systemd:
        mounts = [f"{STANDIN}:/srv/lab:ro", f"{CACHE}:/srv/cache:ro"]
        ports = ["--release-port", "8000", "--registry-port", "5000", "--blobs-port", "5001"]
        command = ["python3", "/srv/lab/mirror.py", "--root", "/srv/cache", *ports]
        return [*arguments, *(f"--volume={mount}" for mount in mounts), image, *command]
    # SYS_ADMIN: systemd builds the units' sandboxes; NET_ADMIN: nftables; SYS_PTRACE: root may look at any process.
    rights = ["--cap-add=SYS_ADMIN,NET_ADMIN,SYS_PTRACE"]
    rights += [f"--security-opt={option}" for option in ("apparmor=unconfined", "label=disable")]
    own = [*(_gpu_mounts(host) if host.gpus else []), *(_wheel_mounts() if host.wheels else [])]
    if host.wheels:
        machine_mounts = [mount for mount in machine_mounts if not mount.endswith(PIP_CONF)]
    COMPILED.mkdir(parents=True, exist_ok=True)
    mounts = [f"{HOST_SSH}:/etc/sdai-lab-ssh:ro", f"{COMPILED}:/var/cache/sdai-lab-compiled", *machine_mounts, *own]
    volumes = [f"--volume={mount}" for mount in mounts]
    return [*arguments, "--systemd=always", *rights, *volumes, image, "/sbin/init"]


def _gpu_mounts(host: Host) -> list[str]:
    mounts = [
        f"{SIMGPU}:{LIBRARY}:ro",
        f"{STATE / 'hosts' / host.name}:/etc/sdai-lab",
        f"{SIMGPU / 'sdai-lab-gpu'}:/usr/local/bin/sdai-lab-gpu:ro",
        f"{SIMGPU / 'vulkaninfo'}:/usr/local/bin/vulkaninfo:ro",
        f"{SIMGPU / 'sdai-lab-gpud.service'}:/etc/systemd/system/sdai-lab-gpud.service:ro",
    ]
    if host.nvidia:
        mounts += [f"{SIMGPU / name}:/usr/bin/{name}:ro" for name in ("nvidia-modprobe", "nvidia-smi")]
        mounts.append(f"{nvml()}:/usr/lib/libnvidia-ml.so.1:ro")
    return mounts


def _wheel_mounts() -> list[str]:
    write(STATE / "pip-wheels.conf", f"[global]\nno-index = true\nfind-links = {WHEELS}\n")
    return [f"{_wheels.folder()}:{WHEELS}:ro", f"{STATE / 'pip-wheels.conf'}{PIP_CONF}"]


def specification(host: Host, arguments: Sequence[str]) -> str:
    """Digest of all that a container is made from: another one means that it must be made anew."""
    if host.systemd:
        contents = [STATE / "pip.conf", STATE / "ca", *([SIMGPU] if host.gpus else [])]
    else:
        contents = list(STANDIN.glob("*.py"))
    text = "\n".join([*arguments, digest(*(path for path in contents if path.exists()))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lay_out(host: Host) -> None:
    """The host's cards as its containers find them at their first boot; commands inside change the copy."""
    if host.gpus:
        folder = STATE / "hosts" / host.name
        run(["rm", "-rf", folder], root=True)
        folder.mkdir(parents=True)
        shutil.copyfile(host.gpus, folder / "gpus.json")


def keys() -> None:
    """One key pair to log in with, one host key for all hosts, so that known_hosts is true before the first start."""
    for path, comment in ((SSH / "id_ed25519", "sdai-lab"), (HOST_SSH / "ssh_host_ed25519_key", "sdai-lab-host")):
        public = path.with_name(path.name + ".pub")
        if not (path.exists() and public.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            public.unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])
    host_key = " ".join((HOST_SSH / "ssh_host_ed25519_key.pub").read_text().split()[:2])
    write(HOST_SSH / "authorized_keys", (SSH / "id_ed25519.pub").read_text())
    write(SSH / "known_hosts", "".join(f"{host.name},{host.address} {host_key}\n" for host in HOSTS))


def passwords() -> None:
    """The administrator's of the chat page, one for each lab; inventories/lab reads it."""
    if not CHAT_PASSWORD.exists():
        write(CHAT_PASSWORD, secrets.token_urlsafe(9), mode=0o600)


def ssh_command(host: Host) -> list[str]:
    options = [f"UserKnownHostsFile={SSH / 'known_hosts'}", "BatchMode=yes", "ConnectTimeout=3", "LogLevel=ERROR"]
    words = ["ssh", "-F", "none", "-i", str(SSH / "id_ed25519")]
    return [*words, *(word for option in options for word in ("-o", option)), f"root@{host.address}"]


def network() -> None:
    """The lab's network, without Podman's name server: the names are few and fixed, so they stand in /etc/hosts."""
    found = podman("network", "inspect", NETWORK, check=False)
    if found.returncode == 0:
        entry = json.loads(found.stdout)[0]
        if [part["subnet"] for part in entry.get("subnets", [])] == [SUBNET] and not entry.get("dns_enabled"):
            return
        podman("network", "rm", "--force", NETWORK)
    ranges = [f"--subnet={SUBNET}", f"--gateway={GATEWAY}"]
    podman("network", "create", "--disable-dns", "--label=sdai-lab", *ranges, NETWORK)
