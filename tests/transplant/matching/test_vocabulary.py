"""What the words of names mean: concepts, roles of leaves, and where in a block something stands."""

from __future__ import annotations

import pytest

from modelinspect.transplant.matching.vocabulary import (
    Leaf,
    concepts_of,
    leaf_of,
    members_of,
    phase_of,
    tokens_of,
)


@pytest.mark.parametrize(
    ("component", "tokens"),
    [
        ("selfAttn_q2", ("self", "attn", "q", "2")),
        ("q_proj", ("q", "proj")),
        ("LayerNorm", ("layer", "norm")),
        ("layer4", ("layer", "4")),
        ("QKVProj", ("qkv", "proj")),
        ("weight_ih_l0", ("weight", "ih", "l", "0")),
        ("conv1x1", ("conv", "1", "x", "1")),
        ("", ()),
        ("é", ()),
    ],
)
def test_tokens(component: str, tokens: tuple[str, ...]) -> None:
    """Words are split at underscores, at changes of case and at numbers, and are lower case then."""
    assert tokens_of(component) == tokens


CONCEPTS = {
    ("qkvo", "q"): "attn.q_proj attention.query self_attn.linear_q attn.wq attn.to_q attn.q_lin",
    ("qkvo", "k"): "attn.k_proj attention.key self_attn.linear_k attn.wk attn.to_k attn.keys",
    ("qkvo", "v"): "attn.v_proj attention.value self_attn.linear_v attn.wv attn.to_v attn.values",
    ("qkvo", "o"): "attn.out_proj attn.o_proj self_attn.linear_out attn.wo attn.to_out.0 attn.c_proj",
    (
        "qkvo",
        "qkv",
    ): "attn.qkv attn.Wqkv attn.query_key_value attn.in_proj attn.c_attn attn.qkv_proj",
    ("qkvo", "kv"): "attn.kv attn.to_kv attn.key_value",
    ("glu", "gate"): "mlp.gate_proj ff.wi_0 mlp.gate",
    ("glu", "up"): "mlp.up_proj ff.wi_1 mlp.up",
    ("glu", "down"): "mlp.down_proj mlp.down",
    ("glu", "gate_up"): "mlp.gate_up_proj mlp.w13 mlp.gate_up",
    ("part", "attn"): "l.0.attention l.0.attn l.0.self_attn l.0.mha l.0.selfattention",
    ("part", "cross"): "l.0.cross_attn l.0.encoder_attn l.0.crossattention l.0.src_attn l.0.multihead_attn",
    ("part", "ff"): "l.0.mlp l.0.ffn l.0.feed_forward l.0.feedforward l.0.dense_h_to_4h",
    ("tower", "encoder"): "encoder.x enc.x src_embed",
    ("tower", "decoder"): "decoder.x dec.x tgt_embed",
    ("modality", "vision"): "visual.x vision_model.x img.x",
    ("modality", "text"): "text_model.x txt.x language.x",
    ("embedding", "pos"): "wpe pos_embed embed_positions position_embeddings positional_embedding",
    (
        "embedding",
        "word",
    ): "wte embed_tokens word_embeddings tok_embeddings token_embedding shared",
    ("embedding", "cls"): "cls_token class_token class_embedding",
    ("kind", "norm"): "ln_1 layernorm LayerNorm bn1 rms_norm norm2 batch_norm",
    ("kind", "head"): "lm_head classifier head output fc",
    ("kind", "shortcut"): "layer1.0.downsample.0 shortcut conv.identity skip.0",
    ("gates", "ih"): "rnn.weight_ih x2h",
    ("gates", "hh"): "rnn.weight_hh h2h",
    ("way", "reverse"): "lstm.bwd lstm.reverse lstm.backward",
    ("statistic", "var"): "bn.running_var bn.moving_variance",
}


@pytest.mark.parametrize(
    ("path", "concept"), [(path, concept) for concept, paths in CONCEPTS.items() for path in paths.split()]
)
def test_spellings_of_a_concept(path: str, concept: tuple[str, str]) -> None:
    """The many spellings of a thing mean it."""
    assert concept in concepts_of(path).members


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("layers.0.fc1", "qkvo"), ("pvt_v2.conv", "qkvo"), ("qkvish.x", "qkvo"), ("layers.0.norm1", "qkvo"),
        ("post_attention_layernorm", "part"), ("after_attn_norm", "part"), ("encoderish", "tower"),
        ("blocks.0.fc", "kind"), ("blocks.0.output", "kind"),
    ],
)  # fmt: skip
def test_words_that_mean_nothing_of_the_kind(path: str, family: str) -> None:
    """Parts of words, and words in another place, have no concept of that family."""
    if path == "pvt_v2.conv":
        assert "q" not in {member for found, member in concepts_of(path).members if found == family}
        return
    assert family not in {found for found, _ in concepts_of(path).members}


