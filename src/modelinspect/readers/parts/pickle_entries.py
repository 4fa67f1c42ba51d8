"""
What a container in a pickle holds: labels and values, whatever the container is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from modelinspect.readers.parts.pickle_symbols import Call, Global, PersistentId, PickledDict, PickledSet

__all__ = [
    "CONTAINERS", "Spend", "call_entries", "columns", "is_collection", "is_mapping", "is_plain", "mapping",
    "members", "plain_columns",
]  # fmt: skip

Spend = Callable[[int], None]
"""Told the entries that are about to be looked at; raises where they are too many."""

MAX_LABEL = 200
"""Characters of a label made from a key that is no text, e.g. a tuple."""
_KEY_PARTS = 8
MAX_LIST = 10_000
"""Entries of a list of state_dicts; a longer one is one section. Each number takes 60 bytes."""

CONTAINERS = (PickledDict, list, tuple, PickledSet, Call)
_HOLDERS = frozenset({*CONTAINERS, PersistentId})
_SEQUENCES = frozenset({"list", "tuple", "set", "frozenset", "deque"})
_MAPPINGS = frozenset({"OrderedDict", "defaultdict", "Counter", "dict"})


def is_plain(symbol: Any) -> bool:
    """Is it a dictionary of numbers and texts alone? There may be millions, and no tensor among them."""
    return type(symbol) is PickledDict and _HOLDERS.isdisjoint(set(map(type, symbol.flat[1::2])))


def columns(flat: list[Any]) -> tuple[list[str], list[Any]]:
    """Labels and values of a dictionary: of a key written twice the last value, at the first place."""
    keys, values = flat[::2], flat[1::2]
    if not set(map(type, keys)) - {str}:
        if len(set(keys)) == len(keys):
            return keys, values
        last = dict(zip(keys, values))
        return list(last), list(last.values())
    texts = {key for key in keys if type(key) is str}
    labels: dict[str, Any] = {}
    for number, (key, value) in enumerate(zip(keys, values)):
        label = _label(key, number)
        # {1: ..., "1": ...} has two entries.
        if type(key) is not str and label in texts:
            label = f"{label} ({type(key).__name__})"
        labels[label] = value
    return list(labels), list(labels.values())


def _pairs(flat: list[Any], spend: Spend) -> Iterator[tuple[str, Any]]:
    # Of keys that repeat only the last is given, so what is given says nothing of the work.
    spend(len(flat) // 2)
    return zip(*columns(flat))


def _label(key: Any, number: int) -> str:
    """Text for a key that may be anything."""
    if type(key) is str:
        return key
    if key is None or type(key) in (int, bool, float):
        return str(key)
    if type(key) is Global:
        return _cut(key.dotted, number)
    if type(key) is tuple and key and all(type(part) in (str, int) for part in key[:_KEY_PARTS]):
        shown = [str(part)[: MAX_LABEL + 1] for part in key[:_KEY_PARTS]]
        if len(key) > _KEY_PARTS:
            return f"{_cut('(' + ', '.join(shown), 0)}, ... <key {number}>"
        return _cut(f"({', '.join(shown)})", number)
    return f"<key {number}>"


def _cut(text: str, number: int) -> str:
    """The text, of bounded length; what is cut keeps the key's number, which is its own."""
    return text if len(text) <= MAX_LABEL else f"{text[:MAX_LABEL]}... <key {number}>"


def call_entries(call: Call, spend: Spend) -> Iterator[tuple[str, Any]]:
    """Whatever an object was given: entries, items, arguments, attributes."""
    func, args = call.func, call.args
    name = func.name if type(func) is Global else ""
    first = args[0] if type(args) is tuple and args else None
    if name in _MAPPINGS and is_collection(call):
        yield from _pairs(_given(args, spend) + call.flat, spend)
    elif name in _SEQUENCES and isinstance(first, (list, tuple)):
        yield from zip(map(str, range(len(first))), first)
    elif name == "_reconstruct" and (objects := _objects(call)) is not None:
        yield from zip(map(str, range(len(objects))), objects)
        return
    else:
        if type(args) is tuple:
            yield from zip(map(str, range(len(args))), args)
        if type(func) is Call:
            yield "func", func
        yield from _pairs(call.flat, spend)
    if call.more is not None:
        yield from zip(map(str, range(len(call.items))), call.items)
        for state in call.states:
            yield from _state_entries(state, spend)
        if type(call.kwargs) is PickledDict:
            yield from _pairs(call.kwargs.flat, spend)
        elif call.kwargs is not None:
            yield "kwargs", call.kwargs


