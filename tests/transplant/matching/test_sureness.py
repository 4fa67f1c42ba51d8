"""What is called certain is right, whatever modules are called; and no plan depends on chance."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sides import Tensors, claims, definition, file, labels, matched, numbered, safetensors

from modelinspect.transplant.plan import Side

# -------------------------------------------------------------------- random networks

_KINDS: tuple[tuple[str, ...], ...] = (
    ("weight", "bias"), ("weight",), ("weight", "bias", "running_mean", "running_var"),
)  # fmt: skip
_ANIMALS = ("zebra", "lion", "otter", "mole")
_WIDTHS = st.sampled_from([4, 6, 8])


@st.composite
def layers(draw: st.DrawFn) -> Tensors:
    """A linear layer, a convolution or a norm, without a name."""
    leaves, axes = draw(st.sampled_from(_KINDS)), draw(st.sampled_from([1, 2, 2, 4]))
    shape = (*(draw(_WIDTHS) for _ in range(min(axes, 2))), *([3, 3] if axes == 4 else []))
    if "running_mean" in leaves:
        shape = shape[:1]
    return {leaf: shape if leaf == "weight" else shape[:1] for leaf in leaves}


@st.composite
def networks(draw: st.DrawFn, depth: int = 2) -> Tensors:
    """Modules in modules, some of them repeated under numbers."""
    found: Tensors = {}
    for at in range(draw(st.integers(1, 4))):
        part = draw(networks(depth=depth - 1)) if depth and draw(st.booleans()) else draw(layers())
        if draw(st.integers(0, 3)) == 0:
            part = numbered("", part, draw(st.integers(2, 4)))
        found |= {f"{_ANIMALS[at]}.{name}": shape for name, shape in part.items()}
    return found


def words(count: int, chance: random.Random) -> list[str]:
    """Words of no language, each once."""
    made: dict[str, None] = {}
    while len(made) < count:
        made["".join(chance.choices("bcdfghjklmnprstvwz", k=6))] = None
    return list(made)


def renamed(tensors: Tensors, chance: random.Random) -> dict[str, str]:
    """
    Each new name to the old one: a random word for each module name that is no number.

    Numbers and the last parts of names stay.
    """
    modules = sorted({part for name in tensors for part in name.split(".")[:-1] if not part.isdigit()})
    word = dict(zip(modules, words(len(modules), chance)))
    return {
        ".".join([*(word.get(part, part) for part in name.split(".")[:-1]), name.rpartition(".")[2]]): name
        for name in tensors
    }


def shuffled(tensors: Tensors, chance: random.Random) -> Tensors:
    """The same in another order."""
    items = list(tensors.items())
    chance.shuffle(items)
    return dict(items)


def wrong(found: dict[str, str], truth: dict[str, str], sure: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Of the targets that are said to be sure those that get another tensor than they should."""
    return {name: (found[name], truth[name]) for name in sure if found[name] != truth[name]}


@given(networks(), st.integers(0, 2**32), st.booleans())
@settings(deadline=None, max_examples=60)
def test_what_is_not_ambiguous_is_right_without_words(ours: Tensors, seed: int, is_class: bool) -> None:
    """Where random words stand for all names, in another order, what is claimed is right or ambiguous."""
    chance = random.Random(seed)
    truth = renamed(ours, chance)
    theirs = shuffled({name: ours[old] for name, old in truth.items()}, chance)
    plan = matched(safetensors(ours), definition(theirs) if is_class else file(theirs))
    sure = [name for name, label in labels(plan).items() if label != "ambiguous"]
    assert not wrong(claims(plan), truth, sure)


@given(networks(), st.integers(0, 2**32), st.booleans())
@settings(deadline=None, max_examples=60)
def test_certain_is_right_where_one_side_has_more(ours: Tensors, seed: int, is_source: bool) -> None:
    """Where a module is not there on one side, what is certain without words is the right tensor."""
    chance = random.Random(seed)
    truth = renamed(ours, chance)
    theirs = shuffled({name: ours[old] for name, old in truth.items()}, chance)
    side = ours if is_source else theirs
    gone = chance.choice(sorted(side)).rpartition(".")[0] + "."
    left = {name: shape for name, shape in side.items() if not name.startswith(gone)}
    plan = matched(safetensors(left if is_source else ours), theirs if is_source else left)
    sure = [each for each in plan.assignments if each.label == "certain"]
    assert not [each for each in sure if each.sources != (truth[each.target],)]


