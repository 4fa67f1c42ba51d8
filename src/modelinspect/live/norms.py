"""
Measure gradients: norms, largest entry, zeros, NaN, for tensors of every kind.

L2 norms are added up in float64 over rows of :data:`ROW` elements that are summed in
float32: within 2e-7 of float64 from the start whatever the values, and as a rule within
1e-9, at a twentieth of the time. Where squares leave the range of float32, the gradient
is measured in float64 whole. L1 norms are added up in float64.

A gradient that is sharded over processes (``DTensor``) is measured where it lies and
the parts are put together by one exchange for all of them, so that every process knows
the figures of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf, isfinite, isnan, nan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelinspect.analysis.gradients import Figures

__all__ = [
    "Named",
    "figures_of",
    "l2_norms",
    "measure",
    "plain_name",
    "trainable_parameters",
    "unique_parameters",
]

ROW = 64
"""Elements that are added up in float32 before float64 takes over."""
_FEW = 1024
"""Elements that are quicker to add up in float64 than in rows."""
_BLOCK = 2**22
"""Elements of which float64 copies are made at a time."""
_SMALL = 2**14
"""Elements up to which float64 is quick enough at every step of a training loop."""
_SMALLEST, _LARGEST = 1e-15, 1e15
"""Norms of float32 between these were computed without over- or underflow."""


class Named(NamedTuple):
    """A parameter under its first name, with the further ones of a tied one."""

    name: str
    parameter: nn.Parameter
    also: tuple[str, ...] = ()


def unique_parameters(module: nn.Module) -> list[Named]:
    """
    Every parameter once, in the order of registration, with all its names.

    Names are those of the model inside: the ``module.`` of DistributedDataParallel and
    the ``_orig_mod.`` of a compiled module are left out.
    """
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in unwrapped(module).named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain_name(name))
        parameters[id(parameter)] = parameter
    return [Named(found[0], parameters[key], tuple(found[1:])) for key, found in names.items()]


def plain_name(path: str) -> str:
    """A dotted path without the ``_orig_mod`` of compiled modules on the way."""
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def trainable_parameters(module: nn.Module) -> list[Named]:
    """Those of :func:`unique_parameters` that ask for a gradient."""
    return [named for named in unique_parameters(module) if named.parameter.requires_grad]


def unwrapped(module: nn.Module) -> nn.Module:
    """The model inside of DataParallel, DistributedDataParallel and ``torch.compile``."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def measure(pairs: Iterable[tuple[Tensor | None, Tensor | None]]) -> list[Figures | None]:
    """
    Figures of gradients, in their order.

    Args:
        pairs: A gradient and its parameter. A gradient of None has no figures; a
            parameter of None leaves ``Figures.weight`` unknown.
    """
    parts: list[_Part | None] = []
    for gradient, parameter in pairs:
        if gradient is None:
            parts.append(None)
            continue
        here = _part(_local(gradient), gradient.numel())._replace(spread=_spread_of(gradient))
        if parameter is not None:
            here = here._replace(weight=_part_norm(_local(parameter)), weight_spread=_spread_of(parameter))
        parts.append(here)
    return [None if part is None else part.figures() for part in _with_weights(_exchanged(parts))]


def figures_of(gradient: Tensor, parameter: Tensor | None = None) -> Figures:
    """Figures of one gradient."""
    (figures,) = measure([(gradient, parameter)])
    assert figures is not None
    return figures


@torch.no_grad()
def l2_norms(gradients: Sequence[Tensor]) -> Tensor:
    """
    L2 norms of gradients, as one float64 tensor of shape (gradients,).

    The quick part of :func:`measure`, for every step of a training loop: nothing waits
    for the device, and all small gradients are measured together. Of sharded gradients
    the norms are those of the whole, by one exchange for each set of process groups, in
    which every process must take part. Where a gradient of more than 16,384 elements has
    squares that leave the range of float32, or any one those that leave the range of
    float64, its norm comes out as infinity or 0.
    """
    if not gradients:
        return torch.zeros(0, dtype=torch.float64)
    values = [gradient if _is_plain(gradient) else _values(_local(gradient)) for gradient in gradients]
    device, wide = values[0].device, _widest(values[0])
    small = [place for place, each in enumerate(values) if 0 < each.numel() <= _SMALL]
    together = torch._foreach_norm([values[place] for place in small], 2, wide) if small else ()
    norms = dict(zip(small, together))
    for place, each in enumerate(values):
        if place not in norms:
            norms[place] = _l2_quick(each.reshape(-1))
    stacked = torch.stack([norms[place].to(device) for place in range(len(values))])
    return _of_the_whole(stacked, gradients)


