"""
Whatever torch.save writes is read as torch.load reads it.
"""

from __future__ import annotations

import collections
import functools
import io
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_truth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from modelinspect.errors import DamagedFileError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint, TensorInfo


def read(path: Path) -> Checkpoint:
    """As a user opens it."""
    return open_checkpoint(str(path))


# Some kinds of tensors are called a prototype or deprecated when one is made.
pytestmark = pytest.mark.filterwarnings("ignore")

# -- one object of each kind -----------------------------------------------------------

PLAIN = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex128", "complex64",
]  # fmt: skip
LATER = [
    "uint16", "uint32", "uint64", "complex32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "bits8", "bits16", "bits1x8", "bits2x4",
    "bits4x2",
]  # fmt: skip


def one_of(name: str) -> dict[str, torch.Tensor]:
    """Six elements of a data type."""
    return {"x": torch.empty(2, 3, dtype=getattr(torch, name))}


class Sub(torch.Tensor):
    """A subclass without anything of its own."""


def with_attribute() -> torch.Tensor:
    """A tensor that another tensor hangs on."""
    tensor = torch.zeros(2, 3)
    tensor.mask = torch.ones(2, dtype=torch.bool)  # type: ignore[attr-defined]
    return tensor


def tied() -> dict[str, Any]:
    """Two names of one, a view with the same start and another shape, and an equal copy."""
    weight = torch.randn(4, 6)
    return {"a": weight, "b": weight, "view": weight[:2], "flat": weight.view(-1), "copy": weight.clone()}


def views() -> dict[str, Any]:
    """Tensors that look into a larger storage in every way."""
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    return {
        "part": base[1],
        "strided": base[:, ::2, :, ::3],
        "transposed": base.permute(3, 1, 0, 2),
        "expanded": torch.ones(3, 1).expand(3, 1000),
        "diagonal": torch.diagonal(torch.eye(5)),
        "channels_last": torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "last": base.flatten()[-1],
        "none": base[:, :0],
        "other_type": torch.zeros(4, dtype=torch.float32).view(torch.uint8)[2:],
    }


def plain_state_dict() -> dict[str, Any]:
    """Of a module with parameters, buffers and versions in ``_metadata``."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LSTM(4, 5)).state_dict()


def parameters() -> dict[str, Any]:
    """Parameters, frozen and not, and a plain tensor that wants a gradient."""
    return {
        "trained": nn.Parameter(torch.zeros(2)),
        "frozen": nn.Parameter(torch.zeros(3), requires_grad=False),
        "leaf": torch.zeros(4, requires_grad=True),
        "plain": torch.zeros(5),
    }


def optimizer() -> dict[str, Any]:
    """A model's and an optimizer's state_dict, with counters."""
    model = nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "lr": 0.5}


OBJECTS: dict[str, Callable[[], Any]] = {
    **{f"dtype {name}": functools.partial(one_of, name) for name in PLAIN + LATER},
    "state_dict": plain_state_dict,
    "parameters": parameters,
    "tied": tied,
    "views": views,
    "scalar and empty": lambda: {
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "e": torch.zeros(3, 0, 2),
    },
    "nested": lambda: {
        "G": {"w": torch.zeros(2)},
        "D": collections.OrderedDict(w=torch.ones(3), n={"x": torch.eye(2)}),
    },
    "numbered": lambda: {0: torch.zeros(2), 1: {"1": torch.ones(1), 7: torch.ones(2)}, (1, "a"): 5},
    "list": lambda: [torch.zeros(2), (torch.ones(1), {"x": torch.eye(2)})],
    "containers": lambda: {
        "d": collections.defaultdict(list, {"a": [torch.zeros(2)]}),
        "c": collections.Counter(a=1),
        "s": {1, 2},
        "f": frozenset([3]),
        "q": [b"bytes", bytearray(b"array"), 1 << 70, -(1 << 200), 1.5, 2j, None, True, range(3)],
        "t": torch.ones(2),
    },
    "optimizer": optimizer,
    "empty dict": dict,
    "sparse coo": lambda: {"x": torch.eye(3).to_sparse()},
    "sparse csr": lambda: {"x": torch.eye(3).to_sparse_csr(), "y": torch.eye(4).to_sparse_csc()},
    "sparse bsr": lambda: {"x": torch.eye(4).to_sparse_bsr((2, 2)), "y": torch.eye(4).to_sparse_bsc((2, 2))},
    "quantized": lambda: {
        "tensor": torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 3, torch.quint8),
        "channel": torch.quantize_per_channel(
            torch.randn(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint8
        ),
        "wide": torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint32),
        "packed": torch.quantize_per_channel(
            torch.randn(3, 5), torch.ones(3), torch.zeros(3), 0, torch.quint4x2
        ),
    },
    "nested strided": lambda: {"x": torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)])},
    "meta": lambda: {
        "x": torch.zeros(1000, 1000, device="meta"),
        "p": nn.Parameter(torch.zeros(3, device="meta")),
    },
    "subclass": lambda: {
        "x": torch.zeros(2, 3).as_subclass(Sub),
        "p": nn.Parameter(torch.zeros(2).as_subclass(Sub)),
    },
    "conjugate": lambda: {
        "c": torch.ones(2, dtype=torch.complex64).conj(),
        "n": torch.ones(2, dtype=torch.complex64).conj().imag,
    },
    "module": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Conv2d(1, 2, 3))),
    "modules": lambda: {"net": nn.Linear(2, 3), "ema": nn.Linear(2, 3), "epoch": 7},
}
# The layout before 1.6 has no way to say these.
NOT_LEGACY = {f"dtype {name}" for name in LATER} | {"views"}
# torch itself cannot load these from a file of that layout: it wants their values too early.
NOT_LEGACY |= {"nested strided"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", list(OBJECTS))
def test_zip_files_are_read_as_torch_reads_them(kind: str, protocol: int, tmp_path: Path) -> None:
    """Names, shapes, data types, strides, offsets, ties, sizes and requires_grad equal torch.load's."""
    path = torch_truth.save(OBJECTS[kind](), tmp_path / "x.pt", protocol=protocol)
    torch_truth.assert_equal(read(path), torch_truth.loaded(path))


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", [kind for kind in OBJECTS if kind not in NOT_LEGACY])
def test_legacy_files_are_read_as_torch_reads_them(kind: str, protocol: int, tmp_path: Path) -> None:
    """The same of the layout before 1.6."""
    path = torch_truth.save(OBJECTS[kind](), tmp_path / "x.pt", legacy=True, protocol=protocol)
    checkpoint = read(path)
    assert checkpoint.format == "torch-legacy"
    torch_truth.assert_equal(checkpoint, torch_truth.loaded(path))


