"""
A plan carried out on tensors in hand: torch's or numpy's, neither of which is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from modelinspect.errors import UsageError, visible
from modelinspect.transplant.plan import Assignment, Plan
from modelinspect.transplant.transforms import apply_steps

__all__ = ["apply_plan"]


def apply_plan(plan: Plan, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """
    The tensors that a plan makes of others.

    Args:
        plan: What goes where.
        state_dict: The source's tensors by name, of torch or numpy; more is no harm.

    Returns:
        The target's tensors by name, in its order. They share memory with those given
        where nothing moves; names that are tied in the target hold one tensor.

    Raises:
        UsageError: A tensor that the plan takes is not there, or is of another shape.
    """
    tied = plan.target.tied_to
    made: dict[str, Any] = {}
    taken: set[str] = set()
    for assignment in plan.assignments:
        first = made.get(tied.get(assignment.target, ""))
        if first is not None:
            made[assignment.target] = first
            continue
        tensor = _made(plan, assignment, state_dict)
        if assignment.is_copy and assignment.sources[0] in taken:
            tensor = _copy(tensor)  # two tensors of the target must not change together
        taken.update(assignment.sources)
        made[assignment.target] = tensor
    return made


def _made(plan: Plan, assignment: Assignment, state_dict: Mapping[str, Any]) -> Any:
    given = [_given(plan, piece.name, state_dict) if piece.name else None for piece in assignment.pieces]
    # A constant takes its data type from what it is joined to, or from what stands in for it.
    like = next((tensor for tensor in given if tensor is not None), None)
    if like is None:
        like = next(iter(state_dict.values()), None)
    library = _library(like, assignment.target)
    arrays = [
        apply_steps([like if tensor is None else tensor], piece.steps, library)
        for tensor, piece in zip(given, assignment.pieces)
    ]
    return apply_steps(arrays, assignment.steps, library)


def _given(plan: Plan, name: str, state_dict: Mapping[str, Any]) -> Any:
    if name not in state_dict:
        raise UsageError(f"the plan takes {visible(name)!r}, which is not among the tensors given")
    tensor = state_dict[name]
    shape, planned = getattr(tensor, "shape", None), plan.source[name].shape
    if shape is None or tuple(shape) != planned:
        found = f"a {type(tensor).__name__}" if shape is None else f"of shape {list(shape)}"
        raise UsageError(f"{visible(name)!r} is {found}, and the plan is for one of shape {list(planned)}")
    return tensor.detach() if hasattr(tensor, "detach") else tensor


def _library(tensor: Any, target: str) -> Any:
    """Torch or numpy, whichever the tensor is of; it is loaded, since the tensor is there."""
    for base in type(tensor).__mro__:
        root = base.__module__.partition(".")[0]
        if root in ("torch", "numpy") and root in sys.modules:
            return sys.modules[root]
    raise UsageError(
        f"{visible(target)!r} can't be made of a {type(tensor).__name__}",
        details=("expected tensors of torch or arrays of numpy",),
    )


def _copy(tensor: Any) -> Any:
    return tensor.clone() if hasattr(tensor, "clone") else tensor.copy()
