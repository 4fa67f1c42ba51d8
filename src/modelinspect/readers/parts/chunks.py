"""
Tensors that were saved in chunks, each a piece of the whole along some axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from modelinspect.tensors import TensorInfo

__all__ = ["Shape", "chunked_row", "span_of"]

Shape = tuple[int, ...]


def span_of(offsets: Shape, sizes: Shape) -> str:
    """
    A piece as one would index it.

    >>> span_of((4, 0), (4, 16))
    '[4:8, 0:16]'
    """
    return "[" + ", ".join(f"{first}:{first + n}" for first, n in zip(offsets, sizes)) + "]"


def chunked_row(name: str, size: Shape, parts: Sequence[TensorInfo], offsets: Sequence[Shape]) -> TensorInfo:
    """
    The row of a whole tensor from its pieces; of a single one, that row itself.

    Args:
        name: Of the tensor.
        size: Its shape.
        parts: Its pieces, each named by its span.
        offsets: Where each begins along each axis.
    """
    first = parts[0]
    if len(parts) == 1 and first.shape == size:
        return first._replace(name=name)
    ordered = [part for _, part in sorted(zip(offsets, parts), key=lambda pair: pair[0])]
    return TensorInfo(
        name, first.dtype, size, None, layout="chunked", parts=tuple(ordered), placement=_placement(offsets)
    )


def _placement(offsets: Sequence[Shape]) -> str:
    """
    How a tensor was cut, where its pieces make a grid.

    >>> _placement([(0, 0), (4, 0)])
    '2 chunks, Shard(dim=0)'
    """
    several = f"{len(offsets)} chunk" + ("s" if len(offsets) != 1 else "")
    cuts = [len(set(along)) for along in zip(*offsets)]
    axes = [axis for axis, n in enumerate(cuts) if n > 1]
    if not axes or prod(cuts) != len(offsets):
        return several
    return f"{several}, " + ", ".join(f"Shard(dim={axis})" for axis in axes)
