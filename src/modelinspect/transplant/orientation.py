"""
How one tensor's elements become another's of the same size, if there is one way to see.
"""

from __future__ import annotations

from math import prod

from modelinspect.transplant.transforms import Step, shape_after
from modelinspect.transplant.trees import Node

__all__ = ["how", "reshaped"]

Shape = tuple[int, ...]
Steps = tuple[Step, ...]


def how(source: Node, target: Node) -> tuple[Step, ...] | None:
    """
    The steps from a source tensor to a target tensor; None if the shapes show none.

    A matrix whose sides are exchanged is transposed; axes of length 1, and axes that are
    one axis on the other side, are reshaped. Square matrices are taken as they are: see
    :mod:`modelinspect.transplant.turning` for what their siblings say.
    """
    if source.role != target.role and "count" in (source.role, target.role):
        return None
    return reshaped(source.shape, target.shape)


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
