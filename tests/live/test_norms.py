"""
Figures of gradients against those of torch in float64.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from modelinspect.analysis.gradients import Figures, combined, global_norm
from modelinspect.live.norms import (
    figures_of,
    l2_norms,
    measure,
    trainable_parameters,
    unique_parameters,
    unwrapped,
)

EXACT = 3e-7
"""Relative; what norms of rows in float32 may be off, whatever the values."""


def made(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal values of any data type."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        return torch.randn(*shape, generator=generator, dtype=torch.complex64).to(dtype)
    return torch.randn(*shape, generator=generator).to(dtype)


def exact(gradient: Tensor) -> Figures:
    """By torch, in float64, from the dense tensor; no square leaves the range."""
    dense = gradient.to_dense() if gradient.layout != torch.strided else gradient
    if dense.is_complex():
        dense = dense.to(torch.complex128).abs()
    values = (dense.float() if dense.element_size() == 1 else dense).double().reshape(-1)
    size = values.abs()
    most = size.max().item() if size.numel() else 0.0
    l2 = most * (size / most).norm().item() if most and math.isfinite(most) else most
    return Figures(
        values.numel(),
        size.sum().item(),
        l2,
        most,
        int((values == 0).sum()),
        int(values.isnan().sum()),
        int(values.isinf().sum()),
    )


def assert_exact(gradient: Tensor, error: float = EXACT) -> None:
    """Counts to the last element, norms within an error that is relative."""
    found, expected = figures_of(gradient), exact(gradient)
    assert (found.numel, found.zeros) == (expected.numel, expected.zeros)
    assert (found.nans, found.infinities) == (expected.nans, expected.infinities)
    for mine, torchs in zip(found[1:4], expected[1:4], strict=True):
        assert mine == pytest.approx(torchs, rel=error, abs=0.0, nan_ok=True)


# ------------------------------------------------------------------- kinds of tensors

DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu,
)  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_data_type_and_size(dtype: torch.dtype, size: int) -> None:
    """Around the lengths at which the way of adding up changes."""
    assert_exact(made(size, size, dtype=dtype))


@pytest.mark.parametrize("values", [torch.arange(-5, 5), torch.tensor([True, False])], ids=["int", "bool"])
def test_whole_numbers(values: Tensor) -> None:
    """A state_dict of gradients may hold them."""
    assert_exact(values)


def test_smallest_whole_number() -> None:
    """The absolute value of -128 is no int8."""
    assert figures_of(torch.tensor([-128, 3], dtype=torch.int8)).largest == 128.0


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.t(),
    "strided": lambda t: t[::2, 1::3],
    "expanded": lambda t: t[:1].expand(300, -1),
    "one number expanded": lambda t: t[0, 0].expand(3000),
    "scalar": lambda t: t[0, 0],
    "channels last": lambda t: t[:8, :8].reshape(1, 4, 4, 4).contiguous(memory_format=torch.channels_last),
    "conjugated": lambda t: torch.complex(t, t + 1).conj(),
    "negated": lambda t: torch.complex(t, t + 1).conj().imag,
    "parameter": nn.Parameter,
    "zeros": lambda t: t * 0,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str) -> None:
    """Views and strides that autograd hands out."""
    assert_exact(LAYOUTS[layout](made(0, 70, 70)))


def sparse(values: Tensor, *size: int) -> Tensor:
    """Rows 0, 2, 2 and 5: one index twice."""
    return torch.sparse_coo_tensor(torch.tensor([[0, 2, 2, 5]]), values, size, check_invariants=True)


SPARSE = {
    "repeated": lambda: sparse(made(0, 4, 3), 8, 3),
    "coalesced": lambda: sparse(made(0, 4, 3), 8, 3).coalesce(),
    "cancelling": lambda: sparse(torch.tensor([1.0, 2.0, -2.0, 3.0]), 8),
    "stored zeros": lambda: sparse(torch.zeros(4), 8),
    "nothing stored": lambda: torch.sparse_coo_tensor(
        torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 3), (8, 3), check_invariants=True
    ),
    "NaN stored": lambda: sparse(torch.tensor([1.0, math.nan, -2.0, math.inf]), 8),
    "csr": lambda: torch.eye(5).to_sparse_csr(),
    "csc": lambda: torch.eye(5).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_sparse_gradients(kind: str) -> None:
    """An index that is stored twice is one element; what is not stored is zero."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        gradient = SPARSE[kind]()
    assert_exact(gradient)


