"""
What the ``.metadata`` of torch.distributed.checkpoint says, from its pickle's symbols.

It is a pickled ``Metadata`` (torch 2.13, ``torch/distributed/checkpoint/metadata.py`` and
``filesystem.py``): ``state_dict_metadata`` maps a name to a ``TensorStorageMetadata``
(properties, size, chunks) or to a ``BytesStorageMetadata``; ``storage_data`` maps a
``MetadataIndex`` (name, offsets) to a ``_StorageInfo`` (relative path, offset, length);
``planner_data`` maps a name to its path in the nested state_dict. With one file for each
rank (``__0.metadata``), each says what that rank saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, NoReturn

from modelinspect.dtypes import BY_NAME, DType
from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.parts.chunks import Shape, span_of
from modelinspect.readers.parts.pickle_symbols import Call, Global, Pickle, PickledDict

__all__ = ["KNOWN_GLOBALS", "Chunk", "ChunkedTensor", "Description", "Place", "describe"]

FREE_WORK = 1_000_000
"""Chunks, axes and steps of paths that any checkpoint may list; and one more for every byte."""
FREE_ENTRIES = 100_000
BYTES_PER_ENTRY = 64
"""Tensors and objects that any checkpoint may name, and one more for so many bytes: torch writes 150."""
MAX_NAME = 4_096
MAX_AXES = 64
MAX_SAID = 200
"""Characters of a text about the checkpoint itself."""
_MOST = 1 << 63

_MODULE = "torch.distributed.checkpoint.metadata."
KNOWN_GLOBALS = frozenset({
    *(_MODULE + name for name in (
        "Metadata", "TensorStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING",
        "BytesStorageMetadata", "ChunkStorageMetadata", "MetadataIndex", "StorageMeta",
    )),
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
    "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
})  # fmt: skip
"""Names that an honest ``.metadata`` holds: plain data, nothing of which does more when loaded."""


class Place(NamedTuple):
    """Where something was written: an archive of its own inside a file."""

    path: str
    """Of the file, in the folder."""
    offset: int
    length: int
    transforms: tuple[str, ...] = ()
    """What its bytes went through, e.g. a compression."""


class Chunk(NamedTuple):
    """One piece of a tensor."""

    offsets: Shape
    sizes: Shape
    place: Place


@dataclass(slots=True)
class ChunkedTensor:
    """A tensor as the whole checkpoint has it, and its pieces."""

    dtype: DType
    size: Shape
    requires_grad: bool
    chunks: list[Chunk]


@dataclass
class Description:
    """All that the metadata of a checkpoint says."""

    tensors: dict[str, ChunkedTensor] = field(default_factory=dict)
    objects: dict[str, Place | None] = field(default_factory=dict)
    """Anything else, each pickled on its own; None where no file is named for it."""
    paths: dict[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Name to its keys in the nested state_dict; numbers are those of lists."""
    order: list[str] = field(default_factory=list)
    version: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    repeated: int = 0
    """Pieces that several ranks saved, each for itself."""

    def places(self) -> Iterator[Place]:
        """Where everything is."""
        for tensor in self.tensors.values():
            for chunk in tensor.chunks:
                yield chunk.place
        yield from (place for place in self.objects.values() if place is not None)

    def add(self, other: Description) -> None:
        """Put in what another rank saved."""
        for name, tensor in other.tensors.items():
            known = self.tensors.setdefault(name, tensor)
            if known is tensor:
                continue
            have = {(chunk.offsets, chunk.sizes) for chunk in known.chunks}
            new = [chunk for chunk in tensor.chunks if (chunk.offsets, chunk.sizes) not in have]
            self.repeated += len(tensor.chunks) - len(new)
            known.chunks.extend(new)
            known.size = max(known.size, tensor.size)
        for name, place in other.objects.items():
            self.objects.setdefault(name, place)
        self.order = list(dict.fromkeys([*self.order, *other.order]))
        self.paths = {**other.paths, **self.paths}
        self.facts = {**other.facts, **self.facts}


