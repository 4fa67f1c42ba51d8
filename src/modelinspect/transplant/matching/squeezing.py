"""
Convolutions over one point: matrices with axes of length 1 behind them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from modelinspect.tensors import TensorInfo

__all__ = ["squeezed_rows"]

Shape = tuple[int, ...]


def squeezed_rows(
    source: Sequence[TensorInfo], target: Sequence[TensorInfo]
) -> tuple[list[TensorInfo], list[TensorInfo], dict[str, Shape], dict[str, Shape]]:
    """
    Rows of both sides with such matrices as matrices, if the two sides keep them differently.

    Returns:
        The rows of each side, and the shapes that tensors have in truth, by name.
    """
    kept = [
        Counter(row.shape for row in rows if _matrix(row.shape) != row.shape) for rows in (source, target)
    ]
    if kept[0] == kept[1]:
        return list(source), list(target), {}, {}
    return _squeezed(source), _squeezed(target), _true_shapes(source), _true_shapes(target)


def _squeezed(rows: Sequence[TensorInfo]) -> list[TensorInfo]:
    return [
        row
        if _matrix(row.shape) == row.shape
        else row._replace(shape=_matrix(row.shape), explicit_stride=None)
        for row in rows
    ]


def _true_shapes(rows: Sequence[TensorInfo]) -> dict[str, Shape]:
    return {row.name: row.shape for row in rows if _matrix(row.shape) != row.shape}


def _matrix(shape: Shape) -> Shape:
    """(out, in, 1, 1) as (out, in)."""
    return shape[:2] if len(shape) > 2 and set(shape[2:]) == {1} and 1 not in shape[:2] else shape