def test_a_tensor_of_its_own(tmp_path: Path) -> None:
    """A file that is one tensor has one row."""
    path = torch_truth.save(torch.zeros(2, 3), tmp_path / "x.pt")
    [row] = read(path).table
    assert (row.name, row.shape) == ("tensor", (2, 3))


def test_buffers_and_uninitialised_parameters(tmp_path: Path) -> None:
    """nn.Buffer declares its kind and persistence; lazy parameters have no shape and no elements."""
    values = {
        "kept": nn.Buffer(torch.zeros(2)),
        "dropped": nn.Buffer(torch.zeros(3), persistent=False),
        "lazy": nn.parameter.UninitializedParameter(),
        "lazy_buffer": nn.parameter.UninitializedBuffer(),
    }
    rows = torch_truth.rows_of(read(torch_truth.save(values, tmp_path / "x.pt")))
    said = {
        name: (row.kind, row.declared, row.persistent, row.layout, row.numel) for name, row in rows.items()
    }
    assert said == {
        "kept": ("buffer", True, True, "strided", 2),
        "dropped": ("buffer", True, False, "strided", 3),
        "lazy": ("parameter", True, None, "uninitialized", 0),
        "lazy_buffer": ("buffer", True, None, "uninitialized", 0),
    }
    assert rows["lazy"].requires_grad is True


def test_composites_name_their_parts(tmp_path: Path) -> None:
    """What a tensor is stored as is there with its own shape, type and bytes."""
    scales = torch.tensor([0.5, 0.25], dtype=torch.float64)
    values = {
        "coo": torch.eye(3).to_sparse(),
        "csc": torch.eye(3).to_sparse_csc(),
        "channel": torch.quantize_per_channel(
            torch.randn(2, 3), scales, torch.zeros(2, dtype=torch.int64), 0, torch.qint8
        ),
        "tensor": torch.quantize_per_tensor(torch.randn(2, 3), 0.5, 0, torch.qint8),
        "jagged": torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)], layout=torch.jagged),
    }
    rows = torch_truth.rows_of(read(torch_truth.save(values, tmp_path / "x.pt")))
    parts = {
        name: (row.layout, [(part.name, part.shape, part.dtype.name) for part in row.parts])
        for name, row in rows.items()
    }
    assert parts == {
        "coo": ("sparse_coo", [("indices", (2, 3), "int64"), ("values", (3,), "float32")]),
        "csc": (
            "sparse_csc",
            [("ccol_indices", (4,), "int64"), ("row_indices", (3,), "int64"), ("values", (3,), "float32")],
        ),
        "channel": (
            "quantized",
            [("data", (2, 3), "qint8"), ("scales", (2,), "float64"), ("zero_points", (2,), "int64")],
        ),
        "tensor": ("quantized", []),
        "jagged": ("nested", [("values", (6, 3), "float32"), ("offsets", (3,), "int64")]),
    }
    assert rows["channel"].nbytes == 6 + 2 * 8 + 2 * 8
    assert rows["coo"].nbytes == 2 * 3 * 8 + 3 * 4


