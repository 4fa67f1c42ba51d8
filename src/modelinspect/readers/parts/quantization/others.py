"""
Layouts of one library each: HQQ, Quanto, AQLM, HIGGS, FP-Quant, EETQ, MLX, torch.ao.

HQQ 0.2.8 (``core/quantize.py``), optimum-quanto 0.2.7 (``tensor/weights``), AQLM 1.1
(``inference.py``), transformers 5.24 (``integrations/higgs.py``, ``fp_quant.py``), EETQ
(``modules/qlinear.py``), MLX's ``nn.QuantizedLinear``.
"""

from __future__ import annotations

from math import prod

from modelinspect.readers.parts.quantization.layer import Found, Layer
from modelinspect.tensors import Quantized, TensorInfo

__all__ = ["aqlm", "eetq", "fp_quant", "higgs", "hqq", "mlx", "quanto", "torch_ao"]


def aqlm(row: TensorInfo, layer: Layer) -> Found | None:
    """
    ``codes`` [out / g, in / h, books], ``codebooks`` [books, size, g, h], ``scales`` [out / g, 1, 1, 1].
    """
    books, scales = layer.get("codebooks"), layer.get("scales")
    if books is None or scales is None or len(row.shape) != 3 or len(books.shape) != 4 or not books.numel:
        return None
    (rows, columns, count), (number, size, high, wide) = row.shape, books.shape
    if count != number or size & (size - 1) or scales.shape != (rows, 1, 1, 1):
        return None
    bits = round(count * (size.bit_length() - 1) / (high * wide), 3)
    shape = (rows * high, columns * wide)
    return Found(row, Quantized("AQLM", shape, prod(shape), bits, layer.there(("codebooks", "scales"))))


# HQQ: bits to bits of the type that they are packed into, and values in each.
_HQQ_PACKING = {8: (8, 1), 6: (8, 1), 5: (8, 1), 4: (8, 2), 3: (32, 10), 2: (8, 4), 1: (8, 8)}
_HQQ_BESIDE = (
    "scale", "zero", "shape", "nbits", "group_size", "axis", "packing", "unpack_view_dtype",
    "view_as_float", "compute_dtype", "quant_scale", "quant_zero", "offload_meta", "channel_wise",
    "optimize", "round_zero", "stores_quant_config", "encoded_state_dict", "zero_scale",
)  # fmt: skip


def hqq(row: TensorInfo, layer: Layer) -> Found | None:
    """``W_q`` of whole columns of packed groups, beside ``scale``, ``zero`` and numbers as tensors."""
    if layer.get("scale") is None or not row.numel:
        return None
    shape = layer.reads.integers_of(layer.get("shape"))
    bits = layer.reads.integers_of(layer.get("nbits"))
    if shape is None or not bits or bits[0] not in _HQQ_PACKING or any(length < 0 for length in shape):
        return None
    word, each = _HQQ_PACKING[bits[0]]
    held, numel = row.nbytes * 8 // word * each, prod(shape)
    # Three bits are packed by tens, and the rows of a matrix filled up to that.
    filling = each * row.shape[-1] if bits[0] == 3 and row.shape else 1
    if not held - filling < numel <= held:
        return None
    return Found(row, Quantized("HQQ", shape, numel, bits[0], layer.there(_HQQ_BESIDE)))


def quanto(row: TensorInfo, layer: Layer) -> Found | None:
    """
    ``X._data`` of 8-bit numbers, or ``X._data._data`` of packed ones, [rows · bits / 8, group], with
    ``X._scale`` [rows, 1].
    """
    packed = row.name.endswith("._data._data")
    base = row.name.removesuffix("._data").removesuffix("._data")
    scale = layer.at(f"{base}._scale")
    if scale is None or not row.numel or not scale.numel or row.dtype.bits != 8:
        return None
    stem = base[: base.rfind(".") + 1]
    beside = layer.there(("_scale", "_shift"), f"{base}.") + layer.there(
        ("input_scale", "output_scale"), stem
    )
    if not packed:
        bits, shape, numel = 8, row.shape, row.numel
        if scale.numel != 1 and scale.numel not in row.shape:
            return None
    else:
        # Rows are those of groups: neither the layer's shape nor its axis stands in the file.
        shape = None
        bits = row.shape[0] * 8 // scale.shape[0] if row.shape and scale.shape else 0
        if bits not in (2, 4) or row.shape[0] * 8 != scale.shape[0] * bits or scale.numel != scale.shape[0]:
            return None
        numel = row.numel * 8 // bits
    kind = "float" if row.dtype.category == "float" else "int"
    return Found(row, Quantized(f"Quanto {kind}{bits}", shape, numel, bits, beside))


