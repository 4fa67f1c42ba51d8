"""
Pairs of newer vision models in timm and transformers: pooling, focal, hierarchical and hybrid ones.
"""

from __future__ import annotations

from functools import partial

from benchmarks.pairs.vision_support import (
    configured,
    image,
    key_biases,
    logits,
    on,
    qkv_taken,
    renamed,
    reshapes,
)

# isort: split
from timm.layers import GroupNormAct, StdConv2d
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.deit import VisionTransformerDistilled
from timm.models.focalnet import FocalNet
from timm.models.hiera import Hiera
from timm.models.metaformer import GroupNorm1, MetaFormer
from timm.models.mobilevit import mobilevit_xxs
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.resnetv2 import ResNetV2
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwinV2
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from transformers import (
    BitConfig,
    BitForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    FocalNetConfig,
    FocalNetForImageClassification,
    HieraConfig,
    HieraForImageClassification,
    MobileViTConfig,
    MobileViTForImageClassification,
    PoolFormerConfig,
    PoolFormerForImageClassification,
    PvtV2Config,
    PvtV2ForImageClassification,
    SamVisionConfig,
    SamVisionModel,
    Swinv2Config,
    Swinv2ForImageClassification,
)

from benchmarks.pairs.pair import Pair, pair

# ------------------------------------------------------------- transformers' layouts


@pair("deit-timm-transformers", family="vit", transforms=True)
def _deit_timm_transformers() -> Pair:
    source = VisionTransformerDistilled(
        32, 8, embed_dim=48, depth=3, num_heads=4, mlp_ratio=80 / 48, num_classes=11
    )  # fmt: skip
    target = DeiTForImageClassificationWithTeacher(
        configured(
            DeiTConfig,
            hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, image_size=32,
            patch_size=8, layer_norm_eps=1e-6,
        )
    )  # fmt: skip
    truth = renamed(
        target,
        (r"^cls_classifier", "head"),
        (r"^distillation_classifier", "head_dist"),
        (r"^deit\.layers", "blocks"),
        (r"^deit\.layernorm", "norm"),
        (r"^deit\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^deit\.embeddings\.position_embeddings", "pos_embed"),
        (r"^deit\.embeddings\.cls_token", "cls_token"),
        (r"^deit\.embeddings\.distillation_token", "dist_token"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"attention\.o_proj", "attn.proj"),
        (r"attention\.[qkv]_proj", "attn.qkv"),
        steps=qkv_taken(48),
    )

    def run_source(net: nn.Module) -> tuple[Tensor, ...]:
        # Both heads, as in training; together they would hide a swap.
        setattr(net, "distilled_training", True)  # noqa: B010
        net.train()
        return net(image())

    def run_target(net: nn.Module) -> tuple[Tensor, ...]:
        outputs = net(pixel_values=image())
        return outputs.cls_logits, outputs.distillation_logits

    return Pair(source, target, truth, run_source, run_target, free=key_biases(truth))


