"""
Weights into a module from any checkpoint, and out of it into a file. No pickle is executed.
"""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import torch
from torch import Tensor, distributed, nn
from torch.nn.parameter import is_lazy

from modelinspect.analysis.fit import FitReport, FitRow, fit
from modelinspect.dtypes import DType, dtype_named
from modelinspect.errors import CheckpointError, DefinitionError, ModelInspectError, UsageError, visible
from modelinspect.live.module_table import module_table
from modelinspect.live.norms import unwrapped
from modelinspect.live.user_errors import raised
from modelinspect.readers.parts.storage_bytes import StorageReader
from modelinspect.readers.registry import open_checkpoint
from modelinspect.targets import no_such_file
from modelinspect.tensors import Checkpoint, Storage, TensorInfo
from modelinspect.writers.atomic import check_folder, replacing_bytes
from modelinspect.writers.safetensors import Entry, write_safetensors

__all__ = ["check_suffix", "load_weights", "save_weights", "tensor_of"]

ReadFunction = Callable[[Storage, int, int], "bytes | memoryview"]
_MOST_NAMED = 5
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_EXTRA_STATE = "_extra_state"
_COMPRESSED = {
    "sparse_csr": torch.sparse_csr,
    "sparse_csc": torch.sparse_csc,
    "sparse_bsr": torch.sparse_bsr,
    "sparse_bsc": torch.sparse_bsc,
}


# ------------------------------------------------------------------------ reading


def tensor_of(row: TensorInfo, read: ReadFunction) -> Tensor:
    """
    The tensor that torch or safetensors would load for a row of a checkpoint, bit for bit.

    Args:
        row: Of a table whose file *read* can read.
        read: Gives bytes of a storage.

    Returns:
        On the CPU, with memory of its own: from the first element to the last.

    Raises:
        CheckpointError: It has no values (meta), torch lacks its type, or it is a
            composite other than a sparse tensor: quantized, nested, a wrapper.
    """
    if row.layout.startswith("sparse") and row.parts:
        return _sparse(row, read)
    if row.storage is None or row.parts:
        without = (
            f"it is {row.layout}" if row.parts or row.layout != "strided" else "it was saved without any"
        )
        raise _no_values(row, without)
    if row.layout == "quantized" or row.dtype.category in ("quantized", "bits"):
        raise _no_values(row, f"{row.dtype.name} is not read")
    dtype, shape, stride = _of_torch(row)
    first, nbytes = row.span
    raw = bytearray(read(row.storage, first, nbytes))
    flat = torch.frombuffer(raw, dtype=dtype) if nbytes else torch.empty(0, dtype=dtype)
    if row.storage.byteorder == "big":
        flat = _swapped(flat)
    tensor = flat.as_strided(shape, stride) if nbytes else flat.reshape(shape)
    if row.layout == "conjugate":
        tensor = tensor.conj()
    return tensor._neg_view() if row.layout == "negative" else tensor


