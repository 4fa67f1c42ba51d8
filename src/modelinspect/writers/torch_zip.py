"""
Write a state_dict as torch.save does: a zip archive of a pickle and one record a tensor.

Sources: torch 2.13 ``torch/serialization.py`` (``_save``), ``torch/_tensor.py``
(``_reduce_ex_internal``), ``caffe2/serialize/inline_container.cc`` and APPNOTE 6.3. Records
are stored, their bytes begin at multiples of 64, sizes and checksum follow each in a data
descriptor. The pickle is of protocol 2 and holds nothing but tensors, so that
``torch.load(weights_only=True)`` takes it. Standard library only.
"""

from __future__ import annotations

import json
import pickle
import struct
import zlib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from modelinspect.errors import UsageError, visible
from modelinspect.tensors import contiguous_stride
from modelinspect.writers.copying import Chunk, FileRange, Writable, pieces
from modelinspect.writers.entry import Entry

__all__ = ["write_torch_zip"]

_ROOT = "archive"
"""The folder in the archive; torch calls it so where it writes to no path."""
_ALIGNMENT = 64
_BATCH = 1000
"""Items of a dictionary that one opcode sets, as in the standard library."""
_MOST32, _MOST16 = 0xFFFFFFFE, 0xFFFE
"""Numbers up to here stand where zip had 32 and 16 bits for them ..."""
_WIDE32, _WIDE16 = 0xFFFFFFFF, 0xFFFF
"""... and here it says that they stand elsewhere, in 64."""

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_UTF8, _DESCRIPTOR = 0x800, 0x8
_VERSION_ZIP64 = 45

# Types that torch has without a storage class of their own come as untyped storages.
_UNTYPED = frozenset({
    "uint16", "uint32", "uint64", "complex32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "bits8", "bits16", "bits1x8", "bits2x4",
    "bits4x2",
})  # fmt: skip


