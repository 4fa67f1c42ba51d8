"""
A report laid out as a sheet: columns, rows of raw values, and what stands around them.

Views make sheets, sinks write them. Values stay raw (integers, floats, tuples,
None) until a sink turns them into text, so that no sink has to parse what
another one formatted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Literal, NamedTuple

__all__ = ["SCHEMA_VERSION", "Column", "ColumnKind", "Line", "Sheet"]

SCHEMA_VERSION = 1
"""Of every JSON document; raised when a field changes its meaning or goes."""

ColumnKind = Literal["name", "text", "count", "bytes", "shape", "dtype", "ratio", "number", "flag", "status"]


class Column(NamedTuple):
    """
    One column: its key in JSON and CSV, its heading, and how its values are shown.

    Raw values by kind: ``name``, ``text``, ``dtype`` and ``status`` str; ``count``
    and ``bytes`` int; ``shape`` tuple of int; ``ratio`` float from 0 to 1; ``number``
    any float, NaN and infinities too; ``flag`` bool. None is "not known" of a count or a
    flag, "none" of anything else.
    """

    key: str
    title: str
    kind: ColumnKind = "text"


class Line(NamedTuple):
    """
    One line of a footer: a label, a raw value and how to show it, e.g. ``("unique", 40, "count")``.

    Of kind ``text`` the value is a sentence; of kind ``status`` too, and the label
    is the status whose colour it has. In a card both have labels as other lines do, and
    the remark is the status.
    """

    label: str
    value: Any
    kind: ColumnKind = "count"
    remark: str = ""


@dataclass(frozen=True)
class Sheet:
    """
    What a sink writes.
    """

    report: str
    """Name of the report, e.g. ``params``; in JSON ``"report"``."""
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    """Above a table on a terminal; from a file or a user, so sinks escape it."""
    indents: Sequence[int] | None = None
    """Depth of each row in a tree; the first column is indented by it."""
    footer: tuple[Line, ...] = ()
    """Below a table on a terminal or in Markdown; not in plain, CSV or JSON. A sheet
    without columns is a card: these lines, the first being the headline, are all of it."""
    notes: tuple[str, ...] = ()
    """In JSON under ``"notes"``; the command line sends them to stderr otherwise."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the JSON document, raw. ``rows`` is added by the sink."""
    rows_key: str = "rows"
    """Name of the list of rows in JSON, e.g. ``tensors``."""
    hidden: frozenset[str] = frozenset()
    """Keys of columns that a table for people leaves out, because they say nothing
    there; plain, CSV and JSON hold them. The footer says so where it matters."""
    records: Sequence[Mapping[str, Any]] | None = None
    """What JSON and JSON Lines hold for each row where that is more than the
    columns say; None: the columns' keys and values."""
    names_above: bool = False
    """True: names too wide for their column stand above their rows before a dispensable
    column is left out."""
    dispensable: tuple[str, ...] = ()
    """Keys of columns that a narrow terminal leaves out, in this order, as many as it
    takes; a line below the table says which. A long text that is not among them goes
    below its row instead."""
    foldable: bool = False
    """True: repeated blocks may be folded on a terminal (first column holds names)."""
    fold_sums: tuple[str, ...] = ()
    """Keys of the columns that are added up when rows are folded; all others must be equal."""
    folds_equal_only: bool = False
    """True: rows are folded only where the columns that are added up are equal, too."""

    def for_people(self) -> Sheet:
        """The sheet without its hidden columns."""
        shown = [i for i, column in enumerate(self.columns) if column.key not in self.hidden]
        if len(shown) == len(self.columns):
            return self
        columns = tuple(self.columns[i] for i in shown)
        if len(shown) > 1:
            rows: list[Sequence[Any]] = list(map(itemgetter(*shown), self.rows))
        else:
            rows = [[row[i] for i in shown] for row in self.rows]
        return replace(self, columns=columns, rows=rows, hidden=frozenset())
