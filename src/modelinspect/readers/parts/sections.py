"""
Find the tensors in the symbols of a pickle, and sort them into sections.

A checkpoint holds whatever a training script put there: a state_dict, several
of them beside optimizers and counters, a whole module. Everything that holds
tensors is walked, never recursively, and each object is entered a bounded number of
times, so that cycles and a million references to the same list end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple

from modelinspect.errors import LimitError, visible
from modelinspect.readers.parts.pickle_symbols import Call, Global, Pickle, PickledDict, PickledSet
from modelinspect.readers.parts.torch_objects import BARE, How, TensorReader, class_of
from modelinspect.tensors import ParameterTable, Role, TensorInfo

__all__ = ["Sections", "read_sections"]

FREE_NAMES = 200_000
"""Names that any checkpoint may have ..."""
NAMES_PER_CALL = 4
"""... and more for every object in it: each may be referred to from several places."""
FREE_STEPS = 4_000_000
STEPS_PER_BYTE = 4
MAX_DEPTH = 1_000
MAX_NAME = 65_536
LONG_NAME = 256
"""Characters from which on names are counted against the limits."""
MAX_WRAPPERS = 4
"""Levels of dictionaries that are looked through for roles."""
MAX_OPTIMIZER_KEYS = 20
"""Of an optimizer's state_dict: it has two, subclasses add a few."""
MAX_METADATA = 100
MAX_METADATA_TEXT = 200

_LOOSE = How("other", False, None, None, False)
_MODULE_PARAMETER = How("parameter", True, None, None, False)
_MODULE_BUFFERS = {
    True: How("buffer", True, True, None, False),
    False: How("buffer", True, False, None, False),
}
_HOW_OF_ROLE = {
    "model": BARE,
    "ema": BARE,
    "optimizer": How("optimizer"),
    "gradients": How("other"),
    "other": How("other"),
}
_CONTAINERS = (PickledDict, list, tuple, PickledSet, Call)
_SEQUENCES = frozenset({"list", "tuple", "set", "frozenset", "deque"})
_MAPPINGS = frozenset({"OrderedDict", "defaultdict", "Counter", "dict"})

_TELLING = frozenset({"ema", "optimizer", "gradients"})
"""Roles that a dictionary inside a model's does not have by chance."""

Entry = tuple[str, Any, How]


class Sections(NamedTuple):
    """What a pickle's tensors are sorted into; the fields are those of a Checkpoint."""

    tables: dict[str, ParameterTable]
    roles: dict[str, Role]
    model_section: str
    metadata: dict[str, str]
    notes: tuple[str, ...]


class _Part(NamedTuple):
    """A section before its tensors are read."""

    path: tuple[str, ...]
    role: Role
    how: How
    symbol: Any
    known: bool
    """False: it is 'other' only because its name says nothing."""


def read_sections(pickle: Pickle, reader: TensorReader, target: str) -> Sections:
    """
    Walk a pickle.

    Args:
        pickle: Its storages are bound to the file's.
        reader: Has given the pickle's globals their meaning.
        target: The file as the user spelt it.

    Raises:
        DamagedFileError: A tensor makes no sense or the file lacks its bytes.
        LimitError: The names are more than a limit allows.
    """
    walk = _Walk(reader, pickle, target)
    root = pickle.value
    parts = _split(walk, root, ()) or [_whole(walk, root)]
    names = _unique_names(parts)
    tables = {name: walk.table(part, name) for name, part in names.items()}
    roles = {name: part.role for name, part in names.items()}
    chosen = _choose(names, tables)
    return Sections(tables, roles, chosen, _metadata(root), _notes(tables, roles, chosen))


# -- which sections there are -----------------------------------------------------------

