"""
Every member of a tar archive, the layout of torch 0.1 among them.

A header of 512 bytes says name, size and type of a member (POSIX ustar); its data follow, filled up
to a multiple of 512. Long names stand in a member before: ``x`` (pax) or ``L`` (GNU).
"""

from __future__ import annotations

import re

from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.kinds import PICKLE_SUFFIXES, is_tar
from modelinspect.readers.scanning.parts import Part

__all__ = ["look_at_tar"]

_BLOCK = 512
_MAX_MEMBERS = 100_000
_MAX_NAME_DATA = 1 << 16
_OF_TORCH = ("storages", "tensors", "pickle", "sys_info")
_PAX_PATH = re.compile(rb"[0-9]+ path=([^\n]*)\n")
_FILES = (b"0", b"\0", b"7", b"S")


def look_at_tar(scan: Scan, item: Item) -> None:
    """All members, by their headers."""
    scan.looked(item, "tar archive")
    source, at, members = item.source, item.begin, 0
    long_name = ""
    while at + _BLOCK <= source.size and members < _MAX_MEMBERS:
        head = source.read(at, _BLOCK, "a header of the tar archive")
        if not is_tar(head):
            if head.strip(b"\0"):
                scan.find(item, "header", "the tar archive is damaged here", at)
            else:
                _behind(scan, item, at)
            return
        members += 1
        size, kind = _number(head[124:136]), head[156:157]
        data = at + _BLOCK
        if size < 0 or data + size > source.size:
            scan.find(item, "size-lie", f"a member claims {size:,} bytes, more than there are", at)
            return
        at = data + size + -size % _BLOCK
        if kind in (b"x", b"L"):
            long_name = _long_name(source.read(data, min(size, _MAX_NAME_DATA)), kind)
            continue
        name = long_name or _name(head)
        long_name = ""
        _check(scan, item, name, kind, head, data)
        if kind in _FILES and size:
            base = name.rpartition("/")[2].lower()
            is_pickle = base in _OF_TORCH or base.endswith(PICKLE_SUFFIXES)
            context = f"tar {base}" if base in _OF_TORCH else ""
            scan.push(item.inside(Part(source, data, size), name, context=context, is_pickle=is_pickle))


def _behind(scan: Scan, item: Item, at: int) -> None:
    """An archive ends with blocks of zeros; GNU tar fills it up to 10,240 bytes."""
    source = item.source
    rest = source.read_upto(at, min(source.size - at, 1 << 20))
    first = len(rest) - len(rest.lstrip(b"\0"))
    if first < len(rest):
        left = source.size - at - first
        scan.find(item, "trailing-bytes", f"{left:,} bytes follow the tar archive", at + first)
        scan.push(item.inside(Part(source, at + first, left), f"bytes from {at + first}"))


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else 0


def _name(head: bytes) -> str:
    name, prefix = head[:100].split(b"\0")[0], head[345:500].split(b"\0")[0]
    whole = prefix + b"/" + name if prefix and head[257:262] == b"ustar" else name
    return whole.decode("utf-8", "backslashreplace")


def _long_name(data: bytes, kind: bytes) -> str:
    if kind == b"L":
        return data.split(b"\0")[0].decode("utf-8", "backslashreplace")
    found = _PAX_PATH.search(data)
    return found[1].decode("utf-8", "backslashreplace") if found else ""


def _check(scan: Scan, item: Item, name: str, kind: bytes, head: bytes, at: int) -> None:
    target = head[157:257].split(b"\0")[0].decode("utf-8", "backslashreplace") if kind in (b"1", b"2") else ""
    if any(text.startswith("/") or ".." in text.split("/") for text in (name, target)):
        leads = f"{name[:100]!r} leads to {target[:100]!r}" if target else repr(name[:100])
        scan.find(item, "path-escape", f"unpacking it writes outside the folder: {leads}", at - _BLOCK)
    if kind in (b"3", b"4", b"6"):
        scan.find(item, "path-escape", f"{name[:100]!r} is a device or a pipe", at - _BLOCK)
