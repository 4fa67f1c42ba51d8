"""What gets nothing and what goes nowhere: heads of another size, constants, ties, unused branches."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from made_sides import (
    Tensors,
    batch_norm,
    claims,
    conv,
    definition,
    file,
    labels,
    linear,
    matched,
    merged,
    norm,
    numbered,
    safetensors,
)

from modelinspect.transplant.plan import Plan

BLOCK = merged(norm("norm1"), linear("fc1", 16, 8), linear("fc2", 8, 16))
BODY = merged(linear("stem", 8, 3), numbered("layers.", BLOCK, 2), norm("norm"))
OTHER = merged(linear("inlet", 8, 3), numbered("blocks.", BLOCK, 2), norm("final_norm"))


def missing(plan: Plan) -> dict[str, bool]:
    """Names that get nothing: does the target make them itself?"""
    return {each.name: each.is_made for each in plan.missing}


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors with a prefix before their names."""
    return {f"{prefix}.{name}": shape for name, shape in tensors.items()}


def unused(plan: Plan) -> set[str]:
    """Names that go nowhere."""
    return {each.name for each in plan.unused}


# ---------------------------------------------------------------------------- heads


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), [("head", "head"), ("classifier", "head"), ("fc", "classifier")])
def test_head_of_another_size_is_missing(ours: str, theirs: str, is_sorted: bool) -> None:
    """A head for ten classes gets nothing from one for a thousand, and both shapes are named."""
    tensors = merged(BODY, linear(ours, 1000, 8))
    source = safetensors(tensors) if is_sorted else file(tensors)
    plan = matched(source, definition(merged(OTHER, linear(theirs, 10, 8))))
    assert missing(plan) == {f"{theirs}.weight": False, f"{theirs}.bias": False}
    assert unused(plan) == {f"{ours}.weight", f"{ours}.bias"}
    assert len(plan.assignments) == len(BODY)
    assert not plan.is_complete
    reasons = {each.name: each.why for each in plan.missing}
    assert "[1000, 8]" in reasons[f"{theirs}.weight"]
    assert "[10, 8]" in reasons[f"{theirs}.weight"]
    assert "[1000]" in reasons[f"{theirs}.bias"]


def test_head_is_not_filled_with_what_happens_to_fit() -> None:
    """A stranger of the head's size is no head: it stays unused."""
    ours = merged(BODY, linear("projection_for_contrast", 10, 8), linear("head", 1000, 8))
    plan = matched(safetensors(ours), merged(BODY, linear("head", 10, 8)))
    assert missing(plan) == {"head.weight": False, "head.bias": False}
    assert "projection_for_contrast.weight" in unused(plan)


def test_unused_branch() -> None:
    """A second head and a teacher that the target doesn't have go nowhere, and all else arrives."""
    ours = merged(BODY, linear("head", 10, 8), linear("aux_head", 10, 8), numbered("teacher.", BLOCK, 3))
    theirs = merged(OTHER, linear("head", 10, 8))
    plan = matched(safetensors(ours), theirs)
    assert plan.is_complete
    assert {name for name in unused(plan) if name.startswith(("aux_head", "teacher"))} == unused(plan)
    assert claims(plan)["head.weight"] == "head.weight"
    assert len(unused(plan)) == 2 + 3 * len(BLOCK)


def test_half_of_the_target_is_missing() -> None:
    """A source without the decoder fills the encoder and leaves the decoder, whatever would fit."""
    ours = numbered("encoder.layers.", BLOCK, 3)
    theirs = merged(numbered("encoder.blocks.", BLOCK, 3), numbered("decoder.blocks.", BLOCK, 3))
    plan = matched(ours, theirs)
    assert claims(plan) == {
        f"encoder.blocks.{at}.{name}": f"encoder.layers.{at}.{name}" for at in range(3) for name in BLOCK
    }
    assert all(name.startswith("decoder") for name in missing(plan))


# ------------------------------------------------------------------------ constants


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("embeddings.position_ids", (1, 512)),
        ("embeddings.token_type_ids", (1, 512)),
        ("layers.0.attn.rotary.inv_freq", (4,)),
        ("layers.0.attn.relative_position_index", (49, 49)),
        ("layers.0.attn.causal_mask", (1, 1, 16, 16)),
        ("layers.0.attn.masked_bias", ()),
        ("h.0.attn.bias", (1, 1, 16, 16)),
        ("stem.num_batches_tracked", ()),
    ],
)
def test_constants_are_made(name: str, shape: tuple[int, ...]) -> None:
    """What the target makes itself is told apart from what is missing, for a class and for a file."""
    theirs = merged(OTHER, {name: shape})
    for target in (definition(theirs, buffers=[name]), file(theirs), safetensors(theirs)):
        plan = matched(BODY, target)
        assert missing(plan) == {name: True}
        assert plan.is_complete


def test_other_buffers_of_a_class_are_made() -> None:
    """A buffer that the class registers under any name is its own affair, if the source has none."""
    theirs = merged(OTHER, {"window_of_hann": (400,)})
    plan = matched(BODY, definition(theirs, buffers=["window_of_hann"]))
    assert missing(plan) == {"window_of_hann": True}


def test_constants_of_the_source_are_left() -> None:
    """Masks and ids that the target doesn't keep are unused, and take no weight's place."""
    ours = merged(BODY, {"embeddings.position_ids": (1, 8), "h.0.attn.bias": (1, 1, 8, 8)})
    plan = matched(safetensors(ours), merged(OTHER))
    assert unused(plan) == {"embeddings.position_ids", "h.0.attn.bias"}
    assert plan.is_complete


