"""
Pairs of timm's models and plain ones in the layout of JAX: kernels end with their outputs.
"""

from __future__ import annotations

from benchmarks.pairs.vision_support import image, on, renamed

# isort: split
import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pairs.pair import Pair, pair

_WIDTH, _HEADS, _HIDDEN, _DEPTH = 48, 4, 80, 3

# ---------------------------------------------------------------- layers of that kind


class _Dense(nn.Module):
    """A kernel of (…inputs, …outputs)."""

    def __init__(self, inner: tuple[int, ...], outer: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(*inner, *outer))
        self.bias = nn.Parameter(torch.zeros(outer))
        self.axes = len(inner)

    def forward(self, value: Tensor) -> Tensor:
        return torch.tensordot(value, self.kernel, self.axes) + self.bias


class _Conv(nn.Module):
    """A kernel of (height, width, inputs, outputs)."""

    def __init__(self, inner: int, outer: int, size: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(size, size, inner, outer))
        if bias:
            self.bias = nn.Parameter(torch.zeros(outer))
        self.stride, self.padding = stride, 0 if size == stride else size // 2

    def forward(self, maps: Tensor) -> Tensor:
        kernel, bias = self.kernel.permute(3, 2, 0, 1), getattr(self, "bias", None)
        return functional.conv2d(maps, kernel, bias, self.stride, self.padding)


class _LayerNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, value: Tensor) -> Tensor:
        return functional.layer_norm(value, self.scale.shape, self.scale, self.bias, 1e-6)


class _BatchNorm(_LayerNorm):
    mean: Tensor
    var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, maps: Tensor) -> Tensor:
        return functional.batch_norm(maps, self.mean, self.var, self.scale, self.bias, eps=1e-5)


# ----------------------------------------------------------------------------- models


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        head = (_HEADS, _WIDTH // _HEADS)
        self.key, self.query, self.value = (_Dense((_WIDTH,), head) for _ in range(3))
        self.out = _Dense(head, (_WIDTH,))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = (each(tokens).transpose(1, 2) for each in (self.query, self.key, self.value))
        return self.out(functional.scaled_dot_product_attention(*parts).transpose(1, 2))


class _EncoderBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.LayerNorm_0, self.LayerNorm_2 = _LayerNorm(_WIDTH), _LayerNorm(_WIDTH)
        self.MlpBlock_3 = nn.ModuleDict(
            {"Dense_0": _Dense((_WIDTH,), (_HIDDEN,)), "Dense_1": _Dense((_HIDDEN,), (_WIDTH,))}
        )
        self.MultiHeadDotProductAttention_1 = _Attention()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.MultiHeadDotProductAttention_1(self.LayerNorm_0(tokens))
        inside = functional.gelu(self.MlpBlock_3["Dense_0"](self.LayerNorm_2(tokens)))
        return tokens + self.MlpBlock_3["Dense_1"](inside)


class _JaxViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        blocks = {f"encoderblock_{at}": _EncoderBlock() for at in range(_DEPTH)}
        self.Transformer = nn.ModuleDict({**blocks, "encoder_norm": _LayerNorm(_WIDTH)})
        self.posembed_input = nn.ParameterDict({"pos_embedding": torch.randn(1, 17, _WIDTH)})
        self.cls = nn.Parameter(torch.randn(1, 1, _WIDTH))
        self.embedding = _Conv(3, _WIDTH, 8, 8, bias=True)
        self.head = _Dense((_WIDTH,), (11,))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embedding(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(tokens), 1, -1), tokens], 1)
        tokens = tokens + self.posembed_input["pos_embedding"]
        for block in self.Transformer.values():
            tokens = block(tokens)
        return self.head(tokens[:, 0])


def _timm_vit() -> VisionTransformer:
    return VisionTransformer(
        32, 8, embed_dim=_WIDTH, depth=_DEPTH, num_heads=_HEADS, mlp_ratio=_HIDDEN / _WIDTH, num_classes=11
    )  # fmt: skip


