"""
Records of zip archives as sources, unpacked within limits.
"""

from __future__ import annotations

from modelinspect.errors import CheckpointError
from modelinspect.readers.parts.zip_directory import DEFLATED, STORED, Record, ZipDirectory
from modelinspect.readers.scanning.budget import MAX_HELD, MAX_RATIO
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.parts import Held, Opened, Part, unpack
from modelinspect.readers.source import ByteSource

__all__ = ["open_record"]


def open_record(scan: Scan, item: Item, directory: ZipDirectory, record: Record) -> ByteSource | None:
    """What the record holds; None where nothing can be had of it, which is then a finding."""
    source = directory.source
    if record.method == STORED:
        return Part(source, record.data, record.size)
    inner = item.inside(Part(source, record.data, record.packed), record.name)
    if record.method != DEFLATED:
        scan.find(inner, "not-looked-into", f"compression method {record.method} is not unpacked here")
        return None
    if not scan.budget.take(min(record.size, MAX_HELD)):
        scan.find(inner, "not-looked-into", "more is compressed than is unpacked of a file of this size")
        return None
    if record.size > MAX_HELD:
        return _large(scan, inner, directory, record)
    out = unpack(source, record.data, record.packed, "deflate", min(MAX_HELD, record.size + 1))
    if out.fault:
        scan.find(inner, "zip-damaged", out.fault)
    elif len(out.data) != record.size:
        scan.find(inner, "zip-size", f"it does not unpack to the {record.size:,} bytes that it claims")
    if len(out.data) > MAX_RATIO * max(out.taken, 1_000):
        scan.find(inner, "compression-bomb", f"{out.taken:,} bytes unpack to {len(out.data):,} and more")
    return Held(source.path, out.data, record.packed)


def _large(scan: Scan, inner: Item, directory: ZipDirectory, record: Record) -> ByteSource | None:
    try:
        return Opened(directory.source.path, record.size, directory.opened(record), record.packed)
    except CheckpointError as error:
        scan.find(inner, "compression-bomb", error.message.partition(": ")[2] or error.message)
    out = unpack(directory.source, record.data, record.packed, "deflate", MAX_HELD // 8)
    return Held(directory.source.path, out.data, record.packed)
