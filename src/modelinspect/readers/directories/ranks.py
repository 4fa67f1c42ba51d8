"""
Ranks of a model that is cut across processes: what each holds, and what all hold alike.

A tensor-parallel rank holds a slice of each large matrix and a whole copy of what is not
cut, such as norms. Files don't say which is which: slices of one matrix have the same name
and shape as well. So what is the same bytes on all ranks, by the archives' checksums, is one
tensor; all else is counted on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from modelinspect.tensors import TensorInfo

__all__ = ["Merged", "Rank", "merged", "several_ranks", "tied_embeddings"]


_FOR_HEAD = "word_embeddings_for_head.weight"
"""What Megatron calls the copy (megatron/legacy/model/module.py)."""


class Rank(NamedTuple):
    """What one rank holds of the model."""

    label: str
    """Stands before its names, e.g. ``mp_rank_00``."""
    rows: Sequence[TensorInfo]
    sums: Mapping[str, int]
    """Key of a storage to the checksum of its bytes."""


class Merged(NamedTuple):
    """The rows of all ranks, each tensor once."""

    rows: list[TensorInfo]
    copies: list[TensorInfo]
    """What further ranks hold of tensors that are the same on all of them."""
    alike: int
    """Tensors that are the same on all ranks."""


def merged(ranks: Sequence[Rank]) -> Merged:
    """
    Put ranks together; names begin with the rank's label where there are several.

    Args:
        ranks: Those that hold slices of the same layers.
    """
    if len(ranks) < 2:
        return Merged([row for rank in ranks for row in rank.rows], [], 0)
    sums = [dict(_checksums(rank)) for rank in ranks]
    alike = {name for name, found in sums[0].items() if all(other.get(name) == found for other in sums[1:])}
    rows: list[TensorInfo] = []
    copies: list[TensorInfo] = []
    for place, rank in enumerate(ranks):
        for row in rank.rows:
            named = row._replace(name=f"{rank.label}.{row.name}")
            (copies if place and row.name in alike else rows).append(named)
    return Merged(rows, copies, len(alike))


def several_ranks(ranks: int, alike: int) -> str:
    """What is to be said of a model that is cut across ranks."""
    what = "1 tensor that is" if alike == 1 else f"{alike:,} tensors that are"
    count = "counts" if alike == 1 else "count"
    return (
        f"the model is cut across {ranks} ranks: names begin with the rank, shapes are those of its slices; "
        f"{what} the same bytes on several ranks, by checksum, {count} once"
    )


def tied_embeddings(ranks: Iterable[Rank]) -> set[str]:
    """
    Names, with their rank, of the embeddings that the last stage of a pipeline keeps a copy of.
    """
    first: set[tuple[object, ...]] = set()
    last: list[tuple[str, tuple[object, ...]]] = []
    for rank in ranks:
        for name, found in _checksums(rank):
            if name.endswith("word_embeddings.weight"):
                first.add(found)
            elif name.endswith(_FOR_HEAD):
                last.append((f"{rank.label}.{name}", found))
    return {name for name, found in last if found in first}


def _checksums(rank: Rank) -> Iterable[tuple[str, tuple[object, ...]]]:
    """Name, and what has to be equal, of each tensor that is all of its storage."""
    for row in rank.rows:
        storage = row.storage
        if storage is None or row.parts or not row.is_contiguous or row.nbytes != storage.nbytes:
            continue
        found = rank.sums.get(storage.key)
        if found is not None:
            yield row.name, (row.shape, row.dtype, storage.nbytes, found)