def test_gradient_of_an_embedding() -> None:
    """As backward leaves it: sparse, with an index for each time a row was looked up."""
    torch.manual_seed(0)
    one, two = nn.Embedding(20, 3, sparse=True), nn.Embedding(20, 3)
    two.load_state_dict(one.state_dict())
    for embedding in (one, two):
        embedding(torch.tensor([4, 4, 4, 9])).pow(2).sum().backward()
    found = figures_of(one.weight.grad)  # type: ignore[arg-type]
    dense = figures_of(two.weight.grad)  # type: ignore[arg-type]
    assert found[:7] == pytest.approx(dense[:7], rel=1e-6)
    assert found.zeros == 54


# ---------------------------------------------------------------------------- range


@pytest.mark.parametrize("scale", [1e-45, 1e-42, 1e-38, 1e-30, 1e-22, 1e-19, 1e-16, 1e16, 1e19, 1e30, 3e38])
@pytest.mark.parametrize("size", [1, 3, 1025, 4000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_squares_neither_overflow_nor_underflow(dtype: torch.dtype, size: int, scale: float) -> None:
    """Down to the smallest subnormal number, and up to where the sum itself leaves float32."""
    values = made(0, size).abs().clamp(0.3, 1.0) * scale
    assert_exact(torch.complex(values, values) if dtype.is_complex else values.to(dtype))


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("size", [1, 2000])
def test_squares_in_float64(size: int, scale: float) -> None:
    """The same for what float64 can't square."""
    assert_exact(made(0, size).abs().clamp(0.3, 1.0).double() * scale, error=1e-12)


@pytest.mark.parametrize(("one", "others"), [(1e25, 1.0), (1e-3, 1e-25), (2e-14, 1e-24), (1e-24, 0.0)])
def test_one_that_stands_out(one: float, others: float) -> None:
    """Rows whose squares underflow beside one that does not."""
    values = torch.full((200_000,), others)
    values[7] = one
    assert_exact(values)


def test_constant_values_of_every_size() -> None:
    """What rounds in one direction, row after row, stays within what is promised."""
    for value in torch.linspace(1, 2, 200).tolist():
        assert_exact(torch.full((8192,), value))


def test_values_that_are_not_finite() -> None:
    """Counted, and the norms say the same."""
    nan = figures_of(torch.tensor([1.0, math.nan, math.inf, 0.0, -math.inf, math.nan]))
    assert (nan.nans, nan.infinities, nan.zeros) == (2, 2, 1)
    assert all(math.isnan(norm) for norm in (nan.l1, nan.l2, nan.largest))
    inf = figures_of(torch.cat([torch.zeros(2000), torch.tensor([-math.inf])]))
    assert (inf.nans, inf.infinities, inf.zeros) == (0, 1, 2000)
    assert (inf.l1, inf.l2, inf.largest) == (math.inf,) * 3
    both = figures_of(torch.tensor([complex(math.nan, 0), complex(0, math.inf), 1]))
    assert (both.nans, both.infinities) == (1, 1)


def test_fifty_million_elements() -> None:
    """Where torch's own float32 norm goes wrong, ours is that of float64; and so is the L1 norm."""
    size, block = 50_000_000, 10_000_000
    gradient = torch.rand(size, generator=torch.Generator().manual_seed(0)).add_(1.0)
    blocks = [part.double() for part in gradient.split(block)]
    l2 = math.sqrt(sum(part.square().sum().item() for part in blocks))
    l1 = sum(part.sum().item() for part in blocks)
    del blocks
    found = figures_of(gradient)
    assert found.l2 == pytest.approx(l2, rel=1e-8)
    assert found.l1 == pytest.approx(l1, rel=1e-12)
    torchs = torch.nn.utils.get_total_norm([gradient]).item()
    own_error = abs(torchs / l2 - 1)
    assert own_error > 1e-5
    assert abs(found.l2 - torchs) <= (own_error + 1e-8) * l2


def test_many_small_gradients_are_as_torchs_total_norm() -> None:
    """Of each order, within the error of float32."""
    gradients = [made(seed, seed * 7 + 1, 5) for seed in range(40)]
    figures = measure((gradient, None) for gradient in gradients)
    for order, p in (("1", 1.0), ("2", 2.0), ("inf", math.inf)):
        torchs = torch.nn.utils.get_total_norm(gradients, p).item()
        assert global_norm(figures, order) == pytest.approx(torchs, rel=1e-5)  # type: ignore[arg-type]


# ------------------------------------------------------------------ several gradients


def test_none_and_weights() -> None:
    """A gradient of None has no figures; a parameter's norm stands beside its gradient's."""
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    none, without, beside = measure([(None, parameter), (torch.ones(2), None), (torch.ones(2), parameter)])
    assert none is None
    assert without is not None
    assert beside is not None
    assert (without.weight, beside.weight) == (None, 5.0)
    assert beside.ratio == pytest.approx(math.sqrt(2) / 5)


@pytest.mark.parametrize(
    ("weight", "norm"),
    [
        (torch.full((2,), 1e30), math.sqrt(2) * 1e30),
        (torch.zeros(2), 0.0),
        (torch.zeros(0), 0.0),
        (torch.tensor([math.nan, 1.0]), math.nan),
        (torch.tensor([math.inf, 1.0]), math.inf),
        (torch.full((2,), 3e38 + 3e38j, dtype=torch.complex64), 6e38),
    ],
)
def test_norm_of_the_weight(weight: Tensor, norm: float) -> None:
    """In the same way as that of the gradient."""
    assert figures_of(torch.ones(weight.shape), weight).weight == pytest.approx(norm, rel=1e-6, nan_ok=True)


def test_norms_of_every_step_are_those_of_the_table() -> None:
    """What is written at every step and what the full table says agree."""
    gradients = [made(0, 0), made(1, 2000), made(2, 30, dtype=torch.complex64), sparse(made(3, 4, 3), 8, 3)]
    quick = l2_norms(gradients)
    assert quick.dtype == torch.float64
    assert quick.tolist() == pytest.approx([figures_of(gradient).l2 for gradient in gradients], rel=EXACT)
    assert l2_norms([]).shape == (0,)


def test_nothing_is_changed() -> None:
    """The gradient is looked at, not touched; nothing is recorded by autograd."""
    gradient = made(0, 2000).requires_grad_()
    before = gradient.detach().clone()
    figures_of(gradient, gradient)
    assert torch.equal(gradient.detach(), before)
    assert gradient.grad is None
    assert not l2_norms([gradient]).requires_grad


# --------------------------------------------------------------------------- properties

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)
LISTS = st.lists(FLOATS, max_size=30)


@given(values=LISTS, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_parts_together_are_the_whole(values: list[float], cuts: list[int]) -> None:
    """However a vector is cut."""
    whole = torch.tensor(values)
    ends = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    parts = [whole[start:end] for start, end in pairwise(ends)] or [whole]
    together = combined(figures_of(part) for part in parts)
    assert together is not None
    assert together[:7] == pytest.approx(figures_of(whole)[:7], rel=1e-6)


@given(parts=st.lists(LISTS, min_size=1, max_size=5), data=st.data())
def test_the_order_of_parameters_does_not_matter(parts: list[list[float]], data: st.DataObject) -> None:
    """To the last bit: sums are exact before they are rounded."""
    figures = [figures_of(torch.tensor(part)) for part in parts]
    assert combined(data.draw(st.permutations(figures))) == combined(figures)


@given(
    values=st.lists(st.floats(-1.0, 1.0, width=32), min_size=1, max_size=30), exponent=st.integers(-60, 60)
)
def test_a_factor_comes_out_of_every_norm(values: list[float], exponent: int) -> None:
    """Powers of two, which round nothing."""
    gradient = torch.tensor(values, dtype=torch.float64)
    one, scaled = figures_of(gradient), figures_of(gradient * 2.0**exponent)
    for norm, other in zip(one[1:4], scaled[1:4], strict=True):
        assert other == pytest.approx(norm * 2.0**exponent, rel=1e-12)


@settings(max_examples=30)
@given(size=st.integers(1, 3000), exponent=st.floats(-38, 38), seed=st.integers(0, 1000))
def test_norms_of_a_vector_are_in_their_order(size: int, exponent: float, seed: int) -> None:
    """Largest ≤ L2 ≤ L1 ≤ √n · L2."""
    found = figures_of(made(seed, size).clamp(-3, 3) * 10**exponent)
    slack = 1 + 1e-6
    assert found.largest <= found.l2 * slack
    assert found.l2 <= found.l1 * slack
    assert found.l1 <= math.sqrt(size) * found.l2 * slack


# ---------------------------------------------------------------------- parameters


class Twins(nn.Module):
    """A weight under two names, a module under two names, a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight
        self.again = self.two
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.again(self.two(self.one(x))) * self.frozen
        return out


NAMES = [
    ("frozen", ()),
    ("one.weight", ("two.weight", "again.weight")),
    ("one.bias", ()),
    ("two.bias", ("again.bias",)),
]


def names(module: nn.Module) -> list[tuple[str, tuple[str, ...]]]:
    """First names and further ones."""
    return [(named.name, named.also) for named in unique_parameters(module)]


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "bare": lambda model: model,
    "DataParallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "the other way": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_each_parameter_once_under_its_own_names(wrapper: str) -> None:
    """Ties and modules that are held twice; whatever wraps the model adds nothing to a name."""
    model = Twins()
    wrapped = WRAPPERS[wrapper](model)
    assert names(wrapped) == NAMES
    assert unwrapped(wrapped) is model
    assert [named.name for named in trainable_parameters(wrapped)] == ["one.weight", "one.bias", "two.bias"]


def test_part_of_a_model_that_is_compiled() -> None:
    """``_orig_mod`` is left out wherever it stands, and only where it is a whole part of the name."""
    inner: Any = torch.compile(nn.Linear(1, 1, bias=False), backend="eager")
    model = nn.ModuleDict({"a": inner, "my_orig_mod": nn.Linear(1, 1, bias=False)})
    assert names(model) == [("a.weight", ()), ("my_orig_mod.weight", ())]


def test_module_that_is_only_named_like_a_wrapper() -> None:
    """A class of one's own called DataParallel is no wrapper of torch's."""
    own = type("DataParallel", (nn.Linear,), {})(2, 2)
    assert unwrapped(own) is own


def test_no_parameters() -> None:
    """Nothing to measure."""
    assert unique_parameters(nn.ReLU()) == []
    assert measure([]) == []


@pytest.mark.parametrize("backward", [True, False])
def test_figures_of_a_model_are_those_by_hand(backward: bool) -> None:
    """After a backward pass; and before one, when there are no gradients."""
    torch.manual_seed(0)
    model = Twins()
    if backward:
        model(torch.randn(3, 2)).pow(2).sum().backward()
    named = unique_parameters(model)
    found = measure((each.parameter.grad, each.parameter) for each in named)
    for each, figures in zip(named, found, strict=True):
        gradient = each.parameter.grad
        if gradient is None:
            assert figures is None
            continue
        assert figures is not None
        assert figures.l2 == pytest.approx(gradient.double().norm().item(), rel=1e-6)
        assert figures.weight == pytest.approx(each.parameter.double().norm().item(), rel=1e-6)
