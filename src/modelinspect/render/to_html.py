"""
Sink: a plain HTML table for notebooks.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from modelinspect.errors import visible
from modelinspect.render.cells import RIGHT_ALIGNED, columns_of, shown_column, with_fixed_blanks
from modelinspect.render.layout import below, card_cells
from modelinspect.render.sheet import Column, Sheet

__all__ = ["MOST_ROWS", "html_text"]

MOST_ROWS = 2_000
"""Notebooks keep what they show; a table with more rows says how many are left out."""


def html_text(sheet: Sheet) -> str:
    """
    The sheet as one ``<table>``, every text escaped.

    Args:
        sheet: A table, or a card where it has no columns.
    """
    parts = ["<table>"]
    if sheet.title:
        parts.append(f"<caption><b>{_safe(sheet.title)}</b></caption>")
    parts += _table(sheet) if sheet.columns else _card(sheet)
    parts.append("</table>")
    return "\n".join(parts)


def _card(sheet: Sheet) -> Iterable[str]:
    for index, cells in enumerate(card_cells(sheet)):
        label, full, short, remark = (escape(cell) for cell in cells)
        strong = f"<b>{full}</b>" if index == 0 else full
        yield (
            f"<tr><th style='text-align:left'>{label.replace('  ', '&emsp;')}</th>"
            f"<td style='text-align:right'>{strong}</td><td style='text-align:right'>{short}</td>"
            f"<td style='text-align:left'>{remark}</td></tr>"
        )


def _table(sheet: Sheet) -> Iterable[str]:
    titles = [_cell("th", column, _safe(column.title)) for column in sheet.columns]
    yield f"<thead><tr>{''.join(titles)}</tr></thead>"
    columns = [
        shown_column(column.kind, values[:MOST_ROWS])
        for column, values in zip(sheet.columns, columns_of(sheet))
    ]
    columns = [
        with_fixed_blanks(cells) if column.kind == "text" else cells
        for column, cells in zip(sheet.columns, columns)
    ]
    indents = sheet.indents or [0] * len(sheet.rows)
    yield "<tbody>"
    for depth, row in zip(indents, zip(*columns)):
        cells = [escape(cell) for cell in row]
        cells[0] = "&emsp;" * depth + cells[0]
        yield f"<tr>{''.join(map(_cell, ['td'] * len(cells), sheet.columns, cells))}</tr>"
    yield "</tbody>"
    footer = [_safe("".join(text for text, _ in line)) for line in below(sheet, None) if line]
    if len(sheet.rows) > MOST_ROWS:
        footer.append(f"{len(sheet.rows) - MOST_ROWS:,} more rows are not shown")
    if footer:
        lines = "<br>".join(footer)
        yield (
            f"<tfoot><tr><td colspan='{len(sheet.columns)}' style='text-align:left'>{lines}</td></tr></tfoot>"
        )


def _cell(tag: str, column: Column, content: str) -> str:
    side = "right" if column.kind in RIGHT_ALIGNED else "left"
    return f"<{tag} style='text-align:{side}'>{content}</{tag}>"


def _safe(text: str) -> str:
    return escape(visible(text))
