"""
Archives of torch.export: what torch.export.save wrote, and what torch.export.load says of it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._export.serde.serialize import serialize
from torch.export import Dim, ExportedProgram
from torch.export.pt2_archive._package import PT2ArchiveWriter, package_pt2
from torch.export.pt2_archive._package_weights import TensorProperties, Weights

import modelinspect as mi
from modelinspect.errors import DamagedFileError, LimitError, ModelInspectError
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.tensors import Checkpoint, TensorInfo
from modelinspect.values import read_values


class Net(nn.Module):
    """Tied weights, buffers of both kinds, constants, a view of a larger storage."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.norm = nn.BatchNorm1d(8)
        self.mix = nn.Parameter(torch.randn(8, 8).bfloat16())
        self.frozen = nn.Parameter(torch.randn(8, 4).t(), requires_grad=False)
        self.register_buffer("kept", torch.arange(6.0))
        self.register_buffer("passing", torch.ones(4), persistent=False)
        self.constant = torch.full((3,), 2.0)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """Everything is used."""
        x = self.norm(self.embedding(index)) @ self.mix.float()
        extra = self.kept.sum() + self.passing.sum() + self.constant.sum() + self.frozen.sum()  # type: ignore[operator]
        found: torch.Tensor = self.head(x) + extra + torch.tensor([1.0, 2.0]).sum()
        return found


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    """The exported module, with a size that may vary."""
    torch.manual_seed(0)
    net = Net().eval()
    return torch.export.export(
        net, (torch.arange(5),), dynamic_shapes={"index": {0: Dim("n", min=2, max=64)}}
    )


