"""
Pairs that nobody trained: made up to mislead whoever goes by names, order or shapes alone.

Each says what can be known. Where nobody can know, ``open`` names the tensors: then the only
right answer is that the claim is ambiguous.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pairs import Fixture

__all__ = ["INVENTED", "Twin", "invented", "irregular", "mixture", "twins"]

Shape = tuple[int, ...]
_WIDTH = 24


class Twin(NamedTuple):
    """A tensor under its two names; an empty one where that side has none."""

    source: str
    target: str
    shape: Shape


def twins(
    name: str,
    tensors: Iterable[Twin],
    *,
    open_names: Callable[[str], bool] = lambda _: False,
    order: Callable[[Twin], Any] | None = None,
) -> Fixture:
    """
    A pair of equal shapes.

    Args:
        name: Of the pair.
        tensors: In the source's order.
        open_names: Target names that nobody can know, the source having no order.
        order: Key by which the target registers them; as the source does if left out.
    """
    rows = list(tensors)
    turned = rows if order is None else sorted(rows, key=order)
    ours = [(each.source, each.shape) for each in rows if each.source]
    theirs = [(each.target, each.shape) for each in turned if each.target]
    truth = {each.target: [[[each.source, ""]], ""] for each in rows if each.source and each.target}
    return Fixture.of(
        {
            "name": name,
            "family": "invented",
            "kind": "invented",
            "source": _half(ours),
            "target": _half(theirs),
            "truth": truth,
            "made": [target for target, _ in theirs if target not in truth],
            "free": [],
            "open": [target for target, _ in theirs if open_names(target)],
        }
    )


def _half(tensors: Sequence[tuple[str, Shape]]) -> dict[str, Any]:
    assert len({name for name, _ in tensors}) == len(tensors), "two tensors of one name"
    names = {name for name, _ in tensors}
    modules: dict[str, str] = {"": "Net"}
    for name, shape in tensors:
        path = name.rpartition(".")[0]
        while path and path not in modules:
            modules[path] = "Module"
            path = path.rpartition(".")[0]
        if name.endswith(".weight"):
            holder = name.removesuffix(".weight")
            modules[holder] = _class_of(holder, shape, is_batch=f"{holder}.running_var" in names)
    return {
        "tensors": [[name, _dtype(name), list(shape), _kind(name), None] for name, shape in tensors],
        "modules": modules,
        "facts": {},
    }


def _class_of(holder: str, shape: Shape, *, is_batch: bool) -> str:
    if len(shape) == 1:
        return "BatchNorm2d" if is_batch else "LayerNorm"
    if len(shape) == 2:
        return "Embedding" if "emb" in holder else "Linear"
    return "Conv2d"


def _dtype(name: str) -> str:
    return "int64" if name.endswith("num_batches_tracked") else "float32"


def _kind(name: str) -> str:
    return "buffer" if name.rpartition(".")[2] in _BUFFERS else "parameter"


_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _all(name: str) -> bool:
    """Of the target's names all."""
    return bool(name)


# ---------------------------------------------------------------------- small parts


def linear(source: str, target: str, rows: int = _WIDTH, columns: int = _WIDTH) -> list[Twin]:
    """A weight and a bias."""
    return [
        Twin(_of(source, "weight"), _of(target, "weight"), (rows, columns)),
        Twin(_of(source, "bias"), _of(target, "bias"), (rows,)),
    ]


def norm(source: str, target: str, width: int = _WIDTH) -> list[Twin]:
    """A layer norm."""
    return [Twin(_of(source, leaf), _of(target, leaf), (width,)) for leaf in ("weight", "bias")]


def conv(source: str, target: str, out: int, into: int, size: int = 3) -> list[Twin]:
    """A convolution and its batch norm, which are ``.conv`` and ``.bn`` in both."""
    made = [Twin(_of(source, "conv.weight"), _of(target, "conv.weight"), (out, into, size, size))]
    leaves = ("weight", "bias", "running_mean", "running_var")
    return made + [Twin(_of(source, f"bn.{leaf}"), _of(target, f"bn.{leaf}"), (out,)) for leaf in leaves]


