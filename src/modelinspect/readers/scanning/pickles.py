"""
What pickles would import and call, and how much they would take.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from modelinspect.errors import CheckpointError, LimitError, visible
from modelinspect.readers.parts.pickle_machine import Feed, read_as_far
from modelinspect.readers.parts.pickle_symbols import Blob, Call, Extension, Global, PersistentId, Pickle
from modelinspect.readers.parts.torch_objects import TensorReader
from modelinspect.readers.scanning.budget import TooLongError
from modelinspect.readers.scanning.frames import check_frames
from modelinspect.readers.scanning.hazards import check_hazards
from modelinspect.readers.scanning.inline_arrays import InlineArrays
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.knowledge import group_of
from modelinspect.readers.scanning.parts import Held, Part
from modelinspect.readers.scanning.seen import Group, NamedGlobal
from modelinspect.readers.scanning.torch_files import between, end_of_storages, is_nothing
from modelinspect.readers.scanning.wording import call_text, root_of, short_name
from modelinspect.readers.source import ByteSource

__all__ = ["examine", "length_of", "look_at_pickles", "seems_a_pickle"]

MAX_PICKLES = 10_000
"""In a row."""
_MAX_CALLS = 20
"""Of one name that are shown."""
_MAX_ODDITIES = 20
_MAX_DIGEST = 1 << 26
_PIECE = 1 << 20
_MAX_NESTED = 100
"""Byte strings that one pickle hands to others."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_<][A-Za-z_0-9>]*)*")
_NEW, _NEW_EX = 0x81, 0x92
_OF_LEGACY = 5
"""Pickles at the start of a file of torch before 1.6."""


def read_one(scan: Scan, item: Item, begin: int) -> tuple[Pickle, CheckpointError | None]:
    """One pickle as far as it makes sense."""
    source = item.source

    def fetch(at: int, n: int) -> bytes:
        scan.budget.spend(n)
        return source.read(at, n, "a pickle")

    feed = Feed(
        fetch,
        source.size,
        item.record,
        eager=False,
        packed=getattr(source, "packed", None),
    )
    arrays = InlineArrays(scan, item)
    return read_as_far(feed, begin, arrays.behind)


def length_of(source: ByteSource, begin: int) -> int:
    """Bytes of a pickle that reaches its end; 0 of anything else."""
    feed = Feed(lambda at, n: source.read(at, n, "a pickle"), source.size, "", eager=False)
    pickle, error = read_as_far(feed, begin)
    return pickle.end - begin if error is None else 0


def seems_a_pickle(pickle: Pickle, error: CheckpointError | None, has_mark: bool) -> bool:
    """
    Is it one, of something whose name does not say so?

    Args:
        pickle: As far as it could be read.
        error: Why it breaks.
        has_mark: It begins with a protocol, or with the name of a module.
    """
    named = bool(pickle.globals) and all(
        _NAME.fullmatch(name.module) and _NAME.fullmatch(name.name) for name in pickle.globals
    )
    if error is not None:
        odd = bool(pickle.calls or pickle.findings) or isinstance(error, LimitError)
        return (named and bool(pickle.calls)) or (has_mark and odd)
    return named or has_mark or bool(pickle.calls)


def look_at_pickles(scan: Scan, item: Item) -> bool:
    """
    Pickles in a row; False where there is none.
    """
    source, at = item.source, item.begin
    alone = item.context in ("torch", "script")
    pickles: list[Pickle] = []
    for number in range(MAX_PICKLES):
        pickle, error = read_one(scan, item, at)
        certain = item.is_pickle and (number == 0 or item.context.startswith("tar"))
        if not certain and not seems_a_pickle(pickle, error, _has_mark(source, at)):
            if number:
                _what_follows(scan, item, at)
            return number > 0
        if number and alone:
            scan.find(item, "trailing-pickle", "another pickle follows the one that is loaded", at)
        examine(scan, item, pickle, at, error)
        if number == 0 and item.after is not None:
            item.after(pickle)
        pickles.append(pickle) if number < _OF_LEGACY else None
        at = pickle.end + between(item, number, pickle)
        end = end_of_storages(scan, item, pickles) if number == _OF_LEGACY - 1 else None
        if end is not None and end < source.size:
            _what_follows(scan, item, end)
        if error is not None or end is not None or at >= source.size:
            return True
    scan.find(item, "not-looked-into", f"more than {MAX_PICKLES:,} pickles in a row", at)
    return True


def _has_mark(source: ByteSource, at: int) -> bool:
    head = source.read_upto(at, 2)
    return head[:1] == b"\x80" and head[1:] <= b"\5"


