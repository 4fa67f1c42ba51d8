"""
Inputs for models of several arguments, by what each argument may be: tried together.

What :mod:`modelinspect.live.inputs` works out is tried first. Here every argument has a few
candidates, by its name and by all layers of the model, and combinations run until one fits.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import islice, product

import torch
from torch import Tensor, nn

from modelinspect.live.inputs import Batch

__all__ = ["combined_inputs", "role_of"]

_ROLES = tuple(
    (role, re.compile(pattern))
    for role, pattern in (
        ("mask", r"mask"),
        ("boxes", r"box"),
        ("segments", r"segment|token_type"),
        ("positions", r"position|(^|_)pos($|_)"),
        ("decoder", r"decoder|(^|_)(tgt|target|goal|dec|y)($|_)"),
        ("time", r"time|^t$"),
        ("context", r"encoder_hidden_states|context|cond|memory"),
        ("image", r"image|pixel|img|vision"),
        ("sound", r"audio|mel|wave|spec|input_features|input_values"),
        ("links", r"edge|link|adj"),
        ("tokens", r"ids?$|tokens?$|^idx$|text|src|words?$"),
    )
)
"""What the names of arguments say that they are."""
_BATCH, _TOKENS, _NODES = 2, 8, 8
_MOST_TRIED = 500
_MOST_SCANNED = 128


def role_of(name: str) -> str:
    """``tokens`` for ``input_ids``; empty for a name that says nothing."""
    return next((role for role, pattern in _ROLES if pattern.search(name.lower())), "")


def combined_inputs(module: nn.Module, seed: int) -> Iterator[Batch]:
    """
    Batches to try, the plainest combinations first.

    Args:
        module: Looked at, not run.
        seed: Of made-up values.
    """
    names = _required(module)
    if not names:
        return
    lead = _NODES if any(role_of(name) == "links" for name in names) else _BATCH
    maker = _Maker(module, torch.Generator().manual_seed(seed), lead)
    candidates = [list(maker.candidates(name, alone=len(names) == 1)) for name in names]
    places = product(*(range(len(each)) for each in candidates))
    chosen = sorted(islice(places, 50 * _MOST_TRIED), key=sum)[:_MOST_TRIED]
    for combination in chosen:
        values = tuple(each[at] for each, at in zip(candidates, combination))
        yield Batch(values, {}, None, len(values[0]))
    if len(names) == 1:
        yield from maker.scanned()


def _required(module: nn.Module) -> list[str]:
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in parameters if each.kind in kinds and each.default is each.empty]


class _Maker:
    def __init__(self, module: nn.Module, generator: torch.Generator, lead: int) -> None:
        self._generator, self._lead = generator, lead
        tables = [each for each in module.modules() if isinstance(each, nn.Embedding)]
        self._sizes = sorted({each.num_embeddings for each in tables})
        self._tables = len(tables)
        linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
        widths = [each.in_features for each in linear]
        # A layer that takes what another puts out, joined to an input.
        joined = {wide - each.out_features for wide in widths for each in linear if wide > each.out_features}
        norms = [each.normalized_shape[-1] for each in module.modules() if isinstance(each, nn.LayerNorm)]
        every = [*widths[:6], *sorted(joined)[:6], *dict.fromkeys(norms), *_bare(module)]
        self._widths = list(dict.fromkeys(every))[:14]
        convolutions = [
            each for each in module.modules() if isinstance(each, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        ]
        self._channels = list(
            dict.fromkeys((len(each.kernel_size), each.in_channels) for each in convolutions)
        )[:3]

    def candidates(self, name: str, *, alone: bool) -> Iterator[Tensor]:
        """Values of one argument, the likeliest first."""
        role = role_of(name)
        yield from self._plain(role)
        if role in ("image", "sound"):
            yield from self._signals()
        if role == "" and self._tables > 1:  # a column for each table
            yield self._integers(min(self._sizes), _BATCH, self._tables)
        if role in ("tokens", "decoder", ""):
            yield from self._words()
        if role not in ("tokens", "segments", "mask", "links", "boxes"):
            yield from self._floats()
            if not alone:
                yield from self._signals()

    def _plain(self, role: str) -> Iterator[Tensor]:
        """What a role alone says."""
        if role == "mask":
            yield torch.ones(_BATCH, _TOKENS, dtype=torch.int64)
        elif role == "time":
            yield torch.ones(_BATCH, dtype=torch.int64)
            yield torch.ones(_BATCH)
        elif role == "positions":
            yield torch.arange(_TOKENS).expand(_BATCH, _TOKENS).clone()
        elif role == "segments":
            yield self._integers(2, _BATCH, _TOKENS)
        elif role == "boxes":  # left, top, right, bottom
            half = max(2, min([size for size in self._sizes if size > 2], default=100) // 2)
            corner, size = self._integers(half, _BATCH, _TOKENS, 2), self._integers(half, _BATCH, _TOKENS, 2)
            yield torch.cat([corner, corner + size], -1)
        elif role == "links":
            yield self._integers(_NODES, 2, 2 * _NODES)
            yield (torch.rand(_NODES, _NODES, generator=self._generator) > 0.5).float() + torch.eye(_NODES)

    def _words(self) -> Iterator[Tensor]:
        sizes = [size for size in self._sizes if size > 2] or self._sizes
        for size in dict.fromkeys(sizes[:1] + sizes[-1:]):
            yield self._integers(size, _BATCH, _TOKENS)
        for size in sizes[:1]:
            yield self._integers(size, _BATCH)

    def _floats(self) -> Iterator[Tensor]:
        for width in self._widths:
            yield self._normal(self._lead, width)
            yield self._normal(_BATCH, _TOKENS, width)

    def _signals(self) -> Iterator[Tensor]:
        for axes, channels in self._channels:
            yield self._normal(_BATCH, channels, *([64] * axes if axes > 1 else [1024]))

    def scanned(self) -> Iterator[Batch]:
        """One argument of floats, whose last axis may have any length."""
        for length in range(4, _MOST_SCANNED):
            for shape in (
                (_BATCH, 1, 32, length),
                (_BATCH, 1, length, 32),
                (_BATCH, 32, length),
                (_BATCH, length),
                (_BATCH, length, 32),
            ):
                yield Batch((self._normal(*shape),), {}, None, _BATCH)

    def _integers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self._generator)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)


def _bare(module: nn.Module) -> list[int]:
    """Lengths of axes of matrices that no layer holds."""
    kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [
        length
        for part in module.modules()
        if not isinstance(part, kinds)
        for parameter in part.parameters(recurse=False)
        if parameter.ndim >= 2
        for length in parameter.shape[-2:]
    ][:6]
