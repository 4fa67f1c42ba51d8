"""
Values of what is in memory: a module, a dict of tensors, a definition built for real.

The same figures as of a file, from the same code: a row of the table says where its
elements lie in a storage, and here the storage's memory is handed out instead of a
range of a file. Nothing is copied but what lies on another device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modelinspect.analysis.statistics import SMALL, Progress, summarise_all, without_figures
from modelinspect.analysis.summary import ValueSummary
from modelinspect.errors import CheckpointError, DefinitionError, visible
from modelinspect.live.definition import Definition, load_definition
from modelinspect.live.module_table import flattened
from modelinspect.tensors import ParameterTable, Storage, TensorInfo

__all__ = ["MAX_FRESH_BYTES", "summarise_fresh", "summarise_mapping", "summarise_module"]

MAX_FRESH_BYTES = 1 << 30
"""Memory that a definition may take when it is built only to look at its fresh values."""


def summarise_fresh(
    definition: Definition,
    rows: Iterable[TensorInfo],
    *,
    seed: int = 0,
    limit: int = MAX_FRESH_BYTES,
    small: int = SMALL,
    progress: Progress | None = None,
) -> tuple[dict[str, ValueSummary], tuple[str, ...]]:
    """
    Build a definition for real and summarise the values that it starts with.

    Args:
        definition: As built on the meta device; its table says how large it is.
        rows: Those of its table that are wanted.
        seed: Of all generators while it is built.
        limit: Bytes that its tensors may take.
        small: Up to so many values are also given in full.
        progress: Told of the bytes done, after each chunk.

    Returns:
        Summaries by name, and notes: what the values are, what was said in building.

    Raises:
        DefinitionError: It takes more than *limit* bytes, or it can't be built.
    """
    nbytes = _bytes_in_memory(definition.table)
    if nbytes > limit:
        raise DefinitionError(
            f"{visible(definition.target)} takes {nbytes:,} bytes, too many to build it for its values",
            details=(f"limit: {limit:,} bytes",),
            hint="without --values nothing is allocated",
        )
    built = load_definition(definition.target, meta=False, seed=seed)
    names = [row.name for row in rows]
    there = [built.table[name] for name in names if name in built.table]
    found = summarise_module(built.module, there, small=small, progress=progress)
    gone = without_figures(0, "not there when it was built again")
    note = f"values are a fresh initialisation with seed {seed}, not trained weights"
    notes = (note, *(text for text in built.notes if text not in definition.notes))
    return {name: found.get(name, gone) for name in names}, notes


def _bytes_in_memory(table: ParameterTable) -> int:
    tensors = [*table, *table.unregistered]
    storages = {storage: storage.nbytes for tensor in tensors for storage, _ in tensor.storages()}
    return sum(storages.values())


def summarise_module(
    module: nn.Module, rows: Iterable[TensorInfo], *, small: int = SMALL, progress: Progress | None = None
) -> dict[str, ValueSummary]:
    """
    Summaries of the parameters and buffers of a module in hand, by name.

    Args:
        module: Whose table *rows* are from.
        rows: Those that are wanted.
        small: Up to so many values are also given in full.
        progress: Told of the bytes done, after each chunk.
    """
    rows = list(rows)
    return _summarise(rows, {row.name: _tensor_of(module, row.name) for row in rows}, small, progress)


def summarise_mapping(
    mapping: Mapping[Any, Any],
    rows: Iterable[TensorInfo],
    *,
    small: int = SMALL,
    progress: Progress | None = None,
) -> dict[str, ValueSummary]:
    """
    Summaries of a dict of tensors or arrays in hand, by name.

    Args:
        mapping: What *rows* were made of by ``tensors_table``; dicts in it are followed.
        rows: Those that are wanted.
        small: Up to so many values are also given in full.
        progress: Told of the bytes done, after each chunk.
    """
    return _summarise(list(rows), dict(flattened(mapping)), small, progress)


def _tensor_of(module: nn.Module, name: str) -> Tensor | None:
    path, _, leaf = name.rpartition(".")
    holder = module.get_submodule(path)
    parameter = holder._parameters.get(leaf)
    return holder._buffers.get(leaf) if parameter is None else parameter


def _summarise(
    rows: list[TensorInfo], values: Mapping[str, Any], small: int, progress: Progress | None
) -> dict[str, ValueSummary]:
    memory = _Memory()
    placed = [memory.placed(row, values[row.name]) for row in rows]
    return summarise_all(placed, memory.read, small=small, progress=progress)


class _Memory:
    """Reads storages from memory, as ``StorageReader`` reads them from files."""

    def __init__(self) -> None:
        self._owners: dict[Storage, Any] = {}
        self._last: tuple[Storage, memoryview] | None = None

    def placed(self, row: TensorInfo, value: Any) -> TensorInfo:
        """The row, with a storage that can be read here."""
        if row.storage is None:
            self._place_parts(row, value)
            return row
        if not isinstance(value, Tensor):
            return self._copied(row, value)
        if value.is_conj() or value.is_neg():
            # Lazy views: the memory holds the numbers before conjugation.
            value = value.detach().resolve_conj().resolve_neg().contiguous()
            resolved = Storage("", f"{row.name} resolved", None, value.nbytes)
            self._owners[resolved] = value
            return row._replace(storage=resolved, explicit_stride=None, storage_offset=0)
        self._owners[row.storage] = value
        return row

    def _place_parts(self, row: TensorInfo, value: Any) -> None:
        """Of a sparse tensor the stored values."""
        for part in row.parts:
            if part.name == "values" and part.storage is not None and row.layout.startswith("sparse"):
                is_coo = value.layout is torch.sparse_coo
                self._owners[part.storage] = value._values() if is_coo else value.values()

    def read(self, storage: Storage, first: int, n: int) -> memoryview:
        """Bytes of a storage, not copied."""
        if self._last is None or self._last[0] != storage:
            self._last = None  # a copy from another device is let go first
            self._last = storage, self._bytes(storage)
        return self._last[1][first : first + n]

    def _copied(self, row: TensorInfo, array: Any) -> TensorInfo:
        """A NumPy array, which may lie in memory in any way; its bytes in order."""
        raw = array.tobytes()
        order = "big" if array.dtype.str.startswith(">") else "little"
        storage = Storage("", f"{row.name} copied", None, len(raw), "cpu", order)  # type: ignore[arg-type]
        self._owners[storage] = raw
        return row._replace(storage=storage, explicit_stride=None, storage_offset=0)

    def _bytes(self, storage: Storage) -> memoryview:
        owner = self._owners.get(storage)
        if owner is None:
            raise CheckpointError("its memory can't be read")
        if isinstance(owner, bytes):
            return memoryview(owner)
        try:
            flat = torch.empty(0, dtype=torch.uint8).set_(owner.untyped_storage().cpu())
            return flat.numpy().data
        except (RuntimeError, NotImplementedError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"its memory can't be read: {reason}") from error
