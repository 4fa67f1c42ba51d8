"""Bytes to numbers: the truth for every data type and every layout is what torch makes of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256, shake_128
from math import inf, nan, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.dtypes import BY_GGML, DTYPES, FURTHER, DType, dtype_named
from modelinspect.errors import CheckpointError, DamagedFileError, LimitError
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Storage, TensorInfo
from modelinspect.values import (
    MAX_OVERLAPPING,
    ReadFunction,
    decode,
    has_number_table,
    iter_chunks,
    number_table,
    read_values,
)

Array = npt.NDArray[Any]
PATTERNS_8 = bytes(range(256))
PATTERNS_16 = np.arange(65536, dtype="<u2").tobytes()
RANDOM = np.random.default_rng(0).bytes(4096)


def same(ours: Array, torchs: torch.Tensor) -> bool:
    """Equal to the bit, except that any NaN equals any NaN."""
    return np.array_equal(ours, torchs.numpy(), equal_nan=ours.dtype.kind in "fc") and np.array_equal(
        np.signbit(ours[~np.isnan(ours)]) if ours.dtype.kind == "f" else [],
        torch.signbit(torchs[~torchs.isnan()]).numpy() if ours.dtype.kind == "f" else [],
    )


def as_torch(raw: bytes, name: str) -> torch.Tensor:
    """The same bytes as a tensor of that type."""
    flat: torch.Tensor = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return flat.view(getattr(torch, name))


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_all_256_patterns_of_each_float8(name: str) -> None:
    """Every byte is the number that torch says, NaN, infinity, minus zero and subnormals included."""
    assert same(decode(PATTERNS_8, dtype_named(name), 256), as_torch(PATTERNS_8, name).float())


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_all_65536_patterns_of_16_bit_floats(name: str) -> None:
    """Every pattern is the number that torch says."""
    ours = decode(PATTERNS_16, dtype_named(name), 65536).astype(np.float32)
    assert same(ours, as_torch(PATTERNS_16, name).float())


@pytest.mark.parametrize(
    "name",
    [
        "float64", "float32", "float16", "int64", "int32", "int16", "int8",
        "uint64", "uint32", "uint16", "uint8", "complex128", "complex64",
    ],
)  # fmt: skip
def test_types_that_numpy_has(name: str) -> None:
    """Random bytes of a type that numpy knows come as that type, equal to torch's."""
    dtype = dtype_named(name)
    ours = decode(RANDOM, dtype, len(RANDOM) // dtype.itemsize)
    assert ours.dtype == np.dtype(name)
    assert same(ours, as_torch(RANDOM, name))


def test_complex32_is_pairs_of_float16() -> None:
    """Real part first; each half as torch reads it."""
    ours = decode(RANDOM, dtype_named("complex32"), 1024)
    assert ours.dtype == np.complex64
    assert same(ours, as_torch(RANDOM, "complex32").to(torch.complex64))


def test_bool_is_anything_but_zero() -> None:
    """A byte other than 0 and 1 in a bool storage is true."""
    assert decode(b"\x00\x01\x02\xff", dtype_named("bool"), 4).tolist() == [False, True, True, True]


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
@pytest.mark.parametrize(("name", "width"), [("qint8", 1), ("quint8", 1), ("qint32", 4)])
def test_quantized_values_are_the_stored_integers(name: str, width: int) -> None:
    """They equal ``int_repr()`` of the quantized tensor."""
    made = torch.quantize_per_tensor(torch.tensor([-1.0, 0.0, 0.5, 90.0]), 0.5, 3, getattr(torch, name))
    integers = made.int_repr()
    raw = bytes(integers.view(torch.uint8).tolist())
    assert len(raw) == 4 * width
    assert decode(raw, dtype_named(name), 4).tolist() == integers.tolist()


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
@pytest.mark.parametrize("name", ["quint4x2", "quint2x4"])
def test_packed_quantized_values_are_in_torchs_order(name: str) -> None:
    """The first value lies in the lowest bits, as torch's own dequantisation shows."""
    scales, zeros = torch.ones(2), torch.zeros(2)
    wanted = torch.tensor([[0.0, 1, 2, 3, 1], [3, 2, 1, 0, 2]])
    made = torch.quantize_per_channel(wanted, scales, zeros, 0, getattr(torch, name))
    assert torch.equal(made.dequantize(), wanted)
    storage = made.untyped_storage()
    raw = bytes(storage[i] for i in range(len(storage)))
    assert decode(raw, dtype_named(name), 10).tolist() == wanted.flatten().tolist()


def test_float4_has_sixteen_values_two_to_a_byte() -> None:
    """E2M1 of the Microscaling specification; the low half of a byte comes first."""
    positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    raw = bytes([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE])
    expected = positive + [-value for value in positive]
    for name, count in (("float4_e2m1fn", 16), ("float4_e2m1fn_x2", 8)):
        ours = decode(raw, dtype_named(name), count)
        assert ours.tolist() == expected
        assert np.signbit(ours[8])


@pytest.mark.parametrize(("name", "mantissa"), [("float6_e2m3fn", 3), ("float6_e3m2fn", 2)])
def test_float6_grows_with_its_pattern(name: str, mantissa: int) -> None:
    """64 numbers packed four to three bytes: ends, smallest step and order are those of the specification."""
    word = sum(pattern << (6 * pattern) for pattern in range(64))
    ours = decode(word.to_bytes(48, "little"), dtype_named(name), 64)
    largest, smallest = {3: (7.5, 0.125), 2: (28.0, 0.0625)}[mantissa]
    assert (ours[31], ours[1], ours[63], ours[0]) == (largest, smallest, -largest, 0.0)
    assert (np.diff(ours[:32]) > 0).all()
    assert (ours[32:] == -ours[:32]).all()


def test_bits_are_patterns() -> None:
    """Types without a number meaning come as unsigned integers."""
    assert decode(b"\xff\x01", dtype_named("bits16"), 1).tolist() == [511]
    for name in ("bits8", "bits1x8", "bits2x4", "bits4x2"):
        assert decode(b"\xff\x01", dtype_named(name), 2).tolist() == [255, 1]


@pytest.mark.parametrize("dtype", [*DTYPES, *(dtype for dtype in FURTHER if dtype.block == 1)], ids=str)
def test_every_data_type_decodes(dtype: DType) -> None:
    """No data type is forgotten, and the table of patterns says what decode says."""
    count = 24
    with np.errstate(invalid="ignore"):
        ours = decode(RANDOM, dtype, count)
        assert ours.shape == (count * dtype.packed,)
        if has_number_table(dtype):
            size = 2**dtype.bits
            assert number_table(dtype).shape[0] == size
            if dtype.bits == 8:
                assert np.array_equal(
                    number_table(dtype).reshape(-1), decode(PATTERNS_8, dtype, 256), equal_nan=True
                )


@pytest.mark.parametrize(
    "name", ["float32", "bfloat16", "int64", "complex64", "complex32", "complex128", "float16"]
)
def test_big_endian_numbers(name: str) -> None:
    """Bytes turned round within each number (each half of a complex one) are the same numbers."""
    dtype = dtype_named(name)
    width = dtype.itemsize // (2 if dtype.category == "complex" else 1)
    turned = np.frombuffer(RANDOM, np.uint8).reshape(-1, width)[:, ::-1].tobytes()
    count = len(RANDOM) // dtype.itemsize
    there, back = decode(RANDOM, dtype, count), decode(turned, dtype, count, "big")
    assert np.array_equal(there, back, equal_nan=dtype.category != "integer")
    assert back.dtype.isnative


# ------------------------------------------------------------ blocks of GGUF

# SHA-256 of what gguf 0.19 (gguf.quants.dequantize) makes of 40 blocks of pseudo-random bytes,
# zero in place of NaN.
BLOCKS = {
    "q4_0": "1a0b1cb92ffe5336",
    "q4_1": "225c58ef1ec20b60",
    "q5_0": "08a3d48b99c7f0a6",
    "q5_1": "d380524263ba81c5",
    "q8_0": "871b2f0552307988",
    "q2_K": "553ffaac403604a8",
    "q3_K": "bff87661b18f28c7",
    "q4_K": "99ad15da047bdb7e",
    "q5_K": "67b4ab8bf0005eab",
    "q6_K": "caa23deb85e2190a",
    "iq4_nl": "1c7b58d368e97227",
    "iq4_xs": "00a53bb58af3f011",
    "tq1_0": "9dd45654655543de",
    "tq2_0": "81b4b8395b6e7fbf",
    "mxfp4": "ecb293d704c27da1",
    "nvfp4": "0684340c2d3d1dbb",
}


@pytest.mark.parametrize("name", list(BLOCKS))
def test_blocks_are_the_numbers_that_gguf_says(name: str) -> None:
    """Every block type that is decoded, to the bit."""
    dtype = dtype_named(name)
    raw = shake_128(name.encode()).digest(40 * dtype.itemsize)
    ours = decode(raw, dtype, 40 * dtype.block)
    assert ours.dtype == np.float32
    whole = np.where(np.isnan(ours), np.float32(0), ours).astype("<f4")
    assert sha256(whole.tobytes()).hexdigest()[:16] == BLOCKS[name]


def test_parts_of_blocks() -> None:
    """Chunks that begin and end inside a block are the same numbers."""
    dtype = dtype_named("q4_K")
    raw = shake_128(b"x").digest(12 * dtype.itemsize)
    everything = decode(raw, dtype, 12 * 256)
    tensor = TensorInfo("w", dtype, (12, 256), Storage("f", "w", 0, len(raw)))
    assert np.array_equal(read_values(tensor, reader(raw)).reshape(-1), everything, equal_nan=True)
    for elements in (100, 256, 1000):
        chunks = np.concatenate(list(iter_chunks(tensor, reader(raw), elements)))
        assert np.array_equal(chunks, everything, equal_nan=True)


def test_blocks_that_are_not_decoded_say_so() -> None:
    """Never wrong numbers: code books of ggml's, and big-endian blocks."""
    undecoded = {dtype.name for dtype in BY_GGML.values() if dtype.block > 1} - set(BLOCKS)
    assert undecoded == {
        "q8_1", "q8_K", "q1_0", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s",
    }  # fmt: skip
    for name in undecoded:
        with pytest.raises(CheckpointError, match="not decoded"):
            decode(RANDOM, dtype_named(name), 256)
    with pytest.raises(CheckpointError, match="big-endian"):
        decode(RANDOM, dtype_named("q4_0"), 32, "big")


# ------------------------------------------------------------- whole tensors


def reader(raw: bytes, asked: list[int] | None = None) -> ReadFunction:
    """Reads from memory; notes how many bytes each call asked for."""

    def read(storage: Storage, first: int, n: int) -> bytes:
        assert 0 <= first <= first + n <= storage.nbytes == len(raw)
        if asked is not None:
            asked.append(n)
        return raw[first : first + n]

    return read


def row(
    dtype: str, shape: tuple[int, ...], nbytes: int, stride: tuple[int, ...] | None = None, offset: int = 0
) -> TensorInfo:
    """A row whose storage has that many bytes."""
    return TensorInfo("w", dtype_named(dtype), shape, Storage("f", "w", 0, nbytes), stride, offset)


VIEWS: dict[str, Any] = {
    "whole": lambda t: t,
    "transposed": lambda t: t.transpose(0, 2),
    "sliced": lambda t: t[1:3, ::2, 1],
    "a column": lambda t: t[:, 0, 0],
    "expanded": lambda t: t[:, :1].expand(-1, 7, -1),
    "expanded to the front": lambda t: t[0, 0, 0].expand(3, 2),
    "scalar": lambda t: t[2, 1, 3],
    "empty": lambda t: t[:, 2:2],
    "windows that overlap": lambda t: t.flatten().unfold(0, 5, 2),
    "diagonal": lambda t: t.diagonal(0, 1, 2),
    "permuted and cut": lambda t: t.permute(1, 2, 0)[1:, :, 1:],
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2", "int16", "complex64", "float64"])
@pytest.mark.parametrize("view", VIEWS)
def test_views_of_a_storage(view: str, dtype: str) -> None:
    """Any view that torch can make of a storage: the same values in the same shape, and chunk by chunk."""
    base = torch.arange(60).to(getattr(torch, dtype)).reshape(4, 3, 5)
    made = VIEWS[view](base)
    raw = bytes(base.flatten().view(torch.uint8).tolist())
    info = row(dtype, tuple(made.shape), len(raw), tuple(made.stride()), made.storage_offset())
    truth = made.to(torch.complex128 if made.is_complex() else torch.float64)
    assert np.array_equal(read_values(info, reader(raw)), truth.numpy())
    for elements in (1, 4, 7, 1000):
        asked: list[int] = []
        chunks = list(iter_chunks(info, reader(raw, asked), elements))
        merged = np.concatenate(chunks) if chunks else np.empty(0)
        times = made.numel() // max(1, merged.size)
        assert sorted(map(str, np.repeat(merged.astype(truth.numpy().dtype), times))) == sorted(
            map(str, truth.numpy().reshape(-1))
        )
        assert max(asked, default=0) <= elements * info.dtype.itemsize
        assert max(map(len, chunks), default=0) <= elements


@given(st.data())
def test_any_strided_view(data: st.DataObject) -> None:
    """Random shapes, strides and offsets: read_values equals as_strided, chunks hold the same elements."""
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=4), label="shape"))
    stride = tuple(
        data.draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape)), label="stride")
    )
    offset = data.draw(st.integers(0, 5), label="offset")
    base = torch.arange(150, dtype=torch.int32)
    made = torch.as_strided(base, shape, stride, offset)
    raw = base.numpy().tobytes()
    info = row("int32", shape, len(raw), stride, offset)
    assert np.array_equal(read_values(info, reader(raw)), made.numpy())
    chunks = list(iter_chunks(info, reader(raw), data.draw(st.integers(1, 40), label="elements")))
    seen = np.concatenate(chunks) if chunks else np.empty(0, np.int32)
    times = made.numel() // max(1, seen.size)
    assert sorted(np.repeat(seen, times).tolist()) == sorted(made.flatten().tolist())


