"""
Views of :class:`~modelinspect.analysis.count.CountReport`: a card, rows, numbers, groups.

JSON (``count --json``): ``targets`` is a list with one object a target: ``target``,
``section``; the figures ``unique``, ``named``, ``stored``, ``trainable``, ``frozen``,
``buffers``, ``persistent_buffers``, ``non_persistent_buffers`` in elements, ``bytes``;
``tensors``, ``parameter_tensors``, ``buffer_tensors``; ``dtypes``, a list of objects
``dtype``, ``tensors``, ``numel``, ``bytes``; ``ties``, a list of objects ``names``,
``numel``; ``quantized``, a list of objects ``scheme``, ``bits``, ``weights``, ``numel`` and
``bytes`` of the weights, ``scales`` (tensors beside them), ``scale_numel``, ``scale_bytes``;
``by`` and ``groups``, a list of objects ``label``, ``unique``, ``named``,
``trainable``, ``buffers``, ``bytes``, ``tensors``. Unknown figures are null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelinspect.analysis.count import CountReport, DTypeTotal, Quantity, TieGroup
from modelinspect.render.sheet import Column, ColumnKind, Line, Sheet

__all__ = ["count_card", "count_groups", "count_number", "count_record", "count_rows"]

_TIES_ON_A_CARD = 8
_IN_ALL = {"bytes": "in all"}
_TITLES = {"unique": "unique parameters", "buffers": "buffer elements"}


def count_card(report: CountReport) -> tuple[Sheet, ...]:
    """
    One target for people: a card, and a table of groups where groups were asked for.
    """
    lines = [
        Line("unique parameters", report.unique),
        Line("named", report.named, remark="" if report.ties else "no ties"),
        *_ties(report.ties),
        *([] if report.stored == report.unique else [_stored(report)]),
        *_quantized(report),
        *_trainable(report),
        Line("buffers", report.buffers, remark=_persistence(report)),
        *_bytes(report),
        Line("tensors", report.tensors, remark=_distinct(report)),
    ]
    card = Sheet("count", (), (), title=_title(report), footer=tuple(lines), notes=report.notes)
    return (card,) if report.by is None else (card, count_groups([report]))


def _title(report: CountReport) -> str:
    return f"{report.target} · section {report.section}" if report.section else report.target


def _ties(ties: Sequence[TieGroup]) -> list[Line]:
    from modelinspect.render.folding import fold_names

    lines = [
        Line("  tied", tie.numel, remark=" = ".join(name for name, _ in fold_names(tie.names)))
        for tie in ties[:_TIES_ON_A_CARD]
    ]
    more = ties[_TIES_ON_A_CARD:]
    if more:
        remark = f"in {len(more):,} more; --format json lists them"
        lines.append(Line("  tied", sum(tie.numel for tie in more), remark=remark))
    return lines


def _stored(report: CountReport) -> Line:
    less = "packed values, or elements that share their bytes"
    more = "scales lie inside the weights" if report.quantized else "views keep larger storages in the file"
    return Line("stored", report.stored, remark=less if report.stored < report.unique else more)


def _quantized(report: CountReport) -> list[Line]:
    return [
        Line("quantized", each.numel, remark=f"{each.title}, {_counted(each.weights, 'weight')}")
        for each in report.quantized
    ]


def _trainable(report: CountReport) -> list[Line]:
    if report.trainable is None:
        why = "a state_dict does not record it"
        return [Line("trainable", None, remark=why), Line("frozen", None, remark=why)]
    return [Line("trainable", report.trainable), Line("frozen", report.frozen)]


def _persistence(report: CountReport) -> str:
    if not report.buffers or report.non_persistent_buffers is None:
        return ""
    return f"{report.persistent_buffers:,} persistent, {report.non_persistent_buffers:,} not"


def _bytes(report: CountReport) -> list[Line]:
    if len(report.dtypes) == 1:
        return [Line("bytes", report.nbytes, "bytes", remark=f"all {report.dtypes[0].dtype}")]
    by_dtype = [
        Line(f"  {each.dtype}", each.nbytes, "bytes", remark=_of_dtype(each)) for each in report.dtypes
    ]
    return [Line("bytes", report.nbytes, "bytes"), *by_dtype]


def _of_dtype(total: DTypeTotal) -> str:
    return f"{_counted(total.numel, 'element')}, {_counted(total.tensors, 'tensor')}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _distinct(report: CountReport) -> str:
    """What the names of the section stand for."""
    parameters, buffers = report.parameter_tensors, report.buffer_tensors
    further = sum(len(tie.names) - 1 for tie in report.ties)
    others = report.tensors - parameters - buffers - further
    said = [(parameters, "parameter"), (buffers, "buffer"), (further, "further name"), (others, "other")]
    return ", ".join(_counted(count, noun) for count, noun in said if count)


# ------------------------------------------------------------------ a row each

_ROW_COLUMNS = (
    Column("target", "target", "name"),
    Column("section", "section", "name"),
    Column("unique", "unique", "count"),
    Column("named", "named", "count"),
    Column("stored", "stored", "count"),
    Column("trainable", "trainable", "count"),
    Column("frozen", "frozen", "count"),
    Column("buffers", "buffers", "count"),
    Column("persistent_buffers", "persistent", "count"),
    Column("non_persistent_buffers", "non-persistent", "count"),
    Column("bytes", "bytes", "bytes"),
    Column("tensors", "tensors", "count"),
)


def count_rows(reports: Sequence[CountReport]) -> Sheet:
    """
    Several targets for people; one or more for CSV and JSON.
    """
    rows = [_row(report) for report in reports]
    return Sheet(
        "count",
        _ROW_COLUMNS,
        rows,
        footer=_totals(reports),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        rows_key="targets",
        records=[count_record(report) for report in reports],
        hidden=_dull(reports),
        dispensable=("tensors", "frozen"),
    )


def _row(report: CountReport) -> tuple[Any, ...]:
    return tuple(_figure(report, column.key) for column in _ROW_COLUMNS)


def _figure(report: CountReport, key: str) -> Any:
    return report.nbytes if key == "bytes" else getattr(report, key)


def _dull(reports: Sequence[CountReport]) -> frozenset[str]:
    """Columns that say the same as their neighbour in every row, or nothing."""
    dull = {"persistent_buffers", "non_persistent_buffers"}
    if not any(report.section for report in reports):
        dull.add("section")
    if all(report.named == report.unique for report in reports):
        dull.add("named")
    if all(report.stored == report.unique for report in reports):
        dull.add("stored")
    if all(report.trainable is None for report in reports):
        dull |= {"trainable", "frozen"}
    return frozenset(dull)


def _totals(reports: Sequence[CountReport]) -> tuple[Line, ...]:
    return (
        Line(_noun("target", len(reports)), len(reports)),
        Line("unique parameters in all", sum(report.unique for report in reports)),
        Line("bytes", sum(report.nbytes for report in reports), "bytes"),
    )


def _noun(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def count_record(report: CountReport) -> dict[str, Any]:
    """What JSON holds of one target."""
    return {
        **dict(zip([column.key for column in _ROW_COLUMNS], _row(report))),
        "parameter_tensors": report.parameter_tensors,
        "buffer_tensors": report.buffer_tensors,
        "dtypes": [
            {"dtype": each.dtype, "tensors": each.tensors, "numel": each.numel, "bytes": each.nbytes}
            for each in report.dtypes
        ],
        "quantized": [
            {
                "scheme": each.scheme,
                "bits": each.bits,
                "weights": each.weights,
                "numel": each.numel,
                "bytes": each.nbytes,
                "scales": each.scales,
                "scale_numel": each.scale_numel,
                "scale_bytes": each.scale_nbytes,
            }
            for each in report.quantized
        ],
        "ties": [{"names": tie.names, "numel": tie.numel} for tie in report.ties],
        "by": report.by,
        "groups": [dict(zip(_GROUP_KEYS, row)) for row in _group_rows(report)],
    }


# ------------------------------------------------------------------- numbers


def count_number(reports: Sequence[CountReport], what: Quantity = "unique", *, named: bool = False) -> Sheet:
    """
    One figure: alone for one target, beside its target for several, and their total below.

    Args:
        reports: Of the targets that could be read.
        what: The figure.
        named: Name the target also where there is one: others could not be read.

    Raises:
        UnknownAnswerError: A target does not say which parameters are trainable.
    """
    values = [report.quantity(what) for report in reports]
    kind: ColumnKind = "bytes" if what == "bytes" else "count"
    title = _TITLES.get(what, what)
    if len(reports) == 1 and not named:
        # For people a card of one line, without the table.
        columns: tuple[Column, ...] = (Column(what, what, "count"),)
        return Sheet(
            "count", columns, [(values[0],)], footer=(Line(title, values[0], kind),), hidden=frozenset({what})
        )
    columns = (Column(what, what, "count"), Column("target", "target", "name"))
    rows = [(value, report.target) for value, report in zip(values, reports)]
    return Sheet(
        "count", columns, rows, footer=(Line(_IN_ALL.get(what, f"{title} in all"), sum(values), kind),)
    )


# -------------------------------------------------------------------- groups

_GROUP_KEYS = ("label", "unique", "named", "trainable", "buffers", "bytes", "tensors")


def count_groups(
    reports: Sequence[CountReport], what: Quantity | None = None, *, named: bool = False
) -> Sheet:
    """
    The groups of ``--by``, a row each; with several targets the target comes first.

    Args:
        reports: All with groups.
        what: Show this figure only; None shows them all.
        named: Put the target first also where there is one: others could not be read.

    Raises:
        UnknownAnswerError: A target does not say which parameters are trainable.
    """
    label = reports[0].by or "label"
    if what is not None:
        return _one_figure(reports, what, label, named or len(reports) > 1)
    columns: tuple[Column, ...] = (
        Column("label", label, "name"),
        Column("unique", "unique", "count"),
        Column("named", "named", "count"),
        Column("trainable", "trainable", "count"),
        Column("buffers", "buffers", "count"),
        Column("bytes", "bytes", "bytes"),
        Column("tensors", "tensors", "count"),
    )
    rows: list[tuple[Any, ...]] = [row for report in reports for row in _group_rows(report)]
    hidden = {"trainable"} if all(report.trainable is None for report in reports) else set()
    if all(row[1] == row[2] for row in rows):
        hidden.add("named")
    if named or len(reports) > 1:
        columns = (Column("target", "target", "name"), *columns)
        rows = [(report.target, *row) for report in reports for row in _group_rows(report)]
    return Sheet(
        "count",
        columns,
        rows,
        rows_key="groups",
        hidden=frozenset(hidden),
        foldable=len(reports) == 1,
        fold_sums=_GROUP_KEYS[1:],
        folds_equal_only=True,
    )


def _one_figure(reports: Sequence[CountReport], what: Quantity, label: str, named: bool) -> Sheet:
    """Groups with one figure each: label and figure, after the target where there are several."""
    columns = (Column("label", label, "name"), Column(what, what, "bytes" if what == "bytes" else "count"))
    rows: list[tuple[Any, ...]] = []
    for report in reports:
        report.quantity(what)  # complains where it is unknown
        field = "nbytes" if what == "bytes" else what
        front = (report.target,) if named else ()
        rows += [(*front, group.label, getattr(group, field)) for group in report.groups]
    if named:
        columns = (Column("target", "target", "name"), *columns)  # type: ignore[assignment]
    return Sheet("count", columns, rows, rows_key="groups")


def _group_rows(report: CountReport) -> list[tuple[Any, ...]]:
    return [
        (each.label, each.unique, each.named, each.trainable, each.buffers, each.nbytes, each.tensors)
        for each in report.groups
    ]
