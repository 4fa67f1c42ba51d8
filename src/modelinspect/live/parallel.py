"""
Several processes under ``torchrun``: the model replicated (DDP) or sharded (FSDP2).

Every process runs the whole input. The gradients are then those of one process, whatever
the loss and whatever looks at the batch as a whole; what is spread is the memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn

from modelinspect.errors import UsageError
from modelinspect.live.recipe import Recipe

__all__ = ["processes", "spread_over"]


@contextmanager
def processes(recipe: Recipe) -> Iterator[None]:
    """
    The process group that a recipe asks for is there inside; one that the caller made is used.

    Raises:
        UsageError: The processes were not started by torchrun.
    """
    if recipe.parallel is None or distributed.is_initialized():
        yield
        return
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        raise UsageError(
            f"--parallel {recipe.parallel} needs processes that torchrun has started",
            hint="torchrun --nproc-per-node 2 -m modelinspect grads …",
        )
    is_cuda = recipe.device is not None and torch.device(recipe.device).type == "cuda"
    distributed.init_process_group("nccl" if is_cuda else "gloo")
    if is_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        yield
        # Nobody leaves while another one still needs it.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def spread_over(module: nn.Module, recipe: Recipe) -> nn.Module:
    """
    The module as the recipe's processes run it: itself, inside DDP, or sharded in place.

    With FSDP each block of a ``ModuleList`` is a unit of its own, and the rest is one.
    """
    if recipe.parallel == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        if not any(parameter.requires_grad for parameter in module.parameters()):
            return module
        return DistributedDataParallel(module, find_unused_parameters=True)
    if recipe.parallel == "fsdp":
        _shard(module)
    return module


def _shard(module: nn.Module) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next((p.device.type for p in module.parameters()), "cpu")
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules in lists: the layers of a transformer, most often."""
    pending = [module]
    while pending:
        part = pending.pop()
        for child in part.children():
            if not isinstance(part, nn.ModuleList):
                pending.append(child)
            elif next(child.parameters(), None) is not None:
                yield child
