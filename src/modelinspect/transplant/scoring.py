"""
How well a source's node and a target's go together, by everything but shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from modelinspect.transplant.trees import Node, template_of
from modelinspect.transplant.vocabulary import Concepts, concepts_of, phase_of

__all__ = ["Facts", "Neighbours", "Scorer", "are_opposed", "name_score", "natural", "ranks"]

_DIGITS = re.compile(r"(\d+)")


@lru_cache(maxsize=262144)
def natural(path: str) -> tuple[tuple[int, int, str], ...]:
    """A key that puts ``layers.2`` before ``layers.10``."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in _DIGITS.split(path) if part
    )


@dataclass
class Neighbours:
    """
    Pairs found so far in a region, seen from the modules around them.
    """

    roots: tuple[Node, Node]
    _images: tuple[dict[Node, list[Node]], dict[Node, list[Node]]] = field(default_factory=lambda: ({}, {}))

    def add(self, source: Node, target: Node) -> None:
        """A pair more."""
        for side, (node, other) in enumerate(((source, target), (target, source))):
            for above in node.ancestors():
                if above is self.roots[side]:
                    break
                known = self._images[side].setdefault(above, [])
                if len(known) < _MOST_IMAGES:
                    known.append(other)

    def closeness(self, source: Node, target: Node) -> float:
        """1: their nearest modules hold pairs of one another; 0: nothing is known, or they don't."""
        return 0.5 * (self._seen(0, source, target) + self._seen(1, target, source))

    def _seen(self, side: int, node: Node, other: Node) -> float:
        root = self.roots[side]
        for above in node.ancestors():
            if above is root:
                return 0.0
            images = self._images[side].get(above)
            if images:
                near = {id(each): steps for steps, each in enumerate(other.ancestors())}
                best = min(_steps_to(near, image) for image in images)
                return 1.0 / (1.0 + best)
        return 0.0


_MOST_IMAGES = 12
_FAR = 1000


def _steps_to(near: dict[int, int], image: Node) -> int:
    for above in image.ancestors():
        if id(above) in near:
            return near[id(above)]
    return _FAR


class Ranks:
    """The order of some nodes, and how much it is to be trusted, 0 to 1."""

    def __init__(self, order: Sequence[float], trust: float) -> None:
        self.order, self.trust = order, trust


def ranks(paths: Sequence[str], positions: Sequence[int], *, is_ordered: bool) -> Ranks:
    """
    In which order nodes stand that are alike: by their numbers, by what their words say of
    their place in a block, by registration, by the alphabet; the first that tells them apart.
    """
    templates = {template_of(path) for path in paths}
    if len(templates) == 1:
        return Ranks(_ranked([natural(path) for path in paths]), 1.0)
    if len({_LONE_LETTER.sub("#", template) for template in templates}) == 1:
        return Ranks(_ranked([natural(path) for path in paths]), 0.9)
    phases = [phase_of(path) for path in paths]
    filled = [_MIDDLE if phase is None else phase for phase in phases]
    if len(set(filled)) == len(filled):
        return Ranks(_ranked(filled), 0.9 if None not in phases else 0.6)
    keys: list[object] = list(zip(filled, positions if is_ordered else map(natural, paths)))
    if len(set(filled)) > 1:
        return Ranks(_ranked(keys), 0.5)
    return Ranks(
        _ranked(positions if is_ordered else [natural(path) for path in paths]), 0.4 if is_ordered else 0.2
    )


_MIDDLE = 2.5
_LONE_LETTER = re.compile(r"(?<![A-Za-z])[a-z](?![A-Za-z])")


def _ranked(keys: Iterable[object]) -> list[float]:
    listed = list(keys)
    order = sorted(range(len(listed)), key=lambda at: listed[at])  # type: ignore[arg-type,return-value]
    places = [0.0] * len(listed)
    for rank, at in enumerate(order):
        places[at] = rank / max(1, len(listed) - 1)
    return places


