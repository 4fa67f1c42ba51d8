"""
Pairs of models of images and texts: CLIP and SigLIP in open_clip and transformers.
"""

from __future__ import annotations

from typing import Any

from benchmarks.pairs.vision_support import image, key_biases, renamed

# isort: split
import torch
from open_clip.model import CLIP, CustomTextCLIP
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from benchmarks.pairs.pair import Pair, Truth, pair


def _tokens() -> Tensor:
    """Texts whose last token is the vocabulary's last: both take the output there."""
    tokens = torch.randint(1, 69, (3, 13), generator=torch.Generator().manual_seed(3))
    tokens[:, -1] = 70
    return tokens


def _run_open_clip(net: Any) -> tuple[Tensor, ...]:
    images, texts, scale, *bias = net(image(), _tokens())
    return images, texts, scale * images @ texts.T + (bias[0] if bias else 0.0)


def _run_transformers(net: nn.Module) -> tuple[Tensor, ...]:
    outputs = net(pixel_values=image(), input_ids=_tokens())
    return outputs.image_embeds, outputs.text_embeds, outputs.logits_per_image


# --------------------------------------------------------------------------- CLIP


def _open_clip() -> CLIP:
    vision = {"layers": 3, "width": 48, "head_width": 12, "patch_size": 8, "image_size": 32}
    text = {"context_length": 13, "vocab_size": 71, "width": 36, "heads": 3, "layers": 2, "mlp_ratio": 2.5}
    return CLIP(40, vision, text)


def _hf_clip() -> CLIPModel:
    text = {
        "vocab_size": 71, "hidden_size": 36, "intermediate_size": 90, "num_hidden_layers": 2,
        "num_attention_heads": 3, "max_position_embeddings": 13, "bos_token_id": 69, "eos_token_id": 70,
        "pad_token_id": 0, "hidden_act": "gelu",
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8, "hidden_act": "gelu",
    }  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=40))


def _qkv(layers: str, width: int) -> dict[str, str]:
    """Steps for one tower of transformers, whose source stacks queries, keys and values."""
    return {
        rf"{layers}.*\.{name}_proj\.": f"take(0, {at * width}, {(at + 1) * width}, 1)"
        for at, name in enumerate("qkv")
    }


