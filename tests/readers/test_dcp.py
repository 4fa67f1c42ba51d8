"""
Directories of torch.distributed.checkpoint, written by torch with one process and with two.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import ROOT, Cli, plain_environment
from torch import nn
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_saver import save

import modelinspect as mi
from modelinspect.errors import (
    DamagedFileError,
    LimitError,
    RefusedError,
    TargetError,
)
from modelinspect.readers.parts import dcp_archives, nested_archive
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.tensors import Checkpoint, TensorInfo
from modelinspect.values import read_values


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes saved."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
         "--master-port", str(port), ROOT / "tests/support/distributed_saves.py", folder],
        env={**plain_environment(), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def truth(two: Path) -> dict[str, Any]:
    """The same, put together by torch."""
    return torch.load(two / "truth.pt", weights_only=False)  # type: ignore[no-any-return]


def alone(state_dict: dict[str, Any], folder: Path) -> Path:
    """One process saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that there are no others
        save(state_dict, checkpoint_id=folder, no_dist=True)
    return folder


def read(path: Path) -> Checkpoint:
    """Open as a user would."""
    return mi.open_checkpoint(str(path))


def together(row: TensorInfo) -> np.ndarray[Any, Any]:
    """The values of a tensor, its pieces put where their names say that they belong."""
    with StorageReader() as reader:
        if not row.parts:
            return np.array(read_values(row, reader.read)).reshape(row.shape)
        whole = np.full(row.shape, np.nan)
        for part in row.parts:
            spans = re.findall(r"(\d+):(\d+)", part.name)
            place = tuple(slice(int(first), int(last)) for first, last in spans)
            whole[place] = np.array(read_values(part, reader.read)).reshape(part.shape)
        return whole


def assert_equal(row: TensorInfo, tensor: torch.Tensor) -> None:
    """The row says of the tensor what torch does."""
    assert row.shape == tuple(tensor.shape), row.name
    assert f"torch.{row.dtype}" == str(tensor.dtype), row.name
    assert row.nbytes == tensor.nbytes, row.name
    assert together(row).tolist() == tensor.float().numpy().tolist(), row.name


# -- what two processes saved ---------------------------------------------------------------------


def test_fsdp2_is_the_model(two: Path, truth: dict[str, Any]) -> None:
    """Whole shapes, data types and values of every parameter and buffer; the count is the model's."""
    checkpoint = read(two / "fsdp2")
    assert (checkpoint.format, checkpoint.version, checkpoint.model_section) == ("dcp", "1.0.0", "model")
    assert {row.name for row in checkpoint.table} == set(truth["model"])
    for row in checkpoint.table:
        assert_equal(row, truth["model"][row.name])
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    assert mi.count(checkpoint).unique == mi.count(model).unique == 42
    assert checkpoint.metadata["epoch"] == "4"
    assert checkpoint.facts["ranks that wrote"] == "2"


def test_chunks_say_how_they_were_cut(two: Path) -> None:
    """A sharded tensor has its pieces for parts; one that a rank wrote whole is a plain row."""
    table = read(two / "fsdp2").table
    weight = table["0.weight"]
    assert weight.placement == "2 chunks, Shard(dim=0)"
    assert (weight.layout, weight.storage) == ("chunked", None)
    assert [(part.name, part.shape) for part in weight.parts] == [
        ("[0:3, 0:3]", (3, 3)), ("[3:5, 0:3]", (2, 3)),
    ]  # fmt: skip
    mean = table["1.running_mean"]
    assert (mean.placement, mean.parts, mean.kind) == ("", (), "buffer")
    assert mean.extent is not None
    assert mean.extent.nbytes == 20