def test_subclasses_and_attributes(tmp_path: Path) -> None:
    """A subclass is named by its class; a tensor that hangs on another has a row too."""
    values = {"sub": torch.zeros(2).as_subclass(Sub), "marked": with_attribute()}
    rows = torch_truth.rows_of(read(torch_truth.save(values, tmp_path / "x.pt")))
    assert rows["sub"].class_name == f"{Sub.__module__}.Sub"
    assert list(rows) == ["sub", "marked", "marked.mask"]
    assert (rows["marked.mask"].dtype.name, rows["marked.mask"].kind) == ("bool", "other")


def test_wrapper_subclasses_show_the_logical_tensor(tmp_path: Path) -> None:
    """A wrapper's own shape and type are the row's; the tensors inside are its parts, with their bytes."""
    from torch.testing._internal.two_tensor import TwoTensor

    wrapped = TwoTensor(torch.zeros(2, 3), torch.ones(2, 3))
    values = {"two": wrapped, "parameter": nn.Parameter(wrapped)}
    rows = torch_truth.rows_of(read(torch_truth.save(values, tmp_path / "x.pt")))
    for row in rows.values():
        assert (row.shape, row.dtype.name, row.layout, row.nbytes) == ((2, 3), "float32", "wrapper", 48)
        assert [part.name for part in row.parts] == ["a", "b"]
    assert (rows["parameter"].kind, rows["parameter"].declared) == ("parameter", True)


def test_parameters_declare_and_plain_tensors_do_not(tmp_path: Path) -> None:
    """A Parameter says its kind and requires_grad; of a plain tensor a flag that is not set says nothing."""
    rows = torch_truth.rows_of(read(torch_truth.save(parameters(), tmp_path / "x.pt")))
    said = {name: (row.kind, row.declared, row.requires_grad) for name, row in rows.items()}
    assert said == {
        "trained": ("parameter", True, True),
        "frozen": ("parameter", True, False),
        "leaf": ("parameter", False, True),
        "plain": ("parameter", False, None),
    }


# -- whole modules -----------------------------------------------------------------------


def gone_module() -> types.ModuleType:
    """A Python module that exists while a file is written and not when it is read."""
    source = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.tied = tied
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("cache", torch.zeros(7), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("no_bias", None)
        self.scale = torch.ones(5)
        self.history = [torch.zeros(2), {"x": torch.zeros(3)}]
        self.listed = [nn.Linear(2, 2)]
        self.again = [self.fc, self.fc.weight]
        self.note = "hello"

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.blocks = nn.ModuleList([Block(self.embed.weight), Block(self.embed.weight)])
        self.embed.weight.requires_grad = False
        self.shared = self.blocks[0].fc
        self.extra = nn.ParameterList([nn.Parameter(torch.zeros(1))])
"""
    module = types.ModuleType("gone_module")
    exec(source, module.__dict__)
    return module


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_modules_of_classes_that_are_gone(
    legacy: bool, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, kinds, persistence, requires_grad and classes of a whole module are known without its class."""
    module = gone_module()
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "gone_module", module)
        net = module.Net()
        path = torch_truth.save(net, tmp_path / "net.pt", legacy=legacy, protocol=protocol)
    with pytest.raises(ModuleNotFoundError):
        torch_truth.loaded(path)
    checkpoint = read(path)
    table = checkpoint.table
    assert {row.name for row in table} >= set(net.state_dict())
    parameters = dict(net.named_parameters(remove_duplicate=False))
    assert {row.name: row.requires_grad for row in table if row.kind == "parameter"} == {
        name: parameter.requires_grad for name, parameter in parameters.items()
    }
    buffers = {row.name: row.persistent for row in table if row.kind == "buffer"}
    assert buffers == {name: not name.endswith("cache") for name, _ in net.named_buffers()}
    assert all(row.declared for row in table)
    assert table.modules == {
        name: type(child).__name__ for name, child in net.named_modules(remove_duplicate=False)
    }
    assert table.tied_to["blocks.1.tied"] == "embed.weight"
    assert sorted(row.name for row in table.unregistered) == sorted(
        f"blocks.{number}.{name}"
        for number in (0, 1)
        for name in ("scale", "history.0", "history.1.x", "listed.0.weight", "listed.0.bias")
    )
    assert {"gone_module.Net", "gone_module.Block"} <= {
        f"{name.module}.{name.name}" for name in checkpoint.globals
    }
    assert any("gone_module.Net" in note for note in checkpoint.notes)


