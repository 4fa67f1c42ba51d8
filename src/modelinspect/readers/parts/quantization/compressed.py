"""
compressed-tensors: integers packed into words, and what earlier versions wrote for sparse weights.

``weight_shape`` holds the shape as numbers. Packed as in version 0.20
(``compressors/pack_quantized``), where 32 values take as many words as they have bits; before,
a word held as many whole values as fit. The sparse layouts are those of version 0.12
(``compressors/sparse_compressors``, ``quantized_compressors/marlin_24.py``).
"""

from __future__ import annotations

from math import prod

from modelinspect.readers.parts.quantization.layer import Found, Layer, ceil_div
from modelinspect.tensors import Quantized, TensorInfo

__all__ = ["bitmask", "marlin_24", "pack_quantized"]

_BESIDE = (
    "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight_global_scale",
    "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point",
)  # fmt: skip


def pack_quantized(row: TensorInfo, layer: Layer) -> Found | None:
    """``weight_packed`` int32 [out, in · bits / 32], ``weight_scale`` [out, groups], ``weight_shape`` [2]."""
    place, scale = layer.get("weight_shape"), layer.get("weight_scale")
    if row.dtype.name != "int32" or place is None or scale is None or len(row.shape) < 2:
        return None
    if place.shape != (len(row.shape),) or scale.dtype.category != "float":
        return None
    shape = layer.reads.integers_of(place)
    if shape is None or shape[:-1] != row.shape[:-1] or not row.numel:
        return None
    words, inputs = row.shape[-1], shape[-1]
    fitting = [
        bits for bits in range(1, 9) if words in (ceil_div(inputs * bits, 32), ceil_div(inputs, 32 // bits))
    ]
    if not fitting or inputs > words * 32:
        return None
    exact = [bits for bits in fitting if inputs * bits == words * 32]
    return Found(
        row,
        Quantized("compressed-tensors int", shape, prod(shape), (exact or fitting)[-1], layer.there(_BESIDE)),
    )


def marlin_24(row: TensorInfo, layer: Layer) -> Found | None:
    """
    2:4 sparse: ``weight_packed`` [in / 32, out · bits / 2], ``meta`` [in / 32, 2 out],
    ``scale_packed`` [groups, out].
    """
    scales, meta = layer.matrix("scale_packed", "float"), layer.matrix("meta", "integer")
    if row.dtype.name != "int32" or len(row.shape) != 2 or scales is None or meta is None:
        return None
    rows, words = row.shape
    out = scales.shape[1]
    bits = words * 2 // out
    if words * 2 != out * bits or bits not in (4, 8) or meta.shape != (rows, out * 2):
        return None
    names = ("scale_packed", "meta")
    return Found(row, Quantized("Marlin 2:4", (out, rows * 32), out * rows * 32, bits, layer.there(names)))


def bitmask(row: TensorInfo, layer: Layer) -> Found | None:
    """
    Sparse weights: ``X.compressed`` are those that aren't zero, ``X.bitmask`` uint8 [rows, columns
    / 8] says where they were, ``X.shape`` is two numbers.
    """
    values, place = layer.get("compressed"), layer.get("shape")
    if row.dtype.name != "uint8" or len(row.shape) != 2 or values is None or place is None:
        return None
    shape = layer.reads.integers_of(place)
    if shape is None or len(shape) != 2 or values.numel > prod(shape):
        return None
    if row.shape != (shape[0], ceil_div(shape[1], 8)) or not row.numel:
        return None
    bits = values.dtype.bits
    names = ("bitmask", "shape", "row_offsets")
    return Found(values, Quantized("sparse bitmask", shape, prod(shape), bits, layer.there(names)))
