"""What ``--emit python`` prints does what the plan does, on torch and on numpy, and reads like a person's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_steps import SHAPES, fitting_steps

from modelinspect.dtypes import dtype_named
from modelinspect.tensors import ParameterTable, TensorInfo
from modelinspect.transplant.emit import emit_python
from modelinspect.transplant.in_memory import apply_plan
from modelinspect.transplant.plan import Assignment, Label, Piece, Plan
from modelinspect.transplant.shapes import made_shape
from modelinspect.transplant.transforms import Step, parse_steps

FLOAT32 = dtype_named("float32")
assert FLOAT32 is not None


def plan_of(tensors: Mapping[str, torch.Tensor], assignments: Sequence[Assignment]) -> Plan:
    """A plan between tables that fit it."""
    source = [TensorInfo(name, FLOAT32, tuple(tensor.shape), None) for name, tensor in tensors.items()]
    target = [
        TensorInfo(each.target, FLOAT32, made_shape(each, lambda name: tuple(tensors[name].shape)), None)
        for each in assignments
    ]
    return Plan(
        ParameterTable("old.pt", source, "file"), ParameterTable("net.py", target, "file"), tuple(assignments)
    )


def emitted(plan: Plan, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What the function of the plan makes of tensors."""
    names: dict[str, Any] = {"__builtins__": __builtins__}
    exec(emit_python(plan), names)
    made: dict[str, Any] = names["convert"](tensors)
    return made


def assert_same(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> None:
    """The emitted function, on torch and on numpy, against the plan applied in memory."""
    wanted = apply_plan(plan, tensors)
    by_torch = emitted(plan, tensors)
    by_numpy = emitted(plan, {name: tensor.numpy() for name, tensor in tensors.items()})
    assert set(by_torch) == set(by_numpy) == set(wanted)
    for name, tensor in wanted.items():
        assert by_torch[name].dtype == tensor.dtype
        assert torch.equal(by_torch[name], tensor)
        assert np.array_equal(by_numpy[name], tensor.numpy())


@settings(deadline=None)
@given(st.data(), SHAPES)
def test_any_steps(data: st.DataObject, shape: tuple[int, ...]) -> None:
    """Whatever is done to one tensor, the function does it too."""
    steps = data.draw(fitting_steps(shape))
    tensors = {"a": torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)}
    assert_same(plan_of(tensors, [Assignment("b", (Piece("a", steps),))]), tensors)


@settings(deadline=None)
@given(
    st.data(),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from(["stack(0)", "stack(1)", "cat(0, 2)", "cat(1, 1)"]),
)
def test_any_join(data: st.DataObject, blocks: int, pieces: int, join: str) -> None:
    """Several sources, each with steps of its own, and a constant among them."""
    own = [data.draw(fitting_steps((4, 6), may_lose=False, most=1)) for _ in range(pieces)]
    own = [each if made_shape(_single(each), lambda _: (4, 6)) == (4, 6) else () for each in own]
    tensors = {f"h.{i}.{at}": torch.randn(4, 6) for i in range(blocks) for at in range(pieces)}
    made = [
        Assignment(
            f"b.{i}",
            (*(Piece(f"h.{i}.{at}", own[at]) for at in range(pieces)), Piece("", parse_steps("zeros(4, 6)"))),
            parse_steps(join),
        )
        for i in range(blocks)
    ]
    assert_same(plan_of(tensors, made), tensors)


def _single(steps: tuple[Step, ...]) -> Assignment:
    return Assignment("b", (Piece("a", steps),))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), unique=True, min_size=1, max_size=20),
    st.sampled_from([(1, 0, 1), (1, 1, 1), (-1, 9, 1), (2, 3, 1), (-3, 30, 1), (1, 2, 2), (7, 0, 5)]),
    st.booleans(),
)
def test_any_ranges(numbers: list[tuple[int, int]], line: tuple[int, int, int], are_turned: bool) -> None:
    """Loops name the tensors that the rows stand for, however one side counts."""
    slope, start, step = line
    made = []
    tensors = {"all": torch.randn(6, 4)}
    for i, j in sorted(numbers):
        name = f"x{{}}.{slope * i + start}.'\"\\.{j}"
        tensors[name] = torch.randn(2, 3)
        target = f"t.{j * step}.{i * step}" if are_turned else f"t.{i * step}.{j * step}"
        made += [
            Assignment(f"{target}.w", (Piece(name),)),
            Assignment(
                f"{target}.b", (Piece("all", parse_steps(f"index(0, {i}) | take(0, {j}, {j + 1}, 1)")),)
            ),
        ]
    assert_same(plan_of(tensors, made), tensors)


