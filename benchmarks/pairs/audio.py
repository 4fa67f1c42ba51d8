"""
Speech and sound: encoders of transformers with rewrites, vocoders, weight normalisation old and new.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    EncodecConfig,
    EncodecModel,
    HubertConfig,
    HubertModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerModel,
    Wav2Vec2ForCTC,
)

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import attend, called, keys_of, mapped

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 72,
    "conv_dim": (12, 20), "conv_kernel": (5, 3), "conv_stride": (3, 2), "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 29, "num_feat_extract_layers": 2,
}  # fmt: skip


def sound(*shape: int) -> Tensor:
    """Noise that stays the same from run to run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def normed(layer: nn.Module, dim: int = 0) -> nn.Module:
    """Weight normalisation as it was: ``weight_g`` and ``weight_v``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer, dim=dim)


_NORMED = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}

# ---------------------------------------------------------- wav2vec 2.0: norms at the end


class WaveStem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Conv1d(1, 12, 5, 3, bias=False)
        self.stage1_norm = nn.GroupNorm(12, 12)
        self.stage2 = nn.Conv1d(12, 20, 3, 2, bias=False)
        self.norm = nn.LayerNorm(20)
        self.proj = nn.Linear(20, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.stage1_norm(self.stage1(x[:, None])))
        return self.proj(self.norm(functional.gelu(self.stage2(x)).transpose(1, 2)))


class WaveBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(32, 72), nn.GELU(), nn.Linear(72, 32))
        self.mlp_norm = nn.LayerNorm(32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.attn_norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn_norm(x + self.out(attend(self.query(x), self.key(x), self.value(x), 4)))
        return self.mlp_norm(x + self.mlp(x))


class WaveNetCTC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = WaveStem()
        self.position = normed(nn.Conv1d(32, 32, 8, padding=4, groups=4), dim=2)
        self.position_norm = nn.LayerNorm(32)
        self.blocks = nn.Sequential(*(WaveBlock() for _ in range(3)))
        self.letters = nn.Linear(32, 29)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        places = functional.gelu(self.position(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        return self.letters(self.blocks(self.position_norm(x + places)))


@pair("wav2vec2-transformers-plain", family="wav2vec2")
def _wav2vec2() -> Pair:
    target = WaveNetCTC()
    at, own = "blocks.*.", "wav2vec2.encoder.layers.*."
    rules = {
        "stem.stage1": "wav2vec2.feature_extractor.conv_layers.0.conv",
        "stem.stage1_norm": "wav2vec2.feature_extractor.conv_layers.0.layer_norm",
        "stem.stage2": "wav2vec2.feature_extractor.conv_layers.1.conv",
        "stem.norm": "wav2vec2.feature_projection.layer_norm",
        "stem.proj": "wav2vec2.feature_projection.projection",
        "position": "wav2vec2.encoder.pos_conv_embed.conv",
        "position_norm": "wav2vec2.encoder.layer_norm",
        "letters": "lm_head",
        at + "mlp.0": own + "feed_forward.intermediate_dense",
        at + "mlp.2": own + "feed_forward.output_dense",
        at + "mlp_norm": own + "final_layer_norm",
        at + "attn_norm": own + "layer_norm",
    }
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
        rules[at + ours] = f"{own}attention.{theirs}_proj"
    truth = mapped(target, rules, leaves=_NORMED)
    wave = sound(2, 120)
    return Pair(
        Wav2Vec2ForCTC(Wav2Vec2Config(**SIZES)), target, truth, lambda net: net(wave).logits, called(wave),
        free=keys_of(truth, "key.bias"),
    )  # fmt: skip


# --------------------------------------------------- HuBERT: norms first, fairseq's names


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class ConvFeatureExtractionModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = []
        for size, dim, kernel, stride in ((1, 12, 5, 3), (12, 20, 3, 2)):
            norm = nn.Sequential(Turned(), nn.LayerNorm(dim), Turned())
            layers.append(nn.Sequential(nn.Conv1d(size, dim, kernel, stride), nn.Identity(), norm, nn.GELU()))
        self.conv_layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2)


class FairseqAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), 4))


class FairseqLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = FairseqAttention()
        self.self_attn_layer_norm = nn.LayerNorm(32)
        self.fc1, self.fc2 = nn.Linear(32, 72), nn.Linear(72, 32)
        self.final_layer_norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))


class FairseqEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos_conv = nn.Sequential(normed(nn.Conv1d(32, 32, 8, padding=4, groups=4), dim=2))
        self.layers = nn.ModuleList([FairseqLayer() for _ in range(3)])
        self.layer_norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = x + functional.gelu(self.pos_conv(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class FairseqHubert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask_emb = nn.Parameter(torch.zeros(32))
        self.feature_extractor = ConvFeatureExtractionModel()
        self.post_extract_proj = nn.Linear(20, 32)
        self.encoder = FairseqEncoder()
        self.layer_norm = nn.LayerNorm(20)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.post_extract_proj(self.layer_norm(self.feature_extractor(x))))


@pair("hubert-transformers-fairseq", family="hubert")
def _hubert() -> Pair:
    target = FairseqHubert()
    at, own = "encoder.layers.*.", "encoder.layers.*."
    rules = {
        "mask_emb": "masked_spec_embed",
        "feature_extractor.conv_layers.*.0": "feature_extractor.conv_layers.*.conv",
        "feature_extractor.conv_layers.*.2.1": "feature_extractor.conv_layers.*.layer_norm",
        "layer_norm": "feature_projection.layer_norm",
        "post_extract_proj": "feature_projection.projection",
        "encoder.pos_conv.0": "encoder.pos_conv_embed.conv",
        "encoder.layer_norm": "encoder.layer_norm",
        at + "self_attn_layer_norm": own + "layer_norm",
        at + "final_layer_norm": own + "final_layer_norm",
        at + "fc1": own + "feed_forward.intermediate_dense",
        at + "fc2": own + "feed_forward.output_dense",
    }
    for each in ("q", "k", "v", "out"):
        rules[f"{at}self_attn.{each}_proj"] = f"{own}attention.{each}_proj"
    truth = mapped(target, rules, leaves=_NORMED)
    settings = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
    wave = sound(2, 120)
    return Pair(
        HubertModel(HubertConfig(**SIZES | settings)), target, truth,
        lambda net: net(wave).last_hidden_state, called(wave),
        free=("mask_emb", *keys_of(truth, "k_proj.bias")),
    )  # fmt: skip


# ------------------------------------------------------ HiFi-GAN: the paper's own names


class ResBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList([
            normed(nn.Conv1d(channels, channels, kernel, dilation=each, padding=each * (kernel - 1) // 2))
            for each in dilations
        ])  # fmt: skip
        self.convs2 = nn.ModuleList([
            normed(nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2)) for _ in dilations
        ])  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2):
            y = first(functional.leaky_relu(x, 0.1))
            x = x + second(functional.leaky_relu(y, 0.1))
        return x


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_pre = normed(nn.Conv1d(20, 32, 7, padding=3))
        self.ups = nn.ModuleList([
            normed(nn.ConvTranspose1d(32, 16, 8, 4, padding=2)),
            normed(nn.ConvTranspose1d(16, 8, 4, 2, padding=1)),
        ])  # fmt: skip
        self.resblocks = nn.ModuleList([
            ResBlock(channels, kernel, (1, 3)) for channels in (16, 8) for kernel in (3, 5)
        ])  # fmt: skip
        self.conv_post = normed(nn.Conv1d(8, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for at, up in enumerate(self.ups):
            x = up(functional.leaky_relu(x, 0.1))
            x = (self.resblocks[2 * at](x) + self.resblocks[2 * at + 1](x)) / 2
        return self.conv_post(functional.leaky_relu(x)).tanh()


def _hifigan() -> SpeechT5HifiGan:
    sizes: dict[str, Any] = {
        "model_in_dim": 20, "upsample_initial_channel": 32, "upsample_rates": [4, 2],
        "upsample_kernel_sizes": [8, 4], "resblock_kernel_sizes": [3, 5],
        "resblock_dilation_sizes": [[1, 3], [1, 3]], "normalize_before": False,
    }  # fmt: skip
    made: Any = SpeechT5HifiGan(SpeechT5HifiGanConfig(**sizes))
    made.apply_weight_norm()
    return made


@pair("hifigan-transformers-paper", family="hifigan")
def _hifigan_paper() -> Pair:
    target = Generator()
    rules = {
        "conv_pre": "conv_pre", "ups.*": "upsampler.*", "conv_post": "conv_post",
        "resblocks.*.convs1.*": "resblocks.*.convs1.*", "resblocks.*.convs2.*": "resblocks.*.convs2.*",
    }  # fmt: skip
    mel = sound(2, 20, 14)
    return Pair(
        _hifigan(), target, mapped(target, rules, leaves=_NORMED),
        lambda net: net(mel.transpose(1, 2)), lambda net: net(mel)[:, 0],
    )  # fmt: skip


@pair("hifigan-paper-transformers", family="hifigan")
def _hifigan_back() -> Pair:
    target = _hifigan()
    made = ("mean", "scale")
    rules: dict[str, str] = {}
    for ours, theirs in (
        ("conv_pre", "conv_pre"), ("upsampler.*", "ups.*"), ("conv_post", "conv_post"),
        ("resblocks.*.convs1.*", "resblocks.*.convs1.*"), ("resblocks.*.convs2.*", "resblocks.*.convs2.*"),
    ):  # fmt: skip
        rules[ours + ".bias"] = theirs + ".bias"
        rules[ours + ".parametrizations.weight.original0"] = theirs + ".weight_g"
        rules[ours + ".parametrizations.weight.original1"] = theirs + ".weight_v"
    mel = sound(2, 20, 14)
    return Pair(
        Generator(), target, mapped(target, rules, made=made),
        lambda net: net(mel)[:, 0], lambda net: net(mel.transpose(1, 2)), made=made,
    )  # fmt: skip


# ------------------------------------------------------- EnCodec: convolutions and LSTMs


class NormConv1d(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = normed(conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SConv1d(nn.Module):
    """Padded on the left with what is mirrored."""

    def __init__(self, size: int, out: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.left = dilation * (kernel - 1) + 1 - stride
        self.conv = NormConv1d(nn.Conv1d(size, out, kernel, stride, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (self.left, 0), "reflect"))


class SConvTranspose1d(nn.Module):
    def __init__(self, size: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.extra = kernel - stride
        self.convtr = nn.ModuleDict({"convtr": normed(nn.ConvTranspose1d(size, out, kernel, stride))})

    def forward(self, x: Tensor) -> Tensor:
        return self.convtr["convtr"](x)[..., : -self.extra]


class SEANetResnetBlock(nn.Module):
    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(), SConv1d(dim, dim // 2, 3, dilation=dilation), nn.ELU(), SConv1d(dim // 2, dim, 1)
        )
        self.shortcut = SConv1d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class SLSTM(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.lstm(x.transpose(1, 2))[0].transpose(1, 2)


class SEANet(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class MetaCodec(nn.Module):
    """Without its quantiser."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SEANet(
            SConv1d(1, 4, 7), SEANetResnetBlock(4, 1), nn.ELU(), SConv1d(4, 8, 4, 2),
            SEANetResnetBlock(8, 1), nn.ELU(), SConv1d(8, 16, 6, 3), SLSTM(16), nn.ELU(), SConv1d(16, 20, 7),
        )  # fmt: skip
        self.decoder = SEANet(
            SConv1d(20, 16, 7), SLSTM(16), nn.ELU(), SConvTranspose1d(16, 8, 6, 3), SEANetResnetBlock(8, 1),
            nn.ELU(), SConvTranspose1d(8, 4, 4, 2), SEANetResnetBlock(4, 1), nn.ELU(), SConv1d(4, 1, 7),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.encoder(x)
        return codes, self.decoder(codes)


@pair("encodec-transformers-meta", family="encodec")
def _encodec() -> Pair:
    sizes: dict[str, Any] = {
        "num_filters": 4, "hidden_size": 20, "upsampling_ratios": [3, 2], "codebook_size": 16,
        "codebook_dim": 20, "target_bandwidths": [1.5], "num_residual_layers": 1,
    }  # fmt: skip
    whole = EncodecModel(EncodecConfig(**sizes))
    source = nn.ModuleDict({"encoder": whole.encoder, "decoder": whole.decoder})
    target = MetaCodec()
    rules: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        at, own = f"{side}.model.*.", f"{side}.layers.*."
        rules |= {
            at + "conv.conv": own + "conv", at + "convtr.convtr": own + "conv", at + "lstm": own + "lstm",
            at + "shortcut.conv.conv": own + "shortcut.conv", at + "block.*.conv.conv": own + "block.*.conv",
        }  # fmt: skip

    def run(net: Any) -> Any:
        codes = net["encoder"](wave)
        return codes, net["decoder"](codes)

    wave = sound(2, 1, 180)
    return Pair(source, target, mapped(target, rules, leaves=_NORMED), run, called(wave))


# -------------------------------------------------- Conformer: convolutions become linear


class Scaled(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(32), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class ConvModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.depthwise = nn.Conv1d(32, 32, 7, padding=3, groups=32, bias=False)
        self.bn = nn.BatchNorm1d(32)
        self.out = nn.Linear(32, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = (self.value(x) * self.gate(x).sigmoid()).transpose(1, 2)
        return self.out(functional.silu(self.bn(self.depthwise(y))).transpose(1, 2))


class HeadedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_kv, self.to_out = nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.to_kv(x).chunk(2, -1)
        return self.to_out(attend(self.to_q(x), k, v, 4))


class ConformerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ff1 = Scaled(nn.Sequential(nn.Linear(32, 72), nn.SiLU(), nn.Linear(72, 32)))
        self.attn = Scaled(HeadedAttention())
        self.conv = Scaled(ConvModule())
        self.ff2 = Scaled(nn.Sequential(nn.Linear(32, 72), nn.SiLU(), nn.Linear(72, 32)))
        self.post_norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.ff1(x)
        x = x + self.attn(x)
        x = x + self.conv(x)
        return self.post_norm(x + 0.5 * self.ff2(x))


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = WaveStem()
        self.layers = nn.ModuleList([ConformerBlock() for _ in range(2)])
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


@pair("conformer-transformers-plain", family="conformer", transforms=True)
def _conformer() -> Pair:
    target = Conformer()
    at, own = "layers.*.", "encoder.layers.*."
    conv, attention = own + "conv_module.", own + "self_attn."
    rules = {
        "stem.stage1": "feature_extractor.conv_layers.0.conv",
        "stem.stage1_norm": "feature_extractor.conv_layers.0.layer_norm",
        "stem.stage2": "feature_extractor.conv_layers.1.conv",
        "stem.norm": "feature_projection.layer_norm",
        "stem.proj": "feature_projection.projection",
        "norm": "encoder.layer_norm",
        at + "attn.norm": own + "self_attn_layer_norm",
        at + "attn.fn.to_q": attention + "linear_q",
        at + "attn.fn.to_kv": f"{attention}linear_k + {attention}linear_v > cat(0, 1)",
        at + "attn.fn.to_out": attention + "linear_out",
        at + "conv.norm": conv + "layer_norm",
        at + "conv.fn.value": conv + "pointwise_conv1 : take(0, 0, 32, 1) | reshape(32, 32)",
        at + "conv.fn.gate": conv + "pointwise_conv1 : take(0, 32, 64, 1) | reshape(32, 32)",
        at + "conv.fn.depthwise": conv + "depthwise_conv",
        at + "conv.fn.bn": conv + "batch_norm",
        at + "conv.fn.out": conv + "pointwise_conv2 : reshape(32, 32)",
        at + "post_norm": own + "final_layer_norm",
    }
    for each in ("1", "2"):
        rules |= {
            f"{at}ff{each}.norm": f"{own}ffn{each}_layer_norm",
            f"{at}ff{each}.fn.0": f"{own}ffn{each}.intermediate_dense",
            f"{at}ff{each}.fn.2": f"{own}ffn{each}.output_dense",
        }
    settings = {
        "position_embeddings_type": None, "conv_depthwise_kernel_size": 7, "num_hidden_layers": 2,
        "hidden_act": "swish", "feat_extract_activation": "gelu",
    }  # fmt: skip
    wave = sound(2, 120)
    source = Wav2Vec2ConformerModel(Wav2Vec2ConformerConfig(**SIZES | settings))
    return Pair(source, target, mapped(target, rules), lambda net: net(wave).last_hidden_state, called(wave))


# ---------------------------------------------- audio spectrograms: the paper's own names


class FusedAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attend(q, k, v, self.num_heads))


class PatchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(32, eps=1e-12), FusedAttention(32, 4)
        self.norm2 = nn.LayerNorm(32, eps=1e-12)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(32, 72), "fc2": nn.Linear(72, 32)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class DistilledTrunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.dist_token = (nn.Parameter(torch.zeros(1, 1, 32)) for _ in range(2))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, 32))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, 32, 8, (8, 8))})
        self.blocks = nn.Sequential(*(PatchBlock() for _ in range(3)))
        self.norm = nn.LayerNorm(32, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](x[:, None].transpose(2, 3)).flatten(2).transpose(1, 2)
        first = [each.expand(len(x), -1, -1) for each in (self.cls_token, self.dist_token)]
        x = self.norm(self.blocks(torch.cat([*first, patches], 1) + self.pos_embed))
        return (x[:, 0] + x[:, 1]) / 2


