"""
Tensors that are transformed on their way from file to file, one at a time, through numpy.

Where elements only move they are raw unsigned integers of their width. Where numbers are
needed (``add``, another data type) they are decoded, and encoded again by rounding to the
nearest, ties to even, as torch does.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from modelinspect.dtypes import DType
from modelinspect.errors import LimitError, UsageError, visible
from modelinspect.tensors import TensorInfo
from modelinspect.transplant.jobs import FLOATS, Made
from modelinspect.transplant.transforms import apply_steps
from modelinspect.values import ReadFunction, decode

__all__ = ["converted", "encode", "made"]

Array: TypeAlias = npt.NDArray[Any]

_BLOCK_BYTES = 1 << 22
"""Of the result that are in memory beside the array that they are a view of."""
_MOST_WORKERS = 4
"""Parts of a tensor that are worked on at a time."""
_TILE = 64
"""Elements along both sides of the squares in which arrays are transposed."""
_RAW = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "V16"}
_MAX_AXES = 32


def made(part: Made, read: ReadFunction) -> Iterator[memoryview]:
    """
    The bytes of a computed tensor, in blocks: contiguous and little-endian.

    Args:
        part: Sources and steps.
        read: Gives bytes of a storage.

    Raises:
        UsageError: The steps need numbers, and the elements are none.
    """
    if part.needs_numbers:
        yield from _in_order(
            lambda view: _bytes_of(encode(_compact(view), part.written)), _computed(part, read)
        )
    elif part.written is part.stored:
        yield from _in_order(lambda view: _bytes_of(_compact(view)), _moved(part, read))
    else:
        convert = partial(converted, stored=part.stored, written=part.written)
        yield from _in_order(lambda view: convert(_bytes_of(_compact(view))), _moved(part, read))


def converted(raw: bytes | memoryview, stored: DType, written: DType) -> memoryview:
    """
    Little-endian elements as those of another data type.
    """
    count = len(raw) // stored.itemsize
    return _bytes_of(encode(decode(raw, stored, count), written))


# ------------------------------------------------------------------------ one tensor


def _moved(part: Made, read: ReadFunction) -> Array:
    raw = np.dtype(_RAW[part.stored.itemsize])
    arrays = [
        apply_steps([np.empty((), raw) if row is None else _raw(row, read)], steps, np)
        for row, steps in part.pieces
    ]
    result: Array = apply_steps(arrays, part.steps, np)
    return result


def _computed(part: Made, read: ReadFunction) -> Array:
    numbers = [None if row is None else _numbers(row, read) for row, _ in part.pieces]
    wide = np.result_type(*(array for array in numbers if array is not None))
    try:
        with np.errstate(all="ignore"):
            arrays = [
                apply_steps([np.empty((), wide) if array is None else array], steps, np)
                for array, (_, steps) in zip(numbers, part.pieces)
            ]
            result: Array = apply_steps(arrays, part.steps, np)
    except OverflowError as error:
        raise UsageError(f"a number does not fit {part.stored.name}: {error}") from error
    return result


def _raw(row: TensorInfo, read: ReadFunction) -> Array:
    """A tensor in its shape, elements as unsigned integers in little-endian order."""
    assert row.storage is not None
    if len(row.shape) > _MAX_AXES:
        raise LimitError(f"{visible(row.name)!r} has {len(row.shape)} axes; limit: {_MAX_AXES}")
    first, length = row.span
    itemsize = row.dtype.itemsize
    flat = np.frombuffer(read(row.storage, first, length) if length else b"", np.uint8)
    if row.storage.byteorder == "big" and itemsize > 1:
        number = itemsize // 2 if row.dtype.category == "complex" else itemsize
        flat = np.ascontiguousarray(flat.reshape(-1, number)[:, ::-1]).reshape(-1)
    elements = flat.view(_RAW[itemsize])
    if 0 in row.shape:
        return elements[:0].reshape(row.shape)
    strides = [step * itemsize for step in row.stride]
    array = np.lib.stride_tricks.as_strided(elements, row.shape, strides, writeable=False)
    return array if row.layout == "strided" else _resolved(array, row)


def _resolved(array: Array, row: TensorInfo) -> Array:
    """What a view that torch conjugates or negates stands for: signs turned round."""
    if row.dtype.category not in ("float", "complex"):
        raise UsageError(f"{visible(row.name)!r} is to be negated, and is of {row.dtype.name}")
    width = row.dtype.itemsize // (2 if row.dtype.category == "complex" else 1)
    parts = np.array(array).reshape(*array.shape, 1).view(np.dtype("<u1")).reshape(*array.shape, -1, width)
    # The sign is the highest bit of the last byte.
    which = slice(1, None) if row.layout == "conjugate" else slice(None)
    parts[..., which, width - 1] ^= 0x80
    return np.ascontiguousarray(parts).reshape(-1).view(array.dtype).reshape(array.shape)


def _numbers(row: TensorInfo, read: ReadFunction) -> Array:
    """A tensor as numbers wide enough to count in, in its shape."""
    if row.dtype.category in ("bool", "bits") or (
        row.dtype.category == "float" and row.dtype.name not in FLOATS
    ):
        raise UsageError(f"{visible(row.name)!r} is of {row.dtype.name}, which nothing can be added to")
    raw = np.ascontiguousarray(_raw(row, read))
    numbers = decode(_bytes_of(raw), row.dtype, raw.size).reshape(raw.shape)
    return numbers.astype(np.float32) if numbers.dtype == np.float16 else numbers


def _in_order(work: Callable[[Array], memoryview], array: Array) -> Iterator[memoryview]:
    """
    What is made of each part of an array, in their order; several are at work at a time.
    """
    if array.nbytes <= 2 * _BLOCK_BYTES:
        yield from map(work, _views(array))
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    waiting: deque[Future[memoryview]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for view in _views(array):
            waiting.append(pool.submit(work, view))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _views(array: Array) -> Iterator[Array]:
    """Parts of an array in the order of its elements, of few bytes each."""
    if array.nbytes <= _BLOCK_BYTES:
        yield array
        return
    if array.flags.c_contiguous:
        array = array.reshape(-1)
    rows = _BLOCK_BYTES // (array.nbytes // array.shape[0])
    if not rows:
        for inner in array:
            yield from _views(inner)
        return
    for start in range(0, array.shape[0], rows):
        yield array[start : start + rows]


def _compact(array: Array) -> Array:
    """
    A contiguous copy; of a transposed array in tiles, whose lines stay in the processor's cache.
    """
    lengths, steps, last = array.shape, array.strides, array.ndim - 1
    if array.size < _TILE * _TILE or array.flags.c_contiguous:
        return np.ascontiguousarray(array)
    near = min((axis for axis in range(array.ndim) if lengths[axis] > 1), key=lambda axis: abs(steps[axis]))
    if near == last or lengths[near] * lengths[last] < _TILE * _TILE:
        return np.ascontiguousarray(array)
    copy = np.empty(lengths, array.dtype)
    sizes = [_TILE if axis in (near, last) else 1 for axis in range(array.ndim)]
    axes = [[slice(at, at + size) for at in range(0, n, size)] for n, size in zip(lengths, sizes)]
    for place in product(*axes):
        copy[place] = array[place]
    return copy


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


# ----------------------------------------------------------------------- one element


class _Small(NamedTuple):
    """A float of eight bits: what rounding to it needs to know."""

    mantissa: int
    least: int
    """Exponent of the smallest normal number."""
    most: int
    """Pattern of the largest number."""
    beyond: int
    """Pattern of what is larger."""
    nan: int
    has_minus_zero: bool = True


# Sources: as for values._SmallFloat. What is too large, infinity included, becomes what torch 2.13
# makes of it: the largest number of float8_e4m3fn (older versions: NaN), infinity or NaN of others.
_SMALL = {
    "float8_e4m3fn": _Small(3, -6, 0x7E, 0x7E, 0x7F),
    "float8_e5m2": _Small(2, -14, 0x7B, 0x7C, 0x7F),
    "float8_e4m3fnuz": _Small(3, -7, 0x7F, 0x80, 0x80, has_minus_zero=False),
    "float8_e5m2fnuz": _Small(2, -15, 0x7F, 0x80, 0x80, has_minus_zero=False),
}
_NUMPY = {"float64": "<f8", "float32": "<f4", "float16": "<f2"}


def encode(numbers: Array, dtype: DType) -> Array:
    """
    Numbers as elements of a data type, raw and little-endian.

    Like torch, double precision goes to what is smaller than float32 by way of float32.
    Whole numbers and complex ones stay of their own type.
    """
    if dtype.name not in FLOATS:
        if dtype.name == "complex32":
            return np.ascontiguousarray(numbers).view(np.float32).astype("<f2")
        return numbers.astype(np.dtype(dtype.name).newbyteorder("<"), copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype.name == "float64":
            return numbers.astype("<f8", copy=False)
        single = numbers.astype(np.float32, copy=False)
        if dtype.name in _NUMPY:
            return single.astype(_NUMPY[dtype.name], copy=False)
    if dtype.name == "bfloat16":
        return _bfloat16(single)
    return _small(single, dtype)


def _bfloat16(numbers: Array) -> Array:
    """The upper halves of float32, rounded; NaN is the one that torch makes."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    upper = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2")
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), upper).astype("<u2", copy=False)


