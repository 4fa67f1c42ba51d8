"""Real pairs of implementations: what is claimed of them is right, and doubted where it must be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from pair_scores import Score, score_plan
from pairs import FOLDER, SOURCES, TARGETS, Fixture, Form, fixtures, renamed, shuffled

from modelinspect.tensors import ParameterTable
from modelinspect.transplant.match import match
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.transforms import Step

BARS = {"same-shapes": 0.95}
"""Of the pairs of a kind, how many at least are wholly right from names and shapes alone."""
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def scores(form: Form, target: Form = "definition") -> tuple[Score, ...]:
    """Of all pairs; each is matched once for all tests."""
    return tuple(score(fixture, form, target) for fixture in fixtures())


def score(fixture: Fixture, form: Form, target: Form = "definition") -> Score:
    """Of one pair."""
    return score_plan(fixture, match(fixture.source_side(form), fixture.target_side(target)))


def wrong(found: Iterable[Score], label: str) -> list[str]:
    """Pair, target and claim of what carries the label and is wrong."""
    return [
        f"{each.fixture.name}: {verdict.target} <- {verdict.claimed}"
        for each in found
        for verdict in each.verdicts
        if verdict.outcome == "wrong" and verdict.label == label
    ]


# ------------------------------------------------------------------------ the scorer


@pytest.mark.parametrize("fixture", fixtures(), ids=NAMES)
def test_a_plan_made_of_the_truth_is_wholly_right(fixture: Fixture) -> None:
    """The truth, applied to the weights, fills each tensor of the target with its shape."""
    source, target = fixture.source_side("pt"), fixture.target_side("definition")
    plan = Plan(source.table, target.table, tuple(fixture.truth.values()))
    assert score_plan(fixture, plan).failures == []


def test_a_spoilt_plan_is_not_right() -> None:
    """Two tensors exchanged, one left out and one doubted are seen, and those alone."""
    (fixture,) = fixtures("vit-torchvision-timm")
    source, target = fixture.source_side("pt"), fixture.target_side("definition")
    names = [row.name for row in target.table if row.name.endswith("norm1.weight")]
    claims = dict(fixture.truth)
    first, second = claims[names[0]], claims[names[1]]
    claims[names[0]] = first._replace(pieces=second.pieces, label="certain")
    claims[names[1]] = second._replace(pieces=first.pieces, label="likely")
    claims["head.bias"] = claims["head.bias"]._replace(label="ambiguous")
    del claims["head.weight"]
    made = score_plan(fixture, Plan(source.table, target.table, tuple(claims.values())))
    assert {(each.target, each.outcome, each.label) for each in made.failures} == {
        (names[0], "wrong", "certain"),
        (names[1], "wrong", "likely"),
        ("head.bias", "doubted", "ambiguous"),
        ("head.weight", "missing", ""),
    }
    assert not made.is_whole
    assert made.has_wrong
    assert made.rows_wrong("certain") == (1, 1)


def test_other_steps_to_the_same_numbers_are_right() -> None:
    """What counts is where elements end up, not how the steps are spelt."""
    (fixture,) = fixtures("gpt2-transformers-nano")
    source, target = fixture.source_side("pt"), fixture.target_side("definition")
    turned = [Step("permute", (1, 0)), Step("add", (3,)), Step("add", (-3,))]
    plan = [respelt(each, turned) for each in fixture.truth.values()]
    assert any(each != fixture.truth[each.target] for each in plan)
    assert score_plan(fixture, Plan(source.table, target.table, tuple(plan))).failures == []
    missed = [each._replace(pieces=(Piece(each.pieces[0].name),)) for each in plan]
    assert score_plan(fixture, Plan(source.table, target.table, tuple(missed))).has_wrong


def respelt(assignment: Assignment, turned: Sequence[Step]) -> Assignment:
    """The same with each transpose replaced by other steps."""

    def other(steps: Iterable[Step]) -> tuple[Step, ...]:
        return tuple(chain.from_iterable(turned if step.op == "transpose" else [step] for step in steps))

    pieces = tuple(piece._replace(steps=other(piece.steps)) for piece in assignment.pieces)
    return assignment._replace(pieces=pieces, steps=other(assignment.steps))


# ----------------------------------------------------------------------- the matcher


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", SOURCES)
def test_what_is_certain_is_right(form: Form, target: Form) -> None:
    """Not one tensor of all pairs is called certain and is wrong, whatever the two sides are given as."""
    assert wrong(scores(form, target), "certain") == []


@pytest.mark.parametrize("kind", BARS)
@pytest.mark.parametrize("form", SOURCES)
def test_most_pairs_are_wholly_right(form: Form, kind: str) -> None:
    """From names and shapes alone."""
    chosen = [each for each in scores(form) if each.fixture.kind == kind]
    amiss = [each.fixture.name for each in chosen if not each.is_whole]
    assert len(amiss) / len(chosen) <= 1 - BARS[kind], amiss


@pytest.mark.parametrize("fixture", fixtures(), ids=NAMES)
def test_the_order_of_a_sorted_file_means_nothing(fixture: Fixture) -> None:
    """Whatever order the rows of a safetensors file are in, the plan is the same."""
    source, target = fixture.source_side("safetensors"), fixture.target_side("definition")
    plan = match(source, target)
    for seed in (1, 2):
        again = match(shuffled(source, seed), target)
        assert again.assignments == plan.assignments
        assert {each.name for each in again.missing} == {each.name for each in plan.missing}
        assert {each.name for each in again.unused} == {each.name for each in plan.unused}


@pytest.mark.parametrize("form", SOURCES)
def test_hidden_words_make_nothing_certain_that_is_wrong(form: Form) -> None:
    """With random words for all modules of the source: less is known, and nothing wrong is certain."""
    seed = SOURCES.index(form)
    hidden = [score(renamed(fixture, seed), form) for fixture in fixtures()]
    assert wrong(hidden, "certain") == []


def test_sides_are_what_the_readers_make_of_files(tmp_path: Path) -> None:
    """
    Rows of a fixture have the names, types and kinds of those of a file that the library wrote.

    And the order of torch's; that of the other means nothing.
    """
    import torch
    from safetensors.torch import save_file

    from modelinspect.readers.registry import open_checkpoint

    (fixture,) = fixtures("resnet-torchvision-timm")
    rows = fixture.source.tensors
    state = {row.name: torch.zeros(row.shape, dtype=getattr(torch, row.dtype)) for row in rows}
    torch.save(state, tmp_path / "net.pt")
    save_file(state, tmp_path / "net.safetensors")
    assert facts(open_checkpoint(str(tmp_path / "net.pt")).table) == facts(fixture.source_side("pt").table)
    read = open_checkpoint(str(tmp_path / "net.safetensors")).table
    assert sorted(facts(read)) == sorted(facts(fixture.source_side("safetensors").table))


def facts(table: ParameterTable) -> list[tuple[str, str, tuple[int, ...], str, bool]]:
    """What the matcher may see of rows."""
    return [(row.name, row.dtype.name, row.shape, row.kind, row.declared) for row in table]
