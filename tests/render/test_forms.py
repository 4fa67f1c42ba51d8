"""The forms of a result: JSON, JSON Lines, plain, CSV, TSV, Markdown, and how one is chosen."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest

from modelinspect.render import output
from modelinspect.render.output import (
    FORMATS,
    Terminal,
    choose_format,
    terminal_of,
    write_sheet,
    write_sheets,
)
from modelinspect.render.sheet import SCHEMA_VERSION, Column, Sheet
from modelinspect.render.views.count import count_groups, count_number, count_rows
from modelinspect.render.views.fit import fit_sheet
from modelinspect.render.views.params import params_sheet


def written(sheet: Sheet, form: Any) -> str:
    """The sheet in that form."""
    stream = StringIO()
    write_sheet(sheet, form, stream)
    return stream.getvalue()


def types_of(value: Any) -> Any:
    """The shape of a document: types in place of values, the first item for a list."""
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [types_of(value[0])] if value else []
    return type(value)


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_has_a_sink(samples: Any, form: Any) -> None:
    """Each form writes each of the report's names, and ends with the end of a line."""
    text = written(params_sheet(samples.report(samples.regression())), form)
    assert all(text.count(name) == 1 for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


NONE = type(None)


def test_json_of_params(samples: Any) -> None:
    """The document that the view describes, with raw integers."""
    document = json.loads(written(params_sheet(samples.report(samples.partly_frozen())), "json"))
    assert list(document)[:2] == ["schema_version", "report"]
    assert types_of(document) == {
        "schema_version": int, "report": str, "target": str, "section": str, "origin": str,
        "totals": {"tensors": int, "unique": int, "buffers": int, "bytes": int},
        "unregistered": [{"name": str, "dtype": str, "shape": [int]}],
        "notes": [],
        "tensors": [
            {"name": str, "shape": [int], "dtype": str, "numel": int, "bytes": int, "kind": str,
             "trainable": bool, "tied_to": NONE}
        ],
    }  # fmt: skip
    assert document["schema_version"] == SCHEMA_VERSION
    assert document["report"] == "params"
    assert document["totals"] == {"tensors": 5, "unique": 49, "buffers": 17, "bytes": 220}


def test_json_of_values(samples: Any) -> None:
    """Summaries are raw figures, not the words that a table shows."""
    first, *_, last = json.loads(written(params_sheet(samples.values()), "json"))["tensors"]
    assert first["values"] == {
        "numel": 13, "min": -0.98, "max": 0.75, "mean": 0.0212345, "std": 0.51,
        "zeros": 0, "nans": 0, "infinities": 0, "values": None, "reason": None,
    }  # fmt: skip
    assert last["values"]["values"] == [0.512345]


def test_json_of_a_tree(samples: Any) -> None:
    """A tree is a list of lines with their depth, each below its parent."""
    document = json.loads(written(params_sheet(samples.report(samples.regression(), tree=True)), "json"))
    assert types_of(document["tree"]) == [
        {"path": str, "label": str, "depth": int, "class": str, "shape": NONE, "dtype": NONE,
         "parameters": int, "buffers": int, "bytes": int, "percent": float, "tensors": int, "tied_to": NONE}
    ]  # fmt: skip
    told = [(line["depth"], line["path"], line["class"], line["parameters"]) for line in document["tree"]]
    assert told[:3] == [(0, "", "Sequential", 40), (1, "0", "Linear", 26), (2, "0.weight", "", 13)]


def test_json_of_count(samples: Any) -> None:
    """One object a target, with every figure; what is unknown is null."""
    document = json.loads(written(count_rows(samples.counts()), "json"))
    regression, gpt2, _ = document["targets"]
    assert types_of(gpt2) == {
        "target": str, "section": str, "unique": int, "named": int, "stored": int, "trainable": NONE,
        "frozen": NONE, "buffers": int, "persistent_buffers": int, "non_persistent_buffers": NONE,
        "bytes": int, "tensors": int, "parameter_tensors": int, "buffer_tensors": int,
        "dtypes": [{"dtype": str, "tensors": int, "numel": int, "bytes": int}],
        "quantized": [], "ties": [{"names": [str], "numel": int}], "by": NONE, "groups": [],
    }  # fmt: skip
    assert (regression["unique"], regression["trainable"], regression["frozen"]) == (40, 40, 0)
    assert (gpt2["unique"], gpt2["named"]) == (124_439_808, 163_037_184)
    assert gpt2["ties"][0]["names"] == ["transformer.wte.weight", "lm_head.weight"]


def test_json_of_fit(samples: Any) -> None:
    """The verdict, the prefixes, how many rows of each status, and the rows."""
    document = json.loads(written(fit_sheet(samples.misfit()), "json"))
    assert document["fits"] is False
    assert document["checkpoint_prefix"] == "module."
    assert document["counts"] == {
        "ok": 1, "missing": 1, "unexpected": 1, "shape": 1, "dtype": 1, "layout": 0, "quantized": 0,
    }  # fmt: skip

    assert document["tensors"][1] == {
        "name": "0.bias", "status": "shape", "expected_shape": [13], "expected_dtype": "float32",
        "found_shape": [14], "found_dtype": "float32", "note": None, "harmless": False,
    }  # fmt: skip


def test_json_spells_what_json_lacks() -> None:
    """NaN and infinities are texts, tuples lists, complex numbers texts, wherever they stand."""
    column = Column("x", "x")
    values = [float("nan"), float("inf"), float("-inf"), (1, (2.5, float("nan"))), 1 + 2j]
    sheet = Sheet("x", (column,), [(value,) for value in values], summary={"most": float("inf")})
    document = json.loads(written(sheet, "json"), parse_constant=pytest.fail)
    assert document["most"] == "Infinity"
    assert [row["x"] for row in document["rows"]] == [
        "NaN",
        "Infinity",
        "-Infinity",
        [1, [2.5, "NaN"]],
        "(1+2j)",
    ]


@pytest.mark.parametrize("rows", [0, 1, 1000, 2001])
def test_json_lines_are_the_rows(rows: int) -> None:
    """JSON Lines hold the document's rows, one a line, whatever the size of a chunk."""
    sheet = Sheet("x", (Column("n", "n", "count"),), [(i,) for i in range(rows)])
    lines = [json.loads(line) for line in written(sheet, "jsonl").splitlines()]
    assert lines == json.loads(written(sheet, "json"))["rows"] == [{"n": i} for i in range(rows)]


def test_plain_is_raw(samples: Any) -> None:
    """One row a line, tabs between, no header; all columns, raw numbers, nothing folded."""
    text = written(params_sheet(samples.report(samples.gpt2())), "plain").splitlines()
    assert len(text) == 161
    assert text[0].split("\t") == [
        "transformer.wte.weight", "[50257, 768]", "float32", "38597376", "154389504", "parameter", "", "",
    ]  # fmt: skip
    assert text[-1].split("\t")[-1] == "transformer.wte.weight"


def test_plain_count_is_the_number(samples: Any) -> None:
    """One target gives the number alone, several give number, tab, target."""
    reports = samples.counts()
    assert written(count_number(reports[:1]), "plain") == "40\n"
    assert written(count_number(reports[:2], "bytes"), "plain") == (
        "160\tmodels/regression.py\n510342144\tgpt2.safetensors\n"
    )


@pytest.mark.parametrize(("form", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_is_read_back(samples: Any, form: str, delimiter: str) -> None:
    """A reader of CSV or TSV finds the keys and raw values."""
    sheet = params_sheet(samples.report(samples.partly_frozen()))
    rows = list(csv.DictReader(StringIO(written(sheet, form)), delimiter=delimiter))
    assert [row["name"] for row in rows] == ["encoder.weight", "head.weight", "scale", "steps", "mask"]
    assert [row["shape"] for row in rows] == ["[8, 4]", "[2, 8]", "[]", "[]", "[4, 4]"]
    assert [row["trainable"] for row in rows] == ["false", "true", "true", "false", "false"]
    assert sum(int(row["bytes"]) for row in rows) == 220


def test_groups_in_csv(samples: Any) -> None:
    """Groups are rows; with several targets the target stands first."""
    from modelinspect.analysis.count import count_table

    reports = [
        count_table(samples.regression(), by="module"),
        count_table(samples.partly_frozen(), by="module"),
    ]
    assert written(count_groups(reports[:1]), "csv").splitlines()[:2] == [
        "label,unique,named,trainable,buffers,bytes,tensors",
        "0,26,26,26,0,104,2",
    ]
    assert written(count_groups(reports), "plain").startswith("models/regression.py\t0\t26\t")


def test_markdown_is_a_table(samples: Any) -> None:
    """Title, heading, alignment, rows, footer."""
    assert written(params_sheet(samples.report(samples.regression())), "markdown").splitlines() == [
        "**models/regression.py**",
        "",
        "| name | shape | dtype | numel | bytes | kind | trainable |",
        "| --- | --- | --- | ---: | ---: | --- | --- |",
        "| 0.weight | [13, 1] | float32 | 13 | 52 B | parameter | yes |",
        "| 0.bias | [13] | float32 | 13 | 52 B | parameter | yes |",
        "| 2.weight | [1, 13] | float32 | 13 | 52 B | parameter | yes |",
        "| 2.bias | [1] | float32 | 1 | 4 B | parameter | yes |",
        "",
        "4 tensors · 40 unique parameters · 160 bytes",
        "",
        "no tied tensors",
    ]


# --------------------------------------------------------------------- output


def test_choose_format() -> None:
    """A table on a terminal, plain anywhere else, and always what was asked for."""
    assert choose_format(None, True) == "table"
    assert choose_format(None, False) == "plain"
    assert all(choose_format(form, terminal) == form for form in FORMATS for terminal in (True, False))


class Screen(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("is_terminal", "environ", "expected"),
    [
        (True, {}, Terminal(80, True)),
        (True, {"COLUMNS": "132"}, Terminal(132, True)),
        (True, {"COLUMNS": "0"}, Terminal(80, True)),
        (True, {"COLUMNS": "wide"}, Terminal(80, True)),
        (True, {"NO_COLOR": "1"}, Terminal(80, False)),
        (True, {"NO_COLOR": ""}, Terminal(80, True)),
        (True, {"TERM": "dumb"}, Terminal(80, False)),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, Terminal(80, False)),
        (False, {}, Terminal(None, False)),
        (False, {"FORCE_COLOR": "1"}, Terminal(None, True)),
        (False, {"FORCE_COLOR": "0"}, Terminal(None, False)),
        (False, {"COLUMNS": "60"}, Terminal(60, False)),
    ],
)
def test_terminal_of_stdout(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, environ: dict[str, str], expected: Terminal
) -> None:
    """COLUMNS, NO_COLOR, FORCE_COLOR and TERM say how wide and how colourful stdout is."""
    stream = Screen() if is_terminal else StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert terminal_of(stream, environ) == expected


def test_a_file_is_no_terminal() -> None:
    """A file opened for the result is neither narrow nor coloured, whatever the environment says."""
    assert terminal_of(StringIO(), {"FORCE_COLOR": "1", "COLUMNS": "20"}) == Terminal(None, False)


def test_colour_only_for_short_tables(samples: Any) -> None:
    """Above some hundreds of rows a table is plain lines, which take no time."""
    for rows, coloured in ((output.COLOURED_ROWS, True), (output.COLOURED_ROWS + 1, False)):
        stream = StringIO()
        sheet = params_sheet(samples.named(*(f"n{i}" for i in range(rows))))
        write_sheet(sheet, "table", stream, terminal=Terminal(80, True), fold=False)
        assert ("\x1b[" in stream.getvalue()) is coloured


def test_folding_is_for_tables(samples: Any) -> None:
    """Tables fold repeated blocks unless told not to; no other form ever does."""
    sheet = params_sheet(samples.report(samples.gpt2()))
    assert "transformer.h.{0..11}.ln_1.weight" in written(sheet, "table")
    for form in FORMATS:
        if form != "table":
            assert "{0..11}" not in written(sheet, form)
    stream = StringIO()
    write_sheet(sheet, "table", stream, fold=False)
    assert "{0..11}" not in stream.getvalue()


def test_tables_stand_apart(samples: Any) -> None:
    """Several sheets have an empty line between them; a JSON document holds one."""
    sheets = [params_sheet(samples.report(samples.regression()))] * 2
    stream = StringIO()
    write_sheets(sheets, "table", stream)
    assert stream.getvalue().count("\n\nmodels/regression.py\n") == 1
    with pytest.raises(ValueError, match="one sheet"):
        write_sheets(sheets, "json", StringIO())


@pytest.mark.parametrize(
    ("encoding", "cells"), [("ascii", ["h.{0..2}.\\xe9", "x3"]), ("latin-1", ["h.{0..2}.é", "×3"])]
)
def test_poor_encodings(samples: Any, encoding: str, cells: list[str]) -> None:
    """A stream that lacks a character gets an escape or an ASCII likeness, never an error."""
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding=encoding)
    write_sheet(params_sheet(samples.named(*(f"h.{i}.é" for i in range(3)))), "table", stream)
    stream.flush()
    row = next(line for line in raw.getvalue().decode(encoding).splitlines() if line.startswith("h."))
    assert row.split()[:2] == cells


def test_closed_pipe_is_not_swallowed(samples: Any) -> None:
    """The command line decides what a closed pipe means."""

    class Closed(StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    for form in FORMATS:
        with pytest.raises(BrokenPipeError):
            write_sheet(params_sheet(samples.report(samples.regression())), form, Closed())


@pytest.mark.parametrize(
    ("form", "colour", "loaded"), [("plain", True, False), ("table", False, False), ("table", True, True)]
)
def test_rich_is_loaded_for_colour_only(form: str, colour: bool, loaded: bool) -> None:
    """Only a coloured table imports rich; the last row shows that the others could fail."""
    script = (
        "import sys\n"
        "from modelinspect.render.output import Terminal, write_sheet\n"
        "from modelinspect.render.sheet import Column, Sheet\n"
        "import modelinspect.render.views\n"
        "sheet = Sheet('x', (Column('n', 'n', 'name'),), [('a',)])\n"
        f"write_sheet(sheet, {form!r}, sys.stdout, terminal=Terminal(80, {colour}))\n"
        "print([name for name in ('rich', 'torch', 'numpy', 'typer') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.splitlines()[-1] == str(["rich"] if loaded else [])
