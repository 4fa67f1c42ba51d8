"""Gradient tables at the widths people have, and what each column, form and line of the footer says."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from math import inf, nan, sqrt
from typing import Any, get_args

import pytest
from rich.console import Console

from modelinspect import display
from modelinspect.analysis.gradient_rows import by_module, gradient_tree
from modelinspect.analysis.gradients import (
    Figures,
    Finding,
    FindingKind,
    GradientRow,
    GradientsReport,
    History,
    NormOrder,
    Spread,
    Thresholds,
    Verdict,
    global_norm,
)
from modelinspect.analysis.runs import RunColumn, RunsReport
from modelinspect.errors import UsageError
from modelinspect.render.display import html_of, sheets_of
from modelinspect.render.output import FORMATS, Format, Terminal, write_sheet
from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.render.to_lines import lines_chunks
from modelinspect.render.to_rich import _STYLES, rich_text
from modelinspect.render.units import short_number
from modelinspect.render.views.grads import GRADS_COLUMNS, GRADS_TREE_COLUMNS, grads_sheet, runs_sheet

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def figures(numel: int, rms: float, *, zeros: int = 0, weight: float = 0.05) -> Figures:
    """Of a gradient with this root mean square."""
    return Figures(numel, 0.8 * rms * numel, rms * sqrt(numel), 4.2 * rms, zeros, 0, 0, weight * sqrt(numel))


BROKEN = Figures(2_359_296, nan, nan, nan, 0, 3, 0, 77.0)
_BLOCK: dict[str, tuple[int, ...]] = {
    "ln_1.weight": (768,),
    "attn.c_attn.weight": (768, 2304),
    "attn.c_attn.bias": (2304,),
    "mlp.c_fc.weight": (768, 3072),
}
CLASSES = {"": "GPT2LMHeadModel", "transformer": "GPT2Model", "transformer.h": "ModuleList",
           "transformer.h.0": "GPT2Block", "transformer.h.1": "GPT2Block"}  # fmt: skip


def rows_of_gpt() -> list[GradientRow]:
    """Two blocks of a transformer, one gradient of each verdict among them."""
    wte = figures(38_597_376, 1e-6, zeros=30_000_000)
    rows = [GradientRow("transformer.wte.weight", (50257, 768), "float32", wte, "ok", ("lm_head.weight",))]
    for block, rms in enumerate((1e-3, 1e-9)):
        for leaf, shape in _BLOCK.items():
            numel = shape[0] * (shape[1] if len(shape) > 1 else 1)
            verdict: Verdict = "vanishing" if block else "ok"
            name = f"transformer.h.{block}.{leaf}"
            rows.append(GradientRow(name, shape, "float32", figures(numel, rms), verdict))
    rows[4] = rows[4]._replace(figures=BROKEN, verdict="nan")
    bias = Figures(2304, 0.0, 0.0, 0.0, 2304, 0, 0, 1.0)
    rows[7] = rows[7]._replace(figures=bias, verdict="cancelled", remark="cancels out downstream")
    return [
        *rows,
        GradientRow("transformer.ln_f.weight", (768,), "float32", None, "none"),
        GradientRow("position", (12,), "float32", None, "frozen"),
        GradientRow("head.bias", (3,), "float32", figures(3, 2e4), "exploding"),
        GradientRow("scale", (), "float32", Figures(1, 0.0, 0.0, 0.0, 1, 0, 0, 1.0), "zero"),
        GradientRow("gate", (2,), "float32", Figures(2, inf, inf, inf, 0, 0, 1, 1.0), "inf"),
    ]


def report(rows: list[GradientRow] | None = None, **fields: Any) -> GradientsReport:
    """A report on these rows."""
    rows = rows_of_gpt() if rows is None else rows
    usual: dict[str, Any] = {
        "parameters": len(rows),
        "order": "2",
        "global_norm": global_norm((row.figures for row in rows), "2"),
        "loss": 10.8249,
        "setup": {"input": "int64[2, 128] below 50257", "loss": "cross_entropy", "seed": "0"},
        "findings": (
            Finding("nan-backward", "backward: NaN first appears in transformer.h.0.mlp.c_fc (Conv1D)", "x"),
            Finding("vanishing", "3 gradients vanish: down to 2.8e-08 at transformer.h.1.ln_1.weight", "y"),
        ),
        "modules": CLASSES,
    }
    return GradientsReport("gpt.py:Net", "backward", rows, **{**usual, **fields})


def with_steps(of: GradientsReport, steps: int = 30) -> GradientsReport:
    """The report with norms of steps that fall by two decades."""
    fall = [10 ** (2 - 2 * step / (steps - 1)) for step in range(steps)]
    rows = [
        row._replace(
            history=tuple(None if row.figures is None else size * row.figures.largest for size in fall)
        )
        for row in of.rows
    ]
    losses = tuple(0.5 + size / 100 for size in fall)
    return replace(of, rows=rows, history=History(tuple(range(1, steps + 1)), losses, tuple(fall)))


def optimizer_report() -> GradientsReport:
    """Moments out of a checkpoint: no weights, no zeros beside them."""
    rows = [
        row._replace(
            figures=row.figures._replace(weight=None), second_rms=1e-4, verdict="ok", also=(), remark=""
        )
        for row in rows_of_gpt()[:3]
        if row.figures is not None
    ]
    setup = {"optimizer": "Adam: first moment", "step": "1,000"}
    return replace(report(rows, setup=setup, findings=(), loss=None), target="last.pt", source="optimizer")


def runs() -> RunsReport:
    """Three runs of different lengths, one without a parameter."""
    return RunsReport(
        (
            RunColumn("runs/first.jsonl", "Net", 100, 0.25, 1.5, True),
            RunColumn("runs/second.jsonl", "Net", 1, nan, nan, True),
            RunColumn("runs/third.jsonl", "Net", 12, None, None, False),
        ),
        ("encoder.weight", "encoder.bias"),
        ((1.0, nan, 0.001), (None, 2.0, 3.0)),
        (("ok", "nan", "ok"), (None, "ok", "ok")),
        (((1.0, 10.0), (nan,), (0.1, 0.001)), ((), (2.0,), (3.0, 3.0))),
    )


def text_of(sheet: Sheet, form: Format = "table", width: int | None = None, *, colour: bool = False) -> str:
    """The sheet in that form."""
    stream = StringIO()
    write_sheet(sheet, form, stream, terminal=Terminal(width, colour))
    return stream.getvalue()


VIEWS: dict[str, Callable[[], Sheet]] = {
    "grads-gpt": lambda: grads_sheet(report()),
    "grads-history": lambda: grads_sheet(with_steps(report())),
    "grads-tree": lambda: grads_sheet(report(tree=gradient_tree(rows_of_gpt(), CLASSES))),
    "grads-modules": lambda: grads_sheet(report(tree=by_module(rows_of_gpt(), CLASSES))),
    "grads-optimizer": lambda: grads_sheet(optimizer_report()),
    "grads-empty": lambda: grads_sheet(report([], findings=())),
    "grads-runs": lambda: runs_sheet(runs()),
}


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", VIEWS)
def test_golden(golden: Callable[[str, str], None], name: str, width: int) -> None:
    """What a user sees at 80 and 200 columns is what someone read and accepted."""
    golden(f"{name}-{width}", text_of(VIEWS[name](), width=width))


@pytest.mark.parametrize("width", [None, 30, 60, 80, 120, 200])
@pytest.mark.parametrize("name", VIEWS)
def test_colour_changes_nothing_but_colour(name: str, width: int | None) -> None:
    """The coloured table without its escape sequences is the plain one, and keeps to the terminal."""
    sheet = VIEWS[name]().for_people()
    plain = "".join(lines_chunks(sheet, width))
    assert COLOUR.sub("", rich_text(sheet, width)) == plain
    if width is not None and width >= 60:
        assert max(map(len, plain.splitlines())) <= width


def test_verdicts_have_colours() -> None:
    """Green is well, dim is as it should be, yellow is weak, red is broken; NaN is red wherever it stands."""
    coloured = text_of(grads_sheet(report()), width=200, colour=True)
    for verdict, code in (
        ("ok", "32"), ("frozen", "2"), ("cancelled", "2"), ("none", "1;33"), ("zero", "1;33"),
        ("vanishing", "1;33"), ("exploding", "1;31"), ("inf", "1;31"), ("nan", "1;31"),
    ):  # fmt: skip
        assert re.search(rf"\x1b\[{code}m{verdict} *\x1b\[0m", coloured), verdict
    assert re.search(r"\x1b\[1;31m +NaN\x1b\[0m", coloured)
    assert "\x1b[1;31mbackward: NaN first appears in transformer.h.0.mlp.c_fc (Conv1D)" in coloured


# -------------------------------------------------------------------- columns


def keys_shown(of: GradientsReport) -> list[str]:
    """Keys of the columns that people are shown."""
    return [column.key for column in grads_sheet(of).for_people().columns]


@pytest.mark.parametrize(("order", "title"), [("1", "L1 norm"), ("2", "norm"), ("inf", "max norm")])
def test_the_heading_says_which_norm(order: NormOrder, title: str) -> None:
    """The column of norms and the global one are of the order that was asked for."""
    rows = rows_of_gpt()[:1]
    sheet = grads_sheet(report(rows, order=order, global_norm=5.0))
    assert [column.title for column in sheet.columns][2] == title
    assert sheet.rows[0][2] == rows[0].figures.norm(order)  # type: ignore[union-attr]
    assert sheet.footer[0] == Line(f"global {title}", 5.0, "number")


def test_columns_are_there_where_they_say_something() -> None:
    """Ties, remarks, moments, spreads, values and norms by step have columns where there are any."""
    row = rows_of_gpt()[1]
    plain = ["name", "shape", "norm", "largest", "ratio", "zero_share", "verdict"]
    assert keys_shown(report([row])) == plain
    for changes, keys in (
        ({"also": ("b",)}, ["also"]),
        ({"remark": "one word"}, ["remark"]),
        ({"second_rms": 1.0}, ["second_rms"]),
        ({"spread": Spread(1.0, 2.0, 3.0)}, ["least", "median", "most"]),
        ({"values": [1.0, 2.0]}, ["values"]),
        ({"history": (1.0, 2.0)}, ["history"]),
    ):
        assert keys_shown(report([row._replace(**changes)])) == [*plain, *keys]
    assert row.figures is not None
    assert keys_shown(report([row._replace(figures=row.figures._replace(weight=None))])) == [
        key for key in plain if key != "ratio"
    ]
    assert keys_shown(report([row._replace(figures=None)])) == ["name", "shape", "norm", "verdict"]


@pytest.mark.parametrize("key", GRADS_COLUMNS)
def test_keys_mean_the_same_in_every_form(key: str) -> None:
    """A column that JSON has under the same key holds the same figure there."""
    sheet = grads_sheet(with_steps(report()), (key,))
    assert [column.key for column in sheet.columns] == [key]
    assert sheet.records is not None
    if key in sheet.records[0] and key not in ("also", "history", "values"):
        assert [str(row[0]) for row in sheet.rows] == [str(record[key]) for record in sheet.records]


def test_further_columns_hold_figures() -> None:
    """Counts, root mean square and relative size are those of the figures."""
    (row,) = [row for row in rows_of_gpt() if row.name == "transformer.wte.weight"]
    keys = ("zeros", "nans", "infinities", "rms", "relative_size", "weight_norm", "numel", "dtype")
    (cells,) = grads_sheet(report([row]), keys).rows
    assert row.figures is not None
    expected = (30_000_000, 0, 0, 1e-6, 2e-5, row.figures.weight, 38_597_376, "float32")
    assert cells[:3] == expected[:3]
    assert cells[3:7] == pytest.approx(expected[3:7])


@pytest.mark.parametrize("tree", [False, True])
def test_an_unknown_column_is_met_with_the_nearest(tree: bool) -> None:
    """The message lists what there is."""
    of = report(tree=gradient_tree(rows_of_gpt(), CLASSES)) if tree else report()
    with pytest.raises(UsageError, match="there is no column 'verdikt'") as caught:
        grads_sheet(of, ("norm", "verdikt"))
    assert caught.value.hint == "did you mean verdict?"
    known = GRADS_TREE_COLUMNS if tree else GRADS_COLUMNS
    assert caught.value.details == (f"columns: {', '.join(known)}",)


def test_a_row_is_a_line() -> None:
    """At 80 columns every parameter has one line, with its norm and verdict; what went is said."""
    lines = text_of(grads_sheet(with_steps(report(rows_of_gpt()[1:9]))), width=80).splitlines()
    table = [line for line in lines if line.startswith("transformer.")]
    assert len(table) == 8
    assert all(re.match(r"transformer\.\S+ +\S+  (ok|nan|vanishing|cancelled) +\S", line) for line in table)
    assert lines[-1] == "left out, the terminal is too narrow: zeros, largest, shape, grad/weight"


def test_names_too_long_for_any_line_cost_no_column() -> None:
    """Where a name has to stand above its row anyway, no more columns go than the rest needs."""
    row = rows_of_gpt()[1]._replace(name="a" * 100)
    text = text_of(grads_sheet(report([row], findings=())), width=80)
    assert "left out" not in text
    assert "a" * 79 in text.replace("\n", "").replace(" ", "")


# --------------------------------------------------------------------- footer


def footer_of(of: GradientsReport) -> dict[str, Any]:
    """Labels of the footer and what they say."""
    return {line.label: line.value for line in grads_sheet(of).footer}


def test_limits_are_said_where_they_were_set() -> None:
    """Thresholds other than the usual stand below a table in which something is beyond them."""
    limits = Thresholds(1e-5, 500.0)
    said = "vanishing below 1e-05, exploding above 500 (relative size)"
    assert footer_of(report(thresholds=limits))["thresholds"] == said
    assert "thresholds" not in footer_of(report())
    assert "thresholds" not in footer_of(report(rows_of_gpt()[1:2], thresholds=limits))


def test_half_precision_is_reassured() -> None:
    """Of half-precision gradients the footer says how their global norm was added up."""
    half = [row._replace(dtype="bfloat16") for row in rows_of_gpt()[1:3]]
    assert "global norm 1.33 (added up in float64)" in text_of(grads_sheet(report(half)))
    assert "float64" not in text_of(grads_sheet(report(rows_of_gpt()[1:3])))


def test_series_have_their_ends() -> None:
    """Losses and norms by step are drawn with the first and the last figure; losses may be negative."""
    steps = History((1, 2, 3), (1.0, None, -12.0), (1.0, 10.0, nan))
    said = footer_of(report(history=steps))
    assert said["loss by step"] == "█ ▁ 1.00 to -12.0"
    assert said["norm by step"] == "▁█× 1.00 to NaN"
    unknown = History((1,), (None,), (1.0,))
    assert "loss by step" not in footer_of(report(history=unknown))


def test_every_finding_has_a_colour() -> None:
    """Each kind of finding is a line of status in the colour of a verdict."""
    for kind in get_args(FindingKind):
        (line,) = [
            each for each in grads_sheet(report(findings=(Finding(kind, "x"),))).footer if each.value == "x"
        ]
        assert line.kind == "status"
        assert f"status-{line.label}" in _STYLES


# ---------------------------------------------------------------------- forms


def types_of(value: Any) -> Any:
    """The shape of a document: types in place of values, the first item for a list."""
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    return [types_of(item) for item in value[:1]] if isinstance(value, list) else type(value)


NONE = type(None)
HEAD = {
    "schema_version": int, "report": str, "target": str, "source": str, "order": str, "global_norm": str,
    "loss": float, "healthy": bool, "thresholds": {"vanishing": float, "exploding": float},
    "setup": {"input": str, "loss": str, "seed": str},
    "findings": [{"kind": str, "text": str, "module": str}],
    "verdicts": dict.fromkeys(get_args(Verdict), int),
    "sample_spread": {"least": float, "median": float, "most": float}, "notes": [],
}  # fmt: skip


def test_json_of_a_table() -> None:
    """The document that the view describes, with raw figures."""
    of = replace(with_steps(report()), sample_spread=Spread(1.0, 2.0, 3.0))
    document = json.loads(text_of(grads_sheet(of), "json"), parse_constant=pytest.fail)
    assert types_of(document) == {
        **HEAD,
        "history": {"steps": [int], "losses": [float], "norms": [float]},
        "parameters": [
            {"name": str, "shape": [int], "dtype": str, "numel": int, "norm": float, "l1": float, "l2": float,
             "largest": float, "ratio": float, "zeros": int, "zero_share": float, "nans": int,
             "infinities": int, "weight_norm": float, "second_rms": NONE, "verdict": str, "also": [str],
             "remark": str, "spread": NONE, "history": [float], "values": NONE}
        ],
    }  # fmt: skip
    assert (document["global_norm"], document["healthy"]) == ("NaN", False)
    assert document["parameters"][-1]["norm"] == "Infinity"


def test_json_of_modules() -> None:
    """A line a module, with what its gradients are together."""
    of = report(tree=by_module(rows_of_gpt(), CLASSES), sample_spread=Spread(1.0, 2.0, 3.0))
    document = json.loads(text_of(grads_sheet(of), "json"), parse_constant=pytest.fail)
    assert types_of(document) == {
        **HEAD,
        "history": NONE,
        "modules": [
            {"path": str, "label": str, "depth": int, "class": str, "tensors": int, "numel": int,
             "norm": float, "largest": float, "ratio": float, "zero_share": float, "verdict": str}
        ],
    }  # fmt: skip


def test_json_of_runs() -> None:
    """Each run's figures, and for each parameter one norm and verdict a run."""
    document = json.loads(text_of(runs_sheet(runs()), "json"), parse_constant=pytest.fail)
    assert document["runs"][1] == {
        "path": "runs/second.jsonl", "target": "Net", "steps": 1,
        "loss": "NaN", "norm": "NaN", "finished": True,
    }  # fmt: skip
    assert document["parameters"] == [
        {
            "name": "encoder.weight",
            "norms": [1.0, "NaN", 0.001],
            "ratio": 0.001,
            "verdicts": ["ok", "nan", "ok"],
        },
        {"name": "encoder.bias", "norms": [None, 2.0, 3.0], "ratio": None, "verdicts": [None, "ok", "ok"]},
    ]