@pair("clip-openclip-transformers", family="clip", transforms=True)
def _clip_openclip_transformers() -> Pair:
    target = _hf_clip()
    truth = renamed(
        target,
        (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
        (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
        (r"^text_model\.final_layer_norm", "ln_final"),
        (r"^text_model\.encoder\.layers", "transformer.resblocks"),
        (r"^text_projection\.weight", "text_projection"),
        (r"^visual_projection\.weight", "visual.proj"),
        (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
        (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
        (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
        (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
        (r"^vision_model\.post_layernorm", "visual.ln_post"),
        (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
        (r"layer_norm([12])", r"ln_\1"),
        (r"self_attn\.out_proj", "attn.out_proj"),
        (r"self_attn\.[qkv]_proj\.", "attn.in_proj_"),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
        steps={
            r"^(text|visual)_projection": "transpose",
            **_qkv(r"text_model\.encoder", 36),
            **_qkv(r"vision_model\.encoder", 48),
        },
    )
    return Pair(_open_clip(), target, truth, _run_open_clip, _run_transformers, free=key_biases(truth))


_TEXT_TOWER = (
    (r"token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"ln_final", "text_model.final_layer_norm"),
    (r"transformer\.resblocks", "text_model.encoder.layers"),
    (r"ln_([12])", r"layer_norm\1"),
    (r"attn\.in_proj_", "self_attn.{q,k,v}_proj."),
    (r"(?<!self_)attn\.out_proj", "self_attn.out_proj"),
    (r"mlp\.c_fc", "mlp.fc1"),
    (r"mlp\.c_proj", "mlp.fc2"),
)


@pair("clip-transformers-openclip", family="clip", transforms=True)
def _clip_transformers_openclip() -> Pair:
    target = _open_clip()
    truth = renamed(
        target,
        (r"^visual\.conv1", "vision_model.embeddings.patch_embedding"),
        (r"^visual\.class_embedding", "vision_model.embeddings.class_embedding"),
        (r"^visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        (r"^visual\.ln_pre", "vision_model.pre_layrnorm"),
        (r"^visual\.ln_post", "vision_model.post_layernorm"),
        (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
        (r"^visual\.proj", "visual_projection.weight"),
        (r"^text_projection", "text_projection.weight"),
        *((rf"^{pattern}", replacement) for pattern, replacement in _TEXT_TOWER[:4]),
        *_TEXT_TOWER[4:],
        steps={r"in_proj_": "cat(0, 1)", r"^text_projection$|^visual\.proj$": "transpose"},
    )
    return Pair(_hf_clip(), target, truth, _run_transformers, _run_open_clip)


# ------------------------------------------------------------------------- SigLIP


def _open_siglip() -> CustomTextCLIP:
    vision = {
        "timm_model_name": "vit_base_patch16_siglip_224", "timm_model_pretrained": False, "timm_pool": "map",
        "timm_proj": "none", "image_size": 224,
    }  # fmt: skip
    text = {
        "context_length": 13, "vocab_size": 71, "width": 36, "heads": 3, "layers": 2, "mlp_ratio": 2.5,
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
    }  # fmt: skip
    with torch.device("meta"):
        # A base model is made only to be replaced by a small one.
        built = CustomTextCLIP(48, vision, text, init_logit_bias=-10.0)
    small = CustomTextCLIP(
        48, {"layers": 1, "width": 48, "head_width": 12, "image_size": 32}, text, init_logit_bias=-10.0
    )
    built.text, built.logit_scale, built.logit_bias = small.text, small.logit_scale, small.logit_bias
    built.visual.trunk = TimmViT(
        32, 8, embed_dim=48, depth=3, num_heads=4, mlp_ratio=80 / 48, class_token=False, global_pool="map",
        num_classes=0,
    )  # fmt: skip
    return built


def _hf_siglip() -> SiglipModel:
    text = {
        "vocab_size": 71, "hidden_size": 36, "intermediate_size": 90, "num_hidden_layers": 2,
        "num_attention_heads": 3, "max_position_embeddings": 13, "hidden_act": "gelu", "projection_size": 48,
        "bos_token_id": 69, "eos_token_id": 70,
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8, "hidden_act": "gelu",
    }  # fmt: skip
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))


@pair("siglip-openclip-transformers", family="siglip", transforms=True)
def _siglip_openclip_transformers() -> Pair:
    target = _hf_siglip()
    truth: dict[str, Truth] = renamed(
        target,
        (r"^text_model\.embeddings\.token_embedding", "text.token_embedding"),
        (r"^text_model\.embeddings\.position_embedding\.weight", "text.positional_embedding"),
        (r"^text_model\.final_layer_norm", "text.ln_final"),
        (r"^text_model\.head", "text.text_projection"),
        (r"^(text)_model\.encoder\.layers(.*)layer_norm([12])", r"\1_model.encoder.layers\2ln_\3"),
        (r"^(text)_model\.encoder\.layers(.*)self_attn\.[qkv]_proj\.", r"\1.resblocks\2attn.in_proj_"),
        (r"^(text)_model\.encoder\.layers(.*)self_attn\.out_proj", r"\1.resblocks\2attn.out_proj"),
        (r"^(text)_model\.encoder\.layers(.*)mlp\.fc1", r"\1.resblocks\2mlp.c_fc"),
        (r"^(text)_model\.encoder\.layers(.*)mlp\.fc2", r"\1.resblocks\2mlp.c_proj"),
        (r"^text_model\.encoder\.layers", "text.resblocks"),
        (r"^text\.resblocks", "text.transformer.resblocks"),
        (r"^vision_model\.head\.attention\.in_proj_", "visual.trunk.attn_pool.{q,kv}."),
        (r"^vision_model\.head\.attention\.out_proj", "visual.trunk.attn_pool.proj"),
        (r"^vision_model\.head\.probe", "visual.trunk.attn_pool.latent"),
        (r"^vision_model\.head\.layernorm", "visual.trunk.attn_pool.norm"),
        (r"^vision_model\.head", "visual.trunk.attn_pool"),
        (r"^vision_model\.embeddings\.patch_embedding", "visual.trunk.patch_embed.proj"),
        (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.trunk.pos_embed"),
        (r"^vision_model\.post_layernorm", "visual.trunk.norm"),
        (r"^vision_model\.encoder\.layers", "visual.trunk.blocks"),
        (r"self_attn\.out_proj", "attn.proj"),
        (r"self_attn\.[qkv]_proj\.", "attn.qkv."),
        (r"layer_norm([12])", r"norm\1"),
        steps={
            r"^logit_": "reshape(1)",
            r"vision_model\.embeddings\.position_embedding": "index(0, 0)",
            r"head\.attention\.in_proj_": "cat(0, 1)",
            **_qkv(r"text_model\.encoder", 36),
            **_qkv(r"vision_model\.encoder", 48),
        },
    )
    return Pair(_open_siglip(), target, truth, _run_open_clip, _run_transformers, free=key_biases(truth))


@pair("siglip-transformers-openclip", family="siglip", transforms=True)
def _siglip_transformers_openclip() -> Pair:
    target = _open_siglip()
    pool = "visual.trunk.attn_pool"
    truth: dict[str, Truth] = renamed(
        target,
        (rf"^{pool}\.latent", "vision_model.head.probe"),
        (rf"^{pool}\.(q|kv)\.", "vision_model.head.attention.in_proj_"),
        (rf"^{pool}\.proj", "vision_model.head.attention.out_proj"),
        (rf"^{pool}\.norm", "vision_model.head.layernorm"),
        (rf"^{pool}", "vision_model.head"),
        (r"^visual\.trunk\.patch_embed\.proj", "vision_model.embeddings.patch_embedding"),
        (r"^visual\.trunk\.pos_embed", "vision_model.embeddings.position_embedding.weight"),
        (r"^visual\.trunk\.norm", "vision_model.post_layernorm"),
        (r"^visual\.trunk\.blocks", "vision_model.encoder.layers"),
        (r"\.norm([12])\.", r".layer_norm\1."),
        (r"attn\.qkv\.", "self_attn.{q,k,v}_proj."),
        (r"attn\.proj", "self_attn.out_proj"),
        (r"^text\.text_projection", "text_model.head"),
        *((rf"^text\.{pattern}", replacement) for pattern, replacement in _TEXT_TOWER[:4]),
        *_TEXT_TOWER[4:],
        steps={
            r"^logit_": "reshape()",
            r"pos_embed": "reshape(1, 16, 48)",
            r"attn_pool\.q\.": "take(0, 0, 48, 1)",
            r"attn_pool\.kv\.": "take(0, 48, 144, 1)",
            r"in_proj_|qkv": "cat(0, 1)",
        },
    )
    return Pair(_hf_siglip(), target, truth, _run_transformers, _run_open_clip)
