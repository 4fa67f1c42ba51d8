"""
Nodes of equal content: which of one side goes with which of the other, and how sure that is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from modelinspect.transplant.matching.assignment import assign, margins
from modelinspect.transplant.matching.links import weaker
from modelinspect.transplant.matching.parts import IN_ORDER, MANY, Group
from modelinspect.transplant.matching.scoring import (
    Scorer,
    are_opposed,
    common_trust,
    name_score,
    natural,
    ranks_of,
)
from modelinspect.transplant.matching.trees import Node, template_of
from modelinspect.transplant.plan import Label

__all__ = ["ENOUGH", "Pair", "Pairing"]

_DOUBTFUL = 0.5
"""What the next best reading must lose for a pair to be likely."""
_CLEAR = 1.5
"""The same where one side has more of the same."""
ENOUGH = 0.7
"""Score that a pair needs where some of its group must stay alone."""
_LARGEST_TABLE = 80
_ORDERED = 0.5
"""Trust in the order of a group from which it stands for names."""


class Pair(NamedTuple):
    """Two nodes that go together."""

    source: Node
    target: Node
    label: Label
    reason: str
    rivals: tuple[Node, ...] = ()
    """Of the source: what else it might be."""


class Pairing:
    """
    Decides about the groups of one region.
    """

    def __init__(self, scorer: Scorer, *, is_whole: bool) -> None:
        self.scorer, self.is_whole = scorer, is_whole
        self.left: tuple[list[Node], list[Node]] = ([], [])
        """Tensors of source and target that have no place."""
        self.unsure: set[tuple[int, int]] = set()
        """Modules, one of each side, that were paired without being sure."""

    def leave(self, sources: Iterable[Node], targets: Iterable[Node]) -> None:
        """Take note of nodes that stay alone."""
        for left, nodes in zip(self.left, (sources, targets)):
            for node in nodes:
                left.extend(node.leaves())

    def pairs(self, group: Group, *, is_final: bool = True) -> Iterator[Pair]:
        """
        Which of a group's nodes go together.

        Args:
            group: Of equal content.
            is_final: Take note of what stays alone; else this is a trial.
        """
        sources, targets = group.sources, group.targets
        if group.known:
            yield Pair(sources[0], targets[0], "certain", group.known)
            return
        if len(sources) == len(targets) == 1:
            pair = self.only(sources[0], targets[0], group.is_exact)
            if pair is not None:
                yield pair
                return
            self.leave(sources, targets)
            return
        if len(sources) == len(targets):
            in_order = self._in_order(sources, targets)
            if in_order is not None:
                yield from in_order
                return
        yield from self.by_score(sources, targets, is_final=is_final)

    def only(self, source: Node, target: Node, is_exact: bool) -> Pair | None:
        """The one node of its content on each side."""
        score = name_score(source.below(self.scorer.source), target.below(self.scorer.target))
        if self.is_whole and is_exact:
            return Pair(source, target, "certain", "the only one of its shape there")
        are_vectors = max(len(leaf.shape) for leaf in source.leaves()) < 2
        if (
            score < 0
            and source.count <= MANY
            and are_opposed(source.path, target.path, are_vectors=are_vectors)
        ):
            return None
        if source.count > MANY or (score > ENOUGH and is_exact):
            return Pair(source, target, "certain", "the only one of its shape there, and the names agree")
        if score < -1.0 and are_vectors:
            return None
        return Pair(source, target, "likely", "the only one of its shape there")

    def _in_order(self, sources: Sequence[Node], targets: Sequence[Node]) -> list[Pair] | None:
        """Lists of equal length, such as the blocks of a network: by their numbers."""
        ours, theirs = _lists(sources, self.scorer.source), _lists(targets, self.scorer.target)
        if sorted(map(len, ours.values())) != sorted(map(len, theirs.values())):
            return None
        if len(ours) == len(sources) > 1:  # no lists at all
            return None
        left, right = list(ours.values()), list(theirs.values())
        scores = [[self._list_score(a, b) for b in right] for a in left]
        our_ranks, their_ranks = (
            ranks_of(self.scorer, side, [nodes[0] for nodes in lists])
            for side, lists in enumerate((left, right))
        )
        weight = 1.5 * common_trust(our_ranks, their_ranks)
        for line, place in zip(scores, our_ranks.order):
            for at, other in enumerate(their_ranks.order):
                line[at] += weight * (1 - abs(place - other))
        chosen = assign(scores)
        losses, rivals = margins(scores, chosen)
        pairs = []
        for at, column in enumerate(chosen):
            a, b = left[at], right[column]
            if len(a) != len(b):
                return None
            label, reason = self._judged_lists(a, b, losses[at] if len(left) > 1 else None)
            if len(a) > 1 and self._is_reversed(a, b):
                b = b[::-1]
                label, reason = weaker((label, reason), ("likely", "in reversed order of their numbers"))
            rival = left[_row_of(chosen, rivals[at])] if label == "ambiguous" and rivals[at] >= 0 else []
            pairs += [
                Pair(s, t, label, reason, tuple(rival[n : n + 1])) for n, (s, t) in enumerate(zip(a, b))
            ]
        return pairs

    def _judged_lists(
        self, ours: Sequence[Node], theirs: Sequence[Node], loss: float | None
    ) -> tuple[Label, str]:
        """How sure the pair of two lists is; without a *loss* they are the only ones."""
        if loss is not None:
            return _judged(loss)
        if not _same_grid(ours, theirs):
            return "ambiguous", "lists of lists of other lengths"
        if _are_nested_the_other_way(ours[0].path, theirs[0].path):
            return "ambiguous", "lists of lists whose levels may be exchanged"
        return "certain", IN_ORDER

    def _list_score(self, ours: Sequence[Node], theirs: Sequence[Node]) -> float:
        if len(ours) != len(theirs):
            return -100.0
        score = name_score(ours[0].below(self.scorer.source), theirs[0].below(self.scorer.target))
        near = self.scorer.neighbours.closeness
        score += 4.0 * sum(near(s, t) for s, t in zip(ours, theirs)) / len(ours)
        return score

    def _is_reversed(self, ours: Sequence[Node], theirs: Sequence[Node]) -> bool:
        near = self.scorer.neighbours.closeness
        straight = sum(near(s, t) for s, t in zip(ours, theirs))
        reverse = sum(near(s, t) for s, t in zip(ours, reversed(theirs)))
        return reverse > straight + 1e-9

    def by_score(
        self,
        sources: Sequence[Node],
        targets: Sequence[Node],
        *,
        must_agree: bool = False,
        is_final: bool = True,
    ) -> Iterator[Pair]:
        """One by one, by names, neighbours and order; block by block where neighbours tell the blocks."""
        if not must_agree and len(sources) == len(targets) > 2:
            clusters = self._clusters(sources, targets)
            if len(clusters) > 1:
                for ours, theirs in clusters:
                    yield from self.by_score(ours, theirs, is_final=is_final)
                return
        if max(len(sources), len(targets)) > _LARGEST_TABLE:
            yield from self._too_many(sources, targets, is_final=is_final)
            return
        scores = self.scorer.table(sources, targets)
        trust = self.scorer.trust(sources, targets)
        is_turned = len(sources) > len(targets)
        if is_turned:
            scores = [list(line) for line in zip(*scores)]
        chosen = assign(scores)
        losses, rivals = margins(scores, chosen)
        taken: tuple[set[int], set[int]] = (set(), set())
        is_large = sources[0].count > MANY
        is_even = len(sources) == len(targets) and not must_agree
        for row, column in enumerate(chosen):
            at, to = (column, row) if is_turned else (row, column)
            if not is_even and not is_large and scores[row][column] < ENOUGH:
                continue
            taken[0].add(at)
            taken[1].add(to)
            judged = self._judged_pair(
                sources[at], targets[to], losses[row], is_even=is_even, has_order=trust >= _ORDERED
            )
            rival: tuple[Node, ...] = ()
            if judged[0] == "ambiguous" and rivals[row] >= 0:
                other = rivals[row] if is_turned else _row_of(chosen, rivals[row])
                rival = (sources[other],) if 0 <= other < len(sources) else ()
            yield Pair(sources[at], targets[to], *judged, rival)
        if is_final or not is_even:
            self.leave(
                [node for at, node in enumerate(sources) if at not in taken[0]],
                [node for at, node in enumerate(targets) if at not in taken[1]],
            )

    def _judged_pair(
        self, source: Node, target: Node, loss: float, *, is_even: bool, has_order: bool
    ) -> tuple[Label, str]:
        """How sure a pair is whose next best reading loses that much."""
        is_large = source.count > MANY
        if (id(source.parent), id(target.parent)) in self.unsure:
            return "ambiguous", "its module is not sure"
        if is_large and not is_even and loss < _CLEAR:
            return "ambiguous", "one side has more of the same"
        is_open = are_opposed(source.path, target.path, are_vectors=False) or not (self.is_whole or has_order)
        if is_open and not is_large and self.scorer.table([source], [target], with_order=False)[0][0] <= 0:
            return "ambiguous", "nothing but the shape speaks for it"
        return _judged(loss)

    def _clusters(
        self, sources: Sequence[Node], targets: Sequence[Node]
    ) -> list[tuple[list[Node], list[Node]]]:
        """Nodes that stand near pairs of one another, apart from the rest; one cluster if not even."""
        if len(sources) > _LARGEST_TABLE:
            return [(list(sources), list(targets))]
        near = [[self.scorer.neighbours.closeness(s, t) for t in targets] for s in sources]
        best = [max(line) for line in near], [max(column) for column in zip(*near)]
        home = list(range(len(sources) + len(targets)))

        def root(at: int) -> int:
            while home[at] != at:
                at = home[at]
            return at

        for at, line in enumerate(near):
            for to, value in enumerate(line):
                if value >= max(best[0][at], best[1][to]):
                    home[root(at)] = root(len(sources) + to)
        clusters: dict[int, tuple[list[Node], list[Node]]] = defaultdict(lambda: ([], []))
        for at, node in enumerate((*sources, *targets)):
            clusters[root(at)][at >= len(sources)].append(node)
        if any(len(ours) != len(theirs) for ours, theirs in clusters.values()):
            return [(list(sources), list(targets))]
        return list(clusters.values())

    def _too_many(
        self, sources: Sequence[Node], targets: Sequence[Node], *, is_final: bool
    ) -> Iterator[Pair]:
        """So many of one content that names are not compared: those of one name, the rest in order."""
        ours = {node.below(self.scorer.source): node for node in sources}
        same = [(ours[path], node) for node in targets if (path := node.below(self.scorer.target)) in ours]
        for source, target in same:
            yield Pair(source, target, "likely", "by name among others of its shape")
        done = {id(node) for pair in same for node in pair}
        rest = [
            sorted((node for node in nodes if id(node) not in done), key=lambda node: natural(node.path))
            for nodes in (sources, targets)
        ]
        if len(rest[0]) == len(rest[1]):
            for source, target in zip(*rest):
                yield Pair(source, target, "ambiguous", "one of very many of its shape")
        elif is_final:
            self.leave(*rest)


def _lists(nodes: Sequence[Node], root: Node) -> dict[str, list[Node]]:
    """Nodes by the template of their path, each list in natural order."""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        found[template_of(node.below(root))].append(node)
    for listed in found.values():
        listed.sort(key=lambda node: natural(node.path))
    return found


def _same_grid(ours: Sequence[Node], theirs: Sequence[Node]) -> bool:
    """Are lists of lists as long on both sides, where both sides have such?"""
    grids = []
    for nodes in (ours, theirs):
        numbers = zip(*([part for part in natural(node.path) if part[0] == 0] for node in nodes))
        lengths = [len(set(column)) for column in numbers]
        grids.append([length for length in lengths if length > 1])
    return grids[0] == grids[1] or min(map(len, grids)) < 2


def _are_nested_the_other_way(ours: str, theirs: str) -> bool:
    """``layers.0.heads.0`` and ``heads.0.layers.0``."""
    levels = []
    for path in (ours, theirs):
        parts = path.split(".")
        levels.append([before for before, part in pairwise(parts) if part.isdigit() and not before.isdigit()])
    return levels[0] != levels[1] and sorted(levels[0]) == sorted(levels[1])


def _row_of(chosen: Sequence[int], column: int) -> int:
    return chosen.index(column) if column in chosen else -1


def _judged(loss: float) -> tuple[Label, str]:
    """How sure an assignment is whose next best reading loses that much."""
    if loss < _DOUBTFUL:
        return "ambiguous", "nothing tells it from others of its shape"
    return "likely", "by name and place among others of its shape"
