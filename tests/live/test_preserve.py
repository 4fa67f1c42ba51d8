"""
A model comes back as it was, whatever was done to it inside.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modelinspect.live.preserve import preserved


class Counting(nn.Module):
    """Buffers of every kind: changed in place, replaced, None at first, made on the way."""

    counted: Tensor
    replaced: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counted", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("cache", None)

    def forward(self, x: Tensor) -> Tensor:
        self.counted += 1
        self.replaced = self.replaced + 1
        self.cache = x
        return x


def test_modes_come_back_one_by_one() -> None:
    """A module that was in eval inside of one that trains is so again."""
    dropout = nn.Dropout()
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), dropout))
    model[1].eval()
    dropout.train()
    with preserved(model):
        model.eval()
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False, False, True]


def test_gradients_are_the_very_ones() -> None:
    """The same object with the same values, or None, also where the model was cast between."""
    model = nn.Linear(2, 2)
    model.weight.grad = marked = torch.full((2, 2), 0.1)
    with preserved(model):
        assert all(parameter.grad is None for parameter in model.parameters())
        model.half()
        model(torch.ones(1, 2, dtype=torch.float16)).sum().backward()
        assert model.bias.grad is not None
    assert model.weight.grad is marked
    assert torch.equal(marked, torch.full((2, 2), 0.1))
    assert model.bias.grad is None


CASTS: dict[str, Callable[[nn.Module], object]] = {
    "float16": lambda model: model.half(),
    "float64": lambda model: model.double(),
    "meta": lambda model: model.to("meta"),
    "memory": lambda model: [p.data.zero_() for p in model.bfloat16().parameters()],
}


@pytest.mark.parametrize("cast", CASTS)
def test_casts_are_undone_bit_for_bit(cast: str) -> None:
    """Parameters are the same objects over the same memory; buffers have their type and values."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    objects, addresses = list(model.parameters()), [p.data_ptr() for p in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with preserved(model):
        CASTS[cast](model)
    after = model.state_dict()
    assert all(here is there for here, there in zip(model.parameters(), objects, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert {name: tensor.dtype for name, tensor in after.items()} == {n: t.dtype for n, t in before.items()}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_running_statistics_come_back() -> None:
    """Of a BatchNorm that has seen a batch inside: mean, variance and count."""
    model = nn.BatchNorm1d(3)
    model(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with preserved(model):
        model(torch.ones(4, 3) * 7)
        assert model.num_batches_tracked == 2
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_buffers_of_every_kind_come_back() -> None:
    """Changed in place, replaced by another tensor, None at first."""
    model = Counting()
    counted, replaced = model.counted, model.replaced
    with preserved(model):
        model(torch.ones(2))
    assert model.counted is counted
    assert model.replaced is replaced
    assert counted.tolist() == replaced.tolist() == [0, 0]
    assert model.cache is None


def test_tied_parameters_stay_tied() -> None:
    """Through a cast there and back."""
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    two.weight = one.weight
    model = nn.Sequential(one, two)
    with preserved(model):
        model.half()
    assert model[0].weight is model[1].weight
    assert model[0].weight.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_modules_stay_initialised() -> None:
    """Parameters and buffers that there were not before have nothing to go back to."""
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with preserved(model):
        model(torch.ones(2, 5)).sum().backward()
    assert model[0].weight.shape == (3, 5)
    assert model[0].weight.grad is None
    assert model[1].running_mean.shape == (3,)
    assert torch.isfinite(model(torch.ones(2, 5))).all()


def test_what_a_module_makes_when_it_runs_is_undone() -> None:
    """A parameter, and the mark that says that it is there; a cache, and the number of its entries."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.is_built = False
            self.seen = 0

        def forward(self, x: Tensor) -> Tensor:
            if not self.is_built:
                self.weight = nn.Parameter(torch.ones(x.shape[1]))
                self.inner = nn.Linear(2, 2)
                self.is_built = True
            self.seen += 1
            return x * self.weight

    model = Late()
    with preserved(model):
        model(torch.ones(2, 5))
    assert (model.is_built, model.seen) == (False, 0)
    assert list(model.parameters()) == []
    assert model(torch.ones(2, 5)).shape == (2, 5)


def test_what_was_frozen_inside_asks_for_gradients_again() -> None:
    """And the other way round."""
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with preserved(model):
        model.weight.requires_grad_(False)
        model.bias.requires_grad_(True)
    assert model.weight.requires_grad
    assert not model.bias.requires_grad


def test_an_error_inside_goes_through_and_all_is_undone() -> None:
    """Mode, data type, gradient."""
    model = nn.Linear(2, 2)

    def fail() -> None:
        with preserved(model):
            model.half().eval()
            model.weight.grad = torch.ones_like(model.weight)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.training
    assert model.weight.dtype == torch.float32
    assert model.weight.grad is None


def test_what_has_no_values_is_left_alone() -> None:
    """Meta tensors, and those made in inference mode, raise nothing."""
    model = nn.BatchNorm1d(3, device="meta")
    with torch.inference_mode():
        model.register_buffer("made", torch.ones(2))
    with preserved(model):
        model.eval()
    assert model.training
    assert model.running_mean is not None
    assert model.running_mean.is_meta


def test_a_block_inside_a_block() -> None:
    """The inner one gives back what the outer one had made of the model."""
    model = nn.Linear(2, 2)
    with preserved(model):
        model.double()
        with preserved(model):
            model.half()
        assert model.weight.dtype == torch.float64
    assert model.weight.dtype == torch.float32


class Collecting(nn.Linear):
    """Hangs a hook into itself when it first runs, and notes that it did."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "is_watched"):
            self.register_forward_hook(lambda *given: given[-1] + 1)
            self.is_watched = True
        return super().forward(x)


def test_hooks_that_a_model_hangs_into_itself_are_gone() -> None:
    """Else the next run would hang them a second time, as the note that they are there is gone."""
    model = Collecting(2, 2)
    with preserved(model):
        model(torch.ones(1, 2))
        assert len(model._forward_hooks) == 1
    assert not model._forward_hooks
    assert not hasattr(model, "is_watched")
