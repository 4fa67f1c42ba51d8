"""
Held out: image models that two libraries have, of families that no other pair has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pairs.vision_support import configured, image, logits, on, renamed

# isort: split
import timm
from timm.models.levit import Levit
from timm.models.swiftformer import SwiftFormer
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import MNASNet
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    HGNetV2Config,
    HGNetV2ForImageClassification,
    LevitConfig,
    LevitForImageClassification,
    MobileNetV1Config,
    MobileNetV1ForImageClassification,
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
)
from transformers.models.swiftformer.modeling_swiftformer import SwiftFormerEfficientAdditiveAttention

from benchmarks.pairs.pair import Pair, Truth, pair


def _of_modules(target: nn.Module, modules: Mapping[str, str]) -> dict[str, Truth]:
    """The truth that whole modules give, target's name to source's."""
    truth: dict[str, Truth] = {}
    for name in target.state_dict():
        module, _, leaf = name.rpartition(".")
        truth[name] = (((f"{modules[module]}.{leaf}", ""),), "")
    return truth


# ---------------------------------------------------------------- SwiftFormer


class _PooledQueryAttention(SwiftFormerEfficientAdditiveAttention):
    """Weighs positions as the paper does; transformers gives each the weight 1."""

    def forward(self, x: Tensor) -> Tensor:
        query, key = (functional.normalize(each(x), dim=-1) for each in (self.to_query, self.to_key))
        weights = functional.normalize(query @ self.w_g * self.scale_factor, dim=1)
        return self.final(self.proj((weights * query).sum(1, keepdim=True) * key) + query)


@pair("swiftformer-timm-transformers", family="swiftformer")
def _swiftformer() -> Pair:
    depths, widths = [2, 2, 3, 2], [16, 24, 32, 40]
    source = SwiftFormer(layers=depths, embed_dims=widths, mlp_ratios=4, num_classes=11)
    config = configured(
        SwiftFormerConfig, 11, image_size=64, depths=depths, embed_dims=widths, mlp_ratio=4,
        drop_path_rate=0.0, drop_mlp_rate=0.0, drop_conv_encoder_rate=0.0,
    )  # fmt: skip
    target = SwiftFormerForImageClassification(config)
    for module in target.modules():
        if isinstance(module, SwiftFormerEfficientAdditiveAttention):
            module.__class__ = _PooledQueryAttention
    stages = (
        *((rf"^swiftformer\.encoder\.network\.{2 * at}\.", f"stages.{at}.") for at in range(4)),
        *(
            (rf"^swiftformer\.encoder\.network\.{2 * at - 1}\.", f"stages.{at}.downsample.")
            for at in (1, 2, 3)
        ),
    )
    truth = renamed(
        target,
        *stages,
        (r"^swiftformer\.patch_embed\.patch_embedding", "stem"),
        (r"^dist_head", "head_dist"),
        (r"depth_wise_conv", "dwconv"),
        (r"point_wise_conv", "pwconv"),
        (r"layer_scale$", "layer_scale.gamma"),
        (r"layer_scale_(\d)$", r"layer_scale_\1.gamma"),
    )
    return Pair(source, target, truth, on(image(64)), logits(image(64)))


# ---------------------------------------------------------------- MobileNet, the first


@pair("mobilenetv1-timm-transformers", family="mobilenetv1")
def _mobilenetv1() -> Pair:
    source = timm.create_model("mobilenetv1_100", num_classes=11)
    config = configured(MobileNetV1Config, 11, tf_padding=False, layer_norm_eps=1e-5)
    target = MobileNetV1ForImageClassification(config)
    places = [(stage, at) for stage, depth in enumerate((1, 2, 2, 6, 2)) for at in range(depth)]
    modules = {"classifier": "classifier"}
    modules["mobilenet_v1.conv_stem.convolution"] = "conv_stem"
    modules["mobilenet_v1.conv_stem.normalization"] = "bn1"
    for number, (stage, at) in enumerate(places):
        for half, (convolution, norm) in enumerate((("conv_dw", "bn1"), ("conv_pw", "bn2"))):
            own = f"mobilenet_v1.layer.{2 * number + half}."
            modules[own + "convolution"] = f"blocks.{stage}.{at}.{convolution}"
            modules[own + "normalization"] = f"blocks.{stage}.{at}.{norm}"
    return Pair(source, target, _of_modules(target, modules), on(image(64)), logits(image(64)))


# ---------------------------------------------------------------- LeViT


@pair("levit-timm-transformers", family="levit")
def _levit() -> Pair:
    source = Levit(
        img_size=64, num_classes=11, embed_dim=(32, 48, 64), key_dim=8, depth=(2, 3, 2), num_heads=(2, 3, 4)
    )
    config = configured(
        LevitConfig, 11, image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4],
        depths=[2, 3, 2], key_dim=[8, 8, 8],
    )  # fmt: skip
    target = LevitForImageClassification(config)
    rules = []
    for stage, depth in enumerate((2, 3, 2)):
        own = rf"^levit\.encoder\.stages\.{stage}\.layers\."
        for at in range(depth):
            rules.append((rf"{own}{2 * at}\.module\.", f"stages.{stage}.blocks.{at}.attn."))
            rules.append((rf"{own}{2 * at + 1}\.module\.", f"stages.{stage}.blocks.{at}.mlp."))
        after = f"stages.{stage + 1}.downsample."
        rules.append((rf"{own}{2 * depth}\.", f"{after}attn_downsample."))
        rules.append((rf"{own}{2 * depth + 1}\.module\.", f"{after}mlp."))
    made = tuple(name for name in target.state_dict() if name.endswith("attention_bias_idxs"))
    truth = renamed(
        target,
        *rules,
        (r"^levit\.patch_embeddings\.embedding_layer_(\d)\.convolution", r"stem.conv\1.linear"),
        (r"^levit\.patch_embeddings\.embedding_layer_(\d)\.batch_norm", r"stem.conv\1.bn"),
        (r"^classifier", "head"),
        (r"batch_norm", "bn"),
        (r"queries_keys_values", "qkv"),
        (r"keys_values", "kv"),
        (r"queries", "q.ln"),
        (r"projection", "proj.ln"),
        (r"linear_up", "ln1"),
        (r"linear_down", "ln2"),
        made=made,
    )
    return Pair(source, target, truth, on(image(64)), logits(image(64)), made=made)


# ---------------------------------------------------------------- MNASNet


@pair("mnasnet-torchvision-timm", family="mnasnet")
def _mnasnet() -> Pair:
    source, target = MNASNet(1.0, num_classes=11), timm.create_model("mnasnet_100", num_classes=11)
    modules = {
        "conv_stem": "layers.0", "bn1": "layers.1", "blocks.0.0.conv_dw": "layers.3",
        "blocks.0.0.bn1": "layers.4", "blocks.0.0.conv_pw": "layers.6", "blocks.0.0.bn2": "layers.7",
        "conv_head": "layers.14", "bn2": "layers.15", "classifier": "classifier.1",
    }  # fmt: skip
    for stage, depth in enumerate((3, 3, 3, 2, 4, 1)):
        for at in range(depth):
            own, there = f"blocks.{stage + 1}.{at}.", f"layers.{stage + 8}.{at}.layers."
            for number, name in ((0, "conv_pw"), (3, "conv_dw"), (6, "conv_pwl")):
                modules[own + name] = f"{there}{number}"
                modules[f"{own}bn{number // 3 + 1}"] = f"{there}{number + 1}"
    return Pair(source, target, _of_modules(target, modules), on(image(64)), on(image(64)))


# ---------------------------------------------------------------- HGNet


@pair("hgnetv2-timm-transformers", family="hgnetv2")
def _hgnetv2() -> Pair:
    source = timm.create_model("hgnetv2_b0", num_classes=11)
    source.head.last_conv, source.head.fc = nn.Identity(), nn.Linear(1024, 11)
    config = configured(
        HGNetV2Config, 11, embedding_size=64, depths=[3, 4, 6, 3], hidden_sizes=[64, 256, 512, 1024],
        stem_channels=[3, 16, 16], stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128], stage_out_channels=[64, 256, 512, 1024],
        stage_num_blocks=[1, 1, 2, 1], stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True], stage_kernel_size=[3, 3, 5, 5],
        stage_numb_of_layers=[3, 3, 3, 3], use_learnable_affine_block=True,
    )  # fmt: skip
    target = HGNetV2ForImageClassification(config)
    truth = renamed(
        target,
        (r"^embedder", "stem"),
        (r"^encoder\.", ""),
        (r"^fc", "head.fc"),
        (r"convolution", "conv"),
        (r"normalization", "bn"),
    )
    return Pair(source, target, truth, on(image(64)), logits(image(64)))


# ---------------------------------------------------------------- AIMv2


def _unpooled(net: Any) -> Tensor:
    return net.forward_features(image(28))


@pair("aimv2-transformers-timm", family="aimv2", transforms=True)
def _aimv2() -> Pair:
    config = Aimv2VisionConfig(
        hidden_size=48, intermediate_size=132, num_hidden_layers=3, num_attention_heads=4, image_size=28,
        patch_size=14, use_head=False,
    )  # fmt: skip
    source = Aimv2VisionModel(config)
    target = timm.create_model(
        "aimv2_large_patch14_224", embed_dim=48, depth=3, num_heads=4, img_size=28, num_classes=0
    )
    truth = renamed(
        target,
        (r"^pos_embed", "embeddings.position_embedding.weight"),
        (r"^patch_embed\.proj", "embeddings.patch_embed"),
        (r"^patch_embed\.norm", "embeddings.rms_norm"),
        (r"^blocks", "encoder.layers"),
        (r"^norm", "rms_norm"),
        (r"\.norm(\d)", r".rms_norm\1"),
        (r"attn\.qkv", "attention.{q_proj,k_proj,v_proj}"),
        (r"attn\.proj", "attention.out_proj"),
        (r"mlp\.fc1_g", "ffn.gate_proj"),
        (r"mlp\.fc1_x", "ffn.up_proj"),
        (r"mlp\.fc2", "ffn.down_proj"),
        steps={"pos_embed": "reshape(1, 4, 48)", r"qkv": "cat(0, 1)"},
    )
    return Pair(
        source, target, truth, lambda net: net(pixel_values=image(28)).last_hidden_state,
        _unpooled,
    )  # fmt: skip
