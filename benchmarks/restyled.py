"""
``python -m benchmarks.restyled``: real models under names as other authors might have given them.

Architectures come from transformers, built without memory; each is its own target, restyled. So
the truth is known by construction, and no family was looked at when the matcher was made: what is
right here is right by more than habit.
"""

from __future__ import annotations

import argparse
import importlib
import random
import re
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from pair_scores import Score, score_plan
from pairs import SOURCES, Fixture, Form

from benchmarks.report import failure_lines
from modelinspect.transplant.match import match

__all__ = ["STYLES", "models", "restyled"]

Row = list[Any]
"""Name, type, shape, kind and the name that it is tied to, as fixtures have them."""
Style = Callable[[Sequence[str], random.Random], dict[str, str]]

# --------------------------------------------------------------------------- models

_SMALL = {
    "num_hidden_layers": 3, "n_layer": 3, "n_layers": 3, "num_layers": 3, "encoder_layers": 3,
    "decoder_layers": 2, "num_decoder_layers": 2, "num_encoder_layers": 3, "vocab_size": 500,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
}  # fmt: skip
_MOST_TENSORS = 1500
_MOST_SECONDS = 25


def models(pattern: str, count: int, seed: int = 0) -> Iterator[tuple[str, list[Row]]]:
    """
    Names and tensors of architectures of transformers whose names fit a glob, in random order.

    Those that can't be built from their default configuration are left out.
    """
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    names = sorted(name for name in auto.MODEL_MAPPING_NAMES if fnmatch(name, pattern))
    random.Random(seed).shuffle(names)
    importlib.import_module("transformers").logging.set_verbosity_error()
    for name in names:
        if count == 0:
            return
        try:
            with _within(_MOST_SECONDS), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows = _rows(name)
        except Exception:  # noqa: BLE001  some want files or other packages; others are many
            continue
        if 8 <= len(rows) <= _MOST_TENSORS:
            count -= 1
            yield name, rows


def _rows(name: str) -> list[Row]:
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    config = transformers.AutoConfig.for_model(name)
    _shrink(config)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    rows = []
    for own, tensor in model.state_dict(keep_vars=True).items():
        tied = first.setdefault(id(tensor), own)
        kind = "parameter" if own in parameters else "buffer"
        dtype = str(tensor.dtype).removeprefix("torch.")
        rows.append([own, dtype, list(tensor.shape), kind, tied if tied != own else None])
    return rows


def _shrink(config: Any) -> None:
    """Few blocks, also of the parts."""
    for key, value in _SMALL.items():
        if type(getattr(config, key, None)) is int:
            setattr(config, key, value)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:3]
    for key in getattr(config, "sub_configs", None) or {}:
        part = getattr(config, key, None)
        if hasattr(part, "to_dict"):
            _shrink(part)


