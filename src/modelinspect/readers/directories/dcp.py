"""
Directories of torch.distributed.checkpoint: not read yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelinspect.errors import TargetError
from modelinspect.tensors import Checkpoint

__all__ = ["is_one", "read"]


def is_one(folder: str, entries: Sequence[str]) -> bool:  # noqa: ARG001
    """Is the folder a checkpoint of that kind? Only names are looked at."""
    return False


def read(folder: str, entries: Sequence[str], target: str) -> Checkpoint:  # noqa: ARG001
    """Read the headers of all its files."""
    raise TargetError("not read yet")
