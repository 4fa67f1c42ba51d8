"""
What the JSON documents of a torch.export archive say of its tensors.

``data/weights/{model}_weights_config.json`` is ``{"config": {name: payload}}`` with, in each
payload, ``path_name`` of the record beside it, ``is_param``, ``use_pickle`` and ``tensor_meta``;
``models/{model}.json`` is the graph, whose signature names parameters, buffers and constants in the
order of registration (torch 2.13, ``torch/_export/serde/schema.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from modelinspect.dtypes import BY_NAME, DType
from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.tensors import Kind

__all__ = ["Given", "Graph", "Meta", "Payload", "as_given", "load_graph", "load_json", "payloads"]

MAX_JSON_BYTES = 20_000_000
"""Of a document: 270 bytes a tensor."""
MAX_SIGNATURE_BYTES = 8_000_000
_END_BYTES = 1_000_000
"""At the end of a graph's document, where it says what wrote it."""
FREE_PARTS = 100_000
"""Lists and objects, and commas, that any document may have ..."""
BYTES_PER_LIST, BYTES_PER_COMMA = 20, 8
"""... and one more for so many bytes of it."""
MAX_NAME = 4_096
MAX_AXES = 64
MAX_TEXT = 80
MAX_RANGES = 16
_MOST = 1 << 63
_STRIDED = 7

# torch/_export/serde/schema.py, ScalarType; its numbers are those of the schema, not torch's own.
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
    29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip

_SIGNATURE = re.compile(r'"signature":\s*\{"input_specs":\s*')
_TORCH = re.compile(r'"torch_version":\s*"([^"\\]{1,80})"')
_SCHEMA = re.compile(r'"schema_version":\s*\{"major":\s*(\d{1,6}),\s*"minor":\s*(\d{1,6})')
_OPSETS = re.compile(r'"opset_version":\s*\{([^{}]{1,400})\}')
_RANGE = re.compile(r'"(\w{1,40})":\s*\{"min_val":\s*(null|-?\d{1,20}),\s*"max_val":\s*(null|-?\d{1,20})\}')


class Meta(NamedTuple):
    """A tensor as its payload describes it."""

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    requires_grad: bool
    device: str


class Payload(NamedTuple):
    """Where a tensor or an object is kept."""

    record: str
    """Beside the configuration."""
    is_param: bool
    pickled: bool
    meta: Meta | None
    """None: an object that is no tensor."""


class Given(NamedTuple):
    """What the graph's signature says of an input."""

    kind: Kind
    persistent: bool | None


class Graph(NamedTuple):
    """What the graph says beside its operators."""

    inputs: Mapping[str, Given]
    """Parameters, buffers and constants in order."""
    facts: Mapping[str, str]


def load_json(raw: bytes, where: str) -> Any:
    """
    A document, whose size has been checked.

    Raises:
        DamagedFileError: It is not JSON.
        LimitError: Its parts are more than an honest one of its length has.
    """
    if len(raw) > MAX_JSON_BYTES:
        raise too_long(where, len(raw), MAX_JSON_BYTES)
    for what, found, each in (
        ("lists and objects", raw.count(b"[") + raw.count(b"{"), BYTES_PER_LIST),
        ("commas", raw.count(b","), BYTES_PER_COMMA),
    ):
        most = FREE_PARTS + len(raw) // each
        if found > most:
            raise LimitError(
                f"{visible(where)} claims more than is read",
                details=(f"it has {found:,} {what} (limit for its length: {most:,})",),
            )
    try:
        return json.loads(raw, object_hook=_number_itself)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{visible(where)} is damaged", details=(visible(f"it is not JSON: {error}"[:200]),)
        ) from None


def _number_itself(entry: dict[str, Any]) -> Any:
    """``{"as_int": 3}``, of which there are several a tensor, takes much less memory as 3."""
    return entry["as_int"] if len(entry) == 1 and "as_int" in entry else entry


def too_long(where: str, nbytes: int, most: int) -> LimitError:
    """The error for a document of too many bytes."""
    return LimitError(f"{visible(where)} has {nbytes:,} bytes", details=(f"limit: {most:,} bytes",))


def payloads(document: Any, where: str) -> dict[str, Payload]:
    """
    The entries of a configuration, by name.

    Raises:
        DamagedFileError: One makes no sense.
    """
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise DamagedFileError(f"{visible(where)} is damaged", details=("it has no config of names",))
    found = {}
    for name, entry in config.items():
        if len(name) > MAX_NAME:
            raise LimitError(
                f"{visible(where)}: a name is too long", details=(f"limit: {MAX_NAME:,} characters",)
            )
        try:
            found[name] = _payload(entry)
        except (KeyError, TypeError, ValueError) as error:
            reason = (
                f"tensor {visible(name[:200])}: {visible(str(error)[:100]) or 'its entry makes no sense'}"
            )
            raise DamagedFileError(f"{visible(where)} is damaged", details=(reason,)) from None
    return found