def _is_plain(gradient: Tensor) -> bool:
    """Nearly all are; what takes time is to look closer."""
    return (
        type(gradient) is Tensor
        and gradient.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and gradient.layout is torch.strided
    )


def _of_the_whole(norms: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Norms of parts to those of whole gradients, where they are sharded."""
    for spread, members in _by_spread(map(_spread_of, gradients)).items():
        norms[members] = _reduced(norms[members].square(), spread).sqrt()
    return norms


# ------------------------------------------------------------------ one gradient


class _Spread(NamedTuple):
    """Over which processes the elements of a tensor are spread."""

    groups: tuple[Any, ...]
    """Process groups, one a dimension of the mesh."""
    device: str
    """What these groups exchange lies there."""


class _Part(NamedTuple):
    """Sums over what this process holds of a gradient."""

    numel: int
    l1: float
    l2: float
    largest: float
    zeros: int
    nans: int
    infinities: int
    weight: float | None = None
    spread: _Spread | None = None
    weight_spread: _Spread | None = None

    def figures(self) -> Figures:
        return Figures(*self[:8])


def _values(tensor: Tensor) -> Tensor:
    """What is stored: of a sparse tensor its values, each index once."""
    tensor = tensor.detach()
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout != torch.strided:
        tensor = tensor.values()
    if tensor.is_complex():
        # In float32 the absolute value of what is finite may be infinite.
        tensor = tensor.abs() if tensor.device.type == "mps" else tensor.to(torch.complex128).abs()
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    if tensor.element_size() == 1:  # float8 has next to no operations
        tensor = tensor.to(torch.float32)
    # Strides would have rows added up another, less exact way.
    return tensor.contiguous().view(-1)


def _part(gradient: Tensor, numel: int) -> _Part:
    values = _values(gradient)
    count = values.numel()
    # What a sparse gradient does not store is zero.
    missing = numel - count if gradient.layout != torch.strided else 0
    if count == 0:
        return _Part(numel, 0.0, 0.0, 0.0, missing, 0, 0)
    largest = _largest(values)
    zeros = missing + count - int(torch.count_nonzero(values))
    if isfinite(largest):
        return _Part(numel, _l1(values), _l2(values), largest, zeros, 0, 0)
    nans, infinities = int(torch.isnan(values).sum()), int(torch.isinf(values).sum())
    norm = nan if nans else inf
    return _Part(numel, norm, norm, largest, zeros, nans, infinities)


def _largest(values: Tensor) -> float:
    """The largest absolute value; NaN if there is one."""
    least, most = (float(end) for end in torch.aminmax(values))
    return nan if isnan(least) or isnan(most) else max(abs(least), abs(most))


def _part_norm(parameter: Tensor) -> float:
    values = _values(parameter)
    return _l2(values) if values.numel() else 0.0


def _l2(values: Tensor) -> float:
    norm = float(_l2_quick(values))
    if isnan(norm) or (values.dtype != torch.float64 and _SMALLEST < norm < _LARGEST):
        return norm
    # Divided by the largest value, no square leaves the range of float64 either.
    largest = _largest(values)
    if not largest or not isfinite(largest):
        return largest
    return largest * float(torch.linalg.vector_norm(values.to(_widest(values)) / largest))


def _l2_quick(values: Tensor) -> Tensor:
    """As a tensor on the values' device, so that nothing waits for it."""
    wide = _widest(values)
    norm: Tensor
    if values.dtype == torch.float64 or values.numel() <= _FEW:
        norm = torch.linalg.vector_norm(values, dtype=wide)
        return norm
    even = values.numel() // ROW * ROW
    rows = torch.linalg.vector_norm(values[:even].view(-1, ROW), dim=1, dtype=torch.float32).to(wide)
    rest = torch.linalg.vector_norm(values[even:], dtype=wide)
    norm = torch.hypot(torch.linalg.vector_norm(rows), rest)
    return norm


def _l1(values: Tensor) -> float:
    wide = _widest(values)
    return float(torch.stack([block.abs().sum(dtype=wide) for block in values.split(_BLOCK)]).sum())


def _widest(values: Tensor) -> torch.dtype:
    # Apple's GPUs have no float64.
    return torch.float32 if values.device.type == "mps" else torch.float64


# ------------------------------------------------------------- sharded gradients


def _is_sharded(tensor: Tensor) -> bool:
    return type(tensor).__name__ == "DTensor"


def _local(tensor: Any) -> Tensor:
    """What this process holds of a tensor; sums that are still owed are added up first."""
    tensor = tensor.detach()
    if not _is_sharded(tensor):
        return tensor  # type: ignore[no-any-return]
    if any(placement.is_partial() for placement in tensor.placements):
        from torch.distributed.tensor import Replicate

        whole = [Replicate() if p.is_partial() else p for p in tensor.placements]
        tensor = tensor.redistribute(placements=whole)
    return tensor.to_local()  # type: ignore[no-any-return]


def _spread_of(tensor: Any) -> _Spread | None:
    """Where the other parts of a tensor are; None where this process holds all of it."""
    if not _is_sharded(tensor):
        return None
    mesh = tensor.device_mesh
    # Shards come as several classes, not all of which say is_shard().
    groups = tuple(
        mesh.get_group(dimension)
        for dimension, placement in enumerate(tensor.placements)
        if not (placement.is_replicate() or placement.is_partial())
    )
    return _Spread(groups, mesh.device_type) if groups else None


def _by_spread(spreads: Iterable[_Spread | None]) -> dict[_Spread, list[int]]:
    """Places of what is spread over the same processes, in an order that these share."""
    places: dict[_Spread, list[int]] = {}
    for place, spread in enumerate(spreads):
        if spread is not None:
            places.setdefault(spread, []).append(place)
    return places


def _reduced(numbers: Tensor, spread: _Spread, *, largest: bool = False) -> Tensor:
    """Numbers of all processes added up, or the largest of them; one exchange a process group."""
    from torch import distributed

    reduced = numbers.to(spread.device)
    for group in spread.groups:
        operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
        distributed.all_reduce(reduced, operation, group)
    return reduced.to(numbers.device)


def _exchanged(parts: Sequence[_Part | None]) -> list[_Part | None]:
    """Parts of sharded gradients put together, with two exchanges for each set of process groups."""
    result = list(parts)
    for spread, members in _by_spread(part and part.spread for part in parts).items():
        there = [part for place in members if (part := parts[place])]
        for place, whole in zip(members, _put_together(there, spread)):
            result[place] = whole
    return result


def _put_together(parts: Sequence[_Part], spread: _Spread) -> Iterator[_Part]:
    ends = torch.tensor([(part.l2, part.largest) for part in parts], dtype=torch.float64)
    most = _reduced(ends.nan_to_num(0, 0, 0), spread, largest=True)
    scaled, scale = _scaled(ends[:, 0], most[:, 0])
    counts = [(part.l1, part.zeros, part.nans, part.infinities) for part in parts]
    added = torch.cat([scaled.unsqueeze(1), torch.tensor(counts, dtype=torch.float64)], 1)
    sums = _reduced(added, spread)
    sums[:, 0] = sums[:, 0].sqrt() * scale
    for part, (l2, l1, *numbers), largest in zip(parts, sums.tolist(), most[:, 1].tolist()):
        zeros, nans, infinities = map(int, numbers)
        broken = nan if nans else inf if infinities else largest
        yield part._replace(l1=l1, l2=l2, largest=broken, zeros=zeros, nans=nans, infinities=infinities)


def _scaled(norms: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Squares that neither overflow nor underflow, and what their root is to be multiplied by."""
    scale = most.where(most > 0, 1.0)
    return (norms / scale).square(), scale


def _with_weights(parts: Sequence[_Part | None]) -> list[_Part | None]:
    """The same of the norms of weights, which may be spread in another way than gradients."""
    result = list(parts)
    for spread, members in _by_spread(part and part.weight_spread for part in parts).items():
        norms = torch.tensor(
            [part.weight for place in members if (part := parts[place])], dtype=torch.float64
        )
        most = _reduced(norms.nan_to_num(0, 0, 0), spread, largest=True)
        scaled, scale = _scaled(norms, most)
        wholes = (_reduced(scaled, spread).sqrt() * scale).tolist()
        for place, whole in zip(members, wholes):
            part = parts[place]
            result[place] = part and part._replace(weight=whole)
    return result
