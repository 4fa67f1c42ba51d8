"""
Held out: models of images with words, of sound, of long texts and of decisions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    DacConfig,
    DacModel,
    DecisionTransformerConfig,
    DecisionTransformerModel,
    LongformerConfig,
    LongformerForMaskedLM,
    LxmertConfig,
    LxmertModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    ViltConfig,
    ViltModel,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import attend, called, keys_of, logits, mapped, tokens


def _noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------- ViLT: words and patches in one encoder


class JointAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attend(q, k, v, self.num_heads))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class JointBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-12)
        self.attn = JointAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-12)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class JointTrunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 48))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, 48))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 48, 8, 8)})
        self.blocks = nn.ModuleList([JointBlock(48, 4, 80) for _ in range(3)])
        self.norm = nn.LayerNorm(48, eps=1e-12)


class WordEmbeddings(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(97, 48)
        self.position_embeddings = nn.Embedding(rows, 48)
        self.token_type_embeddings = nn.Embedding(2, 48)
        self.LayerNorm = nn.LayerNorm(48, eps=1e-12)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(x + self.position_embeddings.weight[: ids.shape[1]])


class Pooler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(48, 48)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x[:, 0]).tanh()


class JointModel(nn.Module):
    """The nesting of the paper's code: an image model that is given words too."""

    def __init__(self) -> None:
        super().__init__()
        self.text_embeddings = WordEmbeddings(40)
        self.token_type_embeddings = nn.Embedding(2, 48)
        self.transformer = JointTrunk()
        self.pooler = Pooler()

    def forward(self, ids: Tensor, images: Tensor) -> Tensor:
        net = self.transformer
        patches = net.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        seen = torch.cat([net.cls_token.expand(len(images), -1, -1), patches], 1) + net.pos_embed
        kinds = self.token_type_embeddings.weight
        x = torch.cat([self.text_embeddings(ids) + kinds[0], seen + kinds[1]], 1)
        for block in net.blocks:
            x = block(x)
        return self.pooler(net.norm(x))


@pair("vilt-transformers-paper", family="vilt", transforms=True)
def _vilt() -> Pair:
    config = ViltConfig(
        vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
        max_position_embeddings=40, image_size=32, patch_size=8,
    )  # fmt: skip
    source, target = ViltModel(config), JointModel()
    own, at = "encoder.layer.*.", "transformer.blocks.*."
    parts = [f"{own}attention.attention.{each}" for each in ("query", "key", "value")]
    rules = {
        "token_type_embeddings": "embeddings.token_type_embeddings",
        "transformer.cls_token": "embeddings.cls_token",
        "transformer.pos_embed": "embeddings.position_embeddings",
        "transformer.patch_embed.proj": "embeddings.patch_embeddings.projection",
        "transformer.norm": "layernorm",
        "pooler.dense": "pooler.dense",
        at + "norm1": own + "layernorm_before",
        at + "norm2": own + "layernorm_after",
        at + "attn.qkv.weight": " + ".join(f"{part}.weight" for part in parts) + " > cat(0, 1)",
        at + "attn.qkv.bias": " + ".join(f"{part}.bias" for part in parts) + " > cat(0, 1)",
        at + "attn.proj": own + "attention.output.dense",
        at + "mlp.fc1": own + "intermediate.dense",
        at + "mlp.fc2": own + "output.dense",
    }
    for part in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"):
        rules[f"text_embeddings.{part}"] = f"embeddings.text_embeddings.{part}"
    ids, images = tokens(2, 7, 97), _noise(2, 3, 32, 32)
    return Pair(
        source, target, mapped(target, rules),
        lambda net: net(input_ids=ids, pixel_values=images).pooler_output, called(ids, images),
    )  # fmt: skip


# ----------------------------------------- LXMERT: two streams that look at one another


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        mixed = attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads)
        return self.norm(x + self.to_out(mixed))


class Feed(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.net(x))


class StreamLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = CrossAttention(48, 4)
        self.ff = Feed(48, 80)

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(self.attn(x, x))


class MeetingLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text_attn, self.image_attn = CrossAttention(48, 4), CrossAttention(48, 4)
        self.cross_attn = CrossAttention(48, 4)
        self.text_ff, self.image_ff = Feed(48, 80), Feed(48, 80)

    def forward(self, text: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        text, seen = self.cross_attn(text, seen), self.cross_attn(seen, text)
        return self.text_ff(self.text_attn(text, text)), self.image_ff(self.image_attn(seen, seen))


class TwoStreams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_emb, self.pos_emb, self.type_emb = (nn.Embedding(n, 48) for n in (97, 40, 2))
        self.emb_norm = nn.LayerNorm(48, eps=1e-12)
        self.feat_proj, self.feat_norm = nn.Linear(20, 48), nn.LayerNorm(48, eps=1e-12)
        self.box_proj, self.box_norm = nn.Linear(4, 48), nn.LayerNorm(48, eps=1e-12)
        self.text_layers = nn.ModuleList([StreamLayer() for _ in range(3)])
        self.image_layers = nn.ModuleList([StreamLayer() for _ in range(2)])
        self.cross_layers = nn.ModuleList([MeetingLayer() for _ in range(2)])
        self.pool = nn.Linear(48, 48)

    def forward(self, ids: Tensor, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        text = self.word_emb(ids) + self.pos_emb.weight[: ids.shape[1]] + self.type_emb.weight[0]
        text = self.emb_norm(text)
        seen = (self.feat_norm(self.feat_proj(features)) + self.box_norm(self.box_proj(boxes))) / 2
        for layer in self.text_layers:
            text = layer(text)
        for layer in self.image_layers:
            seen = layer(seen)
        for layer in self.cross_layers:
            text, seen = layer(text, seen)
        return text, seen, self.pool(text[:, 0]).tanh()


def _stream(at: str, own: str, inner: str, hidden: str, output: str) -> dict[str, str]:
    """Attention with its norm, and what is fed forward if the target's name says that too."""
    rules = {f"{at}.to_{each[0]}": f"{own}.{inner}.{each}" for each in ("query", "key", "value")}
    rules |= {f"{at}.to_out": f"{own}.output.dense", f"{at}.norm": f"{own}.output.LayerNorm"}
    if hidden:
        feed = at.replace("attn", "ff")
        rules |= {f"{feed}.net.0": f"{hidden}.dense", f"{feed}.net.2": f"{output}.dense"}
        rules[f"{feed}.norm"] = f"{output}.LayerNorm"
    return rules


@pair("lxmert-transformers-plain", family="lxmert")
def _lxmert() -> Pair:
    config = LxmertConfig(
        vocab_size=97, hidden_size=48, num_attention_heads=4, intermediate_size=80, l_layers=3, x_layers=2,
        r_layers=2, max_position_embeddings=40, visual_feat_dim=20,
    )  # fmt: skip
    source, target = LxmertModel(config), TwoStreams()
    rules = {
        "word_emb": "embeddings.word_embeddings",
        "pos_emb": "embeddings.position_embeddings",
        "type_emb": "embeddings.token_type_embeddings",
        "emb_norm": "embeddings.LayerNorm",
        "feat_proj": "encoder.visn_fc.visn_fc",
        "feat_norm": "encoder.visn_fc.visn_layer_norm",
        "box_proj": "encoder.visn_fc.box_fc",
        "box_norm": "encoder.visn_fc.box_layer_norm",
        "pool": "pooler.dense",
    }
    for at, own in (("text_layers.*", "encoder.layer.*"), ("image_layers.*", "encoder.r_layers.*")):
        rules |= _stream(f"{at}.attn", f"{own}.attention", "self", f"{own}.intermediate", f"{own}.output")
    at, own = "cross_layers.*", "encoder.x_layers.*"
    rules |= _stream(f"{at}.cross_attn", f"{own}.visual_attention", "att", "", "")
    for ours, theirs in (("text", "lang"), ("image", "visn")):
        there = f"{own}.{theirs}"
        rules |= _stream(
            f"{at}.{ours}_attn", f"{there}_self_att", "self", f"{there}_inter", f"{there}_output"
        )
    truth = mapped(target, rules)
    ids, features, boxes = tokens(2, 7, 97), _noise(2, 5, 20), _noise(2, 5, 4).abs()

    def run(net: nn.Module) -> tuple[Any, ...]:
        out = net(input_ids=ids, visual_feats=features, visual_pos=boxes)
        return out.language_output, out.vision_output, out.pooled_output

    free = keys_of(truth, "to_k.bias")
    return Pair(source, target, truth, run, called(ids, features, boxes), free=free)


# ----------------------- DAC: the codec's own nesting, weight norm as it was and as it is


class Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha * x).sin().square() / (self.alpha + 1e-9)


def _normed(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


def _conv(*arguments: int, **settings: int) -> nn.Module:
    return _normed(nn.Conv1d(*arguments, **settings))  # type: ignore[arg-type]


class ResidualUnit(nn.Module):
    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        wide = _conv(dim, dim, 7, dilation=dilation, padding=3 * dilation)
        self.block = nn.Sequential(Snake(dim), wide, Snake(dim), _conv(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class EncoderBlock(nn.Module):
    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        units = (ResidualUnit(dim // 2, dilation) for dilation in (1, 3, 9))
        down = _conv(dim // 2, dim, 2 * stride, stride=stride, padding=math.ceil(stride / 2))
        self.block = nn.Sequential(*units, Snake(dim // 2), down)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DecoderBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        up = nn.ConvTranspose1d(inner, outer, 2 * stride, stride, math.ceil(stride / 2))
        units = (ResidualUnit(outer, dilation) for dilation in (1, 3, 9))
        self.block = nn.Sequential(Snake(inner), _normed(up), *units)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class VectorQuantize(nn.Module):
    def __init__(self, dim: int, size: int, narrow: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = _conv(dim, narrow, 1), _conv(narrow, dim, 1)
        self.codebook = nn.Embedding(size, narrow)

    def forward(self, x: Tensor) -> Tensor:
        found = functional.normalize(self.in_proj(x).transpose(1, 2), dim=-1)
        nearest = (found @ functional.normalize(self.codebook.weight).T).argmax(-1)
        return self.out_proj(self.codebook(nearest).transpose(1, 2))


class Codec(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict()
        layers = [_conv(1, 8, 7, padding=3), EncoderBlock(16, 2), EncoderBlock(32, 4), Snake(32)]
        self.encoder["block"] = nn.Sequential(*layers, _conv(32, 32, 3, padding=1))
        self.quantizer = nn.ModuleDict()
        self.quantizer["quantizers"] = nn.ModuleList([VectorQuantize(32, 16, 4) for _ in range(3)])
        self.decoder = nn.ModuleDict()
        layers = [_conv(32, 32, 7, padding=3), DecoderBlock(32, 16, 4), DecoderBlock(16, 8, 2), Snake(8)]
        self.decoder["model"] = nn.Sequential(*layers, _conv(8, 1, 7, padding=3), nn.Tanh())

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        net: Any = self
        left = encoded = self.encoder["block"](sound)
        total = torch.zeros_like(encoded)
        for quantizer in net.quantizer["quantizers"]:
            found = quantizer(left)
            left, total = left - found, total + found
        return encoded, self.decoder["model"](total)


_DAC_UNIT = {"block.0": "snake1", "block.1": "conv1", "block.2": "snake2", "block.3": "conv2"}


def _dac_modules() -> dict[str, str]:
    modules = {
        "encoder.block.0": "encoder.conv1", "encoder.block.3": "encoder.snake1",
        "encoder.block.4": "encoder.conv2", "decoder.model.0": "decoder.conv1",
        "decoder.model.3": "decoder.snake1", "decoder.model.4": "decoder.conv2",
    }  # fmt: skip
    for number in range(2):
        here, there = f"encoder.block.{number + 1}.block", f"encoder.block.{number}"
        modules |= {f"{here}.3": f"{there}.snake1", f"{here}.4": f"{there}.conv1"}
        for unit in range(3):
            for a, b in _DAC_UNIT.items():
                modules[f"{here}.{unit}.{a}"] = f"{there}.res_unit{unit + 1}.{b}"
        here, there = f"decoder.model.{number + 1}.block", f"decoder.block.{number}"
        modules |= {f"{here}.0": f"{there}.snake1", f"{here}.1": f"{there}.conv_t1"}
        for unit in range(3):
            for a, b in _DAC_UNIT.items():
                modules[f"{here}.{unit + 2}.{a}"] = f"{there}.res_unit{unit + 1}.{b}"
    for number in range(3):
        for part in ("in_proj", "out_proj", "codebook"):
            modules[f"quantizer.quantizers.{number}.{part}"] = f"quantizer.quantizers.{number}.{part}"
    return modules


@pair("dac-transformers-paper", family="dac", transforms=True)
def _dac() -> Pair:
    settings: dict[str, Any] = {
        "encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "decoder_hidden_size": 32,
        "upsampling_ratios": [4, 2], "n_codebooks": 3, "codebook_size": 16, "codebook_dim": 4,
        "hidden_size": 32,
    }  # fmt: skip
    source: Any = DacModel(DacConfig(**settings))
    target = Codec()
    source.apply_weight_norm()
    leaves = {
        "weight_g": "parametrizations.weight.original0",
        "weight_v": "parametrizations.weight.original1",
    }
    sound = _noise(2, 1, 64)

    def run(net: Any) -> tuple[Tensor, Tensor]:
        return net.encoder(sound), net(sound).audio_values[:, None]

    return Pair(source, target, mapped(target, _dac_modules(), leaves=leaves), run, called(sound))


# ------------------------------------------------- Decision Transformer: no fused weights


class MaskedCausalAttention(nn.Module):
    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_net, self.k_net, self.v_net = (nn.Linear(dim, dim) for _ in range(3))
        self.proj_net = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        mixed = attend(self.q_net(x), self.k_net(x), self.v_net(x), self.n_heads, causal=True)
        return self.proj_net(mixed)


class PolicyBlock(nn.Module):
    def __init__(self, dim: int, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = MaskedCausalAttention(dim, n_heads)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.ln1 = nn.LayerNorm(dim)
        self.ln2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TrajectoryModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Sequential(*(PolicyBlock(48, 4, 80) for _ in range(3)))
        self.embed_ln, self.final_ln = nn.LayerNorm(48), nn.LayerNorm(48)
        self.embed_position = nn.Embedding(64, 48)
        self.embed_time = nn.Embedding(60, 48)
        self.embed_rtg = nn.Linear(1, 48)
        self.embed_obs = nn.Linear(9, 48)
        self.embed_act = nn.Linear(4, 48)
        self.head_rtg = nn.Linear(48, 1)
        self.head_obs = nn.Linear(48, 9)
        self.head_act = nn.Sequential(nn.Linear(48, 4), nn.Tanh())

    def forward(self, obs: Tensor, act: Tensor, rtg: Tensor, steps: Tensor) -> tuple[Tensor, ...]:
        when = self.embed_time(steps)
        each = (self.embed_rtg(rtg) + when, self.embed_obs(obs) + when, self.embed_act(act) + when)
        x = self.embed_ln(torch.stack(each, 2).flatten(1, 2)) + self.embed_position.weight[0]
        x = self.final_ln(self.transformer(x)).unflatten(1, (-1, 3))
        return self.head_obs(x[:, :, 2]), self.head_act(x[:, :, 1]), self.head_rtg(x[:, :, 2])


@pair("decision-transformers-plain", family="decision", transforms=True)
def _decision() -> Pair:
    config = DecisionTransformerConfig(
        state_dim=9, act_dim=4, hidden_size=48, n_layer=3, n_head=4, max_ep_len=60, n_inner=80, n_positions=64
    )
    source, target = DecisionTransformerModel(config), TrajectoryModel()
    own, at = "encoder.h.*.", "transformer.*."
    rules = {
        at + "ln1": own + "ln_1", at + "ln2": own + "ln_2", at + "mlp.0": own + "mlp.c_fc : transpose",
        at + "mlp.2": own + "mlp.c_proj : transpose",
        at + "attention.proj_net": own + "attn.c_proj : transpose", "embed_ln": "embed_ln",
        "final_ln": "encoder.ln_f", "embed_position": "encoder.wpe", "embed_time": "embed_timestep",
        "embed_rtg": "embed_return", "embed_obs": "embed_state", "embed_act": "embed_action",
        "head_rtg": "predict_return", "head_obs": "predict_state", "head_act.0": "predict_action.0",
    }  # fmt: skip
    for number, each in enumerate("qkv"):
        part = f"take(0, {48 * number}, {48 * number + 48}, 1)"
        rules[f"{at}attention.{each}_net"] = f"{own}attn.c_attn : transpose | {part}"
    obs, act, rtg = _noise(2, 5, 9), _noise(2, 5, 4, seed=4), _noise(2, 5, 1, seed=5)
    steps = torch.arange(5).expand(2, 5)

    def run(net: nn.Module) -> tuple[Any, ...]:
        out = net(states=obs, actions=act, returns_to_go=rtg, timesteps=steps)
        return out.state_preds, out.action_preds, out.return_preds

    truth = mapped(target, rules)
    free = keys_of(truth, "k_net.bias")
    return Pair(source, target, truth, run, called(obs, act, rtg, steps), free=free)


# ------------------------------------------------- Longformer: the first token sees all


class LocalGlobalAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.local_q, self.local_k, self.local_v = (nn.Linear(dim, dim) for _ in range(3))
        self.global_q, self.global_k, self.global_v = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        local = attend(self.local_q(x), self.local_k(x), self.local_v(x), self.heads)
        first = attend(self.global_q(x[:, :1]), self.global_k(x), self.global_v(x), self.heads)
        return self.proj(torch.cat([first, local[:, 1:]], 1))


class LongLayer(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-12)
        self.norm2 = nn.LayerNorm(dim, eps=1e-12)
        self.attention = LocalGlobalAttention(dim, heads)
        self.feed_forward = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed_forward(x))


class LongEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = WordEmbeddings(42)
        self.blocks = nn.ModuleList([LongLayer(48, 4, 80) for _ in range(3)])
        self.mlm = nn.ModuleDict({"fc": nn.Linear(48, 48), "ln": nn.LayerNorm(48, eps=1e-12)})
        self.mlm["out"] = nn.Linear(48, 97)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed.word_embeddings(ids) + self.embed.token_type_embeddings.weight[0]
        x = self.embed.LayerNorm(x + self.embed.position_embeddings.weight[2 : 2 + ids.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.mlm["out"](self.mlm["ln"](functional.gelu(self.mlm["fc"](x))))


@pair("longformer-transformers-plain", family="longformer")
def _longformer() -> Pair:
    config = LongformerConfig(
        vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
        max_position_embeddings=42, attention_window=16, pad_token_id=1, tie_word_embeddings=False,
        layer_norm_eps=1e-12,
    )  # fmt: skip
    source, target = LongformerForMaskedLM(config), LongEncoder()
    own, at = "longformer.encoder.layer.*.", "blocks.*."
    rules = {
        "mlm.fc": "lm_head.dense",
        "mlm.ln": "lm_head.layer_norm",
        "mlm.out": "lm_head.decoder",
        at + "norm1": own + "attention.output.LayerNorm",
        at + "norm2": own + "output.LayerNorm",
        at + "attention.proj": own + "attention.output.dense",
        at + "feed_forward.0": own + "intermediate.dense",
        at + "feed_forward.2": own + "output.dense",
    }
    for part in ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"):
        rules[f"embed.{part}"] = f"longformer.embeddings.{part}"
    for each in ("query", "key", "value"):
        rules[f"{at}attention.local_{each[0]}"] = f"{own}attention.self.{each}"
        rules[f"{at}attention.global_{each[0]}"] = f"{own}attention.self.{each}_global"
    truth = mapped(target, rules)
    ids = tokens(2, 8, 97)
    everywhere = torch.zeros(2, 8, dtype=torch.long)
    everywhere[:, 0] = 1

    def run(net: nn.Module) -> Tensor:
        return net(ids, global_attention_mask=everywhere).logits

    free = keys_of(truth, "local_k.bias", "global_k.bias")
    return Pair(source, target, truth, run, called(ids), free=free)


# ------------------------------------------------- SegFormer, as its paper's code names it


class ReducedAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.num_heads, self.sr_ratio = num_heads, sr_ratio
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, height: int) -> Tensor:
        context = x
        if self.sr_ratio > 1:
            maps = x.transpose(1, 2).unflatten(2, (height, -1))
            context = self.norm(self.sr(maps).flatten(2).transpose(1, 2))
        k, v = self.kv(context).chunk(2, -1)
        return self.proj(attend(self.q(x), k, v, self.num_heads))


class DepthMlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)})
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, height: int) -> Tensor:
        maps = self.fc1(x).transpose(1, 2).unflatten(2, (height, -1))
        return self.fc2(functional.gelu(self.dwconv["dwconv"](maps).flatten(2).transpose(1, 2)))


class MixBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, sr_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ReducedAttention(dim, num_heads, sr_ratio)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = DepthMlp(dim, 2 * dim)

    def forward(self, x: Tensor, height: int) -> Tensor:
        x = x + self.attn(self.norm1(x), height)
        return x + self.mlp(self.norm2(x), height)


class OverlapPatchEmbed(nn.Module):
    def __init__(self, size: int, stride: int, inner: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inner, dim, size, stride, size // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        maps = self.proj(x)
        return self.norm(maps.flatten(2).transpose(1, 2)), maps.shape[2]


class MixTransformer(nn.Module):
    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        inner = 3
        for number, (dim, size, stride) in enumerate(zip(widths, (7, 3, 3, 3), (4, 2, 2, 2)), 1):
            setattr(self, f"patch_embed{number}", OverlapPatchEmbed(size, stride, inner, dim))
            inner = dim
        for number, dim in enumerate(widths, 1):
            heads, ratio = (1, 2, 2, 3)[number - 1], (8, 4, 2, 1)[number - 1]
            blocks = [MixBlock(dim, heads, ratio) for _ in range(depths[number - 1])]
            setattr(self, f"block{number}", nn.ModuleList(blocks))
            setattr(self, f"norm{number}", nn.LayerNorm(dim, eps=1e-6))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for number in range(1, 5):
            x, height = getattr(self, f"patch_embed{number}")(x)
            for block in getattr(self, f"block{number}"):
                x = block(x, height)
            x = getattr(self, f"norm{number}")(x).transpose(1, 2).unflatten(2, (height, -1))
            found.append(x)
        return found


class Projected(nn.Module):
    def __init__(self, dim: int, outer: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, outer)

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        x = self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


class AllMlpHead(nn.Module):
    def __init__(self, widths: tuple[int, ...], dim: int, classes: int) -> None:
        super().__init__()
        self.linear_pred = nn.Conv2d(dim, classes, 1)
        self.linear_c4, self.linear_c3, self.linear_c2, self.linear_c1 = (
            Projected(width, dim) for width in reversed(widths)
        )
        self.linear_fuse = nn.ModuleDict()
        self.linear_fuse["conv"] = nn.Conv2d(4 * dim, dim, 1, bias=False)
        self.linear_fuse["bn"] = nn.BatchNorm2d(dim)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        parts = [getattr(self, f"linear_c{n}")(maps[n - 1], size) for n in (4, 3, 2, 1)]
        fused = self.linear_fuse["bn"](self.linear_fuse["conv"](torch.cat(parts, 1)))
        return self.linear_pred(fused.relu())


class SceneParser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (16, 24, 32, 48)
        self.backbone = MixTransformer(widths, (2, 3, 2, 2))
        self.decode_head = AllMlpHead(widths, 40, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode_head(self.backbone(images))


def _segformer_rules() -> Mapping[str, str]:
    rules = {
        "decode_head.linear_pred": "decode_head.classifier",
        "decode_head.linear_fuse.conv": "decode_head.linear_fuse",
        "decode_head.linear_fuse.bn": "decode_head.batch_norm",
    }
    for number in range(4):
        own = f"segformer.stages.{number}."
        rules[f"decode_head.linear_c{number + 1}.proj"] = f"decode_head.linear_projections.{number}.proj"
        rules[f"backbone.norm{number + 1}"] = own + "layer_norm"
        rules[f"backbone.patch_embed{number + 1}.proj"] = own + "patch_embeddings.proj"
        rules[f"backbone.patch_embed{number + 1}.norm"] = own + "patch_embeddings.layer_norm"
        at, own = f"backbone.block{number + 1}.*.", own + "blocks.*."
        rules |= {
            at + "norm1": own + "layernorm_before", at + "norm2": own + "layernorm_after",
            at + "attn.q": own + "attention.q_proj", at + "attn.proj": own + "attention.o_proj",
            at + "attn.sr": own + "attention.sequence_reduction.sequence_reduction",
            at + "attn.norm": own + "attention.sequence_reduction.layer_norm",
            at + "mlp.fc1": own + "mlp.fc1", at + "mlp.fc2": own + "mlp.fc2",
            at + "mlp.dwconv.dwconv": own + "mlp.dwconv.dwconv",
        }  # fmt: skip
        for leaf in ("weight", "bias"):
            parts = f"{own}attention.k_proj.{leaf} + {own}attention.v_proj.{leaf}"
            rules[f"{at}attn.kv.{leaf}"] = f"{parts} > cat(0, 1)"
    return rules


@pair("segformer-transformers-paper", family="segformer", transforms=True)
def _segformer() -> Pair:
    config = SegformerConfig(
        depths=[2, 3, 2, 2], hidden_sizes=[16, 24, 32, 48], num_attention_heads=[1, 2, 2, 3],
        sr_ratios=[8, 4, 2, 1], mlp_ratios=[2, 2, 2, 2], decoder_hidden_size=40,
    )  # fmt: skip
    config.num_labels = 5
    source, target = SegformerForSemanticSegmentation(config), SceneParser()
    images = _noise(2, 3, 64, 64)
    return Pair(source, target, mapped(target, _segformer_rules()), logits(images), called(images))
