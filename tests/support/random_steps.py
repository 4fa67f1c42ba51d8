"""Steps that fit a shape, drawn at random: what transforms, plans and emitted Python are tried on."""

from __future__ import annotations

from math import prod

from hypothesis import strategies as st

from modelinspect.transplant.transforms import Step, shape_after

Shape = tuple[int, ...]

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=3).map(tuple)


def divisors(number: int) -> list[int]:
    """All divisors, the smallest first."""
    return [each for each in range(1, number + 1) if number % each == 0]


@st.composite
def invertible_step(draw: st.DrawFn, shape: Shape) -> Step:
    """A step that loses nothing and fits the shape."""
    axis = draw(st.integers(0, len(shape) - 1))
    kinds = ["permute", "reshape", "swap", "flip", "pad", "reorder", "add"]
    kind = draw(st.sampled_from([*kinds, "transpose"] if len(shape) > 1 else kinds))
    if kind == "transpose":
        return Step("transpose")
    if kind == "permute":
        return Step("permute", tuple(draw(st.permutations(range(len(shape))))))
    if kind == "reshape":
        first = draw(st.sampled_from(divisors(prod(shape))))
        return Step("reshape", (first, prod(shape) // first))
    if kind == "swap":
        outer = draw(st.sampled_from(divisors(shape[axis])))
        a = draw(st.sampled_from(divisors(shape[axis] // outer)))
        b = draw(st.sampled_from(divisors(shape[axis] // outer // a)))
        return Step("swap", (axis, outer, a, b))
    if kind == "reorder":
        parts = [each for each in divisors(shape[axis]) if each > 1]
        if parts:
            order = draw(st.permutations(range(draw(st.sampled_from(parts)))))
            return Step("reorder", (axis, *order))
    if kind == "add":
        return Step("add", (draw(st.integers(-2, 2)),))
    if kind == "pad":
        return Step("pad", (axis, draw(st.integers(0, 3))))
    return Step("flip", (axis,))


@st.composite
def losing_step(draw: st.DrawFn, shape: Shape) -> Step:
    """A range or a slice."""
    axis = draw(st.integers(0, len(shape) - 1))
    if len(shape) > 1 and draw(st.booleans()):
        return Step("index", (axis, draw(st.integers(0, shape[axis] - 1))))
    groups = draw(st.sampled_from(divisors(shape[axis])))
    stop = draw(st.integers(1, shape[axis] // groups))
    return Step("take", (axis, draw(st.integers(0, stop - 1)), stop, groups))


@st.composite
def fitting_steps(draw: st.DrawFn, shape: Shape, *, may_lose: bool = True, most: int = 4) -> tuple[Step, ...]:
    """Some steps, each of which fits what the one before it leaves."""
    steps: list[Step] = []
    for _ in range(draw(st.integers(0, most))):
        loses = may_lose and draw(st.integers(0, 3)) == 0
        step = draw(losing_step(shape) if loses else invertible_step(shape))
        steps.append(step)
        shape = shape_after(shape, (step,))
    return tuple(steps)