def _what_follows(scan: Scan, item: Item, at: int) -> None:
    """Bytes behind the last pickle, where they are more than zeros that fill a block."""
    if is_nothing(item.source, at):
        return
    left = item.source.size - at
    scan.find(item, "trailing-bytes", f"{left:,} bytes follow the pickle", at)
    scan.push(item.inside(Part(item.source, at, left), f"bytes from {at}"))


def examine(scan: Scan, item: Item, pickle: Pickle, begin: int, error: CheckpointError | None) -> None:
    """Everything that is to be said of one pickle."""
    TensorReader(item.record, pickle.globals)  # gives names their meanings
    reader = _Examined(scan, item, pickle, begin)
    reader.names()
    reader.calls_of_results()
    reader.oddities()
    check_hazards(scan, item, pickle)
    check_frames(scan, item, pickle, begin)
    why = ""
    if error is not None:
        reader.broken(error)
        why = f"it breaks at byte {pickle.end:,}"
    what = f"pickle of protocol {pickle.protocol}"
    if begin > item.begin:
        what += f", from byte {begin:,}"
    scan.looked(item, what, why=why, names=len(pickle.globals))


class _Examined:
    """One pickle, with its calls by the names that they come from."""

    def __init__(self, scan: Scan, item: Item, pickle: Pickle, begin: int) -> None:
        self.scan = scan
        self.item = item
        self.pickle = pickle
        self.begin = begin
        self.groups: dict[Global, Group] = {}
        for name in pickle.globals:
            self.groups[name] = group_of(name, item.context == "script")
        self.by_name: dict[Global, list[Call]] = {}
        self.of_results: list[Call] = []
        self.nested = 0
        self._content: bytes | None = None
        self._sort()

    def _sort(self) -> None:
        roots: dict[int, Any] = {}
        understood = {name for name, group in self.groups.items() if group == "understood"}
        for call in self.pickle.calls:
            func = call.func
            if type(func) is Global and func in understood:
                hidden = self._hidden(call)
                if hidden is not None:
                    self.by_name.setdefault(hidden.func, []).append(hidden)
                continue
            root = roots[id(func)] if id(func) in roots else root_of(call)
            roots[id(call)] = root
            if type(root) is PersistentId:
                root = _class_in(root)
            if type(root) is Global and root not in understood:
                self.by_name.setdefault(root, []).append(call)
            elif type(func) is not PersistentId or root is None:
                self.of_results.append(call)

    def _hidden(self, call: Call) -> Call | None:
        """What an understood function is told to call: ``_rebuild_from_type_v2(func, class, args)``."""
        name, args = call.func.name, call.args
        if name not in _CALLERS or type(args) is not tuple or not args:
            return None
        func = args[0]
        if type(func) is not Global or self.groups.get(func) == "understood":
            return None
        arguments = args[2] if name.startswith("_rebuild_from") and len(args) > 2 else args[1:]
        return Call(func, arguments, call.how, call.position)

    @property
    def content(self) -> bytes:
        """Digest of the pickle's own bytes."""
        if self._content is None:
            from hashlib import sha256  # most pickles have no findings, see Scan._finding

            digest, at = sha256(), self.begin
            end = min(self.pickle.end, self.item.source.size, self.begin + _MAX_DIGEST)
            while at < end:
                step = min(_PIECE, end - at)
                digest.update(self.item.source.read(at, step))
                at += step
            self._content = digest.digest()
        return self._content

    def find(self, rule: str, message: str, position: int, key: str = "") -> None:
        """A finding that only the same pickle has again."""
        self.scan.find(self.item, rule, message, position, content=self.content, key=key)

    def names(self) -> None:
        """Each name, and a finding of each that is not understood."""
        for name in self.groups:
            calls = self.by_name.get(name, [])
            group = self._group(name, calls)
            outer = _outermost(calls)
            texts = tuple(call_text(call) for call in outer[:_MAX_CALLS])
            record = self.item.record
            self.scan.name(
                NamedGlobal(
                    visible(name.module), visible(name.name), group, self.scan.file, record,
                    name.position, texts, len(calls),
                )
            )  # fmt: skip
            if group == "understood":
                continue
            rule = "executes-code" if group == "executes code" else "unknown-global"
            if name.computed:
                rule = "computed-name"
            position = outer[0].position if outer else name.position
            self.find(rule, _sentence(name, group, outer, texts), position, short_name(name))
            self._look_into_arguments(calls)

    def _group(self, name: Global, calls: list[Call]) -> Group:
        """
        What is known of the name; a storage out of bytes is as good as what is in them.

        ``pickle.dumps`` writes a tensor's storage as ``torch.storage._load_from_bytes(b"...")``, which
        is a whole file of torch.save.
        """
        if name.dotted != _STORAGE_OF_BYTES or not calls:
            return self.groups[name]
        for call in calls:
            if type(call.func) is not Global or next(_bytes_in(call.args), None) is None:
                return self.groups[name]
        if len(calls) > _MAX_NESTED:
            return self.groups[name]
        self.groups[name] = "understood"
        self._look_into_arguments(calls, context="storage")
        return "understood"

    def calls_of_results(self) -> None:
        """Calls of what is no name."""
        for call in _outermost(self.of_results)[:_MAX_ODDITIES]:
            rule = "extension" if type(root_of(call)) is Extension else "computed-name"
            self.find(rule, f"calls something that is no name: {call_text(call)}", call.position)
        self._look_into_arguments(self.of_results)

    def oddities(self) -> None:
        """What the machine found odd."""
        for found in self.pickle.findings[:_MAX_ODDITIES]:
            self.find(found.rule, found.text, found.position)

    def broken(self, error: CheckpointError) -> None:
        """A pickle that does not reach its end: a loader runs it up to there all the same."""
        foreign = any(group != "understood" for group in self.groups.values())
        before = foreign or bool(self.of_results)
        reason = error.details[0] if error.details else error.message
        said = "what stands before is run" if before else "nothing that is not understood stands before"
        rule = "exhausts" if isinstance(error, LimitError) else "pickle-broken"
        rule = "not-looked-into" if isinstance(error, TooLongError) else rule
        self.find(rule, f"{reason}; {said}", self.pickle.end)

    def _look_into_arguments(self, calls: Sequence[Call], context: str = "argument") -> None:
        """Byte strings that are handed to a loader may be files."""
        for call in calls:
            for data in _bytes_in(call.args):
                if self.nested >= _MAX_NESTED:
                    return
                self.nested += 1
                item = self.item
                name = f"bytes in the call at {call.position}"
                if isinstance(data, Blob):
                    source: Any = Part(item.source, data.position, data.nbytes)
                else:
                    source = Held(item.source.path, data)
                # A pickle in a pickle is work beside that on the file itself.
                self.scan.budget.unread -= source.size
                is_pickle = context != "argument"
                self.scan.push(item.inside(source, name, context=context, is_pickle=is_pickle))


