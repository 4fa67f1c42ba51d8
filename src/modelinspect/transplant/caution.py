"""
Where shapes and names agree and values may still lie in another way.

Rows of a fused projection, of gates and of rotary heads stand in an order that differs from
library to library, and a norm may store its weight less one: nothing in names and shapes says
so. Such tensors are never certain between two namings, and where the order has no custom at
all they are ambiguous, until both models are run.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelinspect.transplant.links import Link, weaker
from modelinspect.transplant.plan import Label
from modelinspect.transplant.trees import Node
from modelinspect.transplant.vocabulary import concepts_of, tokens_of

__all__ = ["cautious"]


def cautious(links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node]) -> list[Link]:
    """
    The links, with labels lowered where values may lie in another way.

    Args:
        links: Of whole trees.
        sources: Tensors by rank.
        targets: Tensors by rank.
    """
    if _are_one_class(sources, targets):
        return list(links)
    return [_lowered(link, sources, targets[link.target]) for link in links]


def _are_one_class(sources: Sequence[Node], targets: Sequence[Node]) -> bool:
    """All names of the target are the source's, with the same shapes: one class, or two that mean to be."""
    ours = {node.path: node.shape for node in sources}
    return all(ours.get(node.path) == node.shape for node in targets)


def _lowered(link: Link, sources: Sequence[Node], target: Node) -> Link:
    if link.label == "ambiguous":
        return link
    found = [sources[at] for at, _ in link.pieces if at >= 0]
    for node in (target, *found[:1]):
        judged = _doubt(node, found[0] if found else target, target)
        if judged is not None:
            label, reason = weaker((link.label, link.reason), judged)
            link = link._replace(label=label, reason=reason)
    return link


def _doubt(node: Node, source: Node, target: Node) -> tuple[Label, str] | None:
    module = node.parent
    assert module is not None
    members = concepts_of(module.path).members
    last = {member for family, member in concepts_of(module.name).members if family in ("qkvo", "glu")}
    if _has_gates(module) and not _same_words(source, target):
        return "ambiguous", "its gates may lie in another order"
    if last & {"qkv", "kv", "gate_up"} or _is_composite(module):
        return "likely", "by name; rows that are fused may lie in another order"
    if last & {"q", "k"}:
        return "likely", "by name; rows of rotary heads may lie in another order"
    if node.role == "weight" and len(node.shape) == 1 and len(module.children) == 1:
        return "likely", "by name and place; a norm without a bias may store its weight less one"
    if len(node.shape) >= 3 and node.shape[1] > node.shape[0] and _WIDENS & set(tokens_of(module.path)):
        return "likely", "by name and place; channels that were joined may lie in another order"
    if ("part", "moe") in members and len(node.shape) == 3:
        return "likely", "by name; rows that are fused may lie in another order"
    return None


_WIDENS = frozenset(
    {"up", "ups", "decoder", "dec", "upsample", "expand", "expansive", "upconv", "fuse", "fusion"}
)


def _same_words(source: Node, target: Node) -> bool:
    """Both are called as torch calls them: weight_ih, weight_hh."""
    ours, theirs = tokens_of(source.path.rpartition(".")[2]), tokens_of(target.path.rpartition(".")[2])
    return ours[:2] == theirs[:2] and ours[:1] in (("weight",), ("bias",))


def _has_gates(module: Node) -> bool:
    """Rows are several times the state: (4·n, m) beside (4·n, n)."""
    own = _matrix(module)
    if own is None or module.parent is None:
        return False
    for other in (*module.parent.children, module):
        beside = _matrix(other)
        if beside is not None and beside[0] == own[0] and own[0] in (3 * beside[1], 4 * beside[1]):
            if other is not module or len([c for c in module.parent.children if _matrix(c) == own]) > 1:
                return True
    return False


def _is_composite(module: Node) -> bool:
    """Rows are several times what the module's neighbour takes: (3·n, m) before (m, n)."""
    own = _matrix(module)
    if own is None or module.parent is None:
        return False
    for other in module.parent.children:
        beside = _matrix(other)
        if (
            other is not module
            and beside is not None
            and beside[0] == own[1]
            and own[0] in (2 * beside[1], 3 * beside[1])
        ):
            return True
    return False


def _matrix(module: Node) -> tuple[int, ...] | None:
    for child in module.children:
        if child.is_leaf and child.role == "weight" and len(child.shape) == 2:
            return child.shape
    return None
