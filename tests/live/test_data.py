"""
Data from files of columns and tensors, and from a user's own loader.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import modelinspect as mi
from modelinspect.errors import ModelInspectError, TargetError, UsageError
from modelinspect.live.data import Data, open_data


class Pair(nn.Module):
    """Takes two arguments by name."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 1)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, 3) to (batch, 1)."""
        return self.one(ids) * (1 if mask is None else mask)  # type: ignore[no-any-return]


LINEAR = nn.Linear(3, 1)


def _csv(folder: Path, text: str) -> str:
    path = folder / "data.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


# ------------------------------------------------------------------------ columns


def test_last_column_is_the_target(tmp_path: Path) -> None:
    """All others go in, as one matrix; a note says which is which."""
    data = open_data(_csv(tmp_path, "a,b,c\n1,2,0.5\n3,4,1.5\n"), LINEAR)
    batch = data.whole()
    assert batch.args[0].tolist() == [[1, 2], [3, 4]]
    assert batch.target.tolist() == [[0.5], [1.5]]
    assert (data.size, batch.size) == (2, 2)
    assert data.notes == ("of data.csv: a, b in, c as the target",)


def test_columns_are_chosen_by_name_and_glob(tmp_path: Path) -> None:
    """--x takes globs; a target of integers is one of classes, several targets are a matrix."""
    path = _csv(tmp_path, "p0,p1,name,label\n1,2,x,7\n3,4,y,9\n")
    batch = open_data(path, LINEAR, inputs=("p*",), target=("label",)).whole()
    assert batch.args[0].tolist() == [[1, 2], [3, 4]]
    assert batch.target.tolist() == [7, 9]
    assert batch.target.dtype is torch.int64
    both = open_data(path, LINEAR, inputs=("p1",), target=("p0", "label")).whole()
    assert both.target.tolist() == [[1, 7], [3, 9]]
    assert open_data(path, LINEAR, inputs=("p0",)).whole().target is None


def test_file_without_a_header(tmp_path: Path) -> None:
    """Where the first row is numbers, columns go by their number."""
    batch = open_data(_csv(tmp_path, "1,2,0.5\n3,4,1.5\n"), LINEAR, target=("0",)).whole()
    assert batch.args[0].tolist() == [[2, 0.5], [4, 1.5]]


def test_semicolons_and_tabs_separate_where_there_is_no_comma(tmp_path: Path) -> None:
    """Told by the first line, and said."""
    for mark in (";", "\t"):
        data = open_data(_csv(tmp_path, f"a{mark}b\n1{mark}0.5\n"), LINEAR)
        assert data.whole().args[0].tolist() == [[1]]
        assert data.notes == (f"of data.csv: a in, b as the target (separated by {mark!r})",)


def test_columns_of_one_name_stay_apart(tmp_path: Path) -> None:
    """Each with its own numbers."""
    batch = open_data(_csv(tmp_path, "a,a,y\n1,2,3\n"), LINEAR).whole()
    assert batch.args[0].tolist() == [[1, 2]]


def test_a_glob_does_not_take_the_target_in(tmp_path: Path) -> None:
    """Only by its name does the target go in as well."""
    path = _csv(tmp_path, "a,b,y\n1,2,0.5\n")
    assert open_data(path, LINEAR, inputs=("*",), target=("y",)).whole().args[0].tolist() == [[1, 2]]
    both = open_data(path, LINEAR, inputs=("a", "y"), target=("y",)).whole()
    assert both.args[0].tolist() == [[1, 0.5]]


