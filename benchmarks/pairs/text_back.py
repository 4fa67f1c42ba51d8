"""
The way back: what a rewrite holds apart becomes fused, and the other way round; other layouts of qkv.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from benchmarks.pairs.audio import sound
from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.recurrent import GatedCell, HandWritten, RNNModel
from benchmarks.pairs.text import Backbone, MetaLlama, TorchBert, bert, gpt2, llama
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
from benchmarks.pairs.text_decoders import GROUPED, SIZES, ParallelLM, SandwichLM
from benchmarks.pairs.text_more import _BART, TorchSeq2Seq, both

# --------------------------------------------------------------- apart to fused and back


@pair("bert-torch-transformers", family="bert", transforms=True)
def _bert_back() -> Pair:
    target = bert()
    at, own = "encoder.layer.*.", "transformer.layers.*."
    rules = {
        "embeddings.word_embeddings": "tok_emb",
        "embeddings.token_type_embeddings": "seg_emb",
        "embeddings.position_embeddings.weight": "pos_emb",
        "embeddings.LayerNorm": "emb_ln",
        at + "attention.output.dense": own + "self_attn.out_proj",
        at + "attention.output.LayerNorm": own + "norm1",
        at + "intermediate.dense": own + "linear1",
        at + "output.dense": own + "linear2",
        at + "output.LayerNorm": own + "norm2",
        "pooler.dense": "pooling.0",
    }
    for index, each in enumerate(("query", "key", "value")):
        for leaf in ("weight", "bias"):
            part = f" : take(0, {48 * index}, {48 * index + 48}, 1)"
            rules[f"{at}attention.self.{each}.{leaf}"] = f"{own}self_attn.in_proj_{leaf}{part}"
    truth = mapped(target, rules)
    ids, segments = tokens(2, 9, 97), tokens(2, 9, 5) % 2

    def run(net: nn.Module) -> Any:
        found = net(ids, token_type_ids=segments)
        return found.last_hidden_state, found.pooler_output

    free = keys_of(truth, "self.key.bias")
    return Pair(TorchBert(), target, truth, called(ids, segments), run, free=free)


@pair("gpt2-split-transformers", family="gpt2", transforms=True)
def _gpt2_back() -> Pair:
    target = gpt2()
    at, own = "transformer.h.*.", "transformer_layers.*."
    parts = (f"{own}self_attention.{each}_dense" for each in ("query", "key", "value"))
    truth = mapped(target, {
        "transformer.wte": "token_embedding",
        "transformer.wpe": "position_embedding",
        "transformer.ln_f": "layer_norm",
        "lm_head": "token_embedding",
        at + "attn.c_attn": " + ".join(parts) + " > cat(0, 1) | transpose",
        at + "attn.c_proj": own + "self_attention.output_dense : transpose",
        at + "mlp.c_fc": own + "feedforward_intermediate_dense : transpose",
        at + "mlp.c_proj": own + "feedforward_output_dense : transpose",
        at + "ln_1": own + "self_attention_layer_norm",
        at + "ln_2": own + "feedforward_layer_norm",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(Backbone(), target, truth, called(ids), logits(ids))


@pair("llama-meta-transformers", family="llama", transforms=True)
def _llama_back() -> Pair:
    target = llama()
    at, own = "model.layers.*.", "layers.*."
    truth = mapped(target, {
        "model.embed_tokens": "tok_embeddings",
        "model.norm": "norm",
        "lm_head": "output",
        at + "self_attn.q_proj": own + "attention.wq : swap(0, 6, 4, 2)",
        at + "self_attn.k_proj": own + "attention.wk : swap(0, 2, 4, 2)",
        at + "self_attn.v_proj": own + "attention.wv",
        at + "self_attn.o_proj": own + "attention.wo",
        at + "mlp.gate_proj": own + "feed_forward.w1",
        at + "mlp.down_proj": own + "feed_forward.w2",
        at + "mlp.up_proj": own + "feed_forward.w3",
        at + "input_layernorm": own + "attention_norm",
        at + "post_attention_layernorm": own + "ffn_norm",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(MetaLlama(), target, truth, called(ids), logits(ids))


@pair("gptneox-split-transformers", family="gptneox", transforms=True)
def _neox_back() -> Pair:
    target = GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES | {"rotary_pct": 0.5}))
    at, own = "gpt_neox.layers.*.", "blocks.*."
    truth = mapped(target, {
        "gpt_neox.embed_in": "token_emb",
        "gpt_neox.final_layer_norm": "to_logits.0",
        "lm_head": "to_logits.1",
        at + "input_layernorm": own + "ln_attn",
        at + "post_attention_layernorm": own + "ln_ff",
        at + "attention.query_key_value": " + ".join(f"{own}to_{each}" for each in "qkv") + " > cat(0, 6)",
        at + "attention.dense": own + "to_out",
        at + "mlp.dense_h_to_4h": own + "ff.0",
        at + "mlp.dense_4h_to_h": own + "ff.2",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(ParallelLM(), target, truth, called(ids), logits(ids))


@pair("gemma2-plain-transformers", family="gemma", transforms=True)
def _gemma_back() -> Pair:
    sizes = {
        "vocab_size": 103, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 5, "num_key_value_heads": 1, "query_pre_attn_scalar": 8,
        "tie_word_embeddings": True, "attn_logit_softcapping": None,
    }  # fmt: skip
    target = Gemma2ForCausalLM(Gemma2Config(**GROUPED | sizes))
    at, own = "model.layers.*.", "blocks.*."
    truth = mapped(target, {
        "model.embed_tokens": "input_embedding",
        "lm_head": "input_embedding",
        "model.norm": "out_norm : add(-1)",
        at + "input_layernorm": own + "attn_pre : add(-1)",
        at + "post_attention_layernorm": own + "attn_post : add(-1)",
        at + "pre_feedforward_layernorm": own + "ffw_pre : add(-1)",
        at + "post_feedforward_layernorm": own + "ffw_post : add(-1)",
        at + "self_attn.o_proj": own + "attn.out",
        at + "self_attn.q_proj": own + "attn.query",
        at + "self_attn.k_proj": own + "attn.key",
        at + "self_attn.v_proj": own + "attn.value",
        at + "mlp.gate_proj": own + "ffw_gate",
        at + "mlp.up_proj": own + "ffw_up",
        at + "mlp.down_proj": own + "ffw_out",
    })  # fmt: skip
    ids = tokens(2, 9, 103)
    return Pair(SandwichLM(), target, truth, called(ids), logits(ids))


@pair("lstm-gates-torch", family="lstm", transforms=True)
def _lstm_back() -> Pair:
    target = RNNModel()
    rules = {"decoder": "readout", "encoder": "lookup"}
    gates = ("input", "forget", "candidate", "output")
    for leaf in ("weight", "bias"):
        for ours, theirs in (("ih", "x"), ("hh", "h")):
            parts = (f"cells.*.{gate}_{theirs}.{leaf}" for gate in gates)
            rules[f"rnn.{leaf}_{ours}_l*"] = " + ".join(parts) + " > cat(0, 1)"
    ids = tokens(2, 7, 71)
    return Pair(HandWritten(GatedCell), target, mapped(target, rules), called(ids), called(ids))


@pair("bart-torch-transformers", family="bart", transforms=True)
def _bart_back() -> Pair:
    target = BartForConditionalGeneration(BartConfig(**_BART))
    rules = {
        "model.shared": "embedding", "lm_head": "embedding",
        "model.encoder.embed_tokens": "embedding", "model.decoder.embed_tokens": "embedding",
        "model.encoder.embed_positions.weight": ": zeros(2, 48) + src_pos.weight > cat(0, 1)",
        "model.decoder.embed_positions.weight": ": zeros(2, 48) + tgt_pos.weight > cat(0, 1)",
        "model.encoder.layernorm_embedding": "src_norm", "model.decoder.layernorm_embedding": "tgt_norm",
        "final_logits_bias": "fc_out.bias : reshape(1, 101)",
    }  # fmt: skip
    for side, last in (("encoder", 2), ("decoder", 3)):
        at, own = f"model.{side}.layers.*.", f"{side}.layers.*."
        rules |= {
            at + "fc1": own + "linear1", at + "fc2": own + "linear2",
            at + "self_attn_layer_norm": own + "norm1", at + "final_layer_norm": f"{own}norm{last}",
            at + "encoder_attn_layer_norm": own + "norm2",
        }  # fmt: skip
        for ours, theirs in (("self_attn", "self_attn"), ("encoder_attn", "multihead_attn")):
            rules[f"{at}{ours}.out_proj"] = f"{own}{theirs}.out_proj"
            for leaf in ("weight", "bias"):
                for index, each in enumerate("qkv"):
                    part = f" : take(0, {48 * index}, {48 * index + 48}, 1)"
                    rules[f"{at}{ours}.{each}_proj.{leaf}"] = f"{own}{theirs}.in_proj_{leaf}{part}"
    ids, goal = tokens(2, 9, 101), tokens(2, 6, 101, seed=1)
    truth = mapped(target, rules)
    free = keys_of(truth, "k_proj.bias")
    return Pair(TorchSeq2Seq(), target, truth, called(ids, goal), both(ids, goal), free=free)


# ---------------------------------------------- Llama: queries beside the key they share


class Rms(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.weight, 1e-5)


class InternBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({
            "wqkv": nn.Linear(48, 80, bias=False), "wo": nn.Linear(48, 48, bias=False)
        })  # fmt: skip
        self.feed_forward = nn.ModuleDict({
            "w1": nn.Linear(48, 88, bias=False), "w3": nn.Linear(48, 88, bias=False),
            "w2": nn.Linear(88, 48, bias=False),
        })  # fmt: skip
        self.attention_norm, self.ffn_norm = Rms(48), Rms(48)

    def forward(self, x: Tensor) -> Tensor:
        grouped = self.attention["wqkv"](self.attention_norm(x)).unflatten(-1, (2, 5, 8))
        q, k, v = (grouped[..., part, :].flatten(2) for part in (slice(0, 3), slice(3, 4), slice(4, 5)))
        x = x + self.attention["wo"](attend(q, k, v, 6, 2, causal=True, cos_sin=angles(x.shape[1], 8)))
        y, parts = self.ffn_norm(x), self.feed_forward
        return x + parts["w2"](functional.silu(parts["w1"](y)) * parts["w3"](y))


class InternLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(101, 48)
        self.layers = nn.Sequential(*(InternBlock() for _ in range(3)))
        self.norm, self.output = Rms(48), nn.Linear(48, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.output(self.norm(self.layers(self.tok_embeddings(ids))))


@pair("llama-transformers-intern", family="llama", transforms=True)
def _llama_intern() -> Pair:
    target = InternLM()
    at, own = "layers.*.", "model.layers.*."
    parts = (f"{own}self_attn.{each}_proj" for each in "qkv")
    truth = mapped(target, {
        "tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head",
        at + "attention.wqkv": " + ".join(parts) + " > cat(0, 2)",
        at + "attention.wo": own + "self_attn.o_proj",
        at + "feed_forward.w1": own + "mlp.gate_proj",
        at + "feed_forward.w2": own + "mlp.down_proj",
        at + "feed_forward.w3": own + "mlp.up_proj",
        at + "attention_norm": own + "input_layernorm",
        at + "ffn_norm": own + "post_attention_layernorm",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(llama(), target, truth, logits(ids), called(ids))


# ---------------------------------------------------- GPT-2: per head, long nested names


class MegatronLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.LayerNorm(32), nn.LayerNorm(32)
        self.self_attention = nn.ModuleDict({
            "query_key_value": nn.Linear(32, 96), "dense": nn.Linear(32, 32)
        })  # fmt: skip
        self.mlp = nn.ModuleDict({"dense_h_to_4h": nn.Linear(32, 72), "dense_4h_to_h": nn.Linear(72, 32)})

    def forward(self, x: Tensor) -> Tensor:
        fused = self.self_attention["query_key_value"](self.input_layernorm(x)).unflatten(-1, (4, 3, 8))
        q, k, v = (fused[..., at, :].flatten(2) for at in range(3))
        x = x + self.self_attention["dense"](attend(q, k, v, 4, causal=True))
        y = self.mlp["dense_h_to_4h"](self.post_attention_layernorm(x))
        return x + self.mlp["dense_4h_to_h"](functional.gelu(y, approximate="tanh"))


class Megatron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        tables = {"word_embeddings": nn.Embedding(101, 32), "position_embeddings": nn.Embedding(24, 32)}
        layers = nn.Sequential(*(MegatronLayer() for _ in range(3)))
        encoder = nn.ModuleDict({"layers": layers, "final_layernorm": nn.LayerNorm(32)})
        self.language_model = nn.ModuleDict({"embedding": nn.ModuleDict(tables), "encoder": encoder})

    def forward(self, ids: Tensor) -> Tensor:
        parts: Any = self.language_model
        table = parts["embedding"]["word_embeddings"]
        x = table(ids) + parts["embedding"]["position_embeddings"].weight[: ids.shape[1]]
        encoder = parts["encoder"]
        return encoder["final_layernorm"](encoder["layers"](x)) @ table.weight.T


@pair("gpt2-transformers-megatron", family="gpt2", transforms=True)
def _gpt2_megatron() -> Pair:
    target = Megatron()
    at, own = "language_model.encoder.layers.*.", "transformer.h.*."
    truth = mapped(target, {
        "language_model.embedding.word_embeddings": "transformer.wte",
        "language_model.embedding.position_embeddings": "transformer.wpe",
        "language_model.encoder.final_layernorm": "transformer.ln_f",
        at + "input_layernorm": own + "ln_1",
        at + "post_attention_layernorm": own + "ln_2",
        at + "self_attention.query_key_value": own + "attn.c_attn : transpose | swap(0, 1, 3, 4)",
        at + "self_attention.dense": own + "attn.c_proj : transpose",
        at + "mlp.dense_h_to_4h": own + "mlp.c_fc : transpose",
        at + "mlp.dense_4h_to_h": own + "mlp.c_proj : transpose",
    })  # fmt: skip
    ids = tokens(2, 9, 101)
    return Pair(gpt2(), target, truth, logits(ids), called(ids))


# ----------------------------------------------------- RWKV: vectors that look the same


class TimeMixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bonus, self.decay = nn.Parameter(torch.zeros(40)), nn.Parameter(torch.zeros(40))
        self.blend_r, self.blend_k, self.blend_v = (nn.Parameter(torch.zeros(1, 1, 40)) for _ in range(3))
        self.out, self.r, self.k, self.v = (nn.Linear(40, 40, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        before = functional.pad(x, (0, 0, 1, -1))
        r, k, v = (
            layer(x * blend + before * (1 - blend))
            for layer, blend in ((self.r, self.blend_r), (self.k, self.blend_k), (self.v, self.blend_v))
        )
        above = below = torch.zeros_like(x[:, 0])
        outputs = []
        for at in range(x.shape[1]):
            now = (self.bonus + k[:, at]).exp()
            outputs.append((above + now * v[:, at]) / (below + now))
            kept, new = (-self.decay.exp()).exp(), k[:, at].exp()
            above, below = kept * above + new * v[:, at], kept * below + new
        return self.out(r.sigmoid() * torch.stack(outputs, 1))


class ChannelMixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blend_r, self.blend_k = (nn.Parameter(torch.zeros(1, 1, 40)) for _ in range(2))
        self.down, self.r, self.up = (
            nn.Linear(size, out, bias=False) for size, out in ((72, 40), (40, 40), (40, 72))
        )

    def forward(self, x: Tensor) -> Tensor:
        before = functional.pad(x, (0, 0, 1, -1))
        k = self.up(x * self.blend_k + before * (1 - self.blend_k)).relu().square()
        return self.r(x * self.blend_r + before * (1 - self.blend_r)).sigmoid() * self.down(k)


class RecurrentBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_norm, self.channel_norm = nn.LayerNorm(40), nn.LayerNorm(40)
        self.time, self.channel = TimeMixing(), ChannelMixing()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.time(self.time_norm(x))
        return x + self.channel(self.channel_norm(x))


class RecurrentLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.emb_norm = nn.Embedding(101, 40), nn.LayerNorm(40)
        self.blocks = nn.Sequential(*(RecurrentBlock() for _ in range(3)))
        self.out_norm, self.head = nn.LayerNorm(40), nn.Linear(40, 101, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.out_norm(self.blocks(self.emb_norm(self.emb(ids)))))


@pair("rwkv-transformers-plain", family="rwkv")
def _rwkv() -> Pair:
    target = RecurrentLM()
    at, own = "blocks.*.", "rwkv.blocks.*."
    rules = {
        "emb": "rwkv.embeddings", "emb_norm": "rwkv.blocks.0.pre_ln", "out_norm": "rwkv.ln_out",
        "head": "head", at + "time_norm": own + "ln1", at + "channel_norm": own + "ln2",
        at + "time.bonus": own + "attention.time_first", at + "time.decay": own + "attention.time_decay",
        at + "time.out": own + "attention.output", at + "channel.down": own + "feed_forward.value",
        at + "channel.up": own + "feed_forward.key", at + "channel.r": own + "feed_forward.receptance",
    }  # fmt: skip
    for each in ("receptance", "key", "value"):
        rules[f"{at}time.blend_{each[0]}"] = f"{own}attention.time_mix_{each}"
        rules[f"{at}channel.blend_{each[0]}"] = f"{own}feed_forward.time_mix_{each}"
        rules[f"{at}time.{each[0]}"] = f"{own}attention.{each}"
    sizes: dict[str, Any] = {
        "vocab_size": 101, "hidden_size": 40, "num_hidden_layers": 3, "attention_hidden_size": 40,
        "intermediate_size": 72, "context_length": 32, "rescale_every": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    ids = tokens(2, 9, 101)
    source = RwkvForCausalLM(RwkvConfig(**sizes))
    return Pair(source, target, mapped(target, rules), logits(ids), called(ids))


# ------------------------------------------------ speech by convolutions and both ways


class BatchRNN(nn.Module):
    def __init__(self, size: int, *, has_norm: bool) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(size) if has_norm else None
        self.rnn = nn.GRU(size, 22, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_norm is not None:
            x = self.batch_norm(x.transpose(1, 2)).transpose(1, 2)
        ahead, back = self.rnn(x)[0].chunk(2, -1)
        return ahead + back


class DeepSpeech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({
            "seq_module": nn.Sequential(
                nn.Conv2d(1, 6, (7, 5), (2, 2), (3, 2)), nn.BatchNorm2d(6), nn.Hardtanh(0, 20),
                nn.Conv2d(6, 6, (5, 3), (2, 1), (2, 1)), nn.BatchNorm2d(6), nn.Hardtanh(0, 20),
            )
        })  # fmt: skip
        sizes = (30, 22, 22)
        self.rnns = nn.Sequential(*(BatchRNN(size, has_norm=at > 0) for at, size in enumerate(sizes)))
        self.fc = nn.Sequential(nn.BatchNorm1d(22), nn.Linear(22, 29, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.rnns(self.conv["seq_module"](x).flatten(1, 2).transpose(1, 2))
        return self.fc(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Listener(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Linear(22, 29, bias=False)
        self.letters_norm = nn.BatchNorm1d(22)
        self.norm3, self.norm2 = nn.BatchNorm1d(22), nn.BatchNorm1d(22)
        self.layer1, self.layer2, self.layer3 = (
            nn.GRU(size, 22, bidirectional=True, batch_first=True) for size in (30, 22, 22)
        )
        self.filter1, self.filter2 = (
            nn.Conv2d(1, 6, (7, 5), (2, 2), (3, 2)),
            nn.Conv2d(6, 6, (5, 3), (2, 1), (2, 1)),
        )
        self.filter1_norm, self.filter2_norm = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.filter1_norm(self.filter1(x)).clamp(0, 20)
        x = self.filter2_norm(self.filter2(x)).clamp(0, 20).flatten(1, 2)
        norms = (None, self.norm2, self.norm3)
        for norm, layer in zip(norms, (self.layer1, self.layer2, self.layer3)):
            x = x if norm is None else norm(x)
            x = sum(layer(x.transpose(1, 2))[0].transpose(1, 2).chunk(2, 1))
        return self.letters(self.letters_norm(x).transpose(1, 2))


@pair("deepspeech-plain-plain", family="deepspeech")
def _deepspeech() -> Pair:
    target = Listener()
    rules = {
        "letters": "fc.1", "letters_norm": "fc.0", "filter1": "conv.seq_module.0",
        "filter1_norm": "conv.seq_module.1", "filter2": "conv.seq_module.3",
        "filter2_norm": "conv.seq_module.4",
    }  # fmt: skip
    for at in range(3):
        rules[f"layer{at + 1}"] = f"rnns.{at}.rnn"
        rules[f"norm{at + 1}"] = f"rnns.{at}.batch_norm"
    picture = sound(2, 1, 20, 24)
    return Pair(DeepSpeech(), target, mapped(target, rules), called(picture), called(picture))
