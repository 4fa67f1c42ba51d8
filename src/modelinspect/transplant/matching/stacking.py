"""
Experts, layers, heads: one tensor that stacks what the other side keeps in a list of modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelinspect.transplant.matching.assignment import assign, margins
from modelinspect.transplant.matching.orientation import reshaped
from modelinspect.transplant.matching.scoring import Scorer, name_score
from modelinspect.transplant.matching.slots import Made, Slot, Unit, with_steps
from modelinspect.transplant.plan import Label
from modelinspect.transplant.transforms import Step

__all__ = ["stacked"]

_TURN = (Step("transpose"),)


def stacked(ours: Sequence[Unit], theirs: Sequence[Unit], scorer: Scorer) -> Iterator[Made]:
    """A stack and a list that hold the same."""
    if not ours or not theirs:
        return
    scores = [[_single_score(a, b, scorer) for b in theirs] for a in ours]
    is_turned = len(ours) > len(theirs)
    if is_turned:
        scores = [list(line) for line in zip(*scores)]
    chosen = assign(scores)
    losses, _ = margins(scores, chosen)
    pairs: list[tuple[Unit, Unit, Label]] = []
    for row, column in enumerate(chosen):
        if scores[row][column] <= _IMPOSSIBLE / 2:
            continue
        a, b = (ours[column], theirs[row]) if is_turned else (ours[row], theirs[column])
        if all(a.slots[role].is_stacked == b.slots[role].is_stacked for role in a.slots if role in b.slots):
            continue
        label: Label = (
            "certain"
            if losses[row] > -_IMPOSSIBLE / 2
            else "likely"
            if losses[row] > _DOUBTFUL
            else "ambiguous"
        )
        pairs.append((a, b, label))
    slots = [
        (slot, b.slots[role], _less_sure(a, b, label, pairs))
        for a, b, label in pairs
        for role, slot in a.slots.items()
        if role in b.slots
    ]
    ways = {
        reshaped(a.shape, b.shape) == _TURN for a, b, _ in slots if a.shape != b.shape and len(a.shape) == 2
    }
    for ours_slot, theirs_slot, label in slots:
        yield from _each_copy(ours_slot, theirs_slot, label, are_turned=ways == {True})


_IMPOSSIBLE = -1000.0
_DOUBTFUL = 0.3


def _less_sure(a: Unit, b: Unit, label: Label, pairs: Sequence[tuple[Unit, Unit, Label]]) -> Label:
    """Not sure where two stacks fit exchanged and transposed as well, and no name speaks for it."""
    if name_score(a.path, b.path) > 0:
        return label
    for other, partner, _ in pairs:
        if other is not a and all(
            len(one.slots[role].shape) == 2 and one.slots[role].shape == two.slots[role].shape[::-1]
            for one, two in ((a, partner), (other, b))
            for role in one.slots
            if role in two.slots
        ):
            return "ambiguous"
    return label


def _single_score(a: Unit, b: Unit, scorer: Scorer) -> float:
    if a.slots.keys() != b.slots.keys():
        return _IMPOSSIBLE
    if any(reshaped(slot.shape, b.slots[role].shape) is None for role, slot in a.slots.items()):
        return _IMPOSSIBLE
    exact = all(slot.shape == b.slots[role].shape for role, slot in a.slots.items())
    return name_score(a.path, b.path) + 2.0 * scorer.neighbours.closeness(a.node, b.node) + exact


def _each_copy(ours: Slot, theirs: Slot, label: Label, *, are_turned: bool) -> Iterator[Made]:
    steps = reshaped(ours.shape, theirs.shape)
    assert steps is not None
    if are_turned and not steps and len(ours.shape) == 2 and ours.members[0].role == "weight":
        steps = _TURN  # square: as those beside it
    reason = "one of a stack, in its order"
    if theirs.is_stacked:
        pieces = tuple(with_steps(ours.piece(at), steps) for at in range(ours.count))
        yield Made(theirs.members[0], pieces, (Step("stack", (0,)),), label, reason)
        return
    for at in range(ours.count):
        yield Made(theirs.members[at], (with_steps(ours.piece(at), steps),), (), label, reason)
