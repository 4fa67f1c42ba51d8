"""
GGUF files of any content, sound or not, byte by byte (docs/gguf.md of ggml).

gguf 0.19 reads what this writes of versions 2 and 3: checked once, name by name, for
every data type and both byte orders.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

STRING, ARRAY = 8, 9
LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Tensor(NamedTuple):
    """One tensor as the header has it; *offset* None: where it belongs."""

    name: str
    shape: tuple[int, ...]
    """Outermost first, as torch has it."""
    kind: int
    data: bytes
    offset: int | None = None


class Gguf:
    """Writes one file."""

    def __init__(self, version: int = 3, order: str = "<") -> None:
        self.version = version
        self.order = order
        self.width = "I" if version == 1 else "Q"

    def pack(self, letters: str, *numbers: Any) -> bytes:
        """Numbers in the file's byte order."""
        return struct.pack(self.order + letters, *numbers)

    def text(self, text: str | bytes) -> bytes:
        """A length and as many bytes."""
        raw = text.encode() if isinstance(text, str) else text
        return self.pack(self.width, len(raw)) + raw

    def value(self, kind: int, value: Any) -> bytes:
        """A value without its type; of an array, ``(type, elements)``."""
        if kind == STRING:
            return self.text(value)
        if kind == ARRAY:
            inner, elements = value
            head = self.pack("I" + self.width, inner, len(elements))
            return head + b"".join(self.value(inner, element) for element in elements)
        return self.pack(LETTERS[kind], value)

    def header(
        self, pairs: Iterable[tuple[str, int, Any]], tensors: Sequence[Tensor], alignment: int = 32
    ) -> bytes:
        """Everything before the padding."""
        pairs, at = list(pairs), 0
        counts = self.pack(self.width * 2, len(tensors), len(pairs))
        parts = [b"GGUF", self.pack("I", self.version), counts]
        for key, kind, value in pairs:
            parts += [self.text(key), self.pack("I", kind), self.value(kind, value)]
        for tensor in tensors:
            offset = at if tensor.offset is None else tensor.offset
            parts += [self.text(tensor.name), self.pack("I", len(tensor.shape))]
            parts += [self.pack(self.width * len(tensor.shape), *tensor.shape[::-1])]
            parts += [self.pack("IQ", tensor.kind, offset)]
            at += len(tensor.data) + -len(tensor.data) % alignment
        return b"".join(parts)

    def file(
        self, pairs: Iterable[tuple[str, int, Any]], tensors: Sequence[Tensor], alignment: int = 32
    ) -> bytes:
        """A whole file."""
        head = self.header(pairs, tensors, alignment)
        parts = [head, bytes(-len(head) % alignment)]
        for tensor in tensors:
            parts += [tensor.data, bytes(-len(tensor.data) % alignment)]
        return b"".join(parts)
