"""
Find the tensors in the symbols of a pickle, and sort them into sections.

A checkpoint holds whatever a training script put there: a state_dict, several
of them beside optimizers and counters, a whole module. Everything that holds
tensors is walked, never recursively, and each object is entered a bounded number of
times, so that cycles and a million references to the same list end.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from modelinspect.errors import visible
from modelinspect.readers.parts.pickle_entries import is_mapping, is_plain, plain_columns
from modelinspect.readers.parts.pickle_symbols import Call, Global, Pickle, PickledDict
from modelinspect.readers.parts.tensor_walk import TensorWalk
from modelinspect.readers.parts.torch_objects import BARE, How, TensorReader
from modelinspect.tensors import OptimizerState, ParameterTable, Role

__all__ = ["Sections", "read_sections", "role_of"]

MAX_WRAPPERS = 4
"""Levels of dictionaries that are looked through for roles."""
MAX_OPTIMIZER_KEYS = 20
"""Of an optimizer's state_dict: it has two, subclasses add a few."""
MAX_SECTION_WORD = 80
"""Characters of one word of a section's name, and of a word that may tell a role."""
MAX_METADATA = 400
MAX_METADATA_DEPTH = 2
MAX_METADATA_PLACES = 10_000
"""Dictionaries to look for them in."""
MAX_METADATA_TEXT = 200
_FIRST_FIELDS = 32
"""Of an object, among which a module has its submodules."""

_HOW_OF_ROLE = {
    "model": BARE,
    "ema": BARE,
    "optimizer": How("optimizer"),
    "gradients": How("other"),
    "other": How("other"),
}
_NAMES_SHOWN = 8
_TELLING = frozenset({"ema", "optimizer", "gradients"})
"""Roles that a dictionary inside a model's does not have by chance."""


class Sections(NamedTuple):
    """What a pickle's tensors are sorted into; the fields are those of a Checkpoint."""

    tables: dict[str, ParameterTable]
    roles: dict[str, Role]
    model_section: str
    metadata: dict[str, str]
    notes: tuple[str, ...]
    optimizers: dict[str, OptimizerState]


class _Part(NamedTuple):
    """A section before its tensors are read."""

    path: tuple[str, ...]
    role: Role
    how: How
    symbol: Any
    known: bool
    """False: it is 'other' only because its name says nothing."""


def read_sections(
    pickle: Pickle, reader: TensorReader, target: str, walk: TensorWalk | None = None
) -> Sections:
    """
    Walk a pickle.

    Args:
        pickle: Its storages are bound to the file's.
        reader: Has given the pickle's globals their meaning.
        target: The file as the user spelt it.
        walk: That of a file's other pickles, which share a budget.

    Raises:
        DamagedFileError: A tensor makes no sense or the file lacks its bytes.
        LimitError: The names are more than a limit allows.
    """
    walk = TensorWalk(reader, pickle, target) if walk is None else walk
    root = pickle.value
    parts = _split(walk, root, ()) or [_whole(walk, root)]
    names = _unique_names(parts)
    tables = {name: walk.table(part.symbol, part.how, name) for name, part in names.items()}
    roles = {name: part.role for name, part in names.items()}
    chosen = _choose(names, tables)
    of_optimizers = {name: part.symbol for name, part in names.items() if part.role == "optimizer"}
    said = _optimizers(of_optimizers, pickle) if of_optimizers else {}
    return Sections(tables, roles, chosen, _metadata(root), _notes(tables, roles, chosen), said)


def _optimizers(symbols: Mapping[str, Any], pickle: Pickle) -> dict[str, OptimizerState]:
    # Most files hold no optimizer, and a listing starts in a few milliseconds.
    from modelinspect.readers.parts.optimizer_groups import OptimizerReader

    reader = OptimizerReader(pickle.end)
    return {name: reader.read(symbol) for name, symbol in symbols.items()}


# -- which sections there are -----------------------------------------------------------

# In the order of preference where two state_dicts are of one size.
_MODEL_WORDS = (
    "state_dict", "model_state_dict", "model", "model_state", "net_state_dict", "network_state_dict",
    "module", "net", "network", "student", "weights", "params", "current_model_state",
)  # fmt: skip
_LIVE_WEIGHTS = "current_model_state"
"""What Lightning's WeightAveraging keeps the last weights as; its state_dict holds averaged ones."""
# Words that are as often names of submodules: beside others like them they say nothing.
_WEAK_WORDS = frozenset({"module", "net", "network", "weights", "params"})
# Texts, compiled by re when they are first used: a plain state_dict has no such keys.
_EMA = r"(^|[_.\-\s])(ema|swa|averaged|avg|teacher)([_.\-\s]|$)|^averaged"
_OPTIMIZER = r"optimi[sz]er|(^|[_.])(optims?|opt)([_.\d]|$)"
_GRADIENTS = r"^(grads?|gradients?)$"
_OTHER = (
    r"^(hyper_parameters|hparams|lr_?schedulers?|schedulers?|lr_sched.*|.*_scheduler|callbacks|loops|"
    r"(grad_?)?scaler|amp|.*rng.*|random.*|args|config|cfg|opts?|options|metrics|history|losses|"
    r"native_amp_scaling_state|frozen_param_fragments|datamodule.*|.*sampler.*|.*data_?loader.*)$"
)


def role_of(label: str) -> Role | None:
    """What a key of a checkpoint says about its value; None where it says nothing."""
    if len(label) > MAX_SECTION_WORD:
        return None
    word = label.lower()
    if re.search(_EMA, word):
        return "ema"
    if word in _MODEL_WORDS:
        return "model"
    if re.search(_OPTIMIZER, word):
        return "optimizer"
    if re.search(_GRADIENTS, word):
        return "gradients"
    return "other" if re.search(_OTHER, word) else None


