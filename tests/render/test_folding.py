"""Folding of repeated blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.analysis.count import count_table
from modelinspect.render.folding import fold, fold_names, spell
from modelinspect.render.sheet import Column, Sheet
from modelinspect.render.views.count import count_groups
from modelinspect.render.views.fit import fit_sheet
from modelinspect.render.views.params import params_sheet

COLUMNS = (
    Column("name", "name", "name"),
    Column("shape", "shape", "shape"),
    Column("numel", "numel", "count"),
)


def sheet_of(*rows: tuple[Any, ...]) -> Sheet:
    """Rows of name, shape and numel."""
    return Sheet("params", COLUMNS, rows, foldable=True, fold_sums=("numel",))


def names_in(sheet: Sheet) -> list[str]:
    """The first column."""
    return [row[0] for row in sheet.rows]


def expanded(pattern: str) -> list[str]:
    """What a shell makes of braces: every combination, ranges with a step, zeros kept."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    options = [[part] if index % 2 == 0 else list(_values(part)) for index, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*options)]


def _values(braces: str) -> Iterator[str]:
    for item in braces.split(","):
        first, *rest = item.split("..")
        if not rest:
            yield first
            continue
        step = int(rest[1]) if len(rest) > 1 else 1
        width = len(first) if first.startswith("0") and len(first) > 1 else 0
        for number in range(int(first), int(rest[0]) + 1, step):
            yield str(number).zfill(width)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ("7", "7"),
        ("0 1 2", "{0..2}"),
        ("2 1 0", "{0..2}"),
        ("0 1 2 3 5", "{0..3,5}"),
        ("0 1 2 3 5 6 7", "{0..3,5..7}"),
        ("0 2 4", "{0,2,4}"),
        ("1 3 5 7 9 11", "{1..11..2}"),
        ("8 9 10", "{8..10}"),
        ("08 09 10", "{08..10}"),
        ("8 09 10", "{8,09,10}"),
    ],
)
def test_spelling(numbers: str, text: str) -> None:
    """Ranges, gaps, steps and zeros in front, as a shell expands them."""
    assert spell(numbers.split()) == text
    assert sorted(expanded(text)) == sorted(numbers.split())


def test_equal_rows_fold() -> None:
    """Rows that differ only in a number become one; counts are added, the rest stays."""
    folded = fold(sheet_of(*((f"h.{i}.w", (4,), 4) for i in range(32)), ("head.w", (2,), 2)))
    assert [tuple(row) for row in folded.rows] == [("h.{0..31}.w", "×32", (4,), 128), ("head.w", "", (2,), 2)]
    assert [column.key for column in folded.columns] == ["name", "times", "shape", "numel"]


def test_two_numbers_fold() -> None:
    """Layers and experts fold into every combination of both."""
    rows = [(f"l.{i}.e.{j}.w", (2,), 2) for i in range(4) for j in range(8)]
    assert fold(sheet_of(*rows)).rows == [("l.{0..3}.e.{0..7}.w", "×32", (2,), 64)]


def test_layers_that_differ_stay_apart(samples: Any) -> None:
    """A dense first layer and layers of experts are two lines, each block standing once."""
    folded = fold(params_sheet(samples.report(samples.experts())))
    assert [(row[0], row[1]) for row in folded.rows] == [
        ("model.embed_tokens.weight", ""),
        ("model.layers.{0..4}.self_attn.q_proj.weight", "×5"),
        ("model.layers.0.mlp.up_proj.weight", ""),
        ("model.layers.{0..4}.input_layernorm.weight", "×5"),
        ("model.layers.{1..4}.mlp.experts.{0..7}.up_proj.weight", "×32"),
        ("model.layers.{1..4}.mlp.experts.{0..7}.down_proj.weight", "×32"),
    ]


def test_ragged_blocks_are_not_one() -> None:
    """A layer with fewer experts than the others gets a line of its own."""
    experts = {0: 3, 1: 4, 2: 4, 3: 4}
    rows = [(f"l.{i}.e.{j}", (1,), 1) for i, count in experts.items() for j in range(count)]
    assert names_in(fold(sheet_of(*rows))) == ["l.0.e.{0..2}", "l.{1..3}.e.{0..3}"]


def test_few_values_stay_names() -> None:
    """Two layers of a kind keep their names: fc1 and fc2 are roles, not repetitions."""
    rows = [(f"h.{i}.fc{j}", (1,), 1) for i in range(3) for j in (1, 2)]
    assert names_in(fold(sheet_of(*rows))) == ["h.{0..2}.fc1", "h.{0..2}.fc2"]
    few = sheet_of(("0.w", (1,), 1), ("2.w", (1,), 1))
    assert fold(few) is few


@pytest.mark.parametrize("column", ["shape", "dtype", "kind", "trainable"])
def test_what_differs_does_not_fold(samples: Any, column: str) -> None:
    """Rows fold only where shape, data type, kind and trainability are equal."""
    others: dict[str, dict[str, Any]] = {
        "shape": {"shape": (9, 9)},
        "dtype": {"dtype": "float16"},
        "kind": {"kind": "buffer"},
        "trainable": {"requires_grad": False},
    }
    tensors = [samples.tensor(f"h.{i}", **({} if i % 2 else others[column])) for i in range(4)]
    table = samples.named("x").table
    report = samples.report(type(table)("t", tensors, "file"))
    assert len(fold(params_sheet(report)).rows) == 4


