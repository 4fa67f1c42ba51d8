"""
What optimizers keep of a gradient, told by the names of their states.

Sources: ``torch/optim`` of torch 2.13 for its own; the papers' reference code for Lion,
Adafactor as in transformers 4. With g for the gradient and t for the steps taken:

=================================  ====================================================
``exp_avg`` + ``exp_avg_sq``       Adam, AdamW, NAdam, RAdam, SparseAdam, LAMB: running
                                   means of g and of g² from zero; divided by 1 - β1^t
                                   and 1 - β2^t they are unbiased
``exp_avg`` + ``exp_inf``          Adamax: the first as Adam's; the second is no square
``exp_avg``                        Lion: running mean of g, never corrected
``momentum_buffer``                SGD: m ← momentum · m + (1 - dampening) · g; Muon: a
                                   running mean of g
``square_avg`` (+ ``grad_avg``)    RMSprop, Adadelta: running mean of g² (and of g),
                                   never corrected
``sum``                            Adagrad: initial value plus the sum of all g²
``prev``                           Rprop: the last g, 0 where its sign turned
``row_var``, ``exp_avg_sq_row`` …  Adafactor: means of g² by row and by column, unbiased
=================================  ====================================================

Of complex parameters squares are kept apart for real and imaginary part.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import expm1, isfinite, log, sqrt
from typing import Literal, NamedTuple

from modelinspect.analysis.gradients import Figures
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

__all__ = ["Family", "Held", "Moments", "family_of", "measured", "shape_of", "tensors_read"]

State = Mapping[str, TensorInfo]
_Correction = Literal["adam", "count", "none"]
_STATES_NAMED = 6


class Family(NamedTuple):
    """A kind of optimizer, as far as its states tell."""

    label: str
    """For people, e.g. ``Adam-like: exp_avg, exp_avg_sq``."""
    first: str | None
    """State that is a mean or sum of gradients; None: it keeps squares only."""
    second: str | None = None
    """State that is a mean or sum of squares."""
    column: str | None = None
    """The second factor, where *second* is the first one of two."""
    correction: _Correction = "none"
    """How a bias is taken away: as Adam does; squares by the number of steps."""
    couples: bool = True
    """Weight decay goes through the states, where the settings don't say otherwise."""
    note: str = ""
    """What a reader of the figures should know."""


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


class Moments(NamedTuple):
    """Figures of what an optimizer keeps of one gradient."""

    figures: Figures
    second_rms: float | None
    remark: str


_ROOTS = "this optimizer keeps no mean of the gradient: norms are of the roots of its mean squares ({})"
_ADAM = Family("Adam-like: exp_avg, exp_avg_sq", "exp_avg", "exp_avg_sq", correction="adam", couples=False)
_FAMILIES: tuple[tuple[frozenset[str], frozenset[str], Family], ...] = tuple(
    (frozenset(needed.split()), frozenset(allowed.split()), family)
    for needed, allowed, family in (
        ("exp_avg exp_avg_sq", "max_exp_avg_sq mu_product master_param", _ADAM),
        ("exp_avg exp_inf", "", Family("Adamax: exp_avg, exp_inf", "exp_avg", correction="adam")),
        (
            "exp_avg",
            "",
            Family(
                "Lion-like: exp_avg",
                "exp_avg",
                couples=False,
                note="exp_avg is shown as stored: an optimizer that keeps only that corrects no bias",
            ),
        ),
        (
            "square_avg acc_delta",
            "",
            Family("Adadelta: square_avg", None, "square_avg", note=_ROOTS.format("square_avg")),
        ),
        (
            "square_avg grad_avg",
            "momentum_buffer",
            Family("RMSprop, centered: grad_avg, square_avg", "grad_avg", "square_avg"),
        ),
        (
            "square_avg",
            "momentum_buffer",
            Family("RMSprop: square_avg", None, "square_avg", note=_ROOTS.format("square_avg")),
        ),
        (
            "sum",
            "",
            Family("Adagrad: sum", None, "sum", correction="count", note=_ROOTS.format("sum over the steps")),
        ),
        (
            "prev step_size",
            "",
            Family(
                "Rprop: prev",
                "prev",
                couples=False,
                note="norms are of the last gradient (prev), which is 0 where its sign had turned",
            ),
        ),
        (
            "row_var col_var",
            "",
            Family(
                "Adafactor: row_var, col_var",
                None,
                "row_var",
                "col_var",
                couples=False,
                note=_ROOTS.format("of rows and columns"),
            ),
        ),
        (
            "variance",
            "",
            Family("Adafactor: variance", None, "variance", couples=False, note=_ROOTS.format("variance")),
        ),
        (
            "exp_avg_sq_row exp_avg_sq_col",
            "",
            Family(
                "Adafactor: exp_avg_sq_row, exp_avg_sq_col",
                None,
                "exp_avg_sq_row",
                "exp_avg_sq_col",
                couples=False,
                note=_ROOTS.format("of rows and columns"),
            ),
        ),
        (
            "exp_avg_sq",
            "",
            Family(
                "Adafactor: exp_avg_sq", None, "exp_avg_sq", couples=False, note=_ROOTS.format("exp_avg_sq")
            ),
        ),
    )
)
_SGD = Family(
    "SGD with momentum: momentum_buffer",
    "momentum_buffer",
    note="norms are of momentum_buffer, the fading sum of gradients: 1 / (1 - momentum) times one of them",
)
_MUON = Family("Muon: momentum_buffer", "momentum_buffer", couples=False)
# Of optimizers that are not known here: states that are made of gradients, most likely first.
_LIKELY = ("exp_avg", "momentum_buffer", "momentum", "moving_avg", "grad_avg", "velocity", "m", "mom", "mu")
# States that have the shape of their parameter.
_SHAPED = (*_LIKELY, "exp_avg_sq", "square_avg", "sum", "prev", "variance", "ax", "z", "state1")


def family_of(held: Held) -> Family | str:
    """
    What kind of optimizer holds this.

    Returns:
        The family; or why there is nothing to show, as a part of a sentence.
    """
    found = _named_family(held)
    if found is None:
        states = [visible(name[:40]) for name in held.state]
        shown = ", ".join(states[:_STATES_NAMED]) + (" ..." if len(states) > _STATES_NAMED else "")
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


def _named_family(held: Held) -> Family | None:
    states = held.state.keys()
    if states == {"momentum_buffer"}:
        return _MUON if "ns_steps" in held.settings else _SGD
    for needed, allowed, family in _FAMILIES:
        if needed <= states <= needed | allowed:
            return family
    first = next((name for name in _LIKELY if name in states), None)
    if first is None:
        return None
    label = ", ".join(visible(name[:40]) for name in list(states)[:_STATES_NAMED])
    note = f"no optimizer known here keeps {label}: norms are of {first}, as stored"
    return Family(f"unknown: {label}", first, couples=False, note=note)


def tensors_read(family: Family, held: Held) -> list[TensorInfo]:
    """The states that the figures are taken from."""
    names = (family.first, family.second, family.column)
    return [held.state[name] for name in names if name is not None]


def shape_of(state: State) -> tuple[int, ...] | None:
    """Shape of the parameter that a state belongs to; None where it does not say."""
    for row, column, kept in (("row_var", "col_var", -1), ("exp_avg_sq_row", "exp_avg_sq_col", None)):
        if row in state and column in state and state[column].shape:
            return (*state[row].shape[:kept], state[column].shape[-1])
    return next((state[name].shape for name in _SHAPED if name in state), None)


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
