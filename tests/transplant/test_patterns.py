"""Rows of patterns: few for what is regular, never wrong for what is not, and the way back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelinspect.transplant.patterns import (
    PatternPiece,
    PatternRow,
    expand,
    expand_names,
    name_patterns,
    numbers_of,
    parse_pattern,
    rows_of,
)
from modelinspect.transplant.plan import Assignment, Piece
from modelinspect.transplant.transforms import Step, parse_steps


def assigned(target: str, *sources: str, own: str = "", steps: str = "") -> Assignment:
    """An assignment whose pieces all have the same steps."""
    pieces = tuple(Piece(source, parse_steps(own)) for source in sources)
    return Assignment(target, pieces, parse_steps(steps), "likely", "because")


def shown(assignments: list[Assignment]) -> list[tuple[str, str, str, int]]:
    """Rows as texts; that they expand to the assignments is checked on the way."""
    rows = rows_of(assignments)
    back = [assignment for row in rows for assignment in expand(row)]
    assert len(back) == len(assignments)
    assert set(back) == set(assignments)
    return [(row.target, row.source, row.steps, row.count) for row in rows]


def test_a_range_is_one_row() -> None:
    """Twelve blocks are one row, with the same range on both sides."""
    made = [assigned(f"blocks.{i}.q.weight", f"h.{i}.query.weight") for i in range(12)]
    assert shown(made) == [("blocks.{0..11}.q.weight", "h.{0..11}.query.weight", "", 12)]


def test_ranges_may_be_moved_and_turned_round() -> None:
    """An offset and a reversed order show in the ranges."""
    made = [assigned(f"a.{i}", f"b.{i + 1}", f"c.{11 - i}", steps="cat(0, 1)") for i in range(12)]
    assert shown(made) == [("a.{0..11}", "b.{1..12}, c.{11..0}", "cat(0, 1)", 12)]


def test_products_are_one_row() -> None:
    """Experts in layers are two pairs of braces, by places where both sides have both."""
    made = [assigned(f"l.{i}.e.{j}.w", f"m.{i + 1}.x.{j}.w") for i in range(3) for j in range(4)]
    assert shown(made) == [("l.{0..2}.e.{0..3}.w", "m.{1..3}.x.{0..3}.w", "", 12)]


def test_products_the_other_way_round_have_names() -> None:
    """Where places don't say which braces go together, letters do."""
    made = [assigned(f"l.{i}.{j}", f"m.{j}.{i}") for i in range(3) for j in range(4)]
    assert shown(made) == [("l.{i:0..2}.{j:0..3}", "m.{j:0..3}.{i:0..2}", "", 12)]


def test_a_number_among_the_steps() -> None:
    """Slices of a stacked tensor are one row whose step takes the row's number."""
    made = [
        assigned(f"l.{i}.e.{j}.w", f"h.{i}.experts", own=f"index(0, {j})") for i in range(2) for j in range(8)
    ]
    assert shown(made) == [("l.{i:0..1}.e.{j:0..7}.w", "h.{i:0..1}.experts", "index(0, {j})", 16)]


def test_shapes_do_not_vary_in_a_row() -> None:
    """Where a reshape differs, so does the row: nobody reads a range of shapes."""
    made = [assigned(f"l.{i}", f"h.{i}", own=f"reshape({i + 1}, 8)") for i in range(3)]
    assert len(shown(made)) == 3


def test_slices_that_move_by_more_than_one() -> None:
    """Ranges of a fused tensor have steps of their own."""
    made = [assigned(f"l.{i}", "all", own=f"take(0, {8 * i}, {8 * i + 8}, 1)") for i in range(4)]
    assert shown(made) == [("l.{0..3}", "all", "take(0, {0..24..8}, {8..32..8}, 1)", 4)]


def test_joined_sources_stand_in_brackets() -> None:
    """Eight experts that become one tensor are one name in brackets."""
    made = [
        assigned(f"l.{i}.w", *(f"h.{i}.e.{j}.w" for j in range(8)), own="transpose", steps="stack(0)")
        for i in range(3)
    ]
    assert shown(made) == [("l.{0..2}.w", "h.{0..2}.e.[0..7].w", "transpose | stack(0)", 3)]


def test_sources_that_differ_in_a_word_are_put_together() -> None:
    """Query, key and value in one tensor: what they have in common is said once."""
    made = [assigned(f"l.{i}.qkv", *(f"h.{i}.{c}.weight" for c in "qkv"), steps="cat(0, 1)") for i in (0, 1)]
    assert shown(made) == [("l.{0..1}.qkv", "h.{0..1}.(q, k, v).weight", "cat(0, 1)", 2)]


