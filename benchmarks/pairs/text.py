"""
Encoders and decoders of text: transformers' classes and what others write for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import angles, attend, called, keys_of, logits, mapped, rms, tokens

# ---------------------------------------------------------------------------- BERT


def bert() -> BertModel:
    """Three blocks of width 48."""
    return BertModel(
        BertConfig(
            vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
            max_position_embeddings=40, type_vocab_size=2,
        )
    )  # fmt: skip


class Scale(nn.Module):
    def __init__(self, features: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(features))
        self.b_2 = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.a_2, self.b_2, self.eps)


class SublayerConnection(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = Scale(size)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x + y)


class MultiHeadedAttention(nn.Module):
    def __init__(self, h: int, d_model: int) -> None:
        super().__init__()
        self.h = h
        self.linear_layers = nn.ModuleList([nn.Linear(d_model, d_model) for _ in range(3)])
        self.output_linear = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x) for layer in self.linear_layers)
        return self.output_linear(attend(q, k, v, self.h))


class PositionwiseFeedForward(nn.Module):
    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(d_model, d_ff)
        self.w_2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(functional.gelu(self.w_1(x)))


class BertBlock(nn.Module):
    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = MultiHeadedAttention(heads, hidden)
        self.feed_forward = PositionwiseFeedForward(hidden, inner)
        self.input_sublayer = SublayerConnection(hidden)
        self.output_sublayer = SublayerConnection(hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_sublayer(x, self.attention(x))
        return self.output_sublayer(x, self.feed_forward(x))


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([BertBlock(48, 4, 80) for _ in range(3)])
        self.embedding = nn.ModuleDict(
            {
                "segment": nn.Embedding(2, 48),
                "position": nn.Embedding(40, 48),
                "token": nn.Embedding(97, 48),
                "norm": Scale(48),
            }
        )
        self.cls = nn.Linear(48, 48)

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        table: Any = self.embedding
        x = table["token"](ids) + table["segment"](segments) + table["position"](torch.arange(ids.shape[1]))
        x = table["norm"](x)
        for block in self.transformer_blocks:
            x = block(x)
        return x, self.cls(x[:, 0]).tanh()


def _run_bert(ids: Tensor, segments: Tensor) -> Callable[[nn.Module], Any]:
    def run(net: nn.Module) -> Any:
        found = net(ids, token_type_ids=segments)
        return found.last_hidden_state, found.pooler_output

    return run


_BERT_BLOCK = "encoder.layer.*."


@pair("bert-transformers-plain", family="bert")
def _bert_plain() -> Pair:
    target = Bert()
    at, source = "transformer_blocks.*.", _BERT_BLOCK
    truth = mapped(target, {
        "embedding.token": "embeddings.word_embeddings",
        "embedding.segment": "embeddings.token_type_embeddings",
        "embedding.position": "embeddings.position_embeddings",
        "embedding.norm": "embeddings.LayerNorm",
        at + "attention.linear_layers.0": source + "attention.self.query",
        at + "attention.linear_layers.1": source + "attention.self.key",
        at + "attention.linear_layers.2": source + "attention.self.value",
        at + "attention.output_linear": source + "attention.output.dense",
        at + "input_sublayer.norm": source + "attention.output.LayerNorm",
        at + "feed_forward.w_1": source + "intermediate.dense",
        at + "feed_forward.w_2": source + "output.dense",
        at + "output_sublayer.norm": source + "output.LayerNorm",
        "cls": "pooler.dense",
    }, leaves={"a_2": "weight", "b_2": "bias"})  # fmt: skip
    ids, segments = tokens(2, 9, 97), tokens(2, 9, 5) % 2
    return Pair(
        bert(), target, truth, _run_bert(ids, segments), called(ids, segments),
        free=keys_of(truth, "linear_layers.1.bias"),
    )  # fmt: skip


class TorchBert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(97, 48)
        self.seg_emb = nn.Embedding(2, 48)
        self.pos_emb = nn.Parameter(torch.zeros(40, 48))
        self.emb_ln = nn.LayerNorm(48, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            48, 4, 80, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.pooling = nn.Sequential(nn.Linear(48, 48), nn.Tanh())

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        x = self.tok_emb(ids) + self.seg_emb(segments) + self.pos_emb[: ids.shape[1]]
        x = self.transformer(self.emb_ln(x))
        return x, self.pooling(x[:, 0])


@pair("bert-transformers-torch", family="bert", transforms=True)
def _bert_torch() -> Pair:
    target = TorchBert()
    at, source = "transformer.layers.*.", _BERT_BLOCK
    query, key, value = (source + f"attention.self.{each}" for each in ("query", "key", "value"))
    rules = {
        "tok_emb": "embeddings.word_embeddings",
        "seg_emb": "embeddings.token_type_embeddings",
        "pos_emb": "embeddings.position_embeddings.weight",
        "emb_ln": "embeddings.LayerNorm",
        at + "self_attn.out_proj": source + "attention.output.dense",
        at + "norm1": source + "attention.output.LayerNorm",
        at + "linear1": source + "intermediate.dense",
        at + "linear2": source + "output.dense",
        at + "norm2": source + "output.LayerNorm",
        "pooling.0": "pooler.dense",
    }
    for leaf in ("weight", "bias"):
        rules[at + f"self_attn.in_proj_{leaf}"] = (
            f"{query}.{leaf} + {key}.{leaf} + {value}.{leaf} > cat(0, 1)"
        )
    truth = mapped(target, rules)
    ids, segments = tokens(2, 9, 97), tokens(2, 9, 5) % 2
    return Pair(bert(), target, truth, _run_bert(ids, segments), called(ids, segments))


# --------------------------------------------------------------------------- GPT-2


def gpt2() -> GPT2LMHeadModel:
    """Three blocks of width 32."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=101, n_positions=24, n_embd=32, n_layer=3, n_head=4, n_inner=72)
    )