@pair("swinv2-timm-transformers", family="swinv2", transforms=True)
def _swinv2_timm_transformers() -> Pair:
    source = TimmSwinV2(32, 2, embed_dim=24, depths=(2, 3), num_heads=(2, 3), window_size=4, num_classes=11)
    target = Swinv2ForImageClassification(
        configured(
            Swinv2Config,
            image_size=32, patch_size=2, embed_dim=24, depths=[2, 3], num_heads=[2, 3], window_size=4,
        )
    )  # fmt: skip
    takes = {
        rf"layers\.{at}\..*{name}\.weight": f"take(0, {width * part}, {width * part + width}, 1)"
        for at, width in enumerate((24, 48))
        for part, name in enumerate(("query", "key", "value"))
    }
    truth = renamed(
        target,
        (r"^classifier", "head.fc"),
        (r"^swinv2\.layernorm", "norm"),
        (r"^swinv2\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^swinv2\.embeddings\.norm", "patch_embed.norm"),
        (r"^swinv2\.encoder\.", ""),
        (r"layers\.0\.downsample", "layers.1.downsample"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"attention\.output\.dense", "attn.proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
        (r"attention\.self\.query\.bias", "attn.q_bias"),
        (r"attention\.self\.value\.bias", "attn.v_bias"),
        (r"attention\.self\.(query|key|value)", "attn.qkv"),
        (r"attention\.self\.continuous_position_bias_mlp", "attn.cpb_mlp"),
        (r"attention\.self", "attn"),
        steps=takes,
    )
    return Pair(source, target, truth, on(image()), logits(image()))


@pair("pvtv2-timm-transformers", family="pvtv2", transforms=True)
def _pvtv2_timm_transformers() -> Pair:
    widths, heads, depths = [16, 24, 40, 48], [1, 2, 4, 3], [2, 2, 3, 2]
    source = PyramidVisionTransformerV2(
        num_classes=11, depths=depths, embed_dims=widths, num_heads=heads, sr_ratios=(4, 2, 2, 1),
        mlp_ratios=(3, 3, 4, 4),
    )  # fmt: skip
    target = PvtV2ForImageClassification(
        configured(
            PvtV2Config,
            image_size=64, depths=depths, hidden_sizes=widths, num_attention_heads=heads,
            sr_ratios=[4, 2, 2, 1], mlp_ratios=[3, 3, 4, 4],
        )
    )  # fmt: skip
    takes = {
        rf"layers\.{at}\..*\.{name}\.": f"take(0, {width * part}, {width * part + width}, 1)"
        for at, width in enumerate(widths)
        for part, name in enumerate(("key", "value"))
    }
    truth = renamed(
        target,
        (r"^classifier", "head"),
        (r"^pvt_v2\.encoder\.layers\.0\.patch_embedding", "patch_embed"),
        (r"^pvt_v2\.encoder\.layers\.(\d)\.patch_embedding", r"stages.\1.downsample"),
        (r"^pvt_v2\.encoder\.layers", "stages"),
        (r"layer_norm_([12])", r"norm\1"),
        (r"layer_norm", "norm"),
        (r"attention\.query", "attn.q"),
        (r"attention\.(key|value)", "attn.kv"),
        (r"attention\.spatial_reduction", "attn.sr"),
        (r"attention", "attn"),
        (r"mlp\.dense", "mlp.fc"),
        (r"dwconv\.dwconv", "dwconv"),
        steps=takes,
    )
    return Pair(
        source, target, truth, on(image(64)), logits(image(64)), free=key_biases(truth, "key.bias")
    )  # fmt: skip


def _sam() -> tuple[VisionTransformerSAM, SamVisionModel]:
    timm = VisionTransformerSAM(
        img_size=64, patch_size=8, num_classes=0, embed_dim=48, depth=3, num_heads=4, mlp_ratio=80 / 48,
        window_size=4, global_attn_indexes=(1,), use_rel_pos=True, neck_chans=40,
    )  # fmt: skip
    config = SamVisionConfig(
        hidden_size=48, output_channels=40, num_hidden_layers=3, num_attention_heads=4, image_size=64,
        patch_size=8, mlp_dim=80, window_size=4, global_attn_indexes=[1],
    )  # fmt: skip
    return timm, SamVisionModel(config)


def _run_sam(net: nn.Module) -> Tensor:
    return net(pixel_values=image(64)).last_hidden_state


def _run_timm_sam(net: VisionTransformerSAM) -> Tensor:
    return net.forward_features(image(64))


@pair("sam-timm-transformers", family="sam")
def _sam_timm_transformers() -> Pair:
    source, target = _sam()
    truth = renamed(
        target,
        (r"^vision_encoder\.", ""),
        (r"patch_embed\.projection", "patch_embed.proj"),
        (r"^layers", "blocks"),
        (r"layer_norm([12])\.", r"norm\1."),
        (r"mlp\.lin", "mlp.fc"),
        (r"neck\.conv1", "neck.0"),
        (r"neck\.norm1", "neck.1"),
        (r"neck\.conv2", "neck.2"),
        (r"neck\.norm2", "neck.3"),
    )
    return Pair(source, target, truth, _run_timm_sam, _run_sam)


@pair("sam-transformers-timm", family="sam")
def _sam_transformers_timm() -> Pair:
    target, source = _sam()
    truth = renamed(
        target,
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"^blocks", "layers"),
        (r"norm([12])", r"layer_norm\1"),
        (r"mlp\.fc", "mlp.lin"),
        (r"neck\.0", "neck.conv1"),
        (r"neck\.1", "neck.layer_norm1"),
        (r"neck\.2", "neck.conv2"),
        (r"neck\.3", "neck.layer_norm2"),
        (r"^", "vision_encoder."),
    )
    return Pair(source, target, truth, _run_sam, _run_timm_sam)


