"""
Some pairs of vision the other way round: what was split is joined, what was flattened gets its shape.
"""

from __future__ import annotations

from benchmarks.pairs.vision_support import renamed

# isort: split
from benchmarks.pairs import vision, vision_more, vision_timm
from benchmarks.pairs.pair import PAIRS, Pair, Truth, pair

_REGISTERED_BY = (vision, vision_more, vision_timm)


def _forth(name: str) -> Pair:
    return PAIRS[name].build()


def _turned(forth: Pair, truth: dict[str, Truth]) -> Pair:
    """The pair with source and target exchanged."""
    return Pair(forth.target, forth.source, truth, forth.run_target, forth.run_source)


def _vit_truth(forth: Pair, name: str, *own: tuple[str, str]) -> dict[str, Truth]:
    return renamed(
        forth.source,
        *own,
        (r"^patch_embed\.proj", f"{name}.embeddings.patch_embeddings.projection"),
        (r"^pos_embed", f"{name}.embeddings.position_embeddings"),
        (r"^cls_token", f"{name}.embeddings.cls_token"),
        (r"^dist_token", f"{name}.embeddings.distillation_token"),
        (r"^blocks", f"{name}.layers"),
        (r"^norm", f"{name}.layernorm"),
        (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"),
        (r"attn\.qkv", "attention.{q,k,v}_proj"),
        (r"attn\.proj", "attention.o_proj"),
        steps={r"attn\.qkv": "cat(0, 1)"},
    )


@pair("vit-transformers-timm", family="vit", transforms=True)
def _vit_transformers_timm() -> Pair:
    forth = _forth("vit-timm-transformers")
    return _turned(forth, _vit_truth(forth, "vit", (r"^head", "classifier")))


@pair("deit-transformers-timm", family="vit", transforms=True)
def _deit_transformers_timm() -> Pair:
    forth = _forth("deit-timm-transformers")
    own = ((r"^head_dist", "distillation_classifier"), (r"^head\.", "cls_classifier."))
    return _turned(forth, _vit_truth(forth, "deit", *own))


@pair("beit-transformers-timm", family="beit", transforms=True)
def _beit_transformers_timm() -> Pair:
    forth = _forth("beit-timm-transformers")
    own = (
        (r"^head", "classifier"),
        (r"^fc_norm", "beit.pooler.layernorm"),
        (r"gamma_", "lambda_"),
        (r"attn\.rel", "relative_position_bias.rel"),
        (r"attn\.([qv])_bias", r"attention.\1_proj.bias"),
    )
    return _turned(forth, _vit_truth(forth, "beit", *own))


@pair("convnext-timm-torchvision", family="convnext", transforms=True)
def _convnext_timm_torchvision() -> Pair:
    forth = _forth("convnext-torchvision-timm")
    widths = (32, 40, 48, 64)
    truth = renamed(
        forth.source,
        (r"^classifier\.0", "head.norm"),
        (r"^classifier\.2", "head.fc"),
        (r"^features\.0", "stem"),
        *((rf"^features\.{2 * at + 1}\.", f"stages.{at}.blocks.") for at in range(4)),
        *((rf"^features\.{2 * at}\.", f"stages.{at}.downsample.") for at in range(1, 4)),
        (r"layer_scale", "gamma"),
        (r"block\.0", "conv_dw"),
        (r"block\.2", "norm"),
        (r"block\.3", "mlp.fc1"),
        (r"block\.5", "mlp.fc2"),
        steps={rf"features\.{2 * at + 1}.*layer_scale": f"reshape({widths[at]}, 1, 1)" for at in range(4)},
    )
    return _turned(forth, truth)


@pair("vgg-timm-torchvision", family="vgg", transforms=True)
def _vgg_timm_torchvision() -> Pair:
    forth = _forth("vgg-torchvision-timm")
    truth = renamed(
        forth.source,
        (r"^classifier\.0", "pre_logits.fc1"),
        (r"^classifier\.3", "pre_logits.fc2"),
        (r"^classifier\.6", "head.fc"),
        steps={r"classifier\.0\.weight": "reshape(64, 2352)", r"classifier\.3\.weight": "reshape(64, 64)"},
    )
    return _turned(forth, truth)


@pair("swin-timm-torchvision", family="swin")
def _swin_timm_torchvision() -> Pair:
    forth = _forth("swin-torchvision-timm")
    made = tuple(name for name in forth.source.state_dict() if name.endswith("relative_position_index"))
    truth = renamed(
        forth.source,
        (r"^head", "head.fc"),
        (r"^features\.0\.0", "patch_embed.proj"),
        (r"^features\.0\.2", "patch_embed.norm"),
        (r"^features\.2", "layers.1.downsample"),
        (r"^features\.1", "layers.0.blocks"),
        (r"^features\.3", "layers.1.blocks"),
        (r"mlp\.0", "mlp.fc1"),
        (r"mlp\.3", "mlp.fc2"),
        made=made,
    )
    return Pair(forth.target, forth.source, truth, forth.run_target, forth.run_source, made=made)
