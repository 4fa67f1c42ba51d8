"""
The CRC-32 of one value over and over, without writing it down.

A checksum of a text after another is a shifted sum of both (``crc32_combine`` of zlib; a shift by
n bytes is a product with x^8n modulo the polynomial), so doubling takes a step a bit of the length.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

__all__ = ["repeated_crc"]

_POLYNOMIAL = 0xEDB88320
"""Of CRC-32, its lowest power in the highest bit."""
_ONE, _X = 1 << 31, 1 << 30


@lru_cache(maxsize=4096)
def repeated_crc(unit: bytes, times: int) -> int:
    """
    The same as ``zlib.crc32(unit * times)``.

    >>> repeated_crc(b"ab", 1000) == zlib.crc32(b"ab" * 1000)
    True
    """
    checksum, part, length = 0, zlib.crc32(unit), len(unit)
    while times:
        shift = _shift(length)
        if times & 1:
            checksum = _product(shift, checksum) ^ part
        part = _product(shift, part) ^ part
        length *= 2
        times >>= 1
    return checksum


@lru_cache(maxsize=4096)
def _shift(nbytes: int) -> int:
    """The power of x that moves a checksum on by so many bytes, modulo the polynomial."""
    result, factor = _ONE, _X
    power = 8 * nbytes
    while power:
        if power & 1:
            result = _product(factor, result)
        factor = _product(factor, factor)
        power >>= 1
    return result


def _product(a: int, b: int) -> int:
    """Of two polynomials, modulo the one of CRC-32."""
    product, bit = 0, _ONE
    while a and bit:
        if a & bit:
            product ^= b
            a ^= bit
        bit >>= 1
        b = b >> 1 ^ _POLYNOMIAL if b & 1 else b >> 1
    return product
