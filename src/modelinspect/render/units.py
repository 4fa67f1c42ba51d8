"""
Numbers as people read them, and back: counts, bytes, shapes, shares.

Counts go by thousands (``1 M`` is 10⁶), bytes by 1024 (``1 MiB`` is 2²⁰).
Everything is done in integers, so no figure is off by a rounding of floats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite, isnan

__all__ = [
    "count_text",
    "long_bytes",
    "long_count",
    "parse_bytes",
    "parse_count",
    "ratio_text",
    "shape_text",
    "short_bytes",
    "short_count",
    "short_number",
]

SHORT_FROM = 100_000
"""Counts below this are read as fast in full as in short."""

_COUNT_SUFFIXES = ("", "K", "M", "B", "T")
_BYTE_SUFFIXES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count_text(count: int) -> str:
    """
    Thousands separated.

    >>> count_text(124439808)
    '124,439,808'
    """
    return f"{count:,}"


def short_count(count: int) -> str:
    """
    One decimal and K, M, B or T for powers of 1000.

    >>> short_count(124439808), short_count(999_999_999), short_count(40)
    ('124.4 M', '1.0 B', '40')
    """
    return _scaled(count, 1000, _COUNT_SUFFIXES).rstrip()


def long_count(count: int) -> str:
    """
    In full, followed by the short form where that helps.

    >>> long_count(124439808), long_count(40)
    ('124,439,808 (124.4 M)', '40')
    """
    return f"{count:,} ({short_count(count)})" if count >= SHORT_FROM else f"{count:,}"


def short_bytes(nbytes: int) -> str:
    """
    One decimal and KiB, MiB … for powers of 1024.

    >>> short_bytes(497759232), short_bytes(160)
    ('474.7 MiB', '160 B')
    """
    return _scaled(nbytes, 1024, _BYTE_SUFFIXES)


def long_bytes(nbytes: int) -> str:
    """
    In full, followed by the short form where that helps.

    >>> long_bytes(497759232), long_bytes(1)
    ('497,759,232 bytes (474.7 MiB)', '1 byte')
    """
    noun = "byte" if nbytes == 1 else "bytes"
    return f"{nbytes:,} {noun} ({short_bytes(nbytes)})" if nbytes >= 1024 else f"{nbytes:,} {noun}"


def shape_text(shape: Sequence[int]) -> str:
    """
    As torch prints a size; a scalar is ``[]``.

    >>> shape_text((13, 1)), shape_text(())
    ('[13, 1]', '[]')
    """
    return f"[{', '.join(map(str, shape))}]"


def ratio_text(ratio: float) -> str:
    """
    A share as percent. What is there and tiny is not shown as nothing.

    >>> ratio_text(0.25), ratio_text(0.00001), ratio_text(0.0), ratio_text(0.99999)
    ('25.0%', '<0.1%', '0.0%', '>99.9%')
    """
    if 0 < ratio < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= ratio < 1 else f"{ratio:.1%}"


def short_number(number: float) -> str:
    """
    Any float in three significant digits, or whole from 1,000 to 100,000; short enough for a column.

    >>> short_number(0.01234), short_number(999.6), short_number(1234.5), short_number(1.5e-9)
    ('0.0123', '1,000', '1,234', '1.50e-09')
    >>> short_number(0.0), short_number(float("-inf")), short_number(float("nan"))
    ('0', '-inf', 'NaN')
    """
    if isnan(number):
        return "NaN"
    if not number or not isfinite(number):
        return f"{number:g}"
    if not 1e-4 <= abs(number) < 1e5:
        return f"{number:.2e}"
    if abs(number) >= 999.5:
        return f"{number:,.0f}"
    # "#" keeps the zeros of 1.00 and leaves a dot behind 100.
    return f"{number:#.3g}".rstrip(".")


def _scaled(number: int, base: int, suffixes: Sequence[str]) -> str:
    if number < base:
        return f"{number} {suffixes[0]}"
    power, tenths = 0, number * 10
    # Tenths, rounded half up; 999.96 K is carried over to 1.0 M.
    while tenths >= base * 10 and power < len(suffixes) - 1:
        power += 1
        tenths = (number * 20 + base**power) // (2 * base**power)
    return f"{tenths // 10:,}.{tenths % 10} {suffixes[power]}"


# ---------------------------------------------------------------------- back

_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_BYTE_UNITS = {
    "": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
# Texts, compiled by re when they are first used: few commands are given an amount.
_NUMBER = r"([0-9][0-9_,]*)(?:\.([0-9]+))?\s*([A-Za-z]*)"
# A comma only where it separates thousands: "1,5B" is not fifteen billion.
_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*"
_SCIENTIFIC = r"[0-9]+(?:\.[0-9]+)?[eE][+]?[0-9]{1,2}"
_LONGEST = 40


def parse_count(text: str) -> int:
    """
    Read a count: ``1000``, ``1_000``, ``1,000``, ``10k``, ``1.5M``, ``7B``, ``1T``; 1M is 10⁶.

    Raises:
        ValueError: It is no count, or not a whole one; the message says so.
    """
    return _parse(text, _COUNT_UNITS, "a count", "1000, 1,000, 10K, 1.5M, 7B")


def parse_bytes(text: str) -> int:
    """
    Read an amount of bytes: ``1000``, ``10MB`` (10⁷), ``1.5GiB`` (1.5 · 2³⁰).

    K, M, G and T alone are powers of 1000, as in a count; B is bytes here.

    Raises:
        ValueError: It is no such amount, or not of whole bytes; the message says so.
    """
    return _parse(text, _BYTE_UNITS, "an amount of bytes", "1000, 10MB, 1.5GiB")


def _parse(text: str, units: Mapping[str, int], what: str, examples: str) -> int:
    scientific = re.fullmatch(_SCIENTIFIC, text.strip())
    if scientific is not None:
        from decimal import Decimal

        number = Decimal(text.strip())
        if number != int(number):
            raise ValueError(f"{text!r} is not a whole number")
        return int(number)
    found = re.fullmatch(_NUMBER, text.strip()) if len(text) <= _LONGEST else None
    whole, decimals, suffix = found.groups() if found else ("", None, "")
    unit = units.get(suffix.lower())
    if unit is None or not re.fullmatch(_GROUPED, whole):
        raise ValueError(f"{text[:_LONGEST]!r} is not {what}; examples: {examples}")
    decimals = decimals or ""
    digits = int(whole.replace(",", "").replace("_", "") + decimals)
    scale: int = 10 ** len(decimals)
    if digits * unit % scale:
        raise ValueError(f"{text!r} is not a whole number")
    return digits * unit // scale