@pytest.mark.parametrize("count", [1, 26, 27, 100])
def test_any_number_of_runs(count: int) -> None:
    """One run or a hundred: each has a column and a line of its own."""
    column = RunColumn("r.jsonl", "Net", 2, 1.0, 1.0, True)
    well: Verdict | None = "ok"
    verdicts = (well,) * count
    of = RunsReport((column,) * count, ("w",), ((1.0,) * count,), (verdicts,), (((1.0, 2.0),) * count,))
    sheet = runs_sheet(of)
    keys = [each.key for each in sheet.columns]
    assert len(set(keys)) == len(keys) == len(sheet.rows[0]) == 1 + 3 * count + (count > 1)
    assert len({line.label for line in sheet.footer}) == count
    assert json.loads(text_of(sheet, "json"))["parameters"][0]["ratio"] == (1.0 if count > 1 else None)


def test_csv_reads_back() -> None:
    """Every number is read back to the last digit, NaN and infinity by their names in JSON."""
    rows = list(csv.DictReader(StringIO(text_of(grads_sheet(report()), "csv"))))
    for row, found in zip(rows_of_gpt(), rows):
        norm = None if row.figures is None else row.figures.l2
        assert found["norm"] == (
            "" if norm is None else {"nan": "NaN", "inf": "Infinity"}.get(str(norm), repr(norm))
        )
    assert {"name", "zero_share", "also", "remark"} <= set(rows[0])


