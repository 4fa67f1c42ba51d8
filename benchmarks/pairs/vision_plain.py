"""
Pairs of a library's image model and a plain rewrite with another nesting and other layers.
"""

from __future__ import annotations

from functools import partial

from benchmarks.pairs.vision_support import image, on, renamed

# isort: split
import torch
from monai.networks.nets import UNet as MonaiUNet
from segmentation_models_pytorch import Unet as SmpUnet
from timm.layers import SEModule
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet
from vit_pytorch.vit_with_patch_dropout import ViT as LucidViT

from benchmarks.pairs.pair import Pair, pair

# ---------------------------------------------------- patches and heads in another order


def _patches(images: Tensor, size: int) -> Tensor:
    """Rows of patches, each (height, width, channel) in this order."""
    cut = images.unfold(2, size, size).unfold(3, size, size)
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


class _HeadwiseAttention(nn.Module):
    """Query, key and value of one head lie together: (heads, 3, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        stacked = self.project_in(tokens).view(batch, length, self.heads, 3, width // self.heads)
        query, key, value = stacked.permute(3, 0, 2, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.project_out(mixed.transpose(1, 2).reshape(batch, length, width))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.mixing = nn.Sequential(nn.LayerNorm(width, eps=1e-6), _HeadwiseAttention(width, heads))
        self.thinking = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.mixing(tokens)
        return tokens + self.thinking(tokens)


class _LinearPatchViT(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.patch_to_token = nn.Linear(8 * 8 * 3, width)
        self.summary = nn.Parameter(torch.randn(width))
        self.positions = nn.Embedding(17, width)
        self.trunk = nn.ModuleList([_Layer(width, heads, hidden) for _ in range(depth)])
        self.readout = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 11))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch_to_token(_patches(images, 8))
        tokens = torch.cat([self.summary.expand(len(tokens), 1, -1), tokens], 1) + self.positions.weight
        for layer in self.trunk:
            tokens = layer(tokens)
        return self.readout(tokens[:, 0])


@pair("vit-timm-plain", family="vit", transforms=True)
def _vit_timm_plain() -> Pair:
    source = TimmViT(32, 8, embed_dim=48, depth=3, num_heads=4, mlp_ratio=80 / 48, num_classes=11)
    target = _LinearPatchViT(48, 4, 80, 3)
    truth = renamed(
        target,
        (r"^patch_to_token", "patch_embed.proj"),
        (r"^summary", "cls_token"),
        (r"^positions\.weight", "pos_embed"),
        (r"^trunk", "blocks"),
        (r"mixing\.0", "norm1"),
        (r"mixing\.1\.project_in", "attn.qkv"),
        (r"mixing\.1\.project_out", "attn.proj"),
        (r"thinking\.0", "norm2"),
        (r"thinking\.1", "mlp.fc1"),
        (r"thinking\.3", "mlp.fc2"),
        (r"^readout\.0", "norm"),
        (r"^readout\.1", "head"),
        steps={
            r"patch_to_token\.weight": "permute(0, 2, 3, 1) | reshape(48, 192)",
            r"summary": "reshape(48)",
            r"positions": "index(0, 0)",
            r"project_in": "swap(0, 1, 3, 4)",
        },
    )
    return Pair(source, target, truth, on(image()), on(image()))


@pair("vit-vitpytorch-timm", family="vit", transforms=True)
def _vit_vitpytorch_timm() -> Pair:
    source = LucidViT(
        image_size=32, patch_size=8, num_classes=11, dim=48, depth=3, heads=4, mlp_dim=80, dim_head=12,
        patch_dropout=0.0,
    )  # fmt: skip
    target = TimmViT(
        32, 8, embed_dim=48, depth=3, num_heads=4, mlp_ratio=80 / 48, num_classes=11, qkv_bias=False,
        no_embed_class=True, norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    truth = renamed(
        target,
        (r"^patch_embed\.proj", "to_patch_embedding.1"),
        (r"^pos_embed", "pos_embedding"),
        (r"^norm", "mlp_head.0"),
        (r"^head", "mlp_head.1"),
        (r"^blocks", "transformer.layers"),
        (r"norm1", "0.norm"),
        (r"attn\.qkv", "0.to_qkv"),
        (r"attn\.proj", "0.to_out.0"),
        (r"norm2", "1.net.0"),
        (r"mlp\.fc1", "1.net.1"),
        (r"mlp\.fc2", "1.net.4"),
        steps={
            r"patch_embed\.proj\.weight": "reshape(48, 8, 8, 3) | permute(0, 3, 1, 2)",
            r"pos_embed": "reshape(1, 16, 48)",
        },
    )
    return Pair(source, target, truth, on(image()), on(image()))


class _ConvMixer(nn.Module):
    """An MLP-Mixer whose layers over tokens are convolutions of one position."""

    def __init__(self, width: int, tokens: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8 * 8 * 3, width)
        self.across = nn.ModuleList()
        self.along = nn.ModuleList()
        for _ in range(depth):
            hidden = nn.Conv1d(16, tokens, 1), nn.GELU(), nn.Conv1d(tokens, 16, 1)
            self.across.append(nn.Sequential(nn.LayerNorm(width, eps=1e-6), *hidden))
            wide = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            self.along.append(nn.Sequential(nn.LayerNorm(width, eps=1e-6), *wide))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classify = nn.Linear(width, 11)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(_patches(images, 8))
        for across, along in zip(self.across, self.along):
            tokens = tokens + across(tokens)
            tokens = tokens + along(tokens)
        return self.classify(self.norm(tokens).mean(1))


@pair("mixer-timm-plain", family="mixer", transforms=True)
def _mixer_timm_plain() -> Pair:
    source = MlpMixer(
        num_classes=11, img_size=32, patch_size=8, num_blocks=3, embed_dim=48, mlp_ratio=(0.5, 2)
    )  # fmt: skip
    target = _ConvMixer(48, 24, 3)
    truth = renamed(
        target,
        (r"^embed", "stem.proj"),
        (r"^classify", "head"),
        (r"^across\.(\d+)\.0", r"blocks.\1.norm1"),
        (r"^across\.(\d+)\.1", r"blocks.\1.mlp_tokens.fc1"),
        (r"^across\.(\d+)\.3", r"blocks.\1.mlp_tokens.fc2"),
        (r"^along\.(\d+)\.0", r"blocks.\1.norm2"),
        (r"^along\.(\d+)\.1", r"blocks.\1.mlp_channels.fc1"),
        (r"^along\.(\d+)\.3", r"blocks.\1.mlp_channels.fc2"),
        steps={
            r"^embed\.weight": "permute(0, 2, 3, 1) | reshape(48, 192)",
            r"across\.\d+\.1\.weight": "reshape(24, 16, 1)",
            r"across\.\d+\.3\.weight": "reshape(16, 24, 1)",
        },
    )
    # One number for all channels of a token is what the next norm takes off.
    free = tuple(name for name in truth if name.startswith("across.") and name.endswith("3.bias"))
    return Pair(source, target, truth, on(image()), on(image()), free=free)


# ------------------------------------------------------------ squeezing with Linear


class _Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, width // 8)
        self.up = nn.Linear(width // 8, width)

    def forward(self, maps: Tensor) -> Tensor:
        weights = self.up(self.down(maps.mean((2, 3))).relu()).sigmoid()
        return maps * weights[:, :, None, None]


class _Unit(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer),
        )  # fmt: skip
        self.gate = _Gate(outer)
        self.project = nn.Sequential()
        if stride > 1 or inner != outer:
            self.project = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, maps: Tensor) -> Tensor:
        return (self.gate(self.body(maps)) + self.project(maps)).relu()


class _SqueezingNet(nn.Module):
    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.entry = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        inner, units = 64, []
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            for at in range(depth):
                units.append(_Unit(inner, width, 2 if stage and not at else 1))
                inner = width
        self.units = nn.Sequential(*units)
        self.exit = nn.Linear(inner, 11)

    def forward(self, images: Tensor) -> Tensor:
        return self.exit(self.units(self.entry(images)).mean((2, 3)))


@pair("seresnet-timm-plain", family="senet", transforms=True)
def _seresnet_timm_plain() -> Pair:
    widths, depths = (64, 72, 80, 96), (2, 3, 2, 2)
    source = TimmResNet(
        TimmBasicBlock, depths, num_classes=11, channels=widths,
        block_args={"attn_layer": partial(SEModule, rd_ratio=1 / 8, rd_divisor=1)},
    )  # fmt: skip
    target = _SqueezingNet(widths, depths)
    places = [(stage, at) for stage, depth in enumerate(depths) for at in range(depth)]
    shapes = {}
    for number, (stage, _) in enumerate(places):
        width, narrow = widths[stage], widths[stage] // 8
        shapes[rf"units\.{number}\.gate\.down\.weight"] = f"reshape({narrow}, {width})"
        shapes[rf"units\.{number}\.gate\.up\.weight"] = f"reshape({width}, {narrow})"
    truth = renamed(
        target,
        (r"^entry\.0", "conv1"),
        (r"^entry\.1", "bn1"),
        (r"^exit", "fc"),
        (r"body\.0", "conv1"),
        (r"body\.1", "bn1"),
        (r"body\.3", "conv2"),
        (r"body\.4", "bn2"),
        (r"gate\.down", "se.fc1"),
        (r"gate\.up", "se.fc2"),
        (r"project", "downsample"),
        *((rf"^units\.{number}\.", f"layer{stage + 1}.{at}.") for number, (stage, at) in enumerate(places)),
        steps=shapes,
    )
    return Pair(source, target, truth, on(image()), on(image()))


# -------------------------------------------------------------------------- U-Nets


class _Rise(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.fuse_norm = nn.BatchNorm2d(outer)
        self.refine = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.refine_norm = nn.BatchNorm2d(outer)

    def forward(self, maps: Tensor, skip: Tensor | None) -> Tensor:
        maps = functional.interpolate(maps, scale_factor=2, mode="nearest")
        if skip is not None:
            maps = torch.cat([maps, skip], 1)
        maps = self.fuse_norm(self.fuse(maps)).relu()
        return self.refine_norm(self.refine(maps)).relu()


class _Segmenter(nn.Module):
    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.mask_head = nn.Conv2d(widths[-1], classes, 3, padding=1)
        inner = (512 + 256, widths[0] + 128, widths[1] + 64, widths[2] + 64, widths[3])
        self.rises = nn.ModuleDict({f"to_{16 >> at}": _Rise(inner[at], widths[at]) for at in range(5)})
        self.backbone = ResNet(BasicBlock, [2, 2, 2, 2])
        del self.backbone.fc

    def forward(self, images: Tensor) -> Tensor:
        net = self.backbone
        skips = [net.relu(net.bn1(net.conv1(images)))]
        maps = net.maxpool(skips[0])
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            maps = layer(maps)
            skips.append(maps)
        skips.pop()
        for rise in self.rises.values():
            maps = rise(maps, skips.pop() if skips else None)
        return self.mask_head(maps)


@pair("unet-smp-plain", family="unet")
def _unet_smp_plain() -> Pair:
    widths = (64, 48, 40, 24, 16)
    source = SmpUnet("resnet18", encoder_weights=None, decoder_channels=widths, classes=5)
    target = _Segmenter(widths, 5)
    truth = renamed(
        target,
        (r"^mask_head", "segmentation_head.0"),
        (r"^backbone", "encoder"),
        *((rf"^rises\.to_{16 >> at}\.", f"decoder.blocks.{at}.") for at in range(5)),
        (r"fuse\.", "conv1.0."),
        (r"fuse_norm", "conv1.1"),
        (r"refine\.", "conv2.0."),
        (r"refine_norm", "conv2.1"),
    )
    return Pair(source, target, truth, on(image(64)), on(image(64)))


class _FlatUNet(nn.Module):
    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        steps = list(zip((3, *widths), widths))
        self.down = nn.ModuleList([self._step(nn.Conv2d(a, b, 3, 2, 1), b) for a, b in steps[:-1]])
        self.bottom = self._step(nn.Conv2d(*steps[-1], 3, 1, 1), widths[-1])
        outer = (classes, *widths[:-2])
        inner = [2 * width for width in widths[:-2]] + [widths[-2] + widths[-1]]
        self.up = nn.ModuleList(
            [
                self._step(nn.ConvTranspose2d(a, b, 3, 2, 1, 1), b, last=not at)
                for at, (a, b) in enumerate(zip(inner, outer))
            ]
        )

    @staticmethod
    def _step(convolution: nn.Module, width: int, last: bool = False) -> nn.Sequential:
        norm = (nn.BatchNorm2d(width), nn.PReLU())
        return nn.Sequential(convolution, *(() if last else norm))

    def forward(self, images: Tensor) -> Tensor:
        skips, maps = [], images
        for step in self.down:
            maps = step(maps)
            skips.append(maps)
        maps = self.bottom(maps)
        for step, skip in zip(reversed(self.up), reversed(skips)):
            maps = step(torch.cat([skip, maps], 1))
        return maps


@pair("unet-monai-plain", family="unet")
def _unet_monai_plain() -> Pair:
    widths = (16, 24, 40, 56)
    source = MonaiUNet(2, 3, 5, widths, (2, 2, 2), norm="batch")
    target = _FlatUNet(widths, 5)
    truth = renamed(
        target,
        # The source's levels lie in each other.
        *((rf"^down\.{at}\.", "model." + "1.submodule." * at + "0.") for at in range(3)),
        (r"^bottom\.", "model." + "1.submodule." * 3),
        *((rf"^up\.{at}\.", "model." + "1.submodule." * at + "2.") for at in range(3)),
        (r"0\.(weight|bias)$", r"conv.\1"),
        (r"1\.(weight|bias|running_mean|running_var|num_batches_tracked)$", r"adn.N.\1"),
        (r"2\.(weight|bias)$", r"adn.A.\1"),
    )
    return Pair(source, target, truth, on(image()), on(image()))


# ------------------------------------------------------- transposed convolutions


class _Generator(nn.Module):
    """Noise to images, all in one sequence of transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(20, 64, 4, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.ConvTranspose2d(64, 48, 4, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
            nn.ConvTranspose2d(48, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise: Tensor) -> Tensor:
        return self.main(noise[:, :, None, None])


class _Grow(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(inner)
        self.enlarge = nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return self.enlarge(self.normalise(maps).relu())


class _Painter(nn.Module):
    """The same, from a linear layer and blocks that begin with their norm."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.ModuleList([_Grow(64, 48), _Grow(48, 32), _Grow(32, 3)])
        self.seed = nn.Linear(20, 64 * 16, bias=False)

    def forward(self, noise: Tensor) -> Tensor:
        maps = self.seed(noise).view(-1, 64, 4, 4)
        for grow in self.grow:
            maps = grow(maps)
        return maps.tanh()


@pair("dcgan-plain-plain", family="gan", transforms=True)
def _dcgan_plain_plain() -> Pair:
    target = _Painter()
    truth = renamed(
        target,
        (r"^seed", "main.0"),
        *((rf"^grow\.{at}\.normalise", f"main.{3 * at + 1}") for at in range(3)),
        *((rf"^grow\.{at}\.enlarge", f"main.{3 * at + 3}") for at in range(3)),
        steps={r"seed": "reshape(20, 1024) | transpose"},
    )
    noise = torch.randn(3, 20, generator=torch.Generator().manual_seed(5))
    return Pair(_Generator(), target, truth, on(noise), on(noise))
