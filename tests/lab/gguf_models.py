# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hyper-parameters of the models whose files make_sparse_gguf.py makes."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Model:
    """Hyper-parameters. published: size in bytes of the published Q4_K_M file (0: unknown)."""

    arch: str
    vocabulary: int
    embedding: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    head_length: int = 0
    context: int = 131072
    quantization: str = "Q4_K_M"
    tied: bool = False
    rope_freqs: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    seventy_b: bool = False
    window: int = 0
    experts: int = 0
    experts_used: int = 0
    experts_shared: int = 0
    expert_feed_forward: int = 0
    extra: t.Mapping[str, int] = field(default_factory=dict)
    published: int = 0

    @property
    def key_length(self) -> int:
        return self.head_length or self.embedding // self.heads


def _llama(vocabulary: int, embedding: int, layers: int, **rest: t.Any) -> Model:
    return Model("llama", vocabulary, embedding, layers, kv_heads=8, **rest)


def _gemma(arch: str, embedding: int, layers: int, **rest: t.Any) -> Model:
    return Model(arch, 256000 if arch == "gemma2" else 262144, embedding, layers, tied=True, **rest)


def _deepseek_lite(mla: bool, published: int) -> Model:
    extra = {"mla": int(mla), "kv_lora": 512, "rope": 64, "nope": 128, "value": 128, "dense": 1}
    return Model(
        "deepseek2", 102400, 2048, 27, 16, 16, 10944, context=163840, extra=extra, published=published,
        experts=64, experts_used=6, experts_shared=2, expert_feed_forward=1408,
    )  # fmt: skip


# fmt: off
MODELS: dict[str, Model] = {
    "llama3.2-1b": _llama(128256, 2048, 16, heads=32, feed_forward=8192, tied=True, rope_freqs=True,
                          published=807694464),
    "llama3.2-3b": _llama(128256, 3072, 28, heads=24, feed_forward=8192, tied=True, rope_freqs=True,
                          published=2019377696),
    "llama3.1-8b": _llama(128256, 4096, 32, heads=32, feed_forward=14336, rope_freqs=True, published=4920734272),
    "llama3.3-70b": _llama(128256, 8192, 80, heads=64, feed_forward=28672, rope_freqs=True, seventy_b=True,
                           published=42520393152),
    "mistral-7b": _llama(32768, 4096, 32, heads=32, feed_forward=14336, context=32768, published=4372812000),
    "qwen2.5-7b": Model("qwen2", 152064, 3584, 28, 28, 4, 18944, qkv_bias=True, context=32768, published=4683073984),
    "qwen2.5-14b": Model("qwen2", 152064, 5120, 48, 40, 8, 13824, qkv_bias=True, context=32768, published=8988110464),
    "qwen3-8b": Model("qwen3", 151936, 4096, 36, 32, 8, 12288, qk_norm=True, context=40960, published=5027784512),
    "qwen3-30b-a3b": Model("qwen3moe", 151936, 2048, 48, 32, 4, 6144, 128, 40960, qk_norm=True, published=18556685824,
                           experts=128, experts_used=8, expert_feed_forward=768),
    "gemma2-9b": _gemma("gemma2", 3584, 42, heads=16, kv_heads=8, head_length=256, feed_forward=14336, window=4096,
                        context=32768, published=5761057888),
    "gemma3-4b": _gemma("gemma3", 2560, 34, heads=8, kv_heads=4, head_length=256, feed_forward=10240, window=1024,
                        qk_norm=True, published=2489757856),
    "gemma3-27b": _gemma("gemma3", 5376, 62, heads=32, kv_heads=16, head_length=128, feed_forward=21504, window=1024,
                         qk_norm=True, published=16546404736),
    "phi3-mini": Model("phi3", 32064, 3072, 32, 32, 32, 8192, published=2393231072),
    "phi4-14b": Model("phi3", 100352, 5120, 40, 40, 10, 17920, context=32768, published=9053114816),
    "dsv2-lite-mla": _deepseek_lite(mla=True, published=0),
    "dsv2-lite-old": _deepseek_lite(mla=False, published=10364416000),
    "gpt-oss-20b": Model("gpt-oss", 201088, 2880, 24, 64, 8, 2880, 64, quantization="Q8_0", qkv_bias=True, window=128,
                         experts=32, experts_used=4, expert_feed_forward=2880, published=12109566560),
    "qwen3.6-27b": Model("qwen35", 248320, 5120, 64, 24, 4, 17408, 256, 262144,
                         extra={"state": 128, "groups": 16, "time_steps": 48}),
}
# fmt: on
