"""
What the code of a TorchScript archive says of its classes, and the objects of those classes as
the modules that they are.

Of each class that the objects have, one file is read: ``__torch__.net.Net`` stands in
``code/__torch__/net.py``, and ``__torch__.net.___torch_mangle_3.Net``, the third of that name, in
``code/__torch__/net/___torch_mangle_3.py``. A class of a module begins with three lines (torch
2.13, ``torch/csrc/jit/serialization/python_print.cpp``)::

    class Net(Module):
      __parameters__ = ["weight", "bias", ]
      __buffers__ = ["mean", ]

Torch before 1.5 has no line of buffers. Nothing else of the code is looked at.
"""

from __future__ import annotations

import re
from codecs import escape_decode
from itertools import islice
from typing import Any, NamedTuple

from modelinspect.errors import visible
from modelinspect.readers.parts.pickle_symbols import Call, Global, Pickle, PickledDict
from modelinspect.readers.parts.tensor_walk import UNTOLD
from modelinspect.readers.parts.torch_archive import TorchArchive

__all__ = ["ScriptClass", "ScriptClasses", "as_modules"]

MAX_CODE_BYTES = 1 << 26
"""Of all the code that is looked at."""
MAX_FILES = 100_000
MAX_NAMES = 500_000
"""Of parameters and buffers of all classes."""

_CLASS = re.compile(rb"^class (\S{1,512})\(Module\):\n((?:  __\w{1,80}__ = \[.*\]\n)*)", re.MULTILINE)
_LIST = re.compile(rb"^  __(parameters|buffers)__ = \[(.*)\]$", re.MULTILINE)
_NAME = re.compile(rb'"((?:[^"\\]|\\.){0,512})"')
_BOUND = "__torch__.torch.classes."
"""Classes of C++, whose state is a tuple: the packed weights of quantized modules."""


class ScriptClass(NamedTuple):
    """A class of modules."""

    parameters: frozenset[str]
    buffers: frozenset[str]


class ScriptClasses:
    """
    The classes of an archive, read file by file as they are asked for.

    Args:
        archive: The archive.
        folder: Below its root, where the code is.
    """

    def __init__(self, archive: TorchArchive, folder: str = "code") -> None:
        self.archive = archive
        self._folder = folder
        self.notes: list[str] = []
        self._known: dict[str, ScriptClass] = {}
        self._read: set[str] = set()
        self._left = MAX_CODE_BYTES
        self._names_left = MAX_NAMES
        prefix = archive.root + f"/{folder}/".encode()
        self.files = sum(
            name.startswith(prefix) and name.endswith(b".py") for name in archive.directory.names
        )

    def get(self, name: Global) -> ScriptClass | None:
        """What the code says of a class; None where it says nothing, or it is no module's."""
        if name.module not in self._read and len(self._read) < MAX_FILES:
            self._read.add(name.module)
            self._read_file(name.module)
        return self._known.get(name.dotted)

    def _read_file(self, module: str) -> None:
        directory = self.archive.directory
        path = f"/{self._folder}/{module.replace('.', '/')}.py"
        number = directory.find(self.archive.root + path.encode("utf-8", "surrogatepass"))
        if number is None:
            return
        record = directory.record(number)
        if record.size > self._left:
            self._left = 0
            note = (
                f"its code is longer than the {MAX_CODE_BYTES:,} bytes that are read: some kinds are inferred"
            )
            if note not in self.notes:
                self.notes.append(note)
            return
        self._left -= record.size
        for match in _CLASS.finditer(directory.content(record, record.size)):
            lists = {which: self._names(names) for which, names in _LIST.findall(match[2])}
            none: frozenset[str] = frozenset()
            found = ScriptClass(lists.get(b"parameters", none), lists.get(b"buffers", none))
            self._known[f"{module}.{match[1].decode('utf-8', 'replace')}"] = found

    def _names(self, line: bytes) -> frozenset[str]:
        found = []
        for match in islice(_NAME.finditer(line), self._names_left):
            raw = match[1]
            try:
                text = escape_decode(raw)[0] if b"\\" in raw else raw
            except ValueError:
                continue
            found.append(text.decode("utf-8", "replace"))
        self._names_left -= len(found)
        return frozenset(found)


def as_modules(pickle: Pickle, classes: ScriptClasses) -> None:
    """
    Give the objects of an archive's pickle the state that a pickled ``nn.Module`` has.

    Args:
        pickle: Its calls are changed in place.
        classes: Of the archive.
    """
    objects = [call for call in pickle.calls if _is_own(call) and _state(call) is not None]
    for call in pickle.calls:
        _unwrap(call)
    modules = {id(call) for call in objects if _is_module(call, classes)}
    untold: set[str] = set()
    for call in objects:
        if id(call) in modules:
            told = classes.get(call.func)
            if told is None:
                untold.add(call.func.dotted)
            call.grown().states[-1] = _module_state(call, told, modules)
    if untold:
        shown = visible(min(untold)[:80])
        more = f" and {len(untold) - 1:,} more" if len(untold) > 1 else ""
        classes.notes.append(
            f"the archive's code doesn't tell parameters and buffers of {shown}{more} apart: inferred"
        )


_LIST_TYPE, _DICT_TYPE = Global("builtins", "list", 0), Global("builtins", "dict", 0)


def _unwrap(call: Call) -> None:
    """Make plain containers of those that are wrapped with their type (``build_intlist([1, 2])``)."""
    if type(call.func) is Global and call.func.module == "torch.jit._pickle" and type(call.args) is tuple:
        inner = call.args[0] if call.args else None
        if isinstance(inner, (list, PickledDict)):
            call.func = _LIST_TYPE if isinstance(inner, list) else _DICT_TYPE
            call.args = call.args[:1]


def _is_own(symbol: Any) -> bool:
    """Is it an object of a class of the archive's own?"""
    return (
        type(symbol) is Call
        and type(symbol.func) is Global
        and symbol.func.module.partition(".")[0] == "__torch__"
    )


def _is_bound(symbol: Any) -> bool:
    """Is it an object of a class of C++?"""
    return _is_own(symbol) and symbol.func.dotted.startswith(_BOUND)


def _state(call: Call) -> Any:
    return call.states[-1] if call.states else None


def _is_module(call: Call, classes: ScriptClasses) -> bool:
    state = _state(call)
    if type(state) is not PickledDict or _is_bound(call):
        return False
    # Every module has the attribute; objects of classes that the code lacks are told by it.
    return classes.get(call.func) is not None or "training" in state.flat[::2]


def _module_state(call: Call, told: ScriptClass | None, modules: set[int]) -> PickledDict:
    parts: dict[str, list[Any]] = {"_parameters": [], "_buffers": [], "_modules": [], UNTOLD: []}
    rest: list[Any] = []
    for label, value in _state(call).pairs():
        if told is not None and type(label) is str and label in told.parameters:
            place = parts["_parameters"]
        elif told is not None and type(label) is str and label in told.buffers:
            place = parts["_buffers"]
        elif id(value) in modules:
            place = parts["_modules"]
        elif told is None or _is_bound(value):
            place = parts[UNTOLD]
        else:
            place = rest
        place += (label, _state(value) if _is_bound(value) else value)
    made = [part for label, flat in parts.items() for part in (label, PickledDict(flat))]
    return PickledDict([*rest, *made])
