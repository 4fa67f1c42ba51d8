"""
A zip archive that torch wrote, whatever it holds: its pickles, its records of storages and what
the other records say of it.

``ROOT/byteorder`` says ``little`` or ``big`` (torch 2.1 and later), ``ROOT/version`` or
``ROOT/.data/version`` the archive's version; ROOT is the folder of the first record (torch 2.13,
``torch/serialization.py`` and ``caffe2/serialize/inline_container.cc``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from modelinspect.dtypes import DType
from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.parts.pickle_machine import Feed, read_pickle
from modelinspect.readers.parts.pickle_symbols import Global, PersistentId, Pickle
from modelinspect.readers.parts.torch_objects import STORAGE_TYPES, HeldStorage, read_claim
from modelinspect.readers.parts.zip_directory import STORED, Record, ZipDirectory
from modelinspect.tensors import Storage

__all__ = ["Place", "StorageRecords", "TorchArchive", "bind"]

ByteOrder = Literal["little", "big"]
Place = Callable[[str, int, str], "tuple[Storage, str | None]"]
"""Given key, bytes and device of a storage: where it is, and why it can't be used."""

_SHORT = 64
"""Characters of key and device that need no closer look."""
_VERSIONS = range(1, 11)
"""Of archives that torch 2.13 loads (caffe2/serialize/versions.h)."""
_MAX_TEXT = 64
"""Bytes of a record that says something short, such as the version."""
_SMALL_RECORDS = ((".storage_alignment", "storage alignment"), (".format_version", "format version"))
_new_storage = tuple.__new__  # half the time of calling the named tuple


class TorchArchive:
    """
    One archive.

    Args:
        directory: Of the zip archive.
        target: The file as the user spelt it.

    Raises:
        DamagedFileError: Its byte order is none.
    """

    def __init__(self, directory: ZipDirectory, target: str) -> None:
        self.directory = directory
        self.target = target
        self._check_beginning()
        self.root = directory.root
        self.byteorder = self._byteorder()
        self.version = self._version()
        """As its record has it; empty where there is none."""

    def _check_beginning(self) -> None:
        """
        What begins with records of another archive is the rest of one with archives inside, or several
        one behind the other. torch refuses both.
        """
        first = min(self.directory.headers, default=0)
        head = self.directory.source.read_upto(0, 30) if first else b""
        # A local header: its compression is one that zip archives know.
        if len(head) == 30 and head[:4] == b"PK\3\4" and head[8:10] in (b"\0\0", b"\x08\0"):
            raise DamagedFileError(
                f"{visible(self.target)} is truncated or damaged",
                details=(
                    f"{first:,} bytes of another zip archive stand before the one whose directory is there",
                ),
                hint="compare its size with the original; a download may have stopped early",
            )

    def has(self, name: str) -> bool:
        """Is there a record of that name below the root?"""
        return self._find(name) is not None

    def text(self, name: str) -> str:
        """A short record below the root; empty where there is none."""
        number = self._find(name)
        if number is None:
            return ""
        return self.directory.content(self.directory.record(number), _MAX_TEXT).decode("latin-1").strip()

    def pickle(self, name: str) -> tuple[Pickle, Record, list[str]]:
        """
        The pickle in a record below the root, the record and what there is to say.

        Raises:
            DamagedFileError: It is not there or makes no sense.
            LimitError: It claims more than a limit allows.
        """
        number = self._find(name)
        if number is None:
            raise DamagedFileError(f"{visible(self.target)} is damaged", details=(f"it has no {name}",))
        record = self.directory.record(number)
        packed = None if record.method == STORED else record.packed
        where = f"{self.target}: {record.name}"
        pickle = read_pickle(Feed(self.directory.opened(record), record.size, where, packed=packed))
        notes = []
        if pickle.end < record.size:
            notes.append(f"{record.size - pickle.end:,} bytes follow the pickle in {visible(record.name)}")
        return pickle, record, notes

    def facts(self) -> dict[str, str]:
        """What the small records say, for people."""
        facts: dict[str, str] = {}
        if self.has("byteorder"):
            facts["byte order"] = self.byteorder
        root = self.root.decode("utf-8", "backslashreplace")
        file = self.directory.source.path.rpartition("/")[2]
        if root not in (file, file.rpartition(".")[0], "archive"):
            facts["root"] = visible(root[:_MAX_TEXT])
        for name, title in (
            (".storage_alignment", "storage alignment"),
            (".format_version", "format version"),
        ):
            text = self.text(name)
            if text:
                facts[title] = visible(text)
        return facts

    def notes(self) -> list[str]:
        """What there is to say of the archive itself."""
        found = ["its numbers are stored big-endian"] if self.byteorder == "big" else []
        if not self.version:
            found.append("its archive has no record of its version: torch refuses such a file")
        elif not (self.version.isdecimal() and int(self.version) in _VERSIONS):
            found.append(
                f"its archive has version {visible(self.version)!r}: "
                f"torch loads {_VERSIONS[0]} to {_VERSIONS[-1]} and no other"
            )
        return found

    def generation(self) -> str:
        """
        Versions of torch whose writer leaves such records.

        ``byteorder`` and ``.data/serialization_id`` came with 2.1 (docs of torch.save), ``.format_version``
        with 2.7 (pytorch pull request 143879).
        """
        if self.has(".format_version"):
            return "torch 2.7 or later"
        if self.has("byteorder") or self.has(".data/serialization_id"):
            return "torch 2.1 or later"
        return "torch before 2.1"

    def _find(self, name: str) -> int | None:
        return self.directory.find(self.root + b"/" + name.encode("utf-8", "surrogatepass"))

    def _byteorder(self) -> ByteOrder:
        if not self.has("byteorder"):
            return "little"  # as torch takes it where the record is missing
        number = self._find("byteorder")
        assert number is not None
        text = self.directory.content(self.directory.record(number), 16)
        if text not in (b"little", b"big"):
            raise DamagedFileError(
                f"{visible(self.target)} is damaged",
                details=(f"its byte order is {visible(repr(text))}; little and big are known",),
            )
        return "big" if text == b"big" else "little"

    def _version(self) -> str:
        return next((text for name in (".data/version", "version") if (text := self.text(name))), "")


