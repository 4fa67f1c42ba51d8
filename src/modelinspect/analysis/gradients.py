"""
What gradients look like: figures of each parameter's gradient, a verdict, a report.

Pure: figures come from :mod:`modelinspect.live.norms` (a backward pass), from
:mod:`modelinspect.analysis.optimizer_state` (a checkpoint) or from a file that a
training script wrote; what is said of them is said here.

How verdicts are found
----------------------
The *relative size* of a gradient is its root mean square over that of the weight, the
latter taken as at least :data:`WEIGHT_FLOOR`, so that a bias of zeros has one too, and at
most :data:`WEIGHT_CEILING`.

- ``frozen``: the parameter asks for no gradient.
- ``none``: no gradient arrived; the loss does not depend on it.
- ``nan``, ``inf``: the gradient holds such values.
- ``zero``: every value is exactly 0.
- ``vanishing``: the relative size is below ``Thresholds.vanishing``.
- ``exploding``: the relative size is above ``Thresholds.exploding``.
- ``cancelled``: a bias whose gradient is zero or vanishing, and below
  :data:`CANCELLED_SHARE` of that of a weight of the same module that is ok (root mean
  squares). What such a bias adds is taken away again downstream: by a BatchNorm, or by
  the softmax over the keys of an attention. It is as it should be.
- ``ok``: anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum, inf, isfinite, isnan, nan, sqrt
from typing import Any, Literal, NamedTuple

from modelinspect.display import Displayed

__all__ = [
    "CANCELLED_SHARE",
    "SICK",
    "WEIGHT_CEILING",
    "WEIGHT_FLOOR",
    "Figures",
    "Finding",
    "FindingKind",
    "GradientNode",
    "GradientRow",
    "GradientsReport",
    "History",
    "NormOrder",
    "Spread",
    "Thresholds",
    "Verdict",
    "combined",
    "global_norm",
    "judge",
    "settled",
    "with_history",
    "worst",
]

Verdict = Literal["ok", "frozen", "cancelled", "none", "zero", "vanishing", "exploding", "inf", "nan"]
SICK: frozenset[Verdict] = frozenset({"none", "zero", "vanishing", "exploding", "inf", "nan"})
"""Verdicts that ``--check`` objects to."""
NormOrder = Literal["1", "2", "inf"]

WEIGHT_FLOOR = 0.01
"""Root mean square that a weight is taken to have at least, when a gradient is put beside it."""
WEIGHT_CEILING = 1e3
"""And at most: a weight that has blown up does not excuse the gradient that it has."""
CANCELLED_SHARE = 1e-3
"""What remains of a bias's gradient that cancels out is rounding: less than this of the weight's."""


class Thresholds(NamedTuple):
    """
    Where a gradient stops being ok, as relative size; see the head of this file.

    Below the default of *vanishing* an update at a learning rate of 1 is lost in the
    rounding of a float32 weight (2⁻²³ is 1.2e-7).
    """

    vanishing: float = 1e-7
    exploding: float = 1e4


class Figures(NamedTuple):
    """
    What is measured of one gradient. Norms are summed up in float64.
    """

    numel: int
    """Elements of the gradient, those of a sparse one that are not stored included."""
    l1: float
    l2: float
    """Of a complex gradient: of the absolute values."""
    largest: float
    """Largest absolute value, which is the infinity norm; NaN where there is one."""
    zeros: int
    """Elements that are exactly 0."""
    nans: int = 0
    infinities: int = 0
    weight: float | None = None
    """L2 norm of the parameter itself; None where it isn't known."""

    def norm(self, order: NormOrder) -> float:
        """The norm of that order."""
        return {"1": self.l1, "2": self.l2, "inf": self.largest}[order]

    @property
    def rms(self) -> float:
        """Root mean square of the gradient; 0 of an empty one."""
        return self.l2 / sqrt(self.numel) if self.numel else 0.0

    @property
    def ratio(self) -> float | None:
        """L2 norm of the gradient over that of the parameter; None without one, or where it is 0."""
        return self.l2 / self.weight if self.weight else None

    @property
    def relative_size(self) -> float:
        """
        Root mean square over that of the weight, the latter taken as between
        :data:`WEIGHT_FLOOR` and :data:`WEIGHT_CEILING`.
        """
        weight = self.weight if self.weight is not None and isfinite(self.weight) else 0.0
        return self.rms / min(max(weight / sqrt(self.numel or 1), WEIGHT_FLOOR), WEIGHT_CEILING)

    @property
    def zero_share(self) -> float:
        """Share of elements that are exactly 0, from 0 to 1."""
        return self.zeros / self.numel if self.numel else 0.0


