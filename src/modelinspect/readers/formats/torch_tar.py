"""
The tar archives of torch 0.1: not read yet.
"""

from __future__ import annotations

from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint

__all__ = ["read"]


def read(source: ByteSource, target: str) -> Checkpoint:  # noqa: ARG001
    """Read the file's header."""
    raise NotThisFormat("not read yet")
