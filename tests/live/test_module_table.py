"""Tables of live modules and of dicts in hand, against what torch says of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modelinspect.live.module_table import module_table, tensors_table
from modelinspect.tensors import ParameterTable, TensorInfo


class Wrapped(Tensor):
    """A tensor that only wraps two others, as quantizing libraries make them."""

    data_part: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, data: Tensor, scale: Tensor) -> Wrapped:
        """Shape and data type are those of what it stands for."""
        self = Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.float32)
        self.data_part, self.scale = data, scale
        return self

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["data_part", "scale"], None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Only what ``nn.Parameter`` asks for."""
        if func is torch.ops.aten.detach.default:
            return Wrapped(args[0].data_part, args[0].scale)
        raise NotImplementedError(func)


class Plain(Tensor):
    """A subclass with memory of its own."""


class Zoo(nn.Module):
    """Everything that can be registered, and some of what can't."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.ones(()))
        self.empty = nn.Parameter(torch.ones(0, 5))
        self.register_parameter("none", None)
        self.register_buffer("mask", torch.ones(2, 2, dtype=torch.bool))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        self.register_buffer("nothing", None)
        self.norm = nn.BatchNorm1d(4, dtype=torch.float64)
        self.shared = self.first
        self.tied = nn.Linear(3, 4)
        self.tied.weight = self.first.weight
        self.alias = nn.Parameter(self.first.bias.data)
        self.part = nn.Parameter(self.first.weight.data[1:])
        self.turned = nn.Parameter(torch.zeros(5, 2).t())
        self.short = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16), requires_grad=False)
        self.complex = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        self.lstm = nn.LSTM(2, 3, bidirectional=True)
        self.add_module("gone", None)


def build(device: str) -> Zoo:
    """All of it on one device."""
    with torch.device(device):
        return Zoo()


def rows_by_name(table: ParameterTable) -> dict[str, TensorInfo]:
    """Every row under its name, buffers too."""
    return {row.name: row for row in table}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rows_are_what_torch_says(device: str) -> None:
    """Names, order, shapes, data types, strides, offsets, kinds and gradients agree with torch's own."""
    module = build(device)
    table = module_table(module, "zoo")
    rows = rows_by_name(table)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers(remove_duplicate=False))
    assert [name for name in rows if rows[name].persistent is not False] == list(module.state_dict())
    assert set(rows) == {*parameters, *buffers}
    assert [name for name, row in rows.items() if row.kind == "parameter"] == list(parameters)
    for name, row in rows.items():
        tensor = {**parameters, **buffers}[name]
        assert row.shape == tuple(tensor.shape)
        assert row.stride == tensor.stride()
        assert row.storage_offset == tensor.storage_offset()
        assert f"torch.{row.dtype}" == str(tensor.dtype)
        assert row.numel == tensor.numel()
        assert row.nbytes == tensor.nbytes
        assert row.requires_grad == tensor.requires_grad
        assert row.is_contiguous == tensor.is_contiguous()
        assert row.device == device
        assert row.declared
        assert row.class_name == ""
        assert row.storage is not None
        assert row.storage.nbytes == tensor.untyped_storage().nbytes()
        assert row.extent is None
    assert {name: row.persistent for name, row in rows.items() if name in ("mask", "scratch", "scale")} == {
        "mask": True, "scratch": False, "scale": None,
    }  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_ties_are_storages_not_addresses(device: str) -> None:
    """Tied, aliased and shared tensors are found on any device; what only shares a size is not tied."""
    table = module_table(build(device), "zoo")
    # The root's own parameters come first.
    assert table.tied_to == {
        "first.bias": "alias", "shared.bias": "alias",
        "shared.weight": "first.weight", "tied.weight": "first.weight",
    }  # fmt: skip
    rows = rows_by_name(table)
    assert rows["part"].storage == rows["first.weight"].storage
    assert rows["tied.bias"].storage != rows["first.bias"].storage


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_unique_parameters_are_torchs(device: str) -> None:
    """Each object once, as ``sum(p.numel() for p in m.parameters())``, where no two objects share memory."""
    with torch.device(device):
        block = nn.Linear(2, 2)
        module = nn.Sequential(block, nn.Sequential(block, nn.LSTM(2, 2)), block)
    table = module_table(module, "x")
    unique = sum(row.numel for row in table if row.name not in table.tied_to)
    assert unique == sum(parameter.numel() for parameter in module.parameters())
    assert [row.name for row in table] == list(module.state_dict())


def test_modules_are_named_under_every_path() -> None:
    """Paths, the shared ones too, with their class names; the root is the empty path."""
    module = build("meta")
    table = module_table(module, "zoo", origin="memory")
    expected = {path: type(part).__name__ for path, part in module.named_modules(remove_duplicate=False)}
    assert table.modules == expected
    assert list(table.modules) == list(expected)
    assert table.modules["shared"] == "Linear"
    assert (table.source, table.origin, table.section) == ("zoo", "memory", "")


