"""
Quantized layouts: which tensors stand for which weights.

Every checkpoint passes here, and few are quantized. So this looks at data types, then at
names, and leaves the rest to :mod:`modelinspect.readers.parts.quantization`.
"""

from __future__ import annotations

from operator import itemgetter

from modelinspect.dtypes import DTYPES
from modelinspect.tensors import Checkpoint, ParameterTable, TensorInfo

__all__ = ["CONFIGURED", "settled"]

CONFIGURED = "config.quantization_config.quant_method"
"""What config.json calls the way in which a model was quantized, if it says so."""

# Types that packed weights have; the masks, counters and numbers of positions of plain
# models are int64 and bool.
_PACKED = frozenset(
    dtype
    for dtype in DTYPES
    if dtype.category in ("integer", "quantized") or (dtype.category == "float" and dtype.bits <= 8)
) - {dtype for dtype in DTYPES if dtype.name in ("int64", "uint64")}
_QUANTIZED = frozenset(dtype for dtype in DTYPES if dtype.category == "quantized")
# Of each layout a word that stands in one of its names.
_WORDS = (
    "scale", "SCB", "absmax", "codebooks", "tables", "W_q", "qdata", "._data", "bitmask",
    ".B\n", "q_weight", "trellis",
)  # fmt: skip
# ... and of each that packs words, one that stands in a packed tensor's.
_OF_WORDS = ("weight", "W_q", "codes", "trellis", "qdata", ".B\n")
_BYTES = frozenset(dtype for dtype in _PACKED if dtype.bits <= 8)
_NAME = itemgetter(TensorInfo._fields.index("name"))
_DTYPE = itemgetter(TensorInfo._fields.index("dtype"))
_LAYOUT = itemgetter(TensorInfo._fields.index("layout"))


def settled(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with packed weights marked as what they stand for."""
    suspects = [
        name
        for name, table in checkpoint.tables.items()
        if checkpoint.roles[name] not in ("optimizer", "gradients") and _may_be_quantized(table)
    ]
    if not suspects and CONFIGURED not in checkpoint.metadata:
        return checkpoint
    from modelinspect.readers.parts.quantization.settle import settle

    return settle(checkpoint, suspects)


def _may_be_quantized(table: ParameterTable) -> bool:
    dtypes = set(map(_DTYPE, table.tensors))
    if "wrapper" in set(map(_LAYOUT, table.tensors)):
        return True
    if dtypes.isdisjoint(_PACKED):
        return False
    if not dtypes.isdisjoint(_QUANTIZED):
        return True
    if dtypes.isdisjoint(_BYTES):
        packed = "\n".join(row.name for row in table.tensors if row.dtype in _PACKED) + "\n"
        if not any(word in packed for word in _OF_WORDS):
            return False
    names = "\n".join(map(_NAME, table.tensors)) + "\n"
    return any(word in names for word in _WORDS)
