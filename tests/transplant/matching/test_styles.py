"""Which way round the weights of a whole network lie."""

from __future__ import annotations

import pytest
from made_sides import Tensors, file, linear, merged, norm

from modelinspect.transplant.matching.styles import turned_rows, turns
from modelinspect.transplant.matching.trees import Forms, build_tree
from modelinspect.transplant.transforms import Step

TURN = Step("transpose")


def steps_between(source: Tensors, target: Tensors) -> dict[str, Step]:
    """Steps that turn the source's weights."""
    forms = Forms()
    return turns(*(build_tree(file(tensors).table.tensors, forms) for tensors in (source, target))).steps


def turned(tensors: Tensors) -> Tensors:
    """The same with matrices the other way round."""
    return {name: shape[::-1] if len(shape) == 2 else shape for name, shape in tensors.items()}


NET = merged(norm("norm"), linear("fc1", 32, 8), linear("square"), linear("fc2", 8, 32))
BARE = {name: shape for name, shape in NET.items() if not name.endswith("bias")}
MATRICES = ("fc1.weight", "square.weight", "fc2.weight")


def test_equal_styles_turn_nothing() -> None:
    """Two networks that keep (out, in) both, or (in, out) both, are left alone."""
    for net in (NET, BARE, turned(NET), turned(BARE)):
        assert steps_between(net, net) == {}


def test_biases_show_the_style() -> None:
    """A bias is as long as the outputs: where it is as long as the columns, all matrices are turned."""
    assert steps_between(turned(NET), NET) == dict.fromkeys(MATRICES, TURN)
    assert steps_between(NET, turned(NET)) == dict.fromkeys(MATRICES, TURN)


def test_common_shapes_show_the_style() -> None:
    """Without biases the shapes that both have in common decide."""
    ours: Tensors = {"a.weight": (32, 8), "b.weight": (8, 8)}
    theirs: Tensors = {"x.weight": (8, 32), "y.weight": (8, 8)}
    assert steps_between(ours, theirs) == {"a.weight": TURN, "b.weight": TURN}
    assert steps_between(ours, ours) == {}


def test_square_matrices_alone_show_nothing() -> None:
    """Nothing is turned where all is square."""
    assert steps_between(linear("a"), linear("b")) == {}


def test_embeddings_lie_the_same_everywhere() -> None:
    """Tables of words and positions are not turned with the rest."""
    tables: Tensors = {"wte.weight": (50, 8), "pos_embed.weight": (16, 8)}
    found = steps_between(merged(tables, turned(NET)), merged(tables, NET))
    assert found == dict.fromkeys(MATRICES, TURN)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_channels_last(axes: int) -> None:
    """Kernels whose channels are last become torch's and the other way round."""
    size = (3, 5, 7)[:axes]
    ours: Tensors = {"a.kernel": (*size, 4, 8), "b.kernel": (*size, 8, 16)}
    theirs: Tensors = {"x.weight": (8, 4, *size), "y.weight": (16, 8, *size)}
    for source, target in ((ours, theirs), (theirs, ours)):
        steps = steps_between(source, target)
        rows = turned_rows(file(source).table.tensors, steps)
        assert sorted(row.shape for row in rows) == sorted(target.values())


def test_turned_rows_keep_the_rest() -> None:
    """Only shapes of the rows that steps name change."""
    rows = file(merged(linear("a", 3, 4), linear("b", 3, 4))).table.tensors
    found = turned_rows(rows, {"a.weight": TURN})
    assert [row.shape for row in found] == [(4, 3), (3,), (3, 4), (3,)]
    assert [row.name for row in found] == [row.name for row in rows]
