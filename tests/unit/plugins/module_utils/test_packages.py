# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages that are taken away again: only what was new, and only what nobody needs since."""

from __future__ import annotations

import hashlib
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.aivailable.sdai.plugins.module_utils import _packages
from ansible_collections.aivailable.sdai.plugins.module_utils._packages import (
    Package,
    PackagesError,
    Record,
    install,
    missing,
    parse_packages,
    remove,
    still_needed,
)


class Machine:
    """dpkg, apt-get and systemctl as far as they are asked. Packages that are known bring their dependencies."""

    def __init__(self) -> None:
        self.depends: dict[str, list[str]] = {}
        self.installed: set[str] = set()
        self.conffiles: dict[str, list[tuple[str, str]]] = {}
        self.units: dict[str, tuple[str, str, str]] = {}
        self.calls: list[str] = []
        self.failing: dict[str, tuple[int, str, str]] = {}
        # States of what a failed installation left.
        self.leaving: dict[str, str] = {}

    def run(self, command: t.Sequence[str]) -> tuple[int, str, str]:
        words = [word for word in command if not word.startswith("-")]
        simulated = "--simulate" in command
        verb = " ".join(words[:2])
        if verb in self.failing and not simulated:
            self.calls.append(" ".join(words))
            return self.failing.pop(verb)
        if words[0] == "dpkg-query":
            return 0, self._query(command, words[1:]), ""
        if words[0] == "systemctl":
            blocks = [f"Id={u}\nActiveState={self.units[u][1]}\nUnitFileState={self.units[u][2]}" for u in words[2:]]
            return 0, "\n\n".join(blocks), ""
        if not simulated:
            self.calls.append(" ".join(words))
        if verb == "apt-get install":
            return self._install(words[2:], simulated)
        if verb == "apt-get purge":
            going = self._dependents(set(words[2:]))
            if not simulated:
                self.installed -= going
            return 0, "".join(f"Purg {name} [1]\n" for name in sorted(going)), ""
        return 0, "", ""

    def _query(self, command: t.Sequence[str], names: list[str]) -> str:
        form = next((word for word in command if word.startswith("--showformat=")), "")
        there = [name for name in names if name in self.installed]
        if "--listfiles" in command:
            return "".join(f"/lib/systemd/system/{unit}\n" for unit, of in self.units.items() if of[0] in names)
        if "Conffiles" in form:
            blocks = [(name, self.conffiles.get(name, [])) for name in there]
            return "".join(
                f"{name}\n{''.join(f' {path} {md5}{chr(10)}' for path, md5 in files)}\n" for name, files in blocks
            )
        if "Depends" in form:
            return "".join(
                f"installed\t{name}\t, {', '.join(self.depends.get(name, []))}\t\n" for name in sorted(self.installed)
            )
        if "Status} ${Package}" in form:
            return "".join(f"installed {name}\n" for name in there)
        left = {name: state for name, state in self.leaving.items() if name in names}
        return "".join(f"{name} {state}\n" for name, state in {**dict.fromkeys(there, "installed"), **left}.items())

    def _install(self, names: list[str], simulated: bool) -> tuple[int, str, str]:
        unknown = [name for name in names if name not in self.depends]
        if unknown:
            return 100, "", f"E: Unable to locate package {unknown[0]}\n"
        new: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in self.installed | new:
                new.add(name)
                pending += self.depends.get(name, [])
        if not simulated:
            self.installed |= new
        upgraded = "Inst base [1] (2 stable)\n"
        return 0, upgraded + "".join(f"Inst {name} (1 stable [amd64])\n" for name in sorted(new)), ""

    def _dependents(self, names: set[str]) -> set[str]:
        going = set(names)
        while more := {each for each in self.installed - going if going & set(self.depends.get(each, []))}:
            going |= more
        return going & self.installed


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.installed = {"base"}
    made.depends = {"haproxy": ["liblua", "base"], "liblua": [], "nftables": ["libnft"], "libnft": [], "base": []}
    return made


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(str(tmp_path / "sdai" / "packages.json"))


@pytest.fixture(autouse=True)
def _fresh_lists(monkeypatch):
    monkeypatch.setattr(_packages, "_lists_are_fresh", lambda: True)