def _of(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else ""


def _attention(source: str, target: str, names: Sequence[tuple[str, str]]) -> Iterator[Twin]:
    for ours, theirs in names:
        yield from linear(f"{source}.{ours}", f"{target}.{theirs}")


_QKVO = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "o_proj"))
_PLAIN = (("q", "q"), ("k", "k"), ("v", "v"), ("o", "o"))


def _block(source: str, target: str, names: Sequence[tuple[str, str]] = _QKVO) -> Iterator[Twin]:
    """A block of a transformer: two norms, attention, an MLP."""
    yield from norm(_of(source, "norm1"), _of(target, "ln_1"))
    for ours, theirs in names:
        yield from linear(_of(source, f"attention.{ours}"), _of(target, f"attn.{theirs}"))
    yield from norm(_of(source, "norm2"), _of(target, "ln_2"))
    yield from linear(_of(source, "mlp.fc1"), _of(target, "ffn.up"), 3 * _WIDTH)
    yield from linear(_of(source, "mlp.fc2"), _of(target, "ffn.down"), _WIDTH, 3 * _WIDTH)


def _stack(source: str, target: str, count: int = 3) -> Iterator[Twin]:
    for at in range(count):
        yield from _block(_of(source, str(at)), _of(target, str(at)))


# ------------------------------------------------------------------------ the pairs

INVENTED: dict[str, Callable[[], Fixture]] = {}


def _pair(make: Callable[[], Fixture]) -> Callable[[], Fixture]:
    INVENTED[make.__name__.strip("_").replace("_", "-")] = make
    return make


def invented() -> list[Fixture]:
    """All of them."""
    return [make() for make in INVENTED.values()]


@_pair
def _towers_unnamed() -> Fixture:
    """Two equal towers; the target only numbers them."""
    tensors = [*_stack("query_tower.layers", "towers.0.h"), *_stack("document_tower.layers", "towers.1.h")]
    return twins("towers-unnamed", tensors, open_names=_all)


@_pair
def _towers_swapped() -> Fixture:
    """The same, and the target registers the other tower first, under letters."""
    tensors = [*_stack("alpha.layers", "net_y.h"), *_stack("omega.layers", "net_x.h")]
    order = sorted({each.target for each in tensors})
    return twins("towers-swapped", tensors, open_names=_all, order=lambda each: order.index(each.target))


@_pair
def _towers_named() -> Fixture:
    """Two equal towers, whose names say the same in both, crosswise in order."""
    tensors = [*_stack("text_model.layers", "txt.h"), *_stack("vision_model.layers", "visual.h")]
    return twins("towers-named", tensors, order=lambda each: not each.target.startswith("visual"))


@_pair
def _tower_by_elimination() -> Fixture:
    """One of two equal towers has a telling name; the other is what is left."""
    tensors = [*_stack("trunk.layers", "pixels.h"), *_stack("text.layers", "text_encoder.h")]
    return twins("tower-by-elimination", tensors, order=lambda each: each.target.startswith("pixels"))


@_pair
def _encoder_decoder() -> Fixture:
    """Encoder and decoder of equal shapes, as deep."""
    tensors = [
        *_stack("encoder.layers", "enc.blocks"),
        *norm("encoder.norm", "enc.final"),
        *_stack("decoder.layers", "dec.blocks"),
        *norm("decoder.norm", "dec.final"),
    ]
    return twins("encoder-decoder", tensors, order=lambda each: each.target.startswith("enc"))


@_pair
def _encoder_decoder_depths() -> Fixture:
    """Encoder and decoder of equal blocks, of 4 and 2; names say nothing."""
    tensors = [*_stack("contracting", "part_b.h", 4), *_stack("expanding", "part_a.h", 2)]
    return twins("encoder-decoder-depths", tensors, order=lambda each: each.target.startswith("part_b"))


