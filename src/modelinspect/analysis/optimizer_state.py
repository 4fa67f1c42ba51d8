"""
What a checkpoint says of gradients: an optimizer's moments, or gradients that were saved.

No class is needed and nothing is run: the moments are read a chunk at a time, corrected by
the steps and betas that the file holds, and put under the names of the model's parameters.
Which optimizer keeps what is in :mod:`modelinspect.analysis.optimizer_families`; how names
are found in :mod:`modelinspect.analysis.parameter_order`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from typing import NamedTuple

from modelinspect.analysis.gradients import GradientsReport, NormOrder, Thresholds, global_norm
from modelinspect.analysis.measured_rows import (
    NO_WEIGHTS,
    Measured,
    Model,
    Progress,
    left_out,
    model_of,
    plural,
    told,
)
from modelinspect.analysis.optimizer_families import Family, family_of, measured, tensors_read
from modelinspect.analysis.optimizer_members import (
    Groups,
    Held,
    Named,
    groups_of,
    named_by,
    quoted,
    shape_of,
)
from modelinspect.analysis.saved_gradients import has_saved_gradients, saved_gradients
from modelinspect.analysis.stored_figures import number_in
from modelinspect.errors import UnknownAnswerError, visible
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.tensors import Checkpoint, OptimizerState, ParameterTable, TensorInfo

__all__ = ["checkpoint_gradients", "optimizer_gradients", "saved_gradients"]

_SHOWN = 3
"""Different values of a setting that are shown."""
_SETTINGS = ("lr", "betas", "momentum", "weight_decay")
_SECTIONS_NAMED = 8
_NAMED = 6
"""Parameters that a note names."""


def checkpoint_gradients(
    checkpoint: Checkpoint,
    *,
    order: NormOrder = "2",
    thresholds: Thresholds | None = None,
    section: str | None = None,
    names: ParameterTable | None = None,
    progress: Progress | None = None,
) -> GradientsReport:
    """
    The gradients that a checkpoint holds as such, else what its optimizers keep of them.

    Args:
        checkpoint: Its headers; moments and weights are read from its files.
        order: Of the norm that the report is about.
        thresholds: Where ok ends; None: as :class:`Thresholds` has it.
        section: An optimizer's, or one with gradients; None: whatever there is.
        names: Gives names and weights, instead of the checkpoint's own model section.
        progress: Told of the bytes done and of those in all.

    Raises:
        UsageError: There is no such section.
        UnknownAnswerError: It holds neither.
        ModelInspectError: Its bytes can't be read.
    """
    of_saved = section is None or checkpoint.roles.get(section) != "optimizer"
    make = saved_gradients if of_saved and has_saved_gradients(checkpoint, section) else optimizer_gradients
    return make(
        checkpoint, order=order, thresholds=thresholds, section=section, names=names, progress=progress
    )


def optimizer_gradients(
    checkpoint: Checkpoint,
    *,
    order: NormOrder = "2",
    thresholds: Thresholds | None = None,
    section: str | None = None,
    names: ParameterTable | None = None,
    progress: Progress | None = None,
) -> GradientsReport:
    """
    What the optimizers of a checkpoint keep of each parameter's gradient.

    Figures are of the first moment, bias-corrected where the optimizer does so;
    ``second_rms`` is the root of the mean of the second.

    Args:
        checkpoint: Its headers; moments and weights are read from its files.
        order: Of the norm that the report is about.
        thresholds: Where ok ends; None: as :class:`Thresholds` has it.
        section: One optimizer's; None: all of them.
        names: Gives names and weights, instead of the checkpoint's own model section.
        progress: Told of the bytes done and of those in all.

    Raises:
        UsageError: There is no such section.
        UnknownAnswerError: There is no optimizer, or none of its states is known.
        ModelInspectError: Its bytes can't be read.
    """
    thresholds = thresholds or Thresholds()
    groups, notes = _groups(checkpoint, section)
    model = model_of(checkpoint, names)
    named, name_notes = named_by(groups, model)
    families = [family_of(each.held) for each in named]
    shown = [_Shown(each, family) for each, family in zip(named, families) if isinstance(family, Family)]
    notes += left_out((family for family in families if isinstance(family, str)), "parameter")
    if not shown:
        raise _nothing_known(checkpoint, notes)
    steps, found = _measured(shown, model, progress)
    notes += name_notes + _remarks(shown, found, steps, groups, model)
    rows = model.rows_of(found, thresholds)
    return GradientsReport(
        target=checkpoint.source,
        source="optimizer",
        rows=rows,
        parameters=len(rows),
        order=order,
        global_norm=global_norm([row.figures for row in rows], order),
        thresholds=thresholds,
        modules={} if model.table is None else model.table.modules,
        setup=_setup(shown, steps),
        notes=tuple(notes),
    )


# -- what the optimizers hold ------------------------------------------------------------


def _groups(checkpoint: Checkpoint, section: str | None) -> tuple[Groups, list[str]]:
    """Every parameter of the optimizers, group after group; those without state as well."""
    if section is None:
        sections = [name for name, role in checkpoint.roles.items() if role == "optimizer"]
    else:
        checkpoint.section(section)
        sections = [section]
    groups: Groups = []
    notes = []
    for name in sections:
        said = checkpoint.optimizers.get(name, OptimizerState())
        if said.fault:
            notes.append(f"groups and steps of {quoted(name)} are not read: {said.fault}")
        # An optimizer whose tensors are not those of a state_dict has none of its parameters.
        if name in checkpoint.tables:
            groups += groups_of(name, checkpoint.tables[name], said)
    if not any(held.state for group in groups for held in group):
        raise _nothing_there(checkpoint, section)
    return groups, notes


class _Shown(NamedTuple):
    named: Named
    family: Family


# -- figures -----------------------------------------------------------------------------


def _measured(
    shown: Sequence[_Shown], model: Model, progress: Progress | None
) -> tuple[list[float | None], list[Measured]]:
    """Steps and figures of each parameter."""
    steps: list[float | None] = []
    found = []
    with StorageReader() as reader:
        read = told(reader.read, progress, _all_read(shown, model))
        for (name, row, held), family in shown:
            step = held.step if not isinstance(held.step, TensorInfo) else number_in(held.step, reader.read)
            moments = measured(family, held, step, read)
            shape = _shape(family, held)
            figures = moments.figures._replace(weight=model.weight(row, shape, read))
            dtype = str((row or tensors_read(family, held)[0]).dtype)
            found.append(Measured(name, row, shape, dtype, figures, moments.second_rms, moments.remark))
            steps.append(step)
    return steps, found


def _shape(family: Family, held: Held) -> tuple[int, ...]:
    return shape_of(held.state) or tensors_read(family, held)[0].shape


def _all_read(shown: Iterable[_Shown], model: Model) -> Iterator[TensorInfo]:
    for (_, row, held), family in shown:
        yield from tensors_read(family, held)
        if row is not None and model.has_values(row, _shape(family, held)):
            yield row


# -- what is said beside the rows --------------------------------------------------------


def _remarks(
    shown: Sequence[_Shown],
    found: Sequence[Measured],
    steps: Sequence[float | None],
    groups: Groups,
    model: Model,
) -> list[str]:
    notes = list(dict.fromkeys(each.family.note for each in shown if each.family.note))
    remarks = [each.remark for each in found if each.remark]
    notes += [f"{plural(remarks.count(remark), 'parameter')}: {remark}" for remark in dict.fromkeys(remarks)]
    decayed = [_decay(each) for each in shown]
    if any(decayed):
        most = max(decay for decay in decayed)
        notes.append(f"what the optimizer keeps includes its weight decay (up to {most:g} × the weight)")
    idle = sum(not held.state for group in groups for held in group)
    if idle:
        verb = "has" if idle == 1 else "have"
        notes.append(
            f"{plural(idle, 'parameter')} of the optimizer {verb} no state: frozen, or never stepped"
        )
    absent = model.parameters() - sum(map(len, groups))
    if absent > 0:
        verb = "is" if absent == 1 else "are"
        notes.append(f"{plural(absent, 'parameter')} of {model.title} {verb} not in the optimizer")
    if (idle or absent > 0) and (others := model.others_than({each.name for each in found})):
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        notes.append(f"without a moment: {visible(', '.join(others[:_NAMED]))}{more}")
    if any(each.figures.weight is None for each in found):
        notes.append(NO_WEIGHTS)
    if len({step for step in steps if step is not None}) > 1:
        notes.append("parameters have taken different numbers of steps")
    return notes


def _decay(each: _Shown) -> float:
    """Weight decay that is added to the gradient before it goes into the state."""
    settings = each.named.held.settings
    decay, decoupled = settings.get("weight_decay"), settings.get("decoupled_weight_decay")
    couples = each.family.couples if decoupled is None else decoupled is False
    is_number = isinstance(decay, (int, float)) and isfinite(decay)
    return float(decay) if couples and is_number and isinstance(decay, (int, float)) else 0.0


def _setup(shown: Sequence[_Shown], steps: Sequence[float | None]) -> dict[str, str]:
    setup = {"optimizer": _several(each.family.label for each in shown)}
    counts = [step for step in steps if step is not None]
    if counts:
        low, high = min(counts), max(counts)
        setup["step"] = _number(low) if low == high else f"{_number(low)} to {_number(high)}"
    for name in _SETTINGS:
        values = [each.named.held.settings[name] for each in shown if name in each.named.held.settings]
        if values:
            setup[name] = _several(
                ", ".join(map(str, value)) if isinstance(value, tuple) else visible(str(value))
                for value in values
            )
    sections = [each.named.held.section for each in shown if each.named.held.section]
    if sections:
        setup["section"] = _several(visible(name[:80]) for name in sections)
    return setup


def _number(step: float) -> str:
    return f"{int(step):,}" if isfinite(step) and step == int(step) else str(step)


def _several(texts: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(texts))
    return "; ".join(distinct[:_SHOWN]) + (" ..." if len(distinct) > _SHOWN else "")


# -- errors ------------------------------------------------------------------------------

_HINT = (
    "save the optimizer with the model, torch.save({'model': model.state_dict(), 'optimizer': "
    "optimizer.state_dict()}, ...), or gradients as {'gradients': {name: p.grad}}; or run a backward "
    "pass: modelinspect grads net.py:Net --weights FILE"
)


def _nothing_there(checkpoint: Checkpoint, section: str | None) -> UnknownAnswerError:
    where = visible(checkpoint.source)
    if section is not None:
        where = f"{quoted(section)} of {where}"
    names = [f"{quoted(name)} ({checkpoint.roles[name]})" for name in checkpoint.tables]
    held = ", ".join(names[:_SECTIONS_NAMED]) + (" ..." if len(names) > _SECTIONS_NAMED else "")
    return UnknownAnswerError(
        f"{where} holds no gradients and no optimizer's state",
        details=(f"it holds {held}", "SGD without momentum keeps no state"),
        hint=_HINT,
    )


def _nothing_known(checkpoint: Checkpoint, notes: Iterable[str]) -> UnknownAnswerError:
    return UnknownAnswerError(
        f"{visible(checkpoint.source)} holds an optimizer's state that says nothing of gradients",
        details=tuple(notes),
        hint=_HINT,
    )