class Spread(NamedTuple):
    """A norm over the samples of a batch."""

    least: float
    median: float
    most: float


class GradientRow(NamedTuple):
    """One parameter and its gradient. A tied parameter has one row, under its first name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """Of the parameter, e.g. ``float32``."""
    figures: Figures | None
    """None: no gradient."""
    verdict: Verdict
    also: tuple[str, ...] = ()
    """Its further names."""
    remark: str = ""
    """What else is to be said of it, in a few words."""
    second_rms: float | None = None
    """Of an optimizer's state: root of the mean of the second moment, bias-corrected."""
    spread: Spread | None = None
    """Of the norm over the samples of the batch, where that was asked for."""
    history: tuple[float | None, ...] = ()
    """Norms at the recorded steps; None where there was no gradient."""
    values: Any = None
    """Nested lists of a small gradient, where values were asked for."""

    @property
    def numel(self) -> int:
        """Elements of the parameter."""
        size = 1
        for length in self.shape:
            size *= length
        return size


FindingKind = Literal[
    "nan-forward", "nan-backward", "nan-weight", "nan-input", "dead", "detached", "unused",
    "vanishing", "exploding", "diverging", "zero-weight",
]  # fmt: skip


class Finding(NamedTuple):
    """Something that is wrong with the whole, and where."""

    kind: FindingKind
    text: str
    """One sentence."""
    module: str | None = None
    """Dotted path of the module where it is, ``""`` for the model itself."""


class History(NamedTuple):
    """What was recorded step by step. All tuples have one entry a recorded step."""

    steps: tuple[int, ...]
    losses: tuple[float | None, ...]
    norms: tuple[float | None, ...]
    """Global norms."""
    last: Mapping[str, Figures | None] = {}
    """Figures at the last recorded step, by parameter; empty where they are not known."""


class GradientNode(NamedTuple):
    """One line of a tree, or one module: the gradients below it together."""

    path: str
    """Dotted path; ``""`` is the model."""
    label: str
    depth: int
    class_name: str
    tensors: int
    numel: int
    figures: Figures | None
    """Of all gradients below it together; None: there is none."""
    verdict: Verdict
    """The worst below it."""
    row: GradientRow | None = None
    """The parameter, where the line is one."""


@dataclass(frozen=True)
class GradientsReport(Displayed):
    """
    The gradients of a model, of a checkpoint or of a run.
    """

    target: str
    source: Literal["backward", "optimizer", "saved", "run"]
    """A backward pass, an optimizer's state, gradients that were saved, a run's file."""
    rows: Sequence[GradientRow] = field(repr=False)
    """Those to show, in their order."""
    parameters: int
    """Rows before filters."""
    order: NormOrder
    global_norm: float | None
    """Over all rows, shown or not, added up in float64; None: there is no gradient."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    modules: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Dotted path of a module to its class; empty where they are not known."""
    loss: float | None = None
    setup: Mapping[str, str] = field(default_factory=dict)
    """How it came about, for people: input, loss, data, device, optimizer, steps, seed ..."""
    findings: tuple[Finding, ...] = ()
    tree: Sequence[GradientNode] | None = field(default=None, repr=False)
    """The same rows by module, where that was asked for."""
    history: History | None = field(default=None, repr=False)
    sample_spread: Spread | None = None
    """Of the global norm over the samples of the batch."""
    notes: tuple[str, ...] = ()

    @property
    def sick(self) -> tuple[GradientRow, ...]:
        """The rows shown whose verdict ``--check`` objects to."""
        return tuple(row for row in self.rows if row.verdict in SICK)

    @property
    def is_healthy(self) -> bool:
        """No row shown is sick, no NaN or infinity turned up, and training does not diverge."""
        grave = ("nan-forward", "nan-backward", "nan-weight", "nan-input", "diverging")
        return not self.sick and not any(finding.kind in grave for finding in self.findings)


def judge(
    figures: Figures | None,
    thresholds: Thresholds,
    *,
    trainable: bool = True,
    second_rms: float | None = None,
) -> Verdict:
    """
    The verdict on one gradient by itself; :func:`settled` looks at its neighbours.

    Args:
        figures: None where there is no gradient.
        thresholds: Where ok ends.
        trainable: False: the parameter asks for none.
        second_rms: Size of the gradient by an optimizer's second moment, which does
            not average out what changes its sign; the larger of the two is judged.
    """
    if not trainable:
        return "frozen"
    if figures is None:
        return "none"
    if figures.numel == 0:
        return "ok"
    if figures.nans or isnan(figures.l2):
        return "nan"
    if figures.infinities or not isfinite(figures.l2):
        return "inf"
    size, rms = figures.relative_size, figures.rms
    if second_rms is not None and second_rms > rms:
        size, rms = figures._replace(l2=second_rms * sqrt(figures.numel)).relative_size, second_rms
    if rms == 0:
        return "zero"
    if size < thresholds.vanishing:
        return "vanishing"
    return "exploding" if size > thresholds.exploding else "ok"


