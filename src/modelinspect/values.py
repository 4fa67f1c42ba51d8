"""
Raw bytes to numpy arrays, for every data type: the one place that knows how.

Types that numpy lacks come as float32, which holds each of their values exactly;
quantized integers come as the integers that are stored, without scale and zero
point; ``bits`` types as unsigned patterns. A number of fewer than eight bits lies
in the lowest free bits of its byte: so torch writes ``quint4x2``, ``quint2x4`` and
``float4_e2m1fn_x2``. safetensors prescribes no order for its F4, F6_E2M3 and
F6_E3M2 (README of safetensors 0.8), and the same is assumed. Blocks of GGUF come as the
float32 that they stand for, scales included.

Where bytes come from is not known here: every function is given a
:data:`ReadFunction`, and asks it for no more than a chunk at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import inf, lcm, ldexp, nan, prod
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from modelinspect.dtypes import DTYPES, FURTHER, DType
from modelinspect.errors import CheckpointError, DamagedFileError, LimitError, visible
from modelinspect.tensors import Storage, TensorInfo, contiguous_stride

__all__ = [
    "CHUNK_ELEMENTS",
    "MAX_OVERLAPPING",
    "ReadFunction",
    "decode",
    "has_number_table",
    "iter_chunks",
    "iter_stored",
    "number_table",
    "read_values",
]

Array: TypeAlias = npt.NDArray[Any]
ByteOrder = Literal["little", "big"]
ReadFunction = Callable[[Storage, int, int], "bytes | memoryview"]
"""Given a storage, its first byte wanted and their number: exactly those bytes."""

CHUNK_ELEMENTS = 2**18
"""Elements read at a time: few enough to stay in a processor's cache."""
MAX_OVERLAPPING = 2**24
"""Elements that a tensor may have whose elements overlap in its storage."""
_FEW = 64
"""Elements that are read one by one where they lie far apart."""
_MAX_AXES = 32
"""Axes that every numpy can hold (numpy 1; later ones hold 64)."""

# What is stored, in numpy's spelling. Types of fewer than eight bits are unpacked first.
_STORED = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "u2",
    "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1",
    "uint64": "u8", "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "u1",
    "complex128": "c16", "complex64": "c8",
    "qint8": "i1", "quint8": "u1", "qint32": "i4", "bits16": "u2", "bits8": "u1",
    "bits1x8": "u1", "bits2x4": "u1", "bits4x2": "u1", "float4_e2m1fn_x2": "u1",
    "float8_e4m3fn": "u1", "float8_e5m2": "u1", "float8_e8m0fnu": "u1",
    "float8_e4m3fnuz": "u1", "float8_e5m2fnuz": "u1",
}  # fmt: skip


class _SmallFloat(NamedTuple):
    """
    A float of at most eight bits; sign (where there is one), exponent, mantissa.

    Sources: OCP 8-bit and Microscaling specifications, and for ``fnuz`` the README of
    ml_dtypes. ``f`` has no infinity, ``n`` NaN only where said, ``uz`` no minus zero.
    """

    exponent: int
    mantissa: int
    bias: int
    nans: frozenset[int] = frozenset()
    """Patterns that are NaN."""
    infinity: int | None = None
    """Pattern of plus infinity; that of minus infinity has the sign bit too."""


_SMALL_FLOATS = {
    "float8_e4m3fn": _SmallFloat(4, 3, 7, frozenset({0x7F, 0xFF})),
    "float8_e5m2": _SmallFloat(5, 2, 15, frozenset({0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF}), 0x7C),
    "float8_e4m3fnuz": _SmallFloat(4, 3, 8, frozenset({0x80})),
    "float8_e5m2fnuz": _SmallFloat(5, 2, 16, frozenset({0x80})),
    "float6_e2m3fn": _SmallFloat(2, 3, 1),
    "float6_e3m2fn": _SmallFloat(3, 2, 3),
    "float4_e2m1fn": _SmallFloat(2, 1, 1),
}


