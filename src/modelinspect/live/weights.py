"""
Weights into a module from any checkpoint, and out of it into a file. No pickle is executed.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from modelinspect.analysis.fit import FitRow, fit
from modelinspect.dtypes import dtype_named
from modelinspect.errors import CheckpointError, DefinitionError, UsageError, visible
from modelinspect.live.module_table import module_table
from modelinspect.live.norms import unwrapped
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.readers.registry import open_checkpoint
from modelinspect.targets import no_such_file
from modelinspect.tensors import Storage, TensorInfo
from modelinspect.writers.atomic import replacing_bytes
from modelinspect.writers.safetensors import Entry, write_safetensors

__all__ = ["check_suffix", "load_weights", "save_weights", "tensor_of"]

ReadFunction = Callable[[Storage, int, int], "bytes | memoryview"]
_MOST_NAMED = 5
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")


# ------------------------------------------------------------------------ reading


def tensor_of(row: TensorInfo, read: ReadFunction) -> Tensor:
    """
    The tensor that a row of a checkpoint describes, bit for bit.

    Args:
        row: Of a table whose file *read* can read.
        read: Gives bytes of a storage.

    Raises:
        CheckpointError: It has no values (meta), torch lacks its type, or it is a
            composite: sparse, quantized, nested.
    """
    dtype = getattr(torch, row.dtype.name, None)
    if row.storage is None or row.parts or dtype is None or row.dtype.category in ("quantized", "bits"):
        raise CheckpointError(
            f"the values of {visible(row.name)!r} can't be loaded ({row.layout}, {row.dtype.name})"
        )
    first, nbytes = row.span
    raw = bytearray(read(row.storage, first, nbytes))
    flat = torch.frombuffer(raw, dtype=dtype) if nbytes else torch.empty(0, dtype=dtype)
    if row.storage.byteorder == "big":
        flat = _swapped(flat)
    tensor = flat.as_strided(row.shape, row.stride) if nbytes else flat.reshape(row.shape)
    if row.layout == "conjugate":
        tensor = tensor.conj()
    return tensor._neg_view() if row.layout == "negative" else tensor


def _swapped(flat: Tensor) -> Tensor:
    """Numbers whose bytes stand in the other order; the halves of a complex one by themselves."""
    width = flat.element_size() // (2 if flat.is_complex() else 1)
    return flat.view(torch.uint8).view(-1, width).flip(1).contiguous().view(-1).view(flat.dtype)


def load_weights(module: nn.Module, checkpoint: str, *, section: str | None = None) -> tuple[str, ...]:
    """
    Load the tensors of a checkpoint into a module, by name, as ``load_state_dict`` does.

    A wrapper's prefix (``module.``, ``_orig_mod.``) that alone is in the way is taken off.
    A tied tensor may stand in the file under one of its names only. The values are in
    memory twice for a moment.

    Args:
        module: Filled in place.
        checkpoint: A file, an index or a folder.
        section: Of it; None: the model's.

    Returns:
        What should be said of it.

    Raises:
        CheckpointError: It can't be read.
        DefinitionError: It does not fit; the message says what is missing or unexpected.
    """
    if not os.path.lexists(checkpoint):
        raise no_such_file(checkpoint)
    opened = open_checkpoint(checkpoint, checkpoint, None)
    expected = module_table(module, type(module).__name__)
    report = fit(expected, opened.section(section))
    ties = {**expected.tied_to}
    pairs = [
        (row.expected.name, row.found)
        for row in report.rows
        if row.expected and row.found and not _is_wrong(row)
    ]
    there = {name for name, _ in pairs} | {ties[name] for name, _ in pairs if name in ties}
    wrong = [
        row
        for row in report.rows
        if _is_wrong(row) and (row.status != "missing" or ties.get(row.name, row.name) not in there)
    ]
    if wrong:
        raise _does_not_fit(module, checkpoint, wrong)
    with StorageReader() as reader:
        state = {name: tensor_of(found, reader.read) for name, found in pairs}
    for name, first in ties.items():
        if (known := state.get(name, state.get(first))) is not None:
            state.setdefault(name, known)
            state.setdefault(first, known)
    missing = _loaded(module, state, checkpoint)
    notes = [*opened.notes]
    prefix = report.checkpoint_prefix or report.definition_prefix
    if prefix:
        notes.append(f"weights: the prefix {visible(prefix)!r} was in the way and is left out")
    if missing:
        notes.append(f"weights: the file lacks {_listed(missing)}, which stay as the model makes them")
    return tuple(notes)


def _is_wrong(row: FitRow) -> bool:
    holds_a_tensor = row.expected is not None or row.found is not None
    return holds_a_tensor and row.status not in ("ok", "dtype") and not row.harmless


def _does_not_fit(module: nn.Module, checkpoint: str, wrong: Sequence[FitRow]) -> DefinitionError:
    details = []
    for status in dict.fromkeys(row.status for row in wrong):
        names = [row.name for row in wrong if row.status == status]
        what = {"shape": "of another shape", "layout": "can't be loaded"}.get(status, status)
        details.append(f"{what}: {_listed(names)}")
    return DefinitionError(
        f"{visible(checkpoint)} does not fit {type(module).__name__}",
        details=tuple(details),
        hint="modelinspect params DEFINITION --against CHECKPOINT shows both side by side",
    )


def _loaded(module: nn.Module, state: Mapping[str, Tensor], checkpoint: str) -> list[str]:
    """Give a module its state; the names that it lacks."""
    try:
        return list(module.load_state_dict(state, strict=False).missing_keys)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise DefinitionError(
            f"{visible(checkpoint)} does not fit {type(module).__name__}",
            details=tuple(map(visible, lines[1 : _MOST_NAMED + 1])),
        ) from error


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(visible, names[:_MOST_NAMED]))
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown


# ------------------------------------------------------------------------ writing


def save_weights(
    module: nn.Module, path: str, *, metadata: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """
    Write a module's state_dict, whole or not at all.

    Into ``.safetensors`` a tied tensor goes once, under the name that
    ``safetensors.torch.save_model`` would choose, its other names into the metadata.
    Into ``.pt`` go plain tensors on the CPU, each with a storage of its own; ties stay.

    Args:
        module: Of a sharded one every process calls this, and the first one writes.
        path: Its suffix says the format.
        metadata: Texts for the header of a safetensors file.

    Returns:
        What should be said of it.

    Raises:
        UsageError: The suffix is none of a known format.
        TargetError: The folder can't be written to.
    """
    suffix = os.path.splitext(path)[1].lower()
    check_suffix(path)
    whole = {name: _whole(value) for name, value in unwrapped(module).state_dict().items()}
    if os.environ.get("RANK", "0") != "0":
        return ()
    tensors = {name: value for name, value in whole.items() if isinstance(value, Tensor)}
    others = [name for name in whole if name not in tensors]
    with replacing_bytes(path) as stream:
        if suffix == ".safetensors":
            _write_safetensors(stream, tensors, metadata or {})
        else:
            torch.save(_own_storages(tensors), stream)
    return () if not others else (f"{_listed(others)}: no tensor, and not written",)


def check_suffix(path: str) -> None:
    """
    Refuse a path whose suffix says no format, before anything is trained for it.

    Raises:
        UsageError: It is neither ``.safetensors`` nor one of torch's.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise UsageError(
            f"{visible(path)}: its suffix says no format to save in",
            details=(f"known: .safetensors, {', '.join(_TORCH_SUFFIXES)}",),
        )


def _whole(value: Any) -> Any:
    """A tensor that is spread over processes, put together."""
    return value.full_tensor() if type(value).__name__ == "DTensor" else value


def _own_storages(tensors: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Copies on the CPU that drag no larger storage along; the same object for tied names."""
    copies: dict[object, Tensor] = {}
    result: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in tensors.items():
        key = _place(tensor)
        if key not in copies:
            copies[key] = tensor.detach().cpu().contiguous().clone()
        result[name] = copies[key]
    return result


def _write_safetensors(stream: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(_place(tensor), []).append(name)
    texts = dict(metadata)
    entries = []
    for names in groups.values():
        kept, *others = sorted(names)
        texts.update(dict.fromkeys(others, kept))
        entries.append(_entry(kept, tensors[kept]))
    write_safetensors(stream, entries, {"format": "pt", **texts})


def _entry(name: str, tensor: Tensor) -> Entry:
    def read() -> list[memoryview]:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return [flat.view(torch.uint8).numpy().data] if flat.numel() else []

    return Entry(name, dtype_named(str(tensor.dtype)), tuple(tensor.shape), read)


def _place(tensor: Tensor) -> object:
    """Equal for tied tensors: the same elements of the same memory."""
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return id(tensor)
    return storage.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype
