"""
Views of :class:`~modelinspect.analysis.gradients.GradientsReport` and of runs side by side.

JSON (``grads --json``): ``target``; ``source`` (``backward``, ``optimizer``, ``saved``,
``run``); ``order`` (``1``, ``2``, ``inf``); ``global_norm``; ``loss``; ``healthy``, a bool;
``thresholds``, an object of ``vanishing`` and ``exploding``; ``setup``, an object of texts;
``findings``, a list of objects ``kind``, ``text``, ``module``; ``verdicts``, an object of
verdict to rows; ``history``, null or an object of ``steps``, ``losses``, ``norms`` (global,
lists of one length); ``sample_spread``, null or an object of ``least``, ``median``, ``most``.
Then ``parameters``, a list of objects ``name``, ``shape``, ``dtype``, ``numel``, ``norm`` (of
the order), ``l1``, ``l2``, ``largest``, ``ratio``, ``zeros`` (elements), ``zero_share``,
``nans``, ``infinities``, ``weight_norm``, ``second_rms``, ``verdict``, ``also`` (list of
names), ``remark``, ``spread`` (null or an object), ``history`` (a list of norms), ``values``
(nested lists or null). Figures are null where there is no gradient. With ``--tree`` or
``--by module`` instead ``modules``, a list of objects ``path``, ``label``, ``depth``,
``class``, ``tensors``, ``numel``, ``norm``, ``largest``, ``ratio``, ``zero_share``, ``verdict``.

JSON of several runs: ``runs``, a list of objects ``path``, ``target``, ``steps``, ``loss``,
``norm``, ``finished``; ``order``; ``parameters``, a list of objects ``name``, ``norms``,
``verdicts`` (lists of one a run each, null where it has no such parameter), ``ratio`` (of
the last run's norm to the first's).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isnan
from typing import Any

from modelinspect.analysis.gradients import (
    Figures,
    FindingKind,
    GradientNode,
    GradientRow,
    GradientsReport,
    NormOrder,
    Spread,
    Thresholds,
    Verdict,
)
from modelinspect.analysis.runs import RunColumn, RunsReport
from modelinspect.errors import unknown_choice, visible
from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.render.sparkline import sparkline
from modelinspect.render.summaries import values_text
from modelinspect.render.units import short_number

__all__ = ["GRADS_COLUMNS", "GRADS_TREE_COLUMNS", "grads_sheet", "runs_sheet"]

Cell = Callable[[GradientRow, NormOrder], Any]

_NORM_TITLES: dict[NormOrder, str] = {"1": "L1 norm", "2": "norm", "inf": "max norm"}
_STATUS: dict[FindingKind, Verdict] = {
    "nan-forward": "nan",
    "nan-backward": "nan",
    "nan-weight": "nan",
    "nan-input": "nan",
    "diverging": "exploding",
    "exploding": "exploding",
    "dead": "zero",
    "zero-weight": "zero",
    "detached": "none",
    "unused": "none",
    "vanishing": "vanishing",
}
"""Kind of a finding to the verdict whose colour it has."""


def grads_sheet(report: GradientsReport, columns: tuple[str, ...] | None = None) -> Sheet:
    """
    A row a parameter; a row a module and parameter where the report is arranged so.

    Args:
        report: What :func:`modelinspect.grads` returned.
        columns: Keys of :data:`GRADS_COLUMNS`, or of :data:`GRADS_TREE_COLUMNS` where there
            are modules, in the order to show; None is the usual ones.

    Raises:
        UsageError: There is no such column; the message lists them.
    """
    if report.tree is not None:
        return _tree_sheet(report, report.tree, columns)
    keys = columns or _usual(report)
    _check(keys, GRADS_COLUMNS)
    chosen = [_COLUMNS[key] for key in keys]
    rows = [tuple([cell(row, report.order) for _, cell in chosen]) for row in report.rows]
    return Sheet(
        "grads",
        _titled([column for column, _ in chosen], report.order),
        rows,
        title=report.target,
        footer=tuple(_footer(report)),
        notes=report.notes,
        summary=_summary(report),
        rows_key="parameters",
        records=[_record(row, report.order) for row in report.rows],
        hidden=frozenset(() if columns else _dull(keys, rows, ("name", "shape", "norm", "verdict"))),
        # A row a line is what makes a fall from layer to layer visible.
        dispensable=() if columns else ("zero_share", "largest", "shape", "ratio", "second_rms", "history"),
    )


# --------------------------------------------------------------------- columns


def _usual(report: GradientsReport) -> tuple[str, ...]:
    """The columns that say something of this report; the first nine are always there."""
    keys = ("name", "shape", "norm", "largest", "ratio", "zero_share", "verdict", "also", "remark")
    further = {
        "second_rms": any(row.second_rms is not None for row in report.rows),
        "history": any(row.history for row in report.rows),
        **dict.fromkeys(("least", "median", "most"), any(row.spread is not None for row in report.rows)),
        "values": any(row.values is not None for row in report.rows),
    }
    return (*keys, *(key for key, is_there in further.items() if is_there))


def _dull(keys: Sequence[str], rows: Sequence[Sequence[Any]], kept: Sequence[str]) -> list[str]:
    """Columns in which nothing is known; people are not shown those."""
    columns = dict(zip(keys, zip(*rows))) if rows else dict.fromkeys(keys, ())
    return [
        key for key, cells in columns.items()
        if key not in kept and all(cell is None or cell == "" for cell in cells)
    ]  # fmt: skip


def _check(keys: Sequence[str], known: Sequence[str]) -> None:
    for key in keys:
        if key not in known:
            raise unknown_choice(f"there is no column {visible(key)!r}", key, "columns", known)


def _titled(columns: Iterable[Column], order: NormOrder) -> tuple[Column, ...]:
    """The columns, the norm's heading saying which norm it is."""
    return tuple(c._replace(title=_NORM_TITLES[order]) if c.key == "norm" else c for c in columns)


