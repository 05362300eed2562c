# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time

import pytest
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import build_problem, read_problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.shapes import split
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils.fleet_builders import (
    CATALOG,
    EXPLICIT,
    card,
    explicit,
    only_model,
    problem,
)


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


def test_a_model_with_another_context_or_kv_cache() -> None:
    """It is what the inventory would have made of it; a footprint of its own knows nothing of either."""
    fleet = {"gpu1": {"gpus": [card()]}}
    wanted = {"name": "llama3.1:8b", "context": 8192, "parallel": 4}
    _problem, variant = read_problem(fleet=fleet, models=[wanted, explicit()], catalog=CATALOG)
    for change in ({"context": 512}, {"kv_cache_type": "q4_0"}, {"context": 2048, "kv_cache_type": "q8_0"}):
        changed = build_problem(fleet=fleet, models=[{**wanted, **change}], catalog=CATALOG)
        assert variant("llama3.1:8b", **change) == changed.models[0]
    assert variant("mine:8b", context=512) is None
