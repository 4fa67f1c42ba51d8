"""
Summaries of values: range, mean, standard deviation, NaN and infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ValueSummary"]


@dataclass(frozen=True)
class ValueSummary:
    """
    What the values of one tensor look like. Figures are of the finite values, as float64.
    """

    numel: int
    minimum: float | None
    """None: no finite value, or values that have no order (complex, bits)."""
    maximum: float | None
    mean: float | None
    std: float | None
    """Population standard deviation (divided by n)."""
    zeros: int
    nans: int
    infinities: int
    """Positive and negative."""
    values: Any = None
    """Nested lists of a small tensor, in its shape; None for larger ones."""
    reason: str = ""
    """Why there are no figures: not readable, no values ..."""
