"""Elements that are equal while shapes differ: each claim is applied and gives what it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_sides import (
    Tensors,
    claims,
    conv,
    definition,
    labels,
    linear,
    matched,
    merged,
    norm,
    numbered,
    safetensors,
    values_of,
)
from numpy.typing import NDArray

from modelinspect.transplant.plan import Plan

Arrays = dict[str, NDArray[Any]]


def applied(source: Tensors, plan: Plan) -> tuple[Arrays, Arrays]:
    """Arrays of the source in which no number comes twice, and what the plan makes of them."""
    values = values_of(source)
    return values, plan.apply(values)


def assert_equal(made: Arrays, expected: Arrays) -> None:
    """The same names, shapes and numbers."""
    assert made.keys() == expected.keys()
    for name, array in expected.items():
        assert made[name].shape == array.shape, name
        assert np.array_equal(made[name], array), name


# ---------------------------------------------------------------------- transposed

TURNED_BLOCK: Tensors = {
    "ln_1.weight": (8,), "ln_1.bias": (8,),
    "mlp.c_fc.weight": (8, 32), "mlp.c_fc.bias": (32,),
    "mlp.c_proj.weight": (32, 8), "mlp.c_proj.bias": (8,),
    "attn.c_proj.weight": (8, 8), "attn.c_proj.bias": (8,),
}  # fmt: skip
STRAIGHT_BLOCK = merged(
    norm("norm1"), linear("attn.out_proj"), linear("ffn.up", 32, 8), linear("ffn.down", 8, 32)
)
OF_STRAIGHT = {
    "norm1": "ln_1",
    "attn.out_proj": "attn.c_proj",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}


@pytest.mark.parametrize("is_sorted", [False, True])
def test_square_matrices_turn_as_their_siblings(is_sorted: bool) -> None:
    """In a network whose oblong matrices lie the other way, square ones do; tables of embeddings don't."""
    ours = merged({"wte.weight": (8, 8)}, numbered("h.", TURNED_BLOCK, 2))
    theirs = merged({"tok_emb.weight": (8, 8)}, numbered("blocks.", STRAIGHT_BLOCK, 2))
    plan = matched(safetensors(ours) if is_sorted else ours, definition(theirs))
    values, made = applied(ours, plan)
    expected = {"tok_emb.weight": values["wte.weight"]}
    for at in range(2):
        for module, other in OF_STRAIGHT.items():
            weight = values[f"h.{at}.{other}.weight"]
            expected[f"blocks.{at}.{module}.weight"] = weight.T
            expected[f"blocks.{at}.{module}.bias"] = values[f"h.{at}.{other}.bias"]
    assert_equal(made, expected)


def test_square_matrices_turn_back() -> None:
    """The same in the other direction."""
    ours = merged({"tok_emb.weight": (8, 8)}, numbered("blocks.", STRAIGHT_BLOCK, 2))
    theirs = merged({"wte.weight": (8, 8)}, numbered("h.", TURNED_BLOCK, 2))
    values, made = applied(ours, matched(safetensors(ours), theirs))
    expected = {"wte.weight": values["tok_emb.weight"]}
    for at in range(2):
        for module, other in OF_STRAIGHT.items():
            expected[f"h.{at}.{other}.weight"] = values[f"blocks.{at}.{module}.weight"].T
            expected[f"h.{at}.{other}.bias"] = values[f"blocks.{at}.{module}.bias"]
    assert_equal(made, expected)


def test_straight_networks_keep_square_matrices() -> None:
    """Without an oblong matrix that is turned, none is."""
    ours, theirs = numbered("l.", STRAIGHT_BLOCK, 2), numbered("h.", STRAIGHT_BLOCK, 2)
    assert all("transpose" not in claim for claim in claims(matched(ours, theirs)).values())


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_kernels_with_channels_last(axes: int) -> None:
    """Kernels kept as (…, in, out) become (out, in, …), square ones too."""
    size = (3, 5, 7)[:axes]
    ours: Tensors = {"a.kernel": (*size, 3, 8), "b.kernel": (*size, 8, 8), "c.kernel": (*size, 8, 16)}
    theirs: Tensors = {"x.weight": (8, 3, *size), "y.weight": (8, 8, *size), "z.weight": (16, 8, *size)}
    axes_of = (axes + 1, axes, *range(axes))
    values, made = applied(ours, matched(ours, theirs))
    assert_equal(made, {
        other: values[name].transpose(axes_of)
        for name, other in (("a.kernel", "x.weight"), ("b.kernel", "y.weight"), ("c.kernel", "z.weight"))
    })  # fmt: skip


