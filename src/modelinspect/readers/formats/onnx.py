"""
ONNX: a graph as one protocol buffer, its weights in it or in files beside it.

Field numbers are those of ``onnx.proto`` (onnx 1.23). Weights are initializers, sparse
initializers and the values of Constant nodes, in the graph, in the bodies of If and Loop,
in functions. Bytes of weights are located and passed over, never read.

The format has no magic number: a file is taken for ONNX where its fields are those of a
ModelProto and its graph begins as one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from typing import NamedTuple, NoReturn

from modelinspect.dtypes import BY_NAME, BY_ONNX, DType
from modelinspect.errors import CheckpointError, DamagedFileError, LimitError, visible
from modelinspect.readers.parts.forward import Forward
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.parts.kinds import infer_kind, settled_by_siblings
from modelinspect.readers.parts.onnx_uses import Uses
from modelinspect.readers.parts.protobuf import Message, Place, Rule, Rules, read_message
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource, open_local
from modelinspect.tensors import (
    Checkpoint,
    FileInfo,
    ParameterTable,
    Role,
    Storage,
    TensorInfo,
    unique_names,
)

__all__ = ["read"]

MAX_AXES = 64
MAX_FILES = 10_000
"""Of external data."""
MAX_PAIRS = 10_000
"""Of metadata, and of operator sets."""
MAX_TEXT = 200
MAX_DIMS = 80
"""Characters of the shape of an input: a length may be a formula of several lines."""
_SHOWN = 6
_I63 = 1 << 63
_STRING = 8
_RAW, _FLOATS, _DOUBLES, _STRINGS = 9, 4, 10, 6
_AS_THEY_ARE = {
    _FLOATS: (BY_NAME["float32"], BY_NAME["complex64"]),
    _DOUBLES: (BY_NAME["float64"], BY_NAME["complex128"]),
}
"""Typed fields whose packed bytes are the numbers themselves; those of others are varints."""


def _texts(*names: str) -> dict[int, Rule]:
    return {number: Rule(name, "text") for number, name in enumerate(names, 1) if name}


_DATA = {number: Rule("data", "place") for number in (4, 5, 6, 7, 9, 10, 11)}
_RULES: Rules = {
    "model": {
        1: Rule("ir_version", "number"),
        2: Rule("producer", "text"),
        3: Rule("producer_version", "text"),
        7: Rule("graph", "graph"),
        8: Rule("opset", "opset"),
        14: Rule("metadata", "pair"),
        20: Rule("training", "training"),
        25: Rule("function", "function"),
    },
    "opset": {1: Rule("domain", "text"), 2: Rule("version", "number")},
    "pair": {1: Rule("key", "text"), 2: Rule("value", "long text")},
    "training": {1: Rule("graph", "graph"), 2: Rule("graph", "graph")},
    "function": {1: Rule("name", "text"), 7: Rule("node", "node")},
    "graph": {
        1: Rule("node", "node"),
        5: Rule("initializer", "tensor"),
        11: Rule("input", "value"),
        12: Rule("output", "value"),
        15: Rule("sparse_initializer", "sparse"),
    },
    "node": {**_texts("input", "output", "name", "operator"), 5: Rule("attribute", "attribute")},
    "attribute": {
        1: Rule("name", "text"),
        3: Rule("i", "number"),
        5: Rule("t", "tensor"),
        6: Rule("g", "graph"),
        7: Rule("list", "place"),
        8: Rule("list", "place"),
        10: Rule("t", "tensor"),
        11: Rule("g", "graph"),
        22: Rule("sparse", "sparse"),
        23: Rule("sparse", "sparse"),
    },
    "sparse": {1: Rule("values", "tensor"), 2: Rule("indices", "tensor"), 3: Rule("dims", "number")},
    "tensor": {
        **_DATA,
        1: Rule("dims", "number"),
        2: Rule("data_type", "number"),
        3: Rule("segment", "segment"),
        8: Rule("name", "text"),
        13: Rule("external", "pair"),
        14: Rule("location", "number"),
    },
    "segment": {},
    "value": {1: Rule("name", "text"), 2: Rule("type", "type")},
    "type": {1: Rule("tensor", "tensor type")},
    "tensor type": {1: Rule("element", "number"), 2: Rule("shape", "shape")},
    "shape": {1: Rule("dim", "dim")},
    "dim": {1: Rule("length", "number"), 2: Rule("name", "text")},
}
_EXTERNAL = 1
_LISTED = ("pair", "opset", "value")
"""Kinds that are kept to be shown."""


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read the graph of an ONNX model; no tensor's bytes are touched.

    Raises:
        NotThisFormat: It is no ONNX model.
        DamagedFileError: It breaks a rule of the format or is truncated.
        RefusedError: It names a file outside its folder.
        LimitError: It claims more than a limit allows.
    """
    _check_first_fields(source, target)
    reader = _Reader(source, target)
    model = read_message(Forward(source, "<", target), "model", _RULES, reader.finished)
    if not model.all("graph"):
        raise NotThisFormat("has no graph")
    sections = {"": [row for graph in model.all("graph") for row in graph.all("tensors")]}
    sections[""] += model.all("tensors")
    training = [row for part in model.all("training") for row in part.all("tensors")]
    if training:
        sections["training"] = training
    tables = {name: _table(rows, name, reader, target) for name, rows in sections.items()}
    roles: dict[str, Role] = {name: "other" if name else "model" for name in tables}
    return Checkpoint(
        source=target,
        format="onnx",
        files=(FileInfo(source.path, source.size, source.bytes_read), *reader.external.opened()),
        tables=tables,
        roles=roles,
        model_section="",
        metadata=dict(model.all("metadata")),
        notes=tuple(_notes(tables[""], reader)),
        version=str(model.first("ir_version", "")),
        facts=_facts(model),
    )


