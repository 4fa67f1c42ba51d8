"""
What is to be written, tensor by tensor: which bytes are taken as they are, what is computed.

Everything that can be refused is refused here, before a file is made. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple, TypeAlias

from modelinspect.dtypes import BY_NAME, DType
from modelinspect.errors import UsageError, visible
from modelinspect.tensors import ParameterTable, Storage, TensorInfo
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.shapes import made_shape
from modelinspect.transplant.transforms import JOINS, Step, shape_after

__all__ = ["FLOATS", "Job", "Made", "Part", "Span", "jobs_of", "parse_dtype"]

FLOATS = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz",
)  # fmt: skip
"""Data types that numbers are converted from and to."""
_LAYOUTS = ("strided", "conjugate", "negative")


class Span(NamedTuple):
    """Bytes of a storage: elements in their order, without holes."""

    storage: Storage
    first: int
    nbytes: int
    stored: DType
    """Of the elements as they are there."""
    written: DType
    """Of the elements as they are to be; another one means that numbers are converted."""

    @property
    def is_copy(self) -> bool:
        """True: the bytes are taken as they are."""
        return self.stored is self.written


class Made(NamedTuple):
    """Elements that have to be put in order, or computed."""

    pieces: tuple[tuple[TensorInfo | None, tuple[Step, ...]], ...]
    """Source tensors, None for a constant, and the steps of each."""
    steps: tuple[Step, ...]
    """After the pieces are joined."""
    stored: DType
    """Of the sources' elements; where these differ, of the first."""
    written: DType

    @property
    def needs_numbers(self) -> bool:
        """True: elements are not just moved."""
        steps = [step for _, own in self.pieces for step in own] + list(self.steps)
        types = {row.dtype for row, _ in self.pieces if row is not None}
        return len(types) > 1 or any(step.is_arithmetic for step in steps)


Part: TypeAlias = Span | Made


