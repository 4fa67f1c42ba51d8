"""
Frames of a pickle that end inside an argument.

Protocol 4 packs opcodes into frames. CPython's C unpickler, reading from an object without
``peek`` (such as ``io.BytesIO``), takes a frame whole. An argument that reaches beyond the frame is
then read anew from behind it, and what was left of the frame is lost (``_Unpickler_ReadImpl`` and
``_Unpickler_Readline`` in Modules/_pickle.c; measured with 3.11). So the program that runs is another
one than the bytes show to whoever reads them in a row, which is what ``pickle.loads`` does.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.parts import Spliced
from modelinspect.readers.source import ByteSource

__all__ = ["check_frames"]

MAX_FRAME = 1 << 24
"""Writers make frames of 64 kB; longer ones are not walked through."""

_FIXED = {
    0x4B: 1, 0x4D: 2, 0x4A: 4, 0x47: 8, 0x68: 1, 0x6A: 4, 0x71: 1, 0x72: 4, 0x80: 1, 0x82: 1, 0x83: 2,
    0x84: 4, 0x95: 8,
}  # fmt: skip
_COUNTED = {
    0x58: 4, 0x54: 4, 0x55: 1, 0x42: 4, 0x43: 1, 0x8A: 1, 0x8B: 4, 0x8C: 1, 0x8D: 8, 0x8E: 8, 0x96: 8,
}  # fmt: skip
"""Opcode to the bytes of the length that precedes its argument."""
_LINES = {0x46: 1, 0x49: 1, 0x4C: 1, 0x50: 1, 0x53: 1, 0x56: 1, 0x67: 1, 0x70: 1, 0x63: 2, 0x69: 2}
"""Opcode to the lines that are its argument."""


def check_frames(scan: Scan, item: Item, pickle: Pickle, begin: int) -> None:
    """Compare the ends of frames with where opcodes begin; a finding and the other reading."""
    done = getattr(item.source, "cut", begin)
    for start, length in pickle.framed:
        end = start + 9 + length
        if end > pickle.end or start < done:
            continue  # a claim beyond the end is an oddity of its own
        if length > MAX_FRAME:
            scan.find(item, "frame", f"a frame of {length:,} bytes, which no writer makes", start)
            return
        cut = _cut(item.source, start + 9, end)
        if cut is not None:
            text = "a frame ends inside an argument: loaders run different programs"
            scan.find(item, "frame", text, cut)
            other = Spliced(item.source, cut, end)
            scan.push(
                item.inside(other, f"read without bytes {cut} to {end}")._replace(
                    is_pickle=True, begin=item.begin
                )
            )
            return


def _cut(source: ByteSource, at: int, end: int) -> int | None:
    """The byte from which a reader throws away the rest of the frame; None where it is in order."""
    data = source.read(at, end - at)
    last = len(data)
    for first, after in _reads(data):
        if after > last:
            return at + first
        if after == last:
            return None
    return None


def _reads(data: bytes) -> Iterator[tuple[int, int]]:
    """First byte of each read that a loader makes, and the byte after it, which may be beyond the data."""
    at, size = 0, len(data)
    fixed, counted, lines = _FIXED, _COUNTED, _LINES
    while at < size:
        op = data[at]
        begin = at + 1
        width = fixed.get(op)
        if width is not None:
            at = begin + width
            yield begin, at
        elif op in counted:
            width = counted[op]
            at = begin + width
            if at >= size:
                yield begin, at
                return
            yield at, at + int.from_bytes(data[begin:at], "little")
            at += int.from_bytes(data[begin:at], "little")
        elif op in lines:
            at = begin
            for _ in range(lines[op]):
                found = data.find(b"\n", at)
                if found < 0:
                    yield (at, size + 1) if at < size else (at, at)
                    return
                at = found + 1
            yield begin, at
        else:
            at = begin
    yield size, size
