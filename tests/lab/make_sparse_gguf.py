#!/usr/bin/env python3
# Copyright (c) 2026, aivailable.sdai contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make GGUF files with real hyper-parameters and real tensor shapes and types, but no data.

A file is header, metadata and tensor table, then truncate() to the full size: the data section is a hole, so a model of
4.6 GiB costs about 20 kB of disk. Tensor types follow llama.cpp's rules for Q4_K_M (use_more_bits and so on), so that
file sizes can be compared with the published ones.

usage: make_sparse_gguf.py OUTDIR [model ...]      (needs: pip install gguf)
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf_models import MODELS, Model

ALIGNMENT = 32
DELTA_NET_PERIOD = 4  # qwen35: every 4th layer attends, the others are recurrent


@dataclass(frozen=True)
class Tensor:
    """shape in ggml's order: row length first."""

    name: str
    shape: tuple[int, ...]
    type: Type

    @property
    def size(self) -> int:
        numbers, size = gguf.GGML_QUANT_SIZES[self.type]
        if self.shape[0] % numbers:
            raise ValueError(f"{self.name}: rows of {self.shape[0]} numbers cannot be {self.type.name}")
        return int(np.prod(self.shape)) // numbers * size


def more_bits(layer: int, layers: int) -> bool:
    """Layers that get a better quantisation in the K_M mixtures."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def fallback(kind: Type, row: int) -> Type:
    """llama.cpp's replacement when the row is no multiple of the block size."""
    if row % gguf.GGML_QUANT_SIZES[kind][0] == 0:
        return kind
    return {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}.get(kind, Type.F16)


def type_of(model: Model, name: str, shape: tuple[int, ...], layer: int) -> Type:
    """The type that llama.cpp's quantisation gives this tensor. layer: -1 outside of blocks."""
    if len(shape) == 1 or any(part in name for part in ("_norm", "gate_inp", "sinks")) or name.endswith("bias"):
        return Type.F32
    plain = {"Q8_0": Type.Q8_0, "F16": Type.F16}.get(model.quantization)
    return fallback(plain or _mixture_type(model, name, layer), shape[0])


def _mixture_type(model: Model, name: str, layer: int) -> Type:  # noqa: PLR0911 (a table of rules, first match)
    better = layer >= 0 and more_bits(layer, model.layers)
    if name == "output.weight" or (name == "token_embd.weight" and model.tied):
        return Type.Q6_K
    if "attn_v.weight" in name:
        if model.experts == 8:
            return Type.Q8_0
        if better:
            return Type.Q6_K
        return Type.Q5_K if model.seventy_b else Type.Q4_K
    if "ffn_down" in name:
        return Type.Q6_K if better else Type.Q4_K
    if "attn_qkv" in name or (model.experts == 8 and "attn_output" in name):
        return Type.Q5_K
    if model.experts == 8 and "attn_k.weight" in name:
        return Type.Q8_0
    return Type.Q4_K


