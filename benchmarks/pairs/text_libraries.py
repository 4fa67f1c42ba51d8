"""
Decoders and encoders of litgpt and x-transformers, transformers' classes and a rewrite.
"""

from __future__ import annotations

from typing import Any

import torch
from litgpt.config import Config
from litgpt.model import GPT
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from x_transformers import Decoder, Encoder, TransformerWrapper

from benchmarks.pairs.pair import Pair, Truth, pair
from benchmarks.pairs.text import llama
from benchmarks.pairs.text_common import angles, attend, called, logits, mapped, tokens

# -------------------------------------------------------------------------- litgpt


def _litgpt(**settings: Any) -> GPT:
    sizes: dict[str, Any] = {
        "block_size": 64, "vocab_size": 101, "padded_vocab_size": 101, "n_layer": 3, "n_embd": 48,
        "n_head": 6, "intermediate_size": 88,
    }  # fmt: skip
    return GPT(Config(**sizes | settings))


def _lit_llama() -> GPT:
    return _litgpt(
        n_query_groups=2, rotary_percentage=1.0, parallel_residual=False, bias=False,
        norm_class_name="RMSNorm", norm_eps=1e-5, mlp_class_name="LLaMAMLP",
    )  # fmt: skip


_LIT_OWN = {
    "transformer.h.*.norm_1": "model.layers.*.input_layernorm",
    "transformer.h.*.norm_2": "model.layers.*.post_attention_layernorm",
    "transformer.h.*.attn.proj": "model.layers.*.self_attn.o_proj",
    "transformer.h.*.mlp.fc_1": "model.layers.*.mlp.gate_proj",
    "transformer.h.*.mlp.fc_2": "model.layers.*.mlp.up_proj",
    "transformer.h.*.mlp.proj": "model.layers.*.mlp.down_proj",
    "transformer.wte": "model.embed_tokens",
    "transformer.ln_f": "model.norm",
    "lm_head": "lm_head",
}


@pair("llama-transformers-litgpt", family="llama", transforms=True)
def _llama_litgpt() -> Pair:
    target = _lit_llama()
    parts = (f"model.layers.*.self_attn.{each}_proj" for each in "qkv")
    truth = mapped(target, _LIT_OWN | {"transformer.h.*.attn.qkv": " + ".join(parts) + " > cat(0, 1)"})
    ids = tokens(2, 9, 101)
    return Pair(llama(), target, truth, logits(ids), called(ids))


@pair("llama-litgpt-transformers", family="llama", transforms=True)
def _litgpt_llama() -> Pair:
    target = llama()
    rules = {theirs: ours for ours, theirs in _LIT_OWN.items()}
    for each, part in (("q", "0, 48"), ("k", "48, 64"), ("v", "64, 80")):
        rules[f"model.layers.*.self_attn.{each}_proj"] = f"transformer.h.*.attn.qkv : take(0, {part}, 1)"
    ids = tokens(2, 9, 101)
    return Pair(_lit_llama(), target, mapped(target, rules), called(ids), logits(ids))