# -- is it one? -----------------------------------------------------------------------------

_NUMBER_FIELDS = {1, 5}
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
_GRAPH_FIELDS = {1, 2, 5, 10, 11, 12, 13, 14, 15, 16}
_GRAPH = 7
_MAX_FIRST_FIELDS = 2_000


def _check_first_fields(source: ByteSource, target: str) -> None:
    """
    Raise NotThisFormat unless all fields up to the graph are a ModelProto's, a version among them.
    """
    forward = Forward(source, "<", target)
    seen: set[int] = set()
    try:
        for _ in range(_MAX_FIRST_FIELDS):
            if not forward.left:
                break
            number, wire, value = forward.tag()
            if number not in _MODEL_FIELDS or wire != (0 if number in _NUMBER_FIELDS else 2):
                raise NotThisFormat(f"field {number:,} is none of a ModelProto's")
            seen.add(number)
            if number == _GRAPH:
                _check_graph(forward, value)
                if 1 in seen:
                    return
            if wire:
                forward.skip(value, "a field")
    except DamagedFileError as error:
        if not {1, _GRAPH} <= seen:
            raise NotThisFormat("its first fields are not those of a ModelProto") from error
        return
    if not {1, _GRAPH} <= seen:
        raise NotThisFormat("it has no graph, or no version")


def _check_graph(forward: Forward, length: int) -> None:
    if not length:
        return
    at = forward.need(1, "the graph")
    tag = forward.held[at]
    if tag & 7 != 2 or tag >> 3 not in _GRAPH_FIELDS:
        raise NotThisFormat("its graph does not begin as one")


# -- messages -------------------------------------------------------------------------------