def settled(rows: Sequence[GradientRow]) -> list[GradientRow]:
    """
    The rows with ``cancelled`` in the place of ``zero`` and ``vanishing``, where that is what it is.

    >>> big, none = Figures(4, 4.0, 2.0, 1.0, 0, weight=2.0), Figures(2, 0.0, 0.0, 0.0, 2, weight=1.0)
    >>> rows = [GradientRow("c.weight", (2, 2), "float32", big, "ok")]
    >>> rows.append(GradientRow("c.bias", (2,), "float32", none, "zero"))
    >>> settled(rows)[1].verdict
    'cancelled'
    """
    sizes: dict[str, float] = {}
    for row in rows:
        if len(row.shape) > 1 and row.verdict == "ok":
            module = row.name.rpartition(".")[0]
            sizes[module] = max(sizes.get(module, 0.0), _size(row))

    def is_cancelled(row: GradientRow) -> bool:
        module, _, leaf = row.name.rpartition(".")
        return (
            row.verdict in ("zero", "vanishing")
            and len(row.shape) == 1
            and "bias" in leaf
            and _size(row) < CANCELLED_SHARE * sizes.get(module, 0.0)
        )

    return [
        row._replace(verdict="cancelled", remark=row.remark or "cancels out downstream")
        if is_cancelled(row)
        else row
        for row in rows
    ]


def _size(row: GradientRow) -> float:
    """Root mean square of a gradient, by the second moment where that is larger."""
    return max(0.0 if row.figures is None else row.figures.rms, row.second_rms or 0.0)


_WORST_FIRST: tuple[Verdict, ...] = (
    "nan", "inf", "exploding", "none", "zero", "vanishing", "ok", "cancelled", "frozen",
)  # fmt: skip


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """
    The gravest of some verdicts; ``ok`` where there is none.
    """
    return min(verdicts, key=_WORST_FIRST.index, default="ok")


def global_norm(figures: Iterable[Figures | None], order: NormOrder) -> float | None:
    """
    The norm of all gradients as one vector; None where there is no gradient.

    >>> global_norm([Figures(1, 3.0, 3.0, 3.0, 0), None, Figures(1, 4.0, 4.0, 4.0, 0)], "2")
    5.0
    """
    whole = combined(figures)
    return None if whole is None else whole.norm(order)


def combined(figures: Iterable[Figures | None]) -> Figures | None:
    """
    The figures of several gradients as one vector; None where all are None.
    """
    there = [each for each in figures if each is not None]
    if not there:
        return None
    weights = [each.weight for each in there if each.weight is not None]
    return Figures(
        sum(each.numel for each in there),
        _sum(each.l1 for each in there),
        root_of_squares([each.l2 for each in there]),
        _most(each.largest for each in there),
        sum(each.zeros for each in there),
        sum(each.nans for each in there),
        sum(each.infinities for each in there),
        root_of_squares(weights) if len(weights) == len(there) else None,
    )


def root_of_squares(norms: Sequence[float]) -> float:
    """
    The L2 norm of a vector whose parts have these; squares neither overflow nor underflow.

    >>> root_of_squares([1e200, 0.0])
    1e+200
    """
    largest = _most(norms)
    if not largest or not isfinite(largest):
        return largest
    return largest * sqrt(fsum((norm / largest) ** 2 for norm in norms))


def _sum(values: Iterable[float]) -> float:
    """Exact to the last place; infinite where the sum leaves the range."""
    values = list(values)
    try:
        return fsum(values) if all(map(isfinite, values)) else sum(values)
    except OverflowError:
        return inf


def _most(values: Iterable[float]) -> float:
    """The largest, NaN if there is one, 0 of none."""
    most = 0.0
    for value in values:
        if isnan(value):
            return nan
        most = max(most, value)
    return most


def with_history(
    rows: Sequence[GradientRow], norms: Mapping[str, Sequence[float | None]]
) -> list[GradientRow]:
    """The rows, each with the norms that were recorded under its name."""
    return [row._replace(history=tuple(norms.get(row.name, ()))) for row in rows]
