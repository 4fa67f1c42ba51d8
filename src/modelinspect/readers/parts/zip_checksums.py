"""
Checksums of the records of a zip archive, which say whether two hold the same bytes.

torch streams its archives, so that the checksum of a record stands behind it, in a data
descriptor (APPNOTE 6.3, 4.3.9), and the local header has zeros for it.
"""

from __future__ import annotations

import struct

from modelinspect.readers.parts.zip_directory import read_directory
from modelinspect.readers.source import ByteSource

__all__ = ["storage_checksums"]

_DESCRIPTOR = struct.Struct("<4sL")
_SIGNATURE = b"PK\x07\x08"
_BESIDE_DATA = b"/data/"


def storage_checksums(source: ByteSource) -> dict[str, int]:
    """
    Name of a record of data to the CRC-32 that its descriptor gives; of other files nothing.

    Args:
        source: Any file that was read as a checkpoint.
    """
    if source.read_upto(0, 4) != b"PK\3\4":
        return {}
    directory = read_directory(source)
    places, names = [], []
    for number, name in enumerate(directory.names):
        end = directory.data[number] + directory.packed[number]
        if _BESIDE_DATA in name and end + _DESCRIPTOR.size <= source.size:
            places.append((end, _DESCRIPTOR.size))
            names.append(name.decode("utf-8", "backslashreplace"))
    found = {}
    for text, raw in zip(names, source.read_each(places, "data descriptor")):
        signature, checksum = _DESCRIPTOR.unpack(raw)
        if signature == _SIGNATURE and checksum:
            found[text] = checksum
    return found
