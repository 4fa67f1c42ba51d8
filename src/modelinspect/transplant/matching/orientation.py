"""
How one tensor's elements become another's of the same size, if there is one way to see.
"""

from __future__ import annotations

from math import prod

from modelinspect.transplant.matching.trees import Node
from modelinspect.transplant.matching.vocabulary import concepts_of, meaning_of
from modelinspect.transplant.transforms import Step, shape_after

__all__ = ["how", "is_table", "reshaped", "rows_between"]

Shape = tuple[int, ...]
Steps = tuple[Step, ...]


def how(source: Node, target: Node) -> tuple[Step, ...] | None:
    """
    The steps from a source tensor to a target tensor; None if the shapes show none.

    A matrix whose sides are exchanged is transposed; axes of length 1, and axes that are
    one axis on the other side, are reshaped. Square matrices are taken as they are: see
    :mod:`modelinspect.transplant.matching.turning` for what their siblings say.
    """
    if source.role != target.role and not {source.role, target.role} <= _EXCHANGED:
        return None
    return reshaped(source.shape, target.shape)


_EXCHANGED = frozenset({"weight", "bias"})
"""Roles that one author's words may take for one another; a direction is no weight."""


def reshaped(ours: Shape, theirs: Shape) -> Steps | None:
    """
    Steps from shape to shape: none, a reshape, or an exchange of two axes with or without one.

    Heads may have an axis of their own: (heads·d, n) → (heads, n, d).
    """
    if ours == theirs:
        return ()
    if prod(ours) != prod(theirs) or 0 in ours:
        return None
    small, other = _squeezed(ours), _squeezed(theirs)
    if small == other or _are_merged(small, other):
        return (Step("reshape", theirs),)
    for turn in _exchanges(small):
        turned = shape_after(small, turn)
        for back in _exchanges(other):
            goal = shape_after(other, back)
            if turned != goal and not _are_merged(turned, goal):
                continue
            steps = () if small == ours else (Step("reshape", small),)
            middle = () if turned == goal else (Step("reshape", goal),)
            end = () if other == theirs else (Step("reshape", theirs),)
            return (*steps, *turn, *middle, *back, *end)
    return None


_OFFSET = 2
"""Rows that some tables of positions keep free at the front, for padding."""


def rows_between(source: Node, target: Node) -> Steps | None:
    """
    The steps from an embedding to one of the same meaning with other rows; None if it is none.

    Words that a table has too many are at its end, as vocabularies are padded there; two
    positions too many are at its front. Heads are not cut to size.
    """
    ours, theirs = source.shape, target.shape
    if len(ours) != 2 or len(theirs) != 2 or ours[1] != theirs[1]:
        return None
    meaning = [
        {m for f, m in concepts_of(node.path).members if f == "embedding"} for node in (source, target)
    ]
    more = ours[0] - theirs[0]
    if all("pos" in found for found in meaning) and more == _OFFSET:
        return (Step("take", (0, more, ours[0], 1)),)
    if all("pos" in found for found in meaning) and more == -_OFFSET:
        # Zeros at the front: turned round, padded at the end, turned round again.
        return (Step("flip", (0,)), Step("pad", (0, -more)), Step("flip", (0,)))
    if not all("word" in found for found in meaning) or any(
        ("kind", "head") in concepts_of(node.path).members for node in (source, target)
    ):
        return None
    return (Step("take", (0, 0, theirs[0], 1)),) if more > 0 else (Step("pad", (0, -more)),)


def is_table(node: Node) -> bool:
    """A table of embeddings, by its name and axes."""
    return len(node.shape) == 2 and bool(meaning_of(node.path))


def _exchanges(shape: Shape) -> list[Steps]:
    if len(shape) == 2:
        return [(), (Step("transpose"),)]
    return [(), (Step("permute", (0, 2, 1)),)] if len(shape) == 3 else [()]


def _squeezed(shape: Shape) -> Shape:
    return tuple(length for length in shape if length != 1)


def _are_merged(ours: Shape, theirs: Shape) -> bool:
    """Is one shape the other with neighbouring axes put together?"""
    long, short = (ours, theirs) if len(ours) >= len(theirs) else (theirs, ours)
    at = 0
    for length in short:
        total = 1
        while total < length and at < len(long):
            total *= long[at]
            at += 1
        if total != length:
            return False
    return at == len(long)
