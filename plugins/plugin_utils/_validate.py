# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""From raw inventory values to typed ones, with one clear error for all that is wrong.

A value that is wrong is noted with its key, its host, what was given and what to write
instead, and reading goes on, so that the administrator sees every mistake at once.
"""

from __future__ import annotations

import difflib
import json
import math
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation

from ._placement.errors import PlacementError

if t.TYPE_CHECKING:
    import re
    from collections.abc import Iterable

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True)
class Finding:
    """One wrong value. ``host`` is empty where the value is the same on all hosts, ``model`` where it is of none."""

    key: str
    host: str
    problem: str
    remedy: str
    model: str = ""


class InputError(PlacementError):
    """The inventory cannot be planned; ``findings`` says why and what to do, ``str()`` is for the administrator."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        hosts: dict[Finding, list[str]] = {}
        for finding in self.findings:
            hosts.setdefault(replace(finding, host=""), []).append(finding.host)
        lines = [
            f"{finding.key} ({_where(finding.model, names)}): {finding.problem}. {finding.remedy}"
            for finding, names in hosts.items()
        ]
        if len(lines) > 1:
            lines.insert(0, f"{len(lines)} values of the inventory are wrong:")
        super().__init__("\n- ".join(lines))


def _where(model: str, hosts: Sequence[str]) -> str:
    """A value of group_vars is wrong on many hosts at once: said once."""
    if not hosts[0]:
        return f"model {model}" if model else "all hosts"
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return f"host{'s' if len(hosts) > 1 else ''} {', '.join(hosts[:3])}{more}"


@dataclass
class Findings:
    """Collects what is wrong until ``check`` is called."""

    items: list[Finding] = field(default_factory=list)
    # The models' names by the key of their entry, as far as they are known.
    models: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, problem: str, remedy: str, *, host: str = "") -> None:
        self.items.append(Finding(key, host, problem, remedy, self.models.get(key.partition(".")[0], "")))

    def about(self, key: str, *, host: str = "") -> bool:
        """Whether this key, or one below it, is wrong already."""
        return any(item.host == host and f"{item.key}.".startswith(f"{key}.") for item in self.items)

    def check(self) -> None:
        """Raise InputError if anything was found."""
        if self.items:
            raise InputError(self.items)


def describe(value: object) -> str:
    """What was given, short enough for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "a list"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    text = json.dumps(str(value), ensure_ascii=False)
    return text if len(text) <= 60 else f'{text[:56]}…"'


def _shape(value: object) -> str:
    """As ``describe``, but says of text and numbers that they are such."""
    kind = "the text " if isinstance(value, str) else "the value " if isinstance(value, (bool, int, float)) else ""
    return f"{kind}{describe(value)}"


def nearest(word: str, known: Iterable[str]) -> str:
    """The one of the known words that is meant, or nothing."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.6)
    return names[near[0]] if near else ""


def closest(word: str, known: Iterable[str]) -> str:
    """A sentence with the nearest of the known words, or nothing."""
    near = nearest(word, known)
    return f" Did you mean {near}?" if near else ""


