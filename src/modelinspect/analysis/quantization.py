"""
What a table holds in quantized layouts: weights by scheme, and the scales beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from modelinspect.tensors import ParameterTable, Quantized, Storage, TensorInfo

__all__ = ["QuantizationTotal", "logical_name", "quantization", "scheme_title"]

# Parts of a tensor subclass that hold what it packs; its other parts are scales and the like.
_DATA_PARTS = frozenset({"data", "qdata", "packed_weights", "tensor_impl"})


@dataclass(frozen=True)
class QuantizationTotal:
    """
    The weights of one scheme. Tied weights and shared storages count once.
    """

    scheme: str
    """As in :class:`~modelinspect.tensors.Quantized`, e.g. ``GPTQ``."""
    bits: float
    """Bits a value, scales aside."""
    weights: int
    """Packed weights."""
    numel: int
    """Values that they stand for."""
    nbytes: int
    """Bytes of their storages, those of the scales not among them."""
    scales: int = 0
    """Tensors beside them: scales, zero points, code books, orders of groups."""
    scale_numel: int = 0
    """Elements of those, as stored."""
    scale_nbytes: int = 0
    """Bytes of those."""

    @property
    def title(self) -> str:
        """For people: ``GPTQ 4-bit``, ``bitsandbytes nf4``."""
        return scheme_title(self.scheme, self.bits)


def scheme_title(scheme: str, bits: float) -> str:
    """
    A scheme with its bits, where its name does not tell them.

    >>> scheme_title("GPTQ", 4), scheme_title("bitsandbytes nf4", 4)
    ('GPTQ 4-bit', 'bitsandbytes nf4')
    """
    number = f"{bits:g}"
    return scheme if scheme.endswith(number) else f"{scheme} {number}-bit"


def quantization(table: ParameterTable) -> tuple[QuantizationTotal, ...]:
    """
    Add up the quantized weights of a table, most values first; empty where there are none.
    """
    packed = [row for row in table if row.quantized is not None]
    if not packed:
        return ()
    tied_to = table.tied_to
    sums: dict[tuple[str, float], _Sum] = {}
    seen: set[Storage] = set()
    for row in packed:
        if row.quantized is not None and row.name not in tied_to:
            total = sums.setdefault((row.quantized.scheme, row.quantized.bits), _Sum())
            total.add(row, row.quantized, seen)
            for scale in _beside(row, row.quantized, table):
                total.add_scale(scale, seen)
    totals = [total.total(*key) for key, total in sums.items()]
    return tuple(sorted(totals, key=lambda total: -total.numel))


# What a float model calls the tensor that these hold: the ending, and what stands there instead.
_ENDINGS = (
    ("._data._data", ""), ("._data", ""), (".compressed", ""), ("_packed", ""), ("_blocks", ""),
    (".blocks", ""), (".embedding_quantized", ".weight"), (".qweight", ".weight"), (".q_weight", ".weight"),
    (".trellis", ".weight"), (".W_q", ".weight"), (".codes", ".weight"), (".B", ".weight"),
)  # fmt: skip


def logical_name(row: TensorInfo) -> str:
    """
    What the weight that a packed tensor stands for is called in a float model.

    >>> from modelinspect.dtypes import BY_NAME
    >>> logical_name(TensorInfo("layer.qweight", BY_NAME["int32"], (8, 64), None))
    'layer.weight'
    """
    stem, dot, leaf = row.name.rpartition(".")
    if leaf.startswith("_") and leaf.endswith("_qdata"):  # torchao in safetensors
        return f"{stem}{dot}{leaf[1 : -len('_qdata')]}"
    for ending, instead in _ENDINGS:
        if row.name.endswith(ending):
            return row.name[: -len(ending)] + instead
    return row.name


@dataclass
class _Sum:
    weights: int = 0
    numel: int = 0
    nbytes: int = 0
    scale_numel: int = 0
    scale_nbytes: int = 0
    scales: set[str] = field(default_factory=set)

    def add(self, row: TensorInfo, found: Quantized, seen: set[Storage]) -> None:
        self.weights += 1
        self.numel += found.numel
        data = [part for part in row.parts if part.name in _DATA_PARTS] or list(row.parts[:1]) or [row]
        self.nbytes += sum(_new_bytes(part, seen) for part in data)

    def add_scale(self, scale: TensorInfo, seen: set[Storage]) -> None:
        if scale.name not in self.scales:
            self.scales.add(scale.name)
            self.scale_numel += scale.logical_numel
            self.scale_nbytes += _new_bytes(scale, seen)

    def total(self, scheme: str, bits: float) -> QuantizationTotal:
        return QuantizationTotal(
            scheme, bits, self.weights, self.numel, self.nbytes,
            len(self.scales), self.scale_numel, self.scale_nbytes,
        )  # fmt: skip


def _new_bytes(row: TensorInfo, seen: set[Storage]) -> int:
    found = {storage for storage, _ in row.storages()} - seen
    seen |= found
    return sum(storage.nbytes for storage in found)


def _beside(row: TensorInfo, found: Quantized, table: ParameterTable) -> Iterator[TensorInfo]:
    """The scales of a weight: parts of a tensor subclass, else tensors of their own."""
    if row.parts:
        data: Iterable[str] = _DATA_PARTS.intersection(part.name for part in row.parts) or {row.parts[0].name}
        yield from (
            part._replace(name=f"{row.name}.{part.name}") for part in row.parts if part.name not in data
        )
        return
    for name in found.beside:
        if name in table:
            yield table[name]
