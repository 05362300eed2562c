# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module is private to the collection: it may change
# without notice between releases.

"""How one replica lies on GPUs: whole on one, or split by layers over several of one node.

Rules and formula: "VRAM accounting" of the design. Sizes in MiB, rounded up; times in
nanoseconds of one token, rounded up.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from itertools import combinations, groupby

from ...module_utils._speed import milli_tokens_per_second, split_part
from .model import Share

if t.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .model import Gpu, Model, Need, Problem, Replica

MAX_SPLIT = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """One replica on GPUs; ``times[i]`` is the part of a token's time that is spent on ``gpus[i]``."""

    runner: str
    gpus: tuple[Gpu, ...]
    shares: tuple[Share, ...]
    times: tuple[int, ...]

    @property
    def speed(self) -> int:
        return milli_tokens_per_second(sum(self.times))

    @property
    def vram_mib(self) -> int:
        return sum(share.vram_mib for share in self.shares)

    @property
    def fits(self) -> bool:
        return all(share.vram_mib <= gpu.offer_mib for share, gpu in zip(self.shares, self.gpus, strict=True))


def single(model: Model, gpu: Gpu) -> Shape:
    """Lay the whole model on one eligible GPU, with its preferred runner."""
    need = model.needs[gpu.kind][0]
    share = Share(id=gpu.id, index=gpu.index, layers=need.layers, vram_mib=need.vram_mib)
    return Shape(need.runner, (gpu,), (share,), (need.nanoseconds,))


def split(model: Model, gpus: Sequence[Gpu]) -> Shape | None:
    """Split the model over eligible GPUs of one node, given in index order.

    None when they have no runner in common or a GPU would get no layer.
    """
    needs = _common_needs(model, gpus)
    if needs is None:
        return None
    layers = proportional(needs[0].layers, [gpu.offer_mib for gpu in gpus])
    if min(layers) == 0:
        return None
    parts = zip(gpus, layers, shares_mib(needs, layers), strict=True)
    shares = [Share(id=gpu.id, index=gpu.index, layers=count, vram_mib=mib) for gpu, count, mib in parts]
    times = [split_part(need.nanoseconds, count, need.layers) for need, count in zip(needs, layers, strict=True)]
    return Shape(needs[0].runner, tuple(gpus), tuple(shares), tuple(times))


def shares_mib(needs: Sequence[Need], layers: Sequence[int]) -> list[int]:
    """Return the VRAM on each GPU of a split; ``needs[i]`` is the model's on GPU i, which holds ``layers[i]``."""
    shares, start = [], 0
    for position, (need, count) in enumerate(zip(needs, layers, strict=True)):
        units = need.layer_units[start + count] - need.layer_units[start]
        mib = -(-units // need.units_per_mib) + need.context_mib
        mib += need.compute_first_mib if position == 0 else need.compute_other_mib
        if position == len(needs) - 1:
            mib += need.output_mib
        shares.append(mib)
        start += count
    return shares


def _common_needs(model: Model, gpus: Sequence[Gpu]) -> list[Need] | None:
    for preferred in model.needs[gpus[0].kind]:
        found = [next((n for n in model.needs[gpu.kind] if n.runner == preferred.runner), None) for gpu in gpus]
        needs = [need for need in found if need is not None and need.layers == preferred.layers]
        if len(needs) == len(gpus):
            return needs
    return None


def proportional(total: int, weights: Sequence[int]) -> list[int]:
    """Divide ``total`` in proportion to the weights: largest remainder, ties to the lower index."""
    scale = sum(weights)
    if scale == 0:
        return [0] * len(weights)
    parts = [total * weight // scale for weight in weights]
    order = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % scale), i))
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return parts


def whole(model: Model, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return those of the eligible GPUs that offer room for the whole model."""
    least = {gpu.kind: model.needs[gpu.kind][0].vram_mib for gpu in {gpu.kind: gpu for gpu in gpus}.values()}
    return [gpu for gpu in gpus if least[gpu.kind] <= gpu.offer_mib]


def fitting(model: Model, gpus: Sequence[Gpu]) -> list[Shape]:
    """Return all shapes that fit the offers of the eligible GPUs: whole ones, or splits where no whole one fits.

    ``gpus`` are in the order of ``rules.gpu_order``.
    """
    roomy = whole(model, gpus)
    if roomy:
        return [single(model, gpu) for gpu in roomy]
    return [shape for shape in splits(model, gpus) if shape.fits and shape.speed >= model.min_speed]


def places(problem: Problem, model: Model, shapes: Sequence[Shape]) -> int:
    """Return how many replicas of the model the empty fleet could hold, at most."""
    if model.constraints.spread == "node":
        return len({shape.gpus[0].node for shape in shapes})
    if model.constraints.spread == "domain":
        domains = {node.name: node.failure_domain for node in problem.nodes}
        return len({domains[shape.gpus[0].node] for shape in shapes})
    used = {gpu.key for shape in shapes for gpu in shape.gpus}
    return len(used) // min(len(shape.gpus) for shape in shapes)


def splits(model: Model, gpus: Sequence[Gpu]) -> Iterator[Shape]:
    """Yield the splits over 2 to 8 of the eligible GPUs of one node, whether they fit or not.

    On a node with more than 8 eligible GPUs only neighbours in index order are taken together: all
    subsets would be too many, and such nodes hold equal cards.
    """
    for _node, members in groupby((gpu for gpu in gpus if gpu.offer_mib > 0), key=lambda gpu: gpu.node):
        local = list(members)
        for size in range(2, min(MAX_SPLIT, len(local)) + 1):
            for group in _groups(local, size):
                shape = split(model, group)
                if shape is not None:
                    yield shape


def _groups(gpus: list[Gpu], size: int) -> Iterator[tuple[Gpu, ...]]:
    if len(gpus) <= MAX_SPLIT:
        yield from combinations(gpus, size)
    else:
        for start in range(len(gpus) - size + 1):
            yield tuple(gpus[start : start + size])


def as_it_runs(model: Model, replica: Replica, gpus: Sequence[Gpu]) -> Shape | None:
    """Return the shape of a running replica, its shares as they are; None when its runner no longer serves there."""
    total = sum(share.layers for share in replica.gpus)
    times = []
    for share, gpu in zip(replica.gpus, gpus, strict=True):
        need = next((n for n in model.needs.get(gpu.kind, ()) if n.runner == replica.runner), None)
        if need is None:
            return None
        times.append(split_part(need.nanoseconds, share.layers, max(1, total)))
    return Shape(replica.runner, tuple(gpus), replica.gpus, tuple(times))
