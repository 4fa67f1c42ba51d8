"""
Held out: convolutional networks of libraries and what others make of them, with their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pairs.vision_support import image, on, renamed

# isort: split
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ShuffleNetV2, SqueezeNet
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead
from torchvision.models.video.resnet import BasicBlock as VideoBlock
from torchvision.models.video.resnet import Conv2Plus1D, R2Plus1dStem, VideoResNet
from transformers import SuperPointConfig, SuperPointForKeypointDetection

from benchmarks.pairs.pair import Pair, Truth, pair


def _of_modules(target: nn.Module, modules: Mapping[str, str]) -> dict[str, Truth]:
    """The truth that whole modules give, target's name to source's."""
    truth: dict[str, Truth] = {}
    for name in target.state_dict():
        module, _, leaf = name.rpartition(".")
        truth[name] = (((f"{modules[module]}.{leaf}", ""),), "")
    return truth


# ---------------------------------------------------------------- RepVGG, as its paper's code


def conv_bn(inner: int, outer: int, size: int, stride: int) -> nn.Sequential:
    """A convolution and its norm, by name."""
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(inner, outer, size, stride, size // 2, bias=False))
    layers.add_module("bn", nn.BatchNorm2d(outer))
    return layers


class RepBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(inner) if inner == outer and stride == 1 else None
        self.rbr_dense = conv_bn(inner, outer, 3, stride)
        self.rbr_1x1 = conv_bn(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        same = self.rbr_identity(x) if self.rbr_identity is not None else 0
        return (self.rbr_dense(x) + self.rbr_1x1(x) + same).relu()


class RepNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage0 = RepBlock(3, 16, 2)
        self.stage1 = nn.Sequential(RepBlock(16, 16, 2), RepBlock(16, 16, 1))
        self.stage2 = nn.Sequential(RepBlock(16, 24, 2), RepBlock(24, 24, 1), RepBlock(24, 24, 1))
        self.stage3 = nn.Sequential(RepBlock(24, 32, 2), RepBlock(32, 32, 1))
        self.linear = nn.Linear(32, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stage0(x))))
        return self.linear(x.mean((2, 3)))


@pair("repvgg-timm-paper", family="repvgg")
def _repvgg() -> Pair:
    blocks = [ByoBlockCfg(type="rep", d=d, c=c, s=2, gs=0) for d, c in ((2, 16), (3, 24), (2, 32))]
    config = ByoModelCfg(blocks=tuple(blocks), stem_type="rep", stem_chs=16)
    target = RepNet()
    truth = renamed(
        target,
        (r"^stage0", "stem"),
        (r"^stage1", "stages.0"),
        (r"^stage2", "stages.1"),
        (r"^stage3", "stages.2"),
        (r"rbr_identity", "identity"),
        (r"rbr_dense", "conv_kxk"),
        (r"rbr_1x1", "conv_1x1"),
        (r"^linear", "head.fc"),
    )
    return Pair(ByobNet(config, num_classes=11), target, truth, on(image(64)), on(image(64)))


# ---------------------------------------------------------------- SuperPoint


class KeypointNet(nn.Module):
    """The names that the first publication of its weights has."""

    def __init__(self) -> None:
        super().__init__()
        inner = 1
        for number, width in enumerate((16, 16, 24, 24), 1):
            for letter in "ab":
                setattr(self, f"conv{number}{letter}", nn.Conv2d(inner, width, 3, padding=1))
                inner = width
        self.convPa = nn.Conv2d(24, 40, 3, padding=1)
        self.convPb = nn.Conv2d(40, 65, 1)
        self.convDa = nn.Conv2d(24, 40, 3, padding=1)
        self.convDb = nn.Conv2d(40, 32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for number in range(1, 5):
            for letter in "ab":
                x = getattr(self, f"conv{number}{letter}")(x).relu()
            if number < 4:
                x = functional.max_pool2d(x, 2)
        return self.convPb(self.convPa(x).relu()), self.convDb(self.convDa(x).relu())


def _maps(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    encoded = net.encoder(x)[0]
    points, words = net.keypoint_decoder, net.descriptor_decoder
    scores = points.conv_score_b(points.conv_score_a(encoded).relu())
    return scores, words.conv_descriptor_b(words.conv_descriptor_a(encoded).relu())


@pair("superpoint-transformers-paper", family="superpoint")
def _superpoint() -> Pair:
    config = SuperPointConfig(
        encoder_hidden_sizes=[16, 16, 24, 24], decoder_hidden_size=40, keypoint_decoder_dim=65,
        descriptor_decoder_dim=32,
    )  # fmt: skip
    target = KeypointNet()
    modules = {
        f"conv{number + 1}{letter}": f"encoder.conv_blocks.{number}.conv_{letter}"
        for number in range(4)
        for letter in "ab"
    }
    for letter in "ab":
        modules[f"convP{letter}"] = f"keypoint_decoder.conv_score_{letter}"
        modules[f"convD{letter}"] = f"descriptor_decoder.conv_descriptor_{letter}"
    picture = image(32, 1)
    return Pair(
        SuperPointForKeypointDetection(config), target, _of_modules(target, modules),
        lambda net: _maps(net, picture), on(picture),
    )  # fmt: skip


# ---------------------------------------------------------------- SqueezeNet


class Fire(nn.Module):
    def __init__(self, inner: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, narrow, 1)
        self.conv2 = nn.Conv2d(narrow, wide, 1)
        self.conv3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        return torch.cat([self.conv2(x), self.conv3(x)], 1).relu()


class FireNet(nn.Module):
    """As a course on the paper would have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 2)
        widths = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
        inner = 64
        for number, (narrow, wide) in enumerate(widths, 2):
            setattr(self, f"fire{number}", Fire(inner, narrow, wide))
            inner = 2 * wide
        self.conv10 = nn.Conv2d(512, 11, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu()
        for number in range(2, 10):
            if number in (2, 4, 6):
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
            x = getattr(self, f"fire{number}")(x)
        return self.conv10(x).relu().mean((2, 3))


@pair("squeezenet-torchvision-plain", family="squeezenet")
def _squeezenet() -> Pair:
    target = FireNet()
    modules = {"conv1": "features.0", "conv10": "classifier.1"}
    for number, place in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12)):
        for own, there in (("conv1", "squeeze"), ("conv2", "expand1x1"), ("conv3", "expand3x3")):
            modules[f"fire{number}.{own}"] = f"features.{place}.{there}"
    source = SqueezeNet("1_1", num_classes=11)
    return Pair(source, target, _of_modules(target, modules), on(image(64)), on(image(64)))


