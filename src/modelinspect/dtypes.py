"""
Data types: bits per element and each format's spelling, one table.

Names are torch's (``torch.float32`` without ``torch.``). Sources: torch 2.13
``torch/storage.py`` for the storage classes and safetensors 0.8 ``tensor.rs``
for its names; ``ggml_type`` and ``GGML_QUANT_SIZES`` of gguf 0.19 for the blocks of
GGUF, ``TensorProto.DataType`` of onnx 1.23 for ONNX. Adding a data type is adding a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "BY_GGML",
    "BY_NAME",
    "BY_ONNX",
    "BY_SAFETENSORS",
    "BY_TORCH_STORAGE",
    "DTYPES",
    "FURTHER",
    "DType",
    "dtype_named",
]

Category = Literal["float", "integer", "complex", "bool", "quantized", "bits"]


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """
    How one element is stored. There is one object a data type, so ``is`` compares.
    """

    name: str
    """Torch's spelling where torch has the type, e.g. ``bfloat16``."""
    bits: int
    """Bits that one element of a shape takes in the file; where :attr:`block` is more
    than 1, that one block of them takes."""
    category: Category
    packed: int = 1
    """Values that one element of a shape stands for: 2 for ``float4_e2m1fn_x2``."""
    torch_storage: str | None = None
    """Name of torch's typed storage class, as old pickles name it."""
    safetensors: str | None = None
    """Spelling in a safetensors header."""
    block: int = 1
    """Elements that are stored together, with scales of their own: 32 for GGUF's ``q4_0``."""

    def nbytes(self, numel: int) -> int:
        """Bytes that *numel* elements take, rounded up to whole blocks and bytes."""
        if self.block > 1:
            return -(-numel // self.block) * self.bits // 8
        return (numel * self.bits + 7) // 8

    def numel(self, nbytes: int) -> int:
        """Elements that so many bytes hold: the other way round."""
        return nbytes * 8 // self.bits * self.block

    @property
    def bits_each(self) -> float:
        """Bits an element, a block's scales included: 4.5 for ``q4_0``."""
        return self.bits / self.block

    @property
    def itemsize(self) -> int:
        """Bytes an element, at least 1 (sub-byte elements share a byte); of a block, all of it."""
        return max(1, self.bits // 8)

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return dtype_named, (self.name,)


DTYPES: tuple[DType, ...] = (
    DType("float64", 64, "float", 1, "DoubleStorage", "F64"),
    DType("float32", 32, "float", 1, "FloatStorage", "F32"),
    DType("float16", 16, "float", 1, "HalfStorage", "F16"),
    DType("bfloat16", 16, "float", 1, "BFloat16Storage", "BF16"),
    DType("int64", 64, "integer", 1, "LongStorage", "I64"),
    DType("int32", 32, "integer", 1, "IntStorage", "I32"),
    DType("int16", 16, "integer", 1, "ShortStorage", "I16"),
    DType("int8", 8, "integer", 1, "CharStorage", "I8"),
    DType("uint8", 8, "integer", 1, "ByteStorage", "U8"),
    DType("bool", 8, "bool", 1, "BoolStorage", "BOOL"),
    DType("uint16", 16, "integer", 1, None, "U16"),
    DType("uint32", 32, "integer", 1, None, "U32"),
    DType("uint64", 64, "integer", 1, None, "U64"),
    DType("complex128", 128, "complex", 1, "ComplexDoubleStorage"),
    DType("complex64", 64, "complex", 1, "ComplexFloatStorage", "C64"),
    DType("complex32", 32, "complex", 1, "ComplexHalfStorage"),
    DType("float8_e4m3fn", 8, "float", 1, None, "F8_E4M3"),
    DType("float8_e5m2", 8, "float", 1, None, "F8_E5M2"),
    DType("float8_e4m3fnuz", 8, "float", 1, None, "F8_E4M3FNUZ"),
    DType("float8_e5m2fnuz", 8, "float", 1, None, "F8_E5M2FNUZ"),
    DType("float8_e8m0fnu", 8, "float", 1, None, "F8_E8M0"),
    # torch stores two 4-bit floats in a byte and its shapes count bytes ...
    DType("float4_e2m1fn_x2", 8, "float", 2),
    # ... safetensors counts the 4-bit values themselves.
    DType("float4_e2m1fn", 4, "float", 1, None, "F4"),
    DType("float6_e2m3fn", 6, "float", 1, None, "F6_E2M3"),
    DType("float6_e3m2fn", 6, "float", 1, None, "F6_E3M2"),
    DType("qint8", 8, "quantized", 1, "QInt8Storage"),
    DType("quint8", 8, "quantized", 1, "QUInt8Storage"),
    DType("qint32", 32, "quantized", 1, "QInt32Storage"),
    # Of these torch's shapes count the small values, several to a byte.
    DType("quint4x2", 4, "quantized", 1, "QUInt4x2Storage"),
    DType("quint2x4", 2, "quantized", 1, "QUInt2x4Storage"),
    DType("bits8", 8, "bits"),
    DType("bits16", 16, "bits"),
    DType("bits1x8", 8, "bits"),
    DType("bits2x4", 8, "bits"),
    DType("bits4x2", 8, "bits"),
)

# Of other formats: the number in GGUF's headers, ggml's name, elements and bytes a block.
_GGML_BLOCKS = (
    (2, "q4_0", 32, 18), (3, "q4_1", 32, 20), (6, "q5_0", 32, 22), (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34), (9, "q8_1", 32, 40),
    (10, "q2_K", 256, 84), (11, "q3_K", 256, 110), (12, "q4_K", 256, 144), (13, "q5_K", 256, 176),
    (14, "q6_K", 256, 210), (15, "q8_K", 256, 292),
    (16, "iq2_xxs", 256, 66), (17, "iq2_xs", 256, 74), (18, "iq3_xxs", 256, 98), (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18), (21, "iq3_s", 256, 110), (22, "iq2_s", 256, 82), (23, "iq4_xs", 256, 136),
    (29, "iq1_m", 256, 56), (34, "tq1_0", 256, 54), (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17), (40, "nvfp4", 64, 36), (41, "q1_0", 128, 18),
)  # fmt: skip
_BLOCKS = {
    number: DType(name, nbytes * 8, "quantized", block=block) for number, name, block, nbytes in _GGML_BLOCKS
}
# ONNX packs its small integers, the first in the lowest bits; its shapes count them one by one.
_SMALL_INTEGERS = tuple(
    DType(name, bits, "integer") for name, bits in (("uint4", 4), ("int4", 4), ("uint2", 2), ("int2", 2))
)
FURTHER: tuple[DType, ...] = (*_BLOCKS.values(), *_SMALL_INTEGERS)
"""Types that neither torch nor safetensors can hold."""

BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in DTYPES}
# torch has second names for some of its types; pickles may hold either.
BY_NAME.update(
    double=BY_NAME["float64"],
    float=BY_NAME["float32"],
    half=BY_NAME["float16"],
    long=BY_NAME["int64"],
    int=BY_NAME["int32"],
    short=BY_NAME["int16"],
    cdouble=BY_NAME["complex128"],
    cfloat=BY_NAME["complex64"],
    chalf=BY_NAME["complex32"],
)
BY_TORCH_STORAGE: dict[str, DType] = {d.torch_storage: d for d in DTYPES if d.torch_storage}
BY_SAFETENSORS: dict[str, DType] = {d.safetensors: d for d in DTYPES if d.safetensors}

BY_GGML: dict[int, DType] = {
    0: BY_NAME["float32"],
    1: BY_NAME["float16"],
    28: BY_NAME["float64"],
    30: BY_NAME["bfloat16"],
    24: BY_NAME["int8"],
    25: BY_NAME["int16"],
    26: BY_NAME["int32"],
    27: BY_NAME["int64"],
    **_BLOCKS,
}
_FURTHER_BY_NAME = {dtype.name: dtype for dtype in FURTHER}
_ONNX_NAMES = (
    "float32 uint8 int8 uint16 int16 int32 int64 string bool float16 float64 uint32 uint64 complex64 "
    "complex128 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz uint4 int4 float4_e2m1fn "
    "float8_e8m0fnu uint2 int2 float6_e2m3fn float6_e3m2fn"
)
_EVERY = {**BY_NAME, **_FURTHER_BY_NAME}
BY_ONNX: dict[int, DType] = {
    number: _EVERY[name] for number, name in enumerate(_ONNX_NAMES.split(), 1) if name in _EVERY
}


def dtype_named(name: str) -> DType:
    """
    The data type of that name; ``torch.float32`` and ``float32`` are the same.

    Raises:
        KeyError: No data type has that name.
    """
    name = name.removeprefix("torch.")
    return _FURTHER_BY_NAME[name] if name in _FURTHER_BY_NAME else BY_NAME[name]
