"""
Held out: further language models, and one that hears, with rewrites in plain torch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Data2VecAudioConfig,
    Data2VecAudioForCTC,
    Olmo2Config,
    Olmo2ForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import angles, attend, called, keys_of, logits, mapped, rms, tokens

_LLAMA: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 80, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip


class Scale(nn.Module):
    """A root-mean-square norm, or a mean-free norm without a bias."""

    def __init__(self, dim: int, *, centred: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        if self.centred:
            return functional.layer_norm(x, x.shape[-1:], self.scale)
        return rms(x, self.scale, 1e-5)


# --------------------------------------- Cohere: one norm, two branches, one matrix of words


class TwinBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Scale(48, centred=True)
        self.qkv = nn.Linear(48, 96, bias=False)
        self.attn_out = nn.Linear(48, 48, bias=False)
        self.ff_in = nn.Linear(48, 160, bias=False)
        self.ff_out = nn.Linear(80, 48, bias=False)

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
        y = self.norm(x)
        q, k, v = self.qkv(y).split([48, 24, 24], -1)
        mixed = attend(q, k, v, 4, 2, causal=True, cos_sin=cos_sin, interleaved=True)
        gate, value = self.ff_in(y).chunk(2, -1)
        return x + self.attn_out(mixed) + self.ff_out(functional.silu(gate) * value)


class TwinDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(97, 48)
        self.stack = nn.ModuleList([TwinBlock() for _ in range(3)])
        self.last_norm = Scale(48, centred=True)

    def forward(self, ids: Tensor) -> Tensor:
        x, cos_sin = self.words(ids), angles(ids.shape[1], 12, 500000.0)
        for block in self.stack:
            x = block(x, cos_sin)
        return self.last_norm(x) @ self.words.weight.T * 0.0625


@pair("cohere-transformers-fused", family="cohere", transforms=True)
def _cohere() -> Pair:
    source = CohereForCausalLM(CohereConfig(num_key_value_heads=2, logit_scale=0.0625, **_LLAMA))
    target = TwinDecoder()
    own, at = "model.layers.*.", "stack.*."
    attention = own + "self_attn."
    rules = {
        "words": "model.embed_tokens",
        "last_norm": "model.norm",
        at + "norm": own + "input_layernorm",
        at + "qkv": f"{attention}q_proj + {attention}k_proj + {attention}v_proj > cat(0, 1)",
        at + "attn_out": attention + "o_proj",
        at + "ff_in": f"{own}mlp.gate_proj + {own}mlp.up_proj > cat(0, 1)",
        at + "ff_out": own + "mlp.down_proj",
    }
    ids = tokens(2, 9, 97)
    return Pair(source, target, mapped(target, rules, leaves={"scale": "weight"}), logits(ids), called(ids))


# --------------------------------------- OLMo 2: norms of queries and keys, norms afterwards


class AfterNormBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_norm, self.k_norm = Scale(48), Scale(48)
        self.attn_norm, self.ff_norm = Scale(48), Scale(48)
        self.att_q, self.att_k, self.att_v, self.att_out = (nn.Linear(48, 48, bias=False) for _ in range(4))
        self.ff_gate, self.ff_up = (nn.Linear(48, 80, bias=False) for _ in range(2))
        self.ff_down = nn.Linear(80, 48, bias=False)

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
        q, k = self.q_norm(self.att_q(x)), self.k_norm(self.att_k(x))
        mixed = attend(q, k, self.att_v(x), 4, causal=True, cos_sin=cos_sin)
        x = x + self.attn_norm(self.att_out(mixed))
        return x + self.ff_norm(self.ff_down(functional.silu(self.ff_gate(x)) * self.ff_up(x)))


class AfterNormDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(97, 48)
        self.transformer_blocks = nn.ModuleList([AfterNormBlock() for _ in range(3)])
        self.final_norm = Scale(48)
        self.out_head = nn.Linear(48, 97, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x, cos_sin = self.emb(ids), angles(ids.shape[1], 12, 500000.0)
        for block in self.transformer_blocks:
            x = block(x, cos_sin)
        return self.out_head(self.final_norm(x))


@pair("olmo2-transformers-plain", family="olmo2")
def _olmo2() -> Pair:
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    source = Olmo2ForCausalLM(Olmo2Config(rms_norm_eps=1e-5, rope_parameters=rope, **_LLAMA))
    target = AfterNormDecoder()
    own, at = "model.layers.*.", "transformer_blocks.*."
    rules = {
        "emb": "model.embed_tokens",
        "final_norm": "model.norm",
        "out_head": "lm_head",
        at + "q_norm": own + "self_attn.q_norm",
        at + "k_norm": own + "self_attn.k_norm",
        at + "attn_norm": own + "post_attention_layernorm",
        at + "ff_norm": own + "post_feedforward_layernorm",
        at + "att_q": own + "self_attn.q_proj",
        at + "att_k": own + "self_attn.k_proj",
        at + "att_v": own + "self_attn.v_proj",
        at + "att_out": own + "self_attn.o_proj",
        at + "ff_gate": own + "mlp.gate_proj",
        at + "ff_up": own + "mlp.up_proj",
        at + "ff_down": own + "mlp.down_proj",
    }
    ids = tokens(2, 9, 97)
    return Pair(source, target, mapped(target, rules, leaves={"scale": "weight"}), logits(ids), called(ids))


# --------------------------------------- Pegasus: norms first, keys and values of the source as one


class SelfAttention(nn.Module):
    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.to_qkv = nn.Linear(48, 144)
        self.to_out = nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).chunk(3, -1)
        return self.to_out(attend(q, k, v, 4, causal=self.causal))


class SourceAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(48, 48)
        self.to_kv = nn.Linear(48, 96)
        self.to_out = nn.Linear(48, 48)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        k, v = self.to_kv(memory).chunk(2, -1)
        return self.to_out(attend(self.to_q(x), k, v, 4))


class SummaryLayer(nn.Module):
    def __init__(self, *, decodes: bool) -> None:
        super().__init__()
        self.decodes = decodes
        self.ln_self = nn.LayerNorm(48)
        self.self_attn = SelfAttention(causal=decodes)
        if decodes:
            self.ln_cross = nn.LayerNorm(48)
            self.cross_attn = SourceAttention()
        self.ln_ffn = nn.LayerNorm(48)
        self.ffn = nn.Sequential(nn.Linear(48, 80), nn.ReLU(), nn.Linear(80, 48))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.ln_self(x))
        if self.decodes and memory is not None:
            x = x + self.cross_attn(self.ln_cross(x), memory)
        return x + self.ffn(self.ln_ffn(x))


def _waves(length: int) -> Tensor:
    places = torch.arange(length)[:, None] / 10000 ** (2 * torch.arange(24) / 48)
    return torch.cat([places.sin(), places.cos()], 1)


class Summariser(nn.Module):
    """Its positions are computed: no table of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(97, 48)
        self.enc = nn.ModuleList([SummaryLayer(decodes=False) for _ in range(2)])
        self.enc_ln = nn.LayerNorm(48)
        self.dec = nn.ModuleList([SummaryLayer(decodes=True) for _ in range(3)])
        self.dec_ln = nn.LayerNorm(48)
        self.logit_bias = nn.Parameter(torch.zeros(1, 97))

    def forward(self, ids: Tensor, said: Tensor) -> Tensor:
        x, y = self.tokens(ids) * math.sqrt(48), self.tokens(said) * math.sqrt(48)
        x, y = x + _waves(ids.shape[1]), y + _waves(said.shape[1])
        for layer in self.enc:
            x = layer(x)
        memory = self.enc_ln(x)
        for layer in self.dec:
            y = layer(y, memory)
        return self.dec_ln(y) @ self.tokens.weight.T + self.logit_bias


