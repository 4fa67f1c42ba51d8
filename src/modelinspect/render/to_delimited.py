"""
Sinks for scripts and spreadsheets: plain, CSV, TSV. Raw numbers; nothing is cut or folded.

- plain: a row a line, tabs between, no header. Control characters in names are
  escaped, so that a tab is always a separator and a line always a row.
- csv, tsv: the same with a header of the columns' keys. A text that a spreadsheet
  would run as a formula is preceded by an apostrophe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Literal

from modelinspect.render.cells import TEXT_KINDS, columns_of, raw_column
from modelinspect.render.sheet import Sheet

__all__ = ["csv_chunks", "plain_chunks"]

ROWS_A_CHUNK = 5_000

# What spreadsheets take for the start of a formula, the full-width forms included.
_RUNS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # noqa: RUF001


def plain_chunks(sheet: Sheet) -> Iterator[str]:
    """Rows of tab-separated values, in chunks of whole lines."""
    for block in _blocks(_raw(sheet)):
        yield "".join(["\t".join(row) + "\n" for row in block])


def csv_chunks(sheet: Sheet, delimiter: Literal[",", "\t"] = ",") -> Iterator[str]:
    """A header and rows for a spreadsheet, in chunks of whole lines."""
    columns = [
        [_harmless(cell) for cell in cells] if column.kind in TEXT_KINDS else cells
        for column, cells in zip(sheet.columns, _raw(sheet))
    ]
    yield _written([[column.key for column in sheet.columns]], delimiter)
    for block in _blocks(columns):
        yield _written(block, delimiter)


def _raw(sheet: Sheet) -> list[list[str]]:
    return [raw_column(column.kind, values) for column, values in zip(sheet.columns, columns_of(sheet))]


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_RUNS) else cell


def _blocks(columns: Sequence[list[str]]) -> Iterator[list[tuple[str, ...]]]:
    rows = len(columns[0]) if columns else 0
    for start in range(0, rows, ROWS_A_CHUNK):
        yield list(zip(*(column[start : start + ROWS_A_CHUNK] for column in columns)))


def _written(rows: Sequence[Sequence[str]], delimiter: str) -> str:
    import csv

    buffer = StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
