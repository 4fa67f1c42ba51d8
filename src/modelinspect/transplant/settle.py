"""
Settle how rows lie in a target's fused weights by running the target alone.

What the target reads as q, k and v, or as gate and up, a symmetry of its outputs shows
(:mod:`modelinspect.live.symmetries`). How they lie in the source its names tell: tensors that
are apart there leave nothing open. Sources of a row are never changed here, only its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from time import monotonic
from typing import TYPE_CHECKING, Any

from modelinspect.errors import DefinitionError, visible
from modelinspect.transplant.plan import Assignment, Plan
from modelinspect.transplant.settle_rows import Question, questions_of

if TYPE_CHECKING:
    from modelinspect.live.symmetries import SymmetryBench

__all__ = ["settle_by_target"]

Progress = Callable[[int, int], None]
_MOST_ELEMENTS = 200_000_000
"""Of a target that is run."""
_MOST_IMAGES = 6
_LONGEST = 60
"""Seconds after which no further question is asked."""


def settle_by_target(
    plan: Plan,
    definition: Any,
    *,
    inputs: Sequence[str] = (),
    values: Callable[[str], Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """
    The plan with what running the target alone shows.

    Args:
        plan: As names and shapes have it.
        definition: The target: a definition, a module, or a target such as ``net.py:Net``. A
            module is left as it was.
        inputs: As ``--input`` spells them; empty: worked out.
        values: Reads a tensor of the source by name, as an array, where values settle a doubt.
        seed: Of weights, inputs and generators.
        progress: Told of the questions that were looked at and of all there are.

    Returns:
        The plan with other steps and labels, and notes that say what was run; the plan itself
        where nothing is open that the target could show.

    Raises:
        UsageError: An input is spelt badly.
    """
    questions = sorted(questions_of(plan, values), key=lambda each: not each.is_ambiguous)
    if not questions:
        return plan
    tied = plan.target.tied_to
    size = sum(prod(row.shape) for row in plan.target if row.name not in tied)
    if size > _MOST_ELEMENTS:
        return _noted(
            plan,
            f"how rows lie in the target was not tried: {size:,} elements are more than {_MOST_ELEMENTS:,}; "
            "--source-definition runs both models",
        )
    from modelinspect.live.symmetries import symmetry_bench

    used = {each.target for each in plan.assignments}
    try:
        with symmetry_bench(definition, used, inputs, guesses=_images(plan), seed=seed) as bench:
            return _settled(plan, bench, questions, progress)
    except DefinitionError as error:
        return _noted(plan, f"how rows lie in the target was not tried: {error.message}")


def _images(plan: Plan) -> list[str]:
    """Images that a target may take: as many patches of the source's convolution as there are positions."""
    patches = [row.shape for row in plan.source if len(row.shape) == 4 and row.shape[1] < row.shape[0]]
    kernels = [shape for shape in patches if shape[2] == shape[3] > 1]
    if not kernels:
        return []
    _, channels, side, _ = max(kernels, key=lambda shape: shape[2])
    lengths = {length for row in plan.target for length in row.shape if length > 3}
    counts = [n for n in range(2, 65) if {n * n, n * n + 1, n * n + 2} & lengths]
    return [f"2x{channels}x{n * side}x{n * side}" for n in counts[:_MOST_IMAGES]]


def _noted(plan: Plan, note: str) -> Plan:
    return replace(plan, notes=(*plan.notes, note))


def _settled(
    plan: Plan, bench: SymmetryBench, questions: Sequence[Question], progress: Progress | None
) -> Plan:
    changes: dict[str, Assignment] = {}
    said: dict[str, None] = {}
    began = monotonic()
    for at, question in enumerate(questions):
        if monotonic() - began > _LONGEST:
            plan = _noted(plan, f"after {_LONGEST} seconds nothing more was tried on the target alone")
            break
        if progress is not None:
            progress(at, len(questions))
        found = question.answered(bench)
        if found is not None:
            changes |= {each.target: each for each in found.changes}
            if _says_more(plan, found.changes):
                said[f"{visible(question.unit.pattern)} {found.said}"] = None
    if progress is not None:
        progress(len(questions), len(questions))
    plan = _changed(plan, changes)
    if not said and not any(question.is_ambiguous for question in questions):
        return plan
    shown = "; ".join(said) or "that showed nothing of how its rows lie"
    return _noted(plan, f"the target was run alone on {bench.input}, with random weights: {shown}")


def _says_more(plan: Plan, changes: Sequence[Assignment]) -> bool:
    """Steps or labels are others, not the reasons alone."""
    now = {each.target: each._replace(reason="") for each in plan.assignments}
    return any(now[each.target] != each._replace(reason="") for each in changes)


def _changed(plan: Plan, changes: Mapping[str, Assignment]) -> Plan:
    assignments = tuple(changes.get(each.target, each) for each in plan.assignments)
    open_ones = {each.target for each in assignments if each.label == "ambiguous"}
    doubts = tuple(
        doubt
        for doubt in plan.doubts
        if changes.keys().isdisjoint(doubt.targets) or open_ones.intersection(doubt.targets)
    )
    return replace(plan, assignments=assignments, doubts=doubts)