def test_moments_are_the_optimizers(two: Path, truth: dict[str, Any]) -> None:
    """The optimizer's section: every moment under its parameter's name, its settings, its step."""
    checkpoint = read(two / "fsdp2")
    assert checkpoint.roles == {"model": "model", "optim": "optimizer"}
    table = checkpoint.tables["optim"]
    expected = truth["optim"]["state"]
    assert {row.name for row in table} == {
        f"state.{name}.{label}" for name, states in expected.items() for label in states
    }
    for name, states in expected.items():
        for label, tensor in states.items():
            assert_equal(table[f"state.{name}.{label}"], tensor)
    [group] = checkpoint.optimizers["optim"].groups
    assert group.settings["lr"] == 0.01
    assert group.settings["betas"] == (0.9, 0.999)
    assert "0.weight" in group.params


def test_distributed_tensors(two: Path, truth: dict[str, Any]) -> None:
    """Columns on two ranks; what every rank has is saved once."""
    table = read(two / "dtensor").table
    assert table["columns"].placement == "2 chunks, Shard(dim=1)"
    assert table["copies"].placement == ""
    for row in table:
        assert_equal(row, truth["dtensor"][row.name])


def test_ranks_that_saved_each_for_itself(two: Path, truth: dict[str, Any]) -> None:
    """One metadata a rank: what all have counts once, and a note says so."""
    checkpoint = read(two / "each")
    assert sorted(path.name for path in (two / "each").iterdir())[0] == "__0.metadata"
    for row in checkpoint.table:
        assert_equal(row, truth["model"][row.name])
    assert any("saved by several ranks and count once" in note for note in checkpoint.notes)


def test_a_rank_that_is_missing(two: Path, tmp_path: Path) -> None:
    """Without one rank's metadata a part of every sharded tensor is missing: an error that says how much."""
    folder = tmp_path / "each"
    shutil.copytree(two / "each", folder)
    (folder / "__1.metadata").unlink()
    with pytest.raises(DamagedFileError, match="lacks a part of a tensor") as caught:
        read(folder)
    assert "9 of 15 elements" in caught.value.details[0]


def test_shards_of_safetensors(two: Path, truth: dict[str, Any]) -> None:
    """The same model as safetensors, each rank its own shard."""
    checkpoint = read(two / "shards")
    assert (checkpoint.format, checkpoint.version) == ("dcp safetensors", "1.0")
    assert {row.name for row in checkpoint.table} == set(truth["model"])
    for row in checkpoint.table:
        assert_equal(row, truth["model"][row.name])
    assert "DCP_SHARDING_INFO" not in checkpoint.metadata


def test_a_shard_of_safetensors_that_is_missing(two: Path, tmp_path: Path) -> None:
    """The first rank's shard is missed by its number, and pieces by the elements that they lack."""
    folder = tmp_path / "shards"
    shutil.copytree(two / "shards", folder)
    next(folder.glob("shard-00001-*")).unlink()
    with pytest.raises(DamagedFileError, match="shards are missing"):
        read(folder)
    next(folder.glob("shard-00002-*")).rename(folder / "shard-00001-model-00001-of-00001.safetensors")
    with pytest.raises(DamagedFileError, match="lacks a part"):
        read(folder)


def test_values_of_all_pieces(two: Path, truth: dict[str, Any], cli: Cli) -> None:
    """`params --values` gives figures over the whole tensor."""
    done = cli("params", two / "fsdp2", "--values", "--json")
    assert done.code == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["tensors"]}
    assert rows["0.weight"]["placement"] == "2 chunks, Shard(dim=0)"
    tensor = truth["model"]["0.weight"]
    found = rows["0.weight"]["values"]
    assert found["min"] == pytest.approx(tensor.min().item())
    assert found["max"] == pytest.approx(tensor.max().item())
    assert found["mean"] == pytest.approx(tensor.mean().item())
    assert found["std"] == pytest.approx(tensor.std().item())