# ------------------------------------------------------------------------- reshaped


def test_pointwise_convolution_is_linear() -> None:
    """A kernel of 1 × 1 and a matrix are reshaped into each other."""
    ours = merged(conv("c1", 16, 8, 1, bias=True), norm("n", 16), conv("c2", 8, 16, 1, bias=True))
    theirs = merged(linear("fc1", 16, 8), norm("ln", 16), linear("fc2", 8, 16))
    there = matched(safetensors(ours), theirs)
    values, made = applied(ours, there)
    expected = {
        "fc1.weight": values["c1.weight"].reshape(16, 8), "fc1.bias": values["c1.bias"],
        "ln.weight": values["n.weight"], "ln.bias": values["n.bias"],
        "fc2.weight": values["c2.weight"].reshape(8, 16), "fc2.bias": values["c2.bias"],
    }  # fmt: skip
    assert_equal(made, expected)
    back = matched(safetensors(theirs), ours)
    assert_equal(back.apply(made), values)


def test_scale_with_axes_of_one() -> None:
    """A scale per channel is squeezed or unsqueezed."""
    ours: Tensors = merged({"layer_scale": (8,)}, linear("proj", 16, 8), {"pos_embed": (1, 5, 8)})
    theirs: Tensors = merged({"gamma": (8, 1, 1)}, linear("out", 16, 8), {"position_embedding": (5, 8)})
    values, made = applied(ours, matched(safetensors(ours), theirs))
    assert np.array_equal(made["gamma"], values["layer_scale"].reshape(8, 1, 1))
    assert np.array_equal(made["position_embedding"], values["pos_embed"][0])


# ------------------------------------------------------------------ fused and split

SPLIT_ATTENTION = merged(linear("q_proj"), linear("k_proj"), linear("v_proj"), linear("out_proj"))
FUSED_ATTENTION = merged(linear("qkv", 24, 8), linear("proj"))
NET_AROUND = merged(norm("norm1"), linear("mlp.fc1", 32, 8), linear("mlp.fc2", 8, 32))


def attention(module: str, tensors: Tensors, prefix: str) -> Tensors:
    """Blocks around an attention."""
    block = merged(NET_AROUND, {f"{module}.{name}": shape for name, shape in tensors.items()})
    return numbered(prefix, block, 2)


@pytest.mark.parametrize("is_sorted", [False, True])
def test_query_key_and_value_are_fused(is_sorted: bool) -> None:
    """Three projections become one, in the order q, k, v, weights and biases."""
    ours, theirs = attention("attn", SPLIT_ATTENTION, "l."), attention("sa", FUSED_ATTENTION, "h.")
    plan = matched(safetensors(ours) if is_sorted else ours, theirs)
    values, made = applied(ours, plan)
    for at in range(2):
        for leaf in ("weight", "bias"):
            parts = [values[f"l.{at}.attn.{each}_proj.{leaf}"] for each in "qkv"]
            assert np.array_equal(made[f"h.{at}.sa.qkv.{leaf}"], np.concatenate(parts))
            assert np.array_equal(made[f"h.{at}.sa.proj.{leaf}"], values[f"l.{at}.attn.out_proj.{leaf}"])
    assert labels(plan)["h.0.sa.qkv.weight"] == "likely"


@pytest.mark.parametrize("fused", ["qkv", "in_proj", "Wqkv", "c_attn"])
def test_fused_projection_is_split(fused: str) -> None:
    """One projection becomes three, whatever it is called, and the way back gives it again."""
    whole = merged(linear(fused, 24, 8), linear("proj"))
    ours, theirs = attention("attn", whole, "l."), attention("attn", SPLIT_ATTENTION, "h.")
    values, made = applied(ours, matched(safetensors(ours), theirs))
    for at in range(2):
        for leaf in ("weight", "bias"):
            parts = np.split(values[f"l.{at}.attn.{fused}.{leaf}"], 3)
            for each, part in zip("qkv", parts):
                assert np.array_equal(made[f"h.{at}.attn.{each}_proj.{leaf}"], part)
    assert_equal(matched(theirs, ours).apply(made), values)