def test_longer_spellings_come_first() -> None:
    """query_key_value is one thing and not a query, a key and a value."""
    assert concepts_of("query_key_value").members == {("qkvo", "qkv")}
    assert ("part", "attn") not in concepts_of("encoder_attn").members


def test_words_and_numbers_are_kept() -> None:
    """What has no concept is kept as words, numbers apart."""
    found = concepts_of("zebra.3.lion7")
    assert not found.members
    assert found.words == {"zebra", "lion"}
    assert found.numbers == (3, 7)


def test_members_do_not_hang_on_numbers() -> None:
    """A path in block 31 means what it means in block 0."""
    assert members_of("h.31.attn.q_proj") == members_of("h.0.attn.q_proj")


def test_agreement() -> None:
    """Two spellings of one thing agree, names of different things disagree, and the measure is mutual."""
    query, other, key = map(concepts_of, ("attn.q_proj", "attention.query", "attention.key"))
    assert query.agreement(other) > 0 > query.agreement(key)
    assert query.agreement(other) == other.agreement(query)
    assert query.agreement(key) == key.agreement(query)
    assert concepts_of("zebra").agreement(concepts_of("lion")) == 0


# --------------------------------------------------------------------------- leaves


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("fc.weight", Leaf("", "weight")),
        ("fc.bias", Leaf("", "bias")),
        ("fc.kernel", Leaf("", "weight")),
        ("norm.gamma", Leaf("", "weight")),
        ("norm.beta", Leaf("", "bias")),
        ("norm.scale", Leaf("", "weight")),
        ("norm.a_2", Leaf("", "weight")),
        ("bn.running_mean", Leaf("", "mean")),
        ("bn.moving_mean", Leaf("", "mean")),
        ("bn.running_var", Leaf("", "var")),
        ("bn.moving_variance", Leaf("", "var")),
        ("bn.num_batches_tracked", Leaf("", "count")),
        ("attn.in_proj_weight", Leaf("in_proj", "weight")),
        ("attn.in_proj_bias", Leaf("in_proj", "bias")),
        ("attn.W_Q", Leaf("Q", "weight")),
        ("attn.b_Q", Leaf("Q", "bias")),
        ("conv.weight_g", Leaf("", "g")),
        ("conv.weight_v", Leaf("", "v")),
        ("conv.parametrizations.weight.original0", Leaf("", "g", 3)),
        ("conv.parametrizations.weight.original1", Leaf("", "v", 3)),
        ("lstm.weight_ih_l0", Leaf("ih_l0", "weight")),
        ("lstm.bias_hh_l0_reverse", Leaf("hh_l0_reverse", "bias")),
        ("net.bn1_running_var", Leaf("bn1", "var")),
        ("vit.pos_embed", Leaf("pos_embed", "weight")),
        ("weight", Leaf("", "weight")),
    ],
)
def test_leaves(name: str, leaf: Leaf) -> None:
    """The last part of a name says what a tensor is to its module."""
    assert leaf_of(name.split("."), has_submodules=False) == leaf


@pytest.mark.parametrize("word", ["gamma", "scale", "alpha", "g"])
def test_leaf_beside_modules_is_a_thing_of_its_own(word: str) -> None:
    """Beside modules, ``gamma`` is no norm's weight; ``weight`` and ``bias`` always are what they say."""
    assert leaf_of(("block", word), has_submodules=True) == Leaf(word, "weight")
    assert leaf_of(("block", "bias"), has_submodules=True) == Leaf("", "bias")


# --------------------------------------------------------------------------- phases


@pytest.mark.parametrize(
    "paths",
    [
        ("embeddings.norm", "self_attn.norm", "cross_attn.norm", "mlp.norm", "final.norm"),
        ("input_norm", "attn_norm", "post_attention_norm", "ffn_norm", "post_ffn_norm"),
        ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
        ("token_mix", "channel_mix"),
        ("attention.self", "attention.after_norm", "pre_feedforward_layernorm", "mlp"),
    ],
)
def test_phases_rise_through_a_block(paths: tuple[str, ...]) -> None:
    """What runs earlier in a block has the smaller phase."""
    found = [phase_of(path) for path in paths]
    assert None not in found
    assert found == sorted(found, key=lambda phase: phase or 0.0)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("path", ["zebra", "norm1", "0.1", ""])
def test_names_without_a_phase(path: str) -> None:
    """Other words don't say where they stand."""
    assert phase_of(path) is None