def test_flat_lstm_weights_are_no_stray_tensors() -> None:
    """``flatten_parameters`` puts an LSTM's weights in one storage; the list of them is not stray."""
    module = nn.LSTM(2, 3)
    flat = torch.zeros(sum(p.numel() for p in module.parameters()))
    start = 0
    for parameter in module.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    table = module_table(module, "lstm")
    assert len({row.storage for row in table}) == 1
    assert [row.storage_offset for row in table] == [0, 24, 60, 72]
    assert table.tied_to == {}
    assert table.unregistered == []


def test_stray_tensors_are_pointed_out() -> None:
    """Tensors in plain attributes, lists and dicts are listed once; what is registered is not."""

    class Stray(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("mask", torch.ones(3))
            self.h = torch.zeros(1, 4)
            self.again = self.h
            self.states = [torch.zeros(2), 3, torch.zeros(5)]
            self.cache = {"k": torch.zeros(1), 7: torch.ones(2)}
            self.hidden = [nn.Parameter(torch.zeros(6))]
            self.weight_list = [self.fc.weight, self.fc.weight[0], self.mask]
            self.nested = [[torch.zeros(9)]]
            self.fc.note = torch.zeros(())

    table = module_table(nn.Sequential(Stray()), "stray")
    assert [(row.name, row.shape, row.kind) for row in table.unregistered] == [
        ("0.h", (1, 4), "other"), ("0.states.0", (2,), "other"), ("0.states.2", (5,), "other"),
        ("0.cache.k", (1,), "other"), ("0.cache.7", (2,), "other"), ("0.hidden.0", (6,), "parameter"),
        ("0.fc.note", (), "other"),
    ]  # fmt: skip
    assert [row.name for row in table] == ["0.mask", "0.fc.weight", "0.fc.bias"]


def test_hidden_modules_are_noted() -> None:
    """Modules in plain lists hold parameters that nobody sees; a note names them and counts."""
    outer = nn.Module()
    outer.layers = [nn.Linear(2, 2), nn.Linear(2, 2), nn.Tanh()]  # type: ignore[assignment]
    outer.heads = {"a": nn.Linear(1, 1)}  # type: ignore[assignment]
    outer.lazy = [nn.LazyLinear(2)]  # type: ignore[assignment]
    outer.acts = [nn.Tanh()]  # type: ignore[assignment]
    outer.fc = nn.Linear(3, 3)
    outer.listed = [outer.fc]  # type: ignore[assignment]
    outer.__dict__["teacher"] = nn.Linear(5, 5)
    assert [note.removeprefix("not counted: ") for note in module_table(outer, "x").notes] == [
        "layers is a plain list of 3 modules with 12 parameters; nn.ModuleList would register them",
        "heads is a plain dict of 1 module with 2 parameters; nn.ModuleDict would register them",
        "lazy is a plain list of 1 module with 0 parameters; nn.ModuleList would register them",
        "teacher is a module that was never registered, 1 module with 30 parameters",
    ]


def test_what_a_module_saves_by_itself_is_noted() -> None:
    """A layer that packs its weights has no parameters; a note says what it saves instead."""

    class Packed(nn.Module):
        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "packed"] = (torch.zeros(3), None)

    packed = Packed()
    packed.w = nn.Parameter(torch.zeros(2))
    assert module_table(nn.Sequential(packed), "x").notes == (
        "not counted: 0 saves what is neither parameter nor buffer: packed.0",
    )


def test_a_second_view_of_a_module_is_not_hidden() -> None:
    """A traced module keeps another module around the same parameters; nothing is uncounted."""
    first, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight, other.bias = first.weight, first.bias
    module = nn.Sequential(first)
    module.__dict__["other"] = other
    assert module_table(module, "x").notes == ()


def test_subclasses_and_composites() -> None:
    """Wrappers, sparse, quantized and nested tensors: logical shape, and the parts that have the bytes."""
    module = nn.Module()
    module.wrapped = nn.Parameter(
        Wrapped(torch.zeros(4, 6, dtype=torch.int8), torch.zeros(4)), requires_grad=False
    )
    module.plain = nn.Parameter(torch.zeros(3).as_subclass(Plain))
    module.register_buffer("coo", torch.eye(3).to_sparse())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls these kinds beta, or deprecated, once a process
        module.register_buffer("csr", torch.eye(3).to_sparse_csr())
        module.register_buffer("small", torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8))
        module.register_buffer("ragged", torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)]))
    table = rows_by_name(module_table(module, "x"))
    wrapped = table["wrapped"]
    assert (wrapped.shape, wrapped.dtype.name, wrapped.layout) == ((4, 6), "float32", "wrapper")
    assert wrapped.class_name.endswith("Wrapped")
    assert [(part.name, part.dtype.name, part.shape) for part in wrapped.parts] == [
        ("data_part", "int8", (4, 6)), ("scale", "float32", (4,)),
    ]  # fmt: skip
    assert wrapped.nbytes == 24 + 16
    assert (table["plain"].layout, table["plain"].nbytes) == ("strided", 12)
    assert table["plain"].class_name.endswith("Plain")
    coo = table["coo"]
    assert (coo.layout, coo.shape, [(p.name, p.shape) for p in coo.parts]) == (
        "sparse_coo", (3, 3), [("indices", (2, 3)), ("values", (3,))],
    )  # fmt: skip
    assert [part.name for part in table["csr"].parts] == ["crow_indices", "col_indices", "values"]
    assert table["csr"].nbytes == 4 * 8 + 3 * 8 + 3 * 4
    small, ragged = table["small"], table["ragged"]
    assert (small.layout, small.dtype.name, small.shape, small.nbytes) == ("quantized", "qint8", (2, 3), 6)
    assert (ragged.layout, ragged.numel, ragged.nbytes) == ("nested", 18, 72)


