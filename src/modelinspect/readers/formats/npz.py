"""
NumPy archives (``np.savez``): a zip of arrays, stored or deflated.

As numpy 2.4 reads them (``numpy/lib/_npyio_impl.py``): a record is an array if it
begins as one, whatever its name; ``.npy`` at the end of a name is left out.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.parts.kinds import infer_kind, settled_by_siblings
from modelinspect.readers.parts.npy_header import HEAD_BYTES, MAGIC, NpyHeader, read_header
from modelinspect.readers.parts.zip_directory import DEFLATED, STORED, Record, ZipDirectory, read_directory
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint, FileInfo, ParameterTable, Storage, TensorInfo, unique_names

__all__ = ["read"]

_SUFFIX = ".npy"
_PIECE = 512
"""Compressed bytes at a time: a header takes some hundred."""
_MOST = 1 << 16
"""Compressed bytes that a header may take."""
_OF_TORCH = "torch refuses such a file"
_SHOWN = 6


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read the headers of all arrays of an archive; their numbers are not touched.

    Raises:
        NotThisFormat: It is a zip archive of something else.
        DamagedFileError: An array breaks a rule of the format or is truncated.
        LimitError: It claims more than a limit allows.
    """
    directory = read_directory(source)
    if not any(name.lower().endswith(b".npy") for name in directory.names) and not _begins_as_array(
        directory
    ):
        raise NotThisFormat("a zip archive that holds no NumPy array")
    found = _Found([], [], {}, set())
    for number in range(len(directory)):
        _read_record(directory, directory.record(number), found, target)
    rows = settled_by_siblings(unique_names(found.rows))
    return Checkpoint(
        source=target,
        format="npz",
        files=(FileInfo(source.path, source.size, source.bytes_read),),
        tables={"": ParameterTable(source=target, tensors=rows, origin="file", others=tuple(found.others))},
        roles={"": "model"},
        model_section="",
        notes=tuple(_notes(found, directory)),
        version=", ".join(sorted(found.versions)),
    )


class _Found(NamedTuple):
    """What the records of an archive are."""

    rows: list[TensorInfo]
    others: list[str]
    said: dict[str, list[str]]
    """What is to be said of elements, to the names of their arrays."""
    versions: set[str]


def _begins_as_array(directory: ZipDirectory) -> bool:
    first = directory.record(0)
    return first.method in (STORED, DEFLATED) and _start(directory, first, len(MAGIC)) == MAGIC


def _read_record(directory: ZipDirectory, record: Record, found: _Found, target: str) -> None:
    name = record.name.removesuffix(_SUFFIX)
    if record.method not in (STORED, DEFLATED):
        found.others.append(name)
        found.said.setdefault("compressed in a way that is not known here", []).append(name)
        return
    head = _start(directory, record, HEAD_BYTES)
    if head[:6] != MAGIC:
        if record.name.endswith(_SUFFIX):
            raise _damaged(record, target, "does not begin as a NumPy array")
        if not record.name.endswith("/"):
            found.others.append(name)
        return

    def part(at: int, n: int) -> bytes:
        piece = head[at : at + n] if at + n <= len(head) else _start(directory, record, at + n)[at:]
        if len(piece) != n:
            raise _damaged(record, target, "ends inside its header")
        return piece

    header = read_header(part, f"{target}: {record.name}")
    found.versions.add(header.version)
    if header.said:
        found.said.setdefault(header.said, []).append(name)
    if header.dtype is None:
        found.others.append(name)
    else:
        found.rows.append(_row(name, header, record, directory.source.path, target))


def _start(directory: ZipDirectory, record: Record, n: int) -> bytes:
    """The first *n* bytes of a record, fewer where it is shorter; little more is read or unpacked."""
    n = min(n, record.size)
    if record.method == STORED:
        return directory.source.read(record.data, n, f"record {record.name}")
    machine, unpacked, taken = zlib.decompressobj(-15), b"", 0
    most = min(record.packed, _MOST)
    while len(unpacked) < n and taken < most and not machine.eof:
        wanted = min(_PIECE, most - taken)
        packed = directory.source.read(record.data + taken, wanted, f"record {record.name}")
        taken += wanted
        try:
            unpacked += machine.decompress(packed, n - len(unpacked))
        except zlib.error as error:
            raise _damaged(record, directory.source.path, f"cannot be unpacked: {error}") from None
    return unpacked


def _row(name: str, header: NpyHeader, record: Record, path: str, target: str) -> TensorInfo:
    assert header.dtype is not None
    nbytes = header.nbytes or 0
    have = record.size - header.data
    if have != nbytes:
        raise _damaged(record, target, f"holds {have:,} bytes after its header, its shape takes {nbytes:,}")
    offset = record.data + header.data if record.method == STORED else None
    storage = Storage(path, record.name, offset, nbytes, "cpu", header.byteorder)
    kind = infer_kind(name.replace("/", "."), header.dtype, header.shape)
    return TensorInfo(name, header.dtype, header.shape, storage, header.stride, kind=kind)


def _notes(found: _Found, directory: ZipDirectory) -> list[str]:
    notes = [] if found.rows else ["it holds no tensor"]
    for said, names in found.said.items():
        listed = ", ".join(visible(name) for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        notes.append(f"the elements of {listed} are {said}")
    big = sum(row.storage is not None and row.storage.byteorder == "big" for row in found.rows)
    if big:
        notes.append(f"the numbers of {big:,} of its arrays are stored big-endian")
    return notes + [text for text in directory.disagreements if not text.endswith(_OF_TORCH)]


def _damaged(record: Record, target: str, reason: str) -> DamagedFileError:
    return DamagedFileError(
        f"{visible(target)} is damaged", details=(f"record {visible(record.name)} {reason}",)
    )
