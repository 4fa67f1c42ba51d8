"""Views: what a report says on a terminal, compared with golden files, and which columns there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest

from modelinspect.analysis.count import count_table
from modelinspect.analysis.summary import ValueSummary
from modelinspect.errors import UnknownAnswerError, UsageError
from modelinspect.render.output import Terminal, write_sheets
from modelinspect.render.sheet import Sheet
from modelinspect.render.summaries import summary_text
from modelinspect.render.views.count import count_card, count_number, count_rows
from modelinspect.render.views.fit import fit_sheet
from modelinspect.render.views.params import PARAMS_COLUMNS, TREE_COLUMNS, params_sheet

VIEWS: dict[str, Callable[[Any], list[Sheet]]] = {
    "params-regression": lambda s: [params_sheet(s.report(s.regression()))],
    "params-gpt2": lambda s: [params_sheet(s.report(s.gpt2()))],
    "params-experts": lambda s: [params_sheet(s.report(s.experts()))],
    "params-partly-frozen": lambda s: [params_sheet(s.report(s.partly_frozen()))],
    "params-quantized": lambda s: [params_sheet(s.report(s.packed()))],
    "params-values": lambda s: [params_sheet(s.values())],
    "params-columns": lambda s: [
        params_sheet(s.report(s.gpt2()), ("name", "stride", "device", "offset", "percent", "file"))
    ],
    "tree-regression": lambda s: [params_sheet(s.report(s.regression(), tree=True))],
    "tree-gpt2": lambda s: [params_sheet(s.report(s.gpt2(), tree=True))],
    "tree-experts": lambda s: [params_sheet(s.report(s.experts(), tree=True))],
    "fit": lambda s: [fit_sheet(s.misfit())],
    "count-regression": lambda s: list(count_card(s.counts()[0])),
    "count-gpt2": lambda s: list(count_card(count_table(s.gpt2(), by="prefix", depth=2))),
    "count-partly-frozen": lambda s: list(count_card(s.counts()[2])),
    "count-quantized": lambda s: list(count_card(count_table(s.packed()))),
    "count-several": lambda s: [count_rows(s.counts())],
    "count-numbers": lambda s: [count_number(s.counts())],
    "count-number": lambda s: [count_number(s.counts()[1:2], "bytes")],
}


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", VIEWS)
def test_golden(samples: Any, golden: Callable[[str, str], None], name: str, width: int) -> None:
    """What a user sees at 80 and 200 columns is what someone read and accepted."""
    stream = StringIO()
    write_sheets(VIEWS[name](samples), "table", stream, terminal=Terminal(width, False))
    golden(f"{name}-{width}", stream.getvalue())


@pytest.mark.parametrize("column", PARAMS_COLUMNS)
def test_each_column_can_be_chosen(samples: Any, column: str) -> None:
    """Every column that exists can be shown alone, with a value for each row."""
    sheet = params_sheet(samples.values(), (column,))
    assert [one.key for one in sheet.columns] == [column]
    assert len(sheet.rows) == 4


@pytest.mark.parametrize("column", TREE_COLUMNS)
def test_each_column_of_a_tree_can_be_chosen(samples: Any, column: str) -> None:
    """Every column of a tree can be shown alone."""
    sheet = params_sheet(samples.report(samples.regression(), tree=True), (column,))
    assert [one.key for one in sheet.columns] == [column]
    assert len(sheet.rows) == 7


def test_columns_hold_what_torch_says(samples: Any) -> None:
    """Stride, offset and storage are the tensor's own."""
    tensor = samples.tensor("w", (3, 2), explicit_stride=(1, 3), storage_offset=2)
    report = samples.report(type(samples.regression())("t", [tensor], "file"))
    keys = ("stride", "offset", "storage_offset", "storage_bytes", "storage", "file", "device", "layout")
    (row,) = params_sheet(report, keys).rows
    assert tuple(row) == ((1, 3), 72, 2, 24, "w", "model.safetensors", "cpu", "strided")


@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        (("name", "shap"), "there is no column 'shap'", "did you mean shape?"),
        (("zebra",), "there is no column 'zebra'", None),
        (("\x1b[31m",), r"there is no column '\\x1b[31m'", None),
        (("values",), "the column 'values' needs the values to be read", "add --values"),
    ],
)
def test_unknown_columns(samples: Any, columns: tuple[str, ...], message: str, hint: str | None) -> None:
    """A column that is not there is named, with the nearest one."""
    with pytest.raises(UsageError) as caught:
        params_sheet(samples.report(samples.regression()), columns)
    assert caught.value.message == message
    assert caught.value.hint == hint


def test_shares_make_a_whole(samples: Any) -> None:
    """Percentages of the bytes add up to one, tied tensors included."""
    for tree in (False, True):
        sheet = params_sheet(samples.report(samples.gpt2(), tree=tree), ("percent",))
        shares = [row[0] for row in sheet.rows]
        assert (shares[0] if tree else sum(shares)) == pytest.approx(1)


def test_dull_columns_are_for_machines_only(samples: Any) -> None:
    """Columns that say nothing are left out for people, with a line that says so, and kept for scripts."""
    sheet = params_sheet(samples.report(samples.gpt2()))
    shown = [column.key for column in sheet.for_people().columns]
    assert "trainable" not in shown
    assert "tied_to" in shown
    assert any(line.label == "trainable" for line in sheet.footer)
    assert [column.key for column in sheet.columns][-2:] == ["trainable", "tied_to"]


