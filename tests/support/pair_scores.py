"""
What a plan, or any other claim about a pair, is worth: tensor by tensor against the truth.

Each element of the source is a whole number of its own. A target tensor is right if what is
claimed for it gives the numbers that the truth gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from pairs import Fixture

from modelinspect.tensors import ParameterTable
from modelinspect.transplant.plan import Assignment, Plan
from modelinspect.transplant.transforms import apply_steps, show_steps

__all__ = ["Outcome", "Score", "Verdict", "Weights", "score_arrays", "score_plan", "shown"]

Outcome = Literal["right", "wrong", "doubted", "missing"]
Array = Any
_APART = 16
"""Between two elements' numbers, so that steps that add have room."""


class Verdict(NamedTuple):
    """One target tensor."""

    target: str
    outcome: Outcome
    label: str
    """What the plan said of it; empty where it said nothing."""
    claimed: str
    true: str
    reason: str = ""
    is_equal: bool = False
    """The claim gives the right numbers; of one that is doubted, its first candidate."""


class Weights:
    """
    The source's tensors, filled with numbers that are found nowhere else. Made when asked for.
    """

    def __init__(self, fixture: Fixture) -> None:
        self.fixture = fixture
        self._starts: dict[str, int] = {}
        at = 1
        for tensor in fixture.source.tensors:
            if tensor.tied is None:
                self._starts[tensor.name] = at
                at += prod(tensor.shape)

    def __getitem__(self, name: str) -> Array:
        first = self.fixture.first_names[name]
        shape, start = self.fixture.source_rows[name].shape, self._starts[first]
        return (np.arange(start, start + prod(shape), dtype=np.int64) * _APART).reshape(shape)

    def assembled(self, assignment: Assignment) -> Array:
        """
        What an assignment makes of them.

        Raises:
            ValueError: Its steps don't go together.
        """
        zero = np.zeros((), np.int64)
        pieces = [
            apply_steps([self[piece.name] if piece.name else zero], piece.steps, np)
            for piece in assignment.pieces
        ]
        return apply_steps(pieces, assignment.steps, np)


@dataclass(frozen=True)
class Score:
    """A pair and the verdicts on its tensors."""

    fixture: Fixture
    verdicts: tuple[Verdict, ...]
    gave_up: str = ""
    """Why there was no claim at all."""

    @property
    def is_whole(self) -> bool:
        """Every tensor is right."""
        return not self.gave_up and all(each.outcome == "right" for each in self.verdicts)

    @property
    def has_wrong(self) -> bool:
        """Some claim is wrong that is not doubted."""
        return any(each.outcome == "wrong" for each in self.verdicts)

    @property
    def failures(self) -> list[Verdict]:
        """All that is not right."""
        return [each for each in self.verdicts if each.outcome != "right"]

    def count(self, outcome: Outcome, label: str | None = None) -> int:
        """Tensors with that outcome, and label."""
        return sum(each.outcome == outcome and label in (None, each.label) for each in self.verdicts)

    @cached_property
    def rows(self) -> dict[tuple[str, str, str], bool]:
        """
        Pattern rows, roughly as a person sees them: tensors that differ in numbers only.

        Names and label to whether all of the row is right.
        """
        rows: dict[tuple[str, str, str], bool] = {}
        for each in self.verdicts:
            if each.outcome in ("right", "wrong") and each.label:
                key = (_template(each.target), _template(each.claimed), each.label)
                rows[key] = rows.get(key, True) and each.outcome == "right"
        return rows

    def rows_wrong(self, label: str) -> tuple[int, int]:
        """Of the pattern rows with that label: how many are wrong, how many there are."""
        found = [right for (_, _, own), right in self.rows.items() if own == label]
        return found.count(False), len(found)


