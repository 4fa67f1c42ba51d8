"""
Claims that a better-named tensor of another size contradicts.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelinspect.transplant.matching.links import Link
from modelinspect.transplant.matching.scoring import name_score
from modelinspect.transplant.matching.trees import Node

__all__ = ["without_strangers"]

_NAMESAKE = 1.0
_STRANGER = 0.0
_MOST_COMPARED = 200


def without_strangers(links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node]) -> list[Link]:
    """
    The links without those whose names say nothing, where the source has a namesake of
    another size to spare: a head for other classes is left as the target starts, and is
    not filled with what happens to fit.
    """
    used = {at for link in links for at, _ in link.pieces}
    free = [node for at, node in enumerate(sources) if at not in used][:_MOST_COMPARED]
    if not free:
        return list(links)
    gone = {
        id(target.parent)
        for link in links
        if link.label == "likely"
        and len((target := targets[link.target]).shape) > 1
        and _is_stranger(sources[link.pieces[0][0]], target)
        and any(_is_namesake(node, target) for node in free)
    }
    return [link for link in links if id(targets[link.target].parent) not in gone]


def _is_stranger(source: Node, target: Node) -> bool:
    return name_score(_module(source), _module(target)) <= _STRANGER


def _is_namesake(node: Node, target: Node) -> bool:
    alike = node.role == target.role and len(node.shape) == len(target.shape) and node.shape != target.shape
    return alike and name_score(_module(node), _module(target)) >= _NAMESAKE


def _module(node: Node) -> str:
    assert node.parent is not None
    return node.parent.path