def test_ties_fold_by_the_same_numbers() -> None:
    """What a row is tied to folds along, unless it holds other numbers."""
    columns = (Column("name", "name", "name"), Column("tied_to", "tied to", "name"))
    rows = [(f"dec.{i}.w", f"enc.{i}.w") for i in range(6)]
    folded = fold(Sheet("params", columns, rows, foldable=True))
    assert folded.rows == [("dec.{0..5}.w", "×6", "enc.{0..5}.w")]
    shared = [(f"h.{i}.w", None if i == 0 else "h.0.w") for i in range(6)]
    folded = fold(Sheet("params", columns, shared, foldable=True))
    assert [tuple(row) for row in folded.rows] == [("h.0.w", "", None), ("h.{1..5}.w", "×5", "h.0.w")]
    crossed = [(f"dec.{i}.w", f"enc.{5 - i}.w") for i in range(6)]
    assert len(fold(Sheet("params", columns, crossed, foldable=True)).rows) == 6


@pytest.mark.parametrize(
    "names",
    [
        ["a.{0..2}", "a.0", "a.1", "a.2", "a.{1}"],
        ["a.0", "a.0", "a.0", "a.0"],
        [".".join("1" * 13 + str(i)) for i in range(9)],
        ["0" * 5000 + str(i) for i in range(4)],
    ],
    ids=["braces", "repeated", "many numbers", "long numbers"],
)
def test_odd_names_keep_their_meaning(names: list[str]) -> None:
    """Braces that are there already, repeated names and absurd numbers never make a wrong line."""
    folded = fold_names(names)
    told = [name for line, times in folded for name in (expanded(line) if times > 1 else [line])]
    assert sorted(told) == sorted(names)


NAMES = st.lists(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["h.", "h.x", ""]),
        st.sampled_from(["0", "1", "2", "3", "4", "5", "7", "00", "01", "02", "10", "11"]),
        st.sampled_from([".e.", "-"]),
        st.sampled_from(["0", "1", "2", "3", "9", "003", "w", ""]),
    ),
    unique=True,
    max_size=60,
)


@given(NAMES)
def test_folding_loses_no_name(names: list[str]) -> None:
    """Expanding the folded names gives the names, each once, and sums stay what they were."""
    sheet = sheet_of(*((name, (1,), index) for index, name in enumerate(names)))
    folded = fold(sheet)
    told = [name for pattern in names_in(folded) for name in expanded(pattern)]
    assert sorted(told) == sorted(names)
    assert sum(row[-1] for row in folded.rows) == sum(range(len(names)))
    if folded is not sheet:
        times = [int(row[1][1:] or 1) for row in folded.rows]
        assert times == [len(expanded(pattern)) for pattern in names_in(folded)]


@given(NAMES)
def test_blocks_stand_where_they_began(names: list[str]) -> None:
    """Folded rows come in the order of their first names."""
    firsts = [
        min(names.index(name) for name in expanded(pattern))
        for pattern in names_in(fold(sheet_of(*((name, (1,), 1) for name in names))))
    ]
    assert firsts == sorted(firsts)


def test_only_where_a_view_allows_it() -> None:
    """A sheet that does not call itself foldable is left alone."""
    sheet = Sheet("x", COLUMNS, [(f"h.{i}", (1,), 1) for i in range(9)])
    assert fold(sheet) is sheet


def test_fit_rows_fold(samples: Any) -> None:
    """Rows of a comparison fold where status, shapes and types agree."""
    row = samples.misfit().rows[0]
    rows = tuple(type(row)(f"h.{i}.w", row.status, row.expected, row.found) for i in range(5))
    report = type(samples.misfit())(samples.regression(), samples.regression(), rows)
    assert [row[:2] for row in fold(fit_sheet(report)).rows] == [("h.{0..4}.w", "×5")]


def test_equal_groups_fold(samples: Any) -> None:
    """Groups of a count fold where all their figures are equal, and show the sums."""
    groups = count_groups([count_table(samples.experts(), by="prefix", depth=3)])
    assert [(row[0], row[1], row[2]) for row in fold(groups.for_people()).rows] == [
        ("model.embed_tokens.weight", "", 16_384_000),
        ("model.layers.0", "", 1_311_232),
        ("model.layers.{1..4}", "×4", 34_605_056),
    ]


# ---------------------------------------------------------------------- trees


def test_tree_folds_equal_modules(samples: Any) -> None:
    """Equal blocks become one with all their figures; a block that differs stays."""
    folded = fold(params_sheet(samples.report(samples.experts(), tree=True)).for_people())
    shown = [(depth, row[0]) for depth, row in zip(folded.indents or (), folded.rows)]
    assert (3, "0") in shown
    assert (3, "{1..4} ×4") in shown
    assert (6, "{0..7} ×8") in shown


def test_tree_adds_up_after_folding(samples: Any) -> None:
    """Parameters and bytes of children add up to their parent's, folded or not."""
    for table in (samples.gpt2(), samples.experts()):
        folded = fold(params_sheet(samples.report(table, tree=True)).for_people())
        keys = [column.key for column in folded.columns]
        depths = list(folded.indents or ())
        for key in ("parameters", "bytes"):
            cells = [row[keys.index(key)] for row in folded.rows]
            for parent, depth in enumerate(depths):
                end = next((i for i in range(parent + 1, len(depths)) if depths[i] <= depth), len(depths))
                below = [cells[i] for i in range(parent + 1, end) if depths[i] == depth + 1]
                assert not below or sum(below) == cells[parent]
        assert len(folded.rows) < len(params_sheet(samples.report(table, tree=True)).rows)


def test_deep_trees_fold(samples: Any) -> None:
    """A name of thousands of parts is no recursion."""
    report = samples.named(*(".".join(["a"] * 3000 + [str(i)]) for i in range(4)))
    folded = fold(params_sheet(samples.report(report.table, tree=True)).for_people())
    assert folded.rows[-1][0] == "{0..3} ×4"
