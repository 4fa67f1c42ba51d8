"""
A small algebra over the indices of tensors: how one tensor's elements lie in another.

A :class:`Step` is a named operation with whole numbers as arguments. Nearly all only move
elements, so that they work on raw unsigned integers of the item's width; the module meets
neither numpy nor torch, whose arrays both have what is asked of them. Axes count from 0,
outermost first.

| step | what it does to an array | shapes |
| --- | --- | --- |
| ``transpose`` | swaps the first two axes | (a, b, …) → (b, a, …) |
| ``permute(i, j, …)`` | reorders the axes | |
| ``reshape(n, m, …)`` | the same elements in the same order | |
| ``take(axis, start, stop, groups)`` | one range of each group of an axis | (g·n) → (g·(stop−start)) |
| ``index(axis, i)`` | one slice; the axis goes | (n, a) → (a) |
| ``reorder(axis, i, j, …)`` | equal parts of an axis in another order | |
| ``swap(axis, outer, a, b)`` | an axis seen as (outer, a, b, rest) becomes (outer, b, a, rest) | |
| ``flip(axis)`` | turns an axis round | |
| ``pad(axis, n)`` | n zeros at the end of an axis | (a) → (a+n) |
| ``zeros(n, m, …)`` | a constant instead of a tensor; the first of its piece's steps | |
| ``add(n)`` | adds a whole number to each element | |
| ``cat(axis, groups)`` | joins several arrays, group by group | |
| ``stack(axis)`` | joins several arrays along a new axis | |

``swap`` is the one that exchanges rotary halves, (heads, 2, d/2) ↔ (heads, d/2, 2), and the
one that exchanges stacked and per-head layouts of q, k, v, (3, heads, d) ↔ (heads, 3, d).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

__all__ = [
    "JOINS",
    "Step",
    "apply_steps",
    "inverse",
    "joined_shape",
    "parse_steps",
    "shape_after",
    "show_steps",
]

Shape = tuple[int, ...]
JOINS = frozenset({"cat", "stack"})


class Step(NamedTuple):
    """One operation: its name and its arguments, whole numbers."""

    op: str
    args: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}({', '.join(map(str, self.args))})" if self.args else self.op

    @property
    def is_arithmetic(self) -> bool:
        """True: it needs numbers, not just their bits."""
        return self.op == "add"


# --------------------------------------------------------------------------- text


def show_steps(steps: Sequence[Step]) -> str:
    """
    Steps as the plan spells them: ``transpose | take(0, 0, 768, 1)``; empty for none.
    """
    return " | ".join(map(str, steps))


_STEP = re.compile(r"\s*([a-z]+)\s*(?:\(([-\d,\s]*)\))?\s*")


def parse_steps(text: str) -> tuple[Step, ...]:
    """
    The steps that :func:`show_steps` spells.

    Raises:
        ValueError: It is no such text; the message quotes the step.
    """
    steps = []
    for part in text.split("|") if text.strip() else ():
        match = _STEP.fullmatch(part)
        if match is None or match[1] not in _OPERATIONS:
            raise ValueError(f"{part.strip()!r} is no step: expected one of {', '.join(sorted(_OPERATIONS))}")
        try:
            args = tuple(int(arg) for arg in (match[2] or "").split(",") if arg.strip())
        except ValueError:
            raise ValueError(f"the arguments of {part.strip()!r} are no whole numbers") from None
        step = Step(match[1], args)
        if not _OPERATIONS[step.op].takes(len(args)):
            raise ValueError(f"{part.strip()!r} has the wrong number of arguments")
        steps.append(step)
    return tuple(steps)


# -------------------------------------------------------------------------- shapes


def shape_after(shape: Shape, steps: Sequence[Step]) -> Shape:
    """
    The shape that single-array steps make of a shape.

    Raises:
        ValueError: A step does not fit the shape before it; the message says which.
    """
    for step in steps:
        if step.op in JOINS:
            raise ValueError(f"{step} joins several arrays; here is one")
        try:
            shape = _OPERATIONS[step.op].shape(shape, step.args)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{step} does not fit the shape {list(shape)}") from error
    return shape


def joined_shape(shapes: Sequence[Shape], step: Step) -> Shape:
    """
    The shape of several arrays joined by ``cat`` or ``stack``.

    Raises:
        ValueError: The shapes don't go together, or can't be split into the groups.
    """
    axis, first = step.args[0], shapes[0]
    if step.op == "stack":
        if any(shape != first for shape in shapes) or not 0 <= axis <= len(first):
            raise ValueError(f"{step} does not fit shapes that differ")
        return (*first[:axis], len(shapes), *first[axis:])
    groups = step.args[1]
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(others) != 1 or any(axis >= len(shape) or shape[axis] % groups for shape in shapes):
        raise ValueError(f"{step} does not fit the shapes {[list(shape) for shape in shapes]}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


# ----------------------------------------------------------------------- on arrays


def apply_steps(arrays: Sequence[Any], steps: Sequence[Step], library: Any) -> Any:
    """
    Apply steps to arrays of numpy or torch.

    Args:
        arrays: One, or those that the first step joins.
        steps: At most one of them joins, and it is the first.
        library: ``numpy`` or ``torch``: it has ``concatenate``, ``stack`` and ``zeros``.

    Returns:
        One array; a view where the steps allow that.

    Raises:
        ValueError: Steps and arrays don't go together.
    """
    if steps and steps[0].op in JOINS:
        step, steps = steps[0], steps[1:]
        joined_shape([tuple(array.shape) for array in arrays], step)
        array = _joined(arrays, step, library)
    elif len(arrays) == 1:
        array = arrays[0]
    else:
        raise ValueError(f"{len(arrays)} arrays and no step that joins them")
    for step in steps:
        shape_after(tuple(array.shape), (step,))
        array = _OPERATIONS[step.op].apply(array, step.args, library)
    return array


def _joined(arrays: Sequence[Any], step: Step, library: Any) -> Any:
    axis = step.args[0]
    if step.op == "stack":
        return library.stack(list(arrays), axis)
    groups = step.args[1]
    if groups == 1:
        return library.concatenate(list(arrays), axis)
    split = [_split_axis(array, axis, (groups, array.shape[axis] // groups)) for array in arrays]
    return _merge_axes(library.concatenate(split, axis + 1), axis, 2)


def _split_axis(array: Any, axis: int, lengths: Shape) -> Any:
    return array.reshape((*array.shape[:axis], *lengths, *array.shape[axis + 1 :]))


def _merge_axes(array: Any, axis: int, count: int) -> Any:
    shape = tuple(array.shape)
    return array.reshape((*shape[:axis], prod(shape[axis : axis + count]), *shape[axis + count :]))


def _permuted(array: Any, axes: Sequence[int]) -> Any:
    return array.permute(*axes) if hasattr(array, "permute") else array.transpose(axes)


# --------------------------------------------------------------------- the inverse


def inverse(step: Step, shape: Shape) -> Step:
    """
    The step that undoes one.

    Args:
        step: That moves elements and loses none: no ``take``, ``index`` or join.
        shape: Before the step.

    Raises:
        ValueError: It loses elements, so that nothing undoes it.
    """
    args = step.args
    if step.op in ("transpose", "flip"):
        return step
    if step.op in ("permute", "reorder"):
        lead = args[:1] if step.op == "reorder" else ()
        order = args[len(lead) :]
        return Step(step.op, (*lead, *(order.index(at) for at in range(len(order)))))
    if step.op == "reshape":
        return Step("reshape", shape)
    if step.op == "swap":
        return Step("swap", (args[0], args[1], args[3], args[2]))
    if step.op == "add":
        return Step("add", (-args[0],))
    if step.op == "pad":
        return Step("take", (args[0], 0, shape[args[0]], 1))
    raise ValueError(f"{step} can't be undone by a step")


# ------------------------------------------------------------------ the operations


class _Operation(NamedTuple):
    takes: Callable[[int], bool]
    """Is this a right number of arguments?"""
    shape: Callable[[Shape, tuple[int, ...]], Shape]
    apply: Callable[[Any, tuple[int, ...], Any], Any]


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _transpose_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    _require(len(shape) >= 2)
    return (shape[1], shape[0], *shape[2:])


def _transpose(array: Any, args: tuple[int, ...], library: Any) -> Any:
    return _permuted(array, (1, 0, *range(2, len(array.shape))))


def _permute_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    _require(sorted(args) == list(range(len(shape))))
    return tuple(shape[axis] for axis in args)


def _permute(array: Any, args: tuple[int, ...], library: Any) -> Any:
    return _permuted(array, args)


def _reshape_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    _require(prod(shape) == prod(args) and all(length >= 0 for length in args))
    return args


def _reshape(array: Any, args: tuple[int, ...], library: Any) -> Any:
    return array.reshape(args)


def _take_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    axis, start, stop, groups = args
    _require(0 <= axis < len(shape) and groups > 0 and shape[axis] % groups == 0)
    _require(0 <= start < stop <= shape[axis] // groups)
    return (*shape[:axis], groups * (stop - start), *shape[axis + 1 :])


def _take(array: Any, args: tuple[int, ...], library: Any) -> Any:
    axis, start, stop, groups = args
    if groups == 1:
        return array[(*[slice(None)] * axis, slice(start, stop))]
    split = _split_axis(array, axis, (groups, array.shape[axis] // groups))
    return _merge_axes(split[(*[slice(None)] * (axis + 1), slice(start, stop))], axis, 2)


def _index_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    axis, at = args
    _require(0 <= axis < len(shape) and 0 <= at < shape[axis])
    return (*shape[:axis], *shape[axis + 1 :])


def _index(array: Any, args: tuple[int, ...], library: Any) -> Any:
    return array[(*[slice(None)] * args[0], args[1])]


def _reorder_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    axis, order = args[0], args[1:]
    _require(0 <= axis < len(shape) and sorted(order) == list(range(len(order))))
    _require(shape[axis] % len(order) == 0)
    return shape


def _reorder(array: Any, args: tuple[int, ...], library: Any) -> Any:
    axis, order = args[0], args[1:]
    length = array.shape[axis] // len(order)
    lead = [slice(None)] * axis
    return library.concatenate([array[(*lead, slice(at * length, (at + 1) * length))] for at in order], axis)


def _swap_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    axis, *lengths = args
    _require(0 <= axis < len(shape) and all(length > 0 for length in lengths))
    _require(shape[axis] % prod(lengths) == 0)
    return shape


def _swap(array: Any, args: tuple[int, ...], library: Any) -> Any:
    axis, outer, a, b = args
    split = _split_axis(array, axis, (outer, a, b, array.shape[axis] // (outer * a * b)))
    axes = list(range(len(split.shape)))
    axes[axis + 1], axes[axis + 2] = axes[axis + 2], axes[axis + 1]
    return _merge_axes(_permuted(split, axes), axis, 4)


def _flip_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    _require(0 <= args[0] < len(shape))
    return shape


def _flip(array: Any, args: tuple[int, ...], library: Any) -> Any:
    return library.flip(array, args)


def _pad_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    axis, count = args
    _require(0 <= axis < len(shape) and count >= 0)
    return (*shape[:axis], shape[axis] + count, *shape[axis + 1 :])


def _pad(array: Any, args: tuple[int, ...], library: Any) -> Any:
    axis, count = args
    shape = (*array.shape[:axis], count, *array.shape[axis + 1 :])
    return library.concatenate([array, _zeros(array, shape, library)], axis)


def _zeros_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    return args


def _zeros(array: Any, args: tuple[int, ...], library: Any) -> Any:
    if hasattr(array, "new_zeros"):  # on the device of the tensor
        return array.new_zeros(args)
    return library.zeros(args, dtype=array.dtype)


def _add_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    return shape


def _add(array: Any, args: tuple[int, ...], library: Any) -> Any:
    return array + args[0]


def _no_shape(shape: Shape, args: tuple[int, ...]) -> Shape:
    raise ValueError


def _no_apply(array: Any, args: tuple[int, ...], library: Any) -> Any:
    raise ValueError


def _exactly(count: int) -> Callable[[int], bool]:
    return lambda given: given == count


_OPERATIONS: dict[str, _Operation] = {
    "transpose": _Operation(_exactly(0), _transpose_shape, _transpose),
    "permute": _Operation(lambda given: given > 0, _permute_shape, _permute),
    "reshape": _Operation(lambda given: True, _reshape_shape, _reshape),
    "take": _Operation(_exactly(4), _take_shape, _take),
    "index": _Operation(_exactly(2), _index_shape, _index),
    "reorder": _Operation(lambda given: given > 2, _reorder_shape, _reorder),
    "swap": _Operation(_exactly(4), _swap_shape, _swap),
    "flip": _Operation(_exactly(1), _flip_shape, _flip),
    "pad": _Operation(_exactly(2), _pad_shape, _pad),
    "zeros": _Operation(lambda given: True, _zeros_shape, _zeros),
    "add": _Operation(_exactly(1), _add_shape, _add),
    "cat": _Operation(_exactly(2), _no_shape, _no_apply),
    "stack": _Operation(_exactly(1), _no_shape, _no_apply),
}
