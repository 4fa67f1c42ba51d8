"""Steps from one shape to another of the same size: applied, they give that shape and lose nothing."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sides import Tensors, file

from modelinspect.transplant.matching.orientation import how, reshaped, rows_between
from modelinspect.transplant.matching.trees import Forms, Node, build_tree
from modelinspect.transplant.transforms import Step, apply_steps, inverse, shape_after

Shape = tuple[int, ...]
LENGTHS = st.sampled_from([1, 2, 3, 4, 6])


@st.composite
def related(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """A shape and one that is made of it by reordering axes and by ones put in or left out."""
    shape = draw(st.lists(LENGTHS, min_size=1, max_size=4).map(tuple))
    axes = [length for length in draw(st.permutations(shape)) if length != 1]
    for _ in range(draw(st.integers(0, 2))):
        axes.insert(draw(st.integers(0, len(axes))), 1)
    if len(axes) > 1 and draw(st.booleans()):
        axes[:2] = [axes[0] * axes[1]]
    return shape, tuple(axes)


def assert_bijective(ours: Shape, theirs: Shape) -> None:
    """The steps between the shapes, if any, give the shape that is wanted, with each number once."""
    steps = reshaped(ours, theirs)
    if steps is None:
        return
    numbers = np.arange(prod(ours)).reshape(ours)
    made = apply_steps([numbers], steps, np)
    assert made.shape == theirs == shape_after(ours, steps)
    assert sorted(made.ravel().tolist()) == list(range(prod(ours)))
    for step in reversed(steps):
        before = shape_after(ours, steps[: steps.index(step)])
        made = apply_steps([made], [inverse(step, before)], np)
    assert np.array_equal(made, numbers)


@given(related())
def test_steps_lose_nothing(shapes: tuple[Shape, Shape]) -> None:
    """Steps between shapes of one size are a bijection and can be inverted."""
    assert_bijective(*shapes)
    assert_bijective(*reversed(shapes))


@given(st.lists(LENGTHS, max_size=4).map(tuple), st.lists(LENGTHS, max_size=4).map(tuple))
def test_other_sizes_have_no_steps(ours: Shape, theirs: Shape) -> None:
    """Shapes of different sizes are not connected, equal ones need nothing."""
    assert reshaped(ours, ours) == ()
    if prod(ours) != prod(theirs):
        assert reshaped(ours, theirs) is None
    else:
        assert_bijective(ours, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs", "steps"),
    [
        ((3, 4), (3, 4), ()),
        ((3, 4), (4, 3), (Step("transpose"),)),
        ((4, 4), (4, 4), ()),
        ((8, 4, 1, 1), (8, 4), (Step("reshape", (8, 4)),)),
        ((8, 4), (8, 4, 1), (Step("reshape", (8, 4, 1)),)),
        ((1, 5, 8), (5, 8), (Step("reshape", (5, 8)),)),
        ((8,), (8, 1, 1), (Step("reshape", (8, 1, 1)),)),
        ((8, 3, 4, 4), (8, 48), (Step("reshape", (8, 48)),)),
        ((24, 8), (4, 6, 8), (Step("reshape", (4, 6, 8)),)),
        ((2, 6), (3, 4), None),
        ((0, 3), (3, 0), None),
    ],
)
def test_known_steps(ours: Shape, theirs: Shape, steps: tuple[Step, ...] | None) -> None:
    """The ways that shapes are known to be connected, each with as few steps as there are."""
    assert reshaped(ours, theirs) == steps


def test_transposed_pointwise_convolution() -> None:
    """A matrix (in, out) becomes a kernel (out, in, 1, 1), by its columns."""
    steps = reshaped((4, 8), (8, 4, 1, 1))
    assert steps is not None
    numbers = np.arange(32).reshape(4, 8)
    assert np.array_equal(apply_steps([numbers], steps, np)[:, :, 0, 0], numbers.T)


def test_heads_with_an_axis_of_their_own() -> None:
    """(heads·d, n) becomes (heads, n, d): each head's rows are turned."""
    steps = reshaped((6, 5), (2, 5, 3))
    assert steps is not None
    numbers = np.arange(30).reshape(6, 5)
    expected = numbers.reshape(2, 3, 5).transpose(0, 2, 1)
    assert np.array_equal(apply_steps([numbers], steps, np), expected)


# ---------------------------------------------------------------------------- nodes


def tensor(name: str, shape: Shape) -> Node:
    """A tensor in a tree of its own."""
    tensors: Tensors = {name: shape}
    return next(build_tree(file(tensors).table.tensors, Forms()).leaves())


def test_counters_go_with_counters() -> None:
    """A count of batches is no scalar weight."""
    count, weight = tensor("bn.num_batches_tracked", ()), tensor("temperature", ())
    assert how(count, count) == ()
    assert how(count, weight) is None
    assert how(weight, count) is None


@pytest.mark.parametrize(
    ("source", "target", "steps"),
    [
        (("wte.weight", (60, 8)), ("embed_tokens.weight", (50, 8)), (Step("take", (0, 0, 50, 1)),)),
        (("wte.weight", (50, 8)), ("embed_tokens.weight", (60, 8)), (Step("pad", (0, 10)),)),
        (("embed_positions.weight", (34, 8)), ("wpe.weight", (32, 8)), (Step("take", (0, 2, 34, 1)),)),
        (("embed_positions.weight", (35, 8)), ("wpe.weight", (32, 8)), None),
        (("wte.weight", (50, 8)), ("wte.weight", (60, 9)), None),
        (("lm_head.weight", (50, 8)), ("lm_head.weight", (60, 8)), None),
        (("wte.weight", (34, 8)), ("wpe.weight", (32, 8)), None),
        (("fc.weight", (34, 8)), ("fc.weight", (32, 8)), None),
    ],
)
def test_rows_of_embeddings(
    source: tuple[str, Shape], target: tuple[str, Shape], steps: tuple[Step, ...] | None
) -> None:
    """Words are cut or padded at the end, two positions at the front, and nothing else is."""
    assert rows_between(tensor(*source), tensor(*target)) == steps
