# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes fleets and catalogs to plan for, in the inventory's own shape; the same seed, the same fleet.

*Nodes* are drawn from a table of machines as labs own them, one to eight equal cards or two kinds mixed, until the
number of GPUs is reached; some five nodes share a failure domain. Names, VRAM and bandwidth of the cards are those of
the collection's table; a GPU's offer is its VRAM less the default margin.

*Models* are drawn from a table of sizes, 1 to 120 billion parameters, with an explicit footprint: weights within 10 %
of the table's, KV cache by a drawn context, compute buffer. Larger ones are rarer. A model that no node of the fleet
could hold with a fifth of its VRAM to spare is drawn again.

*Minimums* grow by one replica at a time of a model drawn with equal chance until they ask for ``load`` of all VRAM.
At no size may the models of that size or larger ask for more than ``load`` of the cards that can hold them; so the
load is what it says at every size, but what is asked may still not fit: how sizes meet cards is left to chance. A
quarter of the models are of priority 100, 45 % of 50, the rest of 10. One model in eight must spread over nodes or
failure domains, one in twelve wants a vendor, one in twelve a compute capability, one in eight a least speed.

*Demand* is scarce: it would take 1.2 times the fleet's time if each model ran on an average card it fits.
"""

from __future__ import annotations

import random
import typing as t
from dataclasses import dataclass, replace

import numpy as np
from ansible_collections.aivailable.sdai.plugins.module_utils._gpu_table import CARDS, Card
from ansible_collections.aivailable.sdai.plugins.plugin_utils._fleet import build_problem
from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Problem

MARGIN = 1024
CONTEXT = 500
SPARE = 0.8
DEMAND = 1.2
SPEED = {
    "cuda": {"efficiency": 0.78, "overhead_ms": 1.1},
    "rocm": {"efficiency": 0.8, "overhead_ms": 3.6},
    "vulkan": {"efficiency": 0.56, "overhead_ms": 0.3},
}

# Cards of a machine (in this order, as often as drawn), numbers of each to choose from, how often.
MACHINES: tuple[tuple[tuple[str, ...], tuple[int, ...], int], ...] = (
    (("GeForce GTX 1060 6GB",), (1, 1, 2), 4),
    (("GeForce GTX 1070",), (1, 2), 3),
    (("GeForce GTX 1080",), (1, 2, 4), 4),
    (("GeForce GTX 1080 Ti",), (1, 2, 4, 8), 8),
    (("Tesla P40",), (1, 2, 4), 6),
    (("Tesla P100-PCIE-16GB",), (2, 4), 4),
    (("Tesla M40 24GB",), (2, 4), 2),
    (("Tesla V100-PCIE-16GB",), (2, 4), 3),
    (("Tesla V100-SXM2-32GB",), (4, 8), 2),
    (("Tesla T4",), (1, 2, 4), 4),
    (("GeForce RTX 2060",), (1,), 3),
    (("GeForce RTX 2080 Ti",), (2, 4, 8), 6),
    (("GeForce RTX 3060",), (1, 2), 5),
    (("GeForce RTX 3090",), (1, 2, 4), 7),
    (("GeForce RTX 4070",), (1, 2), 2),
    (("GeForce RTX 4090",), (1, 2, 4), 5),
    (("A100-PCIE-40GB",), (2, 4), 2),
    (("A100-SXM4-80GB",), (4, 8), 1),
    (("L40S",), (2, 4), 1),
    (("Radeon RX 580",), (1, 2), 2),
    (("Radeon Instinct MI50",), (2, 4, 8), 3),
    (("Radeon RX 6800 XT",), (1, 2), 2),
    (("Radeon RX 7900 XTX",), (1, 2), 4),
    (("GeForce GTX 1080 Ti", "Tesla P40"), (1, 2), 3),
    (("GeForce RTX 3060", "GeForce RTX 3090"), (1, 2), 2),
)

# Name, layers, MiB of weights, MiB read for a token, MiB of KV per 1024 tokens, how often, weight of a token.
SIZES: tuple[tuple[str, int, int, int, int, int, int], ...] = (
    ("1b", 16, 1260, 1260, 32, 6, 1),
    ("3b", 28, 1930, 1930, 56, 8, 1),
    ("4b", 36, 2500, 2500, 72, 8, 1),
    ("7b", 28, 4470, 4470, 56, 10, 2),
    ("8b", 32, 4690, 4690, 128, 12, 2),
    ("12b", 48, 7730, 7730, 96, 7, 3),
    ("14b", 48, 8570, 8570, 192, 8, 3),
    ("20b-moe", 24, 12900, 2300, 48, 5, 3),
    ("24b", 40, 13670, 13670, 160, 5, 4),
    ("30b-moe", 48, 17700, 2100, 96, 5, 4),
    ("32b", 64, 18920, 18920, 256, 5, 4),
    ("70b", 80, 40540, 40540, 320, 3, 6),
    ("120b-moe", 36, 61000, 3500, 72, 1, 6),
)
CONTEXTS = (2048, 4096, 4096, 8192, 8192, 16384)

Inventory = dict[str, t.Any]


@dataclass(frozen=True)
class Spec:
    """A fleet and a catalog, as an inventory has them: ``fleet`` by host, ``models`` as ``sdai_models``."""

    fleet: Inventory
    models: list[Inventory]
    margin: int = MARGIN

    def problem(self, absent: t.Sequence[str] = ()) -> Problem:
        """As the planner gets it; ``absent`` nodes are away."""
        return build_problem(
            fleet=self.fleet,
            models=self.models,
            catalog={},
            absent_nodes=list(absent),
            vram_margin_mib=self.margin,
            vram_context_mib=CONTEXT,
            speed=SPEED,
        )

    def shuffled(self, seed: int) -> Spec:
        """The same in another order of hosts, cards and models."""
        draw = random.Random(seed)
        hosts = draw.sample(sorted(self.fleet), len(self.fleet))
        cards = {h: draw.sample(self.fleet[h]["gpus"], len(self.fleet[h]["gpus"])) for h in hosts}
        fleet = {host: {**self.fleet[host], "gpus": cards[host]} for host in hosts}
        return replace(self, fleet=fleet, models=draw.sample(self.models, len(self.models)))


def make(gpus: int, models: int, load: float, seed: int) -> Spec:
    """A fleet of so many GPUs and a catalog of so many models."""
    draw = random.Random(f"{gpus}/{models}/{load}/{seed}")
    fleet = _fleet(draw, gpus)
    catalog = [_model(draw, number, fleet) for number in range(models)]
    _minimums(draw, catalog, fleet, load)
    _demands(draw, catalog, fleet)
    return Spec(fleet, catalog)


# --- fleets ---------------------------------------------------------------------------------


def _fleet(draw: random.Random, gpus: int) -> Inventory:
    table = {card.name: card for card in CARDS}
    fleet: Inventory = {}
    left = gpus
    while left:
        names, numbers, _often = draw.choices(MACHINES, [often for *_rest, often in MACHINES])[0]
        # Small fleets are not one big machine: at most a quarter of the GPUs in one node.
        count = min(draw.choice(numbers), max(1, gpus // (4 * len(names))))
        cards = [table[name] for name in names for _card in range(count)][:left]
        host = f"node{len(fleet) + 1:04d}"
        domain = f"rack{len(fleet) // 5 + 1}"
        fleet[host] = {"gpus": [_gpu(host, i, card) for i, card in enumerate(cards)], "failure_domain": domain}
        left -= len(cards)
    return fleet


def _gpu(host: str, index: int, card: Card) -> Inventory:
    rocm = card.architecture in ("gfx908", "gfx90a", "gfx1030", "gfx1100")
    amd = ["rocm_v7_2", "vulkan"] if rocm else ["vulkan"]
    return {
        "id": f"GPU-{host}-{index}",
        "index": index,
        "vendor": card.vendor,
        "name": card.name,
        "architecture": card.architecture,
        "vram_mib": card.vram_mib,
        "vram_foreign_mib": 0,
        "bandwidth_gbs": card.bandwidth_gbs,
        "backends": ["cuda_v12", "vulkan"] if card.vendor == "nvidia" else amd,
        "usable": True,
        "reason": "",
        "remedy": "",
    }


def _offers(fleet: Inventory) -> list[int]:
    return sorted(gpu["vram_mib"] - MARGIN for host in fleet.values() for gpu in host["gpus"])


# --- catalogs -------------------------------------------------------------------------------


def _model(draw: random.Random, number: int, fleet: Inventory) -> Inventory:
    largest = max(sum(gpu["vram_mib"] - MARGIN for gpu in host["gpus"]) for host in fleet.values())
    while True:
        size, layers, weights, active, kv, _often, weight = draw.choices(SIZES, [row[5] for row in SIZES])[0]
        factor = draw.uniform(0.9, 1.1)
        context = draw.choice(CONTEXTS)
        parallel = draw.choice((1, 2, 4))
        footprint = {
            "layers": layers,
            "weights_mib": int(weights * factor),
            "kv_mib": kv * context * parallel // 1024,
            "compute_mib": draw.randint(120, 500),
            "active_mib": int(active * factor),
        }
        if need(footprint) <= SPARE * largest:
            break
    model: Inventory = {
        "name": f"m{number + 1:03d}-{size}:latest",
        "context": context,
        "parallel": parallel,
        "kv_cache_type": "f16",
        "replicas": {"min": 1, "max": 1},
        "priority": draw.choices((100, 50, 10), (25, 45, 30))[0],
        "weight": weight,
        "constraints": {"spread": draw.choices(("prefer", "node", "domain"), (21, 2, 1))[0]},
        "footprint": footprint,
    }
    if draw.random() < 1 / 12:
        model["constraints"]["vendors"] = ["nvidia"]
    elif draw.random() < 1 / 12:
        model["constraints"]["min_compute_capability"] = "6.1"
    if draw.random() < 1 / 8:
        model["min_tokens_per_second"] = 8 if active < 10_000 else 4
    return model


def need(footprint: Inventory) -> int:
    """MiB on one GPU."""
    return int(footprint["weights_mib"] + footprint["kv_mib"] + footprint["compute_mib"] + CONTEXT)


def _minimums(draw: random.Random, catalog: list[Inventory], fleet: Inventory, load: float) -> None:
    offers = _offers(fleet)
    room = sum(offers)
    needs = [need(model["footprint"]) for model in catalog]
    counts = [1] * len(catalog)
    tiers = sorted(set(needs))
    # What cannot lie on one card is split and can use any of them.
    able = np.array([sum(o for o in offers if o >= tier) or room for tier in tiers])
    asked = np.array([sum(size for size in needs if size >= tier) for tier in tiers])
    hosts = {"node": len(fleet), "domain": len({host["failure_domain"] for host in fleet.values()})}
    growing = list(range(len(catalog)))
    while growing and asked[0] < load * room:
        m = draw.choice(growing)
        larger = asked + np.where(np.array(tiers) <= needs[m], needs[m], 0)
        cards = max(2, sum(offer >= needs[m] for offer in offers) // 2)
        most = min(hosts.get(catalog[m]["constraints"]["spread"], room), cards)
        if counts[m] < most and (larger <= np.maximum(load * able, asked)).all():
            counts[m] += 1
            asked = larger
        else:
            growing.remove(m)
    for model, count in zip(catalog, counts, strict=True):
        model["replicas"] = {"min": count, "max": count + draw.randint(0, max(2, count))}


def _demands(draw: random.Random, catalog: list[Inventory], fleet: Inventory) -> None:
    gpus = [gpu for host in fleet.values() for gpu in host["gpus"]]
    seconds = []
    for model in catalog:
        size = need(model["footprint"])
        able = [gpu for gpu in gpus if gpu["vram_mib"] - MARGIN >= size] or gpus
        seconds.append(
            sum(model["footprint"]["active_mib"] * 2**20 / 0.78e9 / g["bandwidth_gbs"] for g in able) / len(able)
        )
    wishes = [draw.lognormvariate(0, 0.6) * model["replicas"]["min"] for model in catalog]
    # A wish is a share of the fleet's time.
    total = sum(wishes)
    for model, wish, second in zip(catalog, wishes, seconds, strict=True):
        model["demand"] = max(1, round(DEMAND * len(gpus) * wish / total / second))


# --- planted packings and events ------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A fleet that a known packing fills to the last MiB. ``packing`` gives the models of each GPU's id."""

    spec: Spec
    packing: dict[str, tuple[str, ...]]


