# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import random
import time
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import (
    build_problem,
    current_from_hostvars,
    fleet_from_hostvars,
    read_current,
    read_options,
)
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.errors import PlacementError
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Model, Options, Problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.shapes import split
from ansible_collections.aivailable.sdai.plugins.plugin_utils._validate import InputError
from hypothesis import given, settings
from hypothesis import strategies as st

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


# --- needs -------------------------------------------------------------------------------------


def test_the_contracts_example() -> None:
    planned = problem()
    (need,) = only_model(planned).needs[planned.gpus[0].kind]
    assert (need.runner, need.vram_mib) == ("cuda_v12", 7327)
    assert 10**12 / need.nanoseconds == pytest.approx(75_000, abs=50)


def test_an_explicit_footprint_is_split_by_layers_all_alike() -> None:
    """Share of l layers: (weights - output + kv) * l / L rounded up, the output whole on the last GPU."""
    footprint = {**EXPLICIT, "output_mib": 403}
    cards = [card(id="A", index=0, vram_mib=5000), card(id="B", index=1, vram_mib=5000)]
    planned = problem(cards, [explicit(footprint=footprint)])
    shape = split(only_model(planned), planned.gpus)
    assert shape is not None
    assert [(share.layers, share.vram_mib) for share in shape.shares] == [
        (16, 3088 + 248 + 500),
        (16, 3088 + 403 + 248 + 500),
    ]


def test_an_estimated_model_has_real_layers() -> None:
    planned = problem(models=[{"name": "llama3.1:8b", "context": 8192, "parallel": 4, "kv_cache_type": "q8_0"}])
    (need,) = only_model(planned).needs[planned.gpus[0].kind]
    entry = CATALOG["llama3.1:8b"]
    assert need.layers == entry["layers"]
    assert need.layer_units[0] == 0
    assert list(need.layer_units) == sorted(set(need.layer_units))
    whole = need.layer_units[-1] / need.units_per_mib + need.output_mib
    assert whole + need.compute_first_mib + need.context_mib >= need.vram_mib - 2
    assert need.context_mib == 500
    assert 7000 < need.vram_mib < 7800


@pytest.mark.parametrize(
    ("host", "family", "context"),
    [
        pytest.param({}, "cuda", 500, id="default, CUDA"),
        pytest.param({}, "vulkan", 200, id="default, Vulkan"),
        pytest.param({"vram_context_mib": 300}, "vulkan", 300, id="one number"),
        pytest.param({"vram_context_mib": {"cuda": 450}}, "cuda", 450, id="by family"),
        pytest.param({"vram_context_mib": {"cuda": 450}}, "vulkan", 200, id="families left out keep theirs"),
    ],
)
def test_engine_context(host: dict[str, object], family: str, context: int) -> None:
    planned = problem(models=[explicit(kv_cache_type="f16")], host=host)
    needs = {need.family: need for need in only_model(planned).needs[planned.gpus[0].kind]}
    assert needs[family].context_mib == context
    assert needs[family].vram_mib == 4403 + 2176 + 248 + context


@pytest.mark.parametrize(
    ("gpu", "kv", "runners", "reason"),
    [
        pytest.param({}, "f16", ["cuda_v12", "vulkan"], "", id="f16 runs everywhere"),
        pytest.param({}, "q8_0", ["cuda_v12"], "", id="Vulkan is not trusted with q8_0"),
        pytest.param(
            {"architecture": "sm_52"},
            "q8_0",
            [],
            "q8_0 KV needs flash attention, which compute capability 5.2 does not have; vulkan is not trusted with it",
            id="no flash attention",
        ),
        pytest.param(
            {"architecture": "sm_72", "backends": ["cuda_v12"]},
            "q4_0",
            [],
            "q4_0 KV needs flash attention, which compute capability 7.2 does not have",
            id="nor on 7.2",
        ),
        pytest.param(
            {"vendor": "amd", "architecture": "gfx803", "backends": ["vulkan"]},
            "q8_0",
            [],
            "q8_0 KV: vulkan is not trusted with it on gfx803",
            id="AMD by Vulkan",
        ),
        pytest.param(
            {"vendor": "amd", "architecture": "gfx1100", "backends": ["rocm_v7_2", "vulkan"]},
            "q8_0",
            ["rocm_v7_2"],
            "",
            id="AMD by ROCm",
        ),
    ],
)
@pytest.mark.parametrize("model", [explicit(), {"name": "llama3.1:8b"}], ids=["explicit", "estimated"])
def test_kv_types_are_a_matter_of_the_card(
    gpu: dict[str, object], kv: str, runners: list[str], reason: str, model: dict[str, object]
) -> None:
    planned = problem([card(**gpu)], [{**model, "kv_cache_type": kv}])
    kind = planned.gpus[0].kind
    assert [need.runner for need in only_model(planned).needs.get(kind, ())] == runners
    assert only_model(planned).ineligible.get(kind, "").startswith(reason)
    assert bool(only_model(planned).ineligible.get(kind)) != bool(runners)


