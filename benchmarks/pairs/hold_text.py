"""
Held out: text models of families that no other pair has, and rewrites of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CodeGenConfig,
    CodeGenForCausalLM,
    FNetConfig,
    FNetForMaskedLM,
    LayoutLMConfig,
    LayoutLMForTokenClassification,
    MPNetConfig,
    MPNetForMaskedLM,
    NemotronConfig,
    NemotronForCausalLM,
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import angles, attend, called, keys_of, logits, mapped, tokens

_BERT: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 80, "max_position_embeddings": 40,
}  # fmt: skip

# ------------------------------------------------------------- FNet: Fourier, no attention


class MixingBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mixing_norm = nn.LayerNorm(dim, eps=1e-12)
        self.ff1 = nn.Linear(dim, hidden)
        self.ff2 = nn.Linear(hidden, dim)
        self.output_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixing_norm(x + torch.fft.fft2(x).real)
        return self.output_norm(x + self.ff2(functional.gelu(self.ff1(x), approximate="tanh")))


class FourierEncoder(nn.Module):
    """The names of the paper's own JAX code, roughly."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(97, 48)
        self.position = nn.Parameter(torch.zeros(40, 48))
        self.segment = nn.Embedding(4, 48)
        self.layer_norm = nn.LayerNorm(48, eps=1e-12)
        self.hidden_mapping_in = nn.Linear(48, 48)
        self.encoder_blocks = nn.ModuleList([MixingBlock(48, 80) for _ in range(3)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word(ids) + self.segment.weight[0] + self.position[: ids.shape[1]]
        x = self.hidden_mapping_in(self.layer_norm(x))
        for block in self.encoder_blocks:
            x = block(x)
        return x


class FourierMasked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = FourierEncoder()
        self.predictions_dense = nn.Linear(48, 48)
        self.predictions_layer_norm = nn.LayerNorm(48, eps=1e-12)
        self.predictions_output = nn.Linear(48, 97)

    def forward(self, ids: Tensor) -> Tensor:
        x = functional.gelu(self.predictions_dense(self.encoder(ids)), approximate="tanh")
        return self.predictions_output(self.predictions_layer_norm(x))


@pair("fnet-transformers-plain", family="fnet")
def _fnet() -> Pair:
    settings = _BERT | {"type_vocab_size": 4, "tie_word_embeddings": False}
    del settings["num_attention_heads"]
    source, target = FNetForMaskedLM(FNetConfig(**settings)), FourierMasked()
    own, at = "fnet.encoder.layer.*.", "encoder.encoder_blocks.*."
    rules = {
        "encoder.word": "fnet.embeddings.word_embeddings",
        "encoder.position": "fnet.embeddings.position_embeddings.weight",
        "encoder.segment": "fnet.embeddings.token_type_embeddings",
        "encoder.layer_norm": "fnet.embeddings.LayerNorm",
        "encoder.hidden_mapping_in": "fnet.embeddings.projection",
        at + "mixing_norm": own + "fourier.output.LayerNorm",
        at + "ff1": own + "intermediate.dense",
        at + "ff2": own + "output.dense",
        at + "output_norm": own + "output.LayerNorm",
        "predictions_dense": "cls.predictions.transform.dense",
        "predictions_layer_norm": "cls.predictions.transform.LayerNorm",
        "predictions_output": "cls.predictions.decoder",
    }
    ids = tokens(2, 9, 97)
    return Pair(source, target, mapped(target, rules), logits(ids), called(ids))


# --------------------------------------------- MPNet: relative positions, one bias for all


def _buckets(length: int) -> Tensor:
    apart = torch.arange(length)[:, None] - torch.arange(length)[None]
    distance = apart.abs().clamp(max=7)
    return torch.where(apart < 0, 16, 0) + distance


class MultiHeadSelfAttention(nn.Module):
    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.in_proj = nn.ModuleList([nn.Linear(dim, dim) for _ in range(3)])
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (each(x) for each in self.in_proj)
        return self.out_proj(attend(q, k, v, self.n_heads, bias=bias))


class PostNormLayer(nn.Module):
    def __init__(self, dim: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = MultiHeadSelfAttention(dim, n_heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim, eps=1e-12)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x, bias))
        return self.final_layer_norm(x + self.fc2(functional.gelu(self.fc1(x))))


class PermutedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(97, 48, padding_idx=1)
        self.embed_positions = nn.Embedding(40, 48)
        self.emb_layer_norm = nn.LayerNorm(48, eps=1e-12)
        self.relative_attention_bias = nn.Embedding(32, 4)
        self.layers = nn.ModuleList([PostNormLayer(48, 4, 80) for _ in range(3)])
        self.lm_head = nn.Sequential(nn.Linear(48, 48), nn.GELU(), nn.LayerNorm(48, eps=1e-12))
        self.lm_bias = nn.Parameter(torch.zeros(97))

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.emb_layer_norm(self.embed_tokens(ids) + self.embed_positions.weight[2 : length + 2])
        bias = self.relative_attention_bias(_buckets(length)).permute(2, 0, 1)
        for layer in self.layers:
            x = layer(x, bias)
        return functional.linear(self.lm_head(x), self.embed_tokens.weight, self.lm_bias)


@pair("mpnet-transformers-fairseq", family="mpnet")
def _mpnet() -> Pair:
    source, target = MPNetForMaskedLM(MPNetConfig(layer_norm_eps=1e-12, **_BERT)), PermutedEncoder()
    own, at = "mpnet.encoder.layer.*.", "layers.*."
    rules = {
        "embed_tokens": "mpnet.embeddings.word_embeddings",
        "embed_positions": "mpnet.embeddings.position_embeddings",
        "emb_layer_norm": "mpnet.embeddings.LayerNorm",
        "relative_attention_bias": "mpnet.encoder.relative_attention_bias",
        "lm_head.0": "lm_head.dense",
        "lm_head.2": "lm_head.layer_norm",
        "lm_bias": "lm_head.bias",
        at + "self_attn.in_proj.0": own + "attention.attn.q",
        at + "self_attn.in_proj.1": own + "attention.attn.k",
        at + "self_attn.in_proj.2": own + "attention.attn.v",
        at + "self_attn.out_proj": own + "attention.attn.o",
        at + "self_attn_layer_norm": own + "attention.LayerNorm",
        at + "fc1": own + "intermediate.dense",
        at + "fc2": own + "output.dense",
        at + "final_layer_norm": own + "output.LayerNorm",
    }
    truth = mapped(target, rules)
    ids = tokens(2, 7, 97)
    return Pair(
        source, target, truth, logits(ids), called(ids), free=keys_of(truth, "in_proj.1.bias")
    )  # fmt: skip


# -------------------------------------------- SqueezeBERT: convolutions of one position


class LinearLayer(nn.Module):
    def __init__(self, dim: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attn_qkv = nn.Linear(dim, 3 * dim)
        self.attn_out = nn.Linear(dim, dim)
        self.attn_ln = nn.LayerNorm(dim, eps=1e-12)
        self.ffn_in = nn.Linear(dim, hidden)
        self.ffn_out = nn.Linear(hidden, dim)
        self.ffn_ln = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.attn_qkv(x).chunk(3, -1)
        x = self.attn_ln(x + self.attn_out(attend(q, k, v, self.n_heads)))
        return self.ffn_ln(x + self.ffn_out(functional.gelu(self.ffn_in(x))))


class LinearClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(97, 48)
        self.pos_emb = nn.Embedding(40, 48)
        self.seg_emb = nn.Embedding(2, 48)
        self.emb_ln = nn.LayerNorm(48, eps=1e-12)
        self.blocks = nn.ModuleList([LinearLayer(48, 4, 80) for _ in range(3)])
        self.pool = nn.Linear(48, 48)
        self.head = nn.Linear(48, 7)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_emb(ids) + self.pos_emb.weight[: ids.shape[1]] + self.seg_emb.weight[0]
        x = self.emb_ln(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x[:, 0]).tanh())


@pair("squeezebert-transformers-linear", family="squeezebert", transforms=True)
def _squeezebert() -> Pair:
    ones: dict[str, Any] = {
        f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")
    }
    config = SqueezeBertConfig(embedding_size=48, **_BERT, **ones)
    config.num_labels = 7
    source, target = SqueezeBertForSequenceClassification(config), LinearClassifier()
    own, at, att = "transformer.encoder.layers.*.", "blocks.*.", "transformer.encoder.layers.*.attention."
    flat = " : reshape(48, 48)"
    fused = " + ".join(f"{att}{each}.weight{flat}" for each in ("query", "key", "value"))
    rules = {
        "tok_emb": "transformer.embeddings.word_embeddings",
        "pos_emb": "transformer.embeddings.position_embeddings",
        "seg_emb": "transformer.embeddings.token_type_embeddings",
        "emb_ln": "transformer.embeddings.LayerNorm",
        at + "attn_qkv.weight": fused + " > cat(0, 1)",
        at + "attn_qkv.bias": f"{att}query.bias + {att}key.bias + {att}value.bias > cat(0, 1)",
        at + "attn_out.weight": own + "post_attention.conv1d.weight" + flat,
        at + "attn_out.bias": own + "post_attention.conv1d.bias",
        at + "attn_ln": own + "post_attention.layernorm",
        at + "ffn_in.weight": own + "intermediate.conv1d.weight : reshape(80, 48)",
        at + "ffn_in.bias": own + "intermediate.conv1d.bias",
        at + "ffn_out.weight": own + "output.conv1d.weight : reshape(48, 80)",
        at + "ffn_out.bias": own + "output.conv1d.bias",
        at + "ffn_ln": own + "output.layernorm",
        "pool": "transformer.pooler.dense",
        "head": "classifier",
    }
    truth = mapped(target, rules)
    ids = tokens(2, 9, 97)
    return Pair(source, target, truth, logits(ids), called(ids))


# ---------------------------------- Nemotron: norms around 1, squared relu, partial rotary


class SquaredReluBlock(nn.Module):
    def __init__(self, dim: int, n_heads: int, n_kv: int, hidden: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv
        head = dim // n_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, n_kv * head, bias=False)
        self.wv = nn.Linear(dim, n_kv * head, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.ffn_norm = nn.LayerNorm(dim)
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
        y = self.attention_norm(x)
        q, k, v = self.wq(y), self.wk(y), self.wv(y)
        x = x + self.wo(attend(q, k, v, self.n_heads, self.n_kv_heads, causal=True, cos_sin=cos_sin))
        return x + self.w2(self.w1(self.ffn_norm(x)).relu().square())


class SquaredReluDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(97, 64)
        self.h = nn.ModuleList([SquaredReluBlock(64, 4, 2, 112) for _ in range(3)])
        self.ln_f = nn.LayerNorm(64)
        self.unembed = nn.Linear(64, 97, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x, cos_sin = self.wte(ids), angles(ids.shape[1], 8)
        for block in self.h:
            x = block(x, cos_sin)
        return self.unembed(self.ln_f(x))


@pair("nemotron-transformers-plain", family="nemotron", transforms=True)
def _nemotron() -> Pair:
    settings = _BERT | {"hidden_size": 64, "intermediate_size": 112, "num_key_value_heads": 2}
    source, target = NemotronForCausalLM(NemotronConfig(**settings)), SquaredReluDecoder()
    own, at = "model.layers.*.", "h.*."
    rules = {
        "wte": "model.embed_tokens",
        "ln_f.weight": "model.norm.weight : add(1)",
        "ln_f.bias": "model.norm.bias",
        at + "attention_norm.weight": own + "input_layernorm.weight : add(1)",
        at + "attention_norm.bias": own + "input_layernorm.bias",
        at + "ffn_norm.weight": own + "post_attention_layernorm.weight : add(1)",
        at + "ffn_norm.bias": own + "post_attention_layernorm.bias",
        at + "w1": own + "mlp.up_proj",
        at + "w2": own + "mlp.down_proj",
        "unembed": "lm_head",
    }
    rules |= {f"{at}w{each}": f"{own}self_attn.{each}_proj" for each in "qkvo"}
    ids = tokens(2, 9, 97)
    return Pair(source, target, mapped(target, rules), logits(ids), called(ids))


# ------------------------------- CodeGen: rows of four machines, query, value, key in each


class ParallelBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.o = nn.Linear(dim, dim, bias=False)
        self.dense_proj = nn.Linear(dim, 4 * dim)
        self.dense_proj_o = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
        y = self.norm(x)
        mixed = attend(
            self.q(y), self.k(y), self.v(y), self.heads, causal=True, cos_sin=cos_sin, interleaved=True
        )
        dense = self.dense_proj_o(functional.gelu(self.dense_proj(y), approximate="tanh"))
        return x + self.o(mixed) + dense


class ParallelDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 64)
        self.transformer_layers = nn.ModuleList([ParallelBlock(64, 8) for _ in range(3)])
        self.proj_norm = nn.LayerNorm(64)
        self.proj = nn.Linear(64, 97)

    def forward(self, ids: Tensor) -> Tensor:
        x, cos_sin = self.embed(ids), angles(ids.shape[1], 4)
        for layer in self.transformer_layers:
            x = layer(x, cos_sin)
        return self.proj(self.proj_norm(x))


@pair("codegen-transformers-split", family="codegen", transforms=True)
def _codegen() -> Pair:
    config = CodeGenConfig(
        vocab_size=97, n_positions=40, n_ctx=40, n_embd=64, n_layer=3, n_head=8, rotary_dim=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    source, target = CodeGenForCausalLM(config), ParallelDecoder()
    own, at = "transformer.h.*.", "transformer_layers.*."
    rules = {
        "embed": "transformer.wte",
        at + "norm": own + "ln_1",
        at + "q": own + "attn.qkv_proj : take(0, 0, 16, 4)",
        at + "v": own + "attn.qkv_proj : take(0, 16, 32, 4)",
        at + "k": own + "attn.qkv_proj : take(0, 32, 48, 4)",
        at + "o": own + "attn.out_proj",
        at + "dense_proj": own + "mlp.fc_in",
        at + "dense_proj_o": own + "mlp.fc_out",
        "proj_norm": "transformer.ln_f",
        "proj": "lm_head",
    }
    ids = tokens(2, 9, 97)
    return Pair(source, target, mapped(target, rules), logits(ids), called(ids))


# --------------------------------------------------- LayoutLM: where a word lies on a page


class PageEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token = nn.Embedding(97, dim)
        self.segment = nn.Embedding(2, dim)
        self.pos_1d = nn.Embedding(40, dim)
        self.pos_x = nn.Embedding(64, dim)
        self.pos_y = nn.Embedding(64, dim)
        self.pos_w = nn.Embedding(64, dim)
        self.pos_h = nn.Embedding(64, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, ids: Tensor, boxes: Tensor) -> Tensor:
        left, top, right, bottom = boxes.unbind(-1)
        x = self.token(ids) + self.segment.weight[0] + self.pos_1d.weight[: ids.shape[1]]
        x = x + self.pos_x(left) + self.pos_x(right) + self.pos_y(top) + self.pos_y(bottom)
        return self.norm(x + self.pos_w(right - left) + self.pos_h(bottom - top))


class PageLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.attn_norm = nn.LayerNorm(dim, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn_norm(x + self.attn(x, x, x, need_weights=False)[0])
        return self.mlp_norm(x + self.mlp(x))


class PageTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = PageEmbedding(48)
        self.layers = nn.Sequential(*(PageLayer(48, 4, 80) for _ in range(3)))
        self.tagger = nn.Linear(48, 7)

    def forward(self, ids: Tensor, boxes: Tensor) -> Tensor:
        return self.tagger(self.layers(self.embed(ids, boxes)))


@pair("layoutlm-transformers-torch", family="layoutlm", transforms=True)
def _layoutlm() -> Pair:
    config = LayoutLMConfig(max_2d_position_embeddings=64, **_BERT)
    config.num_labels = 7
    source, target = LayoutLMForTokenClassification(config), PageTagger()
    own, at = "layoutlm.encoder.layer.{n}.", "layers.{n}."
    layer = {
        "attn.out_proj": "attention.output.dense",
        "attn_norm": "attention.output.LayerNorm",
        "mlp.0": "intermediate.dense",
        "mlp.2": "output.dense",
        "mlp_norm": "output.LayerNorm",
    }
    words = {"token": "word", "segment": "token_type", "pos_1d": "position"}
    words |= {f"pos_{each}": f"{each}_position" for each in "xywh"}
    rules = {f"embed.{a}": f"layoutlm.embeddings.{b}_embeddings" for a, b in words.items()}
    rules |= {"embed.norm": "layoutlm.embeddings.LayerNorm", "tagger": "classifier"}
    for n in range(3):
        here, there = at.format(n=n), own.format(n=n)
        rules |= {here + a: there + b for a, b in layer.items()}
        for leaf in ("weight", "bias"):
            parts = (f"{there}attention.self.{each}.{leaf}" for each in ("query", "key", "value"))
            rules[f"{here}attn.in_proj_{leaf}"] = " + ".join(parts) + " > cat(0, 1)"
    ids = tokens(2, 9, 97)
    chance = torch.Generator().manual_seed(4)
    corner = torch.randint(0, 32, (2, 9, 2), generator=chance)
    boxes = torch.cat([corner, corner + torch.randint(0, 32, (2, 9, 2), generator=chance)], -1)
    return Pair(
        source, target, mapped(target, rules), lambda net: net(ids, bbox=boxes).logits, called(ids, boxes)
    )  # fmt: skip
