"""
Every record of a zip archive, and what its readers disagree about.
"""

from __future__ import annotations

from modelinspect.errors import CheckpointError
from modelinspect.readers.parts.zip_directory import ZipDirectory, read_directory
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.kinds import HEAD_BYTES, PICKLE_SUFFIXES, kind_of, may_be_pickle
from modelinspect.readers.scanning.parts import Part
from modelinspect.readers.scanning.records import open_record

__all__ = ["look_at_zip"]

_BATCH = 4096
_HEAD = 16


def look_at_zip(scan: Scan, item: Item) -> None:
    """An archive of any kind."""
    source = item.source if not item.begin else Part(item.source, item.begin, item.source.size - item.begin)
    try:
        directory = read_directory(source)
    except CheckpointError as error:
        reason = error.details[0] if error.details else error.message
        scan.find(item, "zip-damaged", reason)
        scan.looked(item, "zip archive", into=False, why=reason)
        return
    what = _what_it_is(directory)
    for text, rule in zip(directory.disagreements, directory.rules):
        if rule != "zip-roots" or what.startswith("torch"):
            scan.find(item, rule, text)
    scan.looked(item, what, names=0)
    _look_at_records(scan, item, directory, script=what == "TorchScript archive")


def _what_it_is(directory: ZipDirectory) -> str:
    root = directory.root + b"/"
    if directory.find(root + b"constants.pkl") is not None:
        return "TorchScript archive"
    if directory.find(root + b"data.pkl") is not None:
        return "torch.save archive"
    if directory.find(root + b"archive_format") is not None:
        return "torch.export archive"
    if directory.find(root + b".data/extern_modules") is not None:
        return "torch.package archive"
    return "zip archive"


def _look_at_records(scan: Scan, item: Item, directory: ZipDirectory, script: bool) -> None:
    source = directory.source
    plain = nbytes = 0
    for first in range(0, len(directory), _BATCH):
        numbers = range(first, min(first + _BATCH, len(directory)))
        places = [(directory.data[n], min(_HEAD, directory.packed[n])) for n in numbers]
        heads = source.read_each(places, "the beginning of a record")
        for number, head in zip(numbers, heads):
            name = directory.names[number]
            stored = directory.marks[number][2:] == b"\0\0"
            if stored and _is_data(name, head, directory.sizes[number]):
                plain += 1
                nbytes += directory.sizes[number]
                continue
            record = directory.record(number)
            is_pickle = record.name.lower().endswith(PICKLE_SUFFIXES)
            inner = open_record(scan, item, directory, record)
            if inner is not None:
                scan.push(item.inside(inner, record.name, script=script, is_pickle=is_pickle))
    if plain:
        records = Part(source, 0, 0)
        records.size = nbytes
        scan.looked(
            item.inside(records, "*"), "data", into=False, why="only how each record begins", records=plain
        )


def _is_data(name: bytes, head: bytes, size: int) -> bool:
    """Neither its name nor its first bytes say that it is anything but numbers or text."""
    if not head or name.lower().endswith(_SUFFIXES):
        return not head
    return not may_be_pickle(head) and not kind_of(head, size) and len(head) < HEAD_BYTES


_SUFFIXES = tuple(suffix.encode() for suffix in PICKLE_SUFFIXES)
