"""
Is a square matrix transposed? Its shape can't say; its siblings that are not square do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from modelinspect.transplant.matching.links import HINTED, Link, weaker
from modelinspect.transplant.matching.trees import Node
from modelinspect.transplant.matching.vocabulary import meaning_of
from modelinspect.transplant.plan import Label
from modelinspect.transplant.transforms import Step

__all__ = ["turned"]


def turned(
    links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node], classes: Mapping[str, str]
) -> list[Link]:
    """
    The links, with square matrices transposed where the nearest others are.

    Args:
        links: Of whole trees: ranks count from the first tensor.
        sources: Tensors by rank.
        targets: Tensors by rank.
        classes: Of the target's modules, where they are known.
    """
    if not any(_is_turned(link) for link in links):
        return _not_by_themselves(links, sources, targets, classes)
    votes: dict[int, set[_Vote]] = defaultdict(set)
    for link in links:
        node = targets[link.target]
        is_map = _is_matrix(link, sources, node) and not _is_table(link, sources, node, classes)
        for above in node.ancestors() if is_map and not _is_square(link, sources, node) else ():
            votes[id(above)].add(_Vote(_is_turned(link), link.label))
    return [
        _decided(link, votes, sources, targets[link.target])
        if _is_matrix(link, sources, targets[link.target])
        and _is_square(link, sources, targets[link.target])
        and not _is_table(link, sources, targets[link.target], classes)
        else link
        for link in links
    ]


def _not_by_themselves(
    links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node], classes: Mapping[str, str]
) -> list[Link]:
    """Square matrices are not certain where no other matrix shows which way round they lie."""
    maps = [
        link
        for link in links
        if _is_matrix(link, sources, targets[link.target])
        and not _is_table(link, sources, targets[link.target], classes)
    ]
    if not all(_is_square(link, sources, targets[link.target]) for link in maps):
        return list(links)
    alone = {id(link) for link in maps if link.label == "certain" and link.reason != HINTED}
    return [link._replace(label="likely", reason=_ALONE) if id(link) in alone else link for link in links]


_ALONE = "square, and nothing beside it shows which way round it lies"


def _is_matrix(link: Link, sources: Sequence[Node], target: Node) -> bool:
    """A weight that is a matrix on each side, but for an axis of heads."""
    shapes = [target.shape, *(sources[at].shape for at, _ in link.pieces if at >= 0)]
    return target.role == "weight" and min(map(len, shapes)) == 2 and max(map(len, shapes)) <= 3


def _is_square(link: Link, sources: Sequence[Node], target: Node) -> bool:
    """Taken as it is, or reshaped, and as high as wide."""
    steps = [*link.pieces[0][1], *link.steps]
    if len(link.pieces) > 1 or any(step.op != "reshape" for step in steps):
        return False
    return any(
        len(shape) == 2 and shape[0] == shape[1] for shape in (target.shape, sources[link.pieces[0][0]].shape)
    )


def _is_turned(link: Link) -> bool:
    steps = [*link.pieces[0][1], *link.steps]
    return sum(step.op == "transpose" for step in steps) % 2 == 1


def _is_table(link: Link, sources: Sequence[Node], target: Node, classes: Mapping[str, str]) -> bool:
    """A table of embeddings lies the same way everywhere."""
    module = target.parent
    assert module is not None
    known = classes.get(module.path)
    if known is not None:
        return known == "Embedding"
    nodes = (target, *(sources[at] for at, _ in link.pieces if at >= 0))
    return any(meaning_of(node.path) for node in nodes)


class _Vote(NamedTuple):
    """What a matrix that is not square shows, and how sure it is itself."""

    is_turned: bool
    label: Label


def _decided(link: Link, votes: Mapping[int, set[_Vote]], sources: Sequence[Node], target: Node) -> Link:
    for above in target.ancestors():
        found = votes.get(id(above))
        if not found:
            continue
        ways = {vote.is_turned for vote in found}
        if ways == {False}:
            return link
        if ways == {True}:
            return _turned_too(link, found, sources)
        label, reason = weaker(
            (link.label, link.reason), ("ambiguous", "square, and of those beside it some are transposed")
        )
        return link._replace(label=label, reason=reason)
    return link


def _turned_too(link: Link, votes: AbstractSet[_Vote], sources: Sequence[Node]) -> Link:
    """Transposed, and no surer than those that say so."""
    ((at, steps),) = link.pieces
    turn = (Step("transpose"), *steps) if len(sources[at].shape) == 2 else (*steps, Step("transpose"))
    label, reason = link.label, f"{link.reason}; transposed as those beside it"
    for vote in votes:
        label, reason = weaker((label, reason), (vote.label, reason))
    return link._replace(pieces=((at, turn),), label=label, reason=reason)
