"""
The archives that lie one behind the other in a ``.distcp`` file, each with one tensor or object.

Every one is what torch.save writes (torch 2.13, ``torch/distributed/checkpoint/filesystem.py``).
A checkpoint may have hundreds of thousands, most of which differ in nothing but their numbers and
checksums: one of a kind is read thoroughly, and the others are compared with it byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.parts.dcp_metadata import Place
from modelinspect.readers.parts.nested_archive import Nested, read_nested
from modelinspect.readers.parts.torch_objects import TensorReader
from modelinspect.readers.parts.zip_directory import STORED, read_directory
from modelinspect.readers.source import ByteSource, Window
from modelinspect.tensors import Storage, TensorInfo

__all__ = ["Archives", "places_back_to_back"]

MAX_READ = 20_000
"""Archives of a checkpoint that are read thoroughly."""
MAX_ALONE = 20_000
"""Archives of a file without its checkpoint."""
_MOST_BEHIND = 4_096
"""Bytes behind the numbers of one that others are compared with."""
_MOULDS = 16
"""Kinds of one length to compare with."""
_ID = ".data/serialization_id"


class _Mould(NamedTuple):
    """What all archives of a kind have in common."""

    head: bytes
    """All before the numbers."""
    tail: bytes
    """All behind them, without what differs."""
    differs: tuple[tuple[int, int], ...]
    row: TensorInfo
    rest: tuple[Any, ...]
    """What the storages of all have in common: all but file, key and place."""


class Archives:
    """
    Reads archives; one for all files of a checkpoint.
    """

    def __init__(self) -> None:
        self._moulds: dict[int, list[_Mould]] = {}
        self._rows: dict[tuple[str, int, int], TensorInfo] = {}
        self._left = MAX_READ
        self.reader = TensorReader("", ())

    def tensor(self, source: ByteSource, place: Place, key: str, name: str, where: str) -> TensorInfo | None:
        """
        The tensor in an archive.

        Args:
            source: The file.
            place: Of the archive in it.
            key: Of the tensor's storage.
            name: Of its row.
            where: Names the file in errors.

        Returns:
            Its row; None where too many archives would have to be read thoroughly.

        Raises:
            DamagedFileError: There is no such archive, or no tensor in it.
        """
        row = self._like_another(source, place, key, name)
        if row is None:
            at = (source.path, place.offset, place.length)
            row = self._rows.get(at)
            if row is None:
                if self._left <= 0:
                    return None
                self._left -= 1
                row = self._rows[at] = self._thorough(source, place, key, where)
            storage = row.storage
            row = row._replace(name=name, storage=None if storage is None else storage._replace(key=key))
        return row

    def nested(self, source: ByteSource, place: Place, name: str, where: str) -> Nested:
        """The archive at a place, whatever it holds."""
        if place.offset + place.length > source.size:
            raise source.truncated(place.offset, place.length, visible(name[:200]))
        self.reader.where = f"{where}: {name[:200]}"
        window = Window(source, place.offset, place.length)
        return read_nested(window, self.reader.where, f"byte {place.offset}", self.reader)

    def _thorough(self, source: ByteSource, place: Place, name: str, where: str) -> TensorInfo:
        nested = self.nested(source, place, name, where)
        row = nested.tensor(name)
        if row is None:
            raise DamagedFileError(
                f"{visible(where)} is damaged",
                details=(f"{visible(name[:200])}: what stands at byte {place.offset:,} is no tensor",),
            )
        mould = _mould(source, place, nested, row)
        if mould is not None:
            same = self._moulds.setdefault(place.length, [])
            del same[_MOULDS - 1 :]
            same.insert(0, mould)
        return row

    def _like_another(self, source: ByteSource, place: Place, key: str, name: str) -> TensorInfo | None:
        same = self._moulds.get(place.length)
        if not same or place.offset + place.length > source.size:
            return None
        before = max(len(mould.head) for mould in same)
        behind = max(len(mould.tail) for mould in same)
        end = place.offset + place.length
        head, tail = source.read_each([(place.offset, before), (end - behind, behind)])
        for mould in same:
            if head.startswith(mould.head):
                own = tail[len(tail) - len(mould.tail) :]
                if _without(own, mould.differs) == mould.tail:
                    first = place.offset + len(mould.head)
                    storage = Storage(source.path, key, first, *mould.rest)
                    return TensorInfo._make((name, mould.row[1], mould.row[2], storage, *mould.row[4:]))
        return None


def _mould(source: ByteSource, place: Place, nested: Nested, row: TensorInfo) -> _Mould | None:
    """What other archives can be compared with; None where this one isn't as torch writes them."""
    storage = row.storage
    if storage is None or storage.offset is None or nested.notes or row.parts:
        return None
    directory = nested.directory
    first = storage.offset - place.offset
    end = first + storage.nbytes
    if not 0 < first <= _MOST_BEHIND or place.length - end > _MOST_BEHIND:
        return None
    tail = source.read(place.offset + end, place.length - end)
    differs = [(4, 8)] if tail[:4] == b"PK\7\x08" else []  # the checksum behind the numbers
    for number in range(len(directory)):
        record = directory.record(number)
        if record.method == STORED and record.name.endswith(_ID) and record.data >= end:
            # Its text, and its checksum in what stands behind it.
            behind = record.data - end + record.size
            differs += [(record.data - end, behind), (behind + 4, behind + 8)]
    differs += [(at + 16, at + 20) for at in _entries(tail)]
    # A tensor without numbers leaves nothing to tell its head from its tail.
    if not storage.nbytes or any(last > len(tail) for _, last in differs):
        return None
    head = source.read(place.offset, first)
    return _Mould(head, _without(tail, tuple(differs)), tuple(differs), row, storage[3:])


def _entries(tail: bytes) -> Iterator[int]:
    """Where the entries of the archive's directory begin."""
    at = tail.find(b"PK\1\2")
    while at >= 0 and tail[at : at + 4] == b"PK\1\2" and at + 46 <= len(tail):
        yield at
        lengths = tail[at + 28 : at + 34]
        at += 46 + sum(int.from_bytes(lengths[n : n + 2], "little") for n in (0, 2, 4))


def _without(tail: bytes, differs: tuple[tuple[int, int], ...]) -> bytes:
    """The bytes, zero where archives of a kind differ."""
    blank = bytearray(tail)
    for first, last in differs:
        blank[first:last] = bytes(last - first)
    return bytes(blank)


def places_back_to_back(source: ByteSource, path: str, where: str) -> list[Place]:
    """
    The archives of a file without its checkpoint, found from its end on.

    Raises:
        DamagedFileError: There is something else between them.
    """
    places: list[Place] = []
    end = source.size
    while end:
        if len(places) == MAX_ALONE:
            raise DamagedFileError(
                f"{visible(where)} holds more than the {MAX_ALONE:,} archives that are looked for"
            )
        begin = min(read_directory(Window(source, 0, end), last_of_several=True).headers)
        places.append(Place(path, begin, end - begin))
        end = begin
    return places[::-1]
