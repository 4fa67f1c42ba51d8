"""
Mixtures of experts, stacked or one module each, and state spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import (
    angles,
    attend,
    called,
    logits,
    mapped,
    rms,
    rotated,
    tokens,
)

SIZES: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager", "experts_implementation": "eager",
    "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.weight)


def routed(x: Tensor, chosen: Tensor, weights: Tensor, expert: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Weighted sums over the experts that were chosen, all of them tried on all tokens."""
    mixed = torch.zeros_like(x)
    for index in range(int(chosen.max()) + 1):
        share = (weights * (chosen == index)).sum(-1, keepdim=True)
        mixed = mixed + share * expert(index, x)
    return mixed


# ---------------------------------------------------------- Mixtral: a module per expert


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class MoeLayer(nn.Module):
    def __init__(self, dim: int, hidden_dim: int, num_experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList([FeedForward(dim, hidden_dim) for _ in range(num_experts)])
        self.gate = nn.Linear(dim, num_experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.gate(x).topk(2)
        return routed(x, chosen, best.softmax(-1), lambda index, x: self.experts[index](x))


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


class MistralBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(48, 6, 2)
        self.attention_norm, self.ffn_norm = RMSNorm(48), RMSNorm(48)
        self.feed_forward = MoeLayer(48, 72, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class MistralMoe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(101, 48)
        self.norm = RMSNorm(48)
        self.output = nn.Linear(48, 101, bias=False)
        self.layers = nn.ModuleDict({str(at): MistralBlock() for at in range(2)})

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_embeddings(ids)
        for layer in self.layers.values():
            x = layer(x)
        return self.output(self.norm(x))


def _mixtral() -> MixtralForCausalLM:
    turning = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    return MixtralForCausalLM(MixtralConfig(**SIZES | turning, num_local_experts=4, num_experts_per_tok=2))


_MIXTRAL = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "layers.*.attention.wv": "model.layers.*.self_attn.v_proj",
    "layers.*.attention.wo": "model.layers.*.self_attn.o_proj",
    "layers.*.attention_norm": "model.layers.*.input_layernorm",
    "layers.*.ffn_norm": "model.layers.*.post_attention_layernorm",
    "layers.*.feed_forward.gate": "model.layers.*.mlp.gate",
}


@pair("mixtral-transformers-mistral", family="mixtral", transforms=True)
def _mixtral_apart() -> Pair:
    target = MistralMoe()
    own = "model.layers.*.self_attn."
    rules = _MIXTRAL | {
        "layers.*.attention.wq": own + "q_proj : swap(0, 6, 2, 4)",
        "layers.*.attention.wk": own + "k_proj : swap(0, 2, 2, 4)",
    }
    for index in range(4):
        at, stacked = f"layers.*.feed_forward.experts.{index}.", "model.layers.*.mlp.experts."
        rules |= {
            at + "w1.weight": f"{stacked}gate_up_proj : index(0, {index}) | take(0, 0, 72, 1)",
            at + "w2.weight": f"{stacked}down_proj : index(0, {index})",
            at + "w3.weight": f"{stacked}gate_up_proj : index(0, {index}) | take(0, 72, 144, 1)",
        }
    ids = tokens(2, 9, 101)
    return Pair(_mixtral(), target, mapped(target, rules), logits(ids), called(ids))


@pair("mixtral-mistral-transformers", family="mixtral", transforms=True)
def _mixtral_stacked() -> Pair:
    target = _mixtral()
    rules = {theirs: ours for ours, theirs in _MIXTRAL.items()}
    experts = [f"layers.*.feed_forward.experts.{index}." for index in range(4)]
    halves = " + ".join(f"{each}{half}.weight" for each in experts for half in ("w1", "w3"))
    rules |= {
        "model.layers.*.self_attn.q_proj": "layers.*.attention.wq : swap(0, 6, 4, 2)",
        "model.layers.*.self_attn.k_proj": "layers.*.attention.wk : swap(0, 2, 4, 2)",
        "model.layers.*.mlp.experts.gate_up_proj": halves + " > stack(0) | reshape(4, 144, 48)",
        "model.layers.*.mlp.experts.down_proj": " + ".join(f"{each}w2.weight" for each in experts)
        + " > stack(0)",
    }
    truth = mapped(target, rules)
    ids = tokens(2, 9, 101)
    return Pair(MistralMoe(), target, truth, called(ids), logits(ids))


# ----------------------------------------- Qwen2-MoE: a shared expert, experts in a row


class RowExperts(nn.Module):
    """All experts below each other in one matrix."""

    def __init__(self, dim: int, inner: int, count: int) -> None:
        super().__init__()
        self.inner = inner
        self.w1, self.v1, self.w2 = (nn.Parameter(torch.zeros(count * inner, dim)) for _ in range(3))

    def forward(self, index: int, x: Tensor) -> Tensor:
        rows = slice(index * self.inner, (index + 1) * self.inner)
        return (functional.silu(x @ self.w1[rows].T) * (x @ self.v1[rows].T)) @ self.w2[rows]


class SharedMoe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(48, 4, bias=False)
        self.experts = RowExperts(48, 20, 4)
        self.common = FeedForward(48, 28)
        self.common_gate = nn.Linear(48, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2)
        return routed(x, chosen, weights, self.experts) + self.common_gate(x).sigmoid() * self.common(x)


class RowBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ffn = SharedMoe()
        self.norm_1, self.norm_2 = RMSNorm(48), RMSNorm(48)
        self.Wqkv, self.out_proj = nn.Linear(48, 80), nn.Linear(48, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.Wqkv(self.norm_1(x)).split([48, 16, 16], -1)
        x = x + self.out_proj(attend(q, k, v, 6, 2, causal=True, cos_sin=angles(x.shape[1], 8)))
        return x + self.ffn(self.norm_2(x))


class RowLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(101, 48)
        self.blocks = nn.ModuleList([RowBlock() for _ in range(2)])
        self.norm_f = RMSNorm(48)
        self.lm_head = nn.Linear(48, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm_f(x))


@pair("qwen2moe-transformers-rows", family="qwen2moe", transforms=True)
def _qwen2moe() -> Pair:
    target = RowLM()
    at, own = "blocks.*.", "model.layers.*."
    experts = own + "mlp.experts."
    truth = mapped(target, {
        "wte": "model.embed_tokens", "norm_f": "model.norm", "lm_head": "lm_head",
        at + "norm_1": own + "input_layernorm",
        at + "norm_2": own + "post_attention_layernorm",
        at + "Wqkv": " + ".join(f"{own}self_attn.{each}_proj" for each in "qkv") + " > cat(0, 1)",
        at + "out_proj": own + "self_attn.o_proj",
        at + "ffn.router": own + "mlp.gate",
        at + "ffn.experts.w1": experts + "gate_up_proj : take(1, 0, 20, 1) | reshape(80, 48)",
        at + "ffn.experts.v1": experts + "gate_up_proj : take(1, 20, 40, 1) | reshape(80, 48)",
        at + "ffn.experts.w2": experts + "down_proj : permute(0, 2, 1) | reshape(80, 48)",
        at + "ffn.common.w1": own + "mlp.shared_expert.gate_proj",
        at + "ffn.common.w2": own + "mlp.shared_expert.down_proj",
        at + "ffn.common.w3": own + "mlp.shared_expert.up_proj",
        at + "ffn.common_gate": own + "mlp.shared_expert_gate",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    sizes = {"moe_intermediate_size": 20, "shared_expert_intermediate_size": 28, "num_experts": 4}
    source = Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES | sizes, num_experts_per_tok=2))
    return Pair(source, target, truth, logits(ids), called(ids))


# --------------------------------------------- GPT-OSS: gate and up take turns, sinks


class ClampedExpert(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(dim, inner), nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x).clamp(max=7), self.up(x).clamp(-7, 7)
        return self.down((up + 1) * gate * (1.702 * gate).sigmoid())


class SinkBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.mlp_norm = RMSNorm(48), RMSNorm(48)
        self.qkv, self.out = nn.Linear(48, 80), nn.Linear(48, 48)
        self.sink = nn.Parameter(torch.zeros(6))
        self.router = nn.Linear(48, 3)
        self.experts = nn.ModuleList([ClampedExpert(48, 36) for _ in range(3)])

    def attended(self, x: Tensor) -> Tensor:
        q, k, v = (
            each.unflatten(-1, (-1, 8)).transpose(1, 2) for each in self.qkv(x).split([48, 16, 16], -1)
        )
        q, k = (rotated(each, *angles(x.shape[1], 8)) for each in (q, k))
        k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
        scores = q @ k.transpose(-1, -2) * 8**-0.5
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
        sink = self.sink[None, :, None, None].expand(*scores.shape[:-1], 1)
        shares = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
        return self.out((shares @ v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attended(self.attn_norm(x))
        y = self.mlp_norm(x)
        best, chosen = self.router(y).topk(2)
        return x + routed(y, chosen, best.softmax(-1), lambda index, y: self.experts[index](y))


class SinkLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(101, 48)
        self.block = nn.ModuleList([SinkBlock() for _ in range(2)])
        self.norm = RMSNorm(48)
        self.unembedding = nn.Linear(48, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.block:
            x = block(x)
        return self.unembedding(self.norm(x))


@pair("gptoss-transformers-apart", family="gptoss", transforms=True)
def _gptoss() -> Pair:
    target = SinkLM()
    at, own = "block.*.", "model.layers.*."
    rules = {
        "embedding": "model.embed_tokens", "norm": "model.norm", "unembedding": "lm_head",
        at + "attn_norm": own + "input_layernorm",
        at + "mlp_norm": own + "post_attention_layernorm",
        at + "qkv": " + ".join(f"{own}self_attn.{each}_proj" for each in "qkv") + " > cat(0, 1)",
        at + "out": own + "self_attn.o_proj",
        at + "sink": own + "self_attn.sinks",
        at + "router": own + "mlp.router",
    }  # fmt: skip
    for index in range(3):
        mine, stacked = f"{at}experts.{index}.", own + "mlp.experts."
        one = f" : index(0, {index})"
        for place, half in enumerate(("gate", "up")):
            turn = f"{place}, {place + 1}, 36)"
            rules[f"{mine}{half}.weight"] = f"{stacked}gate_up_proj{one} | take(1, {turn} | transpose"
            rules[f"{mine}{half}.bias"] = f"{stacked}gate_up_proj_bias{one} | take(0, {turn}"
        rules[mine + "down.weight"] = f"{stacked}down_proj{one} | transpose"
        rules[mine + "down.bias"] = f"{stacked}down_proj_bias{one}"
    ids = tokens(2, 9, 101)
    sizes: dict[str, Any] = {
        "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2, "intermediate_size": 36,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    source = GptOssForCausalLM(GptOssConfig(**SIZES | sizes))
    return Pair(source, target, mapped(target, rules), logits(ids), called(ids))


# --------------------------------------- DeepSeek-V3: latent attention, its parts apart


class LatentAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down_q, self.norm_q = nn.Linear(48, 20, bias=False), RMSNorm(20)
        self.up_q_content, self.up_q_rotary = nn.Linear(20, 96, bias=False), nn.Linear(20, 48, bias=False)
        self.down_kv, self.norm_kv = nn.Linear(48, 12, bias=False), RMSNorm(12)
        self.up_k, self.up_v = nn.Linear(12, 96, bias=False), nn.Linear(12, 72, bias=False)
        self.k_rotary = nn.Linear(48, 8, bias=False)
        self.out = nn.Linear(72, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        latent_q, latent = self.norm_q(self.down_q(x)), self.norm_kv(self.down_kv(x))
        cos_sin = angles(x.shape[1], 8)
        q_turned = self.up_q_rotary(latent_q).unflatten(-1, (6, 8)).transpose(1, 2)
        q_turned = rotated(q_turned, *cos_sin, interleaved=True).transpose(1, 2)
        k_turned = rotated(self.k_rotary(x), *cos_sin, interleaved=True)[:, :, None].expand(-1, -1, 6, -1)
        q = torch.cat([self.up_q_content(latent_q).unflatten(-1, (6, 16)), q_turned], -1)
        k = torch.cat([self.up_k(latent).unflatten(-1, (6, 16)), k_turned], -1)
        return self.out(attend(q.flatten(2), k.flatten(2), self.up_v(latent), 6, causal=True))


class BiasedMoe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centroids = nn.Parameter(torch.zeros(4, 48))
        self.balance = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.experts = nn.ModuleList([FeedForward(48, 20) for _ in range(4)])
        self.shared = FeedForward(48, 20)

    def forward(self, x: Tensor) -> Tensor:
        scores = (x @ self.centroids.T).sigmoid()
        chosen = (scores + self.balance).topk(3).indices
        weights = scores.gather(-1, chosen)
        weights = 2.5 * weights / weights.sum(-1, keepdim=True)
        return routed(x, chosen, weights, lambda index, x: self.experts[index](x)) + self.shared(x)


class LatentBlock(nn.Module):
    def __init__(self, *, is_first: bool) -> None:
        super().__init__()
        self.before_mixing, self.before_ffn = RMSNorm(48), RMSNorm(48)
        self.mixing = LatentAttention()
        self.ffn = FeedForward(48, 72) if is_first else BiasedMoe()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixing(self.before_mixing(x))
        return x + self.ffn(self.before_ffn(x))


class LatentLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(101, 48)
        self.trunk = nn.Sequential(*(LatentBlock(is_first=at == 0) for at in range(3)))
        self.norm = RMSNorm(48)
        self.head = nn.Linear(48, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.trunk(self.embed(ids))))


def _deepseek_rules() -> dict[str, str]:
    at, own = "trunk.*.", "model.layers.*."
    mixing, attention = at + "mixing.", own + "self_attn."
    rules = {
        "embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head",
        at + "before_mixing": own + "input_layernorm", at + "before_ffn": own + "post_attention_layernorm",
        mixing + "down_q": attention + "q_a_proj", mixing + "norm_q": attention + "q_a_layernorm",
        mixing + "up_q_content": attention + "q_b_proj : take(0, 0, 16, 6)",
        mixing + "up_q_rotary": attention + "q_b_proj : take(0, 16, 24, 6)",
        mixing + "down_kv": attention + "kv_a_proj_with_mqa : take(0, 0, 12, 1)",
        mixing + "k_rotary": attention + "kv_a_proj_with_mqa : take(0, 12, 20, 1)",
        mixing + "norm_kv": attention + "kv_a_layernorm",
        mixing + "up_k": attention + "kv_b_proj : take(0, 0, 16, 6)",
        mixing + "up_v": attention + "kv_b_proj : take(0, 16, 28, 6)",
        mixing + "out": attention + "o_proj",
        at + "ffn.centroids": own + "mlp.gate.weight",
        at + "ffn.balance": own + "mlp.gate.e_score_correction_bias",
    }  # fmt: skip
    for ours, theirs in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
        rules[f"{at}ffn.{ours}"] = f"{own}mlp.{theirs}"
        rules[f"{at}ffn.shared.{ours}"] = f"{own}mlp.shared_experts.{theirs}"
    for index in range(4):
        stacked = own + "mlp.experts."
        fused = f"{stacked}gate_up_proj : index(0, {index}) | take(0, "
        rules[f"{at}ffn.experts.{index}.w1.weight"] = fused + "0, 20, 1)"
        rules[f"{at}ffn.experts.{index}.w3.weight"] = fused + "20, 40, 1)"
        rules[f"{at}ffn.experts.{index}.w2.weight"] = f"{stacked}down_proj : index(0, {index})"
    return rules


@pair("deepseekv3-transformers-apart", family="deepseek", transforms=True)
def _deepseek() -> Pair:
    target = LatentLM()
    sizes: dict[str, Any] = {
        "num_hidden_layers": 3, "num_key_value_heads": 6, "n_routed_experts": 4, "n_group": 1,
        "topk_group": 1, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "kv_lora_rank": 12,
        "q_lora_rank": 20, "qk_rope_head_dim": 8, "v_head_dim": 12, "qk_nope_head_dim": 16,
        "first_k_dense_replace": 1,
    }  # fmt: skip
    ids = tokens(6, 20, 101)  # enough that every expert is chosen
    source = DeepseekV3ForCausalLM(DeepseekV3Config(**SIZES | sizes))
    return Pair(source, target, mapped(target, _deepseek_rules()), logits(ids), called(ids))


# ------------------------------------------------------------------ Mamba: parts apart


class SelectiveScan(nn.Module):
    def __init__(self, dim: int, inner: int, state: int, rank: int) -> None:
        super().__init__()
        self.branch, self.gate = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.filter, self.filter_bias = nn.Parameter(torch.zeros(inner, 4)), nn.Parameter(torch.zeros(inner))
        self.step_low = nn.Linear(inner, rank, bias=False)
        self.step_high = nn.Linear(rank, inner)
        self.write, self.read = nn.Linear(inner, state, bias=False), nn.Linear(inner, state, bias=False)
        self.log_decay = nn.Parameter(torch.zeros(inner, state))
        self.skip = nn.Parameter(torch.ones(inner))
        self.back = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u = functional.pad(self.branch(x).transpose(1, 2), (3, 0))
        u = functional.conv1d(u, self.filter[:, None], self.filter_bias, groups=self.filter.shape[0])
        u = functional.silu(u).transpose(1, 2)
        step = functional.softplus(self.step_high(self.step_low(u)))
        write, read = self.write(u), self.read(u)
        kept = torch.exp(step[..., None] * -self.log_decay.exp())
        state, outputs = torch.zeros_like(kept[:, 0]), []
        for at in range(x.shape[1]):
            state = kept[:, at] * state + (step[:, at] * u[:, at])[..., None] * write[:, at, None]
            outputs.append((state * read[:, at, None]).sum(-1))
        y = torch.stack(outputs, 1) + self.skip * u
        return self.back(y * functional.silu(self.gate(x)))


class ScanLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(101, 40)
        self.norms = nn.ModuleList([RMSNorm(40) for _ in range(3)])
        self.scans = nn.ModuleList([SelectiveScan(40, 80, 6, 3) for _ in range(3)])
        self.last_norm = RMSNorm(40)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for norm, scan in zip(self.norms, self.scans):
            x = x + scan(norm(x))
        return self.last_norm(x) @ self.table.weight.T


@pair("mamba-transformers-apart", family="mamba", transforms=True)
def _mamba() -> Pair:
    target = ScanLM()
    at, own = "scans.*.", "backbone.layers.*.mixer."
    truth = mapped(target, {
        "table": "backbone.embeddings",
        "last_norm": "backbone.norm_f",
        "norms.*": "backbone.layers.*.norm",
        at + "branch": own + "in_proj : take(0, 0, 80, 1)",
        at + "gate": own + "in_proj : take(0, 80, 160, 1)",
        at + "filter": own + "conv1d.weight : reshape(80, 4)",
        at + "filter_bias": own + "conv1d.bias",
        at + "step_low": own + "x_proj : take(0, 0, 3, 1)",
        at + "write": own + "x_proj : take(0, 3, 9, 1)",
        at + "read": own + "x_proj : take(0, 9, 15, 1)",
        at + "step_high": own + "dt_proj",
        at + "log_decay": own + "A_log",
        at + "skip": own + "D",
        at + "back": own + "out_proj",
    })  # fmt: skip
    sizes: dict[str, Any] = {
        "vocab_size": 101, "hidden_size": 40, "num_hidden_layers": 3, "state_size": 6, "time_step_rank": 3,
        "layer_norm_epsilon": 1e-6,
    }  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(MambaForCausalLM(MambaConfig(**sizes)), target, truth, logits(ids), called(ids))


# --------------------------------------------------- Mamba 2: the same parts, renamed


class GroupRMSNorm(RMSNorm):
    """Two groups, each with a size of its own."""

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(-1, (2, -1))
        return rms(grouped, torch.ones(grouped.shape[-1])).flatten(-2) * self.weight


class HeadScan(nn.Module):
    """Heads decay each at its own pace; two groups of them share what is written and read."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(80, 40, bias=False)
        self.output_norm = GroupRMSNorm(80)
        self.skip_gain, self.decay, self.step_shift = (nn.Parameter(torch.zeros(8)) for _ in range(3))
        self.mix = nn.Conv1d(104, 104, 4, groups=104, padding=3)
        self.input = nn.Linear(40, 192, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        z, u, step = self.input(x).split([80, 104, 8], -1)
        u = functional.silu(self.mix(u.transpose(1, 2))[..., :length].transpose(1, 2))
        u, write, read = u.split([80, 12, 12], -1)
        u = u.unflatten(-1, (8, 10))
        write, read = (each.unflatten(-1, (2, 6)).repeat_interleave(4, 2) for each in (write, read))
        step = functional.softplus(step + self.step_shift)
        kept = torch.exp(step * -self.decay.exp())
        state, outputs = torch.zeros(x.shape[0], 8, 10, 6), []
        for at in range(length):
            change = step[:, at, :, None, None] * u[:, at, ..., None] * write[:, at, :, None]
            state = kept[:, at, :, None, None] * state + change
            outputs.append((state * read[:, at, :, None]).sum(-1))
        y = torch.stack(outputs, 1) + self.skip_gain[:, None] * u
        return self.output(self.output_norm(y.flatten(2) * functional.silu(z)))


class HeadScanLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.ModuleDict({"ssm": HeadScan(), "prenorm": RMSNorm(40)}) for _ in range(3)]
        )
        self.embed = nn.Embedding(101, 40)
        self.postnorm = RMSNorm(40)
        self.readout = nn.Linear(40, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            parts: Any = layer
            x = x + parts["ssm"](parts["prenorm"](x))
        return self.readout(self.postnorm(x))


@pair("mamba2-transformers-plain", family="mamba2")
def _mamba2() -> Pair:
    target = HeadScanLM()
    at, own = "layers.*.ssm.", "backbone.layers.*.mixer."
    truth = mapped(target, {
        "embed": "backbone.embeddings",
        "postnorm": "backbone.norm_f",
        "readout": "lm_head",
        "layers.*.prenorm": "backbone.layers.*.norm",
        at + "input": own + "in_proj",
        at + "mix": own + "conv1d",
        at + "step_shift": own + "dt_bias",
        at + "decay": own + "A_log",
        at + "skip_gain": own + "D",
        at + "output_norm": own + "norm",
        at + "output": own + "out_proj",
    })  # fmt: skip
    sizes: dict[str, Any] = {
        "vocab_size": 101, "hidden_size": 40, "num_hidden_layers": 3, "state_size": 6, "num_heads": 8,
        "head_dim": 10, "n_groups": 2, "chunk_size": 4, "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": False,
    }  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(Mamba2ForCausalLM(Mamba2Config(**sizes)), target, truth, logits(ids), called(ids))
