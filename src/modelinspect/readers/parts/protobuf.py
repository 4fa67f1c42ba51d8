"""
Protocol buffers without a schema compiler: fields are passed over unless a rule wants them.

After the encoding that protobuf.dev documents. Messages lie in messages, so places are
kept on a stack, never in calls; the library's own limit of 100 levels holds here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from modelinspect.errors import LimitError, visible
from modelinspect.readers.parts.forward import Forward

__all__ = ["Message", "Place", "Rule", "read_message"]

MAX_LEVELS = 100
MAX_FIELDS = 2_500_000
"""Of one file: a graph of a hundred thousand nodes."""
MAX_TEXT = 65_536
MAX_NUMBERS = 1_024
"""In one packed list that is read."""
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class Rule(NamedTuple):
    """What to do with a field."""

    name: str
    """Under which it is kept."""
    what: str
    """``number``, ``text``, ``long text`` (only its length is kept where it is long), ``place``
    (of bytes that are not read) or the kind of a message."""


Rules = Mapping[str, Mapping[int, Rule]]
"""Kind of a message to its fields by their numbers."""


class Place(NamedTuple):
    """Where the bytes of a field lie."""

    field: int
    offset: int
    nbytes: int
    packed: bool
    """False: one element that stands alone."""


class Message:
    """One message, as far as rules want it."""

    __slots__ = ("end", "kind", "label", "values")

    def __init__(self, kind: str, label: str, end: int) -> None:
        self.kind = kind
        self.label = label
        """Name of the field it stands in."""
        self.end = end
        self.values: dict[str, list[Any]] = {}

    def first(self, name: str, default: Any = None) -> Any:
        """The last value of a field, which is the one that counts of several."""
        values = self.values.get(name)
        return values[-1] if values else default

    def all(self, name: str) -> list[Any]:
        """Every value of a repeated field."""
        return self.values.get(name, [])

    def keep(self, name: str, value: Any) -> None:
        """Add a value."""
        values = self.values.get(name)
        if values is None:
            self.values[name] = [value]
        else:
            values.append(value)


Finished = Callable[[Message, Message], bool]
"""Given a message and the one it stands in: True where it is dealt with and not kept."""


def read_message(forward: Forward, kind: str, rules: Rules, finished: Finished) -> Message:
    """
    Read one message to the end of the file.

    Args:
        forward: Stands at the message's first byte.
        kind: Of the message.
        rules: What is wanted of each kind.
        finished: Is told of every message inside, the innermost first.

    Raises:
        DamagedFileError: A field makes no sense or reaches over the end of its message.
        LimitError: There are more fields or levels than a limit allows.
    """
    root = Message(kind, "", forward.source.size)
    stack = [root]
    for _ in range(MAX_FIELDS):
        while stack and forward.start + forward.at >= stack[-1].end:
            message = stack.pop()
            if forward.position > message.end:
                raise forward.damaged("a field reaches over the end of what it stands in")
            if not stack:
                return root
            if not finished(message, stack[-1]):
                stack[-1].keep(message.label, message)
        inner = _field(forward, stack[-1], rules)
        if inner is not None:
            stack.append(inner)
            if len(stack) > MAX_LEVELS:
                raise _too_many(forward, f"{MAX_LEVELS} messages in each other")
    raise _too_many(forward, f"{MAX_FIELDS:,} fields")


def _field(forward: Forward, message: Message, rules: Rules) -> Message | None:
    """Read or pass over one field; a message whose fields are wanted is given back."""
    tag = forward.varint()
    number, wire = tag >> 3, tag & 7
    rule = rules[message.kind].get(number)
    if wire == _BYTES:
        length = forward.varint()
        if length > message.end - forward.start - forward.at:
            if message.end == forward.source.size:
                raise forward.source.truncated(forward.position, length, f"field {number:,}")
            raise forward.damaged(f"field {number:,} is longer than what it stands in")
        if rule is None:
            forward.skip(length, "a field")
            return None
        return _bytes(forward, message, rule, number, length)
    if wire == _VARINT:
        value = forward.varint()
        if rule is not None and rule.what == "number":
            message.keep(rule.name, value)
        return None
    _fixed(forward, message, rule, number, wire)
    return None


def _bytes(forward: Forward, message: Message, rule: Rule, number: int, length: int) -> Message | None:
    what = rule.what
    if what == "text":
        message.keep(rule.name, _text(forward, length))
    elif what == "long text":
        message.keep(rule.name, _long_text(forward, length))
    elif what == "place":
        _keep_place(message, rule, Place(number, forward.position, length, True))
        forward.skip(length, "a field")
    elif what == "number":
        _packed(forward, message, rule, length)
    else:
        return Message(what, rule.name, forward.position + length)
    return None


def _keep_place(message: Message, rule: Rule, place: Place) -> None:
    """The first, and whether there are more: a list may come as a million single elements."""
    if len(message.all(rule.name)) < 2:
        message.keep(rule.name, place)


def _text(forward: Forward, length: int) -> str:
    if length > MAX_TEXT:
        raise LimitError(
            f"{visible(forward.target)}: a text is {length:,} bytes long",
            details=(f"limit: {MAX_TEXT:,} bytes",),
        )
    return forward.take(length, "a text").decode("utf-8", "backslashreplace")


def _long_text(forward: Forward, length: int) -> str:
    if length <= MAX_TEXT:
        return _text(forward, length)
    forward.skip(length, "a text")
    return f"text of {length:,} bytes"


def _packed(forward: Forward, message: Message, rule: Rule, length: int) -> None:
    end = forward.position + length
    while forward.position < end:
        message.keep(rule.name, forward.varint())
        if len(message.values[rule.name]) > MAX_NUMBERS:
            raise _too_many(forward, f"{MAX_NUMBERS:,} numbers in a list")
    if forward.position > end:
        raise forward.damaged("a number reaches over the end of its list")


def _fixed(forward: Forward, message: Message, rule: Rule | None, number: int, wire: int) -> None:
    if wire not in (_FOUR, _EIGHT) or number == 0:
        raise forward.damaged(f"field {number:,} has type {wire}; 0, 1, 2 and 5 are known")
    nbytes = 4 if wire == _FOUR else 8
    if nbytes > message.end - forward.position:
        raise forward.damaged(f"field {number:,} is longer than what it stands in")
    if rule is not None and rule.what == "place":
        _keep_place(message, rule, Place(number, forward.position, nbytes, False))
    forward.skip(nbytes, "a field")


def _too_many(forward: Forward, limit: str) -> LimitError:
    return LimitError(f"{visible(forward.target)} holds too much", details=(f"limit: {limit}",))
