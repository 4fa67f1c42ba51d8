"""
What ONNX's operators say of the tensors that they take: weights, or scales and the like.

After ``docs/Operators.md`` of onnx 1.23 and, for the domain ``com.microsoft``,
``docs/ContribOperators.md`` of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from modelinspect.dtypes import DType
from modelinspect.tensors import Kind, Quantized, TensorInfo

__all__ = ["Uses"]


class _Inputs(NamedTuple):
    """Positions among an operator's inputs."""

    weights: tuple[int, ...]
    aids: tuple[int, ...]
    """Scales, zero points, running statistics: kept beside weights and not trained."""


_QDQ = "ONNX QDQ"
_INTEGER = "ONNX integer operators"
_OPERATORS = {
    "BatchNormalization": _Inputs((), (3, 4)),
    "QuantizeLinear": _Inputs((), (1, 2)),
    "DequantizeLinear": _Inputs((0,), (1, 2)),
    "QLinearConv": _Inputs((3, 8), (1, 2, 4, 5, 6, 7)),
    "QLinearMatMul": _Inputs((0, 3), (1, 2, 4, 5, 6, 7)),
    "ConvInteger": _Inputs((1,), (2, 3)),
    "MatMulInteger": _Inputs((0, 1), (2, 3)),
    "QGemm": _Inputs((3, 6), (1, 2, 4, 5, 7, 8)),
    "QAttention": _Inputs((1, 2), (3, 4, 6, 7)),
    "QLinearAdd": _Inputs((0, 3), (1, 2, 4, 5, 6, 7)),
    "QLinearMul": _Inputs((0, 3), (1, 2, 4, 5, 6, 7)),
    "DynamicQuantizeMatMul": _Inputs((1,), (2, 3)),
    "MatMulIntegerToFloat": _Inputs((1,), (2, 3, 4, 5)),
    "DynamicQuantizeLSTM": _Inputs((1, 2), (8, 9, 10, 11)),
    "GatherBlockQuantized": _Inputs((0,), (2, 3)),
    "MatMulNBits": _Inputs((1,), (2, 3, 4)),
    "MatMulBnb4": _Inputs((1,), (2,)),
}
_PACKED = ("MatMulNBits", "MatMulBnb4")


class _Packed(NamedTuple):
    """A weight of so many rows and columns in 4 (or 2, or 8) bits, packed into bytes."""

    scheme: str
    rows: int
    columns: int
    bits: int
    nbytes: int
    """Bytes that it takes, scales aside."""


class Uses:
    """
    Gathers what nodes say, then tells kinds.
    """

    def __init__(self) -> None:
        self.weights: dict[str, str] = {}
        """Name to the scheme of those that are integers."""
        self.aids: set[str] = set()
        self.packed: dict[str, _Packed] = {}
        self.doubtful: list[str] = []
        """Packed weights whose bytes are not what their operator says."""

    def add(self, operator: str, inputs: Sequence[str], numbers: Mapping[str, int]) -> None:
        """Take in one node: its operator, its inputs and its whole-number attributes."""
        places = _OPERATORS.get(operator)
        if places is None:
            return
        scheme = _QDQ if operator == "DequantizeLinear" else _INTEGER
        count = len(inputs)
        for place in places.weights:
            if place < count and inputs[place]:
                self.weights.setdefault(inputs[place], scheme)
        self.aids.update(inputs[place] for place in places.aids if place < count and inputs[place])
        if operator in _PACKED and count > 1:
            packed = _packed(operator, numbers)
            if packed is not None:
                self.packed[inputs[1]] = packed

    def settled(self, row: TensorInfo, kind: Kind) -> TensorInfo:
        """The row with its kind, and with the weight that it stands for if it is packed."""
        if row.name in self.weights:
            return row._replace(kind="parameter", quantized=self._quantized(row))
        return row._replace(kind="buffer" if self._is_aid(row.name) else kind)

    def _is_aid(self, name: str) -> bool:
        if name in self.aids:
            return True
        # Dynamic quantization of ONNX Runtime multiplies by the scale in a node of its own.
        return name.endswith("_scale") and f"{name[: -len('_scale')]}_quantized" in self.weights

    def _quantized(self, row: TensorInfo) -> Quantized | None:
        packed = self.packed.get(row.name)
        if packed is not None and packed.nbytes == row.nbytes:
            shape = (packed.rows, packed.columns)
            return Quantized(packed.scheme, shape, packed.rows * packed.columns, packed.bits)
        if packed is not None:
            self.doubtful.append(row.name)
        if not _is_small(row.dtype):
            return None
        return Quantized(self.weights[row.name], row.shape, row.numel, row.dtype.bits)


def _is_small(dtype: DType) -> bool:
    return dtype.category == "integer" or dtype.bits <= 8


def _packed(operator: str, numbers: Mapping[str, int]) -> _Packed | None:
    rows, columns, block = numbers.get("K", 0), numbers.get("N", 0), numbers.get("block_size", 0)
    if not (0 < rows < 1 << 31 and 0 < columns < 1 << 31 and 0 < block < 1 << 31):
        return None
    if operator == "MatMulBnb4":
        return _Packed(f"ONNX {operator}", rows, columns, 4, (rows * columns + 1) // 2)
    bits = numbers.get("bits", 4)
    if bits not in (2, 4, 8):
        return None
    blocks = -(-rows // block)
    return _Packed(f"ONNX {operator}", rows, columns, bits, columns * blocks * (block * bits // 8))
