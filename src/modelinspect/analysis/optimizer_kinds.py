"""
Which optimizer keeps what of a gradient, told by the names of its states.

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

from collections.abc import Collection
from typing import Literal, NamedTuple

from modelinspect.errors import visible

__all__ = ["LIKELY", "STATES_NAMED", "Family", "named_family"]

Correction = Literal["adam", "count", "none"]
STATES_NAMED = 6
"""States of an unknown optimizer that are named."""


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
    correction: Correction = "none"
    """How a bias is taken away: as Adam does; squares by the number of steps."""
    couples: bool = True
    """Weight decay goes through the states, where the settings don't say otherwise."""
    note: str = ""
    """What a reader of the figures should know."""


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
LIKELY = ("exp_avg", "momentum_buffer", "momentum", "moving_avg", "grad_avg", "velocity", "m", "mom", "mu")


def named_family(states: Collection[str], settings: Collection[str]) -> Family | None:
    """
    The family of which these are the states; None where nothing is known of them.

    Args:
        states: Names of the tensors that are kept of one parameter.
        settings: Names of its group's settings.
    """
    held = set(states)
    if held == {"momentum_buffer"}:
        return _MUON if "ns_steps" in settings else _SGD
    for needed, allowed, family in _FAMILIES:
        if needed <= held <= needed | allowed:
            return family
    first = next((name for name in LIKELY if name in held), None)
    if first is None:
        return None
    label = ", ".join(visible(name[:40]) for name in list(states)[:STATES_NAMED])
    note = f"no optimizer known here keeps {label}: norms are of {first}, as stored"
    return Family(f"unknown: {label}", first, couples=False, note=note)
