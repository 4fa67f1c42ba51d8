"""
What DeepSpeed writes beside the tensors of its files: shapes, names, ranks.

``*_model_states.pt`` holds ``module``, ``buffer_names``, ``param_shapes`` (of each group of
the optimizer, in the order in which its flat tensors hold them), ``frozen_param_shapes`` and
``shared_params``; ``*_optim_states.pt`` holds ``optimizer_state_dict`` with ``zero_stage``,
``partition_count`` and paddings (deepspeed 0.19, ``runtime/engine.py``,
``runtime/zero/stage3.py`` and ``stage_1_and_2.py``). Under ZeRO-3 the tensors of ``module``
are empty, so that their shapes say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.readers.parts.pickle_entries import is_mapping, mapping
from modelinspect.readers.parts.pickle_symbols import Call, Pickle
from modelinspect.tensors import Checkpoint, TensorInfo

__all__ = [
    "ModelStates",
    "OptimizerStates",
    "composite",
    "declared",
    "facts_of",
    "is_placeholder",
    "model_states",
    "optimizer_states",
    "shape_of",
    "with_logical_shapes",
]

FREE_ENTRIES = 100_000
"""Entries to look at in any file, and one more for every byte of its pickle."""
_MOST = 1 << 63
_MAX_AXES = 64
_EXTRA_STATE = "_extra_state"
"""Last part of the name of what a module keeps beside parameters and buffers."""

Shape = tuple[int, ...]


class ModelStates(NamedTuple):
    """What a file of model states says of its tensors."""

    groups: tuple[dict[str, Shape], ...]
    """Of each group of the optimizer: its parameters, in the order of the flat tensors."""
    frozen: dict[str, Shape]
    shared: dict[str, str]
    """Name that is not stored to the name of the same parameter that is."""
    buffers: frozenset[str]
    counters: dict[str, int]
    """``global_steps``, ``dp_world_size``, ``mp_world_size`` where they are numbers."""
    version: str
    """Of DeepSpeed."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """All parameters, those in the optimizer first."""
        return {name: shape for group in (*self.groups, self.frozen) for name, shape in group.items()}


class OptimizerStates(NamedTuple):
    """What a file of optimizer states says beside its tensors."""

    stage: int | None
    """Of ZeRO; None: the file doesn't say, as bfloat16's own optimizer doesn't."""
    partitions: int | None
    """Ranks that the state is spread over; None where groups differ or nothing is said."""
    paddings: tuple[tuple[int, ...], ...]
    """Of each group: unused elements behind each of its parameters."""
    version: str


class _Entries:
    """Reads the symbols of one pickle, with a budget."""

    def __init__(self, pickle: Pickle, target: str) -> None:
        self._target = target
        self._most = self._left = FREE_ENTRIES + pickle.end

    def of(self, symbol: Any) -> dict[str, Any]:
        """Labels and values of a mapping; nothing of what is none."""
        return dict(mapping(symbol, self.spend)) if is_mapping(symbol) else {}

    def items(self, symbol: Any) -> list[Any]:
        """What a list or tuple holds."""
        if type(symbol) not in (list, tuple):
            return []
        self.spend(len(symbol))
        return list(symbol)

    def spend(self, entries: int) -> None:
        self._left -= entries
        if self._left < 0:
            raise LimitError(
                f"{visible(self._target)} claims more than is read",
                details=(f"its shapes lead to more than {self._most:,} entries",),
            )

    def shapes(self, symbol: Any) -> dict[str, Shape]:
        """``OrderedDict`` of names to ``torch.Size``."""
        return {name: self._shape(name, size) for name, size in self.of(symbol).items()}

    def _shape(self, name: str, symbol: Any) -> Shape:
        if type(symbol) is Call and type(symbol.args) is tuple and symbol.args:
            symbol = symbol.args[0]
        if type(symbol) in (tuple, list) and len(symbol) <= _MAX_AXES:
            self.spend(len(symbol))
            if all(type(n) is int and 0 <= n < _MOST for n in symbol) and prod(symbol) < _MOST:
                return tuple(symbol)
        raise DamagedFileError(
            f"{visible(self._target)} is damaged",
            details=(f"param_shapes: {visible(name[:200])!r} has no shape that makes sense",),
        )


def model_states(pickle: Pickle, target: str) -> ModelStates | None:
    """
    What a pickle says that is DeepSpeed's model states; None where it is none.

    Raises:
        DamagedFileError: A shape makes no sense.
        LimitError: It leads to more entries than are looked at.
    """
    entries = _Entries(pickle, target)
    root = entries.of(pickle.value)
    if not {"module", "buffer_names", "param_shapes"} <= set(root):
        return None
    buffers = entries.items(root["buffer_names"])
    shared = root.get("shared_params")
    # A dictionary, or pairs of names in files of older versions.
    pairs = entries.of(shared).items() or [tuple(entries.items(pair)) for pair in entries.items(shared)]
    return ModelStates(
        groups=tuple(entries.shapes(group) for group in entries.items(root["param_shapes"])),
        frozen=entries.shapes(root.get("frozen_param_shapes")),
        shared={
            pair[0]: pair[1] for pair in pairs if len(pair) == 2 and {type(part) for part in pair} == {str}
        },
        buffers=frozenset(name for name in buffers if type(name) is str),
        counters={key: root[key] for key in _COUNTERS if type(root.get(key)) is int},
        version=_text(root.get("ds_version")),
    )


