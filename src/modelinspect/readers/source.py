"""
Where bytes come from: bounded, counted reads from one file.

Everything that is read from a checkpoint passes here, so ``bytes_read`` is
what a listing cost and tests can assert it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from types import TracebackType

from modelinspect.errors import DamagedFileError, RefusedError, TargetError, visible

__all__ = ["ByteSource", "LocalFile", "Unpacked", "Window", "open_local"]

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISDIR, "a directory"),
)


class ByteSource:
    """
    Bytes of known length that can be read anywhere. Subclasses fetch them.
    """

    path: str
    """As opened; names the file in errors and extents."""
    size: int
    """Bytes in all."""
    bytes_read: int
    base: int | None = 0
    """Where the first byte lies in the file at :attr:`path`; None where that doesn't hold the
    bytes as they are."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.bytes_read = 0
        self.kept: dict[str, object] = {}
        """What one reader made of the bytes and the next may use, by what it is."""

    def read(self, offset: int, n: int, what: str = "data") -> bytes:
        """
        Exactly *n* bytes from *offset*.

        Args:
            offset: First byte, counted from the start of the file.
            n: Bytes wanted.
            what: Named in the error when they are not there.

        Raises:
            DamagedFileError: The file ends before *offset* + *n*.
        """
        if offset < 0 or n < 0 or offset + n > self.size:
            raise self.truncated(offset, n, what)
        data = self._fetch(offset, n)
        self.bytes_read += len(data)
        if len(data) != n:
            raise self.truncated(offset, n, what)
        return data

    def read_each(self, places: Sequence[tuple[int, int]], what: str = "data") -> list[bytes]:
        """
        Many short reads: exactly *n* bytes from each *offset*, as :meth:`read` does.
        """
        return [self.read(offset, n, what) for offset, n in places]

    def read_upto(self, offset: int, n: int) -> bytes:
        """Up to *n* bytes from *offset*; fewer where the file ends first."""
        return self.read(offset, max(0, min(n, self.size - offset))) if offset < self.size else b""

    def truncated(self, offset: int, n: int, what: str) -> DamagedFileError:
        """The error for bytes that are not there."""
        return DamagedFileError(
            f"{visible(self.path)} is truncated or damaged",
            details=(f"{what}: {n:,} bytes at byte {offset:,} are needed, the file has {self.size:,} bytes",),
            hint="compare its size with the original; a download may have stopped early",
        )

    def close(self) -> None:
        """Let go of the file. Reading afterwards is an error."""

    def __enter__(self) -> ByteSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fetch(self, offset: int, n: int) -> bytes:
        raise NotImplementedError


class LocalFile(ByteSource):
    """A regular file, read by position, so that no seek state is shared."""

    def __init__(self, path: str, descriptor: int, size: int) -> None:
        super().__init__(path, size)
        self._descriptor = descriptor

    def _fetch(self, offset: int, n: int) -> bytes:
        # One pread returns at most 0x7ffff000 bytes on Linux.
        data = os.pread(self._descriptor, n, offset)
        while len(data) < n:
            more = os.pread(self._descriptor, n - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def read_each(self, places: Sequence[tuple[int, int]], what: str = "data") -> list[bytes]:
        """Many short reads; a hundred thousand of them take a tenth of a second."""
        pread, descriptor, size = os.pread, self._descriptor, self.size
        pieces: list[bytes] = []
        for offset, n in places:
            if offset < 0 or offset + n > size:
                raise self.truncated(offset, n, what)
            piece = pread(descriptor, n, offset)
            if len(piece) != n:
                raise self.truncated(offset, n, what)
            pieces.append(piece)
            self.bytes_read += n
        return pieces

    def close(self) -> None:
        """Close the file; a second time is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Window(ByteSource):
    """
    A part of another source, read as if it were a file of its own.

    Args:
        outer: Its reads are counted there.
        begin: First byte of the part.
        size: Bytes of the part.

    Raises:
        DamagedFileError: The other source ends before.
    """

    def __init__(self, outer: ByteSource, begin: int, size: int) -> None:
        if begin < 0 or size < 0 or begin + size > outer.size:
            raise outer.truncated(begin, size, "a part")
        super().__init__(outer.path, size)
        self.base = None if outer.base is None else outer.base + begin
        self._outer = outer
        self._begin = begin

    def _fetch(self, offset: int, n: int) -> bytes:
        return self._outer.read(self._begin + offset, n)


class Unpacked(ByteSource):
    """Bytes in memory, which the file at *path* holds in another form."""

    base: int | None = None

    def __init__(self, path: str, raw: bytes) -> None:
        super().__init__(path, len(raw))
        self._raw = raw

    def _fetch(self, offset: int, n: int) -> bytes:
        return self._raw[offset : offset + n]


def open_local(path: str) -> LocalFile:
    """
    Open a regular file for counted reads.

    Raises:
        TargetError: It does not exist, may not be read, or is a directory.
        RefusedError: It is a pipe, a socket or a device.
    """
    try:
        # O_NONBLOCK so that opening a pipe by mistake returns instead of waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(path, error) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        what = next((text for test, text in _KINDS if test(status.st_mode)), "no regular file")
        raise RefusedError(f"{visible(path)} is {what}", details=("only regular files are read",))
    return LocalFile(path, descriptor, status.st_size)


def _cannot_open(path: str, error: OSError) -> TargetError | RefusedError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.ENOENT:
        return TargetError(f"{visible(path)}: no such file or directory")
    if error.errno == errno.ENXIO:
        return RefusedError(f"{visible(path)} is a socket or a pipe that nobody writes to")
    return TargetError(f"{visible(path)} cannot be opened: {reason}")
