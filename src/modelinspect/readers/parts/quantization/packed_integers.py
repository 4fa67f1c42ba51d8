"""
Layouts that pack integers into words: GPTQ, AWQ, Marlin, QQQ, ExLlama.

Shapes as in GPTQModel (``nn_modules/qlinear``, August 2026), AutoAWQ 0.2.9
(``awq/modules/linear``), ExLlamaV2 (``conversion/adaptivegptq.py``) and ExLlamaV3
(``modules/quant/exl3.py``).
"""

from __future__ import annotations

from modelinspect.readers.parts.quantization.layer import Found, Layer, ceil_div
from modelinspect.tensors import Quantized, TensorInfo

__all__ = ["awq", "awq_fast", "exl2", "exl3", "gptq", "marlin"]

_BITS = (2, 3, 4, 5, 6, 7, 8)
_BESIDE = ("scales", "qzeros", "g_idx")
_BESIDE_TILES = ("scales", "s", "s_channel", "s_group", "s_extra", "workspace")


def gptq(row: TensorInfo, layer: Layer) -> Found | None:
    """
    ``qweight`` [in · bits / word, out], ``scales`` [groups, out], ``qzeros`` [groups, out · bits /
    word] and mostly ``g_idx`` [in]; a word has 32 bits, or 8, 16 or 64.
    """
    scales, zeros = layer.matrix("scales", "float"), layer.matrix("qzeros", "integer")
    if len(row.shape) != 2 or not row.numel or scales is None or zeros is None:
        return None
    rows, out = row.shape
    if scales.shape[1] != out or scales.shape[0] != zeros.shape[0]:
        return None
    order, word = layer.get("g_idx"), row.dtype.bits
    if order is not None and order.numel and len(order.shape) == 1:
        inputs = order.shape[0]
        fitting = [b for b in _BITS if ceil_div(inputs * b, word) == rows]
    else:
        inputs = 0
        fitting = [b for b in _BITS if rows * word % b == 0]
    fitting = [b for b in fitting if zeros.shape[1] == ceil_div(out * b, zeros.dtype.bits)]
    if len(fitting) != 1:
        return None
    inputs = inputs or rows * word // fitting[0]
    if inputs % scales.shape[0] and inputs < scales.shape[0]:
        return None
    return Found(row, Quantized("GPTQ", (out, inputs), out * inputs, fitting[0], layer.there(_BESIDE)))


def awq(row: TensorInfo, layer: Layer) -> Found | None:
    """
    As the GEMM kernels have it: ``qweight`` [in, out · bits / 32], ``scales`` [groups, out], ``qzeros``
    [groups, out · bits / 32]. As GEMV has it: ``qweight`` [out, in · bits / 32], ``qzeros`` [out, n],
    ``scales`` [out, 32 n / bits].
    """
    scales, zeros = layer.matrix("scales", "float"), layer.matrix("qzeros", "integer")
    if len(row.shape) != 2 or not row.numel or row.dtype.bits != 32 or scales is None or zeros is None:
        return None
    if scales.shape[0] != zeros.shape[0] or zeros.shape[1] * 32 % scales.shape[1]:
        return None
    bits = zeros.shape[1] * 32 // scales.shape[1]
    if bits not in (2, 4, 8):
        return None
    first, words = row.shape
    if words == zeros.shape[1] and first % scales.shape[0] == 0:
        shape = (scales.shape[1], first)
    elif first == scales.shape[0] and words >= zeros.shape[1]:
        shape = (first, words * 32 // bits)
    else:
        return None
    return Found(row, Quantized("AWQ", shape, shape[0] * shape[1], bits, layer.there(_BESIDE)))


def awq_fast(row: TensorInfo, layer: Layer) -> Found | None:
    """As GEMVFast has it: ``qweight`` int16 [out / 4, in], ``scales`` and ``qzeros`` float [n, out]."""
    scales, zeros = layer.matrix("scales", "float"), layer.matrix("qzeros", "float")
    if len(row.shape) != 2 or row.dtype.name != "int16" or not row.numel or scales is None or zeros is None:
        return None
    rows, inputs = row.shape
    if scales.shape != zeros.shape or scales.shape[1] != rows * 4:
        return None
    return Found(row, Quantized("AWQ", (rows * 4, inputs), row.numel * 4, 4, layer.there(_BESIDE)))


def marlin(row: TensorInfo, layer: Layer) -> Found | None:
    """
    Repacked in tiles of 16: ``B`` or ``qweight`` [in / 16, out · 2] of 4 bits, with ``s`` or ``scales``
    [groups, out], or QQQ's ``s_channel`` [1, out].
    """
    is_awq = row.name.endswith("qweight")
    scheme, scales = "AWQ Marlin" if is_awq else "Marlin", layer.matrix("scales" if is_awq else "s", "float")
    if scales is None and not is_awq:
        scheme, scales = "QQQ", layer.matrix("s_channel", "float")
    if scales is None or len(row.shape) != 2 or row.dtype.bits != 32 or layer.get("qzeros") is not None:
        return None
    rows, words = row.shape
    out, inputs = scales.shape[1], rows * 16
    if words != out * 2 or not row.numel or inputs % scales.shape[0]:
        return None
    return Found(row, Quantized(scheme, (out, inputs), out * inputs, 4, layer.there(_BESIDE_TILES)))


def exl2(row: TensorInfo, layer: Layer) -> Found | None:
    """``q_weight`` [words, out] of several widths, ``q_scale`` [groups, out / 8], ``q_invperm`` [in]."""
    order, scales = layer.first("q_invperm", "q_perm"), layer.matrix("q_scale", "integer")
    if len(row.shape) != 2 or row.dtype.bits != 32 or order is None or scales is None:
        return None
    words, out = row.shape
    inputs = order.numel
    if len(order.shape) != 1 or scales.shape[1] * 8 != out or not 0 < inputs <= words * 32 <= inputs * 9:
        return None
    names = ("q_invperm", "q_perm", "q_scale", "q_scale_max", "q_groups", "q_group_map")
    bits = round(words * 32 / inputs, 2)
    return Found(row, Quantized("EXL2", (out, inputs), out * inputs, bits, layer.there(names)))


def exl3(row: TensorInfo, layer: Layer) -> Found | None:
    """
    ``trellis`` int16 [in / 16, out / 16, 16 · bits], ``suh`` [in], ``svh`` [out]; or ``su``, ``sv``,
    16 signs to a word.
    """
    if len(row.shape) != 3 or row.dtype.bits != 16 or not row.numel:
        return None
    inputs, out, words = row.shape[0] * 16, row.shape[1] * 16, row.shape[2]
    for leaf, length in (("su", inputs), ("sv", out)):
        signs = layer.first(leaf + "h", leaf)
        if signs is None or signs.shape not in ((length,), (length // 16,)):
            return None
    if words % 16 or not 1 <= words // 16 <= 8:
        return None
    names = ("suh", "svh", "su", "sv", "mcg", "mul1")
    return Found(row, Quantized("EXL3", (out, inputs), out * inputs, words // 16, layer.there(names)))
