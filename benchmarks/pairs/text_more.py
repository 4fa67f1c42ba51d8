"""
Encoders with decoders: T5, BART and Marian of transformers, and rewrites of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import attend, called, keys_of, mapped, rms, tokens


def both(ids: Tensor, goal: Tensor) -> Callable[[nn.Module], Any]:
    """Runs an encoder with a decoder of transformers."""
    return lambda net: net(input_ids=ids, decoder_input_ids=goal, use_cache=False).logits


# ------------------------------------------------------------------------------ T5


def buckets(queries: int, keys: int, *, both_ways: bool, count: int, furthest: int) -> Tensor:
    """The row of a table of biases for each distance: exact when near, logarithmic when far."""
    distance = torch.arange(keys)[None, :] - torch.arange(queries)[:, None]
    first = torch.zeros_like(distance)
    if both_ways:
        count //= 2
        first = (distance > 0) * count
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = count // 2
    steps = torch.log(distance.clamp(min=1) / exact) / math.log(furthest / exact) * (count - exact)
    far = (exact + steps.long()).clamp(max=count - 1)
    return first + torch.where(distance < exact, distance, far)


class Dense(nn.Module):
    """A kernel that lies (in, out), as in JAX."""

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(size, features))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel


def plain_dense(size: int, features: int) -> nn.Module:
    """A linear layer without a bias."""
    return nn.Linear(size, features, bias=False)


class T5Norm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.scale)


Layer = Callable[[int, int], nn.Module]


class T5Attention(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.query, self.key, self.value = layer(40, 32), layer(40, 32), layer(40, 32)
        self.out = layer(32, 40)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor | None, *, causal: bool = False) -> Tensor:
        q, k, v = self.query(x), self.key(memory), self.value(memory)
        return self.out(attend(q, k, v, 4, scale=1.0, bias=bias, causal=causal))


class T5Mlp(nn.Module):
    def __init__(self, layer: Layer, *, gated: bool) -> None:
        super().__init__()
        self.wi_0 = layer(40, 72)
        self.wi_1 = layer(40, 72) if gated else None
        self.wo = layer(72, 40)

    def forward(self, x: Tensor) -> Tensor:
        if self.wi_1 is None:
            return self.wo(self.wi_0(x).relu())
        return self.wo(functional.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class T5Side(nn.Module):
    """An encoder, or a decoder when it looks at a memory, too."""

    def __init__(self, layer: Layer, *, gated: bool, crosses: bool, depth: int) -> None:
        super().__init__()
        self.crosses, self.depth = crosses, depth
        self.relpos_bias = nn.Parameter(torch.zeros(32, 4))
        for at in range(depth):
            parts = {"pre_attention_layer_norm": T5Norm(40), "attention": T5Attention(layer)}
            if crosses:
                parts |= {
                    "pre_cross_attention_layer_norm": T5Norm(40),
                    "encoder_decoder_attention": T5Attention(layer),
                }
            parts |= {"mlp": T5Mlp(layer, gated=gated), "pre_mlp_layer_norm": T5Norm(40)}
            setattr(self, f"layers_{at}", nn.ModuleDict(parts))
        self.final_norm = T5Norm(40)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        rows = buckets(x.shape[1], x.shape[1], both_ways=not self.crosses, count=32, furthest=128)
        bias = self.relpos_bias[rows].permute(2, 0, 1)
        for at in range(self.depth):
            layer = getattr(self, f"layers_{at}")
            y = layer["pre_attention_layer_norm"](x)
            x = x + layer["attention"](y, y, bias, causal=self.crosses)
            if self.crosses:
                y = layer["pre_cross_attention_layer_norm"](x)
                x = x + layer["encoder_decoder_attention"](y, memory, None)
            x = x + layer["mlp"](layer["pre_mlp_layer_norm"](x))
        return self.final_norm(x)


class T5X(nn.Module):
    def __init__(self, layer: Layer, *, gated: bool) -> None:
        super().__init__()
        self.decoder = T5Side(layer, gated=gated, crosses=True, depth=2)
        self.encoder = T5Side(layer, gated=gated, crosses=False, depth=3)
        self.token_embedder = nn.Embedding(101, 40)
        self.logits_dense = layer(40, 101) if gated else None

    def forward(self, ids: Tensor, goal: Tensor) -> Tensor:
        memory = self.encoder(self.token_embedder(ids))
        x = self.decoder(self.token_embedder(goal), memory)
        if self.logits_dense is None:
            return (x * 40**-0.5) @ self.token_embedder.weight.T
        return self.logits_dense(x)


def _t5(**settings: Any) -> T5ForConditionalGeneration:
    sizes: dict[str, Any] = {
        "vocab_size": 101, "d_model": 40, "d_kv": 8, "d_ff": 72, "num_layers": 3, "num_decoder_layers": 2,
        "num_heads": 4,
    }  # fmt: skip
    return T5ForConditionalGeneration(T5Config(**sizes | settings))


def _t5_rules(after: str = "") -> dict[str, str]:
    rules = {"token_embedder": "shared"}
    for side, last in (("encoder", 1), ("decoder", 2)):
        at, own = f"{side}.layers_*.", f"{side}.block.*.layer."
        rules |= {
            f"{side}.relpos_bias": f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            f"{side}.final_norm": f"{side}.final_layer_norm",
            at + "pre_attention_layer_norm": own + "0.layer_norm",
            at + "pre_cross_attention_layer_norm": own + "1.layer_norm",
            at + "pre_mlp_layer_norm": f"{own}{last}.layer_norm",
            at + "mlp.wo": f"{own}{last}.DenseReluDense.wo{after}",
        }
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
            rules[f"{at}attention.{ours}"] = f"{own}0.SelfAttention.{theirs}{after}"
            rules[f"{at}encoder_decoder_attention.{ours}"] = f"{own}1.EncDecAttention.{theirs}{after}"
    return rules


@pair("t5-transformers-plain", family="t5")
def _t5_plain() -> Pair:
    target = T5X(plain_dense, gated=False)
    rules = _t5_rules()
    for side, last in (("encoder", 1), ("decoder", 2)):
        rules[f"{side}.layers_*.mlp.wi_0"] = f"{side}.block.*.layer.{last}.DenseReluDense.wi"
    truth = mapped(target, rules, leaves={"scale": "weight"})
    ids, goal = tokens(2, 9, 101), tokens(2, 6, 101, seed=1)
    return Pair(_t5(), target, truth, both(ids, goal), called(ids, goal))


@pair("t5-transformers-jax", family="t5", transforms=True)
def _t5_jax() -> Pair:
    target = T5X(Dense, gated=True)
    rules = _t5_rules(" : transpose") | {"logits_dense": "lm_head : transpose"}
    for side, last in (("encoder", 1), ("decoder", 2)):
        for each in ("wi_0", "wi_1"):
            rules[f"{side}.layers_*.mlp.{each}"] = (
                f"{side}.block.*.layer.{last}.DenseReluDense.{each} : transpose"
            )
    truth = mapped(target, rules, leaves={"scale": "weight", "kernel": "weight"})
    ids, goal = tokens(2, 9, 101), tokens(2, 6, 101, seed=1)
    source = _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    return Pair(source, target, truth, both(ids, goal), called(ids, goal))


# --------------------------------------------------------------------- BART: torch's own

_BART: dict[str, Any] = {
    "vocab_size": 101, "d_model": 48, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 88, "decoder_ffn_dim": 72, "max_position_embeddings": 40,
}  # fmt: skip


class TorchSeq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        settings: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True}
        encoder_layer = nn.TransformerEncoderLayer(48, 4, 88, **settings)
        decoder_layer = nn.TransformerDecoderLayer(48, 4, 72, **settings)
        self.embedding = nn.Embedding(101, 48)
        self.src_pos, self.tgt_pos = nn.Embedding(40, 48), nn.Embedding(40, 48)
        self.src_norm, self.tgt_norm = nn.LayerNorm(48), nn.LayerNorm(48)
        self.encoder = nn.TransformerEncoder(encoder_layer, 3, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder_layer, 2)
        self.fc_out = nn.Linear(48, 101)
        self.fc_out.weight = self.embedding.weight

    def forward(self, ids: Tensor, goal: Tensor) -> Tensor:
        x = self.src_norm(self.embedding(ids) + self.src_pos.weight[: ids.shape[1]])
        y = self.tgt_norm(self.embedding(goal) + self.tgt_pos.weight[: goal.shape[1]])
        mask = nn.Transformer.generate_square_subsequent_mask(goal.shape[1])
        return self.fc_out(self.decoder(y, self.encoder(x), tgt_mask=mask))


@pair("bart-transformers-torch", family="bart", transforms=True)
def _bart() -> Pair:
    target = TorchSeq2Seq()
    rules = {
        "embedding": "model.shared",
        "src_pos": "model.encoder.embed_positions : take(0, 2, 42, 1)",
        "tgt_pos": "model.decoder.embed_positions : take(0, 2, 42, 1)",
        "src_norm": "model.encoder.layernorm_embedding",
        "tgt_norm": "model.decoder.layernorm_embedding",
        "fc_out.weight": "lm_head.weight",
        "fc_out.bias": "final_logits_bias : reshape(101)",
    }
    for side, last in (("encoder", 2), ("decoder", 3)):
        at, own = f"{side}.layers.*.", f"model.{side}.layers.*."
        rules |= {
            at + "linear1": own + "fc1", at + "linear2": own + "fc2",
            f"{at}norm1": own + "self_attn_layer_norm", f"{at}norm2": own + "encoder_attn_layer_norm",
            f"{at}norm{last}": own + "final_layer_norm",
        }  # fmt: skip
        for ours, theirs in (("self_attn", "self_attn"), ("multihead_attn", "encoder_attn")):
            rules[f"{at}{ours}.out_proj"] = f"{own}{theirs}.out_proj"
            for leaf in ("weight", "bias"):
                parts = (f"{own}{theirs}.{each}_proj.{leaf}" for each in "qkv")
                rules[f"{at}{ours}.in_proj_{leaf}"] = " + ".join(parts) + " > cat(0, 1)"
    ids, goal = tokens(2, 9, 101), tokens(2, 6, 101, seed=1)
    source = BartForConditionalGeneration(BartConfig(**_BART))
    return Pair(source, target, mapped(target, rules), both(ids, goal), called(ids, goal))


# ---------------------------------------------------------- Marian: the annotated style


class MultiHeadedAttention(nn.Module):
    """Four linear layers in a list: queries, keys, values, out."""

    def __init__(self, h: int, d_model: int) -> None:
        super().__init__()
        self.h = h
        self.linears = nn.ModuleList([nn.Linear(d_model, d_model) for _ in range(4)])

    def forward(self, x: Tensor, memory: Tensor, *, causal: bool = False) -> Tensor:
        inputs = (x, memory, memory)
        q, k, v = (layer(each) for layer, each in zip(self.linears, inputs))
        return self.linears[3](attend(q, k, v, self.h, causal=causal))


class PositionwiseFeedForward(nn.Module):
    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(functional.silu(self.w_1(x)))


class AnnotatedNorm(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.a_2, self.b_2)


class SublayerConnection(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = AnnotatedNorm(size)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return self.norm(x + sublayer(x))


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = MultiHeadedAttention(4, 48)
        self.feed_forward = PositionwiseFeedForward(48, 88)
        self.sublayer = nn.ModuleList([SublayerConnection(48) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x))
        return self.sublayer[1](x, self.feed_forward)


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = MultiHeadedAttention(4, 48)
        self.src_attn = MultiHeadedAttention(4, 48)
        self.feed_forward = PositionwiseFeedForward(48, 72)
        self.sublayer = nn.ModuleList([SublayerConnection(48) for _ in range(3)])

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x, causal=True))
        x = self.sublayer[1](x, lambda x: self.src_attn(x, memory))
        return self.sublayer[2](x, self.feed_forward)


class Embeddings(nn.Module):
    def __init__(self, d_model: int, vocab: int) -> None:
        super().__init__()
        self.lut = nn.Embedding(vocab, d_model)
        self.d_model = d_model

    def forward(self, ids: Tensor) -> Tensor:
        return self.lut(ids) * math.sqrt(self.d_model)


class PositionalEncoding(nn.Module):
    pe: Tensor

    def __init__(self, d_model: int, max_len: int) -> None:
        super().__init__()
        self.register_buffer("pe", torch.zeros(1, max_len, d_model))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe[:, : x.shape[1]]


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([EncoderLayer() for _ in range(3)])})
        self.decoder = nn.ModuleDict({"layers": nn.ModuleList([DecoderLayer() for _ in range(2)])})
        self.src_embed = nn.Sequential(Embeddings(48, 101), PositionalEncoding(48, 40))
        self.tgt_embed = nn.Sequential(Embeddings(48, 101), PositionalEncoding(48, 40))
        self.generator = nn.ModuleDict({"proj": nn.Linear(48, 101)})
        first: Any = self.src_embed[0]
        second: Any = self.tgt_embed[0]
        last: Any = self.generator["proj"]
        last.weight = second.lut.weight = first.lut.weight

    def forward(self, ids: Tensor, goal: Tensor) -> Tensor:
        layers: Any = self.encoder["layers"]
        memory = self.src_embed(ids)
        for layer in layers:
            memory = layer(memory)
        layers, x = self.decoder["layers"], self.tgt_embed(goal)
        for layer in layers:
            x = layer(x, memory)
        return self.generator["proj"](x)


@pair("marian-transformers-annotated", family="marian", transforms=True)
def _marian() -> Pair:
    target = EncoderDecoder()
    rules = {
        "src_embed.0.lut": "model.encoder.embed_tokens",
        "src_embed.1.pe": "model.encoder.embed_positions.weight : reshape(1, 40, 48)",
        "tgt_embed.0.lut": "model.decoder.embed_tokens",
        "tgt_embed.1.pe": "model.decoder.embed_positions.weight : reshape(1, 40, 48)",
        "generator.proj.weight": "lm_head.weight",
        "generator.proj.bias": "final_logits_bias : reshape(101)",
    }
    for side, last in (("encoder", 1), ("decoder", 2)):
        at, own = f"{side}.layers.*.", f"model.{side}.layers.*."
        rules |= {
            at + "feed_forward.w_1": own + "fc1", at + "feed_forward.w_2": own + "fc2",
            f"{at}sublayer.0.norm": own + "self_attn_layer_norm",
            f"{at}sublayer.1.norm": own + "encoder_attn_layer_norm",
            f"{at}sublayer.{last}.norm": own + "final_layer_norm",
        }  # fmt: skip
        for index, each in enumerate(("q", "k", "v", "out")):
            rules[f"{at}self_attn.linears.{index}"] = f"{own}self_attn.{each}_proj"
            rules[f"{at}src_attn.linears.{index}"] = f"{own}encoder_attn.{each}_proj"
    truth = mapped(target, rules, leaves={"a_2": "weight", "b_2": "bias"})
    ids, goal = tokens(2, 9, 101), tokens(2, 6, 101, seed=1)
    settings = {"pad_token_id": 0, "decoder_start_token_id": 1, "eos_token_id": 2, "scale_embedding": True}
    source = MarianMTModel(MarianConfig(**_BART | settings, activation_function="swish"))
    return Pair(
        source, target, truth, both(ids, goal), called(ids, goal),
        free=keys_of(truth, "linears.1.bias"),
    )  # fmt: skip