def test_without_flash_attention_more_is_needed() -> None:
    """...but an explicit footprint is the same for every class of GPU."""
    cards = [card(), card(id="OLD", index=1, architecture="sm_52")]
    models = [{"name": "llama3.1:8b", "context": 32768, "kv_cache_type": "f16"}, explicit(kv_cache_type="f16")]
    planned = problem(cards, models)
    new, old = (gpu.kind for gpu in planned.gpus)
    estimated, given = ([model.needs[kind][0].vram_mib for kind in (new, old)] for model in planned.models)
    assert estimated[1] > estimated[0] + 500
    assert given[0] == given[1]


@pytest.mark.parametrize(
    ("gpu", "host", "everywhere", "expected"),
    [
        pytest.param({}, {}, None, 75_019, id="the family's default"),
        pytest.param({"efficiency": 0.39}, {}, None, 39_000, id="the card's own"),
        pytest.param({"overhead_ms": 0}, {}, {"cuda": {"efficiency": 0.78}}, 81_772, id="card and inventory"),
        pytest.param({}, {"speed": {"cuda": {"efficiency": 0.39, "overhead_ms": 0}}}, None, 40_886, id="the host's"),
        pytest.param({}, {}, {"cuda": {"efficiency": 0.39, "overhead_ms": 0}}, 40_886, id="the inventory's"),
        pytest.param({}, {}, {"rocm": {"efficiency": 0.1}}, 75_019, id="another family's"),
    ],
)
def test_speed_is_taken_from_the_nearest_source(
    gpu: dict[str, object], host: dict[str, object], everywhere: object, expected: int
) -> None:
    planned = problem([card(**gpu)], host=host, speed=everywhere)
    (need,) = only_model(planned).needs[planned.gpus[0].kind]
    assert 10**12 / need.nanoseconds == pytest.approx(expected, rel=0.005)


def test_cards_alike_are_one_kind() -> None:
    cards = [card(id=str(number), index=number, vram_mib=8192 + number) for number in range(4)]
    assert len({gpu.kind for gpu in problem(cards).gpus}) == 1
    cards = [card(), card(id="B", index=1, bandwidth_gbs=256)]
    assert len({gpu.kind for gpu in problem(cards).gpus}) == 2


def test_a_model_is_known_by_its_source_too() -> None:
    planned = problem(models=[{"name": "chat", "source": "llama3.1:8b"}])
    assert only_model(planned).name == "chat:latest"
    assert only_model(planned).needs


