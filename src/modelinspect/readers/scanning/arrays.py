"""
NumPy's arrays of Python objects, which are pickles behind a header.
"""

from __future__ import annotations

from modelinspect.errors import CheckpointError
from modelinspect.readers.parts.npy_header import read_header
from modelinspect.readers.scanning.item import Item, Scan

__all__ = ["look_at_array"]

_OBJECTS = "Python objects"


def look_at_array(scan: Scan, item: Item) -> None:
    """An array in a file or archive."""
    source, begin = item.source, item.begin

    def read(at: int, n: int) -> bytes:
        return source.read(begin + at, n, "the header of an array")

    try:
        header = read_header(read, "an array")
    except CheckpointError as error:
        reason = error.details[0] if error.details else error.message
        scan.find(item, "header", reason)
        return
    data = begin + header.data
    holds_objects = _OBJECTS in header.said
    if header.nbytes is not None and not holds_objects:
        left = source.size - data
        if header.nbytes > left:
            scan.find(item, "size-lie", f"its shape asks for {header.nbytes:,} bytes, {left:,} are there")
        scan.looked(item, "NumPy array")
        return
    scan.looked(item, "NumPy array of objects" if holds_objects else "NumPy array")
    if holds_objects:
        scan.push(item._replace(begin=data, is_pickle=True, depth=item.depth + 1))
