"""
A pair of the autoencoder of latent diffusion: a rewrite in its first layout, and diffusers.
"""

from __future__ import annotations

from benchmarks.pairs.vision_support import image, key_biases, renamed

# isort: split
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pairs.pair import Pair, pair

_WIDTHS = (16, 24, 40)
_LATENT = 5


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(4, width, eps=1e-6)


class _ResnetBlock(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = _norm(outer), nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)
        self.changes = inner != outer

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.conv1(functional.silu(self.norm1(maps)))
        inside = self.conv2(functional.silu(self.norm2(inside)))
        return inside + (self.nin_shortcut(maps) if self.changes else maps)


class _AttnBlock(nn.Module):
    """Attention over all places by convolutions of size 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.norm(maps)
        query, key, value = (each(inside).flatten(2) for each in (self.q, self.k, self.v))
        weights = (query.transpose(1, 2) @ key / maps.shape[1] ** 0.5).softmax(-1)
        mixed = value @ weights.transpose(1, 2)
        return maps + self.proj_out(mixed.view(maps.shape))


class _Resample(nn.Module):
    def __init__(self, width: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(width, width, 3, 2 if down else 1, padding=0 if down else 1)

    def forward(self, maps: Tensor) -> Tensor:
        if self.down:
            return self.conv(functional.pad(maps, (0, 1, 0, 1)))
        return self.conv(functional.interpolate(maps, scale_factor=2.0, mode="nearest"))


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = _ResnetBlock(width, width), _AttnBlock(width)
        self.block_2 = _ResnetBlock(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(maps)))


class _Level(nn.Module):
    def __init__(self, inner: int, outer: int, count: int, resample: str) -> None:
        super().__init__()
        self.block = nn.ModuleList([_ResnetBlock(outer if at else inner, outer) for at in range(count)])
        if resample:
            self.add_module(resample, _Resample(outer, resample == "downsample"))
        self.resample = resample

    def forward(self, maps: Tensor) -> Tensor:
        for block in self.block:
            maps = block(maps)
        return getattr(self, self.resample)(maps) if self.resample else maps


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, _WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList()
        for inner, outer in zip((_WIDTHS[0], *_WIDTHS), _WIDTHS):
            self.down.append(_Level(inner, outer, 2, "" if outer == _WIDTHS[-1] else "downsample"))
        self.mid, self.norm_out = _Middle(_WIDTHS[-1]), _norm(_WIDTHS[-1])
        self.conv_out = nn.Conv2d(_WIDTHS[-1], 2 * _LATENT, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.conv_in(maps)
        for level in self.down:
            maps = level(maps)
        return self.conv_out(functional.silu(self.norm_out(self.mid(maps))))


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(_LATENT, _WIDTHS[-1], 3, padding=1)
        self.mid = _Middle(_WIDTHS[-1])
        # Level 0 is the finest and comes last.
        self.up = nn.ModuleList()
        for at, outer in enumerate(_WIDTHS):
            inner = _WIDTHS[min(at + 1, len(_WIDTHS) - 1)]
            self.up.append(_Level(inner, outer, 3, "upsample" if at else ""))
        self.norm_out = _norm(_WIDTHS[0])
        self.conv_out = nn.Conv2d(_WIDTHS[0], 3, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.mid(self.conv_in(maps))
        for level in reversed(self.up):
            maps = level(maps)
        return self.conv_out(functional.silu(self.norm_out(maps)))


class _FirstStage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = _Encoder(), _Decoder()
        self.quant_conv = nn.Conv2d(2 * _LATENT, 2 * _LATENT, 1)
        self.post_quant_conv = nn.Conv2d(_LATENT, _LATENT, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.quant_conv(self.encoder(images))
        return moments, self.decoder(self.post_quant_conv(moments[:, :_LATENT]))


def _diffusers() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=_WIDTHS, down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=2, latent_channels=_LATENT,
    )  # fmt: skip


def _run_diffusers(net: AutoencoderKL) -> tuple[Tensor, Tensor]:
    moments = net.encode(image()).latent_dist.parameters
    return moments, net.decode(moments[:, :_LATENT]).sample


@pair("vae-plain-diffusers", family="vae", transforms=True)
def _vae_plain_diffusers() -> Pair:
    target = _diffusers()
    truth = renamed(
        target,
        (r"conv_norm_out", "norm_out"),
        (r"down_blocks", "down"),
        *((rf"up_blocks\.{at}\.", f"up.{2 - at}.") for at in range(3)),
        (r"(down|up)samplers\.0", r"\1sample"),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"resnets", "block"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"attn_1\.group_norm", "attn_1.norm"),
        (r"attn_1\.to_out\.0", "attn_1.proj_out"),
        (r"attn_1\.to_", "attn_1."),
        steps={r"\.to_\w+(\.0)?\.weight": "reshape(40, 40)"},
    )
    return Pair(
        _FirstStage(), target, truth, lambda net: net(image()), _run_diffusers,
        free=key_biases(truth, "to_k.bias"),
    )  # fmt: skip


@pair("vae-diffusers-plain", family="vae", transforms=True)
def _vae_diffusers_plain() -> Pair:
    target = _FirstStage()
    truth = renamed(
        target,
        (r"attn_1\.proj_out", "attn_1.to_out.0"),
        (r"attn_1\.([qkv])\.", r"attn_1.to_\1."),
        (r"attn_1\.norm", "attn_1.group_norm"),
        (r"\.norm_out", ".conv_norm_out"),
        (r"nin_shortcut", "conv_shortcut"),
        (r"mid\.block_1", "mid_block.resnets.0"),
        (r"mid\.block_2", "mid_block.resnets.1"),
        (r"mid\.attn_1", "mid_block.attentions.0"),
        (r"\.block\.", ".resnets."),
        (r"(down|up)sample\.", r"\1samplers.0."),
        (r"\.down\.", ".down_blocks."),
        *((rf"\.up\.{at}\.", f".up_blocks.{2 - at}.") for at in range(3)),
        steps={r"attn_1\.([qkv]|proj_out)\.weight": "reshape(40, 40, 1, 1)"},
    )
    return Pair(
        _diffusers(), target, truth, _run_diffusers, lambda net: net(image()),
        free=key_biases(truth, "attn_1.k.bias"),
    )  # fmt: skip
