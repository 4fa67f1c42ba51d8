"""
Pickles that torch.save did not write: tensors and arrays in them are found, and nothing is run.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_truth
from torch import nn

from modelinspect.api import count
from modelinspect.errors import DamagedFileError, LimitError, ModelInspectError, UnrecognisedFileError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint


def read(path: Path) -> Checkpoint:
    """As a user opens it."""
    return open_checkpoint(str(path))


def dumped(value: Any, folder: Path, protocol: int = 4) -> Path:
    """What pickle.dump writes."""
    path = folder / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def state_dict() -> dict[str, Any]:
    """Of several kinds and sizes, one larger than what is kept of a byte string."""
    return {
        "w": torch.arange(6.0).reshape(2, 3),
        "parameter": nn.Parameter(torch.ones(3)),
        "view": torch.arange(16.0).reshape(4, 4)[1:, ::2],
        "large": torch.arange(5_000, dtype=torch.int16),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_are_read_as_pickle_loads_them(protocol: int, tmp_path: Path) -> None:
    """Names, shapes, data types, strides, offsets and sizes of storages, in all six protocols."""
    path = dumped(state_dict(), tmp_path, protocol)
    checkpoint = read(path)
    torch_truth.assert_equal(checkpoint, pickle.loads(path.read_bytes()))
    assert checkpoint.format == "pickle"
    assert checkpoint.version == (str(protocol) if protocol > 1 else "before 2")
    assert not [note for note in checkpoint.notes if "usual way" in note]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_extents_hold_the_numbers(protocol: int, tmp_path: Path) -> None:
    """The place of each tensor and array is exact in the outer file."""
    values = {**state_dict(), "array": np.arange(7.0), "scalar": np.array(5, np.int16)}
    path = dumped(values, tmp_path, protocol)
    raw = path.read_bytes()
    for row in read(path).table:
        extent, value = row.extent, values[row.name]
        assert extent is not None
        if row.is_contiguous:
            numbers = (
                value if isinstance(value, np.ndarray) else value.detach().flatten().view(torch.uint8).numpy()
            )
            assert raw[extent.offset : extent.offset + extent.nbytes] == numbers.tobytes()


def test_bytes_of_large_tensors_are_not_read(tmp_path: Path) -> None:
    """Ten megabytes of numbers: some kilobytes are read."""
    path = dumped({str(number): torch.zeros(500_000) for number in range(5)}, tmp_path)
    checkpoint = read(path)
    assert count(checkpoint).unique == 2_500_000
    assert checkpoint.bytes_read < 20_000


def test_a_tensor_pickled_twice_is_not_tied(tmp_path: Path) -> None:
    """Plain pickling writes the storage once for each tensor; what is one object stays one."""
    weight = torch.ones(4)
    path = dumped({"a": weight, "same": weight, "view": weight[:]}, tmp_path)
    checkpoint = read(path)
    torch_truth.assert_equal(checkpoint, pickle.loads(path.read_bytes()))
    assert checkpoint.table.tied_to == {"same": "a"}


ARRAYS: dict[str, Any] = {
    "double": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.ones((2, 3, 4), np.float32)),
    "big-endian": np.ones(3, ">f4"),
    "integers": np.arange(5, dtype=np.uint16),
    "complex": np.ones(2, np.complex64),
    "scalar": np.array(1.5),
    "empty": np.zeros((0, 3)),
    "boolean": np.array([True, False]),
    "strided": np.arange(12.0).reshape(3, 4)[::2, ::2],
    "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "long": np.zeros(400_000),
    "matrix": np.ones((2, 2)).view(np.recarray),
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_are_tensors(protocol: int, tmp_path: Path) -> None:
    """Shape, data type, order of axes and byte order of every array of numbers."""
    path = dumped(ARRAYS, tmp_path, protocol)
    rows = {row.name: row for row in read(path).table}
    assert set(rows) == set(ARRAYS)
    for name, array in pickle.loads(path.read_bytes()).items():
        row = rows[name]
        assert row.shape == array.shape
        assert str(row.dtype) == array.dtype.name
        assert row.storage is not None
        assert row.storage.byteorder == ("big" if ARRAYS[name].dtype.byteorder == ">" else "little")
        if array.size > 1:
            assert row.stride == tuple(step // array.itemsize for step in array.strides)


def test_arrays_of_other_things_are_no_tensors(tmp_path: Path) -> None:
    """Texts, dates and records hold no numbers of torch's; an array of objects holds what they are."""
    values = {
        "texts": np.array(["a", "bc"]),
        "dates": np.array(["2020-01-01"], "M8[D]"),
        "records": np.zeros(2, [("x", "f4"), ("y", "i4")]),
        "objects": np.array([None, np.zeros(4)], dtype=object),
    }
    table = read(dumped(values, tmp_path)).table
    assert [row.name for row in table] == ["objects.1"]
    assert set(table.others) == {"texts", "dates", "records"}


