"""The algebra of steps: undone they are nothing, numpy and torch agree, and their text says it all."""

from __future__ import annotations

import re
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_steps import SHAPES, Shape, fitting_steps, invertible_step

from modelinspect.transplant.transforms import (
    Step,
    apply_steps,
    inverse,
    joined_shape,
    parse_steps,
    shape_after,
    show_steps,
)


def counted(shape: Shape, library: Any = np) -> Any:
    """An array whose elements are all different."""
    return library.arange(1, prod(shape) + 1).reshape(shape)


@settings(deadline=None)
@given(st.data(), SHAPES)
def test_a_step_and_its_inverse_are_nothing(data: st.DataObject, shape: Shape) -> None:
    """Each step that loses nothing is undone by its inverse, in numpy and in torch."""
    step = data.draw(invertible_step(shape))
    undone = (step, inverse(step, shape))
    for library in (np, torch):
        array = counted(shape, library)
        back = apply_steps([array], undone, library)
        assert tuple(back.shape) == shape
        assert (back == array).all()


@settings(deadline=None)
@given(st.data(), SHAPES)
def test_numpy_and_torch_agree_and_so_does_the_shape(data: st.DataObject, shape: Shape) -> None:
    """Any steps make the same of both, of the shape that is foretold."""
    steps = data.draw(fitting_steps(shape))
    by_numpy = apply_steps([counted(shape)], steps, np)
    by_torch = apply_steps([counted(shape, torch)], steps, torch)
    assert by_numpy.shape == tuple(by_torch.shape) == shape_after(shape, steps)
    assert (by_torch.numpy() == by_numpy).all()


@settings(deadline=None)
@given(st.data(), SHAPES)
def test_steps_survive_their_text(data: st.DataObject, shape: Shape) -> None:
    """What is shown is parsed to the same steps."""
    steps = data.draw(fitting_steps(shape))
    assert parse_steps(show_steps(steps)) == steps


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 1))
def test_joined_groups_are_what_take_takes_apart(widths: list[int], groups: int, axis: int) -> None:
    """``cat`` joins group by group; a ``take`` with as many groups gives each piece back."""
    shapes: list[Shape] = [(groups * width, 2) if axis == 0 else (2, groups * width) for width in widths]
    arrays = [100 * at + counted(shape) for at, shape in enumerate(shapes)]
    join = Step("cat", (axis, groups))
    whole = apply_steps(arrays, (join,), np)
    tensors = [torch.from_numpy(array) for array in arrays]
    assert (apply_steps(tensors, (join,), torch).numpy() == whole).all()
    assert whole.shape == joined_shape(shapes, join)
    start = 0
    for array, width in zip(arrays, widths):
        part = apply_steps([whole], (Step("take", (axis, start, start + width, groups)),), np)
        assert (part == array).all()
        start += width


def test_stacked_arrays_are_what_index_gives_back() -> None:
    """``stack`` makes an axis, ``index`` takes a slice of it."""
    arrays = [counted((2, 3)) + 10 * at for at in range(4)]
    for axis in range(3):
        whole = apply_steps(arrays, (Step("stack", (axis,)),), np)
        assert whole.shape == joined_shape([(2, 3)] * 4, Step("stack", (axis,)))
        for at, array in enumerate(arrays):
            assert (apply_steps([whole], (Step("index", (axis, at)),), np) == array).all()


def test_swap_exchanges_rotary_halves() -> None:
    """Rows in pairs, as Meta's Llama has them, and in halves, as Hugging Face's has them."""
    heads, half = 2, 3
    rows = torch.arange(heads * 2 * half)
    halves = rows.view(heads, half, 2).transpose(1, 2).reshape(-1)
    assert apply_steps([rows], (Step("swap", (0, heads, half, 2)),), torch).equal(halves)


def test_swap_exchanges_stacked_and_per_head_layouts() -> None:
    """q, k and v one after the other become q, k and v head by head."""
    q, k, v = (torch.arange(6).reshape(2, 3) + at for at in (0, 10, 20))
    stacked = torch.cat([each.reshape(-1) for each in (q, k, v)])
    by_head = torch.stack([q, k, v], 1).reshape(-1)
    assert apply_steps([stacked], (Step("swap", (0, 1, 3, 2)),), torch).equal(by_head)


def test_zeros_and_padding_have_the_type_of_what_they_go_with() -> None:
    """A constant among half-precision tensors is of half precision, on either side."""
    for array, library in ((torch.ones(2, dtype=torch.bfloat16), torch), (np.ones(2, np.float16), np)):
        for steps in ((Step("pad", (0, 2)),), (Step("zeros", (4,)),)):
            made = apply_steps([array], steps, library)
            assert (made.dtype, tuple(made.shape), float(made[-1])) == (array.dtype, (4,), 0.0)


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((3,), "transpose"),
        ((3, 2), "permute(0)"),
        ((3, 2), "reshape(5)"),
        ((6,), "take(0, 0, 3, 4)"),
        ((6,), "take(0, 2, 2, 1)"),
        ((6,), "take(1, 0, 2, 1)"),
        ((6,), "take(0, 0, 4, 2)"),
        ((3, 2), "index(0, 3)"),
        ((3, 2), "index(2, 0)"),
        ((6,), "reorder(0, 0, 0)"),
        ((5,), "reorder(0, 1, 0)"),
        ((6,), "swap(0, 1, 4, 2)"),
        ((6,), "swap(0, 0, 1, 1)"),
        ((6,), "flip(1)"),
        ((6,), "pad(1, 2)"),
        ((6,), "cat(0, 1)"),
    ],
)
def test_a_step_that_does_not_fit_is_refused(shape: Shape, steps: str) -> None:
    """By its shape alone, and on arrays too."""
    with pytest.raises(ValueError, match=re.escape(steps.partition("(")[0])):
        shape_after(shape, parse_steps(steps))


@pytest.mark.parametrize(
    "text", ["spin", "transpose(1)", "take(0, 1)", "index(0, x)", "a | b", "reshape(1-2)", "|"]
)
def test_what_is_no_text_of_steps_is_refused(text: str) -> None:
    """A slip of a hand is an error, never another step."""
    with pytest.raises(ValueError, match=r"step|number"):
        parse_steps(text)


def test_arrays_that_do_not_go_together_are_refused() -> None:
    """Several without a join, and joins of unequal shapes."""
    pair = [counted((2, 3)), counted((2, 4))]
    for steps in ((), (Step("stack", (0,)),), (Step("cat", (0, 1)),), (Step("cat", (1, 2)),)):
        with pytest.raises(ValueError, match=r"join|fit"):
            apply_steps(pair, steps, np)


@pytest.mark.parametrize("text", ["take(0, 0, 1, 1)", "index(0, 0)", "cat(0, 1)", "stack(0)", "zeros(3)"])
def test_what_loses_elements_has_no_inverse(text: str) -> None:
    """A range or a slice can't be undone by a step."""
    with pytest.raises(ValueError, match="can't be undone"):
        inverse(parse_steps(text)[0], (2, 3))
