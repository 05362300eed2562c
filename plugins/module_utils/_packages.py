# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Packages that are installed so that they can be taken away again: with what they bring, and nothing else.

What is going to be installed is written down before it is, so that a run that is killed leaves no package behind that
nobody knows of. Only names that were not installed then are written down, and of an installation that failed only what
it left: the rest may be installed later by somebody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

# What a command ended with, and what it printed on standard output and standard error.
Run = t.Callable[[t.Sequence[str]], "tuple[int, str, str]"]

STAMPS = ("/var/lib/apt/periodic/update-success-stamp", "/var/lib/apt/lists")
LISTS_VALID_S = 3600
LOCK_TRIES, LOCK_PAUSE_S = 30, 4.0
# As the module apt has them: files that somebody changed stay as they are.
OPTIONS = (
    "--yes",
    "--option=Dpkg::Options::=--force-confdef",
    "--option=Dpkg::Options::=--force-confold",
    "--option=DPkg::Lock::Timeout=300",
    "--option=Acquire::Retries=3",
)
UNIT = re.compile(r"(?:/usr)?/lib/systemd/system/([^/@]+\.(?:service|socket|timer|path))\Z")
# An upgrade has its old version in brackets.
NEW = re.compile(r"^Inst (\S+) \(", re.MULTILINE)
GOING = re.compile(r"^(?:Purg|Remv) (\S+) ", re.MULTILINE)


class PackagesError(Exception):
    """What apt or dpkg could not do, and what to do about it."""


@dataclass(frozen=True)
class Package:
    """An installed package. ``depends`` are groups of alternatives."""

    name: str
    depends: tuple[tuple[str, ...], ...] = ()
    provides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Removal:
    """What goes, and what stays with the reason."""

    purged: tuple[str, ...]
    kept: t.Mapping[str, str]


class Record:
    """Names of packages by who had them installed, as a file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def read(self) -> dict[str, list[str]]:
        try:
            value = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise PackagesError(
                f"{self._path} is not valid JSON ({error}). Remove it; packages that it named then stay installed."
            ) from error
        return {str(owner): [str(name) for name in names] for owner, names in value.items()}

    def write(self, value: t.Mapping[str, t.Iterable[str]]) -> None:
        """Replaces the file at once; without names neither it nor its directory, if empty, is left."""
        wanted = {owner: sorted(set(names)) for owner, names in sorted(value.items()) if names}
        if not wanted:
            self._remove()
            return
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        scratch = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with scratch.open("w", encoding="utf-8") as file:
                json.dump(wanted, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            scratch.chmod(0o644)
            scratch.replace(self._path)
        finally:
            scratch.unlink(missing_ok=True)

    def _remove(self) -> None:
        try:
            self._path.unlink()
            self._path.parent.rmdir()
        except OSError:
            # Not there, or others' files are in the directory.
            return


def missing(run: Run, names: t.Sequence[str]) -> list[str]:
    """Those that are not installed, in their order."""
    _code, out, _err = run(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n", "--", *names])
    there = {line.partition(" ")[2] for line in out.splitlines() if line.startswith("installed ")}
    return [name for name in names if name not in there]


def install(
    run: Run, record: Record, owner: str, names: t.Sequence[str], *, sleep: t.Callable[[float], None] = time.sleep
) -> list[str]:
    """Installs what is missing and writes down what that brings; returns the names of the new packages.

    :raises PackagesError: apt does not install them.
    """
    wanted = missing(run, names)
    if not wanted:
        return []
    command = ["apt-get", *OPTIONS, "--no-remove", "install", *wanted]
    simulation = ["apt-get", "--simulate", *command[1:]]
    if not _lists_are_fresh():
        update(run, sleep=sleep)
    code, out, err = run(simulation)
    if code:
        # Lists that lack a package may be fresh and yet not whole.
        update(run, sleep=sleep)
        code, out, err = run(simulation)
    if code:
        raise PackagesError(f"apt cannot install {', '.join(wanted)}: {_last(err or out)}")
    brought = NEW.findall(out)
    known = record.read()
    record.write({**known, owner: [*known.get(owner, []), *brought]})
    code, out, err = run(command)
    if code and "dpkg was interrupted" in err:
        # As a host is whose power failed while packages were installed.
        run(["dpkg", "--configure", "-a"])
        code, out, err = run(command)
    if code:
        states = _states(run, brought)
        left = [name for name in brought if states.get(name, "config-files") != "config-files"]
        before = [name for name in known.get(owner, []) if name not in brought]
        # On a full disk it stays as it is, and apt says why.
        with contextlib.suppress(OSError):
            record.write({**known, owner: [*before, *left]})
        raise PackagesError(f"apt could not install {', '.join(wanted)}: {_last(err or out)}")
    return sorted(brought)


def update(run: Run, *, sleep: t.Callable[[float], None] = time.sleep) -> None:
    """Updates the lists. Whether what could not be fetched matters shows when something is installed from them."""
    for attempt in range(LOCK_TRIES):
        if attempt:
            sleep(LOCK_PAUSE_S)
        _code, _out, err = run(["apt-get", *OPTIONS, "update"])
        if "Could not get lock" not in err:
            return


def remove(run: Run, record: Record, owner: str, *, own: t.Collection[str] = (), check: bool = False) -> Removal:
    """Purges what ``owner`` had installed and nobody needs or has taken into use since.

    What another owner's packages need passes to that owner; what stays for another reason is no longer written down.
    ``own`` are configuration files and units that the owner itself changed and runs.

    :raises PackagesError: apt would remove, or cannot remove, something else.
    """
    known = record.read()
    states = _states(run, known.get(owner, []))
    kept = _kept(run, {name for name, state in states.items() if state != "config-files"}, set(own))
    removal = Removal(tuple(sorted(states.keys() - kept.keys())), {name: text for name, (text, _by) in kept.items()})
    if check or owner not in known:
        return removal
    if removal.purged:
        _purge(run, removal.purged)
    left = {other: list(names) for other, names in known.items() if other != owner}
    heirs = {name: other for other, names in left.items() for name in names}
    for name in kept:
        needing = name
        while needing in kept:
            needing = kept[needing][1]
        if needing in heirs:
            left[heirs[needing]].append(name)
    record.write(left)
    return removal


def _states(run: Run, names: t.Sequence[str]) -> dict[str, str]:
    """Those that dpkg still knows, with their states."""
    if not names:
        return {}
    _code, out, _err = run(["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", "--", *names])
    states = dict(line.split(" ", 1) for line in out.splitlines())
    return {name: state for name, state in states.items() if state != "not-installed"}


def _kept(run: Run, candidates: set[str], own: set[str]) -> dict[str, tuple[str, str]]:
    """What must stay, each with the reason and the package that needs it, empty where it is no package."""
    if not candidates:
        return {}
    kept = {
        name: (text, "")
        for name, text in sorted({**_changed(run, candidates, own), **_used(run, candidates, own)}.items())
    }
    form = "--showformat=${db:Status-Status}\t${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    _code, out, _err = run(["dpkg-query", "--show", form])
    needing = still_needed(candidates - kept.keys(), parse_packages(out))
    return {**kept, **{name: (f"{by} needs it", by) for name, by in needing.items()}}


def still_needed(candidates: t.AbstractSet[str], packages: t.Sequence[Package]) -> dict[str, str]:
    """Candidates that an installed package which stays depends on, and which package that is."""
    providers: dict[str, set[str]] = {}
    for package in packages:
        for name in (package.name, *package.provides):
            providers.setdefault(name, set()).add(package.name)
    going = set(candidates)
    needed: dict[str, str] = {}
    staying = [package for package in packages if package.name not in going]
    while staying:
        package = staying.pop()
        for group in package.depends:
            able = set().union(*(providers.get(name, set()) for name in group))
            if able <= going:
                for name in sorted(able):
                    needed[name] = package.name
                    going.discard(name)
                    staying += [each for each in packages if each.name == name]
    return needed


def parse_packages(text: str) -> list[Package]:
    """The installed packages of dpkg-query's lines: state, name, dependencies and what they provide, by tabs."""
    found = []
    for line in text.splitlines():
        state, name, depends, provides = line.split("\t")
        if state == "installed":
            groups = (tuple(_names(group.split("|"))) for group in depends.split(","))
            found.append(Package(name, tuple(group for group in groups if group), tuple(_names(provides.split(",")))))
    return found


