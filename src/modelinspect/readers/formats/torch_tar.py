"""
What torch.save of torch 0.1 wrote (2016 and 2017): a tar archive of four files.

``storages``: a pickled number, for each storage a pickle of (key, device, type), the number of its
elements as int64 and the elements; then a pickled list of views (key, key of the storage, first
element, elements). ``tensors``: a pickled number, for each tensor a pickle of (key, key of the
storage, type), the number of axes as int32 and 4 bytes more, sizes, strides and offset as int64.
``pickle``: the object, which refers to tensors and storages by their keys. ``sys_info``: facts about
the machine (torch 2.13, ``_legacy_load`` in ``torch/serialization.py``). Keys were addresses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from modelinspect.dtypes import DType
from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.parts.pickle_machine import Feed, SparseFeed, read_pickle
from modelinspect.readers.parts.pickle_symbols import Call, Global, Pickle, PickledDict
from modelinspect.readers.parts.tar_directory import Member, read_members
from modelinspect.readers.parts.torch_checkpoint import assemble, global_names
from modelinspect.readers.parts.torch_objects import (
    STORAGE_TYPES,
    HeldStorage,
    TensorReader,
    saved_tensor,
)
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource, Window
from modelinspect.tensors import Checkpoint, GlobalName, Storage

__all__ = ["read"]

MAX_ENTRIES = 200_000
"""Storages, and tensors: each is a pickle of its own."""
MAX_KEY = 64
_MAX_AXES = 64
_NEEDED = ("storages", "tensors", "pickle")
_MOST = 1 << 63


class _Found(NamedTuple):
    """What is read of the archive, file by file."""

    source: ByteSource
    target: str
    members: dict[str, Member]
    names: dict[tuple[str, str], GlobalName]

    def part(self, name: str) -> tuple[ByteSource, Feed]:
        """One file of the archive, and a window over its pickles."""
        member = self.members[name]
        inner = Window(self.source, member.data, member.size)

        def fetch(at: int, n: int) -> bytes:
            return inner.read(at, n, f"member {name}")

        return inner, SparseFeed(fetch, member.size, f"{self.target}: {name}")

    def pickle(self, feed: Feed, begin: int, record: str) -> Pickle:
        """A pickle of a file; the names in it are kept."""
        pickle = read_pickle(feed, begin)
        new = [name for name in pickle.globals if (name.module, name.name) not in self.names]
        if new:
            TensorReader(self.target, new)  # gives them their meaning
            for name in global_names([pickle], self.source.path, record):
                self.names.setdefault((name.module, name.name), name)
        return pickle

    def damaged(self, reason: str) -> DamagedFileError:
        """The error for a file that makes no sense."""
        return DamagedFileError(f"{visible(self.target)} is truncated or damaged", details=(reason,))


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read the headers of the archive, its pickles and the headers of its storages.

    Raises:
        NotThisFormat: It is no such archive.
        DamagedFileError: It is truncated or makes no sense.
        LimitError: It claims more than a limit allows.
    """
    # Of two members with one name the last counts, as for tarfile.
    members = read_members(source, target)
    by_name = {member.name: member for member in members}
    missing = [name for name in _NEEDED if name not in by_name]
    if missing:
        raise NotThisFormat(f"a tar archive without {missing[0]}")
    found = _Found(source, target, by_name, {})
    for name in _NEEDED:
        if not by_name[name].is_file:
            raise found.damaged(f"member {name} is a link or something else that is no file: not followed")
    held, views = _storages(found)
    tensors = _tensors(found, {**held, **views})
    _, feed = found.part("pickle")
    main = read_pickle(feed)
    _bind(main, {**held, **views}, tensors)
    begin, more = by_name["pickle"].data, list(found.names.values())
    form = "torch-tar"
    checkpoint = assemble(source, target, form, [main], "pickle", held, _notes(members), begin, more)
    return replace(checkpoint, facts={**_facts(found), **checkpoint.facts})


def _count(found: _Found, pickle: Pickle, what: str) -> int:
    number = pickle.value
    if type(number) is not int or number < 0:
        raise found.damaged(f"its number of {what} is no number")
    if number > MAX_ENTRIES:
        raise LimitError(
            f"{visible(found.target)} claims more than is read",
            details=(f"{number:,} {what} (limit: {MAX_ENTRIES:,})",),
        )
    return number


def _storages(found: _Found) -> tuple[dict[str, HeldStorage], dict[str, HeldStorage]]:
    """The storages by their keys, and the views of them."""
    inner, feed = found.part("storages")
    pickle = found.pickle(feed, 0, "storages")
    held: dict[str, HeldStorage] = {}
    position = pickle.end
    for _ in range(_count(found, pickle, "storages")):
        entry = found.pickle(feed, position, "storages")
        key, device, dtype = _storage_entry(found, entry.value)
        head = inner.read(entry.end, 8, "the size of a storage")
        nbytes = int.from_bytes(head, "little") * dtype.itemsize
        begin = entry.end + 8
        if begin + nbytes > inner.size:
            raise inner.truncated(begin, nbytes, f"storage {key}")
        assert inner.base is not None
        storage = Storage(found.source.path, key, inner.base + begin, nbytes, device)
        held[key] = (storage, dtype, 0, nbytes, None)
        position = begin + nbytes
    return held, _views(found, found.pickle(feed, position, "storages").value, held)


