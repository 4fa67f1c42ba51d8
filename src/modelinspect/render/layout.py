"""
Where everything stands on a terminal: one layout for plain lines and for colour.

A line is a list of spans, a text and its role; :mod:`to_lines` joins the texts
and :mod:`to_rich` gives each role a colour, so that both look alike. Nothing is
ever cut. Where a terminal is too narrow for a table, long texts leave it: a
name stands on a line of its own above its row, in one piece, and what it is tied
to or what its values are on lines below. Columns that a view calls dispensable
are left out, and a line says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelinspect.errors import visible
from modelinspect.render.cells import RIGHT_ALIGNED, columns_of, display_width, is_narrow, shown_column
from modelinspect.render.sheet import ColumnKind, Line, Sheet
from modelinspect.render.units import (
    SHORT_FROM,
    long_bytes,
    long_count,
    ratio_text,
    short_bytes,
    short_count,
    short_number,
)

__all__ = [
    "GAP",
    "Column",
    "Grid",
    "Spans",
    "below",
    "body_row",
    "card",
    "card_cells",
    "grid_of",
    "heading",
    "pad",
    "wrap",
]

GAP = "  "
Spans = list[tuple[str, str]]
"""One line: texts and their roles, left to right."""

_DEEPEST = 40
"""Levels that a tree is indented by; what lies deeper stands in line with it."""
_LEAST_NAME = 10
"""Columns of a terminal that the names keep, however narrow it is."""
_LEAST_BELOW = 14
"""A column of texts that is narrower than this stays in the table."""
_WIDEST = 240
"""Blanks fill a column up to this; one name of a megabyte doesn't make each row a megabyte."""


@dataclass(frozen=True)
class Column:
    """One column as text: escaped, its width settled."""

    title: str
    kind: ColumnKind
    cells: list[str]
    width: int

    @property
    def is_right(self) -> bool:
        """Is it aligned right?"""
        return self.kind in RIGHT_ALIGNED


@dataclass(frozen=True)
class Grid:
    """
    A sheet's table as text: what stands above, in and below each row's line.
    """

    columns: list[Column]
    """Those of the line; the first holds blanks where the name stands above."""
    above: list[list[str]] | None
    """For each row the lines of a name that is too wide; None where none is."""
    below: list[list[str]] | None
    """For each row the lines of texts for which there is no column."""
    guides: list[str] | None
    """What stands before the label in each row of a tree; the label's cell begins with it."""
    is_narrow: bool
    """Each character takes one column, so that len() is the width."""
    left_out: tuple[str, ...] = ()
    """Titles of the columns for which the terminal was too narrow."""


def grid_of(sheet: Sheet, width: int | None) -> Grid:
    """
    Lay a sheet's table out.

    Args:
        sheet: With at least one column.
        width: Columns of the terminal; None is as wide as it takes.
    """
    guides = None if sheet.indents is None else _guides(sheet.indents)
    columns: list[Column] = []
    narrow = True
    for column, values in zip(sheet.columns, columns_of(sheet)):
        title, cells = visible(column.title), shown_column(column.kind, values)
        if guides is not None and not columns:
            cells = [guide + label for guide, label in zip(guides, cells)]
        column_is_narrow = is_narrow([title, *cells])
        size = max(map(len if column_is_narrow else display_width, [title, *cells]))
        columns.append(Column(title, column.kind, cells, size))
        narrow = narrow and column_is_narrow
    if width is None:
        columns = [Column(c.title, c.kind, c.cells, min(c.width, _WIDEST)) for c in columns]
        return Grid(columns, None, None, guides, narrow)
    dispensable = [columns[i] for i in _positions(sheet) if i]
    may_stand_above = sheet.names_above or (guides is None and not _fit(columns, dispensable, width))
    columns, left_out = _without(columns, dispensable, width, may_stand_above)
    inline, beneath = _parted(columns, width)
    first, above = _name_column(inline, guides, width)
    return Grid([first, *inline[1:]], above, _lines_below(beneath, guides, width), guides, narrow, left_out)


def _positions(sheet: Sheet) -> list[int]:
    keys = [column.key for column in sheet.columns]
    return [keys.index(key) for key in sheet.dispensable if key in keys]


