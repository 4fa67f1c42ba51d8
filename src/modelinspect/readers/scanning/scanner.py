"""
Look into a file, whatever it is, and into what lies in it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from modelinspect.errors import CheckpointError
from modelinspect.readers.scanning.budget import Budget, TooLongError
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.kinds import HEAD_BYTES, PICKLE_SUFFIXES, is_text, kind_of, may_be_pickle
from modelinspect.readers.scanning.parts import Part
from modelinspect.readers.scanning.pickles import look_at_pickles
from modelinspect.readers.source import ByteSource

__all__ = ["UNKNOWN", "scan_source"]

# Kind to the module and function that look into it: (scan, item) -> None.
_LOOK: dict[str, tuple[str, str]] = {
    "zip": ("zips", "look_at_zip"),
    "tar": ("tars", "look_at_tar"),
    "npy": ("arrays", "look_at_array"),
    "gzip": ("streams", "look_at_gzip"),
    "bzip2": ("streams", "look_at_bzip2"),
    "xz": ("streams", "look_at_xz"),
    "zlib": ("streams", "look_at_zlib"),
    "safetensors": ("headers", "look_at_safetensors"),
    "gguf": ("headers", "look_at_gguf"),
    "HDF5": ("headers", "look_at_hdf5"),
}
UNKNOWN = "no format that is known begins so"
_CLOSED = ("Zstandard", "7-Zip", "RAR", "LZ4")
_END_OF_ZIP = 22 + 0xFFFF
_LOCATOR64, _END64 = 20, 56


def scan_source(source: ByteSource, name: str, record: str = "") -> Scan:
    """
    Everything that is in a file.

    Args:
        source: The file.
        name: As reports are to call it.
        record: Of an archive that the file is taken out of.

    Returns:
        What was found; ``looked_at`` is empty where the file is nothing that is known.
    """
    scan = Scan(name, Budget(source.size))
    scan.push(Item(source, record, is_pickle=name.lower().endswith(PICKLE_SUFFIXES)))
    while scan.waiting:
        item = scan.waiting.popleft()
        try:
            if not scan.budget.take(0):
                raise TooLongError("too many records", details=("more records than are looked into",))
            scan.budget.spend(HEAD_BYTES)
            look(scan, item)
        except TooLongError as error:
            scan.find(item, "not-looked-into", error.details[0])
            break
    if scan.has_more_names:
        text = f"more than {len(scan.names):,} names; the rest is not listed"
        scan.find(Item(source, record), "more", text)
    return scan


def look(scan: Scan, item: Item) -> None:
    """Look into one thing."""
    try:
        _look(scan, item)
    except TooLongError:
        raise
    except CheckpointError as error:
        reason = error.details[0] if error.details else error.message
        scan.find(item, "header", f"it can't be read to its end: {reason}")


def _look(scan: Scan, item: Item) -> None:
    source = item.source
    head = source.read_upto(item.begin, HEAD_BYTES)
    kind = "zip" if item.is_archive else kind_of(head, source.size - item.begin)
    if kind in _LOOK:
        _looker(kind)(scan, item)
    elif kind in _CLOSED:
        scan.find(item, "not-looked-into", f"{kind} archives are not unpacked here: unpack it and scan that")
        scan.looked(item, kind, into=False, why="not unpacked here")
    elif kind == "program":
        scan.find(item, "native-code", "it is a program or library for a processor")
        scan.looked(item, kind, into=False, why="not analysed")
    elif not ((item.is_pickle or may_be_pickle(head)) and look_at_pickles(scan, item)):
        _look_at_rest(scan, item, head)
    if item.depth == 0 and kind != "zip":
        _look_for_zip_at_end(scan, item)


def _looker(kind: str) -> Callable[[Scan, Item], None]:
    module, function = _LOOK[kind]
    found: Callable[[Scan, Item], None] = getattr(
        import_module(f"modelinspect.readers.scanning.{module}"), function
    )
    return found


def _look_at_rest(scan: Scan, item: Item, head: bytes) -> None:
    if item.context == "argument":
        return
    name = item.record or scan.file
    if not head:
        scan.looked(item, "empty")
    elif is_text(head):
        from modelinspect.readers.scanning.texts import look_at_text

        look_at_text(scan, item, name)
    elif name.lower().endswith(".onnx") or (head[:1] == b"\x08" and not item.depth):
        from modelinspect.readers.scanning.graphs import look_at_graph

        if not look_at_graph(scan, item, certain=name.lower().endswith(".onnx")):
            scan.looked(item, "data", into=False, why=UNKNOWN)
    else:
        scan.looked(item, "data", into=False, why=UNKNOWN)


def _look_for_zip_at_end(scan: Scan, item: Item) -> None:
    """A zip archive is found by its end: it may follow anything (FORMATS: polyglots)."""
    source = item.source
    start = max(0, source.size - _END_OF_ZIP)
    tail = source.read_upto(start, _END_OF_ZIP)
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - 18))
    if at < 0 or not _is_end_of_zip(source, tail[at : at + 22], start + at):
        return
    scan.find(item, "polyglot", "a zip archive ends where this file does: some loaders read that", start + at)
    whole = Part(source, 0, source.size)
    scan.push(item.inside(whole, "as a zip archive")._replace(is_archive=True))


def _is_end_of_zip(source: ByteSource, end: bytes, at: int) -> bool:
    """Four letters may be there by chance: a directory of the length that it says has to precede it."""
    length = int.from_bytes(end[12:16], "little")
    # torch writes the two records of large archives into every one (APPNOTE 4.3.14, 4.3.15).
    if source.read_upto(max(0, at - _LOCATOR64), 4) == b"PK\6\7":
        at -= _LOCATOR64 + _END64
        large = source.read_upto(max(0, at), _END64)
        if large[:4] == b"PK\6\6":
            length = int.from_bytes(large[40:48], "little")
    return 0 < length <= at and source.read_upto(at - length, 4) == b"PK\1\2"
