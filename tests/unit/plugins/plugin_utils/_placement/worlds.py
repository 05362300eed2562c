# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small fleets of every sort: three kinds of GPU with three runners, splits, every constraint."""

from __future__ import annotations

import random
import typing as t

from ansible_collections.aivailable.sdai.plugins.plugin_utils._placement.model import Constraints, Need, Problem
from ansible_collections.aivailable.sdai.tests.unit.plugins.plugin_utils._placement.builders import (
    gpu,
    model,
    need,
    problem,
)
from hypothesis import strategies as st

DOMAINS = {"n0": "left", "n1": "left", "n2": "right"}
KINDS = {"slow": ("nvidia", "sm_61"), "fast": ("nvidia", "sm_86"), "red": ("amd", "gfx1100")}


T = t.TypeVar("T")


class Pick(t.Protocol):
    """Choose one of several."""

    def __call__(self, options: t.Sequence[T], /) -> T: ...


RULES: tuple[dict[str, t.Any], ...] = (
    {"exclude_nodes": ("n0",)},
    {"nodes": ("n0", "n1")},
    {"vendors": ("nvidia",)},
    {"min_compute_capability": (7, 0)},
)


def world(pick: Pick, gpus: t.Sequence[int], models: t.Sequence[int]) -> Problem:
    """Return a fleet of so many GPUs and models: of three kinds with three runners, with every constraint there is."""
    cards = []
    for i in range(pick(gpus)):
        kind = pick(sorted(KINDS))
        vendor, architecture = KINDS[kind]
        cards.append(
            gpu(
                f"n{pick((0, 0, 1, 1, 2))}",
                f"g{i}",
                pick((0, 4000, 6000, 8000, 12_000, 12_000, 16_000)),
                index=i,
                kind=kind,
                vendor=vendor,
                architecture=architecture,
                margin_mib=pick((0, 1000)),
                usable=pick((True, True, True, True, False)),
            )
        )
    names = [f"{card.node}/{card.id}" for card in cards]
    rules = [{}] * 5 + [*RULES, {"gpus": tuple(names[::2])}, {"exclude_gpus": tuple(names[:1])}]
    catalog = []
    for name in "abcde"[: pick(models)]:
        mib = pick((1700, 1700, 2900, 4000, 5300, 7000, 9500, 17_000))
        tokens = pick(range(10, 91))
        least = pick((1, 2, 1, 2, 0, 3))
        output = pick((0, 0, 400))

        def under(runner: str, speed: float, mib: int = mib, output: int = output) -> Need:
            return need(mib, speed, runner=runner, output_mib=output)

        vulkan = under("vulkan", tokens / 2)
        catalog.append(
            model(
                name,
                {
                    "slow": (under("cuda_v12", tokens),),
                    "fast": (under("cuda_v12", 2 * tokens), vulkan),
                    "red": (under("rocm_v7_2", 1.5 * tokens), vulkan),
                },
                least=least,
                most=max(1, least + pick((0, 1, 2))),
                priority=pick((10, 90)),
                weight=pick((1, 2, 3)),
                demand=pick((None, 1000 * pick(range(5, 251)))),
                min_speed=pick((0, 0, 0, 50_000)),
                constraints=Constraints(
                    spread=t.cast("t.Any", pick(("prefer", "prefer", "node", "domain", "none"))), **pick(rules)
                ),
            )
        )
    return problem(cards, catalog, DOMAINS)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to 4 GPUs and 3 models: few enough to try every plan, and to be made smaller where one fails."""
    return world(lambda options: draw(st.sampled_from(options)), range(1, 5), range(1, 4))


def larger_problems() -> st.SearchStrategy[Problem]:
    """Up to 6 GPUs and 5 models, and rarely few."""
    seeds = st.integers(0, 10**9)
    return seeds.map(lambda seed: world(random.Random(seed).choice, (4, 5, 6), (3, 4, 5)))
