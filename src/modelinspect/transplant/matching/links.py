"""
What matching hands from region to region: ranks of tensors, not names, so that it can be reused.
"""

from __future__ import annotations

from typing import NamedTuple

from modelinspect.transplant.plan import Label
from modelinspect.transplant.transforms import Step

__all__ = ["HINTED", "Link", "Open", "Result", "weaker"]

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


class Open(NamedTuple):
    """What is left open: tensors of a target's node, and the source's nodes that fit it."""

    target: tuple[int, int]
    """Rank of its first tensor, and how many there are."""
    sources: tuple[tuple[int, int], ...]
    """The same of each; the first is the one that was taken."""

    def moved(self, here: int, there: int) -> Open:
        """With ranks that count from further ahead, in the source and in the target."""
        at, count = self.target
        return Open((at + there, count), tuple((first + here, many) for first, many in self.sources))


class Result(NamedTuple):
    """What is known of two subtrees, in ranks relative to each."""

    links: tuple[Link, ...]
    left_sources: tuple[int, ...]
    left_targets: tuple[int, ...]
    doubts: tuple[Open, ...] = ()


def weaker(one: tuple[Label, str], other: tuple[Label, str]) -> tuple[Label, str]:
    """The less sure of two judgements, with its reason."""
    return one if _SURENESS[one[0]] >= _SURENESS[other[0]] else other
