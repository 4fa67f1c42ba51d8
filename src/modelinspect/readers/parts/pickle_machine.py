"""
Read a pickle without running it.

A pickle is a program for a stack machine (the opcodes are listed in CPython's
``Lib/pickletools.py``). This machine runs all of them, protocols 0 to 5, and
makes *symbols* where Python's would import and call: a :class:`Global` is a
name, a :class:`Call` is what would have been called with which arguments.
Nothing is imported, nothing is called, and there is no recursion.

Numbers, texts, bytes, tuples and lists become Python's own. Dictionaries and
sets become :class:`PickledDict` and :class:`PickledSet`, which never hash what
they hold: a nested tuple that takes 200 bytes can take years to hash.
"""

from __future__ import annotations

import struct
import sys
from _codecs import escape_decode
from collections.abc import Callable
from typing import Any, Literal

from modelinspect.errors import CheckpointError, DamagedFileError, LimitError, visible
from modelinspect.readers.parts.pickle_symbols import (
    Blob,
    Call,
    Extension,
    Finding,
    Global,
    OutOfBand,
    PersistentId,
    Pickle,
    PickledDict,
    PickledSet,
    PlacedBytes,
)

__all__ = ["Feed", "read_as_far", "read_pickle"]

# Limits on what a pickle may claim. An honest one stays far below all of them.
MAX_TEXT_BYTES = 1 << 20
"""Longer texts are passed over; their place is kept as a Blob."""
MAX_KEPT_BYTES = 1 << 10
"""The same of byte strings and of the texts of Python 2, which are bytes."""
MIN_PLACED_BYTES = 16
"""Of byte strings that are kept with their place; of shorter ones there may be very many."""
MAX_LINE_BYTES = 1 << 16
"""Of the opcodes that end with a line feed: names and decimal numbers ..."""
MAX_TEXT_LINE_BYTES = 1 << 26
"""... and texts, which in protocol 0 arrays of numbers are written as."""
MAX_NAME_BYTES = 1 << 12
"""Of a module and a name in it: both may be kept once and named together many times."""
MAX_INTEGER_BYTES = 64
"""Longer integers are passed over as a Blob."""
FREE_OBJECTS = 1_000_000
"""Containers, calls and marks that any pickle may make ..."""
BYTES_PER_OBJECT = 4
"""... and one more for each of so many bytes. torch writes one for some 20 bytes."""
MAX_STACK = 8_000_000
MAX_FINDINGS = 100
_MAX_KEPT = 10_000
"""Frames, and keys that are no plain texts or numbers: further ones are passed over."""
_MAX_BLOCKS = 1_500_000
"""Pieces of memory that a compressed pickle may fill, and two more for every byte that it
takes in the file: the limits above, made for each byte of a pickle, would be too generous."""
_WINDOW = 1 << 20
_FIRST_STEP = 1 << 12
_SMALL_STEP = 1 << 9

Behind = Callable[[Call, int], int]

_unpack_u16 = struct.Struct("<H").unpack_from
_unpack_u32 = struct.Struct("<I").unpack_from
_unpack_i32 = struct.Struct("<i").unpack_from
_unpack_f64 = struct.Struct(">d").unpack_from


