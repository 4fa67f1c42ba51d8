"""
Whole files of torch.save inside byte strings of a pickle.

What pickles a tensor without torch.save, such as ``pickle.dump(model.state_dict(), file)``, gets
each storage as ``torch.storage._load_from_bytes(bytes)``, and the bytes are what torch.save makes
of that storage, in the layout of before 1.6 (torch 2.13, ``TypedStorage.__reduce__`` in
``torch/storage.py``). Two tensors of one storage become two storages so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from modelinspect.errors import LimitError, visible
from modelinspect.readers.parts.legacy_layout import LegacyHead, begins_as_legacy, legacy_head, read_legacy
from modelinspect.readers.parts.numpy_arrays import encoded_text
from modelinspect.readers.parts.pickle_symbols import Blob, Call, Global, PersistentId, Pickle, PlacedBytes
from modelinspect.readers.parts.torch_objects import HeldStorage, TensorReader
from modelinspect.readers.source import ByteSource, Unpacked, Window
from modelinspect.tensors import Storage

__all__ = ["Saves", "load_saves"]

_MAX_DEPTH = 4
"""Files inside files; torch makes one level."""
_MAX_HEADER = 1 << 20
"""Bytes at the start of a text to decode: of a storage's file all but its numbers are some hundred."""
_HEAD = 64
_LOADS = "torch.storage._load_from_bytes"


class Saves(NamedTuple):
    """What the byte strings hold."""

    held: dict[str, HeldStorage]
    """Storages by a key of their own."""
    pickles: list[Pickle]
    """The pickles inside that name what no other does."""
    closed: int
    """Byte strings that the pickle has loaded and that are no such file, so nobody looked into them."""


def load_saves(pickle: Pickle, source: ByteSource, target: str) -> Saves:
    """
    Read the files in a pickle's byte strings, and give each call that loads one what it gives.

    Args:
        pickle: Its calls of ``_load_from_bytes`` are changed: their argument is then what the file
            holds, mostly a storage.
        source: What the pickle was read from, at its first byte.
        target: The file as the user spelt it.

    Raises:
        DamagedFileError: A file inside is broken.
        LimitError: They lie too deep in each other.
    """
    return _Loader(target).load(pickle, source)


class _Loader:
    def __init__(self, target: str) -> None:
        self.target = target
        self.found = Saves({}, [], 0)
        self.closed = 0
        self.head: LegacyHead | None = None
        self.names: set[tuple[str, str]] = set()
        self.known: dict[int, tuple[Any, Any]] = {}
        """Number of a byte string to itself, so that no other gets its number, and what it holds."""
        self.pending: list[tuple[Pickle, ByteSource, int]] = []

    def load(self, pickle: Pickle, source: ByteSource) -> Saves:
        """Walk the pickle, then those inside, never recursively."""
        self.pending.append((pickle, source, 0))
        while self.pending:
            outer, place, depth = self.pending.pop()
            if not any(name.dotted == _LOADS for name in outer.globals):
                continue
            for call in outer.calls:
                if type(call.func) is Global and call.func.dotted == _LOADS and _has_argument(call):
                    self._load_one(call, place, depth)
        return self.found._replace(closed=self.closed)

    def _load_one(self, call: Call, outer: ByteSource, depth: int) -> None:
        data = call.args[0]
        if id(data) not in self.known:
            if depth >= _MAX_DEPTH:
                raise LimitError(
                    f"{visible(self.target)} claims more than is read",
                    details=(f"files inside byte strings, more than {_MAX_DEPTH} levels deep",),
                )
            self.known[id(data)] = data, self._read(_source(data, outer), depth)
        value = self.known[id(data)][1]
        if value is not None:
            call.args = (value,)
        else:
            self.closed += 1

    def _read(self, inner: ByteSource | None, depth: int) -> Any:
        """The object of a file inside, its storages bound; None where it is no such file."""
        if inner is None or not begins_as_legacy(inner.read_upto(0, _HEAD)):
            return None
        save = read_legacy(inner, f"{self.target}: a file inside its pickle", self.head)
        if save is None:
            return None
        self.head = self.head or legacy_head(inner, save)
        pickle = save.pickles[0]
        names = {(name.module, name.name) for name in pickle.globals}
        if not names <= self.names:
            self.names |= names
            self.found.pickles.append(pickle)
        if any(name.module.startswith("numpy") for name in pickle.globals):
            return None  # an array's place would be told by the wrong first byte
        number = len(self.found.held)
        for pid in pickle.pids:
            _rename(pid, number)
        for key, held in save.held.items():
            self.found.held[f"{number} {key}"] = held
        if type(pickle.value) is not PersistentId:
            TensorReader(self.target, pickle.globals)  # gives them their meaning
        self.pending.append((pickle, inner, depth + 1))
        return pickle.value


def _has_argument(call: Call) -> bool:
    return type(call.args) is tuple and len(call.args) == 1


def _source(data: Any, outer: ByteSource) -> ByteSource | None:
    """The bytes of a file inside, as a source; None where there are none."""
    if type(data) is PlacedBytes:
        inner = Unpacked(outer.path, bytes(data))
        inner.base = None if outer.base is None else outer.base + data.position
        return inner
    if type(data) is Blob and data.kind in ("text", "bytes"):
        # A text of Python 2 is bytes, too.
        return Window(outer, data.position, data.nbytes)
    text = encoded_text(data)
    if type(text) is str:
        return Unpacked(outer.path, text.encode("latin-1", "replace"))
    if type(text) is Blob:
        return _Latin1(outer, text)
    return None


class _Latin1(ByteSource):
    """
    Bytes that a long text of protocol 0 to 2 stands for, a character a byte: in the file UTF-8, or
    Latin-1 with escapes.

    How many there are only reading all of it could tell; the size is what it can be at most.
    """

    base: int | None = None

    def __init__(self, outer: ByteSource, text: Blob) -> None:
        super().__init__(outer.path, text.nbytes)
        self._outer = outer
        self._text = text

    def _fetch(self, offset: int, n: int) -> bytes:
        end = offset + n
        if end > _MAX_HEADER:
            return b""
        if self._text.kind == "text":
            raw = self._outer.read_upto(self._text.position, min(2 * end, self._text.nbytes))
            text = raw.decode("utf-8", "ignore")
        else:
            raw = self._outer.read_upto(self._text.position, min(6 * end + 6, self._text.nbytes))
            text = raw.decode("raw-unicode-escape", "ignore")
        return text.encode("latin-1", "replace")[offset:end]


def _rename(pid: PersistentId, number: int) -> None:
    """Keys are those of the file inside: another may have the same."""
    if type(pid.meaning) is tuple and type(pid.meaning[0]) is Storage:
        storage, *rest = pid.meaning
        key = f"{storage.key[:80]} of file {number:,} in the pickle"
        pid.meaning = (storage._replace(key=key), *rest)
