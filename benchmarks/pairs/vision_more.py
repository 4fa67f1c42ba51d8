"""
More pairs of image classifiers: Swin, BEiT, DINOv2, and convolutional networks with squeezing.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from benchmarks.pairs.vision_support import (
    configured,
    image,
    key_biases,
    logits,
    on,
    renamed,
)

# isort: split
import torch
from timm.layers import SEModule as TimmSqueeze
from timm.layers import SwiGLUPacked
from timm.models import vgg as timm_vgg
from timm.models._efficientnet_blocks import SqueezeExcite as BlockSqueeze
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.beit import Beit
from timm.models.densenet import DenseNet as TimmDenseNet
from timm.models.efficientnet import EfficientNet as TimmEfficientNet
from timm.models.mobilenetv3 import MobileNetV3 as TimmMobileNetV3
from timm.models.regnet import RegNet as TimmRegNet
from timm.models.regnet import RegNetCfg
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from timm.models.senet import SENet, SEResNeXtBottleneck
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwinV2
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    ShiftedWindowAttentionV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.models.vgg import VGG, make_layers
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    Dinov2Config,
    Dinov2Model,
    RegNetConfig,
    RegNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from benchmarks.pairs.pair import Pair, pair

# --------------------------------------------------------------------------- Swin


def _timm_swin() -> TimmSwin:
    return TimmSwin(32, 2, embed_dim=24, depths=(2, 3), num_heads=(2, 3), window_size=4, num_classes=11)


@pair("swin-timm-transformers", family="swin", transforms=True)
def _swin_timm_transformers() -> Pair:
    target = SwinForImageClassification(
        configured(
            SwinConfig,
            image_size=32, patch_size=2, embed_dim=24, depths=[2, 3], num_heads=[2, 3], window_size=4,
        )
    )  # fmt: skip
    takes = {
        rf"layers\.{at}\..*{name}_proj\.": f"take(0, {width * part}, {width * part + width}, 1)"
        for at, width in enumerate((24, 48))
        for part, name in enumerate("qkv")
    }
    truth = renamed(
        target,
        (r"^classifier", "head.fc"),
        (r"^swin\.layernorm", "norm"),
        (r"^swin\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^swin\.embeddings\.norm", "patch_embed.norm"),
        (r"^swin\.encoder\.", ""),
        # One merges patches at the end of a stage, the other at the start of the next.
        (r"layers\.0\.downsample", "layers.1.downsample"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"relative_position_bias\.rel", "rel"),
        (r"attention\.o_proj", "attn.proj"),
        (r"attention\.[qkv]_proj", "attn.qkv"),
        (r"attention", "attn"),
        steps=takes,
    )
    return Pair(_timm_swin(), target, truth, on(image()), logits(image()), free=key_biases(truth))


_SWIN_RULES = (
    (r"^head\.fc", "head"),
    (r"^patch_embed\.proj", "features.0.0"),
    (r"^patch_embed\.norm", "features.0.2"),
    (r"^layers\.1\.downsample", "features.2"),
    (r"^layers\.0\.blocks", "features.1"),
    (r"^layers\.1\.blocks", "features.3"),
    (r"mlp\.fc1", "mlp.0"),
    (r"mlp\.fc2", "mlp.3"),
)


@pair("swin-torchvision-timm", family="swin")
def _swin_torchvision_timm() -> Pair:
    source = SwinTransformer([2, 2], 24, [2, 3], [2, 3], [4, 4], num_classes=11)
    target = _timm_swin()
    return Pair(source, target, renamed(target, *_SWIN_RULES), on(image()), on(image()))


@pair("swinv2-torchvision-timm", family="swinv2", transforms=True)
def _swinv2_torchvision_timm() -> Pair:
    source = SwinTransformer(
        [2, 2], 24, [2, 3], [2, 3], [4, 4], num_classes=11, norm_layer=partial(nn.LayerNorm, eps=1e-5),
        block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2,
    )  # fmt: skip
    target = TimmSwinV2(32, 2, embed_dim=24, depths=(2, 3), num_heads=(2, 3), window_size=4, num_classes=11)
    takes = {
        rf"layers\.{at}\..*{name}_bias": f"take(0, {width * part}, {width * part + width}, 1)"
        for at, width in enumerate((24, 48))
        for part, name in ((0, "q"), (2, "v"))
    }
    truth = renamed(target, *_SWIN_RULES, (r"[qv]_bias", "qkv.bias"), steps=takes)

    def run_source(net: nn.Module) -> torch.Tensor:
        # The coordinates are a constant that is stored; random ones would be another function.
        for module in net.modules():
            if isinstance(module, ShiftedWindowAttentionV2):
                module.define_relative_position_bias_table()
        return net(image())

    return Pair(source, target, truth, run_source, on(image()))


# -------------------------------------------------------------------- BEiT, DINOv2


@pair("beit-timm-transformers", family="beit", transforms=True)
def _beit_timm_transformers() -> Pair:
    source = Beit(
        32, 8, embed_dim=48, depth=3, num_heads=4, mlp_ratio=80 / 48, num_classes=11, init_values=0.1,
        use_abs_pos_emb=False, use_rel_pos_bias=True,
    )  # fmt: skip
    target = BeitForImageClassification(
        configured(
            BeitConfig,
            hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, image_size=32,
            patch_size=8, use_relative_position_bias=True, layer_norm_eps=1e-6,
        )
    )  # fmt: skip
    takes = {
        rf"{name}_proj\.weight": f"take(0, {48 * part}, {48 * part + 48}, 1)"
        for part, name in enumerate("qkv")
    }
    truth = renamed(
        target,
        (r"^classifier", "head"),
        (r"^beit\.pooler\.layernorm", "fc_norm"),
        (r"^beit\.layers", "blocks"),
        (r"^beit\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^beit\.embeddings\.cls_token", "cls_token"),
        (r"lambda_", "gamma_"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"relative_position_bias\.rel", "attn.rel"),
        (r"attention\.o_proj", "attn.proj"),
        (r"attention\.([qv])_proj\.bias", r"attn.\1_bias"),
        (r"attention\.[qkv]_proj", "attn.qkv"),
        steps=takes,
    )
    return Pair(source, target, truth, on(image()), logits(image()))


_DINO_RULES = (
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^cls_token", "embeddings.cls_token"),
    (r"^norm", "layernorm"),
    (r"^blocks", "encoder.layer"),
    (r"attn\.qkv", "attention.{q,k,v}_proj"),
    (r"attn\.proj", "attention.o_proj"),
    (r"ls([12])\.gamma", r"layer_scale\1.lambda1"),
)


def _dinov2(mlp: tuple[tuple[str, str], ...], swiglu: bool, **settings: object) -> Pair:
    source = Dinov2Model(
        Dinov2Config(
            hidden_size=48, num_hidden_layers=3, num_attention_heads=4, mlp_ratio=2, image_size=32,
            patch_size=8, use_swiglu_ffn=swiglu,
        )
    )  # fmt: skip
    target = TimmViT(
        32, 8, embed_dim=48, depth=3, num_heads=4, num_classes=0, init_values=0.1, global_pool="token",
        **settings,
    )  # fmt: skip
    truth = renamed(
        target, *_DINO_RULES, *mlp, steps={r"attn\.qkv|mlp\.fc1" if swiglu else r"attn\.qkv": "cat(0, 1)"}
    )
    return Pair(
        source, target, truth,
        lambda net: net(pixel_values=image()).last_hidden_state,
        lambda net: cast(TimmViT, net).forward_features(image()),
    )  # fmt: skip


@pair("dinov2-transformers-timm", family="dinov2", transforms=True)
def _dinov2_transformers_timm() -> Pair:
    return _dinov2((), False, mlp_ratio=2)


@pair("dinov2-swiglu-transformers-timm", family="dinov2", transforms=True)
def _dinov2_swiglu_transformers_timm() -> Pair:
    rules = ((r"mlp\.fc1", "mlp.{gate,up}_proj"), (r"mlp\.fc2", "mlp.down_proj"))
    return _dinov2(rules, True, mlp_ratio=128 / 48, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU)


# ---------------------------------------------------- inverted residuals, squeezing


def _separable(path: str, squeezes: bool) -> tuple[tuple[str, str], ...]:
    """Rules inside a block that does not widen."""
    return (
        (rf"^({path}).conv_dw", r"\1.block.0.0"),
        (rf"^({path}).bn1", r"\1.block.0.1"),
        (rf"^({path}).se", r"\1.block.1"),
        (rf"^({path}).conv_pw", rf"\1.block.{1 + squeezes}.0"),
        (rf"^({path}).bn2", rf"\1.block.{1 + squeezes}.1"),
    )


def _inverted(path: str, squeezes: bool) -> tuple[tuple[str, str], ...]:
    """Rules inside a block that widens, convolves each channel and narrows."""
    return (
        (rf"^({path}).conv_pw\.", r"\1.block.0.0."),
        (rf"^({path}).bn1", r"\1.block.0.1"),
        (rf"^({path}).conv_dw", r"\1.block.1.0"),
        (rf"^({path}).bn2", r"\1.block.1.1"),
        (rf"^({path}).se", r"\1.block.2"),
        (rf"^({path}).conv_pwl", rf"\1.block.{2 + squeezes}.0"),
        (rf"^({path}).bn3", rf"\1.block.{2 + squeezes}.1"),
    )


_STEM = ((r"^conv_stem", "features.0.0"), (r"^bn1", "features.0.1"))
_SQUEEZE = ((r"conv_reduce", "fc1"), (r"conv_expand", "fc2"))


@pair("mobilenetv3-torchvision-timm", family="mobilenetv3", transforms=True)
def _mobilenetv3_torchvision_timm() -> Pair:
    rows = (  # in, kernel, widened, out, squeezes, activation, stride
        (16, 3, 16, 16, True, "RE", 2), (16, 3, 72, 24, False, "RE", 2), (24, 3, 88, 24, False, "RE", 1),
        (24, 5, 96, 40, True, "HS", 2), (40, 5, 200, 40, True, "HS", 1),
    )  # fmt: skip
    settings = [InvertedResidualConfig(*row, 1, 1.0) for row in rows]
    source = MobileNetV3(settings, 64, num_classes=11, norm_layer=partial(nn.BatchNorm2d, eps=1e-3))
    strings = [
        ["ds_r1_k3_s2_e1_c16_se0.25_nre"],
        ["ir_r1_k3_s2_e4.5_c24_nre", "ir_r1_k3_s1_e3.667_c24_nre"],
        ["ir_r1_k5_s2_e4_c40_se0.25", "ir_r1_k5_s1_e5_c40_se0.25"],
        ["cn_r1_k1_s1_c240"],
    ]
    target = TimmMobileNetV3(
        decode_arch_def(strings), num_classes=11, num_features=64, act_layer=nn.Hardswish,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        se_layer=partial(
            BlockSqueeze, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels
        ),
    )  # fmt: skip
    truth = renamed(
        target,
        *_STEM,
        *_separable(r"blocks\.0\.0", True),
        *_inverted(r"blocks\.1\.\d", False),
        *_inverted(r"blocks\.2\.\d", True),
        *((rf"^blocks\.{a}\.{b}", f"features.{at}") for a, b, at in ((0, 0, 1), (1, 0, 2), (1, 1, 3))),
        *((rf"^blocks\.{a}\.{b}", f"features.{at}") for a, b, at in ((2, 0, 4), (2, 1, 5))),
        (r"^blocks\.3\.0\.conv", "features.6.0"),
        (r"^blocks\.3\.0\.bn1", "features.6.1"),
        *_SQUEEZE,
        (r"^classifier", "classifier.3"),
        (r"^conv_head", "classifier.0"),
        steps={r"conv_head\.weight": "reshape(64, 240, 1, 1)"},
    )
    return Pair(source, target, truth, on(image(64)), on(image(64)))


_EFFICIENT_HEAD = (
    (r"^classifier", "classifier.1"),
    (r"^conv_head", "features.4.0"),
    (r"^bn2", "features.4.1"),
)


@pair("efficientnet-torchvision-timm", family="efficientnet")
def _efficientnet_torchvision_timm() -> Pair:
    settings = [
        MBConvConfig(1, 3, 1, 32, 16, 1),
        MBConvConfig(6, 3, 2, 16, 24, 2),
        MBConvConfig(4, 5, 2, 24, 40, 3),
    ]
    source = EfficientNet(settings, 0.1, num_classes=11, last_channel=96)
    strings = [
        ["ds_r1_k3_s1_e1_c16_se0.25"], ["ir_r2_k3_s2_e6_c24_se0.25"], ["ir_r3_k5_s2_e4_c40_se0.25"]
    ]  # fmt: skip
    target = TimmEfficientNet(
        decode_arch_def(strings), num_classes=11, num_features=96, stem_size=32, act_layer=nn.SiLU,
        se_layer=BlockSqueeze,
    )  # fmt: skip
    truth = renamed(
        target,
        *_STEM,
        *_EFFICIENT_HEAD,
        *_separable(r"blocks\.0\.0", True),
        *_inverted(r"blocks\.[12]\.\d", True),
        *((rf"^blocks\.{at}\.", f"features.{at + 1}.") for at in range(3)),
        *_SQUEEZE,
    )
    return Pair(source, target, truth, on(image(64)), on(image(64)))


@pair("efficientnetv2-torchvision-timm", family="efficientnet")
def _efficientnetv2_torchvision_timm() -> Pair:
    settings = [
        FusedMBConvConfig(1, 3, 1, 24, 24, 2),
        FusedMBConvConfig(4, 3, 2, 24, 32, 2),
        MBConvConfig(4, 3, 2, 32, 40, 2),
    ]
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    source = EfficientNet(settings, 0.1, num_classes=11, last_channel=96, norm_layer=norm)
    strings = [["cn_r2_k3_s1_e1_c24_skip"], ["er_r2_k3_s2_e4_c32"], ["ir_r2_k3_s2_e4_c40_se0.25"]]
    target = TimmEfficientNet(
        decode_arch_def(strings), num_classes=11, num_features=96, stem_size=24, act_layer=nn.SiLU,
        se_layer=BlockSqueeze, norm_layer=norm,
    )  # fmt: skip
    truth = renamed(
        target,
        *_STEM,
        *_EFFICIENT_HEAD,
        (r"^(blocks\.0\.\d)\.conv", r"\1.block.0.0"),
        (r"^(blocks\.0\.\d)\.bn1", r"\1.block.0.1"),
        (r"^(blocks\.1\.\d)\.conv_exp", r"\1.block.0.0"),
        (r"^(blocks\.1\.\d)\.bn1", r"\1.block.0.1"),
        (r"^(blocks\.1\.\d)\.conv_pwl", r"\1.block.1.0"),
        (r"^(blocks\.1\.\d)\.bn2", r"\1.block.1.1"),
        *_inverted(r"blocks\.2\.\d", True),
        *((rf"^blocks\.{at}\.", f"features.{at + 1}.") for at in range(3)),
        *_SQUEEZE,
    )
    return Pair(source, target, truth, on(image(64)), on(image(64)))


# -------------------------------------------------- RegNet, ResNeXt, SE, DenseNet, VGG


def _timm_regnet() -> TimmRegNet:
    cfg = RegNetCfg(depth=8, w0=16, wa=14.0, wm=2.0, group_size=8, se_ratio=0.25, stem_width=24)
    return TimmRegNet(cfg, num_classes=11)


_REGNET_CONVOLUTIONS = ((r"\.conv1\.", ".f.a."), (r"\.conv2\.", ".f.b."), (r"\.conv3\.", ".f.c."))


@pair("regnet-torchvision-timm", family="regnet")
def _regnet_torchvision_timm() -> Pair:
    params = BlockParams.from_init_params(8, 16, 14.0, 2.0, 8, 1.0, 0.25)
    source = RegNet(params, num_classes=11, stem_width=24)
    target = _timm_regnet()
    truth = renamed(
        target,
        (r"^head\.fc", "fc"),
        *_REGNET_CONVOLUTIONS,
        (r"\.se\.", ".f.se."),
        (r"downsample", "proj"),
        (r"\.conv\.", ".0."),
        (r"\.bn\.", ".1."),
        *(
            (rf"^s{stage}\.b{block}\.", f"trunk_output.block{stage}.block{stage}-{block - 1}.")
            for stage in range(1, 5)
            for block in range(1, 4)
        ),
    )
    return Pair(source, target, truth, on(image(64)), on(image(64)))


@pair("regnet-transformers-timm", family="regnet")
def _regnet_transformers_timm() -> Pair:
    params = BlockParams.from_init_params(8, 16, 14.0, 2.0, 8, 1.0, 0.25)
    source = RegNetForImageClassification(
        configured(
            RegNetConfig,
            embedding_size=24, hidden_sizes=list(params.widths), depths=list(params.depths), groups_width=8,
            layer_type="y",
        )
    )  # fmt: skip
    target = _timm_regnet()
    truth = renamed(
        target,
        (r"^head\.fc", "classifier.1"),
        (r"^stem\.conv", "regnet.embedder.embedder.convolution"),
        (r"^stem\.bn", "regnet.embedder.embedder.normalization"),
        (r"downsample", "shortcut"),
        (r"\.conv1\.", ".layer.0."),
        (r"\.conv2\.", ".layer.1."),
        (r"\.se\.fc1", ".layer.2.attention.0"),
        (r"\.se\.fc2", ".layer.2.attention.2"),
        (r"\.conv3\.", ".layer.3."),
        (r"\.conv\.", ".convolution."),
        (r"\.bn\.", ".normalization."),
        *(
            (rf"^s{stage}\.b{block}\.", f"regnet.encoder.stages.{stage - 1}.layers.{block - 1}.")
            for stage in range(1, 5)
            for block in range(1, 4)
        ),
    )
    return Pair(source, target, truth, logits(image(64)), on(image(64)))


@pair("resnext-torchvision-timm", family="resnet")
def _resnext_torchvision_timm() -> Pair:
    source = ResNet(Bottleneck, [2, 3, 2, 2], num_classes=11, groups=4, width_per_group=12)
    target = TimmResNet(TimmBottleneck, (2, 3, 2, 2), num_classes=11, cardinality=4, base_width=12)
    return Pair(source, target, renamed(target), on(image()), on(image()))


@pair("seresnet-timmsenet-timm", family="senet")
def _seresnet_timmsenet_timm() -> Pair:
    source = SENet(
        SEResNeXtBottleneck, (2, 3, 2, 2), groups=8, reduction=16, inplanes=64, downsample_kernel_size=1,
        downsample_padding=0, num_classes=11,
    )  # fmt: skip
    target = TimmResNet(
        TimmBottleneck,
        (2, 3, 2, 2),
        num_classes=11,
        cardinality=8,
        base_width=4,
        block_args={"attn_layer": partial(TimmSqueeze, rd_ratio=1 / 16)},
    )
    target.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    truth = renamed(
        target,
        (r"^fc", "last_linear"),
        (r"^(conv1|bn1)", r"layer0.\1"),
        (r"\.se\.", ".se_module."),
    )
    return Pair(source, target, truth, on(image()), on(image()))


@pair("densenet-torchvision-timm", family="densenet")
def _densenet_torchvision_timm() -> Pair:
    source = DenseNet(8, (2, 3, 2), 16, num_classes=11)
    target = TimmDenseNet(8, (2, 3, 2), num_classes=11)
    return Pair(source, target, renamed(target), on(image()), on(image()))


@pair("vgg-torchvision-timm", family="vgg", transforms=True)
def _vgg_torchvision_timm() -> Pair:
    widths = [24, "M", 32, "M", 40, 48, "M"]
    source = VGG(make_layers(widths, batch_norm=True), num_classes=11)
    source.classifier = nn.Sequential(
        nn.Linear(48 * 7 * 7, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(),
        nn.Linear(64, 11),
    )  # fmt: skip
    target = timm_vgg.VGG(widths, num_classes=11, norm_layer=nn.BatchNorm2d)
    target.pre_logits = timm_vgg.ConvMlp(48, 64, 7)
    target.head.fc = nn.Linear(64, 11)
    truth = renamed(
        target,
        (r"^pre_logits\.fc1", "classifier.0"),
        (r"^pre_logits\.fc2", "classifier.3"),
        (r"^head\.fc", "classifier.6"),
        steps={r"fc1\.weight": "reshape(64, 48, 7, 7)", r"fc2\.weight": "reshape(64, 64, 1, 1)"},
    )
    return Pair(source, target, truth, on(image(56)), on(image(56)))
