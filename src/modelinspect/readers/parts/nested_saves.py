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
from modelinspect.readers.parts.legacy_layout import begins_as_legacy, read_legacy
from modelinspect.readers.parts.numpy_arrays import encoded_text
from modelinspect.readers.parts.pickle_symbols import Blob, Call, Global, PersistentId, Pickle, PlacedBytes
from modelinspect.readers.parts.torch_objects import HeldStorage
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
    """The pickles inside, for the names in them; of equal ones the first."""


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
    found = Saves({}, [])
    pending = [(pickle, source, 0)]
    known: dict[int, Any] = {}
    seen_names: set[tuple[str, str]] = {(name.module, name.name) for name in pickle.globals}
    while pending:
        outer, place, depth = pending.pop()
        for call in outer.calls:
            if type(call.func) is not Global or call.func.dotted != _LOADS or not _has_argument(call):
                continue
            data = call.args[0]
            if id(data) not in known:
                if depth >= _MAX_DEPTH:
                    raise LimitError(
                        f"{visible(target)} claims more than is read",
                        details=(f"files inside byte strings, more than {_MAX_DEPTH} levels deep",),
                    )
                inner = _source(data, place)
                save = None if inner is None else _read(inner, f"{target}: a file inside its pickle", found)
                # The byte string is kept, so that no other gets its number.
                known[id(data)] = data, None if save is None else save.value
                if save is not None and inner is not None:
                    names = {(name.module, name.name) for name in save.globals}
                    if not names <= seen_names:
                        seen_names |= names
                        found.pickles.append(save)
                    if any(name.dotted == _LOADS for name in save.globals):
                        pending.append((save, inner, depth + 1))
            value = known[id(data)][1]
            if value is not None:
                call.args = (value,)
    return found


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


def _read(inner: ByteSource, target: str, found: Saves) -> Pickle | None:
    """The pickle of a file inside, its storages bound; None where it is no such file."""
    if not begins_as_legacy(inner.read_upto(0, min(_HEAD, inner.size))):
        return None
    save = read_legacy(inner, target)
    if save is None or any(name.module.startswith("numpy") for name in save.pickles[0].globals):
        return None
    number = len(found.held)
    for pid in save.pickles[0].pids:
        _rename(pid, number)
    for key, held in save.held.items():
        found.held[f"{number} {key}"] = held
    return save.pickles[0]


def _rename(pid: PersistentId, number: int) -> None:
    """Keys are those of the file inside: another may have the same."""
    if type(pid.meaning) is tuple and type(pid.meaning[0]) is Storage:
        storage, *rest = pid.meaning
        key = f"{storage.key[:80]} of file {number:,} in the pickle"
        pid.meaning = (storage._replace(key=key), *rest)