@contextmanager
def _within(seconds: int) -> Iterator[None]:
    """TimeoutError where it takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --------------------------------------------------------------------------- styles

_WORDS: Mapping[str, tuple[str, ...]] = {
    "attention": ("attn", "attention", "self_attn", "self_attention", "mha", "SelfAttention"),
    "mlp": ("mlp", "ffn", "feed_forward", "ff", "feedforward"),
    "blocks": ("layers", "layer", "blocks", "block", "h", "resblocks", "stack"),
    "embeddings": ("embeddings", "embed", "embedding", "embedder"),
    "norm": ("norm", "ln", "layernorm", "layer_norm", "LayerNorm"),
}
_QKV = (
    ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"), ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"), ("q_lin", "k_lin", "v_lin"), ("linear_q", "linear_k", "linear_v"),
    ("query_proj", "key_proj", "value_proj"), ("fc_q", "fc_k", "fc_v"),
)  # fmt: skip
_OUT = ("o_proj", "out_proj", "to_out", "wo", "proj", "out_lin", "linear_out", "c_proj")
_INNER = (
    ("fc1", "fc2", "gate"), ("w3", "w2", "w1"), ("lin1", "lin2", "linear_gate"),
    ("linear1", "linear2", "gate"), ("c_fc", "c_proj", "wg"), ("up_proj", "down_proj", "gate_proj"),
    ("wi", "wo", "wg"), ("up", "down", "gate"), ("0", "2", "gate"),
)  # fmt: skip
_FIRST = {"fc1", "lin1", "linear1", "linear_1", "c_fc", "wi", "up_proj"}
_SECOND = {"fc2", "lin2", "linear2", "linear_2", "down_proj"}


def _translation(chance: random.Random, *, is_hidden: bool) -> Callable[[str], str]:
    """What another author calls a part of a name: the same thing always by the same word."""
    chosen = {known: chance.choice(words) for words in _WORDS.values() for known in [words]}
    table = {word: chosen[words] for words in _WORDS.values() for word in words}
    qkv, out, inner = chance.choice(_QKV), chance.choice(_OUT), chance.choice(_INNER)
    table.update({word: own for words in _QKV for word, own in zip(words, qkv)})
    table.update(dict.fromkeys(set(_OUT) - {"proj", "c_proj"}, out))
    table.update(
        {**dict.fromkeys(_FIRST, inner[0]), **dict.fromkeys(_SECOND, inner[1]), "gate_proj": inner[2]}
    )
    is_camel = chance.random() < 0.3

    def translated(part: str) -> str:
        if part.isdigit():
            return part
        if part not in table:
            hidden = "".join(chance.choices("bcdfghjklmnprstvwz", k=6))
            shown = re.sub(r"_([a-z])", lambda match: match[1].upper(), part) if is_camel else part
            table[part] = hidden if is_hidden else shown
        return table[part]

    return translated


def _in_modules(names: Sequence[str], translated: Callable[[str], str]) -> dict[str, str]:
    parts = {name: name.split(".") for name in names}
    return {name: ".".join([*map(translated, own[:-1]), own[-1]]) for name, own in parts.items()}


def same(names: Sequence[str], chance: random.Random) -> dict[str, str]:  # noqa: ARG001  one signature
    """The same names: a model into itself."""
    return {name: name for name in names}


def wrapped(names: Sequence[str], chance: random.Random) -> dict[str, str]:  # noqa: ARG001
    """The same in a wrapper."""
    return {name: f"module.net.{name}" for name in names}


def synonyms(names: Sequence[str], chance: random.Random) -> dict[str, str]:
    """Other words of the field."""
    return _in_modules(names, _translation(chance, is_hidden=False))


def hidden(names: Sequence[str], chance: random.Random) -> dict[str, str]:
    """Other words of the field, and random ones for all that are not of the field."""
    return _in_modules(names, _translation(chance, is_hidden=True))


def joined(names: Sequence[str], chance: random.Random) -> dict[str, str]:
    """Numbers are part of a word: ``block_3`` instead of ``block.3``."""
    found = synonyms(names, chance)
    return {name: re.sub(r"([A-Za-z])\.(\d+)(?=\.)", r"\1_\2", own) for name, own in found.items()}


def unnested(names: Sequence[str], chance: random.Random) -> dict[str, str]:
    """Modules that hold one other module only are left out."""
    found = synonyms(names, chance)
    children: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for own in found.values():
        parts = own.split(".")
        for at in range(len(parts) - 1):
            children[tuple(parts[:at])].add(parts[at])

    def shorter(own: str) -> str:
        parts = own.split(".")
        kept = [p for at, p in enumerate(parts[:-1]) if p.isdigit() or len(children[tuple(parts[:at])]) > 1]
        return ".".join(["net", *kept, parts[-1]])

    return {name: shorter(own) for name, own in found.items()}


def numbered(names: Sequence[str], chance: random.Random) -> dict[str, str]:  # noqa: ARG001
    """Modules have numbers only, as in nested Sequentials."""
    children: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    found = {}
    for name in names:
        parts = name.split(".")
        own = []
        for at, part in enumerate(parts[:-1]):
            known = children[tuple(parts[:at])]
            own.append(known.setdefault(part, part if part.isdigit() else str(len(known))))
        found[name] = ".".join([*own, parts[-1]])
    return found


STYLES: Mapping[str, Style] = {
    each.__name__: each for each in (same, wrapped, synonyms, joined, unnested, hidden, numbered)
}


def restyled(name: str, rows: Sequence[Row], style: str, *, reorder: bool, seed: int = 0) -> Fixture | None:
    """
    A model and itself in another style; None where two names would become one.

    Args:
        name: Of the model.
        rows: Its tensors.
        style: Of :data:`STYLES`.
        reorder: The target registers its modules in another order, numbered ones aside.
        seed: Of all choices.
    """
    chance = random.Random(f"{name} {style} {seed}")
    new = STYLES[style]([row[0] for row in rows], chance)
    if len(set(new.values())) != len(new):
        return None
    kept = [row[0] for row in rows if row[3] == "parameter" or "running_" in row[0]]
    target = [[new[row[0]], *row[1:4], new[row[4]] if row[4] else None] for row in rows]
    if reorder:
        target = _reordered(target, chance)
    return Fixture.of(
        {
            "name": name,
            "family": name,
            "kind": style,
            "source": {"tensors": rows},
            "target": {"tensors": target},
            "truth": {new[own]: [[[own, ""]], ""] for own in kept},
            "made": [new[row[0]] for row in rows if row[0] not in set(kept)],
            "free": [],
        }
    )


def _reordered(rows: Sequence[Row], chance: random.Random) -> list[Row]:
    places: dict[tuple[str, ...], int] = {}

    def key(row: Row) -> list[int]:
        parts = row[0].split(".")
        return [
            int(part)
            if part.isdigit()
            else places.setdefault(tuple(parts[: at + 1]), chance.randrange(10**6))
            for at, part in enumerate(parts)
        ]

    turned = sorted(rows, key=key)
    first: dict[str, str] = {}
    for row in turned:
        first.setdefault(row[4] or row[0], row[0])
    groups = [(row, first[row[4] or row[0]]) for row in turned]
    return [[*row[:4], None if own == row[0] else own] for row, own in groups]


# --------------------------------------------------------------------------- report


def main() -> None:
    """A line for each style, order and form of the source."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restyled", description=__doc__)
    parser.add_argument("styles", nargs="*", metavar="STYLE", help=f"of {', '.join(STYLES)}; all if left out")
    parser.add_argument("--models", default="*", metavar="GLOB", help="of model types of transformers")
    parser.add_argument("--count", type=int, default=130, help="of models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", action="store_true", help="list each tensor that is not right")
    chosen = parser.parse_args()
    built = list(models(chosen.models, chosen.count, chosen.seed))
    heads = f"{'whole':>9} {'certain':>9}   {'likely':>9}   {'doubted':>8} {'missing':>8} {'seconds':>8}"
    print(f"{len(built)} models; of what is certain and likely: rows that are wrong\n")
    print(f"{'style':<10} {'order':<8} {'from':<12} {heads}")
    for style in chosen.styles or STYLES:
        for reorder in (False, True):
            found = [restyled(*model, style, reorder=reorder, seed=chosen.seed) for model in built]
            fixtures = [each for each in found if each is not None]
            for form in SOURCES:
                _report(fixtures, style, reorder, form, is_long=chosen.failures)


def _report(fixtures: Sequence[Fixture], style: str, reorder: bool, form: Form, *, is_long: bool) -> None:
    start = time.perf_counter()
    scores: list[Score] = []
    for fixture in fixtures:
        plan = match(fixture.source_side(form), fixture.target_side("definition"))
        scores.append(score_plan(fixture, plan))
    seconds = time.perf_counter() - start
    wrong = {}
    for label in ("certain", "likely"):
        rows = [score.rows_wrong(label) for score in scores]
        wrong[label] = f"{sum(a for a, _ in rows)} / {sum(b for _, b in rows)}"
    whole = f"{sum(score.is_whole for score in scores)} / {len(scores)}"
    doubted, missing = (sum(score.count(each) for score in scores) for each in ("doubted", "missing"))
    order = "another" if reorder else "the same"
    print(
        f"{style:<10} {order:<8} {form:<12} {whole:>9} {wrong['certain']:>9}   {wrong['likely']:>9}"
        f"   {doubted:>8} {missing:>8} {seconds:>8.1f}",
        flush=True,
    )
    for score in scores if is_long else ():
        if score.failures:
            print(f"  {score.fixture.name}")
            for line in failure_lines(score):
                print(line)


if __name__ == "__main__":
    main()
