"""The best assignment, and what the next best one would lose."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.transplant.matching.assignment import assign, margins

Table = list[list[float]]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Scores of up to five rows and six columns, many of them equal."""
    rows = draw(st.integers(1, 5))
    columns = draw(st.integers(rows, 6))
    score = st.integers(-6, 6).map(lambda number: number / 2) | st.just(-1000.0)
    return draw(st.lists(st.lists(score, min_size=columns, max_size=columns), min_size=rows, max_size=rows))


def total(scores: Table, chosen: Sequence[int]) -> float:
    """What an assignment is worth."""
    return sum(line[column] for line, column in zip(scores, chosen))


@given(tables())
def test_no_assignment_is_better(scores: Table) -> None:
    """Rows have columns of their own, and none of all assignments is worth more."""
    chosen = assign(scores)
    assert len(set(chosen)) == len(scores)
    best = max(total(scores, each) for each in permutations(range(len(scores[0])), len(scores)))
    assert total(scores, chosen) == pytest.approx(best)


@given(tables())
def test_margins_are_the_smallest_losses(scores: Table) -> None:
    """A margin is what the best exchange of two rows, or move to a free column, would cost."""
    chosen = assign(scores)
    losses, rivals = margins(scores, chosen)
    for row, own in enumerate(chosen):
        others = []
        for column in range(len(scores[0])):
            if column != own:
                moved = [own if each == column else each for each in chosen]
                moved[row] = column
                others.append((total(scores, chosen) - total(scores, moved), column))
        if not others:
            assert (losses[row], rivals[row]) == (float("inf"), -1)
            continue
        assert losses[row] == pytest.approx(min(others)[0])
        assert {column: loss for loss, column in others}[rivals[row]] == pytest.approx(losses[row])


@given(tables())
def test_nothing_can_be_won(scores: Table) -> None:
    """The best assignment loses by any exchange, or wins nothing."""
    losses, _ = margins(scores, assign(scores))
    assert min(losses) >= -1e-9


def test_nothing_to_assign() -> None:
    """No rows have no columns."""
    assert assign([]) == []
    assert margins([], []) == ([], [])


def test_single_row() -> None:
    """A row takes its best column; the second best is its rival."""
    assert assign([[1.0, 3.0, 2.0]]) == [1]
    assert margins([[1.0, 3.0, 2.0]], [1]) == ([1.0], [2])


def test_greed_would_lose() -> None:
    """A row gives its best column away where another one needs it more."""
    assert assign([[5.0, 4.0], [5.0, 0.0]]) == [1, 0]