def test_a_module_that_refers_to_itself(tmp_path: Path) -> None:
    """Cycles of attributes and submodules end."""
    net = nn.Linear(2, 3)
    net.__dict__["owner"] = [net]
    net.__dict__["friends"] = {"all": [net.__dict__["owner"], net]}
    table = read(torch_truth.save(net, tmp_path / "x.pt")).table
    assert [row.name for row in table] == ["weight", "bias"]
    assert not table.unregistered


# -- sections ------------------------------------------------------------------------------


def sections(checkpoint: Checkpoint) -> dict[str, str]:
    """Name to role."""
    return dict(checkpoint.roles)


def sd(*sizes: int) -> dict[str, torch.Tensor]:
    """A small state_dict."""
    return {f"{number}.weight": torch.zeros(size) for number, size in enumerate(sizes)}


def adam() -> dict[str, Any]:
    """An optimizer's state_dict."""
    state = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}
    return {"state": state, "param_groups": [{"lr": 0.1, "params": [0]}]}


SECTIONS: dict[str, tuple[Callable[[], Any], dict[str, str], str]] = {
    "bare": (lambda: sd(2, 3), {"": "model"}, ""),
    "wrapped": (lambda: {"state_dict": sd(2)}, {"state_dict": "model"}, "state_dict"),
    "no role": (lambda: {"G": sd(2), "D": sd(3)}, {"": "model"}, ""),
    "training": (
        lambda: {
            "epoch": 1,
            "model": sd(2),
            "optimizer": adam(),
            "ema": sd(2),
            "scheduler": {"x": torch.ones(1)},
        },
        {"model": "model", "optimizer": "optimizer", "ema": "ema", "scheduler": "other"},
        "model",
    ),
    "lightning": (
        lambda: {
            "epoch": 3,
            "global_step": 99,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": sd(2, 3),
            "optimizer_states": [adam(), adam()],
            "lr_schedulers": [{"last": 1}],
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
            "hyper_parameters": {"width": 3, "act": "relu"},
        },
        {
            "state_dict": "model",
            "optimizer_states.0": "optimizer",
            "optimizer_states.1": "optimizer",
            "callbacks": "other",
        },
        "state_dict",
    ),
    "wrapper": (
        lambda: {"checkpoint": {"model": sd(2), "optimizer": adam()}, "version": 2},
        {"checkpoint.model": "model", "checkpoint.optimizer": "optimizer"},
        "checkpoint.model",
    ),
    "optimizer alone": (adam, {"": "optimizer"}, ""),
    "ema alone": (lambda: {"ema_state_dict": sd(2)}, {"ema_state_dict": "ema"}, "ema_state_dict"),
    "real-esrgan": (
        lambda: {"params": sd(2), "params_ema": sd(2)},
        {"params": "model", "params_ema": "ema"},
        "params",
    ),
    "unknown beside optimizer": (
        lambda: {"mpd": sd(2), "msd": sd(3), "optim_g": adam(), "optim_d": adam()},
        {"": "model", "optim_g": "optimizer", "optim_d": "optimizer"},
        "",
    ),
    "tensors beside sections": (
        lambda: {"mean": torch.zeros(3), "state_dict": sd(2), "std": torch.zeros(3)},
        {"": "other", "state_dict": "model"},
        "state_dict",
    ),
    "the larger model": (
        lambda: {"net": sd(100), "model": sd(5), "optim": adam()},
        {"net": "model", "model": "model", "optim": "optimizer"},
        "net",
    ),
    "halves of one model": (
        lambda: {"generator": sd(100), "discriminator": sd(5), "optim_g": adam()},
        {"": "model", "optim_g": "optimizer"},
        "",
    ),
    "actor and critic": (
        lambda: {"actor": sd(10), "critic": sd(5), "actor_optimizer": adam()},
        {"": "model", "actor_optimizer": "optimizer"},
        "",
    ),
    "submodules called net": (
        lambda: {"encoder": sd(2), "net": sd(3), "decoder": sd(4)},
        {"": "model"},
        "",
    ),
    "pair": (lambda: [sd(2), adam()], {"": "model", "1": "optimizer"}, ""),
    "gradients": (
        lambda: {"model": sd(2), "grads": sd(2)},
        {"model": "model", "grads": "gradients"},
        "model",
    ),
    "dots": (
        lambda: {"a": {"model": sd(2)}, "a.model": {"ema_model": sd(1)}},
        {"a.model": "model", "a.model.ema_model": "ema"},
        "a.model",
    ),
}


