"""
Which way round matrices are kept: (out, in) as ``torch.nn.Linear`` has them, or (in, out).

It is a style of the whole network. A bias shows it, which is as long as the outputs; else the
shapes that the two sides have in common; else which of two mirrored matrices comes first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from modelinspect.tensors import TensorInfo
from modelinspect.transplant.matching.trees import Node
from modelinspect.transplant.matching.vocabulary import meaning_of, phase_of
from modelinspect.transplant.transforms import Step, inverse, shape_after

__all__ = ["Turns", "turned_rows", "turns"]

Shape = tuple[int, ...]

# Kernels with their channels last, (height, width, in, out), to torch's (out, in, height, width).
_CHANNELS_LAST = {3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}


class Turns(NamedTuple):
    """What lies the other way round on the two sides."""

    steps: dict[str, Step]
    """Names of the source's weights, and the step for each."""
    is_guess: bool
    """Words alone say so, and not shapes."""


def turns(source: Node, target: Node) -> Turns:
    """
    Which of the source's weights lie the other way round than the target's.
    """
    sureness = _turned(source, target)
    found = {node.path: Step("transpose") for node in _matrices(source)} if sureness else {}
    sides = [
        [leaf for leaf in side.leaves() if leaf.role == "weight" and len(leaf.shape) > 2]
        for side in (source, target)
    ]
    for axes, order in _CHANNELS_LAST.items():
        ours, theirs = ([leaf for leaf in side if len(leaf.shape) == axes] for side in sides)
        there, back = Step("permute", order), inverse(Step("permute", order), (1,) * axes)
        wanted = Counter(leaf.shape for leaf in theirs)
        straight = sum((Counter(leaf.shape for leaf in ours) & wanted).values())
        for step in (there, back):
            turned = Counter(shape_after(leaf.shape, (step,)) for leaf in ours)
            if sum((turned & wanted).values()) > straight:
                found.update((leaf.path, step) for leaf in ours)
                break
    return Turns(found, sureness == "guessed")


def turned_rows(rows: Sequence[TensorInfo], steps: Mapping[str, Step]) -> list[TensorInfo]:
    """Rows with the shapes that the steps give some of them."""
    return [
        row._replace(shape=shape_after(row.shape, (steps[row.name],)), explicit_stride=None)
        if row.name in steps
        else row
        for row in rows
    ]


def _turned(source: Node, target: Node) -> Literal["", "seen", "guessed"]:
    """Do the two sides keep their matrices different ways round?"""
    ours, theirs = _matrices(source), _matrices(target)
    styles = _style(ours), _style(theirs)
    if any(styles):
        # torch.nn.Linear is what a network has that does not show its style.
        return "seen" if (styles[0] or "out, in") != (styles[1] or "out, in") else ""
    left, right = (Counter(node.shape for node in side if _is_oblong(node)) for side in (ours, theirs))
    turned = Counter({shape[::-1]: count for shape, count in left.items()})
    straight, crossed = sum((left & right).values()), sum((turned & right).values())
    if straight != crossed:
        return "seen" if crossed > straight else ""
    return "guessed" if straight and sum(_mirrored(ours)) * sum(_mirrored(theirs)) < 0 else ""


def _matrices(tree: Node) -> list[Node]:
    """Weights of linear maps; tables of embeddings lie the same way everywhere."""
    return [
        leaf
        for leaf in tree.leaves()
        if leaf.role == "weight"
        and len(leaf.shape) == 2
        and not meaning_of(leaf.path)
        and 1 not in leaf.shape
    ]


def _is_oblong(node: Node) -> bool:
    return node.shape[0] != node.shape[1]


def _style(matrices: Sequence[Node]) -> str:
    """``out, in`` or ``in, out``, as most biases say; empty if there are none."""
    votes: Counter[str] = Counter()
    for node in matrices:
        assert node.parent is not None
        biases = [each for each in node.parent.children if each.role == "bias" and each.is_leaf]
        if len(biases) == 1 and len(biases[0].shape) == 1 and _is_oblong(node):
            length = biases[0].shape[0]
            if length in node.shape:
                votes["out, in" if length == node.shape[0] else "in, out"] += 1
    return votes.most_common(1)[0][0] if votes else ""


def _mirrored(matrices: Sequence[Node]) -> Iterator[int]:
    """For each pair (a, b), (b, a) of one module: +1 if the one with more rows is first, else −1."""
    groups: dict[int, list[Node]] = defaultdict(list)
    for node in matrices:
        for above in list(node.ancestors())[:2]:
            groups[id(above)].append(node)
    for nodes in groups.values():
        if len(nodes) == 2 and nodes[0].shape == nodes[1].shape[::-1] and _is_oblong(nodes[0]):
            # Words alone: w2 goes after w3 in a gated net, so that numbers say nothing.
            first, second = (phase_of(node.parent.name) if node.parent else None for node in nodes)
            if first is not None and second is not None and first != second:
                ahead = nodes[0] if first < second else nodes[1]
                yield 1 if ahead.shape[0] > ahead.shape[1] else -1
