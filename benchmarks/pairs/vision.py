"""
Pairs of image classifiers: ResNet, ViT, ConvNeXt, MobileNet in torchvision, timm and transformers.
"""

from __future__ import annotations

from benchmarks.pairs.vision_support import configured, image, logits, on, qkv_taken, renamed

# isort: split
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.efficientnet import EfficientNet as TimmEfficientNet
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from benchmarks.pairs.pair import Pair, pair

# ------------------------------------------------------------------------- ResNet


@pair("resnet-torchvision-timm", family="resnet")
def _resnet_torchvision_timm() -> Pair:
    target = TimmResNet(TimmBottleneck, (2, 3, 2, 2), num_classes=11)
    source = ResNet(Bottleneck, [2, 3, 2, 2], num_classes=11)
    return Pair(source, target, renamed(target), on(image()), on(image()))


_RESNET_RULES = (
    (r"^classifier\.1", "fc"),
    (r"^resnet\.embedder\.embedder\.convolution", "conv1"),
    (r"^resnet\.embedder\.embedder\.normalization", "bn1"),
    (r"^resnet\.encoder\.stages\.0\.layers", "layer1"),
    (r"^resnet\.encoder\.stages\.1\.layers", "layer2"),
    (r"^resnet\.encoder\.stages\.2\.layers", "layer3"),
    (r"^resnet\.encoder\.stages\.3\.layers", "layer4"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"layer\.0\.convolution", "conv1"),
    (r"layer\.0\.normalization", "bn1"),
    (r"layer\.1\.convolution", "conv2"),
    (r"layer\.1\.normalization", "bn2"),
    (r"layer\.2\.convolution", "conv3"),
    (r"layer\.2\.normalization", "bn3"),
)


def _hf_resnet(widths: list[int], layer: str) -> ResNetForImageClassification:
    return ResNetForImageClassification(
        configured(
            ResNetConfig, embedding_size=64, hidden_sizes=widths, depths=[2, 3, 2, 2], layer_type=layer
        )
    )


@pair("resnet-torchvision-transformers", family="resnet")
def _resnet_torchvision_transformers() -> Pair:
    source = ResNet(BasicBlock, [2, 3, 2, 2], num_classes=11)
    target = _hf_resnet([64, 128, 256, 512], "basic")
    return Pair(source, target, renamed(target, *_RESNET_RULES), on(image()), logits(image()))


@pair("resnet-timm-transformers", family="resnet")
def _resnet_timm_transformers() -> Pair:
    source = TimmResNet(TimmBottleneck, (2, 3, 2, 2), num_classes=11, channels=(16, 24, 40, 48))
    target = _hf_resnet([64, 96, 160, 192], "bottleneck")
    return Pair(source, target, renamed(target, *_RESNET_RULES), on(image()), logits(image()))


@pair("resnet-transformers-timm", family="resnet")
def _resnet_transformers_timm() -> Pair:
    source = _hf_resnet([64, 96, 160, 192], "basic")
    target = TimmResNet(TimmBasicBlock, (2, 3, 2, 2), num_classes=11, channels=(64, 96, 160, 192))
    rules = (
        (r"^fc", "classifier.1"),
        (r"^conv1", "resnet.embedder.embedder.convolution"),
        (r"^bn1", "resnet.embedder.embedder.normalization"),
        (r"downsample\.0", "shortcut.convolution"),
        (r"downsample\.1", "shortcut.normalization"),
        (r"\.conv1", ".layer.0.convolution"),
        (r"\.bn1", ".layer.0.normalization"),
        (r"\.conv2", ".layer.1.convolution"),
        (r"\.bn2", ".layer.1.normalization"),
        *((rf"^layer{at + 1}", f"resnet.encoder.stages.{at}.layers") for at in range(4)),
    )
    return Pair(source, target, renamed(target, *rules), logits(image()), on(image()))


# ---------------------------------------------------------------------------- ViT


def _timm_vit() -> TimmViT:
    return TimmViT(32, 8, embed_dim=48, depth=3, num_heads=4, mlp_ratio=80 / 48, num_classes=11)


@pair("vit-timm-transformers", family="vit", transforms=True)
def _vit_timm_transformers() -> Pair:
    target = ViTForImageClassification(
        configured(
            ViTConfig,
            hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80,
            image_size=32, patch_size=8, layer_norm_eps=1e-6,
        )
    )  # fmt: skip
    truth = renamed(
        target,
        (r"^classifier", "head"),
        (r"^vit\.layers", "blocks"),
        (r"^vit\.layernorm", "norm"),
        (r"^vit\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^vit\.embeddings\.position_embeddings", "pos_embed"),
        (r"^vit\.embeddings\.cls_token", "cls_token"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"attention\.o_proj", "attn.proj"),
        (r"attention\.[qkv]_proj", "attn.qkv"),
        steps=qkv_taken(48),
    )
    free = tuple(name for name in truth if name.endswith("k_proj.bias"))
    return Pair(_timm_vit(), target, truth, on(image()), logits(image()), free=free)