def describe(pickle: Pickle, where: str) -> Description:
    """
    Read a ``.metadata``.

    Args:
        pickle: Of the file.
        where: Names the file in errors.

    Raises:
        DamagedFileError: It is no such object, or contradicts itself.
        LimitError: It leads to more than one of its size may.
    """
    return _Reading(where, pickle.end).read(pickle.value)


class _Reading:
    """One file's objects, which may share each other at will: so all work is counted."""

    def __init__(self, where: str, nbytes: int) -> None:
        self.where = where
        self.most = self.left = FREE_WORK + nbytes
        self.most_entries = FREE_ENTRIES + nbytes // BYTES_PER_ENTRY
        self.found = Description()
        self.places: dict[tuple[str, Shape | None], Place] = {}

    def read(self, root: Any) -> Description:
        fields = self.fields(root)
        entries = fields.get("state_dict_metadata")
        if type(entries) is not PickledDict:
            self.damaged("it holds no state_dict_metadata")
        if len(entries.flat) // 2 > self.most_entries:
            raise self.too_many(f"names (limit: {self.most_entries:,})")
        if type(storages := fields.get("storage_data")) is PickledDict:
            self.storages(storages)
        for name, value in self.pairs(entries):
            self.entry(self.name(name), value)
        if type(planner := fields.get("planner_data")) is PickledDict:
            self.paths(planner)
        version = fields.get("version")
        self.found.version = visible(version) if type(version) is str and len(version) <= MAX_SAID else ""
        self.found.facts = dict(self.said(fields.get("storage_meta")))
        return self.found

    def entry(self, name: str, value: Any) -> None:
        """A tensor or an object of the state_dict."""
        fields = self.fields(value)
        if name in self.found.tensors or name in self.found.objects:
            return
        self.found.order.append(name)
        if "chunks" not in fields:
            self.found.objects[name] = self.places.get((name, None))
            return
        size = self.sizes(fields.get("size"), name)
        dtype, grad = self.properties(fields.get("properties"), name)
        listed = fields["chunks"]
        if type(listed) is not list or not listed:
            self.damaged(f"tensor {_quoted(name)} has no chunks")
        self.spend(len(listed))
        chunks = [self.chunk(chunk, name, size, len(listed)) for chunk in listed]
        self.found.tensors[name] = ChunkedTensor(dtype, size, grad, chunks)

    def chunk(self, symbol: Any, name: str, size: Shape, several: int) -> Chunk:
        fields = self.fields(symbol)
        offsets, sizes = self.sizes(fields.get("offsets"), name), self.sizes(fields.get("sizes"), name)
        inside = len(offsets) == len(sizes) == len(size) and all(
            first + n <= whole for first, n, whole in zip(offsets, sizes, size)
        )
        if not inside:
            shown = f"{span_of(offsets, sizes)} is no part of a tensor of shape {size}"
            self.damaged(f"tensor {_quoted(name)}: its chunk {shown}"[:500])
        place = self.places.get((name, offsets))
        if place is None and several == 1:
            place = self.places.get((name, None))
        if place is None:
            self.damaged(f"tensor {_quoted(name)}: no file is named for its chunk {span_of(offsets, sizes)}")
        return Chunk(offsets, sizes, place)

    def properties(self, symbol: Any, name: str) -> tuple[DType, bool]:
        """Data type, and whether a gradient was wanted: the first and third of five."""
        state = symbol.states[-1] if type(symbol) is Call and symbol.states else None
        values: Any = state
        if type(state) is PickledDict:
            fields = self.fields(symbol)
            values = (fields.get("dtype"), None, fields.get("requires_grad"))
        first = values[0] if type(values) is tuple and len(values) >= 3 else None
        dtype = BY_NAME.get(first.name) if type(first) is Global and first.module == "torch" else None
        if dtype is None:
            self.damaged(f"tensor {_quoted(name)}: its data type is not known")
        return dtype, values[2] is True

    def storages(self, symbol: PickledDict) -> None:
        """Name and offsets to the place in a file."""
        for key, value in self.pairs(symbol):
            index, info = self.fields(key), self.fields(value)
            name = self.name(index.get("fqn"))
            offsets = index.get("offset")
            path, offset, length = info.get("relative_path"), info.get("offset", -1), info.get("length", -1)
            if type(path) is not str or not _is_size(offset) or not _is_size(length):
                self.damaged(f"{_quoted(name)}: its place in a file makes no sense")
            if len(path) > MAX_NAME:
                raise self.too_many(f"characters in the name of a file (limit: {MAX_NAME:,})")
            transforms = tuple(self.texts(info.get("transform_descriptors")))
            at = None if offsets is None else self.sizes(offsets, name)
            self.places[name, at] = Place(path, offset, length, transforms)

    def paths(self, symbol: PickledDict) -> None:
        for name, path in self.pairs(symbol):
            if type(name) is str and type(path) in (tuple, list):
                self.spend(len(path))
                if path and all(type(key) in (str, int) for key in path):
                    self.found.paths[name] = tuple(path)

    def said(self, symbol: Any) -> Iterator[tuple[str, str]]:
        """What ``storage_meta`` says: where and as what it was saved."""
        fields = self.fields(symbol) if type(symbol) is Call else {}
        where = fields.get("checkpoint_id")
        if type(where) is Call and type(where.args) is tuple and len(where.args) <= MAX_AXES:
            parts = [part for part in where.args if type(part) is str]
            where = "/".join(parts).replace("//", "/")
        for title, value in (("saved as", where), ("save id", fields.get("save_id"))):
            if type(value) is str and 0 < len(value) <= MAX_SAID:
                yield title, visible(value)

    # -- symbols --------------------------------------------------------------------------

    def fields(self, symbol: Any) -> dict[str, Any]:
        """Attributes of an object, or entries of a dictionary."""
        state = symbol.states[-1] if type(symbol) is Call and symbol.states else symbol
        if type(state) is not PickledDict:
            return {}
        flat = state.flat
        self.spend(len(flat) // 2)
        return {key: value for key, value in zip(flat[::2], flat[1::2]) if type(key) is str}

    def pairs(self, symbol: PickledDict) -> Iterable[tuple[Any, Any]]:
        self.spend(len(symbol.flat) // 2)
        return symbol.pairs()

    def texts(self, symbol: Any) -> list[str]:
        items = symbol if type(symbol) in (list, tuple) else []
        self.spend(len(items))
        return [item[:MAX_SAID] for item in items[:MAX_AXES] if type(item) is str]

    def sizes(self, symbol: Any, name: str) -> Shape:
        """``torch.Size((...))``, or the numbers themselves."""
        if type(symbol) is Call and type(symbol.args) is tuple and len(symbol.args) == 1:
            symbol = symbol.args[0]
        if type(symbol) not in (tuple, list) or len(symbol) > MAX_AXES or not all(map(_is_size, symbol)):
            self.damaged(f"{_quoted(name)}: a shape makes no sense")
        self.spend(len(symbol))
        if prod(symbol) >= _MOST:
            self.damaged(f"{_quoted(name)}: it has more elements than 63 bits can count")
        return tuple(symbol)

    def name(self, symbol: Any) -> str:
        if type(symbol) is not str:
            self.damaged("a name in it is no text")
        if len(symbol) > MAX_NAME:
            raise self.too_many(f"characters in a name (limit: {MAX_NAME:,})")
        return symbol

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise self.too_many(f"chunks, axes and keys (limit: {self.most:,})")

    def too_many(self, what: str) -> LimitError:
        return LimitError(
            f"{visible(self.where)} claims more than is read", details=(f"it leads to too many {what}",)
        )

    def damaged(self, reason: str) -> NoReturn:
        raise DamagedFileError(f"{visible(self.where)} is damaged", details=(reason,))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _quoted(name: str) -> str:
    return repr(visible(name[:200])) + ("…" if len(name) > 200 else "")
