"""
safetensors: a JSON header, then the bytes of every tensor without a gap.

Rules as in safetensors 0.8 (``src/tensor.rs``) and its README: 8 bytes of
little-endian header length, at most 100,000,000; a JSON object of name to
``dtype``, ``shape`` and ``data_offsets`` (from the end of the header); the
ranges, sorted, cover the rest of the file exactly.

The header is checked in whole columns, which is fast and says only yes or no;
on a no :func:`_complain` looks for the entry and the sentence to show.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import chain, repeat
from math import prod
from typing import Any, NoReturn

from modelinspect.dtypes import BY_SAFETENSORS
from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.parts.json_size import is_dense
from modelinspect.readers.parts.kinds import infer_kind, settled_by_siblings
from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint, FileInfo, ParameterTable, Storage, rows_of_columns

__all__ = ["MAX_HEADER_BYTES", "read"]

MAX_HEADER_BYTES = 100_000_000
MAX_NAME = 65_536
"""Characters of a tensor's name."""
MAX_LEVELS = 1_000
"""Dotted parts of a tensor's name."""
_U64 = 1 << 64
_KEYS = ("dtype", "shape", "data_offsets")
_FEW_AXES = 16
_SURROGATE = re.compile("[\ud800-\udfff]")

Header = dict[str, Any]


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read the header of a safetensors file; no tensor's bytes are touched.

    Names come in natural order: the writer sorted them by data type and name,
    so their order in the file says nothing of the model.

    Raises:
        DamagedFileError: The file breaks a rule of the format.
        LimitError: The header claims to be longer than the format allows.
    """
    length = int.from_bytes(source.read(0, 8, "header length"), "little")
    if length > MAX_HEADER_BYTES:
        raise LimitError(
            f"{visible(target)}: its header claims {length:,} bytes",
            details=(f"limit: {MAX_HEADER_BYTES:,} bytes (a rule of the format)",),
        )
    text = _decode(source.read(8, length, "header"), target)
    if is_dense(text):
        raise LimitError(
            f"{visible(target)} is not valid safetensors",
            details=("the header holds far more lists and texts than tensors of its length need",),
        )
    header, notes = _parse(text, target)
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    _check_metadata(metadata, target)
    table = _table(header, source, 8 + length, target)
    return Checkpoint(
        source=target,
        format="safetensors",
        files=(FileInfo(source.path, source.size, source.bytes_read),),
        tables={"": table},
        roles={"": "model"},
        model_section="",
        metadata=metadata,
        notes=notes,
    )


def _decode(raw: bytes, target: str) -> str:
    try:
        text = str(raw, "utf-8")
    except UnicodeDecodeError as error:
        _damaged(target, f"the header is not UTF-8 (byte {8 + error.start:,})")
    if not text.startswith("{"):
        _damaged(target, "the header does not begin with '{'")
    return text


def _parse(text: str, target: str) -> tuple[Header, tuple[str, ...]]:
    try:
        header: Header = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        # Every entry spells its three keys once, and no more than one is "__metadata__". More of
        # them, or an escaped spelling, may hide a repeated name; then the slow parser looks.
        entries = len(header) - ("__metadata__" in header)
        spelt = {text.count(f'"{key}"') for key in _KEYS}
        repeated = spelt != {entries} or text.count('"__metadata__"') > 1
        suspicious = repeated or "\\" in text
        notes = _repeated_names(text, target) if suspicious else ()
    except RecursionError:
        _damaged(target, "the header is nested too deeply")
    except ValueError as error:
        _damaged(target, f"the header is not JSON: {error}")
    # The library's parser also takes an entry as a list: ["F32", [2, 3], [0, 24]].
    if any(type(entry) is list for entry in header.values()):
        header = {name: _as_object(entry) for name, entry in header.items()}
    return header, notes


def _as_object(entry: Any) -> Any:
    is_row = type(entry) is list and len(entry) == 3
    return dict(zip(_KEYS, entry)) if is_row else entry


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    """A number that the library's parser takes: it refuses what is beyond a double."""
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{number[:40]} is out of range")
    return value