def _unet(widths: Sequence[int], target_up: Callable[[int], int]) -> Iterator[Twin]:
    yield from conv("stem", "inc", widths[0], 3)
    for at in range(len(widths) - 1):
        yield from conv(f"down.{at}.a", f"encoder.{at}.0", widths[at + 1], widths[at])
        yield from conv(f"down.{at}.b", f"encoder.{at}.1", widths[at + 1], widths[at + 1])
    for at in reversed(range(len(widths) - 1)):
        yield from conv(f"up.{at}.a", f"decoder.{target_up(at)}.0", widths[at], widths[at] + widths[at + 1])
        yield from conv(f"up.{at}.b", f"decoder.{target_up(at)}.1", widths[at], widths[at])
    yield Twin("head.weight", "outc.weight", (2, widths[0], 1, 1))


@_pair
def _reversed_up_blocks() -> Fixture:
    """A U-Net: one counts its way up from the top, the other from the bottom."""
    return twins("reversed-up-blocks", _unet((8, 16, 32, 64), lambda at: 2 - at))


@_pair
def _reversed_up_blocks_flat() -> Fixture:
    """The same where two levels have equal widths: structure still says which way round."""
    return twins("reversed-up-blocks-flat", _unet((8, 16, 16, 32), lambda at: 2 - at))


@_pair
def _heads_of_other_roles() -> Fixture:
    """A second head of the target's is not in the source, though one of its size is."""
    tensors = [
        *_stack("blocks", "h"),
        *linear("head", "head", 10),
        *linear("", "head_dist", 10),
        *linear("rotation_pretext", "", 10),
    ]
    return twins("heads-of-other-roles", tensors)


@_pair
def _head_of_other_size() -> Fixture:
    """The head has another number of classes, and as many as an unused part of the source."""
    tensors = [
        *_stack("blocks", "h"),
        *linear("head", "", 10),
        *linear("", "classifier", 7),
        *linear("adapter.mix", "", 7),
    ]
    return twins("head-of-other-size", tensors)


@_pair
def _letters_for_attention() -> Fixture:
    """Query, key and value under letters that say nothing."""
    names = (("a", "q_proj"), ("b", "k_proj"), ("c", "v_proj"), ("d", "o_proj"))
    tensors = [twin for at in range(3) for twin in _block(f"blocks.{at}", f"h.{at}", names)]
    return twins("letters-for-attention", tensors, open_names=lambda name: ".attn." in name)


@_pair
def _gates_unnamed() -> Fixture:
    """Gate and up projection under names that say nothing."""
    tensors: list[Twin] = []
    for at in range(3):
        for ours, theirs in (("left", "gate_proj"), ("right", "up_proj")):
            tensors.append(Twin(f"b.{at}.{ours}.weight", f"h.{at}.{theirs}.weight", (64, _WIDTH)))
        tensors.append(Twin(f"b.{at}.back.weight", f"h.{at}.down_proj.weight", (_WIDTH, 64)))
    return twins("gates-unnamed", tensors, open_names=lambda name: "gate" in name or "up" in name)


@_pair
def _numbered_from_one() -> Fixture:
    """Twelve equal blocks, from 1 in the source; a text sort puts 10 before 2."""
    tensors = [twin for at in range(12) for twin in _block(f"block{at + 1}", f"layers.{at}")]
    return twins("numbered-from-one", tensors)


@_pair
def _numbered_with_gaps() -> Fixture:
    """Equal layers of a Sequential, with activations between them, and a plain list."""
    tensors = [twin for at in range(12) for twin in linear(f"net.{2 * at}", f"layers.{at}")]
    return twins("numbered-with-gaps", tensors)


@_pair
def _stages_flat() -> Fixture:
    """Stages of equal widths in the one, a flat list in the other."""
    tensors: list[Twin] = []
    at = 0
    for stage, depth in enumerate((2, 2, 6, 3)):
        for number in range(depth):
            tensors += _block(f"stages.{stage}.blocks.{number}", f"features.{at}")
            at += 1
    return twins("stages-flat", tensors)


@_pair
def _letters_for_numbers() -> Fixture:
    """Blocks that are lettered in the one and numbered in the other."""
    letters = string.ascii_lowercase[:6]
    tensors = [twin for at, each in enumerate(letters) for twin in _block(f"block_{each}", f"h.{at}")]
    return twins("letters-for-numbers", tensors)


