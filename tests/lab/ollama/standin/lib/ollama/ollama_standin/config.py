# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the environment says, as the real server understands it."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

from .gojson import ApiError, duration

LIB = Path(os.path.realpath(__file__)).parent.parent


def _number(environ: t.Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environ.get(name, "") or default)
    except ValueError:
        return default


def _flag(environ: t.Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").strip().lower() not in ("", "0", "false", "f", "no")


class Config:
    """The settings of one server; `environ` is kept for the engine, which inherits all of it."""

    def __init__(self, environ: t.Mapping[str, str]) -> None:
        self.environ = dict(environ)
        self.home = environ.get("HOME", "")
        host = environ.get("OLLAMA_HOST", "").strip().strip("\"'") or "127.0.0.1:11434"
        host = host.split("://", 1)[-1].split("/", 1)[0]
        if host.startswith(":"):
            host = "127.0.0.1" + host
        address, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            address, port = host, "11434"
        self.address = address.strip("[]") or "0.0.0.0"
        self.port = int(port)
        self.models = Path(environ.get("OLLAMA_MODELS", "") or str(Path(self.home, ".ollama", "models")))
        try:
            self.keep_alive = duration(environ.get("OLLAMA_KEEP_ALIVE", "") or "5m")
        except ApiError:
            text = environ["OLLAMA_KEEP_ALIVE"]
            negative = text.lstrip("-").isdigit()
            self.keep_alive = duration(int(text)) if negative else duration("5m")
        self.context_length = _number(environ, "OLLAMA_CONTEXT_LENGTH", 0)
        self.parallel = max(1, _number(environ, "OLLAMA_NUM_PARALLEL", 1))
        self.max_loaded = _number(environ, "OLLAMA_MAX_LOADED_MODELS", 0)
        self.max_queue = _number(environ, "OLLAMA_MAX_QUEUE", 512)
        self.load_timeout = duration(environ.get("OLLAMA_LOAD_TIMEOUT", "") or "5m") / 1e9
        self.kv_cache_type = environ.get("OLLAMA_KV_CACHE_TYPE", "").strip().lower() or "f16"
        flash = environ.get("OLLAMA_FLASH_ATTENTION", "")
        self.flash_attention: bool | None = _flag(environ, "OLLAMA_FLASH_ATTENTION") if flash else None
        self.spread = _flag(environ, "OLLAMA_SCHED_SPREAD")
        self.no_prune = _flag(environ, "OLLAMA_NOPRUNE")
        self.no_cloud = _flag(environ, "OLLAMA_NO_CLOUD")
        self.library = environ.get("OLLAMA_LLM_LIBRARY", "").strip()
        self.vulkan = environ.get("OLLAMA_VULKAN", "1") not in ("0", "false")
        self.origins = [o.strip() for o in environ.get("OLLAMA_ORIGINS", "").split(",") if o.strip()]
        self.speed = float(environ.get("SDAI_LAB_SPEED", "1"))
        self.load_seconds_per_gib = float(environ.get("SDAI_LAB_LOAD_SECONDS_PER_GIB", "0.15"))
        self.load_seconds = float(environ.get("SDAI_LAB_LOAD_SECONDS", "0.3"))
        self.discovery_seconds = float(environ.get("SDAI_LAB_DISCOVERY_SECONDS", "0.3"))
        self.ping_seconds = float(environ.get("SDAI_LAB_PING_SECONDS", "10"))
        try:
            self.version = (LIB / "VERSION").read_text().strip()
        except FileNotFoundError:
            self.version = "0.0.0-standin"