def test_a_contiguous_tensor_comes_in_order_and_in_bounded_reads() -> None:
    """Chunks follow each other without gap; no read is larger than a chunk."""
    numbers = np.arange(10_000, dtype=np.float32)
    asked: list[int] = []
    info = row("float32", (100, 100), numbers.nbytes)
    assert np.array_equal(
        np.concatenate(list(iter_chunks(info, reader(numbers.tobytes(), asked), 300))), numbers
    )
    assert max(asked) <= 1200
    assert sum(asked) == numbers.nbytes


def test_a_transposed_tensor_is_read_once_in_storage_order() -> None:
    """The order of axes costs nothing: the same reads as of the contiguous one."""
    numbers = np.arange(10_000, dtype=np.float32)
    asked: list[int] = []
    info = row("float32", (100, 100), numbers.nbytes, (1, 100))
    assert np.array_equal(
        np.concatenate(list(iter_chunks(info, reader(numbers.tobytes(), asked), 300))), numbers
    )
    assert sum(asked) == numbers.nbytes


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("name", ["float4_e2m1fn", "float6_e2m3fn", "quint2x4", "quint4x2"])
def test_sub_byte_elements_may_begin_inside_a_byte(name: str, offset: int) -> None:
    """A view that begins between two bytes holds the elements from there on."""
    dtype = dtype_named(name)
    raw = RANDOM[:48]
    whole = decode(raw, dtype, 48 * 8 // dtype.bits)
    info = row(name, (11,), len(raw), (1,), offset)
    assert np.array_equal(read_values(info, reader(raw)), whole[offset : offset + 11])
    assert np.array_equal(
        np.concatenate(list(iter_chunks(info, reader(raw), 3))), whole[offset : offset + 11]
    )


def test_pairs_of_float4_double_the_last_axis() -> None:
    """Shape (2, 3) of pairs is (2, 6) of numbers; a scalar pair is two numbers."""
    raw = bytes([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA])
    ours = read_values(row("float4_e2m1fn_x2", (2, 3), 6), reader(raw))
    assert ours.tolist() == [[0.0, 0.5, 1.0, 1.5, 2.0, 3.0], [4.0, 6.0, 0.0, -0.5, -1.0, -1.5]]
    assert read_values(row("float4_e2m1fn_x2", (), 6), reader(raw)).tolist() == [0.0, 0.5]
    with pytest.raises(CheckpointError, match="pairs"):
        read_values(row("float4_e2m1fn_x2", (3, 2), 6, (1, 3)), reader(raw))


def test_the_byte_order_is_the_storages() -> None:
    """A storage marked big-endian is turned round."""
    raw = np.arange(6, dtype=">i4").tobytes()
    info = row("int32", (2, 3), len(raw))
    info = info._replace(storage=Storage("f", "w", 0, len(raw), "cpu", "big"))
    assert read_values(info, reader(raw)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "bad",
    [
        row("float32", (3,), 8),
        row("float32", (2,), 8, (1,), 1),
        row("float32", (2,), 8, (-1,), 1),
        row("float32", (2,), 8, (1,), -1),
        row("float32", (2, 2), 12, (2**70, 1)),
    ],
)
def test_elements_beyond_the_storage_are_an_error(bad: TensorInfo) -> None:
    """What a header claims is checked before anything is read."""
    for attempt in (lambda: read_values(bad, reader(b"")), lambda: list(iter_chunks(bad, reader(b"")))):
        with pytest.raises(DamagedFileError, match="beyond its storage"):
            attempt()


def test_claims_of_a_hostile_header_cost_nothing() -> None:
    """Two to the sixtieth elements of one stored number: one number is read."""
    raw = bytes(8)
    huge = row("float32", (2**30, 2**30), 8, (0, 0))
    assert [chunk.tolist() for chunk in iter_chunks(huge, reader(raw))] == [[0.0]]
    assert read_values(huge, reader(raw)).shape == (2**30, 2**30)
    overlapping = row("float32", (2,) * 32, 4 * 40, (1,) * 32)
    assert overlapping.numel > MAX_OVERLAPPING
    with pytest.raises(LimitError, match="overlap"):
        list(iter_chunks(overlapping, reader(bytes(160))))
    with pytest.raises(LimitError, match="axes"):
        read_values(row("float32", (1,) * 40, 4), reader(bytes(4)))


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3)])
def test_few_elements_far_apart_cost_little(shape: tuple[int, ...]) -> None:
    """Six numbers of a storage of megabytes: six small reads, the values of the view."""
    base = torch.arange(2_000_000, dtype=torch.int32)
    made = torch.as_strided(base, shape, (900_000, 7, 11)[: len(shape)], 5)
    raw = base.numpy().tobytes()
    asked: list[int] = []
    info = row("int32", shape, len(raw), tuple(made.stride()), 5)
    assert np.array_equal(read_values(info, reader(raw, asked)), made.numpy())
    assert asked == [4] * 6


