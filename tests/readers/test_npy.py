"""NumPy arrays and archives: numpy writes them, and numpy says what they hold."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any

import command
import numpy as np
import numpy.typing as npt
import pytest

from modelinspect.errors import CheckpointError, DamagedFileError
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint
from modelinspect.values import read_values

Read = Callable[[bytes], Checkpoint]
Array = npt.NDArray[Any]
NUMBERS = ["f2", "f4", "f8", "c8", "c16", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.fixture
def opened(tmp_path: Path) -> Read:
    """Writes bytes to a file and opens it."""

    def read(raw: bytes) -> Checkpoint:
        path = tmp_path / "x.bin"
        path.write_bytes(raw)
        return open_checkpoint(str(path))

    return read


def saved(array: Any, version: tuple[int, int] | None = None) -> bytes:
    """What numpy makes of one array."""
    with io.BytesIO() as file:
        np.lib.format.write_array(file, np.asarray(array), version)
        return file.getvalue()


def archive(compressed: bool = False, **arrays: Array) -> bytes:
    """What numpy makes of several."""
    with io.BytesIO() as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()


def values(checkpoint: Checkpoint, name: str) -> Array:
    """The numbers of a row, read from its file."""
    with StorageReader() as reader:
        return read_values(checkpoint.table[name], reader.read)


@pytest.mark.parametrize("letters", NUMBERS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_in_both_byte_orders(letters: str, order: str, opened: Read) -> None:
    """Shape, type, bytes and numbers are those that numpy saved."""
    array = np.arange(6).reshape(2, 3).astype(letters).astype(np.dtype(order + letters))
    checkpoint = opened(saved(array))
    row = checkpoint.table["tensor"]
    assert (str(row.dtype), row.shape, row.nbytes) == (array.dtype.name, (2, 3), array.nbytes)
    assert row.storage is not None
    wide = array.dtype.itemsize > 1
    assert row.storage.byteorder == ("big" if order == ">" and wide else "little")
    assert np.array_equal(values(checkpoint, "tensor"), array)
    assert checkpoint.version == "1.0"


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4), (1, 5, 1), (1,) * 30])
@pytest.mark.parametrize("fortran", [False, True])
def test_shapes_and_both_orders_of_axes(shape: tuple[int, ...], fortran: bool, opened: Read) -> None:
    """Scalars, empty arrays, and arrays whose first axis is the fastest."""
    array = np.arange(np.prod(shape, dtype=int), dtype="f4").reshape(shape)
    array = np.asfortranarray(array) if fortran else array
    array = array.reshape(shape, order="F" if fortran else "C")
    checkpoint = opened(saved(array))
    row = checkpoint.table["tensor"]
    assert row.shape == shape
    if fortran and array.size:
        expected = [step // 4 for length, step in zip(array.shape, array.strides) if length > 1]
        assert [step for length, step in zip(row.shape, row.stride) if length > 1] == expected
    if len(shape) <= 5:
        assert np.array_equal(values(checkpoint, "tensor"), array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_the_header(version: tuple[int, int], opened: Read) -> None:
    """Lengths of 16 and 32 bits."""
    checkpoint = opened(saved(np.zeros((2, 3)), version))
    assert checkpoint.version == f"{version[0]}.{version[1]}"
    assert checkpoint.table["tensor"].shape == (2, 3)


OTHERS: dict[str, tuple[Any, str]] = {
    "texts": (np.array(["ab", "c"]), "texts"),
    "bytes": (np.array([b"ab", b"c"]), "texts"),
    "records": (np.zeros(2, [("a", "f4"), ("b", "i2", (2,))]), "records of several fields"),
    "dates": (np.zeros(2, "M8[s]"), "dates"),
    "void": (np.zeros(2, "V7"), "raw bytes"),
}


@pytest.mark.parametrize("case", list(OTHERS))
def test_what_holds_no_numbers_is_named(case: str, opened: Read) -> None:
    """Not a tensor, and a note says what it is."""
    array, expected = OTHERS[case]
    checkpoint = opened(saved(array))
    assert len(checkpoint.table) == 0
    assert checkpoint.table.others == ("tensor",)
    assert any(expected in note for note in checkpoint.notes)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_objects_are_not_unpickled(opened: Read, tmp_path: Path) -> None:
    """An array of objects is a pickle: it is named, and nothing of it runs."""
    proof = tmp_path / "ran"
    array = np.array([Payload(proof)], dtype=object)
    with io.BytesIO() as file:
        np.save(file, array, allow_pickle=True)
        raw = file.getvalue()
    checkpoint = opened(raw)
    assert any("Python objects" in note for note in checkpoint.notes)
    with io.BytesIO() as file:
        np.savez(file, a=array, b=np.zeros(3))
        raw = file.getvalue()
    checkpoint = opened(raw)
    assert [t.name for t in checkpoint.table] == ["b"]
    assert checkpoint.table.others == ("a",)
    assert not proof.exists()


@pytest.mark.parametrize(("letters", "bits"), [("V1", 8), ("V2", 16)])
def test_types_of_ml_dtypes_are_raw_bytes(letters: str, bits: int, opened: Read) -> None:
    """bfloat16 arrives as pairs of bytes without a name: counted, and said."""
    checkpoint = opened(saved(np.zeros((2, 3), letters)))
    row = checkpoint.table["tensor"]
    assert (row.dtype.name, row.shape, row.kind) == (f"bits{bits}", (2, 3), "parameter")
    assert any("ml_dtypes" in note for note in checkpoint.notes)


@pytest.mark.parametrize("compressed", [False, True])
def test_archives_stored_and_deflated(compressed: bool, opened: Read) -> None:
    """Names, shapes and numbers of each array; extents only where the file holds them as they are."""
    arrays: dict[str, Any] = {
        "layer.weight": np.random.default_rng(0).normal(size=(64, 32)).astype("f4"),
        "layer.running_mean": np.zeros(32, ">f8"),
        "layer.num_batches_tracked": np.array(7),
        "t": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 3)),
    }
    checkpoint = opened(archive(compressed, **arrays))
    assert checkpoint.format == "npz"
    assert [t.name for t in checkpoint.table] == list(arrays)
    for name, array in arrays.items():
        row = checkpoint.table[name]
        assert (row.shape, row.nbytes) == (array.shape, array.nbytes)
        assert np.array_equal(values(checkpoint, name), array)
        assert (row.extent is None) == compressed
    assert [t.kind for t in checkpoint.table] == ["parameter", "buffer", "buffer", "parameter", "parameter"]
    assert any("1 of its arrays are stored big-endian" in note for note in checkpoint.notes)


def test_an_archive_of_many_names(opened: Read, cli: command.Cli, tmp_path: Path) -> None:
    """Positions without names, slashes in names, names without ``.npy``, other records."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("encoder/w.npy", saved(np.zeros((2, 2), "f4")))
            zipped.writestr("decoder/w", saved(np.zeros(3, "f4")))
            zipped.writestr("readme.txt", "hello")
        raw = file.getvalue()
    checkpoint = opened(raw)
    assert [(t.name, t.shape) for t in checkpoint.table] == [("encoder/w", (2, 2)), ("decoder/w", (3,))]
    assert checkpoint.table.others == ("readme.txt",)
    assert checkpoint.notes == ()
    path = tmp_path / "model.npz"
    np.savez_compressed(path, np.zeros((100, 100), "f4"), np.zeros(100, "f4"))
    assert cli("count", path).stdout.strip() == "10100"
    assert cli("params", path, "--values").code == 0