def test_bandwidth_of_a_known_card_need_not_be_given() -> None:
    undeclared = card()
    del undeclared["bandwidth_gbs"]
    (known, given_one) = (only_model(problem([gpu])).needs for gpu in (undeclared, card()))
    assert [n[0].nanoseconds for n in known.values()] == [n[0].nanoseconds for n in given_one.values()]


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "start", "remedy"),
    [
        pytest.param(
            {"cards": "GPU-1"},
            "sdai_gpus (host gpu1): is",
            "list of GPUs, as gpu_facts returns it",
            id="no list of GPUs",
        ),
        pytest.param(
            {"cards": [card(vram_mib="11 GiB")]},
            'sdai_gpus[0].vram_mib (host gpu1): "11 GiB" is not a whole number.',
            "for example 11264",
            id="wrong type",
        ),
        pytest.param(
            {"cards": [card(vram_foreign_mib=-1)]},
            "sdai_gpus[0].vram_foreign_mib (host gpu1): -1 is negative.",
            "MiB that other processes hold",
            id="negative number",
        ),
        pytest.param(
            {"cards": [card(), card(index=1)]},
            'sdai_gpus[1].id (host gpu1): "GPU-1" is the id of sdai_gpus[0] too.',
            "its own id",
            id="duplicate id",
        ),
        pytest.param(
            {"cards": [card(), card(id="B")]},
            "sdai_gpus[1].index (host gpu1): 0 is the index of sdai_gpus[0] too.",
            "Number the GPUs",
            id="duplicate index",
        ),
        pytest.param(
            {"cards": [card(bandwith_gbs=1)]},
            "sdai_gpus[0].bandwith_gbs (host gpu1): is not a key that is known here.",
            "Did you mean bandwidth_gbs?",
            id="unknown key",
        ),
        pytest.param(
            {"cards": [card(vendor="intel")]},
            'sdai_gpus[0].vendor (host gpu1): "intel" is not possible.',
            "nvidia, amd",
            id="vendor",
        ),
        pytest.param(
            {"cards": [card(backends=["cuda12"])]},
            'sdai_gpus[0].backends[0] (host gpu1): "cuda12" is not a runner.',
            "cuda_v12",
            id="runner",
        ),
        pytest.param(
            {"cards": [card(name="Accelerator 9000", bandwidth_gbs=None)]},
            "sdai_gpus[0].bandwidth_gbs (host gpu1): is missing",
            "data sheet",
            id="unknown card without bandwidth",
        ),
        pytest.param(
            {"cards": [card(efficiency=3)]},
            "sdai_gpus[0].efficiency (host gpu1): 3 is above 2.",
            "0.78",
            id="efficiency",
        ),
        pytest.param(
            {"host": {"labels": ["a"]}},
            "sdai_labels (host gpu1): is a list, not a mapping.",
            "label: value",
            id="labels",
        ),
        pytest.param(
            {"host": {"failure_domain": 7}},
            "sdai_failure_domain (host gpu1): 7 is not text.",
            "in quotes",
            id="failure domain",
        ),
        pytest.param(
            {"host": {"vram_margin_mib": -1}}, "sdai_vram_margin_mib (host gpu1): -1 is negative.", "1024", id="margin"
        ),
        pytest.param(
            {"host": {"vram_context_mib": {"cuda": "x"}}},
            'sdai_vram_context_mib.cuda (host gpu1): "x" is not a whole number.',
            "by family",
            id="engine context",
        ),
        pytest.param(
            {"speed": {"cuda": {"efficiency": 0}}},
            "sdai_speed.cuda.efficiency (all hosts): 0 is not above 0.",
            "0.78",
            id="speed",
        ),
        pytest.param(
            {"speed": {"metal": {}}}, "sdai_speed.metal (all hosts): is not a key", "cuda, rocm, vulkan", id="family"
        ),
        pytest.param(
            {"models": [{"name": "lama3.1:8b"}]},
            'sdai_models[0].name (all hosts): "lama3.1:8b" is not in the catalog of known models.',
            "Did you mean llama3.1:8b?",
            id="unknown model",
        ),
        pytest.param(
            {"models": [{"name": "chat", "source": "hf.co/a/b:Q4"}]},
            'sdai_models[0].source (all hosts): "hf.co/a/b:Q4" is not in the catalog of known models.',
            "footprint",
            id="unknown source",
        ),
        pytest.param(
            {"models": [{"name": "gemma2:9b", "context": 100_000}]},
            "sdai_models[0].context (all hosts): 100000 is more than gemma2:9b was trained for.",
            "at most 8192",
            id="context beyond training",
        ),
        pytest.param(
            {"models": [explicit(constraints={"nodes": ["gpu2"]})]},
            'sdai_models[0].constraints.nodes[0] (all hosts): "gpu2" is not a node of the inventory.',
            "Did you mean gpu1?",
            id="unknown node",
        ),
        pytest.param(
            {"models": [explicit(constraints={"exclude_gpus": ["gpu7/GPU-1"]})]},
            'sdai_models[0].constraints.exclude_gpus[0] (all hosts): "gpu7" is not a node',
            "gpu1",
            id="unknown node of a GPU",
        ),
        pytest.param(
            {"absent_nodes": ["gpu2"]},
            'sdai_absent_nodes[0] (all hosts): "gpu2" is not a node of the inventory.',
            "Did you mean gpu1?",
            id="absent node",
        ),
        pytest.param(
            {"absent_nodes": "gpu1"}, "sdai_absent_nodes (all hosts): is", "list of inventory host names", id="no list"
        ),
        pytest.param(
            {"fleet": {"gpu1": {}}},
            "sdai_gpus (host gpu1): no facts of its GPUs",
            "sdai_absent_nodes",
            id="unreachable node",
        ),
        pytest.param({"fleet": {}}, "fleet (all hosts): has no GPU nodes.", "gpu_nodes", id="no nodes"),
    ],
)
def test_one_error_names_key_host_and_remedy(arguments: dict[str, t.Any], start: str, remedy: str) -> None:
    with pytest.raises(InputError) as caught:
        problem(**arguments)
    message = str(caught.value)
    assert message.startswith(start)
    assert "\n" not in message
    assert remedy in message[len(start) :]


