"""
What the bytes of a file are that belong to no tensor: a map without a hole.

A container is told by its first bytes; its map covers the file from the first byte to the
last, in order, each byte once. Where tensors lie is known from tables, and taken out of
the map by whoever asks. Only headers are read, and a file that makes no sense as its
container has a map all the same: one of its tensors, and of what lies between them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from modelinspect.errors import CheckpointError
from modelinspect.readers.source import ByteSource

__all__ = ["ALIGNMENT", "FileMap", "Found", "MapBuilder", "What", "map_file"]

ALIGNMENT = 4096
"""Shorter gaps between tensors are there for alignment; external data of ONNX uses a page."""
MAX_LABELS = 64
"""Of one map; records beyond are put together."""
MAX_HEADER = 100_000_000
_PIECE = 1 << 16
_MAX_METADATA = 1 << 24
_MAX_LEGACY_PICKLE = 1 << 24
"""Bytes of a legacy file's pickles that are read a second time, to tell storages that nothing uses."""


class What(NamedTuple):
    """What some bytes are."""

    kind: str
    """``header``, ``alignment``, ``objects``, ``code``, ``metadata``, ``records``, ``files``,
    ``unclaimed``; ``data`` is unclaimed unless a tensor lies in it, and else a header."""
    label: str
    remark: str = ""


class Found(NamedTuple):
    """A record of an archive."""

    data: int
    """First byte of what it holds."""
    packed: int
    """Bytes that this takes in the file."""
    size: int
    """Bytes once unpacked."""
    checksum: int
    """CRC-32, as the directory has it."""


class FileMap(NamedTuple):
    """
    What each byte of a file is, in columns because there may be a million pieces.
    """

    size: int
    starts: list[int]
    """First byte of each piece; it ends where the next begins. The first is 0."""
    codes: list[int]
    """Of each piece, its place in ``whats``."""
    whats: list[What]
    overlaps: int = 0
    """Bytes that two parts of the container claim; the first has them."""
    find: Callable[[str], Found | None] | None = None
    """Of an archive: a record by its name."""

    def at(self, position: int) -> What:
        """What a byte is."""
        return self.whats[self.codes[bisect_right(self.starts, position) - 1]]


class MapBuilder:
    """
    Puts a map together from its parts in order of their first bytes. A part that begins
    before the last one's end loses what is taken; what lies between two is a gap.

    Args:
        size: Bytes of the file.
        gap: What lies between parts.
    """

    def __init__(self, size: int, gap: What) -> None:
        self.size = size
        self.starts: list[int] = []
        self.codes: list[int] = []
        self.whats: list[What] = []
        self.overlaps = 0
        self.position = 0
        self._known: dict[What, int] = {}
        self._gap = gap

    def code(self, what: What, otherwise: What | None = None) -> int:
        """
        The number of a meaning.

        Args:
            what: The meaning.
            otherwise: Taken where there are too many.
        """
        found = self._known.get(what)
        if found is None:
            if otherwise is not None and len(self.whats) >= MAX_LABELS:
                return self.code(otherwise)
            found = self._known[what] = len(self.whats)
            self.whats.append(what)
        return found

    def add(self, begin: int, end: int, code: int) -> None:
        """A part, as far as it lies behind all others and inside the file."""
        position = self.position
        if end > self.size:
            begin, end = min(begin, self.size), self.size
        if begin < position:
            self.overlaps += max(0, min(position, end) - begin)
            begin = position
        if begin > position:
            self._piece(position, self.code(self._gap))
            self.position = begin
        if end > begin:
            self._piece(begin, code)
            self.position = end

    def _piece(self, begin: int, code: int) -> None:
        codes = self.codes
        if not codes or codes[-1] != code:
            self.starts.append(begin)
            codes.append(code)

    def finished(self, rest: What, find: Callable[[str], Found | None] | None = None) -> FileMap:
        """The map; what is left of the file is *rest*."""
        if self.position < self.size or not self.codes:
            self._piece(self.position, self.code(rest))
        return FileMap(self.size, self.starts, self.codes, self.whats, self.overlaps, find)