def test_grouped_queries_are_fused() -> None:
    """Keys and values with fewer heads than queries take fewer rows."""
    split = merged(linear("q_proj", 8, 8), linear("k_proj", 2, 8), linear("v_proj", 2, 8), linear("o_proj"))
    ours = attention("attn", split, "l.")
    theirs = attention("attn", merged(linear("wqkv", 12, 8), linear("wo")), "h.")
    values, made = applied(ours, matched(ours, theirs))
    parts = [values[f"l.0.attn.{each}_proj.weight"] for each in "qkv"]
    assert np.array_equal(made["h.0.attn.wqkv.weight"], np.concatenate(parts))


def test_missing_key_bias_is_zeros() -> None:
    """Keys without a bias get zeros in the fused one, as a bias of keys changes no attention."""
    split = merged(linear("q_proj"), linear("k_proj", bias=False), linear("v_proj"), linear("out_proj"))
    ours, theirs = attention("attn", split, "l."), attention("attn", FUSED_ATTENTION, "h.")
    values, made = applied(ours, matched(safetensors(ours), theirs))
    bias = [values["l.1.attn.q_proj.bias"], np.zeros(8), values["l.1.attn.v_proj.bias"]]
    assert np.array_equal(made["h.1.attn.qkv.bias"], np.concatenate(bias))
    weight = [values[f"l.1.attn.{each}_proj.weight"] for each in "qkv"]
    assert np.array_equal(made["h.1.attn.qkv.weight"], np.concatenate(weight))


def test_fused_and_transposed() -> None:
    """A fused projection that lies the other way round is turned and cut."""
    ours = merged(*(merged(
        {f"h.{at}.ln.weight": (8,), f"h.{at}.ln.bias": (8,),
         f"h.{at}.attn.c_attn.weight": (8, 24), f"h.{at}.attn.c_attn.bias": (24,),
         f"h.{at}.attn.c_proj.weight": (8, 8), f"h.{at}.attn.c_proj.bias": (8,)},
    ) for at in range(2)))  # fmt: skip
    theirs = numbered(
        "l.", merged(norm("norm"), {f"attn.{name}": shape for name, shape in SPLIT_ATTENTION.items()}), 2
    )
    values, made = applied(ours, matched(safetensors(ours), theirs))
    for each, part in zip("qkv", np.split(values["h.1.attn.c_attn.weight"].T, 3)):
        assert np.array_equal(made[f"l.1.attn.{each}_proj.weight"], part)
    assert np.array_equal(made["l.1.attn.out_proj.weight"], values["h.1.attn.c_proj.weight"].T)


@pytest.mark.parametrize("fused", ["gate_up_proj", "gate_up"])
def test_gate_and_up(fused: str) -> None:
    """The two halves of a gated net are joined, the gate first, and cut again."""
    split = merged(*(linear(f"mlp.{name}", *shape, bias=False) for name, shape in
                     (("gate_proj", (16, 8)), ("up_proj", (16, 8)), ("down_proj", (8, 16)))))  # fmt: skip
    whole = merged(linear(f"ff.{fused}", 32, 8, bias=False), linear("ff.down", 8, 16, bias=False))
    ours = numbered("l.", merged(norm("norm"), split), 2)
    theirs = numbered("h.", merged(norm("ln"), whole), 2)
    values, made = applied(ours, matched(safetensors(ours), theirs))
    halves = [values["l.0.mlp.gate_proj.weight"], values["l.0.mlp.up_proj.weight"]]
    assert np.array_equal(made[f"h.0.ff.{fused}.weight"], np.concatenate(halves))
    assert_equal(matched(safetensors(theirs), ours).apply(made), values)