def test_constraints_may_name_absent_nodes() -> None:
    """A model pinned to a node that is away waits; it is no mistake."""
    fleet = {"gpu1": {"gpus": [card()]}, "gpu2": {}}
    planned = build_problem(
        fleet=fleet, models=[explicit(constraints={"nodes": ["gpu2"]})], catalog={}, absent_nodes=["gpu2"]
    )
    assert [node.name for node in planned.nodes] == ["gpu1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, Options()),
        (
            {"plan_seconds": "30", "min_gain": "0.1", "churn_budget_gib": 1.5, "replan": "true", "seed": 7},
            Options(30, 100, 1536, True, 7),
        ),
        ({"churn_budget_gib": 0}, Options(churn_budget_mib=0)),
    ],
)
def test_options(arguments: dict[str, object], expected: Options) -> None:
    assert read_options(**arguments) == expected


def test_wrong_options_are_named() -> None:
    with pytest.raises(
        InputError, match=r"sdai_plan_seconds .*0 is below 1[\s\S]*sdai_replan .*neither true nor false"
    ):
        read_options(plan_seconds=0, replan="perhaps")


# --- digests -----------------------------------------------------------------------------------


def fleet_of(*orders: int) -> dict[str, object]:
    hosts = {
        "gpu1": {"gpus": [card(), card(id="B", index=1, vram_mib=8192)], "labels": {"room": "a", "floor": "1"}},
        "gpu2": {"gpus": [card()], "failure_domain": "rack1"},
        "gpu3": {"gpus": [card(architecture="sm_86")]},
    }
    names = list(hosts)
    random.Random(orders[0]).shuffle(names)
    return {name: {**hosts[name], "gpus": list(reversed(hosts[name]["gpus"]))} for name in names}  # type: ignore[call-overload]


@settings(max_examples=20, deadline=None)
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
    with pytest.raises(PlacementError, match=r"current\[0\]\.port"):
        read_current([{**RUNNING, "port": "x"}], problem())


# --- size --------------------------------------------------------------------------------------


def test_a_large_fleet_is_read_in_no_time() -> None:
    """400 GPUs of 20 kinds and 80 models: below 2 s on a slow machine."""
    fleet = {
        f"gpu{node}": {
            "gpus": [
                card(
                    id=f"GPU-{n}",
                    index=n,
                    bandwidth_gbs=200 + node % 20 * 40,
                    architecture=("sm_52", "sm_86")[node % 2],
                )
                for n in range(4)
            ]
        }
        for node in range(100)
    }
    names = list(CATALOG)
    models = [{"name": f"m{n}:1", "source": names[n % len(names)], "context": 4096 + 32 * n} for n in range(80)]
    started = time.perf_counter()
    planned = build_problem(fleet=fleet, models=models, catalog=CATALOG)
    assert time.perf_counter() - started < 2
    assert (len(planned.gpus), len(planned.models)) == (400, 80)
