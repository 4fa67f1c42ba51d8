"""Plans for very many tensors: right to the last one, and a page long."""

from __future__ import annotations

import pytest
from invented_pairs import irregular, mixture
from pair_scores import score_plan
from pairs import SOURCES, Form

from modelinspect.transplant.match import match
from modelinspect.transplant.patterns import expand, rows


def test_tens_of_thousands_of_tensors_are_a_page() -> None:
    """30 blocks of 128 experts: all are right, in few rows, which expand to the same plan."""
    fixture = mixture(blocks=30, experts=128)
    source, target = fixture.source_side("safetensors"), fixture.target_side("definition")
    assert len(target.table) > 25_000
    plan = match(source, target)
    assert score_plan(fixture, plan, is_ordered=False).failures == []
    page = rows(plan)
    assert len(page) < 40
    assert sum(row.count for row in page) == len(target.table)
    expanded = {each.target: each.pieces for row in page for each in expand(row)}
    assert expanded == {each.target: each.pieces for each in plan.assignments}


@pytest.mark.parametrize("form", SOURCES)
def test_an_irregular_model_of_thousands(form: Form) -> None:
    """5,000 tensors, hardly two levels alike, one side counting upwards where the other counts downwards."""
    fixture = irregular()
    source, target = fixture.source_side(form), fixture.target_side("definition")
    assert len(target.table) > 5_000
    score = score_plan(fixture, match(source, target), is_ordered=source.is_ordered)
    assert [each for each in score.failures if each.label == "certain"] == []
    assert score.count("right") / len(score.verdicts) > 0.99
