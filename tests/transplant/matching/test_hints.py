"""What a person says is hard evidence, all else follows from it, and each doubt says what would settle it."""

from __future__ import annotations

import pytest
from made_sides import (
    Tensors,
    claims,
    conv,
    definition,
    file,
    hint_in,
    labels,
    linear,
    matched,
    merged,
    norm,
    numbered,
    safetensors,
)

from modelinspect.errors import UsageError
from modelinspect.transplant.plan import Plan, Side

BLOCK = merged(norm("norm1"), linear("fc1", 16, 8), linear("fc2", 8, 16))
TOWERS = merged(numbered("alpha.layers.", BLOCK, 3), numbered("omega.layers.", BLOCK, 3))
OTHER_TOWERS = merged(numbered("netx.h.", BLOCK, 3), numbered("nety.h.", BLOCK, 3))
FOUR = merged(*(linear(f"block.{name}") for name in ("red", "green", "blue", "grey")))
OTHER_FOUR = merged(*(linear(f"part.{name}") for name in ("one", "two", "three", "four")))
AS_HINTED = "as --map says"


def reasons(plan: Plan, prefix: str) -> set[str]:
    """Why, of the target tensors with that prefix."""
    return {each.reason for each in plan.assignments if each.target.startswith(prefix)}


# ---------------------------------------------------------------------------- hints


@pytest.mark.parametrize("tower", ["netx", "nety"])
def test_hint_on_a_tower_decides_the_other(tower: str) -> None:
    """One of two equal towers is named by a person, either way, and the other one is what is left."""
    other = {"netx": "nety", "nety": "netx"}[tower]
    plan = matched(safetensors(TOWERS), OTHER_TOWERS, f"alpha={tower}")
    assert claims(plan) == {
        f"{target}.h.{at}.{name}": f"{source}.layers.{at}.{name}"
        for source, target in (("alpha", tower), ("omega", other)) for at in range(3) for name in BLOCK
    }  # fmt: skip
    assert "ambiguous" not in labels(plan).values()
    assert plan.doubts == ()


def test_hinted_rows_are_certain() -> None:
    """Rows under a hinted module carry no doubt, and say who said so."""
    plan = matched(safetensors(FOUR), OTHER_FOUR, "block.blue=part.one")
    found = {each.target: each for each in plan.assignments}
    for leaf in ("weight", "bias"):
        row = found[f"part.one.{leaf}"]
        assert (row.sources, row.label, row.reason) == ((f"block.blue.{leaf}",), "certain", AS_HINTED)


def test_hint_on_a_single_tensor() -> None:
    """A hint may name tensors; the bias of its module follows."""
    plan = matched(safetensors(FOUR), OTHER_FOUR, "block.blue.weight=part.two.weight")
    assert claims(plan)["part.two.weight"] == "block.blue.weight"
    assert claims(plan)["part.two.bias"] == "block.blue.bias"
    assert reasons(plan, "part.two.weight") == {AS_HINTED}


def test_hint_against_the_names() -> None:
    """A person may contradict names that say the opposite."""
    ours = merged(linear("attn.q_proj"), linear("attn.k_proj"))
    theirs = merged(linear("attention.query"), linear("attention.key"))
    plan = matched(ours, theirs, "attn.q_proj=attention.key")
    assert claims(plan) == {
        f"attention.{b}.{leaf}": f"attn.{a}_proj.{leaf}" for a, b in (("k", "query"), ("q", "key"))
        for leaf in ("weight", "bias")
    }  # fmt: skip


def test_hint_against_equal_names() -> None:
    """A person may even contradict names that are the same."""
    tensors = merged(linear("a"), linear("b"), linear("c", 5))
    plan = matched(tensors, tensors, "a=b")
    found = claims(plan)
    assert found["b.weight"] == "a.weight"
    assert found["a.weight"] == "b.weight"
    assert found["c.weight"] == "c.weight"


