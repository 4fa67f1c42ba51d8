"""
What a model may take, by the first layer that says so. Guesses, to be tried in order.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from math import isqrt
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # of batches, also synchronised ones, and of instances

from modelinspect.errors import visible
from modelinspect.live.input_spec import TensorSpec

__all__ = ["Guess", "guesses"]

_BATCH = 2
_IMAGE_SIZES = (32, 28, 64, 96, 128, 224, 299, 256, 512)
_LENGTHS = (32, 128, 1024, 16_000)
_VOLUMES = (16, 32, 64)
_SMALLEST_IMAGE = 4
_TOKENS = 8
_FIRST = 3
"""Layers that are tried whatever their kind."""
Shapes = tuple[tuple[int, ...], ...]
_Found = tuple[str, Sequence[Shapes], "int | None"]
"""What a layer says; shapes to try, each one or more arguments; a bound for integers."""
_Layer = tuple[str, nn.Module, _Found]
"""Its path, itself, and what it says."""


class Guess(NamedTuple):
    """Arguments to try, and what speaks for them."""

    args: tuple[TensorSpec, ...]
    kwargs: dict[str, TensorSpec]
    origin: str


def guesses(module: nn.Module) -> Iterator[Guess]:
    """
    Candidates for an input, the likeliest first.

    Args:
        module: Looked at in the order of registration: the first layer that says what it
            takes is most often the first that runs. After the first three come the first
            ones of other kinds: a head may have been registered before the embedding.
    """
    yield from _kept_size(module)
    takes = _Takes(module)
    layers = [
        (path, layer, found)
        for path, layer in module.named_modules()
        if (found := _shapes_of(layer)) is not None
    ]
    for path, layer, (said, shapes, bound) in _likely(layers):
        where = _where(path, layer, said)
        for several in shapes:
            yield from takes.guesses(several, bound, f"worked out from {where}")
    yield from _by_several_layers(takes, layers)
    yield from _by_parameters(module, takes)


def _where(path: str, layer: nn.Module, said: str) -> str:
    kind = type(layer).__name__
    return f"{visible(path)} ({kind}, {said})" if path else f"{kind} ({said})"


def _likely(layers: Sequence[_Layer]) -> Iterator[_Layer]:
    yield from layers[:_FIRST]
    kinds = {type(layer) for _, layer, _ in layers[:_FIRST]}
    for path, layer, found in layers[_FIRST:]:
        if type(layer) not in kinds:
            kinds.add(type(layer))
            yield path, layer, found


def _kept_size(module: nn.Module) -> Iterator[Guess]:
    """What timm keeps of each of its models."""
    for name in ("pretrained_cfg", "default_cfg"):
        size = (getattr(module, name, None) or {}).get("input_size")
        if isinstance(size, (tuple, list)) and all(isinstance(length, int) for length in size):
            yield Guess((TensorSpec("", (_BATCH, *size)),), {}, f"input_size in {name} of the model")


# ------------------------------------------------------------------- arguments

_INTEGERS = re.compile(r"(^|_)(ids?|tokens?|indices|index|idx)$")
_LABELS = re.compile(r"(^|_)(labels?|targets?|y)$")
_ONE_A_SAMPLE = re.compile(r"^(t|times?|timesteps?|steps?|lengths?|lens?)$|_(timesteps?|lengths?|lens?)$")
_MASK = re.compile(r"mask")


class _Takes:
    """The arguments that a model's forward can't do without; at least one."""

    def __init__(self, module: nn.Module) -> None:
        try:
            parameters = list(inspect.signature(module.forward).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p.name for p in positional if p.default is p.empty]
        by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        if not required and not by_name:
            required = [p.name for p in positional[:1]] or ["input"]
        self.names = [*required, *by_name]
        self._positional = len(required)

    def guess(self, values: Sequence[TensorSpec], origin: str) -> Guess:
        """A value for each argument."""
        count = self._positional
        return Guess(tuple(values[:count]), dict(zip(self.names[count:], values[count:])), origin)

    def guesses(self, shapes: Shapes, bound: int | None, origin: str) -> Iterator[Guess]:
        """
        By the names of the arguments, in the two ways that names can be read; then all alike.

        Args:
            shapes: Of the first arguments; the last of them also for those that are left.
            bound: Of the integers that they are; None: they are floats.
            origin: Said of each guess.
        """
        alike = [shapes[min(place, len(shapes) - 1)] for place in range(len(self.names))]
        plain = [TensorSpec("", s) if bound is None else TensorSpec("int64", s, bound) for s in alike]
        ways = [[value, value] for value in plain]
        for place, name in enumerate(self.names[1:], 1):
            ways[place] = _by_name(name, plain[place]) or ways[place]
        for values in _unique([[way[0] for way in ways], [way[1] for way in ways], plain]):
            yield self.guess(values, origin)


def _unique(candidates: list[list[TensorSpec]]) -> list[list[TensorSpec]]:
    return [values for place, values in enumerate(candidates) if values not in candidates[:place]]


def _by_name(name: str, plain: TensorSpec) -> list[TensorSpec] | None:
    """Two ways to read the name of an argument that is not the first; None where it says nothing."""
    name, short, batch = name.strip("_").lower(), plain.shape[:2], plain.shape[:1]
    if _MASK.search(name):
        return [plain._replace(shape=short, bound=None, fill="ones"), TensorSpec("bool", short, fill="ones")]
    if _ONE_A_SAMPLE.search(name):
        return [TensorSpec("int64", batch, fill="ones"), TensorSpec("", batch)]
    if _LABELS.search(name):
        classes = TensorSpec("int64", batch, 2)
        return [classes, TensorSpec("", (*batch, 1))] if plain.bound is None else [plain, classes]
    if _INTEGERS.search(name) and plain.bound is None:
        return [TensorSpec("int64", short, 2), TensorSpec("int64", batch, 2)]
    return None


def _by_several_layers(takes: _Takes, layers: Sequence[_Layer]) -> Iterator[Guess]:
    """Each of several arguments from a layer of its own, in the order of registration."""
    count = len(takes.names)
    if count < 2 or len(layers) < count:
        return
    values, places = [], []
    for path, layer, (said, shapes, bound) in layers[:count]:
        shape = shapes[0][0]
        values.append(TensorSpec("", shape) if bound is None else TensorSpec("int64", shape, bound))
        places.append(_where(path, layer, said))
    yield takes.guess(values, f"worked out from {' and '.join(places)}")


def _by_parameters(module: nn.Module, takes: _Takes) -> Iterator[Guess]:
    """By bare parameters, those of no layer: an axis of one may be what the input must have."""
    bare = [
        p for part in module.modules() if _shapes_of(part) is None for p in part.parameters(recurse=False)
    ]
    known = any(_shapes_of(part) is not None for part in module.modules())
    lengths = dict.fromkeys(length for p in bare if p.ndim > 0 for length in (p.shape[0], p.shape[-1]))
    for length in list(lengths)[:4] or ([] if known else [8]):
        for shape in ((_BATCH, length), (length,), (_BATCH, _TOKENS, length)):
            yield from takes.guesses((shape,), None, "worked out from the shapes of its parameters")


# ---------------------------------------------------------------------- layers


def _shapes_of(layer: nn.Module) -> _Found | None:
    for kinds, look in _LOOKS:
        if isinstance(layer, kinds):
            return look(layer)
    return None


def _features(layer: Any) -> _Found:
    n = layer.in_features
    images = [((_BATCH, *image),) for image in _images_of(n)]
    return f"in_features={n}", [((_BATCH, n),), ((_BATCH, _TOKENS, n),), ((n,),), *images], None


def _images_of(pixels: int) -> list[tuple[int, int, int]]:
    """Square images, grey or coloured, that are flattened to so many numbers."""
    sides = ((channels, isqrt(pixels // channels)) for channels in (1, 3))
    return [(c, side, side) for c, side in sides if side >= _SMALLEST_IMAGE and c * side * side == pixels]


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
    n = getattr(layer, "num_features", None) or layer.num_channels
    shapes = [((_BATCH, n, *[size] * axes),) for axes, size in ((0, 0), (1, 32), (2, 32), (3, 8))]
    said = "num_channels" if isinstance(layer, nn.GroupNorm) else "num_features"
    return f"{said}={n}", shapes, None


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
    ((_NormBase, nn.GroupNorm), _batch_norm),
)
