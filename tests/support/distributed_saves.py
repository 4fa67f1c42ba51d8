"""
Two processes that save a model in every way that torch.distributed.checkpoint knows.

Run under torchrun with a folder. Rank 0 also leaves ``truth.pt``: what was saved, put together.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def model() -> nn.Sequential:
    """Parameters of uneven sizes, and buffers that every rank has whole."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2, dtype=torch.float32))


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model under FSDP2, after one step of Adam."""
    net = model()
    fully_shard(net[0])
    fully_shard(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    net(torch.randn(6, 3, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    optimizer.step()
    return net, optimizer


def whole(value: Any) -> Any:
    """A state_dict with every distributed tensor put together."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def main(folder: Path) -> None:
    """Save everything."""
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    net, optimizer = trained()
    states, moments = get_state_dict(net, optimizer)
    save({"model": states, "optim": moments, "epoch": 4}, checkpoint_id=folder / "fsdp2")
    save({"model": states}, checkpoint_id=folder / "each", use_collectives=False)
    save(states, storage_writer=HuggingFaceStorageWriter(str(folder / "shards"), save_distributed=True))
    table = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)
    tensors = {
        "columns": distribute_tensor(table, mesh, [Shard(1)]),
        "copies": distribute_tensor(table, mesh, [Replicate()]),
    }
    save(tensors, checkpoint_id=folder / "dtensor")
    full, full_moments = get_state_dict(net, optimizer, options=StateDictOptions(full_state_dict=True))
    together = {name: whole(tensor) for name, tensor in tensors.items()}
    if distributed.get_rank() == 0:
        torch.save({"model": full, "optim": full_moments, "dtensor": together}, folder / "truth.pt")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # threads of process groups may abort a process that takes things down in order
