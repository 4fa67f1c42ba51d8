"""
Protocol buffers without a schema compiler: fields are passed over unless a rule wants them.

After the encoding that protobuf.dev documents. Messages lie in messages, so places are
kept on a stack, never in calls; the library's own limit of 100 levels holds here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.parts.forward import Forward, readable

__all__ = ["Message", "Place", "Rule", "read_message"]

MAX_LEVELS = 100
MAX_FIELDS = 2_000_000
"""Of one file: a graph of some tens of thousands of nodes."""
MAX_TEXT = 65_536
MAX_TEXTS = 1 << 26
"""Bytes of all texts together."""
MAX_KEPT = 10_000
"""Messages in a list that nobody takes as they end."""
MAX_NUMBERS = 1_024
"""In one packed list that is read."""
_COST_OF_MESSAGE = 2
"""Fields that a message counts for beside its own."""
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
    return _Walk(forward, rules, finished).read(kind)


class _Walk:
    """One way through a file."""

    def __init__(self, forward: Forward, rules: Rules, finished: Finished) -> None:
        self.forward = forward
        self.rules = rules
        self.finished = finished
        self.text_left = MAX_TEXTS

    def read(self, kind: str) -> Message:
        """The message, its end being that of the file."""
        forward, field = self.forward, self._field
        message = Message(kind, "", forward.source.size)
        stack: list[Message] = []
        left = MAX_FIELDS
        while left > 0:
            left -= 1
            while forward.start + forward.at >= message.end:
                if not stack:
                    return message
                message = self._leave(message, stack.pop())
            inner = field(message)
            if inner is not None:
                left -= _COST_OF_MESSAGE
                stack.append(message)
                message = inner
                if len(stack) > MAX_LEVELS:
                    raise self._too_many(f"{MAX_LEVELS} messages in each other")
        raise self._too_many(f"{MAX_FIELDS:,} fields")

    def _leave(self, message: Message, parent: Message) -> Message:
        if self.forward.position > message.end:
            raise self.forward.damaged("a field reaches over the end of what it stands in")
        if not self.finished(message, parent):
            parent.keep(message.label, message)
            if len(parent.values[message.label]) > MAX_KEPT:
                raise self._too_many(f"{MAX_KEPT:,} entries of {message.label}")
        return parent

    def _field(self, message: Message) -> Message | None:
        """Read or pass over one field; a message whose fields are wanted is given back."""
        forward = self.forward
        tag = forward.varint()
        rule = self.rules[message.kind].get(tag >> 3)
        wire = tag & 7
        if wire == _BYTES:
            length = forward.varint()
            if length > message.end - forward.start - forward.at:
                raise self._too_long(message, tag >> 3, length)
            if rule is not None:
                return self._bytes(message, rule, tag >> 3, length)
            forward.skip(length, "a field")
        elif wire == _VARINT:
            value = forward.varint()
            if rule is not None and rule.what == "number":
                self._keep_number(message, rule, value)
        else:
            self._fixed(message, rule, tag >> 3, wire)
        return None

    def _too_long(self, message: Message, number: int, length: int) -> DamagedFileError:
        source = self.forward.source
        if message.end == source.size:
            return source.truncated(self.forward.position, length, f"field {number:,}")
        return self.forward.damaged(f"field {number:,} is longer than what it stands in")

    def _bytes(self, message: Message, rule: Rule, number: int, length: int) -> Message | None:
        forward, what = self.forward, rule.what
        if what == "text":
            message.keep(rule.name, self._text(length))
        elif what == "long text":
            message.keep(rule.name, self._long_text(length))
        elif what == "place":
            _keep_place(message, rule, Place(number, forward.position, length, True))
            forward.skip(length, "a field")
        elif what == "number":
            self._packed(message, rule, length)
        else:
            return Message(what, rule.name, forward.position + length)
        return None

    def _text(self, length: int) -> str:
        if length > MAX_TEXT:
            raise self._too_many(f"{MAX_TEXT:,} bytes in a text")
        text, cost = readable(self.forward.take(length, "a text"))
        self.text_left -= cost
        if self.text_left < 0:
            raise self._too_many(f"{MAX_TEXTS:,} bytes in all texts")
        return text

    def _long_text(self, length: int) -> str:
        if length <= MAX_TEXT:
            return self._text(length)
        self.forward.skip(length, "a text")
        return f"text of {length:,} bytes"

    def _packed(self, message: Message, rule: Rule, length: int) -> None:
        forward = self.forward
        end = forward.position + length
        while forward.position < end:
            self._keep_number(message, rule, forward.varint())
        if forward.position > end:
            raise forward.damaged("a number reaches over the end of its list")

    def _keep_number(self, message: Message, rule: Rule, value: int) -> None:
        message.keep(rule.name, value)
        if len(message.values[rule.name]) > MAX_NUMBERS:
            raise self._too_many(f"{MAX_NUMBERS:,} numbers in a list")

    def _fixed(self, message: Message, rule: Rule | None, number: int, wire: int) -> None:
        forward = self.forward
        if wire not in (_FOUR, _EIGHT) or number == 0:
            raise forward.damaged(f"field {number:,} has type {wire}; 0, 1, 2 and 5 are known")
        nbytes = 4 if wire == _FOUR else 8
        if nbytes > message.end - forward.position:
            raise forward.damaged(f"field {number:,} is longer than what it stands in")
        if rule is not None and rule.what == "place":
            _keep_place(message, rule, Place(number, forward.position, nbytes, False))
        forward.skip(nbytes, "a field")

    def _too_many(self, limit: str) -> LimitError:
        return LimitError(f"{visible(self.forward.target)} holds too much", details=(f"limit: {limit}",))


def _keep_place(message: Message, rule: Rule, place: Place) -> None:
    """The first, and whether there are more: a list may come as a million single elements."""
    if len(message.all(rule.name)) < 2:
        message.keep(rule.name, place)
