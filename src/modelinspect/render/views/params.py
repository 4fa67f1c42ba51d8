"""
View of :class:`~modelinspect.analysis.listing.ParamsReport`: the parameter table, flat or as a tree.

JSON (``params --json``): ``target``, ``section``, ``origin`` (``definition``, ``file``,
``memory``); ``totals``, an object of ``tensors``, ``unique``, ``buffers`` (elements) and
``bytes``, ties once; ``unregistered``, a list of objects ``name``, ``dtype``, ``shape``.
Then ``tensors``, a list of objects with the columns as keys: those asked for, else
``name``, ``shape``, ``dtype``, ``numel``, ``bytes``, ``kind``, ``trainable`` (null:
unknown), ``tied_to`` (null: not tied), and where there are quantized weights ``logical``, the
shape that a packed tensor stands for (null: none, or unknown), and ``quantized``, the layout;
``numel`` is then of what it stands for. Where an optimizer's state is listed, ``of`` is the
parameter that a moment belongs to (null: can't be told); where there are distributed tensors,
``placement`` is how each was cut (empty: not at all). ``values`` is null or an object of ``numel``,
``min``, ``max``, ``mean``, ``std``, ``zeros``, ``nans``, ``infinities``, ``values`` (nested
lists of a small tensor), ``reason``. With ``--tree`` instead ``tree``, a list of objects
``path``, ``label``, ``depth``, ``class``, ``shape``, ``dtype``, ``parameters``, ``buffers``,
``bytes``, ``percent``, ``tensors``, ``tied_to``, each directly below its parent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from modelinspect.analysis.listing import ParamsReport, TreeNode
from modelinspect.errors import UsageError, unknown_choice, visible
from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.render.summaries import summary_fields, summary_text
from modelinspect.tensors import TensorInfo

__all__ = ["PARAMS_COLUMNS", "TREE_COLUMNS", "params_sheet"]

_INFERRED = 8
"""Names below the table, of those taken for buffers."""

Cells = Callable[[ParamsReport, Sequence[TensorInfo]], list[Any]]

DEFAULT_COLUMNS = ("name", "shape", "dtype", "numel", "bytes", "kind", "trainable", "tied_to")


def params_sheet(report: ParamsReport, columns: tuple[str, ...] | None = None) -> Sheet:
    """
    The rows of the report, a row a tensor, or a row a module and tensor where it is a tree.

    Args:
        report: What :func:`modelinspect.params` returned.
        columns: Keys of :data:`PARAMS_COLUMNS`, or of :data:`TREE_COLUMNS` for a
            tree, in the order to show; None is the usual ones.

    Raises:
        UsageError: There is no such column; the message lists them.
    """
    if report.tree is not None:
        return _tree_sheet(report, report.tree, columns)
    keys = columns or _usual_columns(report)
    _check(keys, tuple(_COLUMNS), report)
    chosen = [_COLUMNS[key] for key in keys]
    cells = [values(report, report.tensors) for _, values in chosen]
    hidden, remarks = ((), []) if columns else _dull(report, dict(zip(keys, cells)))
    rows = list(zip(*cells))
    return Sheet(
        "params",
        tuple(column for column, _ in chosen),
        rows,
        title=_title(report),
        footer=(*_totals(report), *remarks, *_inferred(report)),
        notes=report.notes,
        summary=_summary(report),
        rows_key="tensors",
        records=_records(report, keys, rows) if "values" in keys else None,
        hidden=frozenset(hidden),
        # Where a terminal is too narrow: what the others imply, then what is looked for least.
        names_above=True,
        dispensable=() if columns else ("trainable", "kind", "bytes", "dtype"),
        # Braces need names to stand in; a sorted or chosen column may stand before them.
        foldable=keys[0] == "name",
        fold_sums=("numel", "bytes", "percent"),
    )


def _usual_columns(report: ParamsReport) -> tuple[str, ...]:
    values = () if report.values is None else ("values",)
    packed = any(tensor.quantized is not None for tensor in report.tensors)
    of = ("of",) if report.of else ()
    laid = ("placement",) if any(tensor.placement for tensor in report.tensors) else ()
    return (*DEFAULT_COLUMNS, *of, *laid, *values, *(("logical", "quantized") if packed else ()))


def _check(keys: Sequence[str], known: Sequence[str], report: ParamsReport) -> None:
    for key in keys:
        if key not in known:
            raise unknown_choice(f"there is no column {visible(key)!r}", key, "columns", known)
    if "values" in keys and report.values is None:
        raise UsageError("the column 'values' needs the values to be read", hint="add --values")


def _title(report: ParamsReport) -> str:
    table = report.table
    return f"{table.source} · section {table.section}" if table.section else table.source


def _summary(report: ParamsReport) -> dict[str, Any]:
    totals = report.totals
    return {
        "target": report.table.source,
        "section": report.table.section,
        "origin": report.table.origin,
        "totals": {
            "tensors": totals.tensors,
            "unique": totals.unique,
            "buffers": totals.buffers,
            "bytes": totals.nbytes,
        },
        "unregistered": [
            {"name": tensor.name, "dtype": tensor.dtype.name, "shape": tensor.shape}
            for tensor in report.table.unregistered
        ],
    }


def _records(
    report: ParamsReport, keys: Sequence[str], rows: Sequence[Sequence[Any]]
) -> list[dict[str, Any]]:
    """Rows for JSON, with the summary's figures instead of the words made of them."""
    summaries = report.values or {}
    return [
        {**dict(zip(keys, row)), "values": summary_fields(summaries.get(tensor.name))}
        for tensor, row in zip(report.tensors, rows)
    ]