def _without(
    columns: list[Column], dispensable: Sequence[Column], width: int, names_may_stand_above: bool
) -> tuple[list[Column], tuple[str, ...]]:
    """The columns less those that have to go for the others to fit; texts that may stand below aside."""
    kept, gone = list(columns), []
    # Names of a flat table may stand above their rows; labels of a tree may not.
    spared = max(0, columns[0].width - _LEAST_NAME) if names_may_stand_above else 0
    for column in dispensable:
        if _total(_of_the_line(kept, dispensable)) - spared <= width:
            break
        kept.remove(column)
        gone.append(column.title)
    return kept, tuple(gone)


def _fit(columns: Sequence[Column], dispensable: Sequence[Column], width: int) -> bool:
    """Does a row fit its line, name included, once all that can be left out is?"""
    return _total(_of_the_line([c for c in columns if c not in dispensable], ())) <= width


def _of_the_line(columns: Sequence[Column], dispensable: Sequence[Column]) -> list[Column]:
    """The columns that a row's line has to hold."""
    return [c for c in columns if c is columns[0] or c in dispensable or not _may_stand_below(c)]


def _may_stand_below(column: Column) -> bool:
    return column.kind in ("name", "text") and column.width >= _LEAST_BELOW


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def _parted(columns: Sequence[Column], width: int) -> tuple[list[Column], list[Column]]:
    """Columns of the line and columns of texts that go below it, the emptiest first."""
    inline, beneath = list(columns), []
    texts = filter(_may_stand_below, columns[1:])
    for column in sorted(texts, key=lambda c: sum(1 for cell in c.cells if cell)):
        if _total(inline) <= width:
            break
        inline.remove(column)
        beneath.append(column)
    # The last to go may have left room for those that went before it.
    for column in list(beneath):
        if _total([*inline, column]) <= width:
            inline.append(column)
            beneath.remove(column)
    kept = [column for column in columns if column in inline]
    return kept, [column for column in columns if column in beneath]


def _name_column(
    inline: Sequence[Column], guides: list[str] | None, width: int
) -> tuple[Column, list[list[str]] | None]:
    """The first column in the room that the others leave, and the names that are too wide for it."""
    first = inline[0]
    room = max(width - _total(inline) + first.width, _LEAST_NAME, display_width(first.title))
    if first.width <= room or first.kind not in ("name", "text"):
        return first, None
    stems = [""] * len(first.cells) if guides is None else list(map(_stem, guides))
    above: list[list[str]] = []
    cells = []
    for cell, stem in zip(first.cells, stems):
        fits = display_width(cell) <= room
        above.append([] if fits else wrap(cell, width))
        cells.append(cell if fits else stem)
    return Column(first.title, first.kind, cells, max(room, *map(len, stems), 0)), above


def _stem(guide: str) -> str:
    """The guides beside a second line of the same row."""
    return guide and guide[:-3] + ("│  " if guide[-3] == "├" else "   ")


def _lines_below(beneath: Sequence[Column], guides: list[str] | None, width: int) -> list[list[str]] | None:
    if not beneath:
        return None
    stems = [""] * len(beneath[0].cells) if guides is None else list(map(_stem, guides))
    rows = []
    for stem, cells in zip(stems, zip(*(column.cells for column in beneath))):
        texts = [f"{column.title}: {cell}" for column, cell in zip(beneath, cells) if cell]
        indent = f"{stem}    "
        room = max(_LEAST_NAME, width - len(indent))
        rows.append([indent + line for text in texts for line in wrap(text, room)])
    return rows


def _guides(indents: Sequence[int]) -> list[str]:
    """
    The light lines before each row of a tree: ``│  ├─ ``. Rows of depth 0 have none.
    """
    guides = [""] * len(indents)
    # From below: is there another row to come at this depth, under the same parent?
    open_depths = [False] * (_DEEPEST + 2)
    for row in range(len(indents) - 1, -1, -1):
        depth = min(indents[row], _DEEPEST)
        if depth:
            stems = "".join("│  " if is_open else "   " for is_open in open_depths[1:depth])
            guides[row] = f"{stems}{'├─ ' if open_depths[depth] else '└─ '}"
        open_depths[depth] = True
        open_depths[depth + 1 :] = [False] * (_DEEPEST + 1 - depth)
    return guides


# --------------------------------------------------------------------- lines


def heading(sheet: Sheet, grid: Grid, width: int | None) -> Iterator[Spans]:
    """Title, names of the columns, and a rule under each."""
    yield from _title(sheet, width)
    yield _joined([(pad(column.title, column.width, column.is_right), "head") for column in grid.columns])
    yield _joined([("─" * column.width, "rule") for column in grid.columns])


