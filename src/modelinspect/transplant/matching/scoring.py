"""
How well a source's node and a target's go together, by everything but shape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from modelinspect.transplant.matching.trees import Node, template_of
from modelinspect.transplant.matching.vocabulary import Concepts, concepts_of, phase_of, tokens_of

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


class Translation:
    """
    Which words of one author stand where the other's do, learned from pairs that are sure.
    """

    def __init__(self) -> None:
        self._together: Counter[tuple[str, str]] = Counter()
        self._alone: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    def learn(self, ours: str, theirs: str) -> None:
        """A pair more, by the relative paths of its nodes."""
        left, right = _own_words(ours, theirs)
        self._alone[0].update(left)
        self._alone[1].update(right)
        self._together.update((a, b) for a in left for b in right)

    def agreement(self, ours: str, theirs: str) -> float:
        """0 to 1: how well the words that are in one of them only go together."""
        left, right = _own_words(ours, theirs)
        if not left or not right:
            return 0.0
        return sum(max(self._dice(a, b) for b in right) for a in left) / len(left)

    def _dice(self, ours: str, theirs: str) -> float:
        together = self._together[ours, theirs]
        return 2 * together / (self._alone[0][ours] + self._alone[1][theirs]) if together else 0.0


def _own_words(ours: str, theirs: str) -> tuple[frozenset[str], frozenset[str]]:
    left, right = _words(ours), _words(theirs)
    return left - right, right - left


@lru_cache(maxsize=262144)
def _words(path: str) -> frozenset[str]:
    return frozenset(
        word
        for part in path.split(".")
        for word in tokens_of(part)
        if not word.isdigit() and word not in _EVERYWHERE
    )


_MOST_IMAGES = 12
_FAR = 1000


def _steps_to(near: dict[int, int], image: Node) -> int:
    for above in image.ancestors():
        if id(above) in near:
            return near[id(above)]
    return _FAR


class Ranks:
    """The order of some nodes, and how much it is to be trusted, 0 to 1."""

    def __init__(self, order: Sequence[float], trust: float, *, has_lists: bool = False) -> None:
        self.order, self.trust, self.has_lists = order, trust, has_lists


def ranks_of(scorer: Scorer, side: int, nodes: Sequence[Node]) -> Ranks:
    """Of nodes of one side of a region; words order what is in a block, not whole towers."""
    root = (scorer.source, scorer.target)[side]
    return ranks(
        [node.below(root) for node in nodes],
        [node.position for node in nodes],
        is_ordered=scorer.ordered[side],
        by_words=max(node.count for node in nodes) <= _SMALL,
    )


_SMALL = 12
"""Tensors of what stands in a block: a norm, a projection, an attention with a norm."""


def common_trust(ours: Ranks, theirs: Ranks) -> float:
    """How much two orders say together. Numbers on one side make registration on the other worth more."""
    low, high = sorted((ours, theirs), key=lambda ranks: ranks.trust)
    if low.trust == _REGISTERED and high.trust >= _NUMBERED and not low.has_lists:
        return _REGISTERED_LIKE_NUMBERS
    return low.trust


_ALPHABET = 0.05
_REGISTERED = 0.15
_REGISTERED_LIKE_NUMBERS = 0.35
_NUMBERED = 0.9


def ranks(
    paths: Sequence[str], positions: Sequence[int], *, is_ordered: bool, by_words: bool = True
) -> Ranks:
    """
    In which order nodes stand that are alike: by their numbers, by what their words say of
    their place in a block, by registration, by the alphabet; the first that tells them apart.
    """
    paths = _what_differs(paths)
    templates = {template_of(path) for path in paths}
    if len(templates) == 1:
        return Ranks(_ranked([natural(path) for path in paths]), 1.0)
    if _differ_in_numbers(paths):
        return Ranks(_ranked([natural(path) for path in paths]), 0.9)
    if _differ_in_letters(paths):
        return Ranks(_ranked([natural(path) for path in paths]), 0.3)
    custom = [_CUSTOM.get(_member(path)) for path in paths]
    if None not in custom and len(set(custom)) == len(custom):
        # Where they were registered in another order, numbers may follow that.
        agrees = not is_ordered or _ranked(custom) == _ranked(positions)
        return Ranks(_ranked(custom), 0.6 if agrees else 0.2)
    phases = [phase_of(path) if by_words else None for path in paths]
    filled = [_MIDDLE if phase is None else phase for phase in phases]
    if len(set(filled)) == len(filled):
        return Ranks(_ranked(filled), 0.9 if None not in phases else 0.6)
    keys: list[object] = list(zip(filled, positions if is_ordered else map(natural, paths)))
    if len(set(filled)) > 1:
        return Ranks(_ranked(keys), 0.5)
    order = positions if is_ordered else [natural(path) for path in paths]
    has_lists = len(templates) < len(paths)
    return Ranks(_ranked(order), _REGISTERED if is_ordered else _ALPHABET, has_lists=has_lists)


def _what_differs(paths: Sequence[str]) -> list[str]:
    """Paths without the modules that all of them are in."""
    parts = [path.split(".") for path in paths]
    shared = 0
    while len(parts) > 1 and all(
        len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts
    ):
        shared += 1
    return [".".join(each[shared:]) for each in parts]


def _differ_in_numbers(paths: Sequence[str]) -> bool:
    """Where neighbours in natural order part, numbers stand, as in layers.0.norm and layers.1.net."""
    ordered = sorted(map(natural, paths))
    for left, right in pairwise(ordered):
        first = next(((a, b) for a, b in zip(left, right) if a != b), None)
        if first is None or first[0][0] or first[1][0]:
            return False
    return len(ordered) > 1


# Queries, keys, values and the way out, where numbers stand for them.
_CUSTOM = {"q": 0, "k": 1, "v": 2, "o": 3, "gate": 0, "up": 1}


def _member(path: str) -> str:
    members = [member for family, member in concepts_of(path).members if family in ("qkvo", "glu")]
    return members[0] if len(members) == 1 else ""


def _differ_in_letters(paths: Sequence[str]) -> bool:
    """In one lone letter each, that follow one another: a, b, c."""
    if len({_LONE_LETTER.sub("#", path) for path in paths}) != 1:
        return False
    found = sorted({letter for path in paths for letter in _LONE_LETTER.findall(path)})
    return len(found) == len(paths) and found[-1] <= "h"


_MIDDLE = 1.5
"""Of what says nothing: after what is before an attention, before what is across or in the net."""
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
        self,
        source: Node,
        target: Node,
        *,
        ordered: tuple[bool, bool],
        facts: tuple[Facts, Facts] = ({}, {}),
        habits: AbstractSet[tuple[str, str]] = frozenset(),
    ) -> None:
        self.source, self.target = source, target
        self.ordered = ordered
        self._facts = facts
        self._habits = habits
        self.neighbours = Neighbours((source, target))
        self.translation = Translation()

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

    def learn(self, source: Node, target: Node) -> None:
        """Take a pair that is sure for evidence of others."""
        self.neighbours.add(source, target)
        self.translation.learn(source.below(self.source), target.below(self.target))

    def trust(self, sources: Sequence[Node], targets: Sequence[Node]) -> float:
        """How much the order of some nodes says, 0 to 1."""
        return common_trust(*(ranks_of(self, side, nodes) for side, nodes in enumerate((sources, targets))))

    def table(
        self, sources: Sequence[Node], targets: Sequence[Node], *, with_order: bool = True
    ) -> list[list[float]]:
        """
        Scores, a row a source. Above 0 speaks for a pair, below against it.
        """
        ours = [node.below(self.source) for node in sources]
        theirs = [node.below(self.target) for node in targets]
        our_ranks, their_ranks = (
            ranks_of(self, side, nodes) for side, nodes in enumerate((sources, targets))
        )
        weight = _RANK * common_trust(our_ranks, their_ranks)
        if len(sources) != len(targets):
            weight *= 0.3
        if not with_order:
            weight = 0.0
        return [
            [
                name_score(left, right)
                + _HABIT * ((left, right) in self._habits)
                + _TRANSLATED * self.translation.agreement(left, right)
                + _NEAR * self.neighbours.closeness(source, target)
                + weight * (1 - abs(place - other))
                - _FREQUENCY * abs(source.frequency - target.frequency)
                for target, right, other in zip(targets, theirs, their_ranks.order)
            ]
            for source, left, place in zip(sources, ours, our_ranks.order)
        ]


_RANK = 1.5
_TRANSLATED = 1.5
_HABIT = 2.0
_FREQUENCY = 3.0
_NEAR = 4.0


@lru_cache(maxsize=262144)
def name_score(ours: str, theirs: str) -> float:
    """How well two relative paths agree: 0 where they say nothing of one another."""
    left, right = concepts_of(ours), concepts_of(theirs)
    score = left.agreement(right) + 0.5 * _last_agreement(ours, theirs)
    score += _word_overlap(left, right)
    if left.numbers and left.numbers == right.numbers:
        score += 0.5
    last = ours.rpartition(".")[2]
    if last == theirs.rpartition(".")[2] and not last.isdigit() and last not in _EVERYWHERE:
        score += 1.0
    return score + _SAME * (ours == theirs)


_SAME = 3.0


_EVERYWHERE = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})


def _last_agreement(ours: str, theirs: str) -> float:
    return concepts_of(ours.rpartition(".")[2]).agreement(concepts_of(theirs.rpartition(".")[2]))


def _word_overlap(left: Concepts, right: Concepts) -> float:
    if not left.words or not right.words:
        return 0.0
    common = len(left.words & right.words)
    return 1.5 * common / len(left.words | right.words)


def are_opposed(ours: str, theirs: str, *, are_vectors: bool) -> bool:
    """
    One is a head and the other is not, or they are of different towers, embeddings or the like.

    Vectors are norms mostly, and the last norm may be a head's or not.
    """
    left, right = concepts_of(ours), concepts_of(theirs)
    heads = [("kind", "head") in each.members for each in (left, right)]
    if heads[0] != heads[1] and not are_vectors:
        return True
    for family in ("tower", "modality", "embedding", "qkvo"):
        mine = {member for of, member in left.members if of == family}
        others = {member for of, member in right.members if of == family}
        if mine and others and not mine & others and not (mine | others) & _FUSED:
            return True
    return False


_FUSED = frozenset({"qkv", "kv"})
