"""
Where shapes and names agree and values may still lie in another way.

Rows of a fused projection, of gates and of rotary heads stand in an order that differs from
library to library, and a norm may store its weight less one: nothing in names and shapes says
so. Such tensors are never certain between two namings, and where the order has no custom at
all they are ambiguous, until both models are run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modelinspect.transplant.matching.links import HINTED, Link, weaker
from modelinspect.transplant.matching.trees import Node, template_of
from modelinspect.transplant.matching.vocabulary import concepts_of, members_of, tokens_of
from modelinspect.transplant.plan import Label

__all__ = ["NORM_OFFSET", "cautious"]

Shape = tuple[int, ...]


def cautious(links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node]) -> list[Link]:
    """
    The links, with labels lowered where values may lie in another way.

    Args:
        links: Of whole trees.
        sources: Tensors by rank.
        targets: Tensors by rank.
    """
    has_rotation = not _has_positions(sources) and not _has_positions(targets)
    known: dict[object, tuple[Label, str]] = {}
    lowered = []
    for link in links:
        # What holds in one block holds in all that are like it.
        place = (
            link.label,
            link.reason,
            len(link.pieces),
            _place(targets[link.target]),
            *_places(link, sources),
        )
        if place not in known:
            found = _lowered(link, sources, targets[link.target], has_rotation)
            known[place] = (found.label, found.reason)
        label, reason = known[place]
        lowered.append(link if label == link.label else link._replace(label=label, reason=reason))
    return lowered


def _places(link: Link, sources: Sequence[Node]) -> tuple[object, ...]:
    at, steps = link.pieces[0]
    return (_place(sources[at]) if at >= 0 else None, tuple(step.op for step in steps))


def _place(node: Node) -> object:
    """What is around a tensor, whatever the number of its block."""
    module = node.parent
    assert module is not None
    around = module.parent.form if module.parent is not None else 0
    return (node.form, module.form, around, template_of(node.path))


def _has_positions(leaves: Sequence[Node]) -> bool:
    """Learned positions, or relative ones: then heads are hardly rotary."""
    return any(
        ("embedding", "pos") in members_of(leaf.path) or "relative" in tokens_of(leaf.path)
        for leaf in leaves
        if len(leaf.shape) >= 2
    )


def _lowered(link: Link, sources: Sequence[Node], target: Node, has_rotation: bool) -> Link:
    if (
        link.label == "ambiguous"
        or link.reason == HINTED
        or any(step.op == "take" for _, steps in link.pieces for step in steps)
    ):
        return link
    found = [sources[at] for at, _ in link.pieces if at >= 0]
    for node in (target, *found[:1]):
        source = found[0] if found else target
        judged = _doubt(_Case(node, source, target, len(link.pieces) == 1, has_rotation))
        if judged is not None:
            label, reason = weaker((link.label, link.reason), judged)
            link = link._replace(label=label, reason=reason)
    return link


class _Case(NamedTuple):
    """One of the two tensors of a link, and what is around it."""

    node: Node
    source: Node
    target: Node
    is_copy: bool
    """One tensor becomes one, as a whole."""
    has_rotation: bool

    @property
    def module(self) -> Node:
        """That holds the tensor."""
        assert self.node.parent is not None
        return self.node.parent

    @property
    def has_one_author(self) -> bool:
        """Both sides go by the same words in the block: two containers of one class."""
        ours, theirs = (node.path.split(".")[-3:] for node in (self.source, self.target))
        return len(ours) > 2 and ours[1:] == theirs[1:] and (ours[0] == theirs[0] or ours[0].isdigit())

    @property
    def parts(self) -> set[str]:
        """Which parts of an attention or a gated net the module is, by its name."""
        found = concepts_of(self.module.name).members
        return {member for family, member in found if family in ("qkvo", "glu")}


def _doubt(case: _Case) -> tuple[Label, str] | None:
    return _fused_doubt(case) or _rotary_doubt(case) or _other_doubt(case)


def _fused_doubt(case: _Case) -> tuple[Label, str] | None:
    """Rows of several projections in one matrix."""
    if _is_by_head(case.source) != _is_by_head(case.target) and case.source.size == case.target.size:
        return "ambiguous", "the rows of one go head by head, those of the other may not"
    if _has_gates(case.module) and not _same_words(case.source, case.target):
        return "ambiguous", "its gates may lie in another order"
    is_fused = case.parts & _FUSIONS or (not case.parts & _PARTS and _is_composite(case.module))
    if not is_fused:
        return None
    words = [_fusion(each) for each in (case.source, case.target)]
    is_known = not _FUSIONS.isdisjoint(words) or ("part", "attn") in members_of(case.module.path)
    if words[0] != words[1] and case.is_copy and is_known:
        return "ambiguous", "rows that are fused may lie in another order"
    return "likely", "by name; rows that are fused may lie in another order"


def _rotary_doubt(case: _Case) -> tuple[Label, str] | None:
    if not (case.parts & {"q", "k"} and case.has_rotation) or case.has_one_author:
        return None
    if _has_short_name(case.source) != _has_short_name(case.target):
        return "ambiguous", "rows of rotary heads may lie in another order"
    return "likely", "by name; rows of rotary heads may lie in another order"


def _other_doubt(case: _Case) -> tuple[Label, str] | None:
    node, module = case.node, case.module
    if case.is_copy and _is_patch(case.source, case.target):
        return "ambiguous", "pixels of a patch may lie before or after their channels"
    assert node.row is not None
    is_number = node.row.dtype.category == "float"
    is_statistic = any(child.role in ("mean", "var") for child in module.children)
    is_scale = node.role == "weight" and len(node.shape) == 1 and is_number
    if is_scale and not is_statistic and not case.has_one_author:
        return "likely", NORM_OFFSET
    if any(_narrows(child) for child in module.children) and _WIDENS & set(tokens_of(module.path)):
        return "likely", "by name and place; channels that were joined may lie in another order"
    if len(node.shape) == 3 and ("part", "moe") in members_of(module.path):
        return "likely", "by name; rows that are fused may lie in another order"
    return None


def _narrows(node: Node) -> bool:
    """A convolution of more channels to fewer, as after channels were joined."""
    return node.is_leaf and len(node.shape) >= 3 and node.shape[1] > node.shape[0]


NORM_OFFSET = "by name and place; a norm may store its weight less one"
_FUSIONS = frozenset({"qkv", "kv", "gate_up"})
_PARTS = frozenset({"q", "k", "v", "o", "gate", "up", "down"})
_WIDENS = frozenset(
    {"up", "ups", "u", "decoder", "dec", "upsample", "expand", "expansive", "upconv", "fuse", "fusion"}
)


def _is_by_head(node: Node) -> bool:
    """One word for all three, query_key_value: rows that go head by head, as is the custom."""
    assert node.parent is not None
    return tokens_of(node.parent.name)[:3] == ("query", "key", "value")


def _fusion(node: Node) -> str:
    """What the name says that is fused; its last word where it says nothing."""
    assert node.parent is not None
    members = {m for family, m in concepts_of(node.parent.name).members if family in ("qkvo", "glu")}
    return "".join(sorted(members & {"qkv", "kv", "gate_up"})) or node.parent.name


def _is_patch(source: Node, target: Node) -> bool:
    """A convolution over patches on one side, a matrix on the other."""
    ours, theirs = source.shape, target.shape
    longer, shorter = (ours, theirs) if len(ours) > len(theirs) else (theirs, ours)
    if len(shorter) != 2 or len(longer) <= 3 or longer[1] == 1 or max(longer[2:]) == 1:
        return False
    return any(
        "patch" in tokens_of(node.path)
        or not {("kind", "embedding"), ("kind", "stem")}.isdisjoint(concepts_of(node.path).members)
        for node in (source, target)
    )


def _has_short_name(node: Node) -> bool:
    """
    ``wq`` and ``wk``, as where rotation turns neighbouring rows; ``q_proj`` and ``k_proj`` are
    at home where it turns one half of the rows against the other.
    """
    assert node.parent is not None
    return node.parent.name in ("wq", "wk")


def _same_words(source: Node, target: Node) -> bool:
    """Both are called as torch calls them: weight_ih, weight_hh."""
    ours, theirs = tokens_of(source.path.rpartition(".")[2]), tokens_of(target.path.rpartition(".")[2])
    return ours[:2] == theirs[:2] and ours[:1] in (("weight",), ("bias",))


def _has_gates(module: Node) -> bool:
    """
    Rows are several times the state, for the input as for the state: (4·n, m) beside (4·n, n).

    Nothing takes so many: else it is the first layer of a feed-forward net.
    """
    for own, beside in _with_neighbours(module):
        alike = [shape for shape in (*beside, own) if shape[0] == own[0]]
        if len(alike) < 2 or any(shape[1] == own[0] for shape in beside):
            continue
        if any(own[0] in (3 * shape[1], 4 * shape[1]) for shape in alike):
            return True
    return False


def _is_composite(module: Node) -> bool:
    """Rows are several times what the module's neighbour takes: (3·n, m) before (m, n)."""
    return any(
        own[0] != own[1] and shape[0] == own[1] and own[0] in (2 * shape[1], 3 * shape[1])
        for own, beside in _with_neighbours(module)
        for shape in beside
    )


def _with_neighbours(module: Node) -> Iterator[tuple[Shape, list[Shape]]]:
    """The shape of a module's matrix and those beside it; then all of them the other way round."""
    own = _matrix(module)
    if own is None or module.parent is None:
        return
    nodes = [*module.children, *module.parent.children]
    beside = [shape for node in nodes if node is not module and (shape := _matrix(node)) and shape is not own]
    yield own, beside
    yield own[::-1], [shape[::-1] for shape in beside]


def _matrix(node: Node) -> Shape | None:
    for child in (node, *node.children):
        if child.is_leaf and child.role == "weight" and len(child.shape) == 2:
            return child.shape
    return None
