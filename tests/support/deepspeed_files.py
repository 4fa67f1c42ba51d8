"""
Folders as DeepSpeed writes them, made without it.

The layout is that of deepspeed 0.19: ``runtime/engine.py`` (``_common_checkpoint_state``,
``_get_ckpt_name``), ``runtime/zero/stage3.py`` and ``stage_1_and_2.py`` (``state_dict``). It
was held against folders that DeepSpeed itself wrote, with two processes on a CPU.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
Groups = Sequence[Sequence[str]]


class ZeroStageEnum(int, enum.Enum):
    """Like DeepSpeed's own, which its files name."""

    optimizer_states = 1
    gradients = 2
    weights = 3


def parameters() -> Tensors:
    """Matrices and vectors of lengths that no number of ranks divides."""
    shapes = {"emb.weight": (7, 5), "fc.weight": (11, 5), "fc.bias": (11,), "norm.weight": (11,), "one": (1,)}
    start, made = 0, {}
    for name, shape in shapes.items():
        numel = torch.Size(shape).numel()
        made[name] = torch.arange(start, start + numel, dtype=torch.float32).reshape(shape)
        start += numel
    return made


GROUPS: Groups = (("emb.weight", "fc.weight"), ("fc.bias", "norm.weight", "one"))
FROZEN: Tensors = {"frozen.weight": torch.arange(15, dtype=torch.bfloat16).reshape(5, 3)}
BUFFERS: Tensors = {"scale": torch.ones(3)}


def shares(numel: int, ranks: int) -> int:
    """Elements of a parameter that a rank has under ZeRO-3."""
    return -(-numel // ranks)


def flat_zero3(tensors: Sequence[torch.Tensor], ranks: int, rank: int) -> torch.Tensor:
    """One rank's flat tensor: an equal share of each, the last rank's filled up."""
    parts = []
    for tensor in tensors:
        share = shares(tensor.numel(), ranks)
        filled = torch.zeros(share * ranks, dtype=tensor.dtype)
        filled[: tensor.numel()] = tensor.flatten()
        parts.append(filled[rank * share : (rank + 1) * share])
    return torch.cat(parts)


def flat_zero2(
    tensors: Sequence[torch.Tensor], ranks: int, rank: int, paddings: Sequence[int], *, padded: bool
) -> torch.Tensor:
    """One rank's part of all of them one after the other; moments keep what fills up the last one."""
    pieces = [torch.cat([t.flatten(), torch.zeros(n)]) for t, n in zip(tensors, paddings)]
    whole = torch.cat(pieces)
    each = -(-len(whole) // ranks)
    filled = torch.cat([whole, torch.zeros(each * ranks - len(whole))]) if padded else whole
    return filled[rank * each : (rank + 1) * each].clone()


def model_states(stage: int, ranks: int, rank: int, **more: Any) -> dict[str, Any]:
    """What ``*_model_states.pt`` holds."""
    made = parameters()
    module: Tensors = OrderedDict(BUFFERS)
    for name, tensor in {**made, **FROZEN}.items():
        module[name] = torch.empty(0, dtype=torch.bfloat16) if stage == 3 else tensor.to(torch.bfloat16)
    module["head.weight"] = module["emb.weight"]
    fragments = {name: flat_zero3([t], ranks, rank) if stage == 3 else t for name, t in FROZEN.items()}
    return {
        "module": module,
        "buffer_names": list(BUFFERS),
        "optimizer": None,
        "param_shapes": [OrderedDict((name, made[name].shape) for name in group) for group in GROUPS],
        "frozen_param_shapes": OrderedDict((n, t.shape) for n, t in FROZEN.items()) if stage > 1 else None,
        "shared_params": {"head.weight": "emb.weight"},
        "frozen_param_fragments": OrderedDict(fragments) if stage > 1 else None,
        "lr_scheduler": None,
        "global_steps": 12,
        "dp_world_size": ranks,
        "mp_world_size": 1,
        "ds_config": {"zero_optimization": {"stage": stage}},
        "ds_version": "0.19.8",
        **more,
    }


def optimizer_states(stage: int, ranks: int, rank: int, paddings: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What ``*_optim_states.pt`` holds: weights, and moments that are 1,000 and 2,000 more."""
    made = parameters()

    def flat(number: int, more: int, *, padded: bool) -> torch.Tensor:
        tensors = [made[name] + more for name in GROUPS[number]]
        if stage == 3:
            return flat_zero3(tensors, ranks, rank)
        return flat_zero2(tensors, ranks, rank, paddings[number], padded=padded)

    numbers = range(len(GROUPS))
    adam = {
        "state": {
            n: {
                "step": torch.tensor(3.0),
                "exp_avg": flat(n, 1000, padded=True),
                "exp_avg_sq": flat(n, 2000, padded=True),
            }
            for n in numbers
        },
        "param_groups": [{"lr": 0.1 * (n + 1), "betas": (0.9, 0.99), "params": [n]} for n in numbers],
    }
    weights = [flat(n, 0, padded=False) for n in numbers]
    if stage == 3:
        states = {"partition_count": ranks, "optimizer_state_dict": adam, "fp32_flat_groups": weights}
    else:
        states = {
            "base_optimizer_state": adam,
            "single_partition_of_fp32_groups": weights,
            "partition_count": [ranks] * len(GROUPS),
            "param_alignment_paddings": [list(each) for each in paddings],
        }
    states["zero_stage"] = ZeroStageEnum(stage)
    return {"optimizer_state_dict": states, "ds_config": {}, "ds_version": "0.19.8"}


NO_PADDINGS = tuple((0,) * len(group) for group in GROUPS)


def write(
    folder: Path, stage: int, ranks: int, paddings: Sequence[Sequence[int]] = NO_PADDINGS, before: str = ""
) -> Path:
    """
    Write ``latest`` and the folder of a step.

    Returns:
        The step's folder.
    """
    step = folder / "global_step12"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step12")
    for rank in range(ranks):
        name = f"zero_pp_rank_{rank}_mp_rank_00"
        if stage == 3 or rank == 0:
            model = step / f"{name if stage == 3 else 'mp_rank_00'}_model_states.pt"
            torch.save(model_states(stage, ranks, rank), model)
        torch.save(optimizer_states(stage, ranks, rank, paddings), step / f"{before}{name}_optim_states.pt")
    return step