class Builder:
    """Collects a model's tensor table."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.tensors: list[Tensor] = []
        self._layer = -1

    def add(self, name: str, *shape: int, kind: Type | None = None) -> None:
        full_name = name if self._layer < 0 else f"blk.{self._layer}.{name}"
        if kind is None:
            kind = type_of(self.model, full_name, shape, self._layer)
        self.tensors.append(Tensor(full_name, shape, kind))

    def build(self) -> list[Tensor]:
        model = self.model
        self.add("token_embd.weight", model.embedding, model.vocabulary)
        self.add("output_norm.weight", model.embedding)
        if not model.tied:
            self.add("output.weight", model.embedding, model.vocabulary)
        if model.rope_freqs:
            self.add("rope_freqs.weight", model.key_length // 2)
        for layer in range(model.layers):
            self._layer = layer
            self.add("attn_norm.weight", model.embedding)
            if model.arch == "deepseek2":
                self._latent_attention()
                self.add("ffn_norm.weight", model.embedding)
                self._feed_forward()
            elif model.arch == "qwen35":
                self._delta_net()
                self._feed_forward()
            else:
                self._attention()
                self._norms()
                self._feed_forward()
        return self.tensors

    def _attention(self) -> None:
        model = self.model
        query, key = model.heads * model.key_length, model.kv_heads * model.key_length
        if model.arch == "phi3":
            self.add("attn_qkv.weight", model.embedding, query + 2 * key)
        else:
            for name, width in (("q", query), ("k", key), ("v", key)):
                self.add(f"attn_{name}.weight", model.embedding, width)
                if model.qkv_bias:
                    self.add(f"attn_{name}.bias", width)
        self.add("attn_output.weight", query, model.embedding)
        if model.qk_norm:
            self.add("attn_q_norm.weight", model.key_length)
            self.add("attn_k_norm.weight", model.key_length)

    def _norms(self) -> None:
        model = self.model
        if model.arch == "gpt-oss":
            self.add("attn_output.bias", model.embedding)
            self.add("attn_sinks.weight", model.heads)
            self.add("post_attention_norm.weight", model.embedding)
        elif model.arch in ("gemma2", "gemma3"):
            self.add("post_attention_norm.weight", model.embedding)
            self.add("ffn_norm.weight", model.embedding)
            self.add("post_ffw_norm.weight", model.embedding)
        else:
            self.add("ffn_norm.weight", model.embedding)

    def _feed_forward(self) -> None:
        model, width = self.model, self.model.embedding
        if model.experts and self._layer >= model.extra.get("dense", 0):
            self._experts()
        elif model.arch == "phi3":
            self.add("ffn_up.weight", width, 2 * model.feed_forward)
            self.add("ffn_down.weight", model.feed_forward, width)
        else:
            self.add("ffn_gate.weight", width, model.feed_forward)
            self.add("ffn_up.weight", width, model.feed_forward)
            self.add("ffn_down.weight", model.feed_forward, width)

    def _experts(self) -> None:
        model, width, hidden = self.model, self.model.embedding, self.model.expert_feed_forward
        kind = Type.MXFP4 if model.arch == "gpt-oss" else None
        self.add("ffn_gate_inp.weight", width, model.experts)
        self.add("ffn_gate_exps.weight", width, hidden, model.experts, kind=kind)
        self.add("ffn_up_exps.weight", width, hidden, model.experts, kind=kind)
        self.add("ffn_down_exps.weight", hidden, width, model.experts, kind=kind)
        if model.experts_shared:
            self.add("ffn_gate_shexp.weight", width, hidden * model.experts_shared)
            self.add("ffn_up_shexp.weight", width, hidden * model.experts_shared)
            self.add("ffn_down_shexp.weight", hidden * model.experts_shared, width)
        if model.arch == "gpt-oss":
            self.add("ffn_gate_inp.bias", model.experts)
            for name, rows in (("gate", hidden), ("up", hidden), ("down", width)):
                self.add(f"ffn_{name}_exps.bias", rows, model.experts)

    def _latent_attention(self) -> None:
        """deepseek2: keys and values are projections of one latent vector."""
        model, extra = self.model, self.model.extra
        rank, rope, nope, value = extra["kv_lora"], extra["rope"], extra["nope"], extra["value"]
        self.add("attn_q.weight", model.embedding, model.heads * (nope + rope))
        self.add("attn_kv_a_mqa.weight", model.embedding, rank + rope)
        self.add("attn_kv_a_norm.weight", rank)
        if extra["mla"]:
            self.add("attn_k_b.weight", nope, rank, model.heads, kind=Type.Q5_0)
            self.add("attn_v_b.weight", rank, value, model.heads)
        else:
            self.add("attn_kv_b.weight", rank, model.heads * (nope + value))
        self.add("attn_output.weight", model.heads * value, model.embedding)

    def _delta_net(self) -> None:
        """qwen35: three of four layers are recurrent (gated delta net)."""
        model, extra, width = self.model, self.model.extra, self.model.embedding
        self.add("post_attention_norm.weight", width)
        if (self._layer + 1) % DELTA_NET_PERIOD == 0:
            query, key = model.heads * model.key_length, model.kv_heads * model.key_length
            self.add("attn_q.weight", width, query * 2)
            self.add("attn_k.weight", width, key)
            self.add("attn_v.weight", width, key)
            self.add("attn_output.weight", query, width)
            self.add("attn_q_norm.weight", model.key_length)
            self.add("attn_k_norm.weight", model.key_length)
            return
        key, value = extra["state"] * extra["groups"], extra["state"] * extra["time_steps"]
        self.add("attn_qkv.weight", width, 2 * key + value)
        self.add("attn_gate.weight", width, value)
        self.add("ssm_conv1d.weight", 4, 2 * key + value, kind=Type.F32)
        self.add("ssm_dt.bias", extra["time_steps"])
        self.add("ssm_a", extra["time_steps"])
        self.add("ssm_beta.weight", width, extra["time_steps"], kind=Type.F32)
        self.add("ssm_alpha.weight", width, extra["time_steps"], kind=Type.F32)
        self.add("ssm_norm.weight", extra["state"])
        self.add("ssm_out.weight", value, width)


@dataclass(frozen=True)
class Written:
    """What a file came to: bytes of header and of data, and numbers of parameters and tensors."""

    header: int
    data: int
    parameters: int
    tensors: int


def write(name: str, path: Path) -> Written:
    """Write the model of that name; an existing file is replaced."""
    model = MODELS[name]
    tensors = Builder(model).build()
    path.unlink(missing_ok=True)
    writer = gguf.GGUFWriter(path, model.arch)
    writer.add_name(name)
    writer.add_file_type(15)
    _add_metadata(writer, model)
    for tensor in tensors:
        shape = tensor.shape[::-1]
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), tensor.size, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = _aligned(path.stat().st_size)
    data = sum(_aligned(tensor.size) for tensor in tensors)
    with path.open("r+b") as file:
        file.truncate(header + data)
    return Written(header, data, sum(int(np.prod(tensor.shape)) for tensor in tensors), len(tensors))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _add_metadata(writer: gguf.GGUFWriter, model: Model) -> None:
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.embedding)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.feed_forward)
    writer.add_head_count(model.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(model.vocabulary)
    writer.add_string("tokenizer.ggml.model", "none")
    if model.arch == "deepseek2":
        _add_latent_attention(writer, model)
    else:
        writer.add_head_count_kv(model.kv_heads)
        writer.add_key_length(model.key_length)
        writer.add_value_length(model.key_length)
        writer.add_rope_dimension_count(64 if model.arch == "qwen35" else model.key_length)
    if model.arch == "qwen35":
        writer.add_array("qwen35.rope.dimension_sections", [11, 11, 10, 0])
        writer.add_ssm_conv_kernel(4)
        writer.add_ssm_inner_size(model.extra["state"] * model.extra["time_steps"])
        writer.add_ssm_state_size(model.extra["state"])
        writer.add_ssm_time_step_rank(model.extra["time_steps"])
        writer.add_ssm_group_count(model.extra["groups"])
    if model.experts:
        writer.add_expert_count(model.experts)
        writer.add_expert_used_count(model.experts_used)
        writer.add_expert_feed_forward_length(model.expert_feed_forward)
    if model.window:
        writer.add_sliding_window(model.window)
    if model.arch == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)


def _add_latent_attention(writer: gguf.GGUFWriter, model: Model) -> None:
    extra = model.extra
    writer.add_rope_dimension_count(extra["rope"])
    writer.add_kv_lora_rank(extra["kv_lora"])
    if extra["mla"]:
        writer.add_head_count_kv(1)
        writer.add_key_length(extra["kv_lora"] + extra["rope"])
        writer.add_value_length(extra["kv_lora"])
        writer.add_key_length_mla(extra["nope"] + extra["rope"])
        writer.add_value_length_mla(extra["value"])
    else:
        writer.add_head_count_kv(model.kv_heads)
        writer.add_key_length(extra["nope"] + extra["rope"])
        writer.add_value_length(extra["value"])
    writer.add_leading_dense_block_count(extra["dense"])
    writer.add_expert_shared_count(model.experts_shared)
    writer.add_expert_weights_scale(1.0)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:] or MODELS:
        path = directory / f"{name}.gguf"
        written = write(name, path)
        published = MODELS[name].published
        difference = f"{(written.header + written.data) / published - 1:+.3%} vs published " if published else ""
        print(
            f"{name:18s} params={written.parameters / 1e9:7.3f}B data={written.data / 2**20:10.2f} MiB "
            f"tensors={written.tensors} {difference}disk={path.stat().st_blocks * 512 // 1024} kB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