def decode(raw: bytes | memoryview, dtype: DType, count: int, byteorder: ByteOrder = "little") -> Array:
    """
    The numbers that raw bytes hold, in order.

    Args:
        raw: At least the bytes that *count* elements take.
        dtype: How they are stored.
        count: Elements as a shape counts them.
        byteorder: Of elements of several bytes.

    Returns:
        ``count`` numbers, twice as many for ``float4_e2m1fn_x2``; perhaps a read-only
        view of *raw*.

    >>> from modelinspect.dtypes import dtype_named
    >>> decode(bytes([0x80, 0x3F, 0x00, 0xC0]), dtype_named("bfloat16"), 2).tolist()
    [1.0, -2.0]
    """
    return _numbers(_stored(raw, dtype, count, byteorder), dtype).reshape(-1)


def read_values(tensor: TensorInfo, read: ReadFunction) -> Array:
    """
    All values of a tensor, in its shape.

    Reads the bytes from its first element to its last, so that transposed and expanded
    tensors are views of those; a few that lie far apart it reads one by one. The last
    axis of ``float4_e2m1fn_x2`` is twice as long as torch's, which counts pairs.

    Raises:
        CheckpointError: The tensor has no bytes of its own, or its file is damaged.
        LimitError: It has more axes than numpy can hold.
    """
    storage = _checked(tensor)
    if len(tensor.shape) > _MAX_AXES:
        raise LimitError(f"{visible(tensor.name)!r} has {len(tensor.shape)} axes; limit: {_MAX_AXES}")
    # Steps along axes of one element mean nothing, and may be of any size.
    steps = [step if length > 1 else 0 for length, step in zip(tensor.shape, tensor.stride)]
    shape, reach = list(tensor.shape), _reach(zip(tensor.shape, steps))
    if reach > CHUNK_ELEMENTS and tensor.numel <= _FEW:
        stored = _gathered(storage, tensor, steps, read)
        steps = list(contiguous_stride(shape))
    else:
        stored = _read_stored(storage, tensor.dtype, tensor.storage_offset, reach, read)
    numbers = _numbers(stored, tensor.dtype)
    if numbers.ndim == 2:
        numbers, shape, steps = _pairs_in_a_row(numbers, shape, steps, tensor)
    return _strided(numbers, shape, steps)


def iter_chunks(tensor: TensorInfo, read: ReadFunction, elements: int = CHUNK_ELEMENTS) -> Iterator[Array]:
    """
    The values of a tensor of any size, a chunk at a time; for what order doesn't matter.

    Chunks come in the order of the storage, which is that of the elements where the
    tensor is contiguous. A value that an expanded axis repeats comes once.

    Args:
        tensor: What to read.
        read: Where from; never asked for more than the bytes of *elements*.
        elements: The most elements of storage that a chunk spans.

    Raises:
        CheckpointError: The tensor has no bytes of its own, or its file is damaged.
        LimitError: Its elements overlap, and are too many.
    """
    for stored in iter_stored(tensor, read, elements):
        yield _numbers(stored, tensor.dtype).reshape(-1)


def iter_stored(tensor: TensorInfo, read: ReadFunction, elements: int = CHUNK_ELEMENTS) -> Iterator[Array]:
    """
    As :func:`iter_chunks`, but elements as stored: unsigned patterns where numpy lacks the type.
    """
    storage = _checked(tensor)
    if tensor.numel == 0:
        return
    axes = _axes_in_storage_order(tensor)
    wanted, reach = _wanted(axes), _reach(axes)
    if wanted > max(reach, MAX_OVERLAPPING):
        raise LimitError(
            f"{visible(tensor.name)!r} has {wanted:,} elements that overlap in {reach:,} of its storage",
            details=(f"limit: {MAX_OVERLAPPING:,} elements",),
        )
    for first, block in _blocks(tensor.storage_offset, axes, elements):
        stored = _read_stored(storage, tensor.dtype, first, _reach(block), read)
        if len(block) == 1 and block[0][1] == 1:
            yield stored
        else:
            yield _strided(stored, [length for length, _ in block], [step for _, step in block]).reshape(-1)


def has_number_table(dtype: DType) -> bool:
    """Are its elements patterns of at most 16 bits, so that :func:`number_table` lists their values?"""
    return dtype.bits <= 16


@cache
def number_table(dtype: DType) -> Array:
    """
    What each pattern of a type of at most 16 bits stands for, by the pattern as an unsigned integer.

    Returns:
        Shape ``(2 ** bits,)``; ``(256, 2)`` for ``float4_e2m1fn_x2``.
    """
    patterns = np.arange(2**dtype.bits, dtype=np.uint16 if dtype.bits > 8 else np.uint8)
    if dtype.bits < 8:
        return _numbers(patterns, dtype)
    return _numbers(_stored(patterns.tobytes(), dtype, len(patterns), sys.byteorder), dtype)


