"""
The record of a run: written, read while it grows, shown, compared.
"""

from __future__ import annotations

import json
import threading
import time
from math import inf, isnan, nan
from pathlib import Path

import pytest

from modelinspect.analysis.gradients import (
    Figures,
    Finding,
    GradientRow,
    GradientsReport,
    History,
    Thresholds,
)
from modelinspect.analysis.runs import (
    Parameter,
    compare_runs,
    diverges,
    end_line,
    finding_line,
    follow,
    header_line,
    is_run_file,
    note_line,
    read_run,
    run_lines,
    run_report,
    step_line,
    table_line,
)
from modelinspect.errors import DamagedFileError, TargetError

PARAMETERS = (Parameter("a.weight", (2, 2), "float32"), Parameter("a.bias", (2,), "float32", False, ("b",)))
HEADER = header_line("Net", "2", 10, Thresholds(), PARAMETERS)
FIGURES = Figures(4, 3.0, 2.0, 1.5, 1, weight=4.0)


def _file(folder: Path, *lines: str, name: str = "run.jsonl") -> str:
    path = folder / name
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every line comes back, NaN and infinity too, and a finding belongs to its table."""
    path = _file(
        tmp_path, HEADER, step_line(1, 0.5, 2.0, [2.0, None]), step_line(2, nan, inf, [inf, None]),
        table_line(2, [FIGURES, None]), finding_line(2, Finding("dead", "x is dead", "x")), end_line(2),
    )  # fmt: skip
    run = read_run(path)
    assert (run.target, run.order, run.every, run.parameters) == ("Net", "2", 10, PARAMETERS)
    assert (run.steps, run.norms) == ((1, 2), (2.0, inf))
    assert run.losses[0] == 0.5
    assert isnan(run.losses[1] or 0)
    assert run.by_parameter == ((2.0, None), (inf, None))
    assert (run.table, run.table_step) == ((FIGURES, None), 2)
    assert run.findings == (Finding("dead", "x is dead", "x"),)
    assert run.is_finished
    assert is_run_file(path)
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_unfinished_line_is_left_for_later(tmp_path: Path) -> None:
    """A file that is being written is read up to its last whole line."""
    path = _file(tmp_path, HEADER, step_line(1, None, 2.0, [2.0, None]), '{"step": 2, "lo')
    run = read_run(path)
    assert run.steps == (1,)
    assert not run.is_finished
    assert run_report(run).notes == (
        "the record has no end: training goes on, or broke off",
        "there is no full table yet: verdicts are by the norms alone",
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((HEADER, "nonsense\n"), "line 2 is not a line of a run's record"),
        ((HEADER, "[1]\n"), "line 2 is not a line"),
        ((HEADER, '{"step": 1, "norms": [1.0, null], "norm": 1}\n'), "there is no 'loss'"),
        ((HEADER, step_line(1, None, None, [1.0])), "1 entries, and the first line names 2 parameters"),
        ((HEADER, '{"step": 1, "loss": "much", "norm": 1, "norms": [1, 1]}\n'), "there is no 'much'"),
        (('{"report": "grads-run", "schema_version": 99}\n',), "its schema is version 99"),
        ((HEADER.replace('"order": "2"', '"order": "7"'),), "there is no norm '7'"),
        (("",), "its first line is not whole"),
        ((HEADER[:50],), "its first line is not whole"),
    ],
)
def test_records_that_are_wrong(lines: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """The line, what was found, what was expected."""
    with pytest.raises(DamagedFileError) as caught:
        read_run(_file(tmp_path, *lines))
    assert message in str(caught.value)


def test_other_files_are_no_records(tmp_path: Path) -> None:
    """Neither other JSON nor what isn't there."""
    assert not is_run_file(_file(tmp_path, '{"report": "params"}\n'))
    assert not is_run_file(str(tmp_path / "nowhere"))
    assert not is_run_file(str(tmp_path))
    with pytest.raises(TargetError):
        read_run(str(tmp_path / "nowhere"))