def _storage_entry(found: _Found, entry: Any) -> tuple[str, str, DType]:
    if type(entry) is tuple and len(entry) == 3:
        key, device, kind = entry
        dtype, _ = STORAGE_TYPES.get(kind.name, (None, 0)) if type(kind) is Global else (None, 0)
        if _is_key(key) and type(device) is str and len(device) <= MAX_KEY and dtype is not None:
            return str(key), device, dtype
    raise found.damaged("a storage is no triple of key, device and type")


def _views(found: _Found, listed: Any, held: dict[str, HeldStorage]) -> dict[str, HeldStorage]:
    views: dict[str, HeldStorage] = {}
    if type(listed) is not list:
        raise found.damaged("its list of views is none")
    for view in listed:
        if type(view) is not tuple or len(view) != 4 or not all(map(_is_key, view[:2])):
            raise found.damaged("a view of a storage is no four numbers")
        key, root, first, numel = view
        if str(root) not in held or not _are_sizes((first, numel)):
            raise found.damaged("a view of a storage that is not there")
        storage, dtype, _, nbytes, _ = held[str(root)]
        assert dtype is not None
        begin, length = first * dtype.itemsize, numel * dtype.itemsize
        # A slice that reaches beyond the storage is cut to it, as Python's slices are.
        views[str(key)] = (storage, dtype, begin, max(0, min(length, nbytes - begin)), None)
    return views


def _tensors(found: _Found, storages: dict[str, HeldStorage]) -> dict[str, Call]:
    """The tensors by their keys, as calls that a reader of tensors understands."""
    inner, feed = found.part("tensors")
    pickle = found.pickle(feed, 0, "tensors")
    tensors: dict[str, Call] = {}
    position = pickle.end
    for _ in range(_count(found, pickle, "tensors")):
        entry = found.pickle(feed, position, "tensors")
        value = entry.value
        if type(value) is not tuple or len(value) != 3 or not all(map(_is_key, value[:2])):
            raise found.damaged("a tensor is no triple of key, storage and type")
        key, root, _ = value
        if str(root) not in storages:
            raise found.damaged("a tensor of a storage that is not there")
        size, stride, offset, position = _geometry(found, inner, entry.end)
        tensors[str(key)] = saved_tensor(storages[str(root)], offset, size, stride)
    return tensors


def _geometry(
    found: _Found, inner: ByteSource, begin: int
) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
    """Sizes, strides, offset, and the byte after them."""
    axes = int.from_bytes(inner.read(begin, 4, "the axes of a tensor"), "little", signed=True)
    if not 0 <= axes <= _MAX_AXES:
        raise found.damaged(f"a tensor of {axes:,} axes")
    length = 8 * (2 * axes + 1)
    numbers = struct.unpack(f"<{2 * axes + 1}q", inner.read(begin + 8, length, "the shape of a tensor"))
    if not _are_sizes(numbers):
        raise found.damaged("a tensor has a negative size, stride or offset")
    return numbers[:axes], numbers[axes:-1], numbers[-1], begin + 8 + length


def _bind(main: Pickle, storages: dict[str, HeldStorage], tensors: dict[str, Call]) -> None:
    """Give every reference of the object the tensor or the storage that it stands for."""
    find: Callable[[str], Any] = {**storages, **tensors}.get
    for pid in main.pids:
        key = pid.pid
        if type(key) is tuple:
            continue  # a class with its source: (class, file, source)
        text = key.strip() if type(key) is str else str(key) if type(key) is int else ""
        meaning = find(text[:MAX_KEY])
        missing = Storage("", "", None, 0), None, 0, 0, "a reference to a tensor that is not there"
        pid.meaning = saved_tensor(missing, 0, (), ()) if meaning is None else meaning


def _is_key(value: Any) -> bool:
    return (type(value) is int and abs(value) < _MOST) or (type(value) is str and len(value) <= MAX_KEY)


def _are_sizes(numbers: tuple[Any, ...]) -> bool:
    return all(type(number) is int and 0 <= number < _MOST for number in numbers)


def _notes(members: list[Member]) -> list[str]:
    known = (*_NEEDED, "sys_info")
    others = [member.name for member in members if member.name not in known]
    twice = [name for name in known if sum(member.name == name for member in members) > 1]
    notes = [f"it holds {name} more than once: the last is read, as torch does" for name in twice]
    if others:
        shown = ", ".join(visible(name[:80]) for name in others[:3])
        notes.append(f"its archive holds {len(others):,} other members that torch does not read: {shown}")
    return notes


def _facts(found: _Found) -> dict[str, str]:
    facts = {"written by": "torch 0.1"}
    member = found.members.get("sys_info")
    if member is None or not member.is_file:
        return facts
    _, feed = found.part("sys_info")
    value = read_pickle(feed).value
    pairs = value.pairs() if type(value) is PickledDict else ()
    said = {key: told for key, told in pairs if type(key) is str}
    if type(said.get("little_endian")) is bool:
        facts["saved on"] = f"a {'little' if said['little_endian'] else 'big'}-endian machine"
    return facts
