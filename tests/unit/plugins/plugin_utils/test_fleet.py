# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
import typing as t

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import (
    build_problem,
    current_from_hostvars,
    fleet_from_hostvars,
    read_current,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.errors import PlacementError
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils.fleet_builders import card, explicit, problem
from hypothesis import given, settings
from hypothesis import strategies as st

# --- offers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "host", "offer"),
    [
        pytest.param({}, {}, 11264 - 1024, id="the default margin"),
        pytest.param({"vram_foreign_mib": 65}, {}, 11264 - 128 - 1024, id="foreign VRAM up to the next 64 MiB"),
        pytest.param({}, {"vram_margin_mib": 1536}, 11264 - 1536, id="the host's margin"),
        pytest.param({}, {"vram_margin_mib": "0"}, 11264, id="no margin, as text"),
        pytest.param({"vram_foreign_mib": 11000}, {}, 0, id="never below 0"),
        pytest.param({"usable": False, "reason": "broken"}, {}, 0, id="nothing from an unusable card"),
    ],
)
def test_offer(gpu: dict[str, object], host: dict[str, object], offer: int) -> None:
    (result,) = problem([card(**gpu)], host=host).gpus
    assert result.offer_mib == offer


def test_margin_of_all_hosts_gives_way_to_the_host() -> None:
    fleet = {"a": {"gpus": [card()]}, "b": {"gpus": [card()], "vram_margin_mib": 100}}
    gpus = build_problem(fleet=fleet, models=[], catalog={}, vram_margin_mib=2000).gpus
    assert [gpu.offer_mib for gpu in gpus] == [9264, 11164]


def test_cards_nobody_can_use_need_little_said_about_them() -> None:
    """As gpu_facts lists a card that no driver answers for."""
    dead = {
        "id": "0000:82:00.0", "index": 0, "vendor": "nvidia", "name": "", "architecture": "", "vram_mib": 0,
        "vram_foreign_mib": 0, "bandwidth_gbs": 0, "backends": [], "usable": False, "reason": "no driver",
        "remedy": "r", "pci_address": "0000:82:00.0",
    }  # fmt: skip
    (gpu,) = problem([dead]).gpus
    assert (gpu.usable, gpu.offer_mib, gpu.reason, gpu.remedy) == (False, 0, "no driver", "r")


def test_a_card_without_runner_is_not_usable() -> None:
    (gpu,) = problem([card(backends=[])]).gpus
    assert (gpu.usable, gpu.reason) == (False, "no runner serves it")


# --- digests -----------------------------------------------------------------------------------


def fleet_of(*orders: int) -> dict[str, object]:
    hosts = {
        "gpu1": {"gpus": [card(), card(id="B", index=1, vram_mib=8192)], "labels": {"room": "a", "floor": "1"}},
        "gpu2": {"gpus": [card()], "failure_domain": "rack1"},
        "gpu3": {"gpus": [card(architecture="sm_86")]},
    }
    names = list(hosts)
    random.Random(orders[0]).shuffle(names)
    return {name: {**hosts[name], "gpus": list(reversed(hosts[name]["gpus"]))} for name in names}  # type: ignore[call-overload]  # object


@settings(max_examples=settings.default.max_examples // 5)
@given(seed=st.integers(0, 1000))
def test_digests_do_not_depend_on_order(seed: int) -> None:
    rules = {"vendors": ["nvidia", "amd"], "exclude_nodes": ["gpu1", "gpu2"]}
    models = [explicit(constraints=rules), explicit(name="other")]
    shuffled = [explicit(name="other"), explicit(constraints={key: value[::-1] for key, value in rules.items()})]
    one = build_problem(fleet=fleet_of(0), models=models, catalog={})
    other = build_problem(fleet=fleet_of(seed), models=shuffled, catalog={})
    assert (one.fleet_digest, one.catalog_digest) == (other.fleet_digest, other.catalog_digest)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        pytest.param({"vram_foreign_mib": 3000}, True, id="live measurement"),
        pytest.param({"name": "another name"}, True, id="name"),
        pytest.param({"vram_mib": 12288}, False, id="size"),
        pytest.param({"id": "GPU-2"}, False, id="id"),
        pytest.param({"backends": ["vulkan"]}, False, id="runners"),
        pytest.param({"architecture": "sm_86"}, False, id="architecture"),
        pytest.param({"usable": False}, False, id="no longer usable"),
    ],
)
def test_fleet_digest_is_about_identities(changes: dict[str, object], same: bool) -> None:
    assert (problem().fleet_digest == problem([card(**changes)]).fleet_digest) is same