@dataclass(frozen=True)
class Job:
    """One tensor to write."""

    names: tuple[str, ...]
    """Several where it is tied in the target; the first is the first of the target."""
    dtype: DType
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    """One after the other they are its elements."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.dtype.nbytes(prod(self.shape))

    @property
    def is_copy(self) -> bool:
        """True: nothing but ranges of bytes."""
        return all(isinstance(part, Span) and part.is_copy for part in self.parts)

    @property
    def storages(self) -> tuple[Storage, ...]:
        """What it is made of."""
        found: dict[Storage, None] = {}
        for part in self.parts:
            if isinstance(part, Span):
                found[part.storage] = None
            else:
                found.update((row.storage, None) for row, _ in part.pieces if row and row.storage)
        return tuple(found)


def parse_dtype(name: str) -> DType:
    """
    The data type that numbers are to be converted to.

    Raises:
        UsageError: It is no type of real numbers, or none that is known.
    """
    dtype = BY_NAME.get(name.removeprefix("torch.").lower())
    if dtype is None or dtype.name not in FLOATS:
        raise UsageError(
            f"tensors can't be written as {visible(name)!r}", details=(f"known: {', '.join(FLOATS)}",)
        )
    return dtype


def jobs_of(plan: Plan, dtype: DType | None) -> list[Job]:
    """
    The tensors that a plan makes, in the target's order; each once.

    Args:
        plan: What goes where.
        dtype: To convert floating-point numbers to; None leaves every type.

    Raises:
        UsageError: A source has no bytes in a file, or bytes that aren't plain numbers; a
            transform does not fit; types that differ are joined.
    """
    tied = plan.target.tied_to
    jobs: dict[tuple[object, ...], Job] = {}
    seen: set[str] = set()
    for assignment in plan.assignments:
        if assignment.target in seen:
            raise UsageError(f"the plan says twice where {visible(assignment.target)!r} comes from")
        seen.add(assignment.target)
        job = _job(assignment, plan, dtype)
        # Names that are tied and take from different sources are two tensors here.
        key = (tied.get(assignment.target, assignment.target), *_what(assignment, plan.source))
        known = jobs.get(key)
        jobs[key] = job if known is None else replace(known, names=(*known.names, assignment.target))
    return list(jobs.values())


def _what(assignment: Assignment, source: ParameterTable) -> tuple[object, ...]:
    """Equal where the same elements are taken in the same way."""
    pieces = tuple((source.tied_to.get(name, name), steps) for name, steps in assignment.pieces)
    return (pieces, assignment.steps)


def _job(assignment: Assignment, plan: Plan, dtype: DType | None) -> Job:
    target = plan.target[assignment.target] if assignment.target in plan.target else None  # noqa: SIM401
    rows = [_row(piece, assignment, plan.source) for piece in assignment.pieces]
    try:
        shape = made_shape(assignment, lambda name: plan.source[name].shape)
    except ValueError as error:
        raise UsageError(f"{visible(assignment.target)!r} can't be made: {error}") from error
    if target is not None and shape != target.shape:
        raise UsageError(
            f"{visible(assignment.target)!r} would be of shape {list(shape)}, and the target's is "
            f"{list(target.shape)}"
        )
    stored = next((row.dtype for row in rows if row is not None), None) or (target and target.dtype)
    if stored is None:
        raise UsageError(f"the data type of the constant {visible(assignment.target)!r} is not known")
    _check_types(assignment, rows, dtype)
    written = dtype if dtype is not None and stored.name in FLOATS else stored
    return Job((assignment.target,), written, shape, _parts(assignment, rows, stored, written))


def _row(piece: Piece, assignment: Assignment, source: ParameterTable) -> TensorInfo | None:
    if not piece.name:
        return None
    if piece.name not in source:
        raise UsageError(
            f"{visible(assignment.target)!r} takes {visible(piece.name)!r}, which the source lacks"
        )
    row = source[piece.name]
    reason = _without_bytes(row, source)
    if reason is not None:
        raise UsageError(
            f"{visible(piece.name)!r} can't be written: {reason}",
            details=(f"shape {list(row.shape)}",),
            hint=_GATHER if row.layout == "chunked" else None,
        )
    if row.dtype.bits < 8 and (piece.steps or assignment.steps):
        raise UsageError(
            f"{visible(piece.name)!r} is of {row.dtype.name}, whose elements share bytes: it can't be "
            "transformed"
        )
    return row


_GATHER = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt gathers them"


def _without_bytes(row: TensorInfo, source: ParameterTable) -> str | None:
    """Why a row's bytes can't be taken from a file; None where they can."""
    if row.dtype.block > 1:
        return f"it is stored in blocks of {row.dtype}, and only plain tensors are written"
    if row.parts and row.placement:
        return f"it lies in pieces ({row.placement}), which have to be gathered first"
    if row.parts or row.layout not in _LAYOUTS or row.dtype.category == "quantized":
        return f"it is {row.layout}, and only plain tensors are written"
    if row.storage is None or row.device == "meta":
        return "it was saved without values (meta)"
    if source.origin != "file" or not row.storage.file:
        return "it is in memory and in no file"
    return None


def _check_types(assignment: Assignment, rows: Iterable[TensorInfo | None], dtype: DType | None) -> None:
    types = {row.dtype for row in rows if row is not None}
    if len(types) < 2 or (dtype is not None and all(each.name in FLOATS for each in types)):
        return
    raise UsageError(
        f"{visible(assignment.target)!r} would join tensors of {', '.join(sorted(map(str, types)))}",
        hint="say which type to write, e.g. --dtype float32",
    )


# ------------------------------------------------------------------ bytes as they are


def _parts(
    assignment: Assignment, rows: Sequence[TensorInfo | None], stored: DType, written: DType
) -> tuple[Part, ...]:
    """Ranges of bytes where the steps allow it: they cost no memory and the least time."""
    apart = _joined_in_a_row(assignment, rows)
    if apart is None:
        pieces = tuple((row, piece.steps) for row, piece in zip(rows, assignment.pieces))
        return (Made(pieces, assignment.steps, stored, written),)
    return tuple(
        _cut(row, steps, written) or Made(((row, steps),), (), stored if row is None else row.dtype, written)
        for row, steps in apart
    )


def _joined_in_a_row(
    assignment: Assignment, rows: Sequence[TensorInfo | None]
) -> list[tuple[TensorInfo | None, tuple[Step, ...]]] | None:
    """
    Pieces whose elements follow each other in the result, with all their steps; None if they don't.
    """
    pieces, steps = assignment.pieces, assignment.steps
    if not steps or steps[0].op not in JOINS:
        return [(rows[0], pieces[0].steps + steps)]
    join, rest = steps[0], steps[1:]
    shape = shape_after(() if rows[0] is None else rows[0].shape, pieces[0].steps)
    in_a_row = prod(shape[: join.args[0]]) == 1 and (join.op == "stack" or join.args[1] == 1)
    if not in_a_row or any(step.op != "reshape" for step in rest):
        return None
    return [(row, piece.steps) for row, piece in zip(rows, pieces)]


def _cut(row: TensorInfo | None, steps: Sequence[Step], written: DType) -> Span | None:
    """
    The range of a tensor's bytes that steps come down to; None where elements move.
    """
    if row is None or row.storage is None or not row.is_contiguous or row.layout != "strided":
        return None
    if row.storage.byteorder == "big" and row.dtype.bits > 8:
        return None
    first, shape = 0, row.shape
    for step in steps:
        skipped = _elements_skipped(step, shape)
        if skipped is None:
            return None
        first, shape = first + skipped, shape_after(shape, (step,))
    start = (row.storage_offset + first) * row.dtype.bits // 8
    return Span(row.storage, start, row.dtype.nbytes(prod(shape)), row.dtype, written)


def _elements_skipped(step: Step, shape: tuple[int, ...]) -> int | None:
    """How many elements a step leaves out before those that it keeps in their order."""
    if step.op == "reshape":
        return 0
    if step.op in ("transpose", "permute"):
        axes = step.args or (1, 0, *range(2, len(shape)))
        kept = [axis for axis in axes if shape[axis] != 1]
        return 0 if kept == sorted(kept) else None
    if step.op in ("take", "index") and prod(shape[: step.args[0]]) == 1:
        groups = step.args[3] if step.op == "take" else 1
        return step.args[1] * prod(shape[step.args[0] + 1 :]) if groups == 1 else None
    return None
