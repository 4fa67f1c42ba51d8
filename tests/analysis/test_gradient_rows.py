"""
Which rows of a gradient table, in which order, under which modules.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.analysis.gradient_rows import (
    GRADIENT_SORT_KEYS,
    by_module,
    choose,
    gradient_tree,
    row_findings,
    sorted_rows,
)
from modelinspect.analysis.gradients import Figures, GradientRow, Verdict
from modelinspect.errors import UsageError

NAN = math.nan


def row(name: str, l2: float | None = 1.0, verdict: Verdict = "ok", **more: Any) -> GradientRow:
    """Four elements; an L2 norm of None is no gradient."""
    figures = more.pop("figures", None)
    if figures is None and l2 is not None:
        figures = Figures(4, 2 * l2, l2, l2 / 2, more.pop("zeros", 0), weight=more.pop("weight", 1.0))
    return GradientRow(
        name, more.pop("shape", (2, 2)), more.pop("dtype", "float32"), figures, verdict, **more
    )


def names(rows: Any) -> list[str]:
    """In their order."""
    return [each.name for each in rows]


ROWS = [
    row("embed.weight", 3.0, also=("head.weight",), shape=(9, 2)),
    row("layers.10.weight", 2.0, zeros=4),
    row("layers.2.weight", None, "none"),
    row("layers.2.bias", NAN, "nan", weight=2.0),
    row("norm", 1.0, dtype="bfloat16", weight=0.0),
]


# ------------------------------------------------------------------------------- choice


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), ["embed.weight", "layers.10.weight", "layers.2.weight", "layers.2.bias", "norm"]),
        (("layers.*",), (), ["layers.10.weight", "layers.2.weight", "layers.2.bias"]),
        (("*.weight",), ("layers.2.*",), ["embed.weight", "layers.10.weight"]),
        (("head.*",), (), ["embed.weight"]),
        ((), ("head.*", "layers.*"), ["norm"]),
        (("*.bias", "norm"), (), ["layers.2.bias", "norm"]),
    ],
)
def test_rows_are_chosen_by_globs(
    include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]
) -> None:
    """A tied parameter by any of its names, to stay or to go."""
    chosen, unmatched = choose(ROWS, include, exclude)
    assert names(chosen) == expected
    assert unmatched == ()


def test_globs_that_match_nothing_are_said() -> None:
    """Of either kind; nothing is left when nothing was matched."""
    assert choose(ROWS, ("nowhere.*",), ("never",)) == ([], ("nowhere.*", "never"))


# -------------------------------------------------------------------------------- order


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("name", ["embed.weight", "layers.2.bias", "layers.2.weight", "layers.10.weight", "norm"]),
        ("norm", ["layers.2.weight", "norm", "layers.10.weight", "embed.weight", "layers.2.bias"]),
        ("largest", ["layers.2.weight", "norm", "layers.10.weight", "embed.weight", "layers.2.bias"]),
        ("relative_size", ["layers.2.weight", "layers.10.weight", "embed.weight", "norm", "layers.2.bias"]),
        ("ratio", ["layers.2.weight", "norm", "layers.10.weight", "embed.weight", "layers.2.bias"]),
        ("zeros", ["layers.2.weight", "embed.weight", "layers.2.bias", "norm", "layers.10.weight"]),
        ("numel", ["layers.10.weight", "layers.2.weight", "layers.2.bias", "norm", "embed.weight"]),
        ("shape", ["layers.10.weight", "layers.2.weight", "layers.2.bias", "norm", "embed.weight"]),
        ("dtype", ["norm", "embed.weight", "layers.10.weight", "layers.2.weight", "layers.2.bias"]),
        ("verdict", ["embed.weight", "layers.10.weight", "norm", "layers.2.bias", "layers.2.weight"]),
    ],
)
def test_rows_in_the_order_of_a_column(key: str, expected: list[str]) -> None:
    """What has no figure first, NaN last; equal ones stay as they came; names as people count."""
    assert names(sorted_rows(ROWS, key, "2")) == expected


def test_every_column_is_a_key() -> None:
    """Those tested above are all there are."""
    assert set(GRADIENT_SORT_KEYS) == {
        "name", "norm", "largest", "ratio", "zeros", "numel", "shape", "dtype", "verdict",
        "relative_size",
    }  # fmt: skip


def test_largest_first() -> None:
    """Reversed; without a key the order is turned round; equal ones still stay as they came."""
    assert names(sorted_rows(ROWS, None, "2")) == names(ROWS)
    assert names(sorted_rows(ROWS, None, "2", reverse=True)) == names(ROWS[::-1])
    by_norm = ["layers.2.bias", "embed.weight", "layers.10.weight", "norm", "layers.2.weight"]
    assert names(sorted_rows(ROWS, "norm", "2", reverse=True)) == by_norm
    same = [row("b"), row("a"), row("c")]
    assert names(sorted_rows(same, "norm", "2", reverse=True)) == ["b", "a", "c"]


def test_norm_is_the_one_that_was_asked_for() -> None:
    """By L1 the other comes first."""
    rows = [
        row("spread", figures=Figures(4, 4.0, 2.0, 1.0, 0)),
        row("peaked", figures=Figures(4, 3.0, 3.0, 3.0, 3)),
    ]
    assert names(sorted_rows(rows, "norm", "1")) == ["peaked", "spread"]
    assert names(sorted_rows(rows, "norm", "2")) == names(sorted_rows(rows, "norm", "inf")) == names(rows)


@given(norms=st.lists(st.none() | st.floats(min_value=0), max_size=20))
def test_nan_does_not_spoil_the_order(norms: list[float | None]) -> None:
    """Whatever stands among them, the numbers are in order."""
    rows = [row(str(place), norm) for place, norm in enumerate(norms)]
    after = [each.figures.l2 for each in sorted_rows(rows, "norm", "2") if each.figures is not None]
    numbers = [norm for norm in after if not math.isnan(norm)]
    assert numbers == sorted(numbers)
    assert after[: len(numbers)] == numbers


def test_column_that_does_not_exist() -> None:
    """Says which there are, and the nearest."""
    with pytest.raises(UsageError) as caught:
        sorted_rows(ROWS, "nrom", "2")
    text = str(caught.value)
    assert "nrom" in text
    assert "numel" in text
    assert "did you mean norm?" in text


# ------------------------------------------------------------------------------ modules

NESTED = [
    row("a.one.weight", 3.0),
    row("a.one.bias", 4.0, shape=(2,)),
    row("b", 12.0, "vanishing"),
    row("a.two.weight", None, "none"),
]
CLASSES = {"": "Net", "a": "Block", "a.one": "Linear", "a.two": "Linear"}


def test_a_line_for_each_module_that_holds_parameters() -> None:
    """In the order of their first parameters, with all gradients below as one."""
    nodes = by_module(NESTED, CLASSES)
    assert [(node.path, node.class_name, node.tensors, node.numel, node.verdict) for node in nodes] == [
        ("a.one", "Linear", 2, 6, "ok"),
        ("", "Net", 1, 4, "vanishing"),
        ("a.two", "Linear", 1, 4, "none"),
    ]
    assert [node.figures and node.figures.l2 for node in nodes] == [5.0, 12.0, None]
    assert [node.label for node in nodes] == ["a.one", "", "a.two"]


@pytest.mark.parametrize(
    ("depth", "paths"), [(0, [""]), (1, ["a", ""]), (2, ["a.one", "", "a.two"]), (9, ["a.one", "", "a.two"])]
)
def test_modules_are_put_together_to_a_depth(depth: int, paths: list[str]) -> None:
    """Every parameter counts once, whatever the depth."""
    nodes = by_module(NESTED, CLASSES, depth)
    assert [node.path for node in nodes] == paths
    assert sum(node.tensors for node in nodes) == 4
    assert math.sqrt(sum(node.figures.l2**2 for node in nodes if node.figures)) == pytest.approx(13.0)


def test_tree_from_the_root_down() -> None:
    """A module stands where its first parameter does; those that come later join it."""
    tree = gradient_tree(NESTED, CLASSES)
    assert [(node.depth, node.label, node.class_name) for node in tree] == [
        (0, "", "Net"), (1, "a", "Block"), (2, "one", "Linear"), (3, "weight", ""), (3, "bias", ""),
        (2, "two", "Linear"), (3, "weight", ""), (1, "b", ""),
    ]  # fmt: skip
    root = tree[0]
    assert root.figures is not None
    assert (root.figures.l2, root.tensors, root.numel, root.verdict) == (13.0, 4, 14, "none")
    assert [node.path for node in tree if node.row is None] == ["", "a", "a.one", "a.two"]
    assert [node.row for node in tree if node.row is not None] == [*NESTED[:2], NESTED[3], NESTED[2]]


@pytest.mark.parametrize(("depth", "lines"), [(0, 1), (1, 3), (2, 5), (3, 8), (None, 8)])
def test_tree_to_a_depth(depth: int | None, lines: int) -> None:
    """The root is always there, and speaks for all below."""
    tree = gradient_tree(NESTED, CLASSES, depth)
    assert len(tree) == lines
    assert tree[0].tensors == 4


def test_tree_of_nothing_is_its_root() -> None:
    """A model without parameters."""
    (root,) = gradient_tree([], {})
    assert (root.tensors, root.numel, root.figures, root.verdict, root.class_name) == (0, 0, None, "ok", "")


def test_tree_that_is_deeper_than_calls_can_be() -> None:
    """A name of 5,000 parts."""
    name = ".".join(["a"] * 5000)
    assert len(gradient_tree([row(name)], {})) == 5001


def test_parameter_that_is_named_like_a_module() -> None:
    """As gradients saved under free names may be: both have their line."""
    tree = gradient_tree([row("a"), row("a.b")], {})
    assert [(node.path, node.row is None) for node in tree] == [
        ("", True), ("a", False), ("a", True), ("a.b", False),
    ]  # fmt: skip


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), unique=True, max_size=12)
)
def test_every_row_is_one_line_of_the_tree(paths: list[str]) -> None:
    """Each directly below its parent, no deeper than one level more; modules add up to the root."""
    rows = [row(path) for path in paths]
    tree = gradient_tree(rows, {})
    assert sorted(node.path for node in tree if node.row is not None) == sorted(paths)
    assert tree[0].tensors == len(rows)
    for above, node in pairwise(tree):
        assert 1 <= node.depth <= above.depth + 1
    assert sum(node.tensors for node in by_module(rows, {})) == len(rows)


# ----------------------------------------------------------------------------- findings


def finding(*rows: GradientRow) -> tuple[str, str, str | None]:
    """The one finding there is."""
    (found,) = row_findings(rows)
    return found


def test_where_gradients_vanish() -> None:
    """How many, down to what and where, from what and where: in figures that the table shows."""
    found = finding(
        row("layers.0.weight", 2e-12, "vanishing"),
        row("layers.1.weight", 3e-10, "vanishing"),
        row("layers.2.weight", 0.5),
        row("layers.3.weight", 0.4),
    )
    text = "2 gradients vanish: down to 2e-12 at layers.0.weight, from 0.5 at layers.2.weight"
    assert found == ("vanishing", text, "layers.0")


def test_where_gradients_explode() -> None:
    """The same, upwards."""
    found = finding(row("a.weight", 0.25), row("b.weight", 3e7, "exploding"), row("c.weight", 2.0))
    assert found == ("exploding", "1 gradient explodes: up to 3e+07 at b.weight, from 0.25 at a.weight", "b")


def test_end_of_the_way_is_a_row_that_is_sick() -> None:
    """A small gradient that is fine beside its weight is not what vanishes."""
    found = finding(row("small.bias", 1e-9), row("big.weight", 1e-8, "vanishing"), row("top.weight", 1.0))
    assert found[1] == "1 gradient vanishes: down to 1e-08 at big.weight, from 1 at top.weight"


def test_rows_that_say_nothing_of_the_way() -> None:
    """Empty gradients, none, NaN and infinity, zero."""
    found = finding(
        row("empty", figures=Figures(0, 0.0, 0.0, 0.0, 0)),
        row("none", None, "none"),
        row("nan", NAN, "nan"),
        row("inf", math.inf, "inf"),
        row("zero", 0.0, "zero"),
        row("high.weight", 1e6, "exploding"),
        row("low.weight", 2.0),
    )
    assert found[1] == "1 gradient explodes: up to 1e+06 at high.weight, from 2 at low.weight"


def test_both_ways_at_once() -> None:
    """A finding for each; one that has no other end names one place."""
    rows = [row("a.weight", 1e-12, "vanishing"), row("b.weight", 1e9, "exploding")]
    assert [found.kind for found in row_findings(rows)] == ["vanishing", "exploding"]
    assert finding(row("w", 1e-12, "vanishing")) == (
        "vanishing",
        "1 gradient vanishes: down to 1e-12 at w",
        "",
    )


@pytest.mark.parametrize("rows", [[], [row("a")], [row("a", 0.0, "zero")], [row("a", None, "none")]])
def test_nothing_to_say(rows: list[GradientRow]) -> None:
    """Where nothing vanishes or explodes."""
    assert row_findings(rows) == ()


def test_names_are_made_visible() -> None:
    """A name that comes from a file may hold control characters."""
    assert "\x1b" not in finding(row("a\x1b[31m.w", 1e-12, "vanishing"))[1]
