"""
The pairs that need torch alone: the twins of ``models/``.
"""

from __future__ import annotations

from benchmarks.pairs.pair import Pair, pair, taken
from models import encoder_a, encoder_b, regression, regression_named


@pair("regression-plain-plain", family="mlp")
def _regression() -> Pair:
    truth = {}
    for ours, theirs in (("0", "hidden_linear"), ("2", "output_linear")):
        for leaf in ("weight", "bias"):
            truth[f"{theirs}.{leaf}"] = taken(f"{ours}.{leaf}")
    batch = regression.example_input()
    return Pair(
        regression.Regression(), regression_named.Thermometer(), truth,
        lambda net: net(batch), lambda net: net(batch),
    )  # fmt: skip


_BLOCK = {
    "attention.query": "attn.wq", "attention.key": "attn.wk", "attention.value": "attn.wv",
    "attention.dense": "attn.wo", "attention_norm": "ln1", "intermediate": "mlp.0", "output": "mlp.2",
    "output_norm": "ln2",
}  # fmt: skip


@pair("encoder-plain-plain", family="plain-encoder")
def _encoder() -> Pair:
    modules = {"embedding_norm": "ln0", "classifier": "head"}
    for at in range(2):
        modules |= {f"encoder.{at}.{ours}": f"blocks.{at}.{theirs}" for ours, theirs in _BLOCK.items()}
    truth = {f"{b}.{leaf}": taken(f"{a}.{leaf}") for a, b in modules.items() for leaf in ("weight", "bias")}
    truth["tok.weight"] = taken("word_embeddings.weight")
    truth["pos.weight"] = taken("position_embeddings.weight")
    tokens = encoder_a.example_input()
    return Pair(
        encoder_a.TextEncoder(), encoder_b.Classifier(), truth,
        lambda net: net(tokens), lambda net: net(tokens),
        free=tuple(name for name in truth if name.endswith("wk.bias")),
    )  # fmt: skip
