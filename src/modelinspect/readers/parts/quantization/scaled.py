"""
Weights in 8 or 4 bits with scales beside them: FP8, int8, NVFP4, MXFP4 and their kin.

The names of compressed-tensors 0.20 (``compressors``), NVIDIA's modelopt, DeepSeek's
checkpoints, transformers 5.24 (``integrations``: finegrained_fp8, fbgemm_fp8, bitnet, eetq,
gemma_quant, mxfp4) and ComfyUI.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from modelinspect.readers.parts.quantization.layer import Found, Layer, ceil_div
from modelinspect.tensors import Quantized, TensorInfo

__all__ = ["blocks", "scaled"]

_OF_WEIGHT = (
    "{}_scale", "{}_scale_inv", "{}_scales", "{}_scale_2", "{}_global_scale", "{}_zero_point", "{}_shape",
    "{}_g_idx", "{}_activation_scale", "scale_{}", "{}_input_scale",
)  # fmt: skip
_OF_MODULE = (
    "input_scale", "input_zero_point", "input_scale_ub", "input_global_scale", "output_scale",
    "output_zero_point", "activation_scale", "input_activation_scale", "output_activation_scale",
    "scale_input", "pre_quant_scale",
)  # fmt: skip
_EXPONENTS = frozenset({"uint8", "float8_e8m0fnu"})
"""Scales that are powers of two, one byte each."""


def scaled(row: TensorInfo, layer: Layer) -> Found | None:
    """A tensor of 8-bit numbers or packed 4-bit ones, with a scale that divides it."""
    leaf = row.name[len(layer.stem) :].removesuffix("_packed").removesuffix("_quantized")
    scale = layer.first(f"{leaf}_scale", f"{leaf}_scale_inv", f"{leaf}_scales", f"scale_{leaf}")
    if scale is None and leaf == "weight":
        scale = layer.get("scale")
    if scale is None or not row.numel or not scale.numel or scale is row or not row.shape:
        return None
    found = _scheme(row, scale, layer, leaf)
    if found is None:
        return None
    scheme, shape, bits = found
    return Found(row, Quantized(scheme, shape, prod(shape), bits, layer.there(_names_beside(leaf))))


@lru_cache(maxsize=64)
def _names_beside(leaf: str) -> tuple[str, ...]:
    own = ("scale",) if leaf == "weight" else ()
    return (*(pattern.format(leaf) for pattern in _OF_WEIGHT), *_OF_MODULE, *own)


_Scheme = tuple[str, tuple[int, ...], float]


def _scheme(row: TensorInfo, scale: TensorInfo, layer: Layer, leaf: str) -> _Scheme | None:
    dtype, shape = row.dtype.name, row.shape
    if dtype.startswith("float8_") and dtype not in _EXPONENTS:
        return _float8(row, scale)
    if dtype in ("float4_e2m1fn", "float4_e2m1fn_x2"):
        held = (*shape[:-1], shape[-1] * row.dtype.packed)
        return _blocks_of_4(held, scale, layer, leaf)
    if dtype == "int8":
        return _int8(row, scale)
    if dtype == "uint8":
        found = _blocks_of_4((*shape[:-1], shape[-1] * 2), scale, layer, leaf)
        return found or _blocks_of_6(shape, scale) or _bytes(row, scale, layer)
    return None


def _float8(row: TensorInfo, scale: TensorInfo) -> _Scheme | None:
    if scale.dtype.name in _EXPONENTS and scale.shape == _last_divided(row.shape, 32):
        return "MXFP8", row.shape, 8
    is_scale = scale.dtype.category == "float" or scale.dtype.name in _EXPONENTS
    return ("FP8", row.shape, 8) if is_scale and _divides(scale.shape, row.shape) else None


def _int8(row: TensorInfo, scale: TensorInfo) -> _Scheme | None:
    if scale.dtype.name == "float8_e8m0fnu":
        # DeepSeek keeps packed 4-bit floats in a signed type.
        held = (*row.shape[:-1], row.shape[-1] * 2)
        return ("MXFP4", held, 4) if scale.shape == _last_divided(held, 32) else None
    if scale.dtype.category != "float" or scale.dtype.bits < 16:
        return None
    if scale.name.endswith("_scales"):
        # EETQ keeps the transposed matrix: [in, out] with a scale an output.
        is_eetq = len(row.shape) == 2 and scale.shape == row.shape[1:]
        return ("EETQ", row.shape[::-1], 8) if is_eetq else None
    return ("int8", row.shape, 8) if _divides(scale.shape, row.shape) else None


def _blocks_of_4(held: tuple[int, ...], scale: TensorInfo, layer: Layer, leaf: str) -> _Scheme | None:
    """4-bit floats: NVFP4 in blocks of 16 under a scale of the whole, MXFP4 in blocks of 32."""
    whole = layer.first(f"{leaf}_scale_2", f"{leaf}_global_scale")
    if scale.dtype.name == "float8_e4m3fn" and whole is not None:
        return ("NVFP4", held, 4) if scale.shape == _last_divided(held, 16) else None
    is_blocks = scale.dtype.name in _EXPONENTS and scale.shape == _last_divided(held, 32)
    return ("MXFP4", held, 4) if is_blocks else None


def _blocks_of_6(shape: tuple[int, ...], scale: TensorInfo) -> _Scheme | None:
    """compressed-tensors' MXFP6: four values in three bytes."""
    if shape[-1] % 3:
        return None
    held = (*shape[:-1], shape[-1] // 3 * 4)
    is_blocks = scale.dtype.name in _EXPONENTS and scale.shape == _last_divided(held, 32)
    return ("MXFP6", held, 6) if is_blocks else None


def _bytes(row: TensorInfo, scale: TensorInfo, layer: Layer) -> _Scheme | None:
    """
    Integers of 2 or 4 bits in bytes: BitNet's ternary [out / 4, in] under one scale; others [out,
    in · bits / 8] with a scale a row, where what another layer gives out tells the bits.
    """
    if len(row.shape) != 2 or scale.dtype.category != "float" or scale.dtype.bits < 16:
        return None
    rows, columns = row.shape
    if scale.numel == 1 and row.name.endswith("weight"):
        return "BitNet", (rows * 4, columns), 2
    fitting = [bits for bits in (2, 4) if columns * 8 // bits in layer.widths()]
    if scale.shape != (rows, 1) or len(fitting) != 1:
        return None
    bits = fitting[0]
    return f"int{bits}", (rows, columns * 8 // bits), bits


def _last_divided(shape: Sequence[int], size: int) -> tuple[int, ...]:
    return (*shape[:-1], ceil_div(shape[-1], size))


def _divides(scale: Sequence[int], shape: Sequence[int]) -> bool:
    """One scale for all, for each row or column, or for each block of eight or more."""
    while scale and scale[-1] == 1 and len(scale) > 1:
        scale = scale[:-1]
    if all(length == 1 for length in scale):
        return True
    if len(scale) > len(shape):
        return False
    return all(length in (1, whole) or length <= ceil_div(whole, 8) for length, whole in zip(scale, shape))


def blocks(row: TensorInfo, layer: Layer) -> Found | None:
    """
    MXFP4 as gpt-oss has it: ``X_blocks`` uint8 [experts, out, in / 32, 16] and ``X_scales`` uint8
    [experts, out, in / 32]. A model of transformers has ``X`` as [experts, in, out].
    """
    leaf = row.name[len(layer.stem) :]
    name = leaf[: -len("blocks")] + "scales"
    scales = layer.get(name)
    if row.dtype.name != "uint8" or scales is None or scales.dtype.name not in _EXPONENTS:
        return None
    if len(row.shape) < 3 or row.shape[-1] != 16 or scales.shape != row.shape[:-1]:
        return None
    *outer, groups, _ = row.shape
    shape = (*outer, groups * 32)
    if leaf.endswith("_blocks") and len(shape) == 3:
        shape = (shape[0], shape[2], shape[1])
    return Found(row, Quantized("MXFP4", shape, row.numel * 2, 4, layer.there((name,))))