Spans = Sequence[tuple[int, int]]
"""First byte and the byte after the last of tensors' storages, in order."""


def map_file(source: ByteSource, form: str, spans: Spans) -> FileMap:
    """
    Map one file.

    Args:
        source: The file.
        form: The format of the checkpoint that it belongs to.
        spans: Where its storages lie, sorted.
    """
    head = source.read_upto(0, 512)
    if form == "dcp" and (spans or source.path.endswith(".distcp")):
        # Archives one behind the other: the directory at the end of the file is that of the last.
        return _around(source, form, spans)
    for is_one, draw in _CONTAINERS:
        if is_one(head, source):
            try:
                found = draw(source, spans)
            except CheckpointError:
                break
            if found is not None:
                return found
    return _around(source, form, spans)


def _zip_file(source: ByteSource, spans: Spans) -> FileMap:  # noqa: ARG001
    from modelinspect.readers.parts.zip_map import map_zip

    return map_zip(source)


def _safetensors(source: ByteSource, spans: Spans) -> FileMap:  # noqa: ARG001
    length = int.from_bytes(source.read(0, 8, "header length"), "little")
    end = 8 + length
    builder = MapBuilder(source.size, What("header", "JSON header"))
    metadata = _metadata_end(source, length)
    if metadata:
        builder.add(9, 9 + metadata, builder.code(What("metadata", "metadata")))
    padding = _spaces_before(source, end)
    builder.add(end - padding, end, builder.code(What("alignment", "spaces after the header")))
    return builder.finished(What("unclaimed", "bytes that belong to no tensor"))


def _metadata_end(source: ByteSource, length: int) -> int:
    """Bytes of ``"__metadata__":{...}`` at the start of a header; 0 where it is elsewhere or too long."""
    import json

    key = b'{"__metadata__":'
    if source.read_upto(8, len(key)) != key:
        return 0
    taken = min(length, _PIECE)
    while True:
        text = source.read(8, taken, "header").decode("utf-8", "surrogateescape")
        try:
            _, end = json.JSONDecoder().raw_decode(text, len(key))
        except (ValueError, RecursionError):
            if taken in (length, _MAX_METADATA):
                return 0
            taken = min(length, _MAX_METADATA)
            continue
        return len(text[1:end].encode("utf-8", "surrogateescape"))


def _spaces_before(source: ByteSource, end: int) -> int:
    count = 0
    while count < end - 8:
        taken = min(_PIECE if count else 64, end - 8 - count)
        piece = source.read(end - count - taken, taken, "header")
        left = len(piece.rstrip(b" "))
        count += taken - left
        if left:
            break
    return count


def _gguf(source: ByteSource, spans: Spans) -> FileMap:
    # Formats are loaded by name, as the registry does.
    keys, tensors, start = import_module("modelinspect.readers.formats.gguf").header_ends(source)
    builder = MapBuilder(source.size, What("header", "header"))
    builder.add(0, keys, builder.code(What("metadata", "keys and values", "tokenizer and settings")))
    builder.add(keys, tensors, builder.code(What("header", "names and places of tensors")))
    builder.add(tensors, start, builder.code(What("alignment", "alignment of tensors")))
    last = max((end for _, end in spans), default=start)
    padding = builder.code(What("alignment", "alignment of tensors"))
    _gaps(builder, spans, padding, What("unclaimed", "gaps between tensors"))
    if 0 < source.size - last < ALIGNMENT:
        builder.add(last, source.size, padding)
    return builder.finished(What("unclaimed", "bytes after the last tensor"))


def _gaps(builder: MapBuilder, spans: Spans, padding: int, gap: What) -> None:
    """Short gaps between storages are padding, long ones are *gap*. What storages take is either."""
    wide = builder.code(gap)
    for begin, end in spans:
        position = builder.position
        if begin > position:
            builder.add(position, begin, padding if begin - position < ALIGNMENT else wide)
        builder.add(max(begin, builder.position), end, padding)


