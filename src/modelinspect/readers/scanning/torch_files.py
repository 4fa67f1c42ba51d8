"""
Layouts of torch that are more than pickles: what stands between and behind them, and whether the
sizes that pickles claim are those of what is there.
"""

from __future__ import annotations

from typing import Any

from modelinspect.errors import visible
from modelinspect.readers.parts.pickle_symbols import Global, Pickle
from modelinspect.readers.parts.torch_objects import STORAGE_TYPES, read_claim
from modelinspect.readers.parts.zip_directory import ZipDirectory
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.source import ByteSource

__all__ = ["MAGIC_NUMBER", "between", "check_records", "end_of_storages", "is_nothing"]

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGES, TENSORS = "tar storages", "tar tensors"
_MAX_LIES = 10
_MAX_STORAGES = 10_000_000


def between(item: Item, number: int, pickle: Pickle) -> int:
    """
    Bytes between a pickle and the next one, in the tar layout of torch 0.1.

    ``storages`` holds their number, then for each (key, location, type), int64 numel and the data;
    ``tensors`` their number, then for each (key, storage, type), int32 axes, 4 bytes, int64 sizes,
    int64 strides, int64 offset (torch 2.13, ``_legacy_load``).
    """
    value, source, end = pickle.value, item.source, pickle.end
    if not number or type(value) is not tuple or len(value) != 3:
        return 0
    if item.context == STORAGES:
        numel = int.from_bytes(source.read_upto(end, 8), "little")
        return 8 + numel * _itemsize(value[2])
    if item.context == TENSORS:
        axes = int.from_bytes(source.read_upto(end, 4), "little")
        return 16 + 16 * axes
    return 0


def _itemsize(kind: Any) -> int:
    known = STORAGE_TYPES.get(kind.name) if type(kind) is Global else None
    return 1 if known is None else known[1]


def end_of_storages(scan: Scan, item: Item, pickles: list[Pickle]) -> int | None:
    """
    Where the storages of the layout before torch 1.6 end; None where these pickles are not that.

    Args:
        scan: Takes what is found.
        item: Holds them.
        pickles: The first five.
    """
    if len(pickles) < 5 or pickles[0].value != MAGIC_NUMBER:
        return None
    keys, source = pickles[4].value, item.source
    if type(keys) is not list or len(keys) > _MAX_STORAGES:
        return None
    claims: dict[str, tuple[int, int]] = {}
    for pid in pickles[3].pids:
        claim = read_claim(pid.pid)
        if not isinstance(claim, str):
            claims.setdefault(claim.key, (claim.numel, claim.nbytes))
    at, lies = pickles[4].end, 0
    for key in keys:
        numel, nbytes = claims.get(str(key), (0, 0)) if type(key) in (str, int) else (0, 0)
        if at + 8 + nbytes > source.size:
            text = f"its storages end at byte {at + 8 + nbytes:,} or later, the file has {source.size:,}"
            scan.find(item, "size-lie", text, min(at, source.size))
            return source.size
        found = int.from_bytes(source.read(at, 8), "little")
        if found != numel and lies < _MAX_LIES:
            lies += 1
            shown = visible(str(key)[:80])
            text = f"storage {shown} has {found:,} elements, the pickle claims {numel:,}"
            scan.find(item, "size-lie", text, at)
        at += 8 + nbytes
    return at


def check_records(scan: Scan, item: Item, directory: ZipDirectory, pickle: Pickle) -> None:
    """Do the records of a torch archive hold as many bytes as the pickle claims?"""
    seen: set[object] = set()
    lies = 0
    for pid in pickle.pids:
        claimed = pid.pid
        if _is_sized(claimed):
            # Of one key a second type or size is a claim of its own.
            if (claimed[2], id(claimed[1]), claimed[4]) in seen:
                continue
            seen.add((claimed[2], id(claimed[1]), claimed[4]))
        claim = read_claim(claimed)
        if isinstance(claim, str):
            text = claim
        else:
            name = directory.root + b"/data/" + claim.key.encode("utf-8", "surrogatepass")
            number = directory.find(name)
            size = None if number is None else directory.sizes[number]
            if size == claim.nbytes or (size is None and claim.device == "meta"):
                continue
            there = "is not there" if size is None else f"holds {size:,} bytes"
            text = f"record data/{visible(claim.key)} {there}, the pickle claims {claim.nbytes:,}"
        lies += 1
        if lies > _MAX_LIES:
            scan.find(item, "more", "more records are not of the size that the pickle claims")
            return
        scan.find(item, "size-lie", text)


def _is_sized(pid: Any) -> bool:
    """Has it a text for a key and a number of elements, both quick to hash?"""
    if type(pid) is not tuple or len(pid) < 5:
        return False
    return type(pid[2]) is str and type(pid[4]) is int and pid[4].bit_length() <= 64


def is_nothing(source: ByteSource, at: int) -> bool:
    """Only zeros from there on, of which a page may be left at the end of a file."""
    left = source.size - at
    return left <= 1 << 16 and not source.read_upto(at, left).strip(b"\0")
