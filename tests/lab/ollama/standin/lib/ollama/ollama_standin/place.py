# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which device gets how much of a model: Ollama's choices, with footprints from the measured table."""

from __future__ import annotations

import math
import typing as t

from . import gpus, needs
from .config import Config
from .gguf import Gguf
from .needs import MIB, Entry, Flags, NoRow
from .options import Launch

MARGIN_MIB = 1024  # what llama-server's own fit leaves free
_PROCESS_MIB = {"cuda": 455, "rocm": 455, "vulkan": 150}
_BUFFER = {"cuda": "CUDA", "rocm": "ROCm", "vulkan": "Vulkan"}
# tokens/s = 1 / (bytes read / (efficiency * bandwidth) + overhead), seconds
_SPEED = {"cuda": (0.78, 0.0011), "rocm": (0.815, 0.0036), "vulkan": (0.6, 0.003)}
_CPU_SPEED = 4.0
ALL = 999


class Wish(t.NamedTuple):
    """A model to be started, with its flags."""

    config: Config
    entry: Entry | None
    gguf: Gguf
    launch: Launch
    parallel: int


class Placement(t.NamedTuple):
    """What one engine gets. Sizes in bytes as /api/ps reports them; shares are (card, MiB) as the driver sees them."""

    api: str
    library: str
    shares: list[tuple[str, int]]
    size: int
    size_vram: int
    tokens_per_second: float
    refuse: str

    @property
    def buffer(self) -> str:
        return _BUFFER.get(self.api, "CPU")


def context_default(config: Config, cards: list[gpus.Card]) -> int:
    """Without a parameter: the environment's, else by the VRAM of all cards together."""
    if config.context_length > 0:
        return config.context_length
    total = sum(card.vram_mib for card in cards) / 1024
    return 4096 if total < 23 else 32768 if total < 47 else 262144


def flags_for(config: Config, launch: Launch, parallel: int, cards: list[gpus.Card]) -> Flags:
    flash = config.flash_attention is not False and all(card.flash_attention for card in cards)
    batch = launch.batch or needs.automatic_batch(launch.context, parallel)
    return Flags(launch.context, parallel, config.kv_cache_type, flash, batch)


def _refusal(flags: Flags) -> str:
    if flags.kv not in ("f16", "q8_0", "q4_0"):
        return f"error: Unsupported cache type: {flags.kv}"
    if flags.kv != "f16" and not flags.flash:
        return "llama_init_from_model: V cache quantization requires flash_attn"
    return ""


def _active(gguf: Gguf) -> float:
    """The part of the weights that each token reads: of experts only those used."""
    used, count = gguf.number("expert_used_count"), gguf.number("expert_count")
    if not count:
        return 1.0
    experts = sum(math.prod(shape) for name, _, shape in gguf.tensors if "_exps." in name)
    total = gguf.parameters
    return (total - experts * (1 - used / count)) / total


def speed(api: str, cards: list[gpus.Card], read_mib: float, offloaded: float) -> float:
    if not cards or api not in _SPEED or offloaded <= 0:
        return _CPU_SPEED
    efficiency, overhead = _SPEED[api]
    bandwidth = len(cards) / sum(1 / card.bandwidth_gbs for card in cards)
    seconds = read_mib * MIB / (efficiency * bandwidth * 1e9) + overhead
    return offloaded / seconds if offloaded >= 1 else 1 / (seconds + (1 - offloaded) / _CPU_SPEED)


def _layers(config: Config, count: int, cards: list[gpus.Card]) -> list[int]:
    """Real layers per card; the output counts as one more layer of the last card."""
    text = config.environ.get("LLAMA_ARG_TENSOR_SPLIT", "")
    shares = [float(x) for x in text.replace("/", ",").split(",") if x] if text and config.spread else []
    if len(shares) != len(cards):
        shares = [float(gpus.free_mib(card.key)) for card in cards]
    total, upto, before, found = sum(shares), 0.0, 0, []
    for share in shares:
        upto += share
        edge = round(upto / total * (count + 1))
        found.append(edge - before)
        before = edge
    found[-1] -= 1
    return found


def place(wish: Wish, cards: list[gpus.Card]) -> Placement:
    """Raises NoRow where nothing was measured. `cards` are those found at start that are still there."""
    config, entry, gguf, launch, parallel = wish
    if entry is None:
        raise NoRow(f"the lab has no measured footprint of {gguf.title}; use a model of tests/data/truth.csv")
    if len(cards) > 1 and not config.spread:
        cards = _fewest(wish, entry, cards)
    if launch.main_gpu >= 0 and cards:
        cards = [cards[min(launch.main_gpu, len(cards) - 1)]]
    flags = flags_for(config, launch, parallel, cards)
    refuse = _refusal(flags)
    if refuse:
        return Placement("cpu", "cpu", [], 0, 0, 1.0, refuse)
    weights, kv, compute = entry.whole(flags)
    parts = [(weights, kv, compute)]
    if len(cards) > 1:
        parts = entry.split(flags, _layers(config, entry.layers, cards))
    read = weights * _active(gguf) + kv / parallel / 2
    size = round(sum(sum(part) for part in parts) * MIB)
    if not cards:
        return Placement("cpu", "cpu", [], size, 0, speed("cpu", [], read, 0), "")
    share = min(
        _offloaded(config, entry, launch, (w + k, c, gpus.free_mib(card.key)))
        for card, (w, k, c) in zip(cards, parts, strict=True)
    )
    held = [(w + k) * share + c for w, k, c in parts]
    taken = [(card.key, math.ceil(mib) + _PROCESS_MIB[card.api]) for card, mib in zip(cards, held, strict=True)]
    api = cards[0].api
    vram = size if share >= 1 else round(sum(held) * MIB)
    return Placement(api, cards[0].library, taken, size, vram, speed(api, cards, read, share), "")


def _offloaded(config: Config, entry: Entry, launch: Launch, sizes: tuple[float, float, int]) -> float:
    """Share of the layers on the card: as asked, or as many as fit with the engine's own margin.

    sizes: weights and cache, compute buffer, free VRAM; MiB.
    """
    body, compute, free = sizes
    total = entry.layers + 1
    wanted = launch.num_gpu
    if wanted < 0:
        wanted = int(config.environ.get("LLAMA_ARG_N_GPU_LAYERS", "-1") or -1)
    if wanted < 0 and config.environ.get("LLAMA_ARG_FIT", "").lower() in ("off", "0", "false"):
        wanted = ALL
    if wanted >= 0:
        return min(1.0, wanted / total)
    room = free - MARGIN_MIB - compute
    if body <= room:
        return 1.0
    return max(0, math.floor(room / body * total)) / total


def _fewest(wish: Wish, entry: Entry, cards: list[gpus.Card]) -> list[gpus.Card]:
    """Without SCHED_SPREAD: the card with most free VRAM if the model fits 80 % of it, else all of them."""
    best = max(cards, key=lambda card: gpus.free_mib(card.key))
    total = sum(entry.whole(flags_for(wish.config, wish.launch, wish.parallel, [best])))
    return [best] if total <= 0.8 * gpus.free_mib(best.key) else cards
