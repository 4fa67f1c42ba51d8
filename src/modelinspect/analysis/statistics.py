"""
Summaries of values: range, mean, standard deviation, NaN and infinity.

Nothing larger than a chunk is held. Types of at most 16 bits are counted by their
bit patterns: one histogram says everything, whatever the size of the tensor. Of
others each chunk's moments are merged into those of the whole (Chan, Golub and
LeVeque 1979), with the spread as a root, so that no square runs over or under.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import frexp, hypot, ldexp, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelinspect.analysis.summary import ValueSummary
from modelinspect.errors import ModelInspectError
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.tensors import ParameterTable, Storage, TensorInfo, TieKey
from modelinspect.values import (
    ReadFunction,
    has_number_table,
    iter_chunks,
    iter_stored,
    number_table,
    read_values,
)

__all__ = [
    "SMALL",
    "Moments",
    "Progress",
    "ValueSummary",
    "moments_of",
    "moments_of_counts",
    "summarise",
    "summarise_all",
    "summarise_files",
    "without_figures",
]

SMALL = 20
"""Values of a tensor that is shown in full."""
Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
Array = npt.NDArray[Any]


class Moments(NamedTuple):
    """
    Figures of some values; those of two parts merge into those of the whole.
    """

    finite: int = 0
    """Finite values."""
    minimum: int | float | None = None
    maximum: int | float | None = None
    mean: float = 0.0
    spread: float = 0.0
    """Population standard deviation."""
    zeros: int = 0
    nans: int = 0
    infinities: int = 0

    def merged(self, other: Moments) -> Moments:
        """The figures of both together."""
        zeros, nans = self.zeros + other.zeros, self.nans + other.nans
        infinities = self.infinities + other.infinities
        if not self.finite or not other.finite:
            some = self if self.finite else other
            return some._replace(zeros=zeros, nans=nans, infinities=infinities)
        finite = self.finite + other.finite
        mine, its = self.finite / finite, other.finite / finite
        # Half the difference twice: the whole may be more than a float can hold.
        apart = (other.mean / 2 - self.mean / 2) * (2 * sqrt(mine * its))
        return Moments(
            finite,
            _least(self.minimum, other.minimum),
            _most(self.maximum, other.maximum),
            self.mean * mine + other.mean * its,
            hypot(self.spread * sqrt(mine), other.spread * sqrt(its), apart),
            zeros,
            nans,
            infinities,
        )


def _sample_deviation(moments: Moments, times: int) -> float | None:
    """As ``tensor.std()``: divided by n - 1; None of a single value. All was seen once of *times*."""
    n = moments.finite * times
    return moments.spread * sqrt(n / (n - 1)) if n > 1 else None


def _least(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else min(a, b)


def _most(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)


def moments_of(values: Array) -> Moments:
    """
    The figures of an array; of complex numbers only the counts.
    """
    zeros = int(np.count_nonzero(values == 0))
    if values.dtype.kind == "c":
        nans = int(np.count_nonzero(np.isnan(values)))
        finite = int(np.count_nonzero(np.isfinite(values)))
        return Moments(finite, None, None, 0.0, 0.0, zeros, nans, values.size - finite - nans)
    nans = infinities = 0
    # NaN and infinity show in the sum of the ends; most tensors have none.
    if values.dtype.kind == "f" and values.size and not np.isfinite([values.min(), values.max()]).all():
        nans = int(np.count_nonzero(np.isnan(values)))
        infinities = int(np.count_nonzero(np.isinf(values)))
        values = values[np.isfinite(values)]
    if not values.size:
        return Moments(zeros=zeros, nans=nans, infinities=infinities)
    low, high = values.min().item(), values.max().item()
    mean, spread = _mean_and_spread(values.astype(np.float64), max(abs(low), abs(high)))
    return Moments(values.size, low, high, mean, spread, zeros, nans, infinities)


def _mean_and_spread(values: npt.NDArray[np.float64], largest: float) -> tuple[float, float]:
    """
    Of a fresh array, which is overwritten; *largest* is the largest magnitude in it.
    """
    _, exponent = frexp(largest)
    # Squares, and sums of very large numbers, need room: bring the largest to about 1.
    scale = exponent if abs(exponent) > 400 else 0
    if scale:
        np.ldexp(values, -scale, out=values)
    mean = float(values.mean())
    values -= mean
    return ldexp(mean, scale), ldexp(sqrt(float(np.dot(values, values)) / values.size), scale)


def moments_of_counts(values: Array, counts: Array) -> Moments:
    """
    The figures of values that occur so many times each. Values have at most 16 bits.
    """
    occurs = counts > 0
    values, counts = values[occurs], counts[occurs]
    finite = np.isfinite(values)
    nans = int(counts[np.isnan(values)].sum())
    infinities = int(counts[~finite].sum()) - nans
    values, counts = values[finite], counts[finite]
    total = int(counts.sum())
    if not total:
        return Moments(nans=nans, infinities=infinities)
    numbers = values.astype(np.float64)
    mean = float(np.dot(numbers, counts) / total)
    spread = sqrt(float(np.dot((numbers - mean) ** 2, counts)) / total)
    low, high = values.min().item(), values.max().item()
    return Moments(total, low, high, mean, spread, int(counts[values == 0].sum()), nans, infinities)


def _histogram(tensor: TensorInfo, read: ReadFunction) -> Moments:
    bits = tensor.dtype.bits
    counts = np.zeros(2**bits, np.int64)
    for stored in iter_stored(tensor, read):
        patterns = stored.view(np.uint16 if bits > 8 else np.uint8)
        counts += np.bincount(patterns, minlength=2**bits)
    values = number_table(tensor.dtype)
    # A byte of two numbers counts for both.
    return moments_of_counts(values.reshape(-1), np.repeat(counts, values.size // counts.size))


def summarise(tensor: TensorInfo, read: ReadFunction, *, small: int = SMALL) -> ValueSummary:
    """
    Read a tensor's values and say what they look like.

    Args:
        tensor: Any row; what holds no values of its own gets a reason instead of figures.
            Of sparse and quantized tensors the stored values are taken.
        read: Where its bytes come from.
        small: Up to so many values are also given in full.

    Raises:
        ModelInspectError: The bytes can't be read.
    """
    if tensor.quantized is not None and tensor.layout == "strided":
        packed = summarise(tensor._replace(quantized=None), read, small=small)
        return (
            packed
            if packed.reason
            else replace(packed, reason="the numbers that are stored, not what they stand for")
        )
    part = _summarised_part(tensor)
    if part is not tensor:
        return _of_part(tensor, part, summarise(part, read, small=small))
    numel, category = tensor.logical_numel, tensor.dtype.category
    pieces = _pieces(tensor)
    reason = next(filter(None, map(_no_figures, pieces)), "")
    if reason:
        return without_figures(numel, reason)
    if numel == 0:
        return without_figures(0, "")
    values = read_values(tensor, read).tolist() if numel <= small and pieces[0] is tensor else None
    moments = _moments(pieces, read)
    # A chunk holds what an expanded axis repeats only once.
    seen = moments.finite + moments.nans + moments.infinities
    times = numel // seen
    known = bool(moments.finite) and category != "complex"
    whole = category in ("bool", "integer", "quantized") and tensor.dtype.block == 1
    return ValueSummary(
        numel,
        int(moments.minimum) if known and whole and moments.minimum is not None else moments.minimum,
        int(moments.maximum) if known and whole and moments.maximum is not None else moments.maximum,
        moments.mean if known else None,
        _sample_deviation(moments, times) if known else None,
        moments.zeros * times,
        moments.nans * times,
        moments.infinities * times,
        values,
        _remark(tensor),
    )


def _pieces(tensor: TensorInfo) -> tuple[TensorInfo, ...]:
    """What a distributed tensor was saved as; of any other the tensor itself."""
    return tensor.parts if tensor.placement and tensor.parts else (tensor,)


def _moments(pieces: Iterable[TensorInfo], read: ReadFunction) -> Moments:
    moments = Moments()
    for piece in pieces:
        if has_number_table(piece.dtype):
            moments = moments.merged(_histogram(piece, read))
        elif piece.numel:
            for chunk in iter_chunks(piece, read):
                moments = moments.merged(moments_of(chunk))
    return moments


def without_figures(numel: int, reason: str) -> ValueSummary:
    """A summary that says only why there is none."""
    return ValueSummary(numel, None, None, None, None, 0, 0, 0, None, reason)


def _summarised_part(tensor: TensorInfo) -> TensorInfo:
    """The part of a composite that its figures are of; the tensor itself where there is none."""
    wanted = (
        "data" if tensor.layout == "quantized" else "values" if tensor.layout.startswith("sparse") else ""
    )
    return next((part for part in tensor.parts if part.name == wanted), tensor)


def _of_part(tensor: TensorInfo, part: TensorInfo, summary: ValueSummary) -> ValueSummary:
    if tensor.layout == "quantized":
        return summary
    said = f"of its {part.logical_numel:,} stored values; all others are zero"
    return replace(summary, values=None, reason="; ".join(filter(None, (summary.reason, said))))


def _no_figures(tensor: TensorInfo) -> str:
    if tensor.layout == "uninitialized":
        return "not initialised yet"
    if tensor.layout not in ("strided", "quantized"):
        where = "are stored in parts" if tensor.parts else "can't be read as they lie"
        return f"{tensor.class_name or tensor.layout}: its values {where}"
    if tensor.storage is None or tensor.storage.device == "meta":
        return "on the meta device, without values"
    return "bit patterns, not numbers" if tensor.dtype.category == "bits" else ""


def _remark(tensor: TensorInfo) -> str:
    """What a reader of the figures should know."""
    category = tensor.dtype.category
    if category == "complex":
        return "complex numbers have no order"
    if tensor.dtype.name == "nvfp4":
        return "without the scale that may stand in a tensor beside it"
    if category == "quantized" and tensor.dtype.block == 1:
        return "the integers that are stored, not what they stand for"
    if tensor.dtype.bits == 6:
        return "the format does not say how six bits lie in bytes; the lowest are taken first"
    return ""


def summarise_all(
    tensors: Iterable[TensorInfo],
    read: ReadFunction,
    *,
    small: int = SMALL,
    progress: Progress | None = None,
) -> dict[str, ValueSummary]:
    """
    Summaries by name. Tied tensors are read once; what can't be read says why.

    Args:
        tensors: The rows.
        read: Where their bytes come from.
        small: Up to so many values are also given in full.
        progress: Told of the bytes done, after each chunk.
    """
    rows = list(tensors)
    if progress is not None:
        read = _told(read, progress, _bytes_to_read(rows))
    known: dict[TieKey, ValueSummary] = {}
    found: dict[str, ValueSummary] = {}
    for tensor in rows:
        key = tensor.tie_key
        summary = known.get(key) if key is not None else None
        if summary is None:
            summary = _summary_or_reason(tensor, read, small)
        if key is not None:
            known[key] = summary
        found[tensor.name] = summary
    return found


def _summary_or_reason(tensor: TensorInfo, read: ReadFunction, small: int) -> ValueSummary:
    try:
        return summarise(tensor, read, small=small)
    except ModelInspectError as error:
        return without_figures(tensor.logical_numel, "; ".join((error.message, *error.details)))


def _bytes_to_read(rows: Iterable[TensorInfo]) -> int:
    parts = (piece for row in rows for piece in _pieces(_summarised_part(row)))
    spans = {part.tie_key: part.span[1] for part in parts if not _no_figures(part)}
    return sum(spans.values())


def _told(read: ReadFunction, progress: Progress, total: int) -> ReadFunction:
    done = 0

    def counted(storage: Storage, first: int, n: int) -> bytes | memoryview:
        nonlocal done
        data = read(storage, first, n)
        # Small tensors are read twice, and gaps may be skipped or not.
        done = min(total, done + n)
        progress(done, total)
        return data

    return counted


def summarise_files(
    table: ParameterTable,
    tensors: Iterable[TensorInfo] | None = None,
    *,
    small: int = SMALL,
    progress: Progress | None = None,
) -> Mapping[str, ValueSummary]:
    """
    Summaries of a checkpoint's tensors by name, read from its files.

    Args:
        table: Of a checkpoint.
        tensors: Some of its rows; None is all.
        small: Up to so many values are also given in full.
        progress: Told of the bytes done, after each chunk.
    """
    rows = table.tensors if tensors is None else tensors
    with StorageReader() as reader:
        return summarise_all(rows, reader.read, small=small, progress=progress)
