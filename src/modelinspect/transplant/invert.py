"""
The way back: a plan that makes the source of the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from modelinspect.tensors import ParameterTable, TensorInfo
from modelinspect.transplant.patterns import expand, rows
from modelinspect.transplant.plan import Assignment, Label, Missing, Piece, Plan, Unused
from modelinspect.transplant.transforms import JOINS, Step, inverse, joined_shape, shape_after

__all__ = ["inverted"]

Shape = tuple[int, ...]


_SURENESS: tuple[Label, ...] = ("ambiguous", "likely", "certain", "proven")


class _Part(NamedTuple):
    """A part of a source tensor as it can be taken out of the target."""

    assignment: Assignment
    target: Piece
    """A tensor of the target and the steps that lead to what the piece's steps made."""
    steps: tuple[Step, ...]
    """Those that the piece went through, from the source tensor on."""


def inverted(plan: Plan) -> Plan:
    """
    The plan from a plan's target back to its source.

    Slices that cover a source are joined again, and joined ones are taken apart.

    Args:
        plan: Any.

    Returns:
        A plan whose source is the target, and the other way round. What the plan didn't
        use is missing from it, what the plan didn't fill is not used.

    Raises:
        ValueError: A row loses elements, so that nothing leads back; the message says which.
    """
    try:
        return _inverted(plan)
    except _LossError as loss:
        raise _said(plan, loss) from None


def _inverted(plan: Plan) -> Plan:
    parts = _parts(plan)
    tied = plan.source.tied_to
    made, missing = [], []
    for row in plan.source:
        if row.persistent is False:
            continue
        found = parts.get(tied.get(row.name, row.name))
        if found is None:
            missing.append(Missing(row.name, row.shape, "nothing in the target was made of it"))
        else:
            made.append(_back(row, found))
    used = {plan.target.tied_to.get(name, name) for each in made for name in each.sources}
    unused = [
        Unused(row.name, row.shape, "nothing in the source leads to it")
        for row in plan.target
        if row.persistent is not False and plan.target.tied_to.get(row.name, row.name) not in used
    ]
    return Plan(plan.target, plan.source, tuple(made), tuple(missing), tuple(unused), (), plan.notes)


def _parts(plan: Plan) -> dict[str, list[_Part]]:
    """What each tensor of the source, by its first name, went into."""
    tied = plan.source.tied_to
    parts: dict[str, list[_Part]] = {}
    for assignment in plan.assignments:
        for piece, target in zip(assignment.pieces, _taken_out(assignment, plan.source)):
            if piece.name:
                part = _Part(assignment, target, piece.steps)
                parts.setdefault(tied.get(piece.name, piece.name), []).append(part)
    return parts


def _taken_out(assignment: Assignment, source: ParameterTable) -> list[Piece]:
    """For each piece: how to take it out of the target's tensor, as it was when it was joined."""
    shapes = [
        shape_after(source[piece.name].shape if piece.name else (), piece.steps)
        for piece in assignment.pieces
    ]
    steps, join = assignment.steps, None
    if steps and steps[0].op in JOINS:
        join, steps = steps[0], steps[1:]
    joined = shapes[0] if join is None else joined_shape(shapes, join)
    back = _undone(steps, joined)
    if back is None:
        raise _LossError(assignment, "after its pieces are joined it keeps a part of them only")
    if join is None:
        return [Piece(assignment.target, back)]
    return [Piece(assignment.target, (*back, step)) for step in _apart(join, shapes)]


def _apart(join: Step, shapes: Sequence[Shape]) -> Iterable[Step]:
    """The step that takes each piece out of what a join made."""
    if join.op == "stack":
        yield from (Step("index", (join.args[0], at)) for at in range(len(shapes)))
        return
    axis, groups = join.args
    start = 0
    for shape in shapes:
        stop = start + shape[axis] // groups
        yield Step("take", (axis, start, stop, groups))
        start = stop


def _undone(steps: Sequence[Step], shape: Shape) -> tuple[Step, ...] | None:
    """The steps that undo others on a shape; None where one of them loses elements."""
    back: list[Step] = []
    for step in steps:
        try:
            back.append(inverse(step, shape))
        except ValueError:
            return None
        shape = shape_after(shape, (step,))
    return tuple(back[::-1])


# --------------------------------------------------------------------- one source tensor


def _back(row: TensorInfo, parts: Sequence[_Part]) -> Assignment:
    """How a source tensor is made again of the parts that went into the target."""
    for part in parts:
        back = _undone(part.steps, row.shape)
        if back is not None:
            piece = Piece(part.target.name, (*part.target.steps, *back))
            return _assignment(row.name, (piece,), (), [part.assignment])
    return _of_slices(row, parts)


class _Slice(NamedTuple):
    part: _Part
    before: tuple[Step, ...]
    """Steps before the one that takes the slice."""
    start: int
    stop: int
    back: tuple[Step, ...]
    """What undoes the steps after it."""


