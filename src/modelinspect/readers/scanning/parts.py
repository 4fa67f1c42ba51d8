"""
Bytes inside other bytes: records, what stands behind a pickle, what was unpacked.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from modelinspect.readers.source import ByteSource

__all__ = ["Held", "Opened", "Part", "Spliced", "Unpacked", "absolute", "unpack"]

_PIECE = 1 << 16
_MAX_DICTIONARY = 1 << 26
"""Bytes that unpacking may take for itself."""


class Part(ByteSource):
    """A range of another source; reading it counts there."""

    def __init__(self, outer: ByteSource, start: int, size: int) -> None:
        super().__init__(outer.path, size)
        self.outer = outer
        self.start = start

    def _fetch(self, offset: int, n: int) -> bytes:
        return self.outer.read(self.start + offset, n)


class Spliced(ByteSource):
    """Another source without some of its bytes."""

    def __init__(self, outer: ByteSource, cut: int, end: int) -> None:
        super().__init__(outer.path, outer.size - (end - cut))
        self.outer = outer
        self.cut = cut
        self.end = end

    def _fetch(self, offset: int, n: int) -> bytes:
        before = max(0, min(n, self.cut - offset))
        data = self.outer.read(offset, before) if before else b""
        if before < n:
            data += self.outer.read(offset + before + self.end - self.cut, n - before)
        return data


class Held(ByteSource):
    """Bytes in memory."""

    def __init__(self, path: str, data: bytes, packed: int | None = None) -> None:
        super().__init__(path, len(data))
        self.data = data
        self.packed = packed
        """Bytes that they took where they were compressed."""

    def _fetch(self, offset: int, n: int) -> bytes:
        return self.data[offset : offset + n]


class Opened(ByteSource):
    """What a function reads; best from front to back."""

    def __init__(self, path: str, size: int, fetch: Callable[[int, int], bytes], packed: int | None) -> None:
        super().__init__(path, size)
        self.fetch = fetch
        self.packed = packed

    def _fetch(self, offset: int, n: int) -> bytes:
        return self.fetch(offset, n)


def absolute(source: ByteSource, position: int) -> int | None:
    """The same byte counted from the start of the file; None where it was unpacked."""
    while isinstance(source, Part):
        position += source.start
        source = source.outer
    return None if isinstance(source, (Held, Opened, Spliced)) else position


class Unpacked(NamedTuple):
    """What came out of a compressed stream."""

    data: bytes
    whole: bool
    """The stream ended."""
    fault: str
    """Why it did not, where that is not the limit."""
    taken: int
    """Compressed bytes that were needed."""


def _machine(method: str) -> Any:
    if method in ("deflate", "zlib", "gzip"):
        return zlib.decompressobj({"deflate": -15, "zlib": 15, "gzip": 31}[method])
    if method == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    import lzma

    if method == "xz":
        return lzma.LZMADecompressor(memlimit=_MAX_DICTIONARY)
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(method)])


def _lzma_filter(method: str) -> dict[str, int]:
    """Of the method ``lzma PROPERTIES``, five bytes in hexadecimal (APPNOTE 5.8.8)."""
    import lzma

    raw = bytes.fromhex(method.partition(" ")[2])
    size = int.from_bytes(raw[1:], "little")
    if len(raw) != 5 or raw[0] >= 9 * 5 * 5 or size > _MAX_DICTIONARY:
        raise ValueError("its dictionary is too large, or its properties make no sense")
    rest, lc = divmod(raw[0], 9)
    return {"id": lzma.FILTER_LZMA1, "dict_size": size, "lc": lc, "lp": rest % 5, "pb": rest // 5}


def unpack(source: ByteSource, start: int, size: int, method: str, most: int) -> Unpacked:
    """
    Unpack the beginning of a stream, *most* bytes at the most; several streams in a row are one.

    Args:
        source: Holds it.
        start: First compressed byte.
        size: Compressed bytes that there are.
        method: ``deflate``, ``zlib``, ``gzip``, ``bzip2``, ``xz`` or ``lzma PROPERTIES``.
        most: Bytes to unpack.
    """
    pieces: list[bytes] = []
    have = taken = 0
    try:
        machine = _machine(method)
        while have < most:
            packed = _left_over(machine)
            if machine.eof:
                rest = getattr(machine, "unused_data", b"")
                taken -= len(rest)
                if method not in _MAGIC or not _goes_on(source, start + taken, size - taken, method):
                    return Unpacked(b"".join(pieces), True, "", taken)
                machine, packed = _machine(method), b""
            if not packed and _wants_more(machine):
                if taken >= size:
                    return Unpacked(b"".join(pieces), False, "it is cut off", taken)
                packed = source.read(start + taken, min(_PIECE, size - taken))
                taken += len(packed)
            piece = machine.decompress(packed, most - have)
            pieces.append(piece)
            have += len(piece)
    except (zlib.error, OSError, EOFError, ValueError) as error:
        return Unpacked(b"".join(pieces), False, f"it cannot be unpacked: {error}", taken)
    except Exception as error:
        if type(error).__name__ != "LZMAError":
            raise
        return Unpacked(b"".join(pieces), False, f"it cannot be unpacked: {error}", taken)
    return Unpacked(b"".join(pieces), False, "", taken)


_MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ"}


def _goes_on(source: ByteSource, at: int, left: int, method: str) -> bool:
    """Does another stream follow, as ``cat a.gz b.gz`` makes them?"""
    magic = _MAGIC[method]
    return left > len(magic) and source.read_upto(at, len(magic)) == magic


def _left_over(machine: Any) -> bytes:
    """What zlib was given and did not take; bz2 and lzma keep that themselves."""
    return getattr(machine, "unconsumed_tail", b"")


def _wants_more(machine: Any) -> bool:
    return bool(getattr(machine, "needs_input", True))
