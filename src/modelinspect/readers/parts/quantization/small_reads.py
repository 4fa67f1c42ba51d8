"""
The few bytes that some layouts keep a shape in: bounded and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from modelinspect.errors import ModelInspectError
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.tensors import FileInfo, TensorInfo

__all__ = ["MAX_PIECE", "MAX_READS", "SmallReads"]

MAX_PIECE = 65_536
"""Bytes of one tensor."""
MAX_READS = 250_000
"""Tensors; a mixture of 61 layers of 256 experts has some 50,000."""
MAX_BYTES = 1 << 26
"""Of all of them: some hundreds for a weight's JSON, 16 for two numbers."""
_SIZES = {"int64": 8, "int32": 4}


class SmallReads:
    """
    Reads short tensors whole; None where one is too long, too many were read or it can't be.
    """

    def __init__(self) -> None:
        self._reader = StorageReader()
        self._read: Counter[str] = Counter()
        self._reads_left = MAX_READS
        self._bytes_left = MAX_BYTES

    def __enter__(self) -> SmallReads:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def bytes_of(self, row: TensorInfo | None) -> bytes | None:
        """The bytes of a tensor as they are stored."""
        if row is None or row.storage is None or not row.is_contiguous:
            return None
        # A compressed record is unpacked whole.
        size = row.nbytes if row.storage.offset is not None else row.storage.nbytes
        if size > min(MAX_PIECE, self._bytes_left) or self._reads_left <= 0:
            return None
        self._reads_left -= 1
        self._bytes_left -= size
        before = self._reader.bytes_read
        try:
            return self._reader.read(row.storage, *row.span)
        except ModelInspectError:
            return None
        finally:
            self._read[row.storage.file] += self._reader.bytes_read - before

    def integers_of(self, row: TensorInfo | None) -> tuple[int, ...] | None:
        """The numbers of a short tensor of 32 or 64 bit integers."""
        size = 0 if row is None else _SIZES.get(row.dtype.name, 0)
        raw = self.bytes_of(row) if size and row is not None and row.numel <= 8 else None
        if raw is None or row is None or row.storage is None:
            return None
        order = row.storage.byteorder
        return tuple(
            int.from_bytes(raw[at : at + size], order, signed=True) for at in range(0, len(raw), size)
        )

    def counted(self, files: Sequence[FileInfo]) -> tuple[FileInfo, ...]:
        """The files of the checkpoint, with what was read here added."""
        return tuple(
            file._replace(bytes_read=file.bytes_read + self._read.pop(file.path, 0)) for file in files
        )
