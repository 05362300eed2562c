# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small fleets and models, as an inventory would have them."""

from __future__ import annotations

import typing as t
from pathlib import Path

import yaml
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import build_problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Model, Problem

ROOT = Path(__file__).resolve().parents[4]
CATALOG = yaml.safe_load((ROOT / "playbooks/vars/catalog.yml").read_text())["sdai_catalog"]

# The footprint of the contract's example, which it works out to 7327 MiB and 75.0 tokens/s on a GTX 1080 Ti.
EXPLICIT = {"layers": 32, "weights_mib": 4403, "kv_mib": 2176, "compute_mib": 248, "active_mib": 4403}


def card(**changes: object) -> dict[str, object]:
    return {
        "id": "GPU-1",
        "index": 0,
        "vendor": "nvidia",
        "name": "NVIDIA GeForce GTX 1080 Ti",
        "architecture": "sm_61",
        "vram_mib": 11264,
        "vram_foreign_mib": 0,
        "bandwidth_gbs": 484,
        "backends": ["cuda_v12", "vulkan"],
        "usable": True,
        **changes,
    }


def explicit(**changes: object) -> dict[str, object]:
    return {
        "name": "mine:8b",
        "context": 8192,
        "parallel": 4,
        "kv_cache_type": "q8_0",
        "footprint": EXPLICIT,
        **changes,
    }


def problem(
    cards: object = None,
    models: object = None,
    host: dict[str, object] | None = None,
    **arguments: t.Any,
) -> Problem:
    fleet = {"gpu1": {"gpus": [card()] if cards is None else cards, **(host or {})}}
    wanted = [explicit()] if models is None else models
    return build_problem(**{"fleet": fleet, "models": wanted, "catalog": CATALOG, **arguments})


def only_model(planned: Problem) -> Model:
    (model,) = planned.models
    return model
