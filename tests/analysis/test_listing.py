"""Totals and trees: each tensor counts once, subtrees add up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelinspect.analysis.listing import TreeNode, build_tree, total
from modelinspect.dtypes import BY_NAME
from modelinspect.tensors import ParameterTable, Storage, TensorInfo

FLOAT = BY_NAME["float32"]


def tensor(name: str, numel: int = 2, key: str | None = None) -> TensorInfo:
    """A row; equal keys are one storage."""
    return TensorInfo(name, FLOAT, (numel,), Storage("f", key or name, 0, 4 * numel))


def table(*tensors: TensorInfo) -> ParameterTable:
    """A table with two modules whose classes are known."""
    return ParameterTable("t", tensors, origin="file", modules={"": "Net", "enc": "Encoder"})


def test_a_tie_whose_first_name_is_filtered_out_still_counts() -> None:
    """Totals are of the rows shown: the second name stands for the tensor when it is alone."""
    rows = table(tensor("a", 2, "s"), tensor("b", 2, "s"))
    assert total(rows.tensors, rows.tied_to).unique == 2
    assert total(rows.tensors[1:], rows.tied_to).unique == 2
    assert total(rows.tensors[1:], rows.tied_to).nbytes == 8


def test_tree_lines_stand_below_their_parents() -> None:
    """Modules appear where their first tensor does, with class names where known."""
    rows = table(tensor("enc.0.weight"), tensor("head"), tensor("enc.1.weight"))
    tree = build_tree(rows.tensors, rows)
    assert [(node.depth, node.label, node.class_name, node.totals.unique) for node in tree] == [
        (0, "", "Net", 6),
        (1, "enc", "Encoder", 4),
        (2, "0", "", 2),
        (3, "weight", "", 2),
        (2, "1", "", 2),
        (3, "weight", "", 2),
        (1, "head", "", 2),
    ]


def test_depth_hides_lines_and_keeps_totals() -> None:
    """What lies deeper than the depth is in the totals of the level above."""
    rows = table(tensor("enc.0.weight"), tensor("head"))
    assert [(node.path, node.totals.unique) for node in build_tree(rows.tensors, rows, 1)] == [
        ("", 4),
        ("enc", 2),
        ("head", 2),
    ]
    assert [node.path for node in build_tree(rows.tensors, rows, 0)] == [""]


def test_a_name_may_be_a_tensor_and_a_module() -> None:
    """A file's names need not make a tree of modules; nothing is lost."""
    rows = table(tensor("a"), tensor("a.b"), tensor(""))
    tree = build_tree(rows.tensors, rows)
    assert sorted(node.path for node in tree if node.tensor is not None) == ["", "a", "a.b"]
    assert tree[0].totals.unique == 6


def test_a_very_deep_name_is_no_trouble() -> None:
    """Ten thousand levels: no recursion anywhere."""
    rows = table(tensor(".".join("x" * 3000)))
    assert len(build_tree(rows.tensors, rows)) == 3001


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@given(
    st.lists(st.tuples(NAMES, st.integers(0, 4), st.sampled_from(["s", None])), unique_by=lambda row: row[0])
)
def test_children_add_up_to_their_parent(rows: list[tuple[str, int, str | None]]) -> None:
    """For every module: its totals are the sum of the lines one level below."""
    made = table(*(tensor(name, numel, key) for name, numel, key in rows))
    tree = build_tree(made.tensors, made)
    assert tree[0].totals == total(made.tensors, made.tied_to)
    for at, node in enumerate(tree):
        if node.tensor is None:
            below = _children(tree, at)
            assert node.totals.unique == sum(child.totals.unique for child in below)
            assert node.totals.nbytes == sum(child.totals.nbytes for child in below)
            assert node.totals.tensors == sum(child.totals.tensors for child in below)


def _children(tree: tuple[TreeNode, ...], at: int) -> list[TreeNode]:
    found = []
    for node in tree[at + 1 :]:
        if node.depth <= tree[at].depth:
            break
        if node.depth == tree[at].depth + 1:
            found.append(node)
    return found