class Estimator:
    """Of the kind that scikit-learn's are: arrays as attributes."""

    def __init__(self) -> None:
        self.coef_ = np.ones((3, 5))
        self.steps = [("scale", np.zeros(5)), ("bias", np.float32(0.5))]


def test_arrays_in_foreign_objects(tmp_path: Path) -> None:
    """Named by the attribute; the class is said to be imported when the file is loaded."""
    checkpoint = read(dumped(Estimator(), tmp_path))
    assert {row.name: row.shape for row in checkpoint.table} == {"coef_": (3, 5), "steps.0.1": (5,)}
    assert any("Estimator" in note for note in checkpoint.notes)


@pytest.mark.parametrize("legacy", [False, True])
def test_arrays_in_files_of_torch_save(legacy: bool, tmp_path: Path) -> None:
    """They are found there as well: beside tensors as something else, alone as the model."""
    path = torch_truth.save({"w": np.zeros(3), "n": np.float64(0.5)}, tmp_path / "x.pt", legacy=legacy)
    checkpoint = read(path)
    [row] = checkpoint.table
    assert (row.name, row.shape, row.kind) == ("w", (3,), "parameter")
    assert checkpoint.metadata["n"] == "0.5"
    state = {"state_dict": {"w": torch.zeros(2)}, "rng": np.random.get_state()}
    mixed = read(torch_truth.save(state, tmp_path / "y.pt", legacy=legacy))
    assert mixed.roles == {"state_dict": "model", "rng": "other"}
    beside = read(
        torch_truth.save({"w": torch.zeros(2), "mean": np.zeros(9)}, tmp_path / "z.pt", legacy=legacy)
    )
    assert {row.name: row.kind for row in beside.table} == {"w": "parameter", "mean": "other"}
    assert count(beside).unique == 2


def test_numbers_of_numpy_are_metadata(tmp_path: Path) -> None:
    """A scalar of any data type is the number that Python shows for it."""
    kinds = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
    for protocol in (2, 4):
        scalars = {kind: np.dtype(kind).type(1) for kind in kinds}
        found = read(dumped(scalars, tmp_path, protocol)).metadata
        assert found == {kind: str(scalar.item()) for kind, scalar in scalars.items()}


PYTHON2_ARRAY = (
    b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tb\x89U\x08\x00\x00\x80\x3f\x00\x00\x00\xc0tbs."
)


def test_arrays_of_python_2(tmp_path: Path) -> None:
    """Its texts are bytes: the place of the numbers is known."""
    path = tmp_path / "x.pkl"
    path.write_bytes(PYTHON2_ARRAY)
    loaded = pickle.loads(PYTHON2_ARRAY, encoding="latin-1")
    assert loaded["w"].tolist() == [1.0, -2.0]
    [row] = read(path).table
    assert row.extent is not None
    assert PYTHON2_ARRAY[row.extent.offset :][: row.extent.nbytes] == loaded["w"].tobytes()


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_without_tensors_is_opened(protocol: int, tmp_path: Path) -> None:
    """It is a checkpoint of none, with a note that says so."""
    checkpoint = read(dumped({"classes": ["cat", "dog"], "n": 2}, tmp_path, protocol))
    assert len(checkpoint.table) == 0
    assert "it holds no tensor" in checkpoint.notes
    assert checkpoint.metadata == {"n": "2"}