# ---------------------------------------------------------------- ShuffleNet


class Shuffled(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        half, entering = outer // 2, inner if stride == 2 else outer // 2
        self.branch_main = nn.Sequential(
            nn.Conv2d(entering, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False), nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
        )  # fmt: skip
        self.branch_proj = None
        if stride == 2:
            self.branch_proj = nn.Sequential(
                nn.Conv2d(inner, inner, 3, 2, 1, groups=inner, bias=False), nn.BatchNorm2d(inner),
                nn.Conv2d(inner, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if self.branch_proj is None:
            kept, x = x.chunk(2, 1)
        else:
            kept = self.branch_proj(x)
        joined = torch.cat([kept, self.branch_main(x)], 1)
        return joined.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        blocks, inner = [], 12
        for width, depth in ((24, 2), (32, 3), (48, 2)):
            for at in range(depth):
                blocks.append(Shuffled(inner, width, 1 if at else 2))
                inner = width
        self.features = nn.Sequential(*blocks)
        self.conv_last = nn.Sequential(nn.Conv2d(48, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(64, 11, bias=True))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.first_conv(x), 3, 2, 1)
        return self.classifier(self.conv_last(self.features(x)).mean((2, 3)))


@pair("shufflenet-torchvision-plain", family="shufflenet")
def _shufflenet() -> Pair:
    source, target = ShuffleNetV2([2, 3, 2], [12, 24, 32, 48, 64], num_classes=11), ShuffleClassifier()
    places = [(stage + 2, at) for stage, depth in enumerate((2, 3, 2)) for at in range(depth)]
    truth = renamed(
        target,
        (r"^first_conv", "conv1"),
        (r"^conv_last", "conv5"),
        (r"^classifier\.0", "fc"),
        *((rf"^features\.{n}\.", f"stage{stage}.{at}.") for n, (stage, at) in enumerate(places)),
        (r"branch_main", "branch2"),
        (r"branch_proj", "branch1"),
    )
    return Pair(source, target, truth, on(image(64)), on(image(64)))


# ---------------------------------------------------------------- R(2+1)D


class SpaceTimeConv(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int = 1, middle: int = 0) -> None:
        super().__init__()
        middle = middle or inner * outer * 27 // (inner * 9 + 3 * outer)
        self.spatial_conv = nn.Conv3d(inner, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.bn = nn.BatchNorm3d(middle)
        self.temporal_conv = nn.Conv3d(middle, outer, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.temporal_conv(self.bn(self.spatial_conv(x)).relu())


class SpaceTimeBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        middle = inner * outer * 27 // (inner * 9 + 3 * outer)
        self.conv1 = SpaceTimeConv(inner, outer, stride, middle)
        self.bn1 = nn.BatchNorm3d(outer)
        self.conv2 = SpaceTimeConv(outer, outer, 1, middle)
        self.bn2 = nn.BatchNorm3d(outer)
        self.downsample = stride > 1
        if self.downsample:
            self.downsample_conv = nn.Conv3d(inner, outer, 1, stride, bias=False)
            self.downsample_bn = nn.BatchNorm3d(outer)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.downsample:
            x = self.downsample_bn(self.downsample_conv(x))
        return (x + y).relu()


class VideoClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem_spatial = nn.Conv3d(3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.stem_spatial_bn = nn.BatchNorm3d(45)
        self.stem_temporal = nn.Conv3d(45, 64, (3, 1, 1), 1, (1, 0, 0), bias=False)
        self.stem_temporal_bn = nn.BatchNorm3d(64)
        self.conv2_x = nn.Sequential(SpaceTimeBlock(64, 64, 1), SpaceTimeBlock(64, 64, 1))
        self.conv3_x = nn.Sequential(SpaceTimeBlock(64, 128, 2))
        self.conv4_x = nn.Sequential(SpaceTimeBlock(128, 256, 2))
        self.conv5_x = nn.Sequential(SpaceTimeBlock(256, 512, 2))
        self.linear = nn.Linear(512, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_spatial_bn(self.stem_spatial(x)).relu()
        x = self.stem_temporal_bn(self.stem_temporal(x)).relu()
        x = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(x))))
        return self.linear(x.mean((2, 3, 4)))


@pair("r2plus1d-torchvision-plain", family="videoresnet")
def _r2plus1d() -> Pair:
    source = VideoResNet(VideoBlock, [Conv2Plus1D] * 4, [2, 1, 1, 1], R2Plus1dStem, num_classes=11)
    target = VideoClassifier()
    truth = renamed(
        target,
        (r"^stem_spatial_bn", "stem.1"),
        (r"^stem_spatial", "stem.0"),
        (r"^stem_temporal_bn", "stem.4"),
        (r"^stem_temporal", "stem.3"),
        *((rf"^conv{stage + 1}_x", f"layer{stage}") for stage in range(1, 5)),
        (r"\.bn(\d)\.", r".conv\1.1."),
        (r"downsample_conv", "downsample.0"),
        (r"downsample_bn", "downsample.1"),
        (r"(conv\d)\.spatial_conv", r"\1.0.0"),
        (r"(conv\d)\.bn\.", r"\1.0.1."),
        (r"(conv\d)\.temporal_conv", r"\1.0.3"),
        (r"^linear", "fc"),
    )
    clip = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(7))
    return Pair(source, target, truth, on(clip), on(clip))


# ---------------------------------------------------------------- DeepLab


class Atrous(nn.Module):
    def __init__(self, inner: int, outer: int, size: int, rate: int) -> None:
        super().__init__()
        padding = rate if size == 3 else 0
        self.atrous_conv = nn.Conv2d(inner, outer, size, 1, padding, rate, bias=False)
        self.bn = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.atrous_conv(x)).relu()


class Pyramid(nn.Module):
    def __init__(self, inner: int, outer: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.aspp1 = Atrous(inner, outer, 1, 1)
        self.aspp2, self.aspp3, self.aspp4 = (Atrous(inner, outer, 3, rate) for rate in rates)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(5 * outer, outer, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[2:])
        found = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), pooled]
        return self.bn1(self.conv1(torch.cat(found, 1))).relu()


class Labeller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.aspp = Pyramid(96, 48, (2, 4, 6))
        self.last_conv = nn.Sequential(
            nn.Conv2d(48, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 5, 1)
        )
        self.reduce = nn.Conv2d(256, 96, 1)
        self.encoder = ResNet(Bottleneck, [1, 1, 1, 1])
        del self.encoder.fc, self.encoder.layer2, self.encoder.layer3, self.encoder.layer4

    def forward(self, x: Tensor) -> Tensor:
        net = self.encoder
        features = net.layer1(net.maxpool(net.bn1(net.conv1(x)).relu()))
        found = self.last_conv(self.aspp(self.reduce(features)))
        return functional.interpolate(found, x.shape[2:], mode="bilinear")


class DeepLab(nn.Module):
    """torchvision's head, as its class gives it, on a backbone cut short."""

    def __init__(self) -> None:
        super().__init__()
        net = ResNet(Bottleneck, [1, 1, 1, 1])
        trunk = [net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, nn.Conv2d(256, 96, 1)]
        self.backbone = nn.Sequential(*trunk)
        self.classifier = DeepLabHead(96, 5, (2, 4, 6))
        self.classifier[0] = ASPP(96, [2, 4, 6], 48)
        self.classifier[1] = nn.Conv2d(48, 48, 3, padding=1, bias=False)
        self.classifier[2] = nn.BatchNorm2d(48)
        self.classifier[4] = nn.Conv2d(48, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(self.classifier(self.backbone(x)), x.shape[2:], mode="bilinear")


@pair("deeplab-torchvision-plain", family="deeplab")
def _deeplab() -> Pair:
    target = Labeller()
    truth = renamed(
        target,
        (r"^reduce", "backbone.5"),
        (r"^encoder\.layer1", "backbone.4"),
        (r"^encoder\.bn1", "backbone.1"),
        (r"^encoder\.conv1", "backbone.0"),
        (r"^last_conv\.(\d)", lambda match: f"classifier.{int(match[1]) + 1}"),  # type: ignore[arg-type]
        (r"^aspp\.aspp(\d)", lambda match: f"classifier.0.convs.{int(match[1]) - 1}"),  # type: ignore[arg-type]
        (r"atrous_conv", "0"),
        (r"(convs\.\d)\.bn", r"\1.1"),
        (r"^aspp\.global_avg_pool", "classifier.0.convs.4"),
        (r"^aspp\.conv1", "classifier.0.project.0"),
        (r"^aspp\.bn1", "classifier.0.project.1"),
    )
    return Pair(DeepLab(), target, truth, on(image(64)), on(image(64)))
