"""
Two subtrees that are known to correspond: which of their parts do?

Both are taken apart from the top, the largest parts first, until parts of equal content lie
on both sides: so it does not matter how either author nested them. What content leaves open is
settled by numbers, names and neighbours, and says how sure that is.

Results are in ranks of tensors relative to the two subtrees and kept by form, so that a block
is solved once, however often it is repeated.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from modelinspect.transplant.matching.assignment import assign, margins
from modelinspect.transplant.matching.combining import combine
from modelinspect.transplant.matching.links import HINTED, Link, Result, weaker
from modelinspect.transplant.matching.orientation import how, rows_between
from modelinspect.transplant.matching.scoring import (
    Facts,
    Scorer,
    are_opposed,
    common_trust,
    name_score,
    natural,
    ranks_of,
)
from modelinspect.transplant.matching.trees import Node, template_of
from modelinspect.transplant.plan import Label
from modelinspect.transplant.transforms import Step

__all__ = ["Solver"]

_SURE = 1.0
_DOUBTFUL = 0.5
_CLEAR = 1.5
"""What the next best reading must lose where one side has more of the same."""
_ENOUGH = 0.7
"""Score that a pair needs where some of its group must stay alone."""
_LARGEST_TABLE = 80


class _Group(NamedTuple):
    """Nodes of equal content on both sides, each of which may go with each."""

    sources: list[Node]
    targets: list[Node]
    is_exact: bool
    """Equal roles and shapes; else as many elements."""
    known: str = ""
    """Why they go together, one node each, before anything is compared."""


class _Pair(NamedTuple):
    source: Node
    target: Node
    label: Label
    reason: str
    rivals: tuple[Node, ...] = ()


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
        self.is_whole = source.key == target.key
        self.links: list[Link] = []
        self.doubts: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.left_sources: list[Node] = []
        self.left_targets: list[Node] = []
        self.taken: set[int] = set()
        self.unsure: set[tuple[int, int]] = set()
        """Modules, one of each side, that were paired without being sure."""

    def result(self) -> Result:
        """Take both apart, pair what is equal, combine what is left."""
        groups, rest_sources, rest_targets = self._parts()
        self.left_sources += rest_sources
        self.left_targets += rest_targets
        even = [group for group in groups if len(group.sources) == len(group.targets)]
        unclear = []
        for group in sorted(even, key=_difficulty):
            pairs = list(self._pairs(group, is_final=False))
            if any(pair.label == "ambiguous" for pair in pairs):
                unclear.append(group)
                continue
            for pair in pairs:
                self._take(pair)
        # By now their neighbours may have been found.
        for group in unclear:
            for pair in self._pairs(group):
                self._take(pair)
        uneven = [group for group in groups if len(group.sources) != len(group.targets)]
        self._combine([group for group in uneven if _is_small(group)])
        for group in sorted(uneven, key=_difficulty):
            free = self._still_free(group)
            if free is None:
                continue
            for pair in self._pairs(free):
                self._take(pair)
        self._combine(())
        self._match_leaves()
        self._match_tables()
        return Result(
            tuple(self.links),
            tuple(node.start - self.source.start for node in self.left_sources),
            tuple(node.start - self.target.start for node in self.left_targets),
            tuple(self.doubts),
        )

    def _combine(self, groups: Sequence[_Group]) -> None:
        """Fuse, split and stack what is left and what groups hold of which one side has more."""
        sources = [
            *self.left_sources,
            *(leaf for each in groups for node in each.sources for leaf in node.leaves()),
        ]
        targets = [
            *self.left_targets,
            *(leaf for each in groups for node in each.targets for leaf in node.leaves()),
        ]
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
        self.left_sources = [node for node in self.left_sources if id(node) not in self.taken]
        self.left_targets = [node for node in self.left_targets if id(node) not in self.taken]

    def _match_leaves(self) -> None:
        """Tensors whose modules differ in what they hold: one by one, where names speak for it."""
        groups: dict[tuple[str, tuple[int, ...]], tuple[list[Node], list[Node]]] = defaultdict(
            lambda: ([], [])
        )
        for side, left in enumerate((self.left_sources, self.left_targets)):
            for node in left:
                groups[node.role, tuple(sorted(length for length in node.shape if length != 1))][side].append(
                    node
                )
        self.left_sources, self.left_targets = [], []
        for sources, targets in groups.values():
            if not sources or not targets:
                self._leave(sources, targets)
                continue
            only = None
            if len(sources) == len(targets) == 1 and len(sources[0].shape) > 1:
                only = self._only(sources[0], targets[0], sources[0].key == targets[0].key)
            for pair in [only] if only else self._by_score(sources, targets, must_agree=True):
                self._take(pair)

    def _match_tables(self) -> None:
        """Tables of embeddings with more rows on one side."""
        found = [
            (name_score(source.below(self.source), target.below(self.target)), source, target, steps)
            for target in self.left_targets
            for source in self.left_sources
            if (steps := rows_between(source, target)) is not None
            and not are_opposed(source.path, target.path, are_vectors=False)
        ]
        for score, source, target, steps in sorted(found, key=lambda each: -each[0]):
            if score >= _ENOUGH and source in self.left_sources and target in self.left_targets:
                pieces = ((source.start - self.source.start, steps),)
                reason = "an embedding of the same meaning with another number of rows"
                self.links.append(Link(pieces, target.start - self.target.start, (), "likely", reason))
                self.left_sources.remove(source)
                self.left_targets.remove(target)

    def _still_free(self, group: _Group) -> _Group | None:
        """What of a group is not yet a part of something; the tensors of what is so in part are left."""
        free: tuple[list[Node], list[Node]] = ([], [])
        for side, nodes in enumerate((group.sources, group.targets)):
            left = (self.left_sources, self.left_targets)[side]
            for node in nodes:
                leaves = list(node.leaves())
                if not any(id(leaf) in self.taken for leaf in leaves):
                    free[side].append(node)
                else:
                    left += [leaf for leaf in leaves if id(leaf) not in self.taken]
        if not free[0] or not free[1]:
            self._leave(*free)
            return None
        return _Group(free[0], free[1], group.is_exact)

    # ----------------------------------------------------------------- taking apart

    def _parts(self) -> tuple[list[_Group], list[Node], list[Node]]:
        """Groups of equal parts, and the tensors that have no equal."""
        waiting: list[tuple[int, int, int, Node]] = []
        hinted = self.solver.hinted
        aligned = {**_aligned_lists(self.source, self.target), **hinted}
        reached: set[int] = set()

        def push(side: int, nodes: Iterable[Node]) -> None:
            for outer in nodes:
                node = outer if id(outer) in aligned else _innermost(outer)
                if id(node) in aligned:
                    reached.add(id(node))
                else:
                    heapq.heappush(waiting, (-node.size, side, node.start * 64 + node.depth, node))

        for side, root in enumerate((self.source, self.target)):
            push(side, root.children or [root])
        groups: list[_Group] = []
        alone: tuple[list[Node], list[Node]] = ([], [])
        while waiting:
            size = waiting[0][0]
            level: tuple[list[Node], list[Node]] = ([], [])
            while waiting and waiting[0][0] == size:
                _, side, _, node = heapq.heappop(waiting)
                level[side].append(node)
            found, rest = _equal_parts(level)
            groups += found
            for side in (0, 1):
                for node in rest[side]:
                    if node.is_leaf:
                        alone[side].append(node)
                    push(side, node.children)
        for source, target in {id(pair): pair for pair in aligned.values()}.values():
            if id(source) in reached and id(target) in reached:
                why = HINTED if id(source) in hinted else "in the order of their numbers"
                groups.append(_Group([source], [target], source.key == target.key, why))
            else:
                alone[0].extend(source.leaves() if id(source) in reached else ())
                alone[1].extend(target.leaves() if id(target) in reached else ())
        return groups, alone[0], alone[1]

    # --------------------------------------------------------------------- pairing

    def _pairs(self, group: _Group, *, is_final: bool = True) -> Iterator[_Pair]:
        sources, targets = group.sources, group.targets
        if group.known:
            yield _Pair(sources[0], targets[0], "certain", group.known)
            return
        if len(sources) == len(targets) == 1:
            pair = self._only(sources[0], targets[0], group.is_exact)
            if pair is not None:
                yield pair
                return
            self._leave(sources, targets)
            return
        if len(sources) == len(targets):
            in_order = self._in_order(sources, targets)
            if in_order is not None:
                yield from in_order
                return
        yield from self._by_score(sources, targets, is_final=is_final)

    def _only(self, source: Node, target: Node, is_exact: bool) -> _Pair | None:
        """The one node of its content on each side."""
        score = name_score(source.below(self.source), target.below(self.target))
        if self.is_whole and is_exact:
            return _Pair(source, target, "certain", "the only one of its shape there")
        are_vectors = max(len(leaf.shape) for leaf in source.leaves()) < 2
        if (
            score < 0
            and source.count <= _MANY
            and are_opposed(source.path, target.path, are_vectors=are_vectors)
        ):
            return None
        if source.count > _MANY or (score > _ENOUGH and is_exact):
            return _Pair(source, target, "certain", "the only one of its shape there, and the names agree")
        if score < -1.0 and are_vectors:
            return None
        return _Pair(source, target, "likely", "the only one of its shape there")

    def _in_order(self, sources: Sequence[Node], targets: Sequence[Node]) -> list[_Pair] | None:
        """Lists of equal length, such as the blocks of a network: by their numbers."""
        ours, theirs = _lists(sources, self.source), _lists(targets, self.target)
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
            label, reason = _judged(losses[at] if len(left) > 1 else float("inf"))
            if len(left) == 1:
                label, reason = "certain", "in the order of their numbers"
                if not _same_grid(a, b):
                    label, reason = "ambiguous", "lists of lists of other lengths"
            if len(a) > 1 and self._is_reversed(a, b):
                b = b[::-1]
                label, reason = weaker((label, reason), ("likely", "in reversed order of their numbers"))
            rival = left[_row_of(chosen, rivals[at])] if label == "ambiguous" and rivals[at] >= 0 else []
            pairs += [
                _Pair(s, t, label, reason, tuple(rival[n : n + 1])) for n, (s, t) in enumerate(zip(a, b))
            ]
        return pairs

    def _list_score(self, ours: Sequence[Node], theirs: Sequence[Node]) -> float:
        if len(ours) != len(theirs):
            return -100.0
        score = name_score(ours[0].below(self.source), theirs[0].below(self.target))
        near = self.scorer.neighbours.closeness
        score += 4.0 * sum(near(s, t) for s, t in zip(ours, theirs)) / len(ours)
        return score

    def _is_reversed(self, ours: Sequence[Node], theirs: Sequence[Node]) -> bool:
        near = self.scorer.neighbours.closeness
        straight = sum(near(s, t) for s, t in zip(ours, theirs))
        reverse = sum(near(s, t) for s, t in zip(ours, reversed(theirs)))
        return reverse > straight + 1e-9

    def _by_score(
        self,
        sources: Sequence[Node],
        targets: Sequence[Node],
        *,
        must_agree: bool = False,
        is_final: bool = True,
    ) -> Iterator[_Pair]:
        """One by one, by names, neighbours and order; block by block where neighbours tell the blocks."""
        if not must_agree and len(sources) == len(targets) > 2:
            clusters = self._clusters(sources, targets)
            if len(clusters) > 1:
                for ours, theirs in clusters:
                    yield from self._by_score(ours, theirs, is_final=is_final)
                return
        if max(len(sources), len(targets)) > _LARGEST_TABLE:
            sources, targets = self._sorted(sources, targets)
        scores = self.scorer.table(sources, targets)
        plain = self.scorer.table(sources, targets, with_order=False)
        is_turned = len(sources) > len(targets)
        if is_turned:
            scores = [list(line) for line in zip(*scores)]
        chosen = assign(scores)
        losses, rivals = margins(scores, chosen)
        taken_sources, taken_targets = set(), set()
        is_large = sources[0].count > _MANY
        is_even = len(sources) == len(targets) and not must_agree
        for row, column in enumerate(chosen):
            at, to = (column, row) if is_turned else (row, column)
            if not is_even and not is_large and scores[row][column] < _ENOUGH:
                continue
            taken_sources.add(at)
            taken_targets.add(to)
            label, reason = _judged(losses[row])
            if is_large and not is_even and losses[row] < _CLEAR:
                label, reason = "ambiguous", "one side has more of the same"
            is_open = not self.is_whole or are_opposed(sources[at].path, targets[to].path, are_vectors=False)
            if is_open and not is_large and plain[at][to] <= 0:
                label, reason = "ambiguous", "nothing but the shape speaks for it"
            if (id(sources[at].parent), id(targets[to].parent)) in self.unsure:
                label, reason = "ambiguous", "its module is not sure"
            rival: tuple[Node, ...] = ()
            if label == "ambiguous" and rivals[row] >= 0:
                other = rivals[row] if is_turned else _row_of(chosen, rivals[row])
                rival = (sources[other],) if 0 <= other < len(sources) else ()
            yield _Pair(sources[at], targets[to], label, reason, rival)
        if not is_final and is_even:
            return
        self._leave(
            [node for at, node in enumerate(sources) if at not in taken_sources],
            [node for at, node in enumerate(targets) if at not in taken_targets],
        )

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

    def _sorted(
        self, sources: Sequence[Node], targets: Sequence[Node]
    ) -> tuple[Sequence[Node], Sequence[Node]]:
        """Too many for a table: the first ones in natural order; the rest is left."""
        ours = sorted(sources, key=lambda node: natural(node.path))
        theirs = sorted(targets, key=lambda node: natural(node.path))
        self._leave(ours[_LARGEST_TABLE:], theirs[_LARGEST_TABLE:])
        return ours[:_LARGEST_TABLE], theirs[:_LARGEST_TABLE]

    def _leave(self, sources: Iterable[Node], targets: Iterable[Node]) -> None:
        for node in sources:
            self.left_sources += node.leaves()
        for node in targets:
            self.left_targets += node.leaves()

    # ------------------------------------------------------------------- composing

    def _take(self, pair: _Pair) -> None:
        """A pair's own result becomes part of this one."""
        inner = self.solver.solve(pair.source, pair.target)
        if 2 * len(inner.links) < min(pair.source.count, pair.target.count) and not inner.links:
            self._leave([pair.source], [pair.target])
            return
        if pair.label != "ambiguous":
            self.scorer.learn(pair.source, pair.target)
            if pair.source.count <= _MANY:
                self.habits.add((pair.source.below(self.source), pair.target.below(self.target)))
        here, there = pair.source.start - self.source.start, pair.target.start - self.target.start
        judged: dict[tuple[Label, str], tuple[Label, str]] = {}
        for link in inner.links:
            own = (link.label, link.reason)
            if own not in judged:
                judged[own] = weaker(own, (pair.label, pair.reason))
                if pair.reason == HINTED and judged[own][0] == "certain":
                    judged[own] = ("certain", HINTED)
            if len(link.pieces) == 1 and link.pieces[0][0] >= 0:
                ((at, steps),) = link.pieces
                pieces: tuple[tuple[int, tuple[Step, ...]], ...] = ((at + here, steps),)
            else:
                pieces = tuple((at + here if at >= 0 else -1, steps) for at, steps in link.pieces)
            self.links.append(Link(pieces, link.target + there, link.steps, *judged[own]))
        self.doubts += [
            (tuple(at + there for at in targets), tuple(at + here for at in sources))
            for targets, sources in inner.doubts
        ]
        if pair.label == "ambiguous":
            self.unsure.add(
                (id(pair.source.parent), id(pair.target.parent)) if pair.source.is_leaf else (0, 0)
            )
            rivals = [pair.source, *pair.rivals]
            self.doubts.append(((there,), tuple(node.start - self.source.start for node in rivals)))
        for left, node, ranked in (
            (self.left_sources, pair.source, inner.left_sources),
            (self.left_targets, pair.target, inner.left_targets),
        ):
            if ranked:
                leaves = list(node.leaves())
                left += [leaves[at] for at in ranked]


