"""Values in memory: of a module, a dict, a definition built under a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modelinspect.errors import DefinitionError
from modelinspect.live.definition import load_definition
from modelinspect.live.module_table import module_table, tensors_table
from modelinspect.live.values import summarise_fresh, summarise_mapping, summarise_module

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e8m0fnu,
    torch.int64, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_figures_are_torchs(dtype: torch.dtype) -> None:
    """Of every data type, bfloat16 and float8 included."""
    made = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).mul(5).to(dtype)
    table = tensors_table({"w": made}, "dict")
    summary = summarise_mapping({"w": made}, table)["w"]
    double = made.double()
    finite = double[double.isfinite()]
    assert (summary.minimum, summary.maximum) == (finite.min().item(), finite.max().item())
    assert summary.mean == pytest.approx(finite.mean().item(), rel=1e-12)
    assert summary.std == pytest.approx(finite.std().item(), rel=1e-12)
    assert summary.nans == double.isnan().sum().item()


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda t: t.t(),
    "cut": lambda t: t[1:, ::2],
    "expanded": lambda t: t[:1].expand(4, -1),
    "conjugated": lambda t: torch.complex(t, t).conj(),
    "negated": lambda t: torch.complex(t, t).conj().imag,
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_read_where_they_lie(view: str) -> None:
    """Strides, offsets and lazy conjugation: the values are those that torch shows."""
    made = VIEWS[view](torch.arange(12.0).reshape(3, 4))
    summary = summarise_mapping({"w": made}, tensors_table({"w": made}, "dict"))["w"]
    assert summary.values == made.tolist()


def test_a_module_in_hand() -> None:
    """Parameters and buffers by name; ties share one summary; small ones in full."""
    first, last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    module = nn.Sequential(first, nn.BatchNorm1d(3), last)
    last.weight = first.weight
    found = summarise_module(module, module_table(module, "m"))
    assert list(found) == [row.name for row in module_table(module, "m")]
    assert found["0.weight"] is found["2.weight"]
    assert found["1.running_var"].values == [1.0, 1.0, 1.0]
    assert found["0.weight"].values == first.weight.tolist()


def test_a_module_that_holds_itself() -> None:
    """No walk over it is needed to find a tensor by its name."""
    module = nn.Linear(2, 2)
    module.me = module
    table = module_table(module, "m")
    assert len(summarise_module(module, table)) == len(table) > 0


def test_numpy_arrays_of_a_dict() -> None:
    """Any byte order and direction."""
    arrays: dict[str, Any] = {"a": np.arange(4, dtype=">f4")[::-1], "n": {"b": np.ones((2, 2))}}
    found = summarise_mapping(arrays, tensors_table(arrays, "dict"))
    assert found["a"].values == [3.0, 2.0, 1.0, 0.0]
    assert found["n.b"].values == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=str)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_tensors_by_their_stored_values(layout: torch.layout) -> None:
    """Three numbers of nine are stored, and said to be so."""
    made = (2 * torch.eye(3)).to_sparse(layout=layout)
    summary = summarise_mapping({"w": made}, tensors_table({"w": made}, "dict"))["w"]
    assert (summary.numel, summary.mean) == (3, 2.0)
    assert "stored values" in summary.reason


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(3, device="meta"), "meta device"),
        (nn.UninitializedParameter(), "not initialised"),
    ],
)
def test_what_has_no_values_says_why(tensor: torch.Tensor, reason: str) -> None:
    """A reason instead of figures."""
    summary = summarise_mapping({"w": tensor}, tensors_table({"w": tensor}, "dict"))["w"]
    assert reason in summary.reason
    assert summary.mean is None


SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(width, 2)
        self.register_buffer("bad", torch.tensor([float("nan"), 1.0]))
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    """A file with one definition."""
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return f"{path}:Net"


def test_fresh_values_follow_the_seed(net: str) -> None:
    """The same seed gives the same values, those of the class built under it; another seed others."""
    definition = load_definition(net)
    first, notes = summarise_fresh(definition, definition.table, seed=3)
    again, _ = summarise_fresh(definition, definition.table, seed=3)
    other, _ = summarise_fresh(definition, definition.table, seed=4)
    assert first["layer.weight"].values == again["layer.weight"].values != other["layer.weight"].values
    bound = math.sqrt(1 / 4)
    assert all(-bound <= x <= bound for line in first["layer.weight"].values for x in line)
    assert first["bad"].nans == 1
    assert notes[0] == "values are a fresh initialisation with seed 3, not trained weights"


def test_only_the_rows_asked_for(net: str) -> None:
    """Of the rows, and no others."""
    definition = load_definition(net)
    found, _ = summarise_fresh(definition, [definition.table["layer.bias"]])
    assert list(found) == ["layer.bias"]


def test_a_large_definition_is_refused_before_it_is_built(net: str) -> None:
    """The table on the meta device says how large it is; the limit is in the message."""
    definition = load_definition(f"{net}(1000000000)")
    with pytest.raises(DefinitionError, match=r"8,000,000,0\d\d bytes") as caught:
        summarise_fresh(definition, definition.table)
    assert caught.value.details == ("limit: 1,073,741,824 bytes",)
