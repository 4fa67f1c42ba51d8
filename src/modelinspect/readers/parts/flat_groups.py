"""
Parameters that lie in flat tensors, spread over ranks: where the elements of each are.

The rules are those by which DeepSpeed 0.19 puts them together again (``utils/zero_to_fp32.py``
and ``checkpoint/ds_to_universal.py``). Under ZeRO-1 and 2 the flat tensors of all ranks, one
after the other, hold the parameters of a group one after the other. Under ZeRO-3 every rank
holds an equal share of each parameter, the last one's filled up.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import NamedTuple

from modelinspect.tensors import TensorInfo

__all__ = ["MAX_PIECES", "Piece", "divided", "laid_out", "shared_out"]

MAX_PIECES = 400_000
"""Parts of all parameters together; more are not listed one by one."""

Shape = tuple[int, ...]


class Piece(NamedTuple):
    """Neighbouring elements of a parameter in the flat tensor of one rank."""

    rank: int
    start: int
    numel: int


Places = dict[str, list[Piece]]


def shared_out(shapes: Mapping[str, Shape], ranks: int, sizes: Sequence[int]) -> Places | None:
    """
    ZeRO-3: each rank's share of each parameter of a group.

    Args:
        shapes: Parameters in order.
        ranks: How many share them.
        sizes: Elements of each rank's flat tensor.

    Returns:
        The pieces of each parameter, rank after rank; None where the tensors are too short.
    """
    if len(shapes) * ranks > MAX_PIECES or len(sizes) != ranks:
        return None
    places: Places = {}
    start = 0
    for name, shape in shapes.items():
        numel = prod(shape)
        share = -(-numel // ranks)
        held = ((rank, max(0, min(share, numel - rank * share))) for rank in range(ranks))
        places[name] = [Piece(rank, start, n) for rank, n in held if n]
        start += share
    return places if start <= min(sizes) else None


def divided(shapes: Mapping[str, Shape], sizes: Sequence[int], paddings: Sequence[int]) -> Places | None:
    """
    ZeRO-1 and 2: where the parameters of a group lie in the ranks' flat tensors.

    Args:
        shapes: Parameters in order.
        sizes: Elements of each rank's flat tensor.
        paddings: Unused elements behind each parameter; empty: none.

    Returns:
        The pieces of each parameter; None where the tensors are too short.
    """
    ends = list(accumulate(sizes))
    if len(shapes) + len(sizes) > MAX_PIECES or (paddings and len(paddings) != len(shapes)):
        return None
    places: Places = {}
    at = 0
    for (name, shape), padding in zip(shapes.items(), paddings or [0] * len(shapes)):
        until = at + prod(shape)
        if not ends or until > ends[-1]:
            return None
        places[name] = pieces = []
        while at < until:
            rank = bisect_right(ends, at)
            n = min(until, ends[rank]) - at
            pieces.append(Piece(rank, at - (ends[rank] - sizes[rank]), n))
            at += n
        at += padding
    return places


def laid_out(
    row: TensorInfo, shape: Shape, pieces: Sequence[Piece], flats: Sequence[TensorInfo], placement: str
) -> TensorInfo | None:
    """
    The row of a parameter over flat tensors: one that lies in one piece is a view of it.

    Args:
        row: Name and kind; its data type becomes that of the flat tensors.
        shape: Of the parameter.
        pieces: Where its elements lie.
        flats: The flat tensor of each rank.
        placement: Said of one that lies in several pieces.

    Returns:
        None where a flat tensor isn't one run of elements or ends before a piece does.
    """
    parts = []
    shapes: dict[int, Shape] = {}  # nearly all pieces are of one length
    for rank, start, numel in pieces:
        flat = flats[rank]
        if len(flat.shape) != 1 or not flat.is_contiguous or flat.parts or start + numel > flat.shape[0]:
            return None
        parts.append(
            flat._replace(
                name=sys.intern(f"rank {rank}"),
                shape=shapes.setdefault(numel, (numel,)),
                explicit_stride=None,
                storage_offset=flat.storage_offset + start,
                kind=row.kind,
            )
        )
    if not parts:
        return row._replace(shape=shape, storage=None, explicit_stride=None, parts=())
    if len(parts) == 1:
        part = parts[0]
        return row._replace(
            shape=shape, dtype=part.dtype, storage=part.storage, storage_offset=part.storage_offset,
            explicit_stride=None, layout=part.layout, parts=(), placement="",
        )  # fmt: skip
    return row._replace(
        shape=shape, dtype=parts[0].dtype, storage=None, storage_offset=0, explicit_stride=None,
        parts=tuple(parts), placement=placement,
    )  # fmt: skip