def _of_row(field: str) -> Cell:
    return lambda row, _: getattr(row, field)


def _of_figures(get: Callable[[Figures], Any]) -> Cell:
    return lambda row, _: None if row.figures is None else get(row.figures)


def _of_spread(get: Callable[[Spread], float]) -> Cell:
    return lambda row, _: None if row.spread is None else get(row.spread)


def _norm(row: GradientRow, order: NormOrder) -> float | None:
    """Of the figures; of a run without a table the last norm that was recorded."""
    if row.figures is not None:
        return row.figures.norm(order)
    return row.history[-1] if row.history else None


_COLUMNS: dict[str, tuple[Column, Cell]] = {
    column.key: (column, cell)
    for column, cell in (
        (Column("name", "name", "name"), _of_row("name")),
        (Column("shape", "shape", "shape"), _of_row("shape")),
        (Column("dtype", "dtype", "dtype"), _of_row("dtype")),
        (Column("numel", "numel", "count"), _of_row("numel")),
        (Column("norm", "norm", "number"), _norm),
        (Column("largest", "largest", "number"), _of_figures(lambda figures: figures.largest)),
        (Column("ratio", "grad/weight", "number"), _of_figures(lambda figures: figures.ratio)),
        (Column("zero_share", "zeros", "ratio"), _of_figures(lambda figures: figures.zero_share)),
        (Column("verdict", "verdict", "status"), _of_row("verdict")),
        (Column("second_rms", "rms (second moment)", "number"), _of_row("second_rms")),
        (Column("history", "history", "text"), lambda row, _: sparkline(row.history)),
        (Column("least", "least", "number"), _of_spread(lambda spread: spread.least)),
        (Column("median", "median", "number"), _of_spread(lambda spread: spread.median)),
        (Column("most", "most", "number"), _of_spread(lambda spread: spread.most)),
        (Column("values", "values", "text"), lambda row, _: values_text(row.values)),
        (Column("also", "also", "name"), lambda row, _: ", ".join(row.also)),
        (Column("remark", "remark", "text"), _of_row("remark")),
        (Column("l1", "L1 norm", "number"), _of_figures(lambda figures: figures.l1)),
        (Column("l2", "L2 norm", "number"), _of_figures(lambda figures: figures.l2)),
        (Column("rms", "rms", "number"), _of_figures(lambda figures: figures.rms)),
        (Column("weight_norm", "weight norm", "number"), _of_figures(lambda figures: figures.weight)),
        (Column("relative_size", "relative size", "number"), _of_figures(lambda f: f.relative_size)),
        (Column("zeros", "zero entries", "count"), _of_figures(lambda figures: figures.zeros)),
        (Column("nans", "NaN", "count"), _of_figures(lambda figures: figures.nans)),
        (Column("infinities", "infinite", "count"), _of_figures(lambda figures: figures.infinities)),
    )
}
GRADS_COLUMNS: tuple[str, ...] = tuple(_COLUMNS)
"""Keys of the columns that a table of parameters can show."""


# ---------------------------------------------------------------------- footer