class StorageRecords:
    """
    Finds the records that storages are kept in, and remembers which were wanted.

    Args:
        archive: The archive.
        folder: Below its root, e.g. ``data``.
    """

    def __init__(self, archive: TorchArchive, folder: str) -> None:
        directory = archive.directory
        self.directory = directory
        self.sizes, self.marks, self.data = directory.sizes, directory.marks, directory.data
        self.order = archive.byteorder
        self.path = directory.source.path
        self.find = directory.find
        self.prefix = archive.root + b"/" + folder.encode() + b"/"
        self.folder = self.prefix.decode("utf-8", "backslashreplace")
        self.wanted: list[int] = []
        self.base = directory.source.base

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
        stored = self.marks[number][2:] == b"\0\0"
        offset = self.data[number] + self.base if stored and self.base is not None else None
        fault = None if size == nbytes else self._fault(shown, size, nbytes)
        return _new_storage(Storage, (self.path, shown, offset, size, device, self.order)), fault

    def _fault(self, shown: str, size: int, claimed: int) -> str:
        return f"record {visible(shown)} holds {size:,} bytes, the pickle claims {claimed:,}"

    def notes(self) -> list[str]:
        """Records of the folder that no storage refers to."""
        wanted, prefix = set(self.wanted), self.prefix.lower()
        sizes = [
            size
            for number, (name, size) in enumerate(zip(self.directory.names, self.sizes))
            if number not in wanted and size and name.lower().startswith(prefix)
        ]
        if not sizes:
            return []
        return [f"{len(sizes):,} of its records of data ({sum(sizes):,} bytes) belong to no tensor"]


def bind(pids: Iterable[PersistentId], place: Place) -> tuple[dict[str, HeldStorage], list[str]]:
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
