"""
The assignment of rows to columns with the highest sum, and how sure each of its pairs is.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["assign", "margins"]

_FORBIDDEN = -1e9


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
    infinity = float("inf")
    row_potential = [0.0] * (rows + 1)
    column_potential = [0.0] * (columns + 1)
    owner = [0] * (columns + 1)  # of each column the row, 1-based; 0: free
    for row in range(1, rows + 1):
        owner[0] = row
        column = 0
        least = [infinity] * (columns + 1)
        before = [0] * (columns + 1)
        used = [False] * (columns + 1)
        while True:
            used[column] = True
            current, step, following = owner[column], infinity, 0
            line, base = scores[current - 1], row_potential[current]
            for at in range(1, columns + 1):
                if used[at]:
                    continue
                cost = -line[at - 1] - base - column_potential[at]
                if cost < least[at]:
                    least[at], before[at] = cost, column
                if least[at] < step:
                    step, following = least[at], at
            for at in range(columns + 1):
                if used[at]:
                    row_potential[owner[at]] += step
                    column_potential[at] -= step
                else:
                    least[at] -= step
            column = following
            if owner[column] == 0:
                break
        while column:
            owner[column] = owner[before[column]]
            column = before[column]
    chosen = [0] * rows
    for column in range(1, columns + 1):
        if owner[column]:
            chosen[owner[column] - 1] = column - 1
    return chosen


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