class _Reader:
    """
    Turns messages into rows as each ends, so that none of them is kept.
    """

    def __init__(self, source: ByteSource, target: str) -> None:
        self.source = source
        self.target = target
        self.uses = Uses()
        self.external = _External(os.path.dirname(source.path) or ".", target)
        self.others: list[str] = []
        """Names of tensors of texts."""
        self.lists = 0
        """Constant nodes that hold a list in place of a tensor."""
        self._handlers = {
            "tensor": self._tensor,
            "sparse": self._sparse,
            "attribute": self._attribute,
            "node": self._node,
            "graph": self._graph,
            "function": self._function,
            "pair": _pair,
            "opset": _opset,
            "value": _value,
        }

    def finished(self, message: Message, parent: Message) -> bool:
        """A message has ended: take what is needed of it."""
        handler = self._handlers.get(message.kind)
        if handler is None:
            return False
        if message.kind in _LISTED and len(parent.all(message.label)) >= MAX_PAIRS:
            raise LimitError(
                f"{visible(self.target)} holds too much",
                details=(f"limit: {MAX_PAIRS:,} entries of {message.label}",),
            )
        handler(message, parent)
        return True

    def _tensor(self, message: Message, parent: Message) -> None:
        row = self._row(message)
        if row is not None:
            parent.keep(message.label if parent.kind == "sparse" else "tensors", row)

    def _row(self, message: Message) -> TensorInfo | None:
        name, number = message.first("name", ""), message.first("data_type", 0)
        if number == _STRING:
            self.others.append(name)
            return None
        dtype = BY_ONNX.get(number)
        if dtype is None:
            raise CheckpointError(
                f"{visible(self.target)}: tensor {_short(name)} has a data type that is not known here",
                details=(f"ONNX data type {number:,}",),
            )
        shape = self._shape(message.all("dims"), name)
        nbytes = dtype.nbytes(prod(shape))
        storage: Storage | None
        if message.first("location", 0) == _EXTERNAL:
            storage = self.external.storage(name, dict(message.all("external")), nbytes)
        else:
            storage = self._storage(name, dtype, nbytes, message)
        return TensorInfo(name, dtype, shape, storage)

    def _shape(self, dims: Sequence[int], name: str) -> tuple[int, ...]:
        if len(dims) > MAX_AXES or max(dims, default=0) >= _I63 or prod(filter(None, dims)) >= _I63:
            self._damaged(f"tensor {_short(name)}: its shape makes no sense ({len(dims):,} axes)")
        return tuple(dims)

    def _storage(self, name: str, dtype: DType, nbytes: int, message: Message) -> Storage | None:
        places: list[Place] = message.all("data")
        raw = next((place for place in places if place.field == _RAW), None)
        key, path = name, self.source.path
        if raw is not None and not message.all("segment"):
            if raw.nbytes != nbytes:
                self._damaged(
                    f"tensor {_short(name)}: its shape takes {nbytes:,} bytes, it holds {raw.nbytes:,}"
                )
            return Storage(path, key, raw.offset, nbytes)
        if not places:
            return None if nbytes else Storage(path, key, self.source.size, 0)
        first = places[0]
        if len(places) == 1 and first.packed and dtype in _AS_THEY_ARE.get(first.field, ()):
            if first.nbytes != nbytes:
                self._damaged(
                    f"tensor {_short(name)}: its shape takes {nbytes:,} bytes, it holds {first.nbytes:,}"
                )
            return Storage(path, key, first.offset, nbytes)
        return Storage(path, key, None, nbytes)

    def _sparse(self, message: Message, parent: Message) -> None:
        values, indices = message.first("values"), message.first("indices")
        if values is None or indices is None:
            self._damaged("a sparse tensor has no values or no indices")
        shape = self._shape(message.all("dims"), values.name)
        parts = (indices._replace(name="indices"), values._replace(name="values"))
        row = TensorInfo(values.name, values.dtype, shape, None, layout="sparse_coo", parts=parts)
        parent.keep("tensors", row)

    def _attribute(self, message: Message, parent: Message) -> None:
        name = message.first("name", "")
        parent.keep("attribute", _Attribute(name, message.first("i", 0), message.all("tensors")))
        parent.values.setdefault("inner", []).extend(message.all("inner"))
        if message.all("list") and name.startswith("value_"):
            parent.keep("lists", name)

    def _node(self, message: Message, parent: Message) -> None:
        operator, outputs = message.first("operator", ""), message.all("output")
        attributes: list[_Attribute] = message.all("attribute")
        numbers = {attribute.name: attribute.number for attribute in attributes}
        self.uses.add(operator, message.all("input"), numbers)
        is_constant = operator == "Constant"
        self.lists += is_constant and bool(message.all("lists"))
        label = message.first("name") or next(filter(None, outputs), operator)
        for attribute in attributes:
            for row in attribute.tensors:
                if is_constant:
                    # A single number in the code of a model is no weight.
                    named = row._replace(name=next(iter(outputs), "") or label)
                    parent.keep("tensors", named if row.shape else named._replace(kind="buffer"))
                else:
                    parent.keep("tensors", row._replace(name=f"{label}.{attribute.name}", kind="other"))
        parent.values.setdefault("tensors", []).extend(message.all("inner"))

    def _graph(self, message: Message, parent: Message) -> None:
        rows = message.all("tensors")
        if parent.kind == "model":
            parent.keep("graph", message)
        else:
            parent.values.setdefault("tensors" if parent.kind == "training" else "inner", []).extend(rows)

    def _function(self, message: Message, parent: Message) -> None:
        parent.values.setdefault("tensors", []).extend(message.all("tensors"))

    def _damaged(self, reason: str) -> NoReturn:
        raise DamagedFileError(f"{visible(self.target)} is not valid ONNX", details=(reason,))


