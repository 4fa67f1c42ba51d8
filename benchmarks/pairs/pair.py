"""
What a pair is: two modules that compute the same function, and which tensor is which.

A truth is written by hand, as conversion scripts are, and proven: random weights of the
source, put into the target by it, must give equal outputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelinspect.transplant.transforms import apply_steps, parse_steps

__all__ = ["FACTS", "PAIRS", "Pair", "Truth", "fixture", "pair", "prove", "taken"]

Truth = tuple[tuple[tuple[str, str], ...], str]
"""Pieces (name in the source, its steps as text) and the steps after them: see
``modelinspect.transplant.transforms``."""

FACTS = (
    "num_heads", "n_head", "n_heads", "num_attention_heads", "nhead", "heads", "num_kv_heads",
    "num_key_value_heads", "n_kv_heads", "n_query_groups", "num_key_value_groups", "head_dim", "head_size",
    "attention_head_size", "dim_head", "embed_dim", "hidden_size", "groups", "num_groups",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One pair, built: small, in eval mode, float32 on the CPU."""

    source: nn.Module
    target: nn.Module
    truth: Mapping[str, Truth]
    """Target's name to where it comes from. Names that are left out are ``made``."""
    run_source: Callable[[nn.Module], Any]
    """Gives a tensor, or a tuple of tensors, for a fixed input."""
    run_target: Callable[[nn.Module], Any]
    """The same function of the same input."""
    made: tuple[str, ...] = ()
    """Names of the target that need nothing of the source: masks, counters, position ids."""
    free: tuple[str, ...] = ()
    """Names of the target whose value no output shows (a key bias): any claim is right."""
    atol: float = 1e-4


@dataclass(frozen=True)
class _Registered:
    name: str
    family: str
    build: Callable[[], Pair]
    kind: str


PAIRS: dict[str, _Registered] = {}


def pair(
    name: str, *, family: str, transforms: bool = False
) -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
    """
    Register a function that builds a pair.

    Args:
        name: ``resnet-timm-transformers``: architecture, source library, target library.
        family: Pairs of one family are hidden together when rules are tried.
        transforms: Some tensor is not a plain copy.
    """

    def register(build: Callable[[], Pair]) -> Callable[[], Pair]:
        PAIRS[name] = _Registered(name, family, build, "transforms" if transforms else "same-shapes")
        return build

    return register


def taken(name: str, steps: str = "") -> Truth:
    """The truth of a target tensor that comes from one source tensor."""
    return (((name, steps),), "")


def prove(built: Pair, seed: int = 0) -> float:
    """
    The largest difference of outputs with the truth applied; raises where it does not hold.

    Norm weights, biases and running statistics are randomised, so that a swap shows itself.
    """
    randomise(built.source, seed)
    randomise(built.target, seed + 1)
    state = built.source.state_dict()
    result = {name: tensor.clone() for name, tensor in built.target.state_dict().items()}
    expected = set(result) - set(built.made)
    lacks, excess = sorted(expected - set(built.truth)), sorted(set(built.truth) - expected)
    assert not lacks, f"the truth lacks {lacks[:9]}"
    assert not excess, f"the truth has too much: {excess[:9]}"
    for name, (pieces, steps) in built.truth.items():
        arrays = []
        for source, own in pieces:
            like = state[source] if source else next(iter(state.values()))
            arrays.append(apply_steps([like], parse_steps(own), torch))
        value = apply_steps(arrays, parse_steps(steps), torch)
        assert value.shape == result[name].shape, (name, tuple(value.shape), tuple(result[name].shape))
        result[name] = value.clone()
    built.target.load_state_dict(result, strict=True)
    with torch.no_grad():
        ours = _flat(built.run_source(built.source.eval()))
        theirs = _flat(built.run_target(built.target.eval()))
    assert ours
    assert len(ours) == len(theirs)
    worst = max(float((a - b).abs().max() / (1e-6 + a.abs().max())) for a, b in zip(ours, theirs))
    spread = min(float(a.float().std()) for a in ours)
    assert spread > 1e-4, f"outputs hardly vary ({spread}): they prove nothing"
    assert worst < built.atol, f"outputs differ by {worst}"
    return worst


def _flat(outputs: Any) -> list[Tensor]:
    return (
        [outputs] if isinstance(outputs, Tensor) else [each for each in outputs if isinstance(each, Tensor)]
    )


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Values for every tensor such that signals stay of size 1 and nothing is neutral."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point() or "inv_freq" in name or "mask" in name:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if "running_var" in name:
            value = 0.5 + noise.abs()
        elif tensor.ndim <= 1:
            centre = float(tensor.float().mean()) if tensor.numel() and "running" not in name else 0.0
            value = (1.0 if abs(centre - 1) < 0.3 else 0.0) + 0.3 * noise
        else:
            value = noise * (2.0 / max(1, tensor[0].numel())) ** 0.5
        tensor.detach().copy_(value.to(tensor.dtype))


def fixture(name: str) -> dict[str, Any]:
    """Names, shapes and truth of a registered pair, as JSON takes them."""
    registered = PAIRS[name]
    torch.manual_seed(0)
    built = registered.build()
    prove(built)
    return {
        "name": name,
        "family": registered.family,
        "kind": registered.kind,
        "source": _side(built.source),
        "target": _side(built.target),
        "truth": {
            target: [[list(piece) for piece in pieces], steps]
            for target, (pieces, steps) in built.truth.items()
        },
        "made": list(built.made),
        "free": list(built.free),
    }


def _side(module: nn.Module) -> dict[str, Any]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    rows = []
    for name, tensor in module.state_dict(keep_vars=True).items():
        tied = first.setdefault(id(tensor), name)
        kind = "parameter" if name in parameters else "buffer"
        dtype = str(tensor.dtype).removeprefix("torch.")
        rows.append([name, dtype, list(tensor.shape), kind, tied if tied != name else None])
    return {
        "tensors": rows,
        "modules": {path: type(each).__name__ for path, each in module.named_modules()},
        "facts": {path: found for path, each in module.named_modules() if (found := _facts(each))},
    }


def _facts(module: nn.Module) -> dict[str, int]:
    return {
        key: value
        for key in FACTS
        if isinstance(value := getattr(module, key, None), int) and not isinstance(value, bool)
    }


def write_fixtures(folder: Path, names: Sequence[str]) -> None:
    """Prove pairs and write their files, a tensor a line."""
    for name in names:
        made = fixture(name)
        text = json.dumps(made, ensure_ascii=False, separators=(",", ":"))
        for mark in (
            '[["',
            '],["',
            '"modules":',
            '"facts":',
            '"truth":',
            '"made":',
            '"target":',
            '"source":',
        ):
            text = text.replace(mark, "\n" + mark) if mark != '],["' else text.replace(mark, '],\n["')
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
