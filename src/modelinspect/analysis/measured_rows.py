"""
From figures of stored tensors to rows of gradients: the parameters they belong to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from math import isfinite, isnan
from typing import TYPE_CHECKING, NamedTuple

from modelinspect.analysis.gradients import Figures, GradientRow, Thresholds, judge, settled
from modelinspect.analysis.parameter_order import Reading, Shape, read_order
from modelinspect.errors import visible
from modelinspect.tensors import Checkpoint, ParameterTable, Storage, TensorInfo

if TYPE_CHECKING:  # it imports numpy, which only values need
    from modelinspect.values import ReadFunction

__all__ = ["NO_WEIGHTS", "Measured", "Model", "Progress", "left_out", "model_of", "plural", "told"]

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""
NO_WEIGHTS = "without values of the weights there is no ratio, and verdicts take weights to be small"

# What wrappers put into names: DistributedDataParallel, torch.compile, FullyShardedDataParallel,
# activation checkpointing.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


class Measured(NamedTuple):
    """What was found of one parameter's gradient, before it is judged."""

    name: str
    row: TensorInfo | None
    """The parameter in the model's table; None where it isn't known there."""
    shape: Shape
    dtype: str
    figures: Figures
    second_rms: float | None = None
    remark: str = ""


class Model:
    """
    The parameters that gradients belong to: names, order, weights.

    Args:
        table: None: there is none, so all that a file says of names stands.
    """

    def __init__(self, table: ParameterTable | None) -> None:
        self.table = table
        rows: Sequence[TensorInfo] = () if table is None else table.tensors
        self._tied = {} if table is None else table.tied_to
        self._rows = {row.name: row for row in rows}
        self._plain = {_plain(row.name): row for row in reversed(rows)}
        self._places = {row.name: place for place, row in enumerate(rows)}
        self._also: dict[str, list[str]] = {}
        for other, first in self._tied.items():
            self._also.setdefault(first, []).append(other)

    @property
    def title(self) -> str:
        """What it is called in a sentence."""
        if self.table is None:
            return "the model"
        if self.table.origin == "file" and self.table.section:
            return f"section {visible(self.table.section[:80])!r}"
        return visible(self.table.source)

    def row(self, name: str) -> TensorInfo | None:
        """
        The parameter of a name, of tied ones the first; None where there is none.

        What wrappers put into names doesn't count, unless it tells two names apart.
        """
        found = self._rows.get(name) or self._plain.get(_plain(name))
        return None if found is None else self._rows[self._tied.get(found.name, found.name)]

    def others_than(self, names: Collection[str]) -> list[str]:
        """Its parameters, tied ones by their first name, that are not among these."""
        rows = () if self.table is None else self.table.tensors
        return [
            row.name
            for row in rows
            if row.kind == "parameter" and row.name not in self._tied and row.name not in names
        ]

    def read_order(self, groups: Sequence[Sequence[Shape | None]]) -> Reading | None:
        """Names by order and shape, as that function finds them; None without a model."""
        return None if self.table is None else read_order(groups, self.table)

    def parameters(self) -> int:
        """Parameters that an optimizer could have; tied ones count once."""
        return sum(
            row.kind == "parameter" and row.dtype.category in ("float", "complex")
            for row in self._rows.values()
            if row.name not in self._tied
        )

    def has_values(self, row: TensorInfo | None, shape: Shape) -> bool:
        """Can the parameter's values be read, and are they those of a gradient of this shape?"""
        from modelinspect.analysis.stored_figures import why_unreadable

        in_file = self.table is not None and self.table.origin == "file"
        return in_file and row is not None and row.shape == shape and why_unreadable(row) is None

    def weight(self, row: TensorInfo | None, shape: Shape, read: ReadFunction) -> float | None:
        """L2 norm of a parameter; None where its values are not at hand."""
        if row is None or not self.has_values(row, shape):
            return None
        from modelinspect.analysis.stored_figures import figures_of_stored

        return figures_of_stored(row, read).l2

    def rows_of(self, found: Iterable[Measured], thresholds: Thresholds) -> list[GradientRow]:
        """Rows in the order of the model, those it doesn't know last, each with its verdict."""
        last = len(self._places)
        ordered = sorted(found, key=lambda each: last if each.row is None else self._places[each.row.name])
        return settled([self._judged(each, thresholds) for each in ordered])

    def _judged(self, each: Measured, thresholds: Thresholds) -> GradientRow:
        verdict, remark = judge(each.figures, thresholds, second_rms=each.second_rms), each.remark
        second = each.second_rms
        if second is not None and not isfinite(second) and verdict not in ("nan", "inf"):
            verdict = "nan" if isnan(second) else "inf"
            remark = "its mean squares are not finite"
        also = () if each.row is None else tuple(self._also.get(each.row.name, ()))
        return GradientRow(
            each.name, each.shape, each.dtype, each.figures, verdict, also, remark, each.second_rms
        )


def model_of(checkpoint: Checkpoint, names: ParameterTable | None) -> Model:
    """The model that is to give names and weights: *names*, else the checkpoint's own model section."""
    if names is not None:
        return Model(names)
    is_model = checkpoint.roles.get(checkpoint.model_section) not in ("optimizer", "gradients")
    return Model(checkpoint.table if is_model and len(checkpoint.table) else None)


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def plural(number: int, what: str) -> str:
    """
    A number and what it counts.

    >>> plural(1, "parameter"), plural(2000, "parameter")
    ('1 parameter', '2,000 parameters')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def left_out(reasons: Iterable[str], what: str) -> list[str]:
    """
    A sentence for each distinct reason, with how many it is the reason for.

    >>> left_out(["it is int8", "it is int8"], "gradient")
    ['2 gradients are left out: it is int8']
    """
    return [
        f"{plural(times, what)} {'is' if times == 1 else 'are'} left out: {reason}"
        for reason, times in Counter(reasons).items()
    ]


def told(read: ReadFunction, progress: Progress | None, tensors: Iterable[TensorInfo]) -> ReadFunction:
    """
    Read, and say so after each chunk.

    Args:
        read: Where bytes come from.
        progress: None: say nothing.
        tensors: All that will be read.
    """
    if progress is None:
        return read
    total = sum(part.span[1] for tensor in tensors for part in (tensor.parts or (tensor,)))
    done = 0

    def read_and_tell(storage: Storage, first: int, n: int) -> bytes | memoryview:
        nonlocal done
        data = read(storage, first, n)
        done = min(total, done + n)  # what lies between wanted elements may be read as well
        progress(done, total)
        return data

    return read_and_tell
