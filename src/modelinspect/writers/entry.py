"""
What the writers are given: tensors by name, whose bytes come when it is their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import NamedTuple

from modelinspect.dtypes import DType
from modelinspect.writers.copying import Chunk

__all__ = ["Entry"]


class Entry(NamedTuple):
    """One tensor to write."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    read: Callable[[], Iterable[Chunk]]
    """Gives its bytes, contiguous and little-endian, when it is its turn: buffers of any
    kind, or ranges of other files."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        return self.dtype.nbytes(prod(self.shape))
