"""
The members of a tar archive, found as Python's ``tarfile`` finds them; nothing is extracted.

A member is a header of 512 bytes, then its bytes, filled up to a multiple of 512. A name or a size
that does not fit stands in a member of its own before it: ``x`` and ``g`` of pax, ``L`` of GNU
(POSIX.1-2001 pax; CPython 3.11 ``Lib/tarfile.py``). A block of zeros ends the archive.
"""

from __future__ import annotations

from typing import NamedTuple

from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.source import ByteSource

__all__ = ["Member", "read_members"]

MAX_MEMBERS = 10_000
MAX_EXTENSION = 1 << 16
"""Bytes of a long name, or of a list of pax."""
_BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_HOLDS_NOTHING = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders and pipes."""


class Member(NamedTuple):
    """One file of the archive."""

    name: str
    data: int
    """First byte."""
    size: int
    is_file: bool
    """False: a link, a folder, a device or of a kind that is not read."""


def read_members(source: ByteSource, target: str) -> list[Member]:
    """
    Read all headers.

    Returns:
        Nothing where the first block is no header.

    Raises:
        DamagedFileError: A member is longer than the file.
        LimitError: There are more members, or longer names, than a limit allows.
    """
    members: list[Member] = []
    everywhere: dict[str, str] = {}
    special: dict[str, str] = {}
    position = 0
    for _ in range(2 * MAX_MEMBERS):
        block = source.read_upto(position, _BLOCK)
        if len(block) < _BLOCK or not _is_header(block):
            return members
        kind, size = block[156:157], _number(block[124:136])
        data = position + _BLOCK
        if kind in (_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK):
            raw = _extension(source, data, size, target)
            if kind == _LONG_NAME:
                special["path"] = _text(raw)
            elif kind != _LONG_LINK:
                (everywhere if kind == _GLOBAL else special).update(_records(raw, target))
            position = data + _padded(size)
            continue
        said = {**everywhere, **special}
        special = {}
        size = int(said["size"]) if said.get("size", "").isdecimal() else size
        held = 0 if kind in _HOLDS_NOTHING else size
        if data + held > source.size:
            raise source.truncated(data, held, "a member of the archive")
        name = said.get("path", _name(block)).rstrip("/")
        is_file = kind in _REGULAR and not any(key.startswith("GNU.sparse") for key in said)
        members.append(Member(name, data, held, is_file))
        position = data + _padded(held)
    raise LimitError(
        f"{visible(target)} claims more than is read", details=(f"more than {MAX_MEMBERS:,} members",)
    )


def _is_header(block: bytes) -> bool:
    """Is its sum, with spaces for the sum itself, what it says? Some writers add up signed bytes."""
    claimed = _number(block[148:156])
    rest = block[:148] + block[156:]
    unsigned = sum(rest) + 8 * 0x20
    return claimed in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes) -> int:
    """Octal text; or, for large ones, a binary number behind a byte of 128."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    return int(text, 8) if text and not text.strip(b"01234567") else -1 if text else 0


def _name(block: bytes) -> str:
    name, prefix = _text(block[:100]), _text(block[345:500])
    # GNU keeps other things in the place of the prefix.
    return f"{prefix}/{name}" if prefix and block[257:263] == b"ustar\0" else name


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _extension(source: ByteSource, data: int, size: int, target: str) -> bytes:
    if not 0 <= size <= MAX_EXTENSION:
        raise LimitError(
            f"{visible(target)} claims more than is read",
            details=(f"a name or a list of {size:,} bytes (limit: {MAX_EXTENSION:,})",),
        )
    return source.read(data, size, "a long name of the archive")


def _records(raw: bytes, target: str) -> dict[str, str]:
    """``11 size=42`` and a line feed, one after the other; 11 is the record's own length."""
    found: dict[str, str] = {}
    position = 0
    while position < len(raw):
        digits = raw[position : position + 8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        if length < len(digits) + 3 or position + length > len(raw):
            raise DamagedFileError(
                f"{visible(target)} is damaged",
                details=(f"a list of pax in the archive makes no sense at its byte {position:,}",),
            )
        key, _, value = raw[position + len(digits) + 1 : position + length - 1].partition(b"=")
        found[_text(key)] = _text(value)
        position += length
    return found