def _of_torch(row: TensorInfo) -> tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]:
    """Data type, shape and stride as torch has them."""
    if row.dtype.name == "float4_e2m1fn" and row.is_contiguous and row.shape and row.shape[-1] % 2 == 0:
        # safetensors counts the numbers, torch pairs of them.
        row = row._replace(
            dtype=dtype_named("float4_e2m1fn_x2"),
            shape=(*row.shape[:-1], row.shape[-1] // 2),
            explicit_stride=None,
        )
    dtype = getattr(torch, row.dtype.name, None)
    if not isinstance(dtype, torch.dtype):
        raise _no_values(row, f"torch {torch.__version__} has no {row.dtype.name}")
    return dtype, row.shape, row.stride


def _sparse(row: TensorInfo, read: ReadFunction) -> Tensor:
    """Of its parts, which are checked: nobody says that indices of a file lie inside the shape."""
    *places, values = (tensor_of(part, read) for part in row.parts)
    try:
        if row.layout == "sparse_coo":
            return torch.sparse_coo_tensor(places[0], values, list(row.shape), check_invariants=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse")  # torch calls them a prototype
            return torch.sparse_compressed_tensor(
                places[0],
                places[1],
                values,
                list(row.shape),
                layout=_COMPRESSED[row.layout],
                check_invariants=True,
            )
    except (RuntimeError, TypeError, ValueError) as error:
        raise _no_values(row, str(error).partition("\n")[0]) from error


def _no_values(row: TensorInfo, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the values of {visible(row.name)!r} can't be loaded: {visible(reason)}",
        details=(f"{row.layout}, {row.dtype.name}, shape {tuple(row.shape)}",),
    )


def _swapped(flat: Tensor) -> Tensor:
    """Numbers whose bytes stand in the other order; the halves of a complex one by themselves."""
    width = flat.element_size() // (2 if flat.is_complex() else 1)
    return flat.view(torch.uint8).view(-1, width).flip(1).contiguous().view(-1).view(flat.dtype)


def load_weights(
    module: nn.Module,
    checkpoint: str | Checkpoint,
    *,
    section: str | None = None,
    read_as: str | None = None,
) -> tuple[str, ...]:
    """
    Load the tensors of a checkpoint into a module, by name, as ``load_state_dict`` does.

    A wrapper's prefix (``module.``, ``_orig_mod.``) that alone is in the way is taken off.
    A tied tensor may stand in the file under one of its names only. The extra state of a
    module stays as it is: it may be anything, and some modules unpickle it. The values are
    in memory twice for a moment.

    Args:
        module: Filled in place.
        checkpoint: A file, an index or a folder; or one that was opened.
        section: Of it; None: the model's.
        read_as: A format's name, e.g. ``safetensors``; skips recognition.

    Returns:
        What should be said of it.

    Raises:
        CheckpointError: It can't be read.
        DefinitionError: It does not fit; the message says what is missing or unexpected.
        UsageError: The module is on the meta device.
    """
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise UsageError(f"{type(module).__name__} is on the meta device, where nothing has a value")
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else _opened(checkpoint, read_as)
    expected, offered = module_table(module, type(module).__name__), opened.section(section)
    report = fit(expected, offered)
    first_names = {name: expected.tied_to.get(name, name) for name in (row.name for row in expected)}
    found = {
        row.expected.name: row.found
        for row in report.rows
        if row.expected and row.found and not _is_wrong(row)
    }
    there = {first_names[name] for name in found}
    wrong = [
        row
        for row in report.rows
        if _is_wrong(row) and (row.status != "missing" or first_names.get(row.name) not in there)
    ]
    if wrong:
        raise _does_not_fit(module, opened.source, wrong)
    with StorageReader() as reader:
        state = OrderedDict((name, tensor_of(row, reader.read)) for name, row in found.items())
    tied = list(_tied(state, first_names))
    state._metadata = _versions(report)  # type: ignore[attr-defined]
    missing = _loaded(module, state, opened.source)
    return (*opened.notes, *_remarks(report), *tied, *_left(missing))


def _opened(path: str, read_as: str | None) -> Checkpoint:
    if not os.path.lexists(path):
        raise no_such_file(path)
    return open_checkpoint(path, path, read_as)


def _tied(state: dict[str, Tensor], first_names: Mapping[str, str]) -> Iterator[str]:
    """Give each name of a tied tensor its values, and say of what can't be so in the model."""
    last: dict[str, str] = {}
    for name, values in state.items():
        first = first_names[name]
        other = last.setdefault(first, name)
        if not _same_bits(values, state[other]):
            yield (
                f"weights: {visible(other)} and {visible(name)} are one tensor in the model and differ "
                f"in the file; it takes {visible(name)}"
            )
        last[first] = name
    for name, first in first_names.items():
        if first in last:
            state[name] = state[last[first]]


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one is other or one.layout is not torch.strided:
        return True
    return one.dtype is other.dtype and torch.equal(_bytes_of(one), _bytes_of(other))


def _versions(report: FitReport) -> dict[str, dict[str, int]]:
    """What ``state_dict()`` hangs on its dictionary, for modules that read older layouts."""
    theirs, ours = report.checkpoint_prefix, report.definition_prefix
    versions = {}
    for path, version in report.checkpoint.versions.items():
        inside = f"{path}." if path else ""
        if inside.startswith(theirs):
            versions[(ours + inside.removeprefix(theirs)).removesuffix(".")] = {"version": version}
    return versions


def _remarks(report: FitReport) -> Iterator[str]:
    prefixes = {report.checkpoint_prefix: "the file", report.definition_prefix: "the model"}
    for prefix, owner in prefixes.items():
        if prefix:
            yield f"weights: {owner}'s prefix {visible(prefix)!r} was in the way and is left out"
    cast = [row for row in report.rows if row.status == "dtype" and row.found and row.expected]
    for types in dict.fromkeys(map(_types, cast)):
        names = [row.name for row in cast if _types(row) == types]
        loss = "; the imaginary parts are lost" if cast[0].note and _is_cut(types) else ""
        yield f"weights: {types[0].name} is converted to {types[1].name}: {_listed(names)}{loss}"


def _types(row: FitRow) -> tuple[DType, DType]:
    assert row.found is not None
    assert row.expected is not None
    return row.found.dtype, row.expected.dtype


def _is_cut(types: tuple[DType, DType]) -> bool:
    return types[0].category == "complex" != types[1].category


def _left(missing: Sequence[str]) -> Iterator[str]:
    """What stays as it is."""
    extra = [name for name in missing if name.rpartition(".")[2] == _EXTRA_STATE]
    others = [name for name in missing if name not in extra]
    if others:
        yield f"weights: the file lacks {_listed(others)}, which stay as the model makes them"
    if extra:
        yield f"weights: {_listed(extra)}: no tensors, and not loaded; they stay as the model makes them"


def _is_wrong(row: FitRow) -> bool:
    holds_a_tensor = row.expected is not None or row.found is not None
    return holds_a_tensor and row.status not in ("ok", "dtype") and not row.harmless


def _does_not_fit(module: nn.Module, checkpoint: str, wrong: Sequence[FitRow]) -> DefinitionError:
    details = []
    for status in dict.fromkeys(row.status for row in wrong):
        names = [_described(row) for row in wrong if row.status == status]
        what = {"shape": "of another shape", "layout": "can't be loaded"}.get(status, status)
        details.append(f"{what}: {_listed(names)}")
    return DefinitionError(
        f"{visible(checkpoint)} does not fit {type(module).__name__}",
        details=tuple(details),
        hint="modelinspect params DEFINITION --against CHECKPOINT shows both side by side",
    )


def _described(row: FitRow) -> str:
    """The name, and what is wrong with it where that is not plain."""
    if row.status == "shape" and row.found and row.expected:
        return f"{row.name} ({list(row.found.shape)} for {list(row.expected.shape)})"
    return f"{row.name} ({row.note})" if row.status == "layout" else row.name


def _loaded(module: nn.Module, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Give a module its state; the names that it lacks."""
    problem = f"{visible(source)} does not fit {type(module).__name__}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Casting complex values")  # _remarks says so
            return list(module.load_state_dict(state, strict=False).missing_keys)
    except (ModelInspectError, KeyboardInterrupt):
        raise
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if not lines or not lines[0].startswith("Error(s) in loading state_dict"):
            raise raised(problem, error) from error
        raise DefinitionError(problem, details=tuple(map(visible, lines[1 : _MOST_NAMED + 1]))) from error
    except Exception as error:  # a hook of the module's may raise anything
        raise raised(problem, error) from error


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
    Into ``.pt`` go plain tensors on the CPU that drag no larger storage along; ties stay,
    and so does extra state of numbers and texts, which ``torch.load(weights_only=True)`` takes.

    Args:
        module: Of a sharded one every process calls this, and the first one writes. It
            holds all values in memory then; else one tensor at a time is copied.
        path: Its suffix says the format.
        metadata: Texts for the header of a safetensors file.

    Returns:
        What should be said of it.

    Raises:
        UsageError: The suffix is none of a known format, or the format lacks what the
            module holds.
        TargetError: The folder can't be written to.
    """
    check_suffix(path)
    state = unwrapped(module).state_dict(keep_vars=True)
    _check_values(state, path)
    names: dict[object, list[str]] = {}
    for name, value in state.items():
        names.setdefault(_place(value), []).append(name)
    unique = {tied[0]: _whole(state[tied[0]]) for tied in names.values()}
    if distributed.is_available() and distributed.is_initialized() and distributed.get_rank():
        return ()
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    with replacing_bytes(path) as stream:
        if _is_safetensors(path):
            groups = [tied for tied in names.values() if tied[0] not in others]
            _write_safetensors(stream, groups, unique, metadata or {})
        else:
            others = [name for name in others if not _is_data(state[name])]
            _write_torch(stream, state, names, unique, others)
    return () if not others else (f"{_listed(others)}: no tensor, and not written",)


def _check_values(state: Mapping[str, Any], path: str) -> None:
    """
    Refuse a module without values, before a file is touched.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        if is_lazy(value) or value.is_meta:
            reason = (
                "has no shape before the first forward pass" if is_lazy(value) else "is on the meta device"
            )
            raise UsageError(f"{visible(name)} {reason}, and can't be saved to {visible(path)}")
        if _is_safetensors(path) and not _is_plain(value):
            kind = str(value.layout).removeprefix("torch.")
            kind = "quantized" if value.is_quantized else type(value).__name__ if kind == "strided" else kind
            raise UsageError(
                f"safetensors holds plain tensors, and {visible(name)} is {kind}", hint="save as .pt"
            )


def check_suffix(path: str) -> None:
    """
    Refuse a path that nothing can be saved to, before anything is trained for it.

    Raises:
        UsageError: Its suffix is neither ``.safetensors`` nor one of torch's.
        TargetError: Its folder is not there.
    """
    if not _is_safetensors(path) and os.path.splitext(path)[1].lower() not in _TORCH_SUFFIXES:
        raise UsageError(
            f"{visible(path)}: its suffix says no format to save in",
            details=(f"known: .safetensors, {', '.join(_TORCH_SUFFIXES)}",),
        )
    check_folder(path)


def _is_safetensors(path: str) -> bool:
    return path.lower().endswith(".safetensors")


def _is_plain(tensor: Tensor) -> bool:
    """Numbers in memory and nothing else; also where they lie on several processes."""
    is_wrapper = hasattr(tensor, "__tensor_flatten__") and not _is_spread(tensor)
    return tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_nested or is_wrapper)


def _is_spread(value: Any) -> bool:
    return type(value).__name__ == "DTensor"


def _is_data(value: Any) -> bool:
    """Is it of numbers, texts and containers, which no unpickler objects to?"""
    if isinstance(value, Mapping):
        return type(value) in (dict, OrderedDict) and all(map(_is_data, (*value, *value.values())))
    if type(value) in (list, tuple, set):
        return all(map(_is_data, value))
    return value is None or type(value) in (bool, int, float, complex, str, bytes)


def _place(value: Any) -> object:
    """Equal for tied tensors: the same parameter, or the same elements of the same memory."""
    if not isinstance(value, Tensor) or _is_spread(value) or not _is_plain(value):
        return id(value)
    storage = value.untyped_storage()
    if not storage.nbytes():
        return id(value)
    where = (value.device, storage.data_ptr(), value.storage_offset())
    return (*where, tuple(value.shape), value.stride(), value.dtype, value.is_conj(), value.is_neg())


def _whole(value: Any) -> Any:
    """A tensor that is spread over processes, put together in the memory of the first one."""
    if not _is_spread(value):
        return value
    whole = value.detach().full_tensor()
    return whole.cpu() if distributed.get_rank() == 0 else None


def _on_cpu(tensor: Tensor) -> Tensor:
    """Its numbers in a row."""
    plain = tensor.detach().cpu()
    if not _is_plain(plain):
        return plain
    return plain.as_subclass(Tensor).resolve_conj().resolve_neg().contiguous()


def _bytes_of(tensor: Tensor) -> Tensor:
    """As numbers of 8 bits, in a row."""
    return _on_cpu(tensor).reshape(-1).view(torch.uint8)


def _write_torch(
    stream: BinaryIO,
    state: Mapping[str, Any],
    names: Mapping[object, Sequence[str]],
    unique: Mapping[str, Any],
    left_out: Sequence[str],
) -> None:
    copies: dict[str, Any] = {}
    used: set[int] = set()
    for tied in names.values():
        value = unique[tied[0]]
        copies.update(dict.fromkeys(tied, _alone(value, used) if isinstance(value, Tensor) else value))
    written = OrderedDict((name, copies[name]) for name in state if name not in left_out)
    if hasattr(state, "_metadata"):  # versions of the modules' layouts
        written._metadata = state._metadata  # type: ignore[attr-defined]
    torch.save(written, stream)


def _alone(tensor: Tensor, used: set[int]) -> Tensor:
    """A tensor whose storage has nothing but its numbers, and that no other one uses."""
    plain = _on_cpu(tensor)
    if not _is_plain(plain):
        return plain
    storage = plain.untyped_storage()
    if storage.nbytes() != plain.nbytes or storage.data_ptr() in used:
        plain = plain.clone()
    used.add(plain.untyped_storage().data_ptr())
    return plain


def _write_safetensors(
    stream: BinaryIO,
    groups: Sequence[Sequence[str]],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> None:
    texts: dict[str, str] = {}
    entries = []
    for names in groups:
        kept, *others = sorted(names)
        texts.update(dict.fromkeys(others, kept))
        entries.append(_entry(kept, tensors[names[0]]))
    write_safetensors(stream, entries, {**texts, "format": "pt", **metadata})


def _entry(name: str, tensor: Tensor) -> Entry:
    def read() -> list[memoryview]:
        return [_bytes_of(tensor).numpy().data] if tensor.numel() else []

    dtype, shape = dtype_named(str(tensor.dtype)), tuple(tensor.shape)
    if dtype.name == "float4_e2m1fn_x2" and shape:
        dtype, shape = dtype_named("float4_e2m1fn"), (*shape[:-1], 2 * shape[-1])
    return Entry(name, dtype, shape, read)