def _template(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def shown(assignment: Assignment | None) -> str:
    """An assignment's right side, short."""
    if assignment is None:
        return "nothing"
    parts = [" | ".join(filter(None, (p.name or "constant", show_steps(p.steps)))) for p in assignment.pieces]
    if len(parts) > 1:
        parts = [f"[{', '.join(parts)}]"]
    return " | ".join(filter(None, (*parts, show_steps(assignment.steps))))


# ------------------------------------------------------------------------- verdicts


def score_plan(
    fixture: Fixture, plan: Plan, weights: Weights | None = None, *, is_ordered: bool = True
) -> Score:
    """
    The verdicts on a plan.

    Args:
        fixture: With the truth.
        plan: For two of its sides.
        weights: To share among several plans.
        is_ordered: The source had an order. If it had none, nobody can know where some of an
            invented pair's tensors come from: there a doubt is right and anything else wrong.
            With an order they may be likely; certain they can't be.
    """
    weights = weights or Weights(fixture)
    claims = {each.target: each for each in plan.assignments}
    excess = set(claims) - {row.name for row in plan.target}
    assert not excess, f"the plan fills what the target has not: {sorted(excess)[:9]}"
    verdicts = _judged(fixture, plan.target, claims, weights)
    if fixture.open:
        verdicts = (
            _unknowable(each, is_ordered) if each.target in fixture.open else each for each in verdicts
        )
    return Score(fixture, tuple(verdicts))


def _unknowable(verdict: Verdict, is_ordered: bool) -> Verdict:
    if is_ordered and verdict.label != "certain":
        return verdict
    outcome: Outcome = "right" if verdict.outcome in ("doubted", "missing") else "wrong"
    return verdict._replace(outcome=outcome, true=f"{verdict.true}, which nobody can know")


def _judged(
    fixture: Fixture, target: ParameterTable, claims: Mapping[str, Assignment], weights: Weights
) -> Iterator[Verdict]:
    for row in target:
        claim, truth = claims.get(row.name), fixture.truth.get(row.name)
        if claim is None:
            outcome: Outcome = "right" if row.name in fixture.made else "missing"
            yield Verdict(row.name, outcome, "", "nothing", shown(truth))
            continue
        is_equal = _is_right(fixture, row.name, row.shape, claim, weights)
        doubted = claim.label == "ambiguous"
        outcome = "doubted" if doubted else "right" if is_equal else "wrong"
        yield Verdict(row.name, outcome, claim.label, shown(claim), shown(truth), claim.reason, is_equal)


def _is_right(
    fixture: Fixture, name: str, shape: tuple[int, ...], claim: Assignment, weights: Weights
) -> bool:
    truth = fixture.truth.get(name)
    if truth is None:
        return _is_harmless(fixture, claim)
    if _normal(fixture, claim) == _normal(fixture, truth):
        return True
    if claim.is_copy and truth.is_copy and name not in fixture.free:
        return False  # another tensor, whose numbers are others: they need not be made
    try:
        made = weights.assembled(claim)
    except (ValueError, KeyError):
        return False
    if tuple(made.shape) != shape:
        return False
    return name in fixture.free or np.array_equal(made, weights.assembled(truth))


def _is_harmless(fixture: Fixture, claim: Assignment) -> bool:
    """What the target makes itself may come from what the source made itself: unused, no parameter."""
    used = {fixture.first_names[name] for truth in fixture.truth.values() for name in truth.sources}
    names = [fixture.first_names[name] for name in claim.sources]
    return not used & set(names) and all(fixture.source_rows[name].kind == "buffer" for name in names)


def _normal(fixture: Fixture, assignment: Assignment) -> object:
    pieces = [(fixture.first_names.get(p.name, p.name), p.steps) for p in assignment.pieces]
    return pieces, assignment.steps


def score_arrays(
    fixture: Fixture, names: Iterable[str], arrays: Mapping[str, Array], weights: Weights | None = None
) -> Score:
    """The verdicts on what another tool made of the weights; each claim counts as certain."""
    weights = weights or Weights(fixture)
    verdicts = []
    for name in names:
        truth, made = fixture.truth.get(name), arrays.get(name)
        if made is None or truth is None:
            outcome: Outcome = "right" if made is None and truth is None else "missing"
            if truth is None and made is not None:
                outcome = "wrong"
            verdicts.append(Verdict(name, outcome, "", "nothing", shown(truth)))
            continue
        is_right = name in fixture.free or np.array_equal(made, weights.assembled(truth))
        verdicts.append(Verdict(name, "right" if is_right else "wrong", "certain", "an array", shown(truth)))
    return Score(fixture, tuple(verdicts))
