"""
What is left open, as a person reads it: each tensor with its candidates, and the hint that settles it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from modelinspect.transplant.matching.links import Open
from modelinspect.transplant.matching.trees import Node
from modelinspect.transplant.plan import Assignment, Doubt

__all__ = ["doubts_of"]


def doubts_of(
    found: Sequence[Open], sources: Sequence[Node], targets: Sequence[Node], made: Mapping[str, Assignment]
) -> Iterator[Doubt]:
    """
    A doubt for each target tensor that has several candidates.

    Args:
        found: Of whole trees.
        sources: Tensors by rank.
        targets: Tensors by rank.
        made: What each target tensor gets, by name.
    """
    told: set[str] = set()
    for each in found:
        target = _node(targets, each.target)
        nodes = [_node(sources, place) for place in each.sources]
        for leaf in target.leaves():
            claim = made.get(leaf.path)
            if claim is None or claim.label != "ambiguous" or not claim.sources or leaf.path in told:
                continue
            candidates = tuple(dict.fromkeys(_candidates(claim.sources[0], nodes)))
            if len(candidates) > 1:
                told.add(leaf.path)
                pair = (nodes[0].path, target.path)
                if not (claim.sources[0].startswith(f"{pair[0]}.") and leaf.path.startswith(f"{pair[1]}.")):
                    pair = (claim.sources[0], leaf.path)  # q of q_bias is no module
                yield Doubt((leaf.path,), candidates, f"--map '{pair[0]}={pair[1]}'")


def _node(leaves: Sequence[Node], place: tuple[int, int]) -> Node:
    """The highest node that holds just these tensors."""
    node = leaves[place[0]]
    for above in node.ancestors():
        if above.start != place[0] or above.count > place[1] or not above.path:
            break
        node = above
    return node


def _candidates(taken: str, nodes: Sequence[Node]) -> Iterator[str]:
    """The tensor that was taken, and those that stand in its place in the other nodes."""
    yield taken
    own = next((leaf for leaf in nodes[0].leaves() if leaf.path == taken), None)
    if own is None:
        return
    place = own.below(nodes[0])
    for node in nodes[1:]:
        alike = [leaf for leaf in node.leaves() if leaf.role == own.role and leaf.shape == own.shape]
        named = [leaf for leaf in alike if leaf.below(node) == place]
        if alike:
            yield (named or alike)[0].path
