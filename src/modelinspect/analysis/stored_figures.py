"""
Figures of tensors that lie in files: norms, largest entry, zeros, NaN, in float64.

A chunk is in memory at a time; of a sparse tensor what it stores.
"""

from __future__ import annotations

from math import inf, isfinite, nan, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelinspect.analysis.gradients import Figures, combined
from modelinspect.errors import DamagedFileError, visible
from modelinspect.tensors import TensorInfo
from modelinspect.values import ReadFunction, iter_chunks, read_values

__all__ = ["Squares", "figures_of_factors", "figures_of_stored", "number_in", "scaled", "why_unreadable"]

Array = npt.NDArray[Any]
_SMALLEST, _LARGEST = 1e-140, 1e140
"""Between these the square of a float64 neither underflows nor overflows, summed up a chunk long."""


class Squares(NamedTuple):
    """Elements that are means of squares, or sums of them."""

    start: float = 0.0
    """What each held before the first step; it is taken away."""
    steps: float = 1.0
    """By how much each is divided."""


def why_unreadable(tensor: TensorInfo) -> str | None:
    """
    Why a tensor has no figures, as a part of a sentence; None where it has some.
    """
    if tensor.dtype.category not in ("float", "complex"):
        return f"{tensor.dtype}, no floating-point numbers"
    if tensor.layout.startswith("sparse"):
        parts = {part.name: part for part in tensor.parts}
        if "values" in parts and all(part.is_contiguous for part in tensor.parts):
            return why_unreadable(parts["values"])
    if tensor.layout not in ("strided", "conjugate", "negative"):
        return f"stored as {tensor.class_name or tensor.layout}"
    if tensor.storage is None or tensor.device == "meta":
        return "without values"
    return None


def figures_of_stored(tensor: TensorInfo, read: ReadFunction, *, squares: Squares | None = None) -> Figures:
    """
    Figures of one tensor.

    Args:
        tensor: One that :func:`why_unreadable` has nothing to say of.
        read: Where its bytes come from.
        squares: Take the root of each element first. Of a complex one that is the root
            of real plus imaginary part, each of which is the square of its kind.

    Raises:
        ModelInspectError: The bytes can't be read.
    """
    if tensor.layout.startswith("sparse"):
        chunks = iter([_sparse_values(tensor, read)])
    else:
        chunks = iter_chunks(tensor, read)
    with np.errstate(all="ignore"):
        parts = [_figures(_magnitudes(chunk, squares)) for chunk in chunks if chunk.size]
    whole = combined(parts)
    if whole is None:
        return Figures(tensor.numel, 0.0, 0.0, 0.0, tensor.numel)
    if tensor.layout.startswith("sparse"):
        return whole._replace(numel=tensor.numel, zeros=whole.zeros + max(0, tensor.numel - whole.numel))
    # A chunk holds what an expanded axis repeats only once.
    times = tensor.numel // whole.numel
    return whole._replace(
        numel=tensor.numel,
        l1=whole.l1 * times,
        l2=whole.l2 * sqrt(times),
        zeros=whole.zeros * times,
        nans=whole.nans * times,
        infinities=whole.infinities * times,
    )


def figures_of_factors(row: TensorInfo, column: TensorInfo, read: ReadFunction) -> Figures:
    """
    Figures of the roots of ``row × column / mean(row)``: squares as Adafactor keeps them.

    Args:
        row: Means over the last axis, shape (..., rows).
        column: Means over the one before it, shape (..., columns).
        read: Where their bytes come from.
    """
    down, across = (
        read_values(part, read).astype(np.float64).reshape(-1, part.shape[-1]) for part in (row, column)
    )
    with np.errstate(all="ignore"):
        mean = down.mean(axis=1, keepdims=True)
        down = np.sqrt(np.divide(down, mean, out=np.zeros_like(down), where=mean != 0))
        across = np.sqrt(across)
    return combined([_figures_of_product(*pair) for pair in zip(down, across)]) or Figures(
        0, 0.0, 0.0, 0.0, 0
    )


def _figures_of_product(down: npt.NDArray[np.float64], across: npt.NDArray[np.float64]) -> Figures:
    """Of the matrix of all products, from those of its factors."""
    if not down.size or not across.size:
        return Figures(0, 0.0, 0.0, 0.0, 0)
    first, second = _figures(down), _figures(across)

    def hit(n: int, m: int) -> int:
        """Entries in one of *n* rows or one of *m* columns."""
        return n * across.size + m * down.size - n * m

    return Figures(
        down.size * across.size,
        first.l1 * second.l1,
        first.l2 * second.l2,
        first.largest * second.largest,
        hit(first.zeros, second.zeros),
        hit(first.nans, second.nans),
        hit(first.infinities, second.infinities),
    )


def scaled(figures: Figures, factor: float) -> Figures:
    """
    Figures of the gradient times a positive number.
    """
    return figures._replace(l1=figures.l1 * factor, l2=figures.l2 * factor, largest=figures.largest * factor)


def number_in(tensor: TensorInfo, read: ReadFunction) -> float | None:
    """
    The number in a tensor of one element, such as the steps of an optimizer; None in any other.
    """
    if tensor.numel != 1 or tensor.dtype.category not in ("float", "integer") or tensor.parts:
        return None
    if tensor.storage is None or tensor.layout != "strided" or tensor.device == "meta":
        return None
    return float(read_values(tensor, read).reshape(-1)[0])


def _magnitudes(values: Array, squares: Squares | None) -> npt.NDArray[np.float64]:
    is_complex = values.dtype.kind == "c"
    if squares is None:
        wide = values.astype(np.complex128 if is_complex else np.float64)
        return np.abs(wide)
    real = values.real.astype(np.float64) - squares.start
    if is_complex:
        real += values.imag.astype(np.float64) - squares.start
    magnitudes: npt.NDArray[np.float64] = np.sqrt(real / squares.steps)
    return magnitudes


def _figures(values: npt.NDArray[np.float64]) -> Figures:
    """Of a chunk of magnitudes that is not empty."""
    largest = float(values.max())
    zeros = int(values.size - np.count_nonzero(values))
    if not isfinite(largest):
        nans, infinities = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        norm = nan if nans else inf
        return Figures(values.size, norm, norm, norm, zeros, nans, infinities)
    scale = 1.0 if _SMALLEST < largest < _LARGEST else largest or 1.0
    part = values / scale if scale != 1.0 else values
    l2 = sqrt(float(np.dot(part, part))) * scale
    return Figures(values.size, float(values.sum()), l2, largest, zeros)


def _sparse_values(tensor: TensorInfo, read: ReadFunction) -> Array:
    """What is stored of a sparse tensor, values of one index added up."""
    parts = {part.name: part for part in tensor.parts}
    values = read_values(parts["values"], read)
    indices = parts.get("indices")
    if indices is None or not values.size:
        return values.reshape(-1)
    places = read_values(indices, read)
    if places.ndim != 2 or not places.size or places.shape[1:] != values.shape[:1]:
        raise DamagedFileError(
            f"{visible(tensor.name)!r} is damaged",
            details=(f"its values have shape {values.shape}, its indices {places.shape}",),
        )
    order = np.lexsort(places)
    places, values = places[:, order], values[order]
    is_new = np.append(True, (places[:, 1:] != places[:, :-1]).any(axis=0))
    wide = np.complex128 if values.dtype.kind == "c" else np.float64
    added: Array = np.add.reduceat(values.astype(wide), np.flatnonzero(is_new), axis=0)
    return added.reshape(-1)