@pair("pegasus-transformers-fused", family="pegasus", transforms=True)
def _pegasus() -> Pair:
    config = PegasusConfig(
        vocab_size=97, d_model=48, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=80, decoder_ffn_dim=80, max_position_embeddings=40,
        scale_embedding=True, activation_function="relu",
    )  # fmt: skip
    source, target = PegasusForConditionalGeneration(config), Summariser()
    rules = {
        "tokens": "model.shared", "enc_ln": "model.encoder.layer_norm", "dec_ln": "model.decoder.layer_norm",
        "logit_bias": "final_logits_bias",
    }  # fmt: skip
    for at, own in (("enc.*.", "model.encoder.layers.*."), ("dec.*.", "model.decoder.layers.*.")):
        rules |= {
            at + "ln_self": own + "self_attn_layer_norm", at + "ln_ffn": own + "final_layer_norm",
            at + "ln_cross": own + "encoder_attn_layer_norm", at + "ffn.0": own + "fc1",
            at + "ffn.2": own + "fc2", at + "self_attn.to_out": own + "self_attn.out_proj",
            at + "cross_attn.to_out": own + "encoder_attn.out_proj",
            at + "cross_attn.to_q": own + "encoder_attn.q_proj",
        }  # fmt: skip
        for leaf in ("weight", "bias"):
            parts = [f"{own}self_attn.{each}_proj.{leaf}" for each in "qkv"]
            rules[f"{at}self_attn.to_qkv.{leaf}"] = " + ".join(parts) + " > cat(0, 1)"
            parts = [f"{own}encoder_attn.{each}_proj.{leaf}" for each in "kv"]
            rules[f"{at}cross_attn.to_kv.{leaf}"] = " + ".join(parts) + " > cat(0, 1)"
    # Random numbers would take the waves' place in the source.
    waves = _waves(40)
    for half in (source.model.encoder, source.model.decoder):
        half.embed_positions.register_forward_hook(lambda _module, _given, found: waves[: len(found)])
    ids, said = tokens(2, 9, 97), tokens(2, 6, 97, seed=1)
    return Pair(
        source, target, mapped(target, rules),
        lambda net: net(input_ids=ids, decoder_input_ids=said).logits, called(ids, said),
    )  # fmt: skip