def _payload(entry: Any) -> Payload:
    record, meta = entry["path_name"], entry.get("tensor_meta")
    if not isinstance(record, str) or len(record) > MAX_NAME:
        raise ValueError("its record has no name")
    described = None if meta is None else _meta(meta)
    return Payload(record, entry.get("is_param") is True, entry.get("use_pickle") is True, described)


def _meta(meta: Any) -> Meta:
    dtype = _DTYPES.get(meta["dtype"]) if type(meta["dtype"]) is int else None
    if dtype is None:
        raise ValueError("its data type is not known")
    if meta.get("layout", _STRIDED) != _STRIDED:
        raise ValueError("its layout is not known")
    shape, stride = _numbers(meta["sizes"]), _numbers(meta["strides"])
    if len(shape) != len(stride) or prod(shape) >= _MOST:
        raise ValueError("its shape makes no sense")
    device = meta.get("device")
    kind = device.get("type") if isinstance(device, dict) else None
    index = device.get("index") if isinstance(device, dict) else None
    place = kind if isinstance(kind, str) and len(kind) <= MAX_TEXT else "cpu"
    if type(index) is int and 0 <= index < _MOST:
        place = f"{place}:{index}"
    offset = _number(meta["storage_offset"])
    return Meta(BY_NAME[dtype], shape, stride, offset, meta.get("requires_grad") is True, place)


def _numbers(listed: Any) -> tuple[int, ...]:
    if not isinstance(listed, list) or len(listed) > MAX_AXES:
        raise ValueError("its shape makes no sense")
    return tuple(map(_number, listed))


def _number(entry: Any) -> int:
    """A size; of an expression what it was when the model was exported."""
    number = entry if type(entry) is int else entry["as_expr"]["hint"]
    if type(number) is not int or not 0 <= number < _MOST:
        raise ValueError("a size makes no sense")
    return number


# -- the graph -------------------------------------------------------------------------------


def load_graph(raw: bytes) -> Graph:
    """
    What a graph's document says of its inputs and of what wrote it.

    Graphs have megabytes, mostly of operators and the lines of code that they come from. So only the
    signature is parsed, and found by its key: inside a text its quotes would be escaped.
    """
    text = raw.decode("latin-1")  # which takes no more memory than the bytes
    return Graph(_inputs(text), _facts(text))


def _inputs(text: str) -> dict[str, Given]:
    at = _SIGNATURE.search(text)
    end = text.find('"output_specs"', at.end()) if at else -1
    if at is None or end < 0 or end - at.end() > MAX_SIGNATURE_BYTES:
        return {}
    try:
        specs = load_json(text[at.end() : end].rstrip(", \n").encode("latin-1"), "signature")
    except (DamagedFileError, LimitError):
        return {}
    found: dict[str, Given] = {}
    for spec in specs if isinstance(specs, list) else ():
        for form, value in spec.items() if isinstance(spec, dict) else ():
            key = _NAMED_BY.get(form)
            name = value.get(key) if key is not None and isinstance(value, dict) else None
            if isinstance(name, str) and len(name) <= MAX_NAME:
                found.setdefault(name, as_given(form, value.get("persistent")))
    return found


_NAMED_BY = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}


def as_given(form: str, persistent: Any = None) -> Given:
    """What a form of input means for a tensor."""
    if form == "parameter":
        return Given("parameter", None)
    if form == "buffer":
        return Given("buffer", persistent is not False)
    return Given("other", None)


def _facts(text: str) -> dict[str, str]:
    end = text[-_END_BYTES:]
    facts: dict[str, str] = {}
    found = _TORCH.search(end)
    if found:
        facts["written by"] = f"torch {visible(found[1])}"
    found = _SCHEMA.search(end)
    if found:
        facts["schema version"] = f"{found[1]}.{found[2]}"
    found = _OPSETS.search(end)
    if found:
        facts["operator sets"] = visible(" ".join(found[1].replace('"', "").replace(":", "").split()))[
            :MAX_TEXT
        ]
    ranges = [_range(match) for _, match in zip(range(MAX_RANGES), _RANGE.finditer(end))]
    if ranges:
        facts["dynamic sizes"] = ", ".join(ranges)
    return facts


def _range(match: re.Match[str]) -> str:
    name, low, high = match.groups()
    low = "…" if low == "null" else low
    high = "…" if high == "null" or len(high) > 15 else high
    return f"{name} from {low} to {high}"
