"""
What torch.save writes since 1.6: a zip archive of a pickle and one record a storage.

``ROOT/data.pkl`` is the object, ``ROOT/data/KEY`` the bytes of a storage,
``ROOT/byteorder`` says ``little`` or ``big``. ROOT is the folder of the
archive's first record (torch 2.13, ``torch/serialization.py`` and
``caffe2/serialize/inline_container.cc``).
"""

from __future__ import annotations

import struct
from dataclasses import replace

from modelinspect.errors import DamagedFileError, ModelInspectError, visible
from modelinspect.readers.parts.pickle_machine import Feed, read_pickle
from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.parts.torch_archive import StorageRecords, TorchArchive, bind
from modelinspect.readers.parts.torch_checkpoint import assemble
from modelinspect.readers.parts.torch_objects import read_claim
from modelinspect.readers.parts.zip_directory import STORED, ZipDirectory, read_directory
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint, Storage

__all__ = ["read"]

_OTHER_RECORDS = 64
"""More than torch puts beside the storages."""


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
    if directory.find(directory.root + b"/data.pkl") is None or _is_another(directory):
        raise _what_it_is(directory)
    archive = TorchArchive(directory, target)
    pickle, record, notes = archive.pickle("data.pkl")
    records = StorageRecords(archive, "data")
    held, twice = bind(pickle.pids, records.place)
    notes = [*twice, *notes, *archive.notes(), *records.notes(), *directory.disagreements]
    checkpoint = assemble(source, target, "torch-zip", [pickle], record.name, held, notes, record.offset)
    facts = {**archive.facts(), "written by": archive.generation()}
    return replace(checkpoint, version=archive.version, facts={**facts, **checkpoint.facts})


def _is_another(directory: ZipDirectory) -> bool:
    """Is it an archive that has a data.pkl and is of another kind: TorchScript?"""
    return directory.find(directory.root + b"/constants.pkl") is not None


# -- zip archives of something else ------------------------------------------------------


def _what_it_is(directory: ZipDirectory) -> NotThisFormat:
    """What the archive looks like instead."""
    whole = set(directory.names)
    inner = {name.partition(b"/")[2] for name in directory.names}
    for marks, names, title, hint in _OTHER_ARCHIVES:
        if marks <= (whole if names == "whole" else inner):
            return NotThisFormat(title, really=title, hint=hint)
    inside = [name for name in directory.names if name.endswith((b".pt", b".pth", b".ckpt", b".safetensors"))]
    if inside:
        shown = visible(inside[0].decode("utf-8", "backslashreplace")[:80])
        title = f"a zip archive with {shown} inside"
        return NotThisFormat(title, really=title, hint="unpack it with unzip first")
    return NotThisFormat("a zip archive without data.pkl in its first folder")


# What such an archive holds, in which folder, what it is called, what to do.
_OTHER_ARCHIVES = (
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

        assemble(source, target, "torch-zip", [pickle], "data.pkl", bind(pickle.pids, place)[0], ())
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