# -------------------------------------------------------------------- footer


def _totals(report: ParamsReport) -> list[Line]:
    totals = report.totals
    lines = [
        Line("tensor" if totals.tensors == 1 else "tensors", totals.tensors),
        Line("unique parameter" if totals.unique == 1 else "unique parameters", totals.unique),
    ]
    if totals.buffers:
        lines.append(Line("in buffers", totals.buffers))
    lines.append(Line("bytes", totals.nbytes, "bytes"))
    if len(report.tensors) < len(report.table):
        lines.append(Line("", f"{len(report.tensors):,} of {len(report.table):,} tensors are shown", "text"))
    return lines


def _dull(report: ParamsReport, cells: dict[str, list[Any]]) -> tuple[tuple[str, ...], list[Line]]:
    """Columns in which a table for people would repeat one word, and what to say instead."""
    hidden: list[str] = []
    lines: list[Line] = []
    if not report.tensors:
        return (), []
    if not any(cells["tied_to"]):
        hidden.append("tied_to")
    if all(value is None for value in cells["trainable"]):
        hidden.append("trainable")
        if any(tensor.kind == "parameter" for tensor in report.tensors):
            lines.append(Line("trainable", "unknown, a state_dict does not record it", "text"))
    if "tied_to" in hidden:
        lines.append(Line("", "no tied tensors", "text"))
    return tuple(hidden), lines


def _inferred(report: ParamsReport) -> list[Line]:
    """Which buffers were told by their names alone."""
    leaves = Counter(
        tensor.name.rpartition(".")[2].rpartition("/")[2]
        for tensor in report.tensors
        if tensor.kind == "buffer" and not tensor.declared
    )
    if not leaves:
        return []
    shown = leaves.most_common(_INFERRED)
    names = ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in shown)
    more = len(leaves) - len(shown)
    names += f" and {more:,} more" if more else ""
    return [Line("taken for buffers by name or data type", names, "text")]


# ------------------------------------------------------------------- columns


def _field(name: str) -> Cells:
    return lambda _, tensors: [getattr(tensor, name) for tensor in tensors]


def _storage(name: str) -> Cells:
    return lambda _, tensors: [
        None if tensor.storage is None else getattr(tensor.storage, name) for tensor in tensors
    ]