def body_row(grid: Grid, row: int) -> Iterator[Spans]:
    """One row of the table: its line, and what stands above and below it."""
    guide = "" if grid.guides is None else grid.guides[row]
    for text in grid.above[row] if grid.above else ():
        yield _split(text, guide, grid.columns[0].kind)
    cells = [
        (pad(column.cells[row], column.width, column.is_right), _role(column.kind, column.cells[row]))
        for column in grid.columns
    ]
    line = _joined(cells)
    yield [*_split(line[0][0], guide, line[0][1]), *line[1:]] if line else []
    for text in grid.below[row] if grid.below else ():
        yield _split(text, _stem(guide), "below")


def _split(text: str, guide: str, role: str) -> Spans:
    """A label apart from the guides before it."""
    if not guide:
        return [(text, role)]
    return [(text[: len(guide)], "guide"), (text[len(guide) :], role)]


def _role(kind: ColumnKind, cell: str) -> str:
    if kind == "status":
        return f"status-{cell}"
    if kind in ("name", "text"):
        return kind
    if kind == "number" and cell in ("NaN", "inf", "-inf"):
        return "wrong"
    return cell if cell in ("unknown", "no", "0") else kind


def _title(sheet: Sheet, width: int | None) -> Iterator[Spans]:
    if sheet.title:
        for line in wrap(visible(sheet.title), width):
            yield [(line, "title")]
        yield []


def below(sheet: Sheet, width: int | None, left_out: Sequence[str] = ()) -> Iterator[Spans]:
    """The footer: figures side by side, each text on a line of its own."""
    texts = [_sentence(line) for line in sheet.footer if line.kind in ("text", "status")]
    if left_out:
        texts.append((f"left out, the terminal is too narrow: {', '.join(left_out)}", "footer"))
    if sheet.footer or texts:
        yield []
    figures = [_figure(line) for line in sheet.footer if line.kind not in ("text", "status")]
    yield from _flowed(figures, width)
    for text, role in texts:
        yield from ([(line, role)] for line in wrap(text, width))


def _figure(line: Line) -> str:
    remark = f" ({visible(line.remark)})" if line.remark else ""
    if line.value is None:
        return f"{visible(line.label)} unknown{remark}"
    if line.kind == "bytes":
        label = "" if line.label in ("byte", "bytes") else f" {visible(line.label)}"
        return f"{long_bytes(line.value)}{label}{remark}"
    if line.kind == "number":
        return f"{visible(line.label)} {short_number(line.value)}{remark}"
    text = ratio_text(line.value) if line.kind == "ratio" else long_count(line.value)
    return f"{text} {visible(line.label)}{remark}"


def _sentence(line: Line) -> tuple[str, str]:
    """A line of text and its role."""
    if line.kind == "status":
        return visible(str(line.value)), f"status-{line.label}"
    parts = [visible(str(part)) for part in (line.label, line.value) if part]
    return ": ".join(parts) + (f" ({visible(line.remark)})" if line.remark else ""), "footer"


def _flowed(items: Sequence[str], width: int | None) -> Iterator[Spans]:
    line = ""
    for item in items:
        longer = f"{line} · {item}" if line else item
        if line and width is not None and display_width(longer) > width:
            yield [(line, "footer")]
            longer = item
        line = longer
    if line:
        yield [(line, "footer")]


def card(sheet: Sheet, width: int | None) -> Iterator[Spans]:
    """
    A sheet without a table: label, figure in full, short form and remark of each line.

    A text has the whole line after its label.
    """
    yield from _title(sheet, width)
    rows = card_cells(sheet)
    sizes = [max((display_width(row[i]) for row in rows), default=0) for i in range(3)]
    left = sum(sizes) + 2 * len(GAP) + (len(GAP) if sizes[2] else 0)
    for index, (label, full, short, remark) in enumerate(rows):
        padded = (pad(label, sizes[0], False), "headline" if index == 0 else "label")
        if sheet.footer[index].kind in ("text", "status"):
            yield from _text_line(padded, remark, _card_role(sheet.footer[index], index), width)
            continue
        role = "headline" if index == 0 else "unknown" if full == "unknown" else "count"
        line = [
            padded,
            (pad(full, sizes[1], True), role),
            *([(pad(short, sizes[2], True), "short")] if sizes[2] else []),
        ]
        yield from _with_remark(line, remark, left, width)