def test_flat_and_nested_numbers_fall_apart() -> None:
    """Blocks counted through on one side and by stage on the other: a row a stage."""
    made = [assigned(f"b.{i}", f"s.{i // 3}.{i % 3}") for i in range(9)]
    assert [row[:2] for row in shown(made)] == [
        ("b.{0..2}", "s.0.{0..2}"),
        ("b.{3..5}", "s.1.{0..2}"),
        ("b.{6..8}", "s.2.{0..2}"),
    ]


def test_flat_numbers_of_nested_targets_fall_apart() -> None:
    """The same the other way round."""
    made = [assigned(f"s.{i // 3}.{i % 3}", f"b.{i}") for i in range(9)]
    assert [row[:2] for row in shown(made)] == [
        ("s.0.{0..2}", "b.{0..2}"),
        ("s.1.{0..2}", "b.{3..5}"),
        ("s.2.{0..2}", "b.{6..8}"),
    ]


def test_ragged_stages() -> None:
    """Stages of unequal length: those of equal length share a row."""
    made = [
        assigned(f"layer{s}.{b}", f"stage.{s - 1}.{b}") for s, n in ((1, 3), (2, 4), (3, 3)) for b in range(n)
    ]
    assert [row[:2] for row in shown(made)] == [
        ("layer{1,3}.{0..2}", "stage.{0,2}.{0..2}"),
        ("layer2.{0..3}", "stage.1.{0..3}"),
    ]


def test_numbers_that_belong_to_words_do_not_make_steps() -> None:
    """``fc1`` and ``fc2`` against places 0 and 2 are two rows, not one with a riddle."""
    made = [assigned(f"b.{i}.fc{n}", f"b.{i}.{2 * n - 2}") for i in range(3) for n in (1, 2)]
    assert [row[:2] for row in shown(made)] == [
        ("b.{0..2}.fc1", "b.{0..2}.0"),
        ("b.{0..2}.fc2", "b.{0..2}.2"),
    ]


def test_an_odd_one_out() -> None:
    """One block that comes from elsewhere has a row of its own; the others share one."""
    made = [assigned(f"b.{i}", f"h.{9 if i == 2 else i}") for i in range(5)]
    assert [row[:2] for row in shown(made)] == [
        ("b.{0..1}", "h.{0..1}"),
        ("b.2", "h.9"),
        ("b.{3..4}", "h.{3..4}"),
    ]


def test_labels_and_reasons_part_rows() -> None:
    """Assignments that are not equally sure never share a row."""
    made = [assigned(f"b.{i}", f"h.{i}")._replace(label="certain" if i < 2 else "likely") for i in range(4)]
    assert [row.label for row in rows_of(made)] == ["certain", "likely"]


def test_a_number_twice_in_a_name() -> None:
    """Two numbers of a target that always agree are one, with a name."""
    made = [assigned(f"b.{i}.x.{i}", f"h.{i}") for i in range(4)]
    assert [row[:2] for row in shown(made)] == [("b.{i:0..3}.x.{i:0..3}", "h.{i:0..3}")]


def test_names_with_braces_of_their_own() -> None:
    """Braces, brackets and backslashes in a name are told from the pattern's."""
    made = [assigned(f"a{{b}}.{i}[x]", f"c\\.{i}") for i in range(3)]
    assert [row[:2] for row in shown(made)] == [("a\\{b\\}.{0..2}\\[x\\]", "c\\\\.{0..2}")]


def test_numbers_with_leading_zeros_and_very_long_ones() -> None:
    """What a number does not bring back as it stood is text."""
    made = [assigned(f"a.{i:02}.{10**11 + i}", f"b.{i:03}") for i in range(12)]
    shown(made)


def test_order_of_rows_is_that_of_the_target() -> None:
    """A row stands where its first tensor stands."""
    made = [assigned(f"b.{i}.{c}", f"h.{i}.{c}") for i in range(3) for c in "yx"]
    made.insert(0, assigned("first", "z"))
    assert [row[0] for row in shown(made)] == ["first", "b.{0..2}.y", "b.{0..2}.x"]


def test_a_target_twice_is_still_shown() -> None:
    """A plan that is wrong is not made right by its rows."""
    made = [assigned("b.0", "h.0"), assigned("b.0", "h.1")]
    assert len(rows_of(made)) == 2


