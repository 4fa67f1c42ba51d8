"""
bitsandbytes: 4-bit weights as flat bytes, 8-bit weights with a scale a row.

As version 0.50 writes them (``functional.py``, ``QuantState.as_dict``; ``nn/modules.py``). The
shape of a 4-bit weight stands in JSON that is stored as the bytes of a tensor.
"""

from __future__ import annotations

import json
from math import prod

from modelinspect.readers.parts.quantization.layer import Found, Layer, ceil_div
from modelinspect.tensors import Quantized, TensorInfo

__all__ = ["four_bit", "int8"]

_STATE = ".quant_state.bitsandbytes__"
_BLOCK_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_BESIDE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


def four_bit(row: TensorInfo, layer: Layer) -> Found | None:
    """
    ``X`` [n / 2, 1] beside ``X.absmax`` [n / block], ``X.quant_map`` [16] and
    ``X.quant_state.bitsandbytes__nf4``, which *row* is. Bytes may be kept in a float's type.
    """
    name, _, kind = row.name.rpartition(_STATE)
    weight, scales, codes = layer.at(name), layer.at(f"{name}.absmax"), layer.at(f"{name}.quant_map")
    if weight is None or scales is None or codes is None or codes.numel != 16:
        return None
    most = weight.nbytes * 2
    if len(scales.shape) != 1 or all(ceil_div(most, size) != scales.numel for size in _BLOCK_SIZES):
        return None
    shape = _shape(layer.reads.bytes_of(row), most)
    numel = most if shape is None else prod(shape)
    beside = (*layer.there(_BESIDE, f"{name}."), row.name)
    return Found(weight, Quantized(f"bitsandbytes {kind}", shape, numel, 4, beside))


def _shape(raw: bytes | None, most: int) -> tuple[int, ...] | None:
    """The shape that the JSON gives, if the bytes that are there hold just that many values."""
    try:
        state = json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        return None
    shape = state.get("shape") if isinstance(state, dict) else None
    if not isinstance(shape, list) or not 0 < len(shape) <= 8:
        return None
    if not all(type(length) is int and 0 <= length <= most for length in shape):
        return None
    return tuple(shape) if prod(shape) in (most, most - 1) else None


def int8(row: TensorInfo, layer: Layer) -> Found | None:
    """``weight`` int8 [out, in] beside ``SCB`` [out] and ``weight_format``."""
    scales = layer.get("SCB")
    if scales is None or len(row.shape) != 2 or row.dtype.name != "int8" or scales.dtype.bits != 32:
        return None
    if scales.shape != (row.shape[0],):
        return None
    beside = layer.there(("SCB", "weight_format"))
    return Found(row, Quantized("bitsandbytes int8", row.shape, row.numel, 8, beside))