@given(networks(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_order_of_an_unordered_source_means_nothing(ours: Tensors, seed: int) -> None:
    """Whichever way the rows of an unordered source come, the plan is the same."""
    chance = random.Random(seed)
    theirs = {name: ours[old] for name, old in renamed(ours, chance).items()}
    plans = [
        matched(file(tensors, ordered=False), theirs)
        for tensors in (ours, shuffled(ours, chance), dict(reversed(ours.items())))
    ]
    assert plans[0].assignments == plans[1].assignments == plans[2].assignments
    assert plans[0].doubts == plans[1].doubts == plans[2].doubts
    assert plans[0].missing == plans[1].missing == plans[2].missing


@given(networks(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_equal_names_are_certain_and_right(ours: Tensors, seed: int) -> None:
    """A network goes into itself, in whatever order either side comes."""
    theirs = shuffled(ours, random.Random(seed))
    plan = matched(safetensors(ours), theirs)
    assert claims(plan) == {name: name for name in ours}
    assert set(labels(plan).values()) == {"certain"}


@given(networks(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_nothing_is_lost_or_doubled(ours: Tensors, seed: int) -> None:
    """Each target tensor is assigned or missing, and a source tensor goes to one place."""
    theirs = {name: ours[old] for name, old in renamed(ours, random.Random(seed)).items()}
    plan = matched(safetensors(ours), theirs)
    assigned, missing = [each.target for each in plan.assignments], [each.name for each in plan.missing]
    assert sorted(assigned + missing) == sorted(theirs)
    used = [name for each in plan.assignments for name in each.sources]
    assert len(used) == len(set(used))
    assert sorted(used + [each.name for each in plan.unused]) == sorted(ours)


@given(networks(), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_roles_are_never_mixed(ours: Tensors, seed: int) -> None:
    """A weight gets a weight, a bias a bias and a statistic the same statistic."""
    chance = random.Random(seed)
    theirs = shuffled({name: ours[old] for name, old in renamed(ours, chance).items()}, chance)
    for target, source in claims(matched(safetensors(ours), theirs)).items():
        assert source.partition(" -> ")[0].rpartition(".")[2] == target.rpartition(".")[2]


# ---------------------------------------------------------------------------- chance

PAIRS = Path(__file__).parents[1] / "pairs"
_SCRIPT = """
import sys, hashlib
sys.path[:0] = {paths!r}
from pairs import Fixture
from pathlib import Path
from modelinspect.transplant.match import match
plans = []
for name in {names!r}:
    fixture = Fixture.load(Path(name))
    plan = match(fixture.source_side("safetensors"), fixture.target_side("definition"))
    plans.append(repr((plan.assignments, plan.missing, plan.unused, plan.doubts)))
print(hashlib.sha256("".join(plans).encode()).hexdigest())
"""


def test_plans_do_not_depend_on_hashes() -> None:
    """Processes with other hash seeds come to the same plans."""
    wanted = ("bert-torch-transformers", "gpt2-split-transformers", "lstm-gates-torch")
    names = [str(PAIRS / f"{name}.json") for name in wanted]
    support = str(Path(__file__).parents[2] / "support")
    script = _SCRIPT.format(paths=[support], names=names)
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }  # fmt: skip
    assert len(found) == 1


def test_two_runs_give_one_plan() -> None:
    """The same sides give the same plan."""
    chance = random.Random(5)
    tensors: Tensors = {f"m{at}.{leaf}": (8,) for at in range(9) for leaf in ("weight", "bias")}
    theirs: Side = file(dict.fromkeys(renamed(tensors, chance), (8,)))
    assert matched(safetensors(tensors), theirs) == matched(safetensors(tensors), theirs)


@pytest.mark.parametrize("is_sorted", [False, True])
def test_nothing_into_nothing(is_sorted: bool) -> None:
    """Empty sides give an empty plan."""
    one: Tensors = {"a.weight": (3, 3)}
    sides: tuple[tuple[Tensors, Tensors], ...] = (({}, {}), (one, {}), ({}, one))
    for ours, theirs in sides:
        plan = matched(file(ours, ordered=not is_sorted), theirs)
        assert plan.assignments == ()
        assert [each.name for each in plan.missing] == list(theirs)
        assert [each.name for each in plan.unused] == list(ours)
