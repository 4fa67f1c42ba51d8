"""
The layout that torch.save wrote before 1.6: five pickles in a row, then the storages.

The pickles are a magic number, the layout's version, facts about the machine,
the object and the list of storage keys. For each key, in that order, follow
the number of elements (int64, little-endian) and the elements, which are
little-endian on every machine (torch 2.13, ``torch/serialization.py`` and
``torch/csrc/serialization.cpp``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.parts.pickle_machine import Feed, SparseFeed, read_pickle
from modelinspect.readers.parts.pickle_symbols import PersistentId, Pickle
from modelinspect.readers.parts.torch_objects import HeldStorage, StorageClaim, read_claim
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Storage

__all__ = ["LegacyHead", "LegacySave", "begins_as_legacy", "legacy_head", "read_legacy"]

# As LONG1; as decimal text in protocols 0 and 1.
_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_MAGIC_TEXT = b"L119547037146038801333356L"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LAYOUT_VERSION = 1001


class _Place(NamedTuple):
    """Where a storage lies."""

    offset: int
    """First byte of its elements."""
    fault: str | None


class LegacySave(NamedTuple):
    """What one such file holds."""

    pickles: list[Pickle]
    """All five, that of the object first."""
    held: dict[str, HeldStorage]
    """Storages by key; each is the meaning of its persistent ids."""
    notes: list[str]


def begins_as_legacy(head: bytes) -> bool:
    """Is it such a file, by its first 32 bytes?"""
    return _MAGIC in head[:32] or head.startswith(_MAGIC_TEXT)


class LegacyHead(NamedTuple):
    """The first three pickles, which in all files of one writer are the same."""

    raw: bytes
    pickles: tuple[Pickle, ...]


def read_legacy(source: ByteSource, target: str, like: LegacyHead | None = None) -> LegacySave | None:
    """
    Read the pickles and the storages' headers; no tensor's bytes are touched.

    Args:
        source: The file, or a part of one.
        target: Names it in errors.
        like: Of another part of the same file, whose first pickles need not be read again.

    Returns:
        None where it does not begin with the magic number.

    Raises:
        DamagedFileError: It is truncated or makes no sense.
        LimitError: It claims more than a limit allows.
    """
    feed = _feed(source, target)
    known = like is not None and source.read_upto(0, len(like.raw)) == like.raw
    head = like.pickles if like is not None and known else _head(feed, target)
    if not head:
        return None
    main = read_pickle(feed, head[-1].end)
    keys = read_pickle(feed, main.end)
    claims = _claims(main.pids)
    places, end = _lay_out(source, target, keys, claims)
    held = _bind(main.pids, source, places)
    notes = []
    if end < source.size:
        notes.append(f"{source.size - end:,} bytes follow its last storage")
    return LegacySave([main, *head, keys], held, notes)


def legacy_head(source: ByteSource, save: LegacySave) -> LegacyHead:
    """What the file begins with, for others like it."""
    head = save.pickles[1:-1]
    return LegacyHead(source.read_upto(0, head[-1].end), tuple(head))


def _feed(source: ByteSource, target: str) -> Feed:
    def fetch(at: int, n: int) -> bytes:
        return source.read(at, n, "a pickle")

    if source.base == 0:
        return Feed(fetch, source.size, target, eager=False)
    return SparseFeed(fetch, source.size, target)


def _head(feed: Feed, target: str) -> tuple[Pickle, ...]:
    """Magic number, version and facts of the machine; nothing where the first is another."""
    magic = read_pickle(feed)
    if magic.value != MAGIC_NUMBER:
        return ()
    version = read_pickle(feed, magic.end)
    if version.value != LAYOUT_VERSION:
        shown = version.value if type(version.value) is int else "something else"
        raise _damaged(target, f"its layout has version {shown}, {LAYOUT_VERSION} is known")
    return magic, version, read_pickle(feed, version.end)


def _claims(pids: Sequence[PersistentId]) -> dict[str, StorageClaim]:
    """The first claim of each key: the one that says how the storage was written."""
    claims: dict[str, StorageClaim] = {}
    for pid in pids:
        claim = read_claim(pid.pid)
        if not isinstance(claim, str):
            claims.setdefault(claim.key, claim)
    return claims


def _lay_out(
    source: ByteSource, target: str, keys: Pickle, claims: dict[str, StorageClaim]
) -> tuple[dict[str, _Place], int]:
    """Where each storage lies, and the byte after the last."""
    ordered = keys.value
    if type(ordered) is not list or not all(type(key) in (str, int) for key in ordered):
        raise _damaged(target, "its list of storages is no list of keys")
    position = keys.end
    starts: list[int] = []
    for key in map(str, ordered):
        if key not in claims:
            raise _damaged(
                target, f"storage {visible(key[:80])!r} is listed, and the object has no such storage"
            )
        starts.append(position)
        position += 8 + claims[key].nbytes
    # Headers first: a file that ends early still has those before its end.
    there = [start for start in starts if start + 8 <= source.size]
    headers = source.read_each([(start, 8) for start in there], "the size of a storage")
    sizes = [int.from_bytes(header, "little") for header in headers]
    places: dict[str, _Place] = {}
    for number, (key, start) in enumerate(zip(map(str, ordered), starts)):
        found = sizes[number] if number < len(sizes) else None
        places[key] = _Place(start + 8, _fault(key, claims[key], start, found, source.size))
    return places, position


def _fault(key: str, claim: StorageClaim, start: int, found: int | None, size: int) -> str | None:
    shown = visible(key[:80])
    if found is None or start + 8 + claim.nbytes > size:
        return (
            f"storage {shown!r} is cut off or missing: {claim.nbytes:,} bytes at byte {start + 8:,} "
            f"are needed, the file has {size:,} bytes"
        )
    if found != claim.numel:
        return f"storage {shown!r} has {found:,} elements in the file, the pickle claims {claim.numel:,}"
    return None


def _bind(
    pids: Sequence[PersistentId], source: ByteSource, places: dict[str, _Place]
) -> dict[str, HeldStorage]:
    """Give every persistent id its storage, or the part of one that it stands for."""
    held: dict[str, HeldStorage] = {}
    views: dict[str, HeldStorage] = {}
    for pid in pids:
        claim = read_claim(pid.pid)
        if isinstance(claim, str):
            pid.meaning = _unusable(pid.pid, claim)
            continue
        root = held.get(claim.key)
        if root is None:
            offset, fault = places.get(
                claim.key, (None, f"storage {visible(claim.key[:80])!r} is not listed")
            )
            if offset is not None:
                offset = None if source.base is None else source.base + offset
            storage = Storage(source.path, claim.key, offset, claim.nbytes, claim.device)
            root = held[claim.key] = (storage, claim.dtype, 0, claim.nbytes, fault)
        if claim.view is None:
            pid.meaning = root
            continue
        key, first, numel = claim.view
        if key not in views:
            views[key] = _view(root, first, numel)
        pid.meaning = views[key]
    return held


def _view(root: HeldStorage, first: int, numel: int) -> HeldStorage:
    """A part of a storage, which files of torch before 0.4 have: tensors count from its first element."""
    storage, dtype, _, held, fault = root
    itemsize = 1 if dtype is None else dtype.itemsize
    begin, nbytes = first * itemsize, numel * itemsize
    if fault is None and begin + nbytes > held:
        fault = f"a view reaches beyond storage {visible(storage.key[:80])!r}"
    return storage, dtype, begin, nbytes, fault


def _unusable(pid: Any, reason: str) -> HeldStorage | None:
    """What stands for no storage; classes are wrapped so too: ``("module", class, file, source)``."""
    if isinstance(pid, tuple) and pid and pid[0] == "module":
        return None
    return Storage("", "", None, 0), None, 0, 0, reason


def _damaged(target: str, reason: str) -> DamagedFileError:
    return DamagedFileError(f"{visible(target)} is truncated or damaged", details=(reason,))