def test_mask_of_gpt2_is_no_bias() -> None:
    """``attn.bias`` is a mask where it is square, and ``c_attn.bias`` beside it a bias."""
    attention = merged({"bias": (1, 1, 16, 16)}, linear("c_attn", 24, 8), linear("c_proj"))
    ours = merged(*(under(f"h.{at}.attn", attention) for at in range(2)))
    theirs = merged(
        *(merged(linear(f"l.{at}.a.c_attn", 24, 8), linear(f"l.{at}.a.c_proj")) for at in range(2))
    )
    plan = matched(safetensors(ours), theirs)
    assert {name: source for name, source in claims(plan).items() if name.endswith("bias")} == {
        f"l.{at}.a.{part}.bias": f"h.{at}.attn.{part}.bias"
        for at in range(2)
        for part in ("c_attn", "c_proj")
    }
    assert unused(plan) == {"h.0.attn.bias", "h.1.attn.bias"}


@pytest.mark.parametrize("is_sorted", [False, True])
def test_old_files_count_no_batches(is_sorted: bool) -> None:
    """Counters that an old file lacks are made, and the statistics beside them arrive."""
    ours = merged(*(merged(conv(f"c{at}"), batch_norm(f"n{at}", is_old=True)) for at in range(3)))
    theirs = merged(*(merged(conv(f"b.{at}.0"), batch_norm(f"b.{at}.1")) for at in range(3)))
    plan = matched(safetensors(ours) if is_sorted else ours, definition(theirs))
    assert missing(plan) == {f"b.{at}.1.num_batches_tracked": True for at in range(3)}
    expected = {f"b.{at}.0.weight": f"c{at}.weight" for at in range(3)}
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        expected |= {f"b.{at}.1.{leaf}": f"n{at}.{leaf}" for at in range(3)}
    assert claims(plan) == expected


def test_constants_of_one_name_are_copied() -> None:
    """Where both sides keep the same constant in modules that correspond, it is taken along."""
    name = "layers.0.norm1.relative_position_index"
    plan = matched(merged(BODY, {name: (4, 4)}), file(merged(OTHER, {"blocks.0.norm1." + name[15:]: (4, 4)})))
    assert claims(plan).get("blocks.0.norm1.relative_position_index") == name


# ----------------------------------------------------------------------------- ties

TIED = {"head.weight": "embed.weight"}
LANGUAGE = merged({"embed.weight": (50, 8)}, numbered("layers.", BLOCK, 2), {"head.weight": (50, 8)})
OTHER_TIED = {"lm_head.weight": "tok_embeddings.weight"}
OTHER_LANGUAGE = merged(
    {"tok_embeddings.weight": (50, 8)}, numbered("h.", BLOCK, 2), {"lm_head.weight": (50, 8)}
)


def without(tensors: Tensors, name: str) -> Tensors:
    """All tensors but one."""
    return {other: shape for other, shape in tensors.items() if other != name}


def ends(plan: Plan) -> Mapping[str, str]:
    """What the embedding and the head get."""
    found = claims(plan)
    return {name: found[name] for name in ("tok_embeddings.weight", "lm_head.weight") if name in found}


BOTH_FROM_ONE = {"tok_embeddings.weight": "embed.weight", "lm_head.weight": "embed.weight"}


def test_tied_on_both_sides() -> None:
    """A tied head has an assignment of its own, from the same tensor."""
    plan = matched(file(LANGUAGE, tied=TIED), definition(OTHER_LANGUAGE, tied=OTHER_TIED))
    assert ends(plan) == BOTH_FROM_ONE
    assert plan.is_complete
    assert not plan.unused


def test_second_name_was_dropped() -> None:
    """A file of safetensors keeps a tied tensor once: it fills both names of the target."""
    source = safetensors(without(LANGUAGE, "head.weight"))
    plan = matched(source, definition(OTHER_LANGUAGE, tied=OTHER_TIED))
    assert ends(plan) == BOTH_FROM_ONE


def test_first_name_was_dropped() -> None:
    """The name that safetensors keeps may be that of the head."""
    source = safetensors(without(LANGUAGE, "embed.weight"))
    plan = matched(source, definition(OTHER_LANGUAGE, tied=OTHER_TIED))
    assert ends(plan) == {"tok_embeddings.weight": "head.weight", "lm_head.weight": "head.weight"}
    assert plan.is_complete


@pytest.mark.parametrize("is_dropped", [False, True])
def test_untied_head_from_a_tied_source(is_dropped: bool) -> None:
    """A target whose head is a tensor of its own gets the source's embedding, never as certain."""
    source = safetensors(without(LANGUAGE, "head.weight")) if is_dropped else file(LANGUAGE, tied=TIED)
    plan = matched(source, definition(OTHER_LANGUAGE))
    assert ends(plan) == BOTH_FROM_ONE
    assert plan.is_complete
    assert labels(plan)["lm_head.weight"] == "likely"


def test_untied_source_does_not_fill_a_tied_target_by_halves() -> None:
    """A target that ties gets one tensor under both names, and the source's other one is unused."""
    plan = matched(file(LANGUAGE), definition(OTHER_LANGUAGE, tied=OTHER_TIED))
    found = ends(plan)
    assert len(set(found.values())) == 1
    assert len(found) == 2
    assert len(plan.unused) == 1


def test_head_is_not_invented() -> None:
    """A source with a head of its own in another size ties nothing."""
    ours = without(LANGUAGE, "head.weight") | {"head.weight": (7, 8)}
    plan = matched(safetensors(ours), definition(OTHER_LANGUAGE))
    assert missing(plan) == {"lm_head.weight": False}
