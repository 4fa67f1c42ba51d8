"""
TorchScript archives are read as torch.jit.load reads them, and none of their code is run.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch_truth
from torch import nn

from modelinspect.api import count
from modelinspect.errors import ModelInspectError, UnrecognisedFileError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint

# torch.jit and quantization warn that they are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")


class Block(nn.Module):
    """Of everything that a module can hold: two buffers, plain tensors, lists, numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 4)
        self.register_buffer("mean", torch.ones(2))
        self.register_buffer("scratch", torch.ones(5), persistent=False)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.plain = torch.zeros(7)
        self.names = ["a", "b"]
        self.sizes = [1, 2]
        self.some = [torch.zeros(2), torch.ones(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use all of it."""
        total = self.lin(x + self.frozen) + self.mean.sum() + self.scratch.sum() + self.plain.sum()  # type: ignore[operator]
        return total + len(self.names) + self.sizes[0] + self.some[0].sum() + torch.tensor([1.0, 2.0]).sum()  # type: ignore[no-any-return]


class Net(nn.Module):
    """Nested modules, one of them twice, and a tied parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.again = self.first
        self.seq = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3))
        self.tied = self.first.lin.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use all of it."""
        return self.first(self.seq(x)) + self.again(x) + self.tied.sum()  # type: ignore[no-any-return]


def scripted() -> torch.jit.ScriptModule:
    """By the compiler."""
    return torch.jit.script(Net().eval())


def traced() -> torch.jit.ScriptModule:
    """By a run; plain tensors become constants."""
    return torch.jit.trace(Net().eval(), torch.zeros(2, 3))  # type: ignore[no-any-return]


def half() -> torch.jit.ScriptModule:
    """Another data type."""
    return torch.jit.script(Net().eval().half())


MADE: dict[str, Callable[[], torch.jit.ScriptModule]] = {"scripted": scripted, "traced": traced, "half": half}


def read(path: Path) -> Checkpoint:
    """As a user opens it."""
    return open_checkpoint(str(path))


def assert_as_loaded(path: Path) -> Checkpoint:
    """Parameters and buffers are those of the module that torch loads; returns what was read."""
    checkpoint, module = read(path), torch.jit.load(path, map_location="cpu")
    assert checkpoint.format == "torchscript"
    rows = {row.name: row for row in checkpoint.table if not row.name.startswith("CONSTANTS.")}
    for kind, named in (
        ("parameter", module.named_parameters(remove_duplicate=False)),
        ("buffer", module.named_buffers(remove_duplicate=False)),
    ):
        expected = dict(named)
        assert [name for name in rows if rows[name].kind == kind and rows[name].declared] == list(expected)
        for name, tensor in expected.items():
            torch_truth.assert_row(rows[name], tensor)
            assert rows[name].requires_grad is tensor.requires_grad
    modules = {name: child.original_name for name, child in module.named_modules(remove_duplicate=False)}
    assert checkpoint.table.modules == modules
    return checkpoint


@pytest.mark.parametrize("how", list(MADE))
def test_parameters_and_buffers_are_told_apart(how: str, tmp_path: Path) -> None:
    """Names, kinds, shapes, flags and classes equal those of the module that torch.jit.load makes."""
    path = tmp_path / "net.pt"
    torch.jit.save(MADE[how](), path)
    checkpoint = assert_as_loaded(path)
    ties = checkpoint.table.tied_to
    assert ties["first.lin.weight"] == ties["again.lin.weight"] == "tied"
    assert count(checkpoint).unique == sum(p.numel() for p in torch.jit.load(path).parameters())
    assert checkpoint.facts["written by"] == "torch 2.1 or later"
    assert not any(not name.understood for name in checkpoint.globals)


def test_plain_tensors_are_not_registered(tmp_path: Path) -> None:
    """Attributes that are neither parameter nor buffer are listed as such, those in lists by their place."""
    path = tmp_path / "net.pt"
    torch.jit.save(scripted(), path)
    names = {row.name for row in read(path).table.unregistered}
    assert names == {"first.plain", "first.some.0", "first.some.1"}


def test_constants_beside_parameters_are_no_parameters(tmp_path: Path) -> None:
    """A trace keeps plain tensors in constants.pkl; rows have the names that the code has."""
    path = tmp_path / "net.pt"
    torch.jit.save(traced(), path)
    rows = [row for row in read(path).table if row.name.startswith("CONSTANTS.c")]
    assert {row.shape for row in rows} >= {(7,), (2,)}
    assert {row.kind for row in rows} == {"other"}


@pytest.mark.parametrize("optimized", [False, True])
def test_a_frozen_models_constants_are_its_parameters(optimized: bool, tmp_path: Path) -> None:
    """Freezing leaves no parameter: the constants of floating point are counted, and a note says so."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    module = torch.jit.script(net)
    frozen = torch.jit.optimize_for_inference(module) if optimized else torch.jit.freeze(module)
    path = tmp_path / "net.pt"
    torch.jit.save(frozen, path)
    assert not list(torch.jit.load(path).parameters())
    checkpoint = assert_as_loaded(path)
    assert count(checkpoint).unique == sum(p.numel() for p in net.parameters())
    assert any("it is frozen" in note for note in checkpoint.notes)