def plant(gpus: int, seed: int, models: int = 10) -> Planted:
    """Cards as large as what was put on them: two to four different models each, and nothing to spare."""
    draw = random.Random(f"planted {gpus}/{models}/{seed}")
    catalog: list[Inventory] = []
    for number in range(models):
        footprint: Inventory = {
            "layers": 32,
            "weights_mib": draw.randint(1500, 9000),
            "kv_mib": draw.randint(100, 3000),
        }
        footprint |= {"compute_mib": draw.randint(100, 400), "active_mib": 1000}
        name = f"p{number + 1:02d}:latest"
        catalog.append({"name": name, "kv_cache_type": "f16", "footprint": footprint, "demand": 0.001})
    fleet: Inventory = {}
    packing: dict[str, tuple[str, ...]] = {}
    card = next(card for card in CARDS if card.name == "Tesla P40")
    while len(packing) < gpus:
        host = f"node{len(fleet) + 1:02d}"
        cards = []
        for index in range(min(2, gpus - len(packing))):
            chosen = draw.sample(catalog, draw.randint(2, 4))
            gpu = _gpu(host, index, card)
            gpu["vram_mib"] = sum(need(model["footprint"]) for model in chosen)
            packing[gpu["id"]] = tuple(sorted(model["name"] for model in chosen))
            cards.append(gpu)
        fleet[host] = {"gpus": cards}
    counts = {model["name"]: sum(model["name"] in names for names in packing.values()) for model in catalog}
    used = [model for model in catalog if counts[model["name"]]]
    for model in used:
        model["replicas"] = {"min": counts[model["name"]], "max": counts[model["name"]]}
    return Planted(Spec(fleet, used, margin=0), packing)


