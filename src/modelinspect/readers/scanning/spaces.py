"""
What a zip archive's directory does not list: bytes before, between and behind the records.
"""

from __future__ import annotations

from modelinspect.errors import CheckpointError, visible
from modelinspect.readers.parts.zip_directory import DEFLATED, STORED, ZipDirectory
from modelinspect.readers.scanning.budget import MAX_HELD
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.kinds import PICKLE_SUFFIXES
from modelinspect.readers.scanning.parts import Held, Part, unpack
from modelinspect.readers.source import ByteSource

__all__ = ["look_at_local_records", "look_between"]

_DESCRIPTORS = (12, 16, 20, 24)
"""Bytes of a data descriptor: with or without signature, with 32 or 64 bits (APPNOTE 4.3.9)."""
_LOCAL = b"PK\3\4"
_LOCAL_BYTES = 30
_MAX_LOCAL = 1_000
_MAX_GAPS = 10
_MAX_ZEROS = 1 << 16
_SEARCH = 1 << 22
_END = 22
_END64 = 56 + 20


def look_between(scan: Scan, item: Item, directory: ZipDirectory, begin: int) -> None:
    """Each stretch of bytes from *begin* on that no record, directory or end claims."""
    start, length = directory.place
    spans = sorted(zip(directory.headers, map(sum, zip(directory.data, directory.packed))))
    last, found = begin, 0
    for first, end in (*spans, (start, start)):
        gap = first - last
        if gap > 0 and not (last > begin and gap in _DESCRIPTORS) and found < _MAX_GAPS:
            found += _look_at_gap(scan, item, directory.source, last, gap)
        last = max(last, end)
    _look_behind(scan, item, directory.source, start + length)


def _look_at_gap(scan: Scan, item: Item, source: ByteSource, at: int, size: int) -> bool:
    """One stretch; says whether there is something in it."""
    head = source.read(at, min(size, 64))
    skipped = 0
    if head[:4] == b"PK\7\x08":
        skipped = 24 if size >= 24 and head[24:28] == _LOCAL else 16
        at, size, head = at + skipped, size - skipped, head[skipped:]
    if size <= _MAX_ZEROS and not source.read(at, size).strip(b"\0"):
        return False
    if head[:4] == _LOCAL:
        text = f"{size:,} bytes between its records hold records that its directory does not list"
        scan.find(item, "zip-hidden", text, at)
        look_at_local_records(scan, item, source, at, at + size)
        return True
    if at:
        scan.find(item, "zip-gap", f"{size:,} bytes between its records belong to none", at)
    scan.push(item.inside(Part(source, at, size), f"bytes from {at}"))
    return True


def _look_behind(scan: Scan, item: Item, source: ByteSource, at: int) -> None:
    """What follows the directory: its end, a comment, and whatever else."""
    head = source.read_upto(at, 4)
    if head == b"PK\6\6":
        at += _END64
    end = at + _END
    comment = source.read_upto(at + 20, 2)
    claimed = int.from_bytes(comment, "little")
    left = source.size - end
    if left <= 0:
        return
    tail = source.read_upto(end, min(left, 1 << 16))
    if b"PK\5\6" in tail:
        scan.find(item, "polyglot", "the end of another archive stands behind the end of this one", end)
    if tail.strip(b"\0"):
        name = "comment" if claimed == left else f"bytes from {end}"
        scan.push(item.inside(Part(source, end, left), name))


def look_at_local_records(scan: Scan, item: Item, source: ByteSource, at: int, end: int) -> None:
    """Records by the headers before them, as a reader of streams finds them."""
    for _ in range(_MAX_LOCAL):
        if at + _LOCAL_BYTES > end:
            return
        head = source.read(at, _LOCAL_BYTES)
        if head[:4] != _LOCAL:
            return
        name_bytes = int.from_bytes(head[26:28], "little")
        data = at + _LOCAL_BYTES + name_bytes + int.from_bytes(head[28:30], "little")
        if data > end:
            return
        name = source.read(at + _LOCAL_BYTES, name_bytes).decode("utf-8", "backslashreplace")
        packed = int.from_bytes(head[18:22], "little")
        at = _local(scan, item, source, name, int.from_bytes(head[8:10], "little"), data, packed, end)


def _local(
    scan: Scan, item: Item, source: ByteSource, name: str, method: int, data: int, packed: int, end: int
) -> int:
    """One record; gives the byte where the next header may stand."""
    inner: ByteSource
    if method == DEFLATED and scan.budget.take(MAX_HELD // 8):
        out = unpack(source, data, end - data, "deflate", MAX_HELD // 8)
        inner, packed = Held(source.path, out.data, out.taken), out.taken
    elif method == STORED:
        packed = packed if 0 < packed <= end - data else _searched(source, data, end)
        inner = Part(source, data, packed)
    else:
        return _next(source, data + packed, end)
    is_pickle = name.lower().endswith(PICKLE_SUFFIXES)
    scan.push(item.inside(inner, visible(name), is_pickle=is_pickle, context=item.context))
    return _next(source, data + packed, end)


def _searched(source: ByteSource, data: int, end: int) -> int:
    """Bytes up to what looks like the end of a record whose header does not say its size."""
    found = source.read(data, min(_SEARCH, end - data))
    places = [found.find(mark) for mark in (b"PK\7\x08", b"PK\3\4", b"PK\1\2")]
    return min((place for place in places if place >= 0), default=end - data)


def _next(source: ByteSource, at: int, end: int) -> int:
    """The next local header within the reach of a descriptor and some padding."""
    try:
        near = source.read(at, max(0, min(128, end - at)))
    except CheckpointError:
        return end
    found = near.find(_LOCAL)
    return at + found if found >= 0 else end
