"""
What every reader of directories owes. A new kind is one line in ``KINDS``.

The truth comes from the library that wrote the files: names, shapes, data types and values must be
those that it was given.
"""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import directory_writers
import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save

from modelinspect.errors import ModelInspectError, RefusedError
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint, TensorInfo

StateDict = dict[str, torch.Tensor]
LATEST_MEGATRON = "latest_checkpointed_iteration.txt"


def small() -> StateDict:
    """A few tensors of several data types, a scalar and an empty one among them."""
    return {
        "block.0.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "block.0.bias": torch.ones(3, dtype=torch.bfloat16),
        "block.10.weight": torch.zeros(2, 2, 2, dtype=torch.float16),
        "step": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "mask": torch.tensor([True, False]),
    }


def distributed(tensors: StateDict, folder: Path) -> None:
    """One process writes a model and what stands beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that there are no others
        save({"model": tensors, "epoch": 3}, checkpoint_id=folder, no_dist=True)


def distributed_safetensors(tensors: StateDict, folder: Path) -> None:
    """One process writes its shard."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        save(tensors, storage_writer=writer, no_dist=True)


def known_to_gguf() -> StateDict:
    """Those of data types that GGUF has."""
    return {name: tensor for name, tensor in small().items() if tensor.dtype != torch.bool}


def trained() -> StateDict:
    """Parameters alone, of the data type that ZeRO-3 keeps them in."""
    tensors = small()
    return {name: tensors[name].float() for name in ("block.0.weight", "block.0.bias", "block.10.weight")}


class Kind(NamedTuple):
    """How a library writes a directory, and what of it may be missing."""

    form: str
    """What the checkpoint is said to be."""
    write: Callable[[StateDict, Path], None]
    tensors: Callable[[], StateDict] = small
    """What is written."""
    spare: tuple[str, ...] = ()
    """Files without which there still is a model."""
    beside: tuple[str, ...] = ()
    """Those of which a note is all that damage costs."""
    padding: int = 0
    """Bytes at the end of a file without which nothing may be missing."""
    step: int = 97
    """Bytes from one cut, or flipped bit, to the next."""
    overhead: int = 16_000
    """Bytes that the headers of two tensors take at most."""


# A line a kind: NAME: Kind(format, function of the tensors and the folder).
KINDS: dict[str, Kind] = {
    "dcp": Kind("dcp", distributed),
    "dcp safetensors": Kind("dcp safetensors", distributed_safetensors, step=17),
    "sharded safetensors": Kind(
        "sharded safetensors",
        directory_writers.sharded_safetensors,
        spare=("model.safetensors.index.json",),
        step=17,
    ),
    "sharded pickles": Kind(
        "sharded torch-zip",
        directory_writers.sharded_pickles,
        spare=("pytorch_model.bin.index.json",),
    ),
    "sharded gguf": Kind("sharded gguf", directory_writers.split_gguf, known_to_gguf, padding=32, step=13),
    "trainer": Kind(
        "safetensors",
        directory_writers.trainer,
        beside=("optimizer.pt", "scheduler.pt", "trainer_state.json"),
        step=61,
    ),
    "pipeline": Kind(
        "safetensors",
        directory_writers.pipeline,
        # What is left of the components still is models; a note says which have no weights.
        spare=("diffusion_pytorch_model.safetensors",),
        beside=("config.json",),
        step=17,
    ),
    "megatron": Kind("megatron", directory_writers.megatron, spare=(LATEST_MEGATRON,)),
    "zero1": Kind("deepspeed", directory_writers.zero1, beside=("latest",), step=397),
    "zero2": Kind("deepspeed", directory_writers.zero2, beside=("latest",), step=397),
    "zero3": Kind(
        "deepspeed",
        directory_writers.zero3,
        trained,
        # Each rank's says what the other's says.
        spare=tuple(f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in (0, 1)),
        beside=("latest",),
        step=397,
    ),
}


