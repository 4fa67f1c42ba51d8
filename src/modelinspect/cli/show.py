"""
Where a result goes: stdout or a file, in which form and how wide.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from modelinspect.errors import UsageError
from modelinspect.render.output import choose_format, write_sheets

if TYPE_CHECKING:
    from modelinspect.cli.options import OutputFormat
    from modelinspect.render.sheet import Sheet

__all__ = ["chosen_format", "show", "write_text"]

_BY_SUFFIX: dict[str, OutputFormat] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".md": "markdown",
    ".markdown": "markdown",
}


def chosen_format(requested: OutputFormat | None, json: bool, output: str | None) -> OutputFormat:
    """
    The form of the result: what was asked for, else what the file's suffix says, else
    a table on a terminal and plain lines anywhere else.

    Raises:
        UsageError: ``--json`` and another ``--format`` were asked for.
    """
    if json and requested not in (None, "json"):
        raise UsageError(f"--json and --format {requested} contradict each other")
    if json:
        return "json"
    if requested is None and output is not None:
        return _BY_SUFFIX.get(os.path.splitext(output)[1].lower(), "plain")
    return choose_format(requested, sys.stdout.isatty())


def show(
    sheets: Sequence[Sheet], form: OutputFormat, output: str | None = None, *, fold: bool = True
) -> None:
    """
    Write sheets to stdout or, whole or not at all, to a file.

    Args:
        sheets: One below the other; JSON takes exactly one.
        form: As :func:`chosen_format` says.
        output: File to replace; None is stdout.
        fold: Fold repeated blocks in a table.
    """
    if output is None:
        write_sheets(sheets, form, sys.stdout, fold=fold)
        return
    from modelinspect.writers.atomic import replacing

    with replacing(output) as stream:
        write_sheets(sheets, form, stream, fold=fold)


def write_text(chunks: Iterable[str], output: str | None) -> None:
    """
    Write text that no sink makes to stdout or, whole or not at all, to a file.

    Args:
        chunks: The text.
        output: File to replace; None is stdout.
    """
    if output is None:
        sys.stdout.writelines(chunks)
        return
    from modelinspect.writers.atomic import replacing

    with replacing(output) as stream:
        stream.writelines(chunks)