Facts = Mapping[str, Mapping[str, int]]
_WIDTHS = ("head_dim", "head_size", "attention_head_size", "dim_head", "d_head", "d_kv")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_query_groups")
_WIDTHS = ("head_dim", "head_size", "attention_head_size", "dim_head", "d_head", "d_kv")
_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "nhead", "heads")


class Scorer:
    """
    Scores of pairs in one region.
    """

    def __init__(
        self, source: Node, target: Node, *, ordered: tuple[bool, bool], facts: tuple[Facts, Facts] = ({}, {})
    ) -> None:
        self.source, self.target = source, target
        self.ordered = ordered
        self._facts = facts
        self.neighbours = Neighbours((source, target))

    def heads(self, node: Node, rows: int, *, is_target: bool) -> int | None:
        """
        Groups in which an attention's rows go: heads of keys and values, or all heads.

        Args:
            node: Of the attention or in it.
            rows: Of all its queries.
            is_target: The side that the node is of.
        """
        facts = self._facts[is_target]
        for names in (_KEY_HEADS, _HEADS):
            for above in (node, *node.ancestors()):
                known = facts.get(above.path, {})
                for name in names:
                    if known.get(name, 0) > 0 and rows % known[name] == 0:
                        return known[name]
                for name in _WIDTHS if names is _HEADS else ():
                    if known.get(name, 0) > 0 and rows % known[name] == 0:
                        return rows // known[name]
        return None

    def table(self, sources: Sequence[Node], targets: Sequence[Node]) -> list[list[float]]:
        """
        Scores, a row a source. Above 0 speaks for a pair, below against it.
        """
        ours = [node.below(self.source) for node in sources]
        theirs = [node.below(self.target) for node in targets]
        our_ranks = ranks(ours, [node.position for node in sources], is_ordered=self.ordered[0])
        their_ranks = ranks(theirs, [node.position for node in targets], is_ordered=self.ordered[1])
        weight = _RANK * min(our_ranks.trust, their_ranks.trust)
        if len(sources) != len(targets):
            weight *= 0.3
        return [
            [
                name_score(left, right)
                + _NEAR * self.neighbours.closeness(source, target)
                + weight * (1 - abs(place - other))
                for target, right, other in zip(targets, theirs, their_ranks.order)
            ]
            for source, left, place in zip(sources, ours, our_ranks.order)
        ]


_RANK = 1.5
_NEAR = 4.0


@lru_cache(maxsize=262144)
def name_score(ours: str, theirs: str) -> float:
    """How well two relative paths agree: 0 where they say nothing of one another."""
    if ours == theirs:
        return 4.0
    left, right = concepts_of(ours), concepts_of(theirs)
    score = left.agreement(right) + 0.5 * _last_agreement(ours, theirs)
    score += _word_overlap(left, right)
    if left.numbers and left.numbers == right.numbers:
        score += 0.5
    if ours.rpartition(".")[2] == theirs.rpartition(".")[2] and not ours.rpartition(".")[2].isdigit():
        score += 1.0
    return score


def _last_agreement(ours: str, theirs: str) -> float:
    return concepts_of(ours.rpartition(".")[2]).agreement(concepts_of(theirs.rpartition(".")[2]))


def _word_overlap(left: Concepts, right: Concepts) -> float:
    if not left.words or not right.words:
        return 0.0
    common = len(left.words & right.words)
    return 1.5 * common / len(left.words | right.words)


def are_opposed(ours: str, theirs: str) -> bool:
    """One is a head and the other is not, or they are of different towers, embeddings or the like."""
    left, right = concepts_of(ours), concepts_of(theirs)
    heads = [("kind", "head") in each.members for each in (left, right)]
    if heads[0] != heads[1]:
        return True
    for family in ("tower", "modality", "embedding", "qkvo"):
        mine = {member for of, member in left.members if of == family}
        others = {member for of, member in right.members if of == family}
        if mine and others and not mine & others:
            return True
    return False