def test_chosen_columns_are_kept(samples: Any) -> None:
    """Who asks for a column gets it, dull or not."""
    sheet = params_sheet(samples.report(samples.regression()), ("name", "tied_to"))
    assert [column.key for column in sheet.for_people().columns] == ["name", "tied_to"]


def test_part_of_the_rows_says_so(samples: Any) -> None:
    """Filters leave a line below the table."""
    report = samples.report(samples.regression())
    some = replace(report, tensors=report.tensors[:1])
    assert any(line.value == "1 of 4 tensors are shown" for line in params_sheet(some).footer)


def test_unknown_figures_are_refused(samples: Any) -> None:
    """The number of trainable parameters of a bare state_dict is an error, not a zero."""
    with pytest.raises(UnknownAnswerError):
        count_number(samples.counts(), "trainable")


def test_many_ties_are_counted(samples: Any) -> None:
    """A card names some ties, folds the names of each, and says how many more there are."""
    table = samples.regression()
    shared = [samples.tensor(f"s{i}").storage for i in range(12)]
    tensors = [
        samples.tensor(f"t{chr(97 + i)}.{j}.w", storage=storage)
        for i, storage in enumerate(shared)
        for j in range(5)
    ]
    (card,) = count_card(count_table(type(table)("t", tensors, "file")))
    remarks = [line.remark for line in card.footer if line.label == "  tied"]
    assert remarks[0] == "ta.{0..4}.w"
    assert remarks[-1] == "in 4 more; --format json lists them"
    assert len(remarks) == 9


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (ValueSummary(9, -0.98, 0.75, 0.0212345, 0.51, 0, 0, 0), "x∈[-0.98, 0.75] μ=0.02123 σ=0.51"),
        (ValueSummary(9, 0.0, 0.0, 0.0, 0.0, 9, 0, 0), "all zeros"),
        (ValueSummary(9, 1.0, 1.0, 1.0, 0.0, 0, 0, 0), "all 1"),
        (ValueSummary(9, 7, 7, 7.0, 0.0, 0, 0, 0), "all 7"),
        (ValueSummary(9, 1.0, 1.0, 1.0, 0.0, 0, 2, 0), "x∈[1, 1] μ=1 σ=0 NaN!×2"),
        (ValueSummary(5000, None, None, None, None, 0, 3000, 2000), "NaN!×3,000 Inf!×2,000"),
        (ValueSummary(9, 0, 255, 1e-9, 50257.5, 0, 0, 0), "x∈[0, 255] μ=1e-09 σ=5.026e+04"),
        (ValueSummary(0, None, None, None, None, 0, 0, 0), "no values"),
        (ValueSummary(9, None, None, None, None, 0, 0, 0, reason="complex"), "complex"),
        (ValueSummary(9, 1, 2, 1.5, 0.5, 0, 0, 0, reason="stored integers"),
         "x∈[1, 2] μ=1.5 σ=0.5 (stored integers)"),
        (ValueSummary(4, 0, 1, 0.5, 0.5, 2, 0, 0, [[0, 1], [True, 0.123456]]), "[[0, 1], [True, 0.1235]]"),
        (ValueSummary(2, 0, 1, 0.5, 0.5, 2, 1, 1, [float("nan"), float("-inf")]),
         "[nan, -inf] NaN!×1 Inf!×1"),
        (ValueSummary(1, 7, 7, 7.0, 0.0, 0, 0, 0, 7), "7"),
        (ValueSummary(1, None, None, None, None, 0, 0, 0, [1 - 2j]), "[1-2j]"),
        (None, ""),
    ],
)  # fmt: skip
def test_values_in_words(summary: ValueSummary | None, text: str) -> None:
    """Range, mean and spread with four digits; what is wrong stands out; small tensors in full."""
    assert summary_text(summary) == text


def test_verdicts(samples: Any) -> None:
    """A comparison says whether it fits, what keeps it from fitting, and what loading converts."""
    misfit = samples.misfit()
    assert [line.value for line in fit_sheet(misfit).footer] == [
        "does not fit: 1 missing, 1 unexpected, 1 of another shape, the checkpoint's names have 'module.'",
        "1 of 5 names agree",
        "1 of another data type: loading converts",
    ]
    fits = replace(misfit, rows=(misfit.rows[0], misfit.rows[2]), checkpoint_prefix="")
    assert [line.value for line in fit_sheet(fits).footer] == [
        "fits: 1 of 2 names agree",
        "1 of another data type: loading converts",
    ]


def test_notes_of_a_comparison_are_shown(samples: Any) -> None:
    """A column of notes is there where there are notes; harmless differences are counted apart."""
    misfit = samples.misfit()
    row = misfit.rows[3]._replace(note="batch norm sets it", harmless=True)
    sheet = fit_sheet(replace(misfit, rows=(row,), checkpoint_prefix=""))
    assert [column.key for column in sheet.for_people().columns][-1] == "note"
    assert "note" not in [column.key for column in fit_sheet(misfit).for_people().columns]
    assert [line.value for line in sheet.footer][-1] == "1 without harm: see the notes beside them"


def test_buffers_are_not_unknown(samples: Any) -> None:
    """A declared buffer is not trainable; of a bare state_dict nothing is known."""
    rows = params_sheet(samples.report(samples.partly_frozen()), ("name", "trainable")).rows
    assert {name: trainable for name, trainable in rows} == {  # noqa: C416
        "encoder.weight": False, "head.weight": True, "scale": True, "steps": False, "mask": False,
    }  # fmt: skip
    assert {row[0] for row in params_sheet(samples.report(samples.gpt2()), ("trainable",)).rows} == {None}
