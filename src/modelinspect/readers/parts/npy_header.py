"""
The header of a NumPy array: magic number, version, and a dictionary as Python text.

After numpy 2.4, ``numpy/lib/_format_impl.py``: the length is 16 bits in version 1 and 32
in 2 and 3; the text is Latin-1, in version 3 UTF-8; ``descr``, ``fortran_order`` and
``shape`` are its only keys. Texts of more than 10,000 characters numpy refuses.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from math import prod
from typing import Literal, NamedTuple, NoReturn

from modelinspect.dtypes import BY_NAME, DType
from modelinspect.errors import DamagedFileError, LimitError, visible
from modelinspect.tensors import contiguous_stride

__all__ = ["HEAD_BYTES", "MAGIC", "NpyHeader", "read_header"]

MAGIC = b"\x93NUMPY"
HEAD_BYTES = 128
"""What most headers take; numpy pads them to a multiple of 64."""
MAX_HEADER = 10_000
"""Characters (numpy's own limit)."""
MAX_AXES = 64
"""``NPY_MAXDIMS`` of numpy 2."""
_VERSIONS = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
"""Version to the bytes of the length."""

Read = Callable[[int, int], bytes]
"""Given first byte and length: exactly those bytes, or an error."""


class NpyHeader(NamedTuple):
    """What an array's header says."""

    version: str
    dtype: DType | None
    """None: its elements are no numbers."""
    said: str
    """What the elements are where that needs words, e.g. ``texts``."""
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    """None: contiguous."""
    byteorder: Literal["little", "big"]
    data: int
    """First byte after the header."""

    @property
    def nbytes(self) -> int | None:
        """Bytes of the elements; None where they are no numbers."""
        return None if self.dtype is None else self.dtype.nbytes(prod(self.shape))


class _Dictionary(NamedTuple):
    descr: object
    fortran: bool
    shape: tuple[int, ...]


def read_header(read: Read, target: str) -> NpyHeader:
    """
    Read the header of an array.

    Args:
        read: Reads from the array's first byte on.
        target: Named in errors.

    Raises:
        DamagedFileError: It makes no sense or ends early.
        LimitError: It claims more than a limit allows.
    """
    head = read(0, 8)
    version = head[6], head[7]
    if head[:6] != MAGIC or version not in _VERSIONS:
        _damaged(
            target, f"version {version[0]}.{version[1]} of the format is not known (1.0, 2.0 and 3.0 are)"
        )
    width = _VERSIONS[version]
    length = int.from_bytes(read(8, width), "little")
    if length > MAX_HEADER:
        raise LimitError(
            f"{visible(target)}: the header of an array claims {length:,} bytes",
            details=(f"limit: {MAX_HEADER:,} bytes (numpy's own)",),
        )
    raw = read(8 + width, length)
    found = _plain(raw) or _parsed(raw, "utf-8" if version == (3, 0) else "latin-1", target)
    if len(found.shape) > MAX_AXES or prod(filter(None, found.shape)) >= 1 << 63:
        _damaged(target, f"its shape has more than {MAX_AXES} axes, or more elements than 63 bits can count")
    dtype, order, said = _element(found.descr)
    stride = _fortran_stride(found.shape) if found.fortran else None
    return NpyHeader(
        f"{version[0]}.{version[1]}", dtype, said, found.shape, stride, order, 8 + width + length
    )


# What numpy itself writes of arrays of numbers; an archive may hold a million of them.
_PLAIN = re.compile(
    rb"\{'descr': '([<>|][a-zA-Z][0-9]{1,3})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9, ]*)\), \} *\n"
)
_LENGTHS = re.compile(rb"|[0-9]{1,19},|[0-9]{1,19}(, [0-9]{1,19}){1,64}")


def _plain(raw: bytes) -> _Dictionary | None:
    match = _PLAIN.fullmatch(raw)
    if match is None:
        return None
    descr, fortran, shape = match.groups()
    if not _LENGTHS.fullmatch(shape):
        return None
    lengths = tuple(int(length) for length in shape.split(b",") if length.strip())
    return _Dictionary(descr.decode(), fortran == b"True", lengths)


def _parsed(raw: bytes, encoding: str, target: str) -> _Dictionary:
    """Any header, as a Python literal; nothing is evaluated."""
    import ast

    try:
        text = raw.decode(encoding)
        # Python 2 wrote its long numbers with an L (numpy: _filter_header).
        text = re.sub(r"(?<=[0-9])L(?=[,) ])", "", text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes, which are the file's
            found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        _damaged(target, "its header is not a Python literal")
    if not isinstance(found, dict) or set(found) != {"descr", "fortran_order", "shape"}:
        _damaged(target, "its header is not a dictionary of descr, fortran_order and shape")
    shape, fortran = found["shape"], found["fortran_order"]
    if not isinstance(shape, tuple) or any(type(length) is not int or length < 0 for length in shape):
        _damaged(target, "its shape is not a tuple of sizes")
    if not isinstance(fortran, bool):
        _damaged(target, "its fortran_order is neither True nor False")
    return _Dictionary(found["descr"], fortran, shape)


_DESCR = re.compile(r"([<>=|]?)([a-zA-Z])([0-9]{0,6})(\[.*\])?")
_NUMBERS = {
    "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128",
    "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "b1": "bool",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
    "V1": "bits8", "V2": "bits16",
}  # fmt: skip
_WORDS = {
    "O": "Python objects: np.load would unpickle them; nothing of them was read",
    "U": "texts", "S": "texts", "a": "texts", "m": "time spans", "M": "dates", "V": "raw bytes",
    "f": "floats of a width that is not known here", "c": "complex numbers of a width that is not known here",
}  # fmt: skip
_VOID = {
    "bits8": "raw bytes: the float8 and int4 types of ml_dtypes are saved so",
    "bits16": "raw pairs of bytes: bfloat16 of ml_dtypes is saved so",
}


def _element(descr: object) -> tuple[DType | None, Literal["little", "big"], str]:
    """Data type, byte order and what there is to say."""
    if not isinstance(descr, str):
        objects = f", some of them {_WORDS['O']}" if _holds_objects(descr) else ""
        return None, "little", f"records of several fields{objects}"
    match = _DESCR.fullmatch(descr)
    if match is None:
        objects = f", which hold {_WORDS['O']}" if _holds_objects(descr) else ""
        return None, "little", f"elements of type {visible(repr(descr[:40]))}{objects}"
    order, letter, width, _ = match.groups()
    name = _NUMBERS.get(letter + width)
    if name is None:
        return None, "little", _WORDS.get(letter, f"elements of type {visible(repr(descr[:40]))}")
    return BY_NAME[name], "big" if order == ">" else "little", _VOID.get(name, "")


def _holds_objects(descr: object) -> bool:
    """
    Is one of the elements a Python object?

    A list holds fields, (name, type) or (name, type, shape), a tuple elsewhere is (type, shape);
    a type is a list again or a text in which numpy takes ``O`` and ``object`` at any place.
    """
    waiting = [descr]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if "O" in each or "object" in each:
                return True
        elif isinstance(each, list):
            waiting += [field[1] for field in each if isinstance(field, tuple) and len(field) > 1]
        elif isinstance(each, tuple):
            waiting += each[:1]
    return False


def _fortran_stride(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Of an array whose first axis is the fastest; None where that is the same."""
    stride = contiguous_stride(shape[::-1])[::-1]
    return None if sum(length != 1 for length in shape) < 2 or 0 in shape else stride


def _damaged(target: str, reason: str) -> NoReturn:
    raise DamagedFileError(f"{visible(target)} is not a NumPy array", details=(reason,))