# --------------------------------------- data2vec of sounds


class PositionLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(48, 48, 5, padding=2, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).transpose(1, 2)
        return functional.gelu(functional.layer_norm(y, (48,)).transpose(1, 2))


class ConvLayer(nn.Module):
    def __init__(self, inner: int, size: int, stride: int) -> None:
        super().__init__()
        self.kernel = nn.Conv1d(inner, 32, size, stride, bias=False)
        self.ln = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.ln(self.kernel(x).transpose(1, 2)).transpose(1, 2))


class HearingBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(48, 48) for _ in range(4))
        self.ln1, self.ln2 = nn.LayerNorm(48), nn.LayerNorm(48)
        self.up, self.down = nn.Linear(48, 80), nn.Linear(80, 48)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln1(x + self.o(attend(self.q(x), self.k(x), self.v(x), 4)))
        return self.ln2(x + self.down(functional.gelu(self.up(x))))


class Hearer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shapes = [(1, 10, 5), (32, 3, 2), (32, 2, 2)]
        self.frontend = nn.Sequential(*(ConvLayer(*shape) for shape in shapes))
        self.pre_ln, self.pre_proj = nn.LayerNorm(32), nn.Linear(32, 48)
        self.mask_emb = nn.Parameter(torch.zeros(48))
        self.positions = nn.Sequential(*(PositionLayer() for _ in range(3)))
        self.context_ln = nn.LayerNorm(48)
        self.context = nn.Sequential(*(HearingBlock() for _ in range(3)))
        self.ctc = nn.Linear(48, 33)

    def forward(self, sound: Tensor) -> Tensor:
        x = self.pre_proj(self.pre_ln(self.frontend(sound[:, None]).transpose(1, 2)))
        x = self.context_ln(x + self.positions(x.transpose(1, 2)).transpose(1, 2))
        return self.ctc(self.context(x))


@pair("data2vec-transformers-plain", family="data2vec")
def _data2vec() -> Pair:
    config = Data2VecAudioConfig(
        vocab_size=33, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
        conv_dim=(32, 32, 32), conv_kernel=(10, 3, 2), conv_stride=(5, 2, 2), conv_pos_kernel_size=5,
        num_conv_pos_embedding_groups=4, num_conv_pos_embeddings=3,
    )  # fmt: skip
    source, target = Data2VecAudioForCTC(config), Hearer()
    trunk = "data2vec_audio."
    own, at = trunk + "encoder.layers.*.", "context.*."
    rules = {
        "mask_emb": trunk + "masked_spec_embed",
        "frontend.*.kernel": trunk + "feature_extractor.conv_layers.*.conv",
        "frontend.*.ln": trunk + "feature_extractor.conv_layers.*.layer_norm",
        "pre_ln": trunk + "feature_projection.layer_norm",
        "pre_proj": trunk + "feature_projection.projection",
        "positions.*.conv": trunk + "encoder.pos_conv_embed.layers.*.conv",
        "context_ln": trunk + "encoder.layer_norm",
        "ctc": "lm_head",
        at + "o": own + "attention.out_proj",
        at + "ln1": own + "layer_norm",
        at + "ln2": own + "final_layer_norm",
        at + "up": own + "feed_forward.intermediate_dense",
        at + "down": own + "feed_forward.output_dense",
    }
    rules |= {f"{at}{each}": f"{own}attention.{each}_proj" for each in "qkv"}
    truth = mapped(target, rules)
    sound = torch.randn(2, 400, generator=torch.Generator().manual_seed(3))
    free = (*keys_of(truth, ".k.bias"), "mask_emb")
    return Pair(source, target, truth, logits(sound), called(sound), free=free)