@_pair
def _unused_branch() -> Fixture:
    """The source has two branches that fit; the target has one."""
    tensors = [*_stack("branch_a", "net.h"), *_stack("branch_b", "")]
    return twins("unused-branch", tensors, open_names=_all)


@_pair
def _unused_branch_named() -> Fixture:
    """The same, and one has the target's name."""
    tensors = [*_stack("momentum_encoder.layers", ""), *_stack("encoder.layers", "encoder.h")]
    return twins("unused-branch-named", tensors)


@_pair
def _moved_average() -> Fixture:
    """A network and the moving average of its weights, which sorts before it."""
    tensors = [*_stack("ema_net.layers", ""), *_stack("net.layers", "backbone.h")]
    return twins("moved-average", tensors, open_names=_all)


@_pair
def _all_square() -> Fixture:
    """Width, vocabulary, context and the MLP's inside are one number."""
    tensors = [
        Twin("token_emb.weight", "wte.weight", (_WIDTH, _WIDTH)),
        Twin("position_emb.weight", "wpe.weight", (_WIDTH, _WIDTH)),
    ]
    for at in range(3):
        tensors += norm(f"blocks.{at}.norm1", f"h.{at}.ln_1")
        tensors += _attention(f"blocks.{at}.attention", f"h.{at}.attn", _QKVO)
        tensors += norm(f"blocks.{at}.norm2", f"h.{at}.ln_2")
        tensors += linear(f"blocks.{at}.mlp.fc1", f"h.{at}.mlp.c_fc")
        tensors += linear(f"blocks.{at}.mlp.fc2", f"h.{at}.mlp.c_proj")
    tensors += [*norm("norm", "ln_f"), Twin("head.weight", "lm_head.weight", (_WIDTH, _WIDTH))]
    return twins("all-square", tensors)


@_pair
def _deeper_source() -> Fixture:
    """Six blocks for four: nobody can know which four."""
    tensors = [*_stack("layers", "h", 4), *_stack_from("layers", 4, 6)]
    return twins("deeper-source", tensors, open_names=_all)


def _stack_from(source: str, start: int, stop: int) -> Iterator[Twin]:
    for at in range(start, stop):
        yield from _block(f"{source}.{at}", "")


@_pair
def _other_way_round() -> Fixture:
    """Three layers of two experts and two layers of three: as many tensors, another model."""
    ours = [f"layers.{a}.experts.{b}" for a in range(3) for b in range(2)]
    theirs = [f"blocks.{a}.ffn.{b}" for a in range(2) for b in range(3)]
    tensors = [twin for pair in zip(ours, theirs) for twin in linear(*pair)]
    return twins("other-way-round", tensors, open_names=_all)


@_pair
def _modules_called_as_leaves() -> Fixture:
    """Modules that are called gamma, beta, bias, scale and mean, the same in both."""
    tensors: list[Twin] = []
    for at in range(3):
        for name in ("gamma", "beta", "bias", "scale", "running_mean", "weight"):
            tensors += linear(f"m.{at}.{name}", f"wrapped.model.{at}.{name}")
    return twins("modules-called-as-leaves", tensors)


@_pair
def _no_modules() -> Fixture:
    """Bare parameters w1, b1, w2 … in the one, layers in the other."""
    tensors: list[Twin] = []
    for at in range(1, 13):
        tensors.append(Twin(f"w{at}", f"layers.{at - 1}.weight", (_WIDTH, _WIDTH)))
        tensors.append(Twin(f"b{at}", f"layers.{at - 1}.bias", (_WIDTH,)))
    return twins("no-modules", tensors)


@_pair
def _no_dots() -> Fixture:
    """Names of one word, joined with underscores."""
    tensors: list[Twin] = []
    for at in range(1, 4):
        tensors.append(Twin(f"conv{at}_weight", f"conv{at}.weight", (8, 8, 3, 3)))
        tensors.append(Twin(f"conv{at}_bias", f"conv{at}.bias", (8,)))
        for ours, theirs in (("gamma", "weight"), ("beta", "bias"), ("moving_mean", "running_mean"),
                             ("moving_var", "running_var")):  # fmt: skip
            tensors.append(Twin(f"bn{at}_{ours}", f"bn{at}.{theirs}", (8,)))
    return twins("no-dots", tensors)