def test_what_is_new_is_written_down_with_what_it_brings(machine, record, tmp_path):
    """An upgrade of a package that was there is none of ours."""
    assert install(machine.run, record, "haproxy", ["haproxy", "base"]) == ["haproxy", "liblua"]
    assert json.loads((tmp_path / "sdai/packages.json").read_text()) == {"haproxy": ["haproxy", "liblua"]}
    assert machine.calls == ["apt-get install haproxy"]


def test_a_second_run_asks_nothing_of_apt(machine, record):
    install(machine.run, record, "haproxy", ["haproxy"])
    machine.calls.clear()
    assert install(machine.run, record, "haproxy", ["haproxy"]) == []
    assert machine.calls == []
    assert missing(machine.run, ["haproxy", "nftables"]) == ["nftables"]


def test_it_is_written_down_before_it_is_installed(machine, record):
    seen = []

    def run(command: t.Sequence[str]) -> tuple[int, str, str]:
        if command[0] == "apt-get" and "--simulate" not in command:
            seen.append(record.read())
        return machine.run(command)

    install(run, record, "haproxy", ["haproxy"])
    assert seen == [{"haproxy": ["haproxy", "liblua"]}]


def test_of_what_failed_only_what_it_left_stays_written_down(machine, record):
    """What somebody installs later is not ours."""
    install(machine.run, record, "haproxy", ["nftables"])
    machine.failing["apt-get install"] = (100, "", "E: no space left\n")
    with pytest.raises(PackagesError, match="could not install haproxy: E: no space left"):
        install(machine.run, record, "haproxy", ["haproxy"])
    assert record.read() == {"haproxy": ["libnft", "nftables"]}
    machine.failing["apt-get install"] = (100, "", "E: haproxy could not be unpacked\n")
    machine.leaving = {"liblua": "half-configured", "haproxy": "config-files"}
    with pytest.raises(PackagesError, match="could not be unpacked"):
        install(machine.run, record, "haproxy", ["haproxy"])
    assert record.read() == {"haproxy": ["liblua", "libnft", "nftables"]}


def test_a_failed_installation_leaves_no_record_of_nothing(machine, record, tmp_path):
    machine.failing["apt-get install"] = (100, "", "E: no space left\n")
    with pytest.raises(PackagesError):
        install(machine.run, record, "haproxy", ["haproxy"])
    assert not (tmp_path / "sdai").exists()


def test_lists_that_lack_a_package_are_updated(machine, record):
    with pytest.raises(PackagesError, match="cannot install zstd: E: Unable to locate package zstd"):
        install(machine.run, record, "ollama", ["zstd"])
    assert machine.calls == ["apt-get update"]
    assert record.read() == {}


def test_an_update_waits_for_whoever_updates_already(machine, record, monkeypatch):
    monkeypatch.setattr(_packages, "_lists_are_fresh", lambda: False)
    machine.failing["apt-get update"] = (100, "", "E: Could not get lock /var/lib/apt/lists/lock\n")
    pauses: list[float] = []
    install(machine.run, record, "haproxy", ["haproxy"], sleep=pauses.append)
    assert machine.calls == ["apt-get update", "apt-get update", "apt-get install haproxy"]
    assert len(pauses) == 1


def test_an_installation_that_was_cut_off_is_finished_first(machine, record):
    machine.failing["apt-get install"] = (100, "", "E: dpkg was interrupted, you must manually run …\n")
    install(machine.run, record, "haproxy", ["haproxy"])
    assert machine.calls == ["apt-get install haproxy", "dpkg", "apt-get install haproxy"]


def test_removal_takes_what_was_written_down(machine, record, tmp_path):
    install(machine.run, record, "haproxy", ["haproxy"])
    looked = remove(machine.run, record, "haproxy", check=True)
    assert machine.installed == {"base", "haproxy", "liblua"}
    assert remove(machine.run, record, "haproxy") == looked
    assert looked.purged == ("haproxy", "liblua")
    assert machine.installed == {"base"}
    assert not (tmp_path / "sdai").exists()
    assert remove(machine.run, record, "haproxy").purged == ()


def test_what_was_there_before_stays(machine, record):
    machine.installed |= {"haproxy", "liblua"}
    install(machine.run, record, "haproxy", ["haproxy"])
    assert remove(machine.run, record, "haproxy").purged == ()
    assert "haproxy" in machine.installed


