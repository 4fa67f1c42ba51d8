"""
Natural order: ``layers.2`` before ``layers.10``.
"""

from __future__ import annotations

import re

__all__ = ["natural_key", "naturally_sorted"]

_DIGITS = re.compile(r"[0-9]+")


class _PaddedParts(dict[str, str]):
    """Each distinct name part to the text that sorts it; filled on demand."""

    def __missing__(self, part: str) -> str:
        # A number sorts by its length first, then by its digits, and before letters.
        padded = _DIGITS.sub(lambda m: f"{len(m.group().lstrip('0')):04d}{m.group().lstrip('0')}", part)
        self[part] = padded
        return padded


def natural_key(name: str) -> str:
    """A text that sorts *name* part by part, numbers by value."""
    return "\x01".join(map(_PaddedParts().__getitem__, name.split(".")))


def naturally_sorted(names: list[str]) -> list[str]:
    """
    The names in natural order, part by part.

    >>> naturally_sorted(["h.10.w", "h.2.w", "h.2.b"])
    ['h.2.b', 'h.2.w', 'h.10.w']
    """
    padded = _PaddedParts().__getitem__
    keys = {name: "\x01".join(map(padded, name.split("."))) for name in names}
    return sorted(names, key=keys.__getitem__)
