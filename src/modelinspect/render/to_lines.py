"""
Sink: a table in aligned lines, without colour. Standard library only, and quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modelinspect.render.layout import GAP, Grid, Spans, below, body_row, card, grid_of, heading
from modelinspect.render.sheet import Sheet

__all__ = ["lines_chunks"]

ROWS_A_CHUNK = 5_000


def lines_chunks(sheet: Sheet, width: int | None = None) -> Iterator[str]:
    """
    The sheet as text, in chunks of whole lines.

    Args:
        sheet: A table, or a card where it has no columns.
        width: Columns of the terminal; None is as wide as it takes.
    """
    if not sheet.columns:
        yield _text(card(sheet, width))
        return
    grid = grid_of(sheet, width)
    yield _text(heading(sheet, grid, width))
    yield from _body(grid)
    yield _text(below(sheet, width, grid.left_out))


def _text(lines: Iterator[Spans]) -> str:
    return "".join("".join(text for text, _ in line) + "\n" for line in lines)


def _body(grid: Grid) -> Iterator[str]:
    rows = len(grid.columns[0].cells)
    for start in range(0, rows, ROWS_A_CHUNK):
        end = min(start + ROWS_A_CHUNK, rows)
        if grid.is_narrow:
            yield _block(grid, start, end)
        else:
            yield "".join(_text(body_row(grid, row)) for row in range(start, end))


def _block(grid: Grid, start: int, end: int) -> str:
    """Rows of characters that are all one column wide: one template makes each line."""
    template = GAP.join(f"%{'' if column.is_right else '-'}{column.width}s" for column in grid.columns)
    cells = zip(*(column.cells[start:end] for column in grid.columns))
    lines: Iterable[str] = [line.rstrip(" ") for line in map(template.__mod__, cells)]
    if grid.above:
        above = grid.above[start:end]
        lines = ["\n".join([*texts, line]) if texts else line for texts, line in zip(above, lines)]
    if grid.below:
        below = grid.below[start:end]
        lines = ["\n".join([line, *texts]) if texts else line for texts, line in zip(below, lines)]
    return "\n".join(lines) + "\n"