class _Attribute(NamedTuple):
    """What is kept of a node's attribute."""

    name: str
    number: int
    tensors: Sequence[TensorInfo]


def _pair(message: Message, parent: Message) -> None:
    value = message.first("value", "")
    text = (
        value if len(value) <= MAX_TEXT or parent.kind == "tensor" else f"text of {len(value):,} characters"
    )
    parent.keep(message.label, (message.first("key", ""), text))


def _opset(message: Message, parent: Message) -> None:
    parent.keep("opset", (message.first("domain", ""), message.first("version", 0)))


def _value(message: Message, parent: Message) -> None:
    parent.keep(message.label, (message.first("name", ""), _type(message)))


def _type(value: Message) -> str:
    """Shape and data type of an input or an output, e.g. ``[batch, 3] float32``."""
    tensor = next((kind.first("tensor") for kind in value.all("type")), None)
    if tensor is None:
        return ""
    dtype = BY_ONNX.get(tensor.first("element", 0))
    name = "string" if tensor.first("element") == _STRING else str(dtype or "")
    shape = tensor.first("shape")
    if shape is None:
        return name
    dims = ", ".join(map(_dim, shape.all("dim")))
    return f"[{dims if len(dims) <= MAX_DIMS else '…'}] {name}"


def _dim(dim: Message) -> str:
    name, length = dim.first("name"), dim.first("length")
    # Some writers say -1 for what is not known.
    return str(name or ("?" if length is None or length >= _I63 else length))


# -- files beside ----------------------------------------------------------------------------


