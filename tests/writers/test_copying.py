"""
Ranges of files into another: every byte, by the faster way, and errors that name the right file.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelinspect.errors import CheckpointError, DamagedFileError, TargetError
from modelinspect.writers import copying
from modelinspect.writers.copying import FileRange, Sink, is_at, put

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FileRange]:
    """All but the first and the last seven bytes of a megabyte."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    yield FileRange(descriptor, 7, len(CONTENT) - 14, str(path))
    os.close(descriptor)


def _copied(tmp_path: Path, *chunks: copying.Chunk) -> bytes:
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    told: list[int] = []
    with Sink(out, "out", told.append) as sink:
        count = sum(put(sink, chunk) for chunk in chunks)
        sink.finish()
    assert count == sink.written == sum(told) == os.fstat(out).st_size
    os.close(out)
    return (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("at_once", [1 << 16, 100_003, 1 << 30])
def test_chunks_of_all_kinds_in_their_order(
    at_once: int, source: FileRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short and long, from memory and from files, one after the other."""
    monkeypatch.setattr(copying, "_AT_ONCE", at_once)
    monkeypatch.setattr(copying, "_FLUSH_EVERY", 1 << 18)
    short = source._replace(offset=3, nbytes=5)
    chunks: list[copying.Chunk] = [
        b"head",
        source,
        short,
        bytearray(CONTENT),
        memoryview(b"ab"),
        source,
        short,
    ]
    wanted = b"".join(
        CONTENT[chunk.offset : chunk.offset + chunk.nbytes] if isinstance(chunk, FileRange) else bytes(chunk)
        for chunk in chunks
    )
    assert _copied(tmp_path, *chunks) == wanted
    stream = io.BytesIO()
    assert sum(put(stream, chunk) for chunk in chunks) == len(wanted)
    assert stream.getvalue() == wanted


def test_the_faster_way_is_taken(source: FileRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are tried; then only the one that took less time for its bytes."""
    monkeypatch.setattr(copying, "_AT_ONCE", 1 << 16)
    calls: list[str] = []
    clock = [0.0]

    def way(name: str, seconds: float) -> copying._Way:
        def copy(target: int, source: int, offset: int, count: int) -> int:
            calls.append(name)
            clock[0] += seconds
            return os.write(target, os.pread(source, count, offset))

        return copy

    monkeypatch.setattr(copying, "_ways", lambda: [way("slow", 2), way("fast", 1)])
    monkeypatch.setattr(copying, "perf_counter", lambda: clock[0])
    assert _copied(tmp_path, source) == CONTENT[7:-7]
    assert set(calls[:4]) == {"slow", "fast"}
    assert set(calls[4:]) == {"fast"}


def test_a_source_that_ends(source: FileRange, tmp_path: Path) -> None:
    """By either way: the byte at which it ends is named."""
    os.truncate(source.path, 500_000)
    with pytest.raises(DamagedFileError, match="ends at byte 500,000"):
        _copied(tmp_path, source)
    with pytest.raises(DamagedFileError, match="ends at byte 500,000"):
        put(io.BytesIO(), source)


def test_a_source_that_can_not_be_read(source: FileRange, tmp_path: Path) -> None:
    """Not the target is blamed."""
    write_only = os.open(source.path, os.O_WRONLY)
    with pytest.raises(CheckpointError, match="source can't be read: Bad file descriptor"):
        _copied(tmp_path, source._replace(descriptor=write_only))
    os.close(write_only)


def _put_all(descriptor: int, chunk: copying.Chunk) -> None:
    with Sink(descriptor, "out") as sink:
        put(sink, chunk)
        sink.finish()


def test_a_target_that_takes_no_more(source: FileRange, tmp_path: Path) -> None:
    """Not the source is blamed, by whichever way the bytes come."""
    (tmp_path / "out").write_bytes(b"")
    out = os.open(tmp_path / "out", os.O_RDONLY)
    for chunk in (source, source._replace(nbytes=9), b"bytes", CONTENT):
        with pytest.raises(TargetError, match="out cannot be written: Bad file"):
            _put_all(out, chunk)
    os.close(out)


def test_an_error_in_the_background_is_not_lost(
    source: FileRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of it once, to whoever flushes first."""

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(copying, "_FLUSH_EVERY", 1 << 17)
    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(TargetError, match="cannot be written: Input/output error"):
        _copied(tmp_path, source)


def test_comparing(source: FileRange, tmp_path: Path) -> None:
    """Equal bytes at a place; one byte more or less or another one is seen."""
    path = tmp_path / "other"
    path.write_bytes(b"xyz" + CONTENT[7:-7])
    other = os.open(path, os.O_RDWR)
    assert is_at(source, other, 3)
    assert not is_at(source, other, 2)
    assert not is_at(source, other, 4)  # it ends before
    for place in (3, 500_000, len(CONTENT) - 12):
        byte = os.pread(other, 1, place)
        os.pwrite(other, bytes([byte[0] ^ 1]), place)
        assert not is_at(source, other, 3)
        os.pwrite(other, byte, place)
    assert is_at(source._replace(nbytes=0), other, 0)
    os.close(other)
