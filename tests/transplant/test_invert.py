"""The way back: what a plan made of a state_dict makes the state_dict again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_steps import SHAPES, fitting_steps
from torch import Tensor, nn

from modelinspect.live.module_table import module_table, tensors_table
from modelinspect.tensors import ParameterTable
from modelinspect.transplant.in_memory import apply_plan
from modelinspect.transplant.invert import inverted
from modelinspect.transplant.plan import Assignment, Missing, Piece, Plan, Unused
from modelinspect.transplant.shapes import made_shape
from modelinspect.transplant.transforms import parse_steps


def plan_of(tensors: Mapping[str, Tensor], *assignments: Assignment) -> Plan:
    """A plan of tensors in hand; its target has the tensors that it makes."""
    source = tensors_table(tensors, "old")
    shapes = {each.target: made_shape(each, lambda name: source[name].shape) for each in assignments}
    target = tensors_table({name: torch.empty(shape) for name, shape in shapes.items()}, "new")
    return Plan(source, target, assignments)


def made(target: str, sources: str, own: str = "", steps: str = "") -> Assignment:
    """Sources by their names with blanks between, all with the same steps."""
    pieces = tuple(Piece(name, parse_steps(own)) for name in sources.split())
    return Assignment(target, pieces, parse_steps(steps))


def assert_comes_back(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """There and back is nothing."""
    there = apply_plan(plan, tensors)
    back = apply_plan(inverted(plan), there)
    assert set(back) == set(tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@settings(deadline=None)
@given(st.data(), SHAPES)
def test_steps_that_lose_nothing(data: st.DataObject, shape: tuple[int, ...]) -> None:
    """Any steps of one tensor are undone, the last first."""
    steps = data.draw(fitting_steps(shape, may_lose=False))
    tensors = {"a": torch.randn(shape).round(decimals=1) * 4}
    there = apply_plan(plan_of(tensors, Assignment("b", (Piece("a", steps),))), tensors)
    back = apply_plan(inverted(plan_of(tensors, Assignment("b", (Piece("a", steps),)))), there)
    assert torch.allclose(back["a"], tensors["a"], atol=1e-5)


TENSORS = {name: torch.randn(4, 6) for name in ("q", "k", "v")}


@pytest.mark.parametrize(
    "join", ["cat(0, 1)", "cat(0, 2)", "cat(1, 3)", "stack(0)", "stack(2)", "cat(0, 2) | swap(0, 1, 3, 4)"]
)
@pytest.mark.parametrize("own", ["", "transpose | pad(1, 2) | reshape(6, 6)", "flip(1)"])
def test_joined_tensors_are_taken_apart(join: str, own: str) -> None:
    """Pieces of a ``cat`` become ranges, those of a ``stack`` slices."""
    if own.startswith("transpose") and "swap" in join:
        join = "cat(0, 2)"
    assert_comes_back(plan_of(TENSORS, made("qkv", "q k v", own, join)), TENSORS)


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((12, 4), ["take(0, 0, 4, 1)", "take(0, 4, 8, 1)", "take(0, 8, 12, 1)"]),
        ((12, 4), ["take(0, 0, 1, 4)", "take(0, 1, 2, 4)", "take(0, 2, 3, 4)"]),
        ((4, 12), ["transpose | take(0, 0, 6, 1) | flip(0)", "transpose | take(0, 6, 12, 1) | transpose"]),
        ((3, 4, 5), ["index(0, 0)", "index(0, 1) | transpose", "index(0, 2)"]),
        ((4, 3, 5), ["index(1, 0)", "index(1, 1)", "index(1, 2)"]),
        ((2, 6, 5), [f"index(0, {i}) | take(0, {j}, {j + 3}, 1)" for i in range(2) for j in (0, 3)]),
        (
            (2, 5, 6),
            [f"index(0, {i}) | transpose | take(0, {j}, {j + 3}, 1)" for i in range(2) for j in (0, 3)],
        ),
        ((12, 4), [f"take(0, {i}, {i + 6}, 1) | take(0, {j}, {j + 3}, 1)" for i in (0, 6) for j in (0, 3)]),
    ],
)
def test_slices_that_cover_a_tensor_are_joined(shape: tuple[int, ...], steps: Sequence[str]) -> None:
    """Split query, key and value, experts, halves of experts: together they are the whole again."""
    tensors = {"w": torch.randn(shape)}
    names = [made(f"part.{at}", "w", each) for at, each in enumerate(reversed(steps))]
    assert_comes_back(plan_of(tensors, *names), tensors)


def test_slices_joined_in_another_order() -> None:
    """Ranges of one tensor that make up another, in the other order."""
    tensors = {"w": torch.randn(12, 4)}
    pieces = (Piece("w", parse_steps("take(0, 8, 12, 1)")), Piece("w", parse_steps("take(0, 0, 8, 1)")))
    assert_comes_back(plan_of(tensors, Assignment("v", pieces, parse_steps("cat(0, 1)"))), tensors)


def test_constants_do_not_come_back() -> None:
    """What was joined to a constant comes back without it."""
    tensors = {"w": torch.randn(3)}
    pieces = (Piece("w"), Piece("", parse_steps("zeros(2)")))
    assert_comes_back(plan_of(tensors, Assignment("v", pieces, parse_steps("cat(0, 1)"))), tensors)


def test_what_was_missing_is_unused_and_the_other_way_round() -> None:
    """The two lists change sides."""
    source = tensors_table({"a": torch.ones(2), "c": torch.ones(3)}, "old")
    target = tensors_table({"b": torch.ones(2), "d": torch.ones(4)}, "new")
    back = inverted(Plan(source, target, (made("b", "a"),)))
    assert back.missing == (Missing("c", (3,), "nothing in the target was made of it"),)
    assert back.unused == (Unused("d", (4,), "nothing in the source leads to it"),)
    assert (back.source, back.target) == (target, source)


def test_tied_names_come_back_under_each_name() -> None:
    """A source that ties two names gets both, a target's further name is not needed."""
    head = nn.Linear(2, 2, bias=False)
    tied = module_table(nn.ModuleDict({"a": head, "b": head}), "old")
    for source, target in ((tied, _loose()), (_loose(), tied)):
        plan = Plan(source, target, tuple(made(row.name, row.name) for row in target))
        assert [each.target for each in inverted(plan).assignments] == [row.name for row in source]


