"""
The directory of a zip archive, read as torch reads it.

Written after the zip specification (APPNOTE 6.3) and after what torch's
reader, miniz, was measured to do: it finds records by name without regard to
case, believes the central directory and never looks at local names, sizes or
checksums. Where another reader may see another archive the difference is kept
as a text. Only headers are read, never what the records hold.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.source import ByteSource

__all__ = ["Record", "ZipDirectory", "read_directory"]

MAX_DIRECTORY_BYTES = 1 << 28
"""Of the central directory: a million records with names of 200 bytes."""
FREE_INFLATED_BYTES = 1 << 23
"""What any compressed record may grow to ..."""
MAX_RATIO = 32
"""... and how often its own size beyond that. Pickles of tensors stay below 30."""
MAX_INFLATED_BYTES = 1 << 29
_PIECE = 1 << 16
"""Compressed bytes, and bytes to pass over, at a time."""
MAX_TEXTS = 20

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<8s4s4s3L3H8xL")
_MAX_COMMENT = 0xFFFF
_LOCAL_BYTES = 30
_BATCH = 4096
"""Local headers held at a time."""
_FULL32 = 0xFFFFFFFF
_HAS_DESCRIPTOR = 0x08
_ENCRYPTED = 0x01 | 0x20 | 0x40
_ODD_FLAGS = _HAS_DESCRIPTOR | _ENCRYPTED
STORED, DEFLATED = 0, 8

_unpack_lengths = struct.Struct("<2H").unpack_from
_unpack_three = struct.Struct("<3H").unpack_from


class Record(NamedTuple):
    """One file of the archive."""

    name: str
    size: int
    """Bytes it holds once unpacked."""
    packed: int
    """Bytes it takes in the archive."""
    method: int
    """0: stored as it is; 8: deflated."""
    header: int
    """First byte of its local header."""
    data: int
    """First byte of what it holds."""

    @property
    def offset(self) -> int | None:
        """First byte of the record as it is; None where it is compressed."""
        return self.data if self.method == STORED else None


class ZipDirectory:
    """
    The records of one archive, in columns because there may be a million.
    """

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.names: list[bytes] = []
        self.sizes: list[int] = []
        self.packed: list[int] = []
        self.marks: list[bytes] = []
        """Flags and method, the four bytes that both headers hold."""
        self.headers: list[int] = []
        self.data: list[int] = []
        self.disagreements: list[str] = []
        """Where other readers of this archive may see something else."""
        self.rules: list[str] = []
        """Which kind each of them is of."""
        self.place = (0, 0)
        """First byte and length of the central directory."""
        self._index: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def root(self) -> bytes:
        """Folder of the first record, where torch looks for all others; no slash at its end."""
        return self.names[0].partition(b"/")[0] if self.names and b"/" in self.names[0] else b""

    def find(self, name: bytes) -> int | None:
        """Number of the record of that whole name, in any case; None where there is none."""
        return self._index.get(name.lower())

    def record(self, number: int) -> Record:
        """One record by its number."""
        return Record(
            self.names[number].decode("utf-8", "backslashreplace"),
            self.sizes[number],
            self.packed[number],
            int.from_bytes(self.marks[number][2:], "little"),
            self.headers[number],
            self.data[number],
        )

    def opened(self, record: Record) -> Callable[[int, int], bytes]:
        """
        A function that reads from the record: first byte and length, both inside it.

        Raises:
            DamagedFileError: It can't be unpacked or is not as long as it says.
            LimitError: It would unpack to more than a limit.
        """
        if record.method == STORED:
            source, start = self.source, record.data
            return lambda at, n: source.read(start + at, n, f"record {record.name}")
        self._check_claim(record)
        return _Inflated(self.source, record).read

    def content(self, record: Record, most: int) -> bytes:
        """All of a short record, *most* bytes at the most."""
        return self.opened(record)(0, min(record.size, most))

    def disagree(self, text: str, rule: str) -> None:
        """Keep a text for the report; only so many."""
        if len(self.disagreements) < MAX_TEXTS or rule not in self.rules:
            self.disagreements.append(text)
            self.rules.append(rule)

    def checksums(self) -> list[int]:
        """The CRC-32 of each record as the central directory has it, which is read once more."""
        start, length = self.place
        raw = self.source.read(start, length, "the zip directory")
        found, pos = [], 0
        for _ in self.names:
            found.append(int.from_bytes(raw[pos + 16 : pos + 20], "little"))
            pos += 46 + sum(_unpack_three(raw, pos + 28))
        return found

    def _check_claim(self, record: Record) -> None:
        name = visible(record.name)
        if record.method != DEFLATED:
            raise self._damaged(
                f"record {name}: compression method {record.method} is not known (0 and 8 are)"
            )
        most = min(FREE_INFLATED_BYTES + MAX_RATIO * record.packed, MAX_INFLATED_BYTES)
        if record.size > most:
            raise LimitError(
                f"{visible(self.source.path)}: record {name} claims to unpack to {record.size:,} bytes",
                details=(f"limit: {most:,} bytes for the {record.packed:,} that it takes",),
            )

    def _damaged(self, reason: str) -> DamagedFileError:
        return DamagedFileError(f"{visible(self.source.path)} is a damaged zip archive", details=(reason,))

    # -- filled by read_directory ---------------------------------------------------

    def _index_names(self) -> None:
        together = b"".join(self.names)
        is_lower = together == together.lower()
        lowered = self.names if is_lower else [name.lower() for name in self.names]
        self._index = dict(zip(lowered, range(len(lowered))))
        if len(self._index) == len(lowered):
            return
        order = _order_of_miniz(lowered)
        seen: set[bytes] = set()
        for name in lowered:
            if name in seen:
                self._index[name] = _pick_of_miniz(lowered, order, name)
                self.disagree(
                    f"record {_shown(name)} is there more than once: loaders differ in which one they take",
                    "zip-duplicate",
                )
            seen.add(name)

    def _check_roots(self) -> None:
        root = self.root + b"/"
        strangers = [name for name in self.names if not name.startswith(root)]
        if root != b"/" and strangers:
            self.disagree(
                f"record {_shown(strangers[0])} lies outside the folder {_shown(root)}: "
                "torch refuses such a file",
                "zip-roots",
            )

    def _locate(self, shift: int) -> None:
        """Read every local header, compare it, and find where the data begins."""
        if shift:
            self.headers = [offset + shift for offset in self.headers]
        for first in range(0, len(self), _BATCH):
            self._locate_batch(first)
        self._check_ends()

    def _locate_batch(self, first: int) -> None:
        names = self.names[first : first + _BATCH]
        starts = self.headers[first : first + _BATCH]
        heads = self.source.read_each(
            [(start, _LOCAL_BYTES + len(name)) for start, name in zip(starts, names)],
            "the local header of a record",
        )
        data, marks = self.data, self.marks[first : first + _BATCH]
        for number, (head, name, mark, start) in enumerate(zip(heads, names, marks, starts), first):
            name_bytes, extra_bytes = _unpack_lengths(head, 26)
            data.append(start + _LOCAL_BYTES + name_bytes + extra_bytes)
            ordinary = mark[0] & _ODD_FLAGS == _HAS_DESCRIPTOR and name_bytes == len(name)
            if not ordinary or head[6:10] != mark or head[30:] != name or head[:4] != b"PK\3\4":
                self._compare(number, head, name_bytes)

    def _compare(self, number: int, head: bytes, name_bytes: int) -> None:
        name = self.names[number]
        if head[:4] != b"PK\3\4":
            raise self._damaged(f"record {_shown(name)}: no local header at byte {self.headers[number]:,}")
        if head[30:] != name or name_bytes != len(name):
            self.disagree(f"record {_shown(name)} has another name in its local header", "zip-name")
        mark = self.marks[number]
        if head[6:10] != mark:
            self.disagree(
                f"record {_shown(name)} has other flags or compression in its local header", "zip-flags"
            )
        if mark[0] & _ENCRYPTED:
            self.disagree(f"record {_shown(name)} is marked as encrypted: torch refuses it", "zip-flags")
        if mark[0] & _HAS_DESCRIPTOR:
            return  # its sizes stand after the data
        packed, size = struct.unpack_from("<2L", head, 18)
        expected = (min(self.packed[number], _FULL32), min(self.sizes[number], _FULL32))
        if (packed, size) != expected and _FULL32 not in (packed, size):
            self.disagree(f"record {_shown(name)} has another size in its local header", "zip-size")

    def _check_ends(self) -> None:
        size = self.source.size
        ends = [start + length for start, length in zip(self.data, self.packed)]
        if max(ends, default=0) > size:
            number = next(number for number, end in enumerate(ends) if end > size)
            raise self.source.truncated(
                self.data[number], self.packed[number], f"record {_shown(self.names[number])}"
            )
        pairs = sorted(zip(self.headers, ends, range(len(ends))))
        last_end = 0
        for start, end, number in pairs:
            if start < last_end:
                self.disagree(
                    f"record {_shown(self.names[number])} overlaps the one before it", "zip-overlap"
                )
                break
            last_end = end


class _Inflated:
    """
    A deflated record, unpacked while it is read: little of it is ever held.
    """

    def __init__(self, source: ByteSource, record: Record) -> None:
        self.source = source
        self.record = record
        self.rewind()

    def rewind(self) -> None:
        """Begin again at the first byte."""
        self.machine = zlib.decompressobj(-15)
        self.at = 0
        self.taken = 0
        """Compressed bytes that the machine was given."""

    def read(self, begin: int, length: int) -> bytes:
        """Bytes inside the record; those before where it stands cost another beginning."""
        if begin < self.at:
            self.rewind()
        while self.at < begin:
            self._next(min(_PIECE, begin - self.at))
        pieces = []
        end = begin + length
        while self.at < end:
            pieces.append(self._next(end - self.at))
        if self.at == self.record.size and self._some(1):
            raise self._damaged(f"does not unpack to the {self.record.size:,} bytes it claims")
        return b"".join(pieces)

    def _next(self, most: int) -> bytes:
        piece = self._some(most)
        if not piece:
            raise self._damaged(f"does not unpack to the {self.record.size:,} bytes it claims")
        self.at += len(piece)
        return piece

    def _some(self, most: int) -> bytes:
        """From 1 to *most* bytes; none at the end."""
        machine, record = self.machine, self.record
        while not machine.eof:
            packed = machine.unconsumed_tail
            if not packed:
                wanted = min(_PIECE, record.packed - self.taken)
                packed = self.source.read(record.data + self.taken, wanted, f"record {record.name}")
                self.taken += wanted
            try:
                piece = machine.decompress(packed, most)
            except zlib.error as error:
                raise self._damaged(f"cannot be unpacked: {error}") from None
            if piece or (not machine.unconsumed_tail and self.taken == record.packed):
                return piece
        return b""

    def _damaged(self, reason: str) -> DamagedFileError:
        return DamagedFileError(
            f"{visible(self.source.path)} is a damaged zip archive",
            details=(f"record {visible(self.record.name)} {reason}",),
        )


def read_directory(source: ByteSource, *, last_of_several: bool = False) -> ZipDirectory:
    """
    Read the directory and the local headers of a zip archive; once a source.

    Args:
        source: What ends with the archive.
        last_of_several: Other archives stand before it, so that the places that it gives count from
            somewhere else: at those of the source there may be the directory of an archive just like it.

    Raises:
        DamagedFileError: There is no directory, or it makes no sense.
        LimitError: It claims to be longer than a limit.
    """
    known = source.kept.get("zip directory")
    if isinstance(known, ZipDirectory):
        return known
    directory = ZipDirectory(source)
    count, length, offset, shift = _find_end(source, directory, last_of_several)
    if length > MAX_DIRECTORY_BYTES:
        raise LimitError(
            f"{visible(source.path)}: its zip directory claims {length:,} bytes",
            details=(f"limit: {MAX_DIRECTORY_BYTES:,} bytes",),
        )
    raw = source.read(offset + shift, length, "the zip directory")
    directory.place = (offset + shift, length)
    _parse_entries(directory, raw, count, offset + shift)
    if not directory.names:
        _damaged(source, "its directory holds no record")
    directory._index_names()
    directory._check_roots()
    directory._locate(shift)
    if directory.headers and min(directory.headers) > shift:
        directory.disagree(f"{min(directory.headers):,} bytes stand before the first record", "zip-prefix")
    source.kept["zip directory"] = directory
    return directory


def _find_end(
    source: ByteSource, directory: ZipDirectory, last_of_several: bool
) -> tuple[int, int, int, int]:
    """
    Records, directory's length and first byte as claimed, and how far it all is shifted.
    """
    size = source.size
    # The record itself, and before it the two that large archives have.
    tail = source.read_upto(max(0, size - _END.size - 76), _END.size + 76)
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != b"PK\5\6":
        tail = source.read_upto(max(0, size - _END.size - _MAX_COMMENT), _END.size + _MAX_COMMENT)
        at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
        if at < 0:
            _damaged(
                source,
                "the directory that a zip archive has at its end is not there",
                hint="compare its size with the original; a download may have stopped early",
            )
    _, _, _, _, count, length, offset, comment = _END.unpack_from(tail, at)
    end = size - len(tail) + at
    trailing = size - end - _END.size
    if trailing != comment:
        directory.disagree(
            f"{trailing:,} bytes follow the end of the archive, which claims {comment:,}", "zip-trailing"
        )
    before = end
    if at >= _LOCATOR64.size and tail[at - _LOCATOR64.size : at - _LOCATOR64.size + 4] == b"PK\6\7":
        locator = tail[at - _LOCATOR64.size : at]
        count, length, offset, before = _find_end64(source, locator, end, last_of_several)
    shift = before - length - offset
    if shift < 0 or offset + shift > size:
        _damaged(source, f"its directory claims {length:,} bytes at byte {offset:,}, beyond its own end")
    if shift:
        directory.disagree(
            f"{shift:,} bytes stand before the archive: torch refuses such a file", "zip-prefix"
        )
    return count, length, offset, shift


def _find_end64(
    source: ByteSource, locator: bytes, end: int, last_of_several: bool
) -> tuple[int, int, int, int]:
    _, _, claimed, _ = _LOCATOR64.unpack(locator)
    # Where bytes stand before the archive it lies further on, but still before its locator.
    places = (claimed, end - _LOCATOR64.size - _END64.size)
    for at in reversed(places) if last_of_several else places:
        if not 0 <= at <= end - _LOCATOR64.size - _END64.size:
            continue
        fields = _END64.unpack(source.read(at, _END64.size, "the zip64 end of the archive"))
        if fields[0] == b"PK\6\6":
            return fields[7], fields[8], fields[9], at
    return _damaged(source, f"there is no zip64 end at byte {claimed:,}")


def _parse_entries(directory: ZipDirectory, raw: bytes, count: int, start: int) -> None:
    """Fill the columns from the central directory."""
    names, sizes, packed_sizes = directory.names, directory.sizes, directory.packed
    marks, headers = directory.marks, directory.headers
    known_marks: dict[bytes, bytes] = {}
    unpack, size, pos = _ENTRY.unpack_from, len(raw), 0
    # A directory of more entries than its 16 bits can say holds their number modulo 65,536.
    while pos + 46 <= size:
        head, mark, _, _, packed, length, name_bytes, extra_bytes, comment_bytes, header = unpack(raw, pos)
        if head[:4] != b"PK\1\2":
            break
        begin = pos + 46
        end = begin + name_bytes
        pos = end + extra_bytes + comment_bytes
        if pos > size:
            break
        if _FULL32 in (length, packed, header):
            extra = raw[end : end + extra_bytes]
            length, packed, header = _widened(directory.source, extra, length, packed, header)
        names.append(raw[begin:end])
        marks.append(known_marks.setdefault(mark, mark))
        packed_sizes.append(packed)
        sizes.append(length)
        headers.append(header)
    if pos != size:
        _damaged(directory.source, f"entry {len(names):,} of its directory, byte {start + pos:,}, is damaged")
    if len(names) != count:
        directory.disagree(f"the directory claims {count:,} records and holds {len(names):,}", "zip-count")
    for number, mark in enumerate(marks):
        if mark[2:] == b"\0\0" and sizes[number] != packed_sizes[number]:
            name = _shown(names[number])
            _damaged(directory.source, f"record {name} is stored, and yet has two different sizes")


def _widened(source: ByteSource, extra: bytes, length: int, packed: int, header: int) -> tuple[int, int, int]:
    """The three numbers, those that do not fit 32 bits taken from the zip64 extra field."""
    pos = 0
    while pos + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, pos)
        if tag == 1:
            field = extra[pos + 4 : pos + 4 + size]
            wide = [number == _FULL32 for number in (length, packed, header)]
            if len(field) < 8 * sum(wide):
                break
            numbers = iter(struct.unpack_from(f"<{sum(wide)}Q", field))
            found = [next(numbers) if is_wide else n for is_wide, n in zip(wide, (length, packed, header))]
            return found[0], found[1], found[2]
        pos += 4 + size
    return _damaged(source, "an entry of its directory lacks its zip64 sizes")


def _damaged(source: ByteSource, reason: str, hint: str | None = None) -> NoReturn:
    raise DamagedFileError(
        f"{visible(source.path)} is a truncated or damaged zip archive", details=(reason,), hint=hint
    )


def _shown(name: bytes) -> str:
    text = visible(name.decode("utf-8", "backslashreplace"))
    return text if len(text) <= 100 else text[:97] + "..."


# Of two records with one name miniz takes the one that its binary search meets
# first in the order that its heap sort leaves. Both are repeated here, and only
# for archives that hold such names.


def _order_of_miniz(names: list[bytes]) -> list[int]:
    order = list(range(len(names)))

    def sift(root: int, end: int) -> None:
        while (child := 2 * root + 1) < end:
            if child + 1 < end and names[order[child]] < names[order[child + 1]]:
                child += 1
            if not names[order[root]] < names[order[child]]:
                return
            order[root], order[child] = order[child], order[root]
            root = child

    for root in range((len(order) - 2) // 2, -1, -1):
        sift(root, len(order))
    for end in range(len(order) - 1, 0, -1):
        order[0], order[end] = order[end], order[0]
        sift(0, end)
    return order


def _pick_of_miniz(names: list[bytes], order: list[int], name: bytes) -> int:
    low, high = 0, len(order) - 1
    while low <= high:
        middle = low + (high - low) // 2
        number = order[middle]
        if names[number] == name:
            return number
        if names[number] < name:
            low = middle + 1
        else:
            high = middle - 1
    raise AssertionError(name)