def _names(words: t.Iterable[str]) -> list[str]:
    """Names without versions and architectures."""
    return [word.split()[0].partition(":")[0] for word in words if word.strip()]


def _changed(run: Run, candidates: set[str], own: set[str]) -> dict[str, str]:
    """Those with a configuration file that somebody changed."""
    names = sorted(candidates)
    _code, out, _err = run(["dpkg-query", "--show", "--showformat=${Package}\n${Conffiles}\n", "--", *names])
    changed: dict[str, str] = {}
    package = ""
    for line in out.splitlines():
        if line and not line.startswith(" "):
            package = line
            continue
        words = line.split()
        if len(words) < 2 or words[0] in own:
            continue
        path, digest = words[:2]
        try:
            # dpkg's own sums, no matter of security.
            now = hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()
        except OSError:
            continue
        if now != digest:
            changed[package] = f"{path} was changed"
    return changed


def _used(run: Run, candidates: set[str], own: set[str]) -> dict[str, str]:
    """Those of which a unit runs or is enabled."""
    units: dict[str, str] = {}
    for name in sorted(candidates):
        _code, out, _err = run(["dpkg-query", "--listfiles", name])
        found = (UNIT.match(line) for line in out.splitlines())
        units.update({match.group(1): name for match in found if match and match.group(1) not in own})
    if not units:
        return {}
    _code, out, _err = run(["systemctl", "show", "--property=Id,ActiveState,UnitFileState", "--", *sorted(units)])
    used = {}
    for block in out.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        unit = values.get("Id", "")
        if unit in units and values.get("ActiveState") == "active":
            used[units[unit]] = f"{unit} runs"
        elif unit in units and values.get("UnitFileState") == "enabled":
            used[units[unit]] = f"{unit} is enabled"
    return used


def _purge(run: Run, names: t.Sequence[str]) -> None:
    command = ["apt-get", *OPTIONS, "purge", *names]
    code, out, err = run(["apt-get", "--simulate", *command[1:]])
    others = sorted(set(GOING.findall(out)) - set(names))
    if others:
        raise PackagesError(f"apt would remove {', '.join(others)} with {', '.join(names)}, so nothing was removed.")
    if not code:
        code, out, err = run(command)
    if code:
        raise PackagesError(f"apt could not remove {', '.join(names)}: {_last(err or out)}")


def _lists_are_fresh() -> bool:
    stamp = next((path for path in STAMPS if os.path.exists(path)), None)
    return stamp is not None and time.time() - os.path.getmtime(stamp) < LISTS_VALID_S


def _last(text: str) -> str:
    """The end of what a program said, where its reason stands."""
    return " ".join(line.strip() for line in text.strip().splitlines()[-3:])