def _footer(report: GradientsReport) -> Iterator[Line]:
    """Figures, what is wrong, how it went, how it came about."""
    if report.global_norm is not None:
        yield Line(f"global {_NORM_TITLES[report.order]}", report.global_norm, "number", _exactness(report))
    if report.loss is not None:
        yield Line("loss", report.loss, "number")
    yield Line("parameter" if report.parameters == 1 else "parameters", report.parameters)
    yield from _verdicts(report)
    for finding in report.findings:
        yield Line(_STATUS[finding.kind], finding.text, "status")
    if report.sample_spread is not None:
        least, median, most = (f"{norm:.3g}" for norm in report.sample_spread)
        yield Line("global norm by sample", f"{least} to {most}, median {median}", "text")
    if report.history is not None:
        yield from _by_step("loss by step", report.history.losses)
        yield from _by_step("norm by step", report.history.norms)
    for key, text in report.setup.items():
        yield Line(key, text, "text")


def _exactness(report: GradientsReport) -> str:
    is_half = any(row.dtype in ("float16", "bfloat16") for row in report.rows)
    return "added up in float64" if is_half else ""


def _verdicts(report: GradientsReport) -> Iterator[Line]:
    counts = Counter(row.verdict for row in report.rows)
    if counts:
        said = " · ".join(f"{count:,} {verdict}" for verdict, count in counts.most_common())
        yield Line("verdicts", said, "text")
    limits = report.thresholds
    if limits != Thresholds() and (counts["vanishing"] or counts["exploding"]):
        said = f"vanishing below {limits.vanishing:g}, exploding above {limits.exploding:g} (relative size)"
        yield Line("thresholds", said, "text")
    if len(report.rows) < report.parameters:
        yield Line("", f"{len(report.rows):,} of {report.parameters:,} parameters are shown", "text")


def _by_step(label: str, series: Sequence[float | None]) -> Iterator[Line]:
    """A series and its ends; a loss below zero has no logarithm."""
    there = [value for value in series if value is not None]
    if there:
        drawn = sparkline(series, 40, logarithmic=not any(value < 0 for value in there))
        yield Line(label, f"{drawn} {short_number(there[0])} to {short_number(there[-1])}", "text")


# ------------------------------------------------------------------------ JSON


def _summary(report: GradientsReport) -> dict[str, Any]:
    history = report.history
    return {
        "target": report.target,
        "source": report.source,
        "order": report.order,
        "global_norm": report.global_norm,
        "loss": report.loss,
        "healthy": report.is_healthy,
        "thresholds": {
            "vanishing": report.thresholds.vanishing,
            "exploding": report.thresholds.exploding,
        },
        "setup": dict(report.setup),
        "findings": [finding._asdict() for finding in report.findings],
        "verdicts": dict(Counter(row.verdict for row in report.rows)),
        "history": None
        if history is None
        else {"steps": history.steps, "losses": history.losses, "norms": history.norms},
        "sample_spread": report.sample_spread and report.sample_spread._asdict(),
    }


def _record(row: GradientRow, order: NormOrder) -> dict[str, Any]:
    figures = row.figures
    return {
        "name": row.name,
        "shape": row.shape,
        "dtype": row.dtype,
        "numel": row.numel,
        "norm": _norm(row, order),
        "l1": figures and figures.l1,
        "l2": figures and figures.l2,
        "largest": figures and figures.largest,
        "ratio": figures and figures.ratio,
        "zeros": figures and figures.zeros,
        "zero_share": figures and figures.zero_share,
        "nans": figures and figures.nans,
        "infinities": figures and figures.infinities,
        "weight_norm": figures and figures.weight,
        "second_rms": row.second_rms,
        "verdict": row.verdict,
        "also": row.also,
        "remark": row.remark,
        "spread": row.spread and row.spread._asdict(),
        "history": row.history,
        "values": row.values,
    }


# ------------------------------------------------------------------------ tree

_TREE_COLUMNS = {
    column.key: column
    for column in (
        Column("path", "path", "name"),
        Column("label", "module", "name"),
        Column("depth", "depth", "count"),
        Column("class", "class", "text"),
        Column("tensors", "tensors", "count"),
        Column("numel", "numel", "count"),
        Column("norm", "norm", "number"),
        Column("largest", "largest", "number"),
        Column("ratio", "grad/weight", "number"),
        Column("zero_share", "zeros", "ratio"),
        Column("verdict", "verdict", "status"),
    )
}
GRADS_TREE_COLUMNS: tuple[str, ...] = tuple(_TREE_COLUMNS)
"""Keys of the columns that a tree, or a table of modules, can show."""