# --------------------------------------------------------------- one element


def _stored(raw: bytes | memoryview, dtype: DType, count: int, byteorder: ByteOrder) -> Array:
    """Elements as stored, in the machine's byte order."""
    if dtype.block > 1:
        return _of_blocks(raw, dtype, count, byteorder)
    if dtype not in DTYPES and dtype not in FURTHER:
        raise CheckpointError(f"how {visible(dtype.name)} is stored is not known here")
    if dtype.bits < 8:
        return _unpacked(np.frombuffer(raw, np.uint8), dtype.bits)[:count]
    order = "<" if byteorder == "little" else ">"
    if dtype.name == "complex32":
        halves = np.frombuffer(raw, order + "f2", count * 2)
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return halves.astype(np.float32).view(np.complex64)
    stored: Array = np.frombuffer(raw, order + _STORED[dtype.name], count)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _of_blocks(raw: bytes | memoryview, dtype: DType, count: int, byteorder: ByteOrder) -> Array:
    from modelinspect.ggml_blocks import DECODED, decode_blocks

    if dtype.name not in DECODED:
        raise CheckpointError(f"values of {dtype.name} are not decoded")
    if byteorder == "big":
        raise CheckpointError(f"values of {dtype.name} are not decoded where they are big-endian")
    return decode_blocks(raw, dtype, count)


