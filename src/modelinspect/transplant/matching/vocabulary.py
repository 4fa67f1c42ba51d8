"""
What the words in parameter names mean, whoever wrote them.

Neural networks are named in a small vocabulary with many spellings: ``q_proj``, ``query``,
``wq`` and ``to_q`` are the query of an attention. A *concept* is a member of a family,
``("qkvo", "q")``; two names that hold different members of one family speak of different
things. No library and no architecture is named here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Concepts", "Leaf", "concepts_of", "leaf_of", "meaning_of", "members_of", "phase_of", "tokens_of"]

_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")

# Families of concepts: member, then its spellings. A spelling of several words is sought first.
_FAMILIES: dict[str, dict[str, str]] = {
    "qkvo": {
        "qkv": "qkv wqkv query_key_value in_proj c_attn attn_qkv qkv_proj to_qkv kqv mixed_qkv",
        "kv": "kv to_kv kv_proj key_value wkv",
        "q": "q query queries wq q_proj to_q q_lin linear_q theta",
        "k": "k key keys wk k_proj to_k k_lin linear_k phi",
        "v": "v value values val wv v_proj to_v v_lin linear_v",
        "o": "o wo o_proj out_proj to_out out_lin linear_out c_proj wout attn_out attn_output attn_proj "
        "attention_output attention_out attention_dense self_attn_out proj_out projection_out",
    },
    "glu": {
        "gate_up": "gate_up gate_up_proj w13 w12 wi_fused up_gate",
        "gate": "gate gate_proj wi_0 fc1_g wg linear_gate",
        "up": "up up_proj wi_1 fc1_x expand",
        "down": "down down_proj reduce c_proj_mlp",
    },
    "part": {
        "cross": "cross cross_attn cross_attention encdec encoder_attn enc_dec src_attn xattn "
        "encoder_attention crossattention enc_dec_attention multihead_attn enc_attn "
        "encoder_decoder_attention",
        "attn": "attn attention self_attn self_attention mha sa selfattention self temporal_attn",
        "ff": "mlp ffn ffw ff feedforward feed_forward intermediate dense_h_to_4h dense_4h_to_h pwff pwffn",
        "moe": "experts expert",
    },
    "tower": {"encoder": "encoder enc encoders src source", "decoder": "decoder dec decoders tgt target trg"},
    "question": {
        "query": "question query anchor user",
        "passage": "ctx context passage document doc item answer",
    },
    "modality": {
        "vision": "visual vision visn image img vit pixel trunk",
        "text": "text language lang txt caption lm",
        "audio": "audio speech acoustic",
    },
    "embedding": {
        "pos": "pos position positional positions pos_embed pos_emb wpe pe position_embedding "
        "positional_embedding position_embeddings",
        "type": "token_type segment token_type_embeddings seg segments sentence",
        "word": "word words tok token tokens vocab wte shared embed_tokens word_embeddings lut "
        "token_embedding tok_embeddings word_embedding",
        "cls": "cls_token class_token class_embedding class_embed",
        "mask": "mask_token masked_spec_embed mask_emb mask_embed",
        "dist": "distillation_token dist_token dist",
        "register": "register_tokens reg_token registers storage_tokens",
    },
    "kind": {
        "norm": "norm ln layernorm layer_norm bn batchnorm batch_norm rms rmsnorm rms_norm normalization gn "
        "groupnorm group_norm norms",
        "embedding": "embed embedding embeddings emb embedder wte wpe patch_embed patch_embeddings "
        "patch_embedding",
        "conv": "conv convolution convs",
        "head": "head heads classifier lm_head score scores scoring readout predictor classification logits "
        "unembed generator prediction predictions output_layer output_projection class_head embed_out",
        "scale": "layer_scale layerscale ls gamma lambda lambda_1 lambda_2",
        "pool": "pool pooler pooling",
        "stem": "stem patch_embed patch_embeddings patch_embedding patch_projection",
        "shortcut": "shortcut downsample identity skip residual_conv",
        "se": "se squeeze_excite squeeze_excitation",
    },
    "depth": {"dw": "dw depthwise dwconv conv_dw depthwise_conv", "pw": "pw pointwise pwconv conv_pw"},
    "gates": {"ih": "ih x2h input_hidden wx", "hh": "hh h2h hidden_hidden recurrent wh"},
    "way": {
        "forward": "forward fwd fw",
        "reverse": "reverse backward bwd bw rev",
    },
    "statistic": {
        "mean": "running_mean moving_mean mean",
        "var": "running_var moving_var moving_variance var",
    },
}  # fmt: skip

# How much two names gain that share a member, and lose that hold different ones.
_WEIGHTS = {
    "qkvo": 3.0, "glu": 3.0, "part": 2.0, "tower": 2.5, "question": 2.5, "modality": 2.5, "embedding": 2.5,
    "kind": 1.0, "depth": 1.5, "gates": 3.0, "way": 3.0, "statistic": 3.0,
}  # fmt: skip


class Concepts(NamedTuple):
    """What a name speaks of."""

    members: frozenset[tuple[str, str]]
    """Pairs of family and member."""
    words: frozenset[str]
    """Its words that have no concept, without numbers."""
    numbers: tuple[int, ...]

    def agreement(self, other: Concepts) -> float:
        """How well two names agree in concepts: positive if they speak of the same."""
        total = 0.0
        theirs = _by_family(other)
        for mine, others in ((_by_family(self), theirs), (theirs, _by_family(self))):
            if "qkvo" in mine and "qkvo" not in others:
                # "dense" and "proj" beside q, k and v are the way out.
                total += 0.4 if mine["qkvo"] == {"o"} else -0.4
        for family, ours in _by_family(self).items():
            if family in theirs:
                total += _WEIGHTS[family] * _overlap(ours, theirs[family])
        return total


def _overlap(ours: frozenset[str], theirs: frozenset[str]) -> float:
    common = len(ours & theirs)
    if not common:
        return -1.0
    return common / max(len(ours), len(theirs))


@lru_cache(maxsize=65536)
def _by_family(concepts: Concepts) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for family, member in concepts.members:
        found.setdefault(family, set()).add(member)
    return {family: frozenset(members) for family, members in found.items()}


_Spelling = tuple[str, ...]


def _spellings() -> dict[_Spelling, tuple[tuple[str, str], ...]]:
    table: dict[_Spelling, list[tuple[str, str]]] = {}
    for family, members in _FAMILIES.items():
        for member, spellings in members.items():
            for spelling in spellings.split():
                table.setdefault(tuple(tokens_of(spelling)), []).append((family, member))
    return {words: tuple(found) for words, found in table.items()}


@lru_cache(maxsize=65536)
def tokens_of(component: str) -> tuple[str, ...]:
    """
    The words and numbers of a name's part: ``selfAttn_q2`` is self, attn, q, 2.
    """
    return tuple(word.lower() for word in _WORDS.findall(component))


_SPELLINGS = _spellings()
_LONGEST = max(map(len, _SPELLINGS))


@lru_cache(maxsize=65536)
def concepts_of(path: str) -> Concepts:
    """
    What a dotted path speaks of. The last parts weigh as much as the first.
    """
    members: set[tuple[str, str]] = {("kind", "head")} if path in _HEADS_ALONE else set()
    words: set[str] = set()
    numbers: list[int] = []
    for component in path.split("."):
        tokens = tokens_of(component)
        at = 0
        while at < len(tokens):
            for length in range(min(_LONGEST, len(tokens) - at), 0, -1):
                found = _SPELLINGS.get(tokens[at : at + length])
                if found:
                    # After the attention is not of the attention.
                    is_beside = at > 0 and tokens[at - 1] in _BESIDE and found[0][0] == "part"
                    members.update([("kind", "norm")] if is_beside else found)
                    at += length
                    break
            else:
                token = tokens[at]
                if token.isdigit():
                    numbers.append(int(token))
                else:
                    words.add(token)
                at += 1
    return Concepts(frozenset(members), frozenset(words), tuple(numbers))


_HEADS_ALONE = frozenset(
    {"output", "out", "fc", "classify", "classification", "predict", "last_linear", "project"}
)
"""What a module at the top is that goes by such a word alone."""

_BESIDE = frozenset({"post", "pre", "after", "before"})
_NORMS = frozenset({"norm", "ln", "layernorm", "layer", "bn", "batchnorm", "rmsnorm"})


def members_of(path: str) -> frozenset[tuple[str, str]]:
    """
    The concepts of a path, whatever its numbers; for families that have none in their spellings.
    """
    return concepts_of(path.translate(_ONE_DIGIT)).members


def meaning_of(path: str) -> frozenset[str]:
    """
    What a table of embeddings holds by its name: ``word``, where the name says no more; empty: it is none.
    """
    members = members_of(path)
    found = frozenset(member for family, member in members if family == "embedding")
    return found or frozenset({"word"} if ("kind", "embedding") in members else ())


_ONE_DIGIT = str.maketrans("123456789", "0" * 9)


# ------------------------------------------------------------------------- order

_PHASES: tuple[tuple[float, str], ...] = (
    (0.5, "pre input before first in patch stem embed embeddings embedding"),
    (1.0, "self attn attention sa mha mixing mixer token tokens spatial temporal"),
    (2.0, "cross encdec"),
    (3.0, "ff ffn ffw mlp feedforward feed intermediate gate channel channels"),
    (3.5, "up"),
    (4.0, "down output out after second final last post head"),
)
_PHASE = {word: phase for phase, words in _PHASES for word in words.split()}


def phase_of(path: str) -> float | None:
    """
    Where in a block something stands, by the words of its name: what has to do with the
    attention comes before what has to do with the feed-forward net. None: they don't say.

    ``post_attention`` is after the attention and ``pre_feedforward`` before the net.
    """
    words = [word for component in path.split(".") for word in tokens_of(component)]
    shift = 0.0
    found: list[float] = []
    cross = any(pair in _CROSS for pair in pairwise(words)) or not _CROSS_WORDS.isdisjoint(words)
    for at, word in enumerate(words):
        if word in ("post", "after") and at + 1 < len(words) and words[at + 1] in _PHASE:
            shift = 0.5
        elif word in ("pre", "before") and at + 1 < len(words) and words[at + 1] in _PHASE:
            shift = -0.5
        elif word in ("post", "after", "pre", "before") and at and words[at - 1] in _PHASE:
            shift = 0.5 if word in ("post", "after") else -0.5
        elif word in _BESIDE and at + 1 < len(words) and words[at + 1] not in _NORMS:
            continue
        elif word in _PHASE:
            found.append(_PHASE[word])
    if cross:
        return 2.0 + shift
    main = [phase for phase in found if phase in (1.0, 2.0, 3.0)]
    chosen = main or found
    return None if not chosen else chosen[-1] + shift


_CROSS = frozenset(
    {("encoder", "attn"), ("encoder", "attention"), ("enc", "dec"), ("src", "attn"), ("enc", "attn")}
)
_CROSS_WORDS = frozenset({"cross", "encdec", "crossattention", "xattn"})


# ------------------------------------------------------------------------- leaves


class Leaf(NamedTuple):
    """The last part of a name, seen apart."""

    holder: str
    """A module that the last part stands for: ``in_proj`` of ``in_proj_weight``; or empty."""
    role: str
    """``weight``, ``bias``, ``mean``, ``var``, ``count``, ``g`` or ``v`` (of weight_norm)."""
    parts: int = 1
    """How many parts of the name it is."""


_WEIGHT_WORDS = frozenset(
    {"weight", "weights", "w", "kernel", "gamma", "g", "scale", "a_2", "alpha", "embedding"}
)
_BIAS_WORDS = frozenset({"bias", "biases", "b", "beta", "b_2", "offset", "shift"})
_STATISTICS = {
    "running_mean": "mean", "moving_mean": "mean", "running_var": "var", "moving_var": "var",
    "moving_variance": "var", "num_batches_tracked": "count",
}  # fmt: skip


def leaf_of(parts: Sequence[str], has_submodules: bool) -> Leaf:
    """
    The leaf of a dotted name.

    Args:
        parts: Of the name, e.g. ``("attn", "in_proj_weight")``.
        has_submodules: The module around the leaf holds other modules, so that ``gamma``
            is a thing of its own and not the weight of a norm.
    """
    last = parts[-1]
    if len(parts) > 2 and parts[-3] == "parametrizations" and last.startswith("original"):
        # torch.nn.utils.parametrizations.weight_norm: original0 is the norm, original1 the direction;
        # of spectral_norm and orthogonal, original is what the weight is made of.
        role = {"original0": "g", "original1": "v"}.get(last, "original")
        return Leaf("" if parts[-2] == "weight" else parts[-2], role, 3)
    if len(parts) > 3 and parts[-4] == "parametrizations" and last in ("_u", "_v"):
        return Leaf("" if parts[-3] == "weight" else parts[-3], f"spectral{last}", 4)
    return _leaf(last, has_submodules)


@lru_cache(maxsize=65536)
def _leaf(last: str, has_submodules: bool) -> Leaf:
    statistic = _statistic(last, has_submodules)
    if statistic is not None:
        return statistic
    if last not in _BIAS_WORDS and len(last) > 2 and last[:2] in ("W_", "w_", "b_", "B_"):
        return Leaf(last[2:], "bias" if last[0] in "bB" else "weight")
    if last in ("weight_g", "weight_v"):
        return Leaf("", last[-1])
    if last in ("weight_orig", "weight_u"):
        return Leaf("", {"weight_orig": "original", "weight_u": "spectral_u"}[last])
    for words, role in ((_BIAS_WORDS, "bias"), (_WEIGHT_WORDS, "weight")):
        if last in words and (last in ("weight", "bias") or not has_submodules):
            return Leaf("", role)
    for mark, role in _MARKS.items():
        if last.startswith(f"{mark}_"):
            return Leaf(last[len(mark) + 1 :], role)
        if last.endswith(f"_{mark}"):
            return Leaf(last[: -len(mark) - 1], role)
    return Leaf(last, "weight")


def _statistic(last: str, has_submodules: bool) -> Leaf | None:
    if last in _STATISTICS:
        return Leaf("", _STATISTICS[last])
    if last in ("mean", "var") and not has_submodules:
        return Leaf("", last)
    for suffix, role in _STATISTICS.items():
        if last.endswith(f"_{suffix}"):
            return Leaf(last[: -len(suffix) - 1], role)
    return None


_MARKS = {"weight": "weight", "bias": "bias", "kernel": "weight", "beta": "bias", "gamma": "weight"}
