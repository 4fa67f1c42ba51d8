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
    Draw a series between its least and its largest value.

    Args:
        values: None is a blank, NaN and infinity are ``×``; zero is the lowest block of a
            logarithmic scale.
        width: Characters at most; of several values that share one the largest is drawn,
            or ``×`` if one of them is broken.
        logarithmic: A block is a share of the decades, of one decade at least; else of
            the range.

    Returns:
        One character a value, without blanks at the end.

    >>> sparkline([1, 10, 100, 1000]), sparkline([2.0, 2.1, 2.0])
    ('▁▃▆█', '▄▅▄')
    >>> sparkline([1.0, None, float("nan"), 0.0, 100.0])
    '▁ ×▁█'
    >>> sparkline([-1.0, 0.0, 2.0], logarithmic=False)
    '▁▃█'
    """
    drawn = _shared(values, width)
    heights = [_height(value, logarithmic) for value in drawn]
    low, high = _range([height for height in heights if height is not None], logarithmic)
    return "".join(_mark(value, height, low, high) for value, height in zip(drawn, heights)).rstrip()


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
    """Where a value stands on the scale; None: nowhere."""
    if value is None or not isfinite(value) or (logarithmic and value <= 0):
        return None
    return log10(value) if logarithmic else value


def _range(heights: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    low, high = min(heights, default=0.0), max(heights, default=0.0)
    if logarithmic and high - low < _LEAST_DECADES:
        middle = (high + low) / 2
        return middle - _LEAST_DECADES / 2, middle + _LEAST_DECADES / 2
    return low, high


def _mark(value: float | None, height: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    if not isfinite(value):
        return BROKEN
    if height is None:
        return BLOCKS[0]
    # Halved first: the range of float64 itself has no room for its ends' difference.
    extent = high / 2 - low / 2
    share = (height / 2 - low / 2) / extent if extent else 0.5
    steps = len(BLOCKS) - 1
    return BLOCKS[min(steps, int(share * steps + 0.5))]
