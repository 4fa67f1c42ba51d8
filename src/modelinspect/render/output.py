"""
The forms that a result can take, and which sink writes each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TextIO, get_args

from modelinspect.render.sheet import Sheet

__all__ = ["FORMATS", "Format", "Terminal", "choose_format", "terminal_of", "write_sheet", "write_sheets"]

Format = Literal["table", "plain", "json", "jsonl", "csv", "tsv", "markdown"]
FORMATS: tuple[Format, ...] = get_args(Format)

COLOURED_ROWS = 400
"""Tables of more rows are written in plain lines: colour would take longer than reading the file."""

# For streams that can't write these; anything else they lack becomes an escape.
_ASCII = str.maketrans("×·…─│├└∈μσ–▁▂▃▄▅▆▇█", "x|.-||`ems-_-~=+*%#")


class Terminal(NamedTuple):
    """What a stream can show."""

    width: int | None
    """Columns; None where lines may be as long as they like."""
    colour: bool


def choose_format(requested: Format | None, is_terminal: bool) -> Format:
    """What was asked for; else a table on a terminal and plain lines anywhere else."""
    if requested is not None:
        return requested
    return "table" if is_terminal else "plain"


def terminal_of(stream: TextIO, environ: Mapping[str, str] | None = None) -> Terminal:
    """
    Find out how wide a stream is and whether it shows colour.

    ``COLUMNS`` gives the width, ``FORCE_COLOR`` turns colour on also in a pipe,
    ``NO_COLOR`` turns it off whatever else is set, and so does ``TERM=dumb``. A
    file that was opened for the result is neither narrow nor coloured.

    Args:
        stream: Where the result goes.
        environ: Instead of the process's environment.
    """
    environ = os.environ if environ is None else environ
    is_terminal = stream.isatty()
    if not is_terminal and stream is not sys.stdout:
        return Terminal(None, False)
    forced = environ.get("FORCE_COLOR", "") not in ("", "0")
    colour = forced or (is_terminal and environ.get("TERM") != "dumb")
    return Terminal(_width(stream, environ, is_terminal), colour and not environ.get("NO_COLOR"))


def _width(stream: TextIO, environ: Mapping[str, str], is_terminal: bool) -> int | None:
    columns = environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns[:6]) > 0:
        return int(columns[:6])
    if not is_terminal:
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def write_sheets(
    sheets: Sequence[Sheet],
    form: Format,
    stream: TextIO,
    *,
    terminal: Terminal | None = None,
    fold: bool = True,
) -> None:
    """
    Write sheets one below the other, with an empty line between tables.

    Args:
        sheets: As many as there are; JSON has room for one.
        form: The form to write.
        stream: Where to.
        terminal: What the stream can show; None finds out.
        fold: Fold repeated blocks, in a table.

    Raises:
        ValueError: Several sheets were to become one JSON document.
    """
    if form == "json" and len(sheets) > 1:
        raise ValueError("a JSON document holds one sheet")
    for index, sheet in enumerate(sheets):
        if index and form in ("table", "markdown"):
            stream.write("\n")
        write_sheet(sheet, form, stream, terminal=terminal, fold=fold)


def write_sheet(
    sheet: Sheet, form: Format, stream: TextIO, *, terminal: Terminal | None = None, fold: bool = True
) -> None:
    """
    Write one sheet. Arguments as :func:`write_sheets`.

    Characters that the stream's encoding lacks are written in ASCII.
    """
    if form == "table" and terminal is None:
        terminal = terminal_of(stream)
    for chunk in _chunks(sheet, form, terminal or Terminal(None, False), fold):
        _write(stream, chunk)


def _chunks(sheet: Sheet, form: Format, terminal: Terminal, fold: bool) -> Iterable[str]:
    """The sheet's text, by the sink of that form; each sink is loaded when it is needed."""
    match form:
        case "table":
            return _table(sheet.for_people(), terminal, fold)
        case "plain":
            from modelinspect.render.to_delimited import plain_chunks

            return plain_chunks(sheet)
        case "csv" | "tsv":
            from modelinspect.render.to_delimited import csv_chunks

            return csv_chunks(sheet, "," if form == "csv" else "\t")
        case "json":
            from modelinspect.render.to_json import json_chunks

            return json_chunks(sheet)
        case "jsonl":
            from modelinspect.render.to_json import json_lines_chunks

            return json_lines_chunks(sheet)
        case "markdown":
            from modelinspect.render.to_markdown import markdown_chunks

            return markdown_chunks(sheet.for_people())


def _table(sheet: Sheet, terminal: Terminal, fold: bool) -> Iterator[str]:
    if fold:
        from modelinspect.render.folding import fold as folded

        sheet = folded(sheet)
    if terminal.colour and len(sheet.rows) <= COLOURED_ROWS:
        from modelinspect.render.to_rich import rich_text

        yield rich_text(sheet, terminal.width)
        return
    from modelinspect.render.to_lines import lines_chunks

    yield from lines_chunks(sheet, terminal.width)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding))
