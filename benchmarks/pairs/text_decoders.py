"""
Decoders of transformers whose weights lie fused, grouped or per head, and rewrites of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import (
    angles,
    attend,
    called,
    keys_of,
    logits,
    mapped,
    rms,
    tokens,
)

SIZES: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3,
    "num_attention_heads": 6, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "attn_implementation": "eager", "tie_word_embeddings": False,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2}


class RMS(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.weight)


# ---------------------------------------------------------- Qwen2: everything is fused


class MHA(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int, num_heads_kv: int) -> None:
        super().__init__()
        self.num_heads, self.num_heads_kv = num_heads, num_heads_kv
        self.head_dim = embed_dim // num_heads
        self.Wqkv = nn.Linear(embed_dim, self.head_dim * (num_heads + 2 * num_heads_kv))
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kv = self.head_dim * self.num_heads_kv
        q, k, v = self.Wqkv(x).split([self.head_dim * self.num_heads, kv, kv], -1)
        cos_sin = angles(x.shape[1], self.head_dim)
        return self.out_proj(attend(q, k, v, self.num_heads, self.num_heads_kv, causal=True, cos_sin=cos_sin))


class GatedMlp(nn.Module):
    """What is gated lies before the gate."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.fc1(x).chunk(2, -1)
        return self.fc2(y * functional.silu(gate))


class FlashBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer = MHA(48, 6, 2)
        self.norm1 = RMS(48)
        self.mlp = GatedMlp(48, 88)
        self.norm2 = RMS(48)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class FlashModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"word_embeddings": nn.Embedding(101, 48)})
        self.layers = nn.ModuleList([FlashBlock() for _ in range(3)])
        self.ln_f = RMS(48)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embeddings["word_embeddings"](ids)
        for layer in self.layers:
            x = layer(x)
        return self.ln_f(x)


class FlashLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = FlashModel()
        self.lm_head = nn.Linear(48, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.transformer(ids))


@pair("qwen2-transformers-fused", family="qwen2", transforms=True)
def _qwen2() -> Pair:
    target = FlashLM()
    at, own = "transformer.layers.*.", "model.layers.*."
    rules = {
        "transformer.embeddings.word_embeddings": "model.embed_tokens",
        "transformer.ln_f": "model.norm",
        "lm_head": "lm_head",
        at + "mixer.out_proj": own + "self_attn.o_proj",
        at + "norm1": own + "input_layernorm",
        at + "norm2": own + "post_attention_layernorm",
        at + "mlp.fc1": f"{own}mlp.up_proj + {own}mlp.gate_proj > cat(0, 1)",
        at + "mlp.fc2": own + "mlp.down_proj",
        at + "mixer.Wqkv": " + ".join(f"{own}self_attn.{each}_proj" for each in "qkv") + " > cat(0, 1)",
    }
    ids = tokens(2, 9, 101)
    source = Qwen2ForCausalLM(Qwen2Config(**GROUPED))
    return Pair(source, target, mapped(target, rules), logits(ids), called(ids))


# ----------------------------------------------------------- Phi-3: everything is apart


