"""
Gradients that lie on two processes, and the same ones on a single process, which are the truth.

``python sharded_gradients.py RANK FOLDER`` is one of the two; it measures every case and writes
what came out to ``RANK.json``, where numbers are spelt as Python does, ``nan`` and ``inf`` too.
Then both save a sharded model.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from modelinspect.live.norms import l2_norms, measure, unique_parameters
from modelinspect.live.weights import save_weights

Pairs = list[tuple[Tensor, Tensor | None]]
"""Gradients and their parameters."""
Case = Callable[[DeviceMesh | None], Pairs]
"""Makes the gradients: of the mesh's processes, or without one those of a single process."""

SECONDS = 60
"""After which a process gives up waiting for the other."""


# ------------------------------------------------------------------------- models


class Reader(nn.Module):
    """
    A transformer of two layers none of whose sizes is even.

    It is one without biases: what a key's bias gets is rounding, now exactly zero and now not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(5, 1, 7, dropout=0.0, batch_first=True, bias=False) for _ in range(2)
        )
        self.last = nn.Linear(5, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of shape (batch, length) to numbers of shape (batch, length, 1)."""
        values = self.embedding(tokens)
        for layer in self.layers:
            values = layer(values)
        return self.last(values)  # type: ignore[no-any-return]


def _trained(mesh: DeviceMesh | None, wrap: Callable[[Reader], nn.Module], *, split: bool) -> Pairs:
    """
    One backward pass; where the batch is split, each process has half of it.

    In float64, so that it makes no difference in which order losses are added up.
    """
    torch.manual_seed(0)
    model = Reader().double()
    tokens = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(1))
    if mesh is None:
        model(tokens).square().mean().backward()
        return _gradients(model)
    wrapped = wrap(model)
    if split:
        tokens = tokens.chunk(2)[distributed.get_rank()]
    wrapped(tokens).square().mean().backward()
    return _gradients(wrapped)


def _gradients(model: nn.Module) -> Pairs:
    parameters = [named.parameter for named in unique_parameters(model)]
    return [(p.grad, p) for p in parameters if p.grad is not None]


def _fsdp(mesh: DeviceMesh | None) -> Pairs:
    def wrap(model: Reader) -> nn.Module:
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    return _trained(mesh, wrap, split=True)


def _partly_sharded(mesh: DeviceMesh | None) -> Pairs:
    """One layer is sharded; all others every process has for itself."""

    def wrap(model: Reader) -> nn.Module:
        fully_shard(model.layers[1], mesh=mesh)
        return model

    return _trained(mesh, wrap, split=False)


def _ddp(mesh: DeviceMesh | None) -> Pairs:
    return _trained(mesh, nn.parallel.DistributedDataParallel, split=True)


# ------------------------------------------------------------------ single tensors


