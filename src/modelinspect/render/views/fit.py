"""
View of :class:`~modelinspect.analysis.fit.FitReport`: definition and checkpoint side by side.

JSON (``params DEFINITION --against CHECKPOINT --json``): ``fits``, a boolean;
``definition`` and ``checkpoint``, the targets; ``definition_prefix`` and
``checkpoint_prefix``; ``counts``, an object of status to rows; ``tensors``, a list
of objects ``name``, ``status`` (``ok``, ``missing``, ``unexpected``, ``shape``,
``dtype``), ``expected_shape``, ``expected_dtype``, ``found_shape``, ``found_dtype``.
"""

from __future__ import annotations

from collections import Counter
from typing import get_args

from modelinspect.analysis.fit import FitReport, FitStatus
from modelinspect.render.sheet import Column, Line, Sheet

__all__ = ["fit_sheet"]

_COLUMNS = (
    Column("name", "name", "name"),
    Column("status", "status", "status"),
    Column("expected_shape", "expected", "shape"),
    Column("expected_dtype", "", "dtype"),
    Column("found_shape", "found", "shape"),
    Column("found_dtype", "", "dtype"),
)
# How the summary counts each status: one, several.
_SAID: dict[FitStatus, tuple[str, str]] = {
    "missing": ("missing", "missing"),
    "unexpected": ("unexpected", "unexpected"),
    "shape": ("of another shape", "of other shapes"),
    "dtype": ("of another data type (loading converts it)", "of other data types (loading converts them)"),
}


def fit_sheet(report: FitReport) -> Sheet:
    """
    A row a name with what is expected and what was found, and the verdict below.
    """
    rows = [
        (
            row.name,
            row.status,
            None if row.expected is None else row.expected.shape,
            None if row.expected is None else row.expected.dtype.name,
            None if row.found is None else row.found.shape,
            None if row.found is None else row.found.dtype.name,
        )
        for row in report.rows
    ]
    counts = Counter(row.status for row in report.rows)
    return Sheet(
        "fit",
        _COLUMNS,
        rows,
        title=f"{report.checkpoint.source} against {report.definition.source}",
        footer=_verdict(report, counts),
        notes=report.notes,
        summary={
            "fits": report.fits,
            "definition": report.definition.source,
            "checkpoint": report.checkpoint.source,
            "definition_prefix": report.definition_prefix,
            "checkpoint_prefix": report.checkpoint_prefix,
            "counts": {status: counts[status] for status in get_args(FitStatus)},
        },
        rows_key="tensors",
        foldable=True,
    )


def _verdict(report: FitReport, counts: Counter[FitStatus]) -> tuple[Line, ...]:
    faults = [
        f"{counts[status]:,} {said[counts[status] > 1]}" for status, said in _SAID.items() if counts[status]
    ]
    verdict = "fits" if report.fits else "does not fit"
    lines = [Line(verdict, ", ".join(faults) or f"{counts['ok']:,} of {len(report.rows):,} agree", "text")]
    for owner, prefix in (("checkpoint", report.checkpoint_prefix), ("definition", report.definition_prefix)):
        if prefix:
            lines.append(Line("", f"the {owner}'s names begin with {prefix!r}, the other's don't", "text"))
    return tuple(lines)