@pytest.fixture(scope="module")
def archive(program: ExportedProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch.export.save makes of it."""
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a transposed parameter is not all of its storage
        torch.export.save(program, path, extra_files={"note.txt": "hello", "long": "x" * 1000})
    return path


def old_layout(program: ExportedProgram, path: Path) -> Path:
    """The same as torch 2.7 laid it out (``torch/export/__init__.py`` of that version)."""
    artifact = serialize(program)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("version", "8.20")
        file.writestr("serialized_exported_program.json", artifact.exported_program)
        file.writestr("serialized_state_dict.pt", artifact.state_dict)
        file.writestr("serialized_constants.pt", artifact.constants)
        file.writestr("serialized_example_inputs.pt", artifact.example_inputs)
        file.writestr("extra_files/note.txt", "hello")
    return path


def read(path: Path) -> Checkpoint:
    """Open as a user would."""
    return mi.open_checkpoint(str(path))


def values(row: TensorInfo) -> Any:
    """The numbers of a tensor."""
    with StorageReader() as reader:
        return read_values(row, reader.read).tolist()


def assert_is(checkpoint: Checkpoint, program: ExportedProgram) -> None:
    """Rows are those of the program: names, shapes, strides, values, kinds, ties."""
    expected = {**program.state_dict, **program.constants}
    assert {row.name for row in checkpoint.table} == set(expected)
    signature = program.graph_signature
    persistent = set(signature.buffers) - set(signature.non_persistent_buffers)
    for row in checkpoint.table:
        tensor = expected[row.name]
        assert (row.shape, row.stride) == (tuple(tensor.shape), tensor.stride()), row.name
        assert f"torch.{row.dtype}" == str(tensor.dtype)
        assert values(row) == tensor.detach().float().tolist()
        assert row.declared
        kind = "parameter" if row.name in signature.parameters else "buffer"
        assert row.kind == (kind if row.name in {*signature.parameters, *signature.buffers} else "other")
        if row.kind == "buffer":
            assert row.persistent == (row.name in persistent)
        if row.kind == "parameter":
            assert row.requires_grad == tensor.requires_grad
    assert checkpoint.table.tied_to == {"head.weight": "embedding.weight"}


def test_today_s_layout_is_the_program(archive: Path, program: ExportedProgram) -> None:
    """Parameters, buffers and constants, told apart by the archive itself; counts are the module's."""
    checkpoint = read(archive)
    assert (checkpoint.format, checkpoint.version) == ("torch-export", "0")
    assert_is(checkpoint, program)
    assert mi.count(checkpoint).unique == mi.count(Net()).unique
    order = [row.name for row in checkpoint.table if row.kind == "parameter"]
    assert order == list(program.graph_signature.parameters)


def test_what_the_archive_says_of_itself(archive: Path) -> None:
    """What wrote it, the sizes that may vary, the author's files."""
    checkpoint = read(archive)
    assert checkpoint.facts["written by"] == f"torch {torch.__version__}"
    assert "from 2 to 64" in checkpoint.facts["dynamic sizes"]
    assert checkpoint.metadata == {"note.txt": "hello", "long": "1,000 bytes"}


def test_sample_inputs_are_no_weights(archive: Path) -> None:
    """The inputs that it was exported with are a section of their own, and not counted."""
    checkpoint = read(archive)
    assert checkpoint.roles == {"": "model", "sample_inputs": "other"}
    [row] = checkpoint.tables["sample_inputs"]
    assert values(row) == [0, 1, 2, 3, 4]


def test_the_old_layout_is_the_program(program: ExportedProgram, tmp_path: Path) -> None:
    """What torch 2.7 wrote, which torch 2.13 still loads: the same rows, inside files of their own."""
    path = old_layout(program, tmp_path / "old.pt2")
    checkpoint = read(path)
    assert checkpoint.version == "8.20"
    assert_is(checkpoint, program)
    assert checkpoint.metadata == {"note.txt": "hello"}
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    assert set(torch.export.load(path).state_dict) == set(program.state_dict)


def test_several_models(program: ExportedProgram, tmp_path: Path) -> None:
    """A section each; the one called model is what torch.export.load gives."""
    other = torch.export.export(nn.Linear(300, 400), (torch.ones(2, 300),))
    path = tmp_path / "two.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        package_pt2(path, exported_programs={"large/one": other, "model": program})
    checkpoint = read(path)
    assert checkpoint.model_section == "model"
    assert_is(checkpoint, program)
    assert [row.shape for row in checkpoint.tables["large/one"]] == [(400, 300), (400,)]
    assert {row.name for row in checkpoint.tables["sample_inputs"]} == {"large/one.0.0", "model.0.0"}
    assert any("large/one" in note for note in checkpoint.notes)


def nested(value: Any) -> bytes:
    """What torch.save makes of it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def meta(
    shape: list[int], *, dtype: int = 7, offset: int = 0, stride: list[int] | None = None
) -> dict[str, Any]:
    """A tensor's description."""
    steps = [1] * len(shape) if stride is None else stride
    return {
        "dtype": dtype, "sizes": [{"as_int": n} for n in shape], "requires_grad": False,
        "device": {"type": "cpu", "index": None}, "strides": [{"as_int": n} for n in steps],
        "storage_offset": {"as_int": offset}, "layout": 7,
    }  # fmt: skip


def payload(record: str, described: Any, *, pickled: bool = False, param: bool = True) -> dict[str, Any]:
    """An entry of a configuration."""
    return {"path_name": record, "is_param": param, "use_pickle": pickled, "tensor_meta": described}


def by_hand(path: Path, weights: Any, records: dict[str, bytes], constants: Any = None) -> Path:
    """An archive of torch's writer with a configuration that may be anything."""
    with PT2ArchiveWriter(str(path)) as writer:
        for name, content in records.items():
            writer.write_bytes(name, content)
        config = weights if isinstance(weights, bytes) else json.dumps({"config": weights}).encode()
        writer.write_bytes("data/weights/model_weights_config.json", config)
        if constants is not None:
            writer.write_string(
                "data/constants/model_constants_config.json", json.dumps({"config": constants})
            )
        writer.write_string("models/model.json", "{}")
    return path


FLOATS = struct.pack("<6f", *range(6))


def test_a_pickled_tensor(tmp_path: Path) -> None:
    """A tensor that is a file of torch.save's in the archive: its values lie inside that."""
    tensor = torch.arange(6.0).reshape(2, 3)
    path = by_hand(
        tmp_path / "x.pt2",
        {"w": payload("weight_0", meta([2, 3]), pickled=True)},
        {"data/weights/weight_0": nested(tensor)},
    )
    [row] = read(path).table
    assert (row.name, row.kind, row.declared) == ("w", "parameter", True)
    assert values(row) == tensor.tolist()


def test_objects_among_constants_are_not_run(tmp_path: Path) -> None:
    """A constant that is no tensor is unpickled when torch loads the archive; here it is named."""
    proof = tmp_path / "proof"

    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(proof),)

    path = by_hand(
        tmp_path / "x.pt2", {}, {"data/constants/opaque_obj_0": pickle.dumps(Runs(), protocol=2)},
        {"thing": payload("opaque_obj_0", None, pickled=True, param=False)},
    )  # fmt: skip
    checkpoint = read(path)
    assert checkpoint.table.others == ("thing",)
    assert any("mkdir" in note for note in checkpoint.notes)
    assert not proof.exists()


def test_sample_inputs_are_not_run(archive: Path, tmp_path: Path) -> None:
    """The pickle that torch.export.load always runs (CVE-2026-4538) is named and not run."""
    proof = tmp_path / "proof"

    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(proof),)

    path = by_hand(
        tmp_path / "x.pt2", {"w": payload("weight_0", meta([6]))},
        {"data/weights/weight_0": FLOATS, "data/sample_inputs/model.pt": nested(Runs())},
    )  # fmt: skip
    checkpoint = read(path)
    assert values(checkpoint.table["w"]) == [0, 1, 2, 3, 4, 5]
    assert any("mkdir" in note for note in checkpoint.notes)
    assert not proof.exists()


