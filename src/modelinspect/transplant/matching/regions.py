"""
Two subtrees that are known to correspond: which of their parts do?

Both are taken apart from the top, the largest parts first, until parts of equal content lie
on both sides: so it does not matter how either author nested them. What content leaves open is
settled by numbers, names and neighbours, and says how sure that is.

Results are in ranks of tensors relative to the two subtrees and kept by form, so that a block
is solved once, however often it is repeated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from modelinspect.transplant.matching.combining import combine
from modelinspect.transplant.matching.links import HINTED, Link, Open, Result, weaker
from modelinspect.transplant.matching.orientation import how, is_table, rows_between
from modelinspect.transplant.matching.pairing import ENOUGH, Pair, Pairing
from modelinspect.transplant.matching.parts import MANY, Group, take_apart
from modelinspect.transplant.matching.scoring import Facts, Scorer, are_opposed, name_score
from modelinspect.transplant.matching.trees import Node, template_of
from modelinspect.transplant.plan import Label

__all__ = ["Solver"]


class Solver:
    """
    Matches subtrees of a source with subtrees of a target.
    """

    def __init__(
        self,
        *,
        ordered: tuple[bool, bool],
        facts: tuple[Facts, Facts],
        hinted: Mapping[int, tuple[Node, Node]],
    ) -> None:
        self.ordered, self.facts, self.hinted = ordered, facts, hinted
        self.habits: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        """Relative paths that were paired in a block already: others of its list will do the same."""
        self._known: dict[tuple[int, int], Result] = {}

    def solve(self, source: Node, target: Node) -> Result:
        """
        What goes where in two subtrees that correspond.

        Returns:
            Ranks of tensors, relative to the first of each subtree.
        """
        form = (source.form, target.form)
        known = self._known.get(form)
        if known is None:
            known = self._known[form] = self._solved(source, target)
        return known

    def _solved(self, source: Node, target: Node) -> Result:
        if not source.count or not target.count:
            return Result((), tuple(range(source.count)), tuple(range(target.count)))
        if source.is_leaf and target.is_leaf:
            steps = how(source, target)
            if steps is None:
                return Result((), (0,), (0,))
            return Result((Link(((0, steps),), 0),), (), ())
        region = _Region(self, source, target)
        return region.result()


class _Region:
    """One pair of subtrees, while it is being solved."""

    def __init__(self, solver: Solver, source: Node, target: Node) -> None:
        self.solver = solver
        self.source, self.target = source, target
        self.habits = solver.habits[template_of(source.path), template_of(target.path)]
        self.scorer = Scorer(source, target, ordered=solver.ordered, facts=solver.facts, habits=self.habits)
        self.pairing = Pairing(self.scorer, is_whole=source.key == target.key)
        self.links: list[Link] = []
        self.doubts: list[Open] = []
        self.taken: set[int] = set()
        """Tensors, by identity, that are a part of something."""

    def result(self) -> Result:
        """Take both apart, pair what is equal, combine what is left."""
        parts = take_apart(self.source, self.target, self.solver.hinted)
        self.pairing.leave(parts.left_sources, parts.left_targets)
        groups = sorted(parts.groups, key=lambda group: group.difficulty)
        self._take_even([group for group in groups if group.is_even])
        uneven = [group for group in groups if not group.is_even]
        self._combine([group for group in uneven if group.is_small])
        for group in uneven:
            free = self._still_free(group)
            for pair in self.pairing.pairs(free) if free else ():
                self._take(pair)
        self._combine(())
        self._match_leaves()
        self._match_tables()
        sources, targets = self.pairing.left
        return Result(
            tuple(self.links),
            tuple(node.start - self.source.start for node in sources),
            tuple(node.start - self.target.start for node in targets),
            tuple(self.doubts),
        )

    def _take_even(self, groups: Sequence[Group]) -> None:
        """The clear ones first: then others may have neighbours."""
        unclear = []
        for group in groups:
            pairs = list(self.pairing.pairs(group, is_final=False))
            if any(pair.label == "ambiguous" for pair in pairs):
                unclear.append(group)
                continue
            for pair in pairs:
                self._take(pair)
        for group in unclear:
            for pair in self.pairing.pairs(group):
                self._take(pair)

    def _combine(self, groups: Sequence[Group]) -> None:
        """Fuse, split and stack what is left and what groups hold of which one side has more."""
        sources, targets = (
            [
                *left,
                *(
                    leaf
                    for group in groups
                    for node in (group.sources, group.targets)[side]
                    for leaf in node.leaves()
                ),
            ]
            for side, left in enumerate(self.pairing.left)
        )
        for each in combine(sources, targets, self.scorer):
            pieces = tuple(
                (node.start - self.source.start if node.row is not None else -1, steps)
                for node, steps in each.pieces
            )
            at = each.target.start - self.target.start
            self.links.append(Link(pieces, at, each.steps, each.label, each.reason))
            self.taken.add(id(each.target))
            self.taken.update(id(node) for node, _ in each.pieces)
            if each.pieces[0][0].parent is not None and each.label != "ambiguous":
                self.scorer.learn(each.pieces[0][0], each.target)
        for left in self.pairing.left:
            left[:] = [node for node in left if id(node) not in self.taken]

    def _match_leaves(self) -> None:
        """Tensors whose modules differ in what they hold: one by one, where names speak for it."""
        groups: dict[object, tuple[list[Node], list[Node]]] = defaultdict(lambda: ([], []))
        for side, left in enumerate(self.pairing.left):
            for node in left:
                lengths = sorted(length for length in node.shape if length != 1)
                groups[node.role, tuple(lengths)][side].append(node)
            left.clear()
        for sources, targets in groups.values():
            if not sources or not targets:
                self.pairing.leave(sources, targets)
                continue
            only = None
            if len(sources) == len(targets) == 1 and len(sources[0].shape) > 1:
                only = self.pairing.only(sources[0], targets[0], sources[0].key == targets[0].key)
            for pair in [only] if only else self.pairing.by_score(sources, targets, must_agree=True):
                self._take(pair)

    def _match_tables(self) -> None:
        """Tables of embeddings with more rows on one side."""
        sources, targets = self.pairing.left
        found = [
            (name_score(source.below(self.source), target.below(self.target)), source, target, steps)
            for target in filter(is_table, targets)
            for source in filter(is_table, sources)
            if (steps := rows_between(source, target)) is not None
            and not are_opposed(source.path, target.path, are_vectors=False)
        ]
        for score, source, target, steps in sorted(found, key=lambda each: -each[0]):
            if score >= ENOUGH and source in sources and target in targets:
                pieces = ((source.start - self.source.start, steps),)
                reason = "an embedding of the same meaning with another number of rows"
                self.links.append(Link(pieces, target.start - self.target.start, (), "likely", reason))
                sources.remove(source)
                targets.remove(target)

    def _still_free(self, group: Group) -> Group | None:
        """What of a group is not yet a part of something; the tensors of what is so in part are left."""
        free: tuple[list[Node], list[Node]] = ([], [])
        for side, nodes in enumerate((group.sources, group.targets)):
            left = self.pairing.left[side]
            for node in nodes:
                leaves = list(node.leaves())
                if not any(id(leaf) in self.taken for leaf in leaves):
                    free[side].append(node)
                else:
                    left += [leaf for leaf in leaves if id(leaf) not in self.taken]
        if not free[0] or not free[1]:
            self.pairing.leave(*free)
            return None
        return Group(free[0], free[1], group.is_exact)

    # ------------------------------------------------------------------- composing

    def _take(self, pair: Pair) -> None:
        """A pair's own result becomes part of this one."""
        inner = self.solver.solve(pair.source, pair.target)
        if 2 * len(inner.links) < min(pair.source.count, pair.target.count) and not inner.links:
            self.pairing.leave([pair.source], [pair.target])
            return
        if pair.label != "ambiguous":
            self.scorer.learn(pair.source, pair.target)
            if pair.source.count <= MANY:
                self.habits.add((pair.source.below(self.source), pair.target.below(self.target)))
        here, there = pair.source.start - self.source.start, pair.target.start - self.target.start
        judged: dict[tuple[Label, str], tuple[Label, str]] = {}
        for link in inner.links:
            own = (link.label, link.reason)
            if own not in judged:
                judged[own] = _judged(own, pair)
            self.links.append(_moved(link, here, there, *judged[own]))
        self.doubts += [each.moved(here, there) for each in inner.doubts]
        if pair.label == "ambiguous":
            self.pairing.unsure.add(
                (id(pair.source.parent), id(pair.target.parent)) if pair.source.is_leaf else (0, 0)
            )
            rivals = [pair.source, *pair.rivals]
            ranges = tuple((node.start - self.source.start, node.count) for node in rivals)
            self.doubts.append(Open((there, pair.target.count), ranges))
        for left, node, ranked in zip(
            self.pairing.left, (pair.source, pair.target), (inner.left_sources, inner.left_targets)
        ):
            if ranked:
                leaves = list(node.leaves())
                left += [leaves[at] for at in ranked]


def _judged(own: tuple[Label, str], pair: Pair) -> tuple[Label, str]:
    """How sure a link of a pair's is, and why."""
    label, reason = weaker(own, (pair.label, pair.reason))
    if pair.reason == HINTED and pair.source.count == pair.target.count == 1:
        return "certain", HINTED
    return (label, HINTED) if label == "certain" and pair.reason == HINTED else (label, reason)


def _moved(link: Link, here: int, there: int, label: Label, reason: str) -> Link:
    """A link with ranks that count from the region's first tensors."""
    if len(link.pieces) == 1 and link.pieces[0][0] >= 0:
        # Nearly all; a mixture of experts has 100,000 of them.
        ((at, steps),) = link.pieces
        return Link(((at + here, steps),), link.target + there, link.steps, label, reason)
    pieces = tuple((at + here if at >= 0 else -1, steps) for at, steps in link.pieces)
    return Link(pieces, link.target + there, link.steps, label, reason)
