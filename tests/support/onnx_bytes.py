"""
ONNX models of any content, sound or not, field by field (onnx.proto).

onnx 1.23 loads what this writes, and its checker takes the sound ones: checked once, name by
name and byte by byte.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def number(field: int, value: int) -> bytes:
    """A field that is a number."""
    return varint(field << 3) + varint(value)


def part(field: int, content: bytes | str) -> bytes:
    """A field that is bytes, a text or a message."""
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def tensor(
    name: str,
    shape: Sequence[int],
    kind: int,
    raw: bytes | None = None,
    *,
    more: bytes = b"",
    external: Mapping[str, str] | None = None,
) -> bytes:
    """A TensorProto."""
    out = b"".join(number(1, length) for length in shape) + number(2, kind) + more + part(8, name)
    if raw is not None:
        out += part(9, raw)
    for key, value in (external or {}).items():
        out += part(13, part(1, key) + part(2, value))
    return out + (number(14, 1) if external is not None else b"")


def attribute(
    name: str, *, integer: int | None = None, value: bytes | None = None, graph: bytes | None = None
) -> bytes:
    """An AttributeProto."""
    out = part(1, name)
    if integer is not None:
        out += number(3, integer) + number(20, 2)
    if value is not None:
        out += part(5, value) + number(20, 4)
    if graph is not None:
        out += part(6, graph) + number(20, 5)
    return out


def node(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Sequence[bytes] = (),
    *,
    name: str = "",
    domain: str = "",
) -> bytes:
    """A NodeProto."""
    out = b"".join(part(1, text) for text in inputs) + b"".join(part(2, text) for text in outputs)
    out += (part(3, name) if name else b"") + part(4, operator)
    out += b"".join(part(5, each) for each in attributes)
    return out + (part(7, domain) if domain else b"")


def value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto: an input or an output."""
    dims = b"".join(part(1, number(1, d) if isinstance(d, int) else part(2, d)) for d in shape)
    return part(1, name) + part(2, part(1, number(1, kind) + part(2, dims)))


def graph(
    nodes: Sequence[bytes] = (),
    initializers: Sequence[bytes] = (),
    *,
    inputs: Sequence[bytes] = (),
    outputs: Sequence[bytes] = (),
    sparse: Sequence[bytes] = (),
    name: str = "g",
) -> bytes:
    """A GraphProto."""
    out = b"".join(part(1, each) for each in nodes) + part(2, name)
    for field, parts in ((5, initializers), (11, inputs), (12, outputs), (15, sparse)):
        out += b"".join(part(field, each) for each in parts)
    return out


def model(
    content: bytes, *, version: int = 8, opset: int = 21, functions: Sequence[bytes] = (), more: bytes = b""
) -> bytes:
    """A ModelProto."""
    out = number(1, version) + part(2, "maker") + part(3, "1.0") + part(7, content)
    out += part(8, number(2, opset)) + part(8, part(1, "com.microsoft") + number(2, 1))
    out += part(14, part(1, "author") + part(2, "me")) + more
    return out + b"".join(part(25, each) for each in functions)


def floats(count: int) -> bytes:
    """So many numbers: 0, 1, 2 ..."""
    return struct.pack(f"<{count}f", *range(count))