def _of_slices(row: TensorInfo, parts: Sequence[_Part]) -> Assignment:
    """The slices of a tensor joined again, where they cover it."""
    slices: dict[tuple[tuple[Step, ...], str, int, int], list[_Slice]] = {}
    for part in parts:
        found = _slice_of(part, row.shape)
        if found is not None:
            cut, each = found
            slices.setdefault((each.before, cut.op, cut.args[0], _groups(cut)), []).append(each)
    for (before, op, axis, groups), some in slices.items():
        shape = shape_after(row.shape, before)
        covering = _covering(some, shape[axis] // groups)
        back = _undone(before, shape=row.shape)
        if covering is None or back is None:
            continue
        join = Step("stack", (axis,)) if op == "index" else Step("cat", (axis, groups))
        pieces = tuple(Piece(s.part.target.name, (*s.part.target.steps, *s.back)) for s in covering)
        return _assignment(row.name, pieces, (join, *back), [s.part.assignment for s in covering])
    raise _LossError(parts[0].assignment, f"what it leaves of {row.name!r} is nowhere in the target")


def _slice_of(part: _Part, shape: Shape) -> tuple[Step, _Slice] | None:
    """The one step of a part's that takes a slice, two in a row made one where they can be."""
    steps = _merged_slices(_index_last(part.steps, shape), shape)
    at = next((at for at, step in enumerate(steps) if step.op in ("take", "index")), None)
    if at is None:
        return None
    cut = steps[at]
    back = _undone(steps[at + 1 :], shape_after(shape, steps[: at + 1]))
    if back is None:
        return None
    start, stop = (cut.args[1], cut.args[1] + 1) if cut.op == "index" else cut.args[1:3]
    return cut, _Slice(part, steps[:at], start, stop, back)


def _index_last(steps: tuple[Step, ...], shape: Shape) -> tuple[Step, ...]:
    """
    The same with axes put in order before a slice of a stack is taken, not after it, where
    another range follows: then the two can be merged.
    """
    for at, (step, following) in enumerate(pairwise(steps)):
        if step.op != "index" or following.op not in ("transpose", "permute"):
            continue
        if not any(later.op == "take" for later in steps[at + 2 :]):
            continue
        axis, number = step.args
        count = len(shape_after(shape, steps[:at]))
        rest = [each for each in range(count) if each != axis]
        order = following.args or (1, 0, *range(2, count - 1))
        moved = (Step("permute", (axis, *(rest[each] for each in order))), Step("index", (0, number)))
        return _index_last((*steps[:at], *moved, *steps[at + 2 :]), shape)
    return steps


def _merged_slices(steps: tuple[Step, ...], shape: Shape) -> tuple[Step, ...]:
    """
    Slices of slices as slices: one expert of a stack and half of its rows are a range of
    the rows of all experts.
    """
    for at, (step, following) in enumerate(pairwise(steps)):
        if following.op != "take" or step.op not in ("index", "take") or step.args[0] != following.args[0]:
            continue
        merged = _merged(step, following, shape_after(shape, steps[:at]))
        if merged is not None:
            return _merged_slices((*steps[:at], *merged, *steps[at + 2 :]), shape)
    return steps


def _merged(step: Step, following: Step, shape: Shape) -> tuple[Step, ...] | None:
    """Two steps along one axis as one range of it, behind a reshape where that is needed."""
    axis, _, _, groups = following.args
    if step.op == "take" and step.args[3] == groups:
        start, stop = (step.args[1] + each for each in following.args[1:3])
        return (Step("take", (axis, start, stop, groups)),)
    if step.op == "index" and groups == 1:
        length = shape[axis + 1]
        flat = (*shape[:axis], shape[axis] * length, *shape[axis + 2 :])
        start, stop = (step.args[1] * length + each for each in following.args[1:3])
        return (Step("reshape", flat), Step("take", (axis, start, stop, 1)))
    return None


def _groups(cut: Step) -> int:
    return cut.args[3] if cut.op == "take" else 1


def _covering(slices: Iterable[_Slice], length: int) -> list[_Slice] | None:
    """Slices that stand side by side from the beginning to the end; None where there is a gap."""
    found, end = [], 0
    for each in sorted(slices, key=lambda s: s.start):
        if each.start == end:
            found.append(each)
            end = each.stop
        elif each.start > end:
            return None
    return found if end == length else None


def _assignment(
    name: str, pieces: tuple[Piece, ...], steps: tuple[Step, ...], used: Sequence[Assignment]
) -> Assignment:
    """As sure as the least sure of those that it undoes."""
    least = min(used, key=lambda each: _SURENESS.index(each.label))
    return Assignment(name, pieces, steps, least.label, least.reason)


class _LossError(Exception):
    """An assignment that loses elements, and why that shows."""

    def __init__(self, assignment: Assignment, why: str) -> None:
        super().__init__(why)
        self.assignment = assignment


def _said(plan: Plan, loss: _LossError) -> ValueError:
    """The message names the whole row that the assignment is of."""
    mine = (each for each in rows(plan) if loss.assignment in expand(each))
    row = next(mine)
    steps = f" ({row.steps})" if row.steps else ""
    return ValueError(f"{row.target} ← {row.source}{steps} can't be undone: {loss}")
