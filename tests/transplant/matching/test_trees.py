"""State_dicts as trees: what a subtree holds is summed up, however it is nested."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from made_sides import Tensors, batch_norm, file, linear, merged, norm, numbered

from modelinspect.transplant.matching.trees import Forms, Node, build_tree, sum_up, template_of


def tree(tensors: Tensors, forms: Forms | None = None) -> Node:
    """The tree of a file."""
    return build_tree(file(tensors).table.tensors, forms or Forms())


def at(root: Node, path: str) -> Node:
    """The module of that path."""
    for name in path.split("."):
        root = next(child for child in root.children if child.name == name)
    return root


def test_leaves_come_in_order_and_are_counted() -> None:
    """The tensors are all there, and each subtree's are a run that its start and count say."""
    tensors = merged(linear("stem", 4, 3), numbered("h.", merged(norm("n"), linear("fc", 5, 4)), 3))
    root = tree(tensors)
    leaves = list(root.leaves())
    assert [leaf.path for leaf in leaves] == list(tensors)
    assert [leaf.start for leaf in leaves] == list(range(len(tensors)))
    for node in (root, at(root, "h"), at(root, "h.1"), at(root, "h.2.fc")):
        assert list(node.leaves()) == leaves[node.start : node.start + node.count]
        assert node.size == sum(leaf.size for leaf in node.leaves())


def test_key_is_blind_to_nesting_and_names() -> None:
    """Equal tensors under other names and other nesting have the same key, and another form."""
    forms = Forms()
    flat, deep = (
        tree(merged(norm("a"), linear("b")), forms),
        tree(merged(linear("x.y.z"), norm("x.w")), forms),
    )
    assert flat.key == deep.key
    assert flat.size == deep.size
    assert flat.form != deep.form


def test_key_sees_roles_and_shapes() -> None:
    """Another shape of the same size, or another role, is another key."""
    forms = Forms()
    one = tree({"a.weight": (4, 6)}, forms)
    assert one.key != tree({"a.weight": (6, 4)}, forms).key
    assert one.key != tree({"a.bias": (4, 6)}, forms).key
    assert one.key == tree({"b.kernel": (4, 6)}, forms).key


def test_form_is_equal_for_equal_blocks() -> None:
    """Blocks that repeat have one form, whatever their numbers."""
    root = tree(merged(numbered("h.", norm("n"), 2), {"h.2.n.weight": (8,)}))
    first, second, third = at(root, "h").children
    assert first.form == second.form != third.form


def test_counters_weigh_nothing() -> None:
    """A batch norm without its counter holds as much as one with it."""
    forms = Forms()
    new, old = tree(batch_norm("b"), forms), tree(batch_norm("b", is_old=True), forms)
    assert (new.key, new.size) == (old.key, old.size)
    assert new.count == old.count + 1


def test_leaf_names_that_stand_for_modules() -> None:
    """``in_proj_weight`` and ``in_proj_bias`` are a module in_proj."""
    root = tree(merged({"attn.in_proj_weight": (24, 8), "attn.in_proj_bias": (24,)}, linear("attn.out_proj")))
    attention = at(root, "attn")
    assert [child.name for child in attention.children] == ["in_proj", "out_proj"]
    assert [(leaf.role, leaf.path) for leaf in at(root, "attn.in_proj").leaves()] == [
        ("weight", "attn.in_proj_weight"),
        ("bias", "attn.in_proj_bias"),
    ]


def test_parametrized_weights_are_one_module() -> None:
    """What weight_norm keeps in its two ways is the same module."""
    forms = Forms()
    old = tree({"c.weight_g": (8, 1), "c.weight_v": (8, 4), "c.bias": (8,)}, forms)
    path = "c.parametrizations.weight.original"
    new = tree({"c.bias": (8,), f"{path}0": (8, 1), f"{path}1": (8, 4)}, forms)
    assert old.key == new.key
    assert sorted(leaf.role for leaf in at(new, "c").leaves()) == ["bias", "g", "v"]


def test_bias_per_position_is_a_weight() -> None:
    """A learned bias with two axes and nothing that it belongs to is added to scores: a weight."""
    (leaf,) = tree({"attn.position_bias": (8, 8)}).leaves()
    assert leaf.role == "weight"


def test_bare_biases_belong_to_bare_weights() -> None:
    """b1 is the bias of w1."""
    root = tree({"w1": (8, 4), "b1": (8,), "w2": (4, 8), "b2": (4,)})
    assert [[leaf.path for leaf in child.leaves()] for child in root.children] == [["w1", "b1"], ["w2", "b2"]]


def test_frequency() -> None:
    """What is in one block of four is told apart from what is in all."""
    root = tree(merged(numbered("h.", linear("conv"), 4), linear("h.0.shortcut")))
    assert at(root, "h.0.shortcut").frequency == 0.25
    assert at(root, "h.3.conv").frequency == 1.0


def test_paths_and_ancestors() -> None:
    """A node knows its way up and its path as seen from a node above."""
    root = tree(numbered("body.h.", linear("fc"), 1))
    leaf = at(root, "body.h.0.fc").children[0]
    assert [node.path for node in leaf.ancestors()] == ["body.h.0.fc", "body.h.0", "body.h", "body", ""]
    assert leaf.below(at(root, "body.h")) == "0.fc.weight"
    assert leaf.is_leaf
    assert at(root, "body.h.0.fc").is_unit
    assert not at(root, "body.h").is_unit


def test_own_contents() -> None:
    """A node may be given a content of its own, which those above it hold then."""
    forms = Forms()
    ours, theirs = tree(linear("a"), forms), tree(linear("b", 3), forms)
    assert ours.key != theirs.key
    own = {id(at(ours, "a")): (7, 7), id(at(theirs, "b")): (7, 7)}
    sum_up(ours, forms, own)
    sum_up(theirs, forms, own)
    assert ours.key == theirs.key


def test_templates() -> None:
    """Numbers are taken out of paths."""
    assert template_of("h.13.ln_1.weight") == "h.#.ln_#.weight"


@given(st.permutations(list(merged(norm("a"), linear("b.c", 5), linear("b.d"), batch_norm("e")).items())))
def test_order_changes_no_key(items: list[tuple[str, tuple[int, ...]]]) -> None:
    """In whatever order the tensors come, all subtrees hold the same."""
    forms = Forms()
    root, other = tree(dict(sorted(items)), forms), tree(dict(items), forms)
    for path in ("a", "b", "b.c", "e"):
        assert at(root, path).key == at(other, path).key
        assert at(root, path).size == at(other, path).size
    assert root.key == other.key
