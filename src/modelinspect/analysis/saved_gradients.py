"""
Gradients that a checkpoint holds as such.

They stand in a section of their own (``{"model": ..., "gradients": {name: tensor}}``, or a
list in the order of ``model.parameters()``), or beside the parameters as ``NAME.grad`` or
``grad.NAME``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
from modelinspect.analysis.stored_figures import figures_of_stored, why_unreadable
from modelinspect.errors import UnknownAnswerError, visible
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.tensors import Checkpoint, ParameterTable, TensorInfo

__all__ = ["has_saved_gradients", "saved_gradients"]

_ENDINGS = (".grad", ".gradient")
_BEGINNINGS = ("grad.", "grads.", "gradient.", "gradients.")


class _Saved(NamedTuple):
    """A gradient as the file has it."""

    section: str
    name: str
    """Of its parameter, or its number in a list."""
    tensor: TensorInfo


def has_saved_gradients(checkpoint: Checkpoint, section: str | None = None) -> bool:
    """
    Does a checkpoint, or one section of it, hold gradients as such?
    """
    return next(_found(checkpoint, section), None) is not None


def saved_gradients(
    checkpoint: Checkpoint,
    *,
    order: NormOrder = "2",
    thresholds: Thresholds | None = None,
    section: str | None = None,
    names: ParameterTable | None = None,
    progress: Progress | None = None,
) -> GradientsReport:
    """
    Measure the gradients that a checkpoint holds, a chunk at a time.

    Args:
        checkpoint: Where they lie.
        order: Of the norm that the report is about.
        thresholds: Where ok ends; None: as :class:`Thresholds` has it.
        section: Where to look; None looks everywhere.
        names: Gives names and weights, instead of the checkpoint's own model section.
        progress: Told of the bytes done and of those in all.

    Raises:
        UnknownAnswerError: It holds none.
        ModelInspectError: Their bytes can't be read.
    """
    saved = list(_found(checkpoint, section))
    if not saved:
        raise UnknownAnswerError(f"{visible(checkpoint.source)} holds no gradients that were saved as such")
    thresholds = thresholds or Thresholds()
    model = _without(saved, model_of(checkpoint, names))
    named, notes = _named(saved, model)
    reasons = [why_unreadable(each.tensor) for *_, each in named]
    notes += left_out([f"stored values are {reason}" for reason in reasons if reason is not None], "gradient")
    named = [each for each, reason in zip(named, reasons) if reason is None]
    weights = [row for _, row, each in named if row is not None and model.has_values(row, each.tensor.shape)]
    found = []
    with StorageReader() as reader:
        read = told(reader.read, progress, [*(each.tensor for *_, each in named), *weights])
        for name, row, each in named:
            shape = each.tensor.shape
            figures = figures_of_stored(each.tensor, read)._replace(weight=model.weight(row, shape, read))
            dtype = str((row or each.tensor).dtype)
            found.append(Measured(name, row, shape, dtype, figures))
    if len(weights) < len(found):
        notes.append(NO_WEIGHTS)
    missing = model.parameters() - len(found)
    if missing > 0:
        verb = "has" if missing == 1 else "have"
        notes.append(f"{plural(missing, 'parameter')} of {model.title} {verb} no saved gradient")
    rows = model.rows_of(found, thresholds)
    sections = dict.fromkeys(visible(each.section[:80]) for each in saved if each.section)
    return GradientsReport(
        target=checkpoint.source,
        source="saved",
        rows=rows,
        parameters=len(rows),
        order=order,
        global_norm=global_norm([row.figures for row in rows], order),
        thresholds=thresholds,
        modules={} if model.table is None else model.table.modules,
        setup={"section": ", ".join(sections)} if sections else {},
        notes=tuple(notes),
    )


def _found(checkpoint: Checkpoint, section: str | None) -> Iterator[_Saved]:
    sections = checkpoint.tables if section is None else {section: checkpoint.section(section)}
    for name, table in sections.items():
        role = checkpoint.roles.get(name)
        if role == "gradients":
            for tensor in table:
                yield _Saved(name, _parameter_of(tensor.name) or tensor.name, tensor)
        elif role != "optimizer":
            for tensor in table:
                parameter = _parameter_of(tensor.name)
                if parameter is not None and (parameter in table or parameter in checkpoint.table):
                    yield _Saved(name, parameter, tensor)


def _without(saved: list[_Saved], model: Model) -> Model:
    """The model, where gradients that lie among its parameters are not taken for such."""
    taken = {each.tensor.name for each in saved if each.section == getattr(model.table, "section", None)}
    if model.table is None or not any(name in model.table for name in taken):
        return model
    return Model(replace(model.table, tensors=[row for row in model.table if row.name not in taken]))


def _parameter_of(name: str) -> str | None:
    """``fc.weight`` for ``fc.weight.grad`` and ``grad.fc.weight``; None for any other name."""
    for ending in _ENDINGS:
        if name.endswith(ending):
            return name[: -len(ending)]
    for beginning in _BEGINNINGS:
        if name.startswith(beginning):
            return name[len(beginning) :]
    return None


def _named(
    saved: list[_Saved], model: Model
) -> tuple[list[tuple[str, TensorInfo | None, _Saved]], list[str]]:
    """Each gradient under the name of its parameter, by order where there are only numbers."""
    if not all(each.name.isdigit() and model.row(each.name) is None for each in saved):
        rows = [model.row(each.name) for each in saved]
        return [(row.name if row else each.name, row, each) for row, each in zip(rows, saved)], []
    reading = model.read_order([[each.tensor.shape for each in saved]])
    if reading is not None and reading.rows:
        note = reading.note(model.title)
        return [(row.name, row, each) for row, each in zip(reading.rows, saved)], [note]
    why = (
        "the file says no names" if reading is None else f"they fit no names of {model.title}: {reading.said}"
    )
    return [(f"parameter {each.name}", None, each) for each in saved], [f"gradients have numbers: {why}"]
