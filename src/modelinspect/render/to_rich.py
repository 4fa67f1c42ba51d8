"""
Sink: the layout of :mod:`to_lines` in colour. The only file that imports rich.

Texts reach rich as segments, never as markup, so ``[red]`` in a name stays what
it is. Colours are the sixteen that a terminal's own theme defines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style

from modelinspect.render.layout import Spans, below, body_row, card, grid_of, heading
from modelinspect.render.sheet import Sheet

__all__ = ["SheetRenderable", "rich_text"]

_STYLES = {
    "title": Style(bold=True),
    "head": Style(bold=True),
    "rule": Style(dim=True),
    "guide": Style(dim=True),
    "shape": Style(color="cyan"),
    "dtype": Style(color="magenta"),
    "bytes": Style(dim=True),
    "ratio": Style(dim=True),
    "number": Style(),
    "wrong": Style(color="red", bold=True),
    "text": Style(),
    "flag": Style(),
    "unknown": Style(dim=True, italic=True),
    "no": Style(color="yellow"),
    "0": Style(dim=True),
    "headline": Style(bold=True, color="green"),
    "short": Style(color="green"),
    "remark": Style(dim=True),
    "below": Style(dim=True),
    "footer": Style(dim=True),
    "status-ok": Style(color="green"),
    "status-missing": Style(color="red", bold=True),
    "status-unexpected": Style(color="yellow", bold=True),
    "status-shape": Style(color="red", bold=True),
    "status-layout": Style(color="red", bold=True),
    "status-dtype": Style(color="yellow"),
    "status-proven": Style(color="green", bold=True),
    "status-certain": Style(color="green"),
    "status-likely": Style(color="yellow"),
    "status-ambiguous": Style(color="red", bold=True),
    "status-made": Style(dim=True),
    "status-unused": Style(dim=True),
    "status-frozen": Style(dim=True),
    "status-cancelled": Style(dim=True),
    "status-none": Style(color="yellow", bold=True),
    "status-zero": Style(color="yellow", bold=True),
    "status-vanishing": Style(color="yellow", bold=True),
    "status-exploding": Style(color="red", bold=True),
    "status-inf": Style(color="red", bold=True),
    "status-nan": Style(color="red", bold=True),
}
_PLAIN = Style()
# What a summary of values says is wrong with them: NaN!×3.
_WRONG = re.compile(r"(\w+!×[0-9,]+)")


class SheetRenderable:
    """
    A sheet that rich can print: ``rich.print(SheetRenderable(sheet))``.

    Args:
        sheet: A table, or a card where it has no columns.
    """

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in _lines(self.sheet, options.max_width):
            for text, role in line:
                yield from _segments(text, role)
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)


def rich_text(sheet: Sheet, width: int | None = None) -> str:
    """
    The sheet with escape sequences for colour.

    Args:
        sheet: A table, or a card where it has no columns.
        width: Columns of the terminal; None is as wide as it takes.
    """
    console = Console(
        file=StringIO(),
        force_terminal=True,
        color_system="standard",
        width=100_000 if width is None else width,
        legacy_windows=False,
        no_color=False,
    )
    with console.capture() as captured:
        console.print(SheetRenderable(sheet), end="", soft_wrap=True)
    return captured.get()


def _segments(text: str, role: str) -> Iterator[Segment]:
    style = _STYLES.get(role, _PLAIN)
    if role not in ("text", "below"):
        yield Segment(text, style)
        return
    for index, part in enumerate(_WRONG.split(text)):
        yield Segment(part, _STYLES["wrong"] if index % 2 else style)


def _lines(sheet: Sheet, width: int) -> Iterator[Spans]:
    if not sheet.columns:
        yield from card(sheet, width)
        return
    grid = grid_of(sheet, width)
    yield from heading(sheet, grid, width)
    for row in range(len(grid.columns[0].cells)):
        yield from body_row(grid, row)
    yield from below(sheet, width, grid.left_out)