def _loose() -> ParameterTable:
    return tensors_table({"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}, "loose")


def test_a_way_back_is_as_sure_as_the_least_sure_part() -> None:
    """One likely slice makes the joined tensor likely."""
    tensors = {"w": torch.randn(4, 2)}
    sure, less = (
        made("a", "w", "take(0, 0, 2, 1)"),
        made("b", "w", "take(0, 2, 4, 1)")._replace(label="likely"),
    )
    assert inverted(plan_of(tensors, sure, less)).assignments[0].label == "likely"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            ["take(0, 0, 3, 1)"],
            "part.0 ← w (take(0, 0, 3, 1)) can't be undone: what it leaves of 'w' is nowhere",
        ),
        (["index(0, 1)", "index(0, 2)"], "part.{0..1} ← w (index(0, {1..2})) can't be undone"),
        (["take(0, 0, 2, 1)", "take(0, 3, 4, 1)"], "can't be undone"),
    ],
)
def test_a_row_that_loses_elements_is_named(steps: Sequence[str], said: str) -> None:
    """Rows of an embedding that are dropped, slices with a gap: nothing leads back."""
    plan = plan_of({"w": torch.ones(4, 2)}, *(made(f"part.{at}", "w", each) for at, each in enumerate(steps)))
    with pytest.raises(ValueError, match=re.escape(said)):
        inverted(plan)


def test_a_join_that_is_cut_is_named() -> None:
    """Pieces of which a part is lost after they are joined."""
    plan = plan_of(TENSORS, made("x", "q k", "", "cat(0, 1) | take(0, 0, 5, 1)"))
    with pytest.raises(ValueError, match="keeps a part of them only"):
        inverted(plan)
