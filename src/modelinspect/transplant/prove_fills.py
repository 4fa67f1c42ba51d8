"""
What tensors that go nowhere could give to those that lack a source: copies, parts, joins, stacks.

Names say only what repeats; shapes say what is possible, and a run which of it is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations
from math import prod
from typing import NamedTuple

from modelinspect.errors import visible
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.transforms import Step

__all__ = ["fills", "numbers_of", "pattern_of"]

Shape = tuple[int, ...]
_MOST_PARTS = 4
_MOST_GROUPS = 8
_MOST = 120


class _Row(NamedTuple):
    """Tensors whose names differ in numbers only, and of one shape."""

    pattern: str
    names: tuple[str, ...]
    shape: Shape


_Made = tuple[str, tuple[Assignment, ...]]


def fills(plan: Plan, sizes_for: Callable[..., Sequence[int]]) -> Iterator[_Made]:
    """
    Assignments for what is missing, in all blocks at once, with words that say how.

    Args:
        plan: Its missing and unused tensors are looked at.
        sizes_for: Rows of one head that divide numbers of rows.
    """
    filled = {each.target for each in plan.assignments}
    used = {name for each in plan.assignments for name in each.sources}
    missing = _rows(
        [(each.name, each.shape) for each in plan.missing if not each.is_made and each.name not in filled]
    )
    unused = _rows([(each.name, each.shape) for each in plan.unused if each.name not in used])
    made = 0
    taken = _rows([(row.name, row.shape) for row in plan.source if row.name in used and len(row.shape) == 2])
    makers = (_copies, _splits, _joins, _stacks, _unstacks, _inner_splits)
    for make in makers:
        for each in make(missing, unused, sizes_for):
            yield each
            made += 1
            if made >= _MOST:
                return
    # What has a source already may be wanted twice: a head that is tied to the embedding.
    alone = [row for row in missing if len(row.names) == 1 and len(row.shape) == 2]
    yield from _copies(alone, [row for row in taken if len(row.names) == 1], sizes_for)


def _rows(tensors: Sequence[tuple[str, Shape]]) -> list[_Row]:
    found: dict[tuple[str, Shape], list[str]] = {}
    for name, shape in tensors:
        if prod(shape) > 1:
            found.setdefault((pattern_of(name), shape), []).append(name)
    rows = []
    for (pattern, shape), names in found.items():
        rows.append(_Row(pattern, tuple(sorted(names, key=numbers_of)), shape))
    return rows


def pattern_of(name: str) -> str:
    """``blocks.*.norm1`` for ``blocks.3.norm1``: only numbers that stand alone repeat."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def numbers_of(name: str) -> list[int]:
    """The numbers in a name, to sort by."""
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _likely(target: str, pieces: tuple[Piece, ...], steps: tuple[Step, ...] = ()) -> Assignment:
    return Assignment(target, pieces, steps, "likely", "it was left over")


def _copies(missing: Sequence[_Row], unused: Sequence[_Row], _: object) -> Iterator[_Made]:
    """Of equal shape, of the transposed one, or of as many elements."""
    for row in missing:
        for other in unused:
            if len(row.names) != len(other.names) or prod(row.shape) != prod(other.shape):
                continue
            ways: list[tuple[Step, ...]] = []
            if row.shape == other.shape:
                ways.append(())
            if len(row.shape) == 2 and row.shape == other.shape[::-1]:
                ways.append((Step("transpose"),))
            if row.shape != other.shape and not ways:
                ways.append((Step("reshape", row.shape),))
            if len(other.shape) == 3 and row.shape != other.shape:
                ways.append((Step("permute", (0, 2, 1)), Step("reshape", row.shape)))
            for steps in ways:
                pairs = zip(row.names, other.names)
                changes = tuple(_likely(name, (Piece(source, steps),)) for name, source in pairs)
                yield f"{visible(row.pattern)} from {visible(other.pattern)}", changes


