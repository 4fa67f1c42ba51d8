"""
Files that are byte for byte those of the safetensors library.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from modelinspect.dtypes import DType, dtype_named
from modelinspect.errors import UsageError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.writers.safetensors import Entry, write_safetensors

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.uint16, torch.uint32, torch.uint64, torch.complex64,
]  # fmt: skip
"""All that the library knows, but for the type of which two share a byte."""


def _entry(name: str, tensor: torch.Tensor) -> Entry:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return Entry(name, dtype_named(str(tensor.dtype)), tuple(tensor.shape), lambda: [raw])


def _patterns(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Any bytes at all, but for bool, whose are 0 and 1."""
    numel = torch.Size(shape).numel()
    raw = (torch.arange(numel * dtype.itemsize) * 37 % (2 if dtype is torch.bool else 256)).to(torch.uint8)
    return raw.view(dtype).reshape(shape) if numel else torch.empty(shape, dtype=dtype)


def _written(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    write_safetensors(stream, [_entry(name, tensor) for name, tensor in tensors.items()], metadata)
    return stream.getvalue()


def test_bytes_are_those_of_the_library() -> None:
    """All types together, names that need sorting and escaping, scalars and empty tensors."""
    tensors = {
        f"{name}.{number}": _patterns(dtype, 2, 3)
        for number, dtype in enumerate(DTYPES)
        for name in ("z", "a", 'quote"', "名")
    }
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    assert _written(tensors) == save(tensors)
    assert _written(tensors, {"format": "pt"}) == save(tensors, metadata={"format": "pt"})
    assert _written({}) == save({})


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda name: name != "__metadata__"
)
SHAPES = st.lists(st.integers(0, 3), max_size=3)


@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=6),
    st.none() | st.dictionaries(st.just("only"), NAMES, min_size=1),
)
def test_any_tensors(
    described: dict[str, tuple[torch.dtype, list[int]]], metadata: dict[str, str] | None
) -> None:
    """
    Any names, types and shapes: the library's bytes.

    With one text or none: the order of more is another in each process, and the header that
    the library makes of no tensors and an empty dictionary is no JSON.
    """
    tensors = {name: _patterns(dtype, *shape) for name, (dtype, shape) in described.items()}
    assert _written(tensors, metadata) == save(tensors, metadata=metadata)


def test_numbers_that_share_a_byte(tmp_path: Path) -> None:
    """The format counts numbers of four and six bits; they must fill whole bytes."""
    four = Entry("four", dtype_named("float4_e2m1fn"), (2, 4), lambda: [b"\x10\x32", bytearray(b"\x54\x76")])
    six = Entry("six", dtype_named("float6_e2m3fn"), (4,), lambda: [b"abc"])
    path = tmp_path / "small.safetensors"
    with path.open("wb") as file:
        write_safetensors(file, [four, six])
    assert [(row.name, row.shape) for row in open_checkpoint(str(path)).table] == [
        ("four", (2, 4)),
        ("six", (4,)),
    ]
    pairs = torch.tensor([[0x10, 0x32], [0x54, 0x76]], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    stream = io.BytesIO()
    write_safetensors(stream, [four])
    assert stream.getvalue() == save({"four": pairs})
    with pytest.raises(UsageError, match="can't be written") as caught:
        write_safetensors(stream, [six._replace(shape=(3,))])
    assert "does not fill whole bytes" in str(caught.value)


@pytest.mark.parametrize("length", range(8))
def test_header_is_padded(length: int) -> None:
    """To a multiple of eight bytes, whatever the names are."""
    tensors = {"n" * (length + 1): torch.ones(2)}
    assert _written(tensors) == save(tensors)


def test_what_the_format_lacks() -> None:
    """A type, a second tensor of one name, a name that is no Unicode text."""
    stream = io.BytesIO()
    complex128 = Entry("w", dtype_named("complex128"), (1,), lambda: [b"\0" * 16])
    float32: DType = dtype_named("float32")
    one = Entry("w", float32, (1,), lambda: [b"\0" * 4])
    for entries, message in (
        ([complex128], "has no data type complex128"),
        ([one, one], "that name is taken"),
        ([one._replace(name="\udc80")], "can't be written as UTF-8"),
        ([one._replace(name="__metadata__")], "that name is taken"),
    ):
        with pytest.raises(UsageError, match=message):
            write_safetensors(stream, entries, {})
        with pytest.raises(UsageError, match=message):
            write_safetensors(stream, entries)
    assert stream.getvalue() == b""
    with pytest.raises(ValueError, match="takes 8 bytes, and 4 came"):
        write_safetensors(stream, [one._replace(shape=(2,))])


def test_header_that_is_too_long() -> None:
    """The format allows 100,000,000 bytes, and so does every reader."""
    stream = io.BytesIO()
    entry = Entry("n" * 100_000_000, dtype_named("float32"), (0,), list)
    with pytest.raises(UsageError, match=r"a header of 100,000,\d\d\d bytes"):
        write_safetensors(stream, [entry])
    assert stream.getvalue() == b""