def test_compiled_code_is_named(tmp_path: Path) -> None:
    """An archive of AOTInductor's: no graph, no weights, but machine code that loading it runs."""
    library = tmp_path / "kernel.so"
    library.write_bytes(b"\x7fELF")
    path = tmp_path / "compiled.pt2"
    package_pt2(path, aoti_files={"net": [str(library)]})
    checkpoint = read(path)
    assert len(checkpoint.table) == 0
    assert checkpoint.facts["models"] == "compiled only: net"
    assert any("machine code in net/kernel.so" in note for note in checkpoint.notes)
    assert any("holds no tensor" in note for note in checkpoint.notes)


def test_weights_beside_compiled_code(tmp_path: Path) -> None:
    """AOTInductor may leave weights as files of torch.save's, and views of them in its configuration."""
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base.t()}
    weights = Weights({name: (base, TensorProperties(tensor)) for name, tensor in tensors.items()})
    library = tmp_path / "kernel.so"
    library.write_bytes(b"\x7fELF")
    path = tmp_path / "compiled.pt2"
    package_pt2(path, aoti_files={"net": [str(library), weights]})
    table = read(path).table
    assert {row.name: values(row) for row in table} == {name: t.tolist() for name, t in tensors.items()}


def test_exported_without_values(tmp_path: Path) -> None:
    """Weights of a fake model: shapes without bytes, and a note."""
    path = by_hand(tmp_path / "x.pt2", {"w": payload("weight_0", meta([6]))}, {"data/weights/weight_0": b""})
    checkpoint = read(path)
    assert [(row.shape, row.storage) for row in checkpoint.table] == [((6,), None)]
    assert any("without" in note for note in checkpoint.notes)


def test_deflated_records(archive: Path, tmp_path: Path, program: ExportedProgram) -> None:
    """An archive that was packed again, compressed: the same rows and values, read through."""
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert_is(read(path), program)


Config = Callable[[], Any]
BROKEN: dict[str, tuple[Config, str]] = {
    "no object": (lambda: b"[]", "no config"),
    "no JSON": (lambda: b"{", "not JSON"),
    "deep": (lambda: b"[" * 90_000 + b"]" * 90_000, "not JSON"),
    "an entry that is a number": (lambda: {"w": 7}, "w"),
    "no record": (lambda: {"w": payload("weight_7", meta([6]))}, "weight_7"),
    "a record of no name": (lambda: {"w": payload(7, meta([6]))}, "no name"),  # type: ignore[arg-type]
    "a type of nobody": (lambda: {"w": payload("weight_0", meta([6], dtype=99))}, "data type"),
    "a type that is a text": (lambda: {"w": payload("weight_0", meta([6], dtype="7"))}, "data type"),  # type: ignore[arg-type]
    "too long": (lambda: {"w": payload("weight_0", meta([7]))}, "reaches beyond"),
    "too far": (lambda: {"w": payload("weight_0", meta([6], offset=1))}, "reaches beyond"),
    "strides of other axes": (lambda: {"w": payload("weight_0", meta([6], stride=[1, 1]))}, "shape"),
    "a negative size": (lambda: {"w": payload("weight_0", meta([-1]))}, "size"),
    "a huge size": (lambda: {"w": payload("weight_0", meta([1 << 62, 4]))}, "shape"),
    "a huge stride": (lambda: {"w": payload("weight_0", meta([2], stride=[1 << 62]))}, "reaches beyond"),
    "a size that is an expression": (
        lambda: {"w": payload("weight_0", {**meta([6]), "sizes": [{"as_expr": {"expr_str": "s0"}}]})},
        "w",
    ),
    "sparse": (lambda: {"w": payload("weight_0", {**meta([6]), "layout": 1})}, "layout"),
    "no tensor in the file": (lambda: {"w": payload("weight_0", meta([6]), pickled=True)}, "directory"),
    "a name too long": (lambda: {"w" * 5_000: payload("weight_0", meta([6]))}, "characters"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_configurations_are_clear_errors(name: str, tmp_path: Path) -> None:
    """Each fault is an error that says which it is."""
    make, expected = BROKEN[name]
    path = by_hand(tmp_path / "x.pt2", make(), {"data/weights/weight_0": FLOATS})
    with pytest.raises((DamagedFileError, LimitError)) as caught:
        read(path)
    assert expected in str(caught.value)
    assert str(path) in caught.value.message


def test_a_bomb_of_lists_is_refused(tmp_path: Path) -> None:
    """A document that would take hundreds of times its size is refused before it is parsed."""
    path = by_hand(tmp_path / "x.pt2", b"[" + b"[]," * 1_000_000 + b"[]]", {})
    with pytest.raises(LimitError, match="claims more than is read"):
        read(path)


def test_an_archive_of_another_format(tmp_path: Path) -> None:
    """What archive_format says is believed."""
    path = tmp_path / "x.pt2"
    with PT2ArchiveWriter(str(path)) as writer:
        writer.write_string("archive_format", "pt9")
    with pytest.raises(ModelInspectError, match="pt9"):
        read(path)
