"""
What the pairs of vision share: torchvision beside a torch for the CPU, truths by rules, images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pairs.pair import Truth

__all__ = ["configured", "image", "key_biases", "logits", "on", "qkv_taken", "renamed", "reshapes"]


def _declare_operators() -> Any:
    """
    Declare the two operators whose schemas torchvision looks up while it is imported.

    Its compiled part comes with them and needs CUDA's libraries; no model here calls one.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        library.define(schema)
    return library


_DECLARED = None if torch.version.cuda else _declare_operators()
"""Kept: the declarations go with it. Import this module before torchvision and timm."""


def renamed(
    target: nn.Module,
    *rules: tuple[str, str],
    steps: Mapping[str, str] | None = None,
    made: tuple[str, ...] = (),
) -> dict[str, Truth]:
    """
    The truth that rules give: each rule rewrites what the one before left of a target's name.

    Args:
        target: Its names are asked.
        rules: Regular expression and replacement. ``{q,k,v}`` in the name that results means
            several pieces.
        steps: For names of the target that an expression finds; the first that does counts.
        made: Names to leave out.
    """
    truth: dict[str, Truth] = {}
    for name in target.state_dict():
        if name in made:
            continue
        source = name
        for pattern, replacement in rules:
            source = re.sub(pattern, replacement, source)
        own = next((text for pattern, text in (steps or {}).items() if re.search(pattern, name)), "")
        several = re.fullmatch(r"(.*)\{(.*)\}(.*)", source)
        if several:
            pieces = tuple((several[1] + each + several[3], "") for each in several[2].split(","))
            truth[name] = (pieces, own)
        else:
            truth[name] = (((source, own),), "")
    return truth


def qkv_taken(width: int, names: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")) -> dict[str, str]:
    """Steps that take query, key and value from a tensor that stacks them."""
    starts = ((name, at * width) for at, name in enumerate(names))
    return {re.escape(name) + r"\.": f"take(0, {start}, {start + width}, 1)" for name, start in starts}


def image(size: int = 32, channels: int = 3, batch: int = 2) -> Tensor:
    """The same images each time."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(7))


def on(value: Tensor) -> Callable[[nn.Module], Any]:
    """Run a model on a tensor."""
    return lambda net: net(value)


def logits(value: Tensor) -> Callable[[nn.Module], Any]:
    """Run a classifier of transformers on images."""
    return lambda net: net(pixel_values=value).logits


def configured(kind: Any, labels: int = 11, **settings: Any) -> Any:
    """A configuration of transformers for so many classes, which its classes don't declare."""
    return kind(num_labels=labels, **settings)


def key_biases(truth: Mapping[str, Truth], ending: str = "k_proj.bias") -> tuple[str, ...]:
    """Names that end so: keys' biases move all scores of a query alike, which no output shows."""
    return tuple(name for name in truth if name.endswith(ending))


def reshapes(target: nn.Module, pattern: str) -> dict[str, str]:
    """Steps that bring elements in their order to the shape of the target's tensors of such names."""
    return {
        f"^{re.escape(name)}$": f"reshape({', '.join(map(str, tensor.shape))})"
        for name, tensor in target.state_dict().items()
        if re.search(pattern, name)
    }