_COUNTERS = ("global_steps", "dp_world_size", "mp_world_size")


def optimizer_states(pickle: Pickle, target: str) -> OptimizerStates | None:
    """What a pickle says that is DeepSpeed's optimizer states; None where it is none."""
    entries = _Entries(pickle, target)
    root = entries.of(pickle.value)
    states = entries.of(root.get("optimizer_state_dict"))
    if not {"partition_count", "fp32_flat_groups", "single_partition_of_fp32_groups"} & set(states):
        return None
    counts = states.get("partition_count")
    distinct = {counts} if type(counts) is int else set(filter(_is_count, entries.items(counts)))
    return OptimizerStates(
        stage=_number(states.get("zero_stage")),
        partitions=distinct.pop() if len(distinct) == 1 else None,
        paddings=tuple(
            tuple(n for n in entries.items(group) if _is_count(n))
            for group in entries.items(states.get("param_alignment_paddings"))
        ),
        version=_text(root.get("ds_version", states.get("ds_version"))),
    )


def _is_count(symbol: Any) -> bool:
    return type(symbol) is int and 0 <= symbol < _MOST


def _number(symbol: Any) -> int | None:
    """An integer, or the value of a member of an enumeration such as ``ZeroStageEnum(3)``."""
    if type(symbol) is Call and type(symbol.args) is tuple and len(symbol.args) == 1:
        symbol = symbol.args[0]
    return symbol if type(symbol) is int and 0 <= symbol < _MOST else None


def _text(symbol: Any) -> str:
    return symbol if type(symbol) is str and len(symbol) <= 80 else ""


# -- rows ----------------------------------------------------------------------------------


def declared(rows: Iterable[TensorInfo], said: ModelStates) -> list[TensorInfo]:
    """The rows of a module, as parameters and buffers that the file declares them to be."""
    shapes, frozen, buffers = said.shapes, said.frozen, said.buffers
    found = []
    for row in rows:
        name = said.shared.get(row.name, row.name)
        if row.name in buffers:
            changed = row._replace(kind="buffer", declared=True, persistent=True, requires_grad=None)
        elif name in shapes:
            changed = row._replace(kind="parameter", declared=True, requires_grad=name not in frozen)
        elif shapes and row.numel and not row.name.endswith(_EXTRA_STATE):
            # Stage 1 names those of the optimizer alone; a module holds nothing but parameters and buffers.
            changed = row._replace(kind="parameter", declared=True, requires_grad=False)
        else:
            changed = row
        found.append(changed)
    return found


def is_placeholder(row: TensorInfo, shape: Shape | None) -> bool:
    """Does the empty tensor stand for a parameter that has elements?"""
    return shape is not None and row.numel == 0 and prod(shape) > 0


def shape_of(name: str, shapes: Mapping[str, Shape], shared: Mapping[str, str]) -> Shape | None:
    """The logical shape of a parameter, by its own name or by that of the one it is tied to."""
    return shapes.get(name, shapes.get(shared.get(name, "")))


def composite(row: TensorInfo, shape: Shape, parts: tuple[TensorInfo, ...], placement: str) -> TensorInfo:
    """The row of a parameter whose elements lie in parts."""
    return row._replace(
        shape=shape, storage=None, explicit_stride=None, storage_offset=0, parts=parts, placement=placement
    )


_AWAY = (
    "ZeRO-3: the tensors of {:,} parameters are empty here, and their shapes are those of param_shapes; "
    "their bytes lie in the *_optim_states.pt files of the folder, which reads as one"
)


def with_logical_shapes(found: Checkpoint, pickle: Pickle) -> Checkpoint:
    """
    One file of model states, its parameters with the shapes that they stand for.

    Raises:
        DamagedFileError: A shape makes no sense.
        LimitError: It leads to more entries than are looked at.
    """
    said = model_states(pickle, found.source)
    if said is None or "module" not in found.tables:
        return found
    table = found.tables["module"]
    shapes = said.shapes
    holders: dict[str, TensorInfo] = {}
    rows, away = [], 0
    for row in declared(table, said):
        shape = shape_of(row.name, shapes, said.shared)
        if shape is None or not is_placeholder(row, shape):
            rows.append(row)
            continue
        away += 1
        # Tied parameters are one: they have one placeholder.
        part = holders.setdefault(said.shared.get(row.name, row.name), row._replace(name="placeholder"))
        rows.append(composite(row, shape, (part,), "ZeRO-3, in other files"))
    notes = found.notes
    if away:
        notes = (*notes, _AWAY.format(away))
    tables = {**found.tables, "module": replace(table, tensors=rows)}
    facts = {**found.facts, **facts_of(said, 3 if away else None)}
    return replace(found, tables=tables, notes=notes, facts=facts)


def facts_of(said: ModelStates, stage: int | None) -> dict[str, str]:
    """What ``info`` shows of it."""
    found = {"DeepSpeed": visible(said.version)} if said.version else {}
    if stage is not None:
        found["ZeRO stage"] = str(stage)
    if "dp_world_size" in said.counters:
        found["ranks"] = str(said.counters["dp_world_size"])
    if "global_steps" in said.counters:
        found["global step"] = str(said.counters["global_steps"])
    return found