# In the order of preference where two state_dicts are of one size.
_MODEL_WORDS = (
    "state_dict", "model_state_dict", "model", "model_state", "net_state_dict", "network_state_dict",
    "module", "net", "network", "student", "generator", "weights", "params",
    "discriminator", "critic",
)  # fmt: skip
# Words that are as often names of submodules: beside others like them they say nothing.
_WEAK_WORDS = frozenset({"module", "net", "network", "weights", "params"})
_EMA = re.compile(r"(^|[_.\-\s])(ema|swa|averaged|avg|teacher)([_.\-\s]|$)|^averaged")
_OPTIMIZER = re.compile(r"optimi[sz]er|(^|[_.])(optims?|opt)([_.\d]|$)")
_GRADIENTS = re.compile(r"^(grads?|gradients?)$")
_OTHER = re.compile(
    r"^(hyper_parameters|hparams|lr_?schedulers?|schedulers?|lr_sched.*|.*_scheduler|callbacks|loops|"
    r"(grad_?)?scaler|amp|.*rng.*|random.*|args|config|cfg|opts?|options|metrics|history|losses|"
    r"native_amp_scaling_state|datamodule.*|.*sampler.*|.*data_?loader.*)$"
)


def _role_of(label: str) -> Role | None:
    """What a key says about the value; None where it says nothing."""
    word = label.lower()
    if _EMA.search(word):
        return "ema"
    if word in _MODEL_WORDS:
        return "model"
    if _OPTIMIZER.search(word):
        return "optimizer"
    if _GRADIENTS.search(word):
        return "gradients"
    return "other" if _OTHER.search(word) else None


def _split(walk: _Walk, symbol: Any, path: tuple[str, ...]) -> list[_Part]:
    """Sections of a mapping or list whose keys carry roles; none where they do not."""
    if len(path) > MAX_WRAPPERS or walk.module_state(symbol) is not None:
        return []
    labels, values = _plain_columns(symbol)
    if len(labels) < MAX_OPTIMIZER_KEYS and {"state", "param_groups"} <= set(labels):
        return [_part(path, "optimizer", symbol)] if walk.holds_tensors(symbol) else []
    found: dict[str, list[_Part]] = {}
    for label, value in zip(labels, values):
        if not walk.is_tensor(value) and walk.holds_tensors(value):
            found[label] = _parts_of(walk, label, value, path)
    if not found:
        return []
    holders = [
        (label, value) for label, value in zip(labels, values) if label in found or walk.is_tensor(value)
    ]
    return _arrange(holders, found, path)


def _parts_of(walk: _Walk, label: str, value: Any, path: tuple[str, ...]) -> list[_Part]:
    """Sections of one entry; none where neither its key nor its value carries a role."""
    here = (*path, label)
    role = _role_of(label)
    inner = _split(walk, value, here)
    if inner and (role in (None, "optimizer") or any(part.role in _TELLING for part in inner)):
        return inner
    return [_part(here, role, value)] if role is not None else []


def _arrange(
    holders: list[tuple[str, Any]], found: dict[str, list[_Part]], path: tuple[str, ...]
) -> list[_Part]:
    """Put what carries roles and what does not into order."""
    unknown = [label for label, parts in found.items() if not parts]
    if unknown:
        for label, parts in found.items():
            if label in _WEAK_WORDS and len(parts) == 1 and parts[0].path == (*path, label):
                found[label] = []
    parts = [part for several in found.values() for part in several]
    if not parts:
        return []
    has_model = any(part.role == "model" for part in parts)
    has_ema = any(part.role == "ema" for part in parts)
    result: list[_Part] = []
    rest: list[Any] = []
    for label, value in holders:
        if found.get(label):
            result.extend(found[label])
        elif has_model and label in found:
            result.append(_Part((*path, label), "other", BARE, value, False))
        else:
            if not rest:
                result.append(_Part(path, "other", BARE, rest, False))
            rest += (label, value)
    place = next((number for number, part in enumerate(result) if part.symbol is rest), None)
    if place is not None:
        loose = has_model or (has_ema and not any(not parts for parts in found.values()))
        role: Role = "other" if loose else "model"
        result[place] = _Part(path, role, _HOW_OF_ROLE[role], PickledDict(rest), not loose)
    return result


