"""A plan carried out on tensors in hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from modelinspect.errors import UsageError
from modelinspect.live.module_table import module_table, tensors_table
from modelinspect.transplant.in_memory import apply_plan
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.transforms import parse_steps


class Tied(nn.Module):
    """An embedding that is its own head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight


def tied_plan(steps: str) -> Plan:
    """A plan that fills both names of a tied tensor from one."""
    source = {"w": torch.arange(12.0).reshape(4, 3)}
    piece = Piece("w", parse_steps(steps))
    names = ("embed.weight", "head.weight")
    made = tuple(Assignment(name, (piece,)) for name in names)
    return Plan(tensors_table(source, "dict"), module_table(Tied(), "Tied"), made)


@pytest.mark.parametrize("steps", ["", "flip(0)"])
def test_tied_names_hold_one_tensor(steps: str) -> None:
    """What the target ties, the result ties, moved or not."""
    made = apply_plan(tied_plan(steps), {"w": torch.arange(12.0).reshape(4, 3)})
    assert made["embed.weight"] is made["head.weight"]


def test_names_that_are_not_tied_do_not_share() -> None:
    """One source for two tensors of a target that doesn't tie them: two tensors."""
    source = {"w": torch.ones(2), "v": torch.ones(2)}
    table = tensors_table({"a": torch.ones(2), "b": torch.ones(2)}, "dict")
    plan = Plan(
        tensors_table(source, "dict"), table, (Assignment("a", (Piece("w"),)), Assignment("b", (Piece("w"),)))
    )
    made = apply_plan(plan, source)
    made["a"] += 1
    assert made["b"].tolist() == [1, 1]
    by_numpy = apply_plan(plan, {"w": np.ones(2)})
    assert not np.shares_memory(by_numpy["a"], by_numpy["b"])


def test_parameters_come_out_detached() -> None:
    """The parameters of a module in hand give plain tensors, as ``state_dict()`` does."""
    module = nn.Linear(2, 3)
    table = module_table(module, "Linear")
    plan = Plan(table, table, (Assignment("weight", (Piece("weight"),)),))
    assert not apply_plan(plan, dict(module.named_parameters()))["weight"].requires_grad


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "the plan takes 'w', which is not among the tensors given"),
        ({"w": torch.ones(4, 4)}, "'w' is of shape [4, 4], and the plan is for one of shape [4, 3]"),
        ({"w": 3}, "'w' is a int, and the plan is for one of shape [4, 3]"),
    ],
)
def test_tensors_that_are_not_what_was_planned(given: dict[str, object], said: str) -> None:
    """One that is not there, of another shape, or no tensor."""
    with pytest.raises(UsageError) as caught:
        apply_plan(tied_plan(""), given)
    assert said in str(caught.value)


def test_what_is_neither_torch_nor_numpy() -> None:
    """Something else that has a shape is refused by name."""

    class Odd:
        shape = (4, 3)

    with pytest.raises(UsageError, match="a Odd"):
        apply_plan(tied_plan(""), {"w": Odd()})


def test_a_constant_alone() -> None:
    """A target that is all zeros takes its type from the other tensors."""
    source = {"w": torch.ones(2, dtype=torch.float16)}
    table = tensors_table({"a": torch.ones(3)}, "dict")
    plan = Plan(
        tensors_table(source, "dict"), table, (Assignment("a", (Piece("", parse_steps("zeros(3)")),)),)
    )
    made = apply_plan(plan, source)["a"]
    assert (made.dtype, made.tolist()) == (torch.float16, [0, 0, 0])