def _objects(call: Call) -> list[Any] | None:
    """What a NumPy array of objects holds; None for one of numbers, or of texts."""
    state = call.states[-1] if call.states else None
    return state[-1] if type(state) is tuple and state and type(state[-1]) is list else None


def _given(args: Any, spend: Spend) -> list[Any]:
    """Keys and values in turn that a dictionary's class is called with."""
    flat: list[Any] = []
    # defaultdict takes two arguments, the others one.
    for argument in args[:2] if type(args) is tuple else ():
        if type(argument) is PickledDict:
            spend(len(argument.flat) // 2)
            flat += argument.flat
        elif isinstance(argument, (list, tuple)):
            spend(len(argument))
            # Python 2 wrote OrderedDict([[key, value], ...]).
            flat += chain.from_iterable(pair for pair in argument if _is_pair(pair))
        elif type(argument) is Call:
            flat += ("<argument>", argument)
    return flat


def _is_pair(symbol: Any) -> bool:
    return isinstance(symbol, (list, tuple)) and len(symbol) == 2


def is_collection(call: Call) -> bool:
    """A dictionary, list or set of the standard library."""
    func = call.func
    return (
        type(func) is Global
        and func.module in ("collections", "builtins", "__builtin__")
        and (func.name in _MAPPINGS or func.name in _SEQUENCES)
    )


def _state_entries(state: Any, spend: Spend) -> Iterator[tuple[str, Any]]:
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    dictionaries = [part for part in parts if type(part) is PickledDict]
    if not dictionaries:
        yield "state", state
    for part in dictionaries:
        yield from _pairs(part.flat, spend)


def mapping(symbol: Any, spend: Spend) -> Iterator[tuple[str, Any]]:
    """Labels and values of any kind of mapping; nothing for what is none."""
    if type(symbol) is PickledDict:
        return _pairs(symbol.flat, spend)
    if is_mapping(symbol):
        return call_entries(symbol, spend)
    if type(symbol) is list:
        spend(len(symbol))
        return _pairs([part for pair in symbol if _is_pair(pair) for part in pair], spend)
    return iter(())


def plain_columns(symbol: Any, spend: Spend) -> tuple[list[str], list[Any]]:
    """Labels and values of a dictionary or short list, of which sections may be made; none of an object."""
    if isinstance(symbol, (list, tuple)):
        if len(symbol) > MAX_LIST:
            return [], []
        spend(len(symbol))
        return list(map(str, range(len(symbol)))), list(symbol)
    if type(symbol) is PickledDict:
        spend(len(symbol.flat) // 2)
        return columns(symbol.flat)
    pairs = list(mapping(symbol, spend)) if is_mapping(symbol) else []
    return [label for label, _ in pairs], [value for _, value in pairs]


def members(symbol: Any) -> set[str]:
    """Texts in a set, as protocol 2 and protocol 4 write it."""
    if type(symbol) is PickledSet:
        items = symbol.items
    elif type(symbol) is Call and type(symbol.args) is tuple and symbol.args:
        items = [*symbol.args[0], *symbol.items] if isinstance(symbol.args[0], (list, tuple)) else []
    else:
        items = []
    return {item for item in items if type(item) is str}


def is_mapping(symbol: Any) -> bool:
    """A dictionary, also of a foreign class: something had entries set on it."""
    return type(symbol) is PickledDict or (
        type(symbol) is Call and (is_collection(symbol) or bool(symbol.flat))
    )