class Spectrograms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v = DistilledTrunk()
        self.mlp_head = nn.Sequential(nn.LayerNorm(32, eps=1e-12), nn.Linear(32, 11))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp_head(self.v(x))


@pair("ast-transformers-paper", family="ast", transforms=True)
def _ast() -> Pair:
    target = Spectrograms()
    own = "audio_spectrogram_transformer."
    at, layer = "v.blocks.*.", own + "layers.*."
    parts = (f"{layer}attention.{each}_proj" for each in "qkv")
    truth = mapped(target, {
        "v.cls_token": own + "embeddings.cls_token",
        "v.dist_token": own + "embeddings.distillation_token",
        "v.pos_embed": own + "embeddings.position_embeddings",
        "v.patch_embed.proj": own + "embeddings.patch_embeddings.projection",
        "v.norm": own + "layernorm",
        "mlp_head.0": "classifier.layernorm",
        "mlp_head.1": "classifier.dense",
        at + "norm1": layer + "layernorm_before",
        at + "norm2": layer + "layernorm_after",
        at + "attn.qkv": " + ".join(parts) + " > cat(0, 1)",
        at + "attn.proj": layer + "attention.o_proj",
        at + "mlp.fc1": layer + "mlp.fc1",
        at + "mlp.fc2": layer + "mlp.fc2",
    })  # fmt: skip
    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 72,
        "num_mel_bins": 24, "max_length": 40, "patch_size": 8, "frequency_stride": 8, "time_stride": 8,
        "num_labels": 11,
    }  # fmt: skip
    picture = sound(2, 40, 24)
    source = ASTForAudioClassification(ASTConfig(**sizes))
    return Pair(source, target, truth, lambda net: net(picture).logits, called(picture))
