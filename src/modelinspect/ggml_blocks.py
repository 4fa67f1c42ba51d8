"""
The numbers in ggml's blocks: small integers that share a scale, as GGUF stores them.

Layouts after ``ggml-common.h`` and ``dequantize_row_*`` of ``ggml-quants.c``; what comes out
equals ``gguf.quants.dequantize`` of gguf 0.19 to the bit. A value is ``scale * q`` or
``scale * q - minimum``, in float32. Types whose small numbers index code books of ggml's
(``iq1_s`` to ``iq3_xxs``) are not decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from modelinspect.dtypes import DType

__all__ = ["DECODED", "decode_blocks"]

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

# kvalues_iq4nl of ggml-common.h.
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
# Twice the values of the 4-bit float e2m1 (OCP Microscaling Formats), as ggml keeps them.
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def decode_blocks(raw: bytes | memoryview, dtype: DType, count: int) -> Floats:
    """
    The first *count* numbers of little-endian blocks.

    Args:
        raw: At least the whole blocks that they lie in.
        dtype: One of :data:`DECODED`.
        count: Numbers wanted.
    """
    nbytes = dtype.bits // 8
    blocks = -(-count // dtype.block)
    table = np.frombuffer(raw, np.uint8, blocks * nbytes).reshape(blocks, nbytes)
    with np.errstate(invalid="ignore", over="ignore"):  # scales may be NaN or infinite
        values = DECODED[dtype.name](table)
    return values.reshape(-1)[:count]


# -- what blocks are made of -----------------------------------------------------------------


def _half(blocks: Bytes, at: int) -> Floats:
    """A 16-bit float of each block, as a column."""
    halves = np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")
    return halves.astype(np.float32)


def _fields(packed: Bytes, bits: int, group: int) -> Bytes:
    """
    Small numbers of each block: groups of bytes, whose lowest bits come first.

    All lowest fields of a group of bytes stand before all that come next in the same bytes.
    """
    groups = packed.reshape(len(packed), -1, 1, group)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    fields: Bytes = (groups >> shifts) & np.uint8(2**bits - 1)
    return fields.reshape(len(packed), -1)


def _single_bits(packed: Bytes) -> Bytes:
    """The bits of each byte, one after the other."""
    return np.unpackbits(packed, axis=1, bitorder="little")


def _scaled(scales: Floats, numbers: Array) -> Floats:
    """Numbers times the scale of the part of the block that they lie in."""
    parts = numbers.astype(np.float32).reshape(len(numbers), scales.shape[1], -1)
    product: Floats = scales[:, :, None] * parts
    return product


# -- blocks of 32 ----------------------------------------------------------------------------


def _q4_0(blocks: Bytes) -> Floats:
    return _scaled(_half(blocks, 0), _fields(blocks[:, 2:], 4, 16).astype(np.int8) - np.int8(8))


def _q4_1(blocks: Bytes) -> Floats:
    return _scaled(_half(blocks, 0), _fields(blocks[:, 4:], 4, 16)) + _half(blocks, 2)[:, :, None]


def _five_bits(low: Bytes, high: Bytes) -> Bytes:
    numbers: Bytes = _fields(low, 4, 16) | _single_bits(high) << np.uint8(4)
    return numbers


def _q5_0(blocks: Bytes) -> Floats:
    numbers = _five_bits(blocks[:, 6:], blocks[:, 2:6])
    return _scaled(_half(blocks, 0), numbers.astype(np.int8) - np.int8(16))


def _q5_1(blocks: Bytes) -> Floats:
    numbers = _five_bits(blocks[:, 8:], blocks[:, 4:8])
    return _scaled(_half(blocks, 0), numbers) + _half(blocks, 2)[:, :, None]


def _q8_0(blocks: Bytes) -> Floats:
    return _scaled(_half(blocks, 0), np.ascontiguousarray(blocks[:, 2:]).view(np.int8))


def _iq4_nl(blocks: Bytes) -> Floats:
    return _scaled(_half(blocks, 0), _IQ4[_fields(blocks[:, 2:], 4, 16)])


def _mxfp4(blocks: Bytes) -> Floats:
    # A power of two, halved because the numbers are doubled.
    scales = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128).astype(np.float32)
    return _scaled(scales, _E2M1[_fields(blocks[:, 1:], 4, 16)])


def _nvfp4(blocks: Bytes) -> Floats:
    patterns = blocks[:, :4]
    exponent, mantissa = (patterns >> 3).astype(np.int32) & 15, (patterns & 7).astype(np.float32)
    # An unsigned float of 4 and 3 bits; zero stands for its NaN.
    scales = np.where(exponent == 0, mantissa * 2.0**-9, np.ldexp(1 + mantissa / 8, exponent - 7))
    scales = np.where(patterns == 0x7F, 0, scales / 2).astype(np.float32)
    return _scaled(scales, _E2M1[_fields(blocks[:, 4:], 4, 8)])


# -- blocks of 256 ---------------------------------------------------------------------------


def _q2_k(blocks: Bytes) -> Floats:
    scales, smallest = _half(blocks, 80), _half(blocks, 82)
    both = blocks[:, :16]
    numbers = _scaled(scales * (both & 15).astype(np.float32), _fields(blocks[:, 16:80], 2, 32))
    return numbers - (smallest * (both >> 4).astype(np.float32))[:, :, None]


def _q3_k(blocks: Bytes) -> Floats:
    packed = blocks[:, 96:108]
    low, high = _fields(packed[:, :8], 4, 8), _fields(packed[:, 8:], 2, 4)
    scales = (low | high << np.uint8(4)).astype(np.int8) - np.int8(32)
    # A third bit that is not set takes 4 away.
    third = _fields(blocks[:, :32], 1, 32)
    taken = (third ^ np.uint8(1)) << np.uint8(2)
    numbers = _fields(blocks[:, 32:96], 2, 32).astype(np.int8) - taken.astype(np.int8)
    return _scaled(_half(blocks, 108) * scales.astype(np.float32), numbers)


def _six_bit_pairs(packed: Bytes) -> tuple[Floats, Floats]:
    """Eight scales and eight minima of six bits each, in twelve bytes."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 2 & 48)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 2 & 48)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _with_minima(blocks: Bytes, numbers: Bytes) -> Floats:
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    return _scaled(_half(blocks, 0) * scales, numbers) - (_half(blocks, 2) * minima)[:, :, None]


