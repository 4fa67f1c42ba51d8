"""
What an optimizer's state_dict holds of which parameter: keys, states, names.

Names come from the optimizer itself where it was given them, else from the order and the
shapes of its parameters (:mod:`modelinspect.analysis.parameter_order`). Only headers are
looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from modelinspect.analysis.measured_rows import Model, model_of
from modelinspect.analysis.optimizer_kinds import LIKELY
from modelinspect.analysis.parameter_order import HELP
from modelinspect.errors import visible
from modelinspect.tensors import (
    Checkpoint,
    OptimizerGroup,
    OptimizerState,
    ParameterTable,
    Setting,
    TensorInfo,
)

__all__ = ["Groups", "Held", "Named", "State", "groups_of", "named_by", "owners", "quoted", "shape_of"]

_MAX_NESTED = 4
"""Dots that the name of a state may have: 8-bit optimizers nest theirs."""
_NO_NAMES = (
    "parameters have numbers: neither the optimizer nor a model beside it says their names; "
    "--weights MODEL gives them"
)


State = Mapping[str, TensorInfo]


class Held(NamedTuple):
    """What an optimizer holds of one parameter."""

    section: str
    key: int | str
    number: int
    """Place in its optimizer, from 0, through all groups."""
    name: str
    """Name where the file says it, else empty."""
    state: State
    """Tensors by the names of their states."""
    settings: Mapping[str, Setting]
    step: int | float | TensorInfo | None


# States that have the shape of their parameter.
_SHAPED = (*LIKELY, "exp_avg_sq", "square_avg", "sum", "prev", "variance", "ax", "z", "state1")


Groups = list[list[Held]]


def shape_of(state: State) -> tuple[int, ...] | None:
    """Shape of the parameter that a state belongs to; None where it does not say."""
    for row, column, kept in (("row_var", "col_var", -1), ("exp_avg_sq_row", "exp_avg_sq_col", None)):
        if row in state and column in state and state[column].shape:
            return (*state[row].shape[:kept], state[column].shape[-1])
    return next((state[name].shape for name in _SHAPED if name in state), None)


# -- what the optimizers hold ------------------------------------------------------------


def groups_of(section: str, table: ParameterTable, said: OptimizerState) -> Groups:
    """Every parameter of an optimizer, group after group; those without state as well."""
    known = {str(key) for group in said.groups for key in group.params}
    states = _states(table, known)
    numbers = iter(range(len(known) + len(states)))
    groups: Groups = []
    for group in said.groups:
        names = group.names or tuple(
            key if isinstance(key, str) and not key.isdigit() else "" for key in group.params
        )
        members = []
        for key, name in zip(group.params, names):
            if str(key) in known:
                known.discard(str(key))
                members.append(
                    _held(section, key, next(numbers), name, states.pop(str(key), {}), group, said)
                )
        groups.append(members)
    rest = OptimizerGroup(())
    stray = [
        _held(section, key, next(numbers), "" if key.isdigit() else key, state, rest, said)
        for key, state in states.items()
    ]
    return [group for group in (*groups, stray) if group]


def _held(
    section: str,
    key: int | str,
    number: int,
    name: str,
    state: dict[str, TensorInfo],
    group: OptimizerGroup,
    said: OptimizerState,
) -> Held:
    # Apex counts the steps of a whole group.
    step: int | float | TensorInfo | None = said.steps.get(str(key))
    if step is None:
        in_group = group.settings.get("step")
        step = state.get("step", in_group if isinstance(in_group, (int, float)) else None)
    state = {name: tensor for name, tensor in state.items() if name != "step"}
    return Held(section, key, number, name, state, group.settings, step)


def _states(table: ParameterTable, known: set[str]) -> dict[str, dict[str, TensorInfo]]:
    """Tensors by key and name of the state, of rows such as ``state.0.exp_avg``."""
    states: dict[str, dict[str, TensorInfo]] = {}
    for tensor in table:
        if tensor.name.startswith("state."):
            key, leaf = _key_and_leaf(tensor.name.removeprefix("state."), known)
            states.setdefault(key, {})[leaf] = tensor
    return states


def _key_and_leaf(path: str, known: set[str]) -> tuple[str, str]:
    """``("fc.weight", "exp_avg")`` for ``fc.weight.exp_avg``: keys and states may both have dots."""
    head, _, rest = path.partition(".")
    if head in known and rest:
        return head, rest
    key = path
    for _ in range(_MAX_NESTED):
        key, _, _ = key.rpartition(".")
        if key in known:
            return key, path[len(key) + 1 :]
    if head.isdigit() and rest:
        return head, rest
    key, _, leaf = path.rpartition(".")
    return key, leaf


# -- names -------------------------------------------------------------------------------


class Named(NamedTuple):
    """A parameter of an optimizer with its name."""

    name: str
    row: TensorInfo | None
    held: Held


def named_by(groups: Groups, model: Model) -> tuple[list[Named], list[str]]:
    """Each parameter that has a state, with its name; and what is to be said of the names."""
    unnamed = [[held for held in group if not held.name] for group in groups]
    unnamed = [group for group in unnamed if group]
    by_order, notes = _by_order(unnamed, model)
    several = len({held.section for group in groups for held in group}) > 1
    found = []
    for held in chain.from_iterable(groups):
        row = model.row(held.name) if held.name else by_order.get((held.section, held.key))
        if held.state:
            number = f"parameter {held.number}"
            name = held.name or (f"{held.section}: {number}" if several else number)
            found.append(Named(name if row is None else row.name, row, held))
    return found, notes


def _by_order(groups: Groups, model: Model) -> tuple[dict[tuple[str, int | str], TensorInfo], list[str]]:
    """The model's parameter of each that has only a number."""
    if not groups:
        return {}, []
    shapes = [[shape_of(held.state) for held in group] for group in groups]
    reading = model.read_order(shapes)
    if reading is None:
        return {}, [_NO_NAMES]
    if reading.rows:
        members = chain.from_iterable(groups)
        rows = {(held.section, held.key): row for held, row in zip(members, reading.rows)}
        return rows, [reading.note(model.title)]
    sections = list(dict.fromkeys(held.section for group in groups for held in group))
    if len(sections) > 1:  # two optimizers may share parameters, or be of different models
        return _section_by_section(groups, sections, model)
    return {}, [f"parameters have numbers, for they fit no names of {model.title}: {reading.said}"]