def test_star_stands_for_a_number() -> None:
    """A star stands for the same text on both sides."""
    ours, theirs = numbered("l.", FOUR, 3), numbered("h.", OTHER_FOUR, 3)
    plan = matched(safetensors(ours), theirs, "l.*.block.grey=h.*.part.one")
    for at in range(3):
        assert claims(plan)[f"h.{at}.part.one.weight"] == f"l.{at}.block.grey.weight"
    assert reasons(plan, "h.1.part.one") == {AS_HINTED}


def test_star_crosses_dots() -> None:
    """What a star stands for may hold dots."""
    ours = merged(numbered("alpha.body.l.", FOUR, 2), numbered("omega.body.l.", FOUR, 2))
    theirs = merged(numbered("x.omega.body.l.", FOUR, 2), numbered("x.alpha.body.l.", FOUR, 2))
    plan = matched(safetensors(ours), theirs, "*.red=x.*.blue")
    for tower in ("alpha", "omega"):
        for at in range(2):
            block = f"{tower}.body.l.{at}.block"
            assert claims(plan)[f"x.{block}.blue.bias"] == f"{block}.red.bias"


def test_several_hints() -> None:
    """Hints are taken together."""
    pairs = {"red": "four", "green": "three", "blue": "two", "grey": "one"}
    plan = matched(safetensors(FOUR), OTHER_FOUR, *(f"block.{a}=part.{b}" for a, b in pairs.items()))
    assert claims(plan) == {
        f"part.{b}.{leaf}": f"block.{a}.{leaf}" for a, b in pairs.items() for leaf in ("weight", "bias")
    }
    assert set(labels(plan).values()) == {"certain"}


def test_three_hints_leave_one_reading() -> None:
    """Of four equal modules three are named: the fourth is in no doubt."""
    plan = matched(
        safetensors(FOUR), OTHER_FOUR, "block.red=part.four", "block.green=part.one", "block.blue=part.two"
    )
    assert claims(plan)["part.three.weight"] == "block.grey.weight"
    assert "ambiguous" not in labels(plan).values()


def test_hint_with_a_transposition() -> None:
    """Hinted tensors whose sides are exchanged are transposed."""
    ours, theirs = merged({"a.w": (8, 16), "b.w": (8, 16)}), merged({"x.w": (16, 8), "y.w": (16, 8)})
    plan = matched(ours, theirs, "a.w=y.w")
    assert claims(plan) == {"y.w": "a.w -> transpose", "x.w": "b.w -> transpose"}


def test_hint_on_tensors_of_different_sizes() -> None:
    """A hint that can't be followed is an error that names both tensors, their shapes and the hint."""
    with pytest.raises(UsageError) as caught:
        matched(linear("head", 10), linear("fc", 5), "head.weight=fc.weight")
    text = "\n".join([str(caught.value), *caught.value.details])
    for part in ("head.weight=fc.weight", "head.weight: [10, 8]", "fc.weight: [5, 8]"):
        assert part in text


@pytest.mark.parametrize(
    "hint", ["zebra=h.0", "l=zebra", "l.[0]=h.0", "l.0=h.*", "l.0.block.red=h.0.part.five"]
)
def test_hint_that_says_nothing(hint: str) -> None:
    """A hint that pairs nothing is an error that quotes it, and not as if nothing had been said."""
    with pytest.raises(UsageError) as caught:
        matched(numbered("l.", FOUR, 2), numbered("h.", OTHER_FOUR, 2), hint)
    assert hint in "\n".join([str(caught.value), *caught.value.details])


def test_hint_on_modules_that_share_nothing() -> None:
    """Modules of which nothing fits are never filled against the hint."""
    ours, theirs = merged(linear("a", 3, 4), linear("b")), merged(linear("x", 3, 4), linear("y"))
    with pytest.raises(UsageError) as caught:
        matched(ours, theirs, "a=y")
    assert "a=y" in str(caught.value)


