# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model names: [scheme://][host/][namespace/]model[:tag], with Ollama's defaults."""

from __future__ import annotations

import re
import typing as t
from pathlib import PurePosixPath

HOST = "registry.ollama.ai"
NAMESPACE = "library"
TAG = "latest"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}\Z")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")


class Name(t.NamedTuple):
    host: str
    namespace: str
    model: str
    tag: str

    @property
    def valid(self) -> bool:
        return bool(
            _HOST.match(self.host)
            and _NAMESPACE.match(self.namespace)
            and _PART.match(self.model)
            and _PART.match(self.tag)
        )

    @property
    def path(self) -> PurePosixPath:
        """Below manifests/."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def shortest(self) -> str:
        """What lists show: defaults are left out, the tag never is."""
        parts = [self.model]
        if self.namespace.lower() != NAMESPACE or self.host.lower() != HOST:
            parts.insert(0, self.namespace)
        if self.host.lower() != HOST:
            parts.insert(0, self.host)
        return "/".join(parts) + ":" + self.tag

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"


def parse(text: str) -> Name:
    text = text.strip()
    if "://" in text:
        text = text.split("://", 1)[1]
    head, slash, last = text.rpartition("/")
    model, colon, tag = last.partition(":")
    tag = tag if colon else TAG
    # ":local" only says that the cloud is not meant
    if tag == "local":
        tag = TAG
    host, namespace = HOST, NAMESPACE
    if slash:
        host_part, inner, namespace = head.rpartition("/")
        if inner:
            host = host_part
    return Name(host, namespace, model, tag)