def test_gates_that_one_side_names() -> None:
    """Four matrices named after their gates are torch's LSTM, in the order i, f, g, o."""
    ours: Tensors = {}
    for gate in ("forget", "output", "input", "cell"):
        ours |= {f"rnn.{gate}_x.weight": (8, 6), f"rnn.{gate}_x.bias": (8,), f"rnn.{gate}_h.weight": (8, 8)}
    ours |= linear("head", 3, 8)
    theirs: Tensors = {
        "lstm.weight_ih_l0": (32, 6), "lstm.weight_hh_l0": (32, 8),
        "lstm.bias_ih_l0": (32,), "lstm.bias_hh_l0": (32,),
        "fc.weight": (3, 8), "fc.bias": (3,),
    }  # fmt: skip
    values, made = applied(ours, matched(ours, theirs))
    order = ("input", "forget", "cell", "output")
    for target, source in (("weight_ih_l0", "x.weight"), ("weight_hh_l0", "h.weight")):
        parts = [values[f"rnn.{gate}_{source}"] for gate in order]
        assert np.array_equal(made[f"lstm.{target}"], np.concatenate(parts))


# -------------------------------------------------------------------------- stacked


def test_stacked_experts_and_a_list() -> None:
    """One tensor of all experts is a list of modules, in the order of their numbers, even past ten."""
    ours = merged(norm("l.0.norm"), {"l.0.moe.experts.w1": (12, 16, 8), "l.0.moe.experts.w2": (12, 8, 16)},
                  linear("l.0.moe.router", 12, 8, bias=False))  # fmt: skip
    expert = merged(linear("up", 16, 8, bias=False), linear("down", 8, 16, bias=False))
    theirs = merged(norm("h.0.ln"), linear("h.0.ff.gate", 12, 8, bias=False),
                    numbered("h.0.ff.experts.", expert, 12))  # fmt: skip
    values, made = applied(ours, matched(safetensors(ours), theirs))
    for at in range(12):
        assert np.array_equal(made[f"h.0.ff.experts.{at}.up.weight"], values["l.0.moe.experts.w1"][at])
        assert np.array_equal(made[f"h.0.ff.experts.{at}.down.weight"], values["l.0.moe.experts.w2"][at])
    assert_equal(matched(safetensors(theirs), ours).apply(made), values)


# ----------------------------------------------------------------------- embeddings

BODY = merged(norm("norm"), linear("fc1", 16, 8), linear("fc2", 8, 16))


@pytest.mark.parametrize(("rows", "wanted"), [(50, 64), (64, 50)])
def test_embedding_with_other_rows(rows: int, wanted: int) -> None:
    """A vocabulary padded at its end is cut, or filled with zeros, and never called certain."""
    ours = merged({"tok_embeddings.weight": (rows, 8)}, BODY)
    plan = matched(safetensors(ours), merged({"embed_tokens.weight": (wanted, 8)}, BODY))
    values, made = applied(ours, plan)
    table, common = made["embed_tokens.weight"], min(rows, wanted)
    assert table.shape == (wanted, 8)
    assert np.array_equal(table[:common], values["tok_embeddings.weight"][:common])
    assert not table[common:].any()
    assert labels(plan)["embed_tokens.weight"] == "likely"


def test_positions_with_an_offset_of_two() -> None:
    """Two positions that are kept free for padding are at the front."""
    ours = merged({"embed_positions.weight": (34, 8), "embed_tokens.weight": (50, 8)}, BODY)
    theirs = merged({"wpe.weight": (32, 8), "wte.weight": (50, 8)}, BODY)
    values, made = applied(ours, matched(safetensors(ours), theirs))
    assert np.array_equal(made["wpe.weight"], values["embed_positions.weight"][2:])


def test_positions_of_another_length_are_missing() -> None:
    """Positions for another length of text are not cut to size."""
    ours = merged({"wpe.weight": (64, 8), "wte.weight": (50, 8)}, BODY)
    theirs = merged({"position_embedding.weight": (32, 8), "token_embedding.weight": (50, 8)}, BODY)
    plan = matched(safetensors(ours), theirs)
    assert [each.name for each in plan.missing] == ["position_embedding.weight"]
    assert "[64, 8]" in plan.missing[0].why