def test_steps_of_axes_of_one_element_mean_nothing() -> None:
    """Torch allows any stride there, however large."""
    info = row("int64", (1, 2, 1), 16, (2**62, 1, 2**62))
    assert read_values(info, reader(bytes(16))).shape == (1, 2, 1)


def test_what_has_no_bytes_is_an_error() -> None:
    """A tensor saved on the meta device has a shape and no values."""
    with pytest.raises(CheckpointError, match="no bytes"):
        read_values(row("float32", (2,), 8)._replace(storage=None), reader(b""))


# --------------------------------------------------------------- torch's files


def torch_tensors() -> dict[str, torch.Tensor]:
    """Several types and views, two names of one tensor among them."""
    base = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    made = {f"made in {name}": base.mul(9).to(getattr(torch, name)) for name in ("float32", "int64", "bool")}
    made.update(
        half=base.bfloat16(),
        transposed=base.double().transpose(0, 2),
        cut=base.half()[1:3, ::2, 1],
        parameter=torch.nn.Parameter(base[0].clone()),
        imaginary=torch.complex(base, -base),
    )
    made["tied"] = made["half"]
    return made


def packed_again(path: Path, change: Callable[[str, bytes], bytes], method: int) -> None:
    """Write the archive anew with changed records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def check_file(path: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """Every value of the file is that of these tensors."""
    table = open_checkpoint(str(path)).table
    with StorageReader() as reader:
        found = {row.name: read_values(row, reader.read) for row in table}
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        assert np.array_equal(found[name], tensor.detach().to(wide).numpy()), name


@pytest.mark.parametrize("is_zip", [True, False])
def test_values_of_torchs_files(tmp_path: Path, is_zip: bool) -> None:
    """What torch.save wrote, today's layout and the legacy one, is what is read."""
    path = tmp_path / "m.pt"
    torch.save(torch_tensors(), path, _use_new_zipfile_serialization=is_zip)
    check_file(path, torch_tensors())