def _repeated_names(text: str, target: str) -> tuple[str, ...]:
    pairs_of_objects: list[list[tuple[str, Any]]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs_of_objects.append(pairs)
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    *inner, outer = pairs_of_objects
    for pairs in inner:
        twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        if any(key in _KEYS for key in twice):
            _damaged(target, f"an entry of the header repeats {twice[0]!r}")
    seen: set[str] = set()
    repeated = [name for name, _ in outer if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if "__metadata__" in repeated:
        _damaged(target, "the header holds __metadata__ twice")
    texts = chain(seen, (value for pairs in inner for _, value in pairs if isinstance(value, str)))
    if any(map(_SURROGATE.search, texts)):
        _damaged(target, "a text in the header holds half a surrogate pair")
    return tuple(
        f"the header names {visible(name)!r} more than once: loaders silently keep the last"
        for name in dict.fromkeys(repeated)
    )


def _check_metadata(metadata: object, target: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _damaged(target, "__metadata__ is not a map of texts to texts")


def _table(header: Header, source: ByteSource, data_start: int, target: str) -> ParameterTable:
    # What is plainly no entry is told before anything is sorted.
    if not all(isinstance(entry, dict) and len(entry) >= len(_KEYS) for entry in header.values()):
        _complain(header, source.size - data_start, target)
    _check_names(header, target)
    names = naturally_sorted(list(header))
    entries = [header[name] for name in names]
    try:
        dtypes = [BY_SAFETENSORS[entry["dtype"]] for entry in entries]
        shapes = [entry["shape"] for entry in entries]
        ranges = [entry["data_offsets"] for entry in entries]
        begins, ends = [begin for begin, _ in ranges], [end for _, end in ranges]
        sound = _sound(dtypes, shapes, begins, ends, source.size - data_start)
    except (KeyError, TypeError, ValueError, IndexError):
        sound = False
    if not sound:
        _complain(header, source.size - data_start, target)
    storages = map(
        Storage._make,
        zip(
            repeat(source.path),
            names,
            [data_start + begin for begin in begins],
            [end - begin for begin, end in zip(begins, ends)],
            repeat("cpu"),
            repeat("little"),
        ),
    )
    shapes = list(map(tuple, shapes))
    kinds = map(infer_kind, names, dtypes, shapes)
    rows = rows_of_columns(names, dtypes, shapes, storages, kinds)
    return ParameterTable(source=target, tensors=settled_by_siblings(rows), origin="file")


def _sound(dtypes: list[Any], shapes: list[Any], begins: list[int], ends: list[int], size: int) -> bool:
    """Does every entry keep the rules? Whole columns at a time."""
    if not set(map(type, shapes)) <= {list}:
        return False
    numbers = [*chain.from_iterable(shapes), *begins, *ends]
    if not set(map(type, numbers)) <= {int} or min(numbers, default=0) < 0 or max(numbers, default=0) >= _U64:
        return False
    numel = prod if max(map(len, shapes), default=0) <= _FEW_AXES else _numel
    for dtype, shape, begin, end in zip(dtypes, shapes, begins, ends):
        if numel(shape) * dtype.bits != (end - begin) * 8:
            return False
    ordered = sorted(zip(begins, ends))
    return [begin for begin, _ in ordered] + [size] == [0] + [end for _, end in ordered]


def _numel(shape: list[int]) -> int:
    """The product, left where it is over what 64 bits hold: as the library, step by step."""
    product = 1
    for length in shape:
        product *= length
        if product >= _U64:
            return product
    return product


def _check_names(header: Header, target: str) -> None:
    longest = max(header, key=len, default="")
    if len(longest) > MAX_NAME:
        what, most = "characters in the name of a tensor", MAX_NAME
    elif len(longest) > MAX_LEVELS and any(name.count(".") >= MAX_LEVELS for name in header):
        what, most = "dotted parts in the name of a tensor", MAX_LEVELS
    else:
        return
    raise LimitError(f"{visible(target)}: a name is too long", details=(f"limit: {most:,} {what}",))


def _complain(header: Header, size: int, target: str) -> NoReturn:
    """Find the first rule that is broken and say so."""
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        reason = _entry_fault(entry)
        if reason is not None:
            _damaged(target, f"tensor {_short(name)}: {reason}")
        begin, end = entry["data_offsets"]
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            fault = "overlaps the one before it" if begin < position else "leaves a gap before it"
            _damaged(target, f"tensor {_short(name)} {fault} (byte {begin:,}, expected {position:,})")
        position = end
    what = "is truncated" if position > size else "holds bytes that no tensor claims"
    raise DamagedFileError(
        f"{visible(target)} {what}",
        details=(f"its tensors take {position:,} bytes after the header, the file has {size:,}",),
        hint="compare its size with the original; a download may have stopped early"
        if position > size
        else None,
    )


def _entry_fault(entry: object) -> str | None:
    if not isinstance(entry, dict):
        return "its entry is not an object"
    missing = [key for key in ("dtype", "shape", "data_offsets") if key not in entry]
    if missing:
        return f"its entry has no {missing[0]!r}"
    dtype = BY_SAFETENSORS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        return f"unknown data type {str(entry['dtype'])[:40]!r}"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape):
        return "its shape is not a list of sizes"
    if not _are_sizes(offsets) or len(offsets) != 2:
        return "its data_offsets are not two positions"
    if offsets[0] > offsets[1]:
        return f"its data_offsets run backwards ({offsets[0]:,} to {offsets[1]:,})"
    numel = _numel(shape)
    if numel >= _U64:
        return "its shape has more elements than 64 bits can count"
    bits, found = numel * dtype.bits, offsets[1] - offsets[0]
    if bits % 8:
        return f"{dtype.name} of shape {_shown(shape)} does not fill whole bytes"
    if bits != found * 8:
        taken = f"{dtype.name} of shape {_shown(shape)} takes {bits // 8:,} bytes"
        return f"{taken}, its data_offsets hold {found:,}"
    return None


def _shown(shape: list[int]) -> str:
    return str(shape) if len(shape) <= _FEW_AXES else f"[{shape[0]}, … {len(shape):,} axes]"


def _short(name: str) -> str:
    return repr(visible(name[:200])) + ("…" if len(name) > 200 else "")


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _U64 for item in value)


def _damaged(target: str, reason: str) -> NoReturn:
    raise DamagedFileError(f"{visible(target)} is not valid safetensors", details=(reason,))