@pytest.fixture(params=list(KINDS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Kind, Path]:
    """A small directory of each kind."""
    kind = KINDS[request.param]
    folder = tmp_path / "small"
    kind.write(kind.tensors(), folder)
    return kind, folder


def read(folder: Path) -> Checkpoint:
    """Open a folder as a user would."""
    return open_checkpoint(str(folder))


def files_of(folder: Path) -> list[Path]:
    """Every file below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def values(row: TensorInfo) -> list[int]:
    """The bytes of a tensor, read where the row says that they are."""
    if row.parts:
        return [value for part in row.parts for value in values(part)]
    storage = row.storage
    assert storage is not None
    first, length = row.span
    with StorageReader() as reader:
        return list(reader.read(storage, first, length))


def raw(tensor: torch.Tensor) -> list[int]:
    """The same from torch."""
    if not tensor.numel():
        return []
    return np.asarray(tensor.contiguous().flatten().view(torch.uint8)).tolist()  # type: ignore[no-any-return]


def test_rows_are_what_was_written(written: tuple[Kind, Path]) -> None:
    """Names, shapes, data types and values equal those of the tensors saved."""
    kind, folder = written
    checkpoint = read(folder)
    expected = kind.tensors()
    assert checkpoint.format == kind.form
    assert {row.name for row in checkpoint.table} == set(expected)
    for row in checkpoint.table:
        tensor = expected[row.name]
        assert row.shape == tuple(tensor.shape)
        assert f"torch.{row.dtype}" == str(tensor.dtype)
        assert (row.numel, row.nbytes) == (tensor.numel(), tensor.nbytes)
        assert values(row) == raw(tensor), row.name


def test_files_are_the_folders(written: tuple[Kind, Path]) -> None:
    """Every file that was read is counted, once, with its size."""
    _, folder = written
    checkpoint = read(folder)
    assert len({info.path for info in checkpoint.files}) == len(checkpoint.files)
    for info in checkpoint.files:
        assert Path(info.path).is_relative_to(folder.resolve())
        assert info.nbytes == os.path.getsize(info.path)


def test_reading_twice_is_equal(written: tuple[Kind, Path]) -> None:
    """Nothing depends on what was read before."""
    _, folder = written
    assert read(folder) == read(folder)


@pytest.mark.parametrize("name", list(KINDS))
def test_only_headers_are_read(name: str, tmp_path: Path) -> None:
    """Eight megabytes of values cost no more bytes than eight kilobytes of them."""
    sizes = []
    for numel in (1_000, 1_000_000):
        folder = tmp_path / f"n{numel}"
        KINDS[name].write({"a": torch.zeros(numel), "b": torch.zeros(numel)}, folder)
        sizes.append(read(folder).bytes_read)
    assert sizes[1] <= sizes[0] + 64 * 5
    assert sizes[1] < KINDS[name].overhead


def test_truncated_anywhere_is_a_clear_error(written: tuple[Kind, Path]) -> None:
    """Each file cut at many places: an error of ours that names the folder, never a result."""
    kind, folder = written
    for path in files_of(folder):
        if path.name in kind.beside:
            continue
        content = path.read_bytes()
        end = len(content) - kind.padding
        for length in {*range(0, end, kind.step), end - 1}:
            path.write_bytes(content[:length])
            with pytest.raises(ModelInspectError) as caught:
                read(folder)
            assert "small" in caught.value.message, (path.name, length)
            assert caught.value.details or caught.value.hint
        path.write_bytes(content)


def test_a_flipped_bit_gives_a_result_or_a_clear_error(written: tuple[Kind, Path]) -> None:
    """A flip in many bytes of each file: a checkpoint or an error of ours, nothing else."""
    kind, folder = written
    chance = random.Random(0)
    refused = 0
    for path in files_of(folder):
        content = path.read_bytes()
        for at in range(0, len(content), max(1, kind.step // 5)):
            damaged = bytearray(content)
            damaged[at] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            try:
                read(folder)
            except ModelInspectError:
                refused += 1
        path.write_bytes(content)
    assert refused > 0


def test_a_missing_file_is_an_error(written: tuple[Kind, Path], tmp_path: Path) -> None:
    """Without any one of its files there is no model, and the message names the folder."""
    kind, folder = written
    for path in files_of(folder):
        if path.name in (*kind.spare, *kind.beside):
            continue
        moved = tmp_path / "moved"
        path.rename(moved)
        with pytest.raises(ModelInspectError) as caught:
            read(folder)
        assert "small" in str(caught.value), path.name
        moved.rename(path)


def test_no_link_leads_out(written: tuple[Kind, Path], tmp_path: Path) -> None:
    """A file that is a link to one outside the folder is not opened."""
    kind, folder = written
    outside = tmp_path / "outside"
    outside.mkdir()
    for path in files_of(folder):
        if path.name in kind.beside:
            continue
        elsewhere = outside / path.name
        shutil.copy(path, elsewhere)
        content = path.read_bytes()
        path.unlink()
        path.symlink_to(elsewhere)
        with pytest.raises(RefusedError, match="outside its folder"):
            read(folder)
        path.unlink()
        path.write_bytes(content)


def test_a_pipe_in_its_place_is_never_waited_for(written: tuple[Kind, Path]) -> None:
    """A named pipe where a file was: an error at once."""
    kind, folder = written
    for path in files_of(folder):
        if path.name in kind.beside:
            continue
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ModelInspectError):
            read(folder)
        path.unlink()
        path.write_bytes(content)


def test_damage_to_what_lies_beside_costs_no_parameter(written: tuple[Kind, Path]) -> None:
    """Configurations and states of a training, cut anywhere: the model is what it was."""
    kind, folder = written
    expected = [(row.name, row.shape) for row in read(folder).table]
    for path in files_of(folder):
        if path.name not in kind.beside:
            continue
        content = path.read_bytes()
        for length in range(0, len(content), kind.step):
            path.write_bytes(content[:length])
            assert [(row.name, row.shape) for row in read(folder).table] == expected, (path.name, length)
        path.write_bytes(content)