@pair("hiera-timm-transformers", family="hiera")
def _hiera_timm_transformers() -> Pair:
    depths = [2, 2, 3, 2]
    source = Hiera(
        img_size=(64, 64), embed_dim=24, num_heads=1, num_classes=11, stages=depths, mask_unit_size=(8, 8)
    )  # fmt: skip
    target = HieraForImageClassification(
        configured(
            HieraConfig, image_size=[64, 64], embed_dim=24, depths=depths, num_heads=[1, 2, 4, 8],
        )
    )  # fmt: skip
    places = [(stage, at) for stage, depth in enumerate(depths) for at in range(depth)]
    truth = renamed(
        target,
        (r"^classifier", "head.fc"),
        (r"^hiera\.pooler\.layernorm", "head.norm"),
        (r"^hiera\.embeddings\.position_embeddings", "pos_embed"),
        (r"^hiera\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^hiera\.encoder\.", ""),
        *((rf"^stages\.{stage}\.layers\.{at}\.", f"blocks.{n}.") for n, (stage, at) in enumerate(places)),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
    )
    return Pair(source, target, truth, on(image(64)), logits(image(64)))


# ------------------------------------------------------------ convolutional layouts


@pair("focalnet-timm-transformers", family="focalnet", transforms=True)
def _focalnet_timm_transformers() -> Pair:
    source = FocalNet(
        num_classes=11, embed_dim=24, depths=(2, 3), focal_levels=(2, 3), focal_windows=(3, 3)
    )  # fmt: skip
    target = FocalNetForImageClassification(
        configured(
            FocalNetConfig,
            image_size=32, patch_size=4, embed_dim=24, hidden_sizes=[24, 48], depths=[2, 3],
            focal_levels=[2, 3], focal_windows=[3, 3],
        )
    )  # fmt: skip
    truth = renamed(
        target,
        (r"^classifier", "head.fc"),
        (r"^focalnet\.layernorm", "norm"),
        (r"^focalnet\.embeddings\.patch_embeddings\.projection", "stem.proj"),
        (r"^focalnet\.embeddings\.norm", "stem.norm"),
        (r"^focalnet\.encoder\.stages\.0\.downsample\.projection", "layers.1.downsample.proj"),
        (r"^focalnet\.encoder\.stages\.0\.downsample\.norm", "layers.1.downsample.norm"),
        (r"^focalnet\.encoder\.stages\.(\d)\.layers", r"layers.\1.blocks"),
        (r"projection_in", "f"),
        (r"projection_context", "h"),
        (r"projection_out", "proj"),
        steps=reshapes(target, r"(projection_in|projection_out|fc1|fc2)\.weight"),
    )
    return Pair(source, target, truth, on(image()), logits(image()))


@pair("poolformer-timm-transformers", family="poolformer")
def _poolformer_timm_transformers() -> Pair:
    depths, widths = [2, 2, 3, 2], [16, 24, 40, 48]
    source = MetaFormer(
        num_classes=11, depths=depths, dims=widths, downsample_norm=None, mlp_act=nn.GELU, mlp_bias=True,
        norm_layers=GroupNorm1, layer_scale_init_values=1e-5, res_scale_init_values=None, use_mlp_head=False,
    )  # fmt: skip
    target = PoolFormerForImageClassification(
        configured(PoolFormerConfig, depths=depths, hidden_sizes=widths)
    )
    truth = renamed(
        target,
        (r"^classifier", "head.fc"),
        (r"^norm", "head.norm"),
        (r"^poolformer\.encoder\.patch_embeddings\.0\.projection", "stem.conv"),
        (r"^poolformer\.encoder\.patch_embeddings\.(\d)\.projection", r"stages.\1.downsample.conv"),
        (r"^poolformer\.encoder\.block\.(\d)\.", r"stages.\1.blocks."),
        (r"layer_scale_([12])", r"layer_scale\1.scale"),
        (r"before_norm", "norm1"),
        (r"after_norm", "norm2"),
        (r"output\.conv", "mlp.fc"),
    )

    def run_target(net: nn.Module) -> Tensor:
        # It takes its norm before the mean over places, the other after it: here after, too.
        parts = dict(net.named_children())
        maps = parts["poolformer"](pixel_values=image(64)).last_hidden_state
        return parts["classifier"](parts["norm"](maps.mean((2, 3), keepdim=True)).flatten(1))

    # What is pooled is taken off again: the same number at all places goes with it.
    free = key_biases(truth, "before_norm.bias")
    return Pair(source, target, truth, on(image(64)), run_target, free=free)


