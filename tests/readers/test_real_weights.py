"""
Files that packages ship, made by other people's programs, some by Python 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_truth
from safetensors.torch import load_file

from modelinspect.readers.registry import open_checkpoint

# Package, and the folder or pattern of its weights with how many there are.
WEIGHTS = {
    "lpips==0.1.4": ("**/*.pth", 6, "torch-legacy"),
    "resemblyzer==0.1.4": ("**/*.pt", 1, "torch-legacy"),
    "anarcii==2.0.8": ("**/*.pt", 6, "torch-zip"),
    "silero-vad==6.2.3": ("**/*.safetensors", 1, "safetensors"),
    "facenet-pytorch==2.6.0": ("**/*.pt", 3, "torch-legacy"),
    "DISTS-pytorch==0.1": ("DISTS_pytorch/*.pt", 1, "torch-legacy"),
}
# Packages whose arrays numpy reads, none of them pickled.
ARRAYS = {
    "g2p-en==2.1.0": ("**/*.npz", 1),
    "resampy==0.4.2": ("**/*.npz", 2),
}


@pytest.mark.parametrize("package", list(WEIGHTS))
def test_real_files_are_read_as_their_library_reads_them(
    package: str, shipped_weights: Callable[[str], Path]
) -> None:
    """Names, shapes, data types, strides, offsets, ties and sizes equal the library's, headers alone read."""
    pattern, count, form = WEIGHTS[package]
    files = sorted(shipped_weights(package).glob(pattern))
    assert len(files) == count
    for path in files:
        checkpoint = open_checkpoint(str(path))
        assert checkpoint.format == form
        value = load_file(path) if form == "safetensors" else torch_truth.loaded(path)
        expected = dict(torch_truth.named_tensors(value))
        if form == "safetensors":
            # Its rows are in natural order, the library's in that of the file.
            expected = {row.name: expected[row.name] for row in checkpoint.table}
            value = expected
        torch_truth.assert_equal(checkpoint, value)
        values = sum(math.prod(tensor.shape) * tensor.element_size() for tensor in expected.values())
        assert checkpoint.bytes_read < max(20_000, path.stat().st_size - values)


@pytest.mark.parametrize("package", list(ARRAYS))
def test_real_archives_of_arrays_are_read_as_numpy_reads_them(
    package: str, shipped_weights: Callable[[str], Path]
) -> None:
    """Names, order, shapes and data types of every array, from the headers alone."""
    pattern, count = ARRAYS[package]
    files = sorted(shipped_weights(package).glob(pattern))
    assert len(files) == count
    for path in files:
        checkpoint = open_checkpoint(str(path))
        with np.load(path) as arrays:
            expected = [(name, arrays[name].shape, str(arrays[name].dtype)) for name in arrays.files]
        assert [(row.name, row.shape, row.dtype.name) for row in checkpoint.table] == expected
        assert checkpoint.format == "npz"
        assert checkpoint.bytes_read < 5_000


def test_many_tensors_in_few_storages(shipped_weights: Callable[[str], Path]) -> None:
    """An LSTM packs its weights into one storage: 48 tensors, 37 storages, and no ties for that."""
    path = shipped_weights("resemblyzer==0.1.4") / "resemblyzer" / "pretrained.pt"
    checkpoint = open_checkpoint(str(path))
    rows = torch_truth.rows_of(checkpoint)
    assert len(rows) == 48
    assert len({row.storage for row in rows.values()}) == 37
    assert not checkpoint.table.tied_to
    assert set(checkpoint.roles.values()) == {"model", "optimizer"}


@pytest.mark.filterwarnings("ignore:.torch.jit.load:DeprecationWarning")
def test_torchscript_is_read_as_torch_loads_it(shipped_weights: Callable[[str], Path]) -> None:
    """Parameters, buffers and their order equal those of the loaded module, from the headers alone."""
    path = next(shipped_weights("silero-vad==6.2.3").glob("**/*.jit"))
    checkpoint = open_checkpoint(str(path))
    module = torch.jit.load(path, map_location="cpu")
    rows = [row for row in checkpoint.table if not row.name.startswith("CONSTANTS.")]
    expected = dict(module.state_dict(keep_vars=True))
    assert checkpoint.format == "torchscript"
    assert {row.name for row in rows} == set(expected)
    assert [row.name for row in rows if row.kind == "parameter"] == [n for n, _ in module.named_parameters()]
    for row in rows:
        torch_truth.assert_row(row, expected[row.name])
    assert checkpoint.facts["root"] == "VADr_v6_10_25_noths_re"
    assert checkpoint.bytes_read < path.stat().st_size // 10
