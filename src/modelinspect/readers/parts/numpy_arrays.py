"""
NumPy arrays in a pickle, which are tensors by another name, and NumPy's numbers.

An array is ``_reconstruct(ndarray, (0,), b"b")`` given the state (version, shape, data type, is it
in Fortran's order, numbers), or in protocol 5 ``_frombuffer(numbers, data type, shape, order)``
(numpy 2.4, ``numpy/_core/src/multiarray/methods.c`` and ``numpy/_core/numeric.py``; the modules were
called ``numpy.core`` before 2.0). Protocols below 3 have no byte strings: there the numbers are a
text that ``_codecs.encode(text, "latin1")`` turns into bytes, so the file does not hold them as they
are; Python 2 wrote them as its texts, which are bytes.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any, Literal, NamedTuple

from modelinspect.dtypes import BY_NAME, DType
from modelinspect.readers.parts.pickle_symbols import Blob, Call, Global, OutOfBand, PlacedBytes
from modelinspect.tensors import contiguous_stride

__all__ = ["Array", "Numbers", "array_of", "encoded_text", "scalar_text"]

_MAX_AXES = 64
"""``NPY_MAXDIMS`` of numpy 2."""
_MOST = 1 << 63
_LONGEST_SCALAR = 16
"""Bytes of a complex number."""

_DTYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16",
    "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8",
    "b1": "bool", "c8": "complex64", "c16": "complex128",
}  # fmt: skip
_SCALARS = {
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b",
    "u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?",
}  # fmt: skip
ByteOrder = Literal["little", "big"]


class Numbers(NamedTuple):
    """Where the numbers of an array are."""

    position: int | None
    """Byte of the record; None where it doesn't hold them as they are."""
    least: int
    most: int
    """Bounds of their bytes: equal but where a long text was passed over."""


class Array(NamedTuple):
    """An array as the pickle describes it."""

    dtype: DType
    byteorder: ByteOrder
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    """None: contiguous."""
    numbers: Numbers


def array_of(call: Call) -> Array | None:
    """
    The array that a call makes; None where it holds no numbers that torch has, such as texts.

    Raises:
        ValueError: It makes no sense. So do TypeError and IndexError.
    """
    assert type(call.func) is Global
    if call.func.name == "_frombuffer":
        data, dtype, shape, order = call.args[:4]
        axes = call.args[4] if len(call.args) > 4 else None
    else:
        state = call.states[-1] if call.states else None
        if type(state) is not tuple or len(state) not in (4, 5):
            return None
        shape, dtype, is_fortran, data = state[-4:]
        order, axes = "F" if is_fortran else "C", None
    kind = _dtype(dtype)
    if kind is None:
        return None
    sizes = _sizes(shape)
    found, byteorder = kind
    numbers = _numbers(data, found.nbytes(prod(sizes)))
    return Array(found, byteorder, *_laid_out(sizes, order, axes), numbers)


def _dtype(symbol: Any) -> tuple[DType, ByteOrder] | None:
    """``numpy.dtype("f8", False, True)`` given the state (3, "<", ...)."""
    code = _code(symbol)
    if type(code) is Global:
        # bfloat16 and the float8s, which ml_dtypes brings.
        found = BY_NAME.get(code.name) if code.module.endswith("ml_dtypes") else None
    else:
        found = BY_NAME.get(_DTYPES.get(code, "")) if type(code) is str else None
    if found is None:
        return None
    state = symbol.states[-1] if symbol.states else ()
    mark = state[1] if type(state) is tuple and len(state) > 1 else "<"
    return found, "big" if mark == ">" else "little"


def _code(symbol: Any) -> Any:
    if type(symbol) is not Call or type(symbol.func) is not Global or symbol.func.dotted != "numpy.dtype":
        return None
    return symbol.args[0] if type(symbol.args) is tuple and symbol.args else None


def _sizes(shape: Any) -> tuple[int, ...]:
    if type(shape) not in (tuple, list) or len(shape) > _MAX_AXES:
        raise ValueError
    if not all(type(length) is int and 0 <= length < _MOST for length in shape) or prod(shape) >= _MOST:
        raise ValueError
    return tuple(shape)


def _laid_out(
    shape: tuple[int, ...], order: Any, axes: Any
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shape and stride; None is contiguous."""
    if order == "F":
        return shape, contiguous_stride(shape[::-1])[::-1] if len(shape) > 1 else None
    if order != "K" or axes is None:
        return shape, None
    # numpy 2.3: the shape is that of the numbers as they lie, of which the axes are then exchanged.
    if type(axes) not in (tuple, list) or sorted(axes) != list(range(len(shape))):
        raise ValueError
    steps = contiguous_stride(shape)
    return tuple(shape[axis] for axis in axes), tuple(steps[axis] for axis in axes)


def _numbers(data: Any, expected: int) -> Numbers:
    if type(data) is PlacedBytes:
        return Numbers(data.position, len(data), len(data))
    if type(data) is Blob and data.kind == "bytes":
        return Numbers(data.position, data.nbytes, data.nbytes)
    if type(data) is Blob and data.kind == "text":
        # Of Python 2, where texts are bytes.
        return Numbers(data.position, data.nbytes, data.nbytes)
    if type(data) is str or type(data) is Blob:
        # The same in protocol 0, with escapes.
        return Numbers(None, 0, _MOST)
    if type(data) is bytes:
        return Numbers(None, len(data), len(data))
    if type(data) is OutOfBand:
        return Numbers(None, expected, expected)
    text = encoded_text(data)
    if type(text) is str:
        return Numbers(None, len(text), len(text))
    if type(text) is Blob:
        # A character of Latin-1 takes one byte or two in UTF-8, and up to six with an escape.
        return Numbers(None, text.nbytes // (2 if text.kind == "text" else 6), text.nbytes)
    raise ValueError


def encoded_text(symbol: Any) -> Any:
    """The text of ``_codecs.encode(text, "latin1")``."""
    if type(symbol) is not Call or type(symbol.func) is not Global or type(symbol.args) is not tuple:
        return None
    if symbol.func.dotted == "_codecs.encode" and symbol.args:
        return symbol.args[0]
    # What protocol 2 makes of no bytes at all.
    return "" if symbol.func.name == "bytes" and not symbol.args else None


def scalar_text(call: Call) -> str | None:
    """A number of NumPy's, ``scalar(data type, its bytes)``, as Python writes it; None for anything else."""
    if type(call.func) is not Global or not call.func.dotted.endswith(".multiarray.scalar"):
        return None
    if type(call.args) is not tuple or len(call.args) != 2:
        return None
    dtype, raw = call.args
    found, code = _dtype(dtype), _code(dtype)
    text = encoded_text(raw)
    if type(text) is str and len(text) <= _LONGEST_SCALAR:
        raw = text.encode("latin-1", "replace")
    form = _SCALARS.get(code, "") if type(code) is str else ""
    if found is None or not form or not isinstance(raw, bytes) or len(raw) != struct.calcsize(form):
        return None
    return str(struct.unpack((">" if found[1] == "big" else "<") + form, raw)[0])
