"""
Calls of a pickle as a person would write them: short, escaped, without looking far.
"""

from __future__ import annotations

from typing import Any

from modelinspect.errors import visible
from modelinspect.readers.parts.pickle_symbols import (
    Blob,
    Call,
    Extension,
    Global,
    OutOfBand,
    PersistentId,
    PickledDict,
    PickledSet,
)

__all__ = ["MAX_CHARACTERS", "call_text", "root_of", "short_name"]

MAX_CHARACTERS = 200
_MAX_DEPTH = 6
_MAX_CHAINED = 3
"""Calls of what a call returned that are written out."""
_MAX_ITEMS = 8
_MAX_NAME = 100
_MAX_TEXT = 120
_MAX_CHAIN = 1_000
_MAX_BITS = 512


def short_name(name: Global) -> str:
    """Module and name, escaped."""
    text = visible("<a computed name>" if name.computed else name.dotted)
    return text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"


def call_text(call: Call) -> str:
    """A call with its arguments, of :data:`MAX_CHARACTERS` at most."""
    text = _Writer().text(call, 0)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def root_of(call: Call) -> Any:
    """The name at the bottom of a call of what another call returned; else what is called."""
    func = call.func
    for _ in range(_MAX_CHAIN):
        if type(func) is not Call:
            break
        func = func.func
    return func


class _Writer:
    """Writes until there is enough; what is nested too deeply is three dots."""

    def __init__(self) -> None:
        self.left = 2 * MAX_CHARACTERS

    def text(self, symbol: Any, depth: int) -> str:
        """One symbol."""
        if self.left <= 0 or depth > _MAX_DEPTH:
            return "…"
        kind = type(symbol)
        if kind is Call:
            return self._call(symbol, depth)
        if kind is tuple or kind is list or kind is PickledSet:
            return self._items(symbol, depth)
        if kind is PickledDict:
            pairs = symbol.flat[: 2 * _MAX_ITEMS]
            shown = [
                f"{self.text(key, depth + 1)}: {self.text(value, depth + 1)}"
                for key, value in zip(pairs[::2], pairs[1::2])
            ]
            return "{" + ", ".join([*shown, *(["…"] if len(symbol.flat) > 2 * _MAX_ITEMS else [])]) + "}"
        text = self._plain(symbol)
        self.left -= len(text)
        return text

    def _call(self, call: Call, depth: int) -> str:
        if type(call.func) is Call and depth > _MAX_CHAINED:
            root = root_of(call)
            return f"{short_name(root) if type(root) is Global else ''}(…)…"
        func = self.text(call.func, depth + 1)
        args = call.args if type(call.args) is tuple else (call.args,)
        shown = [self.text(arg, depth + 1) for arg in args[:_MAX_ITEMS]]
        if len(args) > _MAX_ITEMS:
            shown.append("…")
        if call.kwargs is not None:
            shown.append(f"**{self.text(call.kwargs, depth + 1)}")
        return f"{func}({', '.join(shown)})"

    def _items(self, symbol: Any, depth: int) -> str:
        items = symbol.items if type(symbol) is PickledSet else symbol
        shown = [self.text(item, depth + 1) for item in items[:_MAX_ITEMS]]
        if len(items) > _MAX_ITEMS:
            shown.append("…")
        inside = ", ".join(shown)
        if type(symbol) is tuple:
            return f"({inside},)" if len(items) == 1 else f"({inside})"
        return f"[{inside}]" if type(symbol) is list else "{" + inside + "}"

    def _plain(self, symbol: Any) -> str:
        if isinstance(symbol, (str, bytes)):
            shown = visible(repr(symbol[:_MAX_TEXT]))
            return shown if len(symbol) <= _MAX_TEXT else f"{shown}… ({len(symbol):,} in all)"
        if type(symbol) is Global:
            return short_name(symbol)
        if type(symbol) is PersistentId:
            return "a storage"
        if type(symbol) is int and symbol.bit_length() > _MAX_BITS:
            return f"<an integer of {symbol.bit_length():,} bits>"
        if isinstance(symbol, (Blob, Extension, OutOfBand)):
            return repr(symbol)
        return repr(symbol)[:_MAX_NAME]
