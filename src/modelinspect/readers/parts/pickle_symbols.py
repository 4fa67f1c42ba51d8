"""
What a pickle says, as inert symbols: names, calls, dictionaries, references.

Made by :mod:`pickle_machine`. None of them hashes, compares or calls what it
holds, so a hostile pickle has nothing to work with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from modelinspect.errors import visible

__all__ = [
    "Blob",
    "Call",
    "Extension",
    "Finding",
    "Global",
    "OutOfBand",
    "PersistentId",
    "Pickle",
    "PickledDict",
    "PickledSet",
    "PlacedBytes",
]


class Global:
    """
    A name that the pickle would import. One object for each distinct name.
    """

    __slots__ = ("computed", "meaning", "module", "name", "position")

    def __init__(self, module: str, name: str, position: int, computed: bool = False) -> None:
        self.module = module
        self.name = name
        self.position = position
        """Byte of the record where it is first named."""
        self.computed = computed
        """True: the name itself is made by a call, so it can't be known."""
        self.meaning: Any = None
        """Free for whoever interprets the symbols."""

    @property
    def dotted(self) -> str:
        """Module and name, e.g. ``collections.OrderedDict``."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<Global {visible(self.dotted)}>"


class Call:
    """
    What the pickle would call, or an object that it would make: ``func(*args)``.
    """

    __slots__ = ("args", "func", "how", "more", "position")

    def __init__(self, func: Any, args: Any, how: int = 0x52, position: int = -1) -> None:
        self.func = func
        """A Global; in hostile files any symbol."""
        self.args = args
        """A tuple; in hostile files any symbol."""
        self.how = how
        """The opcode: REDUCE calls, NEWOBJ (0x81) makes an object without ``__init__``."""
        self.position = position
        """Byte of the record where the opcode stands; -1 for a call that the pickle does not make itself."""
        self.more: _More | None = None

    @property
    def states(self) -> list[Any]:
        """What BUILD gave the object, in order; usually one dictionary."""
        return self.more.states if self.more else []

    @property
    def items(self) -> list[Any]:
        """What was appended or added to the object."""
        return self.more.items if self.more else []

    @property
    def flat(self) -> list[Any]:
        """Keys and values in turn that were set on the object."""
        return self.more.flat if self.more else []

    @property
    def kwargs(self) -> Any:
        """Keyword arguments of NEWOBJ_EX; None where there are none."""
        return self.more.kwargs if self.more else None

    def grown(self) -> _More:
        """The part that most calls lack, made when first asked for."""
        if self.more is None:
            self.more = _More()
        return self.more

    def __repr__(self) -> str:
        return f"<Call of {self.func!r}>" if isinstance(self.func, Global) else "<Call>"


class _More:
    """What was done to an object after it was made."""

    __slots__ = ("flat", "items", "kwargs", "states")

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.items: list[Any] = []
        self.flat: list[Any] = []
        self.kwargs: Any = None


class PickledDict:
    """A dictionary as it was written: keys and values in turn, repeated keys included."""

    __slots__ = ("flat",)

    def __init__(self, flat: list[Any]) -> None:
        self.flat = flat

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Keys with their values, in the order of writing."""
        return zip(self.flat[::2], self.flat[1::2])

    def __repr__(self) -> str:
        return f"<PickledDict of {len(self.flat) // 2}>"


class PickledSet:
    """A set or frozenset as it was written, repeated members included."""

    __slots__ = ("items",)

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __repr__(self) -> str:
        return f"<PickledSet of {len(self.items)}>"


class PersistentId:
    """A reference to something outside the pickle: in torch's files, a storage."""

    __slots__ = ("meaning", "pid")

    def __init__(self, pid: Any) -> None:
        self.pid = pid
        self.meaning: Any = None
        """Free for whoever interprets the symbols."""

    def __repr__(self) -> str:
        return "<PersistentId>"


BlobKind = Literal["text", "bytes", "integer", "escaped"]


class Blob:
    """A text, byte string or integer too long to keep: its length and place in bytes."""

    __slots__ = ("kind", "nbytes", "position")

    def __init__(self, kind: BlobKind, nbytes: int, position: int) -> None:
        self.kind = kind
        """``escaped`` is a text of protocol 0, with its escapes."""
        self.nbytes = nbytes
        self.position = position

    def __repr__(self) -> str:
        return f"<{self.kind} of {self.nbytes:,} bytes>"


class PlacedBytes(bytes):
    """A byte string that is kept, and where it begins: numbers of an array lie there."""

    position: int
    """Byte of the record."""


class Extension:
    """A code of the copyreg extension registry: stands for a name that the file does not hold."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code

    def __repr__(self) -> str:
        return f"<extension {self.code}>"


class OutOfBand:
    """A buffer of protocol 5 that is kept outside the pickle."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<out-of-band buffer>"


class Finding:
    """Something that no honest writer does, and the byte where it is."""

    __slots__ = ("position", "rule", "text")

    def __init__(self, position: int, text: str, rule: str = "pickle-odd") -> None:
        self.position = position
        self.text = text
        self.rule = rule
        """Which kind of oddity it is, for whoever sorts them."""

    def __repr__(self) -> str:
        return f"<byte {self.position}: {self.text}>"


class Pickle:
    """
    What one pickle holds.
    """

    __slots__ = ("calls", "end", "findings", "framed", "globals", "hashed", "pids", "protocol", "value")

    def __init__(
        self,
        value: Any,
        end: int,
        globals_: list[Global],
        calls: list[Call],
        pids: list[PersistentId],
        findings: list[Finding],
        protocol: int,
    ) -> None:
        self.value = value
        """The object, in symbols."""
        self.end = end
        """Byte after STOP."""
        self.globals = globals_
        """Every distinct name, by first position."""
        self.calls = calls
        """Every call in order, those included whose result is thrown away."""
        self.pids = pids
        """Every reference to something outside, in order."""
        self.findings = findings
        self.protocol = protocol
        self.framed: list[tuple[int, int]] = []
        """Byte of each FRAME opcode, and the length that it claims."""
        self.hashed: list[Any] = []
        """Tuples and sets that are keys or members of sets: loading hashes them, and what they hold."""
