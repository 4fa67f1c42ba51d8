"""
Tables of gradients as people and scripts see them: golden text, JSON, sparklines, plots.
"""

from __future__ import annotations

import io
import json
from math import inf, nan
from typing import Any

import pytest

from modelinspect.analysis.gradient_rows import by_module, gradient_tree
from modelinspect.analysis.gradients import (
    Figures,
    Finding,
    GradientRow,
    GradientsReport,
    History,
    Spread,
)
from modelinspect.analysis.runs import RunColumn, RunsReport
from modelinspect.errors import UsageError
from modelinspect.render.display import html_of, rich_of
from modelinspect.render.output import Terminal, write_sheet
from modelinspect.render.sparkline import sparkline
from modelinspect.render.to_plot import plot_bytes
from modelinspect.render.views.grads import GRADS_COLUMNS, grads_sheet, runs_sheet


def _figures(scale: float, numel: int, zeros: int = 0, weight: float | None = 2.0) -> Figures:
    return Figures(numel, 3 * scale, 2 * scale, scale, zeros, weight=weight)


_TIED = ("head.weight",)
ROWS = [
    GradientRow("encoder.layer.0.weight", (16, 16), "float32", _figures(1e-12, 256), "vanishing"),
    GradientRow("encoder.layer.0.bias", (16,), "float32", _figures(0.0, 16, 16), "zero"),
    GradientRow("encoder.layer.1.weight", (16, 16), "float32", _figures(0.5, 256, 64), "ok", _TIED),
    GradientRow("encoder.layer.1.bias", (16,), "float32", None, "frozen"),
    GradientRow("spare", (), "float32", None, "none"),
    GradientRow("head.bias", (16,), "float32", Figures(16, nan, nan, nan, 0, 3, 1, 1.0), "nan"),
    GradientRow("scale", (1,), "float32", _figures(12345.678, 1, weight=0.0), "exploding", remark="a word"),
]  # fmt: skip
CLASSES = {"": "Net", "encoder": "Encoder", "encoder.layer": "ModuleList", "encoder.layer.0": "Linear"}


def _report(**changes: Any) -> GradientsReport:
    plain: dict[str, Any] = {
        "target": "net.py:Net", "source": "backward", "rows": ROWS, "parameters": 8, "order": "2",
        "global_norm": nan, "loss": 0.25, "setup": {"input": "float32[2, 13], given", "seed": "0"},
        "findings": (Finding("nan-forward", "forward: NaN first appears in head (Linear)", "head"),),
        "modules": CLASSES,
    }  # fmt: skip
    return GradientsReport(**{**plain, **changes})


def _shown(report: GradientsReport, width: int, form: Any = "table") -> str:
    stream = io.StringIO()
    write_sheet(grads_sheet(report), form, stream, terminal=Terminal(width, False))
    return stream.getvalue()


WIDE = """\
net.py:Net

name                    shape         norm   largest  grad/weight   zeros  verdict    also         remark
──────────────────────  ────────  ────────  ────────  ───────────  ──────  ─────────  ───────────  ──────
encoder.layer.0.weight  [16, 16]  2.00e-12  1.00e-12     1.00e-12    0.0%  vanishing
encoder.layer.0.bias    [16]             0         0            0  100.0%  zero
encoder.layer.1.weight  [16, 16]      1.00     0.500        0.500   25.0%  ok         head.weight
encoder.layer.1.bias    [16]                                               frozen
spare                   []                                                 none
head.bias               [16]           NaN       NaN          NaN    0.0%  nan
scale                   [1]         24,691    12,346                 0.0%  exploding               a word

global norm NaN · loss 0.250 · 8 parameters
verdicts: 1 vanishing · 1 zero · 1 ok · 1 frozen · 1 none · 1 nan · 1 exploding
7 of 8 parameters are shown
forward: NaN first appears in head (Linear)
input: float32[2, 13], given
seed: 0
"""


def test_table_for_people() -> None:
    """Three significant digits, blanks where there is no gradient, what is wrong below."""
    assert _shown(_report(), 120) == WIDE


def test_narrow_terminal_keeps_names_and_verdicts() -> None:
    """Columns that say less go first, and a line says which."""
    shown = _shown(_report(), 60)
    assert all(len(line) <= 60 for line in shown.splitlines())
    assert all(row.name in shown for row in ROWS)
    assert "vanishing" in shown
    assert "left out, the terminal is too narrow: " in shown


