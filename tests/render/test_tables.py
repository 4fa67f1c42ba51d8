"""Tables and cards on a terminal, plain and in colour."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelinspect.render.cells import display_width
from modelinspect.render.folding import fold
from modelinspect.render.layout import wrap
from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.render.to_lines import lines_chunks
from modelinspect.render.to_rich import rich_text
from modelinspect.render.views.count import count_card, count_rows
from modelinspect.render.views.fit import fit_sheet
from modelinspect.render.views.params import params_sheet

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def lines_of(sheet: Sheet, width: int | None = None) -> list[str]:
    """The sheet as plain lines."""
    return "".join(lines_chunks(sheet, width)).split("\n")


def sheets_of(samples: Any) -> list[Sheet]:
    """One of everything."""
    return [
        *(fold(params_sheet(samples.report(table, tree=tree)).for_people())
          for table in (samples.regression(), samples.gpt2(), samples.experts()) for tree in (False, True)),
        params_sheet(samples.values()).for_people(),
        fit_sheet(samples.misfit()),
        count_rows(samples.counts()).for_people(),
        *(sheet for report in samples.counts() for sheet in count_card(report)),
    ]  # fmt: skip


@pytest.mark.parametrize("width", [None, 20, 40, 80, 120, 200])
def test_colour_changes_nothing_but_colour(samples: Any, width: int | None) -> None:
    """The coloured table without its escape sequences is the plain table, at any width."""
    for sheet in sheets_of(samples):
        coloured = rich_text(sheet, width)
        assert COLOUR.search(coloured)
        assert COLOUR.sub("", coloured) == "".join(lines_chunks(sheet, width))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_lines_keep_to_the_terminal(samples: Any, width: int) -> None:
    """No line of these reports is wider than a usual terminal."""
    for sheet in sheets_of(samples):
        assert max(map(len, lines_of(sheet, width))) <= width


def test_figures_stand_in_line(samples: Any) -> None:
    """Numbers end in the same place in each row, names begin in it."""
    header, _, *rows = lines_of(params_sheet(samples.report(samples.regression())).for_people())[2:8]
    assert header == "name      shape    dtype    numel  bytes  kind       trainable"
    end = header.index("numel") + len("numel")
    assert [row[:end].rsplit(" ", 1)[1] for row in rows] == ["13", "13", "13", "1"]
    assert {row.index("float32") for row in rows} == {header.index("dtype")}


TEXT = st.text(st.sampled_from("ab0._-/ {}层é\u0301"), max_size=40)


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(TEXT, TEXT, st.integers(0, 10**9)), min_size=1, max_size=6),
    width=st.none() | st.integers(1, 100),
    tree=st.booleans(),
)
def test_nothing_is_cut(rows: list[tuple[str, str, int]], width: int | None, tree: bool) -> None:
    """However narrow the terminal, every character of every cell is there, in its order."""
    columns = (Column("name", "name", "name"), Column("to", "to"), Column("n", "n", "count"))
    indents = [min(index, 3) for index in range(len(rows))] if tree else None
    sheet = Sheet("x", columns, rows, indents=indents)
    text = squeezed(lines_of(sheet, width))
    assert COLOUR.sub("", rich_text(sheet, width)) == "".join(lines_chunks(sheet, width))
    for name, other, number in rows:
        for cell in (name, other, f"{number:,}"):
            place = text.find(squeezed([cell]))
            assert place >= 0


def squeezed(lines: Sequence[str]) -> str:
    """Without blanks, ends of lines and the guides of a tree."""
    return re.sub(r"[\s│├└─]", "", "".join(lines))


@given(TEXT, st.integers(1, 60))
def test_wrap_keeps_to_its_width(text: str, width: int) -> None:
    """Wrapped lines are no wider than asked, a single wide character aside, and hold all of the text."""
    lines = wrap(text, width)
    assert all(display_width(line) <= max(width, 2) for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_long_names_stand_above_their_row(samples: Any) -> None:
    """A name that leaves no room stands on a line of its own, in one piece; the figures stay in line."""
    report = samples.named("short", "a.rather.long.name.of.a.tensor.in.some.deep.model.weight")
    lines = lines_of(params_sheet(report, ("name", "shape", "dtype", "numel", "bytes")), 60)
    at = lines.index("a.rather.long.name.of.a.tensor.in.some.deep.model.weight")
    assert lines[at - 1].startswith("short ")
    assert lines[at + 1].strip() == "[2, 3]  float32      6   24 B"
    assert lines[at + 1].index("float32") == lines[at - 1].index("float32")


def test_narrow_terminals_say_what_they_leave_out(samples: Any) -> None:
    """Columns that a view can spare go where there is no room, and a line names them."""
    sheet = fold(params_sheet(samples.report(samples.gpt2(), tree=True)).for_people())
    assert "left out, the terminal is too narrow: dtype, buffers" in lines_of(sheet, 80)
    assert not any("left out" in line for line in lines_of(sheet, 200))


def test_wide_characters_are_two_columns(samples: Any) -> None:
    """Names in Chinese keep the columns in line."""
    rows = lines_of(params_sheet(samples.named("层.0", "ab"), ("name", "dtype")))[4:6]
    assert [display_width(row[: row.index("float32")]) for row in rows] == [6, 6]


def test_tree_guides() -> None:
    """The lines of a tree lead from each row to its parent and end at the last child."""
    rows = [(name,) for name in ("root", "a", "b", "c", "d", "e")]
    sheet = Sheet("x", (Column("l", "l", "name"),), rows, indents=[0, 1, 2, 2, 1, 2])
    assert lines_of(sheet)[2:8] == ["root", "├─ a", "│  ├─ b", "│  └─ c", "└─ d", "   └─ e"]


def test_deep_trees_stay_readable(samples: Any) -> None:
    """A name of a thousand parts is indented so far and no further."""
    report = samples.named(".".join(["a"] * 1000))
    text = lines_of(params_sheet(samples.report(report.table, tree=True)).for_people())
    assert len(text) > 1000
    assert max(map(len, text)) < 250


def test_one_enormous_name_does_not_widen_every_row(samples: Any) -> None:
    """A name of a megabyte costs a megabyte, not one for each row."""
    report = samples.named("x" * 1_000_000, *(f"n{i}" for i in range(1000)))
    for width in (None, 80):
        text = "\n".join(lines_of(params_sheet(report), width))
        assert text.replace("\n", "").replace(" ", "").count("x") >= 1_000_000
        assert len(text) < 2_500_000


def test_many_rows_and_few_look_alike(samples: Any) -> None:
    """Rows are the same in a table of three and in one of thousands, across chunks."""
    few = params_sheet(samples.named(*(f"n{i:05}" for i in range(3))))
    many = params_sheet(samples.named(*(f"n{i:05}" for i in range(12_000))))
    assert lines_of(many)[2:7] == lines_of(few)[2:7]
    assert sum(line.startswith("n") and line[1:6].isdigit() for line in lines_of(many)) == 12_000


def test_footer_flows() -> None:
    """Figures of a footer stand side by side as far as they fit."""
    footer = (Line("tensors", 4), Line("unique parameters", 124_439_808), Line("bytes", 160, "bytes"))
    sheet = Sheet("x", (Column("n", "n", "name"),), [("a",)], footer=footer)
    assert lines_of(sheet)[-2] == "4 tensors · 124,439,808 (124.4 M) unique parameters · 160 bytes"
    assert lines_of(sheet, 60)[-3:-1] == ["4 tensors · 124,439,808 (124.4 M) unique parameters", "160 bytes"]


def test_empty_table(samples: Any) -> None:
    """A table without rows still has its heading and totals."""
    lines = lines_of(params_sheet(samples.named()).for_people(), 80)
    assert lines[2].startswith("name  shape")
    assert "0 tensors · 0 unique parameters · 0 bytes" in lines
