"""
What a model may take, by the first layer that says so. Guesses, to be tried in order.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from modelinspect.errors import visible
from modelinspect.live.input_spec import Literal, TensorSpec

__all__ = ["Guess", "guesses"]

_BATCH = 2
_IMAGE_SIZES = (32, 28, 64, 96, 128, 224, 299, 256, 512)
_LENGTHS = (32, 128, 1024, 16_000)
_VOLUMES = (16, 32, 64)
_TOKENS = 8
Shapes = tuple[tuple[int, ...], ...]


class Guess(NamedTuple):
    """Positional arguments to try, and what speaks for them."""

    args: tuple[TensorSpec | Literal, ...]
    origin: str


def guesses(module: nn.Module) -> Iterator[Guess]:
    """
    Candidates for an input, the likeliest first.

    Args:
        module: Looked at in the order of registration: the first layer that says what it
            takes is most often the first that runs.
    """
    yield from _kept_size(module)
    names = _required(module)
    layers = [(path, layer) for path, layer in module.named_modules() if _shapes_of(layer) is not None]
    for path, layer in layers[:3]:
        found = _shapes_of(layer)
        assert found is not None
        said, shapes, bound = found
        where = f"{visible(path)} ({type(layer).__name__}, {said})" if path else said
        for several in shapes:
            yield Guess(_arguments(names, several, bound), f"worked out from {where}")
    if not layers:
        yield from _by_parameters(module, names)


def _kept_size(module: nn.Module) -> Iterator[Guess]:
    """What timm keeps of each of its models."""
    for name in ("pretrained_cfg", "default_cfg"):
        size = (getattr(module, name, None) or {}).get("input_size")
        if isinstance(size, (tuple, list)) and all(isinstance(length, int) for length in size):
            yield Guess((TensorSpec("", (_BATCH, *size)),), f"input_size in {name} of the model")


def _required(module: nn.Module) -> list[str]:
    """Positional arguments of forward that have no default; at least one."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ["input"]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    required = [p.name for p in positional if p.default is p.empty]
    return required or [p.name for p in positional[:1]] or ["input"]


_INTEGERS = re.compile(r"(^|_)(ids?|tokens?|indices|index|idx)$")
_MASK = re.compile(r"mask")


def _arguments(names: Sequence[str], shapes: Shapes, bound: int | None) -> tuple[TensorSpec | Literal, ...]:
    """A tensor for each argument: the layer's own shapes first, the last of them again for what is left."""
    arguments: list[TensorSpec | Literal] = []
    for place, name in enumerate(names):
        shape = shapes[min(place, len(shapes) - 1)]
        if bound is not None:
            arguments.append(TensorSpec("int64", shape, bound))
        elif place and _MASK.search(name):
            arguments.append(TensorSpec("", shape[:2], fill="ones"))
        elif place and _INTEGERS.search(name):
            arguments.append(TensorSpec("int64", shape[:2], 2))
        else:
            arguments.append(TensorSpec("", shape))
    return tuple(arguments)


def _by_parameters(module: nn.Module, names: Sequence[str]) -> Iterator[Guess]:
    """Nothing but bare parameters: an axis of one may be what the input must have."""
    lengths = dict.fromkeys(
        length for p in module.parameters() if p.ndim > 0 for length in (p.shape[0], p.shape[-1])
    )
    for length in list(lengths)[:4] or [8]:
        for shape in ((_BATCH, length), (length,), (_BATCH, _TOKENS, length)):
            yield Guess(_arguments(names, (shape,), None), "worked out from the shapes of its parameters")


# ---------------------------------------------------------------------- layers

_Found = tuple[str, Sequence[Shapes], "int | None"]
"""What the layer says; shapes to try, each one or more arguments; a bound for integers."""


def _shapes_of(layer: nn.Module) -> _Found | None:
    for kinds, look in _LOOKS:
        if isinstance(layer, kinds):
            return look(layer)
    return None