_MANY = 4
"""Tensors whose roles and shapes all agree by accident: hardly ever more than these."""


def _innermost(node: Node) -> Node:
    """Past modules that hold one module and nothing else: the name of the last says most."""
    while len(node.children) == 1 and not node.children[0].is_leaf:
        node = node.children[0]
    return node


def _same_grid(ours: Sequence[Node], theirs: Sequence[Node]) -> bool:
    """Are lists of lists as long on both sides, where both sides have such?"""
    grids = []
    for nodes in (ours, theirs):
        numbers = zip(*([part for part in natural(node.path) if part[0] == 0] for node in nodes))
        lengths = [len(set(column)) for column in numbers]
        grids.append([length for length in lengths if length > 1])
    return grids[0] == grids[1] or min(map(len, grids)) < 2


def _is_small(group: _Group) -> bool:
    """Of tensors or of modules that hold nothing but tensors."""
    return all(node.is_leaf or node.is_unit for node in (*group.sources, *group.targets))


def _aligned_lists(source: Node, target: Node) -> dict[int, tuple[Node, Node]]:
    """
    Members of lists of equal length, most of whose members are equal, by place.

    A first block may hold more than those after it: then content alone would shift the rest.
    """
    ours, theirs = _block_lists(source), _block_lists(target)
    found: list[tuple[float, list[Node], list[Node]]] = []
    for a in ours:
        for b in theirs:
            if len(a) == len(b):
                equal = sum(s.size == t.size for s, t in zip(a, b)) / len(a)
                alike = min(min(s.size, t.size) / max(s.size, t.size) for s, t in zip(a, b))
                if alike > _ALIKE and 0.5 <= equal < 1:
                    names = name_score(a[0].below(source), b[0].below(target))
                    found.append((5 * equal + names, a, b))
    aligned: dict[int, tuple[Node, Node]] = {}
    for _, a, b in sorted(found, key=lambda each: -each[0]):
        if not any(id(node) in aligned for node in (*a, *b)):
            for pair in zip(a, b):
                aligned[id(pair[0])] = aligned[id(pair[1])] = pair
    return aligned