def _q4_k(blocks: Bytes) -> Floats:
    return _with_minima(blocks, _fields(blocks[:, 16:], 4, 32))


def _q5_k(blocks: Bytes) -> Floats:
    fifth = _fields(blocks[:, 16:48], 1, 32)
    return _with_minima(blocks, _fields(blocks[:, 48:], 4, 32) | fifth << np.uint8(4))


def _q6_k(blocks: Bytes) -> Floats:
    numbers = _fields(blocks[:, :128], 4, 64) | _fields(blocks[:, 128:192], 2, 32) << np.uint8(4)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return _scaled(_half(blocks, 208) * scales, numbers.astype(np.int8) - np.int8(32))


def _iq4_xs(blocks: Bytes) -> Floats:
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(len(blocks), 8)
    pairs = np.stack([blocks[:, 2:4] >> shift & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(len(blocks), 8)
    scales = (low | pairs << np.uint8(4)).astype(np.int8) - np.int8(32)
    return _scaled(_half(blocks, 0) * scales.astype(np.float32), _IQ4[_fields(blocks[:, 8:], 4, 16)])


def _thirds(packed: Bytes, group: int, digits: int) -> Bytes:
    """Numbers of base 3, the highest first, each byte a fraction of 256 (ggml: TQ1_0)."""
    powers = np.array([1, 3, 9, 27, 81][:digits], np.uint8).reshape(1, 1, -1, 1)
    fractions: Bytes = packed.reshape(len(packed), -1, 1, group) * powers  # what runs over is gone
    return (fractions.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(len(packed), -1)


def _tq1_0(blocks: Bytes) -> Floats:
    many, some, last = blocks[:, :32], blocks[:, 32:48], blocks[:, 48:52]
    pieces = [_thirds(many, 32, 5), _thirds(some, 16, 5), _thirds(last, 4, 4)]
    return _scaled(_half(blocks, 52), np.concatenate(pieces, axis=1).astype(np.int8) - np.int8(1))


def _tq2_0(blocks: Bytes) -> Floats:
    return _scaled(_half(blocks, 64), _fields(blocks[:, :64], 2, 32).astype(np.int8) - np.int8(1))


DECODED: dict[str, Callable[[Bytes], Floats]] = {
    "q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q8_0": _q8_0, "iq4_nl": _iq4_nl,
    "mxfp4": _mxfp4, "nvfp4": _nvfp4, "q2_K": _q2_k, "q3_K": _q3_k, "q4_K": _q4_k, "q5_K": _q5_k,
    "q6_K": _q6_k, "iq4_xs": _iq4_xs, "tq1_0": _tq1_0, "tq2_0": _tq2_0,
}  # fmt: skip
"""Name of a data type to what makes numbers of its blocks, a row of bytes each."""
