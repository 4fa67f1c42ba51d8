"""
What torch itself says of a file: names, shapes, data types, strides, offsets, ties.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modelinspect.tensors import Checkpoint, TensorInfo


def loaded(path: Path) -> Any:
    """The object in a file of ours, made by torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=False, map_location="cpu")


def save(value: Any, path: Path, *, legacy: bool = False, protocol: int = 2) -> Path:
    """torch.save without the warnings that some kinds of tensors bring."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return path


def named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested dictionaries, lists and modules, under its dotted path, in order."""
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, torch.nn.Module):
        for part in (value._parameters, value._buffers, value._modules):
            yield from named_tensors(part, prefix)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from named_tensors(item, f"{prefix}.{number}" if prefix else str(number))


def rows_of(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """Every row of every section under its whole path."""
    rows = list(checkpoint.section("all"))
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def assert_equal(checkpoint: Checkpoint, value: Any) -> None:
    """The checkpoint says of every tensor what torch says of it."""
    expected = dict(named_tensors(value))
    rows = rows_of(checkpoint)
    assert set(rows) == set(expected)
    for name, tensor in expected.items():
        assert_row(rows[name], tensor)
    assert _ties_of_rows(rows) == _ties_of_tensors(expected)
    if len(checkpoint.tables) == 1:
        assert list(rows) == list(expected)


def assert_row(row: TensorInfo, tensor: torch.Tensor) -> None:
    """The row says of one tensor what torch says of it."""
    assert f"torch.{row.dtype}" == str(tensor.dtype), row.name
    assert row.requires_grad in {None, tensor.requires_grad}, row.name
    assert not (tensor.requires_grad and row.requires_grad is None), row.name
    if tensor.is_nested:
        assert row.numel == tensor.numel()
        return
    assert row.shape == tuple(tensor.shape), row.name
    assert row.numel == tensor.numel(), row.name
    if tensor.layout == torch.strided:
        assert row.stride == tensor.stride(), row.name
        assert row.storage_offset == tensor.storage_offset(), row.name
    if row.layout == "strided" and row.storage is not None:
        assert row.storage.nbytes == tensor.untyped_storage().nbytes(), row.name


def _ties_of_rows(rows: Mapping[str, TensorInfo]) -> set[frozenset[str]]:
    groups: dict[Any, set[str]] = defaultdict(set)
    for name, row in rows.items():
        if row.numel and row.storage is not None:
            groups[row.tie_key].add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def _ties_of_tensors(tensors: Mapping[str, torch.Tensor]) -> set[frozenset[str]]:
    groups: dict[Any, set[str]] = defaultdict(set)
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and not tensor.is_nested and tensor.device.type != "meta"
        if plain and tensor.numel() and tensor.untyped_storage().nbytes():
            place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
            groups[place, tuple(tensor.shape), tensor.stride(), tensor.dtype].add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}
