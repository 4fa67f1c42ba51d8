"""
What the pairs of text and audio share: truths as rules over names, attention, rotary angles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pairs.pair import Truth

__all__ = ["angles", "attend", "called", "keys_of", "logits", "mapped", "rms", "rotated", "tokens"]


def tokens(batch: int, length: int, count: int, seed: int = 0) -> Tensor:
    """Token numbers below ``count`` that stay the same from run to run."""
    return torch.randint(3, count, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits(ids: Tensor) -> Callable[[nn.Module], Any]:
    """Runs a language model of transformers."""
    return lambda net: net(ids).logits


def called(*inputs: Any) -> Callable[[nn.Module], Any]:
    """Runs a module on these."""
    return lambda net: net(*inputs)


def mapped(
    target: nn.Module,
    rules: Mapping[str, str],
    *,
    leaves: Mapping[str, str] | None = None,
    made: tuple[str, ...] = (),
) -> dict[str, Truth]:
    """
    The truth that rules over names spell, for each tensor of the target.

    Args:
        target: Whose names are asked for.
        rules: A module or tensor of the target, ``*`` for each number in it, to where it comes
            from: ``a.*.q``, ``a.*.qkv : take(0, 0, 32, 1)`` or ``a.*.q + a.*.k > cat(0, 1)``.
            The first that fits counts. A bias has nothing to ``transpose``.
        leaves: What the target's leaves are called in the source, where that differs.
        made: Names of the target that the source has nothing for.
    """
    return {name: _truth(name, rules, leaves or {}) for name in target.state_dict() if name not in made}


def _truth(name: str, rules: Mapping[str, str], leaves: Mapping[str, str]) -> Truth:
    module, _, leaf = name.rpartition(".")
    for pattern, origin in rules.items():
        regex = re.escape(pattern).replace(r"\*", r"(\d+)")
        if match := re.fullmatch(regex, name):
            return _parsed(origin, match.groups(), "", leaf)
        if match := re.fullmatch(regex, module):
            return _parsed(origin, match.groups(), "." + leaves.get(leaf, leaf), leaf)
    raise AssertionError(f"no rule for {name}")


def _parsed(origin: str, numbers: tuple[str, ...], suffix: str, leaf: str) -> Truth:
    pieces, _, after = origin.partition(">")
    parts = []
    for piece in pieces.split("+"):
        name, _, steps = piece.partition(":")
        left = list(numbers)
        full = re.sub(r"\*", lambda _: left.pop(0), name.strip())  # noqa: B023 - used at once
        parts.append((full + suffix, _fitting(steps, leaf)))
    return tuple(parts), _fitting(after, leaf)


def _fitting(steps: str, leaf: str) -> str:
    kept = [step.strip() for step in steps.split("|") if step.strip()]
    return " | ".join(step for step in kept if step != "transpose" or not leaf.endswith("bias"))


def keys_of(truth: Mapping[str, Truth], *endings: str) -> tuple[str, ...]:
    """Names of a truth with one of these endings: mostly for ``free``."""
    return tuple(name for name in truth if name.endswith(endings))


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, kv_heads: int = 0, *, causal: bool = False,
    scale: float = 0.0, bias: Tensor | None = None, cos_sin: tuple[Tensor, Tensor] | None = None,
    interleaved: bool = False,
) -> Tensor:  # fmt: skip
    """Attention of (batch, tokens, heads × width) tensors, grouped and rotated where asked for."""
    kv_heads = kv_heads or heads
    q, k, v = (
        x.unflatten(-1, (count, -1)).transpose(1, 2)
        for x, count in ((q, heads), (k, kv_heads), (v, kv_heads))
    )
    if cos_sin is not None:
        q, k = (rotated(x, *cos_sin, interleaved=interleaved) for x in (q, k))
    k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    if bias is not None:
        scores = scores + bias
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def angles(length: int, width: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of shape (length, width / 2)."""
    speeds = base ** (-torch.arange(0, width, 2).float() / width)
    turned = torch.outer(torch.arange(length).float(), speeds)
    return turned.cos(), turned.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """(…, tokens, width) turned; only its first elements where the angles are fewer."""
    x, rest = x[..., : 2 * cos.shape[-1]], x[..., 2 * cos.shape[-1] :]
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = x.chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return torch.cat([turned, rest], -1)


def rms(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Root-mean-square norm."""
    return functional.rms_norm(x, x.shape[-1:], weight, eps)
