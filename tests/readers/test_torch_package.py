"""
Archives of torch.package: what PackageExporter wrote, and what PackageImporter makes of it.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_truth
from torch import nn
from torch.package import package_exporter
from torch.package.package_exporter import PackageExporter
from torch.package.package_importer import PackageImporter

import modelinspect as mi
from modelinspect.errors import DamagedFileError, LimitError
from modelinspect.readers.formats import torch_package
from modelinspect.tensors import Checkpoint

SOURCE = '''
import pathlib
import torch
from torch import nn

folder = pathlib.Path(__file__).parent / "imported"
if folder.parent.is_dir():
    folder.mkdir(exist_ok=True)


class Net(nn.Module):
    """Of a module that is packed with it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("mean", torch.ones(2))
        self.register_buffer("passing", torch.ones(5), persistent=False)

    def forward(self, x):
        return self.linear(x)
'''


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    """An instance of a class in a module of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "packed_net.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)
    # torch's importer runs the module, too, as a file of the current folder.
    monkeypatch.chdir(tmp_path)
    yield importlib.import_module("packed_net").Net()
    del sys.modules["packed_net"]


def packed(path: Path, fill: Callable[[PackageExporter], None]) -> Path:
    """A package without torch's own warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with PackageExporter(str(path)) as exporter:
            exporter.intern("packed_net")
            exporter.extern(["numpy.**", "math"])
            fill(exporter)
    return path


def imported(path: Path, package: str, resource: str) -> Any:
    """The object as torch makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PackageImporter(str(path)).load_pickle(package, resource)


def read(path: Path) -> Checkpoint:
    """Open as a user would."""
    return mi.open_checkpoint(str(path))


def test_a_module_is_what_torch_makes_of_it(net: nn.Module, tmp_path: Path) -> None:
    """Names, kinds and classes of a whole module, whose class is in the package alone."""
    path = packed(tmp_path / "net.pt", lambda exporter: exporter.save_pickle("model", "net.pkl", net))
    checkpoint = read(path)
    assert (checkpoint.format, checkpoint.version) == ("torch-package", "6")
    torch_truth.assert_equal(checkpoint, imported(path, "model", "net.pkl"))
    kinds = {row.name: (row.kind, row.persistent) for row in checkpoint.table}
    assert kinds["linear.weight"] == ("parameter", None)
    assert (kinds["mean"], kinds["passing"]) == (("buffer", True), ("buffer", False))
    assert checkpoint.table.modules == {"": "Net", "linear": "Linear"}
    assert mi.count(checkpoint).unique == mi.count(net).unique == 16


def test_source_is_named_and_not_imported(net: nn.Module, tmp_path: Path) -> None:
    """What would be imported is said, and is not."""
    path = packed(tmp_path / "net.pt", lambda exporter: exporter.save_pickle("model", "net.pkl", net))
    proof = tmp_path / "source" / "imported"
    proof.rmdir()
    checkpoint = read(path)
    assert not proof.exists()
    assert checkpoint.facts["Python sources"] == "1, imported when it is loaded: packed_net.py"
    assert "torch.nn.modules.linear" in checkpoint.facts["external modules"]
    assert checkpoint.facts["written by"].startswith("Python 3.")
    assert any("packed_net.Net" in note for note in checkpoint.notes)
    loading = mi.info(checkpoint).loading
    assert loading is not None
    assert loading.verdict == "yes"


def test_several_pickles_are_sections(net: nn.Module, tmp_path: Path) -> None:
    """A section each; the module is taken for the model, and what they share is tied."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()

    weight = net.get_parameter("linear.weight")

    def fill(exporter: PackageExporter) -> None:
        exporter.save_pickle("model", "net.pkl", net)
        exporter.save_pickle("model", "weights", {"a": torch.zeros(3, dtype=torch.bfloat16), "b": weight})
        exporter.save_pickle("train", "optimizer.pkl", optimizer.state_dict())
        exporter.save_pickle("train", "settings.pkl", {"lr": 0.5})
        exporter.save_text("train", "readme.txt", "hello")

    checkpoint = read(packed(tmp_path / "net.pt", fill))
    assert checkpoint.roles == {
        "model/net.pkl": "model", "model/weights": "model", "train/optimizer.pkl": "optimizer",
    }  # fmt: skip
    assert checkpoint.model_section == "model/net.pkl"
    assert checkpoint.optimizers["train/optimizer.pkl"].groups[0].settings["lr"] == 0.5
    assert [row.dtype.name for row in checkpoint.tables["model/weights"]] == ["bfloat16", "float32"]
    tied = checkpoint.section("all").tied_to
    assert tied == {"model/weights.b": "model/net.pkl.linear.weight"}
    assert checkpoint.facts["pickles"] == "4"


def test_graph_modules_take_themselves_apart(tmp_path: Path) -> None:
    """A GraphModule is written as a reference that its own class makes: it is read, not made."""
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))

    def fill(exporter: PackageExporter) -> None:
        exporter.save_pickle("alone", "net.pkl", traced)
        exporter.save_pickle("inside", "net.pkl", {"net": traced, "step": 3})

    checkpoint = read(packed(tmp_path / "net.pt", fill))
    names = [row.name for row in checkpoint.tables["alone/net.pkl"]]
    assert names == ["0.weight", "0.bias"]
    assert all(row.kind == "parameter" for row in checkpoint.tables["alone/net.pkl"])
    [inside] = [name for name in checkpoint.tables if name.startswith("inside")]
    assert {row.shape for row in checkpoint.tables[inside]} == {(4, 3), (4,)}


def test_scripted_modules_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchScript in a package: parameters told from buffers by its code."""
    monkeypatch.setattr(package_exporter, "_gate_torchscript_serialization", False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.BatchNorm1d(6))
    path = packed(tmp_path / "net.pt", lambda exporter: exporter.save_pickle("model", "net.pkl", scripted))
    table = read(path).table
    kinds = {row.name: row.kind for row in table}
    assert kinds == {
        "weight": "parameter", "bias": "parameter", "running_mean": "buffer", "running_var": "buffer",
        "num_batches_tracked": "buffer",
    }  # fmt: skip


def test_a_package_without_tensors(tmp_path: Path) -> None:
    """Text and settings alone: an empty table and a note."""
    checkpoint = read(
        packed(tmp_path / "x.pt", lambda exporter: exporter.save_pickle("a", "b.pkl", {"c": 1}))
    )
    assert len(checkpoint.table) == 0
    assert any("holds no tensor" in note for note in checkpoint.notes)


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def again(path: Path, changes: dict[str, bytes | None]) -> Path:
    """The archive, packed again with other records; None leaves one out."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    root = next(iter(records)).partition("/")[0]
    for name, content in changes.items():
        records.pop(f"{root}/{name}", None)
        if content is not None:
            records[f"{root}/{name}"] = content
    with zipfile.ZipFile(path, "w") as new:
        for name, content in records.items():
            new.writestr(name, content)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One tensor."""
    return packed(
        tmp_path / "x.pt", lambda exporter: exporter.save_pickle("a", "b.pkl", {"w": torch.ones(6)})
    )


def test_nothing_is_run(small: Path, tmp_path: Path) -> None:
    """A pickle that would make a folder is named and makes none."""
    proof = tmp_path / "proof"
    checkpoint = read(again(small, {"a/evil.pkl": pickle.dumps(_Runs(proof))}))
    assert any("mkdir" in note for note in checkpoint.notes)
    assert not proof.exists()


def test_a_reference_that_makes_objects_is_not_followed(small: Path, tmp_path: Path) -> None:
    """("reduce_package", id, function, arguments) calls any function when torch loads it."""
    proof = tmp_path / "proof"

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("reduce_package", 1, os.mkdir, (str(proof),)) if value == "here" else None

    with (tmp_path / "made").open("wb") as file:
        Pickler(file, protocol=3).dump({"x": "here"})
    checkpoint = read(again(small, {"a/evil.pkl": (tmp_path / "made").read_bytes()}))
    assert any("mkdir" in note for note in checkpoint.notes)
    assert not proof.exists()


def test_a_storage_that_is_missing_or_short(small: Path) -> None:
    """Bytes that a pickle wants and the archive lacks: an error that names the record."""
    for content, expected in ((None, "is missing"), (b"1234", "holds 4 bytes, the pickle claims 24")):
        with pytest.raises(DamagedFileError) as caught:
            read(again(small, {".data/0.storage": content}))
        assert expected in str(caught.value)


def test_more_pickles_than_are_looked_into(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first are read, and the others are said to be there."""
    monkeypatch.setattr(torch_package, "MAX_PICKLES", 2)
    checkpoint = read(again(small, {f"a/c{n}.pkl": pickle.dumps({"n": n}) for n in range(5)}))
    assert [row.name for row in checkpoint.table] == ["w"]
    assert any("4 more pickles in it were not looked into" in note for note in checkpoint.notes)


def test_many_pickles_share_a_budget(small: Path) -> None:
    """A hundred pickles that each lead to as much as one may: an error, soon."""
    item: Any = []
    for _ in range(24):
        item = [item, item]
    bomb = pickle.dumps([torch.nn.Parameter, item], protocol=2)
    many: dict[str, bytes | None] = {f"a/c{n:03}.pkl": bomb for n in range(120)}
    try:
        checkpoint = read(again(small, many))
    except LimitError:
        return
    assert [row.name for row in checkpoint.table] == ["w"]