def test_pieces_are_not_transplanted(two: Path, truth: dict[str, Any], tmp_path: Path, cli: Cli) -> None:
    """What lies in pieces can't be written from them: an error that says so, and no file."""
    torch.save(truth["model"], tmp_path / "target.pt")
    done = cli("transplant", two / "fsdp2", tmp_path / "target.pt", "-o", tmp_path / "out.safetensors")
    assert done.code == 2
    assert "lies in pieces (2 chunks, Shard(dim=0))" in done.stderr
    assert "dcp_to_torch" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_one_file_of_several(two: Path, truth: dict[str, Any]) -> None:
    """A single file: its pieces under their names and spans."""
    files = sorted((two / "fsdp2").glob("*.distcp"))
    found: dict[str, TensorInfo] = {}
    for path in files:
        checkpoint = read(path)
        assert any("name its folder to see all" in note for note in checkpoint.notes)
        found.update((row.name, row) for row in checkpoint.table)
    assert {"0.weight[0:3, 0:3]", "0.weight[3:5, 0:3]", "1.running_mean"} <= set(found)
    assert together(found["0.weight[3:5, 0:3]"]).tolist() == truth["model"]["0.weight"][3:5].numpy().tolist()


def test_bytes_of_archives_back_to_back(two: Path) -> None:
    """All around the tensors are archives, also where the last is as long as the first; no key has a span."""
    folder = two / "fsdp2"
    alone = [folder / "__0_0.distcp", folder / "__1_0.distcp"]
    for path in (folder, *alone):
        report = mi.footprint(str(path))
        assert sum(line.nbytes for line in report.lines) == report.nbytes
        assert report.waste == 0
        labels = {line.label for line in report.lines if line.section == "optim"}
        assert {"exp_avg", "exp_avg_sq"} <= labels <= {"exp_avg", "exp_avg_sq", "step"}


# -- what one process saved -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A model, its optimizer and scheduler, counters, a list and an object with tensors inside."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.125)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7)
    state = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
        "epoch": 3, "run": "first", "history": [torch.zeros(2), torch.ones(3)],
    }  # fmt: skip
    return alone(state, tmp_path_factory.mktemp("trained") / "all"), state


def test_sections_are_those_of_the_state_dict(trained: tuple[Path, dict[str, Any]]) -> None:
    """As if the same dictionary had been given to torch.save: sections, settings, scalars."""
    folder, state = trained
    checkpoint = read(folder)
    saved = folder.parent / "saved.pt"
    torch.save(state, saved)
    other = read(saved)
    assert checkpoint.roles == other.roles
    assert checkpoint.model_section == other.model_section == "model"
    for name, table in other.tables.items():
        mine = {row.name: row for row in checkpoint.tables[name]}
        theirs = {row.name: row for row in table}
        assert set(mine) == set(theirs)
        for label, row in theirs.items():
            assert (mine[label].shape, mine[label].dtype, mine[label].kind) == (
                row.shape,
                row.dtype,
                row.kind,
            )
    assert checkpoint.optimizers["optimizer"].groups[0].settings["lr"] == 0.125
    assert (checkpoint.metadata["epoch"], checkpoint.metadata["run"]) == ("3", "first")
    assert checkpoint.metadata["scheduler.step_size"] == "7"


def test_nothing_of_it_is_foreign(trained: tuple[Path, dict[str, Any]]) -> None:
    """Names in the metadata are understood, so `info` says that loading it calls nothing else."""
    checkpoint = read(trained[0])
    assert checkpoint.globals
    assert all(name.understood for name in checkpoint.globals)
    assert not any("import or call" in note for note in checkpoint.notes)


