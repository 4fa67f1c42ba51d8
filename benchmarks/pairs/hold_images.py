"""
Held out: a network that takes noise from images, and an image transformer with two kinds of layers.
"""

from __future__ import annotations

import math
from typing import Any

from benchmarks.pairs.vision_support import image, on, renamed

# isort: split
import torch
from diffusers import UNet2DModel
from timm.models.cait import Cait
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pairs.pair import Pair, pair
from benchmarks.pairs.text_common import attend

# ------------------------- the first code for such networks: 1×1 convolutions, levels by number


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(inner)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.temb_proj = nn.Linear(64, outer)
        self.norm2 = _group_norm(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = y + self.temb_proj(functional.silu(temb))[:, :, None, None]
        y = self.conv2(functional.silu(self.norm2(y)))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (each(y).flatten(2).transpose(1, 2) for each in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v, 1).transpose(1, 2).unflatten(2, x.shape[2:]))


class Sample(nn.Module):
    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, 1 if up else 2, 1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    def __init__(self, widths: list[tuple[int, int]], *, attends: bool, samples: bool, up: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList([ResnetBlock(*each) for each in widths])
        self.attn = nn.ModuleList([AttnBlock(outer) for _, outer in widths if attends])
        if samples:
            setattr(self, "upsample" if up else "downsample", Sample(widths[-1][1], up=up))


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(16, 64), nn.Linear(64, 64)])
        self.conv_in = nn.Conv2d(3, 16, 3, padding=1)
        down = [[(16, 16)], [(16, 32)], [(32, 48)]]
        up = [[(48, 16), (32, 16)], [(80, 32), (48, 32)], [(96, 48), (80, 48)]]
        self.down = nn.ModuleList(
            [Level(each, attends=n == 1, samples=n < 2, up=False) for n, each in enumerate(down)]
        )
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1 = ResnetBlock(48, 48), AttnBlock(48)
        self.mid.block_2 = ResnetBlock(48, 48)
        self.up = nn.ModuleList(
            [Level(each, attends=n == 1, samples=n > 0, up=True) for n, each in enumerate(up)]
        )
        self.norm_out = _group_norm(16)
        self.conv_out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        net: Any = self
        speeds = torch.exp(-math.log(10000.0) * torch.arange(8) / 7)
        turned = steps[:, None].float() * speeds
        temb = net.temb.dense[0](torch.cat([turned.sin(), turned.cos()], 1))
        temb = net.temb.dense[1](functional.silu(temb))
        x = self.conv_in(x)
        left = [x]
        for level in net.down:
            for n, block in enumerate(level.block):
                x = block(x, temb)
                x = level.attn[n](x) if len(level.attn) else x
                left.append(x)
            if hasattr(level, "downsample"):
                x = level.downsample(x)
                left.append(x)
        x = net.mid.block_2(net.mid.attn_1(net.mid.block_1(x, temb)), temb)
        for level in reversed(net.up):
            for n, block in enumerate(level.block):
                x = block(torch.cat([x, left.pop()], 1), temb)
                x = level.attn[n](x) if len(level.attn) else x
            if hasattr(level, "upsample"):
                x = level.upsample(x)
        return self.conv_out(functional.silu(self.norm_out(x)))


@pair("ddpm-diffusers-paper", family="ddpm", transforms=True)
def _ddpm() -> Pair:
    source = UNet2DModel(
        sample_size=16, layers_per_block=1, block_out_channels=(16, 32, 48), downsample_padding=0,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"), norm_num_groups=8,
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None,
        flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
    )  # fmt: skip
    target = Denoiser()
    square = r"attn[._]\d\.(q|k|v|proj_out)\.weight"
    truth = renamed(
        target,
        (r"^temb\.dense\.0", "time_embedding.linear_1"),
        (r"^temb\.dense\.1", "time_embedding.linear_2"),
        (r"^norm_out", "conv_norm_out"),
        (r"^mid\.block_1", "mid_block.resnets.0"),
        (r"^mid\.block_2", "mid_block.resnets.1"),
        (r"^mid\.attn_1", "mid_block.attentions.0"),
        (r"^down\.", "down_blocks."),
        (r"^up\.0", "up_blocks.2"),
        (r"^up\.1", "up_blocks.1"),
        (r"^up\.2", "up_blocks.0"),
        (r"\.block\.", ".resnets."),
        (r"\.attn\.", ".attentions."),
        (r"\.(up|down)sample\.", r".\1samplers.0."),
        (r"temb_proj", "time_emb_proj"),
        (r"nin_shortcut", "conv_shortcut"),
        (r"(attentions\.\d)\.norm", r"\1.group_norm"),
        (r"(attentions\.\d)\.([qkv])\.", r"\1.to_\2."),
        (r"(attentions\.\d)\.proj_out", r"\1.to_out.0"),
        steps={rf"^{place}.*{square}": f"reshape({n}, {n}, 1, 1)" for place, n in (("mid", 48), ("", 32))},
    )
    free = tuple(name for name in truth if name.endswith(".k.bias"))
    steps = torch.tensor([3, 7])
    return Pair(
        source, target, truth, lambda net: net(image(16), steps).sample,
        lambda net: net(image(16), steps), free=free,
    )  # fmt: skip