def _small(numbers: Array, dtype: DType) -> Array:
    """
    Floats of eight bits, looked up by the upper half of float32.

    The bits below are told by the lowest of the upper half: it lies at least two places
    under the last that is kept, so that no tie is made or broken.
    """
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    upper = (bits >> np.uint32(16)).astype(np.uint16)
    upper |= (bits & np.uint32(0xFFFF)) != 0
    return _small_table(dtype.name)[upper]


@cache
def _small_table(name: str) -> Array:
    """
    What each upper half of a float32 becomes. Patterns of positive numbers count up as the
    numbers do, so a number is its exponent's first pattern and so many steps.
    """
    kind = _SMALL[name]
    numbers = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    finite = np.isfinite(numbers)
    magnitude = np.where(finite, np.abs(numbers), 0)
    exponent = np.where(magnitude == 0, kind.least, np.maximum(np.frexp(magnitude)[1] - 1, kind.least))
    # rint rounds ties to even; a step up into the next exponent comes out right by itself.
    steps = np.rint(np.ldexp(magnitude, kind.mantissa - exponent)).astype(np.int64)
    pattern = steps + ((exponent - kind.least) << kind.mantissa)
    pattern = np.where(finite & (pattern <= kind.most), pattern, kind.beyond)
    pattern = np.where(np.isnan(numbers), kind.nan, pattern)
    is_signed = np.signbit(numbers) if kind.has_minus_zero else (numbers < 0) & (pattern != 0)
    return (pattern | np.where(is_signed, 0x80, 0)).astype(np.uint8)
