"""
What matching hands from region to region: ranks of tensors, not names, so that it can be reused.
"""

from __future__ import annotations

from typing import NamedTuple

from modelinspect.transplant.plan import Label
from modelinspect.transplant.transforms import Step

__all__ = ["HINTED", "Link", "Result", "weaker"]

HINTED = "as --map says"

_SURENESS = {"proven": 0, "certain": 1, "likely": 2, "ambiguous": 3}


class Link(NamedTuple):
    """One target tensor and what it is made of."""

    pieces: tuple[tuple[int, tuple[Step, ...]], ...]
    """Rank of each source tensor and its steps; -1 for a constant."""
    target: int
    steps: tuple[Step, ...] = ()
    label: Label = "certain"
    reason: str = "the only one of its role there"


class Result(NamedTuple):
    """What is known of two subtrees, in ranks relative to each."""

    links: tuple[Link, ...]
    left_sources: tuple[int, ...]
    left_targets: tuple[int, ...]
    doubts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """Targets and the sources that fit them."""


def weaker(one: tuple[Label, str], other: tuple[Label, str]) -> tuple[Label, str]:
    """The less sure of two judgements, with its reason."""
    return one if _SURENESS[one[0]] >= _SURENESS[other[0]] else other
