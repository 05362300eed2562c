# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""Names and ports of new replicas."""

from __future__ import annotations

import hashlib
import re
import typing as t
from collections import Counter

from .errors import PortsExhaustedError

if t.TYPE_CHECKING:
    from collections.abc import Collection, Iterable

PORTS = range(11500, 12000)


def slug(model: str) -> str:
    """Return the model's name as it may stand in a unit's name: [a-z0-9.] and '-'."""
    return re.sub(r"[^a-z0-9.]", "-", model.lower())


def slugs(models: Iterable[str]) -> dict[str, str]:
    """Return the slug of each model; models whose slugs collide get a short hash of their name each."""
    names = sorted(set(models))
    count = Counter(slug(name) for name in names)
    return {
        name: slug(name) if count[slug(name)] == 1 else f"{slug(name)}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        for name in names
    }


def next_id(base: str, used: Collection[str]) -> str:
    """Return base--n with the lowest n from 1 that is not in use."""
    number = 1
    while f"{base}--{number}" in used:
        number += 1
    return f"{base}--{number}"


def next_port(node: str, used: Collection[int]) -> int:
    """Return the lowest free replica port of the node.

    Raises PortsExhaustedError when all are taken.
    """
    for port in PORTS:
        if port not in used:
            return port
    raise PortsExhaustedError(f"node {node}: all replica ports {PORTS.start} to {PORTS.stop - 1} are in use")
