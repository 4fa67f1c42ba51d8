"""
View of :class:`~modelinspect.analysis.fit.FitReport`: definition and checkpoint side by side.

JSON (``params DEFINITION --against CHECKPOINT --json``): ``fits``, a boolean;
``definition`` and ``checkpoint``, the targets; ``definition_prefix`` and
``checkpoint_prefix``; ``counts``, an object of status to rows; ``tensors``, a list
of objects ``name``, ``status`` (``ok``, ``missing``, ``unexpected``, ``shape``,
``dtype``, ``layout``, ``quantized``), ``expected_shape``, ``expected_dtype``, ``found_shape``,
``found_dtype``, ``note``, and ``harmless``: loads all the same.
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
    Column("expected_dtype", "dtype", "dtype"),
    Column("found_shape", "found", "shape"),
    Column("found_dtype", "dtype", "dtype"),
    # Folds like a name: it may hold one, with the numbers of the row's.
    Column("note", "note", "name"),
    Column("harmless", "harmless", "flag"),
)
# Statuses that keep a checkpoint from fitting, as the verdict counts them: one, several.
_FAULTS: dict[FitStatus, tuple[str, str]] = {
    "missing": ("missing", "missing"),
    "unexpected": ("unexpected", "unexpected"),
    "shape": ("of another shape", "of other shapes"),
    "layout": ("that can't be copied", "that can't be copied"),
    "quantized": ("quantized", "quantized"),
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
            row.note or None,
            row.harmless,
        )
        for row in report.rows
    ]
    counts = Counter(row.status for row in report.rows)
    return Sheet(
        "fit",
        _COLUMNS,
        rows,
        title=f"{report.checkpoint.source} against {report.definition.source}",
        footer=_verdict(report),
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
        hidden=frozenset({"harmless"} if any(row.note for row in report.rows) else {"harmless", "note"}),
        foldable=True,
    )


def _verdict(report: FitReport) -> tuple[Line, ...]:
    """Does it fit, what keeps it from fitting, and what else differs?"""
    counts = Counter(row.status for row in report.rows if not row.harmless)
    agree = f"{counts['ok']:,} of {len(report.rows):,} names agree"
    said = [f"{counts[key]:,} {words[counts[key] > 1]}" for key, words in _FAULTS.items() if counts[key]]
    for owner, prefix in (("checkpoint", report.checkpoint_prefix), ("definition", report.definition_prefix)):
        if prefix:
            said.append(f"the {owner}'s names have {prefix!r}")
    if report.fits:
        lines = [Line("ok", f"fits: {agree}", "status")]
    else:
        lines = [Line("missing", f"does not fit: {', '.join(said)}", "status"), Line("", agree, "text")]
    converted, harmless = counts["dtype"], sum(row.harmless for row in report.rows)
    if converted:
        lines.append(Line("", f"{converted:,} of another data type: loading converts", "text"))
    if harmless:
        lines.append(Line("", f"{harmless:,} without harm: see the notes beside them", "text"))
    return tuple(lines)