@pair("convnextv2-timm-transformers", family="convnext", transforms=True)
def _convnextv2_timm_transformers() -> Pair:
    depths, widths = [2, 2, 3, 2], [16, 24, 40, 48]
    source = TimmConvNeXt(depths=depths, dims=widths, num_classes=11, use_grn=True, ls_init_value=None)
    target = ConvNextV2ForImageClassification(
        configured(ConvNextV2Config, depths=depths, hidden_sizes=widths, layer_norm_eps=1e-6)
    )
    truth = renamed(
        target,
        (r"^classifier", "head.fc"),
        (r"^convnextv2\.layernorm", "head.norm"),
        (r"^convnextv2\.embeddings\.patch_embeddings", "stem.0"),
        (r"^convnextv2\.embeddings\.layernorm", "stem.1"),
        (r"^convnextv2\.encoder\.", ""),
        (r"downsampling_layer", "downsample"),
        (r"layers", "blocks"),
        (r"dwconv", "conv_dw"),
        (r"layernorm", "norm"),
        (r"pwconv", "mlp.fc"),
        (r"grn", "mlp.grn"),
        steps=reshapes(target, r"grn"),
    )
    return Pair(source, target, truth, on(image(64)), logits(image(64)))


@pair("bit-timm-transformers", family="bit", transforms=True)
def _bit_timm_transformers() -> Pair:
    depths, widths = [2, 2, 3, 2], [32, 64, 96, 128]
    source = ResNetV2(
        depths, widths, num_classes=11, stem_chs=16, stem_type="fixed",
        norm_layer=partial(GroupNormAct, num_groups=4), conv_layer=partial(StdConv2d, eps=1e-8),
    )  # fmt: skip
    target = BitForImageClassification(
        configured(BitConfig, embedding_size=16, hidden_sizes=widths, depths=depths, num_groups=4)
    )
    truth = renamed(
        target,
        (r"^classifier\.1", "head.fc"),
        (r"^bit\.embedder\.convolution", "stem.conv"),
        (r"^bit\.norm", "norm"),
        (r"^bit\.encoder\.stages\.(\d)\.layers", r"stages.\1.blocks"),
        steps=reshapes(target, r"classifier\.1\.weight"),
    )
    return Pair(source, target, truth, on(image(64)), logits(image(64)))


@pair("mobilevit-timm-transformers", family="mobilevit", transforms=True)
def _mobilevit_timm_transformers() -> Pair:
    widths = (64, 80, 96)
    target = MobileViTForImageClassification(
        configured(
            MobileViTConfig,
            hidden_sizes=list(widths), neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320], expand_ratio=2.0,
        )
    )  # fmt: skip
    takes = {
        rf"encoder\.layer\.{at + 2}\..*\.{name}\.": f"take(0, {width * part}, {width * part + width}, 1)"
        for at, width in enumerate(widths)
        for part, name in enumerate(("query", "key", "value"))
    }
    truth = renamed(
        target,
        (r"^classifier", "head.fc"),
        (r"^mobilevit\.conv_stem", "stem"),
        (r"^mobilevit\.conv_1x1_exp", "final_conv"),
        (r"^mobilevit\.encoder\.layer\.([01])\.layer", r"stages.\1"),
        (r"^mobilevit\.encoder\.layer\.(\d)\.downsampling_layer", r"stages.\1.0"),
        (r"^mobilevit\.encoder\.layer\.(\d)\.", r"stages.\1.1."),
        (r"expand_1x1", "conv1_1x1"),
        (r"conv_3x3", "conv2_kxk"),
        (r"reduce_1x1", "conv3_1x1"),
        (r"conv_1x1\.convolution", "conv_1x1"),
        (r"conv_projection", "conv_proj"),
        (r"fusion", "conv_fusion"),
        (r"\.convolution", ".conv"),
        (r"normalization", "bn"),
        (r"transformer\.layer\.", "transformer."),
        (r"attention\.attention\.(query|key|value)", "attn.qkv"),
        (r"attention\.output\.dense", "attn.proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"layernorm", "norm"),
        steps=takes,
    )
    return Pair(
        mobilevit_xxs(num_classes=11), target, truth, on(image(128)), logits(image(128)),
        free=key_biases(truth, "key.bias"),
    )  # fmt: skip