def test_json_is_raw() -> None:
    """Every figure as it is, NaN as a text, null where there is no gradient."""
    document = json.loads(_shown(_report(), 80, "json"))
    assert document["schema_version"] == 1
    assert document["report"] == "grads"
    assert (document["global_norm"], document["healthy"]) == ("NaN", False)
    assert document["findings"] == [
        {"kind": "nan-forward", "text": "forward: NaN first appears in head (Linear)", "module": "head"}
    ]
    first, frozen, broken = (document["parameters"][place] for place in (2, 3, 5))
    assert (first["norm"], first["zeros"], first["zero_share"], first["also"]) == (
        1.0,
        64,
        0.25,
        ["head.weight"],
    )
    assert (frozen["norm"], frozen["verdict"], frozen["weight_norm"]) == (None, "frozen", None)
    assert (broken["norm"], broken["nans"], broken["infinities"]) == ("NaN", 3, 1)


def test_plain_lines_are_for_scripts() -> None:
    """Full precision, nothing where there is nothing, seven columns that never move."""
    lines = [line.split("\t") for line in _shown(_report(), 80, "plain").splitlines()]
    assert lines[2][:7] == ["encoder.layer.1.weight", "[16, 16]", "1.0", "0.5", "0.5", "0.25", "ok"]
    assert lines[3][:7] == ["encoder.layer.1.bias", "[16]", "", "", "", "", "frozen"]
    assert lines[5][2] == "NaN"


TREE = """\
net.py:Net

module              class       tensors  numel      norm   largest  grad/weight   zeros  verdict
──────────────────  ──────────  ───────  ─────  ────────  ────────  ───────────  ──────  ─────────
(model)             Net               4    544      1.00     0.500        0.289   15.2%  zero
└─ encoder          Encoder           4    544      1.00     0.500        0.289   15.2%  zero
   └─ layer         ModuleList        4    544      1.00     0.500        0.289   15.2%  zero
      ├─ 0          Linear            2    272  2.00e-12  1.00e-12     7.07e-13    5.9%  zero
      │  ├─ weight                    1    256  2.00e-12  1.00e-12     1.00e-12    0.0%  vanishing
      │  └─ bias                      1     16         0         0            0  100.0%  zero
      └─ 1                            2    272      1.00     0.500        0.500   25.0%  ok
         ├─ weight                    1    256      1.00     0.500        0.500   25.0%  ok
         └─ bias                      1     16                                           frozen
"""


def test_tree_puts_modules_together() -> None:
    """Norms are those of the gradients below as one vector, the verdict is the worst."""
    rows = ROWS[:4]
    shown = _shown(_report(rows=rows, tree=gradient_tree(rows, CLASSES), findings=()), 120)
    assert shown.startswith(TREE)


def test_by_module() -> None:
    """One row a module, in order, with its class where that is known."""
    shown = _shown(_report(rows=ROWS[:4], tree=by_module(ROWS[:4], CLASSES, 3)), 120, "plain")
    paths = [line.split("\t")[0] for line in shown.splitlines()]
    assert paths == ["encoder.layer.0", "encoder.layer.1"]


def test_history_spread_and_values_have_columns() -> None:
    """Only where there are any."""
    row = ROWS[2]._replace(history=(1.0, 10.0, 100.0), spread=Spread(0.1, 0.2, 0.4), values=[[0.5, -0.25]])
    history = History((1, 2, 3), (4.0, 2.0, 1.0), (1.0, 10.0, 100.0))
    shown = _shown(_report(rows=[row], history=history, sample_spread=Spread(0.5, 1.0, 2.0)), 200)
    assert "▁▅█" in shown
    assert "0.100   0.200  0.400" in shown
    assert "[[0.5, -0.25]]" in shown
    assert "global norm by sample: 0.5 to 2, median 1" in shown
    assert "loss by step: ▇▅▂" in shown


def test_columns_are_chosen_and_checked() -> None:
    """Any of them, in any order; a slip is met with the nearest."""
    sheet = grads_sheet(_report(), GRADS_COLUMNS)
    assert tuple(column.key for column in sheet.columns) == GRADS_COLUMNS
    with pytest.raises(UsageError, match="there is no column 'nrom'"):
        grads_sheet(_report(), ("nrom",))
    tree = _report(tree=gradient_tree(ROWS, CLASSES))
    with pytest.raises(UsageError, match="there is no column 'history'"):
        grads_sheet(tree, ("history",))