@_pair
def _batch_norms_of_others() -> Fixture:
    """Batch norms with the words of other frameworks."""
    tensors: list[Twin] = []
    leaves = (("scale", "weight"), ("offset", "bias"), ("mean", "running_mean"), ("var", "running_var"))
    for at in range(4):
        tensors.append(Twin(f"c.{at}.conv.kernel", f"body.{at}.0.weight", (8, 8, 3, 3)))
        tensors += [Twin(f"c.{at}.norm.{ours}", f"body.{at}.1.{theirs}", (8,)) for ours, theirs in leaves]
    return twins("batch-norms-of-others", tensors)


@_pair
def _two_attentions() -> Fixture:
    """Self and cross attention of equal shapes, by name and by number."""
    tensors: list[Twin] = []
    for at in range(3):
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            tensors += norm(f"layers.{at}.{ours}_norm", f"h.{at}.{theirs}_norm")
            tensors += _attention(f"layers.{at}.{ours}", f"h.{at}.{theirs}", _QKVO)
    return twins("two-attentions", tensors)


@_pair
def _two_attentions_unnamed() -> Fixture:
    """The same under names that say nothing."""
    tensors: list[Twin] = []
    for at in range(3):
        for ours, theirs in (("foo", "self_attn"), ("bar", "cross_attn")):
            tensors += _attention(f"layers.{at}.{ours}", f"h.{at}.{theirs}", _PLAIN)
    return twins("two-attentions-unnamed", tensors, open_names=_all)


@_pair
def _crossed_names() -> Fixture:
    """The target uses the source's words for other things: shapes alone are to be trusted."""
    tensors: list[Twin] = []
    for at in range(3):
        tensors += linear(f"layers.{at}.proj", f"h.{at}.fc", 2 * _WIDTH, _WIDTH)
        tensors += linear(f"layers.{at}.fc", f"h.{at}.proj", _WIDTH, 2 * _WIDTH)
    return twins("crossed-names", tensors)


@_pair
def _moved_norm() -> Fixture:
    """One norm more at the end than at the start; equal to those of the blocks."""
    tensors = [*norm("embed_norm", "ln_pre"), *_stack("layers", "h"), *norm("final_norm", "ln_post")]
    return twins("moved-norm", tensors, order=lambda each: not each.target.startswith("ln_"))


@_pair
def _one_block_wider() -> Fixture:
    """All blocks but one are equal: where that one lies, the count starts."""
    tensors: list[Twin] = []
    for at in range(8):
        width = 40 if at == 5 else 3 * _WIDTH
        tensors += linear(f"layer{at + 1}.first", f"h.{at}.up", width)
        tensors += linear(f"layer{at + 1}.second", f"h.{at}.down", _WIDTH, width)
    return twins("one-block-wider", tensors)


@_pair
def _registered_backwards() -> Fixture:
    """The target registers its numbered blocks from the last to the first."""
    tensors = [twin for at in range(6) for twin in _block(f"layers.{at}", f"h.{at}")]
    return twins("registered-backwards", tensors, order=lambda each: -int(each.target.split(".")[1]))


@_pair
def _named_in_order() -> Fixture:
    """Four equal linear layers under words without an order, registered as they run."""
    names = (("stem", "whale"), ("waist", "ant"), ("neck", "fox"), ("tip", "bee"))
    tensors = [twin for pair in names for twin in linear(*pair)]
    return twins("named-in-order", tensors, open_names=_all)


_ALIKE = (
    ("cross_attn_token_to_image", "cross_attn_image_to_token"),
    ("text_projection", "text_to_mm_projection"),
    ("vision_proj", "values_vision_proj"),
    ("query", "query_global"),
    ("encoder_attn_norm", "encoder_attn_text_norm"),
    ("queries_embedder", "queries_features"),
    ("post_attention_norm", "post_self_attn_norm"),
    ("attention_residual", "feedforward_residual"),
)
"""Names of one real module each, whose words are the same, or nearly."""