_ALIKE = 0.6


def _block_lists(root: Node) -> list[list[Node]]:
    """The lists of blocks under a node that no other list's block holds."""
    lists: dict[str, list[Node]] = defaultdict(list)
    pending = [root]
    while pending:
        node = pending.pop()
        blocks: dict[str, list[Node]] = defaultdict(list)
        for child in node.children:
            if child.count > _MANY and any(letter.isdigit() for letter in child.name):
                blocks[template_of(child.below(root))].append(_innermost(child))
        for template, members in blocks.items():
            if len(members) > 1:
                lists[template] += members
        listed = {id(child) for members in blocks.values() if len(members) > 1 for child in members}
        pending += [
            child for child in map(_innermost, node.children) if not child.is_leaf and id(child) not in listed
        ]
    return [sorted(members, key=lambda node: natural(node.path)) for members in lists.values()]


def _difficulty(group: _Group) -> tuple[bool, bool, int, int]:
    """Easy ones first: what they settle speaks for others."""
    even = len(group.sources) == len(group.targets)
    return (
        not even,
        not group.is_exact,
        len(group.sources) if group.sources[0].count <= _MANY else 0,
        -group.sources[0].size,
    )


def _equal_parts(
    level: tuple[list[Node], list[Node]],
) -> tuple[list[_Group], tuple[list[Node], list[Node]]]:
    """Of nodes with as many elements: those with equal content, then those that may be transformed."""
    if not level[0] or not level[1]:
        return [], level
    by_key: dict[int, tuple[list[Node], list[Node]]] = defaultdict(lambda: ([], []))
    for side in (0, 1):
        for node in level[side]:
            by_key[node.key][side].append(node)
    groups = [_Group(a, b, True) for a, b in by_key.values() if a and b]
    rest_a = [node for a, b in by_key.values() if not b for node in a]
    rest_b = [node for a, b in by_key.values() if not a for node in b]
    if rest_a and rest_b and all(_may_be_transformed(a, b) for a in rest_a[:3] for b in rest_b[:3]):
        groups.append(_Group(rest_a, rest_b, False))
        rest_a, rest_b = [], []
    return groups, (rest_a, rest_b)


def _may_be_transformed(source: Node, target: Node) -> bool:
    """Could one hold the other's elements in other shapes?"""
    if source.is_leaf and target.is_leaf:
        return how(source, target) is not None
    if source.is_leaf or target.is_leaf:
        return False
    if source.is_unit and target.is_unit and source.count == target.count:
        theirs = {child.role: child for child in target.children}
        return all(
            child.role in theirs and how(child, theirs[child.role]) is not None for child in source.children
        )
    return source.count > 1 and target.count > 1


def _lists(nodes: Sequence[Node], root: Node) -> dict[str, list[Node]]:
    """Nodes by the template of their path, each list in natural order."""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        found[template_of(node.below(root))].append(node)
    for listed in found.values():
        listed.sort(key=lambda node: natural(node.path))
    return found


def _row_of(chosen: Sequence[int], column: int) -> int:
    return chosen.index(column) if column in chosen else -1


def _judged(loss: float) -> tuple[Label, str]:
    """How sure an assignment is whose next best reading loses that much."""
    if loss < _DOUBTFUL:
        return "ambiguous", "nothing tells it from others of its shape"
    return "likely", "by name and place among others of its shape"
