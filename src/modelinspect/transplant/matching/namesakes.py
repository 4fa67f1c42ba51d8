"""
Claims that a better-named tensor of another size contradicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelinspect.transplant.matching.links import HINTED, Link
from modelinspect.transplant.matching.scoring import name_score
from modelinspect.transplant.matching.trees import Node

__all__ = ["not_by_chance", "without_strangers"]

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


def not_by_chance(
    links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node], made: Mapping[str, object]
) -> list[Link]:
    """
    The links, none of them certain by its shape alone where as much is left over.

    What stays missing or unused in the same shape might be the right one.
    """
    used = {at for link in links for at, _ in link.pieces}
    filled = {link.target for link in links}
    spare = {(node.role, node.shape) for at, node in enumerate(sources) if at not in used}
    wanted = {
        (node.role, node.shape)
        for at, node in enumerate(targets)
        if at not in filled and node.path not in made
    }
    if not spare and not wanted:
        return list(links)
    checked = []
    for link in links:
        at, target = link.pieces[0][0], targets[link.target]
        is_open = (at >= 0 and (sources[at].role, sources[at].shape) in spare) or (
            (target.role, target.shape) in wanted
        )
        if link.label == "certain" and is_open and link.reason != HINTED and not _agree(sources[at], target):
            link = link._replace(label="likely", reason=f"{link.reason}; as much is left over")  # noqa: PLW2901
        checked.append(link)
    return checked


def _agree(source: Node, target: Node) -> bool:
    return name_score(_module(source), _module(target)) >= _NAMESAKE


def _is_stranger(source: Node, target: Node) -> bool:
    return name_score(_module(source), _module(target)) <= _STRANGER


def _is_namesake(node: Node, target: Node) -> bool:
    alike = node.role == target.role and len(node.shape) == len(target.shape) and node.shape != target.shape
    return alike and name_score(_module(node), _module(target)) >= _NAMESAKE


def _module(node: Node) -> str:
    assert node.parent is not None
    return node.parent.path