@pair("gptneox-transformers-litgpt", family="gptneox", transforms=True)
def _neox_litgpt() -> Pair:
    target = _litgpt(rotary_percentage=0.5)
    at, own = "transformer.h.*.", "gpt_neox.layers.*."
    truth = mapped(target, {
        "transformer.wte": "gpt_neox.embed_in",
        "transformer.ln_f": "gpt_neox.final_layer_norm",
        "lm_head": "lm_head",
        at + "norm_1": own + "input_layernorm",
        at + "norm_2": own + "post_attention_layernorm",
        at + "attn.qkv": own + "attention.query_key_value : swap(0, 1, 6, 3)",
        at + "attn.proj": own + "attention.dense",
        at + "mlp.fc": own + "mlp.dense_h_to_4h",
        at + "mlp.proj": own + "mlp.dense_4h_to_h",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    sizes: dict[str, Any] = {
        "vocab_size": 101, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3,
        "num_attention_heads": 6, "max_position_embeddings": 64, "rotary_pct": 0.5, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    source = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes))
    return Pair(source, target, truth, logits(ids), called(ids))


# ------------------------------------------------------------------ x-transformers


class Gamma(nn.Module):
    """A norm without a bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.scale)


class EncoderBlock(nn.Module):
    def __init__(self, dim: int, heads: int, head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_a, self.norm_b = Gamma(dim), Gamma(dim)
        self.query = nn.Linear(dim, heads * head, bias=False)
        self.key = nn.Linear(dim, heads * head, bias=False)
        self.value = nn.Linear(dim, heads * head, bias=False)
        self.mix = nn.Linear(heads * head, dim, bias=False)
        self.expand, self.contract = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_a(x)
        x = x + self.mix(attend(self.query(y), self.key(y), self.value(y), self.heads))
        return x + self.contract(functional.gelu(self.expand(self.norm_b(x))))


class EncoderNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position_table = nn.Parameter(torch.zeros(32, 40))
        self.word_table = nn.Embedding(101, 40)
        self.blocks = nn.ModuleList([EncoderBlock(40, 4, 12) for _ in range(3)])
        self.norm = Gamma(40)
        self.scores = nn.Linear(40, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word_table(ids) + self.position_table[: ids.shape[1]] * 40**-0.5
        for block in self.blocks:
            x = block(x)
        return self.scores(self.norm(x))


@pair("encoder-xtransformers-plain", family="xtransformers", transforms=True)
def _x_encoder() -> Pair:
    layers = Encoder(dim=40, depth=3, heads=4, attn_dim_head=12)
    source = TransformerWrapper(num_tokens=101, max_seq_len=32, attn_layers=layers)
    target = EncoderNet()
    rules = {
        "position_table": "pos_emb.emb.weight", "word_table": "token_emb.emb", "scores": "to_logits",
        "norm": "attn_layers.final_norm : add(1)",
    }  # fmt: skip
    for at in range(3):
        attention, feedforward = f"attn_layers.layers.{2 * at}.", f"attn_layers.layers.{2 * at + 1}."
        rules |= {
            f"blocks.{at}.norm_a": attention + "0.0 : add(1)",
            f"blocks.{at}.norm_b": feedforward + "0.0 : add(1)",
            f"blocks.{at}.expand": feedforward + "1.ff.0.0",
            f"blocks.{at}.contract": feedforward + "1.ff.2",
        }
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("mix", "out")):
            rules[f"blocks.{at}.{ours}"] = attention + f"1.to_{theirs}"
    truth = mapped(target, rules, leaves={"scale": "gamma"})
    ids = tokens(2, 9, 101)
    return Pair(source, target, truth, called(ids), called(ids))


class SwiBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = (nn.RMSNorm(40, eps=1e-12) for _ in range(2))
        self.qkv = nn.Linear(40, 192, bias=False)
        self.proj = nn.Linear(64, 40, bias=False)
        self.gate, self.up = nn.Linear(40, 160), nn.Linear(40, 160)
        self.down = nn.Linear(160, 40, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, -1)
        x = x + self.proj(attend(q, k, v, 4, causal=True, cos_sin=angles(x.shape[1], 16)))
        y = self.mlp_norm(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class SwiNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(40, 101, bias=False)
        self.decoder = nn.ModuleList([SwiBlock() for _ in range(2)])
        self.decoder_norm = nn.RMSNorm(40, eps=1e-12)
        self.embeddings = nn.Embedding(101, 40)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embeddings(ids)
        for block in self.decoder:
            x = block(x)
        return self.lm_head(self.decoder_norm(x))


def _x_decoder_rules() -> dict[str, str]:
    rules = {
        "lm_head": "to_logits",
        "embeddings": "token_emb.emb",
        "decoder_norm": "attn_layers.final_norm : add(1)",
    }
    for at in range(2):
        attention, feedforward = f"attn_layers.layers.{2 * at}.", f"attn_layers.layers.{2 * at + 1}."
        turned = " : swap(0, 4, 8, 2)"
        fused = (f"{attention}1.to_q{turned}", f"{attention}1.to_k{turned}", f"{attention}1.to_v")
        rules |= {
            f"decoder.{at}.attention_norm": attention + "0.0 : add(1)",
            f"decoder.{at}.mlp_norm": feedforward + "0.0 : add(1)",
            f"decoder.{at}.qkv": " + ".join(fused) + " > cat(0, 1)",
            f"decoder.{at}.proj": attention + "1.to_out",
            f"decoder.{at}.up": feedforward + "1.ff.0.proj : take(0, 0, 160, 1)",
            f"decoder.{at}.gate": feedforward + "1.ff.0.proj : take(0, 160, 320, 1)",
            f"decoder.{at}.down": feedforward + "1.ff.2",
        }
    return rules


@pair("decoder-xtransformers-plain", family="xtransformers", transforms=True)
def _x_decoder() -> Pair:
    layers = Decoder(
        dim=40, depth=2, heads=4, attn_dim_head=16, rotary_pos_emb=True, rotary_emb_dim=16, use_rmsnorm=True,
        ff_glu=True, ff_swish=True, ff_no_bias=True,
    )  # fmt: skip
    source = TransformerWrapper(num_tokens=101, max_seq_len=32, attn_layers=layers)
    target = SwiNet()
    rules = _x_decoder_rules()
    truth: dict[str, Truth] = {}
    for name, (pieces, after) in mapped(target, rules).items():
        taken = tuple((_g(piece), steps) for piece, steps in pieces)
        truth[name] = (taken, after)
    ids = tokens(2, 9, 101)
    return Pair(source, target, truth, called(ids), called(ids))


def _g(name: str) -> str:
    """Norms call their weight ``g`` here."""
    is_norm = name.endswith((".0.0.weight", "final_norm.weight"))
    return name.removesuffix("weight") + "g" if is_norm else name