def _alike(source: str, target: str) -> Iterator[Twin]:
    for at in range(3):
        for pair in _ALIKE:
            for name in pair:
                yield from linear(f"{source}.{at}.{name}", f"{target}.{at}.{name}")


@_pair
def _same_names() -> Fixture:
    """A model into itself, its names nearly alike, registered in another order."""
    order = [name for pair in _ALIKE for name in reversed(pair)]
    return twins(
        "same-names",
        _alike("layers", "layers"),
        order=lambda each: (each.target.split(".")[1], order.index(each.target.split(".")[2])),
    )


@_pair
def _nearly_same_names() -> Fixture:
    """The same into a class whose blocks have another name."""
    return twins("nearly-same-names", _alike("model.layers", "blocks"))


@_pair
def _same_towers() -> Fixture:
    """A model into itself: two equal towers, of which one lies a level deeper."""
    tensors = [
        *_stack("encoder.text_model.layers", "encoder.text_model.layers"),
        *_stack("decoder.layers", "decoder.layers"),
    ]
    return twins("same-towers", tensors, order=lambda each: each.target.startswith("encoder"))


@_pair
def _same_towers_deeper() -> Fixture:
    """Two equal towers: the one that lies a level deeper in the source is the flatter one in the target."""
    tensors = [*_stack("encoder.text_model.layers", "encoder.h"), *_stack("decoder.layers", "decoder.lm.h")]
    return twins("same-towers-deeper", tensors)


@_pair
def _towers_and_words_within() -> Fixture:
    """Two equal towers; the other one's word stands in the names of one."""
    tensors = [
        *_stack("image_encoder.text_free.layers", "vision.h"),
        *_stack("text_encoder.layers", "language.h"),
    ]
    return twins("towers-and-words-within", tensors, order=lambda each: each.target.startswith("vision"))


# ---------------------------------------------------------------------- large models


def mixture(blocks: int = 60, experts: int = 256) -> Fixture:
    """A mixture of experts with biases, as two libraries name it: 108,000 tensors."""
    tensors = [Twin("model.embed_tokens.weight", "tok_embeddings.weight", (997, 64))]
    for at in range(blocks):
        tensors += _mixture_block(f"model.layers.{at}", f"layers.{at}", experts)
    tensors.append(Twin("model.norm.weight", "norm.weight", (64,)))
    tensors.append(Twin("lm_head.weight", "output.weight", (997, 64)))
    return twins("mixture", tensors)


def _mixture_block(ours: str, theirs: str, experts: int) -> Iterator[Twin]:
    for a, b, rows in (("q", "query", 64), ("k", "key", 16), ("v", "value", 16), ("o", "output", 64)):
        yield Twin(f"{ours}.self_attn.{a}_proj.weight", f"{theirs}.attention.{b}.weight", (rows, 64))
    yield Twin(f"{ours}.input_layernorm.weight", f"{theirs}.attention_norm.weight", (64,))
    yield Twin(f"{ours}.post_attention_layernorm.weight", f"{theirs}.ffn_norm.weight", (64,))
    yield Twin(f"{ours}.mlp.gate.weight", f"{theirs}.feed_forward.router.weight", (experts, 64))
    for expert in range(experts):
        mine, other = f"{ours}.mlp.experts.{expert}", f"{theirs}.feed_forward.experts.{expert}"
        yield Twin(f"{mine}.norm.weight", f"{other}.norm.weight", (64,))
        yield from linear(f"{mine}.gate_proj", f"{other}.w1", 48, 64)
        yield from linear(f"{mine}.up_proj", f"{other}.w3", 48, 64)
        yield from linear(f"{mine}.down_proj", f"{other}.w2", 64, 48)


