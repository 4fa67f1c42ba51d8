"""
Two subtrees taken apart, the largest parts first, until parts of equal content lie on both sides.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from modelinspect.transplant.matching.links import HINTED
from modelinspect.transplant.matching.orientation import how
from modelinspect.transplant.matching.scoring import name_score, natural
from modelinspect.transplant.matching.trees import Node, template_of

__all__ = ["IN_ORDER", "MANY", "Group", "Parts", "take_apart"]

IN_ORDER = "in the order of their numbers"
MANY = 4
"""Tensors whose roles and shapes all agree by accident: hardly ever more than these."""
_ALIKE = 0.6
"""Sizes of blocks that may be the same, but for something that one side has more."""


class Group(NamedTuple):
    """Nodes of equal content on both sides, each of which may go with each."""

    sources: list[Node]
    targets: list[Node]
    is_exact: bool
    """Equal roles and shapes; else as many elements."""
    known: str = ""
    """Why they go together, one node each, before anything is compared."""

    @property
    def is_even(self) -> bool:
        """As many on both sides."""
        return len(self.sources) == len(self.targets)

    @property
    def is_small(self) -> bool:
        """Of tensors, or of modules that hold nothing but tensors."""
        return all(node.is_leaf or node.is_unit for node in (*self.sources, *self.targets))

    @property
    def difficulty(self) -> tuple[bool, int, int]:
        """Sorts easy ones first: what they settle speaks for others."""
        among = len(self.sources) if self.sources[0].count <= MANY else 0
        return not self.is_exact, among, -self.sources[0].size


class Parts(NamedTuple):
    """What two subtrees are made of."""

    groups: list[Group]
    left_sources: list[Node]
    """Tensors without an equal."""
    left_targets: list[Node]


def take_apart(source: Node, target: Node, hinted: Mapping[int, tuple[Node, Node]]) -> Parts:
    """
    Groups of equal parts.

    Args:
        source: A subtree.
        target: The one that it corresponds to.
        hinted: Nodes that a person paired, by identity.
    """
    work = _Work({**_aligned_lists(source, target), **hinted})
    for side, root in enumerate((source, target)):
        work.push(side, root.children or [root])
    parts = Parts([], [], [])
    while work.waiting:
        found, rest = _equal_parts(work.largest())
        parts.groups.extend(found)
        for side, left in ((0, parts.left_sources), (1, parts.left_targets)):
            left += [node for node in rest[side] if node.is_leaf]
            for node in rest[side]:
                work.push(side, node.children)
    for ours, theirs in {id(pair): pair for pair in work.paired.values()}.values():
        if id(ours) in work.reached and id(theirs) in work.reached:
            why = HINTED if id(ours) in hinted else IN_ORDER
            parts.groups.append(Group([ours], [theirs], ours.key == theirs.key, why))
            continue
        parts.left_sources.extend(ours.leaves() if id(ours) in work.reached else ())
        parts.left_targets.extend(theirs.leaves() if id(theirs) in work.reached else ())
    return parts


class _Work:
    """Nodes of both sides that are still to be compared, the largest first."""

    def __init__(self, paired: Mapping[int, tuple[Node, Node]]) -> None:
        self.paired = paired
        self.reached: set[int] = set()
        self.waiting: list[tuple[int, int, int, Node]] = []

    def push(self, side: int, nodes: Iterable[Node]) -> None:
        """Nodes more of a side; those that are paired already are only taken note of."""
        for outer in nodes:
            node = outer if id(outer) in self.paired else _innermost(outer)
            if id(node) in self.paired:
                self.reached.add(id(node))
            else:
                heapq.heappush(self.waiting, (-node.size, side, node.start * 64 + node.depth, node))

    def largest(self) -> tuple[list[Node], list[Node]]:
        """All nodes of the greatest size, by side."""
        size = self.waiting[0][0]
        level: tuple[list[Node], list[Node]] = ([], [])
        while self.waiting and self.waiting[0][0] == size:
            _, side, _, node = heapq.heappop(self.waiting)
            level[side].append(node)
        return level


def _innermost(node: Node) -> Node:
    """Past modules that hold one module and nothing else: the name of the last says most."""
    while len(node.children) == 1 and not node.children[0].is_leaf:
        node = node.children[0]
    return node


def _equal_parts(
    level: tuple[list[Node], list[Node]],
) -> tuple[list[Group], tuple[list[Node], list[Node]]]:
    """Of nodes with as many elements: those with equal content, then those that may be transformed."""
    if not level[0] or not level[1]:
        return [], level
    by_key: dict[int, tuple[list[Node], list[Node]]] = defaultdict(lambda: ([], []))
    for side in (0, 1):
        for node in level[side]:
            by_key[node.key][side].append(node)
    groups = [Group(a, b, True) for a, b in by_key.values() if a and b]
    rest_a = [node for a, b in by_key.values() if not b for node in a]
    rest_b = [node for a, b in by_key.values() if not a for node in b]
    if rest_a and rest_b and all(_may_be_transformed(a, b) for a in rest_a[:3] for b in rest_b[:3]):
        groups.append(Group(rest_a, rest_b, False))
        rest_a, rest_b = [], []
    return groups, (rest_a, rest_b)


def _may_be_transformed(source: Node, target: Node) -> bool:
    """Could one hold the other's elements in other shapes?"""
    if source.is_leaf and target.is_leaf:
        return how(source, target) is not None
    if source.is_leaf or target.is_leaf:
        return False
    if source.is_unit and target.is_unit and source.count == target.count:
        theirs = {child.role: child for child in target.children}
        return all(
            child.role in theirs and how(child, theirs[child.role]) is not None for child in source.children
        )
    return source.count > 1 and target.count > 1


def _aligned_lists(source: Node, target: Node) -> dict[int, tuple[Node, Node]]:
    """
    Members of lists of equal length, most of whose members are equal, by place.

    A first block may hold more than those after it: then content alone would shift the rest.
    """
    ours, theirs = _block_lists(source), _block_lists(target)
    found: list[tuple[float, list[Node], list[Node]]] = []
    for a in ours:
        for b in theirs:
            if len(a) == len(b):
                equal = sum(s.size == t.size for s, t in zip(a, b)) / len(a)
                alike = min(min(s.size, t.size) / max(s.size, t.size) for s, t in zip(a, b))
                if alike > _ALIKE and 0.5 <= equal < 1:
                    names = name_score(a[0].below(source), b[0].below(target))
                    found.append((5 * equal + names, a, b))
    aligned: dict[int, tuple[Node, Node]] = {}
    for _, a, b in sorted(found, key=lambda each: -each[0]):
        if not any(id(node) in aligned for node in (*a, *b)):
            for pair in zip(a, b):
                aligned[id(pair[0])] = aligned[id(pair[1])] = pair
    return aligned


def _block_lists(root: Node) -> list[list[Node]]:
    """The lists of blocks under a node that no other list's block holds."""
    lists: dict[str, list[Node]] = defaultdict(list)
    pending = [root]
    while pending:
        node = pending.pop()
        blocks: dict[str, list[Node]] = defaultdict(list)
        for child in node.children:
            if child.count > MANY and any(letter.isdigit() for letter in child.name):
                blocks[template_of(child.below(root))].append(_innermost(child))
        for template, members in blocks.items():
            if len(members) > 1:
                lists[template] += members
        listed = {id(child) for members in blocks.values() if len(members) > 1 for child in members}
        pending += [
            child for child in map(_innermost, node.children) if not child.is_leaf and id(child) not in listed
        ]
    return [sorted(members, key=lambda node: natural(node.path)) for members in lists.values()]
