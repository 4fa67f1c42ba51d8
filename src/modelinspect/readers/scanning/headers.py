"""
Formats without pickles: what their headers hide, and the templates and code that loaders run.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from modelinspect.errors import CheckpointError
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.parts import Part
from modelinspect.readers.scanning.texts import check_template
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint

__all__ = ["look_at_gguf", "look_at_hdf5", "look_at_safetensors"]

_MAX_HEADER = 1 << 26
_TEMPLATE = re.compile(rb"tokenizer\.chat_template[A-Za-z0-9_.]*(?=\x08\x00\x00\x00|\x00\x00\x00\x08)")
_MAX_TEMPLATES = 10
_MAX_TEMPLATE = 1 << 20
_CODE_IN_HDF5 = re.compile(rb'"class_name"\s*:\s*"(Lambda|__lambda__)"')
_ODD = ("twice", "more than once", "repeated", "duplicate", "last")


def look_at_safetensors(scan: Scan, item: Item) -> None:
    """A header of JSON: names that stand there twice, holes, sizes."""
    from modelinspect.readers.formats.safetensors import read

    _read(scan, item, "safetensors", read, _ODD)


def look_at_gguf(scan: Scan, item: Item) -> None:
    """The chat templates among its keys, each of which is a program."""
    from modelinspect.readers.formats.gguf import read

    source = _part(item)
    checkpoint = _read(scan, item, "GGUF", read, (*_ODD, "refuses"))
    if checkpoint is None:
        return
    offsets = [row.storage.offset for row in checkpoint.table if row.storage is not None]
    first = min((offset for offset in offsets if offset is not None), default=source.size)
    header = source.read(0, min(first, _MAX_HEADER, source.size))
    for found in list(_TEMPLATE.finditer(header))[:_MAX_TEMPLATES]:
        at = found.end()
        order = "little" if header[at] == 8 else "big"
        length = int.from_bytes(header[at + 4 : at + 12], order)  # type: ignore[arg-type]
        text = header[at + 12 : at + 12 + min(length, _MAX_TEMPLATE)]
        check_template(scan, item, text.decode("utf-8", "replace"))


def _part(item: Item) -> ByteSource:
    """The bytes of a file, or of what lies further on in one."""
    return Part(item.source, item.begin, item.source.size - item.begin) if item.begin else item.source


def _read(
    scan: Scan, item: Item, form: str, read: Callable[[ByteSource, str], Checkpoint], odd: tuple[str, ...]
) -> Checkpoint | None:
    """What a header says; one that can't be believed, and notes with a word of *odd*, are findings."""
    scan.looked(item, form)
    try:
        checkpoint = read(_part(item), item.record or scan.file)
    except CheckpointError as error:
        reason = error.details[0] if error.details else error.message
        scan.find(item, "header", f"its header can't be believed: {reason}")
        return None
    for note in checkpoint.notes:
        if any(word in note for word in odd):
            scan.find(item, "header", note)
    return checkpoint


def look_at_hdf5(scan: Scan, item: Item) -> None:
    """Not unpacked; Keras keeps a model's configuration as plain text in it."""
    scan.looked(item, "HDF5", into=False, why="its structure is not read here")
    size = min(_MAX_HEADER, item.source.size - item.begin)
    if _CODE_IN_HDF5.search(item.source.read(item.begin, size)):
        scan.find(item, "keras-lambda", "it holds a Keras Lambda layer, which is marshalled Python code")
    elif not (item.depth and item.record.endswith(".weights.h5")):
        text = "HDF5 is not looked into: it may hold links to other files, and Keras layers of Python code"
        scan.find(item, "not-looked-into", text)
