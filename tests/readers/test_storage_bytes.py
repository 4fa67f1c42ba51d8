"""Bytes of storages: ranges of files, opened when needed, bounded and counted."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from modelinspect.errors import CheckpointError, DamagedFileError, TargetError
from modelinspect.readers.parts.storage_bytes import MAX_OPEN_FILES, StorageReader
from modelinspect.readers.source import ByteSource, open_local
from modelinspect.tensors import Storage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of the bytes 0 to 99."""
    path = tmp_path / "data"
    path.write_bytes(bytes(range(100)))
    return path


def test_ranges_count_from_the_start_of_the_storage(path: Path) -> None:
    """Byte 2 of a storage that begins at byte 10 is byte 12 of the file; bytes are counted."""
    with StorageReader() as reader:
        assert reader.read(Storage(str(path), "w", 10, 20), 2, 3) == bytes([12, 13, 14])
        assert reader.bytes_read == 3


@pytest.mark.parametrize(("first", "n"), [(0, 21), (20, 1), (-1, 2), (3, -1)])
def test_nothing_is_read_beyond_a_storage(path: Path, first: int, n: int) -> None:
    """Also where the file goes on."""
    with StorageReader() as reader, pytest.raises(DamagedFileError, match="20 bytes"):
        reader.read(Storage(str(path), "w", 10, 20), first, n)


def test_a_file_that_ends_early_says_so(path: Path) -> None:
    """A storage that claims more than the file holds."""
    with StorageReader() as reader, pytest.raises(DamagedFileError, match="truncated"):
        reader.read(Storage(str(path), "w", 90, 20), 0, 20)


def test_a_file_that_is_gone_says_so(tmp_path: Path) -> None:
    """Between reading the header and the values somebody may remove a shard."""
    with StorageReader() as reader, pytest.raises(TargetError, match="no such file"):
        reader.read(Storage(str(tmp_path / "gone"), "w", 0, 4), 0, 4)


def test_few_files_are_open_at_a_time(path: Path, tmp_path: Path) -> None:
    """A thousand shards don't use up the process's files; bytes of closed ones still count."""
    opened: list[ByteSource] = []

    def opening(name: str) -> ByteSource:
        opened.append(open_local(str(path)))
        return opened[-1]

    with StorageReader(opening) as reader:
        for number in range(3 * MAX_OPEN_FILES):
            reader.read(Storage(f"shard {number}", "w", 0, 4), 0, 4)
        assert sum(source._descriptor >= 0 for source in opened) == MAX_OPEN_FILES  # type: ignore[attr-defined]
        assert reader.bytes_read == 3 * MAX_OPEN_FILES * 4
    assert all(source._descriptor < 0 for source in opened)  # type: ignore[attr-defined]


def test_compressed_records_are_unpacked(tmp_path: Path) -> None:
    """A checkpoint that somebody packed again with compression holds the same bytes."""
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("root/data.pkl", b"x")
        archive.writestr("root/data/0", bytes(range(100)))
        archive.writestr("root/data/1", bytes(50))
    with StorageReader() as reader:
        assert reader.read(Storage(str(path), "root/data/0", None, 100), 97, 3) == bytes([97, 98, 99])
        assert reader.read(Storage(str(path), "root/data/1", None, 50), 0, 50) == bytes(50)
        with pytest.raises(DamagedFileError, match="100 bytes, not 99"):
            reader.read(Storage(str(path), "root/data/0", None, 99), 0, 1)
        with pytest.raises(CheckpointError, match="do not lie in a file"):
            reader.read(Storage(str(path), "array 1 in the pickle", None, 4), 0, 4)


def test_memory_is_no_file() -> None:
    """The storage of a live model can't be read here."""
    with StorageReader() as reader, pytest.raises(CheckpointError, match="do not lie in a file"):
        reader.read(Storage("", "1", None, 4), 0, 4)