def irregular(levels: int = 18, seed: int = 0) -> Fixture:
    """
    Like a U-Net of a diffusion model, of 5,000 tensors: hardly two levels are alike.

    Widths, numbers of blocks, attention and shortcuts differ from level to level.
    """
    chance = random.Random(seed)
    widths = [chance.choice((8, 12, 16, 24, 32)) for _ in range(levels)]
    tensors = [*linear("time_embed.0", "time_embedding.linear_1", 64, 16), *_kernel("in", "conv_in", 8, 4)]
    width = 8
    stack: list[int] = []
    for level, out in enumerate(widths):
        for block in range(chance.randint(3, 6)):
            names = f"down.{level}.block.{block}", f"down_blocks.{level}.resnets.{block}"
            tensors += _residual(*names, width, out)
            stack.append(width)
            if level % 2:
                names = f"down.{level}.attn.{block}", f"down_blocks.{level}.attentions.{block}"
                tensors += _transformer(*names, out, 1 + level % 3)
            width = out
        tensors += _kernel(
            f"down.{level}.downsample.op", f"down_blocks.{level}.downsamplers.0.conv", width, width
        )
    tensors += _residual("mid.block_1", "mid_block.resnets.0", width, width)
    tensors += _transformer("mid.attn_1", "mid_block.attentions.0", width, 1)
    tensors += _residual("mid.block_2", "mid_block.resnets.1", width, width)
    for level in reversed(range(levels)):
        theirs = levels - 1 - level
        for block in range(chance.randint(3, 5)):
            skipped = stack.pop() if stack else 0
            names = f"up.{level}.block.{block}", f"up_blocks.{theirs}.resnets.{block}"
            tensors += _residual(*names, width + skipped, widths[level])
            width = widths[level]
            if level % 2:
                names = f"up.{level}.attn.{block}", f"up_blocks.{theirs}.attentions.{block}"
                tensors += _transformer(*names, width, 1 + level % 3)
        tensors += _kernel(f"up.{level}.upsample.conv", f"up_blocks.{theirs}.upsamplers.0.conv", width, width)
    tensors += [*norm("norm_out", "conv_norm_out", width), *_kernel("conv_out", "conv_out", 4, width)]
    return twins("irregular", tensors)


def _kernel(source: str, target: str, out: int, into: int, size: int = 3) -> Iterator[Twin]:
    yield Twin(f"{source}.weight", f"{target}.weight", (out, into, size, size))
    yield Twin(f"{source}.bias", f"{target}.bias", (out,))


def _residual(source: str, target: str, into: int, out: int) -> Iterator[Twin]:
    yield from norm(f"{source}.in_layers.0", f"{target}.norm1", into)
    yield from _kernel(f"{source}.in_layers.2", f"{target}.conv1", out, into)
    yield from linear(f"{source}.emb_layers.1", f"{target}.time_emb_proj", out, 64)
    yield from norm(f"{source}.out_layers.0", f"{target}.norm2", out)
    yield from _kernel(f"{source}.out_layers.3", f"{target}.conv2", out, out)
    if into != out:
        yield from _kernel(f"{source}.skip_connection", f"{target}.conv_shortcut", out, into, 1)


def _transformer(source: str, target: str, width: int, depth: int) -> Iterator[Twin]:
    yield from norm(f"{source}.norm", f"{target}.norm", width)
    yield from linear(f"{source}.proj_in", f"{target}.proj_in", width, width)
    for at in range(depth):
        ours, theirs = f"{source}.transformer_blocks.{at}", f"{target}.transformer_blocks.{at}"
        for number, into in ((1, width), (2, 48)):
            for a, b, columns in (("q", "to_q", width), ("k", "to_k", into), ("v", "to_v", into)):
                names = f"{ours}.attn{number}.{a}.weight", f"{theirs}.attn{number}.{b}.weight"
                yield Twin(*names, (width, columns))
            yield from linear(f"{ours}.attn{number}.out", f"{theirs}.attn{number}.to_out.0", width, width)
        yield from linear(f"{ours}.ff.net.0.proj", f"{theirs}.ff.net.0.proj", 8 * width, width)
        yield from linear(f"{ours}.ff.net.2", f"{theirs}.ff.net.2", width, 4 * width)
        for number in (1, 2, 3):
            yield from norm(f"{ours}.norm{number}", f"{theirs}.norm{number}", width)
    yield from linear(f"{source}.proj_out", f"{target}.proj_out", width, width)
