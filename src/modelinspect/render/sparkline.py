"""
A series of numbers as one line of blocks: ``▂▃▅▇``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, log10

__all__ = ["BLOCKS", "BROKEN", "sparkline"]

BLOCKS = "▁▂▃▄▅▆▇█"
BROKEN = "×"
"""NaN or infinity."""
WIDTH = 16
_LEAST_DECADES = 1.0
"""Values within one decade are drawn as such: what hardly changes looks flat."""


def sparkline(values: Sequence[float | None], width: int = WIDTH, *, logarithmic: bool = True) -> str:
    """
    Draw a series.

    Args:
        values: None is a blank, NaN and infinity are ``×``, zero is the lowest block.
        width: Characters at most; of several values that share one the largest is drawn.
        logarithmic: One block is a share of the decades; else of the range.

    >>> sparkline([1, 10, 100, 1000])
    '▁▃▆█'
    >>> sparkline([2.0, 2.1, 2.0])
    '▄▅▄'
    >>> sparkline([1.0, None, float("nan"), 0.0])
    '▅ ×▁'
    """
    drawn = _shared(values, width)
    heights = [_height(value, logarithmic) for value in drawn]
    there = [height for height in heights if height is not None]
    low, high = (min(there), max(there)) if there else (0.0, 0.0)
    least = _LEAST_DECADES if logarithmic else 0.0
    if high - low < least:
        middle = (high + low) / 2
        low, high = middle - least / 2, middle + least / 2
    return "".join(_block(value, height, low, high) for value, height in zip(drawn, heights)).rstrip()


def _shared(values: Sequence[float | None], width: int) -> list[float | None]:
    """At most so many values; a broken one is never hidden behind a sound one."""
    if len(values) <= width:
        return list(values)
    edges = [place * len(values) // width for place in range(width + 1)]
    return [_tallest(values[start:end]) for start, end in pairwise(edges)]


def _tallest(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    broken = [value for value in there if not isfinite(value)]
    return broken[0] if broken else max(there, default=None)


def _height(value: float | None, logarithmic: bool) -> float | None:
    if value is None or not isfinite(value) or (logarithmic and value <= 0):
        return None
    return log10(value) if logarithmic else value


def _block(value: float | None, height: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    if not isfinite(value):
        return BROKEN
    if height is None:  # zero has no logarithm
        return BLOCKS[0]
    share = (height - low) / (high - low) if high > low else 0.5
    return BLOCKS[min(len(BLOCKS) - 1, int(share * (len(BLOCKS) - 1) + 0.5))]
