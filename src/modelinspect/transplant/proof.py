"""
What was found when the source and the target were run side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from modelinspect.display import Displayed

__all__ = ["PROVEN", "OutputGap", "Proof", "Settled"]

PROVEN = "both models give equal outputs"
"""Reason of what is proven by that alone."""


class OutputGap(NamedTuple):
    """One output of both models."""

    source: str
    """Where it lies in what the source puts out: ``logits``, ``0``; empty: it is all there is."""
    target: str
    shape: tuple[int, ...]
    absolute: float
    """The largest difference."""
    relative: float
    """The same as a share of the largest value."""
    equal: bool
    """Rounding explains it."""
    note: str = ""


class Settled(NamedTuple):
    """What a run decided."""

    targets: tuple[str, ...]
    """Names of the target whose assignment was changed."""
    how: str
    """``q and k exchanged``, ``rows of q and k from rotary halves to pairs (8 heads)``."""


@dataclass(frozen=True)
class Proof(Displayed):
    """
    Two models on one input, with random weights that the plan carried from one to the other.
    """

    equal: bool
    """The outputs agree but for rounding."""
    outputs: tuple[OutputGap, ...] = ()
    own_outputs: tuple[OutputGap, ...] = ()
    """The same with the weights of the checkpoint; empty where they were not tried."""
    input: str = ""
    """``int64[2, 8]``; empty: none was found that both take."""
    origin: str = ""
    """How the input came about."""
    dtype: str = ""
    """In which the models were run: float64 where they can be."""
    activations: int = 0
    """Modules that correspond and ran in both."""
    agreeing: int = 0
    """Those of them that put out the same."""
    first_apart: str = ""
    """The first of them, in order of execution, that does not: its path in the target."""
    settled: tuple[Settled, ...] = ()
    differences: tuple[str, ...] = ()
    """What differs beside the weights: ``eps 1e-12 in norm, 1e-05 in blocks.0.norm1``; the
    source's comes first."""
    equal_but_for: bool = False
    """The outputs agree once the target's operations are made as the source makes them."""
    unproven: tuple[str, ...] = field(default=(), repr=False)
    """Names of the target that had no influence on the outputs: whatever is in them."""
    runs: int = 0
    """Forward passes that were made."""
    notes: tuple[str, ...] = ()

    @property
    def is_refuted(self) -> bool:
        """True: the outputs differ, and nothing beside the weights explains it."""
        return bool(self.outputs) and not (self.equal or self.equal_but_for)