def _number(value: object) -> Decimal | None:
    """The number in a value, also where Jinja or the command line made a string of it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (int, float, str)):
        try:
            number = Decimal(str(value).strip())
        except InvalidOperation:
            return None
        return number if number.is_finite() else None
    return None


class Reader:
    """Reads the keys of one mapping. Every method returns a usable value; what is wrong goes to ``findings``."""

    def __init__(self, raw: object, key: str, findings: Findings, *, host: str = "", known: Sequence[str]) -> None:
        self.key = key
        self.host = host
        self.findings = findings
        self.values: dict[str, object] = {}
        # What is missing only because of a mistake that is already told.
        self._told: set[str] = set()
        if not isinstance(raw, Mapping):
            self.complain("", f"is {_shape(raw)}, not a mapping", f"Write the keys {', '.join(known)}.")
            self._told.update(known)
            return
        for raw_name, value in raw.items():
            name = str(raw_name)
            if name in known:
                self.values[name] = value
            else:
                meant = nearest(name, known)
                remedy = f"Did you mean {meant}?" if meant else f"The keys are {', '.join(known)}."
                self.complain(name, "is not a key that is known here", f"Remove or rename it. {remedy}")
                self._told.add(meant)

    def path(self, name: str) -> str:
        return f"{self.key}.{name}" if self.key and name else self.key or name

    def complain(self, name: str, problem: str, remedy: str) -> None:
        self.findings.add(self.path(name), problem, remedy, host=self.host)

    def has(self, name: str) -> bool:
        """Whether the key was given; null counts as not given, as an undefined default templates to it."""
        return self.values.get(name) is not None

    def missing(self, name: str, remedy: str) -> None:
        """Say that the key is needed, unless what was said already tells it."""
        if name not in self._told:
            self.complain(name, "is missing", remedy)

    def whole(self, name: str, remedy: str, *, default: int | None = None, least: int = 0, most: int = 10**9) -> int:
        """A whole number; required if there is no default."""
        if not self.has(name):
            if default is None:
                self.missing(name, remedy)
                return least
            return default
        given = self.values[name]
        number = _number(given)
        if number is None or number != number.to_integral_value():
            self.complain(name, f"{describe(given)} is not a whole number", remedy)
        elif number < least:
            below = "is negative" if number < 0 <= least else f"is below {least}"
            self.complain(name, f"{describe(given)} {below}", remedy)
        elif number > most:
            self.complain(name, f"{describe(given)} is above {most}", remedy)
        else:
            return int(number)
        return least if default is None else default

    def number(
        self, name: str, remedy: str, *, least: Decimal | int = 0, most: int = 10**9, above: bool = False
    ) -> Decimal | None:
        """A number, exact as it was written; None if not given. ``above`` leaves out ``least`` itself."""
        if not self.has(name):
            return None
        given = self.values[name]
        number = _number(given)
        if number is None:
            self.complain(name, f"{describe(given)} is not a number", remedy)
        elif number < 0 <= least:
            self.complain(name, f"{describe(given)} is negative", remedy)
        elif number < least or (above and number == least):
            self.complain(name, f"{describe(given)} is not above {least}", remedy)
        elif number > most:
            self.complain(name, f"{describe(given)} is above {most}", remedy)
        else:
            return number
        return None

    def text(
        self, name: str, remedy: str, *, default: str | None = None, pattern: re.Pattern[str] | None = None
    ) -> str:
        """A string that is not empty (the default may be); required if there is no default."""
        if not self.has(name):
            if default is None:
                self.missing(name, remedy)
            return default or ""
        given = self.values[name]
        if not isinstance(given, str):
            self.complain(name, f"{describe(given)} is not text", f"{remedy} Put it in quotes.")
            return default or ""
        value = str(given).strip()
        if not value and default is None:
            self.complain(name, "is empty", remedy)
        elif value and pattern is not None and not pattern.fullmatch(value):
            self.complain(name, f"{describe(given)} is not of that form", remedy)
        else:
            return value
        return default or ""

    def choice(self, name: str, choices: Sequence[str], *, default: str | None = None) -> str:
        """One of the given words."""
        remedy = f"Choose one of {', '.join(choices)}."
        value = self.text(name, remedy, default=default)
        if value in choices:
            return value
        if value:
            self.complain(name, f"{describe(value)} is not possible", remedy + closest(value, choices))
        return default or choices[0]

    def boolean(self, name: str, remedy: str, *, default: bool) -> bool:
        if not self.has(name):
            return default
        given = self.values[name]
        word = str(given).strip().lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        self.complain(name, f"{describe(given)} is neither true nor false", remedy)
        return default

    def words(self, name: str, remedy: str, *, choices: Sequence[str] = ()) -> tuple[str, ...]:
        """A list of strings, in the order given."""
        if not self.has(name):
            return ()
        given = self.values[name]
        if isinstance(given, str) or not isinstance(given, Sequence):
            self.complain(name, f"is {_shape(given)}, not a list", remedy)
            return ()
        result = []
        for place, item in enumerate(given):
            if not isinstance(item, str) or not item.strip():
                self.complain(f"{name}[{place}]", f"{describe(item)} is not text", remedy)
            elif choices and str(item) not in choices:
                near = closest(str(item), choices)
                self.complain(f"{name}[{place}]", f"{describe(item)} is not possible", remedy + near)
            else:
                result.append(str(item).strip())
        return tuple(result)

    def labels(self, name: str, remedy: str) -> dict[str, str]:
        """A mapping of words to words; numbers are taken as their text."""
        result = {}
        for key, value in self.mapping(name, remedy).items():
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                self.complain(f"{name}.{key}", f"{describe(value)} is not text", f"{remedy} Put it in quotes.")
            else:
                result[str(key)] = str(value)
        return result

    def mapping(self, name: str, remedy: str) -> Mapping[object, object]:
        """A mapping of anything."""
        if not self.has(name):
            return {}
        given = self.values[name]
        if not isinstance(given, Mapping):
            self.complain(name, f"is {_shape(given)}, not a mapping", remedy)
            return {}
        return given

    def items(self, name: str, remedy: str) -> list[object]:
        """A list of anything."""
        if not self.has(name):
            return []
        given = self.values[name]
        if isinstance(given, str) or not isinstance(given, Sequence):
            self.complain(name, f"is {_shape(given)}, not a list", remedy)
            return []
        return list(given)
