"""
The bytes of storages, once a table says where they lie: ranges of files that are
opened when they are needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from modelinspect.errors import CheckpointError, DamagedFileError, visible
from modelinspect.readers.parts.zip_directory import read_directory
from modelinspect.readers.source import ByteSource, open_local
from modelinspect.tensors import Storage

__all__ = ["MAX_OPEN_FILES", "StorageReader"]

MAX_OPEN_FILES = 32
"""Files held open at a time; a checkpoint may have thousands of shards."""


class StorageReader:
    """
    Reads ranges of storages. :meth:`read` is what ``values`` and ``analysis`` are given.

    Args:
        open_source: Opens a file by the path that a storage names.
    """

    def __init__(self, open_source: Callable[[str], ByteSource] = open_local) -> None:
        self._open_source = open_source
        self._open: OrderedDict[str, ByteSource] = OrderedDict()
        self._read_before = 0
        self._last_unpacked: tuple[Storage, Callable[[int, int], bytes]] | None = None

    def read(self, storage: Storage, first: int, n: int) -> bytes:
        """
        Exactly *n* bytes of a storage, from byte *first* of it.

        Raises:
            CheckpointError: The file doesn't hold them as they are.
            DamagedFileError: The storage or the file ends before.
            TargetError: The file can't be opened any more.
        """
        if first < 0 or n < 0 or first + n > storage.nbytes:
            raise DamagedFileError(
                f"storage {visible(storage.key)!r} has {storage.nbytes:,} bytes",
                details=(f"{n:,} bytes at byte {first:,} are needed",),
            )
        if storage.offset is None:
            return self._unpacked(storage)(first, n)
        what = f"storage {visible(storage.key)!r}"
        return self._source(storage.file).read(storage.offset + first, n, what)

    @property
    def bytes_read(self) -> int:
        """Bytes read so far from all files."""
        return self._read_before + sum(source.bytes_read for source in self._open.values())

    def close(self) -> None:
        """Let go of all files."""
        self._last_unpacked = None
        while self._open:
            self._close_oldest()

    def __enter__(self) -> StorageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _source(self, path: str) -> ByteSource:
        source = self._open.get(path)
        if source is None:
            if len(self._open) >= MAX_OPEN_FILES:
                self._close_oldest()
            source = self._open[path] = self._open_source(path)
        self._open.move_to_end(path)
        return source

    def _unpacked(self, storage: Storage) -> Callable[[int, int], bytes]:
        """Of a compressed zip record; torch never writes one, a repacked file may hold them."""
        if self._last_unpacked is None or self._last_unpacked[0] != storage:
            self._last_unpacked = None  # one at a time is in memory
            self._last_unpacked = storage, self._unpack(storage)
        return self._last_unpacked[1]

    def _unpack(self, storage: Storage) -> Callable[[int, int], bytes]:
        nowhere = CheckpointError(f"the bytes of {visible(storage.key)!r} do not lie in a file as they are")
        if not storage.file:
            raise nowhere
        source = self._source(storage.file)
        if source.read_upto(0, 2) != b"PK":
            raise nowhere
        directory = read_directory(source)
        # The key of a storage in an archive is the whole name of its record.
        number = directory.find(storage.key.encode("utf-8", "surrogatepass"))
        if number is None:
            raise nowhere
        record = directory.record(number)
        read, before = directory.opened(record), record.size - storage.nbytes
        # In a NumPy archive a header stands before the numbers; the reader has made sure of that.
        if before and not (before > 0 and read(0, 6) == b"\x93NUMPY"):
            raise DamagedFileError(
                f"record {visible(record.name)} holds {record.size:,} bytes, not {storage.nbytes:,}"
            )
        return lambda first, n: read(before + first, n)

    def _close_oldest(self) -> None:
        _, source = self._open.popitem(last=False)
        self._read_before += source.bytes_read
        source.close()
