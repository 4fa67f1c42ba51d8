"""
Sink: a Markdown table (GitHub's dialect). Names can't break out of their cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from modelinspect.errors import visible
from modelinspect.render.cells import RIGHT_ALIGNED, columns_of, shown_column, with_fixed_blanks
from modelinspect.render.layout import below, card_cells
from modelinspect.render.sheet import Sheet

__all__ = ["escaped", "markdown_chunks"]

ROWS_A_CHUNK = 5_000

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_ACTIVE = re.compile(r"[\\`*\[\]|~#$!]")
# q_proj is no emphasis, _q_ is.
_EMPHASIS = re.compile(r"(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
# GitHub makes a link of these wherever they stand.
_LINK = re.compile(r"(?i)(https?|ftp|mailto|xmpp|www)([:.])")


def escaped(text: str) -> str:
    r"""
    A text as Markdown that shows just that text.

    >>> escaped("a|b <img> `x`")
    'a\\|b &lt;img&gt; \\`x\\`'
    """
    text = _ACTIVE.sub(r"\\\g<0>", visible(text).translate(_HTML))
    text = _EMPHASIS.sub(r"\\_", text)
    return _LINK.sub(r"\1\\\2", text)


def markdown_chunks(sheet: Sheet) -> Iterator[str]:
    """Title, table and footer, in chunks of whole lines."""
    if sheet.title:
        yield f"**{escaped(sheet.title)}**\n\n"
    if not sheet.columns:
        yield _card(sheet)
        return
    yield _row([escaped(column.title) for column in sheet.columns])
    yield _row(["---:" if column.kind in RIGHT_ALIGNED else "---" for column in sheet.columns])
    cells = [_column(sheet, index, values) for index, values in enumerate(columns_of(sheet))]
    for start in range(0, len(sheet.rows), ROWS_A_CHUNK):
        block = zip(*(column[start : start + ROWS_A_CHUNK] for column in cells))
        yield "".join(map(_row, block))
    yield from _footer(sheet)


def _column(sheet: Sheet, index: int, values: Sequence[object]) -> list[str]:
    kind = sheet.columns[index].kind
    cells = shown_column(kind, values)
    if kind == "text":
        cells = with_fixed_blanks(cells)
    if kind not in RIGHT_ALIGNED:
        words = {cell: escaped(cell) for cell in set(cells)} if kind != "shape" else {}
        cells = [words.get(cell, cell) for cell in cells]
    if index == 0 and sheet.indents is not None:
        cells = ["&emsp;" * depth + cell for depth, cell in zip(sheet.indents, cells)]
    return cells


def _card(sheet: Sheet) -> str:
    rows = [
        [label.replace("  ", "&emsp;"), f"**{full}**" if index == 0 else full, short, remark]
        for index, (label, full, short, remark) in enumerate(
            [escaped(text) for text in row] for row in card_cells(sheet)
        )
    ]
    return "".join(map(_row, [["", "", "", ""], ["---", "---:", "---:", "---"], *rows]))


def _footer(sheet: Sheet) -> Iterator[str]:
    lines = ["".join(text for text, _ in line) for line in below(sheet, None)]
    yield "".join(f"\n{escaped(line)}\n" for line in lines if line)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
