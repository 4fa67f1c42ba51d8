"""
torchao: tensor subclasses, whole in a file of ``torch.save``, in parts in safetensors.

As version 0.18 writes them; ``prototype/safetensors`` describes the parts in JSON.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

from modelinspect.readers.parts.quantization.layer import Found, Layer
from modelinspect.tensors import Quantized, TensorInfo

__all__ = ["subclass", "torchao"]

_MOST_JSON = 65_536
_BITS = {"Int8Tensor": 8, "Float8Tensor": 8, "NVFP4Tensor": 4, "Int4Tensor": 4}
_NAMES = {"Int8Tensor": "int8", "Float8Tensor": "float8", "NVFP4Tensor": "NVFP4", "MXTensor": "MX"}


def subclass(row: TensorInfo, layer: Layer) -> Found | None:  # noqa: ARG001
    """A tensor subclass of torchao: the shape is the weight's, its parts are data and scales."""
    kind = row.class_name.rpartition(".")[2]
    data = _data(row)
    if data is None or not row.numel:
        return None
    bits = round(data.nbytes * 8 / row.numel)
    if not 1 <= bits <= 8:
        return None
    # A byte a value, whatever the bits that it was rounded to; those stand elsewhere.
    title = "intx" if kind.startswith("IntxUnpacked") else _NAMES.get(kind, f"int{bits}")
    title = f"MXFP{bits}" if kind == "MXTensor" else title
    return Found(row, Quantized(f"torchao {title}", row.shape, row.numel, bits))


def _data(row: TensorInfo) -> TensorInfo | None:
    """The part that holds the values; parts have parts in versions before 0.13."""
    parts = [part for each in row.parts for part in (each.parts or (each,))]
    packed = [part for part in parts if part.dtype.category == "integer" or part.dtype.bits <= 8]
    return max(packed, key=lambda part: part.nbytes, default=None)


def torchao(row: TensorInfo, layer: Layer) -> Found | None:
    """
    ``module._weight_qdata`` and its kin in safetensors, described by JSON under ``module.weight`` in
    the file's metadata.
    """
    leaf = row.name[len(layer.stem) :].removesuffix("_qdata").removeprefix("_")
    said = layer.metadata.get(f"{layer.stem}{leaf}", "")
    document = _object(said)
    data, kind = document.get("_data"), document.get("_type")
    names = document.get("_tensor_data_names")
    if not isinstance(data, dict) or not row.shape:
        return None
    if not isinstance(kind, str) or not isinstance(names, list) or "qdata" not in names:
        return None
    found = _described(row, kind, data)
    if found is None:
        return None
    title, shape, bits = found
    parts = [f"_{leaf}_{name}" for name in names[:20] if isinstance(name, str) and name != "qdata"]
    beside = layer.there(parts)
    return Found(row, Quantized(f"torchao {title}", shape, prod(shape), bits, beside))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if 0 < len(text) <= _MOST_JSON else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _described(row: TensorInfo, kind: str, data: dict[str, Any]) -> tuple[str, tuple[int, ...], int] | None:
    """Name, shape and bits, where the bytes hold them."""
    if kind == "IntxUnpackedToInt8Tensor":
        # A byte a value, whatever the bits that it was rounded to.
        target = _dtype_in(data.get("target_dtype"))
        digits = target.removeprefix("int")
        if not digits.isdecimal() or not 1 <= int(digits) <= 8:
            return None
        return f"int{digits}", row.shape, int(digits)
    bits = _BITS.get(kind, 4 if kind.startswith("Int4") else 0)
    if kind == "MXTensor":
        bits = 4 if _dtype_in(data.get("elem_dtype")).startswith("float4") else 8
    if not bits:
        return None
    each = row.dtype.bits // bits
    plain = (*row.shape[:-1], row.shape[-1] * each)
    shape = _sizes(data.get("shape"), prod(plain)) or (plain if len(row.shape) < 4 else None)
    if not each or shape is None:
        return None
    name = _NAMES.get(kind, "int4")
    return f"MXFP{bits}" if kind == "MXTensor" else name, shape, bits


def _dtype_in(value: object) -> str:
    """``int4`` of ``{"_type": "torch.dtype", "_data": "int4"}``."""
    inner = value.get("_data") if isinstance(value, dict) else value
    return inner.removeprefix("torch.") if isinstance(inner, str) else ""


def _sizes(value: object, most: int) -> tuple[int, ...] | None:
    """A shape from JSON, filled up to tiles at the most."""
    value = value.get("_data") if isinstance(value, dict) else value
    if not isinstance(value, list) or not 0 < len(value) <= 8:
        return None
    if not all(type(length) is int and 0 < length <= most for length in value):
        return None
    return tuple(value) if most // 4 < prod(value) <= most else None