@pair("vit-torchvision-timm", family="vit")
def _vit_torchvision_timm() -> Pair:
    source = VisionTransformer(32, 8, 3, 4, 48, 80, num_classes=11)
    target = _timm_vit()
    truth = renamed(
        target,
        (r"^head", "heads.head"),
        (r"^norm", "encoder.ln"),
        (r"^patch_embed\.proj", "conv_proj"),
        (r"^pos_embed", "encoder.pos_embedding"),
        (r"^cls_token", "class_token"),
        (r"^blocks\.", "encoder.layers.encoder_layer_"),
        (r"norm([12])", r"ln_\1"),
        (r"attn\.qkv\.", "self_attention.in_proj_"),
        (r"attn\.proj", "self_attention.out_proj"),
        (r"mlp\.fc1", "mlp.0"),
        (r"mlp\.fc2", "mlp.3"),
    )
    return Pair(source, target, truth, on(image()), on(image()))


# ----------------------------------------------------------------------- ConvNeXt


def _timm_convnext() -> TimmConvNeXt:
    return TimmConvNeXt(depths=(2, 2, 3, 2), dims=(32, 40, 48, 64), num_classes=11)


@pair("convnext-timm-transformers", family="convnext")
def _convnext_timm_transformers() -> Pair:
    target = ConvNextForImageClassification(
        configured(
            ConvNextConfig,
            num_stages=4, depths=[2, 2, 3, 2], hidden_sizes=[32, 40, 48, 64],
            layer_norm_eps=1e-6,
        )
    )  # fmt: skip
    truth = renamed(
        target,
        (r"^classifier", "head.fc"),
        (r"^convnext\.layernorm", "head.norm"),
        (r"^convnext\.embeddings\.patch_embeddings", "stem.0"),
        (r"^convnext\.embeddings\.layernorm", "stem.1"),
        (r"^convnext\.encoder\.", ""),
        (r"downsampling_layer", "downsample"),
        (r"layers", "blocks"),
        (r"layer_scale_parameter", "gamma"),
        (r"dwconv", "conv_dw"),
        (r"layernorm", "norm"),
        (r"pwconv", "mlp.fc"),
    )
    return Pair(_timm_convnext(), target, truth, on(image(64)), logits(image(64)))


@pair("convnext-torchvision-timm", family="convnext", transforms=True)
def _convnext_torchvision_timm() -> Pair:
    widths, depths = (32, 40, 48, 64, None), (2, 2, 3, 2)
    settings = [CNBlockConfig(a, b, n) for a, b, n in zip(widths[:4], widths[1:], depths)]
    source = ConvNeXt(settings, num_classes=11)
    target = _timm_convnext()
    truth = renamed(
        target,
        (r"^head\.norm", "classifier.0"),
        (r"^head\.fc", "classifier.2"),
        (r"^stem", "features.0"),
        *((rf"^stages\.{at}\.blocks", f"features.{2 * at + 1}") for at in range(4)),
        *((rf"^stages\.{at}\.downsample", f"features.{2 * at}") for at in range(4)),
        (r"gamma", "layer_scale"),
        (r"conv_dw", "block.0"),
        (r"norm", "block.2"),
        (r"mlp\.fc1", "block.3"),
        (r"mlp\.fc2", "block.5"),
        steps={rf"stages\.{at}\.blocks\.\d+\.gamma": f"reshape({widths[at]})" for at in range(4)},
    )
    return Pair(source, target, truth, on(image(64)), on(image(64)))


# ---------------------------------------------------------------------- MobileNet


_INVERTED = (
    (r"^classifier", "classifier.1"),
    (r"^conv_stem", "features.0.0"),
    (r"^bn1", "features.0.1"),
    # The first stage does not widen: a depthwise and a pointwise convolution.
    (r"^blocks\.0\.0\.conv_dw", "features.1.conv.0.0"),
    (r"^blocks\.0\.0\.bn1", "features.1.conv.0.1"),
    (r"^blocks\.0\.0\.conv_pw", "features.1.conv.1"),
    (r"^blocks\.0\.0\.bn2", "features.1.conv.2"),
    (r"conv_pwl", "conv.2"),
    (r"bn3", "conv.3"),
    (r"conv_pw", "conv.0.0"),
    (r"bn1", "conv.0.1"),
    (r"conv_dw", "conv.1.0"),
    (r"bn2\.", "conv.1.1."),
)


@pair("mobilenetv2-torchvision-timm", family="mobilenetv2")
def _mobilenetv2_torchvision_timm() -> Pair:
    settings = [[1, 16, 1, 1], [6, 24, 2, 2], [5, 40, 3, 2], [4, 56, 2, 1]]
    source = MobileNetV2(num_classes=11, inverted_residual_setting=settings)
    strings = [[f"ds_r1_k3_s1_c{16}"], *([f"ir_r{n}_k3_s{s}_e{t}_c{c}"] for t, c, n, s in settings[1:])]
    target = TimmEfficientNet(decode_arch_def(strings), num_classes=11, stem_size=32, act_layer=nn.ReLU6)
    blocks = [(stage, block) for stage in range(1, 4) for block in range(settings[stage][2])]
    truth = renamed(
        target,
        (r"^conv_head", f"features.{len(blocks) + 2}.0"),
        (r"^bn2", f"features.{len(blocks) + 2}.1"),
        *_INVERTED,
        *(
            (rf"^blocks\.{stage}\.{block}\.", f"features.{at + 2}.")
            for at, (stage, block) in enumerate(blocks)
        ),
    )
    return Pair(source, target, truth, on(image(64)), on(image(64)))
