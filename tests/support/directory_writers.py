"""
Folders of given tensors, as the libraries that read them write them.

DeepSpeed, Megatron, diffusers and Trainer are not needed: their folders are files of torch, of
safetensors and JSON under names of their own.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed_files import ZeroStageEnum, flat_zero2, flat_zero3
from gguf_bytes import STRING, Gguf, Tensor
from safetensors.torch import save_file

from modelinspect.dtypes import BY_GGML

StateDict = dict[str, torch.Tensor]
_RANKS = 2
_COUNT = 2
"""Of shards."""
_UINT16, _INT32 = 2, 5
"""Types of values in GGUF."""


def halves(tensors: StateDict) -> list[StateDict]:
    """What goes into the first shard, and into the second."""
    names = list(tensors)
    middle = len(names) // 2
    return [{name: tensors[name] for name in part} for part in (names[:middle], names[middle:])]


def sharded_safetensors(tensors: StateDict, folder: Path) -> None:
    """Shards of safetensors and their index (huggingface_hub, ``serialization/_base.py``)."""
    _sharded(tensors, folder, "model", "safetensors", save_file)


def sharded_pickles(tensors: StateDict, folder: Path) -> None:
    """The same of files of torch."""
    _sharded(tensors, folder, "pytorch_model", "bin", torch.save)


def _sharded(
    tensors: StateDict, folder: Path, stem: str, suffix: str, save: Callable[[StateDict, Path], Any]
) -> None:
    folder.mkdir()
    weight_map = {}
    for number, part in enumerate(halves(tensors), 1):
        name = f"{stem}-{number:05d}-of-{_COUNT:05d}.{suffix}"
        save(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    size = sum(tensor.nbytes for tensor in tensors.values())
    _json(
        folder / f"{stem}.{suffix}.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map}
    )


def _json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document))


def split_gguf(tensors: StateDict, folder: Path) -> None:
    """Two parts of a GGUF file, as llama.cpp's gguf-split writes them."""
    folder.mkdir()
    numbers = {dtype.name: number for number, dtype in BY_GGML.items()}
    for number, part in enumerate(halves(tensors)):
        pairs: list[tuple[str, int, Any]] = [
            ("split.no", _UINT16, number),
            ("split.count", _UINT16, _COUNT),
            ("split.tensors.count", _INT32, len(tensors)),
        ]
        if not number:
            pairs.insert(0, ("general.architecture", STRING, "llama"))
        rows = [
            Tensor(name, tuple(t.shape), numbers[str(t.dtype).removeprefix("torch.")], _raw(t))
            for name, t in part.items()
        ]
        (folder / f"small-{number + 1:05d}-of-{_COUNT:05d}.gguf").write_bytes(Gguf().file(pairs, rows))


def _raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.flatten().view(torch.uint8).numpy()) if tensor.numel() else b""


def trainer(tensors: StateDict, folder: Path) -> None:
    """A checkpoint of a training (transformers 5.23, ``trainer.py``)."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.rand(2, 3)}}
    groups = [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0]}]
    torch.save({"state": state, "param_groups": groups}, folder / "optimizer.pt")
    torch.save({"last_epoch": 3, "_last_lr": [0.1]}, folder / "scheduler.pt")
    _json(folder / "trainer_state.json", {"global_step": 12, "epoch": 0.5, "log_history": [{"loss": 1.0}]})


def pipeline(tensors: StateDict, folder: Path) -> None:
    """Two components of a pipeline (diffusers 0.36, ``pipelines/pipeline_utils.py``)."""
    components = {"unet": tensors, "vae": {"encoder.weight": torch.ones(2)}}
    folder.mkdir()
    for name, held in components.items():
        (folder / name).mkdir()
        save_file(held, folder / name / "diffusion_pytorch_model.safetensors")
        _json(folder / name / "config.json", {"_class_name": name.upper(), "in_channels": 4})
    classes = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    _json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", **classes})


def megatron(tensors: StateDict, folder: Path) -> None:
    """A step of one rank (Megatron-LM, ``megatron/training/checkpointing.py``)."""
    rank = folder / "iter_0000100" / "mp_rank_00"
    rank.mkdir(parents=True)
    states = {
        "args": argparse.Namespace(tensor_model_parallel_size=1, pipeline_model_parallel_size=1),
        "checkpoint_version": 3.0,
        "iteration": 100,
        "model": tensors,
        "optimizer": {"state": {0: {"exp_avg": torch.rand(3)}}, "param_groups": [{"params": [0]}]},
    }
    torch.save(states, rank / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("100")


def zero1(tensors: StateDict, folder: Path) -> None:
    """DeepSpeed's ZeRO-1: whole weights of 16 bits, and the optimizer's cut across two ranks."""
    _deepspeed(tensors, folder, 1)


def zero2(tensors: StateDict, folder: Path) -> None:
    """ZeRO-2, in whose files gradients are no different."""
    _deepspeed(tensors, folder, 2)


def zero3(tensors: StateDict, folder: Path) -> None:
    """ZeRO-3: parameters are shares of flat tensors on two ranks."""
    _deepspeed(tensors, folder, 3)


def _deepspeed(tensors: StateDict, folder: Path, stage: int) -> None:
    step = folder / "global_step12"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step12")
    trained = {n: t for n, t in tensors.items() if t.is_floating_point() and t.numel()}
    for rank in range(_RANKS):
        name = f"zero_pp_rank_{rank}_mp_rank_00"
        if stage == 3 or rank == 0:
            states = step / f"{name if stage == 3 else 'mp_rank_00'}_model_states.pt"
            torch.save(_model_states(tensors, trained, stage), states)
        torch.save(_optimizer_states(trained, stage, rank), step / f"{name}_optim_states.pt")


def _model_states(tensors: StateDict, trained: StateDict, stage: int) -> dict[str, Any]:
    empty = torch.empty(0, dtype=torch.bfloat16)
    return {
        "module": {name: empty if stage == 3 and name in trained else t for name, t in tensors.items()},
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [OrderedDict((name, t.shape) for name, t in trained.items())],
        "frozen_param_shapes": None,
        "shared_params": {},
        "frozen_param_fragments": None,
        "lr_scheduler": None,
        "global_steps": 12,
        "dp_world_size": _RANKS,
        "mp_world_size": 1,
        "ds_config": {"zero_optimization": {"stage": stage}},
        "ds_version": "0.19.8",
    }


def _optimizer_states(trained: StateDict, stage: int, rank: int) -> dict[str, Any]:
    weights = [t.float() for t in trained.values()]
    paddings = [0] * len(weights)
    if stage == 3:
        flat = flat_zero3(weights, _RANKS, rank)
    else:
        flat = flat_zero2(weights, _RANKS, rank, paddings, padded=True)
    adam = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": flat + 1}}, "param_groups": [{"params": [0]}]}
    states: dict[str, Any] = {"zero_stage": ZeroStageEnum(stage)}
    if stage == 3:
        states |= {"partition_count": _RANKS, "optimizer_state_dict": adam, "fp32_flat_groups": [flat]}
    else:
        states |= {
            "base_optimizer_state": adam,
            "single_partition_of_fp32_groups": [flat],
            "partition_count": [_RANKS],
            "param_alignment_paddings": [paddings],
        }
    return {"optimizer_state_dict": states, "ds_config": {}, "ds_version": "0.19.8"}
