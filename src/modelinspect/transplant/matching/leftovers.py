"""
What gets nothing and what goes nowhere, and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod

from modelinspect.errors import visible
from modelinspect.tensors import TensorInfo
from modelinspect.transplant.matching.constants import has_telling_name, is_constant
from modelinspect.transplant.matching.scoring import name_score
from modelinspect.transplant.plan import Missing, Unused

__all__ = ["missing_of", "unused_of"]

_NAMESAKE = 1.0
_NORMED = ("weight_g", "weight_orig", "original0", ".original")
"""What torch.nn.utils.weight_norm, spectral_norm and parametrizations make of a weight."""
_MOST_COMPARED = 200
_STATISTICS = ("running_mean", "running_var")


def missing_of(rows: Sequence[TensorInfo], free: Sequence[TensorInfo]) -> Iterator[Missing]:
    """
    The target's tensors that get nothing.

    Args:
        rows: Those.
        free: Tensors of the source that go nowhere.
    """
    sizes = Counter(prod(row.shape) for row in free)
    like = Counter((row.shape, row.dtype) for row in free if row.shape)
    for row in rows:
        fitting = sizes[prod(row.shape)]
        yield Missing(row.name, row.shape, *_why_missing(row, free, fitting, like[row.shape, row.dtype]))


def _why_missing(row: TensorInfo, free: Sequence[TensorInfo], fitting: int, alike: int) -> tuple[str, bool]:
    last = row.name.rpartition(".")[2]
    if last == "num_batches_tracked" or has_telling_name(row) or (is_constant(row) and not alike):
        return "the target makes it itself", True
    if row.kind == "buffer" and row.declared and last not in _STATISTICS and not alike:
        return "a buffer that the target makes itself", True
    namesake = _namesake(row, free)
    if namesake is not None:
        ours, theirs = list(namesake.shape), list(row.shape)
        return (
            f"{visible(namesake.name)} has the shape {ours}, not {theirs}: left as the target starts",
            False,
        )
    if any(other.name.endswith(_NORMED) for other in free):
        return "the source keeps weights as norm and direction, or less a factor: fold them in before", False
    if fitting:
        return "what is left in the source and fits has another meaning, by its name", False
    return "nothing is left in the source that fits", False


def _namesake(row: TensorInfo, free: Sequence[TensorInfo]) -> TensorInfo | None:
    """What the source has of the same meaning in another size."""
    last = row.name.rpartition(".")[2]
    alike = [
        other
        for other in free[:_MOST_COMPARED]
        if other.name.rpartition(".")[2] == last
        and len(other.shape) == len(row.shape)
        and other.shape != row.shape
    ]
    scored = [(name_score(_module(other), _module(row)), other) for other in alike]
    best = max(scored, key=lambda each: each[0], default=None)
    return best[1] if best is not None and best[0] >= _NAMESAKE else None


def _module(row: TensorInfo) -> str:
    return row.name.rpartition(".")[0]


def unused_of(rows: Sequence[TensorInfo], missing: Sequence[Missing]) -> Iterator[Unused]:
    """
    The source's tensors that go nowhere.
    """
    wanted = {each.shape for each in missing if not each.is_made}
    for row in rows:
        if is_constant(row):
            why = "a constant: the target makes its own"
        elif row.shape in wanted:
            why = "what is missing and fits has another meaning, by its name"
        else:
            why = "the target has nothing of its size left"
        yield Unused(row.name, row.shape, why)