def test_report_shows_the_last_table_and_all_norms(tmp_path: Path) -> None:
    """Verdicts by the file's thresholds, or by others; frozen parameters stay frozen."""
    path = _file(
        tmp_path, HEADER, step_line(1, 0.5, 2.0, [2.0, None]), table_line(1, [FIGURES, None]),
        step_line(2, 0.4, 1.0, [1.0, None]), end_line(2),
    )  # fmt: skip
    report = run_report(read_run(path))
    assert report.source == "run"
    assert [row.verdict for row in report.rows] == ["ok", "frozen"]
    assert [row.history for row in report.rows] == [(2.0, 1.0), (None, None)]
    assert (report.global_norm, report.loss) == (1.0, 0.4)
    assert report.setup["table"] == "of step 1"
    strict = run_report(read_run(path), thresholds=Thresholds(vanishing=10.0, exploding=20.0))
    assert strict.rows[0].verdict == "vanishing"


def test_report_with_a_history_becomes_a_record(tmp_path: Path) -> None:
    """What --every records and what mi.watch writes are one format."""
    row = GradientRow("a.weight", (2, 2), "float32", FIGURES, "ok", history=(3.0, 2.0))
    report = GradientsReport(
        "net.py", "backward", [row], 1, "2", 2.0, history=History((5, 10), (0.5, 0.4), (3.0, 2.0))
    )
    run = read_run(_file(tmp_path, *run_lines(report)))
    assert (run.steps, run.losses, run.norms, run.every) == ((5, 10), (0.5, 0.4), (3.0, 2.0), 5)
    assert run.table == (FIGURES,)
    assert run.is_finished
    assert run_report(run).rows[0]._replace(remark="") == row


def test_runs_side_by_side(tmp_path: Path) -> None:
    """By name: what one run lacks is empty there, and each run says how it went."""
    one = _file(tmp_path, HEADER, step_line(1, 0.5, 2.0, [2.0, None]), end_line(1), name="one.jsonl")
    other_header = header_line("Net", "2", 10, Thresholds(), [PARAMETERS[0], Parameter("c", (1,), "float32")])
    two = _file(tmp_path, other_header, step_line(1, 0.1, 1.0, [1.0, 0.0]), name="two.jsonl")
    report = compare_runs([read_run(one), read_run(two)])
    assert report.names == ("a.weight", "a.bias", "c")
    assert report.norms == ((2.0, 1.0), (None, None), (None, 0.0))
    assert report.verdicts == (("ok", "ok"), ("frozen", None), (None, "zero"))
    assert [(run.steps, run.loss, run.is_finished) for run in report.runs] == [
        (1, 0.5, True),
        (1, 0.1, False),
    ]


def test_following_a_file_that_grows(tmp_path: Path) -> None:
    """Each time that whole lines have come the run is given again, until its end."""
    path = _file(tmp_path, "")

    def write() -> None:
        time.sleep(0.05)
        Path(path).write_text(HEADER, encoding="utf-8")
        for number in range(1, 4):
            time.sleep(0.05)
            line = step_line(number, None, 1.0, [1.0, None])
            with open(path, "a", encoding="utf-8") as file:
                file.write(line[:10])
                file.flush()
                time.sleep(0.02)
                file.write(line[10:])
        with open(path, "a", encoding="utf-8") as file:
            file.write(end_line(3))

    writer = threading.Thread(target=write)
    writer.start()
    seen = [len(run.steps) for run in follow(path, interval=0.01)]
    writer.join()
    assert seen == sorted(seen)
    assert seen[-1] == 3


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], None),
        ([1e9], None),
        ([nan], "training diverges: the loss is NaN at step 1"),
        ([1.0, 0.5, inf], "training diverges: the loss is infinite at step 3"),
        ([1.0, 5.0, 30.0, 2000.0], "training diverges: the loss grows from 1 to 2000 in 4 steps"),
        ([1.0, 80.0], None),
        ([1e-12, 1e-6, 1e-3], None),
        ([1.0] * 50 + [1e6] + [0.9] * 50, None),
        ([5.0 - step / 100 for step in range(400)], None),
        ([1e6, 1e3, 1.0, 1e-3], None),
    ],
)
def test_divergence_without_false_alarms(losses: list[float], expected: str | None) -> None:
    """NaN, infinity, growth by orders of magnitude; not a spike, a small start, a fall."""
    assert diverges(losses) == expected