class CachedMultiHeadAttention(nn.Module):
    def __init__(self, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.output_dense = nn.Linear(hidden_dim, hidden_dim)
        self.query_dense = nn.Linear(hidden_dim, hidden_dim)
        self.key_dense = nn.Linear(hidden_dim, hidden_dim)
        self.value_dense = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query_dense(x), self.key_dense(x), self.value_dense(x)
        return self.output_dense(attend(q, k, v, self.num_heads, causal=True))


class TransformerDecoder(nn.Module):
    def __init__(self, hidden_dim: int, num_heads: int, intermediate_dim: int) -> None:
        super().__init__()
        self.self_attention = CachedMultiHeadAttention(hidden_dim, num_heads)
        self.self_attention_layer_norm = nn.LayerNorm(hidden_dim)
        self.feedforward_intermediate_dense = nn.Linear(hidden_dim, intermediate_dim)
        self.feedforward_output_dense = nn.Linear(intermediate_dim, hidden_dim)
        self.feedforward_layer_norm = nn.LayerNorm(hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attention(self.self_attention_layer_norm(x))
        y = self.feedforward_intermediate_dense(self.feedforward_layer_norm(x))
        return x + self.feedforward_output_dense(functional.gelu(y, approximate="tanh"))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(101, 32)
        self.position_embedding = nn.Embedding(24, 32)
        self.transformer_layers = nn.ModuleList([TransformerDecoder(32, 4, 72) for _ in range(3)])
        self.layer_norm = nn.LayerNorm(32)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        for layer in self.transformer_layers:
            x = layer(x)
        return self.layer_norm(x) @ self.token_embedding.weight.T


@pair("gpt2-transformers-split", family="gpt2", transforms=True)
def _gpt2_split() -> Pair:
    target = Backbone()
    at, source = "transformer_layers.*.", "transformer.h.*."
    fused = source + "attn.c_attn : transpose | take(0, "
    truth = mapped(target, {
        "token_embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "layer_norm": "transformer.ln_f",
        at + "self_attention.query_dense": fused + "0, 32, 1)",
        at + "self_attention.key_dense": fused + "32, 64, 1)",
        at + "self_attention.value_dense": fused + "64, 96, 1)",
        at + "self_attention.output_dense": source + "attn.c_proj : transpose",
        at + "self_attention_layer_norm": source + "ln_1",
        at + "feedforward_intermediate_dense": source + "mlp.c_fc : transpose",
        at + "feedforward_output_dense": source + "mlp.c_proj : transpose",
        at + "feedforward_layer_norm": source + "ln_2",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(gpt2(), target, truth, logits(ids), called(ids), free=keys_of(truth, "key_dense.bias"))


class CausalSelfAttention(nn.Module):
    def __init__(self, n_embd: int, n_head: int, block_size: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)
        self.register_buffer("bias", torch.ones(block_size, block_size).tril()[None, None])
        self.n_head = n_head

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_attn(x).chunk(3, -1)
        return self.c_proj(attend(q, k, v, self.n_head, causal=True))


class Block(nn.Module):
    def __init__(self, n_embd: int, n_head: int, inner: int, block_size: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.attn = CausalSelfAttention(n_embd, n_head, block_size)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(n_embd, inner), "c_proj": nn.Linear(inner, n_embd)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class Nano(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(101, 32),
                "wpe": nn.Embedding(24, 32),
                "h": nn.ModuleList([Block(32, 4, 72, 24) for _ in range(3)]),
                "ln_f": nn.LayerNorm(32),
            }
        )
        self.lm_head = nn.Linear(32, 101, bias=False)
        embedding: Any = self.transformer["wte"]
        self.lm_head.weight = embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        parts: Any = self.transformer
        x = parts["wte"](ids) + parts["wpe"](torch.arange(ids.shape[1]))
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


@pair("gpt2-transformers-nano", family="gpt2", transforms=True)
def _gpt2_nano() -> Pair:
    target = Nano()
    made = tuple(f"transformer.h.{at}.attn.bias" for at in range(3))
    rules = {f"transformer.h.*.{each}": f"transformer.h.*.{each} : transpose"
             for each in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}  # fmt: skip
    rules |= {
        f"transformer.{each}": f"transformer.{each}"
        for each in ("wte", "wpe", "ln_f", "h.*.ln_1", "h.*.ln_2")
    }
    rules["lm_head"] = "lm_head"
    truth = mapped(target, rules, made=made)
    ids = tokens(2, 9, 101)
    return Pair(gpt2(), target, truth, logits(ids), called(ids), made=made)


# --------------------------------------------------------------------------- Llama


def llama() -> LlamaForCausalLM:
    """Three blocks of width 48, six heads, two of them for keys."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=101, hidden_size=48, intermediate_size=88, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
        )
    )  # fmt: skip


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, dim: int, n_heads: int, n_kv_heads: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, dim // n_heads
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        cos_sin = angles(x.shape[1], self.head_dim)
        mixed = attend(
            self.wq(x), self.wk(x), self.wv(x), self.n_heads, self.n_kv_heads,
            causal=True, cos_sin=cos_sin, interleaved=True,
        )  # fmt: skip
        return self.wo(mixed)


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, n_heads: int, n_kv_heads: int, hidden_dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim, n_heads, n_kv_heads)
        self.feed_forward = FeedForward(dim, hidden_dim)
        self.attention_norm = RMSNorm(dim)
        self.ffn_norm = RMSNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class MetaLlama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(101, 48)
        self.layers = nn.ModuleList([TransformerBlock(48, 6, 2, 88) for _ in range(3)])
        self.norm = RMSNorm(48)
        self.output = nn.Linear(48, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))


@pair("llama-transformers-meta", family="llama", transforms=True)
def _llama_meta() -> Pair:
    target = MetaLlama()
    at, source = "layers.*.", "model.layers.*."
    truth = mapped(target, {
        "tok_embeddings": "model.embed_tokens",
        "norm": "model.norm",
        "output": "lm_head",
        at + "attention.wq": source + "self_attn.q_proj : swap(0, 6, 2, 4)",
        at + "attention.wk": source + "self_attn.k_proj : swap(0, 2, 2, 4)",
        at + "attention.wv": source + "self_attn.v_proj",
        at + "attention.wo": source + "self_attn.o_proj",
        at + "feed_forward.w1": source + "mlp.gate_proj",
        at + "feed_forward.w2": source + "mlp.down_proj",
        at + "feed_forward.w3": source + "mlp.up_proj",
        at + "attention_norm": source + "input_layernorm",
        at + "ffn_norm": source + "post_attention_layernorm",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(llama(), target, truth, logits(ids), called(ids))


class Blk(nn.Module):
    def __init__(self, width: int, inner: int, kv_width: int) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(width)
        self.ffn_down = nn.Linear(inner, width, bias=False)
        self.ffn_gate = nn.Linear(width, inner, bias=False)
        self.ffn_up = nn.Linear(width, inner, bias=False)
        self.ffn_norm = RMSNorm(width)
        self.attn_k = nn.Linear(width, kv_width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_v = nn.Linear(width, kv_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn_norm(x)
        q, k, v = self.attn_q(y), self.attn_k(y), self.attn_v(y)
        x = x + self.attn_output(attend(q, k, v, 6, 2, causal=True, cos_sin=angles(x.shape[1], 8)))
        y = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(y)) * self.ffn_up(y))


class Ggml(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embd = nn.Embedding(101, 48)
        self.blk = nn.ModuleList([Blk(48, 88, 16) for _ in range(3)])
        self.output_norm = RMSNorm(48)
        self.output = nn.Linear(48, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embd(ids)
        for block in self.blk:
            x = block(x)
        return self.output(self.output_norm(x))


@pair("llama-transformers-ggml", family="llama")
def _llama_ggml() -> Pair:
    target = Ggml()
    at, source = "blk.*.", "model.layers.*."
    truth = mapped(target, {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        at + "attn_q": source + "self_attn.q_proj",
        at + "attn_k": source + "self_attn.k_proj",
        at + "attn_v": source + "self_attn.v_proj",
        at + "attn_output": source + "self_attn.o_proj",
        at + "ffn_gate": source + "mlp.gate_proj",
        at + "ffn_down": source + "mlp.down_proj",
        at + "ffn_up": source + "mlp.up_proj",
        at + "attn_norm": source + "input_layernorm",
        at + "ffn_norm": source + "post_attention_layernorm",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(llama(), target, truth, logits(ids), called(ids))
