"""
The record of a run: what :func:`modelinspect.watch` writes, step by step, as JSON Lines.

==================== ==================================================================
first line           ``{"schema_version": 1, "report": "grads-run", "target", "order",
                     "every", "thresholds": {"vanishing", "exploding"}, "parameters":
                     [{"name", "shape", "dtype", "trainable", "also"}]}``
a step               ``{"step", "loss", "norm", "norms": [one a parameter]}``; null where
                     there was no gradient
a full table         ``{"step", "table": [null or {"numel", "l1", "l2", "largest",
                     "zeros", "nans", "infinities", "weight"}], "frozen"}``; *frozen*
                     lists the places of parameters that ask for no gradient from then
                     on; missing: those that the first line says
a finding            ``{"step", "finding": {"kind", "text", "module"}}``
a note               ``{"step", "note"}``
the end              ``{"end": true, "steps": n}``; missing where training goes on or broke off
==================== ==================================================================

NaN and infinities are the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite, isnan, nan
from typing import Any, NamedTuple, cast, get_args

from modelinspect.analysis.gradients import (
    Figures,
    Finding,
    FindingKind,
    GradientRow,
    GradientsReport,
    History,
    NormOrder,
    Thresholds,
    Verdict,
    judge,
    settled,
    with_history,
)
from modelinspect.display import Displayed
from modelinspect.errors import DamagedFileError, LimitError, TargetError, visible

__all__ = [
    "Parameter",
    "Run",
    "RunColumn",
    "RunsReport",
    "compare_runs",
    "diverges",
    "end_line",
    "finding_line",
    "follow",
    "header_line",
    "is_run_file",
    "note_line",
    "read_run",
    "run_lines",
    "run_report",
    "step_line",
    "table_line",
]

SCHEMA_VERSION = 1
MAX_LINE = 64 << 20
"""Bytes of one line."""
_MARK = '"report": "grads-run"'
_HEAD = 200
"""Bytes at the beginning in which the mark stands."""


class Parameter(NamedTuple):
    """A parameter as the first line describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool = True
    also: tuple[str, ...] = ()


class Run(NamedTuple):
    """
    What a file holds so far.
    """

    path: str
    target: str
    order: NormOrder
    every: int
    thresholds: Thresholds
    parameters: tuple[Parameter, ...]
    steps: tuple[int, ...] = ()
    losses: tuple[float | None, ...] = ()
    norms: tuple[float | None, ...] = ()
    """Global norms, an entry a step."""
    by_parameter: tuple[tuple[float | None, ...], ...] = ()
    """For each step one norm a parameter."""
    table: tuple[Figures | None, ...] | None = None
    """The last full table, an entry a parameter."""
    table_step: int | None = None
    findings: tuple[Finding, ...] = ()
    """Those of the last full table."""
    notes: tuple[str, ...] = ()
    is_finished: bool = False
    """False: training goes on, or broke off."""


# --------------------------------------------------------------------- writing


def header_line(
    target: str, order: NormOrder, every: int, thresholds: Thresholds, parameters: Sequence[Parameter]
) -> str:
    """The first line of a run's file."""
    return _line(
        {
            "schema_version": SCHEMA_VERSION,
            "report": "grads-run",
            "target": target,
            "order": order,
            "every": every,
            "thresholds": {"vanishing": thresholds.vanishing, "exploding": thresholds.exploding},
            "parameters": [each._asdict() for each in parameters],
        }
    )


def step_line(step: int, loss: float | None, norm: float | None, norms: Sequence[float | None]) -> str:
    """The line of one step."""
    return _line({"step": step, "loss": loss, "norm": norm, "norms": list(norms)})


def table_line(step: int, table: Sequence[Figures | None], frozen: Sequence[int] | None = None) -> str:
    """
    The line of a full table.

    Args:
        step: Which it is of.
        table: An entry a parameter.
        frozen: Places of the parameters that ask for no gradient; None: as before.
    """
    record: dict[str, Any] = {"step": step, "table": [each and each._asdict() for each in table]}
    return _line(record if frozen is None else {**record, "frozen": list(frozen)})