def _unpacked(raw: npt.NDArray[np.uint8], bits: int) -> Array:
    """Unsigned numbers of 2, 4 or 6 bits, the lowest bits first."""
    width = lcm(bits, 8) // 8
    padded = np.zeros(-(-len(raw) // width) * width, np.uint8)
    padded[: len(raw)] = raw
    groups = padded.reshape(-1, width).astype(np.uint32)
    words = (groups << (8 * np.arange(width, dtype=np.uint32))).sum(axis=1, dtype=np.uint32)
    shifts = np.arange(0, 8 * width, bits, dtype=np.uint32)
    unpacked: Array = (words[:, None] >> shifts) & np.uint32(2**bits - 1)
    return unpacked.astype(np.uint8).reshape(-1)


def _numbers(stored: Array, dtype: DType) -> Array:
    """Elements as stored to numbers; pairs get an axis of their own."""
    if dtype.name == "bfloat16":
        # The upper half of a float32.
        wide: Array = stored.astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32)
    if dtype.name == "bool":
        true: Array = stored != 0
        return true
    if dtype.name in ("int4", "int2"):
        sign = np.uint8(2 ** (dtype.bits - 1))
        signed: Array = (stored ^ sign).astype(np.int8) - np.int8(sign)
        return signed
    if dtype.name in _SMALL_FLOATS or dtype.name == "float8_e8m0fnu":
        return _small_float_table(dtype.name)[stored]
    if dtype.name == "float4_e2m1fn_x2":
        table = _small_float_table("float4_e2m1fn")
        return np.stack([table[stored & 15], table[stored >> 4]], axis=-1)
    return stored


@cache
def _small_float_table(name: str) -> npt.NDArray[np.float32]:
    if name == "float8_e8m0fnu":
        # A power of two and nothing else; the last pattern is NaN.
        return np.array([*(2.0 ** (power - 127) for power in range(255)), nan], np.float32)
    kind = _SMALL_FLOATS[name]
    size = 2 ** (1 + kind.exponent + kind.mantissa)
    return np.array([_small_float(pattern, kind) for pattern in range(size)], np.float32)


def _small_float(pattern: int, kind: _SmallFloat) -> float:
    magnitude = pattern & ((1 << (kind.exponent + kind.mantissa)) - 1)
    sign = 1.0 if magnitude == pattern else -1.0
    if pattern in kind.nans:
        return nan
    if magnitude == kind.infinity:
        return sign * inf
    exponent, fraction = divmod(magnitude, 1 << kind.mantissa)
    if exponent == 0:
        return sign * ldexp(fraction, 1 - kind.bias - kind.mantissa)
    return sign * ldexp((1 << kind.mantissa) + fraction, exponent - kind.bias - kind.mantissa)


# ---------------------------------------------------------------- one tensor


def _checked(tensor: TensorInfo) -> Storage:
    """The tensor's storage, after a look whether its elements lie inside."""
    storage = tensor.storage
    if storage is None:
        raise CheckpointError(f"{visible(tensor.name)!r} has no bytes of its own ({tensor.layout})")
    numbers = (tensor.storage_offset, *tensor.shape, *tensor.stride)
    if min(numbers) < 0 or (tensor.numel and sum(tensor.span) > storage.nbytes):
        raise DamagedFileError(
            f"{visible(tensor.name)!r} reaches beyond its storage",
            details=(f"the storage has {storage.nbytes:,} bytes",),
        )
    return storage


def _read_stored(storage: Storage, dtype: DType, first: int, count: int, read: ReadFunction) -> Array:
    """Elements *first* to *first* + *count* of a storage."""
    # Elements of fewer than eight bits begin at a byte every eighth time at least.
    lead = first % dtype.block if dtype.block > 1 else first % 8 if dtype.bits < 8 else 0
    start = (first - lead) // dtype.block * dtype.bits // 8
    raw = read(storage, start, dtype.nbytes(lead + count)) if count else b""
    return _stored(raw, dtype, lead + count if count else 0, storage.byteorder)[lead:]


def _gathered(storage: Storage, tensor: TensorInfo, steps: list[int], read: ReadFunction) -> Array:
    """Few elements that lie far apart, one by one, in the order of the indices."""
    places = [tensor.storage_offset]
    for length, step in zip(tensor.shape, steps):
        places = [place + index * step for place in places for index in range(length)]
    return np.concatenate([_read_stored(storage, tensor.dtype, place, 1, read) for place in places])


def _wanted(axes: Iterable[tuple[int, int]]) -> int:
    """Elements, of pairs of length and step."""
    return prod(length for length, _ in axes)


def _reach(axes: Iterable[tuple[int, int]]) -> int:
    """Elements of storage from the first to the last, of pairs of length and step."""
    reach = 1
    for length, step in axes:
        if length == 0:
            return 0
        reach += (length - 1) * step
    return reach


def _axes_in_storage_order(tensor: TensorInfo) -> list[tuple[int, int]]:
    """
    Length and step of each axis that visits new elements, the longest step first.

    Axes that lie in each other without a gap become one, so a contiguous or transposed
    tensor has one axis of step 1.
    """
    steps = sorted(
        ((step, length) for length, step in zip(tensor.shape, tensor.stride) if length > 1 and step > 0),
        reverse=True,
    )
    axes: list[tuple[int, int]] = []
    for step, length in steps:
        if axes and axes[-1][1] == length * step:
            axes[-1] = (axes[-1][0] * length, step)
        else:
            axes.append((length, step))
    return axes or [(1, 1)]


def _blocks(
    first: int, axes: list[tuple[int, int]], elements: int
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Cut a tensor into parts that each have and span at most *elements*."""
    if max(_reach(axes), _wanted(axes)) <= elements:
        yield first, axes
        return
    (length, step), inner = axes[0], axes[1:]
    at_once = max(1, min((elements - _reach(inner)) // step + 1, elements // _wanted(inner)))
    for index in range(0, length, at_once):
        count = min(at_once, length - index)
        block = inner if count == 1 and inner else [(count, step), *inner]
        yield from _blocks(first + index * step, block, elements)


def _strided(flat: Array, shape: list[int], steps: list[int]) -> Array:
    """A view of *flat*; steps are in elements."""
    if 0 in shape:
        return np.empty([0 if length == 0 else 1 for length in shape], flat.dtype).reshape(shape)
    strides = [step * flat.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def _pairs_in_a_row(
    pairs: Array, shape: list[int], steps: list[int], tensor: TensorInfo
) -> tuple[Array, list[int], list[int]]:
    """Pairs of 4-bit numbers as single ones: the last axis becomes twice as long."""
    if shape and shape[-1] > 1 and steps[-1] != 1:
        raise CheckpointError(f"{visible(tensor.name)!r}: its pairs of numbers don't follow each other")
    *outer, last = shape or [1]
    return pairs.reshape(-1), [*outer, 2 * last], [2 * step for step in steps[: len(outer)]] + [1]
