"""Equal content is found however either author nested, numbered and named it."""

from __future__ import annotations

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

BLOCK = merged(norm("norm1"), linear("fc1", 16, 8), linear("fc2", 8, 16))


def renamed(tensors: Tensors, *changes: tuple[str, str]) -> dict[str, str]:
    """Each new name to the old one."""
    found = {}
    for name in tensors:
        other = name
        for old, new in changes:
            other = other.replace(old, new)
        found[other] = name
    assert len(found) == len(tensors)
    return found


def under(names: dict[str, str], tensors: Tensors) -> Tensors:
    """The tensors under their new names."""
    return {name: tensors[old] for name, old in names.items()}


def test_equal_names_are_certain() -> None:
    """A state_dict goes into the class that it came from, and nothing is left to say."""
    tensors = merged(linear("embed"), numbered("layers.", BLOCK, 3), linear("head", 5))
    plan = matched(tensors, definition(tensors))
    assert claims(plan) == {name: name for name in tensors}
    assert set(labels(plan).values()) == {"certain"}
    assert (plan.missing, plan.unused, plan.doubts) == ((), (), ())


@pytest.mark.parametrize("prefix", ["module", "model.backbone", "_orig_mod"])
def test_a_prefix_more_or_less_is_certain(prefix: str) -> None:
    """A prefix that all names have on one side changes nothing, on either side."""
    tensors = merged(linear("embed"), numbered("layers.", BLOCK, 3), linear("head", 5))
    longer = {f"{prefix}.{name}": shape for name, shape in tensors.items()}
    there, back = matched(safetensors(longer), tensors), matched(safetensors(tensors), longer)
    assert claims(there) == {name: f"{prefix}.{name}" for name in tensors}
    assert claims(back) == {f"{prefix}.{name}": name for name in tensors}
    assert set(labels(there).values()) == set(labels(back).values()) == {"certain"}


def test_other_nesting() -> None:
    """What is flat in the one and two levels deeper in the other is the same."""
    flat = merged(linear("fc1", 16, 8), norm("ln", 16), linear("fc2", 5, 16))
    names = renamed(flat, ("fc1", "body.first.lin"), ("ln", "body.first.act.norm"), ("fc2", "head.out"))
    plan = matched(safetensors(flat), under(names, flat))
    assert claims(plan) == names
    assert plan.is_complete


@pytest.mark.parametrize("is_sorted", [False, True])
def test_blocks_numbered_from_one(is_sorted: bool) -> None:
    """Block 1 of the one is block 0 of the other, all the way up to block 12."""
    ours = numbered("block", BLOCK, 12, start=1)
    names = {f"layers.{at - 1}.{name}": f"block{at}.{name}" for at in range(1, 13) for name in BLOCK}
    plan = matched(safetensors(ours) if is_sorted else ours, under(names, ours))
    assert claims(plan) == names


def test_stages_against_a_flat_list() -> None:
    """Two stages of three and four blocks are one list of seven, counted through."""
    stages = merged(numbered("stages.0.", BLOCK, 3), numbered("stages.1.", BLOCK, 4))
    flat = numbered("layers.", BLOCK, 7)
    order = [f"stages.{stage}.{at}" for stage, count in ((0, 3), (1, 4)) for at in range(count)]
    names = {f"layers.{at}.{name}": f"{order[at]}.{name}" for at in range(7) for name in BLOCK}
    assert claims(matched(stages, flat)) == names
    assert claims(matched(flat, stages)) == {old: new for new, old in names.items()}


def test_registered_backwards() -> None:
    """A target that registers its blocks from the last to the first gets them by their numbers."""
    ours = numbered("layers.", BLOCK, 5)
    names = {f"h.{at}.{name}": f"layers.{at}.{name}" for at in reversed(range(5)) for name in BLOCK}
    assert claims(matched(safetensors(ours), definition(under(names, ours)))) == names


def test_first_block_with_something_more() -> None:
    """The relative bias that only the first block has doesn't move the count of the others."""
    ours = merged({"layers.0.attn.relative_bias.weight": (32, 4)}, numbered("layers.", BLOCK, 4))
    names = renamed(
        ours, ("attn.relative_bias", "attention.rel_bias"), ("layers", "encoder.block"), ("fc", "ff.w")
    )
    assert claims(matched(safetensors(ours), under(names, ours))) == names