def test_markdown_has_the_table_and_what_is_wrong() -> None:
    """Numbers to the right, findings below."""
    text = text_of(grads_sheet(report()), "markdown")
    assert "| name | shape | norm | largest | grad/weight | zeros | verdict | also | remark |" in text
    assert "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- |" in text
    assert "3 gradients vanish" in text


# ------------------------------------------------------------------- anywhere


@pytest.mark.parametrize("of", [report(), with_steps(report()), runs()], ids=["table", "history", "runs"])
def test_reports_display_themselves(monkeypatch: pytest.MonkeyPatch, of: Any) -> None:
    """Rich prints the table of the command line, a notebook gets it as HTML."""
    monkeypatch.setattr(display, "_installed", ["modelinspect.render.display"])
    stream = StringIO()
    Console(file=stream, width=100).print(of)
    assert stream.getvalue() == "".join(text for sheet in sheets_of(of) for text in lines_chunks(sheet, 100))
    assert of._repr_html_() == html_of(of)
    assert html_of(of).count("<table>") == 1


def test_hostile_names_stay_text() -> None:
    """What a run's file calls its parameters, and says of them, is escaped in every form."""
    evil = "\x1b[31m\u202e\t=1+1|<b>"
    row = rows_of_gpt()[0]._replace(name=evil, also=(evil,), remark=evil)
    of = report([row], findings=(Finding("dead", evil),), setup={evil: evil})
    for tree in (None, gradient_tree([row], {"": evil})):
        for form in FORMATS:
            text = text_of(grads_sheet(replace(of, target=evil, tree=tree)), form)
            assert "\x1b" not in text
            assert "\u202e" not in text
    assert html_of(of).count("&lt;b&gt;") == 6
    assert "|<b>" not in html_of(of)


