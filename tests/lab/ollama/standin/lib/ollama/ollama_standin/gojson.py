# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON as Go's encoding/json reads and writes it, as far as clients can see the difference."""

from __future__ import annotations

import json
import re
import typing as t
from datetime import UTC, datetime, timedelta

_STRICT = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_KINDS = {str: "string", bool: "bool", list: "array", dict: "object", int: "number", float: "number"}
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ESCAPE = re.compile("[<>&\u2028\u2029]")


class ApiError(Exception):
    """An error the client gets to see: HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def dumps(value: t.Any) -> str:
    """Compact, UTF-8, with Go's HTML escapes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _ESCAPE.sub(lambda m: _ESCAPES[m.group()], text)


def fold(key: str) -> str:
    """Case folding of field names as Go does it (the Kelvin sign is a k, the long s an s)."""
    return key.replace("\u212a", "k").replace("\u017f", "s").lower()


def _syntax_error(text: str, error: json.JSONDecodeError) -> ApiError:
    pos = error.pos
    if "property name" in error.msg:  # the decoder reports the comma or brace before it
        pos = _SPACE.match(text, pos).end() if pos < len(text) else pos  # type: ignore[union-attr]  # matches nothing, too
        if pos < len(text) and text[pos] == ",":
            pos = _SPACE.match(text, pos + 1).end()  # type: ignore[union-attr]  # matches nothing, too
        where = "looking for beginning of object key string"
    else:
        where = "looking for beginning of value"
    if pos >= len(text) or error.msg.startswith("Unterminated"):
        return ApiError(400, "unexpected EOF")
    char = "\\ufeff" if text[pos] == "\ufeff" else text[pos]
    return ApiError(400, f"invalid character '{char}' {where}")


def first_value(body: bytes) -> t.Any:
    """The first JSON value of the body; what follows it is ignored, as Go's decoder does."""
    text = body.decode("utf-8", "replace")
    start = _SPACE.match(text).end()  # type: ignore[union-attr]  # matches nothing, too
    if start == len(text):
        raise ApiError(400, "missing request body")
    try:
        return _STRICT.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        raise _syntax_error(text, error) from None


def kind(value: t.Any) -> str:
    return _KINDS[type(value)]


def bind(body: bytes, struct: str, fields: dict[str, tuple[type, ...]], package: str = "api") -> dict[str, t.Any]:
    """Fill a request: top-level keys in any case, the last one wins, null is absent, wrong types are refused."""
    value = first_value(body)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ApiError(400, f"json: cannot unmarshal {kind(value)} into Go value of type {package}.{struct}")
    found: dict[str, t.Any] = {}
    for key, item in value.items():
        name = fold(key)
        if name not in fields:
            continue
        if item is None:
            found.pop(name, None)
            continue
        types = fields[name]
        if not isinstance(item, types) or (isinstance(item, bool) and bool not in types):
            want = {str: "string", dict: "map[string]interface {}", list: "[]interface {}", int: "int", bool: "bool"}
            raise ApiError(
                400,
                f"json: cannot unmarshal {kind(item)} into Go struct field {struct}.{name} of type {want[types[0]]}",
            )
        found[name] = item
    return found


def stamp(epoch_ns: int) -> str:
    """RFC 3339 with nanoseconds, trailing zeros cut (time.RFC3339Nano, UTC)."""
    seconds, nanos = divmod(epoch_ns, 1_000_000_000)
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return when.strftime("%Y-%m-%dT%H:%M:%S") + fraction + "Z"


_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"([0-9]*\.?[0-9]+|[0-9]+\.)(ns|us|µs|ms|s|m|h)?")
FOREVER = 2**63 - 1


def duration(value: t.Any) -> int:
    """Nanoseconds of a keep_alive: seconds as a number or Go's duration text; negative means for ever."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return FOREVER if value < 0 else int(value * 10**9)
    if not isinstance(value, str):
        raise ApiError(400, f"Unsupported type: '{value}'")
    rest = value.lstrip("+-") if value[:1] in "+-" else value
    total = 0.0
    if rest == "":
        raise ApiError(400, f'time: invalid duration "{value}"')
    pos = 0
    while pos < len(rest):
        part = _PART.match(rest, pos)
        if part is None:
            raise ApiError(400, f'time: invalid duration "{value}"')
        if part.group(2) is None:
            if float(part.group(1)) == 0 and part.end() == len(rest) and pos == 0:
                return 0
            raise ApiError(400, f'time: missing unit in duration "{value}"')
        total += float(part.group(1)) * _UNITS[part.group(2)]
        pos = part.end()
    return FOREVER if value.startswith("-") else int(total)
