"""
Which tensors are stored twice: by the checksums that an archive keeps, or by their bytes.

A zip archive keeps the CRC-32 of each record, so that equal checksum and size say so without
a byte being read; that is strong evidence and no proof, which reading the values is. What is
all zeros, or all ones, equals its like by chance: a fresh optimizer is full of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from modelinspect.analysis.fill_checksums import repeated_crc
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.tensors import Storage

__all__ = ["Candidate", "Duplicate", "Duplicates", "find_duplicates", "repeated_bytes"]

LEAST = 64
"""Bytes of a storage from which it is looked at."""
MAX_FILLS = 2_000
"""Groups, the most wasteful first, that are told apart by what fills them."""
_PIECE = 1 << 20
_FIRST = 4096
"""Bytes that are read of every candidate; the rest only of those that begin alike."""

_ONES = {
    "float64": struct.pack("<d", 1), "float32": struct.pack("<f", 1), "float16": struct.pack("<e", 1),
    "bfloat16": struct.pack("<f", 1)[2:], "int64": struct.pack("<q", 1), "int32": struct.pack("<i", 1),
    "int16": struct.pack("<h", 1), "int8": b"\1", "uint8": b"\1", "bool": b"\1",
}  # fmt: skip


class Duplicate(NamedTuple):
    """Storages that hold the same bytes."""

    names: tuple[str, ...]
    """A tensor of each, preceded by its section's name where there are several."""
    nbytes: int
    """Of each."""
    evidence: Literal["checksum", "values"]
    """``checksum``: their CRC-32 in the archive and their sizes are equal."""
    fill: str = ""
    """``zeros`` or ``ones`` where that is all they hold; ``unknown`` where the checksum is of
    more than their bytes, or there are too many groups to tell."""


class Candidate(NamedTuple):
    """A storage and what is known of its bytes."""

    storage: Storage
    name: str
    """Of its first tensor."""
    dtype: str
    checksum: int | None
    """CRC-32 of the record that it is, or lies in; None where there is none."""
    is_whole: bool = True
    """False: the record holds more than the storage."""


class Duplicates(NamedTuple):
    """The groups found and how complete they are."""

    groups: tuple[Duplicate, ...] | None
    """The most wasteful first; None: nothing is known."""
    note: str = ""
    bytes_read: int = 0


def repeated_bytes(duplicates: Iterable[Duplicate]) -> int:
    """Bytes of all copies but one, where they are not equal by their fill alone."""
    return sum((len(one.names) - 1) * one.nbytes for one in duplicates if not one.fill)


def find_duplicates(
    candidates: Sequence[Candidate], values: bool, progress: Callable[[int, int], None] | None = None
) -> Duplicates:
    """
    Group storages of equal bytes.

    Args:
        candidates: All storages.
        values: Read those that may be equal.
        progress: While values are read: told of the bytes done and of those in all.
    """
    large = [one for one in candidates if one.storage.nbytes >= LEAST]
    if values:
        with StorageReader() as reader:
            equal = _equal_by_values(large, reader, progress)
            return Duplicates(_described(equal, "values"), "", reader.bytes_read)
    known = [one for one in large if one.checksum is not None]
    alike = _grouped(known, lambda one: (one.storage.nbytes, one.checksum, one.is_whole))
    groups = _described(
        [(group, group[0].checksum if group[0].is_whole else None) for group in alike], "checksum"
    )
    # What has a size of its own has no like, and is known by that.
    doubtful = [
        group
        for group in _grouped(large, lambda one: one.storage.nbytes)
        if any(one.checksum is None for one in group)
    ]
    if not doubtful:
        return Duplicates(groups)
    count = sum(map(len, doubtful))
    note = (
        f"whether any of {count:,} tensors of equal sizes is stored twice is not known: --values reads them"
    )
    return Duplicates(groups if known else None, note)


def _grouped(candidates: Iterable[Candidate], key: Callable[[Candidate], object]) -> list[list[Candidate]]:
    """Those of equal keys, where there are two at least."""
    groups: dict[object, list[Candidate]] = {}
    for one in candidates:
        groups.setdefault(key(one), []).append(one)
    return [group for group in groups.values() if len(group) > 1]


Equal = tuple[list[Candidate], "int | None"]
"""A group, and the CRC-32 of the bytes of each if it is known."""


def _described(groups: list[Equal], evidence: Literal["checksum", "values"]) -> tuple[Duplicate, ...]:
    groups.sort(key=lambda group: -group[0][0].storage.nbytes * (len(group[0]) - 1))
    found = []
    for number, (group, checksum) in enumerate(groups):
        is_known = checksum is not None and number < MAX_FILLS
        fill = _fill(group[0], checksum or 0) if is_known else "unknown"
        names = tuple(one.name for one in group)
        found.append(Duplicate(names, group[0].storage.nbytes, evidence, fill))
    return tuple(sorted(found, key=lambda one: bool(one.fill)))


def _fill(one: Candidate, checksum: int) -> str:
    nbytes = one.storage.nbytes
    if checksum == repeated_crc(b"\0", nbytes):
        return "zeros"
    unit = _ONES.get(one.dtype)
    if unit is None or nbytes % len(unit):
        return ""
    unit = unit[::-1] if one.storage.byteorder == "big" else unit
    return "ones" if checksum == repeated_crc(unit, nbytes // len(unit)) else ""


# -- by their values ------------------------------------------------------------------------


def _equal_by_values(
    candidates: Sequence[Candidate], reader: StorageReader, progress: Callable[[int, int], None] | None
) -> list[Equal]:
    """Groups of equal bytes. What differs in checksum, or in its first bytes, is not read on."""
    there = [one for one in candidates if _is_readable(one)]
    groups = _grouped(there, lambda one: (one.storage.nbytes, one.checksum, one.is_whole))
    # A group may hold both what has a checksum and what has none; the sizes alone tell those apart.
    if len({one.checksum is None for one in there}) > 1:
        groups = _grouped(there, lambda one: one.storage.nbytes)
    begun = [
        again
        for group in groups
        for again in _grouped(group, lambda one: reader.read(one.storage, 0, min(_FIRST, one.storage.nbytes)))
    ]
    total = sum(one.storage.nbytes for group in begun for one in group)
    digest = _Digests(reader, total, progress)
    return [
        (equal, digest.checksums[equal[0].storage]) for group in begun for equal in _grouped(group, digest.of)
    ]


def _is_readable(one: Candidate) -> bool:
    return one.storage.offset is not None or one.checksum is not None


class _Digests:
    """Hashes of whole storages, read piece by piece."""

    def __init__(
        self, reader: StorageReader, total: int, progress: Callable[[int, int], None] | None
    ) -> None:
        self.reader = reader
        self.total = total
        self.progress = progress
        self.done = 0
        self.checksums: dict[Storage, int] = {}

    def of(self, one: Candidate) -> bytes:
        """The hash of a storage; its CRC-32 is kept."""
        import zlib
        from hashlib import blake2b

        storage, checksum, hashed = one.storage, 0, blake2b()
        for first in range(0, storage.nbytes, _PIECE):
            piece = self.reader.read(storage, first, min(_PIECE, storage.nbytes - first))
            checksum = zlib.crc32(piece, checksum)
            hashed.update(piece)
            self.done += len(piece)
            if self.progress is not None:
                self.progress(self.done, self.total)
        self.checksums[storage] = checksum
        return hashed.digest()