def _section_by_section(
    groups: Groups, sections: Sequence[str], model: Model
) -> tuple[dict[tuple[str, int | str], TensorInfo], list[str]]:
    rows: dict[tuple[str, int | str], TensorInfo] = {}
    notes = []
    for section in sections:
        found, said = _by_order([group for group in groups if group[0].section == section], model)
        rows.update(found)
        notes += [f"{quoted(section)}: {sentence}" for sentence in said]
    return rows, notes


def quoted(section: str) -> str:
    """What a section is called in a sentence."""
    return f"section {visible(section[:80])!r}" if section else "what stands in no section"


def owners(checkpoint: Checkpoint, section: str) -> tuple[dict[str, str], list[str]]:
    """
    The parameter that each tensor of an optimizer's section belongs to.

    Args:
        checkpoint: Its headers.
        section: Of role ``optimizer``.

    Returns:
        Name of a tensor to the parameter's, of those of which it can be told; and sentences
        that say how it was told.
    """
    said = checkpoint.optimizers.get(section, OptimizerState())
    groups = groups_of(section, checkpoint.tables[section], said)
    named, notes = named_by(groups, _model_of(checkpoint, section))
    found: dict[str, str] = {}
    for name, row, held in named:
        if row is None and not held.name:
            continue
        tensors = [*held.state.values(), *([held.step] if isinstance(held.step, TensorInfo) else [])]
        found.update((tensor.name, name) for tensor in tensors)
    # Where no order fits, a definition may say more; to a listing none can be given.
    said_so = [
        note.replace(HELP, "modelinspect grads FILE --weights net.py:Net names them") for note in notes
    ]
    return found, said_so if named else []


def _model_of(checkpoint: Checkpoint, section: str) -> Model:
    """The model; of an optimizer of one of several ranks, what that rank has of it."""
    label = section.partition(".")[0]
    if not label.startswith("mp_rank_"):
        return model_of(checkpoint, None)
    table = checkpoint.table
    rows = [row for row in table if row.name.startswith(f"{label}.")]
    return Model(replace(table, tensors=rows) if rows else None)
