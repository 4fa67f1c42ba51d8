"""
Tensors that there are in several copies: one by one, stacked in one tensor, or listed by number.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from modelinspect.transplant.matching.trees import Node
from modelinspect.transplant.plan import Label
from modelinspect.transplant.transforms import Step

__all__ = ["Made", "Slot", "Steps", "Unit", "counts_of", "units_of", "with_steps"]

Shape = tuple[int, ...]
Steps = tuple[Step, ...]


class Made(NamedTuple):
    """A target tensor that is made of tensors that were left."""

    target: Node
    pieces: tuple[tuple[Node, Steps], ...]
    steps: Steps
    label: Label
    reason: str


@dataclass
class Slot:
    """One tensor a copy."""

    members: list[Node]
    """As many as there are copies, or one tensor that stacks them."""
    shape: Shape
    """Of one copy."""
    count: int
    fold: Steps = ()
    """From an axis of heads to rows of a matrix; of sources."""
    unfold: Steps = ()
    """The way back; of targets."""

    @property
    def is_stacked(self) -> bool:
        """One tensor holds all copies, along its first axis."""
        return self.count > 1 and len(self.members) == 1

    def piece(self, at: int) -> tuple[Node, Steps]:
        """The tensor of one copy, and the step that takes it out of the stack."""
        if self.is_stacked:
            return self.members[0], (Step("index", (0, at)), *self.fold)
        return self.members[at], self.fold

    def folded(self, width: int) -> Slot:
        """
        The same with heads and what is in each as one axis of rows.

        Args:
            width: Of the matrix that it is then, (heads·d, width); of vectors any.
        """
        shape, turn = self.shape, Step("permute", (0, 2, 1))
        if len(shape) == 2 and self.members[0].role == "bias":
            flat: Shape = (shape[0] * shape[1],)
            return replace(self, shape=flat, fold=(_reshape(flat),), unfold=(_reshape(shape),))
        if len(shape) != 3 or width not in shape:
            return self
        if shape[1] == width:
            flat, inner = (shape[0] * shape[2], width), (shape[0], shape[2], width)
            return replace(self, shape=flat, fold=(turn, _reshape(flat)), unfold=(_reshape(inner), turn))
        if shape[0] == width:
            flat = (shape[1] * shape[2], width)
            there = (_reshape((width, flat[0])), Step("transpose"))
            return replace(self, shape=flat, fold=there, unfold=(Step("transpose"), _reshape(shape)))
        flat = (shape[0] * shape[1], width)
        return replace(self, shape=flat, fold=(_reshape(flat),), unfold=(_reshape(shape),))


def _reshape(shape: Shape) -> Step:
    return Step("reshape", shape)


@dataclass
class Unit:
    """A module's tensors: its weight and bias stay together."""

    node: Node
    slots: dict[str, Slot]
    path: str
    """Relative to the region."""


_NUMBER = re.compile(r"\d+")


def counts_of(leaves: Sequence[Node]) -> set[int]:
    """In how many copies tensors may be there: 1, lengths of lists, lengths of first axes."""
    found = {1}
    for leaf in leaves:
        if len(leaf.shape) >= 2 and 2 <= leaf.shape[0] <= _MOST_COPIES:
            found.add(leaf.shape[0])
    found.update(len(members) for members in _columns(leaves).values() if len(members) > 1)
    return found


_MOST_COPIES = 4096


def _columns(leaves: Sequence[Node]) -> dict[tuple[str, str], list[Node]]:
    """Tensors whose names differ in one number: what is before and after it, in its order."""
    found: dict[tuple[str, str], list[tuple[int, Node]]] = defaultdict(list)
    for leaf in leaves:
        for match in _NUMBER.finditer(leaf.path):
            found[leaf.path[: match.start()], leaf.path[match.end() :]].append((int(match[0]), leaf))
    columns = {}
    for place, numbered in found.items():
        numbered.sort(key=lambda each: each[0])
        numbers = [number for number, _ in numbered]
        shapes = {leaf.shape for _, leaf in numbered}
        is_run = len(set(numbers)) == len(numbers) == numbers[-1] - numbers[0] + 1
        if len(numbered) > 1 and len(shapes) == 1 and is_run:
            columns[place] = [leaf for _, leaf in numbered]
    return columns


def units_of(leaves: Sequence[Node], count: int, root: Node) -> list[Unit]:
    """The units that there are in so many copies."""
    slots: list[Slot] = []
    if count == 1:
        slots = [Slot([leaf], leaf.shape, 1) for leaf in leaves]
    else:
        slots = [
            Slot(members, members[0].shape, count)
            for members in _columns(leaves).values()
            if len(members) == count
        ]
        slots += [
            Slot([leaf], leaf.shape[1:], count)
            for leaf in leaves
            if len(leaf.shape) >= 2 and leaf.shape[0] == count
        ]
    units: dict[int, Unit] = {}
    for slot in slots:
        node = slot.members[0].parent
        assert node is not None
        unit = units.setdefault(id(node), Unit(node, {}, node.below(root)))
        unit.slots.setdefault(slot.members[0].role, slot)
    return list(units.values())


def with_steps(piece: tuple[Node, Steps], steps: Steps) -> tuple[Node, Steps]:
    """A piece with more steps."""
    return piece[0], (*piece[1], *steps)
