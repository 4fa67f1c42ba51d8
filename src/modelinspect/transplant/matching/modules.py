"""
Modules as units: a bias goes with the weight beside it, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelinspect.transplant.matching.links import HINTED, Link, weaker
from modelinspect.transplant.matching.trees import Node
from modelinspect.transplant.plan import Assignment

__all__ = ["as_units", "of_other_kinds"]


def as_units(links: Sequence[Link], sources: Sequence[Node], targets: Sequence[Node]) -> list[Link]:
    """
    The links, without biases whose module gets no weight, and with those of the module that gives it.

    Args:
        links: Of whole trees.
        sources: Tensors by rank.
        targets: Tensors by rank.
    """
    givers = {id(targets[link.target].parent): link for link in links if _is_matrix(targets[link.target])}
    kept = []
    for link in links:
        target = targets[link.target]
        weight = _weight_beside(target)
        if target.role != "bias" or weight is None or link.reason == HINTED:
            kept.append(link)
            continue
        giver = givers.get(id(target.parent))
        if giver is not None:
            kept.append(_with_its_module(link, giver, sources, target))
    return kept


def _is_matrix(node: Node) -> bool:
    return node.role == "weight" and len(node.shape) > 1


def _weight_beside(node: Node) -> Node | None:
    assert node.parent is not None
    return next((child for child in node.parent.children if child.is_leaf and _is_matrix(child)), None)


def _with_its_module(link: Link, giver: Link, sources: Sequence[Node], target: Node) -> Link:
    """A bias's link, from the module that its weight comes from if that has one to give."""
    if len(link.pieces) > 1 or len(giver.pieces) > 1 or link.pieces[0][0] < 0 or giver.pieces[0][0] < 0:
        return link
    own, module = sources[link.pieces[0][0]].parent, sources[giver.pieces[0][0]].parent
    assert module is not None
    biases = [child for child in module.children if child.role == "bias" and child.shape == target.shape]
    if own is module or len(biases) != 1 or biases[0].row is None:
        return link
    label, reason = weaker((link.label, link.reason), (giver.label, giver.reason))
    return Link(((biases[0].start, ()),), link.target, (), label, reason)


def of_other_kinds(
    assignments: Sequence[Assignment], ours: Mapping[str, str], theirs: Mapping[str, str]
) -> list[Assignment]:
    """
    The assignments, ambiguous between a convolution and a transposed one, whose axes are
    exchanged, and likely at most for square matrices of modules of different classes.

    Args:
        assignments: Of a plan.
        ours: Classes of the source's modules, where they are known.
        theirs: Of the target's.
    """
    return [_judged(each, ours, theirs) if each.is_copy else each for each in assignments]


def _judged(assignment: Assignment, ours: Mapping[str, str], theirs: Mapping[str, str]) -> Assignment:
    kinds = [
        classes.get(name.rpartition(".")[0], "")
        for classes, name in ((ours, assignment.sources[0]), (theirs, assignment.target))
    ]
    if not all(kinds) or kinds[0] == kinds[1] or not assignment.target.endswith("weight"):
        return assignment
    if all("Conv" in kind for kind in kinds) and ("Transpose" in kinds[0]) != ("Transpose" in kinds[1]):
        return assignment._replace(label="ambiguous", reason="a transposed convolution on one side only")
    if assignment.label == "certain" and "Linear" in kinds and not all(kind in _LINEAR for kind in kinds):
        reason = f"{assignment.reason}; of another class, which may keep it the other way round"
        return assignment._replace(label="likely", reason=reason)
    return assignment


_LINEAR = ("Linear", "NonDynamicallyQuantizableLinear", "LazyLinear")
