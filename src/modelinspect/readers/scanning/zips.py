"""
Every record of a zip archive, and what its readers disagree about.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from modelinspect.errors import CheckpointError, visible
from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.parts.zip_directory import Record, ZipDirectory, read_directory
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.kinds import PICKLE_SUFFIXES, TEXT_SUFFIXES, kind_of, may_be_pickle
from modelinspect.readers.scanning.parts import Part
from modelinspect.readers.scanning.records import check_sum, open_record
from modelinspect.readers.scanning.spaces import look_at_local_records, look_between
from modelinspect.readers.scanning.torch_files import check_records
from modelinspect.readers.source import ByteSource

__all__ = ["look_at_zip"]

_BATCH = 4096
_END = 22
_SEVERAL = ".distcp"
_BEFORE = "archive at byte 0"
_HEAD = 16
_MAX_NAMES = 10
_TORCH = ("torch.save archive", "TorchScript archive", "torch.export archive", "torch.package archive")
_CONTEXTS = {
    "torch.save archive": "torch",
    "TorchScript archive": "script",
    "torch.package archive": "package",
}


def look_at_zip(scan: Scan, item: Item) -> None:
    """An archive of any kind."""
    if scan.file.endswith(_SEVERAL) and not item.depth:
        item = _last_of_several(scan, item)
    source = item.source if not item.begin else Part(item.source, item.begin, item.source.size - item.begin)
    try:
        directory = read_directory(source)
    except CheckpointError as error:
        reason = error.details[0] if error.details else error.message
        scan.find(item, "zip-damaged", reason)
        scan.looked(item, "zip archive", why="its directory is damaged: by its local headers")
        look_at_local_records(scan, item, source, 0, source.size)
        return
    what = _what_it_is(directory)
    first = _archive_before(scan, item, directory)
    for text, rule in zip(directory.disagreements, directory.rules):
        if (rule != "zip-roots" or what in _TORCH) and (rule != "zip-prefix" or not first):
            scan.find(item, rule, text)
    scan.looked(item, what)
    _check_names(scan, item, directory)
    _Records(scan, item, directory, what).look()
    look_between(scan, item, directory, first)


def _archive_before(scan: Scan, item: Item, directory: ZipDirectory) -> int:
    """
    Hand on the archive that ends where this one begins; gives the byte where that is, else 0.
    """
    first, source = min(directory.headers), directory.source
    if not _ends_at(source, first):
        return 0
    text = "another archive ends where this one begins: loaders that read from the front read that"
    scan.find(item, "polyglot", text, first)
    record = item.record.rpartition("archive before")[0] + f"archive before byte {first}"
    scan.push(item._replace(source=_stretch(source, 0, first), record=record, begin=0, after=None))
    return first


def _last_of_several(scan: Scan, item: Item) -> Item:
    """
    The last archive of a file of torch.distributed.checkpoint, as if it were alone; hands on those before it.

    Such a file is one archive behind the other, each of which is loaded by itself (FORMATS: DCP).
    """
    try:
        first = min(read_directory(item.source, last_of_several=True).headers)
    except CheckpointError:
        return item
    if not _ends_at(item.source, first):
        return item
    scan.push(item._replace(source=_stretch(item.source, 0, first), record=_BEFORE, is_archive=True))
    last = _stretch(item.source, first, item.source.size - first)
    return item._replace(source=last, record=f"archive at byte {first}", is_archive=True)


def _ends_at(source: ByteSource, at: int) -> bool:
    return at >= _END and source.read(at - _END, 4) == b"PK\5\6"


def _stretch(source: ByteSource, start: int, size: int) -> Part:
    """Bytes of a source; of a stretch of another one those, so that thousands don't lie inside each other."""
    if isinstance(source, Part):
        return Part(source.outer, source.start + start, size)
    return Part(source, start, size)


def _what_it_is(directory: ZipDirectory) -> str:
    root = directory.root + b"/" if directory.root else b""
    known = (
        (b"constants.pkl", "TorchScript archive"),
        (b"data.pkl", "torch.save archive"),
        (b"archive_format", "torch.export archive"),
        (b".data/extern_modules", "torch.package archive"),
        (b"serialized_exported_program.json", "torch.export archive"),
        (b"model.weights.h5", "Keras archive"),
    )
    for name, what in known:
        if directory.find(root + name) is not None:
            return what
    is_npz = all(name.endswith(b".npy") for name in directory.names)
    return "NumPy archive" if is_npz else "zip archive"


