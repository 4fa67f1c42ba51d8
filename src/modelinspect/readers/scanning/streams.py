"""
Compressed streams: unpacked within limits, and looked into.
"""

from __future__ import annotations

from modelinspect.readers.scanning.budget import MAX_HELD, MAX_RATIO
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.parts import Held, Part, unpack

__all__ = ["look_at_bzip2", "look_at_gzip", "look_at_xz", "look_at_zlib"]

_PIECE = 1 << 20


def look_at_gzip(scan: Scan, item: Item) -> None:
    """``.gz``."""
    _look(scan, item, "gzip")


def look_at_bzip2(scan: Scan, item: Item) -> None:
    """``.bz2``."""
    _look(scan, item, "bzip2")


def look_at_xz(scan: Scan, item: Item) -> None:
    """``.xz`` and ``.lzma``."""
    _look(scan, item, "xz")


def look_at_zlib(scan: Scan, item: Item) -> None:
    """A bare stream, as joblib writes it."""
    _look(scan, item, "zlib")


def _look(scan: Scan, item: Item, method: str) -> None:
    source = item.source
    size = source.size - item.begin
    scan.budget.spend(min(size, MAX_HELD))
    if not scan.budget.take(min(MAX_HELD, MAX_RATIO * size)):
        scan.find(item, "not-looked-into", "more is compressed than is unpacked of a file of this size")
        return
    out = unpack(source, item.begin, size, method, MAX_HELD)
    if not out.data and out.fault:
        scan.looked(item, "data", into=False, why=f"it begins like {method}; {out.fault}")
        return
    if out.fault:
        scan.find(item, "header", f"{method}: {out.fault}")
    elif not out.whole:
        rule = "compression-bomb" if len(out.data) >= MAX_RATIO // 2 * out.taken else "not-looked-into"
        scan.find(item, rule, f"it unpacks to more than the {MAX_HELD:,} bytes that are looked into")
    elif out.taken < size:
        at = item.begin + out.taken
        scan.find(item, "trailing-bytes", f"{size - out.taken:,} bytes follow the {method} stream", at)
        scan.push(item.inside(Part(source, at, size - out.taken), f"bytes from {at}"))
    scan.looked(item, f"{method} stream")
    inner = item.inside(Held(source.path, out.data, size), "unpacked", is_pickle=item.is_pickle)
    scan.push(inner)