TEXTS = {
    "CSV": "(a,b)\n1,2\n3,4\n",
    "CSV with a header": "class,count\ncat,3\ndog,4\n",
    "one column": "class\ncat\ndog\n",
    "Python": "def f():\n    return 1\n",
    "Python with a call": "(lambda: 1)()\n",
    "Python with an import": "class Net:\n    pass\n",
    "JSON": "]",
    "JSON with brackets": "}{\n",
    "a list in brackets": "()()()()\n",
    "a log": "loading data\nloss 0.5\n",
    "Lisp": "(defun f (x) (+ x 1))\n",
    "a word": "dance",
    "lines of one letter": "c\na\nb\n(t.\n" * 3 + "and so on",
}


@pytest.mark.parametrize("kind", list(TEXTS))
@pytest.mark.parametrize("suffix", [".txt", ".pkl", ".pt"])
def test_texts_are_no_pickles(kind: str, suffix: str, tmp_path: Path) -> None:
    """What only begins as a pickle of protocol 0 may is no checkpoint, and not a damaged one."""
    path = tmp_path / f"x{suffix}"
    path.write_text(TEXTS[kind] * 3)
    with pytest.raises(UnrecognisedFileError):
        read(path)


@pytest.mark.parametrize("protocol", range(6))
def test_a_truncated_pickle_is_damaged(protocol: int, tmp_path: Path) -> None:
    """What Python began to write and did not end is a pickle all the same."""
    path = dumped(collections.OrderedDict(a=np.zeros(9), b=[1, 2, 3]), tmp_path, protocol)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DamagedFileError):
        read(path)


def test_what_follows_the_pickle_is_said(tmp_path: Path) -> None:
    """Loaders stop at the first one's end; how much there is behind it is a note."""
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"w": np.zeros(3)}) + pickle.dumps("more"))
    assert any("bytes follow the pickle" in note for note in read(path).notes)


def test_a_pickle_taken_out_of_its_archive(tmp_path: Path) -> None:
    """Its storages are elsewhere: the error says so."""
    import zipfile

    with zipfile.ZipFile(torch_truth.save({"w": torch.zeros(2)}, tmp_path / "x.pt")) as archive:
        (tmp_path / "data.pkl").write_bytes(archive.read("x/data.pkl"))
    with pytest.raises(DamagedFileError, match=r"kept outside this file"):
        read(tmp_path / "data.pkl")


def test_joblib_is_named(tmp_path: Path) -> None:
    """Its arrays lie between the opcodes: named and refused."""
    path = tmp_path / "x.joblib"
    path.write_bytes(
        b"\x80\x04\x95\x20\0\0\0\0\0\0\0\x8c\x13joblib.numpy_pickle\x8c\x11NumpyArrayWrapper\x93)\x81}b\xff\xff"
    )
    with pytest.raises(UnrecognisedFileError, match="joblib"):
        read(path)


