"""
What a rule sees: one tensor and what stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from modelinspect.readers.parts.quantization.small_reads import SmallReads
from modelinspect.tensors import Quantized, TensorInfo

__all__ = ["Found", "Layer", "Modules", "Rule", "ceil_div"]


class Found(NamedTuple):
    """A packed weight."""

    row: TensorInfo
    """The tensor that holds its values."""
    quantized: Quantized


Modules = Mapping[str, Mapping[str, TensorInfo]]


class Layer:
    """
    The tensors beside one, by what their names have after its module's path.

    Args:
        modules: All tensors of the table: path of a module with its dot to what it holds, by the
            last part of the name.
        stem: The module's path with its dot.
        reads: Reads the few bytes that some layouts keep their shapes in.
        metadata: Of the checkpoint.
        widths: Lengths that rows of matrices and vectors of the table have: what one layer
            takes in, another gives out.
    """

    def __init__(
        self,
        modules: Modules,
        stem: str,
        reads: SmallReads,
        metadata: Mapping[str, str],
        widths: Callable[[], frozenset[int]],
    ) -> None:
        self._modules = modules
        self._own = modules[stem]
        self.stem = stem
        self.reads = reads
        self.metadata = metadata
        self.widths = widths

    def get(self, leaf: str) -> TensorInfo | None:
        """The tensor of that name in the module."""
        return self._own.get(leaf)

    def at(self, name: str) -> TensorInfo | None:
        """The tensor of that name in the table."""
        stem, dot, leaf = name.rpartition(".")
        return self._modules.get(stem + dot, {}).get(leaf)

    def there(self, leaves: Sequence[str], stem: str | None = None) -> tuple[str, ...]:
        """Whole names of those that are there, in the module or under another *stem*."""
        own = self._own if stem is None else self._modules.get(stem, {})
        if len(own) < len(leaves):
            return tuple(row.name for leaf, row in own.items() if leaf in leaves)
        return tuple(own[leaf].name for leaf in leaves if leaf in own)

    def first(self, *leaves: str) -> TensorInfo | None:
        """The first of those that are there."""
        own = self._own
        return next((own[leaf] for leaf in leaves if leaf in own), None)

    def matrix(self, leaf: str, *categories: str) -> TensorInfo | None:
        """The tensor of that name, if it has two axes, neither empty, and such numbers."""
        row = self.get(leaf)
        plain = row is not None and len(row.shape) == 2 and row.numel > 0
        return row if plain and row is not None and row.dtype.category in categories else None


Rule = Callable[[TensorInfo, Layer], "Found | None"]
"""Is this tensor, with what stands beside it, a weight in the rule's layout?"""


def ceil_div(number: int, by: int) -> int:
    """The quotient, rounded up."""
    return -(-number // by)
