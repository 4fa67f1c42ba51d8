"""
What a summary of values is; :mod:`~modelinspect.analysis.statistics` makes them.

Apart from it, so that a report can name the type without numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ValueSummary"]


@dataclass(frozen=True)
class ValueSummary:
    """
    What the values of one tensor look like. Figures are of the finite values.
    """

    numel: int
    """Values that the figures are of: of packed types those that they stand for, of
    sparse tensors those that are stored."""
    minimum: int | float | None
    """Exact, an int for integers; None: no finite value, or values without an order
    (complex, bits)."""
    maximum: int | float | None
    mean: float | None
    std: float | None
    """As ``tensor.std()``, divided by n - 1; None of a single value."""
    zeros: int
    nans: int
    infinities: int
    """Positive and negative; complex values with an infinite part that are not NaN."""
    values: Any = None
    """Nested lists of a small tensor, in its shape (a number for a scalar); None for
    larger and empty ones."""
    reason: str = ""
    """Why there are no figures (not readable, no values, complex), or what the figures
    are of (stored integers of a quantized tensor)."""
