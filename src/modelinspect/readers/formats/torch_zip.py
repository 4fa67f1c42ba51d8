"""
What torch.save writes since 1.6: a zip archive of a pickle and one record a storage.

``ROOT/data.pkl`` is the object, ``ROOT/data/KEY`` the bytes of a storage,
``ROOT/byteorder`` says ``little`` or ``big``. ROOT is the folder of the
archive's first record (torch 2.13, ``torch/serialization.py`` and
``caffe2/serialize/inline_container.cc``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Literal

from modelinspect.dtypes import DType
from modelinspect.errors import DamagedFileError, ModelInspectError, visible
from modelinspect.readers.parts.pickle_machine import Feed, read_pickle
from modelinspect.readers.parts.pickle_symbols import Global, PersistentId, Pickle
from modelinspect.readers.parts.torch_checkpoint import assemble
from modelinspect.readers.parts.torch_objects import STORAGE_TYPES, HeldStorage, read_claim
from modelinspect.readers.parts.zip_directory import STORED, ZipDirectory, read_directory
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint, Storage

__all__ = ["read"]

ByteOrder = Literal["little", "big"]
Place = Callable[[str, int, str], "tuple[Storage, str | None]"]
"""Given key, bytes and device of a storage: where it is, and why it can't be used."""

_SHORT = 64
"""Characters of key and device that need no closer look."""
_VERSIONS = range(1, 11)
"""Of archives that torch 2.13 loads (caffe2/serialize/versions.h)."""
_OTHER_RECORDS = 64
"""More than torch puts beside the storages."""
_new_storage = tuple.__new__  # half the time of calling the named tuple


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read a torch zip archive; no tensor's bytes are touched.

    Raises:
        NotThisFormat: It is a zip archive of something else.
        DamagedFileError: It is truncated or makes no sense.
        LimitError: It claims more than a limit allows.
    """
    try:
        directory = read_directory(source)
    except DamagedFileError as error:
        raise _what_is_left(source, target, error) from error
    number = directory.find(directory.root + b"/data.pkl")
    if number is None or directory.find(directory.root + b"/constants.pkl") is not None:
        raise _what_it_is(directory)
    record = directory.record(number)
    packed = None if record.method == STORED else record.packed
    feed = Feed(directory.opened(record), record.size, f"{target}: {record.name}", packed=packed)
    pickle = read_pickle(feed)
    order = _byteorder(directory, target)
    records = _Records(directory, order)
    held, notes = _bind(pickle.pids, records.place)
    if pickle.end < record.size:
        notes.append(f"{record.size - pickle.end:,} bytes follow the pickle in {visible(record.name)}")
    if order == "big":
        notes.append("its numbers are stored big-endian")
    notes += [*records.notes(), *_version_note(directory), *directory.disagreements]
    return assemble(source, target, "torch-zip", [pickle], record.name, held, notes)


def _byteorder(directory: ZipDirectory, target: str) -> ByteOrder:
    number = directory.find(directory.root + b"/byteorder")
    if number is None:
        return "little"  # as torch takes it where the record is missing
    text = directory.content(directory.record(number), 16)
    if text not in (b"little", b"big"):
        raise DamagedFileError(
            f"{visible(target)} is damaged",
            details=(f"its byte order is {visible(repr(text))}; little and big are known",),
        )
    return "big" if text == b"big" else "little"


def _version_note(directory: ZipDirectory) -> list[str]:
    """What there is to say where torch refuses the archive's version."""
    places = (directory.find(directory.root + name) for name in (b"/.data/version", b"/version"))
    number = next((place for place in places if place is not None), None)
    if number is None:
        return ["its archive has no record of its version: torch refuses such a file"]
    text = directory.content(directory.record(number), 24).strip()
    if text.isdigit() and int(text) in _VERSIONS:
        return []
    shown = visible(text.decode("latin-1"))
    return [f"its archive has version {shown!r}: torch loads {_VERSIONS[0]} to {_VERSIONS[-1]} and no other"]