class Loads:
    """Pickles as ``torch.storage._load_from_bytes(value)``."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.value,)


def test_files_inside_files_end(tmp_path: Path) -> None:
    """A file inside a file inside ... is an error that names the limit; many that are one are read once."""
    value: Any = torch.zeros(2)
    for _ in range(12):
        inner = torch_truth.save([Loads(b"no file"), value], tmp_path / "inner.pt", legacy=True)
        value = Loads(inner.read_bytes())
    with pytest.raises(LimitError, match="claims more"):
        read(dumped(value, tmp_path))
    one = torch_truth.save(torch.zeros(20_000), tmp_path / "inner.pt", legacy=True).read_bytes()
    checkpoint = read(dumped([Loads(one) for _ in range(3_000)], tmp_path))
    assert checkpoint.bytes_read < 1_000_000


def test_a_broken_file_inside(tmp_path: Path) -> None:
    """Named, with the tensor's file; bytes that are no file leave the tensor without a storage."""
    raw = torch_truth.save(torch.zeros(5_000), tmp_path / "inner.pt", legacy=True).read_bytes()
    with pytest.raises(DamagedFileError):
        read(dumped({"w": Loads(raw[:-100])}, tmp_path))
    assert len(read(dumped({"w": Loads(b"something else")}, tmp_path)).table) == 0


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"echo ran > {self.marker}",)


def test_nothing_inside_runs(tmp_path: Path) -> None:
    """A payload in the file inside is listed with its name, and no marker file appears."""
    marker = tmp_path / "marker"
    inner = torch_truth.save([Payload(marker)], tmp_path / "inner.pt", legacy=True)
    checkpoint = read(dumped({"a": Loads(inner.read_bytes()), "w": torch.zeros(2)}, tmp_path))
    assert not marker.exists()
    assert "system" in {name.name for name in checkpoint.globals if not name.understood}
    pickle.loads((tmp_path / "x.pkl").read_bytes())
    assert marker.exists()


HOSTILE_ARRAYS = {
    "too few numbers": (b"(K\x01K\x09\x85", DamagedFileError),
    "an axis of 2**62": (b"(K\x01\x8a\x08\0\0\0\0\0\0\0\x40\x85", DamagedFileError),
    "a million axes": (b"(K\x01(" + b"K\x01" * 100_000 + b"t", DamagedFileError),
    "a negative axis": (b"(K\x01J\xff\xff\xff\xff\x85", DamagedFileError),
    "a shape that is none": (b"(K\x01N", DamagedFileError),
}


@pytest.mark.parametrize("kind", list(HOSTILE_ARRAYS))
def test_hostile_arrays(kind: str, tmp_path: Path) -> None:
    """A shape that the numbers don't fill is an error that names the array."""
    start, error = HOSTILE_ARRAYS[kind]
    raw = PYTHON2_ARRAY.replace(b"(K\x01K\x02\x85", start)
    path = tmp_path / "x.pkl"
    path.write_bytes(raw)
    with pytest.raises(error) as caught:
        read(path)
    assert "'w'" in str(caught.value)


def test_a_line_without_end_costs_little(tmp_path: Path) -> None:
    """A text of protocol 0 of many megabytes is passed over, or is an error."""
    path = tmp_path / "x.pkl"
    path.write_bytes(b"(lp0\nV" + b"a" * 5_000_000 + b"\na.")
    assert len(read(path).table) == 0
    path.write_bytes(b"(lp0\nV" + b"a" * 80_000_000)
    with pytest.raises(ModelInspectError, match="claims more"):
        read(path)


def test_files_inside_that_are_not_looked_into_are_said(tmp_path: Path) -> None:
    """Only the layout of before 1.6 is read inside a byte string: what else would be loaded is a note."""
    inside = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, inside)
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps([Loads(inside.getvalue()), torch.zeros(3)]))
    assert any("further file in its byte strings" in note for note in read(path).notes)
    path.write_bytes(pickle.dumps([torch.zeros(3)]))
    assert not read(path).notes


def test_a_large_dictionary_of_numbers_is_looked_through_once(tmp_path: Path) -> None:
    """Entries without a tensor are named, up to a limit, and the tensor beside them is found."""
    path = tmp_path / "x.pkl"
    numbers = dict.fromkeys(range(5_000))
    path.write_bytes(pickle.dumps(numbers))
    assert read(path).table.others[:2] == ("0", "1")
    assert len(read(path).table.others) == 1_000
    path.write_bytes(pickle.dumps({**numbers, "w": torch.zeros(3)}))
    assert [row.name for row in read(path).table] == ["w"]