HUGE = "9" * 400


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "loss": HUGE, "norm": 1, "norms": [1, 1]}',
        '{"step": 1, "loss": 1, "norm": 1, "norms": [HUGE, 1]}',
        '{"step": Infinity, "loss": 1, "norm": 1, "norms": [1, 1]}',
        '{"step": -1, "loss": 1, "norm": 1, "norms": [1, 1]}',
        '{"step": 1, "table": [{"numel": HUGE, "l1": 1, "l2": 1, "largest": 1}, null]}',
        '{"step": 1, "table": [{"numel": -4, "l1": 1, "l2": 1, "largest": 1}, null]}',
        '{"step": 1, "table": [{"numel": Infinity, "l1": 1, "l2": 1, "largest": 1}, null]}',
        '{"step": 1, "table": [7, null]}',
        '{"step": 1, "finding": {"kind": "no such kind", "text": "", "module": null}}',
        '{"step": 1, "finding": {"kind": ["dead"], "text": "", "module": null}}',
        '{"step": 1, "finding": 7}',
        "[" * 100_000,
    ],
    ids=lambda line: line[:70],
)  # fmt: skip
def test_hostile_lines_are_named(line: str, tmp_path: Path) -> None:
    """Whatever a line holds, it is one message."""
    path = tmp_path / "run.jsonl"
    line = line.replace("HUGE", HUGE)
    path.write_text(header_line("net", "2", 1, Thresholds(), PARAMETERS) + line + "\n", encoding="utf-8")
    with pytest.raises(DamagedFileError, match="line 2 is not a line"):
        read_run(str(path))


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ('"thresholds": {"vanishing": 1e-07, "exploding": 10000.0}', '"thresholds": [1]'),
        ('"vanishing": 1e-07', f'"vanishing": {HUGE}'),
        ('"shape": [2, 2]', '"shape": [-2, 2]'),
        ('"name": "a.bias"', '"name": "a.weight"'),
    ],
)
def test_hostile_first_lines_are_named(part: str, other: str, tmp_path: Path) -> None:
    """Thresholds, shapes and names that can't be."""
    path = tmp_path / "run.jsonl"
    line = header_line("net", "2", 1, Thresholds(), PARAMETERS)
    assert part in line
    path.write_text(line.replace(part, other), encoding="utf-8")
    with pytest.raises(DamagedFileError, match="line 1 is not a line"):
        read_run(str(path))


@pytest.mark.parametrize("is_new_file", [False, True])
def test_follow_begins_anew_where_another_run_is_written(is_new_file: bool, tmp_path: Path) -> None:
    """The file is emptied and written again, or another one takes its place."""
    path = tmp_path / "run.jsonl"
    head = header_line("net", "2", 1, Thresholds(), PARAMETERS)
    lines = [step_line(step, 1.0, 1.0, [1.0, None]) for step in (1, 2, 3)]
    path.write_text(head + "".join(lines), encoding="utf-8")
    runs = follow(str(path), interval=0.01)
    assert next(runs).steps == (1, 2, 3)
    # Longer than the first, where it is another file.
    again = head + step_line(7, 1.0, 1.0, [1.0, None]) * (5 if is_new_file else 1) + end_line(7)
    other = tmp_path / "other.jsonl"
    other.write_text(again, encoding="utf-8")
    if is_new_file:
        other.replace(path)
    else:
        path.write_text(again, encoding="utf-8")
    last = list(runs)[-1]
    assert last.steps == (7,) * (5 if is_new_file else 1)
    assert last.is_finished


def test_steps_of_a_divergence_are_those_of_the_run(tmp_path: Path) -> None:
    """Where the loss is known at every tenth step only."""
    lines = [
        step_line(step, nan if step == 30 else 1.0 if step % 10 == 0 else None, 1.0, [1.0, None])
        for step in range(1, 31)
    ]
    (finding,) = run_report(read_run(_file(tmp_path, HEADER, *lines))).findings
    assert finding == Finding("diverging", "training diverges: the loss is NaN at step 30")


def test_frozen_places_and_notes_of_later_lines(tmp_path: Path) -> None:
    """A table says what asks for no gradient from then on; lines may be added that no file holds."""
    path = _file(tmp_path, HEADER, step_line(1, None, 2.0, [2.0, None]))
    more = [table_line(1, [None, FIGURES], [0]), note_line(1, "a note")]
    run = read_run(path, more=more)
    assert [parameter.trainable for parameter in run.parameters] == [False, True]
    report = run_report(run)
    assert [row.verdict for row in report.rows] == ["frozen", "ok"]
    assert report.notes[-1] == "a note"