# ------------------------------------- CaiT: heads that talk, layers for one token alone


class TalkingAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.mix_heads_pre_attn = nn.Conv2d(heads, heads, 1)
        self.mix_heads_post_attn = nn.Conv2d(heads, heads, 1)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        found = (self.to_q(x), *self.to_kv(x).chunk(2, -1))
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in found)
        dots = self.mix_heads_pre_attn(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5)
        weights = self.mix_heads_post_attn(dots.softmax(-1))
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class ClassAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.to_kv(x).chunk(2, -1)
        return self.to_out(attend(self.to_q(x[:, :1]), k, v, self.heads))


class Scaled(nn.Module):
    def __init__(self, dim: int, inner: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.fn = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.fn(self.norm(x))


def _feed(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class CaiTPlain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Conv2d(3, 48, 8, 8)
        self.pos_embedding = nn.Parameter(torch.zeros(1, 16, 48))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 48))
        self.patch_transformer, self.cls_transformer = nn.ModuleList(), nn.ModuleList()
        for _ in range(3):
            pair = Scaled(48, TalkingAttention(48, 4)), Scaled(48, _feed(48, 96))
            self.patch_transformer.append(nn.ModuleList(pair))
        for _ in range(2):
            pair = Scaled(48, ClassAttention(48, 4)), Scaled(48, _feed(48, 96))
            self.cls_transformer.append(nn.ModuleList(pair))
        self.mlp_head = nn.Sequential(nn.LayerNorm(48, eps=1e-6), nn.Linear(48, 11))

    def forward(self, images: Tensor) -> Tensor:
        net: Any = self
        x = self.to_patch_embedding(images).flatten(2).transpose(1, 2) + self.pos_embedding
        for attention, feed in net.patch_transformer:
            x = x + attention(x)
            x = x + feed(x)
        first = self.cls_token.expand(len(x), -1, -1)
        for attention, feed in net.cls_transformer:
            first = first + attention(torch.cat([first, x], 1))
            first = first + feed(first)
        return self.mlp_head(first[:, 0])


@pair("cait-timm-lucid", family="cait", transforms=True)
def _cait() -> Pair:
    source = Cait(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, mlp_ratio=2, num_classes=11,
        mlp_ratio_token_only=2, qkv_bias=True,
    )  # fmt: skip
    target = CaiTPlain()
    first = r"^patch_transformer\.\d+\.0\.fn\."
    truth = renamed(
        target,
        (r"^to_patch_embedding", "patch_embed.proj"),
        (r"^pos_embedding", "pos_embed"),
        (r"^mlp_head\.0", "norm"),
        (r"^mlp_head\.1", "head"),
        (r"^(patch_transformer\.\d+\.0\.fn)\.to_(q|kv)\.", r"\1.qkv."),
        (r"^(cls_transformer\.\d+\.0\.fn)\.to_q\.", r"\1.q."),
        (r"^(cls_transformer\.\d+\.0\.fn)\.to_kv\.", r"\1.{k,v}."),
        (r"^patch_transformer", "blocks"),
        (r"^cls_transformer", "blocks_token_only"),
        (r"^(blocks\w*\.\d+)\.0\.scale", r"\1.gamma_1"),
        (r"^(blocks\w*\.\d+)\.1\.scale", r"\1.gamma_2"),
        (r"^(blocks\w*\.\d+)\.0\.norm", r"\1.norm1"),
        (r"^(blocks\w*\.\d+)\.1\.norm", r"\1.norm2"),
        (r"^(blocks\w*\.\d+)\.0\.fn", r"\1.attn"),
        (r"^(blocks\w*\.\d+)\.1\.fn\.0", r"\1.mlp.fc1"),
        (r"^(blocks\w*\.\d+)\.1\.fn\.2", r"\1.mlp.fc2"),
        (r"mix_heads_pre_attn", "proj_l"),
        (r"mix_heads_post_attn", "proj_w"),
        (r"to_out", "proj"),
        steps={
            first + r"to_q\.": "take(0, 0, 48, 1)",
            first + r"to_kv\.": "take(0, 48, 144, 1)",
            r"^cls_transformer.*to_kv": "cat(0, 1)",
            r"mix_heads_\w+\.weight": "reshape(4, 4, 1, 1)",
        },
    )
    return Pair(source, target, truth, on(image()), on(image()))