def test_one_tensor_for_two_targets() -> None:
    """An embedding that is the head as well is named twice."""
    ours, theirs = {"emb.weight": (5, 4), "x.weight": (5, 4)}, {"e.weight": (5, 4), "h.weight": (5, 4)}
    plan = matched(file({**ours}), file({**theirs}), "emb.weight=h.weight", "emb.weight=e.weight")
    assert claims(plan) == {"e.weight": "emb.weight", "h.weight": "emb.weight"}
    assert set(labels(plan).values()) == {"certain"}
    assert [each.name for each in plan.unused] == ["x.weight"]


# --------------------------------------------------------------------------- doubts


def doubtful() -> dict[str, tuple[Side, Side]]:
    """Sides that leave something open."""
    two = merged(linear("a"), linear("b"))
    return {
        "two modules": (safetensors(merged(linear("red"), linear("blue"))), file(two)),
        "four modules": (safetensors(FOUR), definition(OTHER_FOUR)),
        "four modules in blocks": (safetensors(numbered("l.", FOUR, 3)), file(numbered("h.", OTHER_FOUR, 3))),
        "two towers": (safetensors(TOWERS), definition(OTHER_TOWERS)),
        "bare tensors": (safetensors({"u": (4, 4), "w": (4, 4), "k": (3, 4)}),
                         file({"p": (4, 4), "q": (4, 4), "r": (3, 4)})),
    }  # fmt: skip


@pytest.mark.parametrize("name", doubtful())
def test_doubts_name_candidates_and_settle(name: str) -> None:
    """
    Each doubt names targets and candidates, and the hint that it proposes settles those targets.
    """
    source, target = doubtful()[name]
    plan = matched(source, target)
    ours, theirs = ({row.name for row in side.table} for side in (source, target))
    assert plan.doubts
    for doubt in plan.doubts:
        assert set(doubt.targets) <= theirs
        assert len(doubt.candidates) > 1
        assert set(doubt.candidates) <= ours
        settled = matched(source, target, hint_in(doubt.settle))
        found = {each.target: each for each in settled.assignments}
        for wanted in doubt.targets:
            assert found[wanted].label == "certain", doubt.settle
            assert found[wanted].reason == AS_HINTED, doubt.settle
            assert found[wanted].sources[0] in doubt.candidates, doubt.settle


@pytest.mark.parametrize("name", doubtful())
def test_every_ambiguous_row_has_a_doubt(name: str) -> None:
    """What is called ambiguous is in a doubt, and what is in a doubt is called ambiguous."""
    plan = matched(*doubtful()[name])
    ambiguous = {target for target, label in labels(plan).items() if label == "ambiguous"}
    assert ambiguous == {target for doubt in plan.doubts for target in doubt.targets}


@pytest.mark.parametrize("name", doubtful())
def test_doubts_are_settled_one_by_one(name: str) -> None:
    """Whoever follows the first doubt's proposal again and again comes to a plan without any."""
    source, target = doubtful()[name]
    hints: list[str] = []
    while (plan := matched(source, target, *hints)).doubts:
        hints.append(hint_in(plan.doubts[0].settle))
        assert len(hints) <= len(target.table), hints
    assert not plan.is_ambiguous
    assert len({name for each in plan.assignments for name in each.sources}) == len(target.table)


def lone_ambiguities() -> dict[str, tuple[Tensors, Tensors]]:
    """Sides where a claim is in doubt although nothing else could be there."""
    return {
        "rows that may go head by head": (
            merged(linear("attn.query_key_value", 24, 8), linear("attn.dense")),
            merged(linear("attn.qkv", 24, 8), linear("attn.proj")),
        ),
        "pixels before or after channels": (
            merged(conv("patch_embed.proj", 8, 3, 4, bias=True), linear("head", 5)),
            merged(linear("to_patch_embedding", 8, 48), linear("head", 5)),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", lone_ambiguities())
def test_layouts_that_nothing_tells(name: str) -> None:
    """Elements that may lie in another order are ambiguous, even where only one tensor fits."""
    plan = matched(*lone_ambiguities()[name])
    assert plan.is_ambiguous
    assert plan.is_complete