@pair("vit-jax-timm", family="vit", transforms=True)
def _vit_jax_timm() -> Pair:
    target = _timm_vit()
    attention = "MultiHeadDotProductAttention_1"
    truth = renamed(
        target,
        (r"^cls_token", "cls"),
        (r"^pos_embed", "posembed_input.pos_embedding"),
        (r"^patch_embed\.proj", "embedding"),
        (r"^norm", "Transformer.encoder_norm"),
        (r"^blocks\.", "Transformer.encoderblock_"),
        (r"norm1", "LayerNorm_0"),
        (r"norm2", "LayerNorm_2"),
        (r"attn\.qkv", attention + ".{query,key,value}"),
        (r"attn\.proj", attention + ".out"),
        (r"mlp\.fc1", "MlpBlock_3.Dense_0"),
        (r"mlp\.fc2", "MlpBlock_3.Dense_1"),
        (r"(norm|LayerNorm_\d)\.weight", r"\1.scale"),
        (r"weight$", "kernel"),
        steps={
            r"patch_embed\.proj\.weight": "permute(3, 2, 0, 1)",
            r"qkv\.weight": "cat(1, 1) | reshape(48, 144) | transpose",
            r"qkv\.bias": "cat(0, 1) | reshape(144)",
            r"attn\.proj\.weight": "reshape(48, 48) | transpose",
            r"(fc\d|head)\.weight": "transpose",
        },
    )
    return Pair(_JaxViT(), target, truth, on(image()), on(image()))


_STACKED = {
    "norm_1_scale": (_WIDTH,), "norm_1_bias": (_WIDTH,), "norm_2_scale": (_WIDTH,), "norm_2_bias": (_WIDTH,),
    "qkv_kernel": (_WIDTH, 3 * _WIDTH), "qkv_bias": (3 * _WIDTH,), "out_kernel": (_WIDTH, _WIDTH),
    "out_bias": (_WIDTH,), "wide_kernel": (_WIDTH, _HIDDEN), "wide_bias": (_HIDDEN,),
    "narrow_kernel": (_HIDDEN, _WIDTH), "narrow_bias": (_WIDTH,),
}  # fmt: skip


