"""
What others do to put one model's weights into another: small versions of their methods, to compare with.

Each sees the same two tables and is scored as a plan whose every claim is certain: none of
them knows doubt.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

import numpy as np
from pair_scores import Score, Verdict, Weights, score_arrays, score_plan
from pairs import Fixture

from modelinspect.tensors import ParameterTable, TensorInfo
from modelinspect.transplant.plan import Assignment, Piece, Plan, Side
from modelinspect.transplant.transforms import Step

__all__ = ["BASELINES", "GaveUpError", "is_installed", "run_baseline"]

Claims = Mapping[str, str]
"""Name in the target to name in the source."""


class GaveUpError(Exception):
    """The method stops here and says so."""


def run_baseline(name: str, fixture: Fixture, source: Side, target: Side, weights: Weights) -> Score:
    """The score of one of :data:`BASELINES`, or of ``weightbridge``, on a pair."""
    for cache in (_similarity, _distance):
        cache.cache_clear()  # each run pays for its own
    try:
        if name == "weightbridge":
            return _weightbridge(fixture, source.table, target.table, weights)
        claims = BASELINES[name](source.table, target.table)
        return score_plan(fixture, _plan(source.table, target.table, claims), weights)
    except GaveUpError as reason:
        names = (row.name for row in target.table)
        verdicts = tuple(Verdict(name, "missing", "", "nothing", "") for name in names)
        return Score(fixture, verdicts, gave_up=str(reason))


def is_installed(name: str) -> bool:
    """Whether a baseline can be run here."""
    return name in BASELINES or importlib.util.find_spec(name) is not None


def _plan(source: ParameterTable, target: ParameterTable, claims: Claims) -> Plan:
    made = []
    for row in target:
        if row.name in claims:
            origin = source[claims[row.name]]
            steps = () if origin.shape == row.shape else (Step("reshape", row.shape),)
            made.append(Assignment(row.name, (Piece(origin.name, steps),)))
    return Plan(source, target, tuple(made))


# -------------------------------------------------------------------- by order alone


def order_zip(source: ParameterTable, target: ParameterTable) -> Claims:
    """The first with the first, the second with the second; as many elements in each, or it gives up."""
    claims = {}
    for ours, theirs in zip(source, target):
        if ours.numel != theirs.numel:
            raise GaveUpError(f"{ours.name} has {ours.numel} elements, {theirs.name} has {theirs.numel}")
        claims[theirs.name] = ours.name
    return claims


def first_free(source: ParameterTable, target: ParameterTable) -> Claims:
    """For each target tensor the first of its shape that is still free."""
    free = {shape: iter(rows) for shape, rows in _by_shape(source).items()}
    claims = {}
    for row in target:
        found = next(free.get(row.shape, iter(())), None)
        if found is not None:
            claims[row.name] = found.name
    return claims


# ------------------------------------------------------------------------- by names


def longest_suffix(source: ParameterTable, target: ParameterTable) -> Claims:
    """The longest source name that ends the target's name; it gives up where two names want one."""
    names = {row.name for row in source}
    claims: dict[str, str] = {}
    takers: dict[str, str] = {}
    for row in target:
        found = next((end for end in _endings(row.name) if end in names), None)
        if found is None or source[found].shape != row.shape:
            continue
        if found in takers:
            raise GaveUpError(f"{takers[found]} and {row.name} both end with {found}")
        takers[found] = row.name
        claims[row.name] = found
    return claims


def _endings(name: str) -> Iterator[str]:
    """The name itself, then without its first part, and so on."""
    while name:
        yield name
        name = name.partition(".")[2]


def greedy_similarity(source: ParameterTable, target: ParameterTable) -> Claims:
    """Among tensors of one shape, the two most similar names first."""
    claims = {}
    for sources, targets in _groups(source, target):
        scores = _similarities(sources, targets)
        order = sorted(((-score, a, b) for (a, b), score in np.ndenumerate(np.array(scores))))
        taken: tuple[set[int], set[int]] = (set(), set())
        for _, a, b in order:
            if a not in taken[0] and b not in taken[1]:
                taken[0].add(a)
                taken[1].add(b)
                claims[targets[b]] = sources[a]
    return claims


