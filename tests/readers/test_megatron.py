"""Megatron's folders: the last step, ranks that hold slices, what all of them hold alike."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import modelinspect as mi
from modelinspect.errors import DamagedFileError, ModelInspectError, RefusedError, UnrecognisedFileError
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint

NORM = torch.arange(8.0)
EMBEDDINGS = [torch.rand(10, 8), torch.rand(10, 8)]


def states(tp: int, pp: int, tp_size: int, pp_size: int) -> dict[str, Any]:
    """What one rank's ``model_optim_rng.pt`` holds (megatron/training/checkpointing.py)."""
    model: dict[str, Any] = {
        "encoder": {"layers.0.norm.weight": NORM + pp, "layers.0.dense.weight": torch.rand(8, 4)}
    }
    if pp == 0:
        model["embedding"] = {"word_embeddings": {"weight": EMBEDDINGS[tp].clone()}}
    elif pp == pp_size - 1:
        model["word_embeddings_for_head"] = {"weight": EMBEDDINGS[tp].clone()}
    return {
        "args": argparse.Namespace(
            tensor_model_parallel_size=tp_size,
            pipeline_model_parallel_size=pp_size,
            hidden_size=8,
            params_dtype=torch.bfloat16,
        ),
        "checkpoint_version": 3.0,
        "iteration": 100,
        "model": {"language_model": model},
        "optimizer": {
            "optimizer": {"state": {0: {"exp_avg": torch.rand(8)}}, "param_groups": [{"params": [0]}]}
        },
        "rng_state": [{"torch_rng_state": torch.zeros(4, dtype=torch.uint8)}],
    }


def write(folder: Path, tp_size: int, pp_size: int) -> Path:
    """A step of so many ranks."""
    step = folder / "iter_0000100"
    for tp in range(tp_size):
        for pp in range(pp_size):
            rank = step / (f"mp_rank_{tp:02d}_{pp:03d}" if pp_size > 1 else f"mp_rank_{tp:02d}")
            rank.mkdir(parents=True)
            torch.save(states(tp, pp, tp_size, pp_size), rank / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("100\n")
    return step


def opened(path: Path) -> Checkpoint:
    """As a user would."""
    return open_checkpoint(str(path))


def test_one_rank_is_the_model(tmp_path: Path) -> None:
    """Names, sections and the script's arguments of a model that was not cut."""
    step = write(tmp_path, 1, 1)
    checkpoint = opened(tmp_path)
    assert checkpoint.format == "megatron"
    assert [row.name for row in checkpoint.table] == [
        "language_model.encoder.layers.0.norm.weight",
        "language_model.encoder.layers.0.dense.weight",
        "language_model.embedding.word_embeddings.weight",
    ]
    assert checkpoint.roles["optimizer.optimizer"] == "optimizer"
    assert checkpoint.metadata["args.hidden_size"] == "8"
    assert checkpoint.metadata["iteration"] == "100"
    assert any("argparse.Namespace" in note for note in checkpoint.notes)
    assert [row.name for row in opened(step).table] == [row.name for row in checkpoint.table]


def test_slices_are_different_tensors_and_norms_are_one(tmp_path: Path) -> None:
    """Of two ranks each slice counts, what is the same bytes counts once, and the copies are listed."""
    write(tmp_path, 2, 1)
    checkpoint = opened(tmp_path)
    assert mi.count(checkpoint).unique == 8 + 2 * 32 + 2 * 80
    assert checkpoint.table["mp_rank_01.language_model.encoder.layers.0.dense.weight"].shape == (8, 4)
    assert [row.name for row in checkpoint.tables["copies"]] == [
        "mp_rank_01.language_model.encoder.layers.0.norm.weight"
    ]
    assert checkpoint.facts["ranks"] == "2"
    assert any("cut across 2 ranks" in note and "1 tensor " in note for note in checkpoint.notes)


def test_stages_of_a_pipeline(tmp_path: Path) -> None:
    """Layers of all stages count; the last stage's copy of the embeddings does not."""
    write(tmp_path, 2, 2)
    checkpoint = opened(tmp_path)
    assert mi.count(checkpoint).unique == 2 * 8 + 4 * 32 + 2 * 80
    copies = [row.name.partition(".")[0] for row in checkpoint.tables["copies"]]
    assert sorted(copies) == ["mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001", "mp_rank_01_001"]
    assert sum(len(table) for table in checkpoint.tables.values()) == 4 * (3 + 1 + 1)


def test_a_distributed_optimizer_beside_the_model(tmp_path: Path) -> None:
    """`distrib_optim.pt` is the optimizer's, whatever it is keyed by."""
    step = write(tmp_path, 1, 1)
    buffers = {0: {(torch.bfloat16, torch.float32): [{"param": torch.zeros(20), "exp_avg": torch.zeros(20)}]}}
    torch.save(buffers, step / "mp_rank_00" / "distrib_optim.pt")
    checkpoint = opened(tmp_path)
    assert checkpoint.roles["distrib_optim"] == "optimizer"
    assert len(checkpoint.tables["distrib_optim"]) == 2
    assert mi.count(checkpoint).unique == 8 + 32 + 80


@pytest.mark.parametrize("text", ["", "abc", "../../etc", "9" * 30, "100x", "²", "7"])
def test_a_step_that_is_not_there(text: str, tmp_path: Path) -> None:
    """What names no step, or a step without a folder, is an error that says so."""
    write(tmp_path, 1, 1)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(DamagedFileError, match=r"names no step|is missing"):
        opened(tmp_path)


def test_a_release_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Converted models say `release` instead of a step."""
    write(tmp_path, 1, 1).rename(tmp_path / "release")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release")
    assert len(opened(tmp_path).table) == 3


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    """A step's folder that is a link to somewhere else is not followed."""
    step = write(tmp_path / "real", 1, 1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "latest_checkpointed_iteration.txt").write_text("100")
    (other / "iter_0000100").symlink_to(step)
    with pytest.raises(RefusedError):
        opened(other)


def test_distributed_checkpoints_of_another_backend_are_named(tmp_path: Path) -> None:
    """Zarr folders are refused with what to do."""
    torch.save({"iteration": 7}, tmp_path / "common.pt")
    (tmp_path / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
    with pytest.raises(UnrecognisedFileError, match="Megatron") as caught:
        opened(tmp_path)
    assert "zarr" in str(caught.value)


def test_a_rank_without_files(tmp_path: Path) -> None:
    """An empty folder of a rank is an error of ours."""
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("100")
    (tmp_path / "iter_0000100" / "mp_rank_00").mkdir(parents=True)
    with pytest.raises(ModelInspectError, match="no file of a rank"):
        opened(tmp_path)