_CALLERS = frozenset({
    "_rebuild_from_type_v2", "_rebuild_from_type", "_reconstructor", "_rebuild_wrapper_subclass",
    "__newobj__", "__newobj_ex__", "_rebuild_parameter", "defaultdict",
})  # fmt: skip
_MAX_LOOKED = 16
_STORAGE_OF_BYTES = "torch.storage._load_from_bytes"


def _bytes_in(args: Any) -> Iterator[bytes | Blob]:
    """Byte strings among arguments, and texts that ``_codecs.encode`` makes bytes of."""
    if type(args) is not tuple:
        return
    for arg in args[:_MAX_LOOKED]:
        if (isinstance(arg, bytes) and len(arg) > 1) or (type(arg) is Blob and arg.kind != "integer"):
            yield arg
        elif type(arg) is str and len(arg) > 1 and arg.isascii():
            yield arg.encode()
        elif type(arg) is Call:
            yield from _encoded(arg)


def _encoded(call: Call) -> Iterator[bytes | Blob]:
    """The bytes that protocols 0 to 2 write as ``_codecs.encode(text, "latin1")``, or that are copied."""
    args = call.args
    if type(call.func) is not Global or type(args) is not tuple or not args:
        return
    text = args[0]
    if type(text) is str and call.func.name == "encode":
        try:
            yield text.encode("latin-1")
        except UnicodeEncodeError:
            return
    elif isinstance(text, bytes) and call.func.name in ("bytes", "bytearray", "BytesIO"):
        yield text


def _class_in(root: PersistentId) -> Any:
    """The class of a persistent id ``("module", class, file, source)`` of files before 1.6."""
    pid = root.pid
    return pid[1] if type(pid) is tuple and len(pid) > 1 and pid[0] == "module" else None


def _outermost(calls: Sequence[Call]) -> list[Call]:
    """Without those that only make what another of them calls."""
    inner = {id(call.func) for call in calls if type(call.func) is Call}
    return [call for call in calls if id(call) not in inner] or list(calls)


def _sentence(name: Global, group: Group, calls: Sequence[Call], texts: Sequence[str]) -> str:
    shown = short_name(name)
    if not calls:
        return (
            f"names {shown}" if group == "executes code" else f"imports {visible(name.module)[:100]}: {shown}"
        )
    makes = calls[0].how in (_NEW, _NEW_EX) and type(calls[0].func) is not Call
    verb = "makes" if makes else "calls"
    said = f"{'runs' if group == 'executes code' else verb} {texts[0]}"
    if len(calls) > 1:
        said += f", and {len(calls) - 1:,} more call{'s' if len(calls) > 2 else ''} of it"
    return said
