"""
How much memory a JSON text takes once it is parsed, told before it is.

``[[],[],[] …`` takes fifty times its length, a header or index as libraries write it no more
than ten times. The parser itself knows no limit but depth.
"""

from __future__ import annotations

import re

__all__ = ["is_dense"]

_SMALL = 2_500_000
"""Characters that may hold what they like."""
_LARGE = 16_000_000
"""Characters of which no second, precise look is taken: that costs memory, too."""
_MOST = 14
"""Bytes of memory for each character."""
_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


def is_dense(text: str) -> bool:
    """Would parsing it take far more than headers and indexes of its length do?"""
    if len(text) <= _SMALL or _estimate(text) <= _MOST * len(text):
        return False
    # Commas and brackets inside of texts cost nothing.
    return len(text) > _LARGE or _estimate(_TEXT.sub('""', text)) > _MOST * len(text)


def _estimate(text: str) -> int:
    """Bytes: of lists and objects, of texts, of places in a list; escaped quotes begin no text."""
    containers = text.count("[") + text.count("{")
    quotes = text.count('"') - text.count('\\"')
    commas = text.count(",") - text.count('\\",')
    return containers * 80 + quotes * 30 + commas * 40