def _splits(
    missing: Sequence[_Row], unused: Sequence[_Row], sizes_for: Callable[..., Sequence[int]]
) -> Iterator[_Made]:
    """Several from the rows of one."""
    for other in unused:
        for parts in _parts(other, missing):
            lengths = [part.shape[0] for part in parts]
            for groups in _groups(lengths, sizes_for):
                changes: list[Assignment] = []
                start = 0
                for part, length in zip(parts, lengths):
                    take = Step("take", (0, start, start + length // groups, groups))
                    start += length // groups
                    changes += [
                        _likely(name, (Piece(source, (take,)),))
                        for name, source in zip(part.names, other.names)
                    ]
                words = ", ".join(visible(part.pattern) for part in parts)
                yield f"{words} from {visible(other.pattern)} in {groups} groups", tuple(changes)


def _inner_splits(missing: Sequence[_Row], unused: Sequence[_Row], _: object) -> Iterator[_Made]:
    """Several of one size from the second or third axis of one, their other axes merged."""
    for other in unused:
        alike = [row for row in missing if len(row.names) == len(other.names)]
        for count in (2, 3):
            for parts in permutations(alike[:8], count):
                if any(prod(part.shape) * count != prod(other.shape) for part in parts):
                    continue
                for axis in range(1, len(other.shape)):
                    if other.shape[axis] % count == 0:
                        yield _inner_split(other, parts, axis)


def _inner_split(other: _Row, parts: Sequence[_Row], axis: int) -> _Made:
    length = other.shape[axis] // len(parts)
    changes = tuple(
        _likely(
            name,
            (
                Piece(
                    source,
                    (Step("take", (axis, at * length, (at + 1) * length, 1)), Step("reshape", part.shape)),
                ),
            ),
        )
        for at, part in enumerate(parts)
        for name, source in zip(part.names, other.names)
    )
    words = ", ".join(visible(part.pattern) for part in parts)
    return f"{words} from axis {axis} of {visible(other.pattern)}", changes


def _joins(
    missing: Sequence[_Row], unused: Sequence[_Row], sizes_for: Callable[..., Sequence[int]]
) -> Iterator[_Made]:
    """One from the rows of several."""
    for row in missing:
        for parts in _parts(row, unused):
            for groups in _groups([part.shape[0] for part in parts], sizes_for):
                step = Step("cat", (0, groups))
                changes = tuple(
                    _likely(name, tuple(Piece(part.names[at]) for part in parts), (step,))
                    for at, name in enumerate(row.names)
                )
                words = ", ".join(visible(part.pattern) for part in parts)
                yield f"{visible(row.pattern)} from {words} in {groups} groups", changes


def _parts(whole: _Row, offered: Sequence[_Row]) -> Iterator[tuple[_Row, ...]]:
    """Rows that together have as many rows as another, in every order."""
    if not whole.shape:
        return
    fitting = [
        row
        for row in offered
        if len(row.names) == len(whole.names) and row.shape and row.shape[1:] == whole.shape[1:]
    ]
    for count in range(2, _MOST_PARTS + 1):
        for chosen in combinations(fitting[:10], count):
            if sum(row.shape[0] for row in chosen) == whole.shape[0]:
                yield from permutations(chosen)


def _groups(lengths: Sequence[int], sizes_for: Callable[..., Sequence[int]]) -> list[int]:
    """One group, or one for each head."""
    heads = [min(lengths) // size for size in sizes_for(min(lengths))]
    found = [1, *(count for count in range(2, _MOST_GROUPS + 1)), *heads]
    return [count for count in dict.fromkeys(found) if count and all(n % count == 0 for n in lengths)]


def _stacks(missing: Sequence[_Row], unused: Sequence[_Row], _: object) -> Iterator[_Made]:
    """One from many that repeat: experts, stacked or one below the other."""
    for row in missing:
        for other in unused:
            count, rest = divmod(len(other.names), len(row.names))
            if rest or count < 2:
                continue
            for steps, shape in _turns(other.shape):
                join = _join_of(row.shape, shape, count)
                if join is None:
                    continue
                changes = tuple(
                    _likely(
                        name,
                        tuple(Piece(source, steps) for source in other.names[at * count : (at + 1) * count]),
                        (join,),
                    )
                    for at, name in enumerate(row.names)
                )
                yield f"{visible(row.pattern)} from {visible(other.pattern)}", changes


def _unstacks(missing: Sequence[_Row], unused: Sequence[_Row], _: object) -> Iterator[_Made]:
    """Many that repeat from one."""
    for row in missing:
        for other in unused:
            count, rest = divmod(len(row.names), len(other.names))
            if rest or count < 2:
                continue
            for steps, shape in _turns(row.shape):
                join = _join_of(other.shape, shape, count)
                if join is None:
                    continue
                changes = tuple(
                    _likely(
                        name, (Piece(other.names[at // count], (_out_of(join, at % count, shape), *steps)),)
                    )
                    for at, name in enumerate(row.names)
                )
                yield f"{visible(row.pattern)} from {visible(other.pattern)}", changes


def _turns(shape: Shape) -> list[tuple[tuple[Step, ...], Shape]]:
    """A tensor as it is, and a matrix transposed."""
    found: list[tuple[tuple[Step, ...], Shape]] = [((), shape)]
    if len(shape) == 2:
        found.append(((Step("transpose"),), shape[::-1]))
    return found


def _join_of(whole: Shape, part: Shape, count: int) -> Step | None:
    """How so many of one shape make another."""
    if whole == (count, *part):
        return Step("stack", (0,))
    if part and whole == (count * part[0], *part[1:]):
        return Step("cat", (0, 1))
    return None


def _out_of(join: Step, at: int, shape: Shape) -> Step:
    if join.op == "stack":
        return Step("index", (0, at))
    return Step("take", (0, at * shape[0], (at + 1) * shape[0], 1))