def test_values_of_a_compressed_archive(tmp_path: Path) -> None:
    """Packed again with compression, which torch loads, too: the same values."""
    path = tmp_path / "m.pt"
    torch.save(torch_tensors(), path)
    packed_again(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    check_file(path, torch.load(path))


def test_values_of_a_file_from_a_big_endian_machine(tmp_path: Path) -> None:
    """Bytes turned round and marked as such: torch and this package read the same numbers."""
    path = tmp_path / "m.pt"
    made = {"w": torch.arange(6.0).reshape(2, 3)}
    torch.save(made, path)

    def turned(name: str, data: bytes) -> bytes:
        if name.endswith("/byteorder"):
            return b"big"
        return np.frombuffer(data, "<f4").byteswap().tobytes() if "/data/" in name else data

    packed_again(path, turned, zipfile.ZIP_STORED)
    assert torch.equal(torch.load(path)["w"], made["w"])
    check_file(path, made)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=60), st.integers(1, 20))
def test_chunks_put_together_are_the_whole(numbers: list[float], elements: int) -> None:
    """Whatever the size of a chunk."""
    raw = np.array(numbers, "<f4").tobytes()
    info = row("float32", (len(numbers),), len(raw))
    together = [value for chunk in iter_chunks(info, reader(raw), elements) for value in chunk.tolist()]
    assert together == numbers == read_values(info, reader(raw)).tolist()


def test_special_values_survive() -> None:
    """NaN, infinities and minus zero come as they are."""
    special = np.array([nan, inf, -inf, -0.0], "<f4")
    ours = read_values(row("float32", (4,), 16), reader(special.tobytes()))
    assert np.array_equal(ours, special, equal_nan=True)
    assert np.signbit(ours[3])
    assert prod(ours.shape) == 4
