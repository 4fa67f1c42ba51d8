"""
What is left of two regions: tensors that are one on one side and several on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from modelinspect.transplant.plan import Label
from modelinspect.transplant.scoring import Scorer
from modelinspect.transplant.transforms import Step
from modelinspect.transplant.trees import Node

__all__ = ["Made", "combine"]


class Made(NamedTuple):
    """A target tensor that is made of tensors that were left."""

    target: Node
    pieces: tuple[tuple[Node, tuple[Step, ...]], ...]
    steps: tuple[Step, ...]
    label: Label
    reason: str


def combine(sources: Sequence[Node], targets: Sequence[Node], scorer: Scorer) -> list[Made]:
    """
    Tensors that fuse, split or stack what the other side has.
    """
    return []
