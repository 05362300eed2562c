# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Builders of small placement problems with explicit footprints."""

from __future__ import annotations

import os
import random
import typing as t

from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.check import check_plan
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import (
    Constraints,
    Gpu,
    Model,
    Need,
    Node,
    Plan,
    Problem,
    Replica,
)

CONTEXT_MIB = 500
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
"""Whether counts are those of `make test-long`."""


def gpu(
    node: str,
    id: str,
    offer_mib: int,
    *,
    index: int = 0,
    kind: str = "slow",
    vendor: str = "nvidia",
    architecture: str = "sm_61",
    margin_mib: int = 0,
    foreign_mib: int = 0,
    **more: t.Any,
) -> Gpu:
    return Gpu(
        node=node,
        id=id,
        index=index,
        vendor=vendor,
        name=f"{vendor} {kind}",
        architecture=architecture,
        kind=kind,
        vram_mib=offer_mib + margin_mib + foreign_mib,
        vram_foreign_mib=foreign_mib,
        offer_mib=offer_mib,
        **more,
    )


def need(
    vram_mib: int, tokens: float = 50.0, *, runner: str = "cuda_v12", layers: int = 4, output_mib: int = 0
) -> Need:
    """A need whose weights are equal in all layers and whose compute buffer is nothing."""
    layered = vram_mib - CONTEXT_MIB - output_mib
    return Need(
        runner=runner,
        vram_mib=vram_mib,
        nanoseconds=round(1e9 / tokens),
        layer_units=tuple(layered * i for i in range(layers + 1)),
        units_per_mib=layers,
        output_mib=output_mib,
        compute_first_mib=0,
        compute_other_mib=0,
        context_mib=CONTEXT_MIB,
    )


def model(
    name: str,
    needs: int | dict[str, tuple[Need, ...]],
    *,
    tokens: float = 50.0,
    least: int = 1,
    most: int | None = None,
    priority: int = 50,
    **more: t.Any,
) -> Model:
    """A model; ``needs`` as a number of MiB is the need on GPUs of the kind "slow"."""
    return Model(
        name=name,
        source=more.pop("source", name),
        context=8192,
        parallel=1,
        kv_cache_type="f16",
        batch=512,
        replicas_min=least,
        replicas_max=max(least, 1) if most is None else most,
        priority=priority,
        weight=more.pop("weight", 1),
        needs={"slow": (need(needs, tokens),)} if isinstance(needs, int) else needs,
        **more,
    )


def problem(gpus: t.Sequence[Gpu], models: t.Sequence[Model], domains: dict[str, str] | None = None) -> Problem:
    names = sorted({item.node for item in gpus})
    return Problem(
        nodes=tuple(Node(name, (domains or {}).get(name, name)) for name in names),
        gpus=tuple(gpus),
        models=tuple(models),
        fleet_digest="f" * 64,
        catalog_digest="c" * 64,
    )


def running(
    model: str,
    place: Gpu,
    vram_mib: int,
    *,
    number: int = 1,
    port: int = 11500,
    layers: int = 4,
    runner: str = "cuda_v12",
    context: int = 8192,
    **more: t.Any,
) -> Replica:
    from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Share

    return Replica(
        id=f"{model}--{number}",
        model=model,
        node=place.node,
        runner=runner,
        gpus=(Share(place.id, place.index, layers, vram_mib),),
        port=port,
        context=context,
        parallel=1,
        kv_cache_type="f16",
        batch=512,
        speed=50_000,
        **more,
    )


def check(problem: Problem, plan: Plan, current: t.Sequence[Replica] = ()) -> None:
    """Assert that the plan is one the fleet can run."""
    assert check_plan(problem, plan, current) == []


CARDS = {  # MiB, GB/s, weight among the cards of a lab
    "1080ti": (11264, 484, 4),
    "p40": (24576, 346, 2),
    "2080": (8192, 448, 3),
    "3090": (24576, 936, 2),
    "a4000": (16384, 448, 2),
    "7900xtx": (24560, 960, 1),
}
SIZES = (1300, 2100, 2600, 4400, 5300, 5800, 7600, 8900, 9900, 13800, 19500)


def fleet(gpus: int, models: int, *, load: float = 0.9, seed: int = 1) -> Problem:
    """A synthetic lab: nodes of 1 to 4 equal cards, models whose minimums ask for ``load`` of the VRAM."""
    rng = random.Random(seed)
    cards: list[Gpu] = []
    while len(cards) < gpus:
        kind = rng.choices(list(CARDS), [card[2] for card in CARDS.values()])[0]
        node = f"node{len(cards):04d}"
        for index in range(min(rng.choice((1, 1, 2, 2, 4)), gpus - len(cards))):
            cards.append(gpu(node, f"GPU-{index}", CARDS[kind][0] - 1024, index=index, kind=kind))
    wanted = load * sum(card.offer_mib for card in cards)
    catalog = []
    left = wanted
    for number in range(models):
        size = rng.choice(SIZES)
        share = left / (models - number)
        least = max(1, min(round(share / size), 12))
        left -= least * size
        needs = {
            kind: (need(size + 800, 1e9 / ((size * 2**20 / (0.78 * gbs * 1e9)) * 1e9 + 1.1e6)),)
            for kind, (_, gbs, _) in CARDS.items()
        }
        catalog.append(
            model(
                f"model{number:03d}",
                needs,
                least=least,
                most=least + rng.choice((0, 1, 2, 4)),
                priority=rng.choice((100, 50, 10)),
                demand=rng.choice((20_000, 50_000, 100_000, 200_000)) * least,
            )
        )
    return problem(cards, catalog)


SPREAD_NODE = Constraints(spread="node")
SPREAD_DOMAIN = Constraints(spread="domain")