def test_what_somebody_else_needs_since_stays(machine, record):
    install(machine.run, record, "haproxy", ["haproxy"])
    machine.installed.add("game")
    machine.depends["game"] = ["liblua"]
    removal = remove(machine.run, record, "haproxy")
    assert (removal.purged, removal.kept) == (("haproxy",), {"liblua": "game needs it"})
    assert record.read() == {}


def test_what_another_owner_needs_passes_to_that_owner(machine, record):
    install(machine.run, record, "ollama", ["libnft"])
    install(machine.run, record, "firewall", ["nftables"])
    assert remove(machine.run, record, "ollama").kept == {"libnft": "nftables needs it"}
    assert remove(machine.run, record, "firewall").purged == ("libnft", "nftables")


def test_a_changed_configuration_keeps_its_package(machine, record, tmp_path):
    install(machine.run, record, "ollama", ["nftables"])
    file = tmp_path / "nftables.conf"
    file.write_text("as it came")
    machine.conffiles["nftables"] = [(str(file), hashlib.md5(b"as it came").hexdigest())]
    assert remove(machine.run, record, "ollama", check=True).purged == ("libnft", "nftables")
    file.write_text("an administrator's own rules")
    removal = remove(machine.run, record, "ollama", check=True)
    assert removal.purged == ()
    assert removal.kept == {"nftables": f"{file} was changed", "libnft": "nftables needs it"}
    assert remove(machine.run, record, "ollama", own=[str(file)]).purged == ("libnft", "nftables")


@pytest.mark.parametrize(
    ("active", "enabled", "kept"),
    [
        ("inactive", "disabled", {}),
        ("inactive", "enabled", {"nftables": "nftables.service is enabled", "libnft": "nftables needs it"}),
        ("active", "disabled", {"nftables": "nftables.service runs", "libnft": "nftables needs it"}),
    ],
)
def test_a_unit_in_use_keeps_its_package(machine, record, active, enabled, kept):
    """To stop nftables.service would flush the administrator's own rules."""
    install(machine.run, record, "ollama", ["nftables"])
    machine.units["nftables.service"] = ("nftables", active, enabled)
    assert remove(machine.run, record, "ollama", check=True).kept == kept
    assert remove(machine.run, record, "ollama", check=True, own=["nftables.service"]).kept == {}


def test_nothing_goes_when_apt_would_take_more(machine, record):
    """What dpkg's dependencies do not show, apt's own reckoning does."""
    install(machine.run, record, "haproxy", ["haproxy"])
    machine.failing.clear()
    machine.depends["base"] = ["haproxy"]
    machine._query = lambda command, names: "" if "Depends" in str(command) else Machine._query(machine, command, names)
    with pytest.raises(PackagesError, match="would remove base with haproxy, liblua, so nothing was removed"):
        remove(machine.run, record, "haproxy")
    assert "haproxy" in machine.installed


def test_a_damaged_record_is_refused(record, tmp_path):
    (tmp_path / "sdai").mkdir()
    (tmp_path / "sdai/packages.json").write_text("{")
    with pytest.raises(PackagesError, match=r"packages\.json is not valid JSON .* Remove it"):
        record.read()


def test_one_of_two_alternatives_that_stays_is_enough():
    packages = [
        Package("game", depends=(("liblua", "luajit"),)),
        Package("liblua"),
        Package("luajit"),
        Package("tool", depends=(("virtual",),)),
        Package("provider", provides=("virtual",)),
    ]
    assert still_needed({"liblua"}, packages) == {}
    assert still_needed({"liblua", "luajit"}, packages) == {"liblua": "game", "luajit": "game"}
    assert still_needed({"provider"}, packages) == {"provider": "tool"}
    assert still_needed({"liblua", "luajit", "game"}, packages) == {}


def test_lines_of_dpkg_query():
    text = (
        "installed\thaproxy\tdpkg (>= 1.17.14), libc6 (>= 2.34), perl:any | perl-base\tlb, web (= 1)\n"
        "config-files\told\t, libc6\t\n"
    )
    assert parse_packages(text) == [Package("haproxy", (("dpkg",), ("libc6",), ("perl", "perl-base")), ("lb", "web"))]
