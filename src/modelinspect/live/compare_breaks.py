"""
Where two runs part: the first activation of a target that its source has nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from modelinspect.errors import visible
from modelinspect.live.activations import Event, Print, Prints, Tape

__all__ = [
    "Break",
    "are_numbers",
    "first_break",
    "of_weights_alone",
    "otherwise_made",
    "said_difference",
    "similar_calls",
]

_SAME = 1e-9
"""Tolerance within one run: the order in which numbers are added may differ."""
_MOST_TRIED = 6
_NEAR = 12
"""Events after a break whose operations are looked at."""


def of_weights_alone(tape: Tape) -> set[int]:
    """
    Events that only cut or turn weights: they agree wherever the weights went.

    Args:
        tape: Recorded with the inputs of its operations.
    """
    found: set[int] = set()
    made: set[Print] = set()
    for at, event in enumerate(tape.events):
        known = len(event.parameters) + sum(given in made for given in event.inputs)
        if event.inputs and known >= len(event.inputs) and "embedding" not in event.call.name:
            found.add(at)
            if event.link is not None:
                made.add(event.link)
    return found


class Break(NamedTuple):
    """Where a target stops agreeing with its source."""

    at: int
    """Index of the event."""
    event: Event
    suspects: dict[str, int]
    """Names of parameters that were used, and how many events away."""


def first_break(target: Tape, source: Prints, weights: Collection[str]) -> Break | None:
    """
    The first activation that has no counterpart, and nothing of what follows from it either.

    What two implementations compute in different steps differs in between and agrees
    afterwards: that is no break.

    Args:
        target: Recorded with the inputs of its operations.
        source: Prints of the source's run.
        weights: Names of the target's tensors that the source fills: what follows from none
            of them is a constant.
    """
    events = target.events
    parents = _parents(events)
    matched = [event.print is None or event.print in source for event in events]
    found = [event.print is not None and match for event, match in zip(events, matched)]
    recovers, goes_on = _backwards(parents, found)
    live = _live(events, parents, weights)
    for at, event in enumerate(events):
        if not matched[at] and live[at] and not recovers[at] and (goes_on[at] or at == len(events) - 1):
            return Break(at, event, _distances(events, at))
    return None


def _parents(events: Sequence[Event]) -> list[list[int]]:
    """For each event those that made its inputs, told by their prints."""
    known = Prints((event.link for event in events), _SAME)
    made: dict[Print, int] = {}
    parents: list[list[int]] = []
    for at, event in enumerate(events):
        found = {made.get(same) for given in event.inputs if given and (same := known.find(given))}
        parents.append(sorted(each for each in found if each is not None))
        if event.link is not None and (own := known.find(event.link)) is not None:
            made.setdefault(own, at)
    return parents


def _backwards(parents: list[list[int]], found: list[bool]) -> tuple[list[bool], list[bool]]:
    """Whether an event or something that follows from it was found, and whether anything follows."""
    recovers, goes_on = list(found), [False] * len(found)
    for at in range(len(found) - 1, -1, -1):
        for parent in parents[at]:
            recovers[parent] = recovers[parent] or recovers[at]
            goes_on[parent] = True
    return recovers, goes_on


def _live(events: Sequence[Event], parents: list[list[int]], weights: Collection[str]) -> list[bool]:
    live: list[bool] = []
    for at, event in enumerate(events):
        own = any(name in weights for name in event.parameters)
        live.append(own or any(live[parent] for parent in parents[at]))
    return live


def _distances(events: Sequence[Event], at: int) -> dict[str, int]:
    """What lies before a break is nearer to it than what comes after."""
    distances: dict[str, int] = {}
    for place, event in enumerate(events):
        far = at - place if place <= at else 2 * (place - at)
        for name in event.parameters:
            distances[name] = min(far, distances.get(name, far))
    return distances


# -------------------------------------------------------------------- operations


def similar_calls(broken: Break, target: Tape, source: Tape, tolerance: float) -> list[tuple[Event, Event]]:
    """
    Operations of both that are given the same and put out something else, near a break.

    Args:
        broken: Where to look.
        target: Recorded with inputs.
        source: Recorded with inputs.
        tolerance: Of prints.
    """
    pairs: dict[Any, tuple[Event, Event]] = {}
    for ours in target.events[broken.at : broken.at + _NEAR]:
        if not any(ours.inputs) or ours.print is None:
            continue
        alike = [theirs for theirs in source.events if _is_given_the_same(ours, theirs, tolerance)]
        if any(theirs.call == ours.call for theirs in alike):
            continue
        named = [theirs for theirs in alike if theirs.call.kind == ours.call.kind]
        for theirs in (named or alike) if ours.call.kind not in _PLACES else ():
            if theirs.print is not None and not ours.print.agrees(theirs.print, tolerance / 100):
                pairs.setdefault((ours.call, theirs.call), (ours, theirs))
    return list(pairs.values())[:_MOST_TRIED]


def _is_given_the_same(ours: Event, theirs: Event, tolerance: float) -> bool:
    return len(ours.inputs) == len(theirs.inputs) and all(
        one is other is None or (one is not None and other is not None and one.agrees(other, tolerance))
        for one, other in zip(ours.inputs, theirs.inputs)
    )


_PLACES = frozenset(
    {
        "mm", "addmm", "bmm", "baddbmm", "embedding", "cat", "stack", "index", "select", "slice", "split",
        "split_with_sizes", "unsafe_split", "unbind", "chunk", "gather", "flip", "roll", "narrow", "tril",
        "triu", "constant_pad_nd", "diagonal", "masked_fill", "where", "index_select", "index_put", "repeat",
    }
)  # fmt: skip
"""Operations that choose or place elements: which ones is not a setting."""


def otherwise_made(ours: Event, theirs: Event) -> bool:
    """True: the target's operation can be made as the source makes its own."""
    return ours.call.kind not in _PLACES and theirs.call.kind not in _PLACES


def are_numbers(ours: Event, theirs: Event) -> bool:
    """True: two calls of one operation differ in numbers or in words, as an epsilon does."""
    one, other = ours.call.settings(), theirs.call.settings()
    differing = [
        (one.get(name), other.get(name)) for name in {*one, *other} if one.get(name) != other.get(name)
    ]
    return bool(differing) and all(isinstance(each, (float, str)) for pair in differing for each in pair)


def said_difference(ours: Event, theirs: Event) -> str:
    """
    ``eps 1e-12 in encoder.norm, 1e-05 in blocks.0.norm1``: the source's comes first.
    """
    here, there = _place(theirs), _place(ours)
    if theirs.call.kind != ours.call.kind:
        return f"{theirs.call.name} in {here}, {ours.call.name} in {there}"
    source, target = theirs.call.settings(), ours.call.settings()
    parts = [
        f"{_word(ours, name)} {source.get(name)} in {here}, {target.get(name)} in {there}"
        for name in dict.fromkeys((*source, *target))
        if source.get(name) != target.get(name)
    ]
    return "; ".join(parts) or f"{ours.call.name} in {here} and in {there}"


def _word(event: Event, name: str) -> str:
    """What an argument is called; the number that a norm adds before its root is its epsilon."""
    if event.call.name.startswith("add") and name in ("other", "alpha"):
        return "the number added"
    return name


def _place(event: Event) -> str:
    return visible(event.place) or "the outermost module"