def _part(path: tuple[str, ...], role: Role, symbol: Any) -> _Part:
    return _Part(path, role, _HOW_OF_ROLE[role], symbol, True)


def _whole(walk: _Walk, root: Any) -> _Part:
    role: Role = "model" if walk.holds_tensors(root) else "other"
    return _part((), role, root)


def _unique_names(parts: list[_Part]) -> dict[str, _Part]:
    """Dotted paths; ``{"a.b": ..., "a": {"b": ...}}`` makes two of one name."""
    names: dict[str, _Part] = {}
    for part in parts:
        name = path = ".".join(part.path)
        number = 1
        while name in names:
            number += 1
            name = f"{path} ({number})"
        names[name] = part
    return names


def _choose(parts: dict[str, _Part], tables: dict[str, ParameterTable]) -> str:
    """The section taken for the model."""

    def rank(name: str) -> tuple[int, int, int]:
        part = parts[name]
        order = {"model": 0, "ema": 2, "gradients": 4, "optimizer": 5}
        group = order.get(part.role, 3 if part.known or not part.path else 1)
        size = sum(tensor.numel for tensor in tables[name])
        word = part.path[-1].lower() if part.path else ""
        preference = _MODEL_WORDS.index(word) if word in _MODEL_WORDS else len(_MODEL_WORDS)
        return group, -size, preference

    return min(parts, key=rank)


def _notes(tables: dict[str, ParameterTable], roles: dict[str, Role], chosen: str) -> tuple[str, ...]:
    notes = []
    if not any(len(table) or table.unregistered for table in tables.values()):
        notes.append("it holds no tensor")
    if len(tables) > 1:
        others = ", ".join(f"{_quoted(name)} ({roles[name]})" for name in tables if name != chosen)
        notes.append(f"section {_quoted(chosen)} is taken for the model; the file also holds {others}")
    return tuple(notes)


def _quoted(name: str) -> str:
    return f"'{visible(name[:80])}'"


# -- the walk ----------------------------------------------------------------------------


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


class _Walk:
    """
    Finds tensors; remembers what holds none, so that nothing is searched twice.
    """

    def __init__(self, reader: TensorReader, pickle: Pickle, target: str) -> None:
        self.reader = reader
        self.target = target
        self.barren: set[int] = set()
        self.most_steps = self.steps_left = FREE_STEPS + STEPS_PER_BYTE * pickle.end
        self.most_names = FREE_NAMES + NAMES_PER_CALL * len(pickle.calls)

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
            if (
                type(state) is PickledDict
                and "_modules" in (keys := state.flat[::2])
                and "_parameters" in keys
            ):
                return {key: value for key, value in state.pairs() if type(key) is str}
        return None

    def holds_tensors(self, symbol: Any) -> bool:
        """Is there a tensor in it, at any depth?"""
        if self.is_tensor(symbol):
            return True
        if not isinstance(symbol, _CONTAINERS) or id(symbol) in self.barren:
            return False
        seen = {id(symbol)}
        pending = [symbol]
        while pending:
            self.check_limits(0)
            for _, child, _ in self.entries(pending.pop(), BARE):
                self.steps_left -= 1
                if not isinstance(child, _CONTAINERS) or id(child) in seen or id(child) in self.barren:
                    continue
                if self.is_tensor(child):
                    return True
                seen.add(id(child))
                pending.append(child)
        self.barren |= seen
        return False

    def table(self, part: _Part, name: str) -> ParameterTable:
        """All tensors of a section."""
        return _Section(self, part).table(name)

    def entries(self, symbol: Any, how: How) -> Iterator[Entry]:
        """What a container holds that is not a module: labels, values, what is known of them."""
        if type(symbol) is PickledDict:
            return zip(*_columns(symbol.flat), repeat(how))
        if type(symbol) is Call:
            return ((label, value, how) for label, value in _call_entries(symbol))
        items = symbol.items if type(symbol) is PickledSet else symbol
        return zip(map(str, range(len(items))), items, repeat(how))

    def count_name(self, name: str) -> None:
        """Keep the length of names within bounds."""
        self.steps_left -= len(name) // 16
        if len(name) > MAX_NAME:
            raise self.too_many("characters in a name", MAX_NAME)

    def check_limits(self, names: int) -> None:
        """Keep the work within bounds; asked at every container, which can hold no more than the pickle."""
        if names > self.most_names:
            raise self.too_many("names of tensors", self.most_names)
        if self.steps_left < 0:
            raise self.too_many("references to follow", self.most_steps)

    def too_many(self, what: str, most: int) -> LimitError:
        """The error for a pickle whose objects lead too far."""
        return LimitError(
            f"{visible(self.target)} claims more than is read",
            details=(f"it leads to more than {most:,} {what}",),
        )