def test_nothing_to_show_reads_well() -> None:
    """A model without parameters: a heading and what there is to say."""
    shown = _shown(_report(rows=[], parameters=0, global_norm=None, findings=()), 80)
    assert "0 parameters" in shown
    assert "verdicts" not in shown


RUNS = RunsReport(
    (
        RunColumn("a.jsonl", "Net", 10, 0.5, 2.0, True),
        RunColumn("b.jsonl", "Net", 12, None, None, False),
    ),
    ("w", "b"),
    ((2.0, 1.0), (None, 0.5)),
    (("ok", "vanishing"), (None, "ok")),
    (((3.0, 2.0), (1.0, 1.0)), ((), (0.5, 0.5))),
)


def test_runs_side_by_side() -> None:
    """A norm a run, their ratio, a verdict each; what each run is stands below."""
    stream = io.StringIO()
    write_sheet(runs_sheet(RUNS), "table", stream, terminal=Terminal(160, False))
    shown = stream.getvalue()
    assert "w       2.00    1.00  0.500  ok         vanishing  ▅▄         ▅▅" in shown
    assert "A: a.jsonl: 10 steps, loss 0.5, global norm 2" in shown
    assert "B: b.jsonl: 12 steps, no loss, no norm, without an end" in shown
    stream = io.StringIO()
    write_sheet(runs_sheet(RUNS), "json", stream)
    document = json.loads(stream.getvalue())
    assert document["report"] == "grads-runs"
    assert document["parameters"][0] == {
        "name": "w", "norms": [2.0, 1.0], "ratio": 0.5, "verdicts": ["ok", "vanishing"],
    }  # fmt: skip


def test_reports_show_themselves() -> None:
    """With rich and in a notebook, nothing of a name is taken for markup."""
    report = _report(rows=[ROWS[0]._replace(name="[red]<b>x</b>")])
    assert "[red]&lt;b&gt;x&lt;/b&gt;" in html_of(report)
    assert html_of(RUNS)
    assert rich_of(report) is not None


# ---------------------------------------------------------------------- sparklines


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 10, 100, 1000], "▁▃▆█"),
        ([], ""),
        ([5.0, 5.0, 5.0], "▅▅▅"),
        ([2.0, 2.1, 2.0], "▄▅▄"),
        ([1.0, None, 10.0], "▁ █"),
        ([0.0, 1.0, 10.0], "▁▁█"),
        ([1.0, inf, nan, 10.0], "▁××█"),
        ([0.0, 0.0], "▁▁"),
        ([None, None], ""),
    ],
)
def test_sparklines(values: list[Any], expected: str) -> None:
    """Decades are heights; gaps, zeros and broken values are told apart from small ones."""
    assert sparkline(values) == expected


def test_long_series_are_shared_out() -> None:
    """Never wider than asked, and no NaN gets lost among its neighbours."""
    values: list[float | None] = [1.0] * 1000
    values[500] = nan
    line = sparkline(values, 20)
    assert len(line) == 20
    assert line.count("×") == 1


# --------------------------------------------------------------------------- plots


def _history_report(parameters: int, steps: int) -> GradientsReport:
    rows = [
        ROWS[2]._replace(
            name=f"layer.{number}.$weight<b>",
            history=tuple(None if step == 3 else 10.0 ** (-number + step / 5) for step in range(steps)),
        )
        for number in range(parameters)
    ]
    numbers = tuple(range(1, steps + 1))
    norms = tuple(inf if step == 2 else 1.0 + step for step in range(steps))
    return _report(rows=rows, history=History(numbers, tuple(1.0 / step for step in numbers), norms))


@pytest.mark.parametrize(("parameters", "steps"), [(1, 1), (3, 12), (130, 40)])
@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_plots_of_any_size(parameters: int, steps: int, suffix: str) -> None:
    """One step or many, more parameters than labels; the same report gives the same bytes."""
    report = _history_report(parameters, steps)
    drawn = plot_bytes(report, suffix)
    head = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".html": b"<!doctype html>"}[suffix]
    assert drawn.startswith(head)
    if suffix != ".png":
        assert b"<b>" not in drawn
        assert b"<script" not in drawn
        assert plot_bytes(report, suffix) == drawn


def test_plots_that_can_not_be_drawn() -> None:
    """Another suffix, no history."""
    with pytest.raises(UsageError, match=r"a plot is \.png, \.svg, \.html"):
        plot_bytes(_history_report(1, 3), ".pdf")
    with pytest.raises(UsageError, match="no norms were recorded"):
        plot_bytes(_report(), ".svg")
