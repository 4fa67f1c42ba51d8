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
``verdicts`` (a list of one a run each, null where it has no such parameter), ``ratio`` (of
the last run's norm to the first's).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from modelinspect.analysis.gradients import (
    Figures,
    GradientNode,
    GradientRow,
    GradientsReport,
    NormOrder,
    Spread,
)
from modelinspect.analysis.runs import RunsReport
from modelinspect.errors import UsageError, visible
from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.render.sparkline import sparkline
from modelinspect.render.summaries import values_text

__all__ = ["GRADS_COLUMNS", "grads_sheet", "runs_sheet"]

_NORM_TITLES: dict[NormOrder, str] = {"1": "L1 norm", "2": "norm", "inf": "max norm"}
_STATUS = {
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

Cell = Callable[[GradientRow, NormOrder], Any]


def grads_sheet(report: GradientsReport, columns: tuple[str, ...] | None = None) -> Sheet:
    """
    A row a parameter; a row a module and parameter where the report is arranged so.

    Args:
        report: What :func:`modelinspect.grads` returned.
        columns: Keys of :data:`GRADS_COLUMNS`, in the order to show; None is the usual ones.

    Raises:
        UsageError: There is no such column; the message lists them.
    """
    if report.tree is not None:
        return _tree_sheet(report, report.tree, columns)
    keys = columns or _usual(report)
    chosen = [_column(key, report) for key in keys]
    rows = [tuple(cell(row, report.order) for _, cell in chosen) for row in report.rows]
    hidden = () if columns else _dull(keys, rows)
    return Sheet(
        "grads",
        tuple(column for column, _ in chosen),
        rows,
        title=report.target,
        footer=tuple(_footer(report)),
        notes=report.notes,
        summary=_summary(report),
        rows_key="parameters",
        records=[_record(row, report.order) for row in report.rows],
        hidden=frozenset(hidden),
        names_above=True,
        dispensable=() if columns else ("zeros", "largest", "shape", "ratio"),
    )


# --------------------------------------------------------------------- columns

_PLAIN = ("name", "shape", "norm", "largest", "ratio", "zeros", "verdict")


def _usual(report: GradientsReport) -> tuple[str, ...]:
    """The columns that say something of this report; the first seven are always there."""
    keys = list(_PLAIN)
    if any(row.second_rms is not None for row in report.rows):
        keys.append("second_rms")
    if report.history is not None:
        keys.append("history")
    if any(row.spread is not None for row in report.rows):
        keys += ["least", "median", "most"]
    if any(row.values is not None for row in report.rows):
        keys.append("values")
    return (*keys, "also", "remark")


def _dull(keys: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Columns in which nothing is known; people are not shown those."""
    columns = dict(zip(keys, zip(*rows)))
    may_go = ("largest", "ratio", "zeros", "also", "remark", "second_rms")
    return [key for key in may_go if key in columns and all(cell in (None, "") for cell in columns[key])]


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
        (Column("name", "name", "name"), lambda row, _: row.name),
        (Column("shape", "shape", "shape"), lambda row, _: row.shape),
        (Column("dtype", "dtype", "dtype"), lambda row, _: row.dtype),
        (Column("numel", "numel", "count"), lambda row, _: row.numel),
        (Column("norm", "norm", "number"), _norm),
        (Column("largest", "largest", "number"), _of_figures(lambda figures: figures.largest)),
        (Column("ratio", "grad/weight", "number"), _of_figures(lambda figures: figures.ratio)),
        (Column("zeros", "zeros", "ratio"), _of_figures(lambda figures: figures.zero_share)),
        (Column("verdict", "verdict", "status"), lambda row, _: row.verdict),
        (Column("second_rms", "rms", "number"), lambda row, _: row.second_rms),
        (Column("history", "history", "text"), lambda row, _: sparkline(row.history)),
        (Column("least", "least", "number"), _of_spread(lambda spread: spread.least)),
        (Column("median", "median", "number"), _of_spread(lambda spread: spread.median)),
        (Column("most", "most", "number"), _of_spread(lambda spread: spread.most)),
        (Column("values", "values", "text"), lambda row, _: values_text(row.values)),
        (Column("also", "also", "name"), lambda row, _: ", ".join(row.also)),
        (Column("remark", "remark", "text"), lambda row, _: row.remark),
        (Column("l1", "L1 norm", "number"), _of_figures(lambda figures: figures.l1)),
        (Column("l2", "L2 norm", "number"), _of_figures(lambda figures: figures.l2)),
        (Column("rms_gradient", "rms of gradient", "number"), _of_figures(lambda figures: figures.rms)),
        (Column("weight", "weight norm", "number"), _of_figures(lambda figures: figures.weight)),
        (
            Column("relative_size", "relative size", "number"),
            _of_figures(lambda figures: figures.relative_size),
        ),
        (Column("zero_count", "zero entries", "count"), _of_figures(lambda figures: figures.zeros)),
        (Column("nans", "NaN", "count"), _of_figures(lambda figures: figures.nans)),
        (Column("infinities", "infinite", "count"), _of_figures(lambda figures: figures.infinities)),
    )
}
GRADS_COLUMNS: tuple[str, ...] = tuple(_COLUMNS)
"""Keys of the columns that a table of gradients can show."""


def _column(key: str, report: GradientsReport) -> tuple[Column, Cell]:
    if key not in _COLUMNS:
        raise _no_column(key, GRADS_COLUMNS)
    column, cell = _COLUMNS[key]
    if key == "norm":
        column = column._replace(title=_NORM_TITLES[report.order])
    return column, cell


def _no_column(key: str, known: Sequence[str]) -> UsageError:
    from difflib import get_close_matches

    near = get_close_matches(key, known, 1)
    return UsageError(
        f"there is no column {visible(key)!r}",
        details=(f"columns: {', '.join(known)}",),
        hint=f"did you mean {near[0]}?" if near else None,
    )


# ---------------------------------------------------------------------- footer


def _footer(report: GradientsReport) -> Iterator[Line]:
    if report.global_norm is not None:
        title = {"1": "global L1 norm", "2": "global norm", "inf": "global max norm"}[report.order]
        yield Line(title, report.global_norm, "number")
    if report.loss is not None:
        yield Line("loss", report.loss, "number")
    counts = Counter(row.verdict for row in report.rows)
    noun = "parameter" if report.parameters == 1 else "parameters"
    yield Line(noun, report.parameters)
    said = " · ".join(f"{count:,} {verdict}" for verdict, count in counts.most_common())
    if said:
        yield Line("verdicts", said, "text")
    if len(report.rows) < report.parameters:
        yield Line("", f"{len(report.rows):,} of {report.parameters:,} parameters are shown", "text")
    if report.sample_spread is not None:
        least, median, most = (f"{norm:.3g}" for norm in report.sample_spread)
        yield Line("global norm by sample", f"{least} to {most}, median {median}", "text")
    if report.history is not None:
        losses = report.history.losses
        positive = all(loss is None or not loss <= 0 for loss in losses)
        yield Line("loss by step", sparkline(losses, 40, logarithmic=positive), "text")
        yield Line("norm by step", sparkline(report.history.norms, 40), "text")
    for finding in report.findings:
        yield Line(_STATUS[finding.kind], finding.text, "status")
    for key, text in report.setup.items():
        yield Line(key, text, "text")


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


def _tree_sheet(
    report: GradientsReport, tree: Sequence[GradientNode], columns: tuple[str, ...] | None
) -> Sheet:
    keys = columns or tuple(_TREE_COLUMNS)
    for key in keys:
        if key not in _TREE_COLUMNS:
            raise _no_column(key, tuple(_TREE_COLUMNS))
    titles = {"norm": _NORM_TITLES[report.order]}
    records = [_node_record(node, report.order) for node in tree]
    hidden: set[str] = set() if columns else {"path", "depth"}
    if columns is None and not any(record["class"] for record in records):
        hidden.add("class")
    is_tree = any(node.depth for node in tree)
    labels_first = next((key for key in keys if key not in hidden), "") == "label"
    return Sheet(
        "grads",
        tuple(_TREE_COLUMNS[key]._replace(title=titles.get(key, _TREE_COLUMNS[key].title)) for key in keys),
        [tuple(record[key] for key in keys) for record in records],
        title=report.target,
        indents=[node.depth for node in tree] if is_tree and labels_first else None,
        footer=tuple(_footer(report)),
        notes=report.notes,
        summary=_summary(report),
        rows_key="modules",
        records=records,
        hidden=frozenset(hidden),
        dispensable=() if columns else ("zero_share", "largest", "tensors", "numel", "ratio"),
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
        "norm": figures and figures.norm(order),
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
    runs = report.runs
    marks = [chr(ord("A") + place) if len(runs) <= 26 else str(place + 1) for place in range(len(runs))]
    columns = [Column("name", "name", "name")]
    columns += [Column(f"norm_{mark}", f"norm {mark}", "number") for mark in marks]
    columns += [Column("ratio", f"{marks[-1]}/{marks[0]}", "number")]
    columns += [Column(f"verdict_{mark}", f"verdict {mark}", "status") for mark in marks]
    columns += [Column(f"history_{mark}", f"history {mark}", "text") for mark in marks]
    rows = [
        (name, *norms, _ratio(norms), *verdicts, *map(sparkline, histories))
        for name, norms, verdicts, histories in zip(
            report.names, report.norms, report.verdicts, report.histories
        )
    ]
    records = [
        {"name": name, "norms": norms, "ratio": _ratio(norms), "verdicts": verdicts}
        for name, norms, verdicts in zip(report.names, report.norms, report.verdicts)
    ]
    return Sheet(
        "grads-runs",
        tuple(columns),
        rows,
        title=", ".join(run.path for run in runs),
        footer=tuple(_run_line(mark, run) for mark, run in zip(marks, runs)),
        notes=report.notes,
        summary={
            "runs": [
                {
                    "path": run.path, "target": run.target, "steps": run.steps, "loss": run.loss,
                    "norm": run.norm, "finished": run.is_finished,
                }
                for run in runs
            ],
            "order": report.order,
        },
        rows_key="parameters",
        records=records,
        names_above=True,
        dispensable=(
            *(f"history_{mark}" for mark in marks), *(f"verdict_{mark}" for mark in marks), "ratio",
        ),
    )  # fmt: skip


def _ratio(norms: Sequence[float | None]) -> float | None:
    first, last = norms[0], norms[-1]
    return None if not first or last is None else last / first


def _run_line(mark: str, run: Any) -> Line:
    loss = "no loss" if run.loss is None else f"loss {run.loss:.4g}"
    norm = "no norm" if run.norm is None else f"global norm {run.norm:.4g}"
    end = "" if run.is_finished else ", without an end"
    return Line(mark, f"{run.path}: {run.steps:,} steps, {loss}, {norm}{end}", "text")
