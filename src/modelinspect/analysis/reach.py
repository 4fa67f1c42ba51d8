"""
Which bytes of its storage a tensor reaches: the one reading of it, for every figure of slack.

A contiguous tensor reaches one run of bytes. A column of a matrix reaches one a row, and
what lies between belongs to nobody else: ``.clone()`` would leave it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modelinspect.tensors import Storage, TensorInfo

__all__ = ["MAX_ALL_RUNS", "leaves", "reached", "runs"]

MAX_RUNS = 100_000
"""Of one tensor."""
MAX_ALL_RUNS = 300_000
"""Of all tensors that reach their storages in pieces."""


def leaves(tensor: TensorInfo) -> Iterator[TensorInfo]:
    """What has bytes: the tensor itself, or the parts that it is stored as."""
    pending = [tensor]
    while pending:
        one = pending.pop()
        if one.storage is not None:
            yield one
        pending.extend(reversed(one.parts))


def reached(tensors: Iterable[TensorInfo]) -> dict[Storage, list[tuple[int, int]]]:
    """The runs of bytes that tensors reach in each storage, in no order and perhaps twice."""
    found: dict[Storage, list[tuple[int, int]]] = {}
    left = MAX_ALL_RUNS
    for tensor in tensors:
        for part in leaves(tensor) if tensor.parts else (tensor,):
            if part.storage is None:
                continue
            first, length = part.span
            there = [(first, first + length)] if part.explicit_stride is None else runs(part, left)
            left -= max(0, len(there) - 1)
            found.setdefault(part.storage, []).extend(there)
    return found


def runs(tensor: TensorInfo, most: int = MAX_ALL_RUNS) -> list[tuple[int, int]]:
    """
    First byte and the byte after the last of each run, counted from the storage's start.

    Args:
        tensor: With a storage.
        most: Runs to tell apart; of more, all from the first element to the last is one.

    >>> from modelinspect.dtypes import BY_NAME
    >>> from modelinspect.tensors import Storage
    >>> column = TensorInfo("c", BY_NAME["float32"], (3, 1), Storage("", "", 0, 48), (4, 1))
    >>> runs(column)
    [(0, 4), (16, 20), (32, 36)]
    """
    first, length = tensor.span
    if tensor.explicit_stride is None or not length:
        return [(first, first + length)] if length else []
    axes = _merged(tensor)
    bits = tensor.dtype.bits
    run = axes.pop()[0] if axes and axes[-1][1] == 1 else 1
    count = 1
    for size, _ in axes:
        count *= size
    if (
        count == 1
        or count > min(most, MAX_RUNS)
        or tensor.dtype.block > 1
        or run * bits % 8
        or any(step * bits % 8 for _, step in axes)
    ):
        return [(first, first + length)]
    starts = [first]
    for size, step in axes:
        width = step * bits // 8
        starts = [start + width * place for start in starts for place in range(size)]
    taken = run * bits // 8
    return [(start, start + taken) for start in starts]


def _merged(tensor: TensorInfo) -> list[tuple[int, int]]:
    """Sizes and strides, the widest first; axes that follow each other without a hole are one."""
    axes = [(size, step) for size, step in zip(tensor.shape, tensor.stride) if size > 1 and step]
    axes.sort(key=lambda axis: -abs(axis[1]))
    merged: list[tuple[int, int]] = []
    for size, step in reversed(axes):
        if merged and step == merged[-1][0] * merged[-1][1]:
            merged[-1] = (merged[-1][0] * size, merged[-1][1])
        else:
            merged.append((size, step))
    return merged[::-1]