def test_it_reads_like_a_persons() -> None:
    """Loops over ranges, slices where Python has them, helpers only where they are needed."""
    labels: list[Label] = ["certain", "likely"]
    made = [
        Assignment("embed", (Piece("wte"),)),
        *(
            Assignment(f"b.{i}.{c}", (Piece(f"h.{i + 1}.qkv", parse_steps(steps)),), (), label)
            for i in range(3)
            for c, steps, label in (
                ("q", "transpose | take(0, 0, 4, 1)", labels[0]),
                ("k", "transpose | take(0, 4, 8, 1)", labels[1]),
            )
        ),
        *(
            Assignment(f"b.{i}.e", tuple(Piece(f"h.{i}.x.{n}.w") for n in range(4)), parse_steps("stack(0)"))
            for i in range(3)
        ),
        Assignment("head", (Piece("out", parse_steps("reshape(8) | add(1)")),)),
    ]
    tensors = {"wte": torch.randn(3), "out": torch.randn(2, 4)}
    tensors |= {f"h.{i + 1}.qkv": torch.randn(5, 8) for i in range(3)}
    tensors |= {f"h.{i}.x.{n}.w": torch.randn(2) for i in range(3) for n in range(4)}
    plan = plan_of(tensors, made)
    assert_same(plan, tensors)
    assert (
        emit_python(plan).partition("\n\n\ndef _")[0]
        == '''\
"""old.pt to net.py: the state_dict of one as that of the other."""


def convert(state_dict):
    """The tensors by their new names; memory is shared with those given where it can be."""
    new = {}
    new["embed"] = state_dict["wte"]
    for i in range(3):
        new[f"b.{i}.q"] = state_dict[f"h.{i + 1}.qkv"].swapaxes(0, 1)[:4]
        new[f"b.{i}.k"] = state_dict[f"h.{i + 1}.qkv"].swapaxes(0, 1)[4:8]  # likely
        new[f"b.{i}.e"] = _stacked([state_dict[f"h.{i}.x.{number}.w"] for number in range(4)], 0)
    new["head"] = (state_dict["out"].reshape(8) + 1)
    return new'''
    )


def test_a_plan_of_copies_needs_no_helper() -> None:
    """Where names alone change, the function stands alone."""
    tensors = {"a": torch.ones(1)}
    text = emit_python(plan_of(tensors, [Assignment("b", (Piece("a"),))]))
    assert text.count("def ") == 1
    assert "import" not in text


def test_long_joins_have_a_line_a_piece() -> None:
    """A list too long for a line is broken where a person would."""
    names = [f"a.rather.long.name.of.a.tensor.{c}" for c in "qkv"]
    tensors = {name: torch.randn(2, 2) for name in names}
    made = Assignment("b", tuple(map(Piece, names)), parse_steps("cat(0, 1) | transpose"), "likely")
    plan = plan_of(tensors, [made])
    assert_same(plan, tensors)
    assert """
    new["b"] = _joined([  # likely
        state_dict["a.rather.long.name.of.a.tensor.q"],
        state_dict["a.rather.long.name.of.a.tensor.k"],
        state_dict["a.rather.long.name.of.a.tensor.v"],
    ], 0).swapaxes(0, 1)
""" in emit_python(plan)


def test_a_long_comprehension_has_no_comma() -> None:
    """What is joined by number is one item, which a comma would break."""
    names = [f"a.rather.long.name.of.several.tensors.of.one.kind.{i}.and.their.weight" for i in range(4)]
    tensors = {name: torch.randn(2, 2) for name in names}
    made = Assignment("b.that.has.a.long.name.too", tuple(map(Piece, names)), parse_steps("stack(0)"))
    assert_same(plan_of(tensors, [made]), tensors)


def test_names_of_a_file_do_not_become_code() -> None:
    """Quotes, backslashes, braces and line breaks in a name stay in their string."""
    name = 'x"]; raise SystemExit #\\\n{1}\u202e'
    tensors = {name: torch.ones(2)}
    plan = plan_of(
        tensors, [Assignment(name + ".1", (Piece(name),)), Assignment(name + ".2", (Piece(name),))]
    )
    assert set(emitted(plan, tensors)) == {name + ".1", name + ".2"}
    source = ParameterTable('"""\nraise SystemExit\n"""\\', plan.source.tensors, "file")
    assert emitted(Plan(source, plan.target, plan.assignments), tensors)
