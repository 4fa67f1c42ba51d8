"""
Find every tensor below an object of a pickle, and name it by its path.

The walk never recurses. A state_dict may be reached by several paths and is
listed under each, as torch does; any other object is entered once, because
objects refer to each other at will. What holds no tensor is searched once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any

from modelinspect.errors import LimitError, visible
from modelinspect.readers.parts.kinds import settled_by_siblings
from modelinspect.readers.parts.pickle_entries import (
    CONTAINERS,
    call_entries,
    columns,
    is_collection,
    is_plain,
    mapping,
    members,
    plain_columns,
)
from modelinspect.readers.parts.pickle_symbols import (
    Call,
    Global,
    PersistentId,
    Pickle,
    PickledDict,
    PickledSet,
)
from modelinspect.readers.parts.torch_objects import BARE, How, TensorReader, class_of
from modelinspect.tensors import ParameterTable, TensorInfo, unique_names

__all__ = ["UNTOLD", "TensorWalk"]

UNTOLD = "<untold>"
"""In the state of a TorchScript module: attributes of which nothing says what they are, packed
weights and all of a class whose code is missing."""

FREE_NAMES = 100_000
"""Names that any checkpoint may have ..."""
BYTES_PER_NAME = 10
"""... and one more for so many bytes of its pickle. A tensor takes 50 or more, a second
name of it 10."""
FREE_STEPS = 1_000_000
"""Entries of containers to look at in any checkpoint ..."""
STEPS_PER_BYTE = 2
"""... and more for every byte of its pickle."""
MAX_DEPTH = 1_000
MAX_NAME = 4_096
MAX_OTHERS = 1_000
"""Names of entries without tensors to keep."""
MAX_OTHER_NAME = 256
LONG_NAME = 128
"""Characters from which on names are counted against the limits."""
STEPS_OF_AN_ATTRIBUTE = 16
"""What a module's attribute that is kept for later counts."""

_ATTRIBUTE = How("other")
_LOOSE = How("other", False, None, None, False)
_MODULE_PARAMETER = How("parameter", True, None, None, False)
_MODULE_BUFFERS = {
    True: How("buffer", True, True, None, False),
    False: How("buffer", True, False, None, False),
}

_CONTAINER_TYPES = frozenset(CONTAINERS)
Entry = tuple[str, Any, How]


class _Frame:
    """A container that is being walked."""

    __slots__ = ("entries", "identity", "label", "loose", "prefix", "rows_before")

    def __init__(
        self, entries: Iterator[Entry], label: str | None, identity: int, loose: bool, rows: int
    ) -> None:
        self.entries = entries
        self.label = label
        """None: its entries are named as if they were its parent's."""
        self.identity = identity
        self.loose = loose
        """Below an attribute of a module that is not registered."""
        self.rows_before = rows
        self.prefix: str | None = None


