"""
Ranges of one file into another, as fast as the system copies them.

The kernel moves the bytes where it can, by ``sendfile`` or ``copy_file_range``: which of
them is faster depends on the file systems, so both are tried and timed. Where neither works
(between some file systems, on macOS) the bytes pass through this process.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import NamedTuple, Protocol, TypeAlias

from modelinspect.errors import CheckpointError, DamagedFileError, TargetError, visible

__all__ = ["Chunk", "FileRange", "Sink", "Writable", "is_at", "pieces", "put", "read_into"]

_AT_ONCE = 1 << 24
"""Bytes that one call moves: few enough to hear of Ctrl-C between two, and to show progress."""
_IN_MEMORY = 1 << 20
"""Bytes that pass through this process at a time."""
_SHORT = 1 << 16
"""Ranges up to here are cheaper to read than to have copied."""
_TRIALS = 2
"""Calls by which a way of copying is timed."""
_FLUSH_EVERY = 1 << 26
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileRange(NamedTuple):
    """Bytes of an open file, to be copied as they are."""

    descriptor: int
    offset: int
    nbytes: int
    path: str
    """Named in errors."""


Chunk: TypeAlias = bytes | bytearray | memoryview | FileRange


class Writable(Protocol):
    """What has to be known of a stream to write to it."""

    def write(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take all of the bytes."""


def put(stream: Writable, chunk: Chunk) -> int:
    """
    Write a chunk; the number of its bytes.

    Raises:
        DamagedFileError: The file that a range is of ends before it.
        CheckpointError: It can't be read.
        TargetError: The stream is a :class:`Sink` and takes no more.
    """
    if not isinstance(chunk, FileRange):
        stream.write(chunk)
        return memoryview(chunk).nbytes
    if isinstance(stream, Sink):
        stream.copy(chunk)
    else:
        for piece in pieces(chunk):
            stream.write(piece)
    return chunk.nbytes


def pieces(source: FileRange, into: bytearray | None = None) -> Iterator[memoryview]:
    """
    The bytes of a range, each piece valid until the next one is asked for.

    Args:
        source: What to read.
        into: The buffer that the pieces are views of.

    Raises:
        DamagedFileError: The file ends before the range does.
        CheckpointError: It can't be read.
    """
    buffer = memoryview(bytearray(min(_IN_MEMORY, source.nbytes)) if into is None else into)
    position, left = source.offset, source.nbytes
    while left:
        try:
            count = read_into(source.descriptor, buffer[:left], position)
        except OSError as error:
            raise CheckpointError(
                f"{visible(source.path)} can't be read: {error.strerror}",
                details=(f"at byte {position:,}",),
            ) from error
        if not count:
            raise _ended(source, position)
        yield buffer[:count]
        position, left = position + count, left - count


def is_at(source: FileRange, descriptor: int, offset: int) -> bool:
    """
    Does another file hold the bytes of a range, from *offset* on?

    Raises:
        DamagedFileError: The file that the range is of ends before it.
        CheckpointError: It can't be read.
        OSError: The other file can't be read.
    """
    # Whole bytearrays are compared by memcmp, views byte by byte.
    size = min(source.nbytes, _IN_MEMORY)
    ours, theirs = bytearray(size), bytearray(size)
    view = memoryview(ours)
    for piece in pieces(source, into=theirs):
        count = len(piece)
        filled = 0
        while filled < count:
            found = read_into(descriptor, view[filled:count], offset + filled)
            if not found:
                return False
            filled += found
        if ours != theirs if count == size else ours[:count] != theirs[:count]:
            return False
        offset += count
    return True


def read_into(descriptor: int, buffer: memoryview, position: int) -> int:
    """
    Fill a buffer from a place in a file; how many bytes there were.
    """
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], position)
    found = os.pread(descriptor, len(buffer), position)
    buffer[: len(found)] = found
    return len(found)


def _ended(source: FileRange, position: int) -> DamagedFileError:
    return DamagedFileError(
        f"{visible(source.path)} ends at byte {position:,}, while it is read",
        details=(f"{source.nbytes:,} bytes at byte {source.offset:,} are needed",),
        hint="something has cut it short since it was opened",
    )


