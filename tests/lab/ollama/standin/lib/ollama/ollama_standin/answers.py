# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the stand-in says: deterministic text, one word per token."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
import typing as t

_KNOWN = {"what is the capital of france? answer with one word.": "Paris"}
_FILL = 2048
_FILLER = tuple(
    "This sentence comes from a stand-in that holds no language model and only keeps the pace of the simulated "  # noqa: SIM905
    "card so that streams and limits can be seen at work.".split()
)
_GARBAGE = ["@@", "GGGG", "�", "((((", "ÿþ", "####", "////", "!!"]


def tokens(text: str) -> int:
    """Roughly what a tokenizer makes of a text: a token per word, more for long words."""
    return max(len(text.split()), math.ceil(len(text) / 4))


def _natural(prompt: str) -> list[str]:
    question = " ".join(prompt.split())
    known = _KNOWN.get(question.lower())
    if known is not None:
        return [known]
    if len(question) > 200:
        question = question[:200].rsplit(" ", 1)[0] + " …"
    return f'You said: "{question}".'.split() + list(_FILLER)


def words(prompt: str, limit: int, literal: str | None, garbage: bool) -> t.Iterator[str]:
    """The tokens of an answer: what a client asked for word by word, a broken back-end's noise, or a sentence.

    A limit up to _FILL is reached exactly, so that a test can ask for a stream of a certain length; above it the
    sentence ends by itself.
    """
    if garbage:
        source: t.Iterable[str] = itertools.islice(itertools.cycle(_GARBAGE), 40)
    elif literal is not None:
        source = [literal[at : at + 4] for at in range(0, len(literal), 4)]
    else:
        natural = _natural(prompt)
        fills = 0 < limit <= _FILL and len(natural) > 1
        source = itertools.chain(natural, itertools.cycle(_FILLER)) if fills else natural
    for number, word in enumerate(source):
        if 0 < limit <= number:
            return
        yield word if number == 0 or literal is not None else " " + word


def instance(schema: t.Any) -> t.Any:
    """The smallest sensible value of a JSON schema."""
    if not isinstance(schema, dict):
        return {"answer": "text"}
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {key: instance(inner) for key, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema.get("items", {"type": "string"}))] * max(1, schema.get("minItems", 1))
    return {"string": "text", "integer": 1, "number": 1, "boolean": True}.get(kind)


def embedding(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    raw = hashlib.shake_128(text.encode()).digest(2 * dimensions)
    values = [x / 32768.0 for x in struct.unpack(f"<{dimensions}h", raw)]
    return unit(values)


def unit(values: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in values)) or 1.0
    return [x / length for x in values]
