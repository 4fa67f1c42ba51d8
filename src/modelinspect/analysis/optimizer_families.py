"""
What optimizers keep of a gradient, and the figures of it.

:mod:`~modelinspect.analysis.optimizer_kinds` tells the kinds. Of complex parameters
squares are kept apart for real and imaginary part.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import expm1, isfinite, log, sqrt
from typing import NamedTuple

from modelinspect.analysis.gradients import Figures
from modelinspect.analysis.optimizer_kinds import STATES_NAMED, Family, named_family
from modelinspect.analysis.optimizer_members import Held
from modelinspect.analysis.stored_figures import (
    Squares,
    figures_of_factors,
    figures_of_stored,
    scaled,
    why_unreadable,
)
from modelinspect.errors import visible
from modelinspect.tensors import Setting, TensorInfo
from modelinspect.values import ReadFunction

__all__ = ["Family", "Moments", "family_of", "measured", "tensors_read"]


class Moments(NamedTuple):
    """Figures of what an optimizer keeps of one gradient."""

    figures: Figures
    second_rms: float | None
    remark: str


def family_of(held: Held) -> Family | str:
    """
    What kind of optimizer holds this.

    Returns:
        The family; or why there is nothing to show, as a part of a sentence.
    """
    found = named_family(held.state, held.settings)
    if found is None:
        states = [visible(name[:40]) for name in held.state]
        shown = ", ".join(states[:STATES_NAMED]) + (" ..." if len(states) > STATES_NAMED else "")
        if "state1" in held.state:
            return (
                f"{shown} are blocks of 8 bits or states of bitsandbytes, whose meaning the file does not say"
            )
        return f"{shown}: no mean of gradients or squares is known to be among them"
    for tensor in tensors_read(found, held):
        reason = why_unreadable(tensor)
        if reason is not None:
            return f"{visible(tensor.name.rpartition('.')[2][:40])} is {reason}"
    if found.column is not None and not _are_factors(*_factors(found, held)):
        return f"{found.second} and {found.column} do not fit each other"
    return found


def _are_factors(row: TensorInfo, column: TensorInfo) -> bool:
    """Means by row and by column of the same matrices, that can be read as a whole."""
    shapes = row.shape, column.shape
    return all(shapes) and shapes[0][:-1] == shapes[1][:-1] and row.is_contiguous and column.is_contiguous


def _factors(family: Family, held: Held) -> tuple[TensorInfo, TensorInfo]:
    """Means by row, shape (..., rows), and by column, shape (..., columns)."""
    assert family.second is not None
    assert family.column is not None
    row, column = held.state[family.second], held.state[family.column]
    if family.second == "row_var" and row.is_contiguous and column.is_contiguous:
        # torch keeps the axis that was averaged, with one element.
        row = row._replace(shape=row.shape[:-1], explicit_stride=None)
        column = column._replace(shape=(*column.shape[:-2], *column.shape[-1:]), explicit_stride=None)
    return row, column


def tensors_read(family: Family, held: Held) -> list[TensorInfo]:
    """The states that the figures are taken from."""
    names = (family.first, family.second, family.column)
    return [held.state[name] for name in names if name is not None]


# -- figures -----------------------------------------------------------------------------


def measured(family: Family, held: Held, step: float | None, read: ReadFunction) -> Moments:
    """
    Figures of what is kept of one parameter's gradient, bias-corrected.

    Args:
        family: What :func:`family_of` says.
        held: The states.
        step: Steps taken; None where the file doesn't say.
        read: Where bytes come from.

    Raises:
        ModelInspectError: The bytes can't be read.
    """
    remark = ""
    first = second = 1.0
    squares = Squares()
    if family.correction == "adam":
        corrections = [_correction(held.settings, at, step) for at in (0, 1)]
        if None in corrections:
            remark = "not bias-corrected: the file lacks usable steps or betas"
        else:
            first, second = (each or 1.0 for each in corrections)
    elif family.correction == "count":
        start = held.settings.get("initial_accumulator_value", 0)
        if step is not None and isfinite(step) and step > 0:
            squares = Squares(float(start) if isinstance(start, (int, float)) else 0.0, step)
        else:
            remark = "not divided by the steps, which the file lacks"
    roots = None if family.second is None else _roots(family, held, squares, read)
    if roots is not None:
        roots = scaled(roots, 1 / sqrt(second))
    if family.first is None:
        assert roots is not None
        return Moments(roots, roots.rms, remark)
    figures = scaled(figures_of_stored(held.state[family.first], read), 1 / first)
    return Moments(figures, None if roots is None else roots.rms, remark)


def _roots(family: Family, held: Held, squares: Squares, read: ReadFunction) -> Figures:
    """Figures of the roots of the second moment: their root mean square is that of the gradient."""
    assert family.second is not None
    if family.column is None:
        return figures_of_stored(held.state[family.second], read, squares=squares)
    return figures_of_factors(*_factors(family, held), read)


def _correction(settings: Mapping[str, Setting], at: int, step: float | None) -> float | None:
    """``1 - beta ** step``; None where that is no number above 0."""
    betas = settings.get("betas")
    if not isinstance(betas, tuple) or len(betas) <= at or step is None or not step > 0:
        return None
    beta = betas[at]
    if not 0 <= beta < 1:
        return None
    return -expm1(step * log(beta)) if beta else 1.0