def finding_line(step: int, finding: Finding) -> str:
    """The line of a finding."""
    return _line({"step": step, "finding": finding._asdict()})


def note_line(step: int, note: str) -> str:
    """The line of something that readers should know."""
    return _line({"step": step, "note": note})


def end_line(steps: int) -> str:
    """The last line of a run that came to its end."""
    return _line({"end": True, "steps": steps})


def _line(record: Mapping[str, Any]) -> str:
    try:
        return json.dumps(record, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_texts(record)) + "\n"


def _texts(value: Any) -> Any:
    """NaN and infinities as texts: JSON has no numbers for them."""
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _texts(inner) for key, inner in value.items()}
    return [_texts(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def run_lines(report: GradientsReport) -> Iterator[str]:
    """
    A report with a history as the lines of a run's file.

    Args:
        report: Of training whose norms were recorded; the table is put behind the last step.
    """
    history = report.history or History((), (), ())
    parameters = [
        Parameter(row.name, row.shape, row.dtype, row.verdict != "frozen", row.also) for row in report.rows
    ]
    # The first and the last step are recorded whatever the interval is.
    every = max((later - step for step, later in pairwise(history.steps)), default=1)
    yield header_line(report.target, report.order, every, report.thresholds, parameters)
    for place, (step, loss, norm) in enumerate(zip(history.steps, history.losses, history.norms)):
        yield step_line(
            step, loss, norm, [row.history[place] if row.history else None for row in report.rows]
        )
    last = history.steps[-1] if history.steps else 0
    # The report's own figures are of the step that would come next.
    yield table_line(last, [history.last.get(row.name, row.figures) for row in report.rows])
    yield from (finding_line(last, finding) for finding in report.findings)
    yield end_line(last)


# --------------------------------------------------------------------- reading


def is_run_file(path: str) -> bool:
    """
    Does a file begin as the record of a run does?
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head.startswith(b"{") and _MARK.replace(" ", "").encode() in head.replace(b" ", b"")


def read_run(path: str, *, more: Iterable[str] = ()) -> Run:
    """
    What a run's file holds. A last line that is still being written is left for later.

    Args:
        path: The file.
        more: Lines that are to follow those of the file.

    Raises:
        TargetError: There is no such file.
        DamagedFileError: A line is not what it should be; the message names it.
    """
    reader = _Reader(path)
    run = reader.grown(more)
    if run is None:
        raise DamagedFileError(
            f"{visible(path)} is no record of a run: its first line is not whole",
            hint="mi.watch(model, 'run.jsonl') writes one",
        )
    return run


def follow(path: str, *, interval: float = 0.5) -> Iterator[Run]:
    """
    The run each time that its file has grown, until its end is there.

    Args:
        path: A run's file.
        interval: Seconds between two looks.
    """
    reader = _Reader(path)
    while True:
        run = reader.grown()
        if run is not None:
            yield run
            if run.is_finished:
                return
        time.sleep(interval)


class _Reader:
    """Reads a file as far as it is there, and goes on from there the next time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        """At the first line, with nothing known."""
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._lines = 0
        self._header: Run | None = None
        self._steps: list[int] = []
        self._losses: list[float | None] = []
        self._norms: list[float | None] = []
        self._by_parameter: list[tuple[float | None, ...]] = []
        self._table: tuple[Figures | None, ...] | None = None
        self._table_step: int | None = None
        self._findings: list[Finding] = []
        self._notes: list[str] = []
        self._finished = False

    def grown(self, more: Iterable[str] = ()) -> Run | None:
        """The run with what has come; None if nothing has, or the first line is not whole."""
        grew = False
        try:
            with open(self._path, "rb") as file:
                self._begin_anew_where_replaced(os.fstat(file.fileno()))
                file.seek(self._offset)
                while line := file.readline(MAX_LINE + 1):
                    if len(line) > MAX_LINE:
                        raise LimitError(
                            f"{visible(self._path)}, line {self._lines + 1} is longer than {MAX_LINE:,} bytes"
                        )
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    self._lines += 1
                    self._take(line)
                    grew = True
        except OSError as error:
            raise TargetError(f"{visible(self._path)}: {error.strerror}") from error
        for text in more:
            self._lines += 1
            self._take(text.encode())
            grew = True
        return self._run() if grew and self._header is not None else None

    def _begin_anew_where_replaced(self, status: os.stat_result) -> None:
        """Another run is written to the same path: what is known is of the one before."""
        this = (status.st_dev, status.st_ino)
        if self._file not in (None, this) or status.st_size < self._offset:
            self._begin()
        self._file = this

    def _run(self) -> Run:
        assert self._header is not None
        return self._header._replace(
            steps=tuple(self._steps),
            losses=tuple(self._losses),
            norms=tuple(self._norms),
            by_parameter=tuple(self._by_parameter),
            table=self._table,
            table_step=self._table_step,
            findings=tuple(self._findings),
            notes=tuple(self._notes),
            is_finished=self._finished,
        )

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            if self._header is None:
                self._header = _header(record, self._path)
            else:
                self._take_record(record)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            missing = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise DamagedFileError(
                f"{visible(self._path)}, line {self._lines} is not a line of a run's record",
                details=(visible(missing),),
            ) from error

    def _take_record(self, record: Mapping[str, Any]) -> None:
        assert self._header is not None
        if record.get("end"):
            self._finished = True
        elif "norms" in record:
            norms = tuple(map(_number, record["norms"]))
            self._of_all(norms)
            step, loss, norm = _count(record["step"]), _number(record["loss"]), _number(record["norm"])
            self._steps.append(step)
            self._losses.append(loss)
            self._norms.append(norm)
            self._by_parameter.append(norms)
        elif "table" in record:
            table = tuple(map(_figures, record["table"]))
            self._of_all(table)
            self._table, self._table_step, self._findings = table, _count(record["step"]), []
            if "frozen" in record:
                self._header = _with_frozen(self._header, record["frozen"])
        elif "finding" in record:
            found = record["finding"]
            if found["kind"] not in get_args(FindingKind):
                raise ValueError(f"there is no finding of the kind {found['kind']!r}")
            module = found.get("module")
            self._findings.append(
                Finding(found["kind"], str(found["text"]), None if module is None else str(module))
            )
        elif "note" in record:
            self._notes.append(str(record["note"]))

    def _of_all(self, entries: Sequence[object]) -> None:
        assert self._header is not None
        expected = len(self._header.parameters)
        if len(entries) != expected:
            raise ValueError(f"{len(entries)} entries, and the first line names {expected} parameters")


def _header(record: Mapping[str, Any], path: str) -> Run:
    if record.get("report") != "grads-run":
        raise ValueError("its first line does not say that it is one")
    if record["schema_version"] > SCHEMA_VERSION:
        raise ValueError(f"its schema is version {record['schema_version']}, known here is {SCHEMA_VERSION}")
    order = str(record["order"])
    if order not in get_args(NormOrder):
        raise ValueError(f"there is no norm {order!r}")
    parameters = [
        Parameter(
            str(each["name"]), tuple(map(_count, each["shape"])), str(each["dtype"]),
            bool(each.get("trainable", True)), tuple(map(str, each.get("also", ()))),
        )
        for each in record["parameters"]
    ]  # fmt: skip
    if len({each.name for each in parameters}) < len(parameters):
        raise ValueError("two parameters have the same name")
    thresholds = Thresholds(**{key: float(value) for key, value in record["thresholds"].items()})
    return Run(
        path, str(record["target"]), cast("NormOrder", order), int(record["every"]), thresholds,
        tuple(parameters),
    )  # fmt: skip


def _with_frozen(header: Run, places: Iterable[Any]) -> Run:
    frozen = frozenset(map(_count, places))
    parameters = [
        each._replace(trainable=place not in frozen) for place, each in enumerate(header.parameters)
    ]
    return header._replace(parameters=tuple(parameters))


_WORDS = {"NaN": nan, "Infinity": inf, "-Infinity": -inf}


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        return _WORDS[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a {type(value).__name__} is no number")
    return float(value)


def _count(value: Any) -> int:
    """Of elements, of steps, of anything: an integer that a machine has a place for."""
    count = int(value)
    if not 0 <= count < 2**63:
        raise ValueError(f"{value} is no count")
    return count


def _figures(entry: Mapping[str, Any] | None) -> Figures | None:
    if entry is None:
        return None
    norms = [_number(entry[key]) for key in ("l1", "l2", "largest")]
    if None in norms:
        raise TypeError("a norm is null")
    l1, l2, largest = cast("list[float]", norms)
    zeros, nans, infinities = (_count(entry.get(key, 0)) for key in ("zeros", "nans", "infinities"))
    weight = _number(entry.get("weight"))
    return Figures(_count(entry["numel"]), l1, l2, largest, zeros, nans, infinities, weight)


# --------------------------------------------------------------------- reports


def run_report(run: Run, *, thresholds: Thresholds | None = None) -> GradientsReport:
    """
    A run as a table of gradients: figures of its last full table, the norms of all steps.

    Args:
        run: As read.
        thresholds: Where a gradient stops being ok; None: as the run's file says.
    """
    limits = thresholds or run.thresholds
    rows = settled([_row(run, place, limits) for place in range(len(run.parameters))])
    history = {
        parameter.name: [norms[place] for norms in run.by_parameter]
        for place, parameter in enumerate(run.parameters)
    }
    known = [(step, loss) for step, loss in zip(run.steps, run.losses) if loss is not None]
    diverged = diverges([loss for _, loss in known], [step for step, _ in known])
    astray = [] if diverged is None else [Finding("diverging", diverged)]
    astray += _first_broken(run)
    found = tuple(finding for finding in run.findings if finding.kind != "diverging")
    return GradientsReport(
        target=run.path,
        source="run",
        rows=with_history(rows, history),
        parameters=len(rows),
        order=run.order,
        global_norm=run.norms[-1] if run.norms else None,
        thresholds=limits,
        loss=run.losses[-1] if run.losses else None,
        setup=_setup(run),
        findings=(*astray, *found),
        history=History(run.steps, run.losses, run.norms) if run.steps else None,
        notes=_notes(run),
    )


def _first_broken(run: Run) -> tuple[Finding, ...]:
    """From which step on gradients are not finite."""
    for step, norm in zip(run.steps, run.norms):
        if norm is not None and not isfinite(norm):
            return (Finding("nan-backward", f"gradients are not finite from step {step:,} on"),)
    return ()


def _row(run: Run, place: int, thresholds: Thresholds) -> GradientRow:
    parameter = run.parameters[place]
    figures = None if run.table is None else run.table[place]
    verdict: Verdict = judge(figures, thresholds, trainable=parameter.trainable)
    if run.table is None and parameter.trainable:
        # Without a table only the norms are known: enough to see what is broken.
        last = run.by_parameter[-1][place] if run.by_parameter else None
        verdict = _by_norm(last, bool(run.by_parameter))
    return GradientRow(parameter.name, parameter.shape, parameter.dtype, figures, verdict, parameter.also)


def _by_norm(norm: float | None, is_known: bool) -> Verdict:
    if norm is None:
        return "none" if is_known else "ok"
    if isnan(norm):
        return "nan"
    return "ok" if isfinite(norm) and norm else "inf" if norm else "zero"


def _setup(run: Run) -> dict[str, str]:
    if not run.steps:
        return {"model": run.target, "steps": "none yet"}
    lines = {
        "model": run.target,
        "steps": f"{len(run.steps):,} recorded, {run.steps[0]:,} to {run.steps[-1]:,}",
    }
    if run.table_step is not None:
        lines["table"] = f"of step {run.table_step:,}"
    return lines


def _notes(run: Run) -> tuple[str, ...]:
    notes = []
    if not run.is_finished:
        notes.append("the record has no end: training goes on, or broke off")
    if run.steps and run.table is None:
        notes.append("there is no full table yet: verdicts are by the norms alone")
    return (*notes, *run.notes)


class RunColumn(NamedTuple):
    """One run in a comparison."""

    path: str
    target: str
    steps: int
    loss: float | None
    norm: float | None
    is_finished: bool


@dataclass(frozen=True)
class RunsReport(Displayed):
    """
    Several runs side by side: the last norm of each parameter.
    """

    runs: tuple[RunColumn, ...]
    names: tuple[str, ...] = field(repr=False)
    """Of all runs, in the order of the first that has each."""
    norms: tuple[tuple[float | None, ...], ...] = field(repr=False)
    """For each name one norm a run; None where it has none."""
    verdicts: tuple[tuple[Verdict | None, ...], ...] = field(repr=False)
    histories: tuple[tuple[tuple[float | None, ...], ...], ...] = field(repr=False)
    """For each name the norms of all steps, a run each."""
    order: NormOrder = "2"
    notes: tuple[str, ...] = ()


def compare_runs(runs: Sequence[Run], *, thresholds: Thresholds | None = None) -> RunsReport:
    """
    Put runs side by side, by the names of their parameters.

    Args:
        runs: As read.
        thresholds: Where a gradient stops being ok; None: as each run's file says.
    """
    reports = [run_report(run, thresholds=thresholds) for run in runs]
    rows = [{row.name: row for row in report.rows} for report in reports]
    names = tuple(dict.fromkeys(name for of_run in rows for name in of_run))

    def of_all(get: Any, none: Any) -> tuple[Any, ...]:
        return tuple(tuple(get(each[name]) if name in each else none for each in rows) for name in names)

    notes = [f"{visible(run.path)}: {note}" for run, report in zip(runs, reports) for note in report.notes]
    if len({run.order for run in runs}) > 1:
        notes.append("the runs are of different norms, which can't be compared")
    return RunsReport(
        tuple(
            RunColumn(run.path, run.target, len(run.steps), report.loss, report.global_norm, run.is_finished)
            for run, report in zip(runs, reports)
        ),
        names,
        of_all(lambda row: row.history[-1] if row.history else None, None),
        of_all(lambda row: row.verdict, None),
        of_all(lambda row: row.history, ()),
        runs[0].order if runs else "2",
        tuple(notes),
    )


# ------------------------------------------------------------------- divergence

_GROWTH = 100.0
"""Times the loss at the beginning that a loss at the end has grown by when it diverges."""
_SHARE = 10
"""A tenth of the steps is the beginning, another the end; at least one, at most ten."""


def diverges(losses: Sequence[float], steps: Sequence[int] | None = None) -> str | None:
    """
    Whether training went astray, as one sentence, or None.

    It did where a loss is NaN or infinite; or where the median of the last losses is more
    than 100 times that of the first in absolute value, and above the largest of those. The
    first and the last are a tenth of the steps each, at most ten. A loss that begins near
    zero is taken to begin at 0.01.

    Args:
        losses: Of the steps, in order.
        steps: Their numbers; None: from 1 on.

    >>> diverges([1.0, 5.0, 30.0, 2000.0])
    'training diverges: the loss grows from 1 to 2000 in 4 steps'
    >>> diverges([1.0, 0.5, 0.7, 0.4])
    """
    steps = range(1, len(losses) + 1) if steps is None else steps
    for number, loss in zip(steps, losses):
        if not isfinite(loss):
            return f"training diverges: the loss is {_word(loss)} at step {number:,}"
    if len(losses) < 2:
        return None
    length = max(1, min(10, len(losses) // _SHARE))
    first, last = losses[:length], _median(losses[-length:])
    begins = max(abs(_median(first)), 0.01)
    if abs(last) > _GROWTH * begins and last > max(first):
        grown = f"from {_median(first):.4g} to {last:.4g} in {steps[-1] - steps[0] + 1:,} steps"
        return f"training diverges: the loss grows {grown}"
    return None


def _median(values: Sequence[float]) -> float:
    """Of an even number of values the mean of the middle two."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _word(loss: float) -> str:
    return "NaN" if isnan(loss) else "infinite"