def test_many_rows_keep_their_order() -> None:
    """Ten thousand parameters are ten thousand lines, in colour or not, none folded."""
    row = rows_of_gpt()[1]
    rows = [row._replace(name=f"h.{number}.weight") for number in range(10_000)]
    lines = text_of(grads_sheet(report(rows, findings=())), width=80, colour=True).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("h.")] == [each.name for each in rows]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"), (1.0, "1.00"), (0.1234, "0.123"), (12.345, "12.3"), (99.96, "100"), (123.4, "123"),
        (999.4, "999"), (999.6, "1,000"), (12_345.6, "12,346"), (99_999.4, "99,999"), (100_000.0, "1.00e+05"),
        (1e-4, "0.000100"), (9.99e-5, "9.99e-05"), (1.234e-15, "1.23e-15"), (5e-324, "4.94e-324"),
        (-0.5, "-0.500"), (-1e9, "-1.00e+09"), (nan, "NaN"), (inf, "inf"), (-inf, "-inf"),
    ],
)  # fmt: skip
def test_numbers_of_any_size(number: float, text: str) -> None:
    """Three significant digits; fixed from 1e-4 to 1e5, scientific beyond; never wider than ten."""
    assert short_number(number) == text
    assert len(text) <= 10


def test_numbers_in_every_place() -> None:
    """A number is shown in tables, footers and cards, raw to scripts, and blank where there is none."""
    column = Column("x", "x", "number")
    sheet = Sheet(
        "x", (column,), [(0.123456,), (None,), (nan,), (-inf,)], footer=(Line("y", 1e-9, "number"),)
    )
    assert text_of(sheet).splitlines() == ["    x", "─────", "0.123", "", "  NaN", " -inf", "", "y 1.00e-09"]
    assert text_of(sheet, "plain").splitlines() == ["0.123456", "", "NaN", "-Infinity"]
    assert [row["x"] for row in json.loads(text_of(sheet, "json"))["rows"]] == [
        0.123456,
        None,
        "NaN",
        "-Infinity",
    ]
    card = Sheet("x", (), (), footer=(Line("y", 1e-9, "number"), Line("z", None, "number")))
    assert text_of(card).splitlines() == ["y  1.00e-09", "z   unknown"]