@pytest.mark.parametrize("case", list(SECTIONS))
def test_sections_and_roles(case: str, tmp_path: Path) -> None:
    """Keys and structure say what a part of a checkpoint is; one section is taken for the model."""
    make, expected, model = SECTIONS[case]
    value = make()
    checkpoint = read(torch_truth.save(value, tmp_path / "x.pt"))
    assert sections(checkpoint) == expected
    assert checkpoint.model_section == model
    # No tensor is lost or counted twice by sorting them.
    assert len(torch_truth.rows_of(checkpoint)) == len(list(torch_truth.named_tensors(value)))
    assert (len(expected) > 1) == any("taken for the model" in note for note in checkpoint.notes)


def test_kinds_follow_the_section(tmp_path: Path) -> None:
    """What lies in an optimizer's section is of that kind and named by its path."""
    value = {"model": plain_state_dict(), "optimizer": adam(), "callbacks": {"best": torch.zeros(1)}}
    checkpoint = read(torch_truth.save(value, tmp_path / "x.pt"))
    assert [row.name for row in checkpoint.tables["optimizer"]] == ["state.0.step", "state.0.exp_avg"]
    kinds = {name: {row.kind for row in table} for name, table in checkpoint.tables.items()}
    assert kinds == {"model": {"parameter", "buffer"}, "optimizer": {"optimizer"}, "callbacks": {"other"}}


def test_metadata_is_short_scalars(tmp_path: Path) -> None:
    """Numbers and texts beside the tensors are kept as dotted pairs, long texts are not."""
    value = {
        "epoch": 3,
        "loss": 0.5,
        "done": True,
        "arch": "x" * 5000,
        "state_dict": sd(1),
        "hyper_parameters": {"width": 3, "inner": {"act": "relu"}},
        "optimizer": adam(),
    }
    metadata = read(torch_truth.save(value, tmp_path / "x.pt")).metadata
    assert metadata == {
        "epoch": "3",
        "loss": "0.5",
        "done": "True",
        "hyper_parameters.width": "3",
        "hyper_parameters.inner.act": "relu",
    }


# -- properties ------------------------------------------------------------------------------


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Any]:
    """State_dicts with views, ties, nested dictionaries and lists."""
    pool: list[torch.Tensor] = []

    def flip() -> bool:
        return bool(draw(st.booleans()))

    def tensor() -> torch.Tensor:
        if pool and flip():
            base = draw(st.sampled_from(pool))
            chosen: torch.Tensor = draw(st.sampled_from([base, *_views_of(base)]))
            return chosen
        shape: list[int] = draw(st.lists(st.integers(0, 4), max_size=4))
        made = torch.zeros(shape, dtype=getattr(torch, draw(st.sampled_from(PLAIN))))
        pool.append(made)
        return (
            nn.Parameter(made, draw(st.booleans()))
            if made.is_floating_point() and draw(st.booleans())
            else made
        )

    names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
    leaves = st.builds(lambda _: tensor(), st.none()) | st.integers() | st.text(max_size=5) | st.floats()
    values = st.recursive(
        leaves,
        lambda inner: st.dictionaries(names, inner, max_size=4) | st.lists(inner, max_size=3),
        max_leaves=12,
    )
    return draw(st.dictionaries(names, values, max_size=5))


def _views_of(base: torch.Tensor) -> list[torch.Tensor]:
    views = [base.flatten()[1:], base.unsqueeze(0).expand(2, *base.shape)]
    if base.dim() > 1:
        views += [base.transpose(0, 1), base[..., ::2]]
    return views


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=state_dicts(), legacy=st.booleans(), protocol=st.sampled_from([2, 3, 4, 5]))
def test_random_state_dicts(value: dict[str, Any], legacy: bool, protocol: int, tmp_path: Path) -> None:
    """Of whatever is nested, tied and viewed, names, shapes, strides and ties are torch's."""
    path = torch_truth.save(value, tmp_path / "x.pt", legacy=legacy, protocol=protocol)
    truth = torch_truth.loaded(path)
    if len(set(dict(torch_truth.named_tensors(truth)))) < len(list(torch_truth.named_tensors(truth))):
        return  # {"a": {"b": ...}, "a.b": ...}: two of one dotted name
    torch_truth.assert_equal(read(path), truth)


