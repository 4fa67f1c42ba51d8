"""
The assignment of rows to columns with the highest sum, and how sure each of its pairs is.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["assign", "margins"]


def assign(scores: Sequence[Sequence[float]]) -> list[int]:
    """
    The column of each row, so that the sum of scores is greatest.

    The Hungarian method with potentials, O(rows² × columns).

    Args:
        scores: A row each of not more rows than columns.

    Returns:
        For each row a column of its own.
    """
    rows, columns = len(scores), len(scores[0]) if scores else 0
    assert rows <= columns
    search = _Search(scores, columns)
    for row in range(1, rows + 1):
        search.add(row)
    chosen = [0] * rows
    for column in range(1, columns + 1):
        if search.owner[column]:
            chosen[search.owner[column] - 1] = column - 1
    return chosen


class _Search:
    """Rows that have a column so far; rows and columns count from 1, 0 is none."""

    def __init__(self, scores: Sequence[Sequence[float]], columns: int) -> None:
        self.scores, self.columns = scores, columns
        self.owner = [0] * (columns + 1)
        self._row_potential = [0.0] * (len(scores) + 1)
        self._column_potential = [0.0] * (columns + 1)

    def add(self, row: int) -> None:
        """Give one row more a column, along the cheapest path of exchanges."""
        self.owner[0] = row
        least = [float("inf")] * (self.columns + 1)
        before = [0] * (self.columns + 1)
        used = [False] * (self.columns + 1)
        column = 0
        while True:
            used[column] = True
            following, step = self._nearest(column, least, before, used)
            self._shift(step, least, used)
            column = following
            if self.owner[column] == 0:
                break
        while column:
            self.owner[column] = self.owner[before[column]]
            column = before[column]

    def _nearest(
        self, column: int, least: list[float], before: list[int], used: Sequence[bool]
    ) -> tuple[int, float]:
        row = self.owner[column]
        line, base = self.scores[row - 1], self._row_potential[row]
        following, step = 0, float("inf")
        for at in range(1, self.columns + 1):
            if used[at]:
                continue
            cost = -line[at - 1] - base - self._column_potential[at]
            if cost < least[at]:
                least[at], before[at] = cost, column
            if least[at] < step:
                step, following = least[at], at
        return following, step

    def _shift(self, step: float, least: list[float], used: Sequence[bool]) -> None:
        for at in range(self.columns + 1):
            if used[at]:
                self._row_potential[self.owner[at]] += step
                self._column_potential[at] -= step
            else:
                least[at] -= step


def margins(scores: Sequence[Sequence[float]], chosen: Sequence[int]) -> tuple[list[float], list[int]]:
    """
    What the next best reading of each row would lose.

    Returns:
        For each row the smallest loss of an exchange with another row or of a move to a
        free column; and the column it would then take, -1 if there is none.
    """
    columns = len(scores[0]) if scores else 0
    owner = {column: row for row, column in enumerate(chosen)}
    losses, rivals = [], []
    for row, own in enumerate(chosen):
        loss, rival = float("inf"), -1
        for column in range(columns):
            if column == own:
                continue
            other = owner.get(column)
            now = scores[row][own] - scores[row][column]
            if other is not None:
                now += scores[other][column] - scores[other][own]
            if now < loss:
                loss, rival = now, column
        losses.append(loss)
        rivals.append(rival)
    return losses, rivals