def _npy(source: ByteSource, spans: Spans) -> FileMap | None:
    if not spans:
        return None
    builder = MapBuilder(source.size, What("header", "array header"))
    begin, end = spans[0][0], spans[-1][1]
    builder.add(begin, end, builder.code(What("data", "array")))
    return builder.finished(What("unclaimed", "bytes after the array"))


def _legacy(source: ByteSource, spans: Spans) -> FileMap:
    from modelinspect.readers.parts.legacy_layout import read_legacy

    pickles = What("objects", "pickles", "all that is no tensor")
    builder = MapBuilder(source.size, pickles)
    places = set(spans)
    first = min((begin for begin, _ in spans), default=source.size)
    if first <= _MAX_LEGACY_PICKLE:
        save = read_legacy(source, source.path)
        held = save.held.values() if save is not None else ()
        places |= {
            (storage.offset, storage.offset + storage.nbytes)
            for storage, *_ in held
            if storage.offset is not None
        }
    count = builder.code(What("header", "sizes of storages"))
    data = builder.code(What("data", "storages that no tensor uses"))
    for begin, end in sorted(places):
        builder.add(begin - 8, begin, count)
        builder.add(begin, end, data)
    return builder.finished(What("unclaimed", "bytes after the last storage") if places else pickles)


def _tar(source: ByteSource, spans: Spans) -> FileMap | None:  # noqa: ARG001
    from modelinspect.readers.parts.tar_directory import read_members

    members = read_members(source, source.path)
    if not members:
        return None
    builder = MapBuilder(source.size, What("header", "tar: headers and blocks of zeros"))
    labels = {
        "storages": What("header", "keys and sizes of storages"),
        "tensors": What("header", "shapes of tensors"),
        "pickle": What("objects", "pickle", "all that is no tensor"),
        "sys_info": What("header", "sys_info"),
    }
    others = What("records", "other members")
    for member in sorted(members, key=lambda member: member.data):
        what = labels.get(member.name) or What("records", member.name[:80])
        builder.add(member.data, member.data + member.size, builder.code(what, others))
    return builder.finished(What("header", "tar: headers and blocks of zeros"))


def _around(source: ByteSource, form: str, spans: Spans) -> FileMap:
    """Of any file: what stands before, between and after its storages."""
    rest = _OTHERS.get(form)
    if not spans and (rest is None or rest.kind == "header"):
        rest = What("files", "files without tensors")
    if rest is not None:
        return MapBuilder(source.size, rest).finished(rest)
    builder = MapBuilder(source.size, What("header", "header"))
    first, last = spans[0][0], max(end for _, end in spans)
    builder.add(0, first, builder.code(What("header", "header")))
    padding = builder.code(What("alignment", "alignment of tensors"))
    _gaps(builder, spans, padding, What("unclaimed", "gaps between tensors"))
    builder.add(builder.position, last, padding)
    return builder.finished(What("unclaimed", "bytes after the last tensor"))


_OTHERS = {
    "onnx": What("objects", "graph", "all that is no tensor"),
    "pickle": What("objects", "pickle", "all that is no tensor"),
    "dcp": What("header", "archives around tensors"),
}
"""Formats in which all that is no tensor is one thing."""


def _is_safetensors(head: bytes, source: ByteSource) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length <= MAX_HEADER and 8 + length <= source.size


def _is_legacy(head: bytes, source: ByteSource) -> bool:  # noqa: ARG001
    from modelinspect.readers.parts.legacy_layout import begins_as_legacy

    return begins_as_legacy(head)


_CONTAINERS: tuple[
    tuple[Callable[[bytes, ByteSource], bool], Callable[[ByteSource, Spans], FileMap | None]], ...
] = (
    (lambda head, source: head[:2] == b"PK", _zip_file),  # noqa: ARG005
    (_is_safetensors, _safetensors),
    (lambda head, source: head[:4] == b"GGUF", _gguf),  # noqa: ARG005
    (lambda head, source: head[:6] == b"\x93NUMPY", _npy),  # noqa: ARG005
    (_is_legacy, _legacy),
    (lambda head, source: head[257:262] == b"ustar", _tar),  # noqa: ARG005
)