def test_columns_take_four_bytes_a_number(tmp_path: Path) -> None:
    """A file is read row by row: what it takes in memory is about what it ends in."""
    path = _csv(tmp_path, "a,b,c,d\n" + "0.123456789,0.123456789,0.123456789,0.5\n" * 20_000)
    tracemalloc.start()
    try:
        open_data(path, LINEAR)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 4 * 4 * 20_000


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, with the system's reason."""

    def refuse(*_: object, **__: object) -> Any:
        raise PermissionError(13, "Permission denied")

    path = _csv(tmp_path, "a,b\n1,2\n")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(TargetError, match=r"data\.csv cannot be opened: Permission denied"):
        open_data(path, LINEAR)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1,2,3\n1,x,3\n", {}, "line 2, column 1: 'x' is no number"),
        ("1,2,3\n1,2\n", {}, "line 2: 2 cells, and the first row has 3"),
        ("a,b\n1,2\n\n1,x\n", {}, "line 4, column b: 'x' is no number"),
        ('"a\nc",b\n1,2\n1,x\n', {}, "line 4, column b: 'x' is no number"),
        ("a,b\n1,\n", {}, "line 2, column b is empty"),
        ("a,b\n1,2\n3\n", {}, "data.csv, line 3: 1 cells, and the header has 2"),
        ("a,b\n1,x\n", {}, "line 2, column b: 'x' is no number"),
        ("a,b\n1,2\n", {"inputs": ("z",)}, "has no column 'z'"),
        ("a,b\n1,2\n", {"target": ("aa",)}, "has no column 'aa'"),
        ("a,b\n", {}, "has a header and no rows"),
        ("", {}, "is empty"),
        ("a\n1\n", {}, "has no column left to go in"),
    ],
)
def test_columns_that_are_wrong(text: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Line, column and what was found."""
    with pytest.raises(ModelInspectError) as caught:
        open_data(_csv(tmp_path, text), LINEAR, **options)
    assert message in str(caught.value)


# --------------------------------------------------------------------------- keys

TENSORS = {"ids": torch.randn(4, 3), "mask": torch.ones(4, 1), "y": torch.randn(4, 1)}


def _saved(folder: Path, kind: str, tensors: Any) -> str:
    path = folder / f"data.{kind}"
    if kind == "npz":
        np.savez(path, **{name: value.numpy() for name, value in tensors.items()})
    elif kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("kind", ["pt", "safetensors", "npz"])
def test_keys_go_to_arguments_of_their_name(kind: str, tmp_path: Path) -> None:
    """And y is the target."""
    batch = open_data(_saved(tmp_path, kind, TENSORS), Pair()).whole()
    assert batch.args == ()
    assert torch.equal(batch.kwargs["ids"], TENSORS["ids"])
    assert torch.equal(batch.kwargs["mask"], TENSORS["mask"])
    assert torch.equal(batch.target, TENSORS["y"])


def test_keys_are_renamed(tmp_path: Path) -> None:
    """--x ARGUMENT=KEY; what is not named stays out."""
    path = _saved(tmp_path, "pt", {"rows": TENSORS["ids"], "other": torch.ones(4), "goal": TENSORS["y"]})
    batch = open_data(path, Pair(), inputs=("ids=rows",), target=("goal",)).whole()
    assert list(batch.kwargs) == ["ids"]
    assert torch.equal(batch.target, TENSORS["y"])


def test_a_pair_is_input_and_target(tmp_path: Path) -> None:
    """As torch.save((x, y)) writes it; a dictionary of one input needs no name."""
    x, y = TENSORS["ids"], TENSORS["y"]
    batch = open_data(_saved(tmp_path, "pt", (x, y)), LINEAR).whole()
    assert torch.equal(batch.args[0], x)
    assert torch.equal(batch.target, y)
    batch = open_data(_saved(tmp_path, "pt", {"anything": x, "label": y}), LINEAR).whole()
    assert torch.equal(batch.args[0], x)
    assert torch.equal(batch.target, y)


def test_which_key_goes_where_is_said(tmp_path: Path) -> None:
    """Under its own name, as another argument, as the target; what has no samples is left out."""
    x, y = TENSORS["ids"], TENSORS["y"]
    assert open_data(_saved(tmp_path, "pt", {"x": x, "y": y}), LINEAR).notes == (
        "of data.pt: x in, y as the target",
    )
    two = open_data(_saved(tmp_path, "pt", {"p": x, "q": torch.ones(4, 1)}), Pair())
    assert two.notes == ("of data.pt: p as ids, q as mask in",)
    beside = open_data(_saved(tmp_path, "pt", {"x": x, "epoch": torch.tensor(3), "y": y}), LINEAR)
    assert torch.equal(beside.whole().args[0], x)
    assert beside.notes[1] == "of data.pt: epoch left out, no tensor with samples"


class Sum(nn.Module):
    """Needs two arguments."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Their sum."""
        return a + b


class ByName(nn.Module):
    """Takes whatever it is given by name."""

    def forward(self, **given: Tensor) -> Tensor:
        """One of them."""
        return given["x"]


def test_last_of_a_row_of_tensors_is_the_target_unless_the_model_needs_it(tmp_path: Path) -> None:
    """What is needed goes in first; an argument that can be left out does not take the target."""
    x, y = TENSORS["ids"], TENSORS["y"]
    pair, triple = _saved(tmp_path, "pt", (x, y)), str(tmp_path / "triple.pt")
    torch.save([x, x, y], triple)
    assert torch.equal(open_data(pair, Pair()).whole().target, y)
    assert open_data(pair, Sum()).whole().target is None
    assert len(open_data(pair, Sum()).whole().args) == 2
    assert torch.equal(open_data(triple, Sum()).whole().target, y)
    (tmp_path / "mine.py").write_text("import torch\nloader = [(torch.ones(4, 3), torch.ones(4, 3))]\n")
    assert open_data(f"{tmp_path}/mine.py:loader", Sum()).whole().target is None
    assert open_data(f"{tmp_path}/mine.py:loader", Pair()).whole().target is not None


def test_a_model_that_takes_arguments_by_name_only(tmp_path: Path) -> None:
    """Every key is an argument."""
    batch = open_data(_saved(tmp_path, "pt", {"x": TENSORS["ids"], "y": TENSORS["y"]}), ByName()).whole()
    assert list(batch.kwargs) == ["x"]


def test_arrays_of_numpy(tmp_path: Path) -> None:
    """Any byte order; texts are left out; a lone array is the input."""
    x = np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez(tmp_path / "some.npz", x=x, names=np.array(["a", "b"]))
    data = open_data(str(tmp_path / "some.npz"), LINEAR)
    assert data.whole().args[0].tolist() == x.tolist()
    assert data.notes[1] == "of some.npz: names left out, no tensor with samples"
    np.save(tmp_path / "lone.npy", x)
    assert open_data(str(tmp_path / "lone.npy"), LINEAR).whole().args[0].tolist() == x.tolist()
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(ModelInspectError, match=r"can't be read as \.npy"):
        open_data(str(tmp_path / "bad.npy"), LINEAR)


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ({"ids": torch.ones(4, 3), "y": torch.ones(3)}, {}, "ids has 4, target has 3"),
        ({"ids": torch.ones(4, 3), "strange": torch.ones(4)}, {}, "it is not clear where strange goes"),
        ({"ids": torch.ones(4, 3)}, {"target": ("goal",)}, "holds no 'goal'"),
        ({"ids": torch.ones(4, 3)}, {"inputs": ("idss",)}, "did you mean ids?"),
    ],
)
def test_keys_that_do_not_go_together(
    tensors: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Names, lengths, and what would settle it."""
    with pytest.raises(ModelInspectError) as caught:
        open_data(_saved(tmp_path, "pt", tensors), Pair(), **options)
    assert message in str(caught.value)


def test_pickles_in_data_do_not_run(tmp_path: Path) -> None:
    """A file of tensors beside something that would run code: the tensors are read, nothing runs."""
    marker = tmp_path / "ran"

    class Payload:
        """Touches a file when it is unpickled."""

        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    path = _saved(tmp_path, "pt", {"ids": TENSORS["ids"], "y": TENSORS["y"], "extra": Payload()})
    assert open_data(path, Pair()).size == 4
    np.savez(tmp_path / "evil.npz", x=np.array([Payload()], dtype=object))
    with pytest.raises(ModelInspectError, match=r"can't be read as \.npz"):
        open_data(str(tmp_path / "evil.npz"), Pair())
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.csv", "no such file"), ("data.parquet", "data of this kind can't be read")],
)
def test_files_that_are_not_data(name: str, message: str, tmp_path: Path) -> None:
    """Not there, or of no known kind."""
    if message != "no such file":
        (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(ModelInspectError) as caught:
        open_data(str(tmp_path / name), LINEAR)
    assert message in str(caught.value)


# ------------------------------------------------------------------------ batches


def test_batches_of_an_epoch() -> None:
    """Every sample once; in order without a generator, shuffled alike in inputs and target with one."""
    x = torch.arange(10.0)[:, None]
    data = Data("data", whole=mi_batch(x, x * 2))
    assert [len(batch.target) for batch in data.batches(4, None)] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.args[0] for batch in data.batches(4, None)]), x)
    shuffled = list(data.batches(4, torch.Generator().manual_seed(0)))
    seen = torch.cat([batch.args[0] for batch in shuffled])
    assert not torch.equal(seen, x)
    assert torch.equal(seen.sort(dim=0).values, x)
    assert all(torch.equal(batch.target, batch.args[0] * 2) for batch in shuffled)


def mi_batch(x: Tensor, y: Tensor) -> Any:
    """One batch of everything."""
    from modelinspect.live.inputs import Batch

    return Batch((x,), {}, y, len(x))


# -------------------------------------------------------------------- a user's loader

LOADERS = """
import torch
from torch.utils.data import DataLoader, TensorDataset
x, y = torch.arange(12.0).reshape(4, 3), torch.arange(4.0).reshape(4, 1)
loader = DataLoader(TensorDataset(x, y), batch_size=2)
def make():
    return DataLoader(TensorDataset(x, y), batch_size=2)
def generate():
    print("a word from the loader")
    yield {"ids": x, "y": y}
samples = TensorDataset(x, y)
number = 3
def broken():
    yield x, y
    raise OSError("the disk is gone")
"""


@pytest.mark.parametrize(("name", "batches"), [("loader", 2), ("make", 2), ("generate", 1)])
def test_loader_gives_its_own_batches(name: str, batches: int, tmp_path: Path) -> None:
    """A DataLoader, a function that returns one, a generator of dictionaries."""
    (tmp_path / "mine.py").write_text(LOADERS, encoding="utf-8")
    data = open_data(f"{tmp_path}/mine.py:{name}", Pair())
    assert data.size is None
    for _ in range(2):
        found = list(data.batches(None, None))
        assert len(found) == batches
        assert sum(batch.size or 0 for batch in found) == 4
    whole = data.whole()
    assert whole.target.shape == (4 // batches, 1)


def test_loader_trains_a_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its batches are the steps; what it prints does not get among the results."""
    (tmp_path / "mine.py").write_text(LOADERS, encoding="utf-8")
    report = mi.grads(LINEAR, data=f"{tmp_path}/mine.py:loader", epochs=3, every=1, lr=0.01)
    assert report.history is not None
    assert report.history.steps == (1, 2, 3, 4, 5, 6)
    mi.grads(Pair(), data=f"{tmp_path}/mine.py:generate")
    assert "a word" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("samples", "which gives samples and not batches"), ("number", "is of type int")],
)
def test_what_is_no_loader(name: str, message: str, tmp_path: Path) -> None:
    """A dataset would give samples without the axis of a batch."""
    (tmp_path / "mine.py").write_text(LOADERS, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        open_data(f"{tmp_path}/mine.py:{name}", LINEAR).whole()


def test_loader_that_breaks(tmp_path: Path) -> None:
    """Where in the user's file, and what it said."""
    (tmp_path / "mine.py").write_text(LOADERS, encoding="utf-8")
    with pytest.raises(ModelInspectError) as caught:
        mi.grads(LINEAR, data=f"{tmp_path}/mine.py:broken", epochs=2)
    assert "mine.py:15, in broken" in str(caught.value)
    assert "OSError: the disk is gone" in str(caught.value)