def _check_names(scan: Scan, item: Item, directory: ZipDirectory) -> None:
    found = 0
    for name in directory.names:
        if b".." in name or name[:1] in (b"/", b"\\") or name[1:2] == b":":
            parts = name.replace(b"\\", b"/").split(b"/")
            if b".." in parts or not parts[0] or name[1:2] == b":":
                found += 1
                if found > _MAX_NAMES:
                    return
                shown = visible(name[:100].decode("utf-8", "backslashreplace"))
                scan.find(item, "path-escape", f"unpacking it writes outside the folder: {shown}")


class _Kept(NamedTuple):
    """Records that are numbers or text, of which only the beginning was read."""

    records: int
    nbytes: int


class _Records:
    """The records of one archive."""

    def __init__(self, scan: Scan, item: Item, directory: ZipDirectory, what: str) -> None:
        self.scan = scan
        self.item = item
        self.directory = directory
        self.what = what
        self.context = _CONTEXTS.get(what, "")
        self.main = directory.find(directory.root + b"/data.pkl") if self.context == "torch" else None
        self.checksums: list[int] | None = None
        self.has_script = False

    def look(self) -> None:
        """Hand on what is more than numbers."""
        records = nbytes = 0
        for first in range(0, len(self.directory), _BATCH):
            kept = self._batch(range(first, min(first + _BATCH, len(self.directory))))
            records += kept.records
            nbytes += kept.nbytes
        if records:
            shown = Part(self.directory.source, 0, nbytes)
            self.scan.looked(
                self.item.inside(shown, "*"),
                "data",
                into=False,
                why="only how each record begins; checksums of data not checked",
                records=records,
            )
        if self.has_script:
            self.scan.find(self.item, "script-code", "it holds TorchScript, which torch compiles and runs")

    def _batch(self, numbers: range) -> _Kept:
        directory, records, nbytes = self.directory, 0, 0
        places = [(directory.data[n], min(_HEAD, directory.packed[n])) for n in numbers]
        heads = directory.source.read_each(places, "the beginning of a record")
        for number, head in zip(numbers, heads):
            is_stored = directory.marks[number][2:] == b"\0\0"
            is_numbers = is_stored and _is_data(directory.names[number], head, directory.sizes[number])
            if is_numbers or self._hand_on(number, directory.record(number)):
                records += 1
                nbytes += directory.sizes[number]
        return _Kept(records, nbytes)

    def _hand_on(self, number: int, record: Record) -> bool:
        """Let a record be looked into; True where it is but numbers, which compression hid."""
        lowered = record.name.lower()
        if self.context == "script" and "/code/" in lowered and lowered.endswith(".py"):
            self.has_script = True
            return False
        before = len(self.scan.findings)
        inner = open_record(self.scan, self.item, self.directory, record)
        if inner is None:
            return len(self.scan.findings) == before
        is_pickle = lowered.endswith(PICKLE_SUFFIXES)
        part = self.item.inside(inner, record.name, context=self.context, is_pickle=is_pickle)
        if is_pickle or not isinstance(inner, Part):
            self._check_sum(number, part, inner)
        after = self._check_records if number == self.main else None
        self.scan.push(part._replace(after=after))
        return False

    def _check_sum(self, number: int, part: Item, inner: ByteSource) -> None:
        if self.checksums is None:
            self.checksums = self.directory.checksums()
        check_sum(self.scan, part, inner, self.checksums[number])

    def _check_records(self, pickle: Pickle) -> None:
        check_records(self.scan, self.item, self.directory, pickle)


def _is_data(name: bytes, head: bytes, size: int) -> bool:
    """Neither its name nor its first bytes say that it is anything but numbers."""
    if not head:
        return True
    if name.lower().endswith(_SUFFIXES) or may_be_pickle(head) or kind_of(head, size):
        return False
    return size < _TAR_BLOCK or _NAME_OF_MEMBER.fullmatch(head) is None


# A tar archive begins with the name of its first member.
_NAME_OF_MEMBER = re.compile(rb"[ -~]+\0*")
_TAR_BLOCK = 512
_SUFFIXES = tuple(suffix.encode() for suffix in (*PICKLE_SUFFIXES, *TEXT_SUFFIXES))
