"""
What a person says: nodes that correspond, whatever names and shapes suggest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from modelinspect.errors import UsageError, visible
from modelinspect.transplant.matching.orientation import how
from modelinspect.transplant.matching.trees import Forms, Node, sum_up
from modelinspect.transplant.plan import Hint

__all__ = ["hinted", "mark"]


def hinted(source: Node, target: Node, hints: Sequence[Hint]) -> dict[int, tuple[Node, Node]]:
    """
    Nodes of both sides, by identity, to the pairs that hints make of them.

    The highest node that a glob matches is taken; a star stands for the same text on both
    sides, dots included.

    Raises:
        UsageError: A hint pairs tensors whose shapes no step connects.
    """
    pairs: dict[int, tuple[Node, Node]] = {}
    theirs = {node.path: node for node in _nodes(target)}
    for hint in hints:
        pattern = re.compile("(.*)".join(map(re.escape, hint.source.split("*"))), re.DOTALL)
        for node in _nodes(source):
            match = pattern.fullmatch(node.path)
            if match is None or any(id(above) in pairs for above in (node, *node.ancestors())):
                continue
            other = theirs.get(_filled(hint.target, match.groups()))
            if other is None or any(id(above) in pairs for above in (other, *other.ancestors())):
                continue
            _check(hint, node, other)
            pairs[id(node)] = pairs[id(other)] = (node, other)
    return pairs


def mark(trees: tuple[Node, Node], pairs: Mapping[int, tuple[Node, Node]], forms: Forms) -> None:
    """
    Give paired nodes a content of their own, so that nothing else is taken for them and what
    is around them must hold them.
    """
    own: dict[int, tuple[int, int]] = {}
    for number, (source, target) in enumerate({id(pair): pair for pair in pairs.values()}.values()):
        key = forms.key("hint", (number,))
        for node in (source, target):
            own[id(node)] = (key, forms.form(("hint", number, node.form)))
    for tree in trees:
        sum_up(tree, forms, own)


def _nodes(tree: Node) -> Iterator[Node]:
    """From the top."""
    pending = [tree]
    for node in pending:
        if node.path:
            yield node
        pending.extend(node.children)


def _filled(glob: str, texts: Sequence[str]) -> str:
    parts = glob.split("*")
    return "".join(part + text for part, text in zip(parts, (*texts, "")))


def _check(hint: Hint, source: Node, target: Node) -> None:
    if source.is_leaf and target.is_leaf and how(source, target) is None:
        raise UsageError(
            f"--map '{visible(hint.source)}={visible(hint.target)}' pairs tensors of different sizes",
            details=(
                f"{visible(source.path)}: {list(source.shape)}",
                f"{visible(target.path)}: {list(target.shape)}",
            ),
        )
