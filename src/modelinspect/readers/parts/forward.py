"""
Reading a header from front to back whose length nobody knows before its end.

Pieces grow while they are read one after the other and start small again after a
jump, so a short header costs little and a long one few calls.
"""

from __future__ import annotations

import struct

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.source import ByteSource

__all__ = ["Forward", "readable"]

_FIRST_PIECE = 512
_MOST_PIECE = 1 << 20
_COST_OF_NO_TEXT = 16
"""What a byte costs that is no UTF-8, in bytes that are: to show it takes so much longer."""


def readable(raw: bytes) -> tuple[str, int]:
    """
    A text of a file, what is no UTF-8 in it as escapes; and its cost, in bytes.
    """
    try:
        return raw.decode("utf-8"), len(raw)
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace"), _COST_OF_NO_TEXT * len(raw)


class Forward:
    """
    A place in a file that only moves on.

    Args:
        source: The file.
        order: ``<`` for little-endian numbers, ``>`` for big-endian ones.
        target: The file as the user spelt it.
    """

    def __init__(self, source: ByteSource, order: str, target: str, start: int = 0) -> None:
        self.source = source
        self.order = order
        self.target = target
        self.held = b""
        self.start = start
        """Byte of the file that is the first held."""
        self.at = 0
        """Among those held."""
        self._piece = _FIRST_PIECE

    @property
    def position(self) -> int:
        """Byte of the file that comes next."""
        return self.start + self.at

    @property
    def left(self) -> int:
        """Bytes from here to the end of the file."""
        return self.source.size - self.position

    def need(self, n: int, what: str) -> int:
        """Hold the next *n* bytes; says where among those held they begin."""
        if self.at + n > len(self.held):
            self._fetch(n, what)
        return self.at

    def _fetch(self, n: int, what: str) -> None:
        rest = self.held[self.at :]
        position = self.position
        if n > self.source.size - position:
            raise self.source.truncated(position, n, what)
        end = position + len(rest)
        wanted = max(n - len(rest), min(self._piece, self.source.size - end))
        self._piece = min(2 * self._piece, _MOST_PIECE)
        self.held = rest + self.source.read(end, wanted, what)
        self.start, self.at = position, 0

    def skip(self, n: int, what: str) -> None:
        """Pass over bytes, without reading those that are not held."""
        if self.at + n <= len(self.held):
            self.at += n
            return
        if n > self.left:
            raise self.source.truncated(self.position, n, what)
        self.start, self.at, self.held = self.position + n, 0, b""
        self._piece = _FIRST_PIECE

    def take(self, n: int, what: str) -> bytes:
        """The next *n* bytes."""
        at = self.need(n, what)
        self.at = at + n
        return self.held[at : at + n]

    def unpack(self, form: struct.Struct, what: str) -> tuple[int, ...]:
        """The next numbers of that form."""
        at = self.need(form.size, what)
        self.at = at + form.size
        return form.unpack_from(self.held, at)

    def varint(self) -> int:
        """The next number of a protocol buffer: seven bits a byte, the lowest first."""
        value = shift = 0
        while shift < 70:
            at = self.at
            if at >= len(self.held):
                at = self.need(1, "a number")
            byte = self.held[at]
            self.at = at + 1
            if byte < 0x80:
                return (value | byte << shift) & 0xFFFF_FFFF_FFFF_FFFF if shift else byte
            value |= (byte & 0x7F) << shift
            shift += 7
        raise self.damaged("a number has more than ten bytes")

    def tag(self) -> tuple[int, int, int]:
        """
        Number and type of the next field of a protocol buffer, with its number or its length.

        The value is 0 where the type is neither 0 nor 2.
        """
        tag = self.varint()
        wire = tag & 7
        return tag >> 3, wire, self.varint() if wire in (0, 2) else 0

    def damaged(self, reason: str) -> DamagedFileError:
        """An error that names the file and this place in it."""
        return DamagedFileError(
            f"{visible(self.target)} is damaged", details=(f"{reason} (byte {self.position:,})",)
        )
