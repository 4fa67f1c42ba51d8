"""
The kin of BERT in transformers, and what other people call its parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AlbertModel,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import angles, attend, called, keys_of, logits, mapped, tokens

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 80, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip

# -------------------------------------------------- DistilBERT: kernels with an axis of heads


class EinsumDense(nn.Module):
    """Contracts the last axes of what comes in with the first of its kernel."""

    def __init__(self, kernel: tuple[int, ...], bias: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(kernel))
        self.bias = nn.Parameter(torch.zeros(bias))

    def forward(self, x: Tensor) -> Tensor:
        axes = self.kernel.ndim - self.bias.ndim
        return torch.tensordot(x, self.kernel, axes) + self.bias


class KerasAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        shape = (heads, dim // heads)
        self.num_heads = heads
        self.query_dense = EinsumDense((dim, *shape), shape)
        self.key_dense = EinsumDense((dim, *shape), shape)
        self.value_dense = EinsumDense((dim, *shape), shape)
        self.output_dense = EinsumDense((*shape, dim), (dim,))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).flatten(2) for each in (self.query_dense, self.key_dense, self.value_dense))
        return self.output_dense(attend(q, k, v, self.num_heads).unflatten(-1, (self.num_heads, -1)))


class KerasNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.gamma, self.beta, 1e-12)


class KerasBlock(nn.Module):
    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.att = KerasAttention(dim, heads)
        self.ffn = nn.Sequential(
            EinsumDense((dim, inner), (inner,)), nn.GELU(), EinsumDense((inner, dim), (dim,))
        )
        self.layernorm1, self.layernorm2 = KerasNorm(dim), KerasNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layernorm1(x + self.att(x))
        return self.layernorm2(x + self.ffn(x))


class KerasEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(97, 48)
        self.pos_emb = nn.Embedding(40, 48)
        self.embeddings_layer_norm = KerasNorm(48)
        self.blocks = nn.Sequential(*(KerasBlock(48, 4, 80) for _ in range(3)))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_emb(ids) + self.pos_emb.weight[: ids.shape[1]]
        return self.blocks(self.embeddings_layer_norm(x))


@pair("distilbert-transformers-keras", family="distilbert", transforms=True)
def _distilbert() -> Pair:
    target = KerasEncoder()
    at, own = "blocks.*.", "transformer.layer.*."
    rules = {
        "token_emb": "embeddings.word_embeddings",
        "pos_emb": "embeddings.position_embeddings",
        "embeddings_layer_norm": "embeddings.LayerNorm",
        at + "layernorm1": own + "sa_layer_norm",
        at + "layernorm2": own + "output_layer_norm",
        at + "ffn.0": own + "ffn.lin1 : transpose",
        at + "ffn.2": own + "ffn.lin2 : transpose",
        at + "att.output_dense.kernel": own + "attention.out_lin.weight : transpose | reshape(4, 12, 48)",
        at + "att.output_dense.bias": own + "attention.out_lin.bias",
    }
    for each in ("query", "key", "value"):
        linear = f"{own}attention.{each[0]}_lin"
        rules[f"{at}att.{each}_dense.kernel"] = linear + ".weight : transpose | reshape(48, 4, 12)"
        rules[f"{at}att.{each}_dense.bias"] = linear + ".bias : reshape(4, 12)"
    truth = mapped(target, rules, leaves={"gamma": "weight", "beta": "bias", "kernel": "weight"})
    ids = tokens(2, 9, 97)
    sizes: dict[str, Any] = {"dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 80}
    source = DistilBertModel(DistilBertConfig(vocab_size=97, max_position_embeddings=40, **sizes))
    return Pair(
        source, target, truth, lambda net: net(ids).last_hidden_state, called(ids),
        free=keys_of(truth, "key_dense.bias"),
    )  # fmt: skip


# ------------------------------------------------------- ALBERT: one block, used again


class SharedBlock(nn.Module):
    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.proj_q, self.proj_k, self.proj_v = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-12)
        self.pwff = nn.ModuleDict({"fc1": nn.Linear(dim, inner), "fc2": nn.Linear(inner, dim)})
        self.norm2 = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        mixed = attend(self.proj_q(x), self.proj_k(x), self.proj_v(x), self.heads)
        x = self.norm1(x + self.proj(mixed))
        y = functional.gelu(self.pwff["fc1"](x), approximate="tanh")
        return self.norm2(x + self.pwff["fc2"](y))


class FactorisedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok_embed1, self.tok_embed2 = nn.Embedding(97, 20), nn.Linear(20, 48)
        self.pos_embed, self.seg_embed = nn.Embedding(40, 20), nn.Embedding(2, 20)
        self.norm = nn.LayerNorm(20, eps=1e-12)
        self.block = SharedBlock(48, 4, 80)
        self.fc = nn.Linear(48, 48)

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        x = self.tok_embed1(ids) + self.pos_embed(torch.arange(ids.shape[1])) + self.seg_embed(segments)
        x = self.tok_embed2(self.norm(x))
        for _ in range(3):
            x = self.block(x)
        return x, self.fc(x[:, 0]).tanh()


@pair("albert-transformers-plain", family="albert")
def _albert() -> Pair:
    target = FactorisedEncoder()
    own = "encoder.albert_layer_groups.0.albert_layers.0."
    truth = mapped(target, {
        "tok_embed1": "embeddings.word_embeddings",
        "tok_embed2": "encoder.embedding_hidden_mapping_in",
        "pos_embed": "embeddings.position_embeddings",
        "seg_embed": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "block.proj_q": own + "attention.query",
        "block.proj_k": own + "attention.key",
        "block.proj_v": own + "attention.value",
        "block.proj": own + "attention.dense",
        "block.norm1": own + "attention.LayerNorm",
        "block.norm2": own + "full_layer_layer_norm",
        "block.pwff.fc1": own + "ffn",
        "block.pwff.fc2": own + "ffn_output",
        "fc": "pooler",
    })  # fmt: skip
    ids, segments = tokens(2, 9, 97), tokens(2, 9, 5) % 2

    def run(net: nn.Module) -> Any:
        found = net(ids, token_type_ids=segments)
        return found.last_hidden_state, found.pooler_output

    source = AlbertModel(AlbertConfig(**SIZES, embedding_size=20))
    return Pair(source, target, truth, run, called(ids, segments), free=keys_of(truth, "proj_k.bias"))


# ------------------------------------------------------------ RoBERTa: a tied head


class MultiheadAttention(nn.Module):
    """Keys are registered first."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(embed_dim, embed_dim) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.num_heads))


class TransformerSentenceEncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(48, 4)
        self.self_attn_layer_norm = nn.LayerNorm(48, eps=1e-12)
        self.fc1, self.fc2 = nn.Linear(48, 80), nn.Linear(80, 48)
        self.final_layer_norm = nn.LayerNorm(48, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x))
        return self.final_layer_norm(x + self.fc2(functional.gelu(self.fc1(x))))


class TransformerSentenceEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(97, 48)
        self.segment_embeddings = nn.Embedding(1, 48)
        self.embed_positions = nn.Embedding(40, 48)
        self.layers = nn.ModuleList([TransformerSentenceEncoderLayer() for _ in range(3)])
        self.emb_layer_norm = nn.LayerNorm(48, eps=1e-12)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(1, ids.shape[1] + 1)
        x = self.embed_tokens(ids) + self.embed_positions(places) + self.segment_embeddings.weight
        x = self.emb_layer_norm(x)
        for layer in self.layers:
            x = layer(x)
        return x


class RobertaLMHead(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.dense = nn.Linear(48, 48)
        self.layer_norm = nn.LayerNorm(48, eps=1e-12)
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(97))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.layer_norm(functional.gelu(self.dense(x))), self.weight, self.bias)


class FairseqRoberta(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.ModuleDict({"sentence_encoder": TransformerSentenceEncoder()})
        encoder: Any = self.decoder["sentence_encoder"]
        self.decoder["lm_head"] = RobertaLMHead(encoder.embed_tokens.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.decoder["lm_head"](self.decoder["sentence_encoder"](ids))


@pair("roberta-transformers-fairseq", family="roberta")
def _roberta() -> Pair:
    target = FairseqRoberta()
    encoder, own = "decoder.sentence_encoder.", "roberta.encoder.layer.*."
    at = encoder + "layers.*."
    truth = mapped(target, {
        encoder + "embed_tokens": "roberta.embeddings.word_embeddings",
        encoder + "segment_embeddings": "roberta.embeddings.token_type_embeddings",
        encoder + "embed_positions": "roberta.embeddings.position_embeddings",
        encoder + "emb_layer_norm": "roberta.embeddings.LayerNorm",
        at + "self_attn.q_proj": own + "attention.self.query",
        at + "self_attn.k_proj": own + "attention.self.key",
        at + "self_attn.v_proj": own + "attention.self.value",
        at + "self_attn.out_proj": own + "attention.output.dense",
        at + "self_attn_layer_norm": own + "attention.output.LayerNorm",
        at + "fc1": own + "intermediate.dense",
        at + "fc2": own + "output.dense",
        at + "final_layer_norm": own + "output.LayerNorm",
        "decoder.lm_head.dense": "lm_head.dense",
        "decoder.lm_head.layer_norm": "lm_head.layer_norm",
        "decoder.lm_head.weight": "lm_head.decoder.weight",
        "decoder.lm_head.bias": "lm_head.bias",
    })  # fmt: skip
    ids = tokens(2, 9, 97)
    source = RobertaForMaskedLM(RobertaConfig(**SIZES, type_vocab_size=1))
    return Pair(source, target, truth, logits(ids), called(ids), free=keys_of(truth, "k_proj.bias"))


# ------------------------------------------------------- ELECTRA: names of a letter or two


class Sa(nn.Module):
    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.h = h
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(attend(self.q(x), self.k(x), self.v(x), self.h))


class Enc(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sa = Sa(48, 4)
        self.n1, self.n2 = nn.LayerNorm(48, eps=1e-12), nn.LayerNorm(48, eps=1e-12)
        self.ff = nn.ModuleDict({"a": nn.Linear(48, 80), "b": nn.Linear(80, 48)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.n1(x + self.sa(x))
        return self.n2(x + self.ff["b"](functional.gelu(self.ff["a"](x))))


class Emb(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.p, self.t = nn.Embedding(97, 20), nn.Embedding(40, 20), nn.Embedding(2, 20)
        self.ln = nn.LayerNorm(20, eps=1e-12)
        self.up = nn.Linear(20, 48)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        return self.up(self.ln(self.w(x) + self.p.weight[: x.shape[1]] + self.t(s)))


class Terse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = Emb()
        self.enc = nn.ModuleList([Enc() for _ in range(3)])
        self.out = nn.ModuleDict({"d": nn.Linear(48, 20), "ln": nn.LayerNorm(20, eps=1e-12)})
        self.b = nn.Parameter(torch.zeros(97))

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        x = self.emb(x, s)
        for layer in self.enc:
            x = layer(x)
        y = self.out["ln"](functional.gelu(self.out["d"](x)))
        return y @ self.emb.w.weight.T + self.b


@pair("electra-transformers-terse", family="electra")
def _electra() -> Pair:
    target = Terse()
    at, own = "enc.*.", "electra.encoder.layer.*."
    truth = mapped(target, {
        "emb.w": "electra.embeddings.word_embeddings",
        "emb.p": "electra.embeddings.position_embeddings",
        "emb.t": "electra.embeddings.token_type_embeddings",
        "emb.ln": "electra.embeddings.LayerNorm",
        "emb.up": "electra.embeddings_project",
        at + "sa.q": own + "attention.self.query",
        at + "sa.k": own + "attention.self.key",
        at + "sa.v": own + "attention.self.value",
        at + "sa.o": own + "attention.output.dense",
        at + "n1": own + "attention.output.LayerNorm",
        at + "ff.a": own + "intermediate.dense",
        at + "ff.b": own + "output.dense",
        at + "n2": own + "output.LayerNorm",
        "out.d": "generator_predictions.dense",
        "out.ln": "generator_predictions.LayerNorm",
        "b": "generator_lm_head.bias",
    })  # fmt: skip
    ids, segments = tokens(2, 9, 97), tokens(2, 9, 5) % 2
    source = ElectraForMaskedLM(ElectraConfig(**SIZES, embedding_size=20))
    return Pair(
        source, target, truth, lambda net: net(ids, token_type_ids=segments).logits, called(ids, segments),
        free=keys_of(truth, "sa.k.bias"),
    )  # fmt: skip


# ------------------------------------------------------- DeBERTa: content and position


class Disentangled(nn.Module):
    """Content with content, content with distance, distance with content."""

    def __init__(self, dim: int, heads: int, span: int) -> None:
        super().__init__()
        self.heads, self.span = heads, span
        self.merge = nn.Linear(dim, dim)
        self.position_query, self.position_key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.content_value, self.content_key, self.content_query = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        head = x.shape[-1] // self.heads
        q, k = (f(x).unflatten(-1, (self.heads, head)) for f in (self.content_query, self.content_key))
        places = torch.arange(x.shape[1])
        table = distances[(places[:, None] - places[None, :] + self.span).clamp(0, 2 * self.span - 1)]
        far_k, far_q = (
            f(table).unflatten(-1, (self.heads, head)) for f in (self.position_key, self.position_query)
        )
        bias = torch.einsum("bihd,ijhd->bhij", q, far_k) + torch.einsum("bjhd,ijhd->bhij", k, far_q)
        scale = (3 * head) ** -0.5
        mixed = attend(
            q.flatten(2), k.flatten(2), self.content_value(x), self.heads, scale=scale, bias=bias * scale
        )
        return self.merge(mixed)


class DisentangledLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = Disentangled(48, 4, 16)
        self.after_mixing = nn.LayerNorm(48, eps=1e-7)
        self.widen, self.narrow = nn.Linear(48, 80), nn.Linear(80, 48)
        self.after_feedforward = nn.LayerNorm(48, eps=1e-7)

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        x = self.after_mixing(x + self.mixing(x, distances))
        return self.after_feedforward(x + self.narrow(functional.gelu(self.widen(x))))


class DisentangledLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(97, 48)
        self.after_words = nn.LayerNorm(48, eps=1e-7)
        self.distances = nn.Parameter(torch.zeros(32, 48))
        self.stack = nn.ModuleList([DisentangledLayer() for _ in range(3)])
        self.predict = nn.Sequential(nn.Linear(48, 48), nn.GELU(), nn.LayerNorm(48, eps=1e-7))
        self.word_bias = nn.Parameter(torch.zeros(97))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.after_words(self.words(ids))
        for layer in self.stack:
            x = layer(x, self.distances)
        return self.predict(x) @ self.words.weight.T + self.word_bias


@pair("debertav2-transformers-plain", family="deberta")
def _deberta() -> Pair:
    target = DisentangledLM()
    at, own = "stack.*.", "deberta.encoder.layer.*."
    truth = mapped(target, {
        "words": "deberta.embeddings.word_embeddings",
        "after_words": "deberta.embeddings.LayerNorm",
        "distances": "deberta.encoder.rel_embeddings.weight",
        at + "mixing.content_query": own + "attention.self.query_proj",
        at + "mixing.content_key": own + "attention.self.key_proj",
        at + "mixing.content_value": own + "attention.self.value_proj",
        at + "mixing.position_query": own + "attention.self.pos_query_proj",
        at + "mixing.position_key": own + "attention.self.pos_key_proj",
        at + "mixing.merge": own + "attention.output.dense",
        at + "after_mixing": own + "attention.output.LayerNorm",
        at + "widen": own + "intermediate.dense",
        at + "narrow": own + "output.dense",
        at + "after_feedforward": own + "output.LayerNorm",
        "predict.0": "cls.predictions.transform.dense",
        "predict.2": "cls.predictions.transform.LayerNorm",
        "word_bias": "cls.predictions.bias",
    })  # fmt: skip
    ids = tokens(2, 9, 97)
    sizes = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 16}
    source = DebertaV2ForMaskedLM(DebertaV2Config(**SIZES | sizes, position_biased_input=False))
    return Pair(source, target, truth, logits(ids), called(ids), free=keys_of(truth, "position_key.bias"))


# --------------------------------------------- ModernBERT: fused, no biases, rotary


class GegluLayer(nn.Module):
    def __init__(self, *, is_first: bool) -> None:
        super().__init__()
        self.pre_attention = nn.Identity() if is_first else nn.LayerNorm(48, bias=False)
        self.to_query, self.to_key, self.to_value = (nn.Linear(48, 48, bias=False) for _ in range(3))
        self.from_heads = nn.Linear(48, 48, bias=False)
        self.pre_ff = nn.LayerNorm(48, bias=False)
        self.ff_value, self.ff_gate = nn.Linear(48, 80, bias=False), nn.Linear(48, 80, bias=False)
        self.ff_out = nn.Linear(80, 48, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pre_attention(x)
        q, k, v = self.to_query(y), self.to_key(y), self.to_value(y)
        x = x + self.from_heads(attend(q, k, v, 4, cos_sin=angles(x.shape[1], 12)))
        y = self.pre_ff(x)
        return x + self.ff_out(functional.gelu(self.ff_value(y)) * self.ff_gate(y))


class GegluLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 48)
        self.embed_norm = nn.LayerNorm(48, bias=False)
        self.body = nn.Sequential(*(GegluLayer(is_first=at == 0) for at in range(3)))
        self.body_norm = nn.LayerNorm(48, bias=False)
        self.transform = nn.Linear(48, 48, bias=False)
        self.transform_norm = nn.LayerNorm(48, bias=False)
        self.unembed = nn.Linear(48, 97)
        self.unembed.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.body_norm(self.body(self.embed_norm(self.embed(ids))))
        return self.unembed(self.transform_norm(functional.gelu(self.transform(x))))


@pair("modernbert-transformers-split", family="modernbert", transforms=True)
def _modernbert() -> Pair:
    target = GegluLM()
    at, own = "body.*.", "model.layers.*."
    fused = own + "attn.Wqkv : take(0, "
    truth = mapped(target, {
        "embed": "model.embeddings.tok_embeddings",
        "embed_norm": "model.embeddings.norm",
        "body_norm": "model.final_norm",
        "transform": "head.dense",
        "transform_norm": "head.norm",
        "unembed": "decoder",
        at + "pre_attention": own + "attn_norm",
        at + "to_query": fused + "0, 48, 1)",
        at + "to_key": fused + "48, 96, 1)",
        at + "to_value": fused + "96, 144, 1)",
        at + "from_heads": own + "attn.Wo",
        at + "pre_ff": own + "mlp_norm",
        at + "ff_value": own + "mlp.Wi : take(0, 0, 80, 1)",
        at + "ff_gate": own + "mlp.Wi : take(0, 80, 160, 1)",
        at + "ff_out": own + "mlp.Wo",
    })  # fmt: skip
    ids = tokens(2, 9, 97)
    sizes: dict[str, Any] = {
        "global_rope_theta": 10000.0, "local_rope_theta": 10000.0, "bos_token_id": 2, "eos_token_id": 1,
        "cls_token_id": 2, "sep_token_id": 1,
    }  # fmt: skip
    source = ModernBertForMaskedLM(ModernBertConfig(**SIZES | sizes))
    return Pair(source, target, truth, logits(ids), called(ids))
