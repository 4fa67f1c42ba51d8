"""
Fold repeated blocks: 32 rows ``layers.0.attn.weight`` … become ``layers.{0..31}.attn.weight`` ×32.

Rows are one block where their names differ only in numbers and everything else
that is shown is equal. Braces mean what they mean to a shell: ``{0..3,5}`` is
0, 1, 2, 3 and 5, ``{0..8..2}`` the even ones, two pairs of braces every
combination. What a folded name expands to is exactly the names it stands for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from modelinspect.render.sheet import Column, Line, Sheet

__all__ = ["fold", "fold_names"]

FEWEST = 3
"""Fewer rows than this are not folded, nor fewer values of one number."""
_MOST_NUMBERS = 12
"""Numbers in a name; with more of them no one would read the braces."""

_NUMBER = re.compile(r"([0-9]+)")
_TIMES = Column("times", "×", "text")

Numbers = tuple[str, ...]
Options = tuple[Numbers, ...]
"""For each number of a name the values it takes; a block is every combination."""


class Block(NamedTuple):
    """Names that are every combination of some numbers, and their rows."""

    options: Options
    rows: list[int]


class NameParts(NamedTuple):
    """A name taken apart: the texts before, between and after its numbers, and those."""

    texts: tuple[str, ...]
    numbers: Numbers


class _Relative(NamedTuple):
    """A further name in a row: its texts, and its numbers; None is the row's own in that place."""

    texts: tuple[str, ...]
    numbers: tuple[str | None, ...]


def fold(sheet: Sheet) -> Sheet:
    """
    Fold a sheet whose view allows it; each block stands where its first row stood.

    The columns in :attr:`Sheet.fold_sums` are added up, all others are equal in
    a block; further columns of names (what a tensor is tied to) may differ by
    the same numbers. A column ``×`` says how many rows each one stands for.

    Returns:
        The folded sheet, or the same one where nothing repeats.
    """
    if not sheet.foldable or len(sheet.rows) < FEWEST:
        return sheet
    if sheet.indents is not None:
        from modelinspect.render.folding_trees import fold_tree

        return fold_tree(sheet)
    summed = [i for i, column in enumerate(sheet.columns) if column.key in sheet.fold_sums]
    references = [i for i, column in enumerate(sheet.columns) if i and column.kind == "name"]
    folded: list[tuple[int, int, Sequence[Any]]] = []
    for alike in _alike(sheet, summed, references):
        if len(alike) < FEWEST:
            folded += [(row, 1, sheet.rows[row]) for row in alike]
            continue
        members = [(taken_apart(sheet.rows[row][0]).numbers, row) for row in alike]
        folded += [
            (min(block.rows), len(block.rows), _folded_row(sheet, block, summed, references))
            for block in alike_blocks(members)
        ]
    if len(folded) == len(sheet.rows):
        return sheet
    folded.sort(key=lambda item: item[0])
    rows = [(row[0], times_text(times), *row[1:]) for _, times, row in folded]
    return replace(
        sheet,
        columns=(sheet.columns[0], _TIMES, *sheet.columns[1:]),
        rows=rows,
        footer=(*sheet.footer, *sums_remark(sheet, "rows")),
        foldable=False,
        records=None,
    )


def fold_names(names: Iterable[str]) -> list[tuple[str, int]]:
    """
    Names with those that differ only in numbers folded, each with how many it stands for.

    >>> fold_names(["h.0.w", "h.1.w", "h.2.w", "head.w"])
    [('h.{0..2}.w', 3), ('head.w', 1)]
    """
    sheet = Sheet("names", (Column("name", "name", "name"),), [(name,) for name in names], foldable=True)
    folded = fold(sheet)
    if folded is sheet:
        return [(row[0], 1) for row in sheet.rows]
    return [(name, int(times[1:] or 1)) for name, times in folded.rows]


def sums_remark(sheet: Sheet, what: str) -> tuple[Line, ...]:
    """Says what the figures of folded rows are."""
    if not any(column.key in sheet.fold_sums for column in sheet.columns):
        return ()
    return (Line("", f"× marks {what} that are folded; their figures are sums", "text"),)


def times_text(times: int) -> str:
    """``×32``; nothing for a row that stands for itself."""
    return f"×{times}" if times > 1 else ""


# --------------------------------------------------------------- what is alike


def taken_apart(name: str) -> NameParts:
    """
    The numbers of a name and what stands around them.

    A name that holds braces already, or very many numbers, has none: it is never folded.
    """
    parts = _NUMBER.split(name)
    if len(parts) == 1 or len(parts) // 2 > _MOST_NUMBERS or "{" in name or "}" in name:
        return NameParts((name,), ())
    return NameParts(tuple(parts[::2]), tuple(parts[1::2]))


def _pattern(name: str) -> str:
    """Equal for names that differ only in numbers, and only for those."""
    pattern = _NUMBER.sub("0", name)
    return name if "{" in name or "}" in name or pattern.count("0") > _MOST_NUMBERS else pattern