def _shape(_: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    """None, not a scalar's empty shape, for what has none before its first use."""
    return [None if t.layout == "uninitialized" else t.shape for t in tensors]


def _numel(_: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    sizes: dict[tuple[int, ...], int] = {shape: prod(shape) for shape in {t.shape for t in tensors}}
    return [
        (0 if tensor.layout == "uninitialized" else sizes[tensor.shape])
        if tensor.quantized is None
        else tensor.quantized.numel
        for tensor in tensors
    ]


def _nbytes(_: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    # The plain case, spelt out: a property that calls properties takes five times as long.
    return [
        t.dtype.nbytes(prod(t.shape))
        if t.storage is not None and not t.parts and t.layout == "strided"
        else t.nbytes
        for t in tensors
    ]


def _trainable(_: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    # A declared buffer is not unknown: nobody trains it.
    return [
        False if t.kind == "buffer" and t.declared and t.requires_grad is None else t.requires_grad
        for t in tensors
    ]


def _tied_to(report: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    if not report.tied_to:
        return [None] * len(tensors)
    return [report.tied_to.get(tensor.name) for tensor in tensors]


def _offset(_: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    extents = [tensor.extent for tensor in tensors]
    return [None if extent is None else extent.offset for extent in extents]


def _percent(report: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    """Shares of the bytes shown; tied tensors have theirs at their first name, so that all make 100 %."""
    whole = report.totals.nbytes
    if not whole:
        return [None] * len(tensors)
    shown = {tensor.name for tensor in tensors}
    repeats = {name for name, first in report.tied_to.items() if first in shown}
    return [
        0.0 if tensor.name in repeats else nbytes / whole
        for tensor, nbytes in zip(tensors, _nbytes(report, tensors))
    ]


def _logical(_: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    return [None if t.quantized is None else t.quantized.shape for t in tensors]


def _scheme(_: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    from modelinspect.analysis.quantization import scheme_title

    return [
        None if t.quantized is None else scheme_title(t.quantized.scheme, t.quantized.bits) for t in tensors
    ]


def _values(report: ParamsReport, tensors: Sequence[TensorInfo]) -> list[Any]:
    summaries = report.values or {}
    return [summary_text(summaries.get(tensor.name)) for tensor in tensors]


_COLUMNS: dict[str, tuple[Column, Cells]] = {
    column.key: (column, cells)
    for column, cells in (
        (Column("name", "name", "name"), _field("name")),
        (Column("shape", "shape", "shape"), _shape),
        (Column("dtype", "dtype", "dtype"), lambda _, tensors: [t.dtype.name for t in tensors]),
        (Column("numel", "numel", "count"), _numel),
        (Column("bytes", "bytes", "bytes"), _nbytes),
        (Column("kind", "kind"), _field("kind")),
        (Column("trainable", "trainable", "flag"), _trainable),
        (Column("tied_to", "tied to", "name"), _tied_to),
        (Column("of", "of", "name"), lambda report, tensors: [report.of.get(t.name) for t in tensors]),
        (Column("stride", "stride", "shape"), _field("stride")),
        (Column("device", "device"), _field("device")),
        (Column("storage", "storage", "text"), _storage("key")),
        (Column("offset", "offset", "count"), _offset),
        (Column("storage_offset", "storage offset", "count"), _field("storage_offset")),
        (Column("storage_bytes", "storage bytes", "bytes"), _storage("nbytes")),
        (Column("file", "file", "text"), _storage("file")),
        (Column("percent", "% of bytes", "ratio"), _percent),
        (Column("layout", "layout"), _field("layout")),
        (Column("placement", "placement", "text"), _field("placement")),
        (Column("class", "class", "text"), _field("class_name")),
        (Column("persistent", "persistent", "flag"), _field("persistent")),
        (Column("declared", "declared", "flag"), _field("declared")),
        (Column("section", "section", "text"), _field("section")),
        (Column("values", "values", "text"), _values),
        (Column("logical", "stands for", "shape"), _logical),
        (Column("quantized", "quantized", "text"), _scheme),
    )
}
PARAMS_COLUMNS: tuple[str, ...] = tuple(_COLUMNS)
"""Keys of the columns that a flat table can show."""


# ---------------------------------------------------------------------- tree

_TREE_COLUMNS = {
    column.key: column
    for column in (
        Column("path", "path", "name"),
        Column("label", "module", "name"),
        Column("depth", "depth", "count"),
        Column("class", "class", "text"),
        Column("shape", "shape", "shape"),
        Column("dtype", "dtype", "dtype"),
        Column("parameters", "parameters", "count"),
        Column("buffers", "buffers", "count"),
        Column("bytes", "bytes", "bytes"),
        Column("percent", "% of bytes", "ratio"),
        Column("tensors", "tensors", "count"),
        Column("tied_to", "tied to", "name"),
    )
}
TREE_COLUMNS: tuple[str, ...] = tuple(_TREE_COLUMNS)
"""Keys of the columns that a tree can show."""


def _tree_sheet(report: ParamsReport, tree: Sequence[TreeNode], columns: tuple[str, ...] | None) -> Sheet:
    keys = columns or TREE_COLUMNS
    _check(keys, TREE_COLUMNS, report)
    whole = report.totals.nbytes
    records = [_tree_record(report, node, whole) for node in tree]
    hidden = set() if columns else _dull_in_tree(records)
    indents = [node.depth for node in tree]
    labels_first = next((key for key in keys if key not in hidden), "") == "label"
    return Sheet(
        "params",
        tuple(_TREE_COLUMNS[key] for key in keys),
        [tuple(record[key] for key in keys) for record in records],
        title=_title(report),
        indents=indents if labels_first else None,
        footer=(*_totals(report), *_inferred(report)),
        notes=report.notes,
        summary=_summary(report),
        rows_key="tree",
        hidden=frozenset(hidden),
        foldable=labels_first,
        dispensable=() if columns else ("dtype", "buffers", "percent"),
        fold_sums=("parameters", "buffers", "bytes", "percent", "tensors"),
    )


def _tree_record(report: ParamsReport, node: TreeNode, whole: int) -> dict[str, Any]:
    tensor, totals = node.tensor, node.totals
    return {
        "path": node.path,
        "label": node.label if node.depth else "(model)",
        "depth": node.depth,
        "class": node.class_name,
        "shape": None if tensor is None else tensor.shape,
        "dtype": None if tensor is None else tensor.dtype.name,
        "parameters": totals.unique,
        "buffers": totals.buffers,
        "bytes": totals.nbytes,
        "percent": totals.nbytes / whole if whole else None,
        "tensors": totals.tensors,
        "tied_to": None if tensor is None else report.tied_to.get(tensor.name),
    }


def _dull_in_tree(records: Sequence[dict[str, Any]]) -> set[str]:
    hidden = {"path", "depth", "tensors"}
    for key in ("class", "buffers", "tied_to", "shape", "dtype"):
        if not any(record[key] or record[key] == () for record in records):
            hidden.add(key)
    return hidden
