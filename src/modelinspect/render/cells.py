"""
Raw values to text, a whole column at a time.

Tables have 100,000 rows and few distinct shapes, counts and types, so each
distinct value is put into words once; and one look at all texts together says
whether any of them has to be escaped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from math import isfinite, isnan
from typing import Any

from modelinspect.errors import visible
from modelinspect.render.sheet import ColumnKind, Sheet
from modelinspect.render.units import count_text, ratio_text, shape_text, short_bytes, short_number

__all__ = [
    "RIGHT_ALIGNED",
    "TEXT_KINDS",
    "UNKNOWN",
    "all_visible",
    "columns_of",
    "display_width",
    "is_narrow",
    "raw_column",
    "shown_column",
    "with_fixed_blanks",
]

TEXT_KINDS: frozenset[ColumnKind] = frozenset({"name", "text", "dtype", "status"})
"""Kinds whose values are text, and may be a file's."""
RIGHT_ALIGNED: frozenset[ColumnKind] = frozenset({"count", "bytes", "ratio", "number"})
UNKNOWN = "unknown"
_RUN_OF_BLANKS = r"^ +| {2,}"
_BLANK: frozenset[ColumnKind] = frozenset({"shape", "number", "ratio"})
"""Kinds of which None is no value, rather than one that isn't known."""


def columns_of(sheet: Sheet) -> list[Sequence[Any]]:
    """The sheet's values column by column; an empty sheet has empty columns."""
    return list(zip(*sheet.rows)) if len(sheet.rows) else [() for _ in sheet.columns]


def shown_column(kind: ColumnKind, values: Sequence[Any]) -> list[str]:
    """
    The values of one column as people read them, escaped.

    Args:
        kind: The column's kind.
        values: Raw values as :class:`Column` describes them; None is ``unknown``
            where a count or a yes is expected, and empty elsewhere.
    """
    if kind in TEXT_KINDS:
        return all_visible(values)
    shown = _each_once(_SHOWN[kind], values, "" if kind in _BLANK else UNKNOWN)
    return _units_aligned(shown) if kind == "bytes" else shown


def raw_column(kind: ColumnKind, values: Sequence[Any]) -> list[str]:
    """
    The values of one column as a script reads them, escaped: plain digits, None is empty.
    """
    if kind in TEXT_KINDS:
        return all_visible(values)
    return _each_once(_RAW[kind], values, "")


def all_visible(values: Iterable[Any]) -> list[str]:
    """
    Texts with control and bidirectional characters escaped; None is empty.
    """
    texts = ["" if value is None else value for value in values]
    # Whatever `visible` escapes is not printable, and this check takes no time.
    return texts if "".join(texts).isprintable() else [visible(text) for text in texts]


def with_fixed_blanks(texts: Sequence[str]) -> list[str]:
    """
    Texts whose blanks at the beginning, and runs of them, HTML and Markdown leave alone.
    """
    return [
        re.sub(_RUN_OF_BLANKS, lambda run: "\N{NO-BREAK SPACE}" * len(run.group()), text) for text in texts
    ]


def _each_once(convert: Callable[[Any], str], values: Sequence[Any], none: str) -> list[str]:
    words = {value: none if value is None else convert(value) for value in set(values)}
    return [words[value] for value in values]


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _true_or_false(value: bool) -> str:
    return "true" if value else "false"


def _raw_number(value: float) -> str:
    """As Python writes it; NaN and infinities by their names in JSON."""
    if isfinite(value):
        return repr(value)
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"


_SHOWN: dict[ColumnKind, Callable[[Any], str]] = {
    "count": count_text,
    "bytes": short_bytes,
    "shape": shape_text,
    "ratio": ratio_text,
    "number": short_number,
    "flag": _yes_or_no,
}
_RAW: dict[ColumnKind, Callable[[Any], str]] = {
    "count": str,
    "bytes": str,
    "shape": shape_text,
    "ratio": repr,
    "number": _raw_number,
    "flag": _true_or_false,
}


def _units_aligned(texts: list[str]) -> list[str]:
    """``52 B`` under ``1.2 MiB`` gets two blanks, so that the figures stand in line."""
    if not any(text.endswith("iB") for text in texts):
        return texts
    return [f"{text}  " if text.endswith(" B") else text for text in texts]


# --------------------------------------------------------------------- width


def is_narrow(texts: Iterable[str]) -> bool:
    """True where every character takes one column of a terminal, so that len() is the width."""
    joined = "".join(texts)
    return joined.isascii() or all(_char_width(char) == 1 for char in set(joined))


def display_width(text: str) -> int:
    """
    Columns of a terminal that a text takes: two for an East Asian wide character.

    >>> display_width("層.0")
    4
    """
    return len(text) if text.isascii() else sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
