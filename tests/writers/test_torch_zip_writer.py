"""
Archives that torch loads without running anything, and other readers take for sound.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelinspect.dtypes import DTYPES, DType, dtype_named
from modelinspect.errors import UsageError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.writers import torch_zip
from modelinspect.writers.entry import Entry
from modelinspect.writers.torch_zip import write_torch_zip

KNOWN = [dtype for dtype in DTYPES if hasattr(torch, dtype.name) and dtype.category != "quantized"]


def _entry(name: str, dtype: DType, shape: tuple[int, ...], raw: bytes) -> Entry:
    return Entry(name, dtype, shape, lambda: [raw[:5], raw[5:]])


def _of(name: str, tensor: torch.Tensor) -> Entry:
    raw = bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""
    return _entry(name, dtype_named(str(tensor.dtype)), tuple(tensor.shape), raw)


def _written(tensors: dict[str, Entry], **options: dict[str, int]) -> bytes:
    stream = io.BytesIO()
    write_torch_zip(stream, tensors, **options)  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.mark.parametrize("dtype", KNOWN, ids=str)
def test_every_data_type_is_loaded(dtype: DType) -> None:
    """Bit for bit; also those that torch has no storage class for."""
    raw = bytes(number % 2 for number in range(6 * dtype.itemsize))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ComplexHalf")
        loaded = torch.load(io.BytesIO(_written({"w": _entry("w", dtype, (2, 3), raw)})), weights_only=True)
        again = io.BytesIO()
        torch.save(loaded, again)
    assert str(loaded["w"].dtype) == f"torch.{dtype}"
    assert loaded["w"].shape == (2, 3)
    with zipfile.ZipFile(again) as archive:  # some types can do nothing but be saved
        assert archive.read("archive/data/0") == raw


def test_a_state_dict_as_torch_saves_it(tmp_path: Path) -> None:
    """Order, ties, scalars, empty tensors, odd names, versions: torch and our reader see the same."""
    shared = torch.randn(3, 4)
    state = OrderedDict({
        "z.weight": shared,
        "a.weight": shared,
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "näme with\nline": torch.ones(300),
        "": torch.ones(1),
    })  # fmt: skip
    path = tmp_path / "out.pt"
    entry = _of("z.weight", shared)
    tensors = {name: entry if tensor is shared else _of(name, tensor) for name, tensor in state.items()}
    path.write_bytes(_written(tensors, versions={"": 1, "z": 2}))
    loaded = torch.load(path, weights_only=True)
    assert type(loaded) is OrderedDict
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert all(loaded[name].stride() == tensor.stride() for name, tensor in state.items())
    assert loaded["a.weight"].data_ptr() == loaded["z.weight"].data_ptr()
    assert vars(loaded)["_metadata"] == {"": {"version": 1}, "z": {"version": 2}}
    table = open_checkpoint(str(path)).table
    assert table.tied_to == {"a.weight": "z.weight"}
    assert table.versions == {"": 1, "z": 2}
    assert torch.load(path, weights_only=True, mmap=True)["scalar"] == 3


def test_records_are_those_of_torch(tmp_path: Path) -> None:
    """The same names in the same order, stored, whole by checksum, each aligned to 64 bytes."""
    tensors = {f"w{number}": torch.randn(number + 1) for number in range(300)}
    ours, theirs = tmp_path / "ours.pt", io.BytesIO()
    ours.write_bytes(_written({name: _of(name, tensor) for name, tensor in tensors.items()}))
    torch.save(OrderedDict(tensors), theirs)
    raw = ours.read_bytes()
    with zipfile.ZipFile(ours) as mine, zipfile.ZipFile(theirs) as model:
        assert mine.testzip() is None
        records = mine.infolist()
        assert [record.filename for record in records] == [record.filename for record in model.infolist()]
        for record, wanted in zip(records, model.infolist()):
            assert (record.file_size, record.compress_type, record.flag_bits) == (
                wanted.file_size,
                zipfile.ZIP_STORED,
                wanted.flag_bits,
            ) or record.filename == "archive/data.pkl"
            name, extra = (int.from_bytes(raw[record.header_offset + at :][:2], "little") for at in (26, 28))
            assert (record.header_offset + 30 + name + extra) % 64 == 0
        pickletools.dis(mine.read("archive/data.pkl"), out=io.StringIO())  # raises where it is unsound
    checkpoint = open_checkpoint(str(ours))
    assert checkpoint.notes == ()
    assert [row.nbytes for row in checkpoint.table] == [tensor.nbytes for tensor in tensors.values()]


@pytest.mark.parametrize("most", [63, 200, 1000])
def test_archives_with_sizes_of_64_bits(most: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What comes with more than 4 GiB, here with more than a few bytes: records, places, and their number."""
    monkeypatch.setattr(torch_zip, "_MOST32", most)
    monkeypatch.setattr(torch_zip, "_MOST16", 3)
    tensors = {f"w{number}": torch.randn(number * 20 + 1) for number in range(9)}
    path = tmp_path / "out.pt"
    path.write_bytes(_written({name: _of(name, tensor) for name, tensor in tensors.items()}))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert open_checkpoint(str(path)).notes == ()


def test_identity_follows_the_content() -> None:
    """Equal archives for equal tensors; another number for others."""

    def identity(*values: float) -> tuple[bytes, bytes]:
        raw = _written({"w": _of("w", torch.tensor(values))}, metadata={"a": 1})
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return archive.read("archive/.data/serialization_id"), raw

    assert identity(1, 2) == identity(1, 2)
    assert identity(1, 2)[0] != identity(1, 3)[0]
    assert len(identity(1)[0]) == 40
    assert identity(1)[0].isdigit()


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=12),
        st.tuples(
            st.sampled_from([torch.float32, torch.int64, torch.uint16]),
            st.lists(st.integers(0, 5), max_size=4),
        ),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=50)
def test_any_names_types_and_shapes(rows: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    """What goes in comes out."""
    state = {name: torch.full(shape, 3, dtype=dtype) for name, (dtype, shape) in rows.items()}
    raw = _written({name: _of(name, tensor) for name, tensor in state.items()})
    loaded = torch.load(io.BytesIO(raw), weights_only=True)
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].float(), tensor.float())


@pytest.mark.parametrize(
    ("dtype", "message"), [("float6_e2m3fn", "no data type"), ("qint8", "scale is not known")]
)
def test_types_that_torch_can_not_load(dtype: str, message: str) -> None:
    """Said before a byte is written."""
    stream = io.BytesIO()
    entry = _entry("w", dtype_named(dtype), (8,), bytes(8))
    with pytest.raises(UsageError, match=message):
        write_torch_zip(stream, {"w": entry})
    assert stream.getvalue() == b""


def test_bytes_that_are_not_as_many_as_claimed() -> None:
    """A fault of the program's, not of a file's."""
    with pytest.raises(ValueError, match="takes 8 bytes"):
        _written({"w": _entry("w", dtype_named("float32"), (2,), bytes(7))})