def events(spec: Spec, seed: int, count: int) -> t.Iterator[tuple[str, Spec, tuple[str, ...]]]:
    """What happens to a fleet, one after the other: (what, the catalog from then on, nodes that are away)."""
    draw = random.Random(f"events {seed}")
    away: list[str] = []
    removed: list[Inventory] = []
    for _event in range(count):
        kinds = ["grown"] + ["back"] * bool(away) + ["added"] * bool(removed)
        kinds += ["lost"] * (len(away) < len(spec.fleet) // 2) + ["removed"] * (len(spec.models) > 1)
        kind = draw.choice(kinds)
        models = list(spec.models)
        if kind == "lost":
            away.append(draw.choice([host for host in spec.fleet if host not in away]))
            what = f"{away[-1]} lost"
        elif kind == "back":
            what = f"{away[0]} back"
            away.pop(0)
        elif kind == "added":
            models.append(removed.pop(0))
            what = f"{models[-1]['name']} added"
        elif kind == "removed":
            removed.append(models.pop(draw.randrange(len(models))))
            what = f"{removed[-1]['name']} removed"
        else:
            place = draw.randrange(len(models))
            model = models[place]
            footprint = {**model["footprint"], "kv_mib": 2 * model["footprint"]["kv_mib"]}
            models[place] = {**model, "context": 2 * model["context"], "footprint": footprint}
            what = f"{models[place]['name']} resized"
        spec = replace(spec, models=models)
        yield what, spec, tuple(away)