class _Section:
    """
    Reads one section: a walk by every path, then one over what modules hold unregistered.
    """

    def __init__(self, walk: _Walk, part: _Part) -> None:
        self.walk = walk
        self.part = part
        self.rows: list[TensorInfo] = []
        self.modules: dict[str, str] = {}
        self.unregistered: list[TensorInfo] = []
        self.registered: set[int] = set()
        self.loose: list[tuple[str, Any]] = []
        """Prefix and symbol of what hangs on modules unregistered: walked at the end."""
        self.entered: set[int] = set()
        self.frames: list[_Frame] = []
        self.on_path: set[int] = set()

    def table(self, name: str) -> ParameterTable:
        """Walk and make the table."""
        symbol = self.part.symbol
        if self.walk.is_tensor(symbol):
            self.rows.append(self.walk.reader.read(symbol, "tensor", self.part.how))
        else:
            self._walk(symbol, self.part.how)
            for path, attribute in self.loose:
                self._push(iter([(path, attribute, _LOOSE)]), None, 0, True)
                self._run()
        return ParameterTable(
            source=self.walk.target,
            tensors=self.rows,
            origin="file",
            section=name,
            modules=self.modules,
            unregistered=self.unregistered,
        )

    def _walk(self, root: Any, how: How) -> None:
        if isinstance(root, _CONTAINERS) and self._enter(root, None, how, False):
            self._run()

    def _run(self) -> None:
        walk, frames = self.walk, self.frames
        maker_of, read = walk.reader.maker, walk.reader.read
        while frames:
            frame = frames[-1]
            rows = self.unregistered if frame.loose else self.rows
            for label, child, how in frame.entries:
                walk.steps_left -= 1
                maker = maker_of(child)
                if maker is None:
                    if isinstance(child, _CONTAINERS) and self._enter(child, label, how, frame.loose):
                        break
                    continue
                if frame.loose and id(child) in self.registered:
                    continue
                prefix = self._prefix() if frame.prefix is None else frame.prefix
                name = prefix + label
                if len(name) > LONG_NAME:
                    walk.count_name(name)
                rows.append(read(child, name, how))
                if how.declared or frame.loose:
                    self.registered.add(id(child))
                if maker.has_state:
                    self._attributes_of(child, name, how, frame)
            else:
                self._leave(frames.pop())

    def _enter(self, symbol: Any, label: str | None, how: How, loose: bool) -> bool:
        """Begin to walk a container; False where there is nothing to find."""
        identity = id(symbol)
        walk = self.walk
        if identity in self.on_path or identity in walk.barren:
            return False
        walk.check_limits(len(self.rows) + len(self.unregistered))
        state = walk.module_state(symbol)
        # By every path only what a state_dict is made of; other objects refer to each other at will.
        is_object = type(symbol) is Call and state is None and not _is_collection(symbol)
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
        labels = [frame.label for frame in self.frames if frame.label is not None]
        prefix = self.frames[-1].prefix = "".join(f"{label}." for label in labels)
        return prefix

    def _module_entries(self, symbol: Any, state: dict[str, Any], how: How, loose: bool) -> Iterator[Entry]:
        """Parameters, buffers and submodules of a module; the rest is kept for later."""
        path = self._prefix()
        if not loose:
            name = class_of(symbol) if type(symbol) is Call else None
            self.modules[path[:-1]] = _module_class(name, state)
        forced = how.kind is not None and how is not _LOOSE
        transient = _members(state.get("_non_persistent_buffers_set"))
        for label, value in _mapping(state.get("_parameters")):
            yield label, value, how if forced else _MODULE_PARAMETER
        for label, value in _mapping(state.get("_buffers")):
            yield label, value, how if forced else _MODULE_BUFFERS[label not in transient]
        for label, value in _mapping(state.get("_modules")):
            yield label, value, how
        for label, value in state.items():
            if label not in _MODULE_FIELDS and isinstance(value, _CONTAINERS):
                if loose:
                    yield label, value, how
                else:
                    self.loose.append((path + label, value))

    def _attributes_of(self, symbol: Call, name: str, how: How, frame: _Frame) -> None:
        """A tensor's own attributes may be tensors too."""
        state = self.walk.reader.attributes(symbol)
        if state is not None and self.walk.holds_tensors(state):
            if how.declared or frame.loose:
                self.loose.append((name, state))
            else:
                self._late(name, state)

    def _late(self, name: str, state: Any) -> None:
        """Rows for the attributes of a tensor of a plain mapping, after the tensor's own."""
        inner = _Section(self.walk, self.part._replace(symbol=state, how=How("other")))
        inner._walk(state, How("other"))
        self.rows.extend(row._replace(name=f"{name}.{row.name}") for row in inner.rows)


