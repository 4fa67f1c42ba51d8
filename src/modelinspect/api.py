"""
The public calls: one a command, each returning the report that the command shows.

Nothing here prints. What a caller should know stands in the report's ``notes``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Union

from modelinspect.errors import MissingDependencyError, UsageError
from modelinspect.readers.registry import open_checkpoint as _open_path
from modelinspect.targets import no_such_file, parse_target
from modelinspect.tensors import Checkpoint, Kind, ParameterTable, TensorInfo

if TYPE_CHECKING:
    from modelinspect.analysis.count import CountReport, Grouping
    from modelinspect.analysis.fit import FitReport
    from modelinspect.analysis.listing import ParamsReport
    from modelinspect.analysis.summary import ValueSummary
    from modelinspect.live.definition import Definition

__all__ = ["count", "fit", "load_definition", "open_checkpoint", "params"]

Inspectable = Union[str, "os.PathLike[str]", Checkpoint, "Definition", ParameterTable, Mapping[str, Any], Any]
"""A target as on the command line, a path, a checkpoint, a definition, a table, an
``nn.Module`` in hand, or a dict of tensors."""


def open_checkpoint(path: str | os.PathLike[str], *, read_as: str | None = None) -> Checkpoint:
    """
    Read the headers of a checkpoint; no tensor's values, no code of the file's.

    Args:
        path: A file, a ``*.index.json`` or a directory.
        read_as: A format's name, e.g. ``safetensors``; skips recognition.

    Returns:
        Its tables by section; ``.table`` is the model's.

    Raises:
        TargetError: There is nothing to read at *path*.
        CheckpointError: It cannot be read; the subclass says why.

    Example:
        >>> open_checkpoint("model.safetensors").table["0.weight"].shape  # doctest: +SKIP
        (13, 1)
    """
    text = os.fspath(path)
    if not os.path.lexists(text):
        raise no_such_file(text)
    return _open_path(text, text, read_as)


def load_definition(target: str, *, real: bool = False, seed: int | None = None) -> Definition:
    """
    Build a model definition; this runs the definition's Python.

    Args:
        target: As on the command line, e.g. ``net.py:Net(1, hidden=13)``.
        real: Allocate and initialise the parameters instead of using the meta device.
        seed: Of torch's generators while a real model is built; they are restored.

    Returns:
        The module and its table.

    Raises:
        DefinitionError: It can't be found or built, or it is no module.
        MissingDependencyError: torch is missing or broken.
    """
    return _live("definition").load_definition(target, meta=not real, seed=seed)  # type: ignore[no-any-return]


def count(
    what: Inspectable,
    *,
    by: Grouping | None = None,
    depth: int | None = None,
    section: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sort: str | None = None,
    reverse: bool = False,
    top: int | None = None,
    read_as: str | None = None,
) -> CountReport:
    """
    Count parameters, buffers and bytes.

    Args:
        what: See :data:`Inspectable`.
        by: Also total by ``dtype``, ``kind``, ``module``, ``prefix``, ``section`` or ``shard``.
        depth: Dotted parts that ``prefix`` and ``module`` keep.
        section: Of a checkpoint: the section to count; ``"all"`` counts everything.
        include: Globs of names to count; ``*`` crosses dots. Empty counts all.
        exclude: Globs of names to leave out.
        sort: Figure to order the groups by; None keeps the order of the table.
        reverse: Turn the order of the groups round.
        top: Groups to keep, after sorting.
        read_as: Of a file: the format's name, instead of recognising it.

    Returns:
        The figures; ``.unique`` is the headline.

    Raises:
        ModelInspectError: As :func:`open_checkpoint` and :func:`load_definition`.

    Example:
        >>> count("models/regression.py").unique  # doctest: +SKIP
        40
    """
    from modelinspect.analysis.count import count_table, sort_groups
    from modelinspect.analysis.remarks import optimizer_remarks

    if by is None and (depth is not None or sort is not None or reverse or top is not None):
        raise UsageError(
            "--depth, --sort, --reverse and --top are of groups", hint="add --by, e.g. --by prefix"
        )
    table, holder = _table_of(what, section, read_as)
    table, notes = _filtered(table, include, exclude)
    everything = None
    if by == "section":
        if not isinstance(holder, Checkpoint):
            raise UsageError("only a checkpoint has sections")
        everything = holder.section("all")
    report = count_table(table, by=by, depth=depth, group_over=everything)
    said: tuple[str, ...] = ()
    if isinstance(holder, Checkpoint):
        said = holder.notes
        if table is holder.table:
            said += optimizer_remarks(holder, report.unique)
    groups = sort_groups(report.groups, sort, reverse)[:top]
    return replace(report, groups=groups, notes=(*notes, *said, *report.notes))


def params(
    what: Inspectable,
    *,
    section: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    kinds: Sequence[Kind] = (),
    sort: str | None = None,
    reverse: bool = False,
    top: int | None = None,
    tree: bool = False,
    depth: int | None = None,
    values: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    read_as: str | None = None,
) -> ParamsReport:
    """
    The parameter table: which tensors, in which order.

    Args:
        what: See :data:`Inspectable`.
        section: Of a checkpoint: the section to list; ``"all"`` lists everything.
        include: Globs of names to show; ``*`` crosses dots. Empty shows all.
        exclude: Globs of names to leave out.
        kinds: Kinds to show, e.g. ``["parameter"]``. Empty shows all.
        sort: Column to sort by; None keeps the order of the file or of registration.
        reverse: Turn the order round.
        top: Rows to keep, after sorting.
        tree: Also arrange the rows as a tree of modules.
        depth: Levels of the tree to show; None shows all.
        values: Summarise the values, which reads them; a definition is built for
            real, so what it shows is a fresh initialisation.
        seed: Of that initialisation.
        progress: While values are read: told of the bytes done and of those in all.
        read_as: Of a file: the format's name, instead of recognising it.

    Raises:
        ModelInspectError: As :func:`open_checkpoint` and :func:`load_definition`.
    """
    from modelinspect.analysis.listing import ParamsReport, build_tree, total
    from modelinspect.analysis.remarks import unregistered_remarks

    if depth is not None and not tree:
        raise UsageError("a depth was given and no tree asked for", hint="add --tree")
    if top is not None and top < 0:
        raise UsageError(f"--top is {top}, and can't be negative")
    if depth is not None and depth < 0:
        raise UsageError(f"--depth is {depth}, and can't be negative")
    table, holder = _table_of(what, section, read_as)
    rows, unmatched = _select(table, include, exclude)
    if kinds:
        rows = [row for row in rows if row.kind in kinds]
    rows = _in_order(rows, sort, reverse)[:top]
    summaries, value_notes = (
        _values(table, holder, rows, seed, progress, in_hand=holder is what) if values else (None, ())
    )
    return ParamsReport(
        table=table,
        tensors=rows,
        totals=total(rows, table.tied_to),
        tied_to=table.tied_to,
        tree=build_tree(rows, table, depth) if tree else None,
        values=summaries,
        notes=(
            *(holder.notes if isinstance(holder, Checkpoint) else ()),
            *table.notes,
            *unregistered_remarks(table),
            *value_notes,
            *_unmatched(unmatched),
        ),
    )


def fit(definition: Inspectable, checkpoint: Inspectable, *, section: str | None = None) -> FitReport:
    """
    Put a definition and a checkpoint side by side: would ``load_state_dict`` accept it?

    Args:
        definition: Whose names and shapes are expected.
        checkpoint: Whose tensors are offered.
        section: Of the checkpoint.

    Returns:
        A row a name; ``.fits`` is the answer.
    """
    from modelinspect.analysis.fit import fit as compare

    expected, _ = _table_of(definition, None, None)
    found, holder = _table_of(checkpoint, section, None)
    report = compare(expected, found)
    said = holder.notes if isinstance(holder, Checkpoint) else ()
    return replace(report, notes=(*said, *expected.notes, *report.notes))


def _table_of(what: Inspectable, section: str | None, read_as: str | None) -> tuple[ParameterTable, Any]:
    """The table that *what* stands for, and who holds it: a checkpoint, a definition, *what* itself."""
    if isinstance(what, (str, os.PathLike)):
        target = parse_target(os.fspath(what)) if isinstance(what, str) else None
        if target is not None and target.kind == "definition":
            what = _live("definition").load_definition(target)
        else:
            what = open_checkpoint(what if target is None else target.path, read_as=read_as)
    if isinstance(what, Checkpoint):
        return what.section(section), what
    if section is not None:
        raise UsageError("only a checkpoint has sections")
    return _table_in_memory(what), what


def _table_in_memory(what: Any) -> ParameterTable:
    if isinstance(what, ParameterTable):
        return what
    table = getattr(what, "table", None)
    if isinstance(table, ParameterTable):
        return table
    if _is_module(what):
        name = type(what).__name__
        return _live("module_table").module_table(what, name, origin="memory")  # type: ignore[no-any-return]
    if isinstance(what, Mapping):
        return _live("module_table").tensors_table(what, "dict")  # type: ignore[no-any-return]
    raise UsageError(
        f"a {type(what).__name__} can't be inspected",
        details=("expected a target, a path, a checkpoint, a definition, an nn.Module or a dict of tensors",),
    )


def _is_module(what: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(what, torch.nn.Module)


def _values(
    table: ParameterTable,
    holder: Any,
    rows: Sequence[TensorInfo],
    seed: int,
    progress: Callable[[int, int], None] | None,
    *,
    in_hand: bool,
) -> tuple[Mapping[str, ValueSummary], tuple[str, ...]]:
    """
    Summaries of the values by name, and what is to be said of them.

    A definition that the caller built for real (*in_hand*) has values of its own; one
    that was built here from its target is built again, under the seed.
    """
    try:
        from modelinspect.analysis.statistics import summarise_files
    except ImportError as error:
        raise MissingDependencyError(
            f"values need numpy, and numpy can't be imported: {error}", hint="pip install numpy"
        ) from error
    if table.origin == "file":
        return summarise_files(table, rows, progress=progress), ()
    live = _live("values")
    if _is_module(holder):
        return live.summarise_module(holder, rows, progress=progress), ()
    if isinstance(holder, Mapping):
        return live.summarise_mapping(holder, rows, progress=progress), ()
    if isinstance(holder, ParameterTable):
        raise UsageError(
            "a table has no values", hint="give the module or the definition that it was made from"
        )
    if in_hand and not any(tensor.device == "meta" for tensor in table):
        return live.summarise_module(holder.module, rows, progress=progress), ()
    return live.summarise_fresh(holder, rows, seed=seed, progress=progress)  # type: ignore[no-any-return]


def _live(module: str) -> Any:
    """
    A module of the room where torch is alive, imported only when it is needed; the room
    itself says what to install where torch is missing.
    """
    return import_module(f"modelinspect.live.{module}")


def _filtered(
    table: ParameterTable, include: Sequence[str], exclude: Sequence[str]
) -> tuple[ParameterTable, tuple[str, ...]]:
    if not include and not exclude:
        return table, ()
    rows, unmatched = _select(table, include, exclude)
    return replace(table, tensors=rows), _unmatched(unmatched)


def _select(
    table: ParameterTable, include: Sequence[str], exclude: Sequence[str]
) -> tuple[Sequence[TensorInfo], Sequence[str]]:
    """The rows that globs choose, and the globs that match nothing."""
    if not include and not exclude:
        return table.tensors, ()
    from modelinspect.analysis.selection import select

    return select(table.tensors, include, exclude)


def _in_order(rows: Sequence[TensorInfo], sort: str | None, reverse: bool) -> Sequence[TensorInfo]:
    if sort is None:
        return rows[::-1] if reverse else rows
    from modelinspect.analysis.selection import sort_rows

    return sort_rows(rows, sort, reverse)


def _unmatched(patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"no name matches {pattern!r}" for pattern in patterns)
