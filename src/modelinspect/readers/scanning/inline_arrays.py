"""
Arrays that joblib writes into the middle of a pickle.

Behind the BUILD of a ``NumpyArrayWrapper`` stand a byte, as many bytes of padding as that says,
and the numbers; or, for arrays of objects, another pickle (joblib 1.5, ``numpy_pickle.py``,
``NumpyArrayWrapper.read_array``). ``pickle.load`` knows nothing of this and takes them for opcodes.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

from modelinspect.readers.parts.pickle_symbols import Call, Global, PickledDict
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.parts import Part

__all__ = ["InlineArrays"]

_WRAPPER = "NumpyArrayWrapper"
_MODULES = ("joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle")
_DESCR = re.compile(r"[<>=|]?([a-zA-Z])([0-9]{0,6})")
_MAX_ARRAYS = 10_000
_MAX_AXES = 64


class InlineArrays:
    """What is passed over in one pickle."""

    def __init__(self, scan: Scan, item: Item) -> None:
        self.scan = scan
        self.item = item
        self.seen = 0

    def behind(self, call: Call, at: int) -> int:
        """Bytes to pass over behind the BUILD of an object that ends before byte *at*."""
        func = call.func
        if type(func) is not Global or func.name != _WRAPPER or func.module not in _MODULES:
            return 0
        self.seen += 1
        state = call.states[-1] if call.states else None
        if type(state) is not PickledDict or self.seen > _MAX_ARRAYS:
            return 0
        fields = {key: value for key, value in state.pairs() if type(key) is str}
        letter, width = _dtype(fields.get("dtype"))
        shape = fields.get("shape")
        if type(shape) is not tuple or len(shape) > _MAX_AXES or not all(_is_size(n) for n in shape):
            return 0
        if letter == "O":
            return self._objects(at)
        padding = 0
        if fields.get("numpy_array_alignment_bytes") is not None:
            padding = 1 + int.from_bytes(self.item.source.read_upto(at, 1), "little")
        nbytes = padding + prod(shape) * width
        return nbytes if at + nbytes <= self.item.source.size else 0

    def _objects(self, at: int) -> int:
        """The pickle of an array of objects, which is looked into as well."""
        from modelinspect.readers.scanning.pickles import length_of

        length = length_of(self.item.source, at)
        if length:
            inner = Part(self.item.source, at, length)
            self.scan.push(self.item.inside(inner, f"objects from {at}", is_pickle=True))
        return length


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _dtype(symbol: Any) -> tuple[str, int]:
    """Letter and bytes of ``numpy.dtype("f8", ...)``; nothing of what makes no sense."""
    if type(symbol) is Call and type(symbol.args) is tuple and symbol.args:
        text = symbol.args[0]
        match = _DESCR.fullmatch(text) if type(text) is str else None
        if match is not None:
            letter, width = match.groups()
            return letter, int(width or 0) * (4 if letter == "U" else 1)
    return "", 0