# -- cost ----------------------------------------------------------------------------------------


def test_only_headers_are_read(tmp_path: Path) -> None:
    """Forty megabytes of values are not touched, whatever they are."""
    values = {"a": torch.zeros(5_000_000), "b": {"c": torch.zeros(2, 2_500_000, dtype=torch.bfloat16)}}
    for legacy in (False, True):
        path = torch_truth.save(values, tmp_path / "x.pt", legacy=legacy)
        assert path.stat().st_size > 29_000_000
        assert read(path).bytes_read < 6_000


def test_long_texts_are_passed_over(tmp_path: Path) -> None:
    """Megabytes of text or bytes inside the pickle are neither read nor kept."""
    values = {"log": "x" * 5_000_000, "raw": b"y" * 5_000_000, "w": torch.zeros(3)}
    for legacy in (False, True):
        for protocol in (3, 4, 5):
            path = torch_truth.save(values, tmp_path / "x.pt", legacy=legacy, protocol=protocol)
            checkpoint = read(path)
            assert [row.name for row in checkpoint.table] == ["w"]
            assert checkpoint.bytes_read < 3_000_000


def test_four_million_opcodes(tmp_path: Path) -> None:
    """A long log beside the weights is no more than a large checkpoint."""
    value = {"weight": torch.zeros(3), "log": [[step, step / 2] for step in range(650_000)]}
    path = torch_truth.save(value, tmp_path / "x.pt")
    with zipfile.ZipFile(path) as archive:
        # Six opcodes a pair, and a few in between.
        assert archive.getinfo("x/data.pkl").file_size > 650_000 * 20
    assert [row.name for row in read(path).table] == ["weight"]


# -- what no torch of today writes ----------------------------------------------------------


class Named:
    """Stands for a function or class that is pickled by a name of our choice."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Made:
    """Stands for a call."""

    def __init__(self, func: Named, *args: Any, state: Any = None) -> None:
        self.func, self.args, self.state = func, args, state


class Held:
    """Stands for a storage."""

    def __init__(self, *pid: Any) -> None:
        self.pid = pid


class Writer(pickle._Pickler):
    """Pickles names, calls and storages as an older torch did."""

    write: Callable[[bytes], Any]

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """One object."""
        if isinstance(obj, Named):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Made):
            self.save(obj.func)
            self.save(obj.args)
            self.write(b"R")
            if obj.state is not None:
                self.save(obj.state)
                self.write(b"b")
        elif isinstance(obj, Held):
            self.save(("storage", *obj.pid))
            self.write(b"Q")
        else:
            super().save(obj, save_persistent_id)  # type: ignore[misc]


def pickled(obj: Any) -> bytes:
    """Protocol 2, as torch has always written."""
    buffer = io.BytesIO()
    Writer(buffer, 2).dump(obj)
    return buffer.getvalue()


def old_file(path: Path, obj: Any, storages: dict[str, list[float]]) -> Path:
    """The layout before 1.6, of float32 storages."""
    out = b"".join(map(pickled, (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, obj, list(storages))))
    for numbers in storages.values():
        out += struct.pack(f"<q{len(numbers)}f", len(numbers), *numbers)
    path.write_bytes(out)
    return path


FLOATS = Named("torch", "FloatStorage")
V1 = Named("torch._utils", "_rebuild_tensor")


def values_of(path: Path, row: TensorInfo) -> list[float]:
    """The float32 values between a row's first and last byte."""
    assert row.extent is not None
    raw = path.read_bytes()[row.extent.offset :][: row.extent.nbytes]
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


def test_views_of_storages(tmp_path: Path) -> None:
    """Up to torch 0.3 a storage could be a part of another: the rows' bytes are where torch finds them."""
    storage = ("7", "cpu", 6)
    value = {
        "whole": Made(V1, Held(FLOATS, *storage, None), 1, (2,), (1,)),
        "part": Made(V1, Held(FLOATS, *storage, ("9", 2, 3)), 1, (2,), (1,)),
        "again": Made(V1, Held(FLOATS, *storage, ("9", 2, 3)), 1, (2,), (1,)),
    }
    path = old_file(tmp_path / "x.pth", value, {"7": [0, 1, 2, 3, 4, 5]})
    table = read(path).table
    found = {row.name: values_of(path, row) for row in table}
    assert found == {"whole": [1, 2], "part": [3, 4], "again": [3, 4]}
    assert found == {name: tensor.tolist() for name, tensor in torch_truth.loaded(path).items()}
    assert table.tied_to == {"again": "part"}
    assert {row.storage for row in table} == {table["whole"].storage}
    beyond = {"x": Made(V1, Held(FLOATS, *storage, ("9", 4, 3)), 0, (3,), (1,))}
    with pytest.raises(DamagedFileError, match="beyond storage '7'"):
        read(old_file(path, beyond, {"7": [0, 1, 2, 3, 4, 5]}))