_MODULE_FIELDS = frozenset({
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training",
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks", "_is_full_backward_hook",
})  # fmt: skip


def _module_class(name: Global | None, state: dict[str, Any]) -> str:
    graph_name = state.get("_graphmodule_cls_name")
    if isinstance(graph_name, str):
        return graph_name
    return name.name if name is not None else "Module"


def _columns(flat: list[Any]) -> tuple[list[str], list[Any]]:
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


def _pairs(flat: list[Any]) -> Iterator[tuple[str, Any]]:
    return zip(*_columns(flat))


def _label(key: Any, number: int) -> str:
    """Text for a key that may be anything."""
    if type(key) is str:
        return key
    if key is None or type(key) in (int, bool, float):
        return str(key)
    if type(key) is Global:
        return key.dotted
    if type(key) is tuple and key and all(type(part) in (str, int) for part in key):
        return "(" + ", ".join(map(str, key)) + ")"
    return f"<key {number}>"


def _call_entries(call: Call) -> Iterator[tuple[str, Any]]:
    """Whatever an object was given: entries, items, arguments, attributes."""
    func, args = call.func, call.args
    name = func.name if type(func) is Global else ""
    first = args[0] if type(args) is tuple and args else None
    sources: list[Iterator[tuple[str, Any]]] = []
    if name in _MAPPINGS and _is_collection(call):
        # Python 2 wrote OrderedDict([[key, value], ...]).
        given = [pair for argument in args for pair in _mapping(argument)] if type(args) is tuple else []
        flat = [part for pair in given for part in pair]
        sources.append(_pairs(flat + call.flat) if flat else _pairs(call.flat))
    else:
        if name in _SEQUENCES and isinstance(first, (list, tuple)):
            sources.append(zip(map(str, range(len(first))), first))
        elif type(args) is tuple:
            sources.append(zip(map(str, range(len(args))), args))
        if type(func) is Call:
            sources.append(iter([("func", func)]))
        sources.append(_pairs(call.flat))
    if call.more is not None:
        sources.append(zip(map(str, range(len(call.items))), call.items))
        sources.extend(_state_entries(state) for state in call.states)
        if call.kwargs is not None:
            sources.append(_mapping(call.kwargs))
    return chain.from_iterable(sources)


