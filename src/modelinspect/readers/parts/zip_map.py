"""
What the bytes of a zip archive are: records by their names, and what the archive adds to them.

The directory says where records are; between the end of one and the header of the next lies
its descriptor (APPNOTE 6.3, 4.3.9). torch fills the extra field of a local header so that the
data begins at a multiple of 64, under the tag ``FB`` (``caffe2/serialize/inline_container.cc``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from modelinspect.readers.parts.file_map import FileMap, Found, MapBuilder, What
from modelinspect.readers.parts.zip_directory import ZipDirectory, read_directory
from modelinspect.readers.source import ByteSource

__all__ = ["map_zip"]

_LOCAL_BYTES = 30
_END_BYTES, _LOCATOR_BYTES = 22, 20
_HAS_DESCRIPTOR = 0x08
_DESCRIPTORS = (12, 16, 20, 24)
"""Bytes of one: with or without a mark, sizes of 32 or of 64 bits."""
_HEADERS = What("header", "zip: headers of records")
_DIRECTORY = What("header", "zip: directory")
_PADDING = What("alignment", "alignment of records")
_GAP = What("unclaimed", "bytes between records")
_BEFORE = What("unclaimed", "bytes before the archive")
_AFTER = What("unclaimed", "bytes after the archive")
_COMMENT = What("metadata", "zip: comment")
_MARKS = What("header", "version and byte order")
_MARK_NAMES = frozenset(
    [b".format_version", b".storage_alignment", b"byteorder", b"version", b".data/serialization_id",
     b".data/version", b"archive_format", b"archive_version"]
)  # fmt: skip


def map_zip(source: ByteSource) -> FileMap:
    """
    The map of a zip archive.

    Raises:
        CheckpointError: It has no directory, or one that makes no sense.
    """
    directory = read_directory(source)
    first = min(directory.headers)
    builder = MapBuilder(source.size, _GAP)
    builder.add(0, first, builder.code(_BEFORE))
    _add_records(builder, directory)
    start, length = directory.place
    builder.add(start, start + length, builder.code(_DIRECTORY))
    _add_end(builder, source, start + length)
    return builder.finished(_AFTER, _finder(directory))


def _add_records(builder: MapBuilder, directory: ZipDirectory) -> None:
    names, headers, data, packed = directory.names, directory.headers, directory.data, directory.packed
    header, padding = builder.code(_HEADERS), builder.code(_PADDING)
    extra = padding if _is_padded(directory) else header
    meaning = _Meanings(builder, directory.root)
    order = sorted(range(len(names)), key=headers.__getitem__)
    ends = [headers[number] for number in order[1:]] + [directory.place[0]]
    add, code_of = builder.add, meaning.code_of
    for number, after in zip(order, ends):
        name, begin, start = names[number], headers[number], data[number]
        named = begin + _LOCAL_BYTES + len(name)
        add(begin, min(named, start), header)
        if start > named:
            add(named, start, extra)
        end = start + packed[number]
        add(start, end, code_of(name))
        if after > end and directory.marks[number][0] & _HAS_DESCRIPTOR:
            left = after - end
            add(end, end + (left if left in _DESCRIPTORS else min(left, 16)), header)


def _is_padded(directory: ZipDirectory) -> bool:
    """Do the extra fields of local headers hold padding? The first one says so."""
    for name, header, data in zip(directory.names[:64], directory.headers, directory.data):
        begin = header + _LOCAL_BYTES + len(name)
        if data >= begin + 4:
            return directory.source.read_upto(begin, 2) == b"FB"
    return False


class _Meanings:
    """What a record is, by its name."""

    def __init__(self, builder: MapBuilder, root: bytes) -> None:
        self.builder = builder
        self.prefix = root + b"/" if root else b""
        self.data = self.prefix + b"data/"
        self.code_of_data = builder.code(What("data", "data that no tensor uses"))

    def code_of(self, name: bytes) -> int:
        """The number of a record's meaning."""
        if name.startswith(self.data) and b"/" not in name[len(self.data) :]:
            return self.code_of_data
        inner = name.removeprefix(self.prefix)
        what, many = _meaning(inner)
        return self.builder.code(what, many)


def _meaning(inner: bytes) -> tuple[What, What]:
    """What a record is, and what it is put together with where there are too many."""
    others = What("records", "other records")
    if inner in _MARK_NAMES:
        return _MARKS, others
    folder, slash, rest = inner.partition(b"/")
    second, deeper, _ = rest.partition(b"/")
    if slash and (
        (folder in (b"data", b"constants") and b"/" not in rest)
        or (folder == b".data" and rest.endswith(b".storage"))
    ):
        return What("data", "data that no tensor uses"), others
    if inner.endswith(b".npy"):
        return What("data", "arrays of objects"), others
    if inner.endswith(b".pkl"):
        return What("objects", _text(inner), "all that is no tensor"), What("objects", "other pickles")
    if (slash and folder == b"code") or inner.endswith((b".py", b".debug_pkl")):
        return What("code", "code"), others
    return What("records", _text(folder + slash + (second + deeper if deeper else b""))), others


def _text(name: bytes) -> str:
    return name[:80].decode("utf-8", "backslashreplace")


def _add_end(builder: MapBuilder, source: ByteSource, position: int) -> None:
    """What follows the directory: zip64 ends, the end itself, a comment."""
    code = builder.code(_DIRECTORY)
    tail = source.read_upto(position, 12)
    if tail[:4] == b"PK\6\6" and len(tail) == 12:
        after = position + 12 + int.from_bytes(tail[4:], "little")
        builder.add(position, after + _LOCATOR_BYTES, code)
        position = after + _LOCATOR_BYTES
    end = source.read_upto(position, _END_BYTES)
    if end[:4] != b"PK\5\6" or len(end) < _END_BYTES:
        return
    builder.add(position, position + _END_BYTES, code)
    (comment,) = struct.unpack_from("<H", end, 20)
    if comment:
        builder.add(position + _END_BYTES, position + _END_BYTES + comment, builder.code(_COMMENT))


def _finder(directory: ZipDirectory) -> Callable[[str], Found | None]:
    checksums = directory.checksums()

    def find(key: str) -> Found | None:
        number = directory.find(key.encode("utf-8", "surrogatepass"))
        if number is None:
            return None
        return Found(
            directory.data[number], directory.packed[number], directory.sizes[number], checksums[number]
        )

    return find