def test_a_file_without_its_checkpoint(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Tensors without names: as many, and of the same shapes, as there are."""
    path = tmp_path / "__0_0.distcp"
    shutil.copy(trained[0] / path.name, path)
    checkpoint = read(path)
    whole = read(trained[0])
    shapes = sorted(row.shape for table in whole.tables.values() for row in table)
    assert sorted(row.shape for row in checkpoint.section("all")) == shapes
    assert any("have no names here" in note for note in checkpoint.notes)


def test_metadata_that_is_missing(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Without .metadata: an error that says what it is for."""
    shutil.copy(trained[0] / "__0_0.distcp", tmp_path)
    with pytest.raises(DamagedFileError, match=r"\.metadata is missing") as caught:
        read(tmp_path)
    assert caught.value.hint is not None
    assert ".distcp" in caught.value.hint


def test_a_checkpoint_in_a_folder_of_the_folder(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The only one is read, and a note says so; several are listed."""
    shutil.copytree(trained[0], tmp_path / "run" / "step-10")
    checkpoint = read(tmp_path / "run")
    assert mi.count(checkpoint).unique == 24
    assert checkpoint.notes[0] == "read step-10 in this folder"
    shutil.copytree(trained[0], tmp_path / "run" / "step-20")
    with pytest.raises(TargetError, match="holds checkpoints in 2 folders") as caught:
        read(tmp_path / "run")
    assert caught.value.hint == f"name one of them, e.g. {tmp_path / 'run' / 'step-20'}"


def test_a_model_and_its_optimizer_in_two_folders(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """As accelerate lays them: both are read."""
    state = trained[1]
    alone({"model": state["model"]}, tmp_path / "pytorch_model_fsdp_0")
    alone({"optimizer": state["optimizer"]}, tmp_path / "optimizer_0")
    torch.save(state["scheduler"], tmp_path / "scheduler.bin")
    checkpoint = read(tmp_path)
    assert checkpoint.roles == {"model": "model", "optimizer": "optimizer"}
    assert mi.count(checkpoint).unique == 24


def test_many_alike_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives that differ in nothing but numbers are compared with the first; rows are right."""
    tensors = {f"layers.{n}.weight": torch.full((3, 4), float(n)) for n in range(40)}
    folder = alone(tensors, tmp_path / "many")
    read_thoroughly = []
    inner = nested_archive.read_nested

    def counted(*arguments: Any) -> Any:
        read_thoroughly.append(arguments)
        return inner(*arguments)

    monkeypatch.setattr(dcp_archives, "read_nested", counted)
    checkpoint = read(folder)
    assert len(read_thoroughly) == 1
    for row in checkpoint.table:
        assert_equal(row, tensors[row.name])


def test_too_many_of_no_likeness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many would have to be read thoroughly, rows come from the metadata; a note says so."""
    monkeypatch.setattr(dcp_archives, "MAX_READ", 3)
    tensors = {f"w{n}": torch.zeros(n + 1, n + 2) for n in range(8)}
    checkpoint = read(alone(tensors, tmp_path / "many"))
    assert {row.name: row.shape for row in checkpoint.table} == {
        k: tuple(t.shape) for k, t in tensors.items()
    }
    assert sum(row.extent is None for row in checkpoint.table) == 5
    assert any("values of 5 chunks can't be read" in note for note in checkpoint.notes)


def test_flattened_parameters_are_said(tmp_path: Path) -> None:
    """FSDP's flat parameters don't say what is in them."""
    folder = alone({"model": {"_flat_param": torch.zeros(8)}}, tmp_path / "flat")
    assert any("flattened" in note for note in read(folder).notes)


# -- metadata of nobody ---------------------------------------------------------------------------

ARCHIVE = io.BytesIO()
torch.save(torch.arange(6, dtype=torch.float32).reshape(2, 3), ARCHIVE)
RAW = ARCHIVE.getvalue()
LENGTH = len(RAW)


def chunk(offsets: Any = (0, 0), sizes: Any = (2, 3)) -> ChunkStorageMetadata:
    """A piece."""
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def entry(size: Any = (2, 3), chunks: Any = None, dtype: Any = torch.float32) -> TensorStorageMetadata:
    """A tensor of one piece."""
    size = torch.Size(size) if isinstance(size, tuple) else size
    return TensorStorageMetadata(TensorProperties(dtype), size, [chunk()] if chunks is None else chunks)


def stored(path: Any = "__0_0.distcp", offset: Any = 0, length: Any = LENGTH) -> _StorageInfo:
    """Where it lies."""
    return _StorageInfo(path, offset, length)


def at(name: Any = "w", offset: Any = (0, 0)) -> MetadataIndex:
    """What its place is found by."""
    return MetadataIndex(name, offset)


def written(folder: Path, metadata: Any) -> Path:
    """A folder of that metadata and one file of data."""
    folder.mkdir(exist_ok=True)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol=4))
    (folder / "__0_0.distcp").write_bytes(RAW)
    return folder


def test_what_is_made_by_hand_is_read(tmp_path: Path) -> None:
    """The pieces below make a checkpoint where nothing is wrong with them."""
    [row] = read(written(tmp_path / "x", Metadata({"w": entry()}, None, {at(): stored()}))).table
    assert together(row).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_flat_names_make_sections_where_one_is_an_optimizers(tmp_path: Path) -> None:
    """Megatron's metadata has names alone: moments are not taken for parameters."""
    names = ["decoder.weight", "optimizer.state.exp_avg.decoder.weight"]
    places = {at(name): stored() for name in names}
    metadata = Metadata({name: entry() for name in names}, {name: (name,) for name in names}, places)
    checkpoint = read(written(tmp_path / "x", metadata))
    assert checkpoint.roles == {"optimizer": "optimizer", "": "model"}
    assert mi.count(checkpoint).unique == 6
    flat = Metadata({"opt.weight": entry(), "w": entry()}, None, {at("opt.weight"): stored(), at(): stored()})
    assert set(read(written(tmp_path / "y", flat)).tables) <= {"", "opt"}


Case = Callable[[], Any]
BROKEN: dict[str, tuple[Case, str]] = {
    "no metadata": (lambda: {"w": torch.zeros(2)}, "no state_dict_metadata"),
    "a list": (lambda: [1, 2], "no state_dict_metadata"),
    "a number": (lambda: 7, "no state_dict_metadata"),
    "entries of no dictionary": (lambda: Metadata([1]), "no state_dict_metadata"),  # type: ignore[arg-type]
    "a name that is a number": (lambda: Metadata({7: entry()}), "no text"),  # type: ignore[dict-item]
    "no places": (lambda: Metadata({"w": entry()}), "no file is named"),
    "a place of another name": (
        lambda: Metadata({"w": entry()}, None, {at("v"): stored()}),
        "no file is named",
    ),
    "chunks of no list": (lambda: Metadata({"w": entry(chunks=7)}, None, {at(): stored()}), "has no chunks"),
    "no chunks": (lambda: Metadata({"w": entry(chunks=[])}, None, {at(): stored()}), "has no chunks"),
    "a chunk that is a text": (
        lambda: Metadata({"w": entry(chunks=["x"])}, None, {at(): stored()}),
        "makes no sense",
    ),
    "a chunk outside": (
        lambda: Metadata({"w": entry(chunks=[chunk((1, 0))])}, None, {at(offset=(1, 0)): stored()}),
        "no part of",
    ),
    "a chunk of other axes": (
        lambda: Metadata({"w": entry(chunks=[chunk((0,), (6,))])}, None, {at(offset=(0,)): stored()}),
        "no part of",
    ),
    "a part is missing": (lambda: Metadata({"w": entry((4, 3))}, None, {at(): stored()}), "6 of 12"),
    "another shape in the file": (
        lambda: Metadata({"w": entry((3, 2), [chunk(sizes=(3, 2))])}, None, {at(): stored()}),
        "in .metadata",
    ),
    "another type in the file": (
        lambda: Metadata({"w": entry(dtype=torch.int32)}, None, {at(): stored()}),
        "in .metadata",
    ),
    "a type of nobody": (lambda: Metadata({"w": entry(dtype="f4")}, None, {at(): stored()}), "data type"),
    "a size that is a text": (lambda: Metadata({"w": entry("23")}, None, {at(): stored()}), "makes no sense"),
    "a size of too many": (
        lambda: Metadata({"w": entry((1 << 62, 4))}, None, {at(): stored()}),
        "63 bits",
    ),
    "beyond the end": (lambda: Metadata({"w": entry()}, None, {at(): stored(offset=1)}), "ends at byte"),
    "before the beginning": (
        lambda: Metadata({"w": entry()}, None, {at(): stored(offset=-1)}),
        "makes no sense",
    ),
    "a length that is a text": (
        lambda: Metadata({"w": entry()}, None, {at(): stored(length="9")}),
        "makes no sense",
    ),
    "in each other": (
        lambda: Metadata(
            {"w": entry(), "v": entry()}, None, {at(): stored(), at("v"): stored(length=len(RAW) - 1)}
        ),
        "that others take",
    ),
    "no archive": (
        lambda: Metadata({"w": entry()}, None, {at(): stored(length=100)}),
        "directory",
    ),
    "a file that is missing": (
        lambda: Metadata({"w": entry()}, None, {at(): stored("__7_0.distcp")}),
        "__7_0.distcp",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_metadata_is_a_clear_error(name: str, tmp_path: Path) -> None:
    """Each fault is an error that says which it is."""
    make, expected = BROKEN[name]
    with pytest.raises(DamagedFileError) as caught:
        read(written(tmp_path / "x", make()))
    assert expected in str(caught.value)
    assert str(tmp_path / "x") in caught.value.message


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "x\0y", ".."])
def test_no_name_leads_out_of_the_folder(path: str, tmp_path: Path) -> None:
    """A file outside is not opened, however it is named."""
    (tmp_path / "x").write_bytes(RAW)
    with pytest.raises(RefusedError, match="outside its folder"):
        read(written(tmp_path / "folder", Metadata({"w": entry()}, None, {at(): stored(path)})))


class _Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_run(tmp_path: Path) -> None:
    """What torch would call is named in a note; the tensors are read all the same."""
    proof = tmp_path / "proof"
    metadata = Metadata({"w": entry()}, _Runs(proof), {at(): stored()})
    checkpoint = read(written(tmp_path / "x", metadata))
    assert [row.name for row in checkpoint.table] == ["w"]
    assert any("mkdir" in note for note in checkpoint.notes)
    assert not proof.exists()
    pickle.loads((tmp_path / "x" / ".metadata").read_bytes())
    assert proof.exists()


def test_objects_of_the_checkpoint_are_not_run(tmp_path: Path) -> None:
    """The same inside an entry that is no tensor."""
    proof = tmp_path / "proof"
    inner = io.BytesIO()
    torch.save(_Runs(proof), inner)
    folder = written(tmp_path / "x", Metadata(
        {"w": entry(), "o": BytesStorageMetadata()}, None,
        {at(): stored(), at("o", None): stored(offset=len(RAW), length=len(inner.getvalue()))},
    ))  # fmt: skip
    (folder / "__0_0.distcp").write_bytes(RAW + inner.getvalue())
    checkpoint = read(folder)
    assert any("mkdir" in note for note in checkpoint.notes)
    assert not proof.exists()


def test_more_names_than_its_bytes_explain(tmp_path: Path) -> None:
    """One object under a million names takes 12 MB and would take 400 MB of memory."""
    nothing = BytesStorageMetadata()
    entries: dict[str, Any] = {f"n{n}": nothing for n in range(200_000)}
    with pytest.raises(LimitError, match="claims more than is read"):
        read(written(tmp_path / "x", Metadata(entries)))


def test_cycles_and_shared_objects_end(tmp_path: Path) -> None:
    """Objects that hold themselves, and one list of chunks for a thousand tensors."""
    loop: dict[Any, Any] = {}
    loop["w"] = loop
    checkpoint = read(written(tmp_path / "x", Metadata(loop)))
    assert checkpoint.table.others == ("w",)
    listed = [chunk() for _ in range(2_000)]
    shared: dict[str, Any] = {f"w{n}": entry((2, 3), listed) for n in range(2_000)}
    places = {at(name): stored() for name in shared}
    with pytest.raises(LimitError, match="claims more than is read"):
        read(written(tmp_path / "y", Metadata(shared, None, places)))