class _Records:
    """Finds the records that storages are kept in, and remembers which were wanted."""

    def __init__(self, directory: ZipDirectory, order: ByteOrder) -> None:
        self.directory = directory
        self.sizes, self.marks, self.data = directory.sizes, directory.marks, directory.data
        self.order = order
        self.path = directory.source.path
        self.find = directory.find
        self.prefix = directory.root + b"/data/"
        self.folder = self.prefix.decode("utf-8", "backslashreplace")
        self.wanted: list[int] = []

    def place(self, key: str, nbytes: int, device: str) -> tuple[Storage, str | None]:
        """The storage of a key, and why it can't be used."""
        shown = self.folder + key
        number = self.find(self.prefix + key.encode("utf-8", "surrogatepass"))
        if number is None:
            # Old versions saved meta tensors with a storage and no bytes.
            fault = None if device == "meta" else f"record {visible(shown)} is missing"
            return Storage(self.path, shown, None, nbytes, device, self.order), fault
        self.wanted.append(number)
        size = self.sizes[number]
        offset = self.data[number] if self.marks[number][2:] == b"\0\0" else None
        fault = None if size == nbytes else self._fault(shown, size, nbytes)
        return _new_storage(Storage, (self.path, shown, offset, size, device, self.order)), fault

    def _fault(self, shown: str, size: int, claimed: int) -> str:
        return f"record {visible(shown)} holds {size:,} bytes, the pickle claims {claimed:,}"

    def notes(self) -> list[str]:
        """Records of data that no storage refers to."""
        wanted, prefix = set(self.wanted), self.prefix.lower()
        sizes = [
            size
            for number, (name, size) in enumerate(zip(self.directory.names, self.sizes))
            if number not in wanted and size and name.lower().startswith(prefix)
        ]
        if not sizes:
            return []
        return [f"{len(sizes):,} of its records of data ({sum(sizes):,} bytes) belong to no tensor"]


def _bind(pids: Iterable[PersistentId], place: Place) -> tuple[dict[str, HeldStorage], list[str]]:
    """
    Give every persistent id its storage.

    torch reads a storage where it is first named; a later id of the same key
    gets that one, whatever type it claims.
    """
    held: dict[str, HeldStorage] = {}
    notes: list[str] = []
    types: dict[object, tuple[DType | None, int]] = {}
    for pid in pids:
        claim = pid.pid
        # Almost every id is of one form, for which read_claim is too thorough.
        if type(claim) is tuple and len(claim) == 5:
            _, kind, key, device, numel = claim
            if (
                type(kind) is Global
                and kind in types
                and type(key) is type(device) is str
                and type(numel) is int
                and len(key) + len(device) < _SHORT
            ):
                dtype, itemsize = types[kind]
                nbytes = numel * itemsize
                if key not in held and claim[0] == "storage" and nbytes >= 0:
                    storage, fault = place(key, nbytes, device)
                    pid.meaning = held[key] = (storage, dtype, 0, nbytes, fault)
                    continue
        checked = read_claim(claim)
        if isinstance(checked, str):
            pid.meaning = (Storage("", "", None, 0), None, 0, 0, checked)
            continue
        types[claim[1]] = STORAGE_TYPES[claim[1].name]
        key, dtype, _, nbytes, device, _ = checked
        known = held.get(key)
        if known is None:
            storage, fault = place(key, nbytes, device)
            known = held[key] = (storage, dtype, 0, nbytes, fault)
        elif (dtype is not known[1] or nbytes != known[3]) and not notes:
            notes.append(f"storage {visible(key)} is named with two types or sizes; torch takes the first")
        pid.meaning = known
    return held, notes


# -- zip archives of something else ------------------------------------------------------


def _what_it_is(directory: ZipDirectory) -> NotThisFormat:
    """What the archive looks like instead."""
    whole = set(directory.names)
    inner = {name.partition(b"/")[2] for name in directory.names}
    for marks, names, title, hint in _OTHER_ARCHIVES:
        if marks <= (whole if names == "whole" else inner):
            return NotThisFormat(title, really=title, hint=hint)
    if all(name.endswith(b".npy") for name in whole):
        return NotThisFormat("a NumPy archive", really="a NumPy archive (.npz)", hint="numpy.load reads it")
    inside = [name for name in directory.names if name.endswith((b".pt", b".pth", b".ckpt", b".safetensors"))]
    if inside:
        shown = visible(inside[0].decode("utf-8", "backslashreplace")[:80])
        title = f"a zip archive with {shown} inside"
        return NotThisFormat(title, really=title, hint="unpack it with unzip first")
    return NotThisFormat("a zip archive without data.pkl in its first folder")