def _features(layer: Any) -> _Found:
    n = layer.in_features
    return f"in_features={n}", [((_BATCH, n),), ((_BATCH, _TOKENS, n),), ((n,),)], None


def _bilinear(layer: Any) -> _Found:
    one, two = layer.in1_features, layer.in2_features
    return f"in1_features={one}, in2_features={two}", [((_BATCH, one), (_BATCH, two))], None


def _channels(axes: int, sizes: Sequence[int]) -> Callable[[Any], _Found]:
    def look(layer: Any) -> _Found:
        n = layer.in_channels
        shapes = [((_BATCH, n, *[size] * axes),) for size in sizes]
        return f"in_channels={n}", shapes, None

    return look


def _embeddings(layer: Any) -> _Found:
    n = layer.num_embeddings
    return f"num_embeddings={n}", [((_BATCH, _TOKENS),), ((_BATCH,),), ((_BATCH, 1),)], n


def _recurrent(layer: Any) -> _Found:
    n = layer.input_size
    first = (_BATCH, _TOKENS, n) if layer.batch_first else (_TOKENS, _BATCH, n)
    return f"input_size={n}", [(first,), ((_BATCH, n),)], None


def _cell(layer: Any) -> _Found:
    n = layer.input_size
    return f"input_size={n}", [((_BATCH, n),), ((_BATCH, _TOKENS, n),)], None


def _norm(layer: Any) -> _Found:
    shape = tuple(layer.normalized_shape)
    return f"normalized_shape={list(shape)}", [((_BATCH, *shape),), ((_BATCH, _TOKENS, *shape),)], None


def _batch_norm(layer: Any) -> _Found:
    n = layer.num_features
    shapes = [((_BATCH, n, *[size] * axes),) for axes, size in ((0, 0), (1, 32), (2, 32), (3, 8))]
    return f"num_features={n}", shapes, None


def _attention(layer: Any) -> _Found:
    n = layer.embed_dim
    return f"embed_dim={n}", [((_BATCH, _TOKENS, n),)], None


def _encoder_layer(layer: Any) -> _Found:
    n = layer.self_attn.embed_dim
    return f"d_model={n}", [((_BATCH, _TOKENS, n),)], None


def _transformer(layer: Any) -> _Found:
    n = layer.d_model
    return f"d_model={n}", [((_BATCH, _TOKENS, n),)], None


def _lazy(*shape: int) -> Callable[[Any], _Found]:
    def look(_layer: Any) -> _Found:
        return "which takes any size at first", [((_BATCH, *shape),)], None

    return look


_LOOKS: tuple[tuple[Any, Callable[[Any], _Found]], ...] = (
    (nn.LazyLinear, _lazy(16)),
    ((nn.LazyConv1d, nn.LazyConvTranspose1d, nn.LazyBatchNorm1d, nn.LazyInstanceNorm1d), _lazy(3, 32)),
    ((nn.LazyConv2d, nn.LazyConvTranspose2d, nn.LazyBatchNorm2d, nn.LazyInstanceNorm2d), _lazy(3, 32, 32)),
    ((nn.LazyConv3d, nn.LazyConvTranspose3d, nn.LazyBatchNorm3d, nn.LazyInstanceNorm3d), _lazy(3, 8, 32, 32)),
    (nn.Transformer, _transformer),
    ((nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), _encoder_layer),
    (nn.MultiheadAttention, _attention),
    (nn.Bilinear, _bilinear),
    (nn.Linear, _features),
    ((nn.Conv1d, nn.ConvTranspose1d), _channels(1, _LENGTHS)),
    ((nn.Conv2d, nn.ConvTranspose2d), _channels(2, _IMAGE_SIZES)),
    ((nn.Conv3d, nn.ConvTranspose3d), _channels(3, _VOLUMES)),
    ((nn.Embedding, nn.EmbeddingBag), _embeddings),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.LayerNorm, _norm),
    (nn.RMSNorm, _norm),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
)
