"""
A pair of DETR: the one of transformers, and a rewrite in the layout of the first publication.
"""

from __future__ import annotations

from typing import Any

from benchmarks.pairs.vision_support import configured, image, key_biases, renamed

# isort: split
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops.misc import FrozenBatchNorm2d
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from benchmarks.pairs.pair import Pair, pair


def _positions(height: int, width: int, features: int) -> Tensor:
    """Sines and cosines of where a cell lies, rows first: (1, cells, features)."""
    half = features // 2
    rates = 10000.0 ** -(2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)
    parts = []
    for length, view in ((height, (height, 1, half)), (width, (1, width, half))):
        angles = (torch.arange(1, length + 1) / (length + 1e-6) * 2 * torch.pi)[:, None] * rates
        waves = torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], 2).flatten(1)
        parts.append(waves.view(view).expand(height, width, half))
    return torch.cat(parts, 2).flatten(0, 1)[None]


class _EncoderLayer(nn.TransformerEncoderLayer):
    def forward(self, cells: Tensor, places: Tensor) -> Tensor:  # type: ignore[override]
        where = cells + places
        cells = self.norm1(cells + self.self_attn(where, where, cells)[0])
        return self.norm2(cells + self.linear2(self.linear1(cells).relu()))


class _DecoderLayer(nn.TransformerDecoderLayer):
    def forward(  # type: ignore[override]
        self, objects: Tensor, cells: Tensor, queries: Tensor, places: Tensor
    ) -> Tensor:
        who = objects + queries
        objects = self.norm1(objects + self.self_attn(who, who, objects)[0])
        found = self.multihead_attn(objects + queries, cells + places, cells)[0]
        objects = self.norm2(objects + found)
        return self.norm3(objects + self.linear2(self.linear1(objects).relu()))


class _Decoder(nn.Module):
    def __init__(self, layers: list[nn.Module], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)


class _Box(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)])

    def forward(self, objects: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            objects = layer(objects).relu()
        return self.layers[-1](objects).sigmoid()


class _Detr(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, queries: int, classes: int) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"dim_feedforward": hidden, "dropout": 0.0, "batch_first": True}
        self.transformer = nn.ModuleDict()
        encoder = nn.ModuleList([_EncoderLayer(width, heads, **sizes) for _ in range(2)])
        self.transformer["encoder"] = nn.ModuleDict({"layers": encoder})
        decoder: list[nn.Module] = [_DecoderLayer(width, heads, **sizes) for _ in range(3)]
        self.transformer["decoder"] = _Decoder(decoder, width)
        self.class_embed = nn.Linear(width, classes)
        self.bbox_embed = _Box(width)
        self.query_embed = nn.Embedding(queries, width)
        self.input_proj = nn.Conv2d(512, width, 1)
        body = ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=FrozenBatchNorm2d)
        del body.fc
        self.backbone = nn.ModuleList([nn.ModuleDict({"body": body})])

    def forward(self, images: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        backbone: Any = self.backbone[0]
        net = backbone["body"]
        maps = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        maps = self.input_proj(net.layer4(net.layer3(net.layer2(net.layer1(maps)))))
        places = _positions(maps.shape[2], maps.shape[3], maps.shape[1])
        cells = maps.flatten(2).transpose(1, 2)
        parts: Any = self.transformer
        for layer in parts["encoder"]["layers"]:
            cells = layer(cells, places)
        for layer in parts["decoder"].layers:
            objects = layer(objects, cells, self.query_embed.weight, places)
        objects = parts["decoder"].norm(objects)
        return self.class_embed(objects), self.bbox_embed(objects)


def _hf_detr() -> DetrForObjectDetection:
    backbone = configured(
        ResNetConfig,
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    settings: dict[str, Any] = {
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
        "backbone_config": backbone, "d_model": 48, "encoder_layers": 2, "decoder_layers": 3,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 80,
        "decoder_ffn_dim": 80, "num_queries": 7, "num_labels": 12, "dropout": 0.0,
    }  # fmt: skip
    return DetrForObjectDetection(DetrConfig(**settings))


@pair("detr-plain-transformers", family="detr", transforms=True)
def _detr_plain_transformers() -> Pair:
    target = _hf_detr()
    truth = renamed(
        target,
        (r"^class_labels_classifier", "class_embed"),
        (r"^bbox_predictor", "bbox_embed"),
        (r"^model\.query_position_embeddings", "query_embed"),
        (r"^model\.input_projection", "input_proj"),
        (r"^model\.(en|de)coder", r"transformer.\1coder"),
        (r"decoder\.layernorm", "decoder.norm"),
        (r"(encoder.*)final_layer_norm", r"\1norm2"),
        (r"(decoder.*)final_layer_norm", r"\1norm3"),
        (r"self_attn_layer_norm", "norm1"),
        (r"encoder_attn_layer_norm", "norm2"),
        (r"encoder_attn", "multihead_attn"),
        (r"attn\.o_proj", "attn.out_proj"),
        (r"attn\.[qkv]_proj\.", "attn.in_proj_"),
        (r"mlp\.fc", "linear"),
        (r"^model\.backbone\.model\.embedder\.embedder\.convolution", "backbone.0.body.conv1"),
        (r"^model\.backbone\.model\.embedder\.embedder\.normalization", "backbone.0.body.bn1"),
        *(
            (rf"^model\.backbone\.model\.encoder\.stages\.{at}\.layers", f"backbone.0.body.layer{at + 1}")
            for at in range(4)
        ),
        (r"shortcut\.convolution", "downsample.0"),
        (r"shortcut\.normalization", "downsample.1"),
        (r"layer\.0\.convolution", "conv1"),
        (r"layer\.0\.normalization", "bn1"),
        (r"layer\.1\.convolution", "conv2"),
        (r"layer\.1\.normalization", "bn2"),
        steps={f"{name}_proj": f"take(0, {48 * at}, {48 * at + 48}, 1)" for at, name in enumerate("qkv")},
    )
    # With zeros, as in use, what the first layer's attention weighs would show nowhere.
    objects = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(2))

    def run_target(net: nn.Module) -> tuple[Tensor, Tensor]:
        outputs = net(pixel_values=image(128), decoder_inputs_embeds=objects)
        return outputs.logits, outputs.pred_boxes

    return Pair(
        _Detr(48, 4, 80, 7, 13), target, truth, lambda net: net(image(128), objects), run_target,
        free=key_biases(truth),
    )  # fmt: skip