@pytest.mark.parametrize("words", [("text", "vision", "txt", "visual"), ("encoder", "decoder", "enc", "dec")])
def test_equal_towers_go_by_name(words: tuple[str, ...]) -> None:
    """Two towers of equal shapes are told apart by what they are called, against their order."""
    one, two, first, second = words
    ours = merged(numbered(f"{one}.layers.", BLOCK, 3), numbered(f"{two}.layers.", BLOCK, 3))
    theirs = merged(numbered(f"{second}.h.", BLOCK, 3), numbered(f"{first}.h.", BLOCK, 3))
    plan = matched(ours, theirs)
    names = {f"{b}.h.{at}.{name}": f"{a}.layers.{at}.{name}" for a, b in ((one, first), (two, second))
             for at in range(3) for name in BLOCK}  # fmt: skip
    assert claims(plan) == names
    assert set(labels(plan).values()) <= {"certain", "likely"}


def test_equal_towers_without_names_are_ambiguous() -> None:
    """Where words say nothing and the source has no order, no tower is claimed."""
    ours = merged(numbered("alpha.layers.", BLOCK, 3), numbered("omega.layers.", BLOCK, 3))
    theirs = merged(numbered("netx.h.", BLOCK, 3), numbered("nety.h.", BLOCK, 3))
    plan = matched(safetensors(ours), theirs)
    assert set(labels(plan).values()) == {"ambiguous"}
    assert plan.doubts


def test_modules_stay_together() -> None:
    """Of four modules of one shape, a weight and its bias come from the same one."""
    ours = merged(*(linear(f"block.{name}") for name in ("red", "green", "blue", "grey")))
    theirs = merged(*(linear(f"part.{name}") for name in ("one", "two", "three", "four")))
    for source in (file(ours), safetensors(ours)):
        found = claims(matched(source, theirs))
        for name in ("one", "two", "three", "four"):
            weight, bias = found[f"part.{name}.weight"], found[f"part.{name}.bias"]
            assert weight.removesuffix("weight") == bias.removesuffix("bias")


@pytest.mark.parametrize("is_sorted", [False, True])
def test_statistics_are_not_weights(is_sorted: bool) -> None:
    """Four vectors of one shape in a batch norm go by their roles, in whatever order they are given."""
    ours = merged(*(merged(conv(f"c{at}"), batch_norm(f"b{at}")) for at in range(1, 4)))
    names = renamed(ours, ("c1", "s.0.0"), ("c2", "s.1.0"), ("c3", "s.2.0"),
                    ("b1", "s.0.1"), ("b2", "s.1.1"), ("b3", "s.2.1"))  # fmt: skip
    turned = dict(reversed(names.items()))
    plan = matched(safetensors(ours) if is_sorted else ours, definition(under(names, ours)))
    assert claims(plan) == names
    assert {name.rpartition(".")[2] for name in claims(matched(ours, under(turned, ours)))} == {
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked"
    }  # fmt: skip
    for target, source in claims(matched(ours, under(turned, ours))).items():
        assert target.rpartition(".")[2] == source.rpartition(".")[2]


def test_norms_of_other_frameworks() -> None:
    """Gamma, beta and the moving statistics are the weight, the bias and the running ones."""
    leaves = {
        "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
    }  # fmt: skip
    ours: Tensors = {f"n{at}.{leaf}": (8,) for at in range(2) for leaf in leaves}
    names = {f"norms.{at}.{theirs}": f"n{at}.{leaf}" for at in range(2) for leaf, theirs in leaves.items()}
    assert claims(matched(safetensors(ours), under(names, ours))) == names


def test_old_weight_norm_is_the_parametrized() -> None:
    """weight_g and weight_v are original0 and original1, in both directions."""
    ends = (
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
    )
    old: Tensors = {}
    names = {}
    for at in range(3):
        for (leaf, other), shape in zip(ends, ((8, 1, 1), (8, 8, 3))):
            old[f"convs.{at}.{leaf}"] = shape
            names[f"body.{at}.{other}"] = f"convs.{at}.{leaf}"
        old[f"convs.{at}.bias"] = (8,)
        names[f"body.{at}.bias"] = f"convs.{at}.bias"
    new = under(names, old)
    assert claims(matched(safetensors(old), new)) == names
    assert claims(matched(safetensors(new), old)) == {ours: theirs for theirs, ours in names.items()}


def test_lone_renamed_prefix_is_certain() -> None:
    """Where only the name of the container differs, nothing is in doubt."""
    ours = merged(linear("emb"), numbered("encoder.layers.", BLOCK, 3), linear("head", 5))
    names = renamed(ours, ("encoder.layers", "blocks"))
    plan = matched(safetensors(ours), under(names, ours))
    assert claims(plan) == names
    assert set(labels(plan).values()) == {"certain"}