def test_tied_wrappers() -> None:
    """A wrapper under two names is one tensor; two wrappers are two."""
    module = nn.Module()
    pairs = [Wrapped(torch.zeros(2), torch.zeros(2)) for _ in range(2)]
    module.a, module.c = (nn.Parameter(pair, requires_grad=False) for pair in pairs)
    module.b = module.a
    table = module_table(module, "x")
    assert {row.name for row in table} == {"a", "b", "c"}
    assert table.tied_to == {"b": "a"}


def test_a_module_that_holds_itself_ends() -> None:
    """A cycle of modules is listed once, with a note, where torch recurses without end."""
    module = nn.Sequential(nn.Linear(1, 1))
    module.add_module("self", module)
    table = module_table(module, "x")
    assert [row.name for row in table] == ["0.weight", "0.bias"]
    assert table.notes == ("self is a module that holds itself; it is listed once",)


def test_a_very_deep_module() -> None:
    """Two thousand levels are no recursion."""
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(2000):
        module = nn.Sequential(module)
    assert len(module_table(module, "deep")) == 2


def test_new_data_types_have_a_row() -> None:
    """A data type of torch's that our table lacks keeps its name and its bytes."""
    module = nn.Module()
    module.register_buffer(
        "bits",
        torch.empty(
            3,
            dtype=torch.uint4,  # type: ignore[attr-defined]
            device="meta",
        ),
    )
    row = module_table(module, "x")["bits"]
    assert (row.dtype.name, row.nbytes) == ("uint4", 3)


def test_dict_of_tensors() -> None:
    """A dict in hand: names joined by dots, ties by storage, NumPy arrays, and what is no tensor noted."""
    weight = torch.zeros(3, 2)
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    table = tensors_table(
        {
            "state": {"a.weight": weight, "b.weight": weight, "bn.running_mean": torch.zeros(2)},
            "list": [nn.Parameter(torch.zeros(2)), torch.zeros(1, requires_grad=True)],
            "array": array,
            "column": array[:, 1:2],
            "words": np.array(["a"]),
            "epoch": 3,
            7: torch.zeros((), dtype=torch.int64),
        },
        "dict",
    )
    rows = [(r.name, r.dtype.name, r.shape, r.kind, r.declared, r.requires_grad) for r in table]
    assert rows == [
        ("state.a.weight", "float32", (3, 2), "parameter", False, None),
        ("state.b.weight", "float32", (3, 2), "parameter", False, None),
        ("state.bn.running_mean", "float32", (2,), "buffer", False, None),
        ("list.0", "float32", (2,), "parameter", True, True),
        ("list.1", "float32", (1,), "parameter", True, True),
        ("array", "float64", (3, 4), "parameter", False, None),
        ("column", "float64", (3, 1), "parameter", False, None),
        ("7", "int64", (), "buffer", False, None),
    ]  # fmt: skip
    assert table.tied_to == {"state.b.weight": "state.a.weight"}
    assert table["column"].storage == table["array"].storage
    assert (table["column"].storage_offset, table["column"].stride) == (1, (4, 1))
    assert table.origin == "memory"
    assert table.notes == ("2 entries hold no tensor and are left out: words, epoch",)


def test_a_dict_that_holds_itself_ends() -> None:
    """A cycle in a dict is entered once."""
    mapping: dict[str, Any] = {"w": torch.zeros(2)}
    mapping["self"] = mapping
    assert [row.name for row in tensors_table(mapping, "x")] == ["w"]


def test_a_state_dict_agrees_with_its_module() -> None:
    """The table of ``state_dict()`` has the rows of the module's, non-persistent buffers aside."""
    module = build("cpu")
    ours = [row for row in module_table(module, "x") if row.persistent is not False]
    theirs = tensors_table(module.state_dict(), "x")
    assert [(r.name, r.shape, r.stride, r.dtype) for r in ours] == [
        (r.name, r.shape, r.stride, r.dtype) for r in theirs
    ]