class _External:
    """
    The files that hold what the model's own does not (docs/ExternalData.md of onnx).
    """

    def __init__(self, folder: str, target: str) -> None:
        self.folder = folder
        self.target = target
        self.sizes: dict[str, tuple[str, int | None]] = {}
        """Location to real path and size; None: there is no such file."""

    def storage(self, name: str, pairs: dict[str, str], nbytes: int) -> Storage:
        """Where a tensor's bytes lie."""
        location = pairs.get("location", "")
        path, size = self._file(location)
        offset, length = self._number(pairs, "offset", name), self._number(pairs, "length", name)
        if length is not None and length != nbytes:
            raise DamagedFileError(
                f"{visible(self.target)} is not valid ONNX",
                details=(f"tensor {_short(name)}: its shape takes {nbytes:,} bytes, {length:,} are given",),
            )
        if size is None:
            return Storage(path, location, None, nbytes)
        offset = offset or 0
        if offset + nbytes > size:
            raise DamagedFileError(
                f"{visible(self.target)}: {visible(location)} is truncated",
                details=(f"tensor {_short(name)}: {nbytes:,} bytes at byte {offset:,}; it has {size:,}",),
                hint="a download may have stopped early",
            )
        return Storage(path, location, offset, nbytes)

    def _file(self, location: str) -> tuple[str, int | None]:
        known = self.sizes.get(location)
        if known is None:
            if len(self.sizes) >= MAX_FILES:
                raise LimitError(
                    f"{visible(self.target)} names too many files", details=(f"limit: {MAX_FILES:,}",)
                )
            path = inside(self.folder, location, self.target)
            size = None
            if os.path.exists(path):
                with open_local(path) as source:
                    size = source.size
            known = self.sizes[location] = path, size
        return known

    def _number(self, pairs: dict[str, str], key: str, name: str) -> int | None:
        text = pairs.get(key)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise DamagedFileError(
                f"{visible(self.target)} is not valid ONNX",
                details=(f"tensor {_short(name)}: its {key} is {visible(repr(text[:40]))}",),
            )
        return int(text)

    def opened(self) -> list[FileInfo]:
        """The files that are there; none of their bytes was read."""
        return [FileInfo(path, size, 0) for path, size in self.sizes.values() if size is not None]

    def missing(self) -> list[str]:
        """Locations without a file."""
        return [location for location, (_, size) in self.sizes.items() if size is None]


# -- rows -----------------------------------------------------------------------------------


def _table(rows: list[TensorInfo], section: str, reader: _Reader, target: str) -> ParameterTable:
    # What its node or its place says of a row goes before what its name says.
    settled = [
        reader.uses.settled(
            row, row.kind if row.kind != "parameter" else infer_kind(row.name, row.dtype, row.shape)
        )
        for row in rows
    ]
    return ParameterTable(
        source=target,
        tensors=settled_by_siblings(unique_names(settled)),
        origin="file",
        section=section,
        others=() if section else tuple(reader.others),
    )


def _facts(model: Message) -> dict[str, str]:
    facts = {}
    producer = " ".join(filter(None, (model.first("producer", ""), model.first("producer_version", ""))))
    if producer:
        facts["producer"] = producer[:MAX_TEXT]
    opsets = [f"{domain or 'ai.onnx'} {version}" for domain, version in model.all("opset")]
    if opsets:
        facts["operator sets"] = _listed(opsets)
    graph = model.all("graph")[-1]
    weights = {row.name for row in graph.all("tensors")}
    for what in ("input", "output"):
        values = [f"{name} {kind}".strip() for name, kind in graph.all(what) if name not in weights]
        if values:
            facts[f"{what}s"] = _listed(values)
    return facts


def _notes(table: ParameterTable, reader: _Reader) -> list[str]:
    notes = []
    own = reader.source.path
    empty = [row.name for row in table if row.storage is None and not row.parts]
    spread = [row.name for row in table if row.storage and row.storage[0] == own and row.storage[2] is None]
    for names, what in (
        (reader.external.missing(), "named as a file of its data, and not there"),
        (empty, "no data in the file"),
        (spread, "the file does not hold its numbers as they are, so values are not read"),
        (reader.uses.doubtful, "other bytes than its operator says, so it counts as stored"),
    ):
        if names:
            notes.append(f"{_listed([_short(name) for name in names])}: {what}")
    if reader.lists:
        notes.append(f"{reader.lists:,} Constant nodes hold a list of numbers in place of a tensor")
    return notes


def _listed(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:_SHOWN])
    return f"{shown} and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else shown


def _short(name: str) -> str:
    return repr(visible(name[:200])) + ("…" if len(name) > 200 else "")