def _made(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _spread(tensor: Tensor, mesh: DeviceMesh | None, *placements: Placement) -> Tensor:
    return tensor if mesh is None else distribute_tensor(tensor, mesh, placements or [Shard(0)])


def _with(tensor: Tensor, **values: float) -> Tensor:
    """With other values at some places: ``first``, ``last``."""
    places = {"first": 0, "last": -1}
    for place, value in values.items():
        tensor.view(-1)[places[place]] = value
    return tensor


def _broken(mesh: DeviceMesh | None) -> Pairs:
    """NaN and infinity, each in the shard of one process, and both."""
    nan, inf = float("nan"), float("inf")
    wholes = [
        _with(_made(3, 4), last=nan),
        _with(_made(3, 4), first=-inf),
        _with(_made(3, 4), first=nan, last=inf),
        _with(_made(3, 4), first=inf, last=-inf),
        torch.zeros(3, 4),
    ]
    return [(_spread(whole, mesh), _spread(_made(3, 4, seed=1), mesh)) for whole in wholes]


def _broken_weights(mesh: DeviceMesh | None) -> Pairs:
    values = (float("nan"), float("inf"))
    return [(_spread(_made(3, 4), mesh), _spread(_with(_made(3, 4), last=value), mesh)) for value in values]


def _partial(mesh: DeviceMesh | None) -> Pairs:
    """Each process has a summand of every element; the sum is the gradient."""
    summands = [_made(5, 3, seed=2), _made(5, 3, seed=3)]
    if mesh is None:
        return [(summands[0] + summands[1], None)]
    return [(DTensor.from_local(summands[distributed.get_rank()], mesh, [Partial()]), None)]


def _empty_shard(mesh: DeviceMesh | None) -> Pairs:
    """The second process has nothing of the first three."""
    shapes: Sequence[tuple[int, ...]] = ((1, 3), (1,), (0, 3), (3, 1))
    return [(_spread(_made(*shape), mesh), _spread(_made(*shape, seed=1), mesh)) for shape in shapes]


def _extreme(mesh: DeviceMesh | None) -> Pairs:
    """Squares that leave the range of float64."""
    wholes = [_made(3, 4, dtype=torch.float64) * scale for scale in (1e200, 1e-200)]
    return [(_spread(whole, mesh), _spread(whole, mesh)) for whole in wholes]


def _data_types(mesh: DeviceMesh | None) -> Pairs:
    dtypes = (torch.float16, torch.bfloat16, torch.float64, torch.complex64)
    return [(_spread(_made(5, 3, dtype=dtype), mesh), None) for dtype in dtypes]


def _large(mesh: DeviceMesh | None) -> Pairs:
    return [(_spread(_made(301, 301), mesh, Shard(1)), None), (_spread(_made(40_001), mesh), None)]


def _spread_differently(mesh: DeviceMesh | None) -> Pairs:
    """The gradient whole and the weight not, and the other way round; one replicated; one plain."""
    gradient, weight = _made(3, 4), _made(3, 4, seed=1)
    return [
        (_spread(gradient, mesh, Replicate()), _spread(weight, mesh)),
        (_spread(gradient, mesh), _spread(weight, mesh, Replicate())),
        (_spread(gradient, mesh), _spread(weight, mesh, Shard(1))),
        (gradient, weight),
    ]


def _two_dimensions(mesh: DeviceMesh | None) -> Pairs:
    """A mesh of two dimensions: replicated over one, or sharded over both."""
    grids = (
        [None, None] if mesh is None else [init_device_mesh("cpu", (1, 2)), init_device_mesh("cpu", (2, 1))]
    )
    return [
        (_spread(_made(5, 3, seed=number), grid, *placements), _spread(_made(5, 3), grid, *placements))
        for number, grid in enumerate(grids)
        for placements in ((Replicate(), Shard(0)), (Shard(0), Replicate()), (Shard(0), Shard(1)))
    ]


def _strided_shard(mesh: DeviceMesh | None) -> Pairs:
    """As FSDP after tensor parallelism leaves it; a class of its own, which is no Shard."""
    whole = _made(4, 3)
    if mesh is None:
        return [(whole, None)]
    part = whole.chunk(2)[distributed.get_rank()]
    placements = [_StridedShard(0, split_factor=1)]
    return [(DTensor.from_local(part, mesh, placements, shape=whole.shape, stride=whole.stride()), None)]


CASES: dict[str, Case] = {
    "fsdp": _fsdp,
    "partly sharded": _partly_sharded,
    "ddp": _ddp,
    "broken": _broken,
    "broken weights": _broken_weights,
    "partial": _partial,
    "empty shard": _empty_shard,
    "extreme": _extreme,
    "data types": _data_types,
    "large": _large,
    "spread differently": _spread_differently,
    "two dimensions": _two_dimensions,
    "strided shard": _strided_shard,
}


# -------------------------------------------------------------------- the processes


def measured(pairs: Pairs) -> dict[str, Any]:
    """Figures, norms, the exchanges that the norms took, the elements that are in this process."""
    figures = measure(pairs)
    exchanges = 0
    exchange = distributed.all_reduce

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal exchanges
        exchanges += 1
        return exchange(*arguments, **keywords)

    distributed.all_reduce = counted
    try:
        norms = l2_norms([gradient for gradient, _ in pairs])
    finally:
        distributed.all_reduce = exchange
    held = sum(_held(gradient) for gradient, _ in pairs)
    return {"figures": figures, "norms": norms.tolist(), "exchanges": exchanges, "held": held}


def _held(gradient: Tensor) -> int:
    """Elements that are in this process."""
    return (gradient.to_local() if isinstance(gradient, DTensor) else gradient).numel()


class Tied(nn.Module):
    """A weight of two names, one that every process has whole, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.out = nn.Linear(3, 7)
        self.out.weight = self.embedding.weight
        self.plain = nn.Parameter(torch.randn(3))
        self.register_buffer("scale", torch.randn(3).to(torch.bfloat16))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of any shape to one number."""
        return self.out(self.embedding(tokens) * self.plain).mean()  # type: ignore[no-any-return]


def made_to_be_saved(seed: int) -> Tied:
    """The same on every process."""
    torch.manual_seed(seed)
    return Tied()


def _save(mesh: DeviceMesh, folder: Path) -> None:
    model = made_to_be_saved(0)
    fully_shard(model, mesh=mesh, ignored_params={model.plain})
    model(torch.arange(7)).backward()  # after which the outermost module is together
    for suffix in ("pt", "safetensors"):
        save_weights(model, str(folder / f"saved.{suffix}"))


def _main(rank: str, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=(folder / "store").as_uri(),
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=SECONDS),
    )
    mesh = init_device_mesh("cpu", (2,))
    found = {name: measured(case(mesh)) for name, case in CASES.items()}
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    _save(mesh, folder)
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # threads of process groups may abort a process that takes things down in order


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