class Feed:
    """
    A window that moves over a record, so that long ones are never held whole.

    Args:
        fetch: Given a first byte and a length, that many bytes of the record.
        size: Bytes that there are.
        where: Names the record in errors.
        eager: The record is all pickle: read big pieces. Otherwise data may
            follow, of which as little as possible is read.
        packed: Bytes that it takes where it is compressed.
    """

    __slots__ = ("base", "data", "eager", "fetch", "packed", "size", "where")

    def __init__(
        self,
        fetch: Callable[[int, int], bytes],
        size: int,
        where: str,
        eager: bool = True,
        packed: int | None = None,
    ) -> None:
        self.packed = packed
        self.fetch = fetch
        self.size = size
        self.where = where
        self.eager = eager
        self.base = 0
        self.data = b""

    def slide(self, begin: int, end: int) -> None:
        """
        Let the window begin at *begin* and reach to *end* or further.

        Raises:
            DamagedFileError: The record ends before *end*.
        """
        if end > self.size:
            raise self.damaged(begin, "it is cut off here", True)
        kept = self.data[begin - self.base :] if begin >= self.base else b""
        have = begin + len(kept)
        wanted = min(max(end - have, self.step(begin)), self.size - have)
        self.data = kept + self.fetch(have, wanted) if wanted > 0 else kept
        self.base = begin

    def step(self, begin: int) -> int:
        """Bytes to read at least where the window begins at *begin*."""
        return _WINDOW if self.eager else min(_WINDOW, max(_FIRST_STEP, begin // 8))

    def damaged(self, position: int, reason: str, truncated: bool = False) -> DamagedFileError:
        """The error for a pickle that makes no sense at *position*."""
        what = "is truncated" if truncated else "is damaged"
        return DamagedFileError(
            f"{visible(self.where)} {what}",
            details=(f"pickle, byte {position:,}: {reason}",),
            hint="compare its size with the original; a download may have stopped early"
            if truncated
            else None,
        )


class SparseFeed(Feed):
    """
    A window for pickles that hold the bytes of tensors: after each that is passed over it begins
    small again, and grows while the pickle goes on.
    """

    __slots__ = ("_next", "_reached")

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, where: str) -> None:
        super().__init__(fetch, size, where, eager=False)
        self._next = _SMALL_STEP
        self._reached = 0

    def step(self, begin: int) -> int:
        """The last step twice, or a small one where bytes were passed over."""
        self._next = min(2 * self._next, _WINDOW) if begin <= self._reached else _SMALL_STEP
        self._reached = begin + self._next
        return self._next


def read_pickle(feed: Feed, begin: int = 0) -> Pickle:
    """
    Interpret one pickle up to its STOP.

    Raises:
        DamagedFileError: It ends too early or makes no sense.
        LimitError: It asks for more than a limit allows.
    """
    return _Machine(feed, begin).load()


def read_as_far(
    feed: Feed, begin: int = 0, behind: Behind | None = None
) -> tuple[Pickle, CheckpointError | None]:
    """
    Interpret one pickle as far as it makes sense: a loader runs what stands before the break.

    Args:
        feed: Where the bytes come from.
        begin: First byte.
        behind: Given an object whose state was set and the byte after that: bytes to pass over
            there, which some writers put in the middle of a pickle.

    Returns:
        What was read, with the value None where it breaks, and why it breaks.
    """
    machine = _Machine(feed, begin)
    machine.behind = behind
    try:
        return machine.load(), None
    except CheckpointError as error:
        return machine.pickle(None), error


class _NeedMoreError(Exception):
    """The window ends inside an argument."""

    def __init__(self, end: int) -> None:
        self.end = end


_UNSET: Any = object()
_QUICK_TO_HASH = frozenset({str, int})
_ARRAY_STATE = 5
"""Length of the state of a NumPy array: version, shape, type, order, numbers."""
_NAMES = {"text": "a text", "bytes": "a byte string", "integer": "an integer"}

# Opcodes with arguments of fixed size, to tell an early end from an empty stack.
_ARGUMENT_BYTES = {
    0x4B: 1, 0x4D: 2, 0x4A: 4, 0x47: 8, 0x68: 1, 0x6A: 4, 0x71: 1, 0x72: 4, 0x58: 4, 0x54: 4, 0x55: 1,
    0x42: 4, 0x43: 1, 0x80: 1, 0x82: 1, 0x83: 2, 0x84: 4, 0x8A: 1, 0x8B: 4, 0x8C: 1, 0x8D: 8, 0x8E: 8,
    0x95: 8, 0x96: 8,
}  # fmt: skip


class _Machine:
    """
    The state between two windows, and the opcodes that are rare.
    """

    def __init__(self, feed: Feed, begin: int) -> None:
        self.feed = feed
        self.at = begin
        self.stack: list[Any] = []
        self.frames: list[list[Any]] = []
        self.memo: list[Any] = []
        self.room = FREE_OBJECTS
        self.globals: dict[tuple[str, str], Global] = {}
        self.calls: list[Call] = []
        self.pids: list[PersistentId] = []
        self.findings: list[Finding] = []
        self.last_bytes: tuple[Any, int, int] = (None, 0, 0)
        """The byte string, or text of Python 2, that was read last: itself, its place and length."""
        self.protocol = 0
        self.frame_end = 0
        self.framed: list[tuple[int, int]] = []
        self.hashed: list[Any] = []
        self.behind: Behind | None = None
        self.begin = begin
        self.blocks = 0 if feed.packed is None else _blocks()

    def load(self) -> Pickle:
        """Run, window after window, until STOP."""
        wanted = self.at + 1
        while wanted:
            base, length = self.feed.base, len(self.feed.data)
            if not base <= self.at <= wanted <= base + length:
                self.feed.slide(self.at, wanted)
                self.room += len(self.feed.data) // BYTES_PER_OBJECT
            wanted = self._run()
            self._check_limits()
        if not self.stack:
            raise self.feed.damaged(self.at - 1, "it ends with nothing on its stack")
        return self.pickle(self.stack[-1])

    def pickle(self, value: Any) -> Pickle:
        """All that was read."""
        ordered = sorted(self.globals.values(), key=lambda name: name.position)
        pickle = Pickle(value, self.at, ordered, self.calls, self.pids, self.findings, self.protocol)
        pickle.framed, pickle.hashed = self.framed, self.hashed
        return pickle

    def _check_limits(self) -> None:
        """Once a window, which is short enough that little can happen in one."""
        if self.room < 0:
            most = f"{FREE_OBJECTS:,} and one for every {BYTES_PER_OBJECT} bytes"
            raise self.limit(f"more objects than are allowed ({most})")
        if len(self.stack) > MAX_STACK:
            raise self.limit(f"more than {MAX_STACK:,} objects on the stack")
        if self.feed.packed is not None:
            allowed = _MAX_BLOCKS + 2 * self.feed.packed
            if _blocks() - self.blocks > allowed:
                raise self.limit(
                    f"more than the {allowed:,} objects that one of its compressed size may hold"
                )

    def limit(self, reason: str) -> LimitError:
        """The error for a pickle that claims too much."""
        return LimitError(
            f"{visible(self.feed.where)} claims more than is read",
            details=(f"pickle, near byte {self.at:,}: {reason}",),
        )

    def find(self, position: int, text: str, rule: str = "pickle-odd") -> None:
        """Remember something odd."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(position, text, rule))

    def _hash(self, keys: list[Any]) -> None:
        """Remember keys whose hash may take long: tuples in tuples."""
        if not _QUICK_TO_HASH.issuperset(map(type, keys)):
            odd = [key for key in keys if type(key) in (tuple, PickledSet)]
            self.hashed += odd[: max(0, _MAX_KEPT - len(self.hashed))]

    def _run(self) -> int:  # noqa: C901, PLR0912, PLR0915 - see its docstring
        """
        Run until STOP (returns 0) or until the window ends (returns the byte
        that it has to reach). Every opcode reads its argument before it changes
        anything, so that one cut off by the window is simply run again.

        Long on purpose: names that are local, opcodes by frequency in torch's
        files and no call for the frequent ones make it five times as fast as a
        table of functions.
        """
        feed = self.feed
        data, base = feed.data, feed.base
        size = len(data)
        stack, frames, memo = self.stack, self.frames, self.memo
        calls, pids = self.calls, self.pids
        room = self.room
        unpack_u32 = _unpack_u32
        start = pos = self.at - base
        wanted = 0
        try:
            while True:
                start = pos
                op = data[pos]
                if op == 0x4B:  # BININT1
                    stack.append(data[pos + 1])
                    pos += 2
                    continue
                if op == 0x68:  # BINGET
                    item = memo[data[pos + 1]]
                    if item is _UNSET:
                        raise feed.damaged(base + pos, "it reads a memo entry that was never written")
                    stack.append(item)
                    pos += 2
                    continue
                if op == 0x28:  # MARK
                    frames.append(stack)
                    stack = []
                    pos += 1
                    room -= 1
                    continue
                if op == 0x58:  # BINUNICODE
                    begin = pos + 5
                    end = begin + unpack_u32(data, pos + 1)[0]
                    if end > size or end - begin > MAX_TEXT_BYTES:
                        stack.append(self._long_text(begin, end))
                    else:
                        try:
                            stack.append(data[begin:end].decode())
                        except UnicodeDecodeError:
                            stack.append(self._odd_text(data[begin:end], base + pos))
                    pos = end
                elif op == 0x74:  # TUPLE
                    item = tuple(stack)
                    stack = frames.pop()
                    stack.append(item)
                    pos += 1
                elif op == 0x52:  # REDUCE
                    item = stack.pop()
                    item = Call(stack[-1], item, 0x52, base + pos)
                    stack[-1] = item
                    calls.append(item)
                    pos += 1
                    room -= 2
                elif op == 0x72:  # LONG_BINPUT
                    index = unpack_u32(data, pos + 1)[0]
                    if index == len(memo):
                        memo.append(stack[-1])
                    else:
                        self._put(index, stack[-1], base + pos)
                    pos += 5
                    continue
                elif op == 0x51:  # BINPERSID
                    item = PersistentId(stack[-1])
                    stack[-1] = item
                    pids.append(item)
                    pos += 1
                    room -= 1
                    continue
                elif op == 0x86:  # TUPLE2
                    item = stack.pop()
                    stack[-1] = (stack[-1], item)
                    pos += 1
                    room -= 1
                elif op == 0x85:  # TUPLE1
                    stack[-1] = (stack[-1],)
                    pos += 1
                    room -= 1
                elif op == 0x89:  # NEWFALSE
                    stack.append(False)
                    pos += 1
                    continue
                elif op == 0x29:  # EMPTY_TUPLE
                    stack.append(())
                    pos += 1
                    continue
                elif op == 0x4D:  # BININT2
                    stack.append(data[pos + 1] | data[pos + 2] << 8)
                    pos += 3
                    continue
                elif op == 0x8C:  # SHORT_BINUNICODE
                    begin = pos + 2
                    end = begin + data[pos + 1]
                    if end > size:
                        raise _NeedMoreError(base + end)
                    try:
                        stack.append(data[begin:end].decode())
                    except UnicodeDecodeError:
                        stack.append(self._odd_text(data[begin:end], base + pos))
                    pos = end
                elif op == 0x6A:  # LONG_BINGET
                    item = memo[unpack_u32(data, pos + 1)[0]]
                    if item is _UNSET:
                        raise feed.damaged(base + pos, "it reads a memo entry that was never written")
                    stack.append(item)
                    pos += 5
                    continue
                elif op == 0x4A:  # BININT
                    stack.append(_unpack_i32(data, pos + 1)[0])
                    pos += 5
                    continue
                elif op == 0x87:  # TUPLE3
                    third = stack.pop()
                    item = stack.pop()
                    stack[-1] = (stack[-1], item, third)
                    pos += 1
                    room -= 1
                elif op == 0x88:  # NEWTRUE
                    stack.append(True)
                    pos += 1
                    continue
                elif op == 0x4E:  # NONE
                    stack.append(None)
                    pos += 1
                    continue
                elif op == 0x47:  # BINFLOAT
                    stack.append(_unpack_f64(data, pos + 1)[0])
                    pos += 9
                    continue
                elif op == 0x7D:  # EMPTY_DICT
                    stack.append(PickledDict([]))
                    pos += 1
                    room -= 2
                elif op == 0x5D:  # EMPTY_LIST
                    stack.append([])
                    pos += 1
                    room -= 1
                elif op == 0x2E:  # STOP
                    self.stack = stack
                    self.at = base + pos + 1
                    return 0
                else:
                    self.stack, self.room = stack, room
                    self.at = base + pos
                    pos = _RARE.get(op, _Machine._unknown)(self, pos)
                    stack, room = self.stack, self.room
                # What falls through is mostly kept in the memo at once: spare it a round.
                start = pos
                op = data[pos]
                if op == 0x72:  # LONG_BINPUT
                    index = unpack_u32(data, pos + 1)[0]
                    if index == len(memo):
                        memo.append(stack[-1])
                    else:
                        self._put(index, stack[-1], base + pos)
                    pos += 5
                elif op == 0x94:  # MEMOIZE
                    memo.append(stack[-1])
                    pos += 1
                elif op == 0x71:  # BINPUT
                    index = data[pos + 1]
                    if index == len(memo):
                        memo.append(stack[-1])
                    else:
                        self._put(index, stack[-1], base + pos)
                    pos += 2
        except _NeedMoreError as need:
            wanted = need.end
        except (IndexError, struct.error):
            wanted = self._shortage(start)
        self.stack, self.room = stack, room
        self.at = base + start
        return wanted

    def _shortage(self, start: int) -> int:
        """The byte that the window has to reach; an error where that would not help."""
        feed = self.feed
        left = len(feed.data) - start
        absolute = feed.base + start
        needed = 1 + (_ARGUMENT_BYTES.get(feed.data[start], 0) if left > 0 else 0)
        if left < needed:
            return absolute + needed
        raise feed.damaged(absolute, "it takes more from its stack or memo than they hold")

    # -- texts and numbers ---------------------------------------------------------

    def _long_text(self, begin: int, end: int) -> Blob:
        """A text that the window does not hold, or that nobody wants held."""
        base = self.feed.base
        return self._blob("text", begin, end, base, MAX_TEXT_BYTES)

    def _blob(
        self, kind: Literal["text", "bytes", "integer"], begin: int, end: int, base: int, most: int = -1
    ) -> Blob:
        if base + end > self.feed.size:
            left = self.feed.size - base - begin
            reason = f"{_NAMES[kind]} of {end - begin:,} bytes begins here, {left:,} are left"
            raise self.feed.damaged(base + begin, reason, True)
        if end - begin <= most:
            raise _NeedMoreError(base + end)
        return Blob(kind, end - begin, base + begin)

    def _odd_text(self, raw: bytes, position: int) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise self.feed.damaged(position, "a text is not UTF-8") from None

    def _slice(
        self, kind: Literal["text", "bytes"], begin: int, length: int, most: int = MAX_KEPT_BYTES
    ) -> tuple[bytes | Blob, int]:
        """Raw bytes of the window, or a Blob, and where they end."""
        end = begin + length
        if end > len(self.feed.data) or length > most:
            return self._blob(kind, begin, end, self.feed.base, most), end
        return self.feed.data[begin:end], end

    def _line(self, begin: int) -> tuple[bytes, int]:
        """The text up to the next line feed, and where the line after it begins."""
        end = self._line_end(begin, MAX_LINE_BYTES)
        return self.feed.data[begin:end], end + 1

    def _line_end(self, begin: int, most: int) -> int:
        data, base = self.feed.data, self.feed.base
        end = data.find(b"\n", begin, begin + most)
        if end >= 0:
            return end
        have = len(data) - begin
        if have >= most:
            raise self.limit(f"a line of more than {most:,} bytes")
        if base + len(data) >= self.feed.size:
            raise self.feed.damaged(base + begin, "it is cut off in a name or number", True)
        raise _NeedMoreError(min(base + begin + max(2 * have, MAX_LINE_BYTES), self.feed.size))

    def _long_line(self, begin: int) -> tuple[bytes | Blob, int]:
        """The same of a text, which may be so long that only its place is kept."""
        end = self._line_end(begin, MAX_TEXT_LINE_BYTES)
        if end - begin > MAX_TEXT_BYTES:
            return Blob("escaped", end - begin, self.feed.base + begin), end + 1
        return self.feed.data[begin:end], end + 1

    def _text_line(self, begin: int) -> tuple[str, int]:
        line, end = self._line(begin)
        return line.decode("utf-8", "backslashreplace"), end

    def _number(self, begin: int, make: Callable[[bytes], Any]) -> tuple[Any, int]:
        line, end = self._line(begin)
        if len(line) > 3 * MAX_INTEGER_BYTES:
            return Blob("integer", len(line), self.feed.base + begin), end
        try:
            return make(line), end
        except ValueError:
            raise self.feed.damaged(self.at, f"{visible(repr(line[:40]))} is not a number") from None

    def _little(self, begin: int, length: int) -> int:
        """An unsigned number of *length* bytes."""
        raw = self.feed.data[begin : begin + length]
        if len(raw) < length:
            raise _NeedMoreError(self.feed.base + begin + length)
        return int.from_bytes(raw, "little")

    # -- rare opcodes: each is given its place in the window and returns the next one ------

    def _unknown(self, pos: int) -> int:
        raise self.feed.damaged(self.at, f"{self.feed.data[pos]:#04x} is not an opcode")

    def _proto(self, pos: int) -> int:
        version = self._little(pos + 1, 1)
        if version > 5:
            raise self.feed.damaged(self.at, f"pickle protocol {version} is not known (0 to 5 are)")
        self.protocol = version
        return pos + 2

    def _frame(self, pos: int) -> int:
        length = self._little(pos + 1, 8)
        if self.at < self.frame_end:
            self.find(self.at, "a frame begins inside another frame", "frame")
        if len(self.framed) < _MAX_KEPT:
            self.framed.append((self.at, length))
        self.frame_end = self.at + 9 + length
        if self.frame_end > self.feed.size:
            self.find(self.at, f"a frame claims {length:,} bytes, more than there are", "frame")
        return pos + 9

    def _pop(self, pos: int) -> int:
        if self.stack:
            self.stack.pop()
        else:
            self.stack = self.frames.pop()
        return pos + 1

    def _pop_mark(self, pos: int) -> int:
        self.stack = self.frames.pop()
        return pos + 1

    def _dup(self, pos: int) -> int:
        self.stack.append(self.stack[-1])
        return pos + 1

    def _int(self, pos: int) -> int:
        value, end = self._number(pos + 1, int)
        line = self.feed.data[pos + 1 : end - 1]
        self.stack.append(line == b"01" if line in (b"00", b"01") else value)
        return end

    def _long(self, pos: int) -> int:
        value, end = self._number(pos + 1, lambda line: int(line.removesuffix(b"L")))
        self.stack.append(value)
        return end

    def _float(self, pos: int) -> int:
        value, end = self._number(pos + 1, float)
        self.stack.append(value)
        return end

    def _long1(self, pos: int) -> int:
        return self._binary_long(pos + 2, self._little(pos + 1, 1))

    def _long4(self, pos: int) -> int:
        length = self._little(pos + 1, 4)
        if length >= 1 << 31:
            raise self.feed.damaged(self.at, "an integer of negative length")
        return self._binary_long(pos + 5, length)

    def _binary_long(self, begin: int, length: int) -> int:
        end = begin + length
        if length > MAX_INTEGER_BYTES:
            self.stack.append(self._blob("integer", begin, end, self.feed.base))
            self.find(self.at, f"an integer of {length:,} bytes")
            return end
        self._little(begin, length)
        self.stack.append(int.from_bytes(self.feed.data[begin:end], "little", signed=True))
        return end

    def _string(self, pos: int) -> int:
        line, end = self._long_line(pos + 1)
        if isinstance(line, Blob):
            self.stack.append(line)
            return end
        line = line.strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise self.feed.damaged(self.at, "a text of protocol 0 is not quoted")
        try:
            self.stack.append(_python2_text(escape_decode(line[1:-1])[0]))
        except ValueError:
            raise self.feed.damaged(self.at, "a text holds an escape that makes no sense") from None
        return end

    def _unicode(self, pos: int) -> int:
        line, end = self._long_line(pos + 1)
        try:
            self.stack.append(line if isinstance(line, Blob) else line.decode("raw-unicode-escape"))
        except UnicodeDecodeError:
            raise self.feed.damaged(self.at, "a text holds an escape that makes no sense") from None
        return end

    def _binstring(self, pos: int) -> int:
        return self._old_text(pos + 5, self._little(pos + 1, 4))

    def _short_binstring(self, pos: int) -> int:
        return self._old_text(pos + 2, self._little(pos + 1, 1))

    def _old_text(self, begin: int, length: int) -> int:
        raw, end = self._slice("text", begin, length)
        text = _python2_text(raw) if isinstance(raw, bytes) else raw
        self.stack.append(text)
        self.last_bytes = text, self.feed.base + begin, length
        return end

    def _binunicode8(self, pos: int) -> int:
        raw, end = self._slice("text", pos + 9, self._little(pos + 1, 8), MAX_TEXT_BYTES)
        self.stack.append(self._odd_text(raw, self.at) if isinstance(raw, bytes) else raw)
        return end

    def _short_binbytes(self, pos: int) -> int:
        return self._bytes(pos + 2, self._little(pos + 1, 1))

    def _binbytes(self, pos: int) -> int:
        return self._bytes(pos + 5, self._little(pos + 1, 4))

    def _binbytes8(self, pos: int) -> int:
        return self._bytes(pos + 9, self._little(pos + 1, 8), 1)

    def _bytes(self, begin: int, length: int, placed: int = MIN_PLACED_BYTES) -> int:
        raw, end = self._slice("bytes", begin, length)
        position = self.feed.base + begin
        if length >= placed and isinstance(raw, bytes):
            raw = PlacedBytes(raw)
            raw.position = position
            self.room -= 5
        self.stack.append(raw)
        self.last_bytes = raw, position, length
        return end

    def _list(self, pos: int) -> int:
        items, self.stack = self.stack, self.frames.pop()
        self.stack.append(items)
        return pos + 1

    def _dict(self, pos: int) -> int:
        flat, self.stack = self.stack, self.frames.pop()
        self.stack.append(PickledDict(self._paired(flat)))
        self._hash(flat[::2])
        self.room -= 1
        return pos + 1

    def _paired(self, flat: list[Any]) -> list[Any]:
        if len(flat) % 2:
            raise self.feed.damaged(self.at, "a dictionary has a key without a value")
        return flat

    def _set(self, pos: int) -> int:
        self.stack.append(PickledSet([]))
        self.room -= 2
        return pos + 1

    def _frozenset(self, pos: int) -> int:
        items, self.stack = self.stack, self.frames.pop()
        self.stack.append(PickledSet(items))
        self._hash(items)
        self.room -= 1
        return pos + 1

    def _append(self, pos: int) -> int:
        item = self.stack.pop()
        self._extend([item])
        return pos + 1

    def _appends(self, pos: int) -> int:
        items, self.stack = self.stack, self.frames.pop()
        self._extend(items)
        return pos + 1

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is PickledSet:
            target.items.extend(items)
            self._hash(items)
        elif type(target) is Call:
            target.grown().items.extend(items)
        elif items:
            self.find(self.at, f"something is appended to {_describe(target)}", _rule_of(target))

    def _setitem(self, pos: int) -> int:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set_pairs([key, value])
        return pos + 1

    def _setitems(self, pos: int) -> int:
        flat, self.stack = self.stack, self.frames.pop()
        self._set_pairs(self._paired(flat))
        return pos + 1

    def _set_pairs(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        self._hash(flat[::2])
        if type(target) is PickledDict:
            target.flat.extend(flat)
        elif type(target) is Call:
            target.grown().flat.extend(flat)
        elif flat:
            self.find(self.at, f"an entry is set on {_describe(target)}", _rule_of(target))

    def _build(self, pos: int) -> int:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Call:
            if type(state) is tuple and len(state) == _ARRAY_STATE and state[-1] is self.last_bytes[0]:
                # An array's numbers: of texts and short byte strings only the place is of use.
                _, position, length = self.last_bytes
                if type(state[-1]) in (str, bytes):
                    state = (*state[:-1], Blob("bytes", length, position))
            target.grown().states.append(state)
            self.room -= 3
            if self.behind is not None:
                return pos + 1 + self.behind(target, self.at + 1)
        else:
            self.find(self.at, f"a state is given to {_describe(target)}", _rule_of(target))
        return pos + 1

    def _put(self, index: int, item: Any, at: int) -> None:
        memo = self.memo
        self.at = at
        if index < len(memo):
            memo[index] = item
            return
        if index > FREE_OBJECTS + (self.feed.base + len(self.feed.data) - self.begin):
            raise self.limit(f"memo entry {index:,}, more than the pickle has bytes")
        memo.extend([_UNSET] * (index - len(memo)))
        memo.append(item)

    def _binput(self, pos: int) -> int:
        index = self._little(pos + 1, 1)
        self._put(index, self.stack[-1], self.at)
        return pos + 2

    def _text_put(self, pos: int) -> int:
        index, end = self._memo_index(pos)
        self._put(index, self.stack[-1], self.at)
        return end

    def _text_get(self, pos: int) -> int:
        index, end = self._memo_index(pos)
        if index >= len(self.memo) or self.memo[index] is _UNSET:
            raise self.feed.damaged(self.at, "it reads a memo entry that was never written")
        self.stack.append(self.memo[index])
        return end

    def _memo_index(self, pos: int) -> tuple[int, int]:
        index, end = self._number(pos + 1, int)
        if not isinstance(index, int) or index < 0:
            raise self.feed.damaged(self.at, "a memo entry has no proper number")
        return index, end

    def _memoize(self, pos: int) -> int:
        self.memo.append(self.stack[-1])
        return pos + 1

    def _named(self, module: str, name: str) -> Global:
        known = self.globals.get((module, name))
        if known is None:
            length = len(module) + len(name)
            if length > MAX_NAME_BYTES:
                raise self.limit(f"a name of {length:,} characters (limit: {MAX_NAME_BYTES:,})")
            self.room -= 8 + length // 16
            known = self.globals[module, name] = Global(module, name, self.at)
        return known

    def _global(self, pos: int) -> int:
        module, end = self._text_line(pos + 1)
        name, end = self._text_line(end)
        self.stack.append(self._named(module, name))
        return end

    def _stack_global(self, pos: int) -> int:
        name = self.stack.pop()
        module = self.stack.pop()
        if isinstance(module, str) and isinstance(name, str):
            self.stack.append(self._named(module, name))
            return pos + 1
        self.find(self.at, "the name of a global is computed", "computed-name")
        texts = [part if isinstance(part, str) else "<computed>" for part in (module, name)]
        symbol = Global(texts[0][:MAX_NAME_BYTES], texts[1][:MAX_NAME_BYTES], self.at, computed=True)
        self.globals.setdefault((f"{symbol.module}\n", symbol.name), symbol)
        self.room -= 8
        self.stack.append(symbol)
        return pos + 1

    def _extension(self, pos: int) -> int:
        length = {0x82: 1, 0x83: 2, 0x84: 4}[self.feed.data[pos]]
        code = self._little(pos + 1, length)
        self.find(
            self.at, f"extension code {code} stands for a name that the file does not hold", "extension"
        )
        self.stack.append(Extension(code))
        return pos + 1 + length

    def _call(self, func: Any, args: Any, how: int) -> Call:
        call = Call(func, args, how, self.at)
        self.calls.append(call)
        self.room -= 2
        return call

    def _newobj(self, pos: int) -> int:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args, 0x81)
        return pos + 1

    def _newobj_ex(self, pos: int) -> int:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        call = self.stack[-1] = self._call(self.stack[-1], args, 0x92)
        call.grown().kwargs = kwargs
        return pos + 1

    def _obj(self, pos: int) -> int:
        if not self.stack:
            raise self.feed.damaged(self.at, "it makes an object of no class")
        (func, *args), self.stack = self.stack, self.frames.pop()
        self.stack.append(self._call(func, tuple(args), 0x6F))
        return pos + 1

    def _inst(self, pos: int) -> int:
        module, end = self._text_line(pos + 1)
        name, end = self._text_line(end)
        args, self.stack = tuple(self.stack), self.frames.pop()
        self.stack.append(self._call(self._named(module, name), args, 0x69))
        return end

    def _persid(self, pos: int) -> int:
        text, end = self._text_line(pos + 1)
        symbol = PersistentId(text)
        self.stack.append(symbol)
        self.pids.append(symbol)
        self.room -= 1
        return end

    def _next_buffer(self, pos: int) -> int:
        self.find(self.at, "a buffer is kept outside the pickle")
        self.stack.append(OutOfBand())
        return pos + 1

    def _readonly_buffer(self, pos: int) -> int:
        self.stack[-1]  # there has to be one
        return pos + 1


_RARE: dict[int, Callable[[_Machine, int], int]] = {
    0x30: _Machine._pop,
    0x31: _Machine._pop_mark,
    0x32: _Machine._dup,
    0x42: _Machine._binbytes,
    0x43: _Machine._short_binbytes,
    0x46: _Machine._float,
    0x49: _Machine._int,
    0x4C: _Machine._long,
    0x50: _Machine._persid,
    0x53: _Machine._string,
    0x54: _Machine._binstring,
    0x55: _Machine._short_binstring,
    0x56: _Machine._unicode,
    0x61: _Machine._append,
    0x62: _Machine._build,
    0x63: _Machine._global,
    0x64: _Machine._dict,
    0x65: _Machine._appends,
    0x67: _Machine._text_get,
    0x69: _Machine._inst,
    0x6C: _Machine._list,
    0x6F: _Machine._obj,
    0x70: _Machine._text_put,
    0x71: _Machine._binput,
    0x73: _Machine._setitem,
    0x75: _Machine._setitems,
    0x80: _Machine._proto,
    0x81: _Machine._newobj,
    0x82: _Machine._extension,
    0x83: _Machine._extension,
    0x84: _Machine._extension,
    0x8A: _Machine._long1,
    0x8B: _Machine._long4,
    0x8D: _Machine._binunicode8,
    0x8E: _Machine._binbytes8,
    0x8F: _Machine._set,
    0x90: _Machine._appends,
    0x91: _Machine._frozenset,
    0x92: _Machine._newobj_ex,
    0x93: _Machine._stack_global,
    0x94: _Machine._memoize,
    0x95: _Machine._frame,
    0x96: _Machine._binbytes8,
    0x97: _Machine._next_buffer,
    0x98: _Machine._readonly_buffer,
}


def _blocks() -> int:
    """Pieces of memory that the interpreter uses; always 0 where it does not count them."""
    return getattr(sys, "getallocatedblocks", int)()


def _python2_text(raw: bytes) -> str:
    """
    A Python 2 ``str``, which may be text or bytes: UTF-8 as torch reads it, else Latin-1.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _describe(symbol: object) -> str:
    if isinstance(symbol, Global):
        return f"{visible(symbol.dotted)[:100]} itself"
    return f"an object of kind {type(symbol).__name__}"


def _rule_of(target: object) -> str:
    return "changes-global" if isinstance(target, Global) else "pickle-odd"