def hungarian(source: ParameterTable, target: ParameterTable) -> Claims:
    """Among tensors of one shape, the assignment with the smallest sum of edit distances."""
    claims = {}
    for sources, targets in _groups(source, target):
        is_turned = len(sources) > len(targets)
        ours, theirs = (targets, sources) if is_turned else (sources, targets)
        chosen = _cheapest(np.array([[float(_distance(a, b)) for b in theirs] for a in ours]))
        for at, name in enumerate(ours):
            other = theirs[chosen[at]]
            claims.update({name: other} if is_turned else {other: name})
    return claims


def _cheapest(costs: Any) -> list[int]:
    """
    For each row a column of its own, so that the sum is smallest.

    Shortest augmenting paths: a row a time is added to the assignment of those before it.
    There are no more rows than columns.
    """
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)
    for added in range(rows):
        length, before = np.full(columns, np.inf), np.full(columns, -1)
        is_done = np.zeros(columns, bool)
        row, column, reached = added, -1, 0.0
        while True:
            through = reached + costs[row] - row_price[row] - column_price
            is_shorter = ~is_done & (through < length)
            length[is_shorter], before[is_shorter] = through[is_shorter], column
            column = int(np.where(is_done, np.inf, length).argmin())
            is_done[column], reached = True, float(length[column])
            if owner[column] < 0:
                break
            row = int(owner[column])
        row_price[added] += reached
        for passed in np.flatnonzero(is_done):
            if owner[passed] >= 0:
                row_price[owner[passed]] += reached - length[passed]
            column_price[passed] -= reached - length[passed]
        while before[column] >= 0:
            owner[column] = owner[before[column]]
            column = int(before[column])
        owner[column] = added
    return [int(np.flatnonzero(owner == row)[0]) for row in range(rows)]


def _groups(source: ParameterTable, target: ParameterTable) -> Iterator[tuple[list[str], list[str]]]:
    theirs = _by_shape(target)
    for shape, rows in _by_shape(source).items():
        if shape in theirs:
            yield [row.name for row in rows], [row.name for row in theirs[shape]]


def _by_shape(rows: Iterable[TensorInfo]) -> dict[tuple[int, ...], list[TensorInfo]]:
    found: dict[tuple[int, ...], list[TensorInfo]] = defaultdict(list)
    for row in rows:
        found[row.shape].append(row)
    return found


def _similarities(sources: Sequence[str], targets: Sequence[str]) -> list[list[float]]:
    return [[_similarity(a, b) for b in targets] for a in sources]


@lru_cache(maxsize=200_000)
def _similarity(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


@lru_cache(maxsize=200_000)
def _distance(first: str, second: str) -> int:
    """Letters to insert, remove or exchange."""
    before = list(range(len(second) + 1))
    for at, letter in enumerate(first, 1):
        now = [at]
        for column, other in enumerate(second, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (letter != other)))
        before = now
    return before[-1]


# ----------------------------------------------------------------------- other tools


def _weightbridge(
    fixture: Fixture, source: ParameterTable, target: ParameterTable, weights: Weights
) -> Score:
    """
    The package itself, which is given arrays and returns arrays or raises.

    It wants every name on both sides to have a partner, so it is spared further names of tied
    tensors and what the target makes itself.
    """
    adapt = importlib.import_module("weightbridge").adapt
    ours = {row.name: weights[row.name] for row in source if row.name not in source.tied_to}
    theirs = {
        row.name: np.zeros(row.shape, np.int64)
        for row in target
        if row.name not in fixture.made and row.name not in target.tied_to
    }
    try:
        with redirect_stdout(io.StringIO()):
            made = adapt(ours, theirs, in_separator=".", out_separator=".")
    except Exception as error:  # it has no family of errors
        raise GaveUpError(str(error).partition("\n")[0] or type(error).__name__) from error
    arrays = {name: np.asarray(array) for name, array in made.items()}
    arrays.update({name: arrays[first] for name, first in target.tied_to.items() if first in arrays})
    return score_arrays(fixture, [row.name for row in target], arrays, weights)


BASELINES: Mapping[str, Callable[[ParameterTable, ParameterTable], Claims]] = {
    "order zip": order_zip,
    "first free": first_free,
    "suffix": longest_suffix,
    "similarity": greedy_similarity,
    "hungarian": hungarian,
}
"""By the names that the benchmark prints."""