class ApartAttention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.out = nn.Linear(width, width, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width * kv_heads // heads, bias=False)
        self.value = nn.Linear(width, width * kv_heads // heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        cos_sin = angles(x.shape[1], x.shape[2] // self.heads)
        q, k, v = self.query(x), self.key(x), self.value(x)
        return self.out(attend(q, k, v, self.heads, self.kv_heads, causal=True, cos_sin=cos_sin))


class ApartLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre_attn_norm = RMS(48)
        self.attention = ApartAttention(48, 6, 2)
        self.pre_mlp_norm = RMS(48)
        self.linear_in = nn.Linear(48, 88, bias=False)
        self.linear_gate = nn.Linear(48, 88, bias=False)
        self.linear_out = nn.Linear(88, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.pre_attn_norm(x))
        y = self.pre_mlp_norm(x)
        return x + self.linear_out(functional.silu(self.linear_gate(y)) * self.linear_in(y))


class ApartModel(nn.Module):
    """Blocks that are attributes with a number in their name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = nn.Embedding(101, 48)
        for at in range(3):
            setattr(self, f"layer_{at}", ApartLayer())
        self.final_norm = RMS(48)
        self.unembed = nn.Parameter(torch.zeros(48, 101))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedder(ids)
        for at in range(3):
            x = getattr(self, f"layer_{at}")(x)
        return self.final_norm(x) @ self.unembed


@pair("phi3-transformers-split", family="phi3", transforms=True)
def _phi3() -> Pair:
    target = ApartModel()
    at, own = "layer_*.", "model.layers.*."
    truth = mapped(target, {
        "embedder": "model.embed_tokens",
        "final_norm": "model.norm",
        "unembed": "lm_head.weight : transpose",
        at + "pre_attn_norm": own + "input_layernorm",
        at + "attention.out": own + "self_attn.o_proj",
        at + "attention.query": own + "self_attn.qkv_proj : take(0, 0, 48, 1)",
        at + "attention.key": own + "self_attn.qkv_proj : take(0, 48, 64, 1)",
        at + "attention.value": own + "self_attn.qkv_proj : take(0, 64, 80, 1)",
        at + "pre_mlp_norm": own + "post_attention_layernorm",
        at + "linear_gate": own + "mlp.gate_up_proj : take(0, 0, 88, 1)",
        at + "linear_in": own + "mlp.gate_up_proj : take(0, 88, 176, 1)",
        at + "linear_out": own + "mlp.down_proj",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    source = Phi3ForCausalLM(Phi3Config(**GROUPED | {"rms_norm_eps": 1e-6}))
    return Pair(source, target, truth, logits(ids), called(ids))


# ----------------------------------------------- GPT-NeoX: per head; parallel branches


class ParallelBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_attn = nn.LayerNorm(48)
        self.ln_ff = nn.LayerNorm(48)
        self.to_q = nn.Linear(48, 48)
        self.to_k = nn.Linear(48, 48)
        self.to_v = nn.Linear(48, 48)
        self.to_out = nn.Linear(48, 48)
        self.ff = nn.Sequential(nn.Linear(48, 88), nn.GELU(), nn.Linear(88, 48))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_attn(x)
        q, k, v = self.to_q(y), self.to_k(y), self.to_v(y)
        mixed = self.to_out(attend(q, k, v, 6, causal=True, cos_sin=angles(x.shape[1], 4)))
        return x + mixed + self.ff(self.ln_ff(x))


class ParallelLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(101, 48)
        self.blocks = nn.Sequential(*(ParallelBlock() for _ in range(3)))
        self.to_logits = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 101, bias=False))

    def forward(self, ids: Tensor) -> Tensor:
        return self.to_logits(self.blocks(self.token_emb(ids)))


@pair("gptneox-transformers-split", family="gptneox", transforms=True)
def _neox() -> Pair:
    target = ParallelLM()
    at, own = "blocks.*.", "gpt_neox.layers.*."
    fused = own + "attention.query_key_value : take(0, "
    truth = mapped(target, {
        "token_emb": "gpt_neox.embed_in",
        "to_logits.0": "gpt_neox.final_layer_norm",
        "to_logits.1": "lm_head",
        at + "ln_attn": own + "input_layernorm",
        at + "ln_ff": own + "post_attention_layernorm",
        at + "to_q": fused + "0, 8, 6)",
        at + "to_k": fused + "8, 16, 6)",
        at + "to_v": fused + "16, 24, 6)",
        at + "to_out": own + "attention.dense",
        at + "ff.0": own + "mlp.dense_h_to_4h",
        at + "ff.2": own + "mlp.dense_4h_to_h",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    source = GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES | {"rotary_pct": 0.5}))
    return Pair(source, target, truth, logits(ids), called(ids))


# ------------------------------------------------------- Bloom: per head, no positions


def slopes(heads: int, length: int) -> Tensor:
    """Linear biases on distance, for a power of two of heads."""
    steep = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1))
    places = torch.arange(length)
    return steep[:, None, None] * (places[None, :] - places[:, None])


class AlibiLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(32, 4, batch_first=True)
        self.linear1 = nn.Linear(32, 128)
        self.linear2 = nn.Linear(128, 32)
        self.norm1 = nn.LayerNorm(32)
        self.norm2 = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        mask = (slopes(4, x.shape[1]) + hidden).repeat(x.shape[0], 1, 1)
        y = self.norm1(x)
        x = x + self.self_attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.linear2(functional.gelu(self.linear1(self.norm2(x)), approximate="tanh"))


class AlibiLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(32)
        self.embedding = nn.Embedding(101, 32)
        self.layers = nn.ModuleList([AlibiLayer() for _ in range(3)])
        self.norm_out = nn.LayerNorm(32)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm_in(self.embedding(ids))
        for layer in self.layers:
            x = layer(x)
        return self.norm_out(x) @ self.embedding.weight.T


@pair("bloom-transformers-torch", family="bloom", transforms=True)
def _bloom() -> Pair:
    target = AlibiLM()
    at, own = "layers.*.", "transformer.h.*."
    rules = {
        "embedding": "transformer.word_embeddings",
        "norm_in": "transformer.word_embeddings_layernorm",
        "norm_out": "transformer.ln_f",
        at + "self_attn.out_proj": own + "self_attention.dense",
        at + "linear1": own + "mlp.dense_h_to_4h",
        at + "linear2": own + "mlp.dense_4h_to_h",
        at + "norm1": own + "input_layernorm",
        at + "norm2": own + "post_attention_layernorm",
    }
    for leaf in ("weight", "bias"):
        rules[f"{at}self_attn.in_proj_{leaf}"] = (
            f"{own}self_attention.query_key_value.{leaf} : swap(0, 1, 4, 3)"
        )
    ids = tokens(2, 9, 101)
    source = BloomForCausalLM(BloomConfig(vocab_size=101, hidden_size=32, n_layer=3, n_head=4))
    return Pair(source, target, mapped(target, rules), logits(ids), called(ids))


# ------------------------------------------------------------------- Falcon: in groups


class FalconLike(nn.Module):
    """One attention and one feed-forward side by side."""

    def __init__(self, kv_heads: int, norms: int) -> None:
        super().__init__()
        self.kv_heads = kv_heads
        self.mlp_down = nn.Linear(192, 48, bias=False)
        self.mlp_up = nn.Linear(48, 192, bias=False)
        self.attn_out = nn.Linear(48, 48, bias=False)
        self.attn_q = nn.Linear(48, 48, bias=False)
        self.attn_kv = nn.Linear(48, 16 * kv_heads, bias=False)
        self.norms = nn.ModuleList([nn.LayerNorm(48) for _ in range(norms)])

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.norms[0](x), self.norms[-1](x)
        k, v = self.attn_kv(y).chunk(2, -1)
        cos_sin = angles(x.shape[1], 8)
        mixed = attend(self.attn_q(y), k, v, 6, self.kv_heads, causal=True, cos_sin=cos_sin)
        return x + self.attn_out(mixed) + self.mlp_down(functional.gelu(self.mlp_up(z)))


class FalconLikeLM(nn.Module):
    def __init__(self, kv_heads: int, norms: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(101, 48)
        self.stack = nn.Sequential(*(FalconLike(kv_heads, norms) for _ in range(2)))
        self.norm = nn.LayerNorm(48)
        self.head = nn.Linear(48, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.stack(self.emb(ids))))


def _falcon(kv_heads: int, norms: dict[str, str], **settings: Any) -> Pair:
    target = FalconLikeLM(kv_heads, len(norms))
    at, own = "stack.*.", "transformer.h.*."
    fused = own + "self_attention.query_key_value : take(0, "
    ours = 48 // kv_heads
    rules = {
        "emb": "transformer.word_embeddings", "norm": "transformer.ln_f", "head": "lm_head",
        at + "mlp_down": own + "mlp.dense_4h_to_h", at + "mlp_up": own + "mlp.dense_h_to_4h",
        at + "attn_out": own + "self_attention.dense", at + "attn_q": fused + f"0, {ours}, {kv_heads})",
        at + "attn_kv": f"{fused}{ours}, {ours + 8}, {kv_heads}) + "
        f"{fused}{ours + 8}, {ours + 16}, {kv_heads}) > cat(0, 1)",
    }  # fmt: skip
    rules |= {at + "norms." + ours: own + theirs for ours, theirs in norms.items()}
    ids = tokens(2, 9, 101)
    sizes = {"num_hidden_layers": 2, "tie_word_embeddings": False, "bias": False}
    source = FalconForCausalLM(FalconConfig(**SIZES | sizes | settings))
    return Pair(source, target, mapped(target, rules), logits(ids), called(ids))


@pair("falcon-transformers-grouped", family="falcon", transforms=True)
def _falcon_grouped() -> Pair:
    return _falcon(2, {"0": "ln_attn", "1": "ln_mlp"}, num_kv_heads=2, new_decoder_architecture=True)


@pair("falcon-transformers-multiquery", family="falcon", transforms=True)
def _falcon_multiquery() -> Pair:
    return _falcon(1, {"0": "input_layernorm"})


# -------------------------------------------------------------- Gemma 2: norms of w + 1


class SandwichBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn_pre, self.attn_post = RMS(40), RMS(40)
        self.ffw_pre, self.ffw_post = RMS(40), RMS(40)
        self.attn = ApartAttention(40, 5, 1)
        self.ffw_gate, self.ffw_up = (nn.Linear(40, 72, bias=False) for _ in range(2))
        self.ffw_out = nn.Linear(72, 40, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn_post(self.attn(self.attn_pre(x)))
        y = self.ffw_pre(x)
        gate = functional.gelu(self.ffw_gate(y), approximate="tanh")
        return x + self.ffw_post(self.ffw_out(gate * self.ffw_up(y)))


class SandwichLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_embedding = nn.Embedding(103, 40)
        self.blocks = nn.ModuleList([SandwichBlock() for _ in range(2)])
        self.out_norm = RMS(40)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.input_embedding(ids) * 40**0.5
        for block in self.blocks:
            x = block(x)
        scores = self.out_norm(x) @ self.input_embedding.weight.T
        return 30 * (scores / 30).tanh()


@pair("gemma2-transformers-plain", family="gemma", transforms=True)
def _gemma2() -> Pair:
    target = SandwichLM()
    at, own = "blocks.*.", "model.layers.*."
    truth = mapped(target, {
        "input_embedding": "model.embed_tokens",
        "out_norm": "model.norm : add(1)",
        at + "attn_pre": own + "input_layernorm : add(1)",
        at + "attn_post": own + "post_attention_layernorm : add(1)",
        at + "ffw_pre": own + "pre_feedforward_layernorm : add(1)",
        at + "ffw_post": own + "post_feedforward_layernorm : add(1)",
        at + "attn.out": own + "self_attn.o_proj",
        at + "attn.query": own + "self_attn.q_proj",
        at + "attn.key": own + "self_attn.k_proj",
        at + "attn.value": own + "self_attn.v_proj",
        at + "ffw_gate": own + "mlp.gate_proj",
        at + "ffw_up": own + "mlp.up_proj",
        at + "ffw_out": own + "mlp.down_proj",
    })  # fmt: skip
    sizes = {
        "vocab_size": 103, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 5, "num_key_value_heads": 1, "query_pre_attn_scalar": 8,
        "tie_word_embeddings": True, "attn_logit_softcapping": None,
    }  # fmt: skip
    ids = tokens(2, 9, 103)
    source = Gemma2ForCausalLM(Gemma2Config(**GROUPED | sizes))
    return Pair(source, target, truth, logits(ids), called(ids))


# ------------------------------------------------- GPT-J: neighbours turn with each other


class JBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(48)
        self.q, self.k, self.v, self.o = (nn.Linear(48, 48, bias=False) for _ in range(4))
        self.wi, self.wo = nn.Linear(48, 88), nn.Linear(88, 48)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        mixed = attend(self.q(y), self.k(y), self.v(y), 6, causal=True, cos_sin=angles(x.shape[1], 8))
        return x + self.o(mixed) + self.wo(functional.gelu(self.wi(y), approximate="tanh"))


class JModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(48, 101)
        self.trunk = nn.ModuleList([JBlock() for _ in range(3)])
        self.embed = nn.Embedding(101, 48)
        self.norm = nn.LayerNorm(48)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.trunk:
            x = block(x)
        return self.proj(self.norm(x))


@pair("gptj-transformers-halves", family="gptj", transforms=True)
def _gptj() -> Pair:
    target = JModel()
    at, own = "trunk.*.", "transformer.h.*."
    truth = mapped(target, {
        "embed": "transformer.wte", "norm": "transformer.ln_f", "proj": "lm_head",
        at + "norm": own + "ln_1",
        at + "q": own + "attn.q_proj : swap(0, 6, 4, 2)",
        at + "k": own + "attn.k_proj : swap(0, 6, 4, 2)",
        at + "v": own + "attn.v_proj",
        at + "o": own + "attn.out_proj",
        at + "wi": own + "mlp.fc_in",
        at + "wo": own + "mlp.fc_out",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    sizes: dict[str, Any] = {
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 6,
        "rotary_dim": 8,
        "n_inner": 88,
        "n_positions": 64,
    }
    source = GPTJForCausalLM(GPTJConfig(vocab_size=101, tie_word_embeddings=False, **sizes))
    return Pair(source, target, truth, logits(ids), called(ids))


# --------------------------------------------------------------------- MPT: stacked qkv


class HeadBlock(nn.Module):
    """Heads have an axis of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(32, bias=False), nn.LayerNorm(32, bias=False)
        self.W_Q, self.W_K, self.W_V = (nn.Parameter(torch.zeros(4, 32, 8)) for _ in range(3))
        self.W_O = nn.Parameter(torch.zeros(4, 8, 32))
        self.W_in, self.W_out = nn.Parameter(torch.zeros(32, 128)), nn.Parameter(torch.zeros(128, 32))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        q, k, v = (torch.einsum("btd,hde->bthe", y, w).flatten(2) for w in (self.W_Q, self.W_K, self.W_V))
        mixed = attend(q, k, v, 4, causal=True, bias=slopes(4, x.shape[1])).unflatten(2, (4, 8))
        x = x + torch.einsum("bthe,hed->btd", mixed, self.W_O)
        return x + functional.gelu(self.ln2(x) @ self.W_in) @ self.W_out


class HeadLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(101, 32)
        self.blocks = nn.ModuleList([HeadBlock() for _ in range(3)])
        self.ln_final = nn.LayerNorm(32, bias=False)
        self.W_U = nn.Parameter(torch.zeros(32, 101))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.ln_final(x) @ self.W_U


@pair("mpt-transformers-heads", family="mpt", transforms=True)
def _mpt() -> Pair:
    target = HeadLM()
    at, own = "blocks.*.", "transformer.blocks.*."
    fused = own + "attn.Wqkv.weight : take(0, "
    apart = " | reshape(4, 8, 32) | permute(0, 2, 1)"
    truth = mapped(target, {
        "embed": "transformer.wte",
        "ln_final": "transformer.norm_f",
        "W_U": "lm_head.weight : transpose",
        at + "ln1": own + "norm_1",
        at + "ln2": own + "norm_2",
        at + "W_Q": fused + "0, 32, 1)" + apart,
        at + "W_K": fused + "32, 64, 1)" + apart,
        at + "W_V": fused + "64, 96, 1)" + apart,
        at + "W_O": own + "attn.out_proj.weight : transpose | reshape(4, 8, 32)",
        at + "W_in": own + "ffn.up_proj.weight : transpose",
        at + "W_out": own + "ffn.down_proj.weight : transpose",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    sizes: dict[str, Any] = {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 48}
    source = MptForCausalLM(MptConfig(vocab_size=101, **sizes))
    return Pair(source, target, truth, logits(ids), called(ids))


# ----------------------------------------------------- OPT: two more rows for positions


class AnnotatedDecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(48, 48) for _ in range(4)])
        self.w_1, self.w_2 = nn.Linear(48, 88), nn.Linear(88, 48)
        self.sublayer = nn.ModuleList([nn.LayerNorm(48) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.sublayer[0](x)
        q, k, v = (layer(y) for layer in self.linears[:3])
        x = x + self.linears[3](attend(q, k, v, 6, causal=True))
        return x + self.w_2(self.w_1(self.sublayer[1](x)).relu())


class AnnotatedLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([AnnotatedDecoderLayer() for _ in range(3)])
        self.norm = nn.LayerNorm(48)
        self.tgt_embed = nn.Embedding(101, 48)
        self.pe = nn.Embedding(40, 48)
        self.generator = nn.Linear(48, 101, bias=False)
        self.generator.weight = self.tgt_embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tgt_embed(ids) + self.pe.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.generator(self.norm(x))


@pair("opt-transformers-annotated", family="opt", transforms=True)
def _opt() -> Pair:
    target = AnnotatedLM()
    at, own = "layers.*.", "model.decoder.layers.*."
    rules = {
        "norm": "model.decoder.final_layer_norm", "tgt_embed": "model.decoder.embed_tokens",
        "pe": "model.decoder.embed_positions : take(0, 2, 42, 1)", "generator": "lm_head",
        at + "w_1": own + "fc1", at + "w_2": own + "fc2",
        at + "sublayer.0": own + "self_attn_layer_norm", at + "sublayer.1": own + "final_layer_norm",
    }  # fmt: skip
    rules |= {
        f"{at}linears.{i}": f"{own}self_attn.{each}_proj" for i, each in enumerate(("q", "k", "v", "out"))
    }
    truth = mapped(target, rules)
    ids = tokens(2, 9, 101)
    sizes = {
        "ffn_dim": 88,
        "word_embed_proj_dim": 48,
        "max_position_embeddings": 40,
        "tie_word_embeddings": True,
    }
    source = OPTForCausalLM(OPTConfig(**SIZES | sizes))
    return Pair(source, target, truth, logits(ids), called(ids), free=keys_of(truth, "linears.1.bias"))


# -------------------------------------------- Qwen3: norms of queries and keys, one fused


class OlmoBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k_norm, self.q_norm = RMS(12), RMS(12)
        self.attn_out = nn.Linear(72, 48, bias=False)
        self.ff_out = nn.Linear(88, 48, bias=False)
        self.attn_norm = RMS(48)
        self.ff_norm = RMS(48)
        self.att_proj = nn.Linear(48, 120, bias=False)
        self.ff_proj = nn.Linear(48, 176, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.att_proj(self.attn_norm(x)).split([72, 24, 24], -1)
        q = self.q_norm(q.unflatten(-1, (6, 12))).flatten(2)
        k = self.k_norm(k.unflatten(-1, (2, 12))).flatten(2)
        x = x + self.attn_out(attend(q, k, v, 6, 2, causal=True, cos_sin=angles(x.shape[1], 12)))
        up, gate = self.ff_proj(self.ff_norm(x)).chunk(2, -1)
        return x + self.ff_out(functional.silu(gate) * up)


class OlmoLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = nn.ModuleList([OlmoBlock() for _ in range(3)])
        parts = {
            "wte": nn.Embedding(101, 48),
            "ln_f": RMS(48),
            "blocks": blocks,
            "ff_out": nn.Linear(48, 101),
        }
        parts["ff_out"] = nn.Linear(48, 101, bias=False)
        self.transformer = nn.ModuleDict(parts)

    def forward(self, ids: Tensor) -> Tensor:
        parts: Any = self.transformer
        x = parts["wte"](ids)
        for block in parts["blocks"]:
            x = block(x)
        return parts["ff_out"](parts["ln_f"](x))


@pair("qwen3-transformers-olmo", family="qwen3", transforms=True)
def _qwen3() -> Pair:
    target = OlmoLM()
    at, own = "transformer.blocks.*.", "model.layers.*."
    truth = mapped(target, {
        "transformer.wte": "model.embed_tokens",
        "transformer.ln_f": "model.norm",
        "transformer.ff_out": "lm_head",
        at + "k_norm": own + "self_attn.k_norm",
        at + "q_norm": own + "self_attn.q_norm",
        at + "attn_out": own + "self_attn.o_proj",
        at + "ff_out": own + "mlp.down_proj",
        at + "attn_norm": own + "input_layernorm",
        at + "ff_norm": own + "post_attention_layernorm",
        at + "att_proj": " + ".join(f"{own}self_attn.{each}_proj" for each in "qkv") + " > cat(0, 1)",
        at + "ff_proj": f"{own}mlp.up_proj + {own}mlp.gate_proj > cat(0, 1)",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    source = Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=12))
    return Pair(source, target, truth, logits(ids), called(ids))
