"""
What a person says: nodes that correspond, whatever names and shapes suggest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from modelinspect.errors import UsageError, visible
from modelinspect.transplant.matching.orientation import how
from modelinspect.transplant.matching.trees import Forms, Node, sum_up
from modelinspect.transplant.plan import Hint

__all__ = ["Hinted", "hinted", "mark"]


Pairs = dict[int, tuple[Node, Node]]


class Hinted(NamedTuple):
    """What hints say of two trees."""

    pairs: Pairs
    """Nodes of both sides, by identity, to their pairs."""
    again: tuple[tuple[Node, Node], ...]
    """Tensors that were paired already and are to go to a further target as well."""


def hinted(source: Node, target: Node, hints: Sequence[Hint]) -> Hinted:
    """
    The nodes that hints pair.

    The highest node that a glob matches is taken; a star stands for the same text on both
    sides, dots included.

    Raises:
        UsageError: A hint pairs nothing, or tensors whose shapes no step connects, or what
            another hint gave away.
    """
    pairs: Pairs = {}
    again: list[tuple[Node, Node]] = []
    theirs = {node.path: node for node in _nodes(target)}
    for hint in hints:
        found = list(_matches(hint, source, theirs))
        if not found:
            raise UsageError(
                f"--map '{_shown(hint)}' pairs nothing",
                details=("no module and no tensor of the source is called so, or none of the target",),
                hint="a star stands for the same text on both sides: --map 'a.*.q.*=b.*.query.*'",
            )
        for node, other in found:
            _check(hint, node, other)
            if _is_taken(other, pairs):
                raise UsageError(f"--map '{_shown(hint)}': {visible(other.path)} is another hint's already")
            if not _is_taken(node, pairs):
                pairs[id(node)] = pairs[id(other)] = (node, other)
            elif node.is_leaf and other.is_leaf:
                again.append((node, other))
            else:
                raise UsageError(f"--map '{_shown(hint)}': {visible(node.path)} is another hint's already")
    return Hinted(pairs, tuple(again))


def _matches(hint: Hint, source: Node, theirs: Mapping[str, Node]) -> Iterator[tuple[Node, Node]]:
    """The highest nodes that a hint's globs match."""
    pattern = re.compile("(.*)".join(map(re.escape, hint.source.split("*"))), re.DOTALL)
    done: set[int] = set()
    for node in _nodes(source):
        match = pattern.fullmatch(node.path)
        if match is None or any(id(above) in done for above in node.ancestors()):
            continue
        other = theirs.get(_filled(hint.target, match.groups()))
        if other is not None:
            done.add(id(node))
            yield node, other


def _is_taken(node: Node, pairs: Pairs) -> bool:
    return any(id(each) in pairs for each in (node, *node.ancestors(), *node.leaves()))


def _shown(hint: Hint) -> str:
    return f"{visible(hint.source)}={visible(hint.target)}"


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
    """Refuse nodes of which nothing goes into the other."""
    if not source.is_leaf and not target.is_leaf:
        sizes = {leaf.size for leaf in source.leaves()}
        if source.size == target.size or any(leaf.size in sizes for leaf in target.leaves()):
            return
        if source.size % max(1, target.size) and target.size % max(1, source.size):
            raise UsageError(
                f"--map '{_shown(hint)}' pairs modules of which no tensor goes into the other",
                details=tuple(
                    f"{visible(leaf.path)}: {list(leaf.shape)}"
                    for node in (source, target)
                    for leaf in list(node.leaves())[:_MOST_SHOWN]
                ),
            )
    if source.is_leaf and target.is_leaf and how(source, target) is None:
        raise UsageError(
            f"--map '{_shown(hint)}' pairs tensors of different sizes",
            details=(
                f"{visible(source.path)}: {list(source.shape)}",
                f"{visible(target.path)}: {list(target.shape)}",
            ),
        )


_MOST_SHOWN = 3