def test_a_hundred_thousand_tensors_are_three_rows() -> None:
    """60 layers of 256 experts with their weights; expanding gives each of them back."""
    made = [
        assigned(f"model.layers.{i}.mlp.experts.{j}.{a}.weight", f"layers.{i}.moe.{j}.{b}.weight")
        for i in range(60)
        for j in range(256)
        for a, b in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    ]
    assert [row[3] for row in shown(made)] == [15360] * 3


_NAMES = st.builds(
    lambda words, numbers: ".".join(f"{w}{n}" for w, n in zip(words, numbers)),
    st.lists(st.sampled_from(["a", "", "b_", "x{", "]", "\\", "0"]), min_size=1, max_size=3),
    st.lists(st.sampled_from(["", "0", "1", "2", "3", "7", "10", "007"]), min_size=3, max_size=3),
)
_STEPS = st.sampled_from(
    ["", "transpose", "index(0, 1)", "index(0, 2)", "index(0, 3)", "take(0, 0, 4, 1) | flip(0)"]
)


@settings(deadline=None)
@given(
    st.dictionaries(
        _NAMES,
        st.tuples(
            st.lists(st.tuples(_NAMES, _STEPS), min_size=1, max_size=4), st.sampled_from(["", "cat(0, 1)"])
        ),
        max_size=25,
    )
)
def test_rows_expand_to_what_they_were_made_of(
    given_plan: dict[str, tuple[list[tuple[str, str]], str]],
) -> None:
    """Whatever the names, pieces and steps: rows, expanded, are the assignments."""
    made = [
        Assignment(target, tuple(Piece(name, parse_steps(own)) for name, own in pieces), parse_steps(steps))
        for target, (pieces, steps) in given_plan.items()
    ]
    shown(made)


@settings(deadline=None)
@given(st.lists(_NAMES, unique=True, max_size=30))
def test_patterns_of_names_expand_to_the_names(names: list[str]) -> None:
    """The same for bare names."""
    assert sorted(n for pattern in name_patterns(names) for n in expand_names(pattern)) == sorted(names)


@settings(deadline=None)
@given(_NAMES)
def test_numbers_of_a_name_put_it_together_again(name: str) -> None:
    """Texts and numbers alternate and lose nothing."""
    texts, numbers = numbers_of(name)
    assert "".join(a + b for a, b in zip(texts, [*map(str, numbers), ""])) == name


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            PatternRow("a.{0..3}", (PatternPiece("b.{0..4}"),)),
            "{0..4} has 5 values, and the target's {0..3} has 4",
        ),
        (PatternRow("a.{0..3", (PatternPiece("b"),)), "has a { that nothing goes with"),
        (PatternRow("a.{x..3}", (PatternPiece("b"),)), "holds no range"),
        (PatternRow("a.0", (PatternPiece("b.{0..1}"),)), "nothing in the target goes with {0..1}"),
        (PatternRow("a.{i}", (PatternPiece("b"),)), "uses {i} before it says its values"),
        (PatternRow("a.[0..3]", (PatternPiece("b"),)), "a target takes braces"),
        (PatternRow("a.{0..99999999}", (PatternPiece("b"),)), "stands for more than 1,000,000"),
        (PatternRow("a.{0..9999}.{0..9999}", (PatternPiece("b"),)), "stands for more than 1,000,000"),
        (PatternRow("a.{0..1}", (PatternPiece("b", "index(0, {0..2})"),)), "has 3 values"),
        (PatternRow("a", (PatternPiece("b", "rotate"),)), "'rotate' is no step"),
        (PatternRow("a.{0..-3}", (PatternPiece("b"),)), "is no range"),
    ],
)
def test_what_is_no_row_is_said(row: PatternRow, said: str) -> None:
    """A slip of an editing hand is an error that quotes it."""
    with pytest.raises(ValueError, match=re.escape(said)):
        expand(row)


def test_step_arguments_may_stand_without_names_where_there_is_one_variable() -> None:
    """``index(0, {0..3})`` needs no letter if the target has one pair of braces."""
    row = PatternRow("a.{0..3}", (PatternPiece("b", "index(0, {0..3})"),))
    assert [each.pieces[0].steps for each in expand(row)] == [(Step("index", (0, i)),) for i in range(4)]


def test_a_pattern_taken_apart() -> None:
    """Texts, and what stands between them."""
    assert parse_pattern("a") == ("a",)
