"""
Which shape an assignment makes, from the shapes of its sources.
"""

from __future__ import annotations

from collections.abc import Callable

from modelinspect.transplant.plan import Assignment
from modelinspect.transplant.transforms import JOINS, joined_shape, shape_after

__all__ = ["made_shape"]

Shape = tuple[int, ...]


def made_shape(assignment: Assignment, shape_of: Callable[[str], Shape]) -> Shape:
    """
    The shape that an assignment's steps make.

    Args:
        assignment: Whose pieces and steps are followed.
        shape_of: Gives the shape of a source tensor by its name.

    Raises:
        ValueError: A step does not fit what is before it, or several pieces are not joined.
    """
    shapes = [
        shape_after(shape_of(piece.name) if piece.name else (), piece.steps) for piece in assignment.pieces
    ]
    steps = assignment.steps
    if steps and steps[0].op in JOINS:
        return shape_after(joined_shape(shapes, steps[0]), steps[1:])
    if len(shapes) != 1:
        raise ValueError(f"{len(shapes)} sources and no cat or stack that joins them")
    return shape_after(shapes[0], steps)
