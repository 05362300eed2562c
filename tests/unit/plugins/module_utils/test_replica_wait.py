# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a replica is, read from systemd, the journal and the kernel's table of connections."""

from __future__ import annotations

import json
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils import _replica_wait as wait

SHOWN = """Job=0
Id=sdai-ollama@a--1.service
ActiveState={active}
SubState={sub}
UnitFileState={file}
InactiveExitTimestampMonotonic=1000000
ActiveEnterTimestampMonotonic=8400000

Id=other.service
ActiveState=active
"""


def shown(active: str, sub: str, *, file: str = "disabled", job: str = "0") -> dict[str, str]:
    text = SHOWN.format(active=active, sub=sub, file=file).replace("Job=0", f"Job={job}")
    return wait.parse_show(text)["sdai-ollama@a--1.service"]


@pytest.mark.parametrize(
    ("state", "job", "step", "outcome"),
    [
        ("active running", "0", "proved", "proved"),
        ("activating start-pre", "7", "waits for its GPU", ""),
        ("activating start-post", "7", "loads", ""),
        ("activating auto-restart", "0", "failed", "failed"),
        ("failed failed", "0", "failed", "failed"),
        ("inactive dead", "0", "failed", "failed"),
        ("inactive dead", "9", "starts", ""),
        ("deactivating stop-sigterm", "0", "starts", ""),
    ],
)
def test_progress_of_a_unit(state: str, job: str, step: str, outcome: str) -> None:
    active, sub = state.split()
    found = wait.progress(shown(active, sub, job=job), now=13.0)
    assert found["step"] == step
    assert [word for word in ("proved", "failed") if found[word]] == ([outcome] if outcome else [])
    assert found["settled"] is bool(outcome)
    # A start that is over took what it took; another one takes until now.
    assert found["seconds"] == (7 if outcome == "proved" else 12)


def test_a_unit_that_systemd_does_not_know_has_failed() -> None:
    found = wait.progress({}, now=13.0)
    assert found["failed"]
    assert not found["enabled"]
    assert found["seconds"] == 0


def test_enabled_is_read_from_the_unit_file() -> None:
    assert wait.progress(shown("active", "running", file="enabled"), now=0.0)["enabled"]
    assert not wait.progress(shown("active", "running"), now=0.0)["enabled"]


def test_the_reason_is_the_units_own_last_word() -> None:
    lines = [
        "level=INFO loading",
        "a--1: prove failed: old",
        "noise",
        "a--1: prove failed: holds 3 MiB",
        "level=INFO bye",
    ]
    assert wait.reason(lines, "exit-code") == "a--1: prove failed: holds 3 MiB"
    assert wait.reason(["level=ERROR boom"], "signal") == "systemd says signal; its last lines: level=ERROR boom"


def test_connections_of_one_port_only() -> None:
    header = "  sl  local_address rem_address   st\n"
    row = "   0: 0B4D590A:{port} 0A4D590A:9C40 {state} 00000000:00000000\n"
    rows = [row.format(port=port, state=state) for port, state in (("2CEC", "01"), ("2CEC", "06"), ("2CED", "01"))]
    assert wait.established([header + "".join(rows), header + rows[0]], 0x2CEC) == 2


def test_drained_when_nobody_is_connected_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real connection, on a real port: it is waited for, and its end is noticed."""
    monkeypatch.setattr(wait, "QUIET_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (tmp_path / "a--1.json").write_text(json.dumps({"port": port}))
        client = socket.create_connection(("127.0.0.1", port))
        peer, _ = server.accept()
        (busy,) = wait.wait_drained(["a--1"], str(tmp_path), 0.5)
        assert not busy["settled"]
        assert "still run" in busy["step"]

        def hang_up() -> None:
            client.close()
            peer.close()

        threading.Timer(0.3, hang_up).start()
        begun = time.monotonic()
        (done,) = wait.wait_drained(["a--1"], str(tmp_path), 20)
        assert done["settled"]
        assert 0.3 < time.monotonic() - begun < 10


def test_a_replica_that_is_not_described_is_drained(tmp_path: Path) -> None:
    (found,) = wait.wait_drained(["a--1"], str(tmp_path), 5)
    assert found["settled"]


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    (tmp_path / "a--1.json").write_text("{")
    with pytest.raises(wait.WaitError, match=r"a--1\.json"):
        wait.wait_drained(["a--1"], str(tmp_path), 5)


def test_waiting_ends_with_the_last_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([shown("activating", "start-post"), shown("active", "running")])
    monkeypatch.setattr(wait, "_show", lambda _units: {"sdai-ollama@a--1.service": next(states)})
    monkeypatch.setattr(wait, "POLL_S", 0.0)
    (found,) = wait.wait_proved(["a--1"], 60)
    assert found["proved"]
    assert not found["reason"]


def test_a_failure_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str]) -> str:
        return "a--1: prove failed: garbage\n" if command[0] == "journalctl" else ""

    values: dict[str, t.Any] = {**shown("activating", "auto-restart"), "InvocationID": "1b"}
    monkeypatch.setattr(wait, "_show", lambda _units: {"sdai-ollama@a--1.service": values})
    monkeypatch.setattr(wait, "_run", run)
    (found,) = wait.wait_proved(["a--1"], 60)
    assert found["failed"]
    assert found["reason"] == "a--1: prove failed: garbage"
