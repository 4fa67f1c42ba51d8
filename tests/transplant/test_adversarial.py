"""Made-up pairs that mislead: what can be known is found, and what nobody can know is doubted."""

from __future__ import annotations

import pytest
from invented_pairs import INVENTED
from pair_scores import Score, score_plan
from pairs import SOURCES, TARGETS, Form, shuffled

from modelinspect.transplant.match import match


def score(name: str, form: Form, target: Form = "definition") -> Score:
    """Of one of the pairs."""
    fixture = INVENTED[name]()
    source = fixture.source_side(form)
    plan = match(source, fixture.target_side(target))
    return score_plan(fixture, plan, is_ordered=source.is_ordered)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", SOURCES)
@pytest.mark.parametrize("name", INVENTED)
def test_nothing_certain_is_wrong(name: str, form: Form, target: Form) -> None:
    """Whatever misleads, it does not make a wrong claim certain."""
    amiss = [each for each in score(name, form, target).failures if each.label == "certain"]
    assert amiss == []


@pytest.mark.parametrize("name", INVENTED)
def test_what_nobody_can_know_is_doubted(name: str) -> None:
    """From a file without an order: tensors that nothing tells apart are ambiguous, the others right."""
    amiss = [each for each in score(name, "safetensors").failures if each.outcome == "wrong"]
    assert amiss == []


@pytest.mark.parametrize("name", INVENTED)
def test_the_order_of_rows_means_nothing(name: str) -> None:
    """The plan for a sorted file does not depend on the order of its rows."""
    fixture = INVENTED[name]()
    source, target = fixture.source_side("safetensors"), fixture.target_side("definition")
    plan = match(source, target)
    for seed in (1, 2):
        assert match(shuffled(source, seed), target).assignments == plan.assignments