def _split(walk: TensorWalk, symbol: Any, path: tuple[str, ...]) -> list[_Part]:
    """Sections of a mapping or list whose keys carry roles; none where they do not."""
    if len(path) > MAX_WRAPPERS or walk.module_state(symbol) is not None or is_plain(symbol):
        return []
    labels, values = plain_columns(symbol, walk.spend)
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


def _parts_of(walk: TensorWalk, label: str, value: Any, path: tuple[str, ...]) -> list[_Part]:
    """Sections of one entry; none where neither its key nor its value carries a role."""
    here = (*path, _short(label))
    role = role_of(label)
    inner = _split(walk, value, here)
    if role == "optimizer":
        # Flat copies of the weights beside the moments, as DeepSpeed keeps them, are no model.
        flat = _HOW_OF_ROLE["optimizer"]
        inner = [part._replace(role=role, how=flat) if part.path == here else part for part in inner]
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
            if label in _WEAK_WORDS and len(parts) == 1 and parts[0].path == (*path, _short(label)):
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
            result.append(_Part((*path, _short(label)), "other", BARE, value, False))
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


def _whole(walk: TensorWalk, root: Any) -> _Part:
    role: Role = "model" if walk.holds_tensors(root) else "other"
    return _part((), role, root)


def _unique_names(parts: list[_Part]) -> dict[str, _Part]:
    """Dotted paths; ``{"a.b": ..., "a": {"b": ...}}`` makes two of one name."""
    names: dict[str, _Part] = {}
    numbers: dict[str, int] = {}
    for part in parts:
        name = path = ".".join(part.path)
        while name in names:
            numbers[path] = numbers.get(path, 1) + 1
            name = f"{path} ({numbers[path]})"
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
        names = [f"{_quoted(name)} ({roles[name]})" for name in tables if name != chosen]
        others = ", ".join(names[:_NAMES_SHOWN])
        if len(names) > _NAMES_SHOWN:
            others += f" and {len(names) - _NAMES_SHOWN:,} more"
        if _LIVE_WEIGHTS in tables and chosen == "state_dict":
            notes.append(f"section 'state_dict' holds averaged weights, {_LIVE_WEIGHTS!r} the last ones")
        taken = f"section {_quoted(chosen)} is" if chosen else "what stands in no section is"
        notes.append(f"{taken} taken for the model; the file also holds {others}")
    return tuple(notes)


def _short(label: str) -> str:
    return label if len(label) <= MAX_SECTION_WORD else f"{label[:MAX_SECTION_WORD]}..."


def _quoted(name: str) -> str:
    return f"'{visible(name[:80])}'" if name else "tensors in no section"


# -- scalars -----------------------------------------------------------------------------


def _metadata(root: Any) -> dict[str, str]:
    """Short numbers and texts beside the tensors, e.g. ``epoch``, as dotted text pairs."""
    found: dict[str, str] = {}
    pending: deque[tuple[str, Any]] = deque([("", root)])
    seen: set[int] = set()
    while pending and len(seen) < MAX_METADATA_PLACES:
        prefix, symbol = pending.popleft()
        if id(symbol) in seen:
            continue
        seen.add(id(symbol))
        for key, value in _fields(symbol):
            if type(value) is Call and value.more is None and not (_is_member(value) or _is_number(value)):
                continue  # a tensor: most are
            if type(key) is not str or len(prefix) + len(key) > MAX_METADATA_TEXT:
                continue
            text = _scalar(value)
            if text is not None:
                found[prefix + key] = text
                if len(found) == MAX_METADATA:
                    return found
            elif (
                prefix.count(".") < MAX_METADATA_DEPTH
                and len(pending) < MAX_METADATA_PLACES
                and type(value) in (PickledDict, Call)
                and _may_hold_scalars(key)
            ):
                pending.append((f"{prefix}{key}.", value))
    return found


def _fields(symbol: Any) -> Iterator[tuple[Any, Any]]:
    """Entries of a dictionary; of another object, such as a script's arguments, its attributes."""
    if is_mapping(symbol):
        return zip(symbol.flat[::2], symbol.flat[1::2])
    state = symbol.states[-1] if type(symbol) is Call and symbol.states else None
    if type(state) is not PickledDict or "_modules" in state.flat[: 2 * _FIRST_FIELDS : 2]:
        return iter(())
    return zip(state.flat[::2], state.flat[1::2])


def _may_hold_scalars(label: str) -> bool:
    return role_of(label) in (None, "other")


def _is_member(value: Call) -> bool:
    """One of an enumeration's, as transformers' and DeepSpeed's settings have them; or a device."""
    func, args = value.func, value.args
    return (
        type(func) is Global
        and func.meaning is None
        and not func.computed
        # A class, by its name: what a function would give is not known.
        and (func.name[:1].isupper() or func.dotted == "torch.device")
        and type(args) is tuple
        and len(args) == 1
        and type(args[0]) in (str, int)
    )


def _scalar(value: Any) -> str | None:
    if type(value) is Call and value.more is None and _is_member(value):
        value = value.args[0]
    if type(value) is str:
        return value if len(value) <= MAX_METADATA_TEXT else None
    if type(value) is Call and _is_number(value):
        from modelinspect.readers.parts.numpy_arrays import scalar_text

        return scalar_text(value)
    return str(value) if type(value) in (int, float, bool) else None


def _is_number(call: Call) -> bool:
    """Is it one of NumPy's, ``numpy._core.multiarray.scalar(...)``?"""
    return type(call.func) is Global and call.func.name == "scalar"
