# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Downloads that fail on a node: one error that says what to do, nothing lost, and the next run succeeds by itself.

Into a store server and a directory of the tests' own beside the site's: what runs must not notice.
"""

from __future__ import annotations

import json
import subprocess
import typing as t
from contextlib import contextmanager

import pytest
import yaml
from lab_hosts import BIN, INVENTORY, ROOT, Host, only_long, playbook, playbook_environment, wait_for

if t.TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = only_long

MODEL = "llama3.2:1b"
FOLDER = "/srv/sdai-test"
PORT = 11439
UNIT = "sdai-test-store.service"
FAULTS = "/dev/shm/sdai-lab/faults"


@contextmanager
def fault(name: str) -> Iterator[None]:
    """Of the lab's mirror."""

    def mirror(command: str) -> None:
        subprocess.run(["podman", "exec", "sdai-lab-mirror", "sh", "-c", command], check=True)

    mirror(f"mkdir -p {FAULTS} && touch {FAULTS}/{name}")
    try:
        yield
    finally:
        mirror(f"rm -f {FAULTS}/{name}")


class Node:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.blobs = f"{FOLDER}/store/blobs"
        release = host.run(
            "systemctl show -P ExecStart sdai-ollama-store.service | grep -o 'path=[^ ;]*' | cut -d= -f2"
        )
        self.ollama = release.strip()

    def mount(self, options: str) -> None:
        """A fresh, small disk and a store server on it."""
        self.clear()
        self.host.run(
            f"mkdir -p {FOLDER} && mount -t tmpfs -o {options} tmpfs {FOLDER} && cd {FOLDER} && mkdir store release && "
            f"systemd-run --quiet --unit {UNIT} -E HOME={FOLDER} -E OLLAMA_NOPRUNE=1 -E OLLAMA_MODELS={FOLDER}/store "
            f"-E OLLAMA_HOST=127.0.0.1:{PORT} {self.ollama} serve"
        )
        alive = f"curl -s -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{PORT}/api/version; true"
        wait_for("the tests' store server", lambda: self.host.run(alive) == "200", seconds=30)

    def clear(self) -> None:
        self.host.run(f"systemctl stop {UNIT} 2>/dev/null; umount --lazy {FOLDER} 2>/dev/null; rm -rf {FOLDER}")

    def pull(self, stall_seconds: int = 2) -> subprocess.Popen[str]:
        arguments = {
            "id": "test--1",
            "name": MODEL,
            "registry": "mirror:5000/library",
            "insecure": True,
            "stall_seconds": stall_seconds,
            "server": f"http://127.0.0.1:{PORT}",
            "store": f"{FOLDER}/store",
            "replicas": f"{FOLDER}/replicas",
        }
        command = [
            str(BIN / "ansible"),
            self.host.name,
            "-i",
            str(INVENTORY),
            "-b",
            "-m",
            "aivailable.sdai.ollama_model",
        ]
        return subprocess.Popen(
            [*command, "-a", json.dumps(arguments)],
            cwd=ROOT,
            env=playbook_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def names(self) -> list[str]:
        return self.host.run(f"ls {self.blobs} 2>/dev/null; true").split()

    def pids(self) -> str:
        """The main processes of all that the site runs here."""
        return self.host.run("systemctl show -P MainPID -P NRestarts 'sdai-ollama@*' sdai-ollama-store.service")


@pytest.fixture
def node(hosts: dict[str, Host]) -> Iterator[Node]:
    found = Node(hosts["gpu1"])
    before = found.pids()
    yield found
    found.clear()
    assert found.pids() == before


def end(run: subprocess.Popen[str]) -> tuple[int, str]:
    output = run.communicate(timeout=120)[0]
    return run.returncode, output


def refused(run: subprocess.Popen[str], *words: str) -> None:
    code, output = end(run)
    assert code != 0, output
    for word in (MODEL, "gpu1 | FAILED", *words):
        assert word in output
    assert output.count("FAILED") == 1, output


def test_a_registry_that_stalls_or_lies(node: Node) -> None:
    node.mount("size=2g")
    with fault("stall"):
        refused(node.pull(1), "mirror:5000 has sent nothing for 1 s", "run again")
    with fault("wrong-digest"):
        refused(node.pull(), "sends other data", "Look for a proxy or a mirror")
    code, output = end(node.pull())
    assert code == 0, output
    assert not [name for name in node.names() if "-partial" in name]
    # What is small is read, the weights are nearly all hole.
    false = node.host.run(
        f"cd {node.blobs} && for f in $(find . -size -1M -type f); do "
        'test "$(sha256sum < $f | cut -c-64)" = "${f#./sha256-}" || echo $f; done'
    )
    assert false == ""


def test_a_disk_that_is_full_before_and_during_a_pull(node: Node) -> None:
    node.mount("size=64m")
    refused(node.pull(), "no room for", "Free space")
    assert node.names() == []
    node.mount("size=2g")
    with fault("stall-mid"):
        run = node.pull(60)
        wait_for("a pull under way", lambda: [name for name in node.names() if "-partial" in name], seconds=60)
        # As if somebody else had taken all the rest.
        used = int(node.host.run(f"df --output=used -k {FOLDER} | tail -n 1"))
        node.host.run(f"mount -o remount,size={used}k {FOLDER}")
    refused(run, "the disk was full", "no space left on device", "Free space below")
    assert not [name for name in node.names() if "-partial" in name]
    node.host.run(f"mount -o remount,size=2g {FOLDER}")
    code, output = end(node.pull())
    assert code == 0, output


def test_a_release_that_cannot_be_had(node: Node, tmp_path: Path) -> None:
    version = node.ollama.split("/")[-3]
    role = {
        "ansible.builtin.include_role": {"name": "aivailable.sdai.ollama", "tasks_from": "install_archive"},
        "vars": {
            "__ollama_root": f"{FOLDER}/release",
            "__ollama_file": "ollama-linux-amd64.tar.zst",
            "__ollama_runner": "",
            "ollama_stall_seconds": 2,
        },
    }
    play = tmp_path / "release.yml"
    play.write_text(yaml.safe_dump([{"hosts": "gpu1", "become": True, "gather_facts": False, "tasks": [role]}]))

    def fails(*words: str) -> None:
        run = playbook(str(play))
        assert run.code != 0
        for word in (f"of Ollama {version} cannot be had on gpu1", "Then run again", *words):
            assert word in run.output, run.output
        assert node.host.run(f"ls {FOLDER}/release").split() == []

    node.mount("size=64m")
    with fault("release-wrong-digest"):
        fails("did not match")
    with fault("release-stall-mid"):
        fails("timed out")
    node.host.run(f"dd if=/dev/zero of={FOLDER}/others bs=1M 2>/dev/null; true")
    fails("No space left")
    node.host.run(f"rm {FOLDER}/others")
    run = playbook(str(play))
    assert run.code == 0, run.output
    node.host.run(f"test -x {FOLDER}/release/{version}/bin/ollama")
