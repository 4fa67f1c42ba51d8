"""Globs and orders: what they choose, what they say, what they keep."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.analysis.selection import SORT_KEYS, select, sort_rows
from modelinspect.dtypes import dtype_named
from modelinspect.errors import UsageError
from modelinspect.tensors import Storage, TensorInfo


def rows(*names: str) -> list[TensorInfo]:
    """Rows of one number each."""
    return [TensorInfo(name, dtype_named("float32"), (1,), Storage("f", name, 0, 4)) for name in names]


def names(tensors: list[TensorInfo]) -> list[str]:
    """Their names, in order."""
    return [tensor.name for tensor in tensors]


LAYERS = rows("h.0.attn.weight", "h.0.attn.bias", "h.10.attn.weight", "ln_f.weight", "layers[0].w")


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        ((), (), names(LAYERS)),
        (("h.*.weight",), (), ["h.0.attn.weight", "h.10.attn.weight"]),
        (("*bias", "ln_f.*"), (), ["h.0.attn.bias", "ln_f.weight"]),
        ((), ("*.attn.*",), ["ln_f.weight", "layers[0].w"]),
        (("*.weight",), ("h.1?.*",), ["h.0.attn.weight", "ln_f.weight"]),
        (("h.[01].*",), (), ["h.0.attn.weight", "h.0.attn.bias"]),
        (("layers[0].w",), (), ["layers[0].w"]),
        (("weight",), (), []),
        (("H.*",), (), []),
    ],
)
def test_what_globs_choose(include: tuple[str, ...], exclude: tuple[str, ...], chosen: list[str]) -> None:
    """``*`` crosses dots, the whole name must match, exclusion comes last, order stays."""
    assert names(select(LAYERS, include, exclude)[0]) == chosen


def test_globs_that_match_nothing_are_named() -> None:
    """Of both lists, and not those whose matches were merely excluded."""
    chosen, unmatched = select(LAYERS, ("nope*", "ln_f.*"), ("ln_*", "nix"))
    assert chosen == []
    assert unmatched == ("nope*", "nix")


TEXT = st.text("ab.[]*?!", max_size=6)


@given(st.lists(TEXT, unique=True), st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=3))
def test_a_row_is_chosen_by_its_own_name_alone(
    made: list[str], include: list[str], exclude: list[str]
) -> None:
    """Choosing among many gives what asking of each name gives."""

    def matches(name: str, patterns: list[str]) -> bool:
        return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)

    expected = [n for n in made if (not include or matches(n, include)) and not matches(n, exclude)]
    assert names(select(rows(*made), include, exclude)[0]) == expected


def test_names_sort_naturally() -> None:
    """``2`` before ``10``."""
    assert names(sort_rows(rows("h.10", "h.2", "a"), "name")) == ["a", "h.2", "h.10"]
    assert names(sort_rows(rows("h.10", "h.2", "a"), "name", reverse=True)) == ["h.10", "h.2", "a"]


def test_each_key_orders_by_its_column() -> None:
    """Two rows that differ in everything: every key puts the lesser first."""
    less = TensorInfo("a", dtype_named("float16"), (2,), Storage("f", "9", 0, 4, "cpu"), None, 0, "buffer")
    more = TensorInfo(
        "b", dtype_named("float32"), (3, 1), Storage("g", "10", 8, 12, "cuda:0"), (4, 4), 0, "parameter",
        requires_grad=True, section="x",
    )  # fmt: skip
    for key in SORT_KEYS:
        assert sort_rows([more, less], key) == [less, more], key
        assert sort_rows([less, more], key, reverse=True) == [more, less], key


def test_what_is_unknown_comes_first() -> None:
    """A row without a storage, and one whose requires_grad nobody knows."""
    known, unknown = rows("k", "u")
    known = known._replace(requires_grad=False)
    unknown = unknown._replace(storage=None)
    for key in ("trainable", "offset", "file", "storage"):
        assert sort_rows([known, unknown], key)[0] == unknown, key


@given(st.lists(st.integers(0, 3)), st.booleans())
def test_equal_rows_keep_their_order(sizes: list[int], reverse: bool) -> None:
    """Sorting is stable in both directions."""
    made = [row._replace(shape=(size,)) for row, size in zip(rows(*map(str, range(len(sizes)))), sizes)]
    ordered = sort_rows(made, "numel", reverse)
    for size in set(sizes):
        places = [int(row.name) for row in ordered if row.numel == size]
        assert places == sorted(places)
    assert [row.numel for row in ordered] == sorted(sizes, reverse=reverse)


def test_an_unknown_column_gets_a_suggestion() -> None:
    """The message lists the columns and names the nearest."""
    with pytest.raises(UsageError) as caught:
        sort_rows(LAYERS, "nume")
    assert "numel" in (caught.value.hint or "")
    assert "bytes" in caught.value.details[0]