def test_objects_of_old_versions(tmp_path: Path) -> None:
    """Tensors, variables and parameters as torch 0.1 to 1.8 pickled them."""
    held = Held(FLOATS, "0", "cpu", 6, None)
    tensor = Made(V1, held, 0, (2, 3), (3, 1))
    parameter, variable = (
        Named("torch.nn.parameter", "Parameter"),
        Named("torch.autograd.variable", "Variable"),
    )
    v2: Any = (held, 0, (2, 3), (3, 1), False, collections.OrderedDict())
    size = Made(Named("torch", "Size"), (2, 3))
    value = {
        "tensor": Made(Named("torch", "FloatTensor"), state=(held, 0, (2, 3), (3, 1))),
        "size": Made(V1, held, 0, size, [3, 1]),
        "parameter": Made(parameter, tensor, False, state=(False, False, collections.OrderedDict())),
        "variable": Made(variable, tensor, state=(True, False, collections.OrderedDict())),
        "subclass": Made(
            Named("torch.tensor", "_rebuild_from_type"),
            Named("torch._utils", "_rebuild_tensor_v2"),
            Named("mine", "Tensor"), v2, {},
        ),
    }  # fmt: skip
    path = old_file(tmp_path / "x.pth", value, {"0": [0, 1, 2, 3, 4, 5]})
    rows = torch_truth.rows_of(read(path))
    assert {row.shape for row in rows.values()} == {(2, 3)}
    assert {row.dtype.name for row in rows.values()} == {"float32"}
    said = {name: (row.declared, row.requires_grad, row.class_name) for name, row in rows.items()}
    assert said == {
        "tensor": (False, None, ""),
        "size": (False, None, ""),
        "parameter": (True, False, ""),
        "variable": (False, True, ""),
        "subclass": (False, None, "mine.Tensor"),
    }


def test_tensors_of_other_devices(tmp_path: Path) -> None:
    """XLA and its kind save a NumPy array or a CPU tensor: type, shape and device are the original's."""
    array = Made(
        Named("numpy._core.multiarray", "_reconstruct"), Named("numpy", "ndarray"), (0,), b"b",
        state=(1, (2, 3), Made(Named("numpy", "dtype"), "f4", False, True), False, bytes(24)),
    )  # fmt: skip
    dtype = Named("torch", "bfloat16")
    tensor = Made(V1, Held(FLOATS, "0", "cpu", 6, None), 0, (2, 3), (3, 1))
    from_numpy = Named("torch._utils", "_rebuild_device_tensor_from_numpy")
    from_cpu = Named("torch._utils", "_rebuild_device_tensor_from_cpu_tensor")
    value = {
        "array": Made(from_numpy, array, dtype, "xla:0", True),
        "tensor": Made(from_cpu, tensor, dtype, "maia:1", False),
    }
    rows = torch_truth.rows_of(read(old_file(tmp_path / "x.pth", value, {"0": [0, 1, 2, 3, 4, 5]})))
    said = {name: (row.shape, row.dtype.name, row.device, row.requires_grad) for name, row in rows.items()}
    assert said == {
        "array": ((2, 3), "bfloat16", "xla:0", True),
        "tensor": ((2, 3), "bfloat16", "maia:1", None),
    }


def test_dictionaries_of_foreign_classes(tmp_path: Path) -> None:
    """A checkpoint that is a dictionary of somebody's class is sorted like any other."""
    held = Held(FLOATS, "0", "cpu", 2, None)

    def inside(**entries: Any) -> bytes:
        body = b"".join(pickled(key)[2:-1] + value for key, value in entries.items())
        return b"cmine\nAttrDict\n)R(" + body + b"u"

    tensor = pickled({"w": Made(V1, held, 0, (2,), (1,))})[2:-1]
    obj = b"\x80\x02" + inside(model=tensor, optimizer=tensor) + b"."
    pickles = [pickled(0x1950A86A20F9469CFC6C), pickled(1001), pickled({}), obj, pickled(["0"])]
    path = tmp_path / "x.pth"
    path.write_bytes(b"".join(pickles) + struct.pack("<q2f", 2, 0, 1))
    assert sections(read(path)) == {"model": "model", "optimizer": "optimizer"}