# What such an archive holds, in which folder, what it is called, what to do.
_OTHER_ARCHIVES = (
    ({b"constants.pkl"}, "inner", "a TorchScript archive (torch.jit.save)", "torch.jit.load reads it"),
    ({b"archive_format"}, "inner", "a torch.export archive (.pt2)", "torch.export.load reads it"),
    (
        {b"serialized_exported_program.json"},
        "whole",
        "a torch.export archive (.pt2)",
        "torch.export.load reads it",
    ),
    ({b".data/extern_modules"}, "inner", "a torch.package archive", "torch.package.PackageImporter reads it"),
    ({b"metadata.json", b"config.json"}, "whole", "a Keras model (.keras)", "keras reads it"),
    ({b"[Content_Types].xml"}, "whole", "an Office document", None),
    ({b"META-INF/MANIFEST.MF"}, "whole", "a Java archive", None),
)


# -- archives without their end ----------------------------------------------------------


def _what_is_left(source: ByteSource, target: str, error: DamagedFileError) -> DamagedFileError:
    """
    Say which tensor is the first that a truncated archive lacks.

    The pickle is the first record and ends itself, so it is mostly whole; the
    storages follow in the order in which it names them.
    """
    details = error.details
    try:
        pickle, end = _first_pickle(source, target)
        claims = [
            claim for claim in (read_claim(pid.pid) for pid in pickle.pids) if not isinstance(claim, str)
        ]
        sizes = {claim.key: claim.nbytes for claim in reversed(claims)}
        whole = _whole_records(source, end, sizes)
        details = (*details, f"its pickle is whole, and so are {len(whole):,} of the {len(sizes):,} storages")

        def place(key: str, nbytes: int, device: str) -> tuple[Storage, str | None]:
            fault = None if key in whole else f"record data/{visible(key)} is cut off or missing"
            return Storage(source.path, key, None, nbytes, device), fault

        assemble(source, target, "torch-zip", [pickle], "data.pkl", _bind(pickle.pids, place)[0], ())
    except ModelInspectError as missing:
        details = (*details, *missing.details)
    return DamagedFileError(error.message, details=details, hint=error.hint)


def _whole_records(source: ByteSource, position: int, sizes: dict[str, int]) -> set[str]:
    """
    Keys of the storages that are there to their last byte, from *position* on.

    Local headers follow each other with short records and marks in between,
    so the next one is never far.
    """
    whole: set[str] = set()
    for _ in range(len(sizes) + _OTHER_RECORDS):
        window = source.read_upto(position, 512)
        at = window.find(b"PK\3\4")
        if at < 0 or len(window) < at + 30:
            break
        name_bytes, extra_bytes = struct.unpack_from("<2H", window, at + 26)
        key = window[at + 30 : at + 30 + name_bytes].decode("utf-8", "replace").partition("/data/")[2]
        position += at + 30 + name_bytes + extra_bytes
        if key in sizes:
            position += sizes[key]
            if position > source.size:
                break
            whole.add(key)
    return whole


def _first_pickle(source: ByteSource, target: str) -> tuple[Pickle, int]:
    """The pickle of the record at the start of the file, and the byte after it."""
    head = source.read(0, 30, "the first local header")
    name_bytes, extra_bytes = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    name = source.read(30, name_bytes, "the first record's name")
    method = int.from_bytes(head[8:10], "little")
    if not name.endswith(b"/data.pkl") or method != STORED or head[:4] != b"PK\3\4":
        raise DamagedFileError(f"{visible(target)} is a damaged zip archive")
    start = 30 + name_bytes + extra_bytes
    feed = Feed(lambda at, n: source.read(start + at, n), source.size - start, f"{target}: data.pkl", False)
    pickle = read_pickle(feed)
    return pickle, start + pickle.end