def test_packed_weights_of_quantized_layers_are_counted(tmp_path: Path) -> None:
    """They hang on an object of a C++ class; their names are those of the quantized module's state_dict."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(quantized), path)
    checkpoint = read(path)
    rows = {row.name: row for row in checkpoint.table}
    assert rows["0._packed_params._packed_params.0"].shape == (4, 3)
    assert str(rows["0._packed_params._packed_params.0"].dtype) == "qint8"
    assert count(checkpoint).unique == sum(p.numel() for p in net.parameters())


def test_the_lite_interpreters_archive(tmp_path: Path) -> None:
    """The same with bytecode beside it."""
    path = tmp_path / "net.ptl"
    scripted()._save_for_lite_interpreter(str(path))
    assert "bytecode.pkl" in str(assert_as_loaded(path).facts)


def without(path: Path, unwanted: str, more: Mapping[str, bytes] | None = None) -> Path:
    """The same archive without some of its records and with others."""
    other = path.with_name("other.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for entry in old.infolist():
            if unwanted not in entry.filename:
                new.writestr(entry.filename, old.read(entry.filename))
        for name, content in (more or {}).items():
            new.writestr(f"{root}/{name}", content)
    return other


def test_without_code_kinds_are_inferred(tmp_path: Path) -> None:
    """Where the classes are missing every tensor is still there, and a note says that kinds are guessed."""
    path = tmp_path / "net.pt"
    torch.jit.save(scripted(), path)
    checkpoint = read(without(path, "/code/"))
    rows = {row.name: row for row in checkpoint.table}
    assert set(rows) >= {name for name, _ in torch.jit.load(path).named_parameters(remove_duplicate=False)}
    assert not any(row.declared for row in rows.values())
    assert rows["seq.1.running_mean"].kind == "buffer"
    assert any("inferred" in note for note in checkpoint.notes)


def test_extra_files_are_metadata(tmp_path: Path) -> None:
    """Short texts of the author's as they are, of others the size."""
    path = tmp_path / "net.pt"
    extra = {"labels.json": json.dumps(["cat", "dog"]), "blob": b"\x00\xff" * 500}
    torch.jit.save(scripted(), path, _extra_files=extra)
    assert read(path).metadata == {"labels.json": '["cat", "dog"]', "blob": "1,000 bytes"}


def test_the_archives_of_torch_1_0_are_named(tmp_path: Path) -> None:
    """Those have model.json instead of data.pkl: refused by name, with what to do."""
    path = tmp_path / "old.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("old/model.json", "{}")
        archive.writestr("old/tensors/0", bytes(4))
    with pytest.raises(UnrecognisedFileError, match=r"TorchScript archive of torch 1\.0") as caught:
        read(path)
    assert "torch.jit.save" in str(caught.value)


def test_only_headers_are_read(tmp_path: Path) -> None:
    """A thousand times as many values cost no more bytes."""
    sizes = []
    for width in (10, 1_000):
        path = tmp_path / f"net{width}.pt"
        torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(width, width))), path)
        sizes.append(read(path).bytes_read)
    assert sizes[1] <= sizes[0] + 400


START = b"class Net(Module):\n  __parameters__ = ["
HOSTILE = {
    "code that is a bomb": START + b'"a", ' * 4_000_000 + b"]\n",
    "names without end": b"class " + b"A" * 3_000_000,
    "lines without end": START + b'"' + b"\\" * 3_000_000,
    "quotes without end": START + b'"' + b'\\"' * 3_000_000 + b"]\n",
    "names of all kinds": START + b"".join(b'"%d", ' % n for n in range(1_000_000)) + b"]\n",
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_code_is_an_answer_or_an_error(kind: str, tmp_path: Path) -> None:
    """Long and broken code: within limits, with the tensors or an error of ours."""
    path = tmp_path / "net.pt"
    torch.jit.save(scripted(), path)
    with zipfile.ZipFile(without(path, "/code/", {"code/__torch__.py": HOSTILE[kind]})) as plain:
        packed = tmp_path / "packed.pt"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
            for name in plain.namelist():
                out.writestr(name, plain.read(name))
    try:
        assert len(read(packed).table)
    except ModelInspectError as error:
        assert error.details  # noqa: PT017 - either outcome is fine


def test_truncated_anywhere_is_an_error_of_ours(tmp_path: Path) -> None:
    """Cut at many places: never another error, never a result."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    raw = buffer.getvalue()
    path = tmp_path / "cut.pt"
    for length in range(1, len(raw), 97):
        path.write_bytes(raw[:length])
        with pytest.raises(ModelInspectError):
            read(path)
