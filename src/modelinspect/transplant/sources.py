"""
The files that a transplant reads, and whether they are still what they were.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from modelinspect.errors import (
    CheckpointError,
    TargetError,
    UnrecognisedFileError,
    visible,
)
from modelinspect.readers.parts.storage_bytes import MAX_OPEN_FILES, StorageReader
from modelinspect.readers.registry import FORMATS, no_collector, open_file
from modelinspect.tensors import Checkpoint, Storage
from modelinspect.writers.copying import Chunk, FileRange

__all__ = ["SourceFiles"]

_AT_ONCE = 1 << 22
"""Bytes of a compressed record that are in memory at a time."""


class _State(NamedTuple):
    """What changes when a file is written to or replaced."""

    device: int
    inode: int
    size: int
    modified: int


class SourceFiles:
    """
    Files that stay as they are while they are read, or else an error comes.

    Args:
        storages: What will be read.

    Raises:
        TargetError: A file is no more.
        CheckpointError: It holds other tensors than it did when its header was read.
    """

    def __init__(self, storages: Iterable[Storage]) -> None:
        by_file: dict[str, set[Storage]] = {}
        for storage in storages:
            by_file.setdefault(storage.file, set()).add(storage)
        self._states = {path: _state(os.stat(path)) for path in _there(by_file)}
        self._reader = StorageReader()
        self._open: OrderedDict[str, int] = OrderedDict()
        for path, wanted in by_file.items():
            with no_collector():
                is_same = wanted <= _storages_in(path)
            if not is_same:
                raise _changed(path)

    def __enter__(self) -> SourceFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def read(self, storage: Storage, first: int, n: int) -> bytes:
        """
        Exactly *n* bytes of a storage. Errors as :meth:`StorageReader.read`.
        """
        try:
            return self._reader.read(storage, first, n)
        except OSError as error:
            raise CheckpointError(f"{visible(storage.file)} can't be read: {error.strerror}") from error

    def chunks(self, storage: Storage, first: int, n: int) -> Iterator[Chunk]:
        """
        The same bytes to be written: a range of the file where it holds them as they are.
        """
        if not n:
            return
        if storage.offset is None:
            for start in range(first, first + n, _AT_ONCE):
                yield self.read(storage, start, min(_AT_ONCE, first + n - start))
        elif first < 0 or first + n > storage.nbytes:
            self.read(storage, first, n)  # which says what is wrong
        else:
            yield FileRange(self._descriptor(storage.file), storage.offset + first, n, storage.file)

    def are_equal(self, one: tuple[Storage, int, int], other: tuple[Storage, int, int]) -> bool:
        """
        Do two ranges of storages (first byte, their number) hold the same bytes?
        """
        count = one[2]
        return count == other[2] and all(
            self.read(one[0], one[1] + start, min(_AT_ONCE, count - start))
            == self.read(other[0], other[1] + start, min(_AT_ONCE, count - start))
            for start in range(0, count, _AT_ONCE)
        )

    def check(self) -> None:
        """
        Nothing has happened to the files.

        Raises:
            CheckpointError: A file was written to, replaced or removed meanwhile.
        """
        for path in _there(self._states):
            if _state(os.stat(path)) != self._states[path]:
                raise _changed(path)

    def _descriptor(self, path: str) -> int:
        descriptor = self._open.get(path)
        if descriptor is None:
            while len(self._open) >= MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise TargetError(f"{visible(path)} cannot be opened: {error.strerror}") from error
            self._open[path] = descriptor
            if _state(os.fstat(descriptor)) != self._states[path]:
                raise _changed(path)
        self._open.move_to_end(path)
        return descriptor


def _there(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if not os.path.exists(path):
            raise TargetError(f"{visible(path)}: no such file or directory, and the plan takes from it")
        yield path


def _state(status: os.stat_result) -> _State:
    return _State(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _changed(path: str) -> CheckpointError:
    return CheckpointError(
        f"{visible(path)} has changed since it was opened",
        details=("nothing was written",),
        hint="run it again once nobody writes to it",
    )


def _storages_in(path: str) -> set[Storage]:
    checkpoint = _headers(path)
    rows = [row for table in checkpoint.tables.values() for row in table]
    return {storage for row in rows for storage, _ in row.storages()}


def _headers(path: str) -> Checkpoint:
    try:
        return open_file(path, path)
    except UnrecognisedFileError:
        # It may be one whose format a person said.
        found = next(filter(None, (_read_as(form.name, path) for form in FORMATS)), None)
        if found is None:
            raise
        return found


def _read_as(form: str, path: str) -> Checkpoint | None:
    try:
        return open_file(path, path, form)
    except CheckpointError:
        return None