class TensorWalk:
    """
    Finds tensors; remembers what holds none, so that nothing is searched twice.
    """

    def __init__(self, reader: TensorReader, pickle: Pickle, target: str) -> None:
        self.reader = reader
        self.target = target
        self.barren: set[int] = set()
        self.texts_in: dict[int, set[str]] = {}
        self.most_steps = self.steps_left = FREE_STEPS + STEPS_PER_BYTE * pickle.end
        self.most_names = FREE_NAMES + pickle.end // BYTES_PER_NAME

    def go_on(self, pickle: Pickle) -> None:
        """Walk another pickle with what is left of the same budget, and what its bytes add."""
        self.barren.clear()
        self.texts_in.clear()
        self.most_steps += STEPS_PER_BYTE * pickle.end
        self.steps_left += STEPS_PER_BYTE * pickle.end
        self.most_names += pickle.end // BYTES_PER_NAME

    def is_tensor(self, symbol: Any) -> bool:
        """Is it a tensor itself?"""
        return self.reader.maker(symbol) is not None

    def module_state(self, symbol: Any) -> dict[str, Any] | None:
        """The attributes of an ``nn.Module``, whatever its class; None for anything else."""
        if type(symbol) is PickledDict:
            candidates: Sequence[Any] = (symbol,)
        elif type(symbol) is Call:
            # GraphModule is made by a function that is given the attributes.
            candidates = (*symbol.states[-1:], *(symbol.args[:1] if type(symbol.args) is tuple else ()))
        else:
            return None
        for state in candidates:
            if type(state) is not PickledDict:
                continue
            self.spend(len(state.flat) // 2)
            if "_modules" in (keys := state.flat[::2]) and "_parameters" in keys:
                return {key: value for key, value in state.pairs() if type(key) is str}
        return None

    def holds_tensors(self, symbol: Any) -> bool:
        """Is there a tensor in it, at any depth?"""
        if self.is_tensor(symbol):
            return True
        if not isinstance(symbol, CONTAINERS) or id(symbol) in self.barren:
            return False
        seen = {id(symbol)}
        pending = [symbol]
        while pending:
            for child in self._values(pending.pop()):
                if type(child) not in _CONTAINER_TYPES:
                    if type(child) is PersistentId and self.is_tensor(child):
                        return True
                    continue
                if id(child) in seen or id(child) in self.barren:
                    continue
                if self.is_tensor(child):
                    return True
                seen.add(id(child))
                pending.append(child)
        self.barren |= seen
        return False

    def _values(self, symbol: Any) -> Iterable[Any]:
        """What a container holds, without labels."""
        kind = type(symbol)
        if kind is list or kind is tuple:
            self.spend(len(symbol))
            return symbol  # type: ignore[no-any-return]
        if kind is PickledDict:
            self.spend(len(symbol.flat))
            if is_plain(symbol):
                return ()
            return columns(symbol.flat)[1]
        self.spend(1)
        return self._values_of_object(symbol)

    def _values_of_object(self, symbol: Any) -> Iterator[Any]:
        for _, value, _ in self.entries(symbol, BARE):
            self.steps_left -= 1
            yield value

    def table(self, symbol: Any, how: How, section: str) -> ParameterTable:
        """
        All tensors below a symbol.

        Args:
            symbol: A container, or a tensor itself, which is then named ``tensor``.
            how: What its place says of the tensors.
            section: Name of the table.
        """
        return _SectionWalk(self, how).table(symbol, section)

    def entries(self, symbol: Any, how: How) -> Iterator[Entry]:
        """What a container holds that is not a module: labels, values, what is known of them."""
        if type(symbol) is PickledDict:
            self.spend(len(symbol.flat) // 2)
            return zip(*columns(symbol.flat), repeat(how))
        if type(symbol) is Call:
            return ((label, value, how) for label, value in call_entries(symbol, self.spend))
        items = symbol.items if type(symbol) is PickledSet else symbol
        return zip(map(str, range(len(items))), items, repeat(how))

    def members(self, symbol: Any) -> set[str]:
        """Texts in a set, which many modules may share."""
        found = self.texts_in.get(id(symbol))
        if found is None:
            found = self.texts_in[id(symbol)] = members(symbol)
        return found

    def mapping(self, symbol: Any) -> Iterator[tuple[str, Any]]:
        """Labels and values of any kind of mapping; nothing for what is none."""
        return mapping(symbol, self.spend)

    def spend(self, steps: int) -> None:
        """Count entries that are looked at."""
        self.steps_left -= steps
        if self.steps_left < 0:
            raise self.too_many("references to follow", self.most_steps)

    def count_name(self, length: int) -> None:
        """Keep the length of names within bounds."""
        if length > MAX_NAME:
            raise self.too_many("characters in a name", MAX_NAME)
        self.spend(length // 16)

    def check_limits(self, names: int) -> None:
        """Keep the work within bounds; asked at every container, which can hold no more than the pickle."""
        if names > self.most_names:
            raise self.too_many("names of tensors", self.most_names)
        self.spend(0)

    def too_many(self, what: str, most: int) -> LimitError:
        """The error for a pickle whose objects lead too far."""
        return LimitError(
            f"{visible(self.target)} claims more than is read",
            details=(f"it leads to more than {most:,} {what}",),
        )


class _SectionWalk:
    """
    Reads one section: a walk by every path, then one over what modules hold unregistered.
    """

    def __init__(self, walk: TensorWalk, how: How) -> None:
        self.walk = walk
        self.how = how
        self.rows: list[TensorInfo] = []
        self.modules: dict[str, str] = {}
        self.unregistered: list[TensorInfo] = []
        self.registered: set[int] = set()
        self.loose: list[tuple[str, Any]] = []
        """Prefix and symbol of what hangs on modules unregistered: walked at the end."""
        self.entered: set[int] = set()
        self.frames: list[_Frame] = []
        self.on_path: set[int] = set()

    def table(self, symbol: Any, section: str) -> ParameterTable:
        """Walk and make the table."""
        is_tensor = self.walk.is_tensor(symbol)
        if is_tensor:
            self._push(iter([("tensor", symbol, self.how)]), None, 0, False)
            self._run()
        elif isinstance(symbol, CONTAINERS) and self._enter(symbol, None, self.how, False):
            self._run()
        for path, attribute in self.loose:
            self._push(iter([(path, attribute, _LOOSE)]), None, 0, True)
            self._run()
        return ParameterTable(
            source=self.walk.target,
            tensors=unique_names(settled_by_siblings(self.rows)),
            origin="file",
            section=section,
            modules=self.modules,
            unregistered=unique_names(self.unregistered),
            others=() if is_tensor else self._others(symbol),
            versions=self._versions(symbol) if type(symbol) is Call else {},
        )

    def _others(self, symbol: Any) -> tuple[str, ...]:
        """Entries of a state_dict that hold no tensor, such as a counter beside the weights."""
        walk = self.walk
        if walk.module_state(symbol) is not None:
            return ()
        if is_plain(symbol):
            symbol = PickledDict(symbol.flat[: 2 * MAX_OTHERS])
        labels, values = plain_columns(symbol, walk.spend)
        empty = (
            label if len(label) <= MAX_OTHER_NAME else f"{label[:MAX_OTHER_NAME]}..."
            for label, value in zip(labels, values)
            # state_dict() hangs its version numbers on the dictionary under this name.
            if label != "_metadata" and not walk.is_tensor(value) and not walk.holds_tensors(value)
        )
        return tuple(islice(empty, MAX_OTHERS))

    def _run(self) -> None:
        walk, frames = self.walk, self.frames
        maker_of, read, most_names = walk.reader.maker, walk.reader.read, walk.most_names
        while frames:
            frame = frames[-1]
            rows = self.unregistered if frame.loose else self.rows
            for label, child, how in frame.entries:
                walk.steps_left -= 1
                maker = maker_of(child)
                if maker is None:
                    if isinstance(child, CONTAINERS) and self._enter(child, label, how, frame.loose):
                        break
                    continue
                # Arrays on modules are data like any number: nobody expects them to be registered.
                if frame.loose and (id(child) in self.registered or walk.reader.is_array(maker)):
                    continue
                prefix = self._prefix() if frame.prefix is None else frame.prefix
                name = prefix + label
                if len(name) > LONG_NAME:
                    walk.count_name(len(name))
                rows.append(read(maker, child, name, how))
                if len(rows) > most_names:
                    walk.check_limits(len(rows))
                if how.declared or frame.loose:
                    self.registered.add(id(child))
                if maker.has_state and self._enter_attributes(child, label, name, how, frame.loose):
                    break
            else:
                self._leave(frames.pop())

    def _enter(self, symbol: Any, label: str | None, how: How, loose: bool) -> bool:
        """Begin to walk a container; False where there is nothing to find."""
        identity = id(symbol)
        walk = self.walk
        if identity in self.on_path or identity in walk.barren:
            return False
        walk.check_limits(len(self.rows) + len(self.unregistered))
        if len(self.frames) >= MAX_DEPTH:
            if walk.holds_tensors(symbol):
                raise walk.too_many("levels above a tensor", MAX_DEPTH)
            return False
        state = walk.module_state(symbol)
        # By every path only what a state_dict is made of; other objects refer to each other at will.
        is_object = type(symbol) is Call and state is None and not is_collection(symbol)
        if identity in self.entered and (loose or is_object):
            return False
        self.entered.add(identity)
        self.on_path.add(identity)
        if state is None:
            entries = walk.entries(symbol, how)
        else:
            entries = self._module_entries(symbol, state, how, loose)
        self._push(entries, label, identity, loose)
        return True

    def _push(self, entries: Iterator[Entry], label: str | None, identity: int, loose: bool) -> None:
        self.frames.append(_Frame(entries, label, identity, loose, len(self.rows) + len(self.unregistered)))

    def _leave(self, frame: _Frame) -> None:
        self.on_path.discard(frame.identity)
        if (
            len(self.rows) + len(self.unregistered) == frame.rows_before
            and not self.loose
            and not frame.loose
        ):
            self.walk.barren.add(frame.identity)

    def _prefix(self) -> str:
        """Dotted path of the innermost frame, with a dot at its end."""
        if len(self.frames) > MAX_DEPTH:
            raise self.walk.too_many("levels above a tensor", MAX_DEPTH)
        known, labels = "", []
        for frame in reversed(self.frames):
            if frame.prefix is not None:
                known = frame.prefix
                break
            if frame.label is not None:
                labels.append(frame.label)
        length = len(known) + sum(map(len, labels)) + len(labels)
        # Before they are joined: a text of a megabyte may be the label of every level.
        if length > LONG_NAME:
            self.walk.count_name(length)
        prefix = self.frames[-1].prefix = known + "".join(f"{label}." for label in reversed(labels))
        return prefix

    def _module_entries(self, symbol: Any, state: dict[str, Any], how: How, loose: bool) -> Iterator[Entry]:
        """Parameters, buffers and submodules of a module; the rest is kept for later."""
        path = self._prefix()
        if not loose:
            name = class_of(symbol) if type(symbol) is Call else None
            self.modules[path[:-1]] = _module_class(name, state)
        forced = how.kind is not None and how is not _LOOSE
        walk = self.walk
        transient = walk.members(state.get("_non_persistent_buffers_set"))
        for label, value in walk.mapping(state.get("_parameters")):
            yield label, value, how if forced else _MODULE_PARAMETER
        for label, value in walk.mapping(state.get("_buffers")):
            yield label, value, how if forced else _MODULE_BUFFERS[label not in transient]
        for part in ("_modules", UNTOLD):
            for label, value in walk.mapping(state.get(part)):
                yield label, value, how
        for label, value in state.items():
            if label not in _MODULE_FIELDS and isinstance(value, CONTAINERS):
                if loose:
                    yield label, value, how
                else:
                    walk.count_name(len(path) + len(label))
                    walk.spend(STEPS_OF_AN_ATTRIBUTE)
                    self.loose.append((path + label, value))

    def _enter_attributes(self, symbol: Call, label: str, name: str, how: How, loose: bool) -> bool:
        """Begin to walk a tensor's own attributes, which may be tensors too; False where there is nothing."""
        state = self.walk.reader.attributes(symbol)
        if id(state) in self.on_path or not self.walk.holds_tensors(state):
            return False
        if how.declared or loose:
            self.loose.append((name, state))
            return False
        self.walk.check_limits(len(self.rows))
        self.on_path.add(id(state))
        # Attributes, or a pair of them and of slots.
        parts = state if type(state) is tuple else (state,)
        inside = [self.walk.entries(part, _ATTRIBUTE) for part in parts if isinstance(part, CONTAINERS)]
        self._push(chain.from_iterable(inside), label, id(state), False)
        return True

    def _versions(self, state_dict: Call) -> dict[str, int]:
        """Layout versions of modules: an attribute that ``state_dict()`` hangs on its dictionary."""
        mapping = self.walk.mapping
        found: dict[str, int] = {}
        for state in state_dict.states:
            for name, metadata in mapping(state):
                entries = mapping(metadata) if name == "_metadata" else ()
                for path, entry in entries:
                    version = dict(mapping(entry)).get("version")
                    if type(version) is int:
                        found[path] = version
        return found


_MODULE_FIELDS = frozenset({
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training",
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks", "_is_full_backward_hook", UNTOLD,
})  # fmt: skip


def _module_class(name: Global | None, state: dict[str, Any]) -> str:
    graph_name = state.get("_graphmodule_cls_name")
    if isinstance(graph_name, str):
        return graph_name
    return name.name if name is not None else "Module"