class _ScannedViT(nn.Module):
    """All blocks in one: each tensor has a first axis of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = _Conv(3, _WIDTH, 8, 8, bias=True)
        self.token = nn.Parameter(torch.randn(_WIDTH))
        self.places = nn.Parameter(torch.randn(17, _WIDTH))
        self.layers = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(_DEPTH, *shape)) for name, shape in _STACKED.items()}
        )
        self.norm, self.classifier = _LayerNorm(_WIDTH), _Dense((_WIDTH,), (11,))

    def _block(self, tokens: Tensor, at: int) -> Tensor:
        part = {name: stacked[at] for name, stacked in self.layers.items()}

        def norm(number: int) -> Tensor:
            scale, bias = part[f"norm_{number}_scale"], part[f"norm_{number}_bias"]
            return functional.layer_norm(tokens, (_WIDTH,), scale, bias, 1e-6)

        stacked = norm(1) @ part["qkv_kernel"] + part["qkv_bias"]
        query, key, value = stacked.unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + mixed @ part["out_kernel"] + part["out_bias"]
        inside = functional.gelu(norm(2) @ part["wide_kernel"] + part["wide_bias"])
        return tokens + inside @ part["narrow_kernel"] + part["narrow_bias"]

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), 1, -1), tokens], 1) + self.places
        for at in range(_DEPTH):
            tokens = self._block(tokens, at)
        return self.classifier(self.norm(tokens)[:, 0])


@pair("vit-scanned-timm", family="vit", transforms=True)
def _vit_scanned_timm() -> Pair:
    target = _timm_vit()
    steps = {
        r"patch_embed\.proj\.weight": "permute(3, 2, 0, 1)",
        r"^head\.weight": "transpose",
        r"^cls_token": "reshape(1, 1, 48)",
        r"^pos_embed": "reshape(1, 17, 48)",
    }
    for at in range(_DEPTH):
        steps[rf"^blocks\.{at}\.(attn|mlp).*weight"] = f"index(0, {at}) | transpose"
        steps[rf"^blocks\.{at}\."] = f"index(0, {at})"
    truth = renamed(
        target,
        (r"^cls_token", "token"),
        (r"^pos_embed", "places"),
        (r"^patch_embed\.proj", "patch"),
        (r"^head", "classifier"),
        (r"^blocks\.\d\.norm(\d)\.weight", r"layers.norm_\1_scale"),
        (r"^blocks\.\d\.norm(\d)\.bias", r"layers.norm_\1_bias"),
        (r"^blocks\.\d\.attn\.qkv\.", "layers.qkv_"),
        (r"^blocks\.\d\.attn\.proj\.", "layers.out_"),
        (r"^blocks\.\d\.mlp\.fc1\.", "layers.wide_"),
        (r"^blocks\.\d\.mlp\.fc2\.", "layers.narrow_"),
        (r"norm\.weight", "norm.scale"),
        (r"weight$", "kernel"),
        steps=steps,
    )
    return Pair(_ScannedViT(), target, truth, on(image()), on(image()))


class _ResidualBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.BatchNorm_0, self.BatchNorm_1 = _BatchNorm(outer), _BatchNorm(outer)
        self.Conv_0, self.Conv_1 = _Conv(inner, outer, 3, stride), _Conv(outer, outer, 3)
        self.projects = inner != outer
        if self.projects:
            self.conv_proj, self.norm_proj = _Pointwise(inner, outer, stride), _BatchNorm(outer)

    def forward(self, maps: Tensor) -> Tensor:
        inside = self.BatchNorm_0(self.Conv_0(maps)).relu()
        inside = self.BatchNorm_1(self.Conv_1(inside))
        return (inside + (self.norm_proj(self.conv_proj(maps)) if self.projects else maps)).relu()


class _Pointwise(_Conv):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__(inner, outer, 1, stride)
        self.padding = 0


class _JaxResNet(nn.Module):
    """Blocks are numbered through, without stages."""

    def __init__(self, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv_init, self.bn_init = _Conv(3, 64, 7, 2), _BatchNorm(64)
        inner, count = 64, 0
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            for at in range(depth):
                block = _ResidualBlock(inner, width, 2 if stage and not at else 1)
                self.add_module(f"ResNetBlock_{count}", block)
                inner, count = width, count + 1
        self.Dense_0 = _Dense((inner,), (11,))

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.max_pool2d(self.bn_init(self.conv_init(images)).relu(), 3, 2, 1)
        for name, block in self.named_children():
            if name.startswith("ResNetBlock"):
                maps = block(maps)
        return self.Dense_0(maps.mean((2, 3)))


@pair("resnet-jax-timm", family="resnet", transforms=True)
def _resnet_jax_timm() -> Pair:
    widths, depths = (24, 32, 40, 48), (2, 3, 2, 2)
    target = ResNet(BasicBlock, depths, num_classes=11, channels=widths)
    places = [(stage, at) for stage, depth in enumerate(depths) for at in range(depth)]
    made = tuple(name for name in target.state_dict() if name.endswith("num_batches_tracked"))
    truth = renamed(
        target,
        (r"^fc\.weight", "Dense_0.kernel"),
        (r"^fc", "Dense_0"),
        (r"^conv1", "conv_init"),
        (r"^bn1", "bn_init"),
        *((rf"^layer{stage + 1}\.{at}\.", f"ResNetBlock_{n}.") for n, (stage, at) in enumerate(places)),
        (r"\.conv1", ".Conv_0"),
        (r"\.conv2", ".Conv_1"),
        (r"\.bn1", ".BatchNorm_0"),
        (r"\.bn2", ".BatchNorm_1"),
        (r"downsample\.0", "conv_proj"),
        (r"downsample\.1", "norm_proj"),
        (r"((?:BatchNorm_\d|bn_init|norm_proj)\.)weight", r"\1scale"),
        (r"running_", ""),
        (r"weight$", "kernel"),
        steps={r"fc\.weight": "transpose", r"(conv\d|downsample\.0)\.weight": "permute(3, 2, 0, 1)"},
        made=made,
    )

    def run(net: nn.Module) -> Tensor:
        for name, buffer in net.named_buffers():
            if name.endswith("var"):
                buffer.abs_()  # random ones may lie below 0, variances don't
        return net(image())

    return Pair(_JaxResNet(widths, depths), target, truth, run, run, made=made)