def _alike(sheet: Sheet, summed: Sequence[int], references: Sequence[int]) -> Iterable[list[int]]:
    """The rows by all that has to be equal in a block."""
    columns = list(zip(*sheet.rows))
    names = columns[0]
    keys: list[Iterable[Any]] = [map(_pattern, names)]
    free = references if sheet.folds_equal_only else [*summed, *references]
    keys += [columns[i] for i in range(1, len(columns)) if i not in free]
    keys += [map(_relative, columns[i], names) for i in references]
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(*keys)):
        groups[key].append(row)
    return groups.values()


def _relative(other: str | None, name: str) -> object:
    """
    A further name with each number replaced by the place of the row's own, where
    it has the same one there: of ``h.3.b`` tied to ``h.3.a`` the 3 is the first.
    """
    if not other:
        return other
    ours, theirs = taken_apart(name), taken_apart(other)
    if len(ours.numbers) != len(theirs.numbers):
        return other
    same = [None if there == here else there for here, there in zip(ours.numbers, theirs.numbers)]
    return _Relative(theirs.texts, tuple(same))


# ----------------------------------------------------------------- into blocks


def alike_blocks(members: list[tuple[Numbers, int]]) -> list[Block]:
    """
    Part rows that are alike into blocks, each every combination of its numbers.

    From the last number to the first: names that are equal before it and whose
    later numbers take the same values are put together.
    """
    distinct = {numbers for numbers, _ in members}
    # A name that is there twice would be counted in braces that hold it once.
    if len(members) < FEWEST or len(distinct) < len(members):
        return _apart(members)
    options = [tuple(dict.fromkeys(values)) for values in zip(*(numbers for numbers, _ in members))]
    if sum(len(values) > 1 for values in options) == 1:
        return [Block(tuple(options), [row for _, row in members])]
    blocks = _apart(members)
    for place in range(len(members[0][0]) - 1, -1, -1):
        merged: dict[Options, list[Block]] = {}
        for block in blocks:
            merged.setdefault(block.options[:place] + block.options[place + 1 :], []).append(block)
        blocks = []
        for group in merged.values():
            blocks.extend([_merged(group, place)] if len(group) >= FEWEST else group)
    return blocks


def _apart(members: list[tuple[Numbers, int]]) -> list[Block]:
    return [Block(tuple((number,) for number in numbers), [row]) for numbers, row in members]


def _merged(group: list[Block], place: int) -> Block:
    options = group[0].options
    values = tuple(block.options[place][0] for block in group)
    return Block(
        (*options[:place], values, *options[place + 1 :]), [row for block in group for row in block.rows]
    )


def _folded_row(
    sheet: Sheet, block: Block, summed: Sequence[int], references: Sequence[int]
) -> tuple[Any, ...]:
    first = sheet.rows[min(block.rows)]
    if len(block.rows) == 1:
        return tuple(first)
    row = list(first)
    spelt = [spell(values) for values in block.options]
    own = taken_apart(first[0])
    row[0] = put_together(own.texts, spelt)
    for i in references:
        relative = _relative(first[i], first[0])
        if isinstance(relative, _Relative):
            numbers = [ours if theirs is None else theirs for ours, theirs in zip(spelt, relative.numbers)]
            row[i] = put_together(relative.texts, numbers)
    for i in summed:
        row[i] = added([sheet.rows[index][i] for index in block.rows])
    return tuple(row)


def added(values: Sequence[Any]) -> Any:
    """The sum of a column's values in a block; not known where one of them is not."""
    return None if any(value is None for value in values) else sum(values)


# ----------------------------------------------------------------- the spelling


def put_together(texts: Sequence[str], numbers: Sequence[str]) -> str:
    """Texts with numbers between them."""
    return texts[0] + "".join(number + text for number, text in zip(numbers, texts[1:]))


def spell(values: Sequence[str]) -> str:
    """
    Numbers as a shell's braces would expand to them.

    >>> spell(["0", "1", "2", "3", "5"]), spell(["0", "2", "4", "6", "8"]), spell(["7"])
    ('{0..3,5}', '{0..8..2}', '7')
    """
    if len(values) == 1:
        return values[0]
    if any(len(value) > 15 for value in values):
        return f"{{{','.join(values)}}}"
    ordered = sorted(values, key=int)
    if not _is_regular(ordered):
        return f"{{{','.join(ordered)}}}"
    numbers = list(map(int, ordered))
    step = numbers[1] - numbers[0]
    if step > 1 and len(numbers) > 4 and numbers == list(range(numbers[0], numbers[-1] + 1, step)):
        return f"{{{ordered[0]}..{ordered[-1]}..{step}}}"
    return f"{{{','.join(_runs(ordered, numbers))}}}"


def _is_regular(values: Sequence[str]) -> bool:
    """Written without leading zeros, or all equally long, so that a range expands to them."""
    return len(set(map(len, values))) == 1 or not any(len(value) > 1 and value[0] == "0" for value in values)


def _runs(texts: Sequence[str], numbers: Sequence[int]) -> Iterable[str]:
    start = 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
            continue
        if end - start > 2:
            yield f"{texts[start]}..{texts[end - 1]}"
        else:
            yield from texts[start:end]
        start = end