def _card_role(line: Line, index: int) -> str:
    if line.kind == "status":
        return f"status-{line.remark}"
    return "headline" if index == 0 else "text"


def _text_line(label: tuple[str, str], text: str, role: str, width: int | None) -> Iterator[Spans]:
    left = display_width(label[0]) + len(GAP)
    first, *more = wrap(text, None if width is None else max(_LEAST_NAME, width - left))
    yield _joined([label, (first, role)])
    yield from ([(" " * left + further, role)] for further in more)


def card_cells(sheet: Sheet) -> list[tuple[str, str, str, str]]:
    """Label, figure in full, short form or nothing, remark, text or nothing; escaped."""
    return [
        (visible(line.label), "", "", visible(str(line.value)))
        if line.kind in ("text", "status")
        else (visible(line.label), *_full_and_short(line), visible(line.remark))
        for line in sheet.footer
    ]


def _full_and_short(line: Line) -> tuple[str, str]:
    if line.value is None:
        return "unknown", ""
    if line.kind == "bytes":
        return f"{line.value:,}", f"({short_bytes(line.value)})" if line.value >= 1024 else ""
    if line.kind == "count":
        return f"{line.value:,}", f"({short_count(line.value)})" if line.value >= SHORT_FROM else ""
    if line.kind == "number":
        return short_number(line.value), ""
    return ratio_text(line.value) if line.kind == "ratio" else visible(str(line.value)), ""


def _with_remark(line: Spans, remark: str, left: int, width: int | None) -> Iterator[Spans]:
    """The remark beside the figures, or below them where the terminal is too narrow."""
    room = None if width is None else width - left
    if room is not None and room < 24 and remark:
        yield _joined(line)
        yield from ([("    " + text, "remark")] for text in wrap(remark, max(8, (width or 80) - 4), hang=0))
        return
    first, *more = wrap(remark, room, hang=0)
    yield _joined([*line, (first, "remark")])
    yield from ([(" " * left + text, "remark")] for text in more)


# --------------------------------------------------------------------- texts


def _joined(cells: Spans) -> Spans:
    """Cells with gaps between them, without blanks at the end."""
    line: Spans = []
    for cell in cells:
        line += [(GAP, ""), cell] if line else [cell]
    while line and not line[-1][0].rstrip(" "):
        line.pop()
    if line:
        line[-1] = (line[-1][0].rstrip(" "), line[-1][1])
    return line


def pad(text: str, width: int, right: bool) -> str:
    """A text filled with blanks to a width in columns of a terminal."""
    blanks = " " * (width - display_width(text))
    return blanks + text if right else text + blanks


_WORD = re.compile(r"\S+\s*")
# Where a word may be parted: after a dot, a comma, a slash; not inside braces.
_PIECE = re.compile(r"(?:\{[^{}]*\}|[^.,/])*(?:[.,/]+|$)")


def wrap(text: str, width: int | None, hang: int = 2) -> list[str]:
    """
    A text in lines that are no wider than asked, all of it.

    Args:
        text: One line.
        width: Columns; None leaves the text as it is.
        hang: Blanks before each line but the first.

    >>> wrap("tied to model.layers.{0..31}.weight", 20)
    ['tied to', '  model.layers.', '  {0..31}.weight']
    """
    if width is None or display_width(text) <= width:
        return [text]
    hang = hang if width > 2 * hang else 0
    lines, line, size = [], "", 0
    for piece, begins_long_word in _pieces(text, max(1, width - hang)):
        extent = display_width(piece.rstrip(" "))
        if line.strip(" ") and (begins_long_word or size + extent > width):
            lines.append(line.rstrip(" "))
            line, size = " " * hang, hang
        line, size = line + piece, size + display_width(piece)
    return [*lines, line.rstrip(" ")]


def _pieces(text: str, width: int) -> Iterator[tuple[str, bool]]:
    """Words, and parts of words that are wider than asked; True marks the first such part."""
    for word in _WORD.findall(text):
        if display_width(word.rstrip()) <= width:
            yield word, False
            continue
        begins = True
        for piece in filter(None, _PIECE.findall(word)):
            start = 0
            while start < len(piece):
                end = min(start + width, len(piece))
                while end > start + 1 and display_width(piece[start:end]) > width:
                    end -= 1
                yield piece[start:end], begins
                start, begins = end, False
