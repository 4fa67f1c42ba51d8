"""
Proteins, permutations, retrieval, recommendation, and language models of other kinds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    EsmConfig,
    EsmForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    XLNetConfig,
    XLNetModel,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import angles, attend, called, keys_of, logits, mapped, tokens

# --------------------------------------------- GPT-2 and GPT-BigCode: equal names, other layout


@pair("gpt2-transformers-gptbigcode", family="gpt2", transforms=True)
def _bigcode() -> Pair:
    sizes: dict[str, Any] = {
        "vocab_size": 101, "n_positions": 24, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 72,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    target = GPTBigCodeForCausalLM(GPTBigCodeConfig(**sizes, multi_query=False))
    at = "transformer.h.*."
    rules = {at + each: f"{at}{each} : transpose" for each in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    rules |= {at + each: at + each for each in ("ln_1", "ln_2")}
    rules |= {f"transformer.{each}": f"transformer.{each}" for each in ("wte", "wpe", "ln_f")}
    rules |= {"lm_head": "lm_head", at + "attn.c_attn": at + "attn.c_attn : transpose | swap(0, 1, 3, 4)"}
    ids = tokens(2, 9, 101)
    source = GPT2LMHeadModel(GPT2Config(**sizes))
    return Pair(source, target, mapped(target, rules), logits(ids), logits(ids))


# ------------------------------------------------------------------- ESM: rotary, first norms


class ProteinAttention(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(embed_dim, embed_dim) for _ in range(4)
        )
        head = embed_dim // num_heads
        self.rot_emb = nn.Module()
        self.rot_emb.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, head, 2) / head))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        cos_sin = angles(x.shape[1], x.shape[2] // self.num_heads)
        return self.out_proj(attend(q, k, v, self.num_heads, cos_sin=cos_sin))


class ProteinLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = ProteinAttention(48, 4)
        self.self_attn_layer_norm = nn.LayerNorm(48)
        self.fc1, self.fc2 = nn.Linear(48, 80), nn.Linear(80, 48)
        self.final_layer_norm = nn.LayerNorm(48)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))


class ProteinHead(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.dense = nn.Linear(48, 48)
        self.layer_norm = nn.LayerNorm(48)
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(33))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.layer_norm(functional.gelu(self.dense(x))), self.weight, self.bias)


class ProteinLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(33, 48)
        self.layers = nn.ModuleList([ProteinLayer() for _ in range(3)])
        self.emb_layer_norm_after = nn.LayerNorm(48)
        self.lm_head = ProteinHead(self.embed_tokens.weight)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.emb_layer_norm_after(x))


@pair("esm-transformers-fairseq", family="esm")
def _esm() -> Pair:
    target = ProteinLM()
    at, own = "layers.*.", "esm.encoder.layer.*."
    made = tuple(f"layers.{index}.self_attn.rot_emb.inv_freq" for index in range(3))
    truth = mapped(target, {
        "embed_tokens": "esm.embeddings.word_embeddings",
        "emb_layer_norm_after": "esm.encoder.emb_layer_norm_after",
        at + "self_attn.q_proj": own + "attention.self.query",
        at + "self_attn.k_proj": own + "attention.self.key",
        at + "self_attn.v_proj": own + "attention.self.value",
        at + "self_attn.out_proj": own + "attention.output.dense",
        at + "self_attn_layer_norm": own + "attention.LayerNorm",
        at + "fc1": own + "intermediate.dense",
        at + "fc2": own + "output.dense",
        at + "final_layer_norm": own + "LayerNorm",
        "lm_head.weight": "lm_head.decoder.weight",
        "lm_head.bias": "lm_head.bias",
        "lm_head.dense": "lm_head.dense",
        "lm_head.layer_norm": "lm_head.layer_norm",
    }, made=made)  # fmt: skip
    ids = tokens(2, 9, 33)
    sizes: dict[str, Any] = {
        "vocab_size": 33, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 80, "max_position_embeddings": 40, "pad_token_id": 0, "mask_token_id": 1,
        "position_embedding_type": "rotary", "layer_norm_eps": 1e-5,
    }  # fmt: skip
    source = EsmForMaskedLM(EsmConfig(**sizes))
    return Pair(source, target, truth, logits(ids), called(ids), made=made)


# ------------------------------------------------ XLNet: heads as axes, relative distances


class RelativeBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_net, self.kv_net = nn.Linear(48, 48, bias=False), nn.Linear(48, 96, bias=False)
        self.r_net, self.o_net = nn.Linear(48, 48, bias=False), nn.Linear(48, 48, bias=False)
        self.u, self.v = nn.Parameter(torch.zeros(48)), nn.Parameter(torch.zeros(48))
        self.ln1, self.ln2 = nn.LayerNorm(48, eps=1e-12), nn.LayerNorm(48, eps=1e-12)
        self.core = nn.Sequential(nn.Linear(48, 80), nn.GELU(), nn.Linear(80, 48))

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        q, (k, v) = self.q_net(x), self.kv_net(x).chunk(2, -1)
        r = self.r_net(distances).unflatten(-1, (4, 12))
        far = torch.einsum("bihd,ijhd->bhij", (q + self.v).unflatten(-1, (4, 12)), r) * 12**-0.5
        x = self.ln1(x + self.o_net(attend(q + self.u, k, v, 4, bias=far)))
        return self.ln2(x + self.core(x))


class RelativeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_emb = nn.Embedding(97, 48)
        self.layers = nn.ModuleList([RelativeBlock() for _ in range(3)])

    def forward(self, ids: Tensor) -> Tensor:
        x, length = self.word_emb(ids), ids.shape[1]
        places = torch.arange(length)
        speeds = 10000.0 ** (-torch.arange(0, 48, 2) / 48)
        turned = (places[:, None] - places[None, :])[..., None] * speeds
        distances = torch.cat([turned.sin(), turned.cos()], -1)
        for layer in self.layers:
            x = layer(x, distances)
        return x


@pair("xlnet-transformers-plain", family="xlnet", transforms=True)
def _xlnet() -> Pair:
    target = RelativeNet()
    at, own = "layers.*.", "layer.*."
    apart = " : reshape(48, 48) | transpose"
    truth = mapped(target, {
        "word_emb": "word_embedding",
        at + "q_net.weight": own + "rel_attn.q" + apart,
        at + "kv_net.weight": f"{own}rel_attn.k{apart} + {own}rel_attn.v{apart} > cat(0, 1)",
        at + "r_net.weight": own + "rel_attn.r" + apart,
        at + "o_net.weight": own + "rel_attn.o : reshape(48, 48)",
        at + "u": own + "rel_attn.r_w_bias : reshape(48)",
        at + "v": own + "rel_attn.r_r_bias : reshape(48)",
        at + "ln1": own + "rel_attn.layer_norm",
        at + "ln2": own + "ff.layer_norm",
        at + "core.0": own + "ff.layer_1",
        at + "core.2": own + "ff.layer_2",
    })  # fmt: skip
    sizes: dict[str, Any] = {"vocab_size": 97, "d_model": 48, "n_layer": 3, "n_head": 4, "d_inner": 80}
    ids = tokens(2, 9, 97)
    source = XLNetModel(XLNetConfig(**sizes))
    return Pair(source, target, truth, lambda net: net(ids).last_hidden_state, called(ids))


# ------------------------------------------------------- retrieval: two towers of one kind


def _tower() -> BertModel:
    sizes: dict[str, Any] = {
        "vocab_size": 97, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 72, "max_position_embeddings": 24, "type_vocab_size": 1,
    }  # fmt: skip
    return BertModel(BertConfig(**sizes), add_pooling_layer=False)


class TowerLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn_q, self.attn_k, self.attn_v, self.attn_out = (nn.Linear(40, 40) for _ in range(4))
        self.attn_norm = nn.LayerNorm(40, eps=1e-12)
        self.ffn_in, self.ffn_out = nn.Linear(40, 72), nn.Linear(72, 40)
        self.ffn_norm = nn.LayerNorm(40, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn_norm(x + self.attn_out(attend(self.attn_q(x), self.attn_k(x), self.attn_v(x), 4)))
        return self.ffn_norm(x + self.ffn_out(functional.gelu(self.ffn_in(x))))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb_norm = nn.LayerNorm(40, eps=1e-12)
        self.word_emb, self.pos_emb, self.type_emb = (
            nn.Embedding(97, 40),
            nn.Embedding(24, 40),
            nn.Embedding(1, 40),
        )
        self.layers = nn.Sequential(*(TowerLayer() for _ in range(2)))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word_emb(ids) + self.pos_emb.weight[: ids.shape[1]] + self.type_emb.weight
        return self.layers(self.emb_norm(x))[:, 0]


class Retriever(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.passage_tower, self.question_tower = Tower(), Tower()

    def forward(self, question: Tensor, passage: Tensor) -> tuple[Tensor, Tensor]:
        return self.question_tower(question), self.passage_tower(passage)


@pair("dpr-transformers-towers", family="dpr")
def _dpr() -> Pair:
    target = Retriever()
    rules: dict[str, str] = {}
    for ours, theirs in (("question_tower", "question_encoder"), ("passage_tower", "ctx_encoder")):
        at, own = ours + ".layers.*.", theirs + ".encoder.layer.*."
        rules |= {
            ours + ".word_emb": theirs + ".embeddings.word_embeddings",
            ours + ".pos_emb": theirs + ".embeddings.position_embeddings",
            ours + ".type_emb": theirs + ".embeddings.token_type_embeddings",
            ours + ".emb_norm": theirs + ".embeddings.LayerNorm",
            at + "attn_q": own + "attention.self.query",
            at + "attn_k": own + "attention.self.key",
            at + "attn_v": own + "attention.self.value",
            at + "attn_out": own + "attention.output.dense",
            at + "attn_norm": own + "attention.output.LayerNorm",
            at + "ffn_in": own + "intermediate.dense",
            at + "ffn_out": own + "output.dense",
            at + "ffn_norm": own + "output.LayerNorm",
        }
    question, passage = tokens(2, 6, 97), tokens(2, 9, 97, seed=1)

    def run(net: Any) -> Any:
        pairs = ((net["question_encoder"], question), (net["ctx_encoder"], passage))
        return tuple(tower(ids).last_hidden_state[:, 0] for tower, ids in pairs)

    source = nn.ModuleDict({"question_encoder": _tower(), "ctx_encoder": _tower()})
    truth = mapped(target, rules)
    return Pair(source, target, truth, run, called(question, passage), free=keys_of(truth, "attn_k.bias"))


# ---------------------------------------------------- recommendation: convolutions of one


class PointWise(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(units, units, 1), nn.Conv1d(units, units, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x.transpose(1, 2)).relu()).transpose(1, 2)


class Sequences(nn.Module):
    """Lists of one kind of part, not a list of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.item_emb, self.pos_emb = nn.Embedding(83, 36), nn.Embedding(20, 36)
        self.attention_layernorms = nn.ModuleList([nn.LayerNorm(36, eps=1e-8) for _ in range(2)])
        self.attention_layers = nn.ModuleList([
            nn.MultiheadAttention(36, 3, batch_first=True) for _ in range(2)
        ])  # fmt: skip
        self.forward_layernorms = nn.ModuleList([nn.LayerNorm(36, eps=1e-8) for _ in range(2)])
        self.forward_layers = nn.ModuleList([PointWise(36) for _ in range(2)])
        self.last_layernorm = nn.LayerNorm(36, eps=1e-8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.item_emb(ids) * 6 + self.pos_emb.weight[: ids.shape[1]]
        hidden = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
        parts = (
            self.attention_layernorms,
            self.attention_layers,
            self.forward_layernorms,
            self.forward_layers,
        )
        for norm, attention, second, forward in zip(*parts):
            q = norm(x)
            x = forward(second(q + attention(q, x, x, attn_mask=hidden, need_weights=False)[0]))
        return self.last_layernorm(x) @ self.item_emb.weight.T


class TasteBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(36, 36) for _ in range(4))
        self.dense1, self.dense2 = nn.Linear(36, 36), nn.Linear(36, 36)
        self.norm_q, self.norm_ff = nn.LayerNorm(36, eps=1e-8), nn.LayerNorm(36, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        q = self.norm_q(x)
        x = self.norm_ff(q + self.out(attend(self.q(q), self.k(x), self.v(x), 3, causal=True)))
        return x + self.dense2(self.dense1(x).relu())


class Taste(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([TasteBlock() for _ in range(2)])
        self.position_embedding, self.item_embedding = nn.Embedding(20, 36), nn.Embedding(83, 36)
        self.norm = nn.LayerNorm(36, eps=1e-8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.item_embedding(ids) * 6 + self.position_embedding.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.item_embedding.weight.T


@pair("sasrec-plain-blocks", family="sasrec", transforms=True)
def _sasrec() -> Pair:
    target = Taste()
    rules = {
        "item_embedding": "item_emb",
        "position_embedding": "pos_emb",
        "norm": "last_layernorm",
        "blocks.*.norm_q": "attention_layernorms.*",
        "blocks.*.norm_ff": "forward_layernorms.*",
        "blocks.*.out": "attention_layers.*.out_proj",
    }
    for index in (1, 2):
        rules[f"blocks.*.dense{index}.weight"] = f"forward_layers.*.conv{index}.weight : reshape(36, 36)"
        rules[f"blocks.*.dense{index}.bias"] = f"forward_layers.*.conv{index}.bias"
    for at, each in enumerate("qkv"):
        for leaf in ("weight", "bias"):
            rules[f"blocks.*.{each}.{leaf}"] = (
                f"attention_layers.*.in_proj_{leaf} : take(0, {36 * at}, {36 * at + 36}, 1)"
            )
    ids = tokens(2, 8, 83)
    truth = mapped(target, rules)
    return Pair(Sequences(), target, truth, called(ids), called(ids), free=keys_of(truth, ".k.bias"))


# -------------------------------------------------------- sentences by convolutions


class TextCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(89, 24)
        self.convs = nn.ModuleList([nn.Conv2d(1, 14, (size, 24)) for size in (3, 4, 5)])
        self.fc1 = nn.Linear(42, 6)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)[:, None]
        return self.fc1(torch.cat([conv(x).relu().squeeze(3).amax(2) for conv in self.convs], 1))


class SentenceCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(42, 6)
        self.conv_5, self.conv_4, self.conv_3 = (nn.Conv1d(24, 14, size) for size in (5, 4, 3))
        self.word_embeddings = nn.Embedding(89, 24)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word_embeddings(ids).transpose(1, 2)
        return self.out(torch.cat([f(x).relu().amax(2) for f in (self.conv_3, self.conv_4, self.conv_5)], 1))


@pair("textcnn-plain-plain", family="textcnn", transforms=True)
def _textcnn() -> Pair:
    target = SentenceCNN()
    rules = {"out": "fc1", "word_embeddings": "embed"}
    for at, size in enumerate((3, 4, 5)):
        rules[f"conv_{size}.weight"] = f"convs.{at}.weight : reshape(14, {size}, 24) | permute(0, 2, 1)"
        rules[f"conv_{size}.bias"] = f"convs.{at}.bias"
    ids = tokens(2, 11, 89)
    return Pair(TextCNN(), target, mapped(target, rules), called(ids), called(ids))


# ------------------------------------------------- layers of LSTMs that get narrower again


class WrappedRNN(nn.Module):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.module = nn.LSTM(size, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(71, 20)
        self.encoder_dp = nn.ModuleDict({"emb": self.encoder})
        self.rnns = nn.ModuleList([WrappedRNN(20, 34), WrappedRNN(34, 34), WrappedRNN(34, 20)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.encoder(ids)
        for rnn in self.rnns:
            x = rnn(x)
        return x


class TiedDecoder(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.decoder = nn.Linear(20, 71)
        self.decoder.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x)


class PlainAwd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.softmax_bias = nn.Parameter(torch.zeros(71))
        self.lstm3, self.lstm2, self.lstm1 = (
            nn.LSTM(size, hidden, batch_first=True) for size, hidden in ((34, 20), (34, 34), (20, 34))
        )
        self.lookup_table = nn.Embedding(71, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.lookup_table(ids)
        for layer in (self.lstm1, self.lstm2, self.lstm3):
            x = layer(x)[0]
        return x @ self.lookup_table.weight.T + self.softmax_bias


@pair("awdlstm-fastai-plain", family="lstm")
def _awd() -> Pair:
    encoder = Averaged()
    source = nn.Sequential(encoder, TiedDecoder(encoder.encoder.weight))
    target = PlainAwd()
    rules = {"softmax_bias": "1.decoder.bias", "lookup_table": "0.encoder"}
    rules |= {f"lstm{at + 1}": f"0.rnns.{at}.module" for at in range(3)}
    ids = tokens(2, 8, 71)
    return Pair(source, target, mapped(target, rules), called(ids), called(ids))
