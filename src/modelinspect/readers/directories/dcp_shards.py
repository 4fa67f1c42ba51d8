"""
Shards that torch.distributed.checkpoint writes as safetensors: each rank its own, in chunks.

``shard-00002-model-00001-of-00001.safetensors`` is what the second rank wrote of the first file.
In its ``__metadata__``, ``DCP_SHARDING_INFO`` is JSON: name to ``{"saved_offsets": [...]}``, where
the chunk begins in the whole tensor, whose shape is as large as its chunks reach (torch 2.13,
``torch/distributed/checkpoint/hf_storage.py`` and ``_hf_utils.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NoReturn

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.directories.named_files import Opened, check_number, opened
from modelinspect.readers.parts.chunks import Shape, chunked_row, span_of
from modelinspect.readers.parts.json_size import is_dense
from modelinspect.readers.parts.kinds import settled_by_siblings
from modelinspect.readers.parts.natural_order import naturally_sorted
from modelinspect.tensors import Checkpoint, ParameterTable, TensorInfo

__all__ = ["read_shards"]

_INFO, _VERSION, _OFFSETS = "DCP_SHARDING_INFO", "DCP_VERSION", "saved_offsets"
_NAME = re.compile(r"shard-(?P<rank>\d+)-model-(?P<file>\d+)-of-(?P<total>\d+)\.safetensors")
_SHOWN = 8


def read_shards(folder: str, names: Sequence[str], target: str) -> Checkpoint:
    """
    Read the header of every shard and put the chunks together.

    Raises:
        DamagedFileError: A shard is missing or doesn't say where its chunks belong.
        RefusedError: A link leads out of the folder.
    """
    check_number(names, target)
    _check_numbers(names, target)
    files = [opened(folder, name, target) for name in names]
    parts: dict[str, list[tuple[Shape, TensorInfo]]] = {}
    for file in files:
        offsets = _offsets(file, target)
        for row in file.checkpoint.table:
            first = offsets.get(row.name, (0,) * len(row.shape))
            if len(first) != len(row.shape):
                _damaged(
                    file, target, f"{visible(row.name[:200])}: {len(first)} offsets, {len(row.shape)} axes"
                )
            parts.setdefault(row.name, []).append((first, row._replace(name=span_of(first, row.shape))))
    rows = [_row(name, parts[name], target) for name in naturally_sorted(list(parts))]
    return _joined(files, rows, target, sum(map(len, parts.values())))


def _check_numbers(names: Sequence[str], target: str) -> None:
    """Ranks count from 1, and so do the files of each; a rank writes only those that it has a part of."""
    found = [match for match in map(_NAME.fullmatch, names) if match]
    ranks = {int(match["rank"]) for match in found}
    missing = [number for number in range(1, min(max(ranks), len(names) + _SHOWN)) if number not in ranks]
    if missing:
        raise DamagedFileError(
            f"{visible(target)}: shards are missing",
            details=(f"ranks: {', '.join(map(str, missing[:_SHOWN]))}",),
            hint="a download may have stopped early, or a rank could not write",
        )


def _offsets(file: Opened, target: str) -> Mapping[str, Shape]:
    """Name to where its chunk begins."""
    text = file.checkpoint.metadata.get(_INFO)
    if text is None:
        _damaged(file, target, f"its metadata has no {_INFO}")
    if is_dense(text):
        _damaged(file, target, f"its {_INFO} holds far more lists and texts than tensors")
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        _damaged(file, target, f"its {_INFO} is not JSON")
    entries = document if isinstance(document, dict) else {}
    found: dict[str, Shape] = {}
    for name, entry in entries.items():
        offsets = entry.get(_OFFSETS) if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or not all(type(n) is int and 0 <= n < 1 << 62 for n in offsets):
            _damaged(file, target, f"its {_INFO} of {visible(name[:200])} makes no sense")
        found[name] = tuple(offsets)
    return found


def _row(name: str, chunks: list[tuple[Shape, TensorInfo]], target: str) -> TensorInfo:
    offsets, parts = [first for first, _ in chunks], [part for _, part in chunks]
    shape = parts[0].shape
    if any(part.dtype is not parts[0].dtype or len(part.shape) != len(shape) for part in parts):
        raise DamagedFileError(
            f"{visible(target)} is damaged",
            details=(f"{visible(name[:200])}: its chunks differ in data type or number of axes",),
        )
    ends = [[a + n for a, n in zip(first, part.shape)] for first, part in chunks]
    size = tuple(map(max, zip(*ends))) if shape else ()
    distinct = {(first, part.shape): part for first, part in chunks}
    held = sum(prod(part.shape) for part in distinct.values())
    if held != prod(size):
        raise DamagedFileError(
            f"{visible(target)} lacks a part of a tensor",
            details=(f"{visible(name[:200])}: its chunks hold {held:,} of {prod(size):,} elements",),
            hint="files of other ranks may be missing",
        )
    if len(distinct) < len(chunks):
        offsets, parts = [first for first, _ in distinct], list(distinct.values())
    return chunked_row(name, size, parts, offsets)


def _joined(files: Sequence[Opened], rows: list[TensorInfo], target: str, chunks: int) -> Checkpoint:
    first = files[0].checkpoint
    table = ParameterTable(source=target, tensors=settled_by_siblings(rows), origin="file")
    ranks = {match["rank"] for match in (_NAME.fullmatch(file.name) for file in files) if match}
    metadata = {key: value for key, value in first.metadata.items() if key not in (_INFO, _VERSION)}
    notes = dict.fromkeys(note for file in files for note in file.checkpoint.notes)
    facts = {"files": f"{len(files):,}", "ranks that wrote": f"{len(ranks):,}", "chunks": f"{chunks:,}"}
    return replace(
        first,
        source=target,
        format="dcp safetensors",
        files=tuple(info for file in files for info in file.checkpoint.files),
        tables={"": table},
        metadata=metadata,
        notes=(
            *notes,
            "whole shapes are as large as the shards reach: nothing says how many ranks there were",
        ),
        version=visible(first.metadata.get(_VERSION, "")[:80]),
        facts={**first.facts, **facts},
    )


def _damaged(file: Opened, target: str, reason: str) -> NoReturn:
    raise DamagedFileError(f"{visible(target)} ({visible(file.name)}) is damaged", details=(reason,))