class Sink:
    """
    A file that is written from its beginning to its end, and flushed to the disk meanwhile.

    Use it in a ``with`` block, whose end stops the flushing; :meth:`finish` has all on disk.

    Args:
        descriptor: Of an empty file; it stays open.
        path: Named in errors.
        told: Called with the number of bytes written, now and then.
    """

    def __init__(self, descriptor: int, path: str, told: Callable[[int], None] | None = None) -> None:
        self.written = 0
        self._descriptor = descriptor
        self._path = path
        self._told = told
        self._pending = bytearray()
        self._ways = _ways()
        self._timed: dict[_Way, list[float]] = {way: [] for way in self._ways}
        self._flusher = _Flusher(descriptor)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._flusher.stop()

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """
        Bytes from memory.

        Raises:
            TargetError: They can't be written: the disk is full, for one.
        """
        view = memoryview(data).cast("B")
        if len(self._pending) + len(view) > _IN_MEMORY:
            self._write_pending()
        if len(view) > _SHORT:
            self._write_pending()
            self._write(view)
        else:
            self._pending += view

    def copy(self, source: FileRange) -> None:
        """
        Bytes from another file.

        Raises:
            DamagedFileError: The other file ends before the range does.
            CheckpointError: It can't be read.
            TargetError: The bytes can't be written.
        """
        if source.nbytes > _SHORT:
            self._write_pending()
        while self._ways and source.nbytes > _SHORT:
            count = self._copy_some(source)
            source = source._replace(offset=source.offset + count, nbytes=source.nbytes - count)
        for piece in pieces(source):
            self.write(piece)

    def flush(self) -> None:
        """
        Everything to where another reader of the file sees it.
        """
        self._write_pending()

    def finish(self) -> None:
        """
        Everything to the disk.

        Raises:
            TargetError: That failed.
        """
        self._write_pending()
        self._flusher.stop()
        try:
            self._flusher.raise_error()
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._cannot(error) from error

    def _copy_some(self, source: FileRange) -> int:
        """Bytes that the kernel copied; 0 after a way that turned out not to work."""
        way = self._choose()
        start = perf_counter()
        try:
            count = way(self._descriptor, source.descriptor, source.offset, min(source.nbytes, _AT_ONCE))
        except OSError as error:
            if error.errno in _FULL:
                raise self._cannot(error) from error
            count = 0
        if not count:  # it can't do this, or the file ends here: reading it says which
            self._ways.remove(way)
            return 0
        self._timed[way].append((perf_counter() - start) / count)
        self._advance(count)
        return count

    def _choose(self) -> _Way:
        untried = [way for way in self._ways if len(self._timed[way]) < _TRIALS]
        return untried[0] if untried else min(self._ways, key=lambda way: min(self._timed[way][:_TRIALS]))

    def _write_pending(self) -> None:
        if self._pending:
            self._write(memoryview(bytes(self._pending)))
            self._pending.clear()

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                count = os.write(self._descriptor, view[:_AT_ONCE])
            except OSError as error:
                raise self._cannot(error) from error
            self._advance(count)
            view = view[count:]

    def _advance(self, count: int) -> None:
        self.written += count
        try:
            self._flusher.wrote(count)
        except OSError as error:
            raise self._cannot(error) from error
        if self._told is not None:
            self._told(count)

    def _cannot(self, error: OSError) -> TargetError:
        return TargetError(
            f"{visible(self._path)} cannot be written: {error.strerror}",
            details=(f"{self.written:,} bytes were written before",),
        )


_Way = Callable[[int, int, int, int], int]
"""Given target, source, first byte and their number: bytes copied to the end of the target."""


def _by_sendfile(target: int, source: int, offset: int, count: int) -> int:
    return os.sendfile(target, source, offset, count)


def _by_copy_file_range(target: int, source: int, offset: int, count: int) -> int:
    return os.copy_file_range(source, target, count, offset_src=offset)


def _ways() -> list[_Way]:
    known: dict[str, _Way] = {"sendfile": _by_sendfile, "copy_file_range": _by_copy_file_range}
    return [way for name, way in known.items() if hasattr(os, name)]


class _Flusher:
    """
    Has a file written to the disk while it grows, so that the end need not wait for all of it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unflushed = 0
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopped = False
        self._error: OSError | None = None

    def wrote(self, count: int) -> None:
        """So many more bytes are there."""
        self._unflushed += count
        if self._unflushed < _FLUSH_EVERY:
            return
        self._unflushed = 0
        self.raise_error()
        if self._thread is None:
            self._thread = threading.Thread(target=self._flush, daemon=True)
            self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """Let go of the file."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def raise_error(self) -> None:
        """What went wrong in the meantime: the system says so once only."""
        if self._error is not None:
            raise self._error

    def _flush(self) -> None:
        flush = getattr(os, "fdatasync", os.fsync)
        while not self._stopped:
            try:
                flush(self._descriptor)
            except OSError as error:
                self._error = error
                return
            self._wake.wait()
            self._wake.clear()
