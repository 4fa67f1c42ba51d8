"""
Sink: JSON, one document with a row a line, and JSON Lines.

A document is an object with, in this order,

- ``schema_version``: integer, :data:`~modelinspect.render.sheet.SCHEMA_VERSION`;
- ``report``: name of the report, e.g. ``"params"``;
- the report's own fields, which its view documents;
- ``notes``: list of texts;
- the rows under the report's own key (``tensors``, ``targets`` …), a list of objects.

Integers are raw, shapes are lists, what is not known is null. NaN and infinity
are the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. Everything is ASCII,
so that no character of a file's reaches a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import isfinite, isnan
from typing import Any

from modelinspect.render.sheet import SCHEMA_VERSION, Sheet

__all__ = ["json_chunks", "json_lines_chunks"]

ROWS_A_CHUNK = 1_000

_ENCODE = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode


def json_chunks(sheet: Sheet) -> Iterator[str]:
    """The sheet as one document, in chunks; see the head of this file."""
    fields = {
        "schema_version": SCHEMA_VERSION,
        "report": sheet.report,
        **sheet.summary,
        "notes": list(sheet.notes),
    }
    head = "".join(f"  {_ENCODE(key)}: {_encoded(value)},\n" for key, value in fields.items())
    yield f"{{\n{head}  {_ENCODE(sheet.rows_key)}: ["
    before = "\n    "
    for rows in _blocks(sheet):
        yield before + ",\n    ".join(rows)
        before = ",\n    "
    yield "]\n}\n" if before == "\n    " else "\n  ]\n}\n"


def json_lines_chunks(sheet: Sheet) -> Iterator[str]:
    """The sheet's rows, an object a line, in chunks of whole lines."""
    for rows in _blocks(sheet):
        yield "\n".join(rows) + "\n"


def _blocks(sheet: Sheet) -> Iterator[list[str]]:
    records = iter(_records(sheet))
    while block := list(islice(records, ROWS_A_CHUNK)):
        yield [_encoded(record) for record in block]


def _records(sheet: Sheet) -> Iterator[Mapping[str, Any]]:
    if sheet.records is not None:
        yield from sheet.records
        return
    keys = [column.key for column in sheet.columns]
    for row in sheet.rows:
        yield dict(zip(keys, row))


def _encoded(value: Any) -> str:
    try:
        return _ENCODE(value)
    except (ValueError, TypeError):
        # NaN and the like are rare, so only who holds them pays for looking.
        return _ENCODE(_plain(value))


def _plain(value: Any) -> Any:
    """The value made of what JSON has."""
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
