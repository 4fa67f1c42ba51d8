"""
Fold the repeated modules of a tree: twelve equal blocks become one, ``{0..11}`` ×12.

Modules are equal where their classes are, and where their children are equal
one by one. Figures of what is folded, children included, are those of all
twelve together, so that children still add up to their parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelinspect.render.folding import (
    FEWEST,
    added,
    alike_blocks,
    put_together,
    spell,
    sums_remark,
    taken_apart,
    times_text,
)
from modelinspect.render.sheet import Sheet

__all__ = ["fold_tree"]


@dataclass(slots=True)
class _Node:
    row: list[Any]
    children: list[_Node] = field(default_factory=list)
    signature: int = 0
    """Equal for equal subtrees, their own labels and figures aside."""


def fold_tree(sheet: Sheet) -> Sheet:
    """
    Fold equal modules side by side.

    Args:
        sheet: With indents; each row stands directly below its parent's.

    Returns:
        The folded sheet, or the same one where nothing repeats.
    """
    summed = [i for i, column in enumerate(sheet.columns) if column.key in sheet.fold_sums]
    equal = [i for i in range(1, len(sheet.columns)) if i not in summed]
    nodes, roots = _grown(sheet)
    numbering: dict[object, int] = {}
    for node in reversed(nodes):
        # Children stand below their parent, so theirs are done.
        node.children = _folded(node.children, summed)
        cells = tuple([node.row[i] for i in equal])
        below = tuple([(child.row[0], child.signature) for child in node.children])
        node.signature = numbering.setdefault((cells, below), len(numbering))
    rows, indents = _flat(_folded(roots, summed))
    if len(rows) == len(sheet.rows):
        return sheet
    return replace(
        sheet,
        rows=rows,
        indents=indents,
        footer=(*sheet.footer, *sums_remark(sheet, "modules")),
        foldable=False,
        records=None,
    )


def _grown(sheet: Sheet) -> tuple[list[_Node], list[_Node]]:
    """All nodes in the order of the rows, and those that have no parent."""
    nodes = [_Node(list(row)) for row in sheet.rows]
    roots: list[_Node] = []
    branch: list[tuple[int, _Node]] = []
    for node, depth in zip(nodes, sheet.indents or ()):
        while branch and branch[-1][0] >= depth:
            branch.pop()
        (branch[-1][1].children if branch else roots).append(node)
        branch.append((depth, node))
    return nodes, roots


def _folded(siblings: list[_Node], summed: Sequence[int]) -> list[_Node]:
    if len(siblings) < FEWEST:
        return siblings
    groups: dict[object, list[int]] = {}
    shapes = [taken_apart(node.row[0] or "") for node in siblings]
    for index, (node, shape) in enumerate(zip(siblings, shapes)):
        groups.setdefault((shape.texts, node.signature), []).append(index)
    found: list[tuple[int, _Node]] = []
    for group in groups.values():
        for block in alike_blocks([(shapes[index].numbers, index) for index in group]):
            members = [siblings[index] for index in sorted(block.rows)]
            if len(members) > 1:
                label = put_together(shapes[block.rows[0]].texts, [spell(values) for values in block.options])
                _merge(members, summed)
                members[0].row[0] = f"{label} {times_text(len(members))}"
            found.append((min(block.rows), members[0]))
    return [node for _, node in sorted(found, key=lambda item: item[0])]


def _merge(members: list[_Node], summed: Sequence[int]) -> None:
    """Put the figures of equal subtrees into the first of them."""
    pending = [members]
    while pending:
        alike = pending.pop()
        first = alike[0]
        for i in summed:
            first.row[i] = added([node.row[i] for node in alike])
        pending.extend(list(children) for children in zip(*(node.children for node in alike)))


def _flat(roots: list[_Node]) -> tuple[list[tuple[Any, ...]], list[int]]:
    rows: list[tuple[Any, ...]] = []
    indents: list[int] = []
    pending = [(0, node) for node in reversed(roots)]
    while pending:
        depth, node = pending.pop()
        rows.append(tuple(node.row))
        indents.append(depth)
        pending.extend((depth + 1, child) for child in reversed(node.children))
    return rows, indents