def test_distributed_tensors_show_the_global_shape(tmp_path: Path) -> None:
    """A DTensor's row is the whole tensor; its part is the piece that the file holds."""
    program = """
import sys, torch, torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
tensor = DTensor.from_local(torch.zeros(4, 3), init_device_mesh("cpu", (2,)), [Shard(0)])
torch.save({"weight": torch.nn.Parameter(tensor)}, sys.argv[1])
"""
    path = tmp_path / "x.pt"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(path)], check=True)
    [row] = read(path).table
    assert (row.shape, row.stride, row.class_name) == ((8, 3), (3, 1), "torch.distributed.tensor.DTensor")
    assert (row.kind, row.declared, row.requires_grad) == ("parameter", True, True)
    assert [(part.name, part.shape) for part in row.parts] == [("_local_tensor", (4, 3))]
    assert row.placement == "Shard(dim=0)"


def test_placements_of_distributed_tensors(tmp_path: Path) -> None:
    """One for each axis of the mesh, as torch shows them."""
    program = """
import sys, torch, torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
mesh = init_device_mesh("cpu", (2, 2))
tensors = {}
for placements in ([Shard(1), Replicate()], [Replicate(), Replicate()], [Partial(), Shard(0)]):
    tensor = DTensor.from_local(torch.zeros(4, 3), mesh, placements)
    tensors[", ".join(map(repr, tensor.placements))] = tensor
torch.save(tensors, sys.argv[1])
"""
    path = tmp_path / "x.pt"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(path)], check=True)
    rows = list(read(path).table)
    assert len(rows) == 3
    assert [row.placement for row in rows] == [row.name for row in rows]


def test_traced_modules(tmp_path: Path) -> None:
    """A GraphModule is made by a function from a dictionary; its tree is read all the same."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    traced = torch.fx.symbolic_trace(net)
    table = read(torch_truth.save(traced, tmp_path / "x.pt")).table
    assert {row.name for row in table} == set(net.state_dict())
    assert table.modules["0"] == "Linear"
    assert table["1.running_mean"].kind == "buffer"


# -- generations of the archive --------------------------------------------------------------


def rewritten(path: Path, *, without: tuple[str, ...], root: str, deflate: bool = False) -> Path:
    """The same archive without some of its small records, in another folder, or compressed."""
    other = path.with_name("other.pt")
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w", method) as new:
        for name in old.namelist():
            inner = name.partition("/")[2]
            if inner not in without:
                new.writestr(f"{root}/{inner}", old.read(name))
    return other


SINCE_2_7 = (".format_version", ".storage_alignment")
SINCE_2_1 = ("byteorder", ".data/serialization_id")


@pytest.mark.parametrize("deflate", [False, True])
def test_generations_of_the_archive(deflate: bool, tmp_path: Path) -> None:
    """Records that came with a version of torch tell who wrote the file; all of them read the same."""
    value = {"w": torch.arange(6.0), 1: [torch.ones(2, dtype=torch.int16)]}
    path = torch_truth.save(value, tmp_path / "net.pt")
    for without, writer in (
        ((), "torch 2.7 or later"),
        (SINCE_2_7, "torch 2.1 or later"),
        (SINCE_2_7 + SINCE_2_1, "torch before 2.1"),
    ):
        other = rewritten(path, without=without, root="some folder", deflate=deflate)
        checkpoint = read(other)
        torch_truth.assert_equal(checkpoint, torch_truth.loaded(other))
        assert checkpoint.version == "3"
        assert checkpoint.facts["written by"] == writer
        assert checkpoint.facts["root"] == "some folder"
        assert checkpoint.facts.get("byte order") == (None if "byteorder" in without else "little")
        assert checkpoint.facts["pickle protocol"] == "2"


@pytest.mark.parametrize("root", ["a b", "x.y.z", "模型", "ünï"])
def test_roots_of_the_archive(root: str, tmp_path: Path) -> None:
    """The folder is the file's name without its suffix, whatever that is; then it is not worth a word."""
    path = torch_truth.save({"w": torch.zeros(2)}, tmp_path / f"{root}.pt")
    torch_truth.assert_equal(read(path), torch_truth.loaded(path))
    assert "root" not in read(path).facts
    assert read(path).facts["storage alignment"] == "64"


def test_what_a_legacy_file_says_of_itself(tmp_path: Path) -> None:
    """Its layout's version and the machine that it was saved on."""
    checkpoint = read(torch_truth.save({"w": torch.zeros(2)}, tmp_path / "x.pth", legacy=True))
    assert checkpoint.version == "1001"
    assert checkpoint.facts["saved on"] == f"a {sys.byteorder}-endian machine"