def _is_collection(call: Call) -> bool:
    """A dictionary, list or set of the standard library."""
    func = call.func
    return (
        type(func) is Global
        and func.module in ("collections", "builtins", "__builtin__")
        and (func.name in _MAPPINGS or func.name in _SEQUENCES)
    )


def _state_entries(state: Any) -> Iterator[tuple[str, Any]]:
    if type(state) is tuple and len(state) == 2 and any(type(part) is PickledDict for part in state):
        return chain(*(_state_entries(part) for part in state if type(part) is PickledDict))
    if type(state) is PickledDict:
        return _pairs(state.flat)
    return iter([("state", state)])


def _mapping(symbol: Any) -> Iterator[tuple[str, Any]]:
    """Labels and values of any kind of mapping; nothing for what is none."""
    if type(symbol) is PickledDict:
        return _pairs(symbol.flat)
    if type(symbol) is Call and _is_collection(symbol):
        return _call_entries(symbol)
    if type(symbol) is list:
        pairs = [pair for pair in symbol if isinstance(pair, (list, tuple)) and len(pair) == 2]
        return _pairs([part for pair in pairs for part in pair])
    return iter(())


def _plain_columns(symbol: Any) -> tuple[list[str], list[Any]]:
    """Labels and values of a dictionary or list, of which sections may be made; none of an object."""
    if isinstance(symbol, (list, tuple)):
        return list(map(str, range(len(symbol)))), list(symbol)
    if type(symbol) is PickledDict:
        return _columns(symbol.flat)
    pairs = list(_mapping(symbol)) if _is_mapping(symbol) else []
    return [label for label, _ in pairs], [value for _, value in pairs]


def _members(symbol: Any) -> set[str]:
    """Texts in a set, as protocol 2 and protocol 4 write it."""
    if type(symbol) is PickledSet:
        items = symbol.items
    elif type(symbol) is Call and type(symbol.args) is tuple and symbol.args:
        items = [*symbol.args[0], *symbol.items] if isinstance(symbol.args[0], (list, tuple)) else []
    else:
        items = []
    return {item for item in items if type(item) is str}


# -- scalars -----------------------------------------------------------------------------


def _metadata(root: Any) -> dict[str, str]:
    """Short numbers and texts beside the tensors, e.g. ``epoch``, as dotted text pairs."""
    found: dict[str, str] = {}
    pending: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    while pending:
        prefix, symbol = pending.pop(0)
        if id(symbol) in seen or not _is_mapping(symbol):
            continue
        seen.add(id(symbol))
        for key, value in zip(symbol.flat[::2], symbol.flat[1::2]):
            if type(value) is Call and value.more is None:
                continue  # a tensor: most are
            if type(key) is not str or len(prefix) + len(key) > MAX_METADATA_TEXT:
                continue
            text = _scalar(value)
            if text is not None:
                found[prefix + key] = text
                if len(found) == MAX_METADATA:
                    return found
            elif prefix.count(".") < 2 and _is_mapping(value) and _may_hold_scalars(key):
                pending.append((f"{prefix}{key}.", value))
    return found


def _is_mapping(symbol: Any) -> bool:
    return type(symbol) is PickledDict or (type(symbol) is Call and _is_collection(symbol))


def _may_hold_scalars(label: str) -> bool:
    return _role_of(label) in (None, "other")


def _scalar(value: Any) -> str | None:
    if type(value) is str:
        return value if len(value) <= MAX_METADATA_TEXT else None
    return str(value) if type(value) in (int, float, bool) else None
