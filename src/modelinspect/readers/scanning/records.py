"""
Records of zip archives as sources, unpacked within limits.
"""

from __future__ import annotations

from zlib import crc32

from modelinspect.errors import CheckpointError
from modelinspect.readers.parts.zip_directory import DEFLATED, STORED, Record, ZipDirectory
from modelinspect.readers.scanning.budget import MAX_HELD, MAX_RATIO, TooLongError
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.kinds import PICKLE_SUFFIXES, TEXT_SUFFIXES, kind_of, may_be_pickle
from modelinspect.readers.scanning.parts import Held, Opened, Part, unpack
from modelinspect.readers.source import ByteSource

__all__ = ["check_sum", "open_record"]

_PIECE = 1 << 20
_BEGINNING = 1 << 14
"""Bytes that tell what a compressed record is; an array's header has 10,000 at most."""
_LZMA, _LZMA_HEAD = 14, 9
_MUCH, _BOMB = 1 << 30, 500
"""Of numbers, which may well be a million zeros: bytes, and how often those that they take."""
_MAX_CHECKED = 1 << 28


def open_record(scan: Scan, item: Item, directory: ZipDirectory, record: Record) -> ByteSource | None:
    """
    What the record holds; None where that is numbers, or where nothing can be had of it, which is then
    a finding.
    """
    source = directory.source
    if record.method == STORED:
        return Part(source, record.data, record.size)
    inner = item.inside(Part(source, record.data, record.packed), record.name)
    method, skipped = _method(source, record)
    if not method:
        scan.find(inner, "not-looked-into", f"compression method {record.method} is not unpacked here")
        return None
    if record.size > _MUCH and record.size > _BOMB * record.packed:
        text = f"{record.packed:,} bytes claim to unpack to {record.size:,}"
        scan.find(inner, "compression-bomb", text)
    head = unpack(source, record.data + skipped, record.packed - skipped, method, _BEGINNING).data
    if record.size > len(head) and not is_more_than_numbers(record.name, head, record.size):
        return None
    if not scan.budget.take(min(record.size, MAX_HELD)):
        scan.find(inner, "not-looked-into", "more is compressed than is unpacked of a file of this size")
        return None
    if record.size > MAX_HELD:
        return _large(scan, inner, directory, record)
    scan.budget.unread -= record.size
    out = unpack(
        source, record.data + skipped, record.packed - skipped, method, min(MAX_HELD, record.size + 1)
    )
    if out.fault:
        scan.find(inner, "zip-damaged", out.fault)
    elif len(out.data) != record.size:
        scan.find(inner, "zip-size", f"it does not unpack to the {record.size:,} bytes that it claims")
    if len(out.data) > MAX_RATIO * max(out.taken, 1_000):
        scan.find(inner, "compression-bomb", f"{out.taken:,} bytes unpack to {len(out.data):,} and more")
    return Held(source.path, out.data, record.packed)


def _method(source: ByteSource, record: Record) -> tuple[str, int]:
    """Name of the compression and the bytes that stand before the stream; no name where it is not known."""
    if record.method == _LZMA and record.packed > _LZMA_HEAD:
        return f"lzma {source.read(record.data + 4, 5).hex()}", _LZMA_HEAD
    return {DEFLATED: "deflate", 12: "bzip2"}.get(record.method, ""), 0


def is_more_than_numbers(name: str, head: bytes, size: int) -> bool:
    """Does its name or how it begins say that it is to be looked into?"""
    if name.lower().endswith((*PICKLE_SUFFIXES, *TEXT_SUFFIXES)) or may_be_pickle(head):
        return True
    kind = kind_of(head, size)
    return bool(kind) and (kind != "npy" or b"|O" in head[:_BEGINNING])


def _large(scan: Scan, inner: Item, directory: ZipDirectory, record: Record) -> ByteSource | None:
    scan.budget.unread -= record.size
    try:
        return Opened(directory.source.path, record.size, directory.opened(record), record.packed)
    except CheckpointError as error:
        scan.find(inner, "compression-bomb", error.message.partition(": ")[2] or error.message)
    out = unpack(directory.source, record.data, record.packed, "deflate", MAX_HELD // 8)
    return Held(directory.source.path, out.data, record.packed)


def check_sum(scan: Scan, item: Item, source: ByteSource, expected: int) -> None:
    """Compare the checksum of a record with what the directory says."""
    found = at = 0
    size = min(source.size, _MAX_CHECKED)
    try:
        while at < size:
            scan.budget.spend(min(_PIECE, size - at))
            piece = source.read(at, min(_PIECE, size - at), "a record")
            found = crc32(piece, found)
            at += len(piece)
    except TooLongError as error:
        scan.find(item, "not-looked-into", error.details[0])
        return
    except CheckpointError as error:
        scan.find(item, "zip-damaged", error.details[0] if error.details else error.message)
        return
    if size == source.size and found != expected:
        text = f"its CRC-32 is {found:08x}, its directory says {expected:08x}: some loaders refuse it"
        scan.find(item, "zip-checksum", text)