def test_a_large_deflated_array_costs_its_header(opened: Read) -> None:
    """Of megabytes of compressed numbers some hundred bytes are unpacked."""
    noise = np.random.default_rng(0).normal(size=300_000)
    raw = archive(True, a=noise, b=noise[:200_000])
    checkpoint = opened(raw)
    assert len(raw) > 3_000_000
    assert checkpoint.bytes_read < 70_000  # the end of the archive is looked for in 64 KiB


def npy(header: str, version: bytes = b"\1\0", data: bytes = bytes(64)) -> bytes:
    """An array with any header."""
    width = "<H" if version[0] == 1 else "<I"
    raw = header.encode("utf-8" if version[0] == 3 else "latin-1")
    return b"\x93NUMPY" + version + struct.pack(width, len(raw)) + raw + data


def header(descr: str = "'<f4'", fortran: str = "False", shape: str = "(2,)") -> str:
    """A header's text."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


NUMPYS = (ValueError, TypeError, EOFError, SyntaxError, RecursionError, MemoryError, TokenError)
BROKEN: dict[str, tuple[bytes, str]] = {
    "version 4": (npy(header(), b"\4\0"), "version 4.0"),
    "a long header": (npy("x" * 20_000), "limit: 10,000"),
    "2^32 characters": (b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(64), "limit: 10,000"),
    "cut header": (npy(header())[:30], "truncated"),
    "no literal": (npy("{'descr': open('x')}"), "not a Python literal"),
    "a call in the shape": (npy(header(shape="(int('2'),)")), "not a Python literal"),
    "brackets": (npy("(" * 9_000), "not a Python literal"),
    "minus signs": (npy("-" * 9_000 + "1"), "not a Python literal"),
    "digits": (npy(header(shape="(" + "9" * 9_000 + ",)")), "not a Python literal"),
    "a list": (npy("[1, 2]"), "not a dictionary"),
    "another key": (
        npy("{'descr': '<f4', 'shape': (2,), 'x': 1}"),
        "not a dictionary",
    ),
    "shape a list": (npy(header(shape="[2]")), "not a tuple"),
    "negative": (npy(header(shape="(-2,)")), "not a tuple"),
    "bool in the shape": (npy(header(shape="(True,)")), "not a tuple"),
    "fortran 1": (npy(header(fortran="1")), "neither True nor False"),
    "2^64 elements": (npy(header(shape="(4294967296, 4294967296)")), "63 bits"),
    "a hundred axes": (npy(header(shape="(1" + ", 1" * 99 + ")")), "64 axes"),
    "numbers missing": (npy(header(shape="(17,)")), "truncated"),
}


@pytest.mark.parametrize("case", list(BROKEN))
def test_broken_headers_have_their_sentences(case: str, opened: Read) -> None:
    """Numpy refuses each of these, too."""
    raw, expected = BROKEN[case]
    with pytest.raises(
        (ValueError, TypeError, EOFError, SyntaxError, RecursionError, MemoryError, TokenError)
    ):
        np.lib.format.read_array(io.BytesIO(raw))
    with pytest.raises(CheckpointError) as caught:
        opened(raw)
    assert expected in str(caught.value)
    assert "x.bin" in caught.value.message


def test_odd_headers_read(opened: Read) -> None:
    """Long numbers of Python 2, bytes behind the array, a text with an odd escape."""
    checkpoint = opened(npy(header(shape="(2L, 3L)")))
    assert checkpoint.table["tensor"].shape == (2, 3)
    assert checkpoint.notes == ("40 bytes follow the array",)
    assert opened(npy(header(descr=r"'\d'"))).table.others == ("tensor",)


def test_an_archive_whose_array_is_short(opened: Read) -> None:
    """A record that holds more or fewer numbers than its header says is damaged."""
    for raw in (saved(np.zeros(9))[:-8], saved(np.zeros(9)) + b"x", b"\x93NUMPY\1", b"no array"):
        with io.BytesIO() as file:
            with zipfile.ZipFile(file, "w") as zipped:
                zipped.writestr("a.npy", raw)
            whole = file.getvalue()
        with pytest.raises(DamagedFileError, match=r"damaged|not a NumPy array"):
            opened(whole)
