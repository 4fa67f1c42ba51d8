"""
Pickles that would hang a loader or fill its memory, with names that are understood.
"""

from __future__ import annotations

from typing import Any

from modelinspect.readers.parts.pickle_symbols import Call, Global, Pickle, PickledSet
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.wording import call_text

__all__ = ["check_hazards"]

_MANY = 1 << 30
"""Bytes or elements that a call may ask for before it is a finding."""
_MAX_HASHED = 10_000_000
"""Things inside a key that are hashed."""
_MAX_STEPS = 1_000_000
_MAX_FOUND = 10
_MAX_INTS = 64
_ALLOCATING = frozenset({
    "builtins.bytearray", "builtins.bytes", "builtins.list", "builtins.tuple", "builtins.set",
    "builtins.frozenset", "builtins.dict", "__builtin__.bytearray", "__builtin__.list", "__builtin__.tuple",
    "__builtin__.set", "__builtin__.frozenset", "__builtin__.dict", "collections.deque",
    "collections.Counter", "collections.OrderedDict", "torch.Tensor", "torch.Size",
    "torch.storage.UntypedStorage", "torch.storage.TypedStorage", "numpy.ndarray",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
})  # fmt: skip
_CODECS = frozenset({
    "latin1", "latin-1", "iso-8859-1", "utf-8", "utf8", "ascii", "utf-16", "utf-32", "raw-unicode-escape",
})  # fmt: skip


def check_hazards(scan: Scan, item: Item, pickle: Pickle) -> None:
    """Sizes that calls ask for, and keys whose hash takes for ever."""
    watched = {name: name.dotted for name in pickle.globals if _is_watched(name)}
    found = 0
    if watched:
        for call in pickle.calls:
            func = call.func
            if type(func) is Global and func in watched and found < _MAX_FOUND:
                reason = _reason(call, watched[func])
                if reason:
                    found += 1
                    scan.find(item, "exhausts", f"{call_text(call)}: {reason}", call.position)
    if any(type(key) in (tuple, PickledSet) for key in pickle.hashed):
        _check_keys(scan, item, pickle)


def _is_watched(name: Global) -> bool:
    dotted = name.dotted
    is_old = name.module in ("torch", "torch.cuda") and name.name.endswith(("Tensor", "Storage"))
    return dotted in _ALLOCATING or is_old or dotted == "_codecs.encode"


def _reason(call: Call, dotted: str) -> str:
    args = call.args if type(call.args) is tuple else ()
    if dotted == "_codecs.encode":
        codec = args[1] if len(args) > 1 else "utf-8"
        if type(codec) is str and codec.lower().replace("_", "-") in _CODECS:
            return ""
        return "an encoding that no writer of pickles uses"
    asked = _asked(args)
    return f"asks for {asked:,} bytes or elements" if asked >= _MANY else ""


def _asked(args: Any) -> int:
    """The largest number of elements that the arguments ask for: a number, a shape, a range."""
    most = 0
    for arg in args[:_MAX_INTS]:
        if type(arg) is int and arg.bit_length() < _MAX_INTS * 8:
            most = max(most, arg)
        elif type(arg) is tuple or type(arg) is list:
            numbers = [n for n in arg[:_MAX_INTS] if type(n) is int and 0 < n < 1 << 256]
            product = 1
            for number in numbers:
                product *= number
            most = max(most, product if numbers else 0)
        elif type(arg) is Call and type(arg.func) is Global and arg.func.name in ("range", "xrange"):
            most = max(most, _asked(arg.args) if type(arg.args) is tuple else 0)
    return most


def _check_keys(scan: Scan, item: Item, pickle: Pickle) -> None:
    sizes: dict[int, int] = {}
    left = _MAX_STEPS
    for key in pickle.hashed:
        left = _measure(key, sizes, left)
        if sizes.get(id(key), 0) > _MAX_HASHED or left <= 0:
            size = sizes.get(id(key), 0)
            text = (
                f"a key takes {size:,} steps to hash" if size < _MANY**8 else "a key takes for ever to hash"
            )
            scan.find(item, "exhausts", text, key="a key takes for ever to hash")
            return


def _measure(top: Any, sizes: dict[int, int], left: int) -> int:
    """
    How many things are hashed for a key; each is measured once, without recursion.

    Returns:
        Steps that are left.
    """
    stack = [top]
    while stack and left > 0:
        symbol = stack[-1]
        if id(symbol) in sizes:
            stack.pop()
            continue
        items = symbol.items if type(symbol) is PickledSet else symbol
        left -= 1 + len(items)
        unknown = [each for each in items if type(each) in (tuple, PickledSet) and id(each) not in sizes]
        if unknown:
            stack += unknown
            continue
        sizes[id(symbol)] = 1 + sum(sizes.get(id(each), 1) for each in items)
        stack.pop()
    return left
