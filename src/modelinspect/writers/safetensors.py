"""
Write safetensors files as the library of that name does. Standard library only.

Source: safetensors 0.8 ``safetensors/src/tensor.rs``: ``prepare`` sorts tensors by data
type, in the order of its ``Dtype`` from the last to the first, then by name; the header is
padded with blanks to a multiple of 8 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod

from modelinspect.errors import UsageError, visible
from modelinspect.writers.copying import Writable, put
from modelinspect.writers.entry import Entry

__all__ = ["Entry", "write_safetensors"]


_ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E5M2FNUZ",
    "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL",
)  # fmt: skip
_MAX_HEADER_BYTES = 100_000_000
_RANK = {spelling: rank for rank, spelling in enumerate(_ORDER)}


def write_safetensors(
    stream: Writable, entries: Sequence[Entry], metadata: Mapping[str, str] | None = None
) -> None:
    """
    Write tensors, one at a time.

    Args:
        stream: Where to, at its beginning.
        entries: Each name once, in any order.
        metadata: Texts for ``__metadata__``.

    Raises:
        UsageError: The format lacks a data type or a shape of it, a name is given twice or
            can't be written, the header becomes too long.
        ValueError: The bytes of an entry are not as many as its shape takes.
    """
    ordered = sorted(entries, key=lambda entry: (_RANK.get(entry.dtype.safetensors or "", 0), entry.name))
    stream.write(_encoded(_header(ordered, metadata)))
    for entry in ordered:
        written = sum(put(stream, chunk) for chunk in entry.read())
        if written != entry.nbytes:
            raise ValueError(f"{entry.name!r} takes {entry.nbytes} bytes, and {written} came")


def _header(ordered: Sequence[Entry], metadata: Mapping[str, str] | None) -> dict[str, object]:
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for entry in ordered:
        _check(entry)
        if entry.name in header or entry.name == "__metadata__":
            raise UsageError(f"{visible(entry.name)!r} can't be written: that name is taken")
        header[entry.name] = {
            "dtype": entry.dtype.safetensors,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    return header


def _check(entry: Entry) -> None:
    if entry.dtype.safetensors is None:
        raise UsageError(
            f"safetensors has no data type {entry.dtype.name}, which {visible(entry.name)!r} is of",
            hint="save as .pt",
        )
    if prod(entry.shape) * entry.dtype.bits % 8:
        raise UsageError(
            f"{visible(entry.name)!r} can't be written to safetensors",
            details=(f"{entry.dtype.name} of shape {list(entry.shape)} does not fill whole bytes",),
        )


def _encoded(header: Mapping[str, object]) -> bytes:
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise UsageError("a name can't be written as UTF-8", hint="save as .pt") from error
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER_BYTES:
        raise UsageError(
            f"the names take a header of {len(text):,} bytes",
            details=(f"limit: {_MAX_HEADER_BYTES:,} bytes (a rule of safetensors)",),
            hint="save as .pt",
        )
    return len(text).to_bytes(8, "little") + text
