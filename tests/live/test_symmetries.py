"""What a model that is run alone shows of its own weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from modelinspect.errors import DefinitionError, UsageError
from modelinspect.live.symmetries import Layout, Rows, symmetry_bench

WIDTH, HEADS, SIZE = 24, 3, 8
STACKED = Layout(("q", "k", "v"), (WIDTH, WIDTH, WIDTH), 1)
BY_HEAD = STACKED._replace(groups=HEADS)
PARTS = ("q", "k", "v")


class Attention(nn.Module):
    """One attention over numbers, q, k and v in one matrix."""

    example_input = torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(3))

    def __init__(
        self, *, by_head: bool = False, norms: bool = False, turned: int = 0, after: bool = False
    ) -> None:
        super().__init__()
        self.by_head, self.turned, self.after = by_head, turned, after
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        make: Any = nn.RMSNorm if norms else nn.Identity
        self.q_norm, self.k_norm = make(SIZE), make(SIZE)

    def forward(self, x: Tensor) -> Any:
        fused = self.qkv(x)
        if self.by_head:
            q, k, v = (each.transpose(1, 2) for each in fused.unflatten(-1, (HEADS, -1)).chunk(3, -1))
        else:
            q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in fused.chunk(3, -1))
        q, k = self._turned(self.q_norm(q)), self._turned(self.k_norm(k))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(functional.normalize(mixed, dim=-1) if self.after else mixed)

    def _turned(self, x: Tensor) -> Tensor:
        """The first rows of each head, halves against each other."""
        if not self.turned:
            return x
        angles = torch.arange(x.shape[-2])[:, None] / 4.0 ** torch.arange(self.turned // 2)
        one, two = x[..., : self.turned].chunk(2, -1)
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        parts = (one * cos - two * sin, one * sin + two * cos, x[..., self.turned :])
        return torch.cat(parts, -1)


def layout_of(model: nn.Module, *layouts: Layout) -> Layout | None:
    """What it is found to read."""
    with symmetry_bench(model, model.state_dict()) as bench:
        return bench.fused_layout((("qkv.weight", 0), ("qkv.bias", 0)), layouts)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_layout_is_found_though_norms_hide_sizes(by_head: bool, norms: bool, after: bool) -> None:
    """Behind a norm q may be of any size, and so may the rows of v."""
    wanted = BY_HEAD if by_head else STACKED
    assert layout_of(Attention(by_head=by_head, norms=norms, after=after), STACKED, BY_HEAD) == wanted


def test_no_layout_fits_what_is_read_otherwise() -> None:
    """Of wrong layouts none is taken, nor one of another number of rows."""
    wrong = Layout(("v", "q", "k"), STACKED.lengths, 1)
    longer = Layout(("q", "k", "v"), (WIDTH, WIDTH, 2 * WIDTH), 1)
    assert layout_of(Attention(by_head=True), STACKED, wrong, longer) is None
    assert layout_of(Attention(), BY_HEAD, wrong) is None


@pytest.mark.parametrize(("turned", "found"), [(SIZE, [("halves", SIZE)]), (0, [("none", SIZE)]), (4, [])])
@pytest.mark.parametrize("norms", [False, True])
def test_what_is_turned_in_a_head(turned: int, found: list[tuple[str, int]], norms: bool) -> None:
    """All of a head, nothing, or a part of it: that is left open."""
    model = Attention(turned=turned, norms=norms)
    with symmetry_bench(model, model.state_dict()) as bench:
        q, k = ([Rows(f"qkv.{leaf}", 0, STACKED.rows(part)) for leaf in ("weight", "bias")] for part in "qk")
        assert bench.rotation(q, k, [SIZE, 12], ("q_norm.weight", "k_norm.weight")) == found


@pytest.mark.parametrize("turned", [0, SIZE])
def test_heads_change_places(turned: int) -> None:
    """The smallest parts of q, k and v that may change places are heads."""
    model = Attention(turned=turned)
    with symmetry_bench(model, model.state_dict()) as bench:
        parts = [
            [Rows(f"qkv.{leaf}", 0, STACKED.rows(part)) for leaf in ("weight", "bias")] for part in PARTS
        ]
        assert bench.head_size(parts, [Rows("out.weight", 1)], [2, 3, 4, 6, 8, 12]) == SIZE
        assert bench.head_size(parts, [Rows("out.weight", 1)], [3, 12]) is None


def test_the_model_is_as_it_was() -> None:
    """Weights, mode and data type come back, also after an error."""
    model = Attention().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def stop() -> None:
        with symmetry_bench(model, before) as bench:
            bench.fused_layout((("qkv.weight", 0),), (STACKED, BY_HEAD), ("qkv.bias",))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


class Strange(nn.Module):
    """Takes only four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, what: Any, more: Any) -> Any:
        return what["x"] * self.scale[: len(more)]


def test_without_an_input_the_error_says_how_to_give_one() -> None:
    """Guesses are tried; what a user spells badly is a mistake of theirs."""
    with (
        pytest.raises(DefinitionError, match="no input for Strange"),
        symmetry_bench(Strange(), (), guesses=("2x4",)),
    ):
        pass
    with pytest.raises(UsageError), symmetry_bench(Attention(), (), ("2x!",)):
        pass