def _tree_sheet(
    report: GradientsReport, tree: Sequence[GradientNode], columns: tuple[str, ...] | None
) -> Sheet:
    keys = columns or GRADS_TREE_COLUMNS
    _check(keys, GRADS_TREE_COLUMNS)
    records = [_node_record(node, report.order) for node in tree]
    rows = [tuple([record[key] for key in keys]) for record in records]
    is_tree = any(node.depth for node in tree)
    hidden = set() if columns else {"path", "depth", *_dull(keys, rows, ("label", "norm"))}
    labels_first = next((key for key in keys if key not in hidden), "") == "label"
    return Sheet(
        "grads",
        _titled([_TREE_COLUMNS[key] for key in keys], report.order),
        rows,
        title=report.target,
        indents=[node.depth for node in tree] if is_tree and labels_first else None,
        footer=tuple(_footer(report)),
        notes=report.notes,
        summary=_summary(report),
        rows_key="modules",
        records=records,
        hidden=frozenset(hidden),
        dispensable=() if columns else ("zero_share", "largest", "class", "tensors", "numel", "ratio"),
    )


def _node_record(node: GradientNode, order: NormOrder) -> dict[str, Any]:
    figures = node.figures
    return {
        "path": node.path,
        "label": node.label or "(model)",
        "depth": node.depth,
        "class": node.class_name,
        "tensors": node.tensors,
        "numel": node.numel,
        "norm": figures.norm(order) if figures else node.row and _norm(node.row, order),
        "largest": figures and figures.largest,
        "ratio": figures and figures.ratio,
        "zero_share": figures and figures.zero_share,
        "verdict": node.verdict,
    }


# ---------------------------------------------------------------- runs side by side


def runs_sheet(report: RunsReport) -> Sheet:
    """
    A row a parameter: its last norm in each run, how they compare, and what is wrong.
    """
    marks = _marks(len(report.runs))
    columns = [Column("name", "name", "name")]
    columns += [Column(f"norm_{mark}", f"{_NORM_TITLES[report.order]} {mark}", "number") for mark in marks]
    columns += [Column("ratio", f"{marks[-1]}/{marks[0]}", "number")] if len(marks) > 1 else []
    columns += [Column(f"verdict_{mark}", f"verdict {mark}", "status") for mark in marks]
    columns += [Column(f"history_{mark}", f"history {mark}", "text") for mark in marks]
    rows = [
        (name, *norms, *_ratio(norms), *verdicts, *map(sparkline, histories))
        for name, norms, verdicts, histories in zip(
            report.names, report.norms, report.verdicts, report.histories
        )
    ]
    return Sheet(
        "grads-runs",
        tuple(columns),
        rows,
        title=", ".join(run.path for run in report.runs),
        footer=tuple(_run_line(mark, run) for mark, run in zip(marks, report.runs)),
        notes=report.notes,
        summary={"runs": list(map(_run_record, report.runs)), "order": report.order},
        rows_key="parameters",
        records=[
            {"name": name, "norms": norms, "ratio": next(iter(_ratio(norms)), None), "verdicts": verdicts}
            for name, norms, verdicts in zip(report.names, report.norms, report.verdicts)
        ],
        dispensable=tuple(f"{what}_{mark}" for what in ("history", "verdict") for mark in marks),
    )


def _marks(runs: int) -> list[str]:
    """``A``, ``B`` … for the columns; numbers where letters don't suffice."""
    return [chr(ord("A") + place) if runs <= 26 else str(place + 1) for place in range(runs)]


def _ratio(norms: Sequence[float | None]) -> tuple[float | None, ...]:
    """The last norm over the first; nothing for a single run."""
    if len(norms) < 2:
        return ()
    first, last = norms[0], norms[-1]
    return (None if not first or last is None else last / first,)


def _run_record(run: RunColumn) -> dict[str, Any]:
    return {
        "path": run.path,
        "target": run.target,
        "steps": run.steps,
        "loss": run.loss,
        "norm": run.norm,
        "finished": run.is_finished,
    }


def _run_line(mark: str, run: RunColumn) -> Line:
    steps = f"{run.steps:,} step{'' if run.steps == 1 else 's'}"
    loss = "no loss" if run.loss is None else f"loss {_in_words(run.loss)}"
    norm = "no norm" if run.norm is None else f"global norm {_in_words(run.norm)}"
    end = "" if run.is_finished else ", without an end"
    return Line(mark, f"{run.path}: {steps}, {loss}, {norm}{end}", "text")


def _in_words(number: float) -> str:
    return "NaN" if isnan(number) else f"{number:.4g}"