def higgs(row: TensorInfo, layer: Layer) -> Found | None:
    """
    ``weight`` int16 [out · bits / 16, in], ``scales`` [out, groups], ``tables`` [2 ** bits] and
    ``tables2`` for pairs.
    """
    scales, table, pairs = layer.matrix("scales", "float"), layer.get("tables"), layer.get("tables2")
    if row.dtype.name != "int16" or len(row.shape) != 2 or scales is None or table is None or pairs is None:
        return None
    size = table.numel
    bits = size.bit_length() - 1
    if size != 2**bits or not 1 <= bits <= 8 or pairs.shape != (size, size, 2):
        return None
    out = row.shape[0] * 16 // bits
    if row.shape[0] * 16 != out * bits or scales.shape[0] != out:
        return None
    shape = (out, row.shape[1])
    return Found(
        row, Quantized("HIGGS", shape, prod(shape), bits, layer.there(("scales", "tables", "tables2")))
    )


def fp_quant(row: TensorInfo, layer: Layer) -> Found | None:
    """``qweight`` uint8 [out, in / 2], ``scales`` of a byte [out, in / 16 or 32]."""
    scales = layer.get("scales")
    if row.dtype.name != "uint8" or len(row.shape) != 2 or scales is None or scales.dtype.bits != 8:
        return None
    rows, half = row.shape
    if half % 8 or not half or scales.shape not in ((rows, half // 8), (rows, half // 16)):
        return None
    names = ("scales", "weight_global_scale", "act_global_scale", "forward_hadamard_matrix")
    beside = layer.there((*names, "backward_hadamard_matrix"))
    return Found(row, Quantized("FP-Quant", (rows, half * 2), row.numel * 2, 4, beside))


def eetq(row: TensorInfo, layer: Layer) -> Found | None:
    """``qweight`` int8 [in, out] and ``weight_scales`` [out]."""
    scales = layer.get("weight_scales")
    if row.dtype.name != "int8" or len(row.shape) != 2 or scales is None or scales.shape != row.shape[1:]:
        return None
    return Found(row, Quantized("EETQ", row.shape[::-1], row.numel, 8, layer.there(("weight_scales",))))


_MLX = tuple((bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128))


def mlx(row: TensorInfo, layer: Layer) -> Found | None:
    """
    ``weight`` uint32 [out, in · bits / 32], ``scales`` and ``biases`` [out, in / group].

    The product of bits and group is all that the shapes tell. What is taken in has to be
    what something else gives out, or config.json says which bits there are.
    """
    scales, biases = layer.get("scales"), layer.first("biases", "qbiases")
    if row.dtype.name != "uint32" or not row.numel or scales is None or biases is None or not scales.numel:
        return None
    if scales.shape != biases.shape or scales.shape[:-1] != row.shape[:-1]:
        return None
    words, groups = row.shape[-1], scales.shape[-1]
    fitting = [(bits, groups * size) for bits, size in _MLX if groups * size * bits == words * 32]
    if len(fitting) > 1:
        fitting = [each for each in fitting if each[1] in layer.widths()] or fitting
    if len(fitting) > 1:
        said = layer.metadata.get("config.quantization.bits", "")
        fitting = [each for each in fitting if str(each[0]) == said]
    if len(fitting) != 1:
        return None
    bits, inputs = fitting[0]
    shape = (*row.shape[:-1], inputs)
    return Found(
        row, Quantized("MLX", shape, prod(shape), bits, layer.there(("scales", "biases", "qbiases")))
    )


def torch_ao(row: TensorInfo, layer: Layer) -> Found | None:  # noqa: ARG001
    """A quantized tensor of torch's own: its shape is the weight's."""
    bits = row.dtype.bits
    return Found(row, Quantized(f"torch.ao int{bits}", row.shape, row.numel, bits))