def write_torch_zip(
    stream: Writable,
    tensors: Mapping[str, Entry],
    *,
    versions: Mapping[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """
    Write tensors, one at a time.

    Args:
        stream: Where to, at its beginning.
        tensors: Name to tensor, in the order of the state_dict. The same entry under two
            names is one tensor that has both.
        versions: Dotted path of a module to the version of its layout, for ``_metadata``.
        metadata: Texts for a record beside the tensors, ``extra/metadata.json``.

    Raises:
        UsageError: torch has no such data type, or a name can't be written.
        ValueError: The bytes of an entry are not as many as its shape takes.
    """
    entries = list({id(entry): entry for entry in tensors.values()}.values())
    for entry in entries:
        _check(entry)
    archive = _Archive(stream)
    archive.add("data.pkl", [_pickled(tensors, entries, versions or {})])
    archive.add(".format_version", [b"1"])
    archive.add(".storage_alignment", [str(_ALIGNMENT).encode()])
    archive.add("byteorder", [b"little"])
    if metadata:
        archive.add("extra/metadata.json", [json.dumps(dict(metadata), indent=1).encode()])
    for number, entry in enumerate(entries):
        archive.add(f"data/{number}", entry.read(), entry.nbytes)
    archive.add("version", [b"3\n"])
    archive.add(".data/serialization_id", [archive.identity()])
    archive.finish()


def _check(entry: Entry) -> None:
    if entry.dtype.torch_storage is None and entry.dtype.name not in _UNTYPED:
        raise UsageError(
            f"torch has no data type {entry.dtype.name}, which {visible(entry.name)!r} is of",
            hint="save as .safetensors",
        )
    if entry.dtype.category == "quantized":
        raise UsageError(f"{visible(entry.name)!r} is quantized, and its scale is not known here")


# ------------------------------------------------------------------------- the pickle


def _pickled(tensors: Mapping[str, Entry], entries: list[Entry], versions: Mapping[str, int]) -> bytes:
    keys = {id(entry): str(number) for number, entry in enumerate(entries)}
    writer = _Pickle()
    writer.ordered_dict()
    names = iter(tensors.items())
    while batch := list(islice(names, _BATCH)):
        writer.put(pickle.MARK)
        for name, entry in batch:
            writer.text(name)
            writer.tensor(entry, keys[id(entry)])
        writer.put(pickle.SETITEMS)
    if versions:
        writer.versions(versions)
    return writer.whole()


class _Pickle:
    """
    The few opcodes that a state_dict needs, of protocol 2.

    What comes more than once is remembered under a number, as the standard library's
    pickler does: names of functions and types, and tensors with two names.
    """

    def __init__(self) -> None:
        self._parts = [pickle.PROTO + b"\x02"]
        self._numbers: dict[object, int] = {}

    def put(self, *codes: bytes) -> None:
        """Opcodes as they are."""
        self._parts.extend(codes)

    def whole(self) -> bytes:
        """The finished pickle."""
        return b"".join([*self._parts, pickle.STOP])

    def ordered_dict(self) -> None:
        """An empty one."""
        self._global("collections", "OrderedDict")
        self.put(pickle.EMPTY_TUPLE, pickle.REDUCE)

    def text(self, text: str) -> None:
        """A text that comes once."""
        raw = text.encode("utf-8", "surrogatepass")
        self.put(pickle.BINUNICODE, struct.pack("<L", len(raw)), raw)

    def number(self, value: int) -> None:
        """A whole number of any size."""
        if 0 <= value < 1 << 8:
            self.put(pickle.BININT1, bytes([value]))
        elif 0 <= value < 1 << 16:
            self.put(pickle.BININT2, struct.pack("<H", value))
        elif -(1 << 31) <= value < 1 << 31:
            self.put(pickle.BININT, struct.pack("<l", value))
        else:
            raw = pickle.encode_long(value)
            self.put(pickle.LONG1, bytes([len(raw)]), raw)

    def tensor(self, entry: Entry, key: str) -> None:
        """A tensor whose storage is the record of that key."""
        if self._known(id(entry)):
            return
        untyped = entry.dtype.name in _UNTYPED
        self._global("torch._utils", "_rebuild_tensor_v3" if untyped else "_rebuild_tensor_v2")
        self.put(pickle.MARK)
        self._storage(entry, key, untyped)
        self.number(0)
        self._sizes(entry.shape)
        self._sizes(contiguous_stride(entry.shape))
        self.put(pickle.NEWFALSE)
        self.ordered_dict()
        if untyped:
            self._global("torch", entry.dtype.name)
        self.put(pickle.TUPLE, pickle.REDUCE)
        self._remember(id(entry))

    def versions(self, versions: Mapping[str, int]) -> None:
        """The attribute ``_metadata`` of the dictionary before."""
        self.put(pickle.EMPTY_DICT)
        self.text("_metadata")
        self.ordered_dict()
        for path, version in versions.items():
            self.text(path)
            self.put(pickle.EMPTY_DICT)
            self.text("version")
            self.number(version)
            self.put(pickle.SETITEM, pickle.SETITEM)
        self.put(pickle.SETITEM, pickle.BUILD)

    def _storage(self, entry: Entry, key: str, untyped: bool) -> None:
        self.put(pickle.MARK)
        self._repeated("storage")
        if untyped:
            self._global("torch.storage", "UntypedStorage")
        else:
            self._global("torch", str(entry.dtype.torch_storage))
        self.text(key)
        self._repeated("cpu")
        self.number(entry.nbytes if untyped else entry.nbytes // entry.dtype.itemsize)
        self.put(pickle.TUPLE, pickle.BINPERSID)

    def _sizes(self, sizes: Iterable[int]) -> None:
        self.put(pickle.MARK)
        for size in sizes:
            self.number(size)
        self.put(pickle.TUPLE)

    def _repeated(self, text: str) -> None:
        if not self._known(text):
            self.text(text)
            self._remember(text)

    def _global(self, module: str, name: str) -> None:
        if not self._known((module, name)):
            self.put(pickle.GLOBAL, f"{module}\n{name}\n".encode())
            self._remember((module, name))

    def _known(self, what: object) -> bool:
        number = self._numbers.get(what)
        if number is None:
            return False
        short = number < 1 << 8
        self.put(pickle.BINGET if short else pickle.LONG_BINGET, struct.pack("<B" if short else "<L", number))
        return True

    def _remember(self, what: object) -> None:
        number = self._numbers[what] = len(self._numbers)
        short = number < 1 << 8
        self.put(pickle.BINPUT if short else pickle.LONG_BINPUT, struct.pack("<B" if short else "<L", number))


# ------------------------------------------------------------------------ the archive


class _Record(NamedTuple):
    name: bytes
    flags: int
    checksum: int
    size: int
    offset: int
    """Of its local header."""


class _Archive:
    """Records one after the other, then the directory."""

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self._position = 0
        self._records: list[_Record] = []

    def add(self, name: str, chunks: Iterable[Chunk], size: int | None = None) -> None:
        """
        One record.

        Args:
            name: In the archive's folder.
            chunks: Its bytes.
            size: Their number; may be left out where the chunks are in memory.
        """
        if size is None:
            chunks = list(chunks)
            size = sum(len(chunk) for chunk in chunks)
        raw_name = f"{_ROOT}/{name}".encode()
        flags = _UTF8 | (_DESCRIPTOR if size else 0)
        offset = self._position
        self._write(_local_header(raw_name, flags, size, offset))
        checksum = self._write_checked(chunks)
        if self._position - size != _data_offset(raw_name, size, offset):
            raise ValueError(f"{name!r} takes {size} bytes, and others came")
        if size:
            sizes = struct.pack("<2Q" if size > _MOST32 else "<2L", size, size)
            self._write(b"PK\7\x08" + struct.pack("<L", checksum) + sizes)
        self._records.append(_Record(raw_name, flags, checksum, size, offset))

    def identity(self) -> bytes:
        """Forty digits that two archives share only where they hold the same."""
        names = zlib.crc32(b"\n".join(record.name for record in self._records))
        sums = b"".join(struct.pack("<LQ", record.checksum, record.size) for record in self._records)
        return f"{names:020d}{zlib.crc32(sums):020d}".encode()

    def finish(self) -> None:
        """The directory, and where it is."""
        start = self._position
        for record in self._records:
            self._write(_central_header(record))
        size, count = self._position - start, len(self._records)
        place = self._position
        self._write(
            _END64.pack(b"PK\6\6", 44, _VERSION_ZIP64, _VERSION_ZIP64, 0, 0, count, count, size, start)
        )
        self._write(_LOCATOR64.pack(b"PK\6\7", 0, place, 1))
        few = count if count <= _MOST16 else _WIDE16
        self._write(_END.pack(b"PK\5\6", 0, 0, few, few, _narrow(size), _narrow(start), 0))

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        self._stream.write(data)
        self._position += memoryview(data).nbytes

    def _write_checked(self, chunks: Iterable[Chunk]) -> int:
        checksum = 0
        for chunk in chunks:
            for piece in pieces(chunk) if isinstance(chunk, FileRange) else (chunk,):
                checksum = zlib.crc32(piece, checksum)
                self._write(piece)
        return checksum


def _data_offset(name: bytes, size: int, offset: int) -> int:
    """Where the bytes of a record begin whose local header is at *offset*: aligned."""
    least = offset + _LOCAL.size + len(name) + (20 if size > _MOST32 else 0) + 4
    return -(-least // _ALIGNMENT) * _ALIGNMENT


def _local_header(name: bytes, flags: int, size: int, offset: int) -> bytes:
    big = size > _MOST32
    extra = struct.pack("<2H2Q", 1, 16, size, size) if big else b""
    filling = _data_offset(name, size, offset) - offset - _LOCAL.size - len(name) - len(extra) - 4
    extra += b"FB" + struct.pack("<H", filling) + b"Z" * filling
    claimed = _WIDE32 if big else 0 if flags & _DESCRIPTOR else size
    version = _VERSION_ZIP64 if big else 0
    fixed = _LOCAL.pack(b"PK\3\4", version, flags, 0, 0, 0, 0, claimed, claimed, len(name), len(extra))
    return fixed + name + extra


def _central_header(record: _Record) -> bytes:
    wide = []
    big, far = record.size > _MOST32, record.offset > _MOST32
    if big:
        wide += [record.size, record.size]
    if far:
        wide.append(record.offset)
    extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    size, offset = _narrow(record.size), _narrow(record.offset)
    version = _VERSION_ZIP64 if wide else 0
    fixed = _CENTRAL.pack(
        b"PK\1\2", 0, version, record.flags, 0, 0, 0, record.checksum, size, size,
        len(record.name), len(extra), 0, 0, 0, 0, offset,
    )  # fmt: skip
    return fixed + record.name + extra


def _narrow(value: int) -> int:
    return value if value <= _MOST32 else _WIDE32