@pytest.mark.parametrize(
    ("changes", "same"),
    [({"context": 8192}, True), ({"context": 4096}, False), ({"priority": 51}, False), ({"source": "x:1"}, False)],
)
def test_catalog_digest_is_about_what_is_wanted(changes: dict[str, object], same: bool) -> None:
    assert (problem().catalog_digest == problem(models=[explicit(**changes)]).catalog_digest) is same


# --- host variables ----------------------------------------------------------------------------


def test_fleet_from_hostvars() -> None:
    hostvars: dict[str, dict[str, object]] = {
        "gpu1": {"sdai_facts_gpus": [1], "sdai_gpus": [2], "sdai_labels": {"a": "b"}, "other": 1},
        "gpu2": {"sdai_gpus": [2], "sdai_vram_margin_mib": 5, "sdai_failure_domain": "r", "sdai_speed": {}},
        "gpu3": {"sdai_facts_gpus": [3]},
        "gpu4": {},
        "frontend": {"sdai_facts_gpus": [9]},
    }
    assert fleet_from_hostvars(hostvars, ["gpu1", "gpu2", "gpu3", "gpu4"], ["gpu3"]) == {
        "gpu1": {"gpus": [1], "labels": {"a": "b"}},
        "gpu2": {"gpus": [2], "vram_margin_mib": 5, "failure_domain": "r", "speed": {}},
        "gpu3": {},
        "gpu4": {},
    }


def test_current_from_hostvars() -> None:
    hostvars: dict[str, dict[str, t.Any]] = {
        "gpu1": {"sdai_facts_replicas": [{"id": "a--1"}, {"id": "b--1"}]},
        "gpu2": {"sdai_facts_replicas": [{"id": "a--2"}]},
        "gpu3": {},
    }
    assert current_from_hostvars(hostvars, hostvars, ["gpu2"]) == [
        {"id": "a--1", "node": "gpu1"},
        {"id": "b--1", "node": "gpu1"},
    ]


RUNNING = {
    "id": "mine-8b--1", "unit": "u", "model": "mine:8b", "node": "gpu1", "backend": "cuda", "runner": "cuda_v12",
    "gpus": [{"id": "GPU-1", "index": 0, "layers": 32, "vram_mib": 7327}],
    "port": 11500, "context": 8192, "parallel": 4,
    "kv_cache_type": "q8_0", "batch": 1024, "tokens_per_second": 75.0, "state": "active", "resident": True, "pids": [1],
}  # fmt: skip


def test_current_is_what_runs_on_planned_nodes() -> None:
    (replica,) = read_current([RUNNING, {**RUNNING, "node": "away"}], problem())
    assert (replica.id, replica.node, replica.speed) == ("mine-8b--1", "gpu1", 75_000)
    assert (replica.source, replica.up) == (None, True)
    assert read_current([{**RUNNING, "source": "s"}], problem())[0].source == "s"
    with pytest.raises(PlacementError, match=r"current\[0\]\.port"):
        read_current([{**RUNNING, "port": "x"}], problem())


@pytest.mark.parametrize(
    ("state", "up"), [("active", True), ("activating", True), ("failed", False), ("inactive", False)]
)
def test_a_replica_that_is_down_does_not_run(state: str, up: bool) -> None:
    (replica,) = read_current([{**RUNNING, "state": state}], problem())
    assert replica.up is up
