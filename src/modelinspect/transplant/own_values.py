"""
What a target makes itself belongs into a file that is to be loaded strictly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from tempfile import TemporaryDirectory

from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import TensorInfo
from modelinspect.transplant.plan import Assignment, Piece, Plan

__all__ = ["with_own_values"]


@contextmanager
def with_own_values(plan: Plan) -> Iterator[tuple[Plan, tuple[str, ...]]]:
    """
    A plan that also writes what its target makes itself: masks, position numbers, counters.

    Their values are those of a new model of the target's definition, or those in the target's
    file. Where they can't be had, they stay missing.

    Args:
        plan: Any.

    Yields:
        The plan, which holds while the block lasts, and what is to be said of it.
    """
    names = [each.name for each in plan.missing if each.is_made]
    if names and plan.target.origin == "file":
        yield _filled(plan, [plan.target[name] for name in names]), ()
    elif names and plan.target_of is not None:
        from modelinspect.live.own_values import save_own_values

        with TemporaryDirectory(prefix="modelinspect-") as folder:
            path = os.path.join(folder, "own.pt")
            notes = save_own_values(plan.target_of, names, path)
            yield _filled(plan, open_checkpoint(path, path).table), notes
    else:
        yield plan, ()


def _filled(plan: Plan, rows: Iterable[TensorInfo]) -> Plan:
    """The plan with tensors of the target's own among its sources."""
    found = {row.name: row._replace(name=_unused(plan, row.name)) for row in rows}
    made = {each.target: each for each in plan.assignments}
    for name, row in found.items():
        made[name] = Assignment(name, (Piece(row.name),), (), "certain", "the target makes it itself")
    return replace(
        plan,
        source=replace(plan.source, tensors=[*plan.source, *found.values()]),
        assignments=tuple(made[row.name] for row in plan.target if row.name in made),
        missing=tuple(each for each in plan.missing if each.name not in found),
    )


def _unused(plan: Plan, name: str) -> str:
    name = f"{name} (of the target)"
    while name in plan.source:
        name += "'"
    return name
